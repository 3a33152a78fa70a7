"""Running `acestep` inside a test, as a shell would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from acestep.cli.app import app


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one object on stdout; fails where there is anything else."""
        return json.loads(self.stdout)


def acestep(*arguments: object) -> Outcome:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    # Boxes and line breaks of the terminal are no part of what is said.
    said = " ".join(result.stderr.translate(str.maketrans("│╭╮╰╯─", "      ")).split())
    return Outcome(result.exit_code, result.stdout, said)
