"""The whole circuit as one operation on a CUDA device, with or without batch normalisation.

Computes what HGRU.forward computes (the equations stand there), with its own backward pass. Kept
for backward at each step are H2, H1, C1, C2 and the spectra of the two convolutions' inputs, or
only H2 when `recompute` is asked for. Inside, both image axes are folded (docs/kernels.md); the
padding holds zeros and stays so. Kernels that write what is to be convolved also find its largest
pixels, which give the exponents of its half-precision spectra.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from layers.kernels.axes import FLOAT32, Sizes
from layers.kernels.folding import fold, unfold
from layers.kernels.normalisation import MEAN, SCALE
from layers.kernels.normalised import C1, C2, G1, G2, Normalised, Norms
from layers.kernels.pointwise import Gate, Pointwise
from layers.kernels.spectral import Convolved, Kernel, Plan, Spectrum, chosen_precision
from layers.methods import own_backward

TOGETHER = 2  # steps whose kernel gradients are taken together


class Step(NamedTuple):
    """What a step leaves for backward, folded: the hidden state that it began with, and what it
    computed; of the convolutions, the values of Convolved."""

    h2: Tensor
    h1: Tensor
    c1: Tensor
    c2: Tensor


class Parameters(NamedTuple):
    """U (K, K), η (T,), the normalisations' scales (T or 1, 4, K) or None; the others (K,)."""

    u1: Tensor
    b1: Tensor
    u2: Tensor
    b2: Tensor
    alpha: Tensor
    mu: Tensor
    gamma: Tensor
    kappa: Tensor
    omega: Tensor
    eta: Tensor
    weights: Tensor | None


def _rounded(x: Tensor) -> Tensor:
    """To the nearest TF32 value, which the kernels' products would make of it."""
    return ((x.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


@functools.cache
def _valid(sizes: Sizes, device: torch.device) -> Tensor:
    """Which pixels of a folded plane are none of the padding, as bytes."""
    ones = torch.ones(1, 1, sizes.y.size, sizes.x.size, device=device)
    return fold(ones, sizes).flatten().to(torch.uint8)


class _Circuit:
    """The parameters of one pass, and what the kernels take of them at a step.

    Attributes:
        norms: the normalisations' statistics, or None.
        of: theirs, or such that the kernels compute the equations without (T, 4, 2 or more, K).
    """

    def __init__(self, plan: Plan, tanh: bool, p: Parameters, kernels, norms: Norms, like: Tensor):
        p = Parameters._make(v if v is None else v.contiguous() for v in p)
        self.plan, self.p, self.kernels = plan, p, kernels
        self.norms: Normalised | None = None
        strict = plan.precision == FLOAT32
        self.u = [u if strict else _rounded(u) for u in (p.u1, p.u2)]
        valid = None
        if p.weights is not None:
            valid = _valid(plan.sizes, like.device)
            pixels = plan.sizes.y.size * plan.sizes.x.size
            self.norms = Normalised(norms, p.weights, like, pixels)
            self.of = self.norms.of
        else:
            one, zero = torch.ones_like(p.b1), torch.zeros_like(p.b1)
            middles = torch.stack([-p.b1, zero, -p.b2, zero])
            of = torch.stack([one.expand_as(middles), middles], 1)
            self.of = of.expand(len(p.eta), -1, -1, -1)
        self.point = Pointwise(like, tanh, strict, valid)

    # -- what kernels take --

    def gate(self, t: int, which: int) -> Gate:
        """The gain's (0) or the mixing's (1)."""
        of = self.of[t, 2 * which]
        return Gate(self.u[which], of[SCALE], of[MEAN])

    def inhibition(self, t: int) -> dict[str, Tensor]:
        of = self.of[t, C1]
        alpha, mu = (v * of[SCALE] if self.norms else v for v in (self.p.alpha, self.p.mu))
        return dict(alpha=alpha, mu=mu, middle=of[MEAN])

    def mixing(self, t: int) -> dict[str, Tensor]:
        p, of = self.p, self.of[t, C2]
        gamma = p.gamma * of[SCALE] if self.norms else p.gamma
        return dict(gamma=gamma, kappa=p.kappa, omega=p.omega, eta=p.eta[t], middle=of[MEAN])

    # -- forward --

    def convolve(
        self, which: int, activity: Tensor, largest: Tensor, out: Tensor | None, back: bool = False
    ) -> Convolved:
        """By W1 (0) or W2 (1); `back`: the gradient of what they made → that of what they took.
        `largest` (N,): of the activity's pixels. Its spectra go into `out`, if they are to be kept.
        """
        rows = self.plan.rows_there(activity, largest, folded=True)
        kernel = self.kernels[which]
        rows, _ = self.plan.convolve(rows, kernel, out, adjoint=back)
        values = self.plan.rows_back(rows, kernel.scale, folded=True, units=True)
        return Convolved(values, largest, kernel.scale)

    def step(
        self, t: int, x: Tensor, h2: Tensor, p: Tensor | None, spectra, largest, new: bool
    ) -> Step:
        """All that step t computes but for the next H2.

        Args:
            x, h2: the drive and the hidden state.
            p: H2 G1, where it is known.
            spectra: where those of P and H1 go, (2, …); None: they are not kept.
            largest: where the largest pixels of P and H1 go, or P's are, (2, N).
            new: whether the step's statistics are still to be taken.
        """
        norms = self.norms if new else None
        first, second = (None, None) if spectra is None else spectra
        if p is None:
            p = self.point.gain(h2, self.gate(t, 0), largest[0])
        c1 = self.convolve(0, p, largest[0], first)
        if norms is not None:
            norms.line(t, C1, c1)
            norms.exchange(t, C1, C1)
        h1, squares = self.point.inhibit(x, h2, c1, **self.inhibition(t), largest=largest[1])
        c2 = self.convolve(1, h1, largest[1], second)
        if norms is not None:
            assert squares is not None
            norms.gate(t, G2, squares, self.u[1])
            norms.line(t, C2, c2)
            norms.exchange(t, G2, C2)
        return Step(h2, h1, c1.values, c2.values)

    def convolved(self, which: int, values: Tensor, largest: Tensor) -> Convolved:
        """The C1 (0) or C2 (1) of a Step, of whose P and H1 these (2, N) are the largest pixels."""
        return Convolved(values, largest[which], self.kernels[which].scale)

    def gain_statistics(self, norms: Normalised, t: int, squares: Tensor) -> None:
        """Of step t's first gate, from the parts of H2's squares."""
        norms.gate(t, G1, squares, self.u[0])
        norms.exchange(t, G1, G1)

    def mix(
        self, t: int, step: Step, largest_now: Tensor, largest: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The next H2. `largest_now` (2, N) are those of P and H1. Unless `largest` is None there
        is a step after: without normalisation its P comes too, its largest pixels into `largest`;
        with it, its first gate's statistics are put.
        """
        out, more = self.point.mix(
            step.h1, self.convolved(1, step.c2, largest_now), step.h2, gate=self.gate(t, 1),
            **self.mixing(t), gain=self.gate(min(t + 1, len(self.of) - 1), 0), largest=largest,
        )  # fmt: skip
        if more is not None and self.norms is not None:
            self.gain_statistics(self.norms, t + 1, more)
            more = None
        return out, more

    def run(self, x, h2, spectra, largest, fields: int) -> tuple[Tensor, list[Tensor]]:
        """The hidden state after the last step, and so many fields of each Step; spectra are kept
        with all of them."""
        T, p = len(self.p.eta), None
        kept: list[Tensor] = []
        keep_all = fields == len(Step._fields)
        if self.norms is not None:
            self.gain_statistics(self.norms, 0, self.point.squares(h2))
        for t in range(T):
            own = slice(2 * t, 2 * t + 2)
            step = self.step(t, x, h2, p, spectra[own] if keep_all else None, largest[own], True)
            h2, p = self.mix(t, step, largest[own], largest[2 * t + 2] if t + 1 < T else None)
            kept += step[:fields]
        return h2, kept


class _KernelGradients:
    """The kernels' gradients in the frequency domain, `together` steps at a time.

    The spectra of the convolutions' gradients wait until their steps' turn comes, in the order of
    the inputs' spectra: two a step, of C1's and of C2's.
    """

    def __init__(self, circuit: _Circuit, x: Tensor, timesteps: int, separate: bool, together: int):
        self.circuit, self.separate, self.together = circuit, separate, together
        self.spectra = circuit.plan.new_spectra(2 * together, x.shape[1], len(x), x.device)
        self.largest = circuit.plan.new_largest(2 * timesteps, len(x), x.device)
        self.totals: dict[int, Tensor] = {}

    def place(self, t: int, which: int) -> tuple[Tensor, Tensor]:
        """Where go the largest pixels of step t's gradient of C1 (0) or C2 (1), and its spectra."""
        return self.largest[2 * t + which], self.spectra[2 * (t % self.together) + which]

    def take(self, t: int, spectra: Tensor, largest: Tensor) -> None:
        """Join the steps from t on that wait, at the first of each `together`.

        Args:
            t: the step at hand.
            spectra, largest: of the inputs, from step t's on.
        """
        if t % self.together:
            return
        count = 2 * min(self.together, len(self.largest) // 2 - t)
        kernels = (0, 1) if self.separate else (0,)
        for which in kernels:
            taken = slice(which, count)
            self.totals[which] = self.circuit.plan.correlate(
                Spectrum(self.spectra[taken], self.largest[2 * t :][taken]),
                Spectrum(spectra[taken], largest[taken]),
                self.totals.get(which), self.circuit.kernels[which], len(kernels),
            )  # fmt: skip

    def of_kernels(self, W1: Tensor, W2: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The gradients of W1 and W2."""
        plan = self.circuit.plan
        dW1 = plan.kernel_gradient(self.totals[0], W1)
        return dW1, None if W2 is None else plan.kernel_gradient(self.totals[1], W2)


class _Gradients:
    """The gradients of a pass's parameters but for the kernels, summed over pixels and steps in
    fixed places: without normalisation the blocks' parts of all steps, added up at the end; with
    it, each step's at once, as its corrections hang on them."""

    def __init__(self, circuit: _Circuit):
        self.circuit, point, one = circuit, circuit.point, circuit.p.b1
        T, K = len(circuit.of), len(one)
        self.squares = [point.new_squares(name).zero_() for name in ("gain_back", "mix_back")]
        self.inhibition = point.new_sums("inhibit_back").zero_()
        self.mixing = point.new_sums("mix_back").zero_()
        self.etas = one.new_zeros(T, len(self.mixing))
        self.u, self.letters = one.new_zeros(2, K, K), one.new_zeros(5, K)

    def gained(self, norms: Normalised, t: int) -> Tensor:
        """After `gain_back`, with normalisation: the correction of H2's gradient."""
        u, means = self.circuit.u[0], norms.new_means(1)
        squares = norms.gate_back(t, G1, self.squares[0], u, means)
        return norms.correction(t, G1, squares, u, norms.exchange_back(means), self.u[0])

    def inhibited(self, norms: Normalised, t: int) -> Tensor:
        """After `inhibit_back`, with normalisation: the means that C1's correction takes."""
        means, letters = norms.new_means(1), (self.circuit.p.alpha, self.circuit.p.mu)
        norms.line_back(t, C1, self.inhibition, letters, means, self.letters[:2])
        return norms.exchange_back(means)

    def mixed(self, norms: Normalised, t: int) -> tuple[Tensor, Tensor]:
        """After `mix_back`, with normalisation: the means that C2's correction takes, and the
        correction of H1's gradient; exchanged together."""
        u, means = self.circuit.u[1], norms.new_means(2)
        norms.line_back(
            t, C2, self.mixing, (self.circuit.p.gamma, None), means[0], self.letters[2:]
        )
        squares = norms.gate_back(t, G2, self.squares[1], u, means[1])
        of_c2, of_gate = norms.exchange_back(means)
        return of_c2, norms.correction(t, G2, squares, u, of_gate, self.u[1])

    def all(self) -> Parameters:
        norms = self.circuit.norms
        if norms is not None:  # the mean takes the gates' biases off again
            b, u, weights = torch.zeros_like(self.letters[:2]), self.u, norms.gradient
            if len(norms.weights) == 1:
                weights = weights.sum(0, keepdim=True)
            letters = self.letters
        else:
            squares = torch.stack([parts.sum(0) for parts in self.squares])
            u, b, weights = squares[:, :, :-1], squares[:, :, -1], None
            letters = torch.cat([self.inhibition.sum(0), self.mixing.sum(0)])
        alpha, mu, gamma, kappa, omega = letters
        return Parameters(
            u[0], b[0], u[1], b[1], alpha, mu, gamma, kappa, omega, self.etas.sum(1), weights
        )


def _step_back(circuit: _Circuit, sums: _Gradients, kernels: _KernelGradients, t: int, step: Step,
               largest_then, grad, more, dx):  # fmt: skip
    """The next H2's gradient → that of H2; adds to `dx`, the drive's.

    Args:
        largest_then: of the step's P and H1, (2, N).
        grad, more: with normalisation, a gradient and the correction that is to be taken off it;
            otherwise its first part and the gradient of the P that the H2 made. None: nothing more.
    """
    point, norms, first = circuit.point, circuit.norms, t + 1 == len(circuit.of)
    c1, c2 = (circuit.convolved(n, (step.c1, step.c2)[n], largest_then) for n in (0, 1))
    largest, spectra = kernels.place(t, 1)
    dh2, dh1, dc2 = point.mix_back(
        grad, step.h2, step.h1, c2, gate=circuit.gate(t, 1), **circuit.mixing(t),
        correction=more if norms else None, dp=None if norms else more,
        gain=circuit.gate(0 if first else t + 1, 0), gain_squares=sums.squares[0],
        largest=largest, squares=sums.squares[1], sums=sums.mixing, etas=sums.etas[t],
    )  # fmt: skip
    correction = None
    if norms is not None:
        means, correction = sums.mixed(norms, t)
        point.correct(dc2, c2, means, circuit.of[t, C2], largest)
    through = circuit.convolve(1, dc2, largest, spectra, back=True)
    largest, spectra = kernels.place(t, 0)
    dc1 = point.inhibit_back(
        through, dh1, step.h1, c1, step.h2, **circuit.inhibition(t), correction=correction,
        dx=dx, dh2=dh2, largest=largest, sums=sums.inhibition, first=first,
    )  # fmt: skip
    if norms is not None:
        point.correct(dc1, c1, sums.inhibited(norms, t), circuit.of[t, C1], largest)
    dp = circuit.convolve(0, dc1, largest, spectra, back=True)
    if norms is None and t > 0 and circuit.plan.precision != FLOAT32:
        return dh2, dp  # the step before does the rest; float32 finds no room for it
    grad = point.gain_back(dh2, dp, step.h2, gate=circuit.gate(t, 0), squares=sums.squares[0])
    return grad, None if norms is None else sums.gained(norms, t)


class _CircuitFunction(torch.autograd.Function):
    """Everything that backward reads is saved through autograd, which notices what was edited in
    place since and lets go of it after the last backward pass."""

    @staticmethod
    def forward(ctx, X, H0, W1, W2, norms, tanh, recompute, keep, *parameters):
        plan = Plan(Sizes.of(*X.shape[-2:], *W1.shape[-2:]), chosen_precision())
        kernel = plan.kernel(W1)
        kernels = kernel, kernel if W2 is None else plan.kernel(W2)
        x, h2 = fold(X, plan.sizes), fold(H0, plan.sizes)
        circuit = _Circuit(plan, tanh, Parameters(*parameters), kernels, norms, x)
        keep_all, T = keep and not recompute, len(circuit.of)
        largest = plan.new_largest(2 * T, len(x), x.device)
        spectra = plan.new_spectra(2 * T if keep_all else 0, x.shape[1], len(x), x.device)
        fields = len(Step._fields) if keep_all else int(keep)
        h2, kept = circuit.run(x, h2, spectra, largest, fields)
        own = circuit.norms
        if keep:
            ctx.plan, ctx.tanh, ctx.recompute, ctx.norms = plan, tanh, recompute, norms
            ctx.save_for_backward(
                W1, W2, *parameters, *kernels[0], *kernels[1],
                *(3 * [None] if own is None else [own.of, own.squares, own.values]),
                x, spectra, largest, *kept,
            )  # fmt: skip
        if own is not None:
            own.observe(circuit.p.b1, circuit.p.b2)
        return unfold(h2, plan.sizes)

    @staticmethod
    @own_backward
    def backward(ctx, grad_out, *_):
        W1, W2, *saved = ctx.saved_tensors
        fields = len(Parameters._fields)
        p, saved = Parameters(*saved[:fields]), saved[fields:]
        (v1, s1, v2, s2, of, squares, values, x, *kept), steps = saved[:10], saved[10:]
        kernels = Kernel(v1, s1), Kernel(v2, s2)
        circuit = _Circuit(ctx.plan, ctx.tanh, p, kernels, ctx.norms, x)
        if circuit.norms is not None:
            circuit.of = circuit.norms.of = of
            circuit.norms.squares, circuit.norms.values = squares, values
        together = 1 if ctx.recompute else TOGETHER
        T = len(p.eta)
        gradients = _KernelGradients(circuit, x, T, W2 is not None, together)
        sums = _Gradients(circuit)
        grad, dx, more = fold(grad_out, ctx.plan.sizes), torch.empty_like(x), None
        for t in reversed(range(T)):
            step, spectra, largest = _kept(circuit, ctx.recompute, x, kept, steps, t)
            grad, more = _step_back(circuit, sums, gradients, t, step, largest, grad, more, dx)
            gradients.take(t, spectra, largest)
        needs = ctx.needs_input_grad
        if needs[1] and more is not None:
            h0 = step.h2.flatten(2)
            grad = grad - (more[:, :-1] @ h0 + more[:, -1:]).view_as(grad)
        return (
            unfold(dx, ctx.plan.sizes) if needs[0] else None,
            unfold(grad, ctx.plan.sizes) if needs[1] else None,
            *gradients.of_kernels(W1, W2), None, None, None, None, *sums.all(),
        )  # fmt: skip


def _kept(
    circuit: _Circuit, recompute: bool, x: Tensor, kept: list[Tensor], steps: list[Tensor], t: int
) -> tuple[Step, Tensor, Tensor]:
    """What step t left for backward, or would have left; the spectra of its convolutions' inputs
    and their largest pixels, the later steps' after them where they were kept."""
    if not recompute:
        spectra, largest = kept
        fields = len(Step._fields)
        return Step(*steps[fields * t : fields * (t + 1)]), spectra[2 * t :], largest[2 * t :]
    largest = circuit.plan.new_largest(2, len(x), x.device)
    spectra = circuit.plan.new_spectra(2, x.shape[1], len(x), x.device)
    return circuit.step(t, x, steps[t], None, spectra, largest, False), spectra, largest


def circuit(
    X: Tensor,
    H0: Tensor,
    kernels: tuple[Tensor, Tensor | None],
    gates: tuple[Tensor, Tensor, Tensor, Tensor],
    letters: list[Tensor],
    eta: Tensor,
    norms: Norms = (),
    *,
    tanh: bool,
    recompute: bool = False,
) -> Tensor:
    """The hidden state after len(eta) steps.

    Args:
        X: feedforward drive (N, K, H, W), float32 on a CUDA device.
        H0: the hidden state before the first step, likewise.
        kernels: W1 (K, K, h, w) and W2, None where W1 serves for both.
        gates: U1 (K, K), b_gain (K,), U2 (K, K), b_mix (K,).
        letters: α, μ, γ, κ, ω, each (K,); constants as well.
        eta: η (T,), ones without adaptation.
        norms: the normalisations of G1, C1, G2 and C2 of the first step, the second …; or none.
            Their running averages move in training.
        tanh: whether f is tanh; relu otherwise.
        recompute: keep only H2 of each step and compute the rest again in backward: less memory,
            more time (docs/speed.md).

    Precision is that of PyTorch's own convolutions on the device (TF32 where they may use it).
    Raises RuntimeError from a double backward.
    """
    keep = torch.is_grad_enabled()  # within the function it is off
    weights = None
    if norms:
        shared = all(one is norms[place % 4] for place, one in enumerate(norms))
        own = norms[:4] if shared else norms
        weights = torch.stack([n.weight for n in own]).view(-1, 4, X.shape[1])
    return _CircuitFunction.apply(
        X, H0, *kernels, norms, tanh, recompute, keep, *gates, *letters, eta, weights
    )
