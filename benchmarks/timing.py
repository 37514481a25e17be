"""What the benchmarks share: times of several sides measured in turn, and the machine's name."""

import contextlib
import ctypes
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from support.files import write_text


def machine(device: torch.device) -> str:
    """The machine's name, as it heads every table."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{name}, PyTorch {torch.__version__}"
    return f"{_processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def seconds(call: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Seconds of one call, the mean over so many."""
    if device.type == "cuda":
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def captured(call: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The call without the host's launches: on a CUDA device recorded in a graph, as a training
    step is, and replayed. What it reads must stay where it is in memory."""
    if device.type != "cuda":
        return call
    for _ in range(3):  # compiles, and has cudnn choose
        call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def in_turn(
    sides: dict[str, Callable[[], Any]],
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
    resident for this process on a CPU under Linux (NaN elsewhere)."""
    if device.type != "cuda":
        return _peak_resident(call)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def _peak_resident(call: Callable[[], Any]) -> float:
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        call()
        return math.nan
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library keeps what it likes
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    reset.write_text("5")  # sets the high-water mark back to what is resident now
    call()
    (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20


def write(path: str | None, head: str, rows: list[dict[str, Any]]) -> None:
    """Write what was measured as JSON, if a path is given."""
    if path:
        text = json.dumps({"machine": head, "rows": rows}, indent=1) + "\n"
        write_text(Path(path), text)


def chosen_device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def set_tf32(allowed: bool) -> None:
    """Let PyTorch's convolutions round to TF32, or not."""
    if hasattr(torch.backends.cudnn, "conv"):
        torch.backends.cudnn.conv.fp32_precision = "tf32" if allowed else "ieee"
    else:
        torch.backends.cudnn.allow_tf32 = allowed
