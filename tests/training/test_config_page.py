"""docs/train.md against the settings that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from acestep.training.building import flat_settings
from acestep.training.config import TrainingConfig

PAGE = (Path(__file__).parents[2] / "docs/train.md").read_text(encoding="utf-8")
CONFIG = PAGE.partition("```yaml\n")[2].partition("```")[0]
ROWS = re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", PAGE.partition("## All settings")[2], flags=re.MULTILINE)
NOTHING = {"none", "the base's"}


def read(folder: Path, text: str) -> TrainingConfig:
    path = folder / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return TrainingConfig.from_yaml(path)


def with_default(name: str, told: str) -> str:
    """The row as a config file would say it."""
    value = told.strip("`")
    keys = name.split(".")
    return "{" + ": {".join(keys) + f": {'null' if value in NOTHING else value}" + "}" * len(keys)


def test_the_config_of_the_page_is_what_the_defaults_are(tmp_path: Path):
    assert read(tmp_path, CONFIG) == TrainingConfig()


@pytest.mark.parametrize(("name", "told"), [row for row in ROWS if row[0] != "training.conditioning_dropout"])
def test_every_default_of_the_table_is_the_default(tmp_path: Path, name: str, told: str):
    assert read(tmp_path, with_default(name, told)) == TrainingConfig()


def test_every_setting_is_on_the_page():
    told = {*_names(yaml.safe_load(CONFIG)), *(name for name, _ in ROWS)}
    lacking = [name for name in flat_settings(TrainingConfig()) if not any(_holds(place, name) for place in told)]
    assert lacking == []


def _names(section: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        name
        for key, value in section.items()
        for name in (_names(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
    ]


def _holds(place: str, name: str) -> bool:
    return name == place or name.startswith(f"{place}.")
