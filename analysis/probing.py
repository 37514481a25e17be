"""Looking inside a network while it works: recordings, lesions, fewer steps, gradient maps.

All of it works on a trained network as it is, as a physiologist would; nothing is retrained::

    run = load_run("latest")
    recording = record(run.network, images)          # recording["H2"]: (T, N, K, H, W)
    with lesioned(run.network, "omega"), steps(run.network, 4):
        logits, _ = run.network(images)
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from layers.hgru import HGRU
from support.errors import UserError, choose

SYMBOLS = ("G1", "C1", "H1", "G2", "C2", "H2")
SAMPLES = 50
SPREAD = 0.15


def circuit(network: nn.Module) -> HGRU:
    """The network's hGRU layer.

    Raises:
        UserError: it has none (the feedforward control).
    """
    layers = _layers(network)
    if len(layers) != 1:
        raise UserError(
            f"a network with one hGRU layer is needed, {type(network).__name__} has {len(layers)}"
        )
    return layers[0]


def is_recurrent(network: nn.Module) -> bool:
    """Whether the network has an hGRU layer to look into."""
    return bool(_layers(network))


def _layers(network: nn.Module) -> list[HGRU]:
    return [module for module in network.modules() if isinstance(module, HGRU)]


@torch.no_grad()
def record(
    network: nn.Module, images: Tensor, symbols: Sequence[str] = SYMBOLS, seed: int | None = 0
) -> dict[str, Tensor]:
    """What the circuit holds at each step while the network sees these images.

    Args:
        network: with an hGRU layer; it runs in the mode (training or evaluation) it is in.
        images: (N, 1, H, W), float32 in 0–1, on the network's device.
        symbols: which of ``SYMBOLS``: gates G1, G2, convolutions C1, C2, hidden states H1, H2, as
            in section 3 of the paper; H2 is that at the end of the step.
        seed: of the random hidden state; None draws on from where the network's generator stands.

    Returns:
        By symbol, (T, N, K, H, W), and ``logits`` (N, 2), on the network's device.

    Raises:
        UserError: a symbol is not known, or the network has no hGRU layer.
    """
    for symbol in symbols:
        choose("symbol", symbol, dict.fromkeys(SYMBOLS))
    seen: dict[str, list[Tensor]] = {symbol: [] for symbol in symbols}

    def note(t: int, tensors: dict[str, Tensor]) -> None:
        for symbol in symbols:
            seen[symbol].append(tensors[symbol].clone())

    with hidden_seed(network, seed), _instead(circuit(network), "probe", note):
        logits, _ = network(images)
    return {**{symbol: torch.stack(steps) for symbol, steps in seen.items()}, "logits": logits}


@contextlib.contextmanager
def _instead(layer: HGRU, name: str, value: Any) -> Iterator[None]:
    """Within the block, an attribute of the layer has this value."""
    before = getattr(layer, name)
    setattr(layer, name, value)
    try:
        yield
    finally:
        setattr(layer, name, before)


@contextlib.contextmanager
def lesioned(network: nn.Module, *letters: str) -> Iterator[nn.Module]:
    """Within the block, hold these Greek letters at 0, whatever was learned.

    Args:
        letters: any of alpha, mu, gamma, kappa, omega (see ``layers.hgru.HGRU.lesion``).

    Raises:
        UserError: the circuit has no such letter, or the network no circuit.
    """
    layer = circuit(network)
    with _instead(layer, "lesioned", layer.lesioned):
        try:
            layer.lesion(*letters)
        except ValueError as error:
            raise UserError(str(error)) from error
        yield network


@contextlib.contextmanager
def steps(network: nn.Module, count: int) -> Iterator[nn.Module]:
    """Within the block, let the circuit run this many timesteps.

    More than it was built with is possible where neither η nor the normalisation is a step's own.

    Raises:
        UserError: the number cannot be, or the network has no circuit.
    """
    layer = circuit(network)
    if not isinstance(count, int) or count < 1:
        raise UserError(f"timesteps must be a whole number of at least 1, found {count!r}")
    most: float = math.inf
    if layer.adaptation:
        most = len(layer.eta)
    elif layer.batch_norm and not layer.reuse:
        most = len(cast(nn.ModuleList, layer.norms["g1"]))
    if count > most:
        raise UserError(
            f"timesteps is {count}, but this circuit has η or normalisation for {most} steps only"
        )
    with _instead(layer, "timesteps", count):
        yield network


@contextlib.contextmanager
def altered(
    network: nn.Module, lesion: Sequence[str] = (), timesteps: int | None = None
) -> Iterator[None]:
    """Within the block, both: letters at 0 (see :func:`lesioned`), another number of steps."""
    with contextlib.ExitStack() as stack:
        if lesion:
            stack.enter_context(lesioned(network, *lesion))
        if timesteps is not None:
            stack.enter_context(steps(network, timesteps))
        yield


@contextlib.contextmanager
def hidden_seed(network: nn.Module, seed: int | None) -> Iterator[None]:
    """Within the block, draw the random hidden state from a generator of this seed; None: as it
    is drawn now."""
    if seed is None or not is_recurrent(network):
        yield
        return
    layer = circuit(network)
    generator = torch.Generator(layer.W1.device).manual_seed(seed)
    with _instead(layer, "noise_generator", generator):
        yield


def hidden_generators(network: nn.Module) -> list[torch.Generator]:
    """What the random hidden state is drawn from at present, PyTorch's default one left out."""
    generator = circuit(network).noise_generator if is_recurrent(network) else None
    return [] if generator is None else [generator]


@contextlib.contextmanager
def default_generator(network: nn.Module) -> Iterator[None]:
    """Within the block, draw the random hidden state from PyTorch's default generator."""
    with contextlib.ExitStack() as stack:
        for layer in _layers(network):
            stack.enter_context(_instead(layer, "noise_generator", None))
        yield


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
        spread: noise, as a share of the image's range.
        seed: of the noise and the hidden state.
        batch: copies at once.
        progress: wraps the list of batches, e.g. a progress bar.

    Returns:
        (H, W): the mean of the signed gradients, logit units per unit of intensity.

    Raises:
        UserError: samples or spread are out of range.
    """
    if samples < 1 or spread < 0:
        raise UserError(
            "SmoothGrad needs at least 1 sample and a spread of 0 or more, "
            f"found {samples} and {spread}"
        )
    noise = torch.Generator(image.device).manual_seed(seed)
    sd = spread * (image.max() - image.min())
    total = torch.zeros_like(image[0])
    like: Any = {"device": image.device, "dtype": image.dtype}
    for count in progress([min(batch, samples - start) for start in range(0, samples, batch)]):
        copies = torch.randn(count, *image.shape, generator=noise, **like)
        noisy = (image + sd * copies).requires_grad_()
        with torch.enable_grad(), hidden_seed(network, seed):
            logits, _ = network(noisy)
            (gradient,) = torch.autograd.grad(logits[:, label].sum(), noisy)
        total += gradient.sum((0, 1))
    return total / samples
