"""All kernels together on the CPU, against the plain paths in float64: Triton's in its interpreter,
those in CUDA C++ by a C++ compiler. test_circuit_kernels.py has the circuit's alone.

A process of its own, as Triton reads TRITON_INTERPRET when it is imported.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.layers import host

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

PRELUDE = """
import copy, sys, torch
from layers.hgru import HGRU
from layers.horizontal import HorizontalKernel, horizontal_method

from layers.kernels import compiled
from tests.layers import host

compiled.function, compiled.available = host.function, lambda device: True
torch.manual_seed(0)
torch.set_num_threads(1)
HALF = sys.argv[1] == "half"
torch.backends.cudnn.allow_tf32 = HALF
LIMIT = 1e-2 if HALF else 3e-5

def near(found, exact, limit=LIMIT):
    for number, (a, b) in enumerate(zip(found, exact, strict=True)):
        apart = float((a.double() - b).detach().norm() / b.detach().norm().clamp(min=1e-30))
        assert apart < limit, (number, apart)
"""

CONVOLUTION = """
x = torch.randn({images}, 2, 9, 12, requires_grad=True)
W = (torch.randn(3, 2, 4, 5) / 6).requires_grad_()
g = torch.randn({images}, 3, 9, 12)

def results(x, W, g, method):
    y = HorizontalKernel(W, method=method)(x)
    return [y, *torch.autograd.grad(y, (x, W), g)]

near(results(x, W, g, "triton"), results(x.double(), W.double(), g.double(), "direct"))
"""

CIRCUIT = """
options = {options}
layer = HGRU(2, h_ext=3, hidden_init="identity", **options)
X = torch.rand(1, 2, 6, 7, requires_grad=True)
g = torch.randn(1, 2, 6, 7)
named = [p for n, p in layer.named_parameters() if not (layer.batch_norm and n.startswith("b_"))]
plain = copy.deepcopy(layer).double()
ours = [p for n, p in plain.named_parameters() if not (layer.batch_norm and n.startswith("b_"))]
from layers import circuit

with horizontal_method("triton"):
    assert layer._fused(layer._prepared(X), X)
    y = layer(X)
    first = torch.autograd.grad(y, [X, *named], g)
with horizontal_method("direct"):
    z = plain(X.double())
    exact = torch.autograd.grad(z, [X, *ours], g.double())
near([y, *first], [z, *exact])
near(layer.buffers(), plain.buffers())
"""


def fault(program: str, precision: str) -> str:
    """What a program says on standard error in Triton's interpreter; nothing where all agreed."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, precision],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    return "" if result.returncode == 0 else result.stderr or f"exit code {result.returncode}"


@pytest.mark.skipif(host.COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize(
    "images, precision", [(2, "half"), (16, "half"), (32, "half"), (2, "float32")]
)
def test_convolution(images, precision):
    """With 16 or 32 images, products in half precision are those in CUDA C++."""
    assert fault(CONVOLUTION.format(images=images), precision) == ""


@pytest.mark.skipif(host.COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize(
    "options, precision",
    [
        ({"timesteps": 1, "adaptation": True}, "half"),
        ({"timesteps": 2, "batch_norm": True, "separate_kernels": True}, "float32"),
        pytest.param(
            {"timesteps": 2, "recurrent_nl": "relu", "separate_kernels": True, "recompute": True},
            "float32", marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)  # fmt: skip
def test_circuit(options, precision):
    assert fault(CIRCUIT.format(options=options), precision) == ""


def test_every_kernel_has_a_name_of_its_own():
    """A profile tells kernels apart by their names."""
    names = []
    for file in (ROOT / "layers" / "kernels").glob("*.*"):
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".py":
            names += re.findall(r"^def (_\w+_kernel)\(", text, re.MULTILINE)
        elif file.suffix == ".cu":
            names += host.kernels(text)
    assert len(names) > 20 and len(names) == len(set(names))
