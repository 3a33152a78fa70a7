from __future__ import annotations

from pathlib import Path

from acestep.lora import AdapterMetadata, Parent
from acestep.lora.lineage import ancestors, as_parent, distinct_names, name_of, told_once


def merged(one: Parent, other: Parent, name: str) -> Parent:
    parents = told_once([one.model_copy(update={"weight": 0.5}), other.model_copy(update={"weight": 2.0})])
    return as_parent(AdapterMetadata(method="ties", parents=parents), name=name, sha256=name)


def test_a_lineage_of_many_generations_grows_with_its_files_and_can_be_read_again():
    older, newer = Parent(sha256="a", method="trained"), Parent(sha256="b", method="trained")
    for generation in range(40):
        older, newer = newer, merged(newer, older, f"g{generation}")
    assert {node.sha256 for node in ancestors(newer)} == {"a", "b", *(f"g{n}" for n in range(39))}
    assert len(list(ancestors(newer))) == 2 * 40
    read = AdapterMetadata.model_validate_json(AdapterMetadata(parents=(newer,)).model_dump_json())
    assert read.parents == (newer,)


def test_every_place_keeps_its_own_weight_and_only_the_first_its_parents():
    child = merged(Parent(sha256="a"), Parent(sha256="b"), "child")
    twice = told_once([child.model_copy(update={"weight": 3.0}), child])
    assert [node.weight for node in twice] == [3.0, 1.0]
    assert [[parent.weight for parent in node.parents] for node in twice] == [[0.5, 2.0], []]
    assert twice[1].method == "ties"


def test_a_chain_longer_than_json_can_be_nested_keeps_its_nearest_generations():
    node = Parent(sha256="0")
    for generation in range(1, 300):
        node = Parent(sha256=str(generation), parents=told_once([node]))
    read = AdapterMetadata.model_validate_json(AdapterMetadata(parents=told_once([node])).model_dump_json())
    found = [one.sha256 for one in ancestors(Parent(sha256="", parents=read.parents))]
    assert found == [str(299 - generation) for generation in range(len(found))]
    assert len(found) >= 50


def test_a_run_s_result_is_called_as_the_run_and_what_is_alike_is_numbered(tmp_path: Path):
    for place in ("one/adapter", "b/one"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "pytorch_lora_weights.safetensors").touch()
    assert name_of(tmp_path / "one" / "adapter") == "one"
    assert name_of(tmp_path / "one" / "adapter" / "pytorch_lora_weights.safetensors") == "one"
    assert distinct_names([tmp_path / "one" / "adapter", tmp_path / "b" / "one", "someone/lora"]) == [
        "one",
        "one (2)",
        "someone/lora",
    ]
