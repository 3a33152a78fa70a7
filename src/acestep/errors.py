"""Errors that acestep raises on purpose: one class per thing a caller would do differently.

Every message says what was found, what was expected and what to do.
"""

from __future__ import annotations


class AceStepError(Exception):
    """Base of every error that acestep raises on purpose."""


class InputError(AceStepError):
    """An argument, prompt, lyric or setting that cannot be used as it is; change it and call again."""


class AudioError(AceStepError):
    """A recording that cannot be read or written."""


class MissingWeightsError(AceStepError):
    """Weights or a vocabulary that are not on this machine; the message names the command that gets them."""


class CheckpointError(AceStepError):
    """A checkpoint or adapter file whose contents do not fit what was asked of it."""


class AdapterError(AceStepError):
    """An adapter that does not fit the base model it is to be attached to."""


class DatasetError(AceStepError):
    """A training folder that cannot be trained on as it is."""


class ConfigError(AceStepError):
    """A configuration file with problems; the message lists all of them."""


class TrainingError(AceStepError):
    """A run that had to stop, with the place where its last good state lies."""
