"""Draw what runs learned, as PNG and PDF.

python -m analysis.figures latest
python -m analysis.figures RUN RUN RUN --only curves
python -m analysis.figures RUN --only activity gradients --dataset pathfinder_18

curves       accuracy and loss over training images, a line for each run
gabors       the filter bank before and after
kernels      the horizontal kernels, sorted by the orientation of each trained filter
association  their mean by relative orientation and distance, beside shuffled orientations
letters      Greek letters, η and gates
activity     H1 and H2 over the steps as a strip and as a GIF, the target contour outlined
gradients    SmoothGrad of the label's logit
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from analysis import activity, curves, kernels
from analysis.association import STAGES
from analysis.image_sets import example_set, open_images, title
from analysis.probing import SAMPLES, is_recurrent
from analysis.style import save
from analysis.trained import TrainedRun, load_runs
from config import Config
from layers.gabor import GaborDrive
from support import shell
from support.errors import UserError
from support.files import write_bytes

KINDS = ("curves", "gabors", "kernels", "association", "letters", "activity", "gradients")
OF_CIRCUIT = ("kernels", "association", "letters", "activity")
EXAMPLES = 64  # generated images to choose examples from


def names_apart(runs: Sequence[TrainedRun]) -> list[str]:
    """The runs' names, for folders and columns; with seed and step where several have one name,
    weights of one run or runs of two projects, and where the weights are not the last."""
    names = [run.name for run in runs]
    return [
        name
        if names.count(name) == 1 and run.weights == "last"
        else f"{name}_seed{run.seed}_step{run.step}"
        for name, run in zip(names, runs, strict=True)
    ]


def draw(
    run: TrainedRun,
    kinds: Sequence[str],
    folder: Path,
    *,
    dataset: str | None = None,
    index: int | None = None,
    stage: str = "weights",
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, list[Path]]:
    """Draw a run's figures into a folder; by kind, the files written.

    Args:
        kinds: any of ``KINDS``; those of a circuit are left out for a network without one, or
            with several, ``gabors`` for one with a drive of its own, and ``kernels`` and
            ``association`` for one without a ``drive`` of filters, whose orientations they take.
        dataset: images to show the network (see ``analysis.image_sets.open_images``); None: some
            like those that it trained on.
        index: number of one image in it; None takes the first of each label. UserError where the
            set has no such image.
        stage: of the horizontal kernel (see ``analysis.association``).
        samples, seed: of SmoothGrad; of generated images, noise and hidden state.
    """
    drive = getattr(run.network, "drive", None)
    none = {"gabors"} if not isinstance(drive, GaborDrive) else set()
    none |= {"kernels", "association"} if not hasattr(drive, "weight") else set()
    none |= set(OF_CIRCUIT) if not is_recurrent(run.network) else set()
    wanted = [kind for kind in KINDS if kind in kinds and kind not in none]
    data, examples = None, []
    if {"letters", "activity", "gradients"} & set(wanted):
        name = dataset or example_set(run.params)
        data = open_images(name, run.config, run.params, EXAMPLES, seed)
        if index is not None and index >= len(data):
            raise UserError(f"--index {index}: {name} has the images 0 to {len(data) - 1} here")
        examples = [index] if index is not None else [activity.example(data, n) for n in (1, 0)]
    watch, network = partial(activity.watch, run, data, seed=seed), run.network
    pictures: dict[str, Callable[[], Figure]] = {
        "curves": lambda: curves.learning_curves(curves.of_runs([run])),
        "gabors": lambda: kernels.gabor_figure(network),
        "kernels": lambda: kernels.kernel_figure(network, stage),
        "association": lambda: kernels.association_figure(network, stage),
        "letters": lambda: kernels.letter_figure(network, watch(examples[0]).gates),
        "gradients": lambda: activity.gradient_figure(run, data, examples, samples, seed),
    }
    # What was asked for otherwise has files of its own.
    of_stage = [stage] if stage != "weights" else []
    of_set = [title(dataset)] if dataset else []
    of_image = [*of_set, f"image{index}"] if index is not None else of_set
    more = {"kernels": of_stage, "association": of_stage, "letters": of_image}
    more["gradients"] = of_image
    written: dict[str, list[Path]] = {}
    for kind in wanted:
        if kind in pictures and (kind != "curves" or run.history.validation_step):
            stem = folder / "_".join([kind, *more.get(kind, [])])
            written[kind] = save(pictures[kind](), stem)
        for number in examples if kind == "activity" else ():
            seen = watch(number)
            words = ["activity", *of_set, f"label{seen.label}", f"image{number}"]
            stem = folder / "_".join(words)
            moving = write_bytes(stem.with_suffix(".gif"), activity.animation(seen, run))
            written.setdefault(kind, []).extend([*save(activity.strip(seen, run), stem), moving])
    return written


def add_label(parse: shell.Parser) -> None:
    """What several runs are called."""
    parse.add_argument(
        "--label", nargs="+", default=[], metavar="TEXT",
        help="what the runs are called, one for each; runs of one name count as seeds of it; "
        "default: the experiment's name",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("figures", __doc__)
    parse.add_run()
    parse.add_argument(
        "--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND",
        help="kinds of figures, of those above; default: all",
    )  # fmt: skip
    parse.add_argument(
        "--dataset", metavar="NAME",
        help="images for letters, activity and gradients (see analysis.evaluate); only generated "
        "ones have an outline; default: own",
    )  # fmt: skip
    parse.add_argument(
        "--index", type=shell.whole(0), metavar="I",
        help="number of the image; default: the first of each label",
    )  # fmt: skip
    parse.add_argument(
        "--stage", choices=tuple(STAGES), default="weights",
        help="of the horizontal kernel: " + "; ".join(f"{k}: {v}" for k, v in STAGES.items()),
    )  # fmt: skip
    parse.add_argument("--samples", type=shell.whole(1), default=SAMPLES, help="of SmoothGrad")
    parse.add_argument("--seed", type=shell.whole(0), default=0, help="of images and noise")
    add_label(parse)
    parse.add_device()
    parse.add_output("folder to write to; default: plots/<run>, and plots for several runs' curves")
    options = parse.parse_args(arguments)
    runs, kinds, paths = load_runs(options), list(options.only), []
    plots = options.output or Config().plots
    if len(runs) > 1 and "curves" in kinds:
        kinds.remove("curves")
        stem = plots / f"curves_{runs[0].experiment}_and_{len(runs) - 1}_more"
        paths += save(curves.learning_curves(curves.of_runs(runs, options.label)), stem)
    how = {key: getattr(options, key) for key in ("dataset", "index", "stage", "samples", "seed")}
    for run, name in zip(runs, names_apart(runs), strict=True):
        folder = plots / name if not options.output or len(runs) > 1 else plots
        found = draw(run, kinds, folder, **how)
        left_out = [kind for kind in kinds if kind not in found]
        if left_out:
            print(f"{run.name}: nothing to draw for {', '.join(left_out)}")
        paths += [path for files in found.values() for path in files]
    shell.name_outputs(paths)


if __name__ == "__main__":
    shell.run_command(main)
