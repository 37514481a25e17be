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
from pathlib import Path
from typing import Any

from analysis import activity, curves, kernels
from analysis.association import STAGES
from analysis.image_sets import example_set, open_images
from analysis.probing import SMOOTHGRAD_SAMPLES, is_recurrent
from analysis.style import save
from analysis.trained import TrainedRun, load_run
from config import Config
from support import shell
from support.files import write_bytes

KINDS = ("curves", "gabors", "kernels", "association", "letters", "activity", "gradients")
OF_CIRCUIT = ("kernels", "association", "letters", "activity")
EXAMPLES = 64  # generated images to choose examples from


def draw(
    run: TrainedRun,
    kinds: Sequence[str],
    folder: Path,
    *,
    dataset: str | None = None,
    index: int | None = None,
    stage: str = "weights",
    samples: int = SMOOTHGRAD_SAMPLES,
    seed: int = 0,
) -> dict[str, list[Path]]:
    """Draw a run's figures.

    Args:
        run: the run.
        kinds: any of ``KINDS``; those of a circuit are left out for a network without one.
        folder: where to write.
        dataset: images to show the network (see ``analysis.image_sets.open_images``); None: some
            like those that it trained on.
        index: number of one image in it; None takes the first of each label.
        stage: of the horizontal kernel (see ``analysis.association``).
        samples: of SmoothGrad.
        seed: of generated images, noise and hidden state.

    Returns:
        By kind, the files written.
    """
    written: dict[str, list[Path]] = {}
    wanted = [k for k in KINDS if k in kinds and (k not in OF_CIRCUIT or is_recurrent(run.network))]
    pictures: dict[str, Callable[[], Any]] = {
        "gabors": lambda: kernels.gabor_figure(run.network),
        "kernels": lambda: kernels.kernel_figure(run.network, stage),
        "association": lambda: kernels.association_figure(run.network, stage),
    }
    data: Any = None
    examples: list[int] = []
    if {"letters", "activity", "gradients"} & set(wanted):
        name = dataset or example_set(run.params)
        data = open_images(name, run.config, run.params, EXAMPLES, seed)
        examples = [index] if index is not None else [activity.example(data, n) for n in (1, 0)]
    for kind in wanted:
        if kind == "curves":
            if run.history.validation_step:
                figure = curves.learning_curves(curves.of_runs([run]))
                written[kind] = save(figure, folder / kind)
        elif kind in pictures:
            written[kind] = save(pictures[kind](), folder / kind)
        elif kind == "letters":
            gates = activity.watch(run, data, examples[0], seed).gates
            written[kind] = save(kernels.letter_figure(run.network, gates), folder / kind)
        elif kind == "activity":
            written[kind] = _activity(run, data, examples, folder, seed)
        else:
            images, maps, labels = activity.gradient_maps(run, data, examples, samples, seed)
            figure = activity.gradient_figure(images, maps, labels, samples)
            written[kind] = save(figure, folder / kind)
    return written


def _activity(
    run: TrainedRun, data: Any, examples: Sequence[int], folder: Path, seed: int
) -> list[Path]:
    written = []
    for index in examples:
        seen = activity.watch(run, data, index, seed)
        stem = folder / f"activity_label{seen.label}_image{index}"
        written += save(activity.strip(seen, run), stem)
        written.append(write_bytes(stem.with_suffix(".gif"), activity.animation(seen, run)))
    return written


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
    parse.add_argument(
        "--samples", type=shell.whole(1), default=SMOOTHGRAD_SAMPLES, help="of SmoothGrad"
    )
    parse.add_argument("--seed", type=shell.whole(0), default=0, help="of images and noise")
    parse.add_argument(
        "--label", nargs="+", default=[], metavar="TEXT",
        help="what the curves of several runs are called, one for each run; runs of one label "
        "share a colour; default: the experiment's name",
    )  # fmt: skip
    parse.add_device()
    parse.add_output("folder to write to; default: plots/<run>, and plots for several runs' curves")
    options = parse.parse_args(arguments)
    config = Config()
    runs = [load_run(which, options.weights, options.device, config) for which in options.runs]
    paths: list[Path] = []
    kinds = list(options.only)
    if len(runs) > 1 and "curves" in kinds:
        kinds.remove("curves")
        folder = options.output or config.plots
        stem = folder / f"curves_{runs[0].experiment}_and_{len(runs) - 1}_more"
        paths += save(curves.learning_curves(curves.of_runs(runs, options.label)), stem)
    for run in runs:
        folder = options.output or config.plots
        if not options.output or len(runs) > 1:
            folder = folder / run.name
        found = draw(
            run, kinds, folder, dataset=options.dataset, index=options.index, stage=options.stage,
            samples=options.samples, seed=options.seed,
        )  # fmt: skip
        left_out = [kind for kind in kinds if kind not in found]
        if left_out:
            print(f"{run.name}: nothing to draw for {', '.join(left_out)}")
        paths += [path for files in found.values() for path in files]
    shell.name_outputs(paths)


if __name__ == "__main__":
    shell.run_command(main)
