"""Recordings to training material: the folder's layout, checking, and the latent cache."""

from acestep.datasets.annotations import Annotation
from acestep.datasets.folder import DatasetFolder, Problem, Track, read_dataset_folder
from acestep.datasets.latent_dataset import Batch, CachedTrack, Example, LatentDataset
from acestep.datasets.preparation import PreparationProgress, prepare_dataset

__all__ = [
    "Annotation",
    "Batch",
    "CachedTrack",
    "DatasetFolder",
    "Example",
    "LatentDataset",
    "PreparationProgress",
    "Problem",
    "Track",
    "prepare_dataset",
    "read_dataset_folder",
]
