"""An easy, quick Pathfinder set: contours of 3 paddles in small images.

Not a set of the 2018 release. It stands in where no data is at hand, so that a first run on a CPU
learns something in minutes; ``dataset_processing.generate`` makes it.
"""

from config import Config
from dataset_processing.base import PathfinderSet


class data_processing(PathfinderSet):
    """Settings and ``get_data`` are those of :class:`PathfinderSet`, but for the images' size."""

    name = "curv_contour_length_3_small"
    data_name = "curv_contour_length_3_small"

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.im_size = [64, 64]
        self.model_input_image_size = [32, 32, 1]
