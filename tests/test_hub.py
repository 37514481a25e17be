"""The clone from a folder outside it: torch.hub, the layer, and beside modules of its names."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[1]


def run_outside(folder, program, path=""):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(path)},
    )  # fmt: skip


def users_modules(folder):
    """Modules of the same names as the clone's."""
    for name in ("config", "training", "layers"):
        (folder / f"{name}.py").write_text("mine = True\n")
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").write_text("mine = True\n")


USES = """
import pickle, sys, torch
from hgru_pytorch.layers.hgru import HGRU
layer = HGRU(3, timesteps=2, h_ext=3, hidden_init="zeros")
images = torch.rand(1, 3, 8, 9)
assert torch.equal(pickle.loads(pickle.dumps(layer))(images), layer(images))
from hgru_pytorch import hubconf, hgru
assert hubconf.hgru(weights="14")(torch.rand(1, 1, 20, 20))[0].shape == (1, 2)
assert hgru.experiment_params()["model_name"] == "hgru"
from hgru_pytorch.dataset_processing.pathfinder import generate
assert generate(3, 2, 0, window=64, seed_distance=12, border=4)[0].shape == (2, 64, 64)
from hgru_pytorch.dataset_processing import load_set
assert load_set("curv_contour_length_14_full", None).data_name == "curv_contour_length_14"
import hgru_pytorch.analysis.evaluate, hgru_pytorch.training.loop
for name in ("config", "training", "layers", "models"):
    assert __import__(name).mine, name
assert not {"support", "analysis", "dataset_processing"} & set(sys.modules)
"""


def test_all_seven_networks(tmp_path):
    result = run_outside(
        tmp_path,
        f"""
import torch
load = lambda name, **options: torch.hub.load({str(CLONE)!r}, name, source="local", **options)
NAMES = ("hgru", "hgru_bn", "hgru_bn_for", "hgru_bn_relu", "multiplicative_lesion",
         "additive_lesion", "ff_5")
for name in NAMES:
    logits, _ = load(name)(torch.rand(1, 1, 20, 20))
    assert logits.shape == (1, 2), name
assert load("hgru", timesteps=3).hgru.timesteps == 3
network = load("hgru", weights="14")
assert not network.training and network.hgru.timesteps == 8
images = torch.rand(1, 1, 20, 20, requires_grad=True)
try:
    torch.autograd.grad(network(images)[0].sum(), images, create_graph=True)
except RuntimeError as error:  # what to call, by the name under which it has an effect
    assert "hgru_pytorch.layers.methods.horizontal_method" in str(error)
else:
    raise SystemExit("a second derivative")
try:
    load("hgru_bn", weights="14")
except ValueError as error:
    assert "hgru_bn" in str(error) and "'14'" in str(error)
else:
    raise SystemExit("weights that are not there")
""",
    )
    assert result.returncode == 0, result.stderr


def test_behind_a_convolution_of_the_users_own(tmp_path):
    """The README's example, which learns whether a bar stands or lies."""
    readme = (CLONE / "README.md").read_text(encoding="utf-8")
    example = readme[readme.index("    import torch\n") :].split("\n\n")[0]
    result = run_outside(
        tmp_path, f"import sys; sys.path.append({str(CLONE)!r})\n" + textwrap.dedent(example)
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.5


@pytest.mark.parametrize("first", [True, False])
def test_hub_beside_modules_of_the_same_names(tmp_path, first):
    users_modules(tmp_path)
    theirs = "import config, models, training, layers\n"
    result = run_outside(
        tmp_path,
        theirs * first
        + f"""
import torch
for name, options in (("hgru", dict(weights="14")), ("hgru_bn", dict(timesteps=2)), ("ff_5", {{}})):
    network = torch.hub.load({str(CLONE)!r}, name, source="local", **options)
    assert network(torch.rand(1, 1, 20, 20))[0].shape == (1, 2)
"""
        + theirs
        + "assert config.mine and models.mine and training.mine and layers.mine",
    )
    assert result.returncode == 0, result.stderr


def test_two_clones_in_one_process_are_told_apart(tmp_path):
    other = tmp_path / "other"
    (other / "hgru_pytorch").mkdir(parents=True)
    shutil.copy(CLONE / "hubconf.py", other)
    (other / "hgru_pytorch" / "__init__.py").write_text("")
    result = run_outside(
        tmp_path,
        f"""
import torch
torch.hub.load({str(CLONE)!r}, "ff_5", source="local")
torch.hub.load({str(other)!r}, "ff_5", source="local")
""",
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and str(CLONE) in last and str(other) in last


def test_one_name_beside_modules_of_the_same_names(tmp_path):
    users_modules(tmp_path)
    added = f"import sys; sys.path.append({str(CLONE)!r})\n"
    result = run_outside(tmp_path, added + USES)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_installed(tmp_path):
    pytest.importorskip("setuptools")
    users_modules(tmp_path)
    ignored = shutil.ignore_patterns(".git", ".venv", "data", "runs", "tests", "build")
    shutil.copytree(CLONE, tmp_path / "copy", ignore=ignored)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation",
               "--target", str(tmp_path / "site"), str(tmp_path / "copy")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    installed = tmp_path / "site" / "hgru_pytorch" / "clone"
    for folder in ("analysis", "dataset_processing", "layers", "models", "support", "training"):
        for path in (tmp_path / "copy" / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".nbi", ".nbc"):
                assert (installed / path.relative_to(tmp_path / "copy")).is_file(), path
    shutil.rmtree(tmp_path / "copy")
    result = run_outside(tmp_path, USES, tmp_path / "site")
    assert result.returncode == 0, result.stderr
