"""What is said where a set has no data: where it was looked for, and what was found near there."""

from pathlib import Path

from config import Config
from dataset_processing.base import PathfinderSet


def missing(source: PathfinderSet) -> str:
    """What to say where a set has no data."""
    name, config = source.name, source.config
    records = near_records(config)
    near = [path for path in records if name in path.name or source.data_name in str(path)]
    near = list(dict.fromkeys([*near, *near_images(source), *records]))
    found = f" Found nearby: {', '.join(map(str, near[:6]))}." if near else ""
    return (
        f"no data for {name!r}: no images in {' or '.join(map(str, source.places()))} and no "
        f"records {name}_train.tfrecords (or {name}_train-00000-of-00004.tfrecords …) in "
        f"{config.tf_records}.{found} Put images there and run 'python -m "
        f"dataset_processing.encode --dataset {name}', or make some with 'python -m "
        f"dataset_processing.generate --dataset {name}'"
    )


def near_records(config: Config) -> list[Path]:
    """Files that look like records, where they are read and a folder up or down."""
    project, pattern = config.project_directory, "*tfrecord*"
    folders = [project, project.parent, project.parent / "tf_records", config.data_root]
    found = [
        *sorted(config.tf_records.glob(pattern)),
        *sorted(config.tf_records.glob(f"*/{pattern}")),
    ]
    for folder in folders:
        found += sorted(folder.glob(pattern))
    others = (".partial", ".json", ".npy")
    return [path for path in dict.fromkeys(found) if path.is_file() and path.suffix not in others]


def near_images(source: PathfinderSet) -> list[Path]:
    """Folders that look like the set's, near where it is looked for."""
    root, name = source.config.data_root, source.data_name
    tops = [root, root.parent, *sorted(root.glob("*")), *sorted(root.glob("curvy_2snakes_300/*"))]
    found = [one for top in tops for one in (top / name, top / "curvy_2snakes_300" / name, top)]
    others = [path for path in dict.fromkeys(found) if path not in source.places()]
    return [path for path in others if path.name.lower().startswith(name) and path.is_dir()]
