from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from acestep.cli.lora import lora_app
from acestep.lora import Adapter, Factors, write_adapter
from small_adapter import MODULES, nano_adapter


def lora(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(lora_app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def lora_json(*arguments: object) -> Any:
    status, out, problems = lora(*arguments, "--json")
    assert status == 0, problems
    return json.loads(out)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_adapter(tmp_path / "mine", nano_adapter())


def test_inspect_tells_people_and_programs_the_same(mine: Path):
    status, text, _ = lora("inspect", mine, "--modules")
    assert status == 0
    for said in ("nano", "AceSteps", "LoRA", "5 (4 modules)", "1 (4 modules)", "the official ACE-Step", "ComfyUI"):
        assert said in text
    told = lora_json("inspect", mine)
    assert (told["base"], told["producer"], told["ranks"], told["strengths"]) == (
        "nano",
        "AceSteps",
        {"5": 4},
        {"1": 4},
    )
    assert told["not_finite"] == []
    assert {module["module"] for module in told["modules"]} == set(MODULES)
    assert lora_json("inspect", mine, "--header-only")["not_finite"] is None


def test_inspect_shows_what_is_wrong_with_a_file(tmp_path: Path, mine: Path):
    tensors = {"speaker_embedder.lora_A.weight": torch.full((1, 512), float("nan"))}
    tensors["speaker_embedder.lora_B.weight"] = torch.ones(256, 1)
    tensors["elsewhere[red].lora_B.weight"] = torch.ones(2, 1)
    save_file(tensors, tmp_path / "x.safetensors")
    _, text, _ = lora("inspect", "x.safetensors")
    assert "NaN or infinity): speaker_embedder.lora_A.weight" in text
    assert "Keys of no module: elsewhere[red].lora_B.weight" in text


@pytest.mark.parametrize("to", ["kohya", "comfyui"])
def test_convert_and_verify_against_the_source(mine: Path, to: str):
    done = lora_json("convert", mine, "out.safetensors", "--to", to)
    assert (done["modules"], done["rank"], done["lost"], done["dtype"]) == (4, 5, {}, "float32")
    assert lora_json("verify", mine, "out.safetensors")["verified"]["out.safetensors"]["largest"] == 0
    status, _, problems = lora("convert", mine, "out.safetensors", "--to", to)
    assert status == 1
    assert "there already" in problems
    assert lora("convert", mine, "out.safetensors", "--to", to, "--force")[0] == 0


def test_a_lower_rank_tells_its_cost(mine: Path):
    _, text, _ = lora("convert", mine, "small", "--to", "acestep", "--rank", 2)
    assert "loses up to" in text


def test_verify_tries_every_format_without_another_file(mine: Path):
    verified = lora_json("verify", mine)["verified"]
    assert set(verified) == {"acestep", "peft", "diffusers", "comfyui", "kohya"}
    assert all(result["largest"] == 0 for result in verified.values())
    assert "nowhere" in lora("verify", mine, "--to", "peft")[1]


def test_the_list_has_the_released_and_the_planned(mine: Path):
    told = lora_json("list")["loras"]
    assert {item["name"] for item in told if item["status"] == "planned"} >= {"StemGen", "EDMaster"}
    _, text, _ = lora("list")
    assert "RapMachine (released, 52 MB)" in text
    assert "ACE-Step/ACE-Step-v1-chinese-rap-LoRA" in text


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["inspect", "nothing"], 1, "no adapter at nothing"),
        (["inspect", "StemGen"], 1, "planned"),
        (["convert", "mine", "out", "--to", "a1111"], 1, "choose one of acestep"),
        (["convert", "mine", "out"], 2, "--to"),
        (["convert", "mine", "out", "--to", "peft", "--dtype", "int3"], 2, "no dtype"),
        (["convert", "mine", "out", "--to", "peft", "--base", "./nowhere"], 1, "no folder"),
        (["verify", "mine", "other"], 1, "other"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_left(
    mine: Path, tmp_path: Path, arguments: list[str], status: int, said: str
):
    found, _, problems = lora(*arguments)
    assert (found, said in problems) == (status, True), problems
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_two_adapters_of_other_modules_are_not_called_equal(mine: Path, tmp_path: Path):
    write_adapter(tmp_path / "other", Adapter({MODULES[3]: Factors(torch.ones(1, 512), torch.ones(256, 1))}))
    told = lora_json("verify", mine, "other")["verified"]["other"]
    assert told["largest"] > 0
    assert set(told["missing"]) == set(MODULES[:3])
