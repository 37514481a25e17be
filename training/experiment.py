"""An experiment: every setting with its type, range, default and a sentence, checked in one place.

``Experiment.of(experiment_params(), ["lr=1e-4"])`` is the only way to one, so that a dictionary
edited in a script and ``--set`` on the command line meet the same checks. The tables of the README
are printed by  python -m training.experiment
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from dataset_processing import pathfinder
from dataset_processing.augmentations import BRIGHTNESS, ORDER, RANDOM, SIZES, THRESHOLD
from dataset_processing.sets import contour_length, is_stream
from layers.hgru import HGRU, KINDS, layers_of
from models.options import OPTIONS as NETWORK_OPTIONS
from support.errors import UserError, unknown
from support.kinds import (
    FILE_NAME,
    LENGTHS,
    OPTIONS,
    SIZE,
    TEXT,
    TRUTH,
    Kind,
    number,
    one_of,
    or_none,
    plain,
    some_of,
    whole,
)
from support.shell import run_command
from training.losses import LOSSES
from training.metrics import METRICS
from training.optimizers import OPTIMIZERS, UPDATES
from training.provenance import options_of
from training.schedule import SCHEDULES

Settings = dict[str, Any]

AUGMENTATIONS = some_of("a list of augmentations (docs/data.md)", ORDER)
# Augmentations that set what an image's values mean.
RESCALES = ("uint8_rescale", "uint8_rescale_-1_1")
SCALES = (*RESCALES, "per_image_standardization", "threshold", "flip_polarity")


class Setting(NamedTuple):
    """A row of the table of settings."""

    kind: Kind
    says: str
    default: Any = ...  # without one each script gives the setting
    resume: bool = False  # whether it may change when a run is resumed


_SETTINGS: dict[str, tuple[Any, ...]] = {
    "lr": (number(above=0), "Learning rate, the highest of the schedule"),
    "loss_function": (one_of(LOSSES), "Loss"),
    "optimizer": (one_of(OPTIMIZERS), "Optimizer, by TensorFlow 1's rules"),
    "dataset": (
        TEXT, "What to train on: a set's name (docs/data.md), or pathfinder_<length>_stream"
    ),
    "data_augmentations": (
        AUGMENTATIONS, "Preprocessing of training images, applied in a fixed order"
    ),
    "val_augmentations": (AUGMENTATIONS, "Preprocessing of validation images"),
    "batch_size": (whole(1), "Images of a batch, in training and validation, over all processes"),
    "epochs": (whole(1), "Passes over the training images", ..., True),
    "model_name": (FILE_NAME, "The network's name"),
    "exp_name": (
        FILE_NAME, "Runs are named <exp_name>_<time>; <model_name>_<dataset> follows these two"
    ),
    "save_weights": (TRUTH, "Keep the weights of each validation", ..., True),
    "validation_iters": (whole(1), "Updates from one validation to the next"),
    "num_validation_evals": (whole(1), "Batches of a validation"),
    "shuffle_train": (TRUTH, "A new order of the training images at each epoch"),
    "shuffle_val": (TRUTH, "Validate on shuffled images, the same each time"),
    "updates": (
        one_of(UPDATES),
        "Train everything, or leave out what the release's graph left out (docs/differences.md)",
        "all",
    ),
    "lr_schedule": (
        one_of(SCHEDULES), "lr stays, or falls to 0 (training/schedule.py)", "constant"
    ),
    "warmup_iters": (whole(0), "Updates over which lr grows to its value", 0),
    "clip_gradients": (or_none(number(above=0)), "Largest global norm of the gradient", None),
    "initial_weights": (or_none(TEXT), "Trained weights to begin with: a file or a run", None),
    "score_metric": (one_of(METRICS), "What validation reports", "accuracy"),
    "val_dataset": (
        or_none(TEXT), "What to validate on; None: the validation images of dataset", None
    ),
    "split_seed": (
        whole(0), "Seed of the split into train and val, where images are read without records", 0
    ),
    "im_size": (or_none(SIZE), "Size of the stimuli; None: as they are found", None),
    "model_input_image_size": (
        or_none(SIZE), "Size that the network is given; None: the data set's", None
    ),
    "stream_epoch_images": (whole(1), "Images of a stream's epoch", 900_000),
    "stream_val_images": (whole(1), "Images of a stream's validation set", 10_000),
    "stream_seed": (whole(0), "Seed of a stream's images", 0),
    "stream_settings": (
        OPTIONS, "A stream's other settings (dataset_processing.pathfinder.Settings)", {}
    ),
    "curriculum": (
        or_none(LENGTHS), "Shorter contours that a stream shows first (docs/data.md)", None
    ),
    "curriculum_until": (
        number(), "score_metric at which the next length of curriculum begins", 0.9
    ),
    "curriculum_images": (
        whole(1), "Images of a length after which the next begins at the latest", 300_000
    ),
    "curriculum_review": (
        whole(0), "Meanwhile every Nth image is of an earlier length; 0: none", 2
    ),
    "curriculum_alone": (
        TRUTH, "In the end the set's own length is shown alone; False: shorter ones go on too",
        True,
    ),
    "log_iters": (whole(1), "Updates between two lines of the log", 10, True),
    "checkpoint_minutes": (
        number(least=0), "Longest time without a checkpoint; 0: one at every update", 10.0, True
    ),
    "keep_checkpoints": (whole(1), "Newest checkpoints that stay", 3, True),
    "keep_every": (whole(0), "Every Nth validation's checkpoint stays; 0: none", 10, True),
    "aux": (OPTIONS, "Options of the network, laid over the script's own", {}),
}  # fmt: skip
SETTINGS = {name: Setting(*row) for name, row in _SETTINGS.items()}
DEFAULTS = {key: setting.default for key, setting in SETTINGS.items() if setting.default is not ...}

# Options of the circuit, and of the networks, by what they may be and a sentence.
_CIRCUIT = {
    "timesteps": "Steps of the circuit, T",
    "h_ext": "Width of the horizontal kernels in pixels",
    "separate_kernels": "Two horizontal kernels, W1 and W2, instead of one",
    "recurrent_nl": "The circuit's nonlinearity f",
    "gate_nl": "The gates' nonlinearity σ",
    "gate_filter": "Width of the gates' kernels in pixels",
    "symmetric_weights": "W stays symmetric over in and out channels",
    "symmetric_gate_weights": "The same for the gates' kernels",
    "symmetric_inits": "Symmetric kernels start symmetric",
    "normal_initializer": "Xavier values from a truncated normal distribution",
    "gate_bias_init": "The gates' biases: chronos (−log u and log u), or −1 and 1",
    "hidden_init": "H2 before the first step",
    "alpha": "α is learned; False: it is 1",
    "mu": "μ is learned; False: it is 1",
    "gamma": "γ is learned; False: it is 1",
    "lesion_alpha": "α is 0",
    "lesion_mu": "μ is 0",
    "lesion_kappa": "κ is 0",
    "lesion_omega": "ω is 0",
    "multiplicative_excitation": "Excitation with κ and ω; False: f(H1 + E)",
    "adaptation": "η scales H2 after each step",
    "eta_init": "First value of η; None: drawn from 0–1 for each step",
    "constrain": "The letters stay at 0 or above",
    "batch_norm": "Batch normalisation inside the circuit",
    "reuse": "One normalisation for all steps; False: its own at each",
    "batch_norm_validation": "Validation normalises by the batch, or by running averages",
    "recompute": "Compute the circuit again in backward: less memory",
}
AUX: dict[str, tuple[Kind, str]] = {
    **{name: (KINDS.get(name, TRUTH), says) for name, says in _CIRCUIT.items()},
    "readout_epsilon": (
        number(above=0),
        "What the normalisations after the circuit add to the variance",
    ),
    "gabor_size": (whole(3, odd=True), "Width of the Gabor kernels in pixels"),
    "layers": (whole(1), "ff_5: convolutions"),
    "filters": (whole(1), "ff_5: channels of each convolution"),
    "kernel_size": (whole(1), "ff_5: width of their kernels in pixels"),
}

DRAWN = [one.name for one in fields(pathfinder.Settings)]  # what stream_settings may hold
# What is no setting, but an option of the command line.
COMMAND_LINE = (
    "device", "seed", "resume", "max_minutes", "deterministic", "eager", "workers", "on_bad_record",
)  # fmt: skip

# Options that have no effect where another is on, or off.
IDLE = {
    "reuse": ("batch_norm", "off"), "batch_norm_validation": ("batch_norm", "off"),
    "eta_init": ("adaptation", "off"),
    "lesion_kappa": ("multiplicative_excitation", "off"),
    "lesion_omega": ("multiplicative_excitation", "off"),
    "alpha": ("lesion_alpha", "on"), "mu": ("lesion_mu", "on"),
}  # fmt: skip


class Experiment(Settings):
    """The settings of one experiment, as attributes (``exp.lr``) or items (``exp["lr"]``).

    Made by :meth:`of`; nobody changes it from then on.
    """

    overrides: tuple[str, ...] = ()  # laid over the script's parameters, ``key=value`` each
    changed: frozenset[str] = frozenset()  # the keys among them

    @classmethod
    def of(cls, params: Mapping[str, Any], overrides: Iterable[str] = ()) -> "Experiment":
        """A script's parameters with ``key=value`` overrides laid over them.

        ``none`` stands for None; a list is ``a,b`` or ``[a, b]``, and ``key+=a`` adds to one;
        ``aux.<option>=value`` sets an option of the network. An ``exp_name`` that is made of
        ``model_name`` and ``dataset`` follows them unless it is overridden itself.

        UserError where a key is missing or not known, a value is of a wrong type or out of range,
        or two of them contradict each other.
        """
        if not isinstance(params, Mapping):
            raise UserError(
                f"experiment_params() must return a dictionary, found {type(params).__name__}; "
                "does it end with 'return exp'?"
            )
        values = {key: _kind(key).of(key, value) for key, value in {**DEFAULTS, **params}.items()}
        missing = [key for key in SETTINGS if key not in values]
        if missing:
            raise UserError(f"experiment_params() does not give: {', '.join(missing)}")
        overrides = [*dict.fromkeys(reversed([*overrides]))][::-1]  # each once: its last
        follows = values["exp_name"] == _usual_name(values)
        changed = {_override(values, text) for text in overrides}
        if follows and "exp_name" not in changed:
            values["exp_name"] = _usual_name(values)
        for name, value in values["aux"].items():
            values["aux"][name] = _kind(f"aux.{name}").of(f"aux.{name}", value)
        _check_preprocessing(values)
        _check_stream(values)
        exp = cls({key: values[key] for key in SETTINGS})
        exp.overrides, exp.changed = tuple(overrides), frozenset(changed)
        return exp

    def __getattr__(self, key: str) -> Any:
        if key not in self:
            raise AttributeError(f"an experiment has no {key!r}")
        return self[key]

    def as_dict(self) -> Settings:
        """A copy made of plain dictionaries, lists, numbers and text, as YAML can hold it."""
        return plain(self)

    def cautions(self) -> list[str]:
        """What is allowed, but perhaps not meant."""
        found = []
        for text in self.overrides:
            if not text.partition("=")[2].strip():
                found.append(f"--set {text} gives no value: was a variable of the shell empty?")
        lists = {key: set(self[key]) for key in ("data_augmentations", "val_augmentations")}
        for why in dict.fromkeys(why for own in lists.values() for why in _losses(own)):
            keys = " and ".join(key for key, own in lists.items() if why in _losses(own))
            found.append(f"{keys}: {why}")
        random = [name for name in ORDER if name in self.val_augmentations and name in RANDOM]
        if random:
            found.append(
                f"val_augmentations has {', '.join(random)}, which draws random numbers: each "
                "validation is of changed images"
            )
        if not {*SCALES, "zero_one"} & lists["data_augmentations"]:
            found.append(
                "neither uint8_rescale nor another scaling is among data_augmentations: the "
                "network is given values of 0–255"
            )
        if self.curriculum and self.curriculum_until > 1:
            found.append(
                f"curriculum_until is {self.curriculum_until:g}, which no {self.score_metric} "
                "reaches: lengths change by curriculum_images alone"
            )
        idle = {}  # reasons, by how the names of the settings begin
        validates = self.val_dataset or self.dataset
        trains, held_out = is_stream(self.dataset), is_stream(validates)
        shorter = set(self.curriculum or []) - {contour_length(self.dataset)}
        if shorter and self.curriculum_review == 1:
            found.append(
                "curriculum_review is 1: after the first length every image is of an earlier one, "
                "and the length at hand is validated without being trained"
            )
        if not (trains or held_out):
            idle["stream_"] = "neither dataset nor val_dataset is a stream"
        elif not trains:
            idle["stream_epoch_images"] = f"{self.dataset} is no stream"
        elif not held_out and not shorter:
            idle["stream_val_images"] = f"{validates} is no stream"
        if not shorter:
            idle["curriculum"] = "there is no curriculum of shorter contours"
        for first, reason in idle.items():
            own = {key: self[key] for key in DEFAULTS if key.startswith(first)}
            changed = [f"{key}={value}" for key, value in own.items() if value != DEFAULTS[key]]
            if changed:
                found.append(f"without effect, as {reason}: {', '.join(changed)}")
        return found


def _usual_name(values: Settings) -> str:
    return f"{values['model_name']}_{values['dataset']}"


def _kind(key: str) -> Kind:
    """What a setting, or an option ``aux.<name>``, may be; UserError if there is none."""
    name = key.removeprefix("aux.")
    if name != key:
        if name not in AUX:
            raise _misplaced("option of the network (aux)", name, AUX)
        return AUX[name][0]
    if key not in SETTINGS:
        raise _misplaced("parameter", key, [*SETTINGS, "aux.<option>"])
    return SETTINGS[key].kind


def _misplaced(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is none of ``known``: where it belongs, or the nearest one."""
    places: dict[str, Iterable[str]] = {
        "experiment_params() itself": SETTINGS, "aux": AUX, "stream_settings": DRAWN,
        f"the command line, as --{name.replace('_', '-')}": COMMAND_LINE,
    }  # fmt: skip
    for place, names in places.items():
        if name in names:
            return UserError(f"{what} {name!r} is not known; it belongs in {place}")
    return unknown(what, name, known)


def idle_options(network: Any, aux: Mapping[str, Any]) -> list[str]:
    """Cautions of options that have no effect: of the network, as it was built, and of those among
    ``aux`` with which neither it nor an hGRU layer in it was built."""
    options, usual = options_of(network)["options"], inspect.signature(HGRU).parameters
    found = [
        f"without effect, as {other} is {state}: {name}={options[name]}"
        for name, (other, state) in IDLE.items()
        if options.get(other) is (state == "on") and options.get(name) != usual[name].default
    ]
    layers = [layer.options for layer in layers_of(network)]
    for name, value in aux.items():
        built = [part[name] for part in (options, *layers) if name in part]
        if built and value not in built:
            found.append(
                f"without effect, as build_model does not pass it on: aux.{name}={value} (the "
                f"network was built with {built[0]}; aux_of(params) of models/options.py gives aux)"
            )
    return found


def _override(values: Settings, text: str) -> str:
    """Lay one ``key=value`` or ``key+=value`` over the values; its key."""
    key, equals, value = text.partition("=")
    adds = key.endswith("+")
    key = key.removesuffix("+").strip()
    if not equals or not key:
        raise UserError(f"--set takes key=value, e.g. --set lr=1e-3; found {text!r}")
    kind = _kind(key)
    if adds and kind is not AUGMENTATIONS:
        raise UserError(f"{text!r}: += adds to data_augmentations and val_augmentations only")
    new = kind.of_text(key, value)
    if key.startswith("aux."):
        values["aux"][key.removeprefix("aux.")] = new
    elif adds:
        values[key] += [name for name in new if name not in values[key]]
    else:
        values[key] = new
    return key


def _check_preprocessing(values: Settings) -> None:
    """UserError where training and validation would see images of other sizes or scales."""
    lists = {key: values[key] for key in ("data_augmentations", "val_augmentations")}
    for key, names in lists.items():
        if set(RESCALES) <= set(names):
            raise UserError(f"{key} has both {' and '.join(RESCALES)}; keep one")
    for made in (size_by, _scale):
        train, val = map(made, lists.values())
        if train != val:
            told = " and ".join(f"{key} is {names}" for key, names in lists.items())
            raise UserError(
                f"training images are {train}, but validation images {val}: {told}; to add an "
                "augmentation: --set data_augmentations+=NAME"
            )


def _check_stream(values: Settings) -> None:
    """UserError where stream_settings has what no stream has, or another length than a name."""
    settings = values["stream_settings"]
    for name in settings:
        if name not in DRAWN:
            raise _misplaced("stream_settings:", name, DRAWN)
    length = settings.get("contour_length")
    for key in ("dataset", "val_dataset"):
        name = values[key]
        if name and type(length) is int and is_stream(name) and length != contour_length(name):
            raise UserError(
                f"stream_settings has contour_length {length}, but {key} is {name}: name the "
                f"stream pathfinder_{length}_stream"
            )


def _losses(names: set[str]) -> list[str]:
    """What augmentations, applied in their order, do to images that is perhaps not meant."""
    scale = next((name for name in RESCALES if name in names), None)
    clip = next((name for name in ("threshold", "zero_one") if name in names), None)
    standard = "per_image_standardization" in names
    found = []
    if "random_brightness" in names and scale and (clip or not standard):
        then = f"; {clip} then makes nearly every image all black or all white" if clip else ""
        added = f"random_brightness adds up to ±{BRIGHTNESS:g} after {scale}"
        found.append(f"{added}, as the release does{then}")
    made, *after = [name for name in SIZES if name in names] or [""]
    if after:
        found.append(f"{' and '.join(after)} has no effect, as {made} makes that size before")
    noise = [name for name in ("gaussian_noise", "gaussian_noise_small") if name in names]
    if noise and not scale:
        found.append(f"{' and '.join(noise)} is meant for 0–1, but is added to values of 0–255")
    if "gaussian_noise" in names and scale == "uint8_rescale" and clip == "threshold":
        found.append("threshold makes 1 of one black pixel in six, as gaussian_noise comes before")
    if scale == "uint8_rescale_-1_1" and clip == "zero_one":
        found.append("zero_one makes 0 of what uint8_rescale_-1_1 made negative, half of the scale")
    if clip and not scale:
        least = f"{THRESHOLD:g}" if clip == "threshold" else "1"
        found.append(f"{clip} is applied to values of 0–255, and makes 1 of all above {least}")
    if "flip_polarity" in names and (standard or not (scale or clip)):
        values = "values about 0" if standard else "values of 0–255"
        found.append(f"flip_polarity is |x − 1|, which flips 0–1, but is applied to {values}")
    return found


def size_by(names: list[str]) -> str:
    """What augmentations do to the size of an image."""
    return next((how for name, how in SIZES.items() if name in names), "left at their size")


def _scale(names: list[str]) -> str:
    scales = [name for name in SCALES if name in names]
    return f"scaled by {' and '.join(scales)}" if scales else "not scaled"


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line for each setting that differs: ``lr: 0.01 there, 0.001 here``; one that a side lacks
    has its default there."""
    sides = [{**DEFAULTS, **side} for side in (found, wanted)]
    pairs = {key: [side.get(key) for side in sides] for key in sorted({*found, *wanted})}
    return [
        f"{key}: {there!r} there, {here!r} here"
        for key, (there, here) in pairs.items()
        if there != here
    ]


def help_text(values: Mapping[str, Any]) -> str:
    """Every setting with its value here, for ``--help``."""
    return "\n".join(
        f"  {key} = {values[key]!r}\n      {setting.says}; {_values(setting.kind)}"
        for key, setting in SETTINGS.items()
    )


def settings_table() -> str:
    """All settings as Markdown; the README holds it."""
    lines = ["| setting | default | values | what it is |", "|---|---|---|---|"]
    for key, (kind, says, default, resume) in SETTINGS.items():
        shown = "each script's" if default is ... else f"`{default!r}`"
        more = "; may change when a run is resumed" if resume else ""
        lines.append(f"| `{key}` | {shown} | {kind.expected} | {says}{more} |")
    return "\n".join(lines)


def options_table() -> str:
    """All options of the networks as Markdown."""
    lines = ["| `aux` | default | values | what it is |", "|---|---|---|---|"]
    for key, (kind, says) in AUX.items():
        lines.append(f"| `{key}` | `{NETWORK_OPTIONS[key].default!r}` | {_values(kind)} | {says} |")
    return "\n".join(lines)


def _values(kind: Kind) -> str:
    return f"of {', '.join(kind.choices)}" if kind is AUGMENTATIONS else kind.expected


if __name__ == "__main__":
    run_command(lambda _: print(settings_table(), options_table(), sep="\n\n"))
