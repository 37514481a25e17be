"""Figures, opened and compared by what they plot."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from analysis import activity, curves, figures, kernels, style
from analysis.association import connections, sorted_channels
from analysis.image_sets import open_images
from analysis.probing import record
from analysis.trained import load_run
from layers.gabor import gabor_bank
from support.shell import exit_code
from tests.analysis.conftest import DATASET, SIZE


class Handmade:
    """A set of two images, without masks."""

    def __init__(self):
        random = np.random.default_rng(1)
        self.images = random.integers(0, 256, (2, 300, 300), dtype=np.uint8)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.images[index], index

    def describe(self):
        return "two images"


def arrays(figure) -> list[np.ndarray]:
    """The images drawn in a figure, colour bars left out."""
    axes = [a for a in figure.axes if not hasattr(a, "_colorbar")]
    return [np.asarray(image.get_array()) for a in axes for image in a.get_images()]


def lines(axes) -> dict[str, np.ndarray]:
    """The named lines of axes: (2, n)."""
    return {
        line.get_label(): np.array(line.get_data(), dtype=float)
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def test_learning_curves_plot_the_history_and_its_mean_over_seeds(config, names):
    one = [load_run(names[n], device="cpu", config=config) for n in ("hgru", "hgru seed 1", "ff_5")]
    accuracy, loss = curves.learning_curves(one).axes[:2]
    drawn = lines(accuracy)
    assert set(drawn) == {"hgru (2 seeds)", "ff_5"}
    x, y = drawn["hgru (2 seeds)"]
    assert x.tolist() == [4 * step for step in one[0].history.validation_step]
    both = np.array([run.history.validation_metric for run in one[:2]])
    assert np.allclose(y, both.mean(0))
    assert np.allclose(drawn["ff_5"][1], one[2].history.validation_metric)
    (band,) = accuracy.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == both.min() and heights.max() == both.max()
    thick = next(line for line in loss.get_lines() if line.get_linewidth() > 1)
    losses = np.array([run.history.validation_loss for run in one[:2]])
    assert np.allclose(thick.get_ydata(), losses.mean(0))
    with pytest.raises(ValueError, match="history to draw"):
        one[0].history = type(one[0].history)()
        curves.learning_curves(one[:1])


def test_names_of_runs_tell_what_differs(config, names):
    wanted = ("hgru", "hgru seed 1", "ff_5")
    runs = [load_run(names[n], device="cpu", config=config) for n in wanted]
    assert curves.labels(runs) == ["hgru", "hgru", "ff_5"]
    runs[1].params |= {"lr": 0.01}
    assert curves.labels(runs) == ["hgru, lr 0.001", "hgru, lr 0.01", "ff_5"]
    del runs[0].params["lr_schedule"]  # an older run's: it knew of none
    runs[1].params |= {"lr": 0.001, "lr_schedule": "cosine", "aux": {"readout_epsilon": 1e-5}}
    runs[0].params["aux"] = {}
    assert curves.labels(runs)[:2] == [
        "hgru", "hgru, aux readout_epsilon=1e-05, lr_schedule cosine",
    ]  # fmt: skip
    runs[2].params |= {"dataset": "other"}
    assert curves.labels(runs)[2] == "ff_5, other"
    assert curves.labels(runs, with_dataset=False)[2] == "ff_5"


def test_names_leave_out_what_nobody_asked_for(config, names):
    wanted = ("hgru", "hgru seed 1", "ff_5")
    runs = [load_run(names[n], device="cpu", config=config) for n in wanted]
    runs[1].params |= {"lr": 0.01}
    runs[1].record["overrides"] = [*runs[1].record["overrides"], "lr=0.01"]
    assert curves.labels(runs) == ["hgru", "hgru, lr 0.01", "ff_5"]
    runs[1].params |= {"lr": 0.001, "stream_epoch_images": 5}
    assert curves.labels(runs)[:2] == ["hgru", "hgru, stream_epoch_images 5"]
    runs[1].params |= {"initial_weights": "one_2026-11-25_03-18-41"}
    assert curves.labels(runs)[:2] == ["hgru", "hgru, after one"]
    assert curves.labels(runs, without=("initial_weights",))[1] == "hgru, stream_epoch_images 5"


def test_series_do_not_look_alike():
    looks = [style.series(number) for number in range(49)]
    assert len({(look["color"], look["marker"]) for look in looks}) == 49
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 49


def test_images_to_a_level_and_training_means():
    history = curves.History(validation_step=[0, 10, 20], validation_metric=[0.5, 0.9, 0.95])
    assert curves.images_to(history, 32, 0.9) == 320
    assert curves.images_to(history, 32, 0.96) is None
    ends, means = curves.training_curve([1, 2, 3, 4, 5, 6], points=3)
    assert ends.tolist() == [2, 4, 6] and means.tolist() == [1.5, 3.5, 5.5]


def test_gabor_figure_shows_both_banks(run):
    found = arrays(kernels.gabor_figure(run.network))
    assert len(found) == 4 * 12 + 2
    after = run.network.drive.weight.detach().numpy()[:, 0]
    before = gabor_bank(7).numpy()[:, 0]
    for bank in (before, after):
        for kernel in bank:
            assert any(np.array_equal(kernel, image) for image in found)
    first = np.argsort(np.tile((np.arange(12) * 15) % 180, 1))[0]
    assert np.array_equal(found[0], before[first])  # the horizontal one comes first


def test_kernel_figure_is_the_sorted_mosaic(run):
    (tiles,) = arrays(kernels.kernel_figure(run.network))
    kernel, order = connections(run.network), sorted_channels()
    assert tiles.shape == (125, 125)
    for row, column in ((0, 0), (3, 17), (24, 2)):
        tile = tiles[5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        assert np.array_equal(tile, kernel[order[row], order[column]])


def test_letter_figure_plots_letters_eta_and_gates(run):
    gates = {"G1": np.full((4, 25), 0.25), "G2": np.full((4, 25), 0.75)}
    axes = kernels.letter_figure(run.network, gates).axes
    for place, name in enumerate(("alpha", "mu", "gamma", "kappa", "omega")):
        drawn = np.concatenate([line.get_ydata() for line in axes[place].get_lines()[:3]])
        value = getattr(run.network.hgru, name).detach().numpy().ravel()
        assert np.array_equal(np.sort(drawn), np.sort(value))
    assert np.allclose(axes[5].get_lines()[0].get_ydata(), run.network.hgru.eta.detach())
    biases = [line.get_ydata() for line in axes[6].get_lines()]
    assert np.allclose(biases[0], run.network.hgru.b_gain.detach().sigmoid())
    assert [line.get_ydata().tolist() for line in axes[7].get_lines()] == [[0.25] * 4, [0.75] * 4]


def test_letter_figure_says_what_is_lesioned(config, names):
    run = load_run(names["multiplicative_lesion"], device="cpu", config=config)
    axes = kernels.letter_figure(run.network).axes
    assert [t.get_text() for t in axes[0].texts] == ["the constant 0 (lesioned)"]
    assert [t.get_text() for t in axes[7].texts] == ["no images given"]


def test_strip_and_animation_show_each_step(run):
    data = Handmade()
    seen = activity.watch(run, data, 1)
    assert seen.label == 1 and seen.outline is None
    images = activity.prepare_images(run, data.images[1:])
    recorded = record(run.network, images)
    for symbol in ("H1", "H2"):
        expected = recorded[symbol][:, 0].pow(2).mean(1).sqrt()
        assert np.allclose(seen.strength[symbol], expected, atol=1e-6)
    assert np.allclose(seen.gates["G1"], recorded["G1"][:, 0].mean((2, 3)), atol=1e-6)
    found = arrays(activity.strip(seen, run))
    assert len(found) == 1 + 2 * 4  # image, H1 and H2 at four steps
    assert np.allclose(found[0], images[0, 0])
    assert any(np.array_equal(seen.strength["H2"][3], image) for image in found)

    with Image.open(io.BytesIO(activity.animation(seen, run))) as moving:
        frames = [np.asarray(f.convert("RGB")).copy() for f in ImageSequence.Iterator(moving)]
        assert moving.info["loop"] == 0
    assert len(frames) == 4
    assert all((a != b).any() for a, b in pairwise(frames))


def test_the_target_contour_is_outlined(run):
    data = open_images("pathfinder_6", run.config, run.params, 2)
    seen = activity.watch(run, data, 0)
    mask = data.stimulus(0).contour_mask
    outline = activity.widened(mask)
    assert outline[mask].all()  # it holds the whole contour
    distance = np.argwhere(outline)[:, None] - np.argwhere(mask)[None]
    assert np.sqrt((distance**2).sum(-1)).min(1).max() <= activity.OUTLINE
    assert seen.outline.shape == (SIZE, SIZE)
    whole = np.argwhere(outline).mean(0) * (SIZE - 1) / 299  # images are resized corner to corner
    assert np.allclose(np.argwhere(seen.outline).mean(0), whole, atol=0.3)
    strip = activity.strip(seen, run)
    assert strip.axes[0].collections  # the contour lines


def test_gradient_figure_shows_maps(run):
    images, maps, labels = activity.gradient_maps(run, Handmade(), [1, 0], samples=2)
    assert labels == [1, 0] and maps.shape == (2, SIZE, SIZE)
    found = arrays(activity.gradient_figure(images, maps, labels, 2))
    for expected in (images[0], maps[0], np.abs(maps[1])):
        assert any(np.array_equal(expected, image) for image in found)


def test_the_command_writes_png_and_pdf_of_each_kind(run, tmp_path, capsys):
    arguments = [run.name, "--dataset", DATASET, "--samples", "1", "--output", str(tmp_path)]
    assert exit_code(figures.main, [*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    stems = {path.stem for path in tmp_path.iterdir()}
    for kind in ("curves", "gabors", "kernels", "association", "letters", "gradients"):
        assert kind in stems
        with Image.open(tmp_path / f"{kind}.png") as picture:
            assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 5
        assert (tmp_path / f"{kind}.pdf").read_bytes().startswith(b"%PDF")
    assert len(list(tmp_path.glob("activity_label*.gif"))) == 2
    assert str(tmp_path / "association.png") in said


def test_kinds_that_do_not_apply_are_named(names, tmp_path, capsys):
    arguments = [names["ff_5"], "--only", "kernels", "gabors", "--output", str(tmp_path)]
    assert exit_code(figures.main, [*arguments, "--device", "cpu"]) == 0
    assert f"{names['ff_5']}: nothing to draw for kernels" in capsys.readouterr().out
    assert exit_code(figures.main, [names["ff_5"], "--only", "kernel"]) == 2
    assert "invalid choice: 'kernel'" in capsys.readouterr().err


def test_a_figure_saved_twice_is_the_same_file(run, tmp_path):
    for name in ("a", "b"):
        style.save(curves.learning_curves([run]), tmp_path / name)
    for kind in ("png", "pdf"):
        first, second = ((tmp_path / f"{n}.{kind}").read_bytes() for n in "ab")
        assert first == second


def luminance(colour) -> float:
    """Relative luminance of an sRGB colour (WCAG 2)."""
    c = np.asarray(colour[:3], dtype=float)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_signed_map_is_white_at_zero_and_as_dark_on_both_sides():
    values = np.linspace(0, 1, 11)
    for away in values[:6]:
        low, high = luminance(style.SIGNED(0.5 - away / 2)), luminance(style.SIGNED(0.5 + away / 2))
        assert abs(low - high) < 0.08
    side = [luminance(style.SIGNED(0.5 + v / 2)) for v in values]
    assert side[0] > 0.95 and all(np.diff(side) < 0)


def test_series_differ_for_colour_blind_readers():
    """Simulated deuteranopia and protanopia (Viénot, Brettel & Mollon 1999) keep them apart."""
    from matplotlib.colors import to_rgb

    rgb_to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    protan = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    deutan = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    colours = np.array([to_rgb(c) for c in style.SERIES[:4]])
    for blind in (np.eye(3), protan, deutan):
        seen = colours @ (np.linalg.inv(rgb_to_lms) @ blind @ rgb_to_lms).T
        for i in range(len(seen)):
            for j in range(i):
                assert np.abs(seen[i] - seen[j]).max() > 0.12


def test_wrong_example_is_said(run):
    with pytest.raises(ValueError, match="no such image of label 1"):
        activity.example(Handmade(), 1, skip=3)
    assert activity.example(Handmade(), 1) == 1
    assert torch.is_tensor(activity.prepare_images(run, Handmade().images))


@pytest.mark.parametrize("length", [5, 30, 70])
def test_a_legend_stays_on_the_page_and_leaves_the_axes_their_room(length):
    with style.style():
        figure = style.new_figure(style.PAGE, 3.0)
        axes = figure.subplots()
        lines = [axes.plot([0, 1])[0] for _ in range(9)]
        style.legend_below(figure, lines, [f"{number}".ljust(length, "n") for number in range(9)])
        figure.draw_without_rendering()
    (legend,) = figure.legends
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
    assert axes.get_window_extent().height / figure.dpi > 1.9
