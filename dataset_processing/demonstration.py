"""What is trained on where the user has set nothing and has nothing: an easy generated set."""

from collections.abc import Collection, Sequence

from config import Config
from dataset_processing.base import near_records
from dataset_processing.generate import generate_small
from dataset_processing.generated import SMALL_SET
from dataset_processing.sets import has_records, is_stream, load_set

DEMONSTRATION = (
    f"dataset={SMALL_SET}",
    "batch_size=16",
    "lr_schedule=cooldown",  # at a constant rate the last validations differ by several percent
    "validation_iters=225",
)


def _nothing_set(config: Config) -> bool:
    return config.data_root_is_default and config.project_directory_is_default


def demonstration(
    name: str, config: Config, set_by_user: Collection[str] = (), model_name: str = "hgru"
) -> list[str]:
    """Overrides (``key=value``) that make a demonstration of a script: an easy set of small images,
    in smaller batches, under a name that says so.

    There are none where a path or the data set was set (``set_by_user`` has the parameters that the
    command line sets), or records or images are there, under whatever name.
    """
    if is_stream(name) or "dataset" in set_by_user or not _nothing_set(config):
        return []
    source = load_set(name, config)
    others = [path for path in near_records(config) if not path.name.startswith(SMALL_SET)]
    if others or source.on_disk() or source.near_images():
        return []
    named = f"exp_name={model_name}_{SMALL_SET}_demonstration"
    return [one for one in (*DEMONSTRATION, named) if one.partition("=")[0] not in set_by_user]


def demonstration_notice(name: str, overrides: Sequence[str]) -> str:
    """What the first and the last line of a demonstration say."""
    settings = ", ".join(one for one in overrides if not one.startswith("exp_name="))
    return (
        f"a demonstration: no data for {name} was found and no path is set, so easy generated "
        f"images are trained on instead, with {settings}. README, 'Your data', says how to train "
        "on your own"
    )


def prepare(name: str, config: Config) -> None:
    """Makes the demonstration's set where it is asked for by its name and no path has been set."""
    if name == SMALL_SET and _nothing_set(config):
        if not load_set(name, config).on_disk() and not has_records(name, config):
            generate_small(config)
