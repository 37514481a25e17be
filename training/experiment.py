"""A run's settings: the script's parameters, what ``--set`` changes, whether they make sense."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from support.errors import unknown

Settings = dict[str, Any]

# What a script need not name, with what it means here.
DEFAULTS: Settings = {
    "updates": "all",  # or 'as_released': as the release's graph trained (docs/differences.md)
    "clip_gradients": None,  # largest global norm of the gradient; None: not clipped
    "initial_weights": None,  # trained ones to begin with (training/initial_weights.py)
    "lr_schedule": "constant",  # or 'cosine', 'cooldown': lr falls to 0 (training/schedule.py)
    "warmup_iters": 0,  # updates over which lr grows to its value
    "val_dataset": None,  # data set to validate on; None: the val fold of ``dataset``
    "score_metric": "accuracy",
    "split_seed": 0,  # of the split into train and val where images are read without records
    "model_input_image_size": None,  # [H, W] that the network is given; None: the data set's
    "log_iters": 10,  # updates between two lines of the log
    "checkpoint_minutes": 10.0,  # longest time without a checkpoint; 0: one at every update
    "keep_checkpoints": 3,  # newest checkpoints that stay
    "keep_every": 10,  # the checkpoints of each so-many-th validation stay; 0: none
    "stream_epoch_images": 900_000,  # for data sets that are generated while training
    "stream_val_images": 10_000,
    "stream_seed": 0,
    "stream_settings": {},  # others of dataset_processing.pathfinder.Settings
    "aux": {},
}
# Type of a parameter whose default is None.
NONE_OR: dict[str, type] = {
    "clip_gradients": float, "initial_weights": str, "val_dataset": str,
    "model_input_image_size": list,
}  # fmt: skip
# What may be changed with --set when a run is resumed: nothing computed so far depends on it.
CHANGEABLE = (
    "epochs", "log_iters", "checkpoint_minutes", "keep_checkpoints", "keep_every", "save_weights",
)  # fmt: skip
WHOLE = {  # whole numbers and their least value
    "batch_size": 1, "epochs": 1, "validation_iters": 1, "num_validation_evals": 1,
    "log_iters": 1, "keep_checkpoints": 1, "keep_every": 0, "warmup_iters": 0,
    "stream_epoch_images": 1, "stream_val_images": 1,
}  # fmt: skip
REQUIRED = (
    "lr", "loss_function", "optimizer", "dataset", "data_augmentations", "val_augmentations",
    "batch_size", "epochs", "model_name", "exp_name", "save_weights", "validation_iters",
    "num_validation_evals", "shuffle_train", "shuffle_val",
)  # fmt: skip
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+", re.IGNORECASE)
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def resolve(params: Mapping[str, Any], overrides: Iterable[str] = ()) -> Settings:
    """The script's parameters over the defaults, with ``key=value`` overrides laid over both.

    A value is read as the type of the default that it replaces; ``none`` where the default may be
    None; a list as ``a,b`` or ``[a, b]``; ``aux.<option>=value`` sets an option of the layer (read
    as YAML). ``exp_name`` follows ``model_name`` and ``dataset`` unless it is overridden itself.

    Raises:
        ValueError: an override is not ``key=value``, its key is not known, or a value is of the
            wrong type or out of range.
    """
    missing = [key for key in REQUIRED if key not in params]
    if missing:
        raise ValueError(f"experiment_params() does not give: {', '.join(missing)}")
    settings = {**DEFAULTS, **params, "aux": dict(params.get("aux") or {})}
    changed = set()
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"--set takes key=value, e.g. --set lr=1e-3; found {text!r}")
        if key.startswith("aux."):
            settings["aux"][key.removeprefix("aux.")] = _yaml(key, value)
        elif key not in settings:
            raise unknown("parameter", key, [*settings, "aux.<option>"])
        else:
            settings[key] = _typed(key, value, settings[key])
        changed.add(key)
    if changed & {"model_name", "dataset"} and "exp_name" not in changed:
        settings["exp_name"] = f"{settings['model_name']}_{settings['dataset']}"
    for key in ("data_augmentations", "val_augmentations"):
        settings[key] = flat(settings[key])
    check(settings)
    return settings


def override_keys(overrides: Iterable[str]) -> set[str]:
    """The keys of ``key=value`` overrides."""
    return {text.partition("=")[0].strip() for text in overrides}


def flat(names: Any) -> list[str]:
    """A list of names from a list, or from the release's list of lists."""
    if isinstance(names, str):
        return [names]
    return [inner for name in names or [] for inner in flat(name)]


def check(settings: Settings) -> None:
    """Raise ValueError where a value is of the wrong type or out of range."""
    for key, least in WHOLE.items():
        value = settings[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{key} must be a whole number of at least {least}, found {value!r}")
    for key in ("lr", "clip_gradients"):
        value = settings[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and 0 < value < float("inf")) and not (value is None and key in NONE_OR):
            raise ValueError(f"{key} must be a number above 0, found {value!r}")
    if not settings["checkpoint_minutes"] >= 0:
        raise ValueError(
            f"checkpoint_minutes must be 0 or more, found {settings['checkpoint_minutes']!r}"
        )
    name = settings["exp_name"]
    if not isinstance(name, str) or not name or any(c in name for c in "/\\\0"):
        raise ValueError(f"exp_name must be usable as a folder's name, found {name!r}")


def differences(found: Settings, wanted: Settings) -> list[str]:
    """One line for each setting that differs: ``lr: 0.01 there, 0.001 here``.

    A setting that one of them lacks counts as having its default.
    """
    lines = []
    for key in sorted({*found, *wanted}):
        there, here = (x.get(key, DEFAULTS.get(key)) for x in (found, wanted))
        if there != here:
            lines.append(f"{key}: {there!r} there, {here!r} here")
    return lines


def plain(value: Any) -> Any:
    """The value made of dictionaries, lists, numbers and text only, as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or type(value) in (bool, int, float) else str(value)


def _typed(key: str, text: str, default: Any) -> Any:
    """``text`` as a value of the type of the parameter's default."""
    text = text.strip()
    if key in NONE_OR and text.lower() in ("none", "null", ""):
        return None
    kind = NONE_OR.get(key, type(default))
    if kind is bool:
        if text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
        raise ValueError(f"{key} must be true or false, found {text!r}")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"{key} must be {what}, found {text!r}") from None
    if kind in (list, tuple):
        value = _yaml(key, text if text.startswith("[") else f"[{text}]")
        return value
    if kind is dict:
        value = _yaml(key, text)
        if not isinstance(value, dict):
            raise ValueError(f"{key} must be like {{option: value}}, found {text!r}")
        return value
    return text


def _yaml(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{key}: {text!r} cannot be read as a YAML value") from None
    if isinstance(value, str) and NUMBER.fullmatch(value):  # YAML 1.1 takes 1e-5 for text
        return float(value)
    return value
