"""Data sets, stimuli, records: everything up to a batch.

``open_set`` opens a set by its name: records first, then images on disk. A name that ends in
``_stream`` is not on disk: its images are drawn while training. docs/data.md has the layouts.
"""

from dataset_processing.sets import (
    DataSet,
    contour_length,
    data_sets,
    generator_settings,
    load_set,
    open_path,
    open_set,
)

__all__ = [
    "DataSet",
    "contour_length",
    "data_sets",
    "generator_settings",
    "load_set",
    "open_path",
    "open_set",
]
