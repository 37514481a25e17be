from dataset_processing.base import PathfinderSet


class data_processing(PathfinderSet):
    name = "zz_own"
    data_name = "own_png"
    cv_split = 1.0
