from __future__ import annotations

import errno
import json
import logging
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from acestep.cli.reporting import reporting
from acestep.errors import InputError

app = typer.Typer()
FAILURES: dict[str, BaseException] = {
    "ours": InputError("steps is 0; give 1 to 1000 [not markup]"),
    "disk": OSError(errno.ENOSPC, "No space left on device", "song.wav"),
    "bug": ValueError("unexpected shape"),
    "ctrl-c": KeyboardInterrupt(),
}


@app.command()
def command(
    failure: str,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    debug: Annotated[bool, typer.Option()] = False,
) -> None:
    with reporting(as_json=as_json, debug=debug) as reporter:
        print("a library's chatter")
        logging.getLogger("acestep.somewhere").warning("a warning of ours")
        with reporter.progress("Working") as progress:
            progress(1, 2)
            if failure in FAILURES:
                raise FAILURES[failure]
        reporter.result({"answer": 42}, "the answer is 42")


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        ("ours", 1, "error: steps is 0; give 1 to 1000 [not markup]"),
        ("disk", 1, "error: No space left on device: song.wav"),
        ("bug", 1, "--debug"),
        ("ctrl-c", 130, "nothing half-written"),
    ],
)
def test_an_error_is_one_message_and_a_status(failure: str, status: int, said: str) -> None:
    result = CliRunner().invoke(app, [failure])
    assert result.exit_code == status
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("failure", [*FAILURES, "none"])
def test_with_json_stdout_holds_one_object_whatever_happens(failure: str) -> None:
    result = CliRunner().invoke(app, [failure, "--json"])
    told = json.loads(result.stdout)
    if failure == "none":
        assert told == {"answer": 42}
    else:
        assert told.keys() == {"error"}
        assert told["error"].keys() == {"kind", "message"}
    assert "a library's chatter" in result.stderr


def test_debug_lets_the_error_rise() -> None:
    result = CliRunner().invoke(app, ["ours", "--debug"])
    assert isinstance(result.exception, InputError)


def test_our_warnings_reach_the_user_and_the_logger_is_left_as_it_was() -> None:
    logger = logging.getLogger("acestep")
    handlers = list(logger.handlers)
    result = CliRunner().invoke(app, ["none"])
    assert "a warning of ours" in result.stderr
    assert logger.handlers == handlers
    assert logger.propagate
