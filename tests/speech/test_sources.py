"""What tells that a sound has been replaced or mended."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.sources import CorruptAudio, fingerprint

LONG = bytes(range(256)) * 4096  # 1 MiB: the parts that are read do not cover it


@pytest.mark.parametrize("place", [0, 300_000, len(LONG) - 1])
def test_a_mended_file_has_another_fingerprint_wherever_the_edit_lies(
    tmp_path: Path, place: int
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(LONG)
    before = fingerprint(str(path))
    assert fingerprint(str(path)) == before
    path.write_bytes(LONG[:place] + b"x" + LONG[place + 1 :])
    os.utime(path, ns=(0, 1_700_000_000_000_000_000))
    assert fingerprint(str(path)) != before


def test_a_replaced_file_of_the_same_age_has_another_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for name, data in (("a", LONG), ("b", LONG[:-1]), ("c", LONG[:-1] + b"x")):
        path = tmp_path / name
        path.write_bytes(data)
        os.utime(path, ns=(0, 0))
        prints.add(fingerprint(str(path)))
    assert len(prints) == 3


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_member_is_known_by_all_its_bytes_and_not_by_its_tar(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    _tar(shard, {"a.wav": LONG})
    before = fingerprint(f"{shard}#a.wav")
    _tar(shard, {"new.wav": b"1", "a.wav": LONG})
    assert fingerprint(f"{shard}#a.wav") == before
    _tar(shard, {"a.wav": LONG[:300_000] + b"x" + LONG[300_001:]})
    assert fingerprint(f"{shard}#a.wav") != before


def test_what_is_not_there_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fingerprint(str(tmp_path / "a.wav"))
    _tar(tmp_path / "a.tar", {"a.wav": b"1"})
    with pytest.raises(CorruptAudio, match="no member"):
        fingerprint(f"{tmp_path}/a.tar#b.wav")


def test_a_file_whose_name_looks_like_that_of_a_member_is_that_file(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.tar#b.wav", np.full(160, 0.5, dtype=np.float32))
    assert (load_samples(tmp_path / "a.tar#b.wav") > 0.4).all()


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(FileNotFoundError, match="audio must have a name, found an empty one"):
        load_samples("")
