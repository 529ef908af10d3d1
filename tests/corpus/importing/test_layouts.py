"""Every layout in one small corpus, its traps, and that it is found out."""

import gzip
import io
import json
import re
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest

from distilwhisper.corpus.importing.entries import BadSource, UnreadableSource
from distilwhisper.corpus.importing.importer import ImportSummary, import_data
from distilwhisper.corpus.importing.layouts import detect
from distilwhisper.corpus.importing.settings import Format, ImportSettings
from distilwhisper.corpus.records import Manifest, Utterance, read_manifest
from distilwhisper.speech.audio import Choice, load_samples, write_wav


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def wav(path: Path, *, seconds: float = 2.0, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.1, 0.1, round(16_000 * seconds))
    write_wav(path, noise.astype(np.float32))
    return path


def sound(folder: Path, *, seconds: float = 2.0, seed: int = 0) -> bytes:
    return wav(folder / "made.wav", seconds=seconds, seed=seed).read_bytes()


def run(
    source: Path, expected: Format, settings: ImportSettings | None = None
) -> tuple[dict[str, Utterance], ImportSummary]:
    """Import what is found out to be of a format; every utterance's sound can be had."""
    assert detect(str(source)) == expected
    out = source.parent / "out" / "all.jsonl"
    summary = import_data(source, out, settings or ImportSettings())
    if not summary.n_utterances:
        return {}, summary
    manifest = read_manifest(out)
    for utterance in manifest.utterances:
        samples = loaded(manifest, utterance)
        assert len(samples) == pytest.approx(16_000 * (utterance.duration_s or 0), abs=1)
    before = out.read_bytes()
    import_data(source, out, settings or ImportSettings())
    assert out.read_bytes() == before
    return {utterance.id: utterance for utterance in manifest.utterances}, summary


def loaded(manifest: Manifest, utterance: Utterance) -> np.ndarray:
    audio = manifest.audio_source(utterance)
    return load_samples(
        audio,
        start_s=utterance.start_s,
        duration_s=utterance.duration_s,
        choice=Choice(channel=utterance.channel),
    )


def kinds(summary: ImportSummary) -> dict[str, str]:
    return {Path(p.where).name: p.kind for p in summary.problems}


# Kaldi


def test_kaldi_with_segments(source: Path) -> None:
    wav(source / "wav" / "r1.wav", seconds=4.0)
    wav(source / "r2.wav", seconds=4.0)
    (source / "wav.scp").write_text(
        "r1 wav/r1.wav\nr2 r2.wav\nr3 flac -c -d -s r3.flac |\nr4 raw.ark:17\n"
    )
    (source / "segments").write_text(
        "a r1 0.5 1.5\nb r1 2.0 -1\nc r2 1.0 9.0\nd r3 0 1\n"
        "e r4 0 1\nf r9 0 1\ng r2 2 1\nh r2 0 1\n"
    )
    (source / "text").write_text("b  zwei  Wörter\na eins\nc c\nd d\nghost boo\nh\n", "utf-8")
    (source / "utt2spk").write_text("a anna\nb bert\n")
    (source / "utt2lang").write_text("a German\nb pt-BR\nh klingon\n")
    found, summary = run(source, "kaldi")
    assert found == {
        "a": Utterance("a", "../data/wav/r1.wav", 0.5, 1.0, "eins", "anna", "r1", "de"),
        "b": Utterance("b", "../data/wav/r1.wav", 2.0, 2.0, "zwei Wörter", "bert", "r1", "pt"),
    }
    assert kinds(summary) == {
        "segments:3": "span outside the sound",
        "segments:4": "unsupported",
        "segments:5": "unsupported",
        "segments:6": "audio missing",
        "segments:7": "bad line",
        "segments:8": "unknown language",
        "text:5": "transcript without audio",
    }
    assert "name r3.flac itself" in summary.failed[f"{source}/segments:4"]


def test_kaldi_without_segments(source: Path) -> None:
    wav(source / "r1.wav")
    (source / "wav.scp").write_bytes(b"u1 r1.wav\nu2 gone.wav\n\xff x\nu3\n")
    (source / "text").write_text("u2 two\nu1 one\nu1 again\n")
    found, summary = run(source, "kaldi", ImportSettings(language="en"))
    assert found["u1"].text == "one"
    assert found["u1"].language == "en"
    assert found["u1"].recording is None
    assert kinds(summary) == {
        "wav.scp:2": "audio missing",
        "wav.scp:3": "bad line",
        "wav.scp:4": "bad line",
        "text:3": "bad line",
    }


def test_kaldi_files_may_begin_with_a_mark_and_write_accents_in_two_ways(source: Path) -> None:
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    wav(source / f"{nfd}.wav")
    mark = "\ufeff"
    (source / "wav.scp").write_text(f"{mark}{nfd} {nfc}.wav\n", "utf-8")
    (source / "text").write_text(f"{mark}{nfc} one\n", "utf-8")
    (source / "utt2spk").write_text(f"{mark}{nfc} ann\n", "utf-8")
    found, summary = run(source, "kaldi")
    assert not summary.problems
    assert (found[nfc].text, found[nfc].speaker) == ("one", "ann")
    (source / "segments").write_text(f"{mark}s {nfc} 0 1\n", "utf-8")
    (source / "text").write_text(f"{mark}s one\n", "utf-8")
    (source / "utt2spk").unlink()
    found, summary = run(source, "kaldi")
    assert not summary.problems
    assert (found["s"].text, found["s"].duration_s) == ("one", 1.0)


# LibriSpeech and Common Voice


def test_transcripts_of_librispeech_may_begin_with_a_mark(source: Path) -> None:
    wav(source / "84" / "121" / "84-121-0000.wav")
    path = source / "84" / "121" / "84-121.trans.txt"
    path.write_text("\ufeff84-121-0000 GO ON\n", "utf-8")
    found, summary = run(source, "librispeech")
    assert not summary.problems
    assert found["84-121-0000"].text == "GO ON"


def test_librispeech(source: Path) -> None:
    chapter = source / "dev-clean" / "84" / "121"
    for name in ("84-121-0000", "84-121-0001"):
        wav(chapter / f"{name}.wav")
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO ON\n84-121-0009 LOST\n")
    found, summary = run(source, "librispeech")
    assert found["84-121-0000"] == Utterance(
        "84-121-0000",
        "../data/dev-clean/84/121/84-121-0000.wav",
        duration_s=2.0,
        text="GO ON",
        speaker="84",
        recording="84-121",
        source="dev-clean",
    )
    assert found["84-121-0001"].text is None
    assert kinds(summary) == {"84-121.trans.txt:2": "transcript without audio"}
    assert (summary.n_same_audio, summary.to_dict()["n_speakers"]) == (1, 1)
    inside, _ = run(chapter.parent, "librispeech")
    assert inside["84-121-0000"].speaker == "84"


def test_common_voice(source: Path) -> None:
    for locale in ("en", "sv-SE"):
        wav(source / locale / "clips" / f"cv_{locale}_1.wav")
        header = "client_id\tpath\tsentence\tlocale\n"
        (source / locale / "train.tsv").write_text(
            f'{header}x\tcv_{locale}_1.wav\tSay "hi"\t{locale}\ny\tlost.wav\tno\t{locale}\n'
        )
        (source / locale / "test.tsv").write_text(f"{header}z\tcv_{locale}_1.wav\tT\t{locale}\n")
    found, summary = run(source, "commonvoice")
    assert {u.id: (u.text, u.language, u.speaker) for u in found.values()} == {
        "cv_en_1": ('Say "hi"', "en", "x"),
        "cv_sv-SE_1": ('Say "hi"', "sv", "x"),
    }
    assert [p.kind for p in summary.problems] == ["audio missing"] * 2
    assert summary.problems[0].where == f"{source}/en/train.tsv:3"
    tested, _ = run(source, "commonvoice", ImportSettings(split="test"))
    assert tested["cv_en_1"].text == "T"
    with pytest.raises(BadSource, match=r"--split dev must be a table in .*found test, train"):
        import_data(source, source.parent / "x.jsonl", ImportSettings(split="dev"))


# Tables and manifests


def test_a_table_with_spans_and_columns_of_other_names(source: Path) -> None:
    wav(source / "talk.wav", seconds=5.0)
    (source / "segments.jsonl").write_text(
        '{"clip": "talk.wav", "said": "one", "offset": 0.5, "duration": 1}\n'
        '{"clip": "talk.wav", "said": "two", "offset": 2, "duration": 1.5, "lang": "de"}\n'
        '{"clip": "talk.wav", "said": "x", "offset": "soon"}\n'
        '{"clip": \n'
        '{"clip": "talk.wav", "said": "half \\ud800", "offset": 3}\n'
    )
    settings = ImportSettings(column=("audio=clip", "text=said"))
    found, summary = run(source / "segments.jsonl", "table", settings)
    assert {u.id: (u.start_s, u.duration_s, u.text, u.recording) for u in found.values()} == {
        "talk-00000500-00001500": (0.5, 1.0, "one", "talk"),
        "talk-00002000-00003500": (2.0, 1.5, "two", "talk"),
    }
    assert kinds(summary) == {f"segments.jsonl:{n}": "bad line" for n in (3, 4, 5)}
    by_folder = import_data(source, source.parent / "f.jsonl", settings)
    assert by_folder.n_utterances == 2
    with pytest.raises(BadSource, match="--column text=sayd must name a column, found clip"):
        import_data(
            source / "segments.jsonl",
            source / "x.jsonl",
            ImportSettings(column=("audio=clip", "text=sayd")),
        )


def test_json_beside_the_audio(source: Path) -> None:
    wav(source / "a.wav")
    wav(source / "b.wav", seed=1)
    (source / "a.json").write_text('{"text": "one", "speaker": 7, "language": "English"}')
    (source / "b.json").write_text("[1]")
    found, summary = run(source, "folder")
    assert found["a"].text == "one"
    assert (found["a"].speaker, found["a"].language) == ("7", "en")
    assert kinds(summary) == {"b.wav": "transcript unreadable"}


def test_a_manifest_is_checked_and_its_paths_are_moved(source: Path) -> None:
    wav(source / "a.wav")
    (source / "m.jsonl").write_text(
        '{"id": "a", "audio": "a.wav", "text": "", "language": "German"}\n\n'
        '{"id": "a", "audio": "a.wav"}\n'
        '{"id": 3, "audio": "a.wav"}\n'
        '{"id": "b", "audio": "gone.wav"}\n'
    )
    found, summary = run(source / "m.jsonl", "manifest")
    assert found == {"a": Utterance("a", "../a.wav", duration_s=2.0, text="", language="de")}
    assert kinds(summary) == {
        "m.jsonl:3": "id taken",
        "m.jsonl:4": "bad line",
        "m.jsonl:5": "audio missing",
    }
    with pytest.raises(ValueError, match="--out must not be the source"):
        import_data(source / "m.jsonl", source / "m.jsonl", ImportSettings())


# Tars


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def test_webdataset(source: Path) -> None:
    data = sound(source.parent)
    tar(
        source / "s-0.tar",
        {
            "x/1.wav": data,
            "x/1.json": b'{"text": "of json", "speaker": "ann"}',
            "x/1.txt": b"of txt",
            "2.a.wav": data,
            "3.wav": b"RIFF",
            "4.txt": b"alone",
            "5.wav": data,
            "5.json": b"{",
            "notes": b"",
        },
    )
    (source / "s-1.tar").write_bytes((source / "s-0.tar").read_bytes()[: 512 + len(data) // 2])
    found, summary = run(source, "webdataset")
    assert found["s-0/x/1"].text == "of txt"
    assert found["s-0/x/1"].speaker == "ann"
    assert found["s-0/x/1"].audio == "../data/s-0.tar#x/1.wav"
    assert sorted(found) == ["s-0/2", "s-0/x/1"]
    told = kinds(summary)
    assert told.pop("s-1.tar", None) == "unreadable" or told.pop("1.wav") == "audio unreadable"
    assert told["s-0.tar#3.wav"] == "audio unreadable"
    assert told["s-0.tar#4"] == "audio missing"
    assert told["s-0.tar#5.wav"] == "transcript unreadable"
    assert detect(str(source / "s-0.tar")) == "webdataset"


# Lhotse


def test_lhotse_as_the_library_writes_it(source: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    recordings, said = [], []
    for name in ("a", "b"):
        wav(source / f"{name}.wav", seconds=4.0, seed=ord(name))
        recordings.append(lhotse.Recording.from_file(source / f"{name}.wav"))
    for i in range(2):
        said.append(
            lhotse.SupervisionSegment(
                f"s{i}",
                "a",
                start=1.0 + i,
                duration=0.8,
                text=f"t{i}",
                language="English",
                speaker="ann",
            )
        )
    said.append(lhotse.SupervisionSegment("s9", "gone", start=0.0, duration=1.0))
    recordings = lhotse.RecordingSet.from_recordings(recordings)
    recordings.to_file(source / "x_recordings_train.jsonl.gz")
    lhotse.SupervisionSet.from_segments(said).to_file(source / "x_supervisions_train.jsonl.gz")
    found, summary = run(source, "lhotse")
    assert found["s1"] == Utterance("s1", "../data/a.wav", 2.0, 0.8, "t1", "ann", "a", "en")
    assert found["b"].duration_s == 4.0
    assert sorted(found) == ["b", "s0", "s1"]
    assert kinds(summary) == {"x_supervisions_train.jsonl.gz:3": "transcript without audio"}

    cuts = lhotse.CutSet.from_manifests(
        recordings=recordings, supervisions=lhotse.SupervisionSet.from_segments(said[:2])
    )
    folder = source.parent / "cuts"
    folder.mkdir()
    parts = [cut.truncate(offset=0.5, duration=1.0) for cut in cuts]
    lhotse.CutSet.from_cuts(
        [*parts, parts[0].pad(duration=3.0), parts[1].perturb_speed(1.1).with_id("fast")]
    ).to_file(folder / "cuts.jsonl.gz")
    found, summary = run(folder, "lhotse")
    spans = {u.recording: (u.start_s, u.duration_s, u.text) for u in found.values()}
    assert spans == {"a": (1.0, 0.5, "t0"), "b": (0.5, 1.0, None)}
    assert kinds(summary) == {"cuts.jsonl.gz:3": "unsupported", "cuts.jsonl.gz:4": "unsupported"}


def test_lhotse_lines_that_do_not_fit_are_named(source: Path) -> None:
    wav(source / "a.wav")
    file = {"type": "file", "channels": [0, 1], "source": "a.wav"}
    stereo = {"id": "r", "sources": [file], "sampling_rate": 16000, "duration": 2.0}
    cut = {"id": "c", "type": "MonoCut", "start": 0, "duration": 1, "channel": 1}
    rows = [
        {**cut, "recording": stereo, "supervisions": []},
        {**cut, "recording": {**stereo, "sources": [{**file, "type": "url"}]}},
        {**cut, "recording": None},
        {"id": "x"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "{\n[]\n"
    (source / "cuts.jsonl").write_text(text)
    _, summary = run(source, "lhotse")
    unsupported = dict.fromkeys((f"cuts.jsonl:{n}" for n in (1, 2, 3)), "unsupported")
    bad = dict.fromkeys((f"cuts.jsonl:{n}" for n in (4, 5, 6)), "bad line")
    assert kinds(summary) == unsupported | bad
    whole = gzip.compress(text.encode())
    (source / "cuts.jsonl").unlink()
    (source / "cuts.jsonl.gz").write_bytes(whole[:-10])
    _, summary = run(source, "lhotse")
    assert [p.kind for p in summary.problems].count("unreadable") == 1


def stereo(path: Path, *, seconds: float = 2.0) -> None:
    """Write 0.25 into the left channel and -0.5 into the right one."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16_000)
        frame = np.array([8192, -16384], dtype="<i2")
        file.writeframes(np.tile(frame, round(16_000 * seconds)).tobytes())


def level(source: Path, utterance: Utterance) -> float:
    samples = loaded(read_manifest(source.parent / "out" / "all.jsonl"), utterance)
    assert np.ptp(samples) == 0
    return float(samples[0])


def test_nemos_calls_are_read_by_channel(source: Path) -> None:
    stereo(source / "call.wav")
    rows = [
        {"audio_filepath": "call.wav", "text": "hello", "channel": 0, "speaker": "ann"},
        {"audio_filepath": "call.wav", "text": "hello yourself", "channel": 1},
        {"audio_filepath": "call.wav", "text": "bye", "channel": 1, "offset": 1, "duration": 0.5},
        {"audio_filepath": "call.wav", "text": "both"},
        {"audio_filepath": "call.wav", "text": "none", "channel": 2},
    ]
    (source / "m.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, summary = run(source / "m.json", "table")
    assert {u.text: (u.channel, u.recording) for u in found.values()} == {
        "hello": (0, "call"),
        "hello yourself": (1, "call"),
        "bye": (1, "call"),
        "both": (None, None),
    }
    assert [level(source / "m.json", u) for u in found.values()] == [0.25, -0.5, -0.5, -0.125]
    assert kinds(summary) == {"m.json:5": "unsupported"}
    assert "must have a channel 2, counted from 0, found 2" in summary.problems[0].message
    assert summary.n_same_audio == 0


def test_lhotses_calls_are_read_by_channel(source: Path) -> None:
    stereo(source / "call.wav")
    file = {"type": "file", "channels": [1, 2], "source": "call.wav"}
    call = {"id": "r", "sources": [file], "sampling_rate": 16000, "duration": 2.0}
    said = {"recording_id": "r", "start": 0.5, "duration": 1.0, "text": "t", "gender": "f"}
    cut = {"type": "MonoCut", "recording": call, "start": 0, "duration": 2}
    rows = [
        {**cut, "id": "c1", "channel": 1, "supervisions": [{**said, "id": "s1", "channel": 1}]},
        {**cut, "id": "c2", "channel": 2, "supervisions": [], "custom": {"licence": "CC0"}},
        {**cut, "id": "c3", "type": "MultiCut", "channel": [1, 2], "supervisions": []},
    ]
    (source / "cuts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, summary = run(source, "lhotse")
    assert not summary.problems
    assert {id_: u.channel for id_, u in found.items()} == {"c1": 0, "c2": 1, "c3": None}
    assert [level(source, u) for u in found.values()] == [0.25, -0.5, -0.125]
    assert (found["c1"].extra, found["c2"].extra) == ({"gender": "f"}, {"licence": "CC0"})


def test_the_name_of_a_broadcaster_is_no_channel(source: Path) -> None:
    wav(source / "a.wav")
    (source / "m.csv").write_text("path,text,channel\na.wav,one,BBC\n")
    found, _ = run(source / "m.csv", "table")
    assert found["a"].channel is None
    assert found["a"].extra == {"original_channel": "BBC"}


# What no field takes


def test_what_no_field_takes_is_kept(source: Path) -> None:
    wav(source / "a.wav")
    (source / "m.csv").write_text("path,text,licence,id,age,note\na.wav,one,CC0,7,,x\n")
    found, _ = run(source / "m.csv", "table")
    assert found["a"].extra == {"licence": "CC0", "original_id": "7", "note": "x"}
    again, _ = run(source / "out" / "all.jsonl", "manifest")
    assert again["a"].extra == found["a"].extra


def test_a_value_that_json_lacks_is_named(source: Path) -> None:
    wav(source / "a.wav")
    (source / "m.jsonl").write_text('{"path": "a.wav", "text": "one", "score": Infinity}\n')
    _, summary = run(source / "m.jsonl", "table")
    assert kinds(summary) == {"m.jsonl:1": "bad line"}


# Parquet and Hugging Face


def test_parquet_with_samples(source: Path) -> None:
    quiet, loud = [0.25] * 4000, [-0.5] * 4000
    rows: list[dict[str, object]] = [
        {"audio": {"array": quiet, "sampling_rate": 8000}, "text": "one", "licence": "CC0"},
        {"audio": {"array": [], "sampling_rate": 8000}, "text": "none", "licence": "CC0"},
        {"audio": {"array": quiet, "sampling_rate": None}, "text": "no rate", "licence": "CC0"},
        {"audio": {"array": [9000.0], "sampling_rate": 8000}, "text": "big", "licence": "CC0"},
    ]
    write_parquet(source / "x.parquet", rows)
    found, summary = run(source, "parquet")
    assert [(u.text, u.duration_s, u.extra) for u in found.values()] == [
        ("one", 0.5, {"licence": "CC0"})
    ]
    assert loaded(
        read_manifest(source.parent / "out" / "all.jsonl"), found["x/00000000"]
    ).mean() == pytest.approx(0.25, abs=0.01)
    assert [p.kind for p in summary.problems] == ["bad line"] * 3
    assert "must have their rate beside them" in summary.problems[1].message
    two_channels = {"audio": [quiet, loud], "sampling_rate": 16000, "text": "two"}
    whole = {"audio": [[8192] * 4000], "sampling_rate": 16000, "text": "whole"}
    write_parquet(source / "x.parquet", [two_channels])
    found, _ = run(source, "parquet")
    assert level(source, found["x/00000000"]) == -0.125
    write_parquet(source / "x.parquet", [whole])
    found, _ = run(source, "parquet")
    assert level(source, found["x/00000000"]) == 0.25


def write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def audio_rows(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "path": "elsewhere.wav",
            "audio": {"bytes": sound(folder, seed=i), "path": f"{i}.wav"},
            "sentence": f"text {i}",
            "client_id": 7,
        }
        for i in range(3)
    ]


@pytest.mark.slow  # pyarrow alone takes seconds to import
def test_parquet(source: Path) -> None:
    rows = audio_rows(source.parent)
    rows.append({**rows[0], "audio": {"bytes": None, "path": None}})
    rows.append({**rows[0], "audio": {"bytes": b"noise", "path": None}})
    write_parquet(source / "data" / "train-00000-of-00001.parquet", rows)
    write_parquet(source / "data" / "test-00000-of-00001.parquet", rows[:1])
    (source / "data" / "train-00001-of-00001.parquet").write_bytes(b"PAR1 cut short")
    found, summary = run(source, "parquet")
    first = found["data/train-00000-of-00001/00000000"]
    assert (first.text, first.speaker) == ("text 0", "7")
    assert re.fullmatch(r"all\.audio/audio-00000-\w{12}\.tar#000000\.wav", first.audio)
    assert len(found) == 3
    assert {p.where: p.kind for p in summary.problems} == {
        "data/train-00000-of-00001.parquet: row 3": "audio missing",
        "data/train-00000-of-00001.parquet: row 4": "audio unreadable",
        "data/train-00001-of-00001.parquet": "unreadable",
    }
    shards = source.parent / "out" / "all.audio"
    assert len(list(shards.glob("*.tar"))) == 1  # of two imports
    tested, _ = run(source, "parquet", ImportSettings(split="test"))
    assert len(tested) == 1
    assert len(list(shards.glob("*.tar"))) == 2  # what the earlier manifest names is still there
    assert not list(shards.glob(".*.tmp"))
    with pytest.raises(BadSource, match="must hold Parquet files with dev in their names"):
        import_data(source, source.parent / "x.jsonl", ImportSettings(split="dev"))


def test_parquet_without_audio_is_refused(source: Path) -> None:
    write_parquet(source / "a.parquet", [{"n": 1}])
    with pytest.raises(BadSource, match="must have a column of audio, found n"):
        import_data(source, source.parent / "x.jsonl", ImportSettings())
    assert not (source.parent / "x.jsonl").exists()


def test_hugging_face_datasets_from_folders(source: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = audio_rows(source.parent)
    for row in rows:
        row["lang"] = 1
        row["audio"] = {**row["audio"], "path": "a.wav"}  # type: ignore[dict-item]
    raw = datasets.Dataset.from_list(rows)
    features = datasets.Features(
        {**raw.features, "audio": datasets.Audio(), "lang": datasets.ClassLabel(names=["de", "en"])}
    )
    dataset = datasets.Dataset(raw.data, info=datasets.DatasetInfo(features=features))
    datasets.disable_progress_bars()
    dataset.save_to_disk(source / "one")
    datasets.DatasetDict(train=dataset, test=dataset).save_to_disk(source / "two")
    repo = source / "repo"
    (repo / "data").mkdir(parents=True)
    (repo / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: held\n"
        "    path: data/h.parquet\n---\n"
    )
    dataset.to_parquet(repo / "data" / "h.parquet")
    one, _ = run(source / "one", "huggingface")
    two, _ = run(source / "two", "huggingface", ImportSettings(split="test"))
    settings = ImportSettings(config="small", column=("speaker=path",))
    three, _ = run(repo, "huggingface", settings)
    assert [u.text for u in one.values()] == ["text 0", "text 1", "text 2"]
    assert list(two) == ["test/00000000", "test/00000001", "test/00000002"]
    assert {u.language for u in one.values()} == {"en"}
    assert {u.speaker for u in three.values()} == {"elsewhere.wav"}
    with pytest.raises(BadSource, match="--split must be one of held"):
        import_data(repo, source.parent / "x.jsonl", ImportSettings(split="train"))
    with pytest.raises(BadSource, match="small"):
        import_data(repo, source.parent / "x.jsonl", ImportSettings(config="none"))
    data = next(iter((source / "one").glob("*.arrow")))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises((BadSource, UnreadableSource)):
        import_data(source / "one", source.parent / "x.jsonl", ImportSettings())
    assert not (source.parent / "x.jsonl").exists()


# Settings


def test_what_is_no_source_is_refused(source: Path) -> None:
    (source / "x.doc").touch()
    for path in (source / "missing", source / "x.doc", source):
        with pytest.raises(BadSource, match="must be a folder with audio below it"):
            import_data(path, source / "m.jsonl", ImportSettings())
    assert detect("openslr/librispeech_asr") == "huggingface"


def test_options_that_are_of_no_use_are_refused(source: Path) -> None:
    wav(source / "a.wav")
    for settings in (ImportSettings(split="train"), ImportSettings(config="x")):
        with pytest.raises(BadSource, match=r"--(split|config) is for .*huggingface"):
            import_data(source, source.parent / "m.jsonl", settings)
    with pytest.raises(ValueError, match=r"(?s)FIELD=NAME.*nearest"):
        ImportSettings(column=("txt=a",), language="germn")
