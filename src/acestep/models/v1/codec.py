"""Waveform to latents and back: log-mel, autoencoder and vocoder put together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.errors import InputError
from acestep.models.v1.autoencoder import MusicAutoencoder
from acestep.models.v1.log_mel import LogMel
from acestep.models.v1.phase_vocoder import PhaseVocoder
from acestep.models.v1.vocoder import Vocoder
from acestep.models.v1.windows import in_windows

# The released overlapped decoding: windows of 512 latent frames half over each other, then vocoder windows of 512 mel
# frames that overlap by 4, joined in the middle of the overlap with a fade of 128 samples.
_OVERLAP_LATENT_WINDOW = 512
_OVERLAP_MEL_WINDOW = 512
_OVERLAP_MEL_FRAMES = 4
_OVERLAP_FADE_SAMPLES = 128


class MusicCodec(nn.Module):
    """Stereo audio at the model's sample rate to latents (batch, 8, 16, frames), and back.

    window_frames: mel frames (about 86 a second) that convolutions are given at once. Windows overlap by all that a
    result can depend on, so this bounds memory and changes nothing that is heard.
    """

    def __init__(
        self,
        autoencoder: MusicAutoencoder,
        log_mel: LogMel,
        vocoder: Vocoder | PhaseVocoder,
        *,
        window_frames: int = 4096,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.log_mel = log_mel
        self.vocoder = vocoder
        self.window_frames = window_frames

    @property
    def sample_rate(self) -> int:
        return self.log_mel.config.sampling_rate

    @property
    def samples_per_frame(self) -> int:
        """Audio samples of one latent frame: 4096 in v1."""
        return self.log_mel.hop_length * self.autoencoder.config.compression

    def latent_frames(self, samples: int, *, sample_rate: int | None = None) -> int:
        """Whole latent frames in a recording; encoding pads to the next frame, so its latents may be one longer."""
        seconds = samples / (sample_rate or self.sample_rate)
        return int(seconds * self.sample_rate / self.log_mel.hop_length / self.autoencoder.config.compression)

    def encode(self, audio: Tensor) -> Tensor:
        """Recordings to latents; raises InputError when there are no samples.

        audio: (batch, 2, samples) in [-1, 1] at `sample_rate`, zero-padded here up to whole frames
        -> (batch, 8, 16, frames) float32
        """
        if audio.shape[-1] == 0:
            raise InputError("the audio to encode has no samples")
        padded = F.pad(audio, (0, -audio.shape[-1] % self.samples_per_frame))
        return self.autoencoder.encode(self.log_mel(padded), window_frames=self.window_frames)

    def decode(self, latents: Tensor, *, overlap: bool = False) -> Tensor:
        """latents: (batch, 8, 16, frames) -> (batch, 2, frames * 4096) float32 in [-1, 1]

        overlap: decode in the released implementation's own windows, which it can be told to use beyond 48 s. Not equal
        to decoding at once; it is here to make again songs that were made that way.
        """
        if overlap:
            return self._vocode_with_fades(self._decode_mel_in_windows(latents))
        return self.vocode(self.autoencoder.decode(latents, window_frames=self.window_frames))

    def vocode(self, mel: Tensor) -> Tensor:
        """mel: (batch, 2, 128, frames) natural log -> (batch, 2, frames * 512) float32, each channel on its own"""
        batch, channels, bands, frames = mel.shape
        flat = mel.reshape(batch * channels, bands, frames)
        vocoder = self.vocoder
        if (halo := vocoder.halo_frames) is None:
            audio: Tensor = vocoder(flat)
        else:
            audio = in_windows(vocoder, flat, window=self.window_frames, halo=halo, scale=vocoder.hop_length)
        return audio.reshape(batch, channels, -1)

    def _decode_mel_in_windows(self, latents: Tensor) -> Tensor:
        """Mel of latent windows that lie half over each other, each cut a quarter window from its inner edges."""
        size, frames = _OVERLAP_LATENT_WINDOW, latents.shape[-1]
        cut = size // 4 * self.autoencoder.config.compression
        parts = []
        for start in _window_starts(frames, size=size, hop=size // 2):
            mel = self.autoencoder.decode(latents[..., start : start + size])
            is_last = start + size >= frames
            parts.append(mel[..., cut if start else 0 : None if is_last else -cut])
        return torch.cat(parts, dim=-1)

    def _vocode_with_fades(self, mel: Tensor) -> Tensor:
        """Windows of the mel made into audio apart; the last is filled up with mel zeros, which are not silence."""
        batch, channels, bands, frames = mel.shape
        flat = mel.reshape(batch * channels, bands, frames)
        size, hop_length = _OVERLAP_MEL_WINDOW, self.vocoder.hop_length
        cut, fade_samples = _OVERLAP_MEL_FRAMES // 2 * hop_length, _OVERLAP_FADE_SAMPLES
        fade = torch.linspace(0, 1, fade_samples, device=mel.device)
        joined = flat.new_zeros(len(flat), 0)
        for start in _window_starts(frames, size=size, hop=size - _OVERLAP_MEL_FRAMES):
            window = flat[..., start : start + size]
            audio: Tensor = self.vocoder(F.pad(window, (0, size - window.shape[-1])))[:, 0]
            if start == 0:
                joined = audio
                continue
            # The new window takes over in the middle of the overlap.
            kept = joined[:, :-cut]
            faded = torch.lerp(kept[:, -fade_samples:], audio[:, cut - fade_samples : cut], fade)
            joined = torch.cat([kept[:, :-fade_samples], faded, audio[:, cut:]], dim=-1)
        return joined[:, : frames * hop_length].reshape(batch, channels, -1)


def _window_starts(length: int, *, size: int, hop: int) -> Iterator[int]:
    """Starts of windows a hop apart, until one reaches the end."""
    start = 0
    yield start
    while start + size < length:
        start += hop
        yield start
