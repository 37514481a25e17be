"""What the benchmarks share: their opening, a script's training step, times of sides in turn."""

import argparse
import ctypes
import gc
import importlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layers.hgru import layers_of
from layers.horizontal import horizontal_method
from layers.shares import shared_images
from support import shell
from support.files import write_json
from support.memory import keep_memory
from training.distribution import Ranks
from training.losses import loss_function
from training.metrics import metric_function
from training.optimizers import network_optimizer
from training.seeds import Generators
from training.step import TrainStep

SCRIPTS = (
    "hgru", "hgru_bn", "hgru_bn_for", "hgru_bn_relu",
    "multiplicative_lesion", "additive_lesion", "ff_5",
)  # fmt: skip


def parser(module: str, description: str | None, **numbers: int) -> shell.Parser:
    """A parser with the options that all have, and whole numbers from 1 on with these defaults."""
    parse = shell.Parser(module, description, package="benchmarks")
    parse.add_argument("--device")
    parse.add_argument("--output", metavar="FILE", help="write the numbers to this JSON file")
    for name, default in numbers.items():
        parse.add_argument(f"--{name}", type=shell.whole(1), default=default)
    return parse


def begin(options: argparse.Namespace, what: str, tf32: bool | None) -> torch.device:
    """The device to measure on, set up as for training; prints it and what is measured.

    ``tf32``: let PyTorch's convolutions round to TF32; None: that is set later.
    """
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cudnn.benchmark = True
    if device.type == "cpu":
        keep_memory()
    elif tf32 is not None:
        set_tf32(tf32)
        what += f", TF32 {'on' if tf32 else 'off'}"
    print(f"{machine(device)}; {what}")
    return device


def random_batch(count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images (N, 1, H, W) in 0–1 and their labels (N,)."""
    images = torch.rand(count, 1, size, size, device=device)
    return images, torch.randint(0, 2, (count,), device=device)


def train_step(
    script: str, ranks: Ranks, captured: bool = True, **aux: Any
) -> tuple[TrainStep, Generators]:
    """The training step of a script's network with its first weights, and what it draws from.

    On a GPU it replays itself as a captured graph if ``captured``; ``aux``: options of the network.
    """
    torch.manual_seed(0)
    module = importlib.import_module(script)
    params = module.experiment_params()
    network = module.build_model({**params, "aux": aux}).to(ranks.device)
    generators = Generators(0, ranks.device, ranks.rank)
    for layer in layers_of(network):
        layer.noise_generator = generators.hidden
    optimizer = network_optimizer(network, params["optimizer"], params["lr"])
    loss, metric = loss_function(params["loss_function"]), metric_function("accuracy")
    drawn_from = (generators.hidden,)
    step = TrainStep(
        network, loss, metric, optimizer, None, ranks, captured=captured, generators=drawn_from
    )
    return step, generators


def side(
    script: str,
    batch: tuple[Tensor, Tensor],
    method: str = "auto",
    training: bool = True,
    shared: bool = False,
    **options: Any,
) -> Callable[[], Any]:
    """A call that does one step, or one pass, of a script's network on a batch.

    Args:
        method: of the horizontal convolutions.
        shared: let the threads of a CPU share the images, as in training.
        options: of :func:`train_step`.
    """
    images, labels = batch
    step, _ = train_step(script, Ranks(images.device, alone=True), **options)
    step.model.train(training)
    infer = partial(torch.no_grad()(step.infer), images)
    once = partial(step, images, labels) if training else infer
    sharing = partial(shared_images, step.model, len(images)) if shared else nullcontext

    def call() -> None:
        with horizontal_method(method), sharing():
            once()

    return call


def machine(device: torch.device) -> str:
    """The machine's name, as it heads every table."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    return f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Seconds of one call, the mean over so many."""
    wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - began) / calls


def captured(call: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The call without the host's launches: on a CUDA device recorded in a graph, as a training
    step is, and replayed. What it reads must stay where it is in memory."""
    if device.type != "cuda":
        return call
    for _ in range(3):  # compiles, and has cudnn choose
        call()
    wait(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def in_turn(
    sides: Mapping[str, Callable[[], Any]],
    device: torch.device,
    rounds: int = 7,
    calls: int = 1,
    warm_up: int = 3,
) -> dict[str, list[float]]:
    """Seconds a call of every side, measured in turn: round after round, each side once."""
    for call in sides.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            times[name].append(seconds(call, device, calls))
    return times


def text(times: list[float]) -> str:
    """Median and range in milliseconds."""
    low, middle, high = (1e3 * t for t in (min(times), statistics.median(times), max(times)))
    return f"{middle:.3g} ms ({low:.3g}–{high:.3g})"


def ratio(slow: list[float], fast: list[float]) -> str:
    """How many times faster: the median of the rounds' ratios, and their range."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(each):.2f}× ({min(each):.2f}–{max(each):.2f})"


def peak_memory(call: Callable[[], Any], device: torch.device) -> float:
    """GiB that a call takes at most, what was there before included: allocated on a CUDA device, or
    resident for this process on a CPU."""
    tidy()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        wait(device)
        return torch.cuda.max_memory_allocated(device) / 2**30
    with suppress(OSError, AttributeError):  # another C library keeps what it likes
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def tidy() -> None:
    """Give back what earlier sides held."""
    gc.collect()
    torch.cuda.empty_cache()


def write(path: str | None, head: str, rows: list[dict[str, Any]]) -> None:
    """Write what was measured as JSON, if a path is given."""
    if path:
        write_json(Path(path), {"machine": head, "rows": rows})


def set_tf32(allowed: bool) -> None:
    """Let PyTorch's convolutions round to TF32, or not."""
    if hasattr(torch.backends.cudnn, "conv"):
        torch.backends.cudnn.conv.fp32_precision = "tf32" if allowed else "ieee"
    else:
        torch.backends.cudnn.allow_tf32 = allowed
