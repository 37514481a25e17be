"""Which lengths are read after how many steps, against networks of so many steps."""

import argparse
import csv

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from analysis import probing, reading
from analysis.image_sets import open_images
from analysis.predict import prepare_images
from support import shell


def test_each_step_is_that_of_a_network_of_so_many(run):
    rows = reading.read(run, [6, 9], timesteps=6, images=10, seed=3)
    assert [(row["length"], row["steps"]) for row in rows] == [
        (length, step) for length in (6, 9) for step in range(1, 7)
    ]
    for row in rows:
        fold = open_images(f"pathfinder_{row['length']}", run.config, run.params, 10, seed=3)
        images, labels = (
            np.array(part) for part in zip(*map(fold.__getitem__, range(10)), strict=True)
        )
        with torch.no_grad(), probing.steps(run.network, row["steps"]):
            logits = []
            for part in (images[:4], images[4:8], images[8:]):  # batches of the run's
                with probing.hidden_seed(run.network, 3):
                    logits.append(run.network(prepare_images(run, part))[0])
        logits = torch.cat(logits)
        right = (logits.argmax(1).numpy() == labels).mean()
        assert row["accuracy"] == pytest.approx(right) and row["low"] <= right <= row["high"]
        margin = (logits[:, 1] - logits[:, 0]).double().numpy()
        above = mannwhitneyu(margin[labels == 1], margin[labels == 0]).statistic
        assert row["auc"] == pytest.approx(above / (labels.sum() * (1 - labels).sum()))


def test_the_command(run, names, capsys, tmp_path):
    asked = [run.name, "--lengths", "6-7", "9", "--images", "4", "--timesteps", "5"]
    assert shell.exit_code(reading.main, [*asked, "--output", str(tmp_path), "--device=cpu"]) == 0
    (table,) = tmp_path.glob("reading_*.csv")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["length"]) for row in rows[::5]] == [6, 7, 9] and len(rows) == 15
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".pdf", ".png"]
    assert str(table) in capsys.readouterr().out
    assert shell.exit_code(reading.main, [names["ff_5"], "--device=cpu"]) == 2
    assert "ff_5 has no circuit whose steps could be read" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1", "9-6", "a", "6-", "6-9-12", "-3"])
def test_lengths_that_are_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}'"):
        reading.span(text)
    assert reading.span("6-8") == [6, 7, 8] and reading.span("14") == [14]
