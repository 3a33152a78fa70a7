"""Recordings to training material: the folder's layout, checking, and the latent cache."""

from acestep.datasets.annotations import Annotation
from acestep.datasets.augmentation import Augmentation
from acestep.datasets.folder import DatasetFolder, Problem, Track, read_dataset_folder
from acestep.datasets.latent_dataset import Batch, CachedTrack, CachedVariant, Example, LatentDataset, track_changes
from acestep.datasets.prefetching import prefetch
from acestep.datasets.preparation import PreparationProgress, prepare_dataset

__all__ = [
    "Annotation",
    "Augmentation",
    "Batch",
    "CachedTrack",
    "CachedVariant",
    "DatasetFolder",
    "Example",
    "LatentDataset",
    "PreparationProgress",
    "Problem",
    "Track",
    "prefetch",
    "prepare_dataset",
    "read_dataset_folder",
    "track_changes",
]
