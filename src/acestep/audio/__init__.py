"""Recordings: read, written and drawn; `audio.loudness` is apart, since it needs scipy. numpy only."""

from acestep.audio.files import probe, read_audio, read_tags, write_audio
from acestep.audio.spectrogram import mel_picture, peaks
from acestep.audio.streaming import Audio, AudioInfo, stream_recording

__all__ = [
    "Audio",
    "AudioInfo",
    "mel_picture",
    "peaks",
    "probe",
    "read_audio",
    "read_tags",
    "stream_recording",
    "write_audio",
]
