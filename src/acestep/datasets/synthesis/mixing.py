"""From notes to stereo sound: place one-shots, add echo, reverb and pumping, and master.

Plain numpy; a core renders about 100 times faster than real time once its notes are cached.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from acestep.datasets.synthesis import percussion, timbres, voice
from acestep.datasets.synthesis.composition import Note, Score
from acestep.datasets.synthesis.styles import Style
from acestep.datasets.synthesis.timbres import SAMPLE_RATE

Stereo = NDArray[np.float32]
REVERB_BLOCK = 65536
LEVELS = {"bass": 0.75, "chords": 0.3, "extra": 0.32, "lead": 0.6, "voice": 0.8}
PAN_WIDTH = {"bass": 0.0, "chords": 0.5, "extra": 0.7, "lead": 0.1, "voice": 0.0}
SENDS = {"bass": 0.05, "chords": 0.8, "extra": 1.0, "lead": 1.0, "voice": 1.0, "drums": 0.35}
TARGET_RMS = 0.14
# No recording is digitally silent between notes; without this the log-mel jumps to its floor there.
NOISE_FLOOR = np.float32(5e-4)
_DARK_DRUMS = ("kick", "tom", "timpani", "tabla low")
_DRUM_PAN = {
    "hat": 0.25,
    "ride": -0.3,
    "crash": 0.3,
    "shaker": -0.35,
    "tambourine": 0.35,
    "conga": 0.3,
    "rim": -0.15,
    "tom": 0.2,
    "tabla high": 0.2,
}


def render(
    style: Style,
    score: Score,
    instruments: dict[str, str],
    *,
    step_s: float,
    duration_s: float,
    high_voice: bool,
    rng: np.random.Generator,
) -> Stereo:
    """Play a score; `instruments` names a timbre for each part but the voice.

    -> (2, samples) float32 at 44.1 kHz, peak below 0.98
    """
    count = round(duration_s * SAMPLE_RATE)
    mix = np.zeros((2, count), dtype=np.float32)
    send = np.zeros((2, count), dtype=np.float32)
    ducking = _ducking(style, score, step_s, count)
    for part, notes in score.parts.items():
        bus = np.zeros((2, count), dtype=np.float32)
        for index, one in enumerate(notes):
            _play(bus, style, part, one, index, instruments.get(part, ""), step_s, high_voice=high_voice)
        bus *= LEVELS[part]
        if style.echo and part in ("lead", "voice", "extra"):
            _echo(bus, style.echo, round(3 * step_s * SAMPLE_RATE))
        if ducking is not None:
            bus *= ducking
        mix += bus
        send += SENDS[part] * bus
    drums = np.zeros((2, count), dtype=np.float32)
    for drum, strokes in score.drums.items():
        pan = next((value for word, value in _DRUM_PAN.items() if word in drum), 0.0)
        for index, (step, velocity) in enumerate(strokes):
            start = round(_swung(step, style) * step_s * SAMPLE_RATE)
            _place(drums, percussion.hit(drum, index % percussion.TAKES), start, 0.5 * velocity, pan)
    mix += drums
    if style.reverb:
        mix += style.reverb * _reverberate(send + SENDS["drums"] * drums, 2.2 if style.reverb > 0.3 else 1.3)
    if style.hiss:
        mix += style.hiss * _hiss(count, rng)
    return _master(mix) + NOISE_FLOOR * rng.standard_normal((2, count), dtype=np.float32)


def _swung(step: float, style: Style) -> float:
    """Delay the off-beat steps: a swing of 0.67 turns straight pairs into triplets."""
    if not style.swing:
        return step
    unit = style.swing_steps
    pair = step % (2 * unit)
    offset = pair / unit * (1 + style.swing / 2) if pair < unit else 2 - (2 - pair / unit) * (1 - style.swing / 2)
    return step - pair + unit * offset


def _play(
    bus: Stereo, style: Style, part: str, one: Note, index: int, instrument: str, step_s: float, *, high_voice: bool
) -> None:
    start_step, end_step = _swung(one.step, style), _swung(one.step + one.length, style)
    start = round(start_step * step_s * SAMPLE_RATE)
    if part == "voice":
        source = voice.sung(one.vowel or "a", one.midi if high_voice else one.midi - 12, high=high_voice)
        release = 0.08
        _place(bus, voice.consonant(index % 8), max(0, start - 1500), one.velocity, 0.0)
    else:
        source = timbres.note(instrument, one.midi)
        release = timbres.release_of(instrument)
    held = round((end_step - start_step) * step_s * SAMPLE_RATE)
    fade = round(release * SAMPLE_RATE)
    length = min(source.size, held + fade)
    fade = min(fade, length)
    shaped = source[:length].copy()
    shaped[length - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    pan = PAN_WIDTH[part] * (1, -1, 0.4, -0.4)[index % 4]
    _place(bus, shaped, start, one.velocity, pan)


def _place(bus: Stereo, sound: NDArray[np.float32], start: int, gain: float, pan: float) -> None:
    kept = min(sound.size, bus.shape[1] - start)
    if kept <= 0 or start < 0:
        return
    bus[0, start : start + kept] += (gain * np.float32(1 - max(pan, 0))) * sound[:kept]
    bus[1, start : start + kept] += (gain * np.float32(1 + min(pan, 0))) * sound[:kept]


def _echo(bus: Stereo, amount: float, delay: int) -> None:
    """Two repeats that change sides."""
    dry = bus.copy()
    for tap, gain in ((1, amount), (2, amount * 0.5)):
        if tap * delay < bus.shape[1]:
            bus[:, tap * delay :] += gain * (dry[::-1] if tap % 2 else dry)[:, : -tap * delay]


def _ducking(style: Style, score: Score, step_s: float, count: int) -> NDArray[np.float32] | None:
    """Gain that dips at every kick and recovers within a beat, as a compressor keyed by the kick does."""
    if not style.pumping:
        return None
    gain = np.ones(count, dtype=np.float32)
    dip = 1 - style.pumping * np.exp(-np.arange(int(0.3 * SAMPLE_RATE), dtype=np.float32) / (0.1 * SAMPLE_RATE))
    for drum, strokes in score.drums.items():
        if "kick" not in drum:
            continue
        for step, _ in strokes:
            start = round(step * step_s * SAMPLE_RATE)
            kept = min(dip.size, count - start)
            if kept > 0:
                gain[start : start + kept] = np.minimum(gain[start : start + kept], dip[:kept])
    return gain


@lru_cache(maxsize=4)
def _room(seconds: float) -> NDArray[np.complex64]:
    """Spectrum of a stereo room: decaying noise, darker as it fades."""
    rng = np.random.default_rng(5)
    time = np.arange(REVERB_BLOCK) / SAMPLE_RATE
    noise = rng.standard_normal((2, REVERB_BLOCK))
    smooth = 0.5 * (noise + np.roll(noise, 1, axis=1))
    impulse = smooth * np.exp(-time * 6.9 / seconds) * (1 - np.exp(-time / 0.008))
    impulse /= np.sqrt(np.sum(impulse**2, axis=1, keepdims=True))
    return np.asarray(np.fft.rfft(impulse.astype(np.float32), 2 * REVERB_BLOCK), dtype=np.complex64)


def _reverberate(send: Stereo, seconds: float) -> Stereo:
    """Overlap-add convolution with the room. (2, samples) -> (2, samples)"""
    count = send.shape[1]
    blocks = -(-count // REVERB_BLOCK)
    padded = np.zeros((2, blocks * REVERB_BLOCK), dtype=np.float32)
    padded[:, :count] = send
    spectrum = np.fft.rfft(padded.reshape(2, blocks, REVERB_BLOCK), 2 * REVERB_BLOCK) * _room(seconds)[:, None, :]
    wet = np.fft.irfft(spectrum, 2 * REVERB_BLOCK).astype(np.float32)
    result = np.zeros((2, (blocks + 1) * REVERB_BLOCK), dtype=np.float32)
    result[:, : blocks * REVERB_BLOCK] += wet[:, :, :REVERB_BLOCK].reshape(2, -1)
    result[:, REVERB_BLOCK:] += wet[:, :, REVERB_BLOCK:].reshape(2, -1)
    return result[:, :count]


def _hiss(count: int, rng: np.random.Generator) -> Stereo:
    """Tape noise with the occasional click of a worn record."""
    noise = rng.standard_normal((2, count), dtype=np.float32) * np.float32(0.25)
    clicks = rng.integers(0, count - 40, size=count // 9000)
    for at in clicks:
        noise[:, at : at + 24] += np.float32(rng.uniform(1, 5)) * np.hanning(24).astype(np.float32)
    return noise


def _master(mix: Stereo) -> Stereo:
    """Bring the loudest two seconds to one level for every track, limit softly, and fade the last 30 ms."""
    window = 2 * SAMPLE_RATE
    energy = np.add.reduceat(np.mean(mix**2, axis=0), np.arange(0, mix.shape[1], window))
    loudest = np.sqrt(energy[: max(1, mix.shape[1] // window)].max() / window)
    limited = np.tanh(mix * np.float32(TARGET_RMS / (loudest + 1e-6)) * np.float32(1.05)) * np.float32(0.95)
    fade = min(int(0.03 * SAMPLE_RATE), mix.shape[1])
    limited[:, -fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return np.ascontiguousarray(limited, dtype=np.float32)
