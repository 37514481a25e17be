"""Data sets, stimuli, records: everything up to a batch.

``open_set`` opens a set by its name: records first, then images on disk. A name that ends in
``_stream`` is not on disk: its images are drawn while training. docs/data.md has the layouts.
"""

from dataset_processing.generated import contour_length as contour_length
from dataset_processing.sets import DataSet as DataSet
from dataset_processing.sets import data_sets as data_sets
from dataset_processing.sets import generator_settings as generator_settings
from dataset_processing.sets import load_set as load_set
from dataset_processing.sets import open_path as open_path
from dataset_processing.sets import open_set as open_set
