import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.corpus.records import (
    Label,
    Utterance,
    read_verdicts,
    write_manifest,
)
from distilwhisper.corpus.store import shard_path, write_jsonl
from distilwhisper.filtering.measures import is_all_capitals
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.run.stages import StageChanged
from distilwhisper.stages.filter import FilterSummary, Share, filter_labels, judge
from distilwhisper.text.wer import ErrorCounts

TEN = "one cat sat on the mat and saw two dogs"
SETTINGS = FilterSettings()


def utterance(text: str | None, *, language: str | None = "en", id_: str = "a") -> Utterance:
    return Utterance(id_, "a.wav", duration_s=3600.0, text=text, language=language)


def label(text: str, *, id_: str = "a", **other: Any) -> Label:
    fields: dict[str, Any] = {
        "language": "en",
        "avg_logprob": -0.3,
        "no_speech_prob": 0.01,
        "compression_ratio": 1.1,
        "error": None,
    }
    return Label(id=id_, token_ids=(1, 2), text=text, **{**fields, **other})


def reason(reference: str | None, said: Label | None, **settings: Any) -> str:
    verdict = judge(utterance(reference), said, FilterSettings(**settings))
    assert verdict.keep == verdict.reason.startswith("kept")
    return verdict.reason


def is_kept(n_errors: int, n_words: int, limit: float) -> bool:
    """Judge a label that has other words than its reference, and more of them where it must."""
    words, others = (
        [f"{first}{a}q{b}z" for a in "bcdfghjklm" for b in "bcdfghjklm"] for first in "xw"
    )
    spoken = words[:n_words]
    text = [*others[:n_errors], *spoken[n_errors:]]
    return reason(" ".join(spoken), label(" ".join(text)), max_wer=limit) == "kept"


# Reasons


def test_a_good_label_is_kept() -> None:
    verdict = judge(utterance(f"{TEN}."), label(f" {TEN.upper()[:3].title()}{TEN[3:]}!"), SETTINGS)
    assert (verdict.keep, verdict.reason, verdict.wer) == (True, "kept", 0.0)
    assert verdict.errors == ErrorCounts(words=10)


def test_what_has_no_label_says_so() -> None:
    assert reason(TEN, None) == "unlabelled"
    assert reason(TEN, label("", error="cannot be read", finished=False)) == "label_failed"
    assert reason(TEN, label(TEN, finished=False)) == "cut_off"


@pytest.mark.parametrize("nothing", ["", " ", "...", "[music]", " -- "])
def test_texts_that_normalise_to_nothing_have_their_reasons(nothing: str) -> None:
    assert reason(nothing, label(TEN)) == "empty_reference"
    assert reason(nothing, label(nothing)) == "empty_reference"
    assert reason(TEN, label(nothing)) == "empty_pseudo_label"
    assert reason(None, label(nothing)) == "empty_pseudo_label"


@pytest.mark.parametrize("blank", ["", " \n"])
def test_silence_is_kept_on_request_whatever_the_teacher_heard_in_it(blank: str) -> None:
    for said in (label(""), label("Thank you."), label("you " * 99, finished=False)):
        assert reason(blank, said, keep_silence=True) == "kept_silence"
    assert reason(blank, label("", error="cannot be read"), keep_silence=True) == "label_failed"
    assert reason(blank, None, keep_silence=True) == "unlabelled"


@pytest.mark.parametrize("text", ["...", "[unintelligible]", "(inaudible)", " -- "])
def test_a_note_is_no_silence(text: str) -> None:
    """It may stand where somebody spoke and nobody understood: that must not be taught away."""
    assert reason(text, label(TEN), keep_silence=True) == "empty_reference"


def test_errors_are_counted_whatever_the_reason() -> None:
    dropped = judge(utterance(""), label("two dogs"), SETTINGS)
    assert (dropped.errors, dropped.wer) == (ErrorCounts(insertions=2), None)
    dropped = judge(utterance(TEN), label(""), SETTINGS)
    assert (dropped.errors, dropped.wer) == (ErrorCounts(deletions=10, words=10), 1.0)


@pytest.mark.parametrize(
    "text",
    ["THIS IS WRONG AND LOUD.", "ЭТО СОВСЕМ НЕВЕРНО", "ΑΥΤΟ ΕΙΝΑΙ ΛΑΘΟΣ", "VITAMIN B12 AND C"],
)
def test_capitals_throughout_are_dropped_even_where_they_are_right(text: str) -> None:
    assert is_all_capitals(text)
    assert not is_all_capitals(text[:-2] + "x" + text[-1])
    assert reason(text, label(text)) == "all_capitals"
    assert reason(None, label(text)) == "all_capitals"


@pytest.mark.parametrize(
    "text",
    [
        "OK",
        "USA.",
        "NASA TV",
        "The USA",
        "这是一个没有大小写的文字系统里的句子",
        "これはテストです。ここには大文字がありません。",
        "هذه جملة عربية طويلة بما فيه الكفاية",
        "นี่คือประโยคภาษาไทยที่ยาวพอสมควร",
        "ეს არის ქართული წინადადება",
        "1234567890 1234567890",
        "",
    ],
)
def test_abbreviations_and_scripts_without_case_are_no_capitals(text: str) -> None:
    assert not is_all_capitals(text)


def test_a_label_with_too_many_errors_is_dropped() -> None:
    two_wrong = TEN.replace("cat", "dog").replace("mat", "hat")
    assert reason(TEN, label(two_wrong)) == "wer_above_limit"
    assert reason(TEN, label(two_wrong), max_wer=0.2) == "kept"


def test_an_ellipsis_is_no_word_that_a_right_label_lacks() -> None:
    for reference in ("and so...", "...and so ...", "And so…"):
        verdict = judge(utterance(reference), label("And so."), SETTINGS)
        assert (verdict.keep, verdict.errors) == (True, ErrorCounts(words=2))
    verdict = judge(utterance(TEN), label(f"{TEN}..."), SETTINGS)
    assert verdict.errors == ErrorCounts(words=10)


@pytest.mark.parametrize(
    ("language", "reference", "right", "wrong"),
    [
        ("ar", "مُحَمَّدٌ رَسُولُ اللَّهِ", "محمد رسول الله", "محمد رسول الليل"),
        ("he", "שָׁלוֹם עוֹלָם", "שלום עולם", "שלום עולה"),
        ("hi", "वह की बात करता है", "वह की बात करता है", "वह का बात करती हो"),
        ("th", "กินข้าวแล้ว", "กินข้าวแล้ว", "กันขาวแล่ว"),
        ("tr", "İSTANBUL IŞIK", "istanbul ışık", "ıstanbul işık"),
    ],
)
def test_marks_of_a_script_count_where_they_carry_meaning(
    language: str, reference: str, right: str, wrong: str
) -> None:
    for text, errors in ((right, False), (wrong, True)):
        verdict = judge(utterance(reference, language=language), label(text), SETTINGS)
        assert (verdict.wer > 0) is errors


def test_scripts_without_spaces_are_counted_in_characters() -> None:
    reference = utterance("今日はとてもいい天気", language="ja")
    one_wrong = judge(reference, label("今日はとても良い天気。"), SETTINGS)
    assert (one_wrong.reason, one_wrong.unit, one_wrong.wer) == ("kept", "character", 0.1)
    two_wrong = judge(reference, label("昨日はとても良い天気。"), SETTINGS)
    assert (two_wrong.reason, two_wrong.wer) == ("cer_above_limit", 0.2)


def test_a_label_that_repeats_itself_is_dropped_and_one_at_the_limit_kept() -> None:
    for reference, kept in ((TEN, "kept"), (None, "kept_without_reference")):
        above = label(TEN, compression_ratio=2.41)
        assert reason(reference, above) == "compression_ratio_above_limit"
        assert reason(reference, label(TEN, compression_ratio=2.4)) == kept


def test_a_missing_compression_ratio_is_computed() -> None:
    loop = label("and then and then " * 20, compression_ratio=None)
    assert reason(None, loop) == "compression_ratio_above_limit"
    assert reason(None, label(TEN, compression_ratio=None)) == "kept_without_reference"


def test_confidence_counts_only_where_there_is_no_reference() -> None:
    for score in (-1.01, None):
        assert reason(None, label(TEN, avg_logprob=score)) == "log_probability_below_limit"
        assert reason(TEN, label(TEN, avg_logprob=score)) == "kept"
    assert reason(None, label(TEN, avg_logprob=-1.0)) == "kept_without_reference"


def test_a_short_wrong_clip_does_not_hide_behind_long_right_ones() -> None:
    assert reason("no", label("yes")) == "wer_above_limit"


# The limit


@pytest.mark.parametrize(
    ("errors", "words", "limit"),
    [
        (1, 10, 0.1),
        (3, 30, 0.1),
        (6, 60, 0.1),
        (7, 100, 0.07),
        (29, 100, 0.29),
        (1, 1, 1.0),
        (0, 3, 0.0),
    ],
)
def test_a_label_at_the_limit_is_kept_and_one_error_more_is_not(
    errors: int, words: int, limit: float
) -> None:
    assert is_kept(errors, words, limit)
    assert not is_kept(errors + 1, words, limit)


def test_thirty_words_with_three_errors_are_at_the_limit() -> None:
    reference = " ".join([TEN] * 3)
    said = " ".join([TEN.replace("cat", "dog")] * 3)
    assert reason(reference, label(said)) == "kept"
    assert reason(reference, label(f"{said} too")) == "wer_above_limit"


words = st.lists(st.sampled_from(["one", "cat", "CAT", "sat.", "...", "东", "京"]), max_size=8)
texts = words.map(" ".join)
scores = st.fixed_dictionaries(
    {
        "avg_logprob": st.none() | st.floats(-2, 0),
        "compression_ratio": st.none() | st.floats(0, 4),
        "finished": st.booleans(),
    }
)


@given(
    reference=st.none() | texts,
    said=texts,
    scores=scores,
    language=st.sampled_from(["en", "de", "zh"]),
    limits=st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0, 2.0]), min_size=2, max_size=2),
)
def test_a_stricter_limit_keeps_a_subset(
    reference: str | None, said: str, scores: dict[str, Any], language: str, limits: list[float]
) -> None:
    spoken, heard = utterance(reference, language=language), label(said, **scores)
    strict, lax = (judge(spoken, heard, FilterSettings(max_wer=limit)) for limit in sorted(limits))
    assert strict.keep <= lax.keep


@given(errors=st.integers(0, 50), n_words=st.integers(1, 50), limit=st.integers(0, 200))
def test_the_limit_counts_as_the_decimal_it_is_written_as(
    errors: int, n_words: int, limit: int
) -> None:
    assert is_kept(errors, n_words, limit / 100) == (100 * errors <= limit * n_words)


# Languages and settings


def test_the_language_is_the_settings_then_the_manifests_then_the_teachers() -> None:
    digits = label("20 cats", language="de")
    english = utterance("twenty cats", language="en")
    unknown = utterance("twenty cats", language=None)
    assert judge(english, digits, SETTINGS).wer == 0
    assert judge(unknown, digits, SETTINGS).wer == 0.5
    assert judge(unknown, digits, FilterSettings(language="English")).wer == 0
    assert judge(unknown, replace(digits, language="en"), SETTINGS).wer == 0
    assert judge(english, digits, FilterSettings(language="de")).wer == 0.5


@pytest.mark.parametrize("language", [None, "klingon"])
def test_a_language_that_is_not_known_is_refused_with_the_utterance(language: str | None) -> None:
    with pytest.raises(ValueError, match="utterance 'a': "):
        judge(utterance(TEN, language=language), label(TEN, language=None), SETTINGS)


def test_settings_that_make_no_sense_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"max_wer .* -1.*; max_comp.* 0.*; min_avg.* 1.*; lang"):
        FilterSettings(-1.0, 0.0, 1.0, "klingon")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_wer"):
            FilterSettings(max_wer=bad)


# The stage


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest of six utterances and two shards of labels for five of them and a stranger."""
    wrong = TEN.replace("cat", "dog").replace("mat", "hat")
    write_manifest(
        tmp_path / "train.jsonl",
        [
            utterance(TEN, id_="right"),
            utterance(TEN, id_="wrong"),
            utterance(None, id_="unread"),
            utterance("今日はとてもいい天気", id_="ja", language="ja"),
            replace(utterance(TEN, id_="never"), duration_s=None),
            utterance(TEN, id_="broken"),
        ],
    )
    rows = [
        label(TEN, id_="right"),
        label(wrong, id_="wrong"),
        label(TEN, id_="unread"),
        label("今日はとても良い天気", id_="ja"),
        label("", id_="broken", error="cannot be read"),
        label(TEN, id_="stranger"),
    ]
    for shard in range(2):
        part = rows[3 * shard : 3 * shard + 3]
        write_jsonl(shard_path(tmp_path / "labels", shard), [row.to_dict() for row in part])
    return tmp_path


def run(corpus: Path, settings: FilterSettings = SETTINGS, *, force: bool = False) -> FilterSummary:
    return filter_labels(
        corpus / "train.jsonl",
        corpus / "labels",
        corpus / "verdicts",
        settings,
        figures=False,
        force=force,
    )


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_every_utterance_gets_one_verdict_and_the_summary_counts_them(corpus: Path) -> None:
    summary = run(corpus)
    verdicts = read_verdicts(corpus / "verdicts")
    assert {verdict.id: verdict.reason for verdict in verdicts.values()} == {
        "right": "kept",
        "wrong": "wer_above_limit",
        "unread": "kept_without_reference",
        "ja": "kept",
        "broken": "label_failed",
        "never": "unlabelled",
    }
    assert summary == FilterSummary(
        total=Share(6, 5.0),
        kept=Share(3, 3.0),
        by_reason={
            "unlabelled": Share(1, 0.0),
            "label_failed": Share(1, 1.0),
            "wer_above_limit": Share(1, 1.0),
            "kept_without_reference": Share(1, 1.0),
            "kept": Share(2, 2.0),
        },
        errors={"word": ErrorCounts(2, 0, 0, 20), "character": ErrorCounts(1, 0, 0, 10)},
        errors_kept={"word": ErrorCounts(0, 0, 0, 10), "character": ErrorCounts(1, 0, 0, 10)},
        n_without_duration=1,
        n_stray_labels=1,
        settings=SETTINGS,
        retention=summary.retention,  # see tests/filtering
    )
    assert str(summary).splitlines() == [
        "kept 3 of 6 utterances (3.00 of 5.00 h)",
        "          1        0.00 h  unlabelled",
        "          1        1.00 h  label_failed",
        "          1        1.00 h  wer_above_limit",
        "          1        1.00 h  kept_without_reference",
        "          2        2.00 h  kept",
        "  WER against the references: 10.00 % of all labels, 0.00 % of those kept",
        "  CER against the references: 10.00 % of all labels, 10.00 % of those kept",
        "  1 of unknown length are in no hours",
        "  1 labels of other utterances were passed over",
    ]


def test_the_summary_on_disk_is_the_one_returned(corpus: Path) -> None:
    summary = run(corpus)
    stored = json.loads((corpus / "verdicts" / "summary.json").read_text())
    assert stored["errors"]["word"]["wer"] == 0.1
    assert FilterSummary.from_dict(stored) == summary
    assert FilterSummary.from_dict(stored).retention == summary.retention


def test_a_finished_stage_is_not_done_again(corpus: Path) -> None:
    first = run(corpus)
    before = contents(corpus / "verdicts")
    assert run(corpus) == first
    assert run(corpus, force=True) == first
    assert contents(corpus / "verdicts") == before


def test_an_interrupted_stage_goes_on(corpus: Path) -> None:
    first = run(corpus)
    before = contents(corpus / "verdicts")
    (corpus / "verdicts" / "summary.json").unlink()
    (corpus / "verdicts" / "shard-00000.jsonl").rename(corpus / "verdicts" / "shard-00007.jsonl")
    assert run(corpus) == first
    after = contents(corpus / "verdicts")
    assert {k: v[1] for k, v in after.items()} == {k: v[1] for k, v in before.items()}


def test_changed_limits_or_labels_are_refused_unless_forced(corpus: Path) -> None:
    assert run(corpus).kept.count == 3
    lax = FilterSettings(max_wer=0.2)
    with pytest.raises(
        StageChanged, match=r"max_wer: was 0\.1, now 0\.2[^$]*seconds: another --out"
    ):
        run(corpus, lax)
    assert run(corpus, lax, force=True).kept.count == 4
    write_jsonl(shard_path(corpus / "labels", 2), [label(TEN, id_="never").to_dict()])
    with pytest.raises(StageChanged, match="input labels") as refused:
        run(corpus, lax)
    assert "seconds" not in str(refused.value)
    assert run(corpus, lax, force=True).kept.count == 5


def test_limits_above_1_are_taken_for_a_slip(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(corpus, FilterSettings(max_wer=1.0))
    assert not caplog.records
    lax = FilterSettings(max_wer=10, max_wer_by_language=(("en", 0.2), ("ja", 15.0)))
    for force in (True, False):  # judged, and as it was judged before
        caplog.clear()
        run(corpus, lax, force=force)
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
            f"filter: warning: {name} {limit} keeps labels with up to {limit} errors for every "
            "word: limits are fractions, and 0.10 is 10 %"
            for name, limit in (("max_wer", 10), ("max_wer_by_language ja", 15))
        ]


def test_labels_of_another_manifest_are_refused(corpus: Path) -> None:
    write_manifest(corpus / "train.jsonl", [utterance(TEN, id_="elsewhere")])
    with pytest.raises(ValueError, match="found 6 labels, all of other utterances"):
        run(corpus)
