"""An experiment: every setting with its type, range, default and a sentence, checked in one place.

``Experiment.of(experiment_params(), ["lr=1e-4"])`` is the only way to one, so that a dictionary
edited in a script and ``--set`` on the command line meet the same checks. The tables of the README
are printed by  python -m training.experiment
"""

# ruff: noqa: RUF009  (a setting is a dataclass field)

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from dataset_processing.augmentations import ORDER, RANDOM
from layers.hgru import HGRU, HIDDEN_INITS, NONLINEARITIES
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork
from support.errors import UserError, unknown
from support.shell import run_command
from training.kinds import (
    AUGMENTATIONS,
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
    whole,
)
from training.losses import LOSSES
from training.metrics import METRICS
from training.optimizers import OPTIMIZERS, UPDATES
from training.schedule import SCHEDULES

Settings = dict[str, Any]

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

    lr: float = _setting(number(above=0), "Learning rate, the highest of the schedule")
    loss_function: str = _setting(one_of(LOSSES), "Loss")
    optimizer: str = _setting(one_of(OPTIMIZERS), "Optimizer, by TensorFlow 1's rules")
    dataset: str = _setting(
        TEXT, "What to train on: a set of dataset_processing/, or pathfinder_<length>_stream"
    )
    data_augmentations: list[str] = _setting(
        AUGMENTATIONS, "Preprocessing of training images, applied in a fixed order"
    )
    val_augmentations: list[str] = _setting(AUGMENTATIONS, "Preprocessing of validation images")
    batch_size: int = _setting(
        whole(1), "Images of a batch, in training and validation, over all processes"
    )
    epochs: int = _setting(whole(1), "Passes over the training images", resume=True)
    model_name: str = _setting(FILE_NAME, "The network's name")
    exp_name: str = _setting(
        FILE_NAME, "Runs are named <exp_name>_<time>; follows model_name and dataset"
    )
    save_weights: bool = _setting(TRUTH, "Keep the weights of each validation", resume=True)
    validation_iters: int = _setting(whole(1), "Updates from one validation to the next")
    num_validation_evals: int = _setting(whole(1), "Batches of a validation")
    shuffle_train: bool = _setting(TRUTH, "A new order of the training images at each epoch")
    shuffle_val: bool = _setting(TRUTH, "Validate on shuffled images, the same each time")
    updates: str = _setting(
        one_of(UPDATES),
        "Train everything, or leave out what the release's graph did (docs/differences.md)",
        "all",
    )
    lr_schedule: str = _setting(
        one_of(SCHEDULES), "lr stays, or falls to 0 (training/schedule.py)", "constant"
    )
    warmup_iters: int = _setting(whole(0), "Updates over which lr grows to its value", 0)
    clip_gradients: float | None = _setting(
        or_none(number(above=0)), "Largest global norm of the gradient", None
    )
    initial_weights: str | None = _setting(
        or_none(TEXT), "Trained weights to begin with: a file or a run", None
    )
    score_metric: str = _setting(one_of(METRICS), "What validation reports", "accuracy")
    val_dataset: str | None = _setting(
        or_none(TEXT), "What to validate on; None: the validation images of dataset", None
    )
    split_seed: int = _setting(
        whole(0), "Of the split into train and val, where images are read without records", 0
    )
    im_size: list[int] | None = _setting(
        or_none(SIZE), "Size of the stimuli; None: as they are found", None
    )
    model_input_image_size: list[int] | None = _setting(
        or_none(SIZE), "Size that the network is given; None: the data set's", None
    )
    stream_epoch_images: int = _setting(whole(1), "Images of a stream's epoch", 900_000)
    stream_val_images: int = _setting(whole(1), "Images of a stream's validation set", 10_000)
    stream_seed: int = _setting(whole(0), "Of a stream's images", 0)
    stream_settings: Settings = _setting(
        OPTIONS, "Others of dataset_processing.pathfinder.Settings, for a stream", {}
    )
    curriculum: list[int] | None = _setting(
        or_none(LENGTHS), "Shorter contours that a stream shows first (docs/data.md)", None
    )
    curriculum_until: float = _setting(
        number(), "score_metric at which the next length of curriculum begins", 0.9
    )
    curriculum_images: int = _setting(
        whole(1), "Images after which it begins at the latest", 300_000
    )
    curriculum_review: int = _setting(
        whole(0), "Meanwhile each so-many-th image is of a length before; 0: none", 2
    )
    log_iters: int = _setting(whole(1), "Updates between two lines of the log", 10, True)
    checkpoint_minutes: float = _setting(
        number(least=0), "Longest time without a checkpoint; 0: one at every update", 10.0, True
    )
    keep_checkpoints: int = _setting(whole(1), "Newest checkpoints that stay", 3, True)
    keep_every: int = _setting(
        whole(0), "The checkpoint of each so-many-th validation stays; 0: none", 10, True
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
        given = {key: _kind(key).of(key, value) for key, value in params.items()}
        values = {**{key: _default(setting) for key, setting in SETTINGS.items()}, **given}
        missing = [key for key, value in values.items() if value is MISSING]
        if missing:
            raise UserError(f"experiment_params() does not give: {', '.join(missing)}")
        overrides = tuple(dict.fromkeys(reversed([*overrides])))[::-1]  # each once: its last
        changed = {_override(values, text) for text in overrides}
        if changed & {"model_name", "dataset"} and "exp_name" not in changed:
            values["exp_name"] = f"{values['model_name']}_{values['dataset']}"
        for name, value in values["aux"].items():
            values["aux"][name] = _kind(f"aux.{name}").of(f"aux.{name}", value)
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
    "timesteps": (whole(1), "Steps of the circuit, T"),
    "h_ext": (whole(1), "Width of the horizontal kernels in pixels"),
    "separate_kernels": (TRUTH, "Two horizontal kernels, W1 and W2, instead of one"),
    "recurrent_nl": (one_of(NONLINEARITIES), "The circuit's nonlinearity f"),
    "gate_nl": (one_of(NONLINEARITIES), "The gates' nonlinearity σ"),
    "gate_filter": (whole(1), "Width of the gates' kernels in pixels"),
    "symmetric_weights": (TRUTH, "W stays symmetric over in and out channels"),
    "symmetric_gate_weights": (TRUTH, "The same for the gates' kernels"),
    "symmetric_inits": (TRUTH, "Symmetric kernels start symmetric"),
    "normal_initializer": (TRUTH, "Xavier values from a truncated normal distribution"),
    "gate_bias_init": (
        one_of(("chronos", "ones")), "The gates' biases: chronos (−log u and log u), or −1 and 1"
    ),
    "hidden_init": (one_of(HIDDEN_INITS), "H2 before the first step"),
    "alpha": (TRUTH, "α is learned; False: it is 1"),
    "mu": (TRUTH, "μ is learned; False: it is 1"),
    "gamma": (TRUTH, "γ is learned; False: it is 1"),
    "lesion_alpha": (TRUTH, "α is 0"),
    "lesion_mu": (TRUTH, "μ is 0"),
    "lesion_kappa": (TRUTH, "κ is 0"),
    "lesion_omega": (TRUTH, "ω is 0"),
    "multiplicative_excitation": (TRUTH, "Excitation with κ and ω; False: f(H1 + E)"),
    "adaptation": (TRUTH, "η scales H2 after each step"),
    "eta_init": (or_none(number()), "First value of η; None: drawn from 0–1 for each step"),
    "constrain": (TRUTH, "The letters stay at 0 or above"),
    "batch_norm": (TRUTH, "Batch normalisation inside the circuit"),
    "reuse": (TRUTH, "One normalisation for all steps; False: its own at each"),
    "batch_norm_validation": (
        one_of(("batch", "running")), "Validation normalises by the batch, or by running averages"
    ),
    "recompute": (TRUTH, "Compute the circuit again in backward: less memory"),
    "readout_epsilon": (
        number(above=0), "What the normalisations after the circuit add to the variance"
    ),
    "gabor_size": (whole(3, odd=True), "Width of the Gabor kernels in pixels"),
    "layers": (whole(1), "ff_5: convolutions"),
    "filters": (whole(1), "ff_5: channels of each convolution"),
    "kernel_size": (whole(1), "ff_5: width of their kernels in pixels"),
}  # fmt: skip


def _default(setting: Field) -> Any:
    if setting.default_factory is not MISSING:
        return setting.default_factory()
    return setting.default


DEFAULTS = {key: _default(f) for key, f in SETTINGS.items() if _default(f) is not MISSING}


def _kind(key: str) -> Kind:
    """What a setting, or an option ``aux.<name>``, may be; UserError if there is none."""
    name = key.removeprefix("aux.")
    if name != key:
        if name not in AUX:
            raise unknown("option of the network (aux)", name, AUX)
        return AUX[name][0]
    if key not in SETTINGS:
        raise unknown("parameter", key, [*SETTINGS, "aux.<option>"])
    return SETTINGS[key].metadata["kind"]


def check_options(network: Any) -> None:
    """UserError where an option that ``build_model`` gave the network cannot be, as "no" for False.

    The layers check what they cannot compute with; this, the network's attribute ``options``.
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
    kind = _kind(key)
    if adds and kind is not AUGMENTATIONS:
        raise UserError(f"{text!r}: += adds to data_augmentations and val_augmentations only")
    new = kind.of_text(key, value)
    if key.startswith("aux."):
        values["aux"] = {**values["aux"], key.removeprefix("aux."): new}
    elif adds:
        values[key] = values[key] + [name for name in new if name not in values[key]]
    else:
        values[key] = new
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
    """One line for each setting that differs: ``lr: 0.01 there, 0.001 here``; one that a side lacks
    has its default there."""
    lines = []
    for key in sorted({*found, *wanted}):
        default = _default(SETTINGS[key]) if key in SETTINGS else None
        there, here = (x.get(key, default) for x in (found, wanted))
        if there != here:
            lines.append(f"{key}: {there!r} there, {here!r} here")
    return lines


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
