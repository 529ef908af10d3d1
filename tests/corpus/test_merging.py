from dataclasses import replace
from pathlib import Path

import pytest

from distilwhisper.corpus.merging import merge_manifests
from distilwhisper.corpus.records import (
    BadManifest,
    Manifest,
    Utterance,
    read_manifest,
    write_manifest,
)


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
