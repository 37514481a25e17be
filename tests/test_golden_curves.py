"""The losses of each script's first updates are those that are kept (tests/golden_curves.py)."""

import pytest

from tests.golden_curves import FILE, SCRIPTS, STEPS, differences, losses, read


@pytest.mark.parametrize("steps", [4, pytest.param(STEPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_losses_are_those_that_are_kept(script: str, steps: int) -> None:
    assert differences(script, losses(script, steps), read(FILE)[script]) == []


def test_a_curve_that_moved_is_noticed() -> None:
    kept = read(FILE)["hgru"]
    assert differences("hgru", [kept[0], kept[1] + 1e-3], kept) != []
    assert differences("hgru", [*kept[:-1], float("nan")], kept) != []
