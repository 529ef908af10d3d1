import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distilwhisper.corpus.records import (
    BadManifest,
    DuplicateId,
    Label,
    Manifest,
    Utterance,
    Verdict,
    audio_from,
    each_record,
    manifest_row,
    merge_manifests,
    read_labels,
    read_manifest,
    read_verdicts,
    write_manifest,
)
from distilwhisper.corpus.store import TornShard, shard_path, write_jsonl
from distilwhisper.text.wer import ErrorCounts

FULL = Utterance(
    id="a/1",
    audio="shard.tar#a/1.opus",
    start_s=0.25,
    duration_s=3.0,
    text="größer “so”\n",
    speaker="s1",
    recording="r1",
    language="de",
    source="book",
)


def write_lines(path: Path, *lines: str | dict[str, Any]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(BadManifest) as caught:
        read_manifest(path)
    headline, *lines = str(caught.value).split("\n  ")
    assert str(path) in headline
    return lines


# Manifests


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    utterances = (FULL, Utterance("a/2", "/abs/a.wav"), replace(FULL, id="a/3", text=""))
    write_manifest(tmp_path / "train.jsonl", utterances)
    assert read_manifest(tmp_path / "train.jsonl").utterances == utterances


def test_audio_lies_relative_to_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    write_lines(
        tmp_path / "data" / "a.jsonl",
        {"id": "1", "audio": "wav/a.wav"},
        {"id": "2", "audio": "/abs/b.tar#./c//d.wav"},
        {"id": "3", "audio": "b.tar#c.wav"},
    )
    monkeypatch.chdir(tmp_path)
    manifest = read_manifest(Path("data/a.jsonl"))
    monkeypatch.chdir("/")
    assert [manifest.audio_source(utterance) for utterance in manifest.utterances] == [
        f"{tmp_path}/data/wav/a.wav",
        "/abs/b.tar#./c//d.wav",
        f"{tmp_path}/data/b.tar#c.wav",
    ]


@pytest.mark.parametrize("audio", ["a.wav", "shard.tar#./x/a.wav", "take#1.wav"])
def test_an_absolute_path_is_found_from_another_folder(tmp_path: Path, audio: str) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / audio.partition("#./")[0]).touch()
    for folder in ("link", "far/away", "sound", "sound/new"):
        path = tmp_path / folder / "a.jsonl"
        relative = audio_from(path.parent, tmp_path / "sound" / audio)
        assert not Path(relative).is_absolute()
        write_manifest(path, [Utterance("1", relative)])
        manifest = read_manifest(path)
        found, sign, member = manifest.audio_source(manifest.utterances[0]).partition("#./")
        assert Path(found).is_file()
        assert sign + member in audio


def test_only_id_and_audio_are_compulsory_and_strange_keys_are_ignored(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        {"id": "1", "audio": "a.wav", "licence": {"any": ["thing"]}, "start_s": None},
        "",
        {"id": "2", "audio": "a.wav", "duration_s": 3},
        "  ",
    )
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip())
    assert read_manifest(path).utterances == (
        Utterance("1", "a.wav"),
        Utterance("2", "a.wav", duration_s=3.0),
    )


def test_a_folder_of_shards_is_one_manifest(tmp_path: Path) -> None:
    for shard in (1, 0):
        write_lines(tmp_path / f"train-{shard:05d}.jsonl", {"id": f"{shard}", "audio": "a.wav"})
    write_lines(tmp_path / "problems.jsonl", "not ours")
    manifest = read_manifest(tmp_path)
    assert [utterance.id for utterance in manifest.utterances] == ["0", "1"]
    assert manifest.audio_source(manifest.utterances[0]) == f"{tmp_path}/a.wav"
    write_lines(
        tmp_path / "train-00002.jsonl", {"id": "2", "audio": "x"}, {"id": "0", "audio": "x"}
    )
    assert faults(tmp_path) == [
        'train-00002.jsonl:2: id "0" must be new, is that of train-00000.jsonl:1'
    ]


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("id", None, "a string that is not empty, found null"),
        ("id", "", 'a string that is not empty, found ""'),
        ("id", 7, "a string that is not empty, found 7"),
        ("audio", ["a"], 'a string that is not empty, found ["a"]'),
        ("text", 7, "a string or null, found 7"),
        ("language", False, "a string or null, found false"),
        ("start_s", -0.1, "a finite number from 0 on, found -0.1"),
        ("start_s", "0", 'a finite number from 0 on, found "0"'),
        ("duration_s", 0, "a finite number above 0, or null, found 0"),
        ("duration_s", True, "a finite number above 0, or null, found true"),
        ("duration_s", 10**400, "a finite number above 0, or null, found 1000"),
    ],
)
def test_a_wrong_value_is_a_fault_with_its_line(
    tmp_path: Path, key: str, value: object, must: str
) -> None:
    good = {"id": "1", "audio": "a.wav"}
    path = write_lines(tmp_path / "a.jsonl", good, {"id": "2", "audio": "b.wav", key: value})
    (fault,) = faults(path)
    assert fault.startswith(f"a.jsonl:2: {key} must be {must}")


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "2"',
        "[1]",
        '{"id": "2", "audio": "a", "duration_s": NaN}',
        '{"id": "2", "audio": "a", "start_s": 1e999}',
        '{"id": "2", "audio": "a", "text": "\\ud83d"}',
    ],
)
def test_a_line_that_is_no_record_is_a_fault(tmp_path: Path, line: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"id": "1", "audio": "a.wav"}, line)
    (fault,) = faults(path)
    assert fault.startswith("a.jsonl:2: ")
    assert "cut off" not in fault


def test_a_character_of_two_halves_is_whole(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", '{"id": "1", "audio": "a", "text": "\\ud83d\\ude00"}')
    assert read_manifest(path).utterances[0].text == "😀"


def test_bytes_that_are_no_utf8_are_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "1", "audio": "\xe4.wav"}\n')
    (fault,) = faults(path)
    assert "UTF-8" in fault


def test_a_torn_last_line_looks_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "1", "audio": "a.wav"}\n{"id": "2", "aud')
    (fault,) = faults(path)
    assert fault.startswith("a.jsonl:2: ")
    assert "looks cut off" in fault


def test_a_second_line_of_one_id_names_the_first(tmp_path: Path) -> None:
    line = {"id": "1", "audio": "a.wav"}
    path = write_lines(tmp_path / "a.jsonl", line, "", line)
    assert faults(path) == ['a.jsonl:3: id "1" must be new, is that of a.jsonl:1']


def test_ten_faults_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", *[{"id": "1"}] * 25)
    shown = faults(path)
    assert [fault.partition(": ")[0] for fault in shown[:-1]] == [
        f"a.jsonl:{n}" for n in range(1, 11)
    ]
    assert shown[-1] == "... and 15 more"


def test_a_manifest_without_utterances_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    for path in (tmp_path / "a.jsonl", tmp_path):
        with pytest.raises(BadManifest, match="at least one utterance, found none"):
            read_manifest(path)


@pytest.mark.parametrize(
    "bad",
    [
        replace(FULL, id="b", duration_s=0.0),
        replace(FULL, id="b", start_s=math.nan),
        replace(FULL, id=""),
        FULL,
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path: Path, bad: Utterance) -> None:
    with pytest.raises(BadManifest, match=f"utterance {json.dumps(bad.id)}"):
        write_manifest(tmp_path / "a.jsonl", [FULL, bad])
    assert list(tmp_path.iterdir()) == []


# Labels and verdicts

LABEL = Label(
    id="a/1",
    token_ids=(50258, 1, 50257),
    text=" größer",
    language="de",
    avg_logprob=-0.25,
    no_speech_prob=0.0,
    compression_ratio=0.8,
    error=None,
    finished=False,
)
FAILED = Label("a/2", (), "", None, None, None, None, "a.wav: zero samples")
VERDICTS = (
    Verdict("a/1", True, "kept", 0.1, ErrorCounts(1, 0, 0, 10), "character"),
    Verdict("a/2", False, "unlabelled"),
)


def test_labels_come_back_as_they_were(tmp_path: Path) -> None:
    write_jsonl(shard_path(tmp_path, 0), [LABEL.to_dict()])
    write_jsonl(shard_path(tmp_path, 1), [FAILED.to_dict()])
    assert read_labels(tmp_path) == {"a/1": LABEL, "a/2": FAILED}
    assert list(each_record(tmp_path, Label)) == [LABEL, FAILED]


def test_a_score_that_is_no_number_becomes_none(tmp_path: Path) -> None:
    label = replace(LABEL, avg_logprob=-math.inf, no_speech_prob=math.nan)
    write_jsonl(shard_path(tmp_path, 0), [label.to_dict()])
    assert read_labels(tmp_path)["a/1"] == replace(LABEL, avg_logprob=None, no_speech_prob=None)


def test_verdicts_come_back_as_they_were(tmp_path: Path) -> None:
    write_jsonl(shard_path(tmp_path, 0), [verdict.to_dict() for verdict in VERDICTS])
    assert tuple(read_verdicts(tmp_path).values()) == VERDICTS


def test_an_id_in_two_shards_is_refused_with_both_lines(tmp_path: Path) -> None:
    write_jsonl(shard_path(tmp_path, 0), [FAILED.to_dict(), LABEL.to_dict()])
    write_jsonl(shard_path(tmp_path, 1), [LABEL.to_dict()])
    with pytest.raises(DuplicateId, match=r"00001\.jsonl:1 .*'a/1', as in .*00000\.jsonl:2"):
        read_labels(tmp_path)
    write_jsonl(shard_path(tmp_path, 0), [VERDICTS[0].to_dict()] * 2)
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(DuplicateId, match=r"00000\.jsonl:2 .*'a/1', as in .*00000\.jsonl:1"):
        read_verdicts(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("id", 7), ("token_ids", [1, "2"]), ("text", None), ("avg_logprob", "-1"), ("finished", 1)],
)
def test_a_row_that_is_no_label_is_named(tmp_path: Path, key: str, value: object) -> None:
    write_jsonl(shard_path(tmp_path, 0), [FAILED.to_dict(), {**LABEL.to_dict(), key: value}])
    with pytest.raises(TornShard, match=rf"shard-00000\.jsonl:2 .*{key}"):
        read_labels(tmp_path)


def test_a_verdict_is_no_label(tmp_path: Path) -> None:
    write_jsonl(shard_path(tmp_path, 0), [VERDICTS[0].to_dict()])
    with pytest.raises(TornShard, match="token_ids is missing"):
        read_labels(tmp_path)


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"shards called shard-00000\.jsonl, found none"):
        read_labels(tmp_path)


def test_what_a_line_holds_beside_is_kept(tmp_path: Path) -> None:
    row = {"id": "1", "audio": "a.wav", "licence": "CC0", "up_votes": 2, "tags": ["a", None]}
    path = write_lines(tmp_path / "a.jsonl", row)
    utterances = read_manifest(path).utterances
    assert utterances[0].extra == {"licence": "CC0", "up_votes": 2, "tags": ["a", None]}
    write_manifest(tmp_path / "b.jsonl", utterances)
    assert row.items() <= json.loads((tmp_path / "b.jsonl").read_text()).items()
    [again] = read_manifest(tmp_path / "b.jsonl").utterances
    assert again.extra == utterances[0].extra


def test_what_is_kept_takes_the_place_of_no_field() -> None:
    row = manifest_row(Utterance("1", "a.wav", extra={"id": "2", "split": "x", "licence": "CC0"}))
    assert (row["id"], row["licence"]) == ("1", "CC0")
    assert "split" not in row


def test_split_and_channel_are_written_where_they_are_known(tmp_path: Path) -> None:
    utterances = (Utterance("1", "a.wav", split="test", channel=1), Utterance("2", "a.wav"))
    write_manifest(tmp_path / "m.jsonl", utterances)
    assert read_manifest(tmp_path / "m.jsonl").utterances == utterances
    first, second = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert (first["split"], first["channel"]) == ("test", 1)
    assert not {"split", "channel"} & second.keys()


@pytest.mark.parametrize("channel", [-1, 1.0, True, "left"])
def test_a_channel_is_a_whole_number(tmp_path: Path, channel: object) -> None:
    path = write_lines(tmp_path / "m.jsonl", {"id": "1", "audio": "a.wav", "channel": channel})
    with pytest.raises(BadManifest, match="channel must be a whole number from 0 on, or null"):
        read_manifest(path)


# Several manifests as one


def corpus(folder: Path, *utterances: Utterance) -> Manifest:
    folder.mkdir()
    write_manifest(folder / "train.jsonl", utterances)
    return read_manifest(folder / "train.jsonl")


def test_a_merged_manifest_has_all_utterances_with_their_audio_and_where_they_come_from(
    tmp_path: Path,
) -> None:
    a = corpus(
        tmp_path / "a",
        Utterance("a1", "x.wav", start_s=1.0, duration_s=2.0, text="hello", speaker="s"),
        Utterance("a2", "shard.tar#./x.wav", source="lectures"),
    )
    b = corpus(tmp_path / "b", Utterance("b1", "x.wav"), Utterance("b2", "s3://bucket/x.wav"))
    out = tmp_path / "run" / "data" / "train.jsonl"
    merge_manifests({"calls": a, "talks": b}, out)
    merged = read_manifest(out)
    assert [u.source for u in merged.utterances] == ["calls", "lectures", "talks", "talks"]
    before = (*a.utterances, *b.utterances)
    kept = [replace(u, audio="", source=None) for u in merged.utterances]
    assert kept == [replace(u, audio="", source=None) for u in before]
    whole = [Path(merged.audio_source(u)) for u in merged.utterances[:3]]
    assert [path.resolve() for path in whole] == [
        tmp_path / "a" / "x.wav",
        tmp_path / "a" / "shard.tar#." / "x.wav",
        tmp_path / "b" / "x.wav",
    ]
    assert merged.audio_source(merged.utterances[3]) == "s3://bucket/x.wav"


def test_an_id_in_two_manifests_is_refused_with_both_places(tmp_path: Path) -> None:
    a = corpus(tmp_path / "a", Utterance("u1", "x.wav"), Utterance("u2", "x.wav"))
    b = corpus(tmp_path / "b", Utterance("u2", "x.wav"), Utterance("u3", "x.wav"))
    out = tmp_path / "train.jsonl"
    with pytest.raises(BadManifest, match=rf"found 1 in two: 'u2' in {a.path} and in {b.path}: "):
        merge_manifests({"a": a, "b": b}, out)
    assert not out.exists()
