"""Pathfinder with 6 paddles in each of the two target snakes."""

from dataset_processing.base import PathfinderSet


class data_processing(PathfinderSet):
    name = "curv_baseline_full"
    data_name = "curv_baseline"
