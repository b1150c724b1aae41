from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rocketmq_py.consumer.offset_file import OffsetFile, offset_file_path
from rocketmq_py.consumer.offset_serialize_wrapper import MAX_FILE_BYTES, from_json, to_json
from rocketmq_py.errors import ConfigError, StoreError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import ManualClock
from tests.unit.disk import FailingFiles, Killed
from tests.unit.support import GROUP, ME, mq

OLD, NEW = {mq(0): 10, mq(1): 11}, {mq(0): 20, mq(2): 12}
MERGED = {mq(0): 20, mq(1): 11, mq(2): 12}
OLDER = {mq(0): 1}
DAMAGED = to_json(OLD)[:-20]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(offset_file_path(tmp_path / "base", ME, GROUP))


def offset_file(path: Path, files: FailingFiles | None = None) -> OffsetFile:
    return OffsetFile(str(path), RateLimitedLog(ManualClock(), logging.getLogger(__name__)), files)


def lay(path: Path, file: bytes | None, backup: bytes | None) -> None:
    """Put file and backup there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for each, content in ((path, file), (backup_of(path), backup)):
        if content is not None:
            each.write_bytes(content)


def backup_of(path: Path) -> Path:
    return path.with_name("offsets.json.bak")


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


@pytest.mark.behaviour("LF-05")
def test_the_file_of_a_group_lies_where_java_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offset_file_path("/base", "127.0.0.1@a#b", GROUP) == "/base/127.0.0.1@a#b/group/offsets.json"
    assert offset_file_path(Path("/base"), ME, GROUP).startswith("/base/")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert offset_file_path("~/.rocketmq_offsets", ME, GROUP).startswith("/home/somebody/.rocketmq_offsets/")
    monkeypatch.chdir(tmp_path)
    relative = offset_file_path("here", ME, GROUP)
    monkeypatch.chdir("/")
    assert relative == f"{tmp_path}/here/{ME}/group/offsets.json"


@pytest.mark.behaviour("LF-05")
def test_without_a_home_directory_a_path_that_needs_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="the home directory is not known, set the environment variable HOME or"):
        offset_file_path("~nobody-of-this-name/offsets", ME, GROUP)


@pytest.mark.behaviour("LF-02")
def test_the_first_offsets_make_the_file_and_its_folders(path: Path) -> None:
    offset_file(path).merge(OLD)
    assert path.read_bytes() == to_json(OLD)
    assert names(path) == ["offsets.json"]


@pytest.mark.behaviour("LF-02", "LF-06")
def test_offsets_are_merged_over_the_file_which_becomes_the_backup(path: Path) -> None:
    lay(path, to_json(OLD), to_json(OLDER))
    offset_file(path).merge(NEW)
    assert path.read_bytes() == to_json(MERGED)
    assert backup_of(path).read_bytes() == to_json(OLD)
    assert names(path) == ["offsets.json", "offsets.json.bak"]


@pytest.mark.behaviour("LF-07")
def test_what_is_stored_already_is_not_written_again(path: Path) -> None:
    lay(path, to_json(OLD), to_json(OLDER))
    files = FailingFiles()
    file = offset_file(path, files)
    file.merge({mq(0): 10})
    file.merge({})
    assert files.steps == 1
    assert backup_of(path).read_bytes() == to_json(OLDER)


@pytest.mark.behaviour("LF-02")
def test_what_another_process_stored_meanwhile_is_seen(path: Path) -> None:
    file = offset_file(path)
    file.merge(OLD)
    offset_file(path).merge({mq(3): 33})
    assert file.read() == {**OLD, mq(3): 33}
    file.merge({mq(0): 20})
    assert from_json(path.read_bytes()) == {**OLD, mq(3): 33, mq(0): 20}


@pytest.mark.behaviour("LF-03")
def test_without_file_and_backup_there_are_no_offsets_and_reading_makes_none(path: Path) -> None:
    assert offset_file(path).read() == {}
    assert not path.parent.exists()


@pytest.mark.behaviour("LF-03")
def test_a_missing_file_is_read_from_its_backup(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(path, None, to_json(OLD))
    assert offset_file(path).read() == OLD
    assert caplog.messages == []


@pytest.mark.behaviour("LF-04")
@pytest.mark.parametrize("content", [DAMAGED, b"", b"\0" * 200, b"{}", b'{"offsetTable":{}', b"\xff"])
def test_a_damaged_file_is_read_from_its_backup_with_one_warning(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    lay(path, content, to_json(OLD))
    file = offset_file(path)
    assert [file.read(), file.read()] == [OLD, OLD]
    [warning] = caplog.messages
    assert warning.startswith(f"the file of offsets {path} is damaged (")
    assert warning.endswith("), its backup is used")


@pytest.mark.behaviour("LF-04")
@pytest.mark.parametrize(
    ("file", "backup", "text"),
    [
        (DAMAGED, None, r"is damaged \(.+\) and there is no backup of it: put back one that is whole, or delete both"),
        (b"", None, "is damaged .+ and there is no backup of it"),
        (DAMAGED, DAMAGED, r"is damaged \(.+\) and its backup .+offsets\.json\.bak is damaged \("),
        (b"", b"", "is damaged .+ and its backup .+ is damaged"),
        (None, DAMAGED, "is missing and its backup .+ is damaged"),
        (None, b"", "is missing and its backup .+ is damaged"),
    ],
)
def test_damage_without_a_whole_backup_is_an_error_and_nothing_is_written_over_it(
    path: Path, file: bytes | None, backup: bytes | None, text: str
) -> None:
    lay(path, file, backup)
    with pytest.raises(StoreError, match=text):
        offset_file(path).read()
    with pytest.raises(StoreError, match=text):
        offset_file(path).merge(NEW)
    assert path.exists() is (file is not None)
    assert backup_of(path).exists() is (backup is not None)


@pytest.mark.behaviour("LF-06")
@pytest.mark.parametrize("file", [DAMAGED, b"", None])
def test_a_damaged_file_never_takes_the_place_of_the_backup(path: Path, file: bytes | None) -> None:
    lay(path, file, to_json(OLD))
    offset_file(path).merge(NEW)
    assert path.read_bytes() == to_json(MERGED)
    assert backup_of(path).read_bytes() == to_json(OLD)


@pytest.mark.behaviour("LF-06")
def test_a_damaged_file_is_mended_even_if_there_is_nothing_new(path: Path) -> None:
    lay(path, DAMAGED, to_json(OLD))
    offset_file(path).merge({mq(0): 10})
    assert path.read_bytes() == to_json(OLD)


@pytest.mark.behaviour("LF-04")
def test_a_file_that_cannot_be_read_is_an_error_whatever_the_backup_has(path: Path) -> None:
    lay(path, None, to_json(OLD))
    path.mkdir()
    for use in (OffsetFile.read, lambda file: file.merge(NEW)):
        with pytest.raises(StoreError, match=r"cannot read the file of offsets .+Is a directory"):
            use(offset_file(path))
    assert from_json(backup_of(path).read_bytes()) == OLD


@pytest.mark.behaviour("LF-05")
def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("a file")
    file = offset_file(Path(offset_file_path(tmp_path / "base", ME, GROUP)))
    with pytest.raises(StoreError, match=r"base.+Not a directory"):
        file.merge(OLD)


@pytest.mark.behaviour("LF-07")
def test_what_could_not_be_read_again_is_not_written(path: Path) -> None:
    lay(path, to_json(OLD), None)
    many = {MessageQueue("t" * 100, "broker", number): number for number in range(15_000)}
    with pytest.raises(StoreError, match="would have more than 2097152 bytes, so nothing is written"):
        offset_file(path).merge(many)
    assert path.read_bytes() == to_json(OLD)
    assert len(to_json(many)) > MAX_FILE_BYTES


@pytest.mark.behaviour("LF-06")
def test_what_is_written_is_on_the_disk_before_it_gets_its_name_and_the_names_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(handle: int) -> None:
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        sync(handle)

    def replace(source: str, target: str) -> None:
        steps.append(f"{Path(source).name} becomes {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    file, temporary = offset_file(path), f"offsets.json.{os.getpid()}.tmp"
    file.merge(OLD)
    folders = [each.parent.name for each in (path.parent.parent, path.parent, path)]
    written = [f"sync {temporary}", f"{temporary} becomes offsets.json", f"sync {GROUP}"]
    assert steps == [f"sync {path.parents[3].name}", *[f"sync {each}" for each in folders[:2]], *written]
    steps.clear()
    file.merge(NEW)
    assert steps == [written[0], "offsets.json becomes offsets.json.bak", *written[1:]]


STARTS = {
    "nothing": (None, None),
    "a file": (to_json(OLD), None),
    "a file and a backup": (to_json(OLD), to_json(OLDER)),
    "a backup": (None, to_json(OLD)),
    "a damaged file and a backup": (DAMAGED, to_json(OLD)),
    "a file and a damaged backup": (to_json(OLD), DAMAGED),
}
"""File and backup before; what they say together is ``OLD``, or nothing."""


def at_every_step(path: Path, start: str, check: Callable[[int], bool]) -> None:
    """Lay the files anew for every number of a step until ``check`` says that all steps are done."""
    for step in range(20):
        for name in names(path) if path.parent.exists() else ():
            (path.parent / name).unlink()
        lay(path, *STARTS[start])
        if check(step):
            assert step >= 5
            return
    pytest.fail("the steps do not end")


@pytest.mark.behaviour("LF-06")
@pytest.mark.parametrize("start", STARTS)
def test_whoever_is_killed_between_any_two_steps_leaves_the_old_or_the_new_offsets(path: Path, start: str) -> None:
    def check(step: int) -> bool:
        before = dict(offset_file(path).read())
        seen: list[dict[MessageQueue, int]] = []
        try:
            offset_file(path, FailingFiles(step, dead=True)).merge(NEW)
        except Killed:
            seen.append(dict(offset_file(path).read()))
            assert seen[-1] in (before, {**before, **NEW})
            offset_file(path).merge(NEW)
        after = offset_file(path)
        assert after.read() == {**before, **NEW}
        assert [name for name in names(path) if name.endswith(".tmp")] == []
        return not seen

    at_every_step(path, start, check)


@pytest.mark.behaviour("LF-07")
@pytest.mark.parametrize("start", STARTS)
def test_a_disk_that_is_full_at_any_step_costs_nothing_that_was_stored_and_leaves_no_rubbish(
    path: Path, start: str
) -> None:
    def check(step: int) -> bool:
        before = dict(offset_file(path).read())
        file = offset_file(path, FailingFiles(step))
        refused = None
        try:
            file.merge(NEW)
        except StoreError as error:
            refused = error
        if refused is None:
            return True
        assert "No space left on device" in str(refused)
        assert offset_file(path).read() in (before, {**before, **NEW})
        assert [name for name in names(path) if name.endswith(".tmp")] == []
        file.merge(NEW)
        assert file.read() == {**before, **NEW}
        return False

    at_every_step(path, start, check)
