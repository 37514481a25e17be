"""The weights that the repository keeps, on images of the lab's own sets."""

from pathlib import Path

import pytest
from safetensors import safe_open

from analysis.evaluate import evaluate
from analysis.export import export_program, model_card
from analysis.trained import load_run
from config import CLONE, Config

KEPT = sorted((CLONE / "weights").glob("*.safetensors"))
LAB = Path(__file__).parent / "data" / "curvy_2snakes_300"
SETS = {"6": "curv_baseline", "9": "curv_contour_length_9", "14": "curv_contour_length_14"}


@pytest.mark.parametrize("weights", KEPT, ids=lambda path: path.stem)
def test_kept_weights_are_right(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About the lab's images of the length that they were trained on; of lengths that the lab has
    not, about ours."""
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    run = load_run(weights, device="cpu", config=Config())
    length = weights.stem.split("_")[1]
    labs = length in SETS
    found = evaluate(run, str(LAB / SETS[length]) if labs else f"pathfinder_{length}", images=16)
    assert len(found.label) >= 8 and 0.4 < found.label.mean() < 0.6
    assert found.correct.mean() >= (1 if labs else 0.9)
    assert found.loss < 0.2


def test_kept_weights_have_their_card_and_stay_small() -> None:
    assert KEPT
    assert sum(path.stat().st_size for path in KEPT) < 3e6
    for path in KEPT:
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        run = load_run(path, device="cpu")
        assert model_card(run, str(path.relative_to(CLONE))) == card
        with safe_open(path, framework="pt") as file:
            assert int(file.metadata()["images_seen"]) == run.images_seen
        for fact in ("| seed |", "| command |", "| commit |", "| trained on |", "## Accuracy"):
            assert fact in card, fact


def test_more_steps_do_not_keep_weights_from_export(tmp_path: Path) -> None:
    """On noise, twelve steps make 1% of the rounding between two ways to convolve."""
    run = load_run(CLONE / "weights" / "hgru_20.safetensors", device="cpu")
    path, difference = export_program(run, tmp_path / "x.pt2", (48, 48))
    assert path.is_file() and difference < 1e-6
