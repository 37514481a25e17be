"""An experiment: every setting with its type, range, default and a sentence, checked in one place.

``Experiment.of(experiment_params(), ["lr=1e-4"])`` is the only way to one, so that a dictionary
edited in a script and ``--set`` on the command line meet the same checks. The tables of the README
are printed by  python -m training.experiment
"""

# ruff: noqa: RUF009  (a setting is a dataclass field)

import inspect
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

import numpy as np
import yaml

from dataset_processing.augmentations import ORDER, RANDOM
from layers.hgru import HGRU, HIDDEN_INITS, NONLINEARITIES
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork
from support.errors import UserError, unknown
from support.shell import run_command
from training.losses import LOSSES
from training.metrics import METRICS
from training.optimizers import OPTIMIZERS, UPDATES
from training.schedule import SCHEDULES

Settings = dict[str, Any]

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+", re.IGNORECASE)
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
# Augmentations that set the size of an image, and those that set what its values mean.
SIZES = {
    "random_crop": "cropped",
    "center_crop": "cropped",
    "resize": "resized",
    "resize_nn": "resized",
}
SCALES = (
    "uint8_rescale",
    "uint8_rescale_-1_1",
    "per_image_standardization",
    "threshold",
    "flip_polarity",
)


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
        expected: that in words, as in "lr must be *a number above 0*".
        take: the value as it is kept; raises ValueError or TypeError for one that cannot be.
        read: what a text of the command line stands for, to be taken then.
        choices: names, of which the value is one, or a list of which it is.
    """

    expected: str
    take: Callable[[Any], Any]
    read: Callable[[str], Any] = str.strip
    choices: tuple[str, ...] = ()

    def of(self, key: str, value: Any) -> Any:
        """The value as it is kept; UserError with key, value and what is expected."""
        try:
            taken = self.take(value)
        except (TypeError, ValueError):
            raise UserError(f"{key} must be {self.expected}, found {value!r}") from None
        for name in taken if isinstance(taken, list) else [taken]:
            if self.choices and name is not None and name not in self.choices:
                raise unknown(key, name, self.choices)
        return taken

    def of_text(self, key: str, text: str) -> Any:
        """As :meth:`of`, of a text on the command line."""
        try:
            value = self.read(text.strip())
        except (ValueError, yaml.YAMLError):
            raise UserError(f"{key} must be {self.expected}, found {text.strip()!r}") from None
        return self.of(key, value)


def _number(above: float | None = None, least: float = -math.inf) -> Kind:
    def take(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        if not math.isfinite(value) or value < least or (above is not None and value <= above):
            raise ValueError
        return float(value)

    limit = f" above {above:g}" if above is not None else ""
    limit += f" of at least {least:g}" if math.isfinite(least) else ""
    return Kind(f"a number{limit}", take, float)


def _whole(least: int, odd: bool = False) -> Kind:
    def take(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError
        if value < least or (odd and value % 2 == 0):
            raise ValueError
        return int(value)

    return Kind(f"{'an odd' if odd else 'a whole'} number of at least {least}", take, int)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _truth_of(text: str) -> bool | str:
    return text.lower() in TRUE if text.lower() in TRUE + FALSE else text


def _text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise TypeError
    return str(value)


def _file_name(value: Any) -> str:
    if any(c in _text(value) for c in "/\\\0\n") or value in (".", "..") or len(value) > 200:
        raise ValueError
    return str(value)


def _flat(names: Any) -> list[str]:
    """A list of names from a list, or from the release's list of lists."""
    if isinstance(names, str):
        return [names]
    if not isinstance(names, list | tuple):
        raise TypeError
    return [inner for name in names for inner in _flat(name)]


def _size(value: Any) -> list[int]:
    height, width, *channels = value
    if isinstance(value, str) or channels not in ([], [1]):
        raise ValueError
    whole = _whole(1).take
    return [whole(height), whole(width), *channels]


def _lengths(value: Any) -> list[int]:
    if isinstance(value, str | Mapping) or not value:
        raise TypeError
    return [_whole(2).take(length) for length in value]


def _options(value: Any) -> Settings:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError
    return plain(value)


def _list_of(text: str) -> Any:
    return yaml.safe_load(text if text.startswith("[") else f"[{text}]")


def _options_of(text: str) -> Any:
    found = yaml.safe_load(text)
    if not isinstance(found, dict):
        raise ValueError
    # YAML 1.1 takes 1e-5 for a text.
    return {k: float(v) if NUMBER.fullmatch(str(v)) else v for k, v in found.items()}


def _or_none(kind: Kind) -> Kind:
    return Kind(
        f"None or {kind.expected}",
        lambda value: None if value is None else kind.take(value),
        lambda text: None if text.lower() in ("none", "null", "") else kind.read(text),
        kind.choices,
    )


def _one_of(names: Iterable[str]) -> Kind:
    names = tuple(names)
    return Kind(f"one of {', '.join(names)}", _text, choices=names)


TRUTH = Kind("True or False", _truth, _truth_of)
TEXT = Kind("a name", _text)
FILE_NAME = Kind("a name without / or \\ (a folder's)", _file_name)
AUGMENTATIONS = Kind("a list of augmentations (docs/data.md)", _flat, _list_of, ORDER)
SIZE = Kind("[H, W], two whole numbers of at least 1", _size, _list_of)
LENGTHS = Kind("a list of contour lengths in paddles, each at least 2", _lengths, _list_of)
OPTIONS = Kind("a dictionary {name: value}", _options, _options_of)


def _setting(kind: Kind, says: str, default: Any = MISSING, resume: bool = False) -> Any:
    """A setting of :class:`Experiment`; without a default each script gives it."""
    metadata = {"kind": kind, "says": says, "resume": resume}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment(Mapping[str, Any]):
    """The settings of one experiment, as attributes (``exp.lr``) or items (``exp["lr"]``).

    Made by :meth:`of`; it does not change from then on.

    Attributes:
        overrides: what was laid over the script's parameters, ``key=value`` each.
        changed: the keys among them.
    """

    lr: float = _setting(_number(above=0), "Learning rate, the highest of the schedule")
    loss_function: str = _setting(_one_of(LOSSES), "Loss")
    optimizer: str = _setting(_one_of(OPTIMIZERS), "Optimizer, by TensorFlow 1's rules")
    dataset: str = _setting(
        TEXT, "What to train on: a set of dataset_processing/, or pathfinder_<length>_stream"
    )
    data_augmentations: list[str] = _setting(
        AUGMENTATIONS, "Preprocessing of training images, applied in a fixed order"
    )
    val_augmentations: list[str] = _setting(AUGMENTATIONS, "Preprocessing of validation images")
    batch_size: int = _setting(
        _whole(1), "Images of a batch, in training and validation, over all processes"
    )
    epochs: int = _setting(_whole(1), "Passes over the training images", resume=True)
    model_name: str = _setting(FILE_NAME, "The network's name")
    exp_name: str = _setting(
        FILE_NAME, "Runs are named <exp_name>_<time>; follows model_name and dataset"
    )
    save_weights: bool = _setting(TRUTH, "Keep the weights of each validation", resume=True)
    validation_iters: int = _setting(_whole(1), "Updates from one validation to the next")
    num_validation_evals: int = _setting(_whole(1), "Batches of a validation")
    shuffle_train: bool = _setting(TRUTH, "A new order of the training images at each epoch")
    shuffle_val: bool = _setting(TRUTH, "Validate on shuffled images, the same each time")
    updates: str = _setting(
        _one_of(UPDATES),
        "Train everything, or leave out what the release's graph did (docs/differences.md)",
        "all",
    )
    lr_schedule: str = _setting(
        _one_of(SCHEDULES), "lr stays, or falls to 0 (training/schedule.py)", "constant"
    )
    warmup_iters: int = _setting(_whole(0), "Updates over which lr grows to its value", 0)
    clip_gradients: float | None = _setting(
        _or_none(_number(above=0)), "Largest global norm of the gradient", None
    )
    initial_weights: str | None = _setting(
        _or_none(TEXT), "Trained weights to begin with: a file or a run", None
    )
    score_metric: str = _setting(_one_of(METRICS), "What validation reports", "accuracy")
    val_dataset: str | None = _setting(
        _or_none(TEXT), "What to validate on; None: the validation images of dataset", None
    )
    split_seed: int = _setting(
        _whole(0), "Of the split into train and val, where images are read without records", 0
    )
    im_size: list[int] | None = _setting(
        _or_none(SIZE), "Size of the stimuli; None: as they are found", None
    )
    model_input_image_size: list[int] | None = _setting(
        _or_none(SIZE), "Size that the network is given; None: the data set's", None
    )
    stream_epoch_images: int = _setting(_whole(1), "Images of a stream's epoch", 900_000)
    stream_val_images: int = _setting(_whole(1), "Images of a stream's validation set", 10_000)
    stream_seed: int = _setting(_whole(0), "Of a stream's images", 0)
    stream_settings: Settings = _setting(
        OPTIONS, "Others of dataset_processing.pathfinder.Settings, for a stream", {}
    )
    curriculum: list[int] | None = _setting(
        _or_none(LENGTHS), "Shorter contours that a stream shows first (docs/data.md)", None
    )
    curriculum_until: float = _setting(
        _number(), "score_metric at which the next length of curriculum begins", 0.9
    )
    curriculum_images: int = _setting(
        _whole(1), "Images after which it begins at the latest", 300_000
    )
    log_iters: int = _setting(_whole(1), "Updates between two lines of the log", 10, True)
    checkpoint_minutes: float = _setting(
        _number(least=0), "Longest time without a checkpoint; 0: one at every update", 10.0, True
    )
    keep_checkpoints: int = _setting(_whole(1), "Newest checkpoints that stay", 3, True)
    keep_every: int = _setting(
        _whole(0), "The checkpoint of each so-many-th validation stays; 0: none", 10, True
    )
    aux: Settings = _setting(OPTIONS, "Options of the network, laid over the script's own", {})

    overrides: tuple[str, ...] = ()
    changed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, params: Mapping[str, Any], overrides: Iterable[str] = ()) -> "Experiment":
        """A script's parameters with ``key=value`` overrides laid over them.

        ``none`` stands for None; a list is ``a,b`` or ``[a, b]``, and ``key+=a`` adds to one;
        ``aux.<option>=value`` sets an option of the network. ``exp_name`` follows ``model_name``
        and ``dataset`` unless it is overridden itself.

        Raises:
            UserError: a key is missing or not known, a value is of a wrong type or out of range,
                or two of them contradict each other.
        """
        if not isinstance(params, Mapping):
            raise UserError(
                f"experiment_params() must return a dictionary, found {type(params).__name__}; "
                "does it end with 'return exp'?"
            )
        for key in params:
            if key not in SETTINGS:
                raise unknown("parameter", key, SETTINGS)
        values = {key: _checked(key, value) for key, value in params.items()}
        missing = [k for k, f in SETTINGS.items() if k not in params and _default(f) is MISSING]
        if missing:
            raise UserError(f"experiment_params() does not give: {', '.join(missing)}")
        defaults = {key: _default(setting) for key, setting in SETTINGS.items()}
        values = {**defaults, **values}
        changed = set()
        overrides = tuple(overrides)
        for text in overrides:
            changed.add(_override(values, text))
        if changed & {"model_name", "dataset"} and "exp_name" not in changed:
            values["exp_name"] = f"{values['model_name']}_{values['dataset']}"
        _check_preprocessing(values)
        return cls(**values, overrides=overrides, changed=frozenset(changed))

    def __getitem__(self, key: str) -> Any:
        if key not in SETTINGS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(SETTINGS)

    def __len__(self) -> int:
        return len(SETTINGS)

    def as_dict(self) -> Settings:
        """A copy made of plain dictionaries, lists, numbers and text, as YAML can hold it."""
        return plain(self)

    def cautions(self) -> list[str]:
        """What is allowed, but perhaps not meant."""
        found = []
        random = [name for name in ORDER if name in self.val_augmentations and name in RANDOM]
        if random:
            found.append(
                f"val_augmentations has {', '.join(random)}, which draws random numbers: each "
                "validation is of changed images"
            )
        if not set(SCALES) & set(self.data_augmentations):
            found.append(
                "neither uint8_rescale nor another scaling is among data_augmentations: the "
                "network is given values of 0–255"
            )
        return found


SETTINGS: dict[str, Field] = {f.name: f for f in fields(Experiment) if f.metadata}

# Options of the networks, by what they may be and a sentence. Their defaults are the layers' own.
AUX: dict[str, tuple[Kind, str]] = {
    "timesteps": (_whole(1), "Steps of the circuit, T"),
    "h_ext": (_whole(1), "Width of the horizontal kernels in pixels"),
    "separate_kernels": (TRUTH, "Two horizontal kernels, W1 and W2, instead of one"),
    "recurrent_nl": (_one_of(NONLINEARITIES), "The circuit's nonlinearity f"),
    "gate_nl": (_one_of(NONLINEARITIES), "The gates' nonlinearity σ"),
    "gate_filter": (_whole(1), "Width of the gates' kernels in pixels"),
    "symmetric_weights": (TRUTH, "W stays symmetric over in and out channels"),
    "symmetric_gate_weights": (TRUTH, "The same for the gates' kernels"),
    "symmetric_inits": (TRUTH, "Symmetric kernels start symmetric"),
    "normal_initializer": (TRUTH, "Xavier values from a truncated normal distribution"),
    "gate_bias_init": (
        _one_of(("chronos", "ones")), "The gates' biases: chronos (−log u and log u), or −1 and 1"
    ),
    "hidden_init": (_one_of(HIDDEN_INITS), "H2 before the first step"),
    "alpha": (TRUTH, "α is learned; False: it is 1"),
    "mu": (TRUTH, "μ is learned; False: it is 1"),
    "gamma": (TRUTH, "γ is learned; False: it is 1"),
    "lesion_alpha": (TRUTH, "α is 0"),
    "lesion_mu": (TRUTH, "μ is 0"),
    "lesion_kappa": (TRUTH, "κ is 0"),
    "lesion_omega": (TRUTH, "ω is 0"),
    "multiplicative_excitation": (TRUTH, "Excitation with κ and ω; False: f(H1 + E)"),
    "adaptation": (TRUTH, "η scales H2 after each step"),
    "eta_init": (_or_none(_number()), "First value of η; None: drawn from 0–1 for each step"),
    "constrain": (TRUTH, "The letters stay at 0 or above"),
    "batch_norm": (TRUTH, "Batch normalisation inside the circuit"),
    "reuse": (TRUTH, "One normalisation for all steps; False: its own at each"),
    "batch_norm_validation": (
        _one_of(("batch", "running")), "Validation normalises by the batch, or by running averages"
    ),
    "recompute": (TRUTH, "Compute the circuit again in backward: less memory"),
    "readout_epsilon": (
        _number(above=0), "What the normalisations after the circuit add to the variance"
    ),
    "gabor_size": (_whole(3, odd=True), "Width of the Gabor kernels in pixels"),
    "layers": (_whole(1), "ff_5: convolutions"),
    "filters": (_whole(1), "ff_5: channels of each convolution"),
    "kernel_size": (_whole(1), "ff_5: width of their kernels in pixels"),
}  # fmt: skip


def _default(setting: Field) -> Any:
    if setting.default_factory is not MISSING:
        return setting.default_factory()
    return setting.default


DEFAULTS = {key: _default(f) for key, f in SETTINGS.items() if _default(f) is not MISSING}


def _checked(key: str, value: Any) -> Any:
    """A setting's value as it is kept; UserError where it cannot be."""
    taken = SETTINGS[key].metadata["kind"].of(key, value)
    if key == "aux":
        taken = {name: _option(name)[0].of(f"aux.{name}", taken[name]) for name in taken}
    return taken


def _option(name: str) -> tuple[Kind, str]:
    if name not in AUX:
        raise unknown("option of the network (aux)", name, AUX)
    return AUX[name]


def check_options(network: Any) -> None:
    """UserError where an option that a script's ``build_model`` gave cannot be, as "no" for False.

    Args:
        network: the layers check what they cannot compute with; its attribute ``options``, if it
            has one, is what it was built with.
    """
    options = getattr(network, "options", None)
    for name, value in options.items() if isinstance(options, dict) else ():
        if name in AUX:
            AUX[name][0].of(f"build_model: {name}", value)


def _override(values: Settings, text: str) -> str:
    """Lay one ``key=value`` or ``key+=value`` over the values; its key."""
    key, equals, value = text.partition("=")
    adds = key.endswith("+")
    key = key.removesuffix("+").strip()
    if not equals or not key:
        raise UserError(f"--set takes key=value, e.g. --set lr=1e-3; found {text!r}")
    if key.startswith("aux."):
        name = key.removeprefix("aux.")
        new = _option(name)[0].of_text(key, value)
        values["aux"] = {**values["aux"], name: new}
    elif key not in SETTINGS:
        raise unknown("parameter", key, [*SETTINGS, "aux.<option>"])
    else:
        new = _checked(key, SETTINGS[key].metadata["kind"].of_text(key, value))
        if adds and isinstance(new, list) and isinstance(values[key], list):
            new = values[key] + [name for name in new if name not in values[key]]
        values[key] = new
    if adds and SETTINGS[key.split(".")[0]].metadata["kind"] is not AUGMENTATIONS:
        raise UserError(f"{text!r}: += adds to data_augmentations and val_augmentations only")
    return key


def _check_preprocessing(values: Settings) -> None:
    """UserError where training and validation would see images of other sizes or scales."""
    lists = {key: values[key] for key in ("data_augmentations", "val_augmentations")}
    for key, names in lists.items():
        if {"uint8_rescale", "uint8_rescale_-1_1"} <= set(names):
            raise UserError(f"{key} has both uint8_rescale and uint8_rescale_-1_1; keep one")
    advice = "; to add an augmentation: --set data_augmentations+=NAME"
    size, val_size = (
        next((how for name, how in SIZES.items() if name in names), "left at their size")
        for names in lists.values()
    )
    if size != val_size:
        raise UserError(
            f"data_augmentations is {lists['data_augmentations']}: training images are {size}, but "
            f"validation images are {val_size} (val_augmentations){advice}"
        )
    scale, val_scale = ([name for name in SCALES if name in names] for names in lists.values())
    if scale != val_scale:
        raise UserError(
            "the values of training images are on another scale than those of validation images: "
            f"data_augmentations has {' and '.join(scale) or 'no scaling'}, val_augmentations has "
            f"{' and '.join(val_scale) or 'no scaling'}{advice}"
        )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line for each setting that differs: ``lr: 0.01 there, 0.001 here``.

    A setting that one of them lacks counts as having its default.
    """
    lines = []
    for key in sorted({*found, *wanted}):
        default = _default(SETTINGS[key]) if key in SETTINGS else None
        there, here = (x.get(key, default) for x in (found, wanted))
        if there != here:
            lines.append(f"{key}: {there!r} there, {here!r} here")
    return lines


def plain(value: Any) -> Any:
    """The value made of dictionaries, lists, numbers and text only, as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or type(value) in (bool, int, float) else str(value)


def help_text(values: Mapping[str, Any]) -> str:
    """Every setting with its value here, for ``--help``."""
    lines = []
    for key, setting in SETTINGS.items():
        value = values.get(key, _default(setting))
        kind, says = setting.metadata["kind"], setting.metadata["says"]
        lines += [f"  {key} = {value!r}", f"      {says}; {_values(kind)}"]
    return "\n".join(lines)


def settings_table() -> str:
    """All settings as Markdown; the README holds it."""
    lines = ["| setting | default | values | what it is |", "|---|---|---|---|"]
    for key, setting in SETTINGS.items():
        kind, says, resume = (setting.metadata[name] for name in ("kind", "says", "resume"))
        default = _default(setting)
        shown = "each script's" if default is MISSING else f"`{default!r}`"
        more = "; may change when a run is resumed" if resume else ""
        lines.append(f"| `{key}` | {shown} | {kind.expected} | {says}{more} |")
    return "\n".join(lines)


def options_table() -> str:
    """All options of the networks as Markdown."""
    lines = ["| `aux` | default | values | what it is |", "|---|---|---|---|"]
    known: dict[str, inspect.Parameter] = {}
    for network in (FeedforwardNetwork, RecurrentNetwork, HGRU):
        known |= inspect.signature(network).parameters
    for key, (kind, says) in AUX.items():
        lines.append(f"| `{key}` | `{known[key].default!r}` | {_values(kind)} | {says} |")
    return "\n".join(lines)


def _values(kind: Kind) -> str:
    return f"of {', '.join(kind.choices)}" if kind is AUGMENTATIONS else kind.expected


if __name__ == "__main__":
    run_command(lambda _: print(settings_table(), options_table(), sep="\n\n"))
