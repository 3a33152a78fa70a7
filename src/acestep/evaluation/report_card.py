"""evaluation.json: an evaluation as one small file, which a gallery shows and which anyone can make again.

Its schema is the models below, `acestep-evaluation-2`, described in docs/evaluation-json.md. It holds no path, no time
and nothing else that differs between two runs of one command.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from acestep.errors import AceStepError, InputError
from acestep.evaluation.evaluation import Evaluation, verdict
from acestep.evaluation.provenance import describe_adapter
from acestep.evaluation.side_by_side import Comparison, Take
from acestep.evaluation.whole_file import write_text_whole
from acestep.lora.lineage import name_of
from acestep.lora.recommendation import is_own_folder, write_findings

RESULT_FILE = "evaluation.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AdapterRecord(_Record):
    name: str
    sha256: str | None = None
    tensors_sha256: str | None = None


class BaseRecord(_Record):
    model: str
    fingerprint: str


class IntervalRecord(_Record):
    """A value with its 95 % interval from `count` independent observations; an end that is not known is null."""

    value: float
    low: float | None
    high: float | None
    count: int


class FigureRecord(_Record):
    key: str
    name: str
    base: float
    lora: float
    recordings: float | None
    change: IntervalRecord
    verdict: str
    recognised: dict[str, int] | None = None


class LevelRecord(_Record):
    sigma: float
    base: float
    lora: float
    change: IntervalRecord


class PointRecord(_Record):
    strength: float
    aim: IntervalRecord | None
    held_out_loss: IntervalRecord | None
    moved: float
    songs: int
    harms: list[str]


class StrengthRecord(_Record):
    aim: str | None
    points: list[PointRecord]
    good: list[float]
    recommended: float | None
    reason: str


class FindingRecord(_Record):
    key: str
    title: str
    says: str
    alarm: bool
    details: dict[str, Any]


class LeftOutRecord(_Record):
    measure: str
    why: str


class DistanceRecord(_Record):
    lora: float
    between_base_songs: float | None


class TakeRecord(_Record):
    strength: float
    audio: str
    loudness_lufs: float | None
    gain_db: float
    flaws: list[Literal["broken", "silent", "clipped"]]


class SongRecord(_Record):
    prompt: str
    lyrics: str
    seed: int
    takes: list[TakeRecord]


class ReportCard(_Record):
    """The whole file."""

    schema_: Literal["acestep-evaluation-2"]
    verdict: str
    adapter: AdapterRecord
    base: BaseRecord
    weight: float
    strengths: list[float]
    seeds: list[int]
    duration_s: float
    sampling: dict[str, Any]
    prompts_sha256: str
    dataset: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    figures: list[FigureRecord]
    held_out_loss_by_level: list[LevelRecord]
    distance_from_base: DistanceRecord
    strength: StrengthRecord
    findings: list[FindingRecord]
    left_out: list[LeftOutRecord]
    songs: list[SongRecord]

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, alias_generator=lambda name: name.rstrip("_")
    )

    def text(self) -> str:
        values = self.model_dump(mode="json", by_alias=True)
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def report_card(evaluation: Evaluation) -> ReportCard:
    """The card of an evaluation; the same evaluation gives the same."""
    made = evaluation.provenance
    values = {
        "schema": "acestep-evaluation-2",
        "verdict": verdict(evaluation),
        "adapter": {"name": name_of(evaluation.lora), **made.adapter},
        "base": {"model": name_of(evaluation.model), "fingerprint": evaluation.fingerprint},
        "weight": evaluation.weight,
        "strengths": [0.0, *evaluation.strengths],
        "seeds": list(evaluation.seeds),
        "duration_s": evaluation.duration_s,
        "sampling": evaluation.sampling,
        "prompts_sha256": made.prompts,
        "dataset": dict(made.dataset),
        "versions": dict(made.versions),
        "machine": dict(made.machine),
        "figures": [figure.as_dict() for figure in evaluation.figures],
        "held_out_loss_by_level": [
            {"sigma": sigma, "base": base, "lora": adapted, "change": change.as_dict()}
            for sigma, base, adapted, change in (evaluation.losses.by_level if evaluation.losses else ())
        ],
        "distance_from_base": {"lora": evaluation.moved, "between_base_songs": _or_none(evaluation.apart)},
        "strength": evaluation.curve.as_dict(),
        "findings": [finding.as_dict() for finding in evaluation.findings],
        "left_out": [{"measure": measure, "why": why} for measure, why in evaluation.left_out],
        "songs": [_song(comparison) for comparison in evaluation.comparisons],
    }
    return ReportCard.model_validate(values)


def save_card(evaluation: Evaluation, folder: Path) -> Path:
    """Write evaluation.json into a folder, whole or not at all."""
    return write_text_whole(folder / RESULT_FILE, report_card(evaluation).text())


def read_card(path: Path) -> ReportCard:
    """Read evaluation.json, of a file or of the folder that holds it; InputError says what is wrong with it."""
    path = path / RESULT_FILE if path.is_dir() else path
    try:
        return ReportCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name an evaluation's folder") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path} is no report card of acestep: {place}: {first['msg']}") from None


def publish_card(evaluation: Evaluation, *, recommend: bool = True) -> tuple[Evaluation, str]:
    """Put the card into the adapter's own folder, and with `recommend` the recommended strength into its metadata.

    Only a folder on this machine that acestep wrote is touched, whole or not at all. -> the evaluation with the
    adapter's hashes as they are now, and what was done, in words. A folder that cannot be written is said, not raised:
    the evaluation itself lies elsewhere.
    """
    folder = Path(evaluation.lora)
    recommended = evaluation.curve.recommended if recommend else None
    updated = evaluation
    try:
        if not is_own_folder(folder):
            return evaluation, "The LoRA is no adapter folder that acestep wrote here, so nothing was written into it."

        def card(weights: Path) -> dict[str, str]:
            nonlocal updated
            hashes = {**describe_adapter(weights), "name": evaluation.provenance.adapter["name"]}
            updated = replace(evaluation, provenance=replace(evaluation.provenance, adapter=hashes))
            return {RESULT_FILE: report_card(updated).text()}

        write_findings(folder, recommended_strength=recommended, files=card)
    except (OSError, AceStepError) as error:
        return evaluation, f"The report card could not be put into {folder}: {error}"
    if recommended is None:
        return updated, f"The report card lies in {folder}."
    return updated, f"The report card lies in {folder}, and {recommended:g} is written there as its strength."


def _song(comparison: Comparison) -> dict[str, Any]:
    return {
        "prompt": comparison.prompt.prompt,
        "lyrics": comparison.prompt.lyrics,
        "seed": comparison.seed,
        "takes": [_take(take) for take in comparison.takes],
    }


def _take(take: Take) -> dict[str, Any]:
    return {
        "strength": take.strength,
        "audio": take.audio,
        "loudness_lufs": _or_none(take.loudness_lufs),
        "gain_db": take.gain_db,
        "flaws": list(take.flaws),
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
