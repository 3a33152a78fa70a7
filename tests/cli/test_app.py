from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from cli.command import acestep


def test_the_version_is_the_packages() -> None:
    outcome = acestep("--version")
    assert (outcome.status, outcome.stdout) == (0, f"acestep {version('acesteps')}\n")


@pytest.mark.parametrize("arguments", ["--help", "generate --help", "evaluate --help", "train --help", "demo --help"])
def test_help_waits_for_no_library(arguments: str) -> None:
    code = (
        "import sys\n"
        "from acestep.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules), 'imported'\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "Usage" in process.stdout


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["generate"], ["generate", "--prompt", "a", "--steps", "many"], ["generate", "--promt", "a"]],
)
def test_a_wrong_call_ends_with_status_2_and_an_empty_stdout(arguments: list[str]) -> None:
    outcome = acestep(*arguments)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "Usage" in outcome.stderr
