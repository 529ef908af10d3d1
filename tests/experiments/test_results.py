from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from experiments.results import Result, Row, interval_notes, score_texts, summarise, total

from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.evaluation.bootstrap import Interval, Resampling
from distilwhisper.evaluation.scoring import COST, score
from distilwhisper.text.wer import ErrorCounts


def row(arm: str, set_name: str, id_: str, errors: int, words: int, file: str = "") -> Row:
    counts = ErrorCounts(substitutions=errors, words=words)
    return Row(arm, set_name, id_, file or id_, "a b", "a c", counts)


ROWS = {
    "one": [row("one", "a", "1", 1, 10), row("one", "a", "2", 3, 10), row("one", "b", "1", 8, 10)],
    "two": [row("two", "a", "1", 0, 10), row("two", "a", "2", 3, 10), row("two", "b", "1", 2, 10)],
}


def summed(
    rows: Mapping[str, Sequence[Row]], against: Mapping[str, str] | None = None
) -> dict[str, Result]:
    other = against or {}
    return summarise(rows, Resampling(200), against=lambda arm: other.get(arm, arm))


SECOND_FILES = {arm: [*rows, row(arm, "b", "2", 4, 10)] for arm, rows in ROWS.items()}


def test_sums_means_and_differences() -> None:
    found = summed(SECOND_FILES, {"one": "two", "two": "two"})
    one, two = found["one"], found["two"]
    assert total(one.rows) == ErrorCounts(substitutions=16, words=40)
    assert one.errors["a"] == ErrorCounts(substitutions=4, words=20)
    assert one.interval is not None
    assert one.mean() == one.interval.value == pytest.approx((4 / 20 + 12 / 20) / 2)
    assert one.wer is one.interval
    assert one.mean("ser", ["a"]) == pytest.approx(0.2)
    assert one.mean("ier") == 0.0
    assert one.difference is not None
    assert one.difference.value == pytest.approx(one.mean() - two.mean())
    assert one.against == "two"
    assert (two.against, two.difference, two.p) == (None, None, None)
    assert one.to_dict()["wer"] == pytest.approx(16 / 40)


def test_arms_of_other_utterances_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same recordings"):
        summed({**SECOND_FILES, "one": SECOND_FILES["one"][1:]}, {"one": "two"})


def test_an_arm_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold references"):
        summed({**ROWS, "three": []})


def test_a_set_of_one_utterance_has_no_interval() -> None:
    [arm] = summed({"one": ROWS["one"]}).values()
    assert arm.interval is None
    assert arm.wer == pytest.approx((0.2 + 0.8) / 2)
    assert arm.to_dict()["wer"] == pytest.approx((4 + 8) / (20 + 10))


def test_of_one_file_utterances_are_drawn() -> None:
    same_file = [row("one", "a", "1", 1, 10, "f"), row("one", "a", "2", 3, 10, "f")]
    [arm] = summed({"one": same_file}).values()
    assert arm.interval == Interval(0.2, 0.1, 0.3)


def test_without_words_there_is_no_rate() -> None:
    [arm] = summed({"a": [row("a", "s", "1", 1, 0)]}).values()
    assert arm.to_dict()["wer"] is None
    assert arm.to_dict()["by_set"]["s"]["wer"] is None


def test_repetitions_are_counted_set_by_set() -> None:
    text = "a b c d e"
    rows = [
        Row("one", name, id_, id_, text, text, ErrorCounts(words=5))
        for name, id_ in (("a", "1"), ("a", "2"), ("b", "1"))
    ]
    [arm] = summed({"one": rows}).values()
    # Set a: ten words have six 5-grams, of which the last repeats the first; b's one is its own.
    assert arm.repeated_5_grams == arm.reference_5_grams == 1


def test_text_is_scored_normalised_by_words_or_characters() -> None:
    english = Utterance(id="u", audio="u.wav", text="Mr. Bennet's colour", recording="r")
    [scored] = score_texts("arm", "set", [(english, "mister bennet's color")])
    assert scored.errors == ErrorCounts(words=4)
    assert scored.file == "recording r"
    chinese = Utterance(id="u", audio="u.wav", text="你好吗", language="zh")
    [scored] = score_texts("arm", "set", [(chinese, "你好")])
    assert scored.errors == ErrorCounts(deletions=1, words=3)
    assert scored.file == "file u.wav"


SAID = [
    ("Mr. Bennet, um, isn't in", "mister bennet is out", "en"),
    ("Он не прав", "он не права", "ru"),
    ("你好吗 再见", "你好 再见", "zh"),
]


@pytest.mark.parametrize("language", [None, "known"])
@pytest.mark.parametrize("said", [*([one] for one in SAID), SAID])
def test_text_is_scored_as_evaluation_scores_it(
    tmp_path: Path, said: list[tuple[str, str, str]], language: str | None
) -> None:
    heard = {
        Utterance(spoken, f"{spoken}.wav", text=reference, language=language and spoken): text
        for reference, text, spoken in said
    }
    rows = [
        {"id": u.id, "text": text, "language": "de", "error": None} for u, text in heard.items()
    ]
    timing = {"audio_s": 1.0, "compute_s": 1.0, **dict.fromkeys(COST, 0)}
    manifest = Manifest(tmp_path / "m.jsonl", tmp_path, tuple(heard))
    score(manifest, rows, [timing], tmp_path, n_parameters=1)
    for row, scored in zip(
        read_jsonl(tmp_path / "scores.jsonl"),
        score_texts("arm", "set", list(heard.items())),
        strict=True,
    ):
        assert (scored.reference, scored.hypothesis) == (row["reference"], row["hypothesis"])
        assert asdict(scored.errors) == row["errors"]


def test_notes_say_what_is_drawn_and_where_it_is_little() -> None:
    rows = [row("a", "many", f"u{i}", 1, 10, f"file {i}.wav") for i in range(10)]
    rows += [row("a", "few", f"u{i}", 1, 10, f"recording {i}") for i in range(3)]
    rows += [row("a", "one", f"u{i}", 1, 10, "speaker s/x") for i in range(12)]
    _, drawn, few = interval_notes(summarise({"a": rows}, Resampling(50)).values())
    assert drawn == "Drawn: of many 10 files; of few 3 recordings; of one one speaker."
    assert few.startswith("Of few fewer than 10 are drawn")
