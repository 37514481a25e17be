"""Pathfinder with 14 paddles in each of the two target snakes."""

from dataset_processing.base import PathfinderSet


class data_processing(PathfinderSet):
    name = "curv_contour_length_14_full"
    data_name = "curv_contour_length_14"
