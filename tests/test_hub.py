"""The networks from a folder outside the clone: torch.hub, and beside modules of the same names."""

import subprocess
import sys
import textwrap
from pathlib import Path

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
    """The README's example, which learns whether a bar stands or lies."""
    readme = (CLONE / "README.md").read_text(encoding="utf-8")
    example = readme[readme.index("    import torch\n") :].split("\n\nAppend")[0]
    result = run_outside(
        tmp_path, f"import sys; sys.path.append({str(CLONE)!r})\n" + textwrap.dedent(example)
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.5
