import errno
import json
import logging
import os
import random
from functools import partial
from io import FileIO
from pathlib import Path

import pytest

from acestep.errors import InputError, TrainingError
from acestep.lora.whole_folder import written_whole
from acestep.training.run_folder import RunFolder


def make_checkpoints(folder: RunFolder, *names: str) -> list[Path]:
    made = [folder.path / "checkpoints" / name for name in names]
    for path in made:
        (path / "adapter").mkdir(parents=True)
        (path / "state.json").write_text(path.name)
    return made


def test_a_folder_with_a_run_in_it_is_not_started_over(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.start("a: 1", resume=False)
    folder.add_metrics(step=1, loss=0.5)
    with pytest.raises(TrainingError, match="holds a run already"):
        folder.start("a: 1", resume=False)
    folder.start("a: 1", resume=True)


def test_the_settings_of_a_resumed_run_are_the_folders_once_it_goes_on(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.start("a: 1", resume=False)
    folder.add_metrics(step=1, loss=0.5)
    folder.start("a: 2", resume=True)
    assert folder.config.read_text().endswith("a: 1")
    folder.forget_after(1)
    assert folder.config.read_text().endswith("a: 2")


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path):
    (tmp_path / "file").touch()
    for refused in (lambda folder: folder.start("", resume=False), lambda folder: folder.locked().__enter__()):
        with pytest.raises(TrainingError, match=r"run cannot be written: .*file is a file; give another output_dir"):
            refused(RunFolder(tmp_path / "file" / "run"))
        with pytest.raises(TrainingError, match=r"file is a file, a folder is wanted"):
            refused(RunFolder(tmp_path / "file"))
        with pytest.raises(TrainingError, match="cannot be written: File name too long"):
            refused(RunFolder(tmp_path / ("n" * 300)))
        with pytest.raises(TrainingError, match="cannot be written: embedded null"):
            refused(RunFolder(f"{tmp_path}/a\0b"))


def test_a_folder_that_one_may_not_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(TrainingError, match="cannot be written: Permission denied"):
        RunFolder(tmp_path / "run").start("", resume=False)
    with pytest.raises(TrainingError, match="cannot be written: Permission denied"):
        RunFolder(tmp_path / "run").locked().__enter__()


def test_names_in_any_script_and_as_long_as_the_system_takes_them_are_good_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # What pytest captures it sends between its processes, and cannot send what is no Unicode.
    monkeypatch.setattr(logging.getLogger("acestep"), "propagate", False)
    for name in ("путь 音楽 🎵 é", "n" * 255, os.fsdecode(b"no-unicode-\xff")):
        folder = RunFolder(tmp_path / name)
        with folder.locked(), folder.logging_to_file():
            folder.start("a: ä", resume=False)
            folder.add_event("name", name=name, odd="one line\u2028still one")
            logging.getLogger("acestep.somewhere").error("%s", name)
        event = json.loads(folder.events.read_text(encoding="utf-8"))
        assert (event["name"], event["odd"]) == (name, "one line\u2028still one")


def test_resuming_what_has_not_begun_is_a_start_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    RunFolder(tmp_path / "run").start("a: 1", resume=True)
    assert "holds no run to resume" in caplog.text
    assert (tmp_path / "run" / "config.yaml").exists()


def test_a_config_that_no_run_wrote_is_not_overwritten_and_a_runs_own_is(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.config.write_text("# mine, with notes\n")
    for resume in (False, True):
        with pytest.raises(TrainingError, match="no run wrote it"):
            folder.start("a: 1", resume=resume)
    assert folder.config.read_text() == "# mine, with notes\n"
    folder.config.unlink()
    folder.start("a: 1", resume=False)
    folder.start("a: 2", resume=False)
    assert folder.config.read_text().endswith("a: 2")


def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(tmp_path: Path):
    with RunFolder(tmp_path / "run").locked():
        with pytest.raises(TrainingError, match=f"is in use: process {os.getpid()} on "):
            RunFolder(tmp_path / "run").locked().__enter__()
        with RunFolder(tmp_path / "other").locked():
            pass
    with RunFolder(tmp_path / "run").locked():
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_metrics_of_steps_to_be_repeated_are_dropped_with_half_written_lines(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for step in range(1, 6):
        folder.add_metrics(step=step, loss=0.1 * step, track="a\u2028b")
    with folder.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    folder.forget_after(3)
    kept = [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [(line["step"], line["track"]) for line in kept] == [(step, "a\u2028b") for step in (1, 2, 3)]


def test_a_half_line_of_a_killed_run_costs_no_other_line(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.add_event("one")
    with folder.events.open("a") as file:
        file.write('{"event": "hal')
    folder.add_event("two")
    lines = folder.events.read_text().splitlines()
    assert [json.loads(line)["event"] for line in (lines[0], lines[2])] == ["one", "two"]
    assert len(lines) == 3


def test_a_full_disk_is_named_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tmp_path)
    folder.add_metrics(step=1)
    before = folder.metrics.read_bytes()

    def partly(path: Path, *_: object, **__: object) -> FileIO:
        class Full(FileIO):
            def write(self, data: bytes) -> int:
                return super().write(data[:5])

        return Full(path, "ab+")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", partly)
        with pytest.raises(TrainingError, match=r"metrics.jsonl cannot be written: No space left on device"):
            folder.add_metrics(step=2)
    assert folder.metrics.read_bytes() == before


def test_half_written_checkpoints_are_not_listed(tmp_path: Path):
    folder = RunFolder(tmp_path)
    whole = folder.checkpoint(epoch=2, step=9, whole_epoch=True)
    inside = folder.checkpoint(epoch=3, step=11, whole_epoch=False)
    assert (whole.name, inside.name) == ("epoch-0002", "epoch-0003-step-000011")
    for path in (whole, inside, whole.with_name("epoch-0004.abc.partial")):
        path.mkdir(parents=True)
    assert folder.checkpoints() == [whole, inside]


def test_checkpoints_are_listed_by_age_whatever_their_names_sort_to(tmp_path: Path):
    folder = RunFolder(tmp_path)
    by_age = [
        "epoch-0009", "epoch-0010-step-000100", "epoch-0010-step-1000000", "epoch-0010", "epoch-0011-step-1000200",
        "epoch-9999", "epoch-10000",
    ]  # fmt: skip
    made = make_checkpoints(folder, *by_age)
    make_checkpoints(folder, "epoch-best", "epoch-0012.ab.deleted", "notes")
    assert folder.checkpoints() == made


def test_the_newest_stay_with_the_one_to_spare_and_nothing_is_left_of_the_others(tmp_path: Path):
    folder = RunFolder(tmp_path)
    made = make_checkpoints(folder, *(f"epoch-{epoch:04}" for epoch in range(1, 8)))
    assert folder.prune_checkpoints(3, sparing=made[1]) == [made[0], made[2], made[3]]
    assert sorted((tmp_path / "checkpoints").iterdir()) == [made[1], *made[4:]]
    assert folder.prune_checkpoints(3, sparing=made[1]) == []
    assert folder.prune_checkpoints(10) == []
    assert folder.prune_checkpoints(1) == [made[1], made[4], made[5]]
    assert folder.checkpoints() == [made[6]]
    with pytest.raises(InputError, match="at least one"):
        folder.prune_checkpoints(0)


def test_a_pruning_that_is_killed_at_any_moment_leaves_only_whole_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = {name: getattr(os, name) for name in ("rename", "unlink", "rmdir")}
    chance = random.Random(0)
    for killed_at in range(25):
        folder = RunFolder(tmp_path / str(killed_at))
        make_checkpoints(folder, *(f"epoch-{epoch:04}" for epoch in range(1, 6)))
        left = killed_at

        def killed(name: str, *arguments: object, **others: object) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            real[name](*arguments, **others)

        with monkeypatch.context() as patched:
            for name in real:
                patched.setattr(os, name, partial(killed, name))
            try:
                folder.prune_checkpoints(chance.choice((1, 2)))
            except KeyboardInterrupt:
                pass
            else:
                assert left > 0
        kept = folder.checkpoints()
        assert kept[-1].name == "epoch-0005"
        assert all((path / "state.json").read_text() == path.name for path in kept)
        assert all((path / "adapter").is_dir() for path in kept)
        with folder.locked():
            assert sorted((folder.path / "checkpoints").iterdir()) == kept


def test_a_checkpoint_that_cannot_be_deleted_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    folder = RunFolder(tmp_path)
    made = make_checkpoints(folder, "epoch-0001", "epoch-0002")

    def denied(path: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "rename", denied)
    assert folder.prune_checkpoints(1) == []
    assert folder.checkpoints() == made
    assert "epoch-0001 could not be deleted" in caplog.text


def test_what_killed_writers_left_goes_and_their_last_whole_folder_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = RunFolder(tmp_path)
    kept = make_checkpoints(folder, "epoch-0001", "epoch-0002")
    places = [folder.adapter, folder.samples / "epoch-0001", kept[0]]
    with monkeypatch.context() as patched:
        # As kill -9 does, nothing is tidied up after it.
        patched.setattr("acestep.lora.whole_folder.shutil.rmtree", lambda *_, **__: None)
        for place in places:
            with written_whole(place) as unfinished:
                (unfinished / "old").touch()
            with pytest.raises(KeyError), written_whole(place):
                raise KeyError
    # Killed between the two renames that replace a folder.
    kept[1].rename(kept[1].with_name("epoch-0002.12345678.replaced"))
    make_checkpoints(folder, "epoch-0003.12345678.deleted")
    (tmp_path / "notes.partial").touch()
    (tmp_path / "mine.partial").mkdir()
    with folder.locked():
        assert folder.checkpoints() == kept
        assert (kept[1] / "state.json").exists()
        left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert all((place / "old").exists() for place in places)
    assert left == [
        ".lock", "checkpoints/epoch-0002/state.json", "mine.partial", "notes.partial"
    ]  # fmt: skip


def test_what_modules_log_reaches_the_file_and_only_during_the_block(tmp_path: Path):
    folder = RunFolder(tmp_path)
    logger = logging.getLogger("acestep.somewhere")
    with folder.logging_to_file():
        logger.info("inside")
    logger.warning("outside")
    text = (tmp_path / "log.txt").read_text()
    assert "inside" in text
    assert "outside" not in text
