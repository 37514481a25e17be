"""Pathfinder with 20 paddles in each of the two target snakes."""

from dataset_processing.base import PathfinderSet


class data_processing(PathfinderSet):
    """Settings and ``get_data`` are those of :class:`PathfinderSet`."""

    name = "curv_contour_length_20_full"
    data_name = "curv_contour_length_20"
