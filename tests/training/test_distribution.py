"""Two processes over gloo against one, with the same total batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

import hgru
import hgru_bn
from tests.training import processes, tiny

NETWORKS = {"hgru": hgru.build_model, "hgru_bn": hgru_bn.build_model}
# 5 images a batch in slices of 2 and 3, and a last batch of 2: 5 batches an epoch, 20 steps.
OPTIONS = ["--seed", "1", "--workers", "0", "--device", "cpu"]
OPTIONS += ["--set", "batch_size=5", "--set", "epochs=4", "--set", "validation_iters=10"]
# Normalisation takes away whatever these biases add, so their gradient is 0 but for rounding. Nadam
# divides it by its own size and moves them at random; the running means follow them.
READOUT = {"norm.bias", "readout.norm.running_mean"}
CIRCUIT = {f"hgru.{name}" for name in ("b_gain", "b_mix")}
CIRCUIT |= {f"hgru.norms.{name}.0.running_mean" for name in ("g1", "g2")}
WITHOUT_EFFECT = {"hgru": READOUT, "hgru_bn": READOUT | CIRCUIT}


@pytest.mark.parametrize(
    ("network", "optimizer", "tolerance"),
    [
        # Nadam moves a weight by up to 1e-3 a step however small its gradient is, and by its sign.
        ("hgru", "nadam", 3e-4),
        ("hgru_bn", "momentum", 1e-5),
        pytest.param("hgru", "momentum", 1e-5, marks=pytest.mark.slow),
        pytest.param("hgru_bn", "nadam", 5e-3, marks=pytest.mark.slow),
    ],
)
def test_two_processes_compute_what_one_does(
    network: str, optimizer: str, tolerance: float, tmp_path: Path
) -> None:
    projects = tmp_path / "alone", tmp_path / "together"
    for project in projects:
        tiny.make_records(project)
    options = [*OPTIONS, "--set", f"optimizer={optimizer}"]
    build = NETWORKS[network]
    started = [processes.start(options, projects[0], build=build)]
    started += processes.start_ranks(2, options, projects[1], build=build)
    codes = [processes.finish(process) for process in started]
    assert codes == [0, 0, 0], processes.said(projects[0]) + processes.said(projects[1], 1)

    alone, together = (processes.newest_checkpoint(project) for project in projects)
    assert alone["step"] == together["step"] == 20
    exact = optimizer != "nadam"
    skipped = set() if exact else WITHOUT_EFFECT[network]
    for name, values in alone["history"].items():
        if name == "validation_loss" and not exact:
            continue  # it sees norm.bias until the running averages have followed
        np.testing.assert_allclose(together["history"][name], values, rtol=1e-4, err_msg=name)
    for name in alone["model"].keys() - skipped:
        torch.testing.assert_close(
            together["model"][name],
            alone["model"][name],
            rtol=1e-4,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )
