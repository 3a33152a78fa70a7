import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from acestep.lora.whole_folder import written_whole


def write_half(target: Path) -> None:
    with written_whole(target) as folder:
        (folder / "weights").write_text("new")
        raise KeyboardInterrupt


def test_a_folder_that_fails_in_the_middle_leaves_what_was_there(tmp_path: Path):
    target = tmp_path / "adapter"
    with written_whole(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(target)
    assert (target / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_second_write_replaces_the_whole_folder(tmp_path: Path):
    target = tmp_path / "deep" / "adapter"
    for name in ("first", "second"):
        with written_whole(target) as folder:
            (folder / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["adapter"]


WRITER = """
import sys, time
from pathlib import Path
from acestep.lora.whole_folder import written_whole
with written_whole(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked on Windows, so nothing is swept there")
def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path):
    target = tmp_path / "adapter [1]"
    killed, living = (
        subprocess.Popen([sys.executable, "-c", WRITER, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    )
    for writer in (killed, living):
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
    assert len(list(tmp_path.iterdir())) == 2
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with written_whole(target) as folder:
        (folder / "weights").touch()
    assert len(list(tmp_path.glob("*.partial"))) == 1
    living.communicate()
    assert living.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["adapter [1]"]
    assert [path.name for path in target.iterdir()] == ["half"]
