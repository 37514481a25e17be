"""The networks from a folder outside the clone: torch.hub, and beside modules of the same names."""

import subprocess
import sys
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[1]


def run_outside(folder, program):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True
    )


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
    """The README's example: more dark than light quarters, on something that is not Pathfinder."""
    result = run_outside(tmp_path, f"import sys; sys.path.append({str(CLONE)!r})\n" + EXAMPLE)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.5


EXAMPLE = """
import torch
from torch import nn
from layers.hgru import HGRU

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(),
    HGRU(8, timesteps=4, h_ext=7),
    nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2),
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(40):  # does a bar stand, or lie?
    labels = torch.arange(16) % 2
    images = torch.zeros(16, 1, 24, 24)
    for image, label in zip(images, labels):
        y, x = torch.randint(4, 10, (2,))
        image[0, y : y + (10 if label else 2), x : x + (2 if label else 10)] = 1
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
"""


@pytest.mark.parametrize("name", ["config", "models", "training"])
def test_beside_a_module_of_the_users_own(tmp_path, name):
    """`layers` needs none of the names that collide: her module stays hers."""
    (tmp_path / f"{name}.py").write_text("MINE = True\n")
    result = run_outside(
        tmp_path,
        f"import sys; sys.path.append({str(CLONE)!r})\n"
        f"from layers.hgru import HGRU\nimport {name}\nassert {name}.MINE\n",
    )
    assert result.returncode == 0, result.stderr
