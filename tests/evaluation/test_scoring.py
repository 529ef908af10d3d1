import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jiwer
import pytest

from distilwhisper.corpus.records import Utterance, read_manifest, write_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.evaluation.scoring import COST, EvaluationSummary, score, summary_line

TIMING = {"audio_s": 30.0, "compute_s": 2.0, **dict.fromkeys(COST, 0)}
REFERENCE, HYPOTHESIS = "The rain, in the valley.", "the rein in a the valleys"


def scored(
    folder: Path, utterances: list[Utterance], texts: list[str], *, language: str | None = None
) -> tuple[EvaluationSummary, list[dict[str, Any]]]:
    """Score texts as what was heard of utterances, in a folder beside their manifest's."""
    manifest = folder / "corpus" / "manifest.jsonl"
    write_manifest(manifest, utterances)
    rows = [
        {"id": u.id, "text": text, "language": language, "error": None}
        for u, text in zip(utterances, texts, strict=True)
    ]
    out = folder / "results" / "eval"
    out.mkdir(parents=True)
    summary = score(read_manifest(manifest), rows, [TIMING], out, n_parameters=1)
    return summary, list(read_jsonl(out / "scores.jsonl"))


@pytest.mark.reference
def test_words_and_characters_are_counted_of_the_same_texts(tmp_path: Path) -> None:
    utterances = [
        Utterance(id="a", audio="a.wav", text=REFERENCE),
        Utterance(id="b", audio="b.wav", text="quite right"),
    ]
    summary, rows = scored(tmp_path, utterances, [HYPOTHESIS, "quite right"])
    assert [row["hypothesis"] for row in rows] == [HYPOTHESIS, "quite right"]
    references = [row["reference"] for row in rows]
    hypotheses = [row["hypothesis"] for row in rows]
    words = jiwer.process_words(references, hypotheses)
    unspaced = ([text.replace(" ", "") for text in texts] for texts in (references, hypotheses))
    characters = jiwer.process_characters(*unspaced)
    assert summary.errors.wer == pytest.approx(words.wer)
    assert summary.character_errors.wer == pytest.approx(characters.cer)
    assert summary.errors.words == 7
    assert summary.character_errors.words == len("theraininthevalleyquiteright")
    written = json.loads((tmp_path / "results/eval/summary.json").read_text())
    assert written["cer"] == pytest.approx(characters.cer)
    assert written["character_errors"] == asdict(summary.character_errors)


def test_where_characters_are_the_unit_both_counts_are_the_same(tmp_path: Path) -> None:
    utterances = [Utterance(id="a", audio="a.wav", text="那里有雨", language="zh")]
    summary, rows = scored(tmp_path, utterances, ["那里有雪"])
    assert summary.unit == "character"
    assert rows[0]["errors"] == rows[0]["character_errors"]
    assert summary.to_dict()["cer"] == summary.to_dict()["wer"] == 0.25


def test_an_ellipsis_is_no_word_but_whispers_count_is_kept(tmp_path: Path) -> None:
    utterances = [
        Utterance(id="a", audio="a.wav", text="and so...", language="en"),
        Utterance(id="b", audio="b.wav", text="he went home ...", language="en"),
    ]
    summary, _ = scored(tmp_path, utterances, ["And so", "he went home"])
    assert (summary.errors.words, summary.errors.errors) == (5, 0)
    assert (summary.whisper_errors.words, summary.whisper_errors.deletions) == (7, 2)
    assert summary.to_dict()["wer_whisper_normalizer"] == pytest.approx(2 / 7)
    assert "WER 0.0 % (0 S, 0 D, 0 I of 5; 28.6 % by Whisper's normaliser)" in summary_line(
        "set", summary
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("heard", ["en", "de", "ja", None])
@pytest.mark.parametrize(
    ("text", "language", "unit", "normalised"),
    [
        ("Mr. Hall isn't, um, right", "en", "word", "mister hall is not right"),
        ("Он 'um' не прав", "ru", "word", "он um не прав"),
        ("那里'um'有雨", "zh", "character", "那里 um 有雨"),
    ],
)
def test_the_reference_says_how_it_is_scored_whatever_language_was_heard(
    tmp_path: Path,
    text: str,
    language: str,
    unit: str,
    normalised: str,
    heard: str | None,
    known: bool,
) -> None:
    utterances = [
        Utterance(id="a", audio="a.wav", text=text, language=language if known else None),
        Utterance(id="b", audio="b.wav", language="zh"),  # not scored, so it has no say
    ]
    summary, rows = scored(tmp_path, utterances, [text, "hm"], language=heard)
    assert summary.unit == unit
    assert rows[0]["reference"] == rows[0]["hypothesis"] == normalised


def test_without_references_there_is_no_character_rate(tmp_path: Path) -> None:
    summary, rows = scored(tmp_path, [Utterance(id="a", audio="a.wav")], ["hm"])
    assert rows == []
    assert summary.to_dict()["cer"] is None
    assert "no references" in summary_line("tiny", summary)


@pytest.mark.parametrize(
    ("known", "group"),
    [
        ({"recording": "r", "speaker": "s", "source": "c"}, "recording r"),
        ({"speaker": "s", "source": "c"}, "speaker c/s"),
        ({"speaker": "s"}, "speaker /s"),
        ({"source": "c"}, "file a.tar#1.wav"),
        ({}, "file a.tar#1.wav"),
    ],
)
def test_a_row_is_grouped_by_the_widest_thing_that_is_known(
    tmp_path: Path, known: dict[str, str], group: str
) -> None:
    _, rows = scored(tmp_path, [Utterance(id="x", audio="a.tar#1.wav", text="hm", **known)], ["hm"])
    assert rows[0]["group"] == group


def test_a_row_tells_where_its_sound_is(tmp_path: Path) -> None:
    utterances = [
        Utterance(id="a", audio="sub/a.tar#x/1.wav", start_s=2.5, duration_s=1.5, text="hm"),
        Utterance(id="b", audio="s3://bucket/b.wav", text="hm"),
        Utterance(id="c", audio=str(tmp_path / "elsewhere" / "c.wav"), text="hm"),
    ]
    _, rows = scored(tmp_path, utterances, ["hm"] * 3)
    assert [row["audio"] for row in rows] == [
        "../../corpus/sub/a.tar#x/1.wav",
        "s3://bucket/b.wav",
        "../../elsewhere/c.wav",
    ]
    assert (rows[0]["start_s"], rows[0]["duration_s"]) == (2.5, 1.5)
    assert (rows[1]["start_s"], rows[1]["duration_s"]) == (0.0, None)
