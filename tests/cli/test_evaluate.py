from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from acestep.evaluation.report_card import read_card
from acestep.families.loading import load_family
from acestep.lora.adapter import Adapter, Factors, write_adapter
from acestep.lora.attach import module_shapes
from cli.command import acestep
from small_family import write_dataset

MODULE = "transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="module")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of some size on one module."""
    rows, columns = module_shapes(load_family(model).network)[MODULE][:2]
    torch.manual_seed(0)
    factors = Factors(torch.randn(2, columns), torch.randn(rows, 2))
    return write_adapter(tmp_path_factory.mktemp("loras") / "mine", Adapter({MODULE: factors}))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("lofi\n", encoding="utf-8")
    return path


def test_a_lora_is_evaluated_into_a_folder_that_can_be_opened(
    model: Path, lora: Path, prompts: Path, tmp_path: Path
) -> None:
    held_out = write_dataset(tmp_path / "held_out", tracks=2, duration_s=3)
    before = sorted(held_out.rglob("*"))
    common = (
        "evaluate",
        f"{lora}:0.5",
        "--model",
        model,
        "--prompts",
        prompts,
        "--seeds",
        1,
        "--duration",
        5,
        "--suite",
        0,
    )
    outcome = acestep(*common, "--held-out", held_out, "--out", "report", "--json")
    assert outcome.status == 0, outcome.stderr
    told = outcome.json
    assert told["weight"] == 0.5
    assert [figure["key"] for figure in told["figures"]] == ["held_out_loss", "distance_to_style"]
    assert [item["measure"] for item in told["left_out"]][:2] == ["style classifier", "Fréchet distance"]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.html", "evaluation.json", "songs"}
    assert len(list((tmp_path / "report" / "songs").glob("*.flac"))) == 2
    assert sorted(held_out.rglob("*")) == before
    refused = acestep(*common, "--out", "report")
    assert refused.status == 1
    assert "--force" in refused.stderr


def test_a_dataset_gives_prompts_and_what_was_held_out_and_a_second_run_gives_the_same_json(
    model: Path, lora: Path, tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "data", tracks=5, duration_s=6)
    own = tmp_path / "own"
    shutil.copytree(lora, own)
    common = ("evaluate", own, "--model", model, "--dataset", dataset, "--seeds", 1, "--duration", 5, "--suite", 0)
    common += ("--strengths", "0,0.5,1", "--validation-split", 0.5)
    first = acestep(*common, "--out", "report", "--json")
    assert first.status == 0, first.stderr
    card = read_card(own)
    assert card.strengths == [0, 0.5, 1]
    assert card.dataset["held_out_tracks"] >= 1
    assert {song.prompt for song in card.songs} <= {f"tone number {number}, drone, calm" for number in range(5)}
    assert card.text() == (tmp_path / "report" / "evaluation.json").read_text()
    again = acestep(*common, "--out", "report", "--json", "--force")
    assert again.json == first.json
    assert card.text() == (own / "evaluation.json").read_text()


def test_a_files_lora_is_measured_and_left_alone(model: Path, lora: Path, prompts: Path, tmp_path: Path) -> None:
    shutil.copy(lora / "pytorch_lora_weights.safetensors", tmp_path / "mine.safetensors")
    before = (tmp_path / "mine.safetensors").read_bytes()
    outcome = acestep(
        "evaluate", "mine.safetensors:1", "--model", model, "--prompts", prompts, "--seeds", 1, "--duration", 5,
        "--out", "report", "--suite", 0,
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    assert "nothing was written into it" in outcome.stderr
    assert (tmp_path / "mine.safetensors").read_bytes() == before
    assert (tmp_path / "report" / "evaluation.json").is_file()


def test_a_folder_that_holds_something_else_is_never_replaced(lora: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    outcome = acestep("evaluate", lora, "--prompts", prompts, "--out", "mine", "--force")
    assert outcome.status == 1
    assert "is no evaluation" in outcome.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_ctrl_c_leaves_no_folder(
    model: Path, lora: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, folder: Path, **__: object) -> None:
        (folder / "songs").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("acestep.evaluation.evaluation.generate_comparisons", interrupted)
    outcome = acestep("evaluate", lora, "--model", model, "--prompts", prompts, "--out", "report")
    assert outcome.status == 130
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--seeds", "one"], 2, "are not seeds"),
        (["--strengths", "0,much"], 2, "are not strengths"),
        (["--strengths", "0,11"], 2, "outside -10 to 10"),
        (["--strengths", "0"], 1, "a weight other than 0"),
        (["--dataset", "none"], 1, "none"),
        (["--duration", "500"], 1, "give 5 to 240 s"),
        (["--held-out", "none"], 1, "no folder none"),
    ],
)
def test_bad_input_is_named(
    model: Path, lora: Path, prompts: Path, arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    outcome = acestep("evaluate", lora, "--model", model, "--prompts", prompts, "--out", "report", *arguments)
    assert outcome.status == status, outcome.stderr
    assert said in outcome.stderr
    assert not (tmp_path / "report").exists()


def test_a_lora_for_another_base_is_refused(model: Path, prompts: Path, tmp_path: Path) -> None:
    alien = Adapter({"some.other.module": Factors(torch.zeros(1, 3), torch.zeros(3, 1))})
    write_adapter(tmp_path / "alien", alien)
    outcome = acestep("evaluate", tmp_path / "alien", "--model", model, "--prompts", prompts, "--out", "report")
    assert outcome.status == 1
    assert not (tmp_path / "report").exists()
