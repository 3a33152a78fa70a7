"""Keys, scales and chords as MIDI note numbers; no sound here."""

from __future__ import annotations

from dataclasses import dataclass

PITCH_CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}


@dataclass(frozen=True)
class Key:
    """A tonic (0 is C) and a mode, with its seven scale notes."""

    tonic: int
    mode: str

    def __str__(self) -> str:
        return f"{PITCH_CLASSES[self.tonic]} {self.mode}"

    def note(self, degree: int, lowest: int) -> int:
        """MIDI number of a scale degree; degree 0 is the first tonic at or above `lowest`, 7 its octave."""
        root = lowest + (self.tonic - lowest) % 12
        octave, step = divmod(degree, 7)
        return root + 12 * octave + SCALES[self.mode][step]

    def chord(self, degree: int, size: int, lowest: int) -> tuple[int, ...]:
        """Stacked thirds on a scale degree, each note folded into the octave that starts at `lowest`.

        Folding keeps chords close together whatever the key, so voices move by small steps.
        """
        stacked = (self.note(degree + 2 * third, lowest) for third in range(size))
        return tuple(sorted(lowest + (note - lowest) % 12 for note in stacked))

    def root(self, degree: int, lowest: int) -> int:
        """The chord's root, folded into the octave that starts at `lowest`."""
        return lowest + (self.note(degree, lowest) - lowest) % 12
