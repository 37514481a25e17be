"""Shorter contours first: which are shown when, and that a run that stops goes on so."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hgru
from config import Config
from dataset_processing import open_set
from dataset_processing.pathfinder import Pathfinder
from tests.training import processes
from tests.training.test_resume import tell_in_validation
from training.command_line import COMPLETE, ERROR, LEFT_EARLY
from training.curriculum import Curriculum
from training.experiment import Experiment
from training.signals import Stop

Script = Callable[..., int]

STREAM = ["--set", "dataset=pathfinder_6_stream", "--set", "exp_name=tiny"]
STREAM += ["--set", "stream_settings={window: 96, border: 6, seed_distance: 20}"]
STREAM += ["--set", "stream_epoch_images=30", "--set", "stream_val_images=8"]
# Batches of 4: 8 an epoch, 16 steps; a validation each 4, where a length has had 16 images.
STREAM += ["--set", "epochs=2", "--set", "data_augmentations=uint8_rescale,resize"]
LENGTHS = ["--set", "curriculum=3,4", "--set", "curriculum_images=16"]
ALONE = ["--set", "curriculum_review=0"]
NEVER, AT_ONCE = ["--set", "curriculum_until=1.1"], ["--set", "curriculum_until=0"]


def stages(project: Path) -> list[tuple[int, int, int]]:
    """(step, images, length) of each stage that the log tells of."""
    (log,) = project.glob("logs/*/log.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [(e["step"], e["images"], e["length"]) for e in events if e["event"] == "stage"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """Number and contour length of the images that the generator is asked for, call by call."""
    calls: list[list[tuple[int, int]]] = []
    images = Pathfinder.images

    def noted(self: Pathfinder, numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
        calls.append([(number, self.settings.contour_length) for number in numbers])
        return images(self, numbers)

    monkeypatch.setattr(Pathfinder, "images", noted)
    return calls


def test_each_length_is_shown_for_its_share_of_images(
    script: Script, project: Path, drawn: list[list[tuple[int, int]]]
) -> None:
    assert script(*STREAM, *LENGTHS, *ALONE, *NEVER) == COMPLETE
    # 8 steps are 30 images: an epoch's last batch has the two that are left.
    assert stages(project) == [(0, 0, 3), (4, 16, 4), (12, 46, 6)]
    trained = [pair for call in drawn if len(call) > 1 for pair in call if pair[0] < 60]
    assert [length for _, length in trained] == [3] * 16 + [4] * 30 + [6] * 14
    assert sorted(n for n, _ in trained) == list(range(60))
    (results,) = project.glob("results/*.npz")
    assert np.load(results)["val_step"].tolist() == [0, 4, 8, 12, 16]  # on the set's own length
    (log,) = project.glob("logs/*/log.jsonl")
    validations = [
        json.loads(line) for line in log.read_text().splitlines() if "alidation_" in line
    ]
    shorter = [[key for key in v if key.startswith("accuracy_at_")] for v in validations]
    assert shorter == [
        ["accuracy_at_3"],
        ["accuracy_at_3"],
        ["accuracy_at_4"],
        ["accuracy_at_4"],
        [],
    ]


def test_lengths_that_were_shown_come_again_until_the_last_is_learned(
    script: Script, project: Path, drawn: list[list[tuple[int, int]]]
) -> None:
    options = [*STREAM, *LENGTHS, "--set", "curriculum_review=3", "--set", "epochs=3"]
    assert script(*options, *NEVER, "--seed", "0") == COMPLETE
    # 24 steps. The last length is shown with others until it has had its images, then alone.
    assert stages(project) == [(0, 0, 3), (4, 16, 4), (12, 46, 6), (20, 76, 6)]
    lengths = dict(pair for call in drawn for pair in call)
    order = np.concatenate(
        [np.random.default_rng([0, e]).permutation(30) + 30 * e for e in (0, 1, 2)]
    )
    stage_of = [3] * 16 + [4] * 30 + [6] * 30 + [0] * 14
    for number, stage in zip(order.tolist(), stage_of, strict=True):
        before = {3: [3], 4: [3], 6: [3, 4], 0: [6]}[stage]
        again = stage in (4, 6) and number % 3 == 0
        expected = before[number // 3 % len(before)] if again else stage or 6
        if number:  # which is also drawn to begin with
            assert lengths[number] == expected, (number, stage)


def test_shorter_lengths_go_on_to_the_end_where_that_is_asked_for(
    script: Script, project: Path, drawn: list[list[tuple[int, int]]]
) -> None:
    options = [*STREAM, *LENGTHS, *AT_ONCE, "--set", "curriculum_alone=false"]
    assert script(*options, "--set", "epochs=3", "--seed", "0") == COMPLETE
    assert stages(project) == [(0, 0, 3), (0, 0, 4), (4, 16, 6)]
    lengths = dict(pair for call in drawn for pair in call)
    late = [lengths[number] for number in range(60, 90)]  # of the last epoch
    assert late[::2] == 7 * [3, 4] + [3] and set(late[1::2]) == {6}


def test_a_length_that_is_learned_gives_way_at_once(script: Script, project: Path) -> None:
    assert script(*STREAM, *LENGTHS, *AT_ONCE) == COMPLETE
    assert stages(project) == [(0, 0, 3), (0, 0, 4), (4, 16, 6), (8, 30, 6)]


def curriculum(*texts: str) -> Curriculum:
    exp = Experiment.of(hgru.experiment_params(), [*STREAM[1::2], *texts])
    return Curriculum(exp, Config(), open_set(exp.dataset, Config(), exp))


def test_when_the_next_length_begins_and_what_is_told_of_it() -> None:
    found = curriculum("curriculum=3,4,6", "curriculum_images=16", "curriculum_review=3")
    told = []
    for metric, images in [(0.89, 15), (0.9, 15), (0.5, 30), (0.5, 31), (0.91, 40), (1, 99)]:
        said = found.advance(metric, images) or ""
        told.append((found.state(), *re.findall(r"\d+\.?\d*", said)))
        assert ("alone" in said) == (images == 40)
        if images == 31:
            fold = found.fold()
            names = [fold.name(number).split("_")[1] for number in range(9)]
            assert names == list("366466366")
            for number, (image, _) in zip([0, 1, 3], fold.__getitems__([0, 1, 3]), strict=True):
                (data,) = (s for s in found.sets if s.contour_length == int(names[number]))
                assert np.array_equal(image, data.fold("train")[number][0])
    assert told == [
        ({"stage": 0, "began": 0},),
        ({"stage": 1, "began": 15}, "4", "3", "3", "3", "0.9000", "15"),
        ({"stage": 1, "began": 15},),
        ({"stage": 2, "began": 31}, "6", "3", "3", "4", "4", "16", "0.5000"),
        ({"stage": 3, "began": 40}, "6", "6", "0.9100", "9"),
        ({"stage": 3, "began": 40},),
    ]
    again = curriculum("curriculum=3,4,6")
    again.restore(found.state())
    assert again.state() == found.state()


def test_without_a_review_the_last_length_has_one_stage() -> None:
    found = curriculum("curriculum=3", "curriculum_review=0")
    assert found.advance(1, 4) and found.is_last


def test_one_length_is_shown_from_the_beginning_to_the_end() -> None:
    found = curriculum("stream_settings={contour_length: 6}")
    assert found.is_last and found.advance(1, 10**6) is None
    assert found.fold() is found.data.fold("train")


def test_a_run_that_stops_goes_on_with_the_same_lengths(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*STREAM, *LENGTHS, *NEVER, "--seed", "3"]
    for project in (whole, parts):
        project.mkdir()
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(whole))
    assert script(*options) == COMPLETE
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(parts))
    for count in itertools.count():
        asked = itertools.count()
        monkeypatch.setattr(Stop, "wanted", lambda _, asked=asked: next(asked) > 2 and "told to")
        code = script(*options, *(["--resume", "latest"] if count else []))
        if code != LEFT_EARLY:
            break
    assert code == COMPLETE and count > 3
    assert stages(parts) == stages(whole) == [(0, 0, 3), (4, 16, 4), (12, 46, 6)]
    assert not processes.differing(processes.outcome(whole), processes.outcome(parts))


def test_a_stage_is_logged_once_where_its_validation_was_left(
    script: Script, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as told:
        tell_in_validation(told, step=0)
        assert script(*STREAM, *LENGTHS, *NEVER) == LEFT_EARLY
    assert stages(project) == [(0, 0, 3)]
    assert script("--resume", "latest", *STREAM) == COMPLETE
    assert stages(project) == [(0, 0, 3), (4, 16, 4), (12, 46, 6)]


@pytest.mark.parametrize("ahead", [0, 3])
def test_two_processes_change_the_length_together(ahead: int, tmp_path: Path) -> None:
    options = [*STREAM, *LENGTHS, *NEVER, "--device", "cpu", "--workers", "0"]
    ranks = processes.start_ranks(2, options, tmp_path, ahead=ahead)
    assert [processes.finish(rank) for rank in ranks] == [COMPLETE] * 2, processes.said(tmp_path)
    assert stages(tmp_path) == [(0, 0, 3), (4, 16, 4), (12, 46, 6)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "curriculum=9"], "found [9]"),
        (["--set", "curriculum=4,3"], "found [4, 3]"),
        (["--set", "curriculum=4,4"], "found [4, 4]"),
        (["--set", "curriculum=1,3"], "curriculum must be"),
        (["--set", "curriculum=3", "--set", "stream_settings={contour_length: 6}"], "drop one"),
        (["--set", "curriculum=3", "--set", "dataset=curv_contour_length_14_full"], "_14_full"),
    ],
)
def test_a_curriculum_that_cannot_be(
    options: list[str], expected: str, script: Script, capsys: pytest.CaptureFixture
) -> None:
    assert script(*STREAM, *options) == ERROR
    error = capsys.readouterr().err
    assert expected in error and "curriculum" in error and "Traceback" not in error
