"""Figures, opened and compared by what they plot."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.contour import ContourSet
from matplotlib.legend import Legend
from matplotlib.text import Text
from PIL import Image, ImageSequence
from scipy import ndimage

from analysis import activity, curves, figures, kernels, style
from analysis.association import (
    STAGES,
    association_field,
    channel_orientation,
    connections,
)
from analysis.image_sets import open_images
from analysis.probing import record, smoothgrad
from analysis.trained import load_run
from dataset_processing.generated import ARENA_SETTINGS
from dataset_processing.pathfinder import Pathfinder, Settings
from layers.gabor import gabor_bank
from models.recurrent import RecurrentNetwork
from support.errors import UserError
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


def drawn(figure) -> list[np.ndarray]:
    """The (2, n) data of every line in a figure."""
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    return [line.get_xydata().T for line in lines]


def holds(figure, x, y) -> bool:
    """Whether a figure has a line of these points."""
    expected = np.array([x, y], dtype=float)
    return any(d.shape == expected.shape and np.allclose(d, expected) for d in drawn(figure))


def texts(figure) -> str:
    """All the words of a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def made(run: str, label: str, accuracy: list[float]) -> curves.Curve:
    """A curve of these accuracies, a validation every 1,000 images."""
    table = np.full((len(accuracy), 6), 0.5)
    table[:, 0], table[:, 5] = 1000 * np.arange(len(accuracy)), accuracy
    return curves.Curve(run, label, table)


def test_learning_curves_have_a_line_for_each_seed(config, names):
    """Of seeds that end at 88%, 50% and 50%, no mean at 63% is drawn."""
    ends = {"a": [0.5, 0.6, 0.88], "b": [0.5, 0.5, 0.5], "c": [0.5, 0.49, 0.5]}
    figure = curves.learning_curves([made(run, "one", values) for run, values in ends.items()])
    for values in ends.values():
        assert holds(figure, [0, 1, 2], values)
    finals = {d[1, -1] for d in drawn(figure) if d.shape == (2, 3)}
    assert finals <= {0.88, 0.5} and "one (3 runs)" in texts(figure)
    runs = [load_run(names[n], device="cpu", config=config) for n in ("hgru", "ff_5")]
    figure = curves.learning_curves(curves.of_runs(runs))
    for run in runs:
        images = run.history.validation_images
        assert holds(figure, images, run.history.validation_metric)
        assert holds(figure, images, run.history.validation_loss)
    with pytest.raises(UserError):
        curves.learning_curves([made("a", "a", [])])


def test_a_loss_is_called_what_it_is(run):
    assert "cross-entropy (nats)" in texts(curves.learning_curves(curves.of_runs([run])))
    both = curves.of_runs([run])
    run.params["loss_function"] = "l2"
    both += curves.of_runs([run])
    drawn = texts(curves.learning_curves(both[1:]))
    assert "half the sum of squares" in drawn and "nats" not in drawn
    figure = curves.learning_curves(both)
    figure.draw_without_rendering()
    label = figure.axes[1].yaxis.label
    assert label.get_text() == "cross-entropy (nats),\nhalf the sum of squares"
    assert 0 <= label.get_window_extent().y0 and label.get_window_extent().y1 <= figure.bbox.y1


@pytest.mark.parametrize("count", [1, 7, 8, 15])
@pytest.mark.parametrize("length", [3, 30, 260])
def test_colours_do_not_repeat_in_a_legend_and_it_stays_on_the_page(count, length):
    many = [made(f"{n}", f"{n} ".ljust(length, "n"), [0.5, 0.6]) for n in range(count)]
    figure = curves.learning_curves(many)
    with style.style():
        figure.draw_without_rendering()
    legends = figure.findobj(Legend)
    assert sum(len(legend.get_texts()) for legend in legends) == count
    for legend in legends:
        colours = [handle.get_color() for handle in legend.legend_handles]
        assert len(set(colours)) == len(colours)
        box, page = legend.get_window_extent(), figure.bbox
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
    assert all(axes.get_window_extent().height / figure.dpi > 1.4 for axes in figure.axes)


def test_runs_of_one_name_are_seeds_only_if_their_settings_are_alike(config, names):
    runs = [load_run(names[n], device="cpu", config=config) for n in ("hgru", "hgru seed 1")]
    assert curves.labels(runs) == ["tiny_hgru", "tiny_hgru"]
    runs[1].params["log_iters"] = 77  # has no part in what is learned
    assert curves.labels(runs) == ["tiny_hgru", "tiny_hgru"]
    runs[1].params["epochs"] = 9
    assert curves.labels(runs) == ["tiny_hgru (epochs 2)", "tiny_hgru (epochs 9)"]
    runs[1].params["epochs"] = runs[0].params["epochs"]
    runs[1].params["lr"] = 0.01
    assert curves.labels(runs) == ["tiny_hgru (lr 0.001)", "tiny_hgru (lr 0.01)"]
    assert curves.labels(runs, ["a", "b"]) == ["a", "b"]
    runs[1].params["lr"] = 0.001
    runs[1].record["initial_weights"] = {"source": "x", "fingerprint": "y", "data": "pathfinder_6"}
    named = [f"tiny_hgru (initial_weights {what})" for what in (None, "pathfinder_6")]
    assert curves.labels(runs) == named  # trained weights to begin with make another thing
    with pytest.raises(UserError):
        curves.labels(runs, ["a"])


def test_a_curve_is_the_history_up_to_its_weights(run):
    history, found = run.history, curves.curve(run, "x")
    assert found.table[:, 0].tolist() == history.validation_images
    first, second = history.validation_step[:2]
    assert found.table[1, 2] == pytest.approx(np.mean(history.train_loss[first:second]))
    assert np.isnan(found.table[0, 2])
    run.step = second
    assert len(curves.curve(run, "x").table) == 2
    history.validation_metric[:3] = [0.5, 0.9, 0.95]
    run.step = 12
    assert curves.curve(run, "x").images_to(0.9) == history.validation_images[1]
    assert curves.curve(run, "x").images_to(1.1) is None


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
    kernel = connections(run.network)
    order = np.argsort(channel_orientation(run.network), kind="stable")
    assert tiles.shape == (125, 125)
    for row, column in ((0, 0), (3, 17), (24, 2)):
        tile = tiles[5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        assert np.array_equal(tile, kernel[order[row], order[column]])


def test_letter_figure_shows_letters_eta_and_gates(run):
    gates = {"G1": np.full((4, 25), 0.25), "G2": np.full((4, 25), 0.75)}
    figure = kernels.letter_figure(run.network, gates)
    layer = run.network.hgru
    place = np.nan_to_num(channel_orientation(run.network), nan=kernels.NONE)
    for name in ("alpha", "mu", "gamma", "kappa", "omega"):
        assert holds(figure, place, getattr(layer, name).detach().numpy().ravel())
    assert holds(figure, [1, 2, 3, 4], layer.eta.detach())
    assert holds(figure, place, layer.b_gain.detach().sigmoid().ravel())
    assert holds(figure, [1, 2, 3, 4], [0.25] * 4) and holds(figure, [1, 2, 3, 4], [0.75] * 4)


def test_letter_figure_shows_the_gates_and_letters_that_the_circuit_has():
    network = RecurrentNetwork(
        timesteps=4, h_ext=5, gate_nl="tanh", multiplicative_excitation=False, adaptation=True
    )
    gates = {"G1": np.full((4, 25), -0.5), "G2": np.full((4, 25), 0.75)}
    figure = kernels.letter_figure(network, gates)
    place = np.nan_to_num(channel_orientation(network), nan=kernels.NONE)
    rest = network.hgru.b_gain.detach().tanh().ravel()
    assert holds(figure, place, rest) and texts(figure).count("none in this circuit") == 2  # κ, ω
    for axes, lowest in zip(figure.axes[-2:], (float(rest.min()), -0.5), strict=True):
        assert axes.get_ylim()[0] <= lowest  # nothing is cut off
    normalised = RecurrentNetwork(timesteps=4, h_ext=5, batch_norm=True)
    assert "b is normalised away" in texts(kernels.letter_figure(normalised, gates))


def test_letter_figure_says_what_is_lesioned(config, names):
    run = load_run(names["multiplicative_lesion"], device="cpu", config=config)
    gates = dict.fromkeys(("G1", "G2"), np.full((4, 25), 0.5))
    assert texts(kernels.letter_figure(run.network, gates)).count("lesioned") == 2


def test_association_figure_draws_the_field_with_its_null(run):
    figure = kernels.association_figure(run.network)
    found = association_field(connections(run.network), channel_orientation(run.network))
    assert any(np.array_equal(found.excitatory, image) for image in arrays(figure))
    assert holds(figure, found.relative, found.by_orientation[0])
    assert holds(figure, found.relative, -found.by_orientation[1])
    heights = np.concatenate(
        [band.get_paths()[0].vertices[:, 1] for band in figure.findobj(FillBetweenPolyCollection)]
    )
    assert np.isclose(heights.max(), found.null[0].max())
    assert np.isclose(heights.min(), -found.null[1].max())


@pytest.mark.parametrize("kind", ["gabors", "kernels", "association", "gradients"])
def test_bars_of_colour_say_their_unit(run, kind):
    figure = {
        "gabors": lambda: kernels.gabor_figure(run.network),
        "kernels": lambda: kernels.kernel_figure(run.network),
        "association": lambda: kernels.association_figure(run.network),
        "gradients": lambda: activity.gradient_figure(run, Handmade(), [1], 2),
    }[kind]()
    bars = [axes for axes in figure.axes if hasattr(axes, "_colorbar")]
    assert bars and all(axes.get_ylabel() for axes in bars)


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
    assert activity.strip(seen, run).findobj(ContourSet)
    seen.outline = None
    assert not activity.strip(seen, run).findobj(ContourSet)


@pytest.mark.parametrize("name", ["pathfinder32", "pathfinder64", "pathfinder128"])
def test_the_outline_is_as_wide_as_the_stimulus_allows(name):
    """8 pixels are a contour's neighbourhood of 300, and half the image of 32."""
    pathfinder = Pathfinder(Settings(**ARENA_SETTINGS[name], contour_length=6), 0)
    masks = [pathfinder.stimulus(number).contour_mask for number in range(10)]
    outlines = [activity.widened(mask) for mask in masks]
    assert np.mean(outlines) < 12 * np.mean(masks) and np.mean(outlines) < 0.15
    pieces = [ndimage.label(outline, np.ones((3, 3)))[1] for outline in outlines]
    assert np.mean(pieces) < 1.5  # its paddles join


def test_gradient_figure_shows_maps(run):
    data = Handmade()
    found = arrays(activity.gradient_figure(run, data, [1, 0], samples=2))
    for label in (1, 0):
        given = activity.prepare_images(run, data.images[label][None])[0]
        gradient = smoothgrad(run.network, given, label, 2).numpy()
        for expected in (given[0], gradient, np.abs(gradient)):
            assert any(np.array_equal(expected, image) for image in found)


def test_the_command_writes_png_and_pdf_of_each_kind(run, tmp_path, capsys):
    arguments = [run.name, "--dataset", DATASET, "--samples", "1", "--output", str(tmp_path)]
    assert exit_code(figures.main, [*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    stems = {path.stem for path in tmp_path.iterdir()}
    of_set = (f"letters_{DATASET}", f"gradients_{DATASET}")
    for kind in ("curves", "gabors", "kernels", "association", *of_set):
        assert kind in stems
        with Image.open(tmp_path / f"{kind}.png") as picture:
            assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 5
        assert (tmp_path / f"{kind}.pdf").read_bytes().startswith(b"%PDF")
    assert len(list(tmp_path.glob(f"activity_{DATASET}_label*.gif"))) == 2
    assert str(tmp_path / "association.png") in said


def test_what_is_drawn_otherwise_has_files_of_its_own(run, config, tmp_path):
    """The stages of a kernel, for one, took each other's place."""
    for how in (["--stage", "excitation"], ["--dataset", "pathfinder_6"], ["--index", "3"], []):
        given = [run.name, "--only", "association", "letters", "activity", *how]
        assert exit_code(figures.main, [*given, "--output", str(tmp_path), "--device", "cpu"]) == 0
    found = {path.stem for path in tmp_path.glob("*.png")}
    assert {"association", "association_excitation"} <= found
    assert {"letters", "letters_pathfinder_6", "letters_image3"} <= found
    assert sum(name.startswith("activity_label") for name in found) == 3  # 1, 0 and number 3
    assert sum(name.startswith("activity_pathfinder_6_label") for name in found) == 2
    early = load_run(run.name, 3, device="cpu", config=config)
    assert figures.names_apart([run]) == [run.name] != figures.names_apart([early])


def test_kinds_that_do_not_apply_are_named(names, tmp_path, capsys):
    arguments = [names["ff_5"], "--only", "kernels", "gabors", "--output", str(tmp_path)]
    assert exit_code(figures.main, [*arguments, "--device", "cpu"]) == 0
    assert f"{names['ff_5']}: nothing to draw for kernels" in capsys.readouterr().out
    assert exit_code(figures.main, [names["ff_5"], "--only", "kernel"]) == 2
    assert "invalid choice: 'kernel'" in capsys.readouterr().err


def test_a_drive_of_ones_own_has_no_formula_beside_it(run, tmp_path):
    run.network.drive = torch.nn.Conv2d(1, 8, 5)
    assert figures.draw(run, ["gabors"], tmp_path) == {}


@pytest.mark.parametrize("drive", [None, torch.nn.Sequential(torch.nn.Conv2d(1, 25, 3))])
def test_a_network_without_filters_has_figures_too(run, tmp_path, drive):
    run.network.front, run.network.drive = run.network.drive, drive
    kinds = ["curves", "gabors", "kernels", "association"]
    assert list(figures.draw(run, kinds, tmp_path)) == ["curves"]


def test_an_association_field_needs_an_orientation(run):
    with torch.no_grad():
        run.network.drive.weight[:] = run.network.drive.weight[-1]  # discs
    assert "no association field" in texts(kernels.association_figure(run.network))


@pytest.mark.parametrize("stage", STAGES)
def test_headings_stay_on_the_page(run, stage):
    figure = kernels.association_figure(run.network, stage)
    with style.style():
        figure.draw_without_rendering()
    heading = figure.subfigs[0].texts[0].get_window_extent()
    assert heading.x0 >= 0 and heading.x1 <= figure.bbox.width


def test_an_image_that_the_set_does_not_have_is_an_error(run, tmp_path, capsys):
    how = ["--dataset", "pathfinder_6", "--device", "cpu", "--output", str(tmp_path)]
    for kind in ("activity", "gradients"):
        assert exit_code(figures.main, [run.name, "--only", kind, "--index", "64", *how]) == 2
        assert "--index 64: pathfinder_6 has the images 0 to 63" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_nine_of_ten_right_is_90_percent():
    """As float32 says it, and as a kept log does."""
    for share in (float(np.float32(0.9)), 0.9):
        assert made("a", "a", [0.5, share]).reached(0.9) is not None
    assert made("a", "a", [0.5, 0.8999]).reached(0.9) is None


def test_a_figure_saved_twice_is_the_same_file(run, tmp_path):
    for name in ("a", "b"):
        style.save(curves.learning_curves(curves.of_runs([run])), tmp_path / name)
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
    colours = np.array([to_rgb(one["color"]) for one in style.SERIES[:4]])
    for blind in (np.eye(3), protan, deutan):
        seen = colours @ (np.linalg.inv(rgb_to_lms) @ blind @ rgb_to_lms).T
        for i in range(len(seen)):
            for j in range(i):
                assert np.abs(seen[i] - seen[j]).max() > 0.12


def test_wrong_example_is_said(run):
    with pytest.raises(UserError):
        activity.example(Handmade(), 2)
    assert activity.example(Handmade(), 1) == 1
    given = activity.prepare_images(run, Handmade().images)
    assert given.shape == (2, 1, SIZE, SIZE) and 0 <= given.min() < given.max() <= 1
