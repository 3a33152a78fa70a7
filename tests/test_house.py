"""The walls of the house: who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "acestep"

# Each room may import those before it in this list of floors, never a room of its own floor or above, but itself.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "wording"),
    ("audio", "diffusion"),
    ("models", "conditioning"),
    ("families",),
    ("lora",),
    ("pipeline", "datasets"),
    ("training",),
    ("evaluation",),
    ("studio", "cli"),
)
FLOOR_OF = {room: height for height, floor in enumerate(FLOORS) for room in floor}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in FLOORS[0])


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            whole = node.module == "acestep"
            names = [f"acestep.{alias.name}" for alias in node.names] if whole else [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("acestep.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_upward_only(path: Path) -> None:
    here = room_of(path)
    assert here in FLOOR_OF, f"{here} has no floor; say in this test where it stands"
    wrong = {room for room in imported_rooms(path) - {here} if FLOOR_OF[room] >= FLOOR_OF[here]}
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(p) in ("models", "diffusion")], ids=str)
def test_networks_and_mathematics_touch_no_files(path: Path) -> None:
    modules = {
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not modules & {"pathlib", "os", "io", "json", "tqdm", "rich", "safetensors.torch"}


def test_no_room_is_called_utils() -> None:
    assert not [path for path in PACKAGE.rglob("*") if path.stem in ("utils", "util", "helpers", "common", "misc")]


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_leaves_torch_unimported() -> None:
    loaded = run_python("import sys, acestep; print(*sys.modules)").split()
    assert not {"torch", "transformers", "numpy"} & set(loaded)


def test_the_promised_names_are_there() -> None:
    import acestep

    assert acestep.ACEStepPipeline.__name__ == "ACEStepPipeline"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = acestep.Nothing
