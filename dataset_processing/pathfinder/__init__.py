"""Pathfinder: ``generate`` makes images and labels, ``Pathfinder`` any of them by index."""

from dataset_processing.pathfinder.images import CHUNK, Pathfinder, Stimulus, generate
from dataset_processing.pathfinder.settings import Settings

__all__ = ["CHUNK", "Pathfinder", "Settings", "Stimulus", "generate"]
