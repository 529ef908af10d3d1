import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.corpus.store import (
    ChangedShard,
    TornShard,
    read_jsonl,
    shard_path,
    shard_paths,
    write_jsonl,
    write_shard,
)
from distilwhisper.files import StoreError, new_folder, write_atomic


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in shard_paths(folder) for row in read_jsonl(path)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def python(code: str, *arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


# Whole or not at all


@pytest.mark.parametrize("data", ["größer\n", b"\xff\0", ""])
def test_a_file_is_written_whole(tmp_path: Path, data: str | bytes) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, "before")
    write_atomic(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert names(path.parent) == ["file"]


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        write_atomic(tmp_path / "file", "")
    finally:
        os.umask(umask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


# A process may write files of 100 kB at most: to it, any larger file meets a full disk.
SMALL_DISK = """
import resource, sys
from pathlib import Path
from distilwhisper.corpus.store import write_jsonl
from distilwhisper.files import StoreError, write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write_jsonl(Path(sys.argv[1], "shard-00000.jsonl"), [{"id": "a"}])
for write in (
    lambda path: write_atomic(path, b"x" * 200_000),
    lambda path: write_jsonl(path, ({"id": i} for i in range(20_000))),
):
    try:
        write(Path(sys.argv[1], "shard-00001.jsonl"))
    except StoreError as error:
        print(error)
"""


def test_a_write_that_does_not_fit_leaves_what_was_there(tmp_path: Path) -> None:
    write_atomic(tmp_path / "shard-00001.jsonl", "before")
    process = python(SMALL_DISK, tmp_path)
    output, _ = process.communicate()
    messages = output.decode().splitlines()
    assert len(messages) == 2
    for message in messages:
        assert message.startswith(f"{tmp_path}/shard-00001.jsonl could not be written: ")
        assert os.strerror(errno.EFBIG) in message
        assert "are kept; free space" in message
    assert names(tmp_path) == ["shard-00000.jsonl", "shard-00001.jsonl"]
    assert (tmp_path / "shard-00001.jsonl").read_text() == "before"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few kilobytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=6", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("file systems may not be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def write_shards(folder: Path, text: str) -> None:
    for i in range(10):
        write_jsonl(shard_path(folder, i), [{"id": i, "text": text}])


def test_a_full_disk_is_named_and_finished_shards_stay(full_disk: Path) -> None:
    with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)):
        write_shards(full_disk, "x" * 40_000)
    assert names(full_disk) == ["shard-00000.jsonl"]
    with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)):
        write_shards(full_disk, "")  # there is room for these, and soon none for their names
    assert 1 < len(names(full_disk)) < 6
    assert [row["text"] for row in rows_of(full_disk)] == [""] * len(names(full_disk))


def test_a_rename_that_fails_removes_the_temporary(tmp_path: Path) -> None:
    (tmp_path / "shard-00000.jsonl" / "in the way").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"shard-00000\.jsonl could not be written: Is a dir"):
        write_jsonl(tmp_path / "shard-00000.jsonl", [])
    assert names(tmp_path) == ["shard-00000.jsonl"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/shard could not be written"):
        write_atomic(tmp_path / "file" / "shard", "")


def test_a_row_that_json_has_no_form_for_leaves_nothing(tmp_path: Path) -> None:
    for bad in (float("nan"), {1, 2}, "\ud800"):
        with pytest.raises((ValueError, TypeError)):
            write_jsonl(tmp_path / "a.jsonl", [{"x": 1}, {"x": bad}])
    assert names(tmp_path) == []


HANGS_WHILE_WRITING = """
import sys
from pathlib import Path
from distilwhisper.corpus.store import write_jsonl
def rows():
    yield {"id": "x" * 100_000}
    print("begun", flush=True)
    sys.stdin.read()
    yield {"id": "last"}
write_jsonl(Path(sys.argv[1]), rows())
"""


def test_a_killed_writer_leaves_the_old_file_and_its_temporary_is_taken_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shard-00000.jsonl"
    write_jsonl(path, [{"id": "old"}])
    process = python(HANGS_WHILE_WRITING, path)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert names(tmp_path) == [".shard-00000.jsonl.tmp", "shard-00000.jsonl"]
    assert rows_of(tmp_path) == [{"id": "old"}]
    write_jsonl(path, [{"id": "new"}])
    assert names(tmp_path) == ["shard-00000.jsonl"]
    assert list(read_jsonl(path)) == [{"id": "new"}]


def test_two_writers_of_one_name_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.jsonl"
    first = python(HANGS_WHILE_WRITING, path)
    assert first.stdout is not None
    first.stdout.readline()
    second = python(HANGS_WHILE_WRITING.replace("last", "second"), path)
    first.communicate()
    assert [row["id"] for row in read_jsonl(path)][1:] == ["last"]
    second.communicate()
    assert [row["id"] for row in read_jsonl(path)][1:] == ["second"]
    assert names(tmp_path) == ["shard-00000.jsonl"]


# Shards

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda values: st.lists(values) | st.dictionaries(st.text(max_size=3), values),
    max_leaves=5,
)


@given(rows=st.lists(st.dictionaries(st.sampled_from(["id", "text"]), json_values), max_size=3))
def test_rows_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_jsonl(path, rows)
    assert list(read_jsonl(path)) == rows
    assert path.read_bytes().count(b"\n") == len(rows)


@pytest.mark.parametrize(
    "line", [b'{"id": "b"', b'{"id": "b"}', b"[1]\n", b"\xff\n", b"\0\0\n", b"\n"]
)
def test_a_torn_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "shard-00000.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + line)
    with pytest.raises(TornShard, match=r"shard-00000\.jsonl:2 must be a JSON object"):
        list(read_jsonl(path))


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert shard_path(tmp_path, 7).name == "shard-00007.jsonl"
    for index in (100_000, 2, 99_999):
        write_jsonl(shard_path(tmp_path, index), [{"index": index}])
    for other in ("summary.json", "scores.jsonl", ".shard-00001.jsonl.tmp", "shard-1.jsonl"):
        (tmp_path / other).write_text("no shard")
    assert [row["index"] for row in rows_of(tmp_path)] == [2, 99_999, 100_000]


# Folders


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "step_100"

    def write_half() -> None:
        with new_folder(final) as folder:
            (folder / "half").write_text("not all")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert names(tmp_path) == []
    with new_folder(final) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_text("all")
        (folder / "link").symlink_to("sub/weights")
        assert not final.exists()
    assert (final / "link").read_text() == "all"
    assert names(tmp_path) == ["step_100"]


def test_a_folder_that_holds_something_is_never_replaced(tmp_path: Path) -> None:
    final = tmp_path / "step_100"

    def write_both() -> None:
        with new_folder(final) as folder:
            (folder / "weights").write_text("mine")
            final.mkdir()
            (final / "weights").write_text("theirs")

    with pytest.raises(FileExistsError, match="another process"):
        write_both()
    with pytest.raises(FileExistsError, match="holds something already"):
        write_both()
    assert (final / "weights").read_text() == "theirs"
    assert names(tmp_path) == ["step_100"]


def test_a_shard_is_checked_where_it_is_read(tmp_path: Path) -> None:
    shard = shard_path(tmp_path, 0)
    write_shard(shard, [{"id": "a"}, {"id": "b"}])
    write_jsonl(tmp_path / "notes.jsonl", [{"kept": "by nobody"}])  # no shard, so not checked
    assert list(read_jsonl(shard)) == [{"id": "a"}, {"id": "b"}]
    assert list(read_jsonl(tmp_path / "notes.jsonl")) == [{"kept": "by nobody"}]
    shard.write_text('{"id": "a"}\n')
    with pytest.raises(ChangedShard, match=f"{shard} must hold what its stage wrote"):
        next(read_jsonl(shard))
    # A stage may write it anew, and the same again.
    for _ in range(2):
        write_shard(shard, [{"id": "c"}])
        assert rows_of(tmp_path) == [{"id": "c"}]


def test_a_shard_of_nobody_is_found_and_one_without_digests_is_believed(tmp_path: Path) -> None:
    write_shard(shard_path(tmp_path / "ours", 0), [{"id": "a"}])
    write_jsonl(shard_path(tmp_path / "ours", 1), [{"id": "b"}])
    with pytest.raises(ChangedShard):
        rows_of(tmp_path / "ours")
    write_jsonl(shard_path(tmp_path / "plain", 0), [{"id": "a"}])
    assert rows_of(tmp_path / "plain") == [{"id": "a"}]


def test_a_shard_is_good_whenever_its_writer_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shard_path(tmp_path, 0)
    write_shard(shard, [{"id": "old"}])

    class Killed(BaseException):
        pass

    rename = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target) == shard:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:  # between the digest's name and the shard's
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            write_shard(shard, [{"id": "new"}])
    assert list(read_jsonl(shard)) == [{"id": "old"}]
    write_shard(shard, [{"id": "new"}])
    assert list(read_jsonl(shard)) == [{"id": "new"}]
