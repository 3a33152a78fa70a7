from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep.errors import InputError
from acestep.evaluation.evaluation import Evaluation, evaluate_lora
from acestep.evaluation.report_card import ReportCard, publish_card, read_card, report_card, save_card
from acestep.lora.adapter import Adapter, Factors, read_adapter, write_adapter
from acestep.lora.metadata import AdapterMetadata
from evaluation.fake_pipeline import BrightnessPipeline
from evaluation.test_evaluation import BRIGHT, PROMPTS

DOCS = Path(__file__).parents[2] / "docs" / "evaluation-json.md"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    factors = Factors(torch.ones(2, 3), torch.ones(4, 2))
    # No strength that is going to be recommended, so that recommending one changes the file.
    adapter = Adapter({"layer": factors}, AdapterMetadata(family="v1", method="trained", recommended_strength=0.3))
    return write_adapter(tmp_path_factory.mktemp("loras") / "bright", adapter)


@pytest.fixture(scope="module")
def evaluation(lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate_lora(
        BrightnessPipeline(6.0), lora, PROMPTS, folder=tmp_path_factory.mktemp("evaluation"), strengths=(0.5, 1.0, 1.5),
        seeds=(1,), duration_s=5.0, held_out=BRIGHT, steps=3,
    )  # fmt: skip


def test_a_card_reads_back_as_it_was_written(evaluation: Evaluation, tmp_path: Path) -> None:
    path = save_card(evaluation, tmp_path)
    assert read_card(tmp_path) == read_card(path) == report_card(evaluation)
    assert json.loads(path.read_text())["sampling"] == {"steps": 3}


def test_every_field_of_the_schema_is_explained_in_the_documentation() -> None:
    told = set(re.findall(r"`([a-z_0-9]+)`", DOCS.read_text(encoding="utf-8")))
    schema = ReportCard.model_json_schema()
    fields = set(schema["properties"]) | {name for part in schema["$defs"].values() for name in part["properties"]}
    assert fields <= told, fields - told


def test_a_card_holds_no_path_of_the_machine(evaluation: Evaluation, tmp_path: Path) -> None:
    assert "/tmp" not in report_card(evaluation).text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "acestep-evaluation-9"}, "schema"),
        ({"seeds": "many"}, "seeds"),
        ({"more": 1}, "more"),
    ],
)
def test_another_files_json_is_refused_with_the_place(
    evaluation: Evaluation, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    values = json.loads(report_card(evaluation).text())
    (tmp_path / "evaluation.json").write_text(json.dumps({**values, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_card(tmp_path)
    (tmp_path / "evaluation.json").write_text(report_card(evaluation).text()[:500], encoding="utf-8")
    with pytest.raises(InputError, match="no report card"):
        read_card(tmp_path)


def test_publishing_writes_card_and_strength_and_a_second_time_changes_nothing(
    evaluation: Evaluation, lora: Path, tmp_path: Path
) -> None:
    own = tmp_path / "bright"
    shutil.copytree(lora, own)
    given = replace(evaluation, lora=str(own))
    published, said = publish_card(given)
    assert evaluation.curve.recommended is not None
    assert f"{evaluation.curve.recommended:g} is written" in said
    assert read_adapter(own).metadata.recommended_strength == evaluation.curve.recommended
    card = read_card(own)
    assert card == report_card(published)
    assert card.adapter.tensors_sha256 == report_card(given).adapter.tensors_sha256
    assert card.adapter.sha256 != report_card(given).adapter.sha256
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    publish_card(published)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


def test_a_full_disk_leaves_the_adapter_as_it_was_and_is_said(
    evaluation: Evaluation, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "bright"
    shutil.copytree(lora, own)
    before = {path.name: path.read_bytes() for path in own.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acestep.lora.recommendation.shutil.copyfileobj", full)
    _, said = publish_card(replace(evaluation, lora=str(own)))
    assert "No space left" in said
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bright"]
