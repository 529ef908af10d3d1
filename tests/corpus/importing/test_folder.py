import csv
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from distilwhisper.corpus.importing.entries import BadTranscripts
from distilwhisper.corpus.importing.importer import ImportSummary, import_data
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.speech.audio import load_samples, write_wav


def import_folder(source: Path, out: Path, *, language: str | None = None) -> ImportSummary:
    return import_data(source, out, ImportSettings(format="folder", language=language))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "speech"
    folder.mkdir()
    return folder


def wav(path: Path, *, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, np.full(round(16_000 * seconds), 0.1, dtype=np.float32))
    return path


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def imported(source: Path, *, language: str | None = None) -> dict[str, Utterance]:
    out = source.parent / "manifest.jsonl"
    summary = import_folder(source, out, language=language)
    assert summary.n_utterances == len(read_manifest(out).utterances)
    return {utterance.id: utterance for utterance in read_manifest(out).utterances}


def problems(source: Path) -> dict[str, str]:
    out = source.parent / "manifest.jsonl"
    found = import_folder(source, out).failed
    listed = out.with_name("manifest.problems.jsonl")
    rows = [json.loads(line) for line in listed.read_text().splitlines()] if found else []
    assert {row["path"]: row["problem"] for row in rows} == found
    assert listed.exists() == bool(found)
    return found


# Audio


def test_all_audio_below_a_folder_is_found_in_order(source: Path) -> None:
    wav(source / "b.WAV")
    wav(source / "a" / "2.wav", seconds=1.25)
    wav(source / "a" / "1.wav")
    wav(source / ".hidden" / "x.wav")
    wav(source / "._b.wav")
    (source / "notes.doc").touch()
    out = source.parent / "manifests" / "all.jsonl"
    summary = import_folder(source, out, language="German")
    manifest = read_manifest(out)
    assert manifest.utterances == (
        Utterance("a/1", "../speech/a/1.wav", duration_s=0.5, language="de"),
        Utterance("a/2", "../speech/a/2.wav", duration_s=1.25, language="de"),
        Utterance("b", "../speech/b.WAV", duration_s=0.5, language="de"),
    )
    for utterance in manifest.utterances:
        assert len(load_samples(manifest.audio_source(utterance))) in (8_000, 20_000)
    assert (summary.n_with_text, summary.n_utterances) == (0, 3)
    assert summary.lengths_s == (0.5, 0.5, 1.25)
    assert summary.seconds == 2.25
    assert str(summary) == (
        "3 utterances, 0.00 h (0.50 to 1.25 s, median 0.50 s); 0 with text, 3 without; 0 problems"
    )
    before = out.read_bytes()
    import_folder(source, out, language="German")
    assert out.read_bytes() == before


def test_members_of_tar_files_are_found_with_their_texts(source: Path) -> None:
    sound = wav(source.parent / "x.wav").read_bytes()
    tar(
        source / "shard-0.tar",
        {"./one.wav": sound, "sub/two.wav": sound, "sub/two.txt": b"second\n", ".x.wav": sound},
    )
    found = imported(source)
    assert found["shard-0/one"].audio == "speech/shard-0.tar#one.wav"
    assert found["shard-0/one"].text is None
    assert found["shard-0/sub/two"].text == "second"
    assert len(found) == 2
    manifest = read_manifest(source.parent / "manifest.jsonl")
    for utterance in manifest.utterances:
        assert len(load_samples(manifest.audio_source(utterance))) == 8_000


def test_two_of_one_name_are_told_apart_by_their_endings(source: Path) -> None:
    for name in ("a.wav", "a.aiff", "b.wav", "c.wav", "c.wav.au"):
        wav(source / "x.wav").rename(source / name)
    assert sorted(imported(source)) == ["a.aiff", "a.wav", "b", "c", "c.wav.au"]


def test_audio_in_linked_folders_is_found_once(source: Path) -> None:
    elsewhere = source.parent / "elsewhere"
    wav(elsewhere / "a.wav")
    (source / "link").symlink_to(elsewhere)
    (source / "second link").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(source)
    assert list(imported(source)) == ["link/a"]
    manifest = read_manifest(source.parent / "manifest.jsonl")
    assert Path(manifest.audio_source(manifest.utterances[0])).exists()


def test_what_cannot_be_read_is_named_and_left_out(source: Path) -> None:
    wav(source / "good.wav")
    (source / "empty.wav").touch()
    (source / "text.mp3").write_text("no sound")
    wav(source / "silent.wav", seconds=1 / 16_000)
    (source / "broken.tar").write_bytes(b"x" * 2000)
    tar(source / "whole.tar", {"bad.wav": b"RIFF"})
    (source / os.fsdecode(b"gr\xfc\xdf.wav")).touch()
    found = problems(source)
    assert sorted(found) == [
        "broken.tar",
        "empty.wav",
        "gr\\udcfc\\udcdf.wav",
        "silent.wav",
        "text.mp3",
        "whole.tar#bad.wav",
    ]
    assert list(imported(source)) == ["good"]
    for path in [*source.iterdir()]:
        if path.name != "good.wav":
            path.unlink()
    assert problems(source) == {}  # and the list of the first import is gone


def test_sound_whose_name_is_not_utf8_is_named(source: Path) -> None:
    sound = wav(source / "good.wav").read_bytes()
    tar(source / "t.tar", {os.fsdecode(b"\xfc.wav"): sound})
    bad = source / os.fsdecode(b"\xe9.wav")
    bad.write_bytes(sound)
    bad.with_suffix(".txt").write_text("any")
    found = problems(source)
    assert found.keys() == {"\\udce9.wav", "t.tar#\\udcfc.wav"}
    assert all("JSON in UTF-8, can hold it" in problem for problem in found.values())
    assert list(imported(source)) == ["good"]


def test_a_pipe_is_named_and_not_waited_for(source: Path) -> None:
    wav(source / "a.wav")
    for name in ("b.wav", "a.txt", "table.tsv", os.fsdecode(b"\xe9.wav")):
        os.mkfifo(source / name)
    assert problems(source).keys() == {"b.wav", "a.txt", "table.tsv", "\\udce9.wav"}
    assert all("a pipe" in problems(source)[name] for name in ("b.wav", "a.txt", "table.tsv"))
    table = source.parent / "table.csv"
    table.write_text("path,text\nspeech/a.wav,one\nspeech/b.wav,two\n")
    summary = import_data(table, source.parent / "manifest.jsonl")
    assert [problem.kind for problem in summary.problems] == ["audio unreadable"]


def test_a_tar_that_was_cut_short_keeps_what_is_whole(source: Path) -> None:
    sound = wav(source.parent / "x.wav").read_bytes()
    tar(source / "shard.tar", {"a.wav": sound, "b.wav": sound, "c.wav": sound})
    whole = (source / "shard.tar").read_bytes()
    (source / "shard.tar").write_bytes(whole[: 512 + len(sound) + 5000])
    found = problems(source)
    assert "shard.tar" in found
    assert set(found) <= {"shard.tar", "shard.tar#a.wav", "shard.tar#b.wav"}


def test_a_folder_without_audio_is_refused(source: Path) -> None:
    (source / "notes.txt").touch()
    for path in (source, source / "notes.txt", source / "missing"):
        with pytest.raises(ValueError, match="must be a folder"):
            import_folder(path, source.parent / "manifest.jsonl")
    assert not (source.parent / "manifest.jsonl").exists()


def test_a_wrong_language_or_name_is_refused_before_anything_is_read(source: Path) -> None:
    with pytest.raises(ValueError, match="nearest"):
        import_folder(source, source.parent / "manifest.jsonl", language="germn")
    with pytest.raises(ValueError, match=r"must be a \.jsonl file"):
        import_folder(source, source.parent / "manifest.json")


# Transcripts


def test_a_table_names_audio_in_many_ways(source: Path) -> None:
    for name in ("1", "2", "3", "4"):
        wav(source / "part" / "clips" / f"{name}.wav")
    sound = (source / "part" / "clips" / "1.wav").read_bytes()
    tar(source / "part" / "t.tar", {"x/5.wav": sound, "x/6.wav": sound})
    (source / "part" / "train.tsv").write_text(
        "client_id\tPath\tsentence\n"
        'anna\tclips/1.wav\tHe said "yes"\n'
        "anna\tclips/2\tSecond, with a comma\n"
        "\t3.wav\tthird\n"
        "bert\tclips\\4.wav\t\n"
        "bert\tx/5.wav\tfifth\n"
        "bert\tt.tar#x/6.wav\tsixth\n"
    )
    found = imported(source)
    assert {id_: (u.text, u.speaker) for id_, u in found.items()} == {
        "part/clips/1": ('He said "yes"', "anna"),
        "part/clips/2": ("Second, with a comma", "anna"),
        "part/clips/3": ("third", None),
        "part/clips/4": (None, "bert"),
        "part/t/x/5": ("fifth", "bert"),
        "part/t/x/6": ("sixth", "bert"),
    }
    assert problems(source) == {}


@pytest.mark.parametrize("name", ["transcripts.csv", "labels #1.csv", "transcripts.txt"])
def test_tables_are_found_by_their_header(source: Path, name: str) -> None:
    wav(source / "a.wav")
    with (source / name).open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter="," if name.endswith("csv") else "\t")
        writer.writerows([["file", "text"], ["a.wav", "größer, höher"]])
    assert imported(source)["a"].text == "größer, höher"


def test_a_table_of_other_things_is_no_transcript(source: Path) -> None:
    wav(source / "a.wav")
    (source / "speakers.csv").write_text("speaker,age\nanna,7\n")
    assert imported(source)["a"].text is None
    assert problems(source) == {}


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("transcripts.csv", b"a.wav|one\n", "first line must name a column"),
        ("metadata.tsv", b"", "first line must name a column"),
        ("transcripts.tsv", b"path\ttext\na.wav\tgr\xfc\xdfe\n", "must be UTF-8"),
        ("x.csv", b"path,text\na.wav,one\nb.wav," + b"x" * 200_000, "field larger"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(
    source: Path, name: str, content: bytes, found: str
) -> None:
    wav(source / "a.wav")
    (source / name).write_bytes(content)
    with pytest.raises(BadTranscripts, match=found):
        import_folder(source, source.parent / "manifest.jsonl")


def test_lines_that_fit_no_audio_are_named(source: Path) -> None:
    wav(source / "a" / "same.wav")
    wav(source / "b" / "same.wav")
    wav(source / "c.wav")
    (source / "transcripts.tsv").write_text(
        "path\ttext\nsame.wav\tone\nmissing.wav\ttwo\nc.wav\tthree\nc\tthree\nc\tfour\n\nc.wav\n"
    )
    found = problems(source)
    assert list(found) == [f"transcripts.tsv:{n}" for n in (2, 3, 6, 8)]
    assert "found 2, a/same.wav, b/same.wav" in found["transcripts.tsv:2"]
    assert "found 0" in found["transcripts.tsv:3"]
    assert "another text than transcripts.tsv:4" in found["transcripts.tsv:6"]
    assert imported(source)["c"].text == "three"


def test_a_text_beside_the_audio_serves_where_no_table_does(source: Path) -> None:
    for name in ("a", "b", "c", "d"):
        wav(source / f"{name}.wav")
    (source / "transcripts.csv").write_text("path,text\na.wav,of the table\n")
    (source / "a.txt").write_text("beside")
    (source / "b.txt").write_bytes(b"\xef\xbb\xbftwo\n  lines\n")
    (source / "c.txt").write_text("\n")
    (source / "d.txt").write_bytes(b"\xff")
    found = problems(source)
    assert list(found) == ["d.wav"]
    assert "d.txt cannot be read" in found["d.wav"]
    texts = {id_: utterance.text for id_, utterance in imported(source).items()}
    assert texts == {"a": "of the table", "b": "two lines", "c": None}


# Names

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("audio", "other"), [(NFC, NFD), (NFD, NFC)])
def test_accents_in_names_may_be_written_in_two_ways(source: Path, audio: str, other: str) -> None:
    wav(source / audio / f"{audio}.wav")
    wav(source / audio / f"{audio} 2.wav")
    (source / audio / f"{other}.txt").write_text("beside")
    (source / "x.tsv").write_text(f"path\ttext\n{other}/{other} 2.wav\tin a table\n", "utf-8")
    found = imported(source)
    assert [utterance.text for utterance in found.values()] == ["in a table", "beside"]
    assert not problems(source)
    table = source / "x.tsv"
    import_data(table, source.parent / "table.jsonl", ImportSettings())
    manifest = read_manifest(source.parent / "table.jsonl")
    assert Path(manifest.audio_source(manifest.utterances[0])).exists()


def test_two_names_that_look_the_same_are_named(source: Path) -> None:
    for name in (NFC, NFD):
        wav(source / f"{name}.wav")
        (source / f"{name}.txt").write_text(ascii(name))
    assert [utterance.text for utterance in imported(source).values()] == [ascii(NFD)]
    assert {ascii(name): problem for name, problem in problems(source).items()} == {
        ascii(f"{NFC}.{suffix}"): f"must have a name of its own, found that of {NFD + dot!a}"
        for suffix, dot in (("wav", ".wav"), ("txt", ".txt"))
    }


def test_a_transcript_without_audio_is_named(source: Path) -> None:
    sound = wav(source / "a.wav").read_bytes()
    (source / "a.TXT").write_text("a's text")
    (source / "a.json").write_text('{"speaker": "ann", "text": "another"}')
    (source / "README.txt").write_text("about")
    for name in ("lost.txt", "metadata.json", "sub/b.json"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text('{"licence": "any"}')
    tar(source / "t.tar", {"x.wav": sound, "x.txt": b"x's text", "y.txt": b"lost"})
    found = imported(source)
    assert (found["a"].text, found["a"].speaker) == ("a's text", "ann")
    assert found["t/x"].text == "x's text"
    out = source.parent / "manifest.jsonl"
    summary = import_folder(source, out)
    assert summary.to_dict()["problems"] == {"transcript without audio": 4}
    assert sorted(summary.failed) == ["lost.txt", "metadata.json", "sub/b.json", "t.tar#y.txt"]


def test_files_that_nothing_reads_are_counted(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wav(source / "a.wav")
    for name in ("a.srt", "b.srt", "LICENSE", "README.txt"):
        (source / name).touch()
    (source / "numbers.csv").write_text("x,y\n1,2\n")
    imported(source)
    said = capsys.readouterr().err
    assert "which are not read: 2 (.srt), 1 (no ending), 1 (.txt)" in said
    assert "numbers.csv names no audio and its text in columns, and is not read" in said


def test_a_transcript_in_utf16_is_read(source: Path) -> None:
    wav(source / "a.wav")
    (source / "a.txt").write_text("Grüße", "utf-16")
    assert imported(source)["a"].text == "Grüße"


def test_the_split_of_folders_is_kept(source: Path) -> None:
    for name in ("train/a", "Test/b", "dev/c", "more/d"):
        wav(source / f"{name}.wav")
    (source / "train" / "metadata.csv").write_text("file_name,text\na.wav,one\n")
    found = imported(source)
    assert {id_: utterance.split for id_, utterance in found.items()} == {
        "train/a": "train",
        "Test/b": "test",
        "dev/c": "validation",
        "more/d": None,
    }


def test_one_folder_called_train_is_no_split(source: Path) -> None:
    wav(source / "train" / "a.wav")
    wav(source / "b.wav")
    assert {utterance.split for utterance in imported(source).values()} == {None}
