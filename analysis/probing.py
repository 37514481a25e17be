"""Looking inside a network while it works: recordings, lesions, fewer steps or more, gradient maps.

All of it works on a trained network as it is, as a physiologist would; nothing is retrained::

    run = load_run("latest")
    recording = record(run.network, images)          # recording["H2"]: (T, N, K, H, W)
    with lesioned(run.network, "omega"), steps(run.network, 4):
        logits, _ = run.network(images)

What needs one hGRU layer raises a UserError where the network has none (the feedforward control) or
several.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from layers.hgru import HGRU, continued, layers_of
from support.errors import UserError, choose

SYMBOLS = ("G1", "C1", "H1", "G2", "C2", "H2")
SAMPLES = 50
SPREAD = 0.15


def circuit(network: nn.Module) -> HGRU:
    """The network's hGRU layer."""
    layers = layers_of(network)
    if len(layers) != 1:
        raise UserError(
            f"a network with one hGRU layer is needed, {type(network).__name__} has {len(layers)}"
        )
    return layers[0]


def is_recurrent(network: nn.Module) -> bool:
    """Whether the network has one hGRU layer to look into."""
    return len(layers_of(network)) == 1


def timesteps(network: nn.Module) -> int | None:
    """Steps of the network's circuit; None where it has none, or several."""
    return circuit(network).timesteps if is_recurrent(network) else None


def most_timesteps(network: nn.Module) -> int:
    """The steps that its circuit can run: those that have a normalisation of their own, or any."""
    layer = circuit(network)
    if layer.batch_norm and not layer.reuse:
        return len(cast(nn.ModuleList, layer.norms["g1"]))
    return sys.maxsize


@torch.no_grad()
def record(
    network: nn.Module, images: Tensor, symbols: Sequence[str] = SYMBOLS, seed: int | None = 0
) -> dict[str, Tensor]:
    """What the circuit holds at each step while the network sees these images.

    Args:
        network: with an hGRU layer; it runs in the mode (training or evaluation) it is in.
        images: (N, 1, H, W), float32 in 0–1, on the network's device.
        symbols: which of ``SYMBOLS``: gates G1, G2, convolutions C1, C2, hidden states H1, H2, as
            in section 3 of the paper; H2 is that at the end of the step. UserError if unknown.
        seed: of the random hidden state; None draws on from where the network's generator stands.

    Returns:
        By symbol, (T, N, K, H, W), and ``logits`` (N, 2), on the network's device.
    """
    for symbol in symbols:
        choose("symbol", symbol, dict.fromkeys(SYMBOLS))
    seen: dict[str, list[Tensor]] = {symbol: [] for symbol in symbols}

    def note(t: int, tensors: dict[str, Tensor]) -> None:
        for symbol in symbols:
            seen[symbol].append(tensors[symbol].clone())

    with hidden_seed(network, seed), _instead([circuit(network)], "probe", note):
        logits, _ = network(images)
    return {**{symbol: torch.stack(steps) for symbol, steps in seen.items()}, "logits": logits}


@torch.no_grad()
def answers(network: nn.Module, images: Tensor, seed: int | None = 0) -> Tensor:
    """What a network of the seven scripts would answer if it were read after each step.

    Args:
        network, images, seed: as of :func:`record`. UserError where the network has no circuit, or
            does not read H2 as those networks do: by its norm, then its readout.

    Returns:
        (T, N, 2) logits; those of step t are the network's own within ``steps(network, t)``.
    """
    whole, read = cast(Any, network), []

    def note(t: int, tensors: dict[str, Tensor]) -> None:
        read.append(whole.readout(whole.norm(tensors["H2"])))

    layer, kind = circuit(network), type(network).__name__
    if not (hasattr(network, "norm") and hasattr(network, "readout")):
        raise UserError(f"{kind} has no norm and readout, by which H2 of each step could be read")
    with hidden_seed(network, seed), _instead([layer], "probe", note):
        logits, _ = network(images)
    if not torch.allclose(read[-1], logits, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise UserError(f"{kind} reads H2 by more than its norm and readout: no step can be")
    return torch.stack(read)


def check_answers(logits: np.ndarray, what: str) -> None:
    """UserError, which says of what, where a network's answers (images, …) are not two logits an
    image, or not finite."""
    if logits.shape[1:] != (2,):
        raise UserError(
            f"{what}: the network's answers must be two logits an image, for label 0 and 1, found "
            f"the shape {logits.shape}"
        )
    check_finite(logits, what)


def check_finite(answers: np.ndarray, what: str) -> None:
    """UserError, which says of what, where some of a network's answers (images, …) are infinite or
    not a number: a larger one of two such is not an answer."""
    wrong = int((~np.isfinite(answers).all(axis=1)).sum())
    if wrong:
        raise UserError(
            f"{what}: the network's answers to {wrong} of {len(answers)} images are not finite: "
            "its activity has grown beyond all numbers"
        )


@contextmanager
def _instead(layers: Sequence[HGRU], name: str, value: Any) -> Iterator[None]:
    """Within the block, an attribute of the layers has this value."""
    before = [getattr(layer, name) for layer in layers]
    try:
        for layer in layers:
            setattr(layer, name, value)
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            setattr(layer, name, was)


@contextmanager
def lesioned(network: nn.Module, *letters: str) -> Iterator[None]:
    """Within the block, hold these Greek letters at 0, whatever was learned: any of alpha, mu,
    gamma, kappa, omega (see ``layers.hgru.HGRU.lesion``). UserError where the circuit lacks one."""
    layer = circuit(network)
    with _instead([layer], "lesioned", layer.lesioned):
        layer.lesion(*letters)
        yield


@contextmanager
def steps(network: nn.Module, count: int) -> Iterator[None]:
    """Within the block, let the circuit run this many timesteps; beyond those that it was built
    with, by the last step's η. UserError where each step has a normalisation of its own."""
    layer = circuit(network)
    if not isinstance(count, int) or count < 1:
        raise UserError(f"timesteps must be a whole number of at least 1, found {count!r}")
    if count > (most := most_timesteps(network)):
        raise UserError(
            f"timesteps is {count}, but this circuit has normalisations for {most} steps only"
        )
    with ExitStack() as stack:
        if layer.adaptation and count > len(layer.eta):
            eta = nn.Parameter(continued(layer.eta.detach(), count), requires_grad=False)
            stack.enter_context(_instead([layer], "eta", eta))
        stack.enter_context(_instead([layer], "timesteps", count))
        yield


@contextmanager
def altered(
    network: nn.Module, lesion: Sequence[str] = (), timesteps: int | None = None
) -> Iterator[None]:
    """Within the block, both: letters at 0 (see :func:`lesioned`), another number of steps."""
    other = nullcontext() if timesteps is None else steps(network, timesteps)
    with lesioned(network, *lesion) if lesion else nullcontext(), other:
        yield


def hidden_seed(network: nn.Module, seed: int | None) -> AbstractContextManager[None]:
    """Within the block, draw the random hidden state from a generator of this seed; None: as it
    is drawn now."""
    layers = layers_of(network)
    if seed is None or not layers:
        return nullcontext()
    generator = torch.Generator(layers[0].W1.device).manual_seed(seed)
    return _instead(layers, "noise_generator", generator)


def default_generator(network: nn.Module) -> AbstractContextManager[None]:
    """Within the block, draw the random hidden state from PyTorch's default generator."""
    return _instead(layers_of(network), "noise_generator", None)


def hidden_generators(network: nn.Module) -> list[torch.Generator]:
    """What the random hidden state is drawn from at present, PyTorch's default one left out."""
    found = [layer.noise_generator for layer in layers_of(network)]
    return [generator for generator in found if generator is not None]


def smoothgrad(
    network: nn.Module,
    image: Tensor,
    label: int,
    samples: int = SAMPLES,
    spread: float = SPREAD,
    seed: int = 0,
    batch: int = 1,
    progress: Any = iter,
) -> Tensor:
    """Mean gradient of a label's logit by the image, over noisy copies of it.

    SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825, equation 1) with the release's numbers: 50
    copies; normal noise whose standard deviation is 0.15 of the image's range (maximum minus
    minimum). The same random hidden state is used for every copy of a batch of one.

    Args:
        network: in evaluation mode.
        image: (1, H, W), float32 in 0–1, on the network's device.
        label: the logit's index, 0 or 1.
        spread: noise, as a share of the image's range. UserError where it or samples cannot be.
        seed: of the noise and the hidden state.
        batch: copies at once.
        progress: wraps the list of batches, e.g. a progress bar.

    Returns:
        (H, W): the mean of the signed gradients, logit units per unit of intensity.
    """
    if samples < 1 or spread < 0:
        raise UserError(
            "SmoothGrad needs at least 1 sample and a spread of 0 or more, "
            f"found {samples} and {spread}"
        )
    noise = torch.Generator(image.device).manual_seed(seed)
    sd = spread * (image.max() - image.min())
    total = torch.zeros_like(image[0])
    for count in progress([min(batch, samples - start) for start in range(0, samples, batch)]):
        copies = image.new_empty(count, *image.shape).normal_(generator=noise)
        noisy = (image + sd * copies).requires_grad_()
        with torch.enable_grad(), hidden_seed(network, seed):
            logits, _ = network(noisy)
            (gradient,) = torch.autograd.grad(logits[:, label].sum(), noisy)
        total += gradient.sum((0, 1))
    return total / samples
