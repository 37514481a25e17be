"""The horizontal gated recurrent unit (Linsley et al., NeurIPS 2018, arXiv:1805.08315).

One layer gives the six circuits of the 2018 release; each is a choice of options.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import circuit, initial
from layers.horizontal import HorizontalKernel
from layers.methods import in_weights_precision, transformed
from layers.normalisation import BatchNormalisation
from layers.published import as_published
from support.errors import UserError
from support.kinds import TRUTH, number, one_of, or_none, whole

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "selu": F.selu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "sigmoid": torch.sigmoid,
    "hard_tanh": lambda z: z.clamp(0, 1),
    "relu6": F.relu6,
}
HIDDEN_INITS = ("random", "identity", "zeros", "learned")
# What options may be; the others are True or False.
KINDS = {
    **dict.fromkeys(("recurrent_nl", "gate_nl"), one_of(NONLINEARITIES)),
    **dict.fromkeys(("timesteps", "h_ext", "gate_filter"), whole(1)),
    "gate_bias_init": one_of(("chronos", "ones")),
    "hidden_init": one_of(HIDDEN_INITS),
    "batch_norm_validation": one_of(("batch", "running")),
    "eta_init": or_none(number()),
}
# Weights that an option brings, which a layer that was built without it lacks.
WEIGHTS_OF = {
    "separate_kernels": "W2", "hidden_init": "hidden", "adaptation": "eta", "batch_norm": "norms",
}  # fmt: skip
LETTERS = ("alpha", "mu", "gamma", "kappa", "omega")
# Options that say how a layer is built, and that no pass reads again.
BUILT = (
    "h_ext", "gate_filter", "batch_norm_validation", "lesion_alpha", "lesion_mu", "lesion_kappa",
    "lesion_omega",
)  # fmt: skip
DRAWN = 32  # images whose random hidden state is drawn at a time


class HGRU(nn.Module):
    r"""A horizontal gated recurrent unit.

    At each step t (⊛ convolution, same padding; σ the logistic function; products elementwise;
    Greek letters one number a channel)::

        G1 = σ(BN(U1 ⊛ H2 + b_gain))
        C1 = BN(W1 ⊛ (H2 G1))
        H1 = f(X − (α H2 + μ) C1)
        G2 = σ(BN(U2 ⊛ H1 + b_mix))
        C2 = BN(W2 ⊛ H1)
        E  = γ C2
        Ĥ  = f(κ (H1 + E) + ω H1 E)
        H2 = G2 H2 + (1 − G2) Ĥ               with adaptation: then H2 ← η_t H2

    Shapes: feedforward drive X (N, K, H, W) → hidden state H2 (N, K, H, W).

    Args:
        channels: K.
        timesteps: T, at least 1. The attribute may be changed later, up to the T that the layer
            was built with where η or the normalisation is a step's own.
        h_ext: width of the horizontal kernel W in pixels.
        separate_kernels: two kernels, W1 and W2, instead of one W for both.
        recurrent_nl: f; one of ``NONLINEARITIES``.
        gate_nl: σ; one of ``NONLINEARITIES``.
        gate_filter: width of the gates' kernels U1, U2 in pixels.
        symmetric_weights: W starts as ½(W + Wᵀ) over in and out channels, and its gradient is
            symmetrised likewise, so it stays symmetric.
        symmetric_gate_weights: the same for U1 and U2.
        symmetric_inits: whether symmetric kernels start symmetric.
        normal_initializer: Xavier values from a truncated normal rather than a uniform
            distribution.
        gate_bias_init: ``'chronos'`` (b_gain = −log u, u uniform on 1…T − 1; b_mix = −b_gain) or
            ``'ones'`` (−1 and +1).
        hidden_init: H2 before the first step: ``'random'`` (drawn afresh at every pass: small
            noise), ``'identity'`` (X), ``'zeros'`` or ``'learned'`` (one number a channel; one for
            each image of the batch, channel and pixel where the original's weights were loaded).
        alpha, mu, gamma: False makes the letter the constant 1.
        lesion_alpha, lesion_mu, lesion_kappa, lesion_omega: the letter is the constant 0.
        multiplicative_excitation: False gives Ĥ = f(H1 + E), without κ and ω (to lesion these
            then changes nothing).
        adaptation: scale H2 by η_t after each step.
        eta_init: initial value of η at every step; None draws one a step, uniform on 0–1.
        constrain: ``constrain_letters`` clips the letters to ≥ 0 (call it after each update).
        batch_norm: normalise gates and convolutions inside the circuit (scale only, no shift).
        reuse: one normalisation shared by all steps, rather than its own at each step.
        batch_norm_validation: normalise evaluation by the ``'batch'`` at hand (the original's way)
            or by ``'running'`` averages.
        recompute: where the fused circuit runs (a CUDA device; layers/circuit.py), keep only H2 of
            each step for backward and compute the rest again: less memory.
        generator: source of the initial values.

    Attributes:
        options: what the layer was built with, by the names above.
        noise_generator: source of the random hidden state (None: PyTorch's default generator).
        draw_images, draw_offset: where the images at hand are images ``draw_offset``… of a total
            batch of ``draw_images`` (several processes), so that all draw what one would.
        lesioned: letters that are held at 0 at present, whatever was learned (see ``lesion``).
        probe: None, or a function called at each step with (t, tensors by symbol).
        shares: threads that share a pass by images on a CPU (``layers.shares.shared_images``);
            where the layer is not ``shareable()``, one computes it all the same.

    Raises:
        UserError: an option has a value that it cannot have.
    """

    def __init__(
        self,
        channels: int,
        timesteps: int = 8,
        h_ext: int = 15,
        *,
        separate_kernels: bool = False,
        recurrent_nl: str = "tanh",
        gate_nl: str = "sigmoid",
        gate_filter: int = 1,
        symmetric_weights: bool = True,
        symmetric_gate_weights: bool = False,
        symmetric_inits: bool = True,
        normal_initializer: bool = True,
        gate_bias_init: str = "chronos",
        hidden_init: str = "random",
        alpha: bool = True,
        mu: bool = True,
        gamma: bool = True,
        lesion_alpha: bool = False,
        lesion_mu: bool = False,
        lesion_kappa: bool = False,
        lesion_omega: bool = False,
        multiplicative_excitation: bool = True,
        adaptation: bool = False,
        eta_init: float | None = None,
        constrain: bool = False,
        batch_norm: bool = False,
        reuse: bool = True,
        batch_norm_validation: str = "batch",
        recompute: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        options = dict(locals())
        super().__init__()
        for name in ("self", "__class__", "channels", "generator"):
            del options[name]
        channels = whole(1).of("channels", channels)
        for name, value in options.items():
            options[name] = KINDS.get(name, TRUTH).of(name, value)
        timesteps, h_ext, gate_filter = (options[n] for n in ("timesteps", "h_ext", "gate_filter"))
        self.options = options
        self.channels = channels
        self.timesteps = timesteps
        self.h_ext = h_ext
        self.separate_kernels = separate_kernels
        self.recurrent_nl = recurrent_nl
        self.gate_nl = gate_nl
        self.gate_filter = gate_filter
        self.symmetric_weights = symmetric_weights
        self.symmetric_gate_weights = symmetric_gate_weights
        self.hidden_init = hidden_init
        self.normal_initializer = normal_initializer
        self.multiplicative_excitation = multiplicative_excitation
        self.adaptation = adaptation
        self.constrain = constrain
        self.batch_norm = batch_norm
        self.reuse = reuse
        self.recompute = recompute
        self.noise_generator: torch.Generator | None = None
        self.draw_images: int | None = None
        self.draw_offset = 0
        self.lesioned: frozenset[str] = frozenset()
        self.probe: Callable[[int, dict[str, Tensor]], None] | None = None
        self.shares = 1
        self._same_noise = False
        self._draw_kernels(generator)
        self._draw_letters(generator)
        if batch_norm:
            self.norms = nn.ModuleDict(
                {name: self._new_norms(batch_norm_validation) for name in circuit.NORMS}
            )

    def _draw_kernels(self, generator: torch.Generator | None) -> None:
        """W1, W2 horizontal, U1, U2 of the gates, (K out, K in, h, w), and these gates' biases."""
        K, uniform, o = self.channels, not self.normal_initializer, self.options

        def start(size: int, stays_symmetric: bool) -> nn.Parameter:
            weight = initial.kernel(K, K, size, uniform, generator)
            symmetric = stays_symmetric and o["symmetric_inits"]
            return nn.Parameter(initial.symmetric(weight) if symmetric else weight)

        self.W1 = start(self.h_ext, self.symmetric_weights)
        if self.separate_kernels:
            self.W2 = start(self.h_ext, self.symmetric_weights)
        self.U1 = start(self.gate_filter, self.symmetric_gate_weights)
        self.U2 = start(self.gate_filter, self.symmetric_gate_weights)
        if o["gate_bias_init"] == "chronos":
            gain_bias = initial.chronos(K, self.timesteps, generator)
        else:
            gain_bias = -torch.ones(K)
        self.b_gain = nn.Parameter(gain_bias)
        self.b_mix = nn.Parameter(-gain_bias)

    def _draw_letters(self, generator: torch.Generator | None) -> None:
        """Greek letters, each a parameter (K, 1, 1), or a constant where switched off or lesioned;
        η (T,) and the learned hidden state where there are such."""
        K, uniform, o = self.channels, not self.normal_initializer, self.options

        def letter(on: bool, lesioned: bool) -> nn.Parameter | float:
            if lesioned:
                return 0.0
            return nn.Parameter(initial.letter(K, uniform, generator)) if on else 1.0

        self.alpha = letter(o["alpha"], o["lesion_alpha"])
        self.mu = letter(o["mu"], o["lesion_mu"])
        self.gamma = letter(o["gamma"], False)
        self.kappa = letter(self.multiplicative_excitation, o["lesion_kappa"])
        self.omega = letter(self.multiplicative_excitation, o["lesion_omega"])
        if self.adaptation:
            eta = torch.empty(self.timesteps).uniform_(0, 1, generator=generator)
            if o["eta_init"] is not None:  # after the draw: other initial values stay what they are
                eta.fill_(o["eta_init"])
            self.eta = nn.Parameter(eta)
        if self.hidden_init == "learned":
            self.hidden = nn.Parameter(initial.letter(K, uniform, generator))

    def _new_norms(self, validation: str) -> nn.ModuleList:
        """One normalisation for all steps, or one for each."""
        return nn.ModuleList(
            BatchNormalisation(
                self.channels, scale=0.1, shift=False, momentum=0.001, validation=validation
            )
            for _ in range(1 if self.reuse else self.timesteps)
        )

    @in_weights_precision("W1")
    def forward(
        self,
        X: Tensor,
        return_states: bool = False,
        given: tuple[circuit.Pass, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The equations above.

        Args:
            X: feedforward drive (N, K, H, W).
            return_states: give the states of all steps as well.
            given: the pass and H2 before the first step, where they are prepared already.

        Returns:
            H2 after the last step (N, K, H, W); with ``return_states`` also G1, C1, H1, G2, C2 and
            H2 by name, each (T, N, K, H, W).
        """
        p, H2 = given or (self._prepared(X), self.initial_hidden(X))
        # Every capital below is (N, K, H, W), as H2 is.
        if not return_states and self._fused(p, X):
            return circuit.run(p, X, H2)  # the same equations in fused kernels
        f, σ, BN = p.nonlinearity, p.gate_nonlinearity, self._normalise
        (W1, W2), (U1, b_gain, U2, b_mix), (α, μ, γ, κ, ω) = p.horizontal, p.gates, p.letters

        states: list[dict[str, Tensor]] = []
        for t in range(self.timesteps):
            G1 = σ(BN("g1", t, F.conv2d(H2, U1, b_gain, padding="same")))
            C1 = BN("c1", t, W1(H2 * G1))
            H1 = f(X - (α * H2 + μ) * C1)
            G2 = σ(BN("g2", t, F.conv2d(H1, U2, b_mix, padding="same")))
            C2 = BN("c2", t, W2(H1))
            E = γ * C2
            if self.multiplicative_excitation:
                Ĥ = f(κ * (H1 + E) + ω * H1 * E)
            else:
                Ĥ = f(H1 + E)
            H2 = G2 * H2 + (1 - G2) * Ĥ
            if p.eta is not None:
                H2 = p.eta[t] * H2
            if return_states or self.probe is not None:
                states.append({"G1": G1, "C1": C1, "H1": H1, "G2": G2, "C2": C2, "H2": H2})
            if self.probe is not None:
                self.probe(t, states.pop() if not return_states else states[-1])
        if return_states:
            return H2, {name: torch.stack([s[name] for s in states]) for name in states[0]}
        return H2

    def _prepared(self, X: Tensor) -> circuit.Pass:
        """The parameters of one pass."""
        self._check(X)
        W1 = HorizontalKernel(self.W1, symmetric=self.symmetric_weights)
        if X.dtype != W1.W.dtype:
            raise ValueError(f"feedforward drive is {X.dtype} and W1 {W1.W.dtype}; make them alike")
        W2 = W1
        if self.separate_kernels:
            W2 = HorizontalKernel(self.W2, symmetric=self.symmetric_weights)
        U1: Tensor = self.U1
        U2: Tensor = self.U2
        if self.symmetric_gate_weights:
            U1, U2 = initial.symmetric_gradient(U1), initial.symmetric_gradient(U2)
        letters = [self._letter(name) for name in LETTERS]
        if not self.multiplicative_excitation:
            letters[3:] = [1.0, 0.0]
        return circuit.Pass(
            horizontal=(W1, W2),
            gates=(U1, self.b_gain, U2, self.b_mix),
            letters=tuple(letters),
            eta=self.eta[: self.timesteps] if self.adaptation else None,
            norms=[
                self._norm(name, t)
                for t in range(self.timesteps if self.batch_norm else 0)
                for name in circuit.NORMS
            ],
            timesteps=self.timesteps,
            nonlinearity=NONLINEARITIES[self.recurrent_nl],
            gate_nonlinearity=NONLINEARITIES[self.gate_nl],
            recompute=self.recompute,
            equations=lambda p, X, H2: HGRU.forward(self, X, given=(p, H2)),
            shares=self.shares if self.shares > 1 and self.shareable() else 1,
        )

    def shareable(self) -> bool:
        """Whether threads on a CPU may share a pass by images (layers/shares.py): where no image's
        numbers depend on another's, no compiler looks on, and nobody has changed the equations."""
        if self.batch_norm or transformed() or self.W1.device.type != "cpu":
            return False
        return type(self).forward is HGRU.forward and self._as_published()

    def _fused(self, p: circuit.Pass, X: Tensor) -> bool:
        """Whether fused kernels compute this pass: where they know it, nobody asks for the steps,
        and nobody has changed the equations."""
        return self.probe is None and circuit.applies(p, X) and self._as_published()

    def _as_published(self) -> bool:
        return as_published(HGRU.forward, self._normalise, HorizontalKernel.__call__)

    def initial_hidden(self, X: Tensor) -> Tensor:
        """H2 before the first step, by ``hidden_init``; shaped as X (N, K, H, W)."""
        if self.hidden_init == "identity":
            return X
        if self.hidden_init == "zeros":
            return torch.zeros_like(X)
        if self.hidden_init == "learned":
            if self.hidden.dim() == 3:
                return self.hidden.expand_as(X)
            own = self.hidden[self.draw_offset : self.draw_offset + len(X)]
            if own.shape != X.shape:
                raise ValueError(
                    f"the hidden state was learned for a drive of shape (N, K, H, W) = "
                    f"{tuple(self.hidden.shape)}, found {tuple(X.shape)}"
                )
            return own
        if self.noise_generator is not None:
            self._refuse_other_noise()
        n, K, height, width = X.shape
        total, first = self.draw_images or n, self.draw_offset
        if first < 0 or first + n > total:
            raise ValueError(
                f"{n} images from draw_offset = {first} on are not all among draw_images = {total}"
            )
        # The original's rule takes the shape (N, H, W, K) for a kernel's (h, w, in, out).
        fan = (total, height, width, K)
        noise = X.new_empty(n, K, height, width)
        for start in range(0, total, DRAWN):
            end = min(start + DRAWN, total)
            ours = slice(max(start, first), min(end, first + n))  # of the total batch
            own = noise[max(ours.start - first, 0) : max(ours.stop - first, 0)]
            drawn = own if len(own) == end - start else X.new_empty(end - start, K, height, width)
            if len(own) == 0:  # another process's images, drawn to come to the same numbers
                drawn.uniform_(generator=self.noise_generator)
                continue
            initial.xavier_(drawn, fan, not self.normal_initializer, self.noise_generator)
            if drawn is not own:
                own.copy_(drawn[ours.start - start : ours.stop - start])
        return noise

    @torch.compiler.disable  # a compiler would ask once, in forward; it cannot draw from it either
    def _refuse_other_noise(self) -> None:
        """torch.utils.checkpoint computes a pass again in backward, and brings PyTorch's own
        generators back for it, but not ``noise_generator``."""
        if not self._same_noise and torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                "a pass that is computed again in backward (torch.utils.checkpoint) would draw "
                "another hidden state from noise_generator, and give wrong gradients; call "
                "checkpoint(..., use_reentrant=False, context_fn=layer.same_noise), or set "
                "noise_generator to None"
            )

    def same_noise(self) -> tuple[contextlib.AbstractContextManager, ...]:
        """``context_fn`` of torch.utils.checkpoint: the pass that is computed again in backward
        draws the hidden state that the first one drew from ``noise_generator``."""
        generator = self.noise_generator
        state = None if generator is None else generator.get_state()

        @contextlib.contextmanager
        def again() -> Iterator[None]:
            if generator is None or state is None:
                yield
                return
            now = generator.get_state()
            generator.set_state(state)
            self._same_noise = True
            try:
                yield
            finally:
                self._same_noise = False
                generator.set_state(now)

        return contextlib.nullcontext(), again()

    def lesion(self, *letters: str) -> None:
        """Hold these letters at 0 from now on, whatever was learned; none lifts all lesions.

        Args:
            letters: any of ``LETTERS`` (κ and ω only with ``multiplicative_excitation``).

        Raises:
            UserError: this circuit has no letter of that name.
        """
        known = LETTERS if self.multiplicative_excitation else ("alpha", "mu", "gamma")
        for name in letters:
            one_of(known).of("a letter to lesion", name)
        self.lesioned = frozenset(letters)

    def letters(self) -> dict[str, Tensor]:
        """The letters that are parameters, each (K, 1, 1), by name."""
        found = {name: getattr(self, name) for name in LETTERS}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    @torch.no_grad()
    def constrain_letters(self) -> None:
        """With ``constrain``: clip the letters to ≥ 0. Call it after each update.

        Raises:
            UserError: a letter is computed from other weights (torch.nn.utils.parametrizations).
        """
        own = {**self._parameters, **self._buffers}
        for name, value in self.letters().items() if self.constrain else ():
            kept = own.get(f"{name}_orig", own.get(name))  # the former of torch.nn.utils.prune
            if kept is None:
                raise UserError(
                    f"constrain must be False where {name} is computed from other weights "
                    "(a parametrisation), found True"
                )
            kept.clamp_(min=0)
            value.clamp_(min=0)

    def _letter(self, name: str) -> Tensor | float:
        return 0.0 if name in self.lesioned else getattr(self, name)

    def _normalise(self, name: str, t: int, x: Tensor) -> Tensor:
        if not self.batch_norm:
            return x
        return self._norm(name, t)(x)

    def _norm(self, name: str, t: int) -> BatchNormalisation:
        return cast(BatchNormalisation, self.norms_of(name)[0 if self.reuse else t])

    def norms_of(self, name: str) -> nn.ModuleList:
        """The normalisations of 'g1', 'c1', 'g2' or 'c2': one, or one a step."""
        return cast(nn.ModuleList, self.norms[name])

    def _load_from_state_dict(self, state_dict, prefix, *others) -> None:
        hidden = state_dict.get(f"{prefix}hidden")
        of_a_batch = hidden is not None and hidden.dim() == 4 and hidden.shape[1] == self.channels
        if self.hidden_init == "learned" and of_a_batch:
            self.hidden.data = self.hidden.new_empty(hidden.shape)  # the original's learned state
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _check(self, X: Tensor) -> None:
        if X.dim() != 4 or X.shape[1] != self.channels or 0 in X.shape[2:]:
            raise ValueError(
                f"feedforward drive must have pixels, and the shape (N, {self.channels}, H, W), "
                f"found {tuple(X.shape)}"
            )
        known = self.recurrent_nl in NONLINEARITIES and self.gate_nl in NONLINEARITIES
        known = known and self.hidden_init in HIDDEN_INITS
        if not known or type(self.timesteps) is not int or self.timesteps < 1:
            for name in ("timesteps", "recurrent_nl", "gate_nl", "hidden_init"):
                KINDS[name].of(name, getattr(self, name))
        if not set(self.lesioned) <= set(LETTERS):
            self.lesion(*self.lesioned)
        for name, needed in WEIGHTS_OF.items():
            if getattr(self, name) in (True, "learned") and not hasattr(self, needed):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}, but this layer was built without its "
                    f"weights ({needed}): build it with {name}={getattr(self, name)!r}"
                )
        for name in BUILT:
            now = getattr(self, name, self.options[name])
            if now != self.options[name]:
                raise UserError(
                    f"{name} is {now!r}, but this layer was built with {self.options[name]!r}: "
                    "build it anew (lesion() holds a letter at 0 without that)"
                )
        built = len(self.eta) if self.adaptation else self.timesteps
        if self.batch_norm and not self.reuse:
            built = len(self.norms_of("g1"))
        if self.timesteps > built:
            raise ValueError(
                f"timesteps is {self.timesteps}, but this layer has η or normalisation for "
                f"{built} steps only"
            )

    def extra_repr(self) -> str:
        lesions = [n for n in LETTERS if isinstance(getattr(self, n), float)]
        return (
            f"{self.channels}, timesteps={self.timesteps}, h_ext={self.h_ext}, "
            f"recurrent_nl={self.recurrent_nl!r}, hidden_init={self.hidden_init!r}, "
            f"separate_kernels={self.separate_kernels}, adaptation={self.adaptation}, "
            f"batch_norm={self.batch_norm}, reuse={self.reuse}, "
            f"constant_letters={[f'{n}={getattr(self, n):g}' for n in lesions]}"
        )


def layers_of(network: nn.Module) -> list[HGRU]:
    """The network's hGRU layers, under whichever name they were imported: ``hgru_pytorch.layers``
    and ``layers`` have each a class of their own."""
    return [cast(HGRU, m) for m in network.modules() if hasattr(m, "constrain_letters")]


def continued(eta: Tensor, steps: int) -> Tensor:
    """η for so many steps, (steps,), from one for another number: further steps take its last."""
    return eta[torch.arange(steps).clamp(max=len(eta) - 1)]
