import json
import math
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.text.transcript import (
    Segment,
    SubtitleSettings,
    Transcript,
    TranscriptFormat,
    Word,
    compression_ratio,
    interleave,
    outside,
    render,
)
from transcripts import assert_reliable

FORMATS: tuple[TranscriptFormat, ...] = get_args(TranscriptFormat)


def segment(
    number: int, start_s: float, end_s: float, text: str, words: tuple[Word, ...] | None = None
) -> Segment:
    return Segment(
        id=number,
        seek=round(start_s * 100),
        start=start_s,
        end=end_s,
        text=text,
        token_ids=(50363, 2159, 50413),
        temperature=0.0,
        avg_logprob=-0.25,
        compression_ratio=compression_ratio(text),
        no_speech_prob=0.125,
        words=words,
    )


def transcript(*segments: Segment) -> Transcript:
    text = "".join(one.text for one in segments)
    return Transcript(text=text, language="en", segments=segments)


PLAIN = transcript(
    segment(0, 0.0, 2.5, " Hello, world."),
    segment(1, 59.9995, 61.0, " tab\there, arrow --> there"),
    segment(2, 3599.9996, 3600.5, " 你好 é 👍\u2028 end "),
    segment(3, 3600.5, 360_000.0, ""),
)
HELLO = (Word(0.1, 0.5, " Hello,", 0.9), Word(0.6, 1.0, " world.", 1.0))
LONG = tuple(Word(4.0, 4.5, " A long one", 0.5) for _ in range(120))
TIMED = transcript(
    segment(0, 0.0, 2.5, " Hello, world.", HELLO),
    segment(1, 3.0, 3.5, "", ()),
    segment(2, 4.0, 5.0, " A long one" * 120, LONG),
)


def test_text_is_a_line_per_segment() -> None:
    assert render(PLAIN, "txt").split("\n")[:2] == ["Hello, world.", "tab\there, arrow --> there"]


def test_subtitles() -> None:
    assert render(PLAIN, "srt").startswith(
        "1\n00:00:00,000 --> 00:00:02,500\nHello, world.\n\n"
        "2\n00:01:00,000 --> 00:01:01,000\ntab\there, arrow -> there\n\n"
    )


def test_hours_of_vtt_appear_when_they_are_needed() -> None:
    lines = render(PLAIN, "vtt").split("\n")
    assert lines[:2] == ["WEBVTT", ""]
    assert "01:00.000 --> 01:01.000" in lines
    assert "01:00:00.000 --> 01:00:00.500" in lines
    assert "01:00:00.500 --> 100:00:00.000" in lines


def test_tabs_of_a_text_become_spaces_in_tsv() -> None:
    lines = render(PLAIN, "tsv").split("\n")
    assert lines[:3] == [
        "start\tend\ttext",
        "0\t2500\tHello, world.",
        "60000\t61000\ttab here, arrow --> there",
    ]


def test_timed_words_give_a_subtitle_its_times() -> None:
    assert render(TIMED, "vtt").startswith(
        "WEBVTT\n\n00:00.100 --> 00:01.000\nHello, world.\n\n00:04.000 --> 00:04.500\nA long"
    )


def test_a_segment_whose_words_could_not_be_timed_is_shown_all_the_same() -> None:
    lost = transcript(TIMED.segments[0], segment(1, 3.0, 3.5, " Really.", ()))
    assert "00:03.000 --> 00:03.500\nReally.\n" in render(lost, "vtt")


@pytest.mark.parametrize("words", [None, (Word(0.0, 0.5, " a-->", 1.0), Word(0.5, 1.0, "b", 1.0))])
def test_no_arrow_in_the_text_of_a_subtitle(words: tuple[Word, ...] | None) -> None:
    for form in ("srt", "vtt"):
        rendered = render(transcript(segment(0, 0.0, 1.0, " a-->b", words)), form)
        assert rendered.count("-->") == 1
        assert "a->b" in rendered


def test_an_empty_transcript() -> None:
    nothing = transcript()
    assert {form: render(nothing, form) for form in FORMATS} == {
        "txt": "",
        "srt": "",
        "vtt": "WEBVTT\n\n",
        "tsv": "start\tend\ttext\n",
        "json": '{"text": "", "segments": [], "language": "en"}',
    }


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_null_in_json(unknown: float) -> None:
    one = Segment(
        id=0,
        seek=0,
        start=0.0,
        end=1.0,
        text=" a",
        token_ids=(1,),
        temperature=unknown,
        avg_logprob=unknown,
        compression_ratio=unknown,
        no_speech_prob=unknown,
        words=(Word(0.0, 1.0, " a", unknown),),
    )
    rendered = render(transcript(one), "json")
    fields = json.loads(rendered, parse_constant=pytest.fail)["segments"][0]
    for name in ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob"):
        assert fields[name] is None
    assert fields["words"][0]["probability"] is None


@pytest.mark.parametrize("time_s", [-0.01, math.nan, math.inf])
@pytest.mark.parametrize("form", FORMATS)
def test_impossible_times_are_refused(time_s: float, form: TranscriptFormat) -> None:
    in_segment = transcript(segment(7, time_s if math.isfinite(time_s) else 0.0, time_s, " a"))
    in_word = transcript(segment(7, 0.0, 1.0, " a", (Word(0.0, time_s, " a", 1.0),)))
    for wrong in (in_segment, in_word):
        with pytest.raises(ValueError, match=r"found .* s in segment 7"):
            render(wrong, form)


def test_compression_ratio_grows_with_repetition() -> None:
    assert compression_ratio("") == 0.0
    assert compression_ratio(" It was the best of times, it was the worst of times.") < 2.4
    assert compression_ratio(" thank you" * 20) > 2.4


# --- times that can be relied on -----------------------------------------------------------------


rough_times = st.floats(0.0, 40.0) | st.sampled_from([3.0, 3.02, 30.0])
line_texts = st.sampled_from([" a", " b c.", "", "  ", " d"])
rough_words = st.tuples(rough_times, rough_times, st.sampled_from([" a", " b", "."]), st.just(0.5))
rough_rows = st.tuples(
    rough_times, rough_times, line_texts, st.none() | st.lists(rough_words, max_size=5)
)


@given(
    rows=st.lists(rough_rows, max_size=8),
    duration_s=st.sampled_from([0.0, 0.0004, 0.01, 0.7, 30.0, 31.00006]),
)
def test_times_of_any_transcript_can_be_relied_on(
    rows: list[tuple[float, float, str, list[Any] | None]], duration_s: float
) -> None:
    rough = transcript_of_rows(rows)
    spoken = Transcript.of(rough.segments, "en", duration_s=duration_s)
    assert_reliable(spoken, duration_s)
    assert spoken.text == "".join(one.text for one in rough.segments if one.text.strip()).strip()
    assert "".join(one.text for one in spoken.segments).strip() == spoken.text
    assert Transcript.of(spoken.segments, "en", duration_s=duration_s) == spoken


def test_times_that_are_right_are_kept() -> None:
    words = (Word(1.0, 1.02, " a", 1.0), Word(1.02, 1.5, " b", 1.0), Word(3.0, 3.5, " c", 1.0))
    right = [segment(0, 1.0, 3.5, " a b c", words), segment(1, 3.5, 4.0, " d")]
    assert Transcript.of(right, "en", duration_s=4.0).segments == tuple(right)


@pytest.mark.parametrize(
    ("rough", "settled"),
    [
        ([(5.0, 30.0), (20.0, 25.0)], [(5.0, 22.5), (22.5, 25.0)]),
        ([(5.0, 10.0), (4.0, 12.0)], [(5.0, 7.5), (7.5, 12.0)]),
        ([(5.0, 10.0), (9.4, 12.0)], [(5.0, 9.7), (9.7, 12.0)]),
        ([(5.0, 5.0), (7.0, 8.0)], [(4.99, 5.01), (7.0, 8.0)]),
        ([(29.0, 31.0), (31.0, 31.0)], [(29.0, 29.98), (29.98, 30.0)]),
    ],
)
def test_times_that_cross_meet_half_way(
    rough: list[tuple[float, float]], settled: list[tuple[float, float]]
) -> None:
    segments = [segment(number, *span, " a") for number, span in enumerate(rough)]
    spoken = Transcript.of(segments, "en", duration_s=30.0)
    assert [(one.start, one.end) for one in spoken.segments] == settled


def test_a_segments_own_language_is_in_json() -> None:
    mixed = transcript(replace(PLAIN.segments[0], language="de"), PLAIN.segments[1])
    one, other = json.loads(render(mixed, "json"))["segments"]
    assert one["language"] == "de"
    assert "language" not in other


# --- equal to openai-whisper --------------------------------------------------------------------


def as_whisper(spoken: Transcript) -> dict[str, Any]:
    """The result that openai-whisper's transcribe() would hand to its writers."""
    segments = []
    for one in spoken.segments:
        fields = {
            "id": one.id,
            "seek": one.seek,
            "start": one.start,
            "end": one.end,
            "text": one.text,
            "tokens": list(one.token_ids),
            "temperature": one.temperature,
            "avg_logprob": one.avg_logprob,
            "compression_ratio": one.compression_ratio,
            "no_speech_prob": one.no_speech_prob,
        }
        if one.words is not None:
            fields["words"] = [
                {"word": w.text, "start": w.start, "end": w.end, "probability": w.probability}
                for w in one.words
            ]
        segments.append(fields)
    return {"text": spoken.text, "segments": segments, "language": spoken.language}


def written_by_whisper(spoken: Transcript, form: str, folder: Path) -> bytes:
    whisper_utils = pytest.importorskip("whisper.utils")
    whisper_utils.get_writer(form, str(folder))(as_whisper(spoken), "talk.wav")
    return (folder / f"talk.{form}").read_bytes()


times = st.floats(0.0, 400_000.0)
# Lone surrogates cannot be written to a file; "-->" in timed words is our stated difference.
spoken_texts = st.text(
    st.characters(codec="utf-8") | st.sampled_from(" \t\n-"), max_size=20
) | st.sampled_from([" A line of words", " --> ", "--", "w" * 600, " ", ""])
plain_rows = st.tuples(times, times, spoken_texts, st.none())
word_rows = st.tuples(
    times, times, spoken_texts.filter(lambda text: ">" not in text), st.floats(0.0, 1.0)
)
timed_rows = st.tuples(times, times, st.just(""), st.lists(word_rows, max_size=6))


def transcript_of_rows(rows: list[tuple[float, float, str, list[Any] | None]]) -> Transcript:
    segments = []
    for number, (start_s, end_s, text, words) in enumerate(rows):
        timed = None if words is None else tuple(Word(*word) for word in words)
        segments.append(segment(number, start_s, end_s, text, timed))
    return transcript(*segments)


@pytest.mark.reference
@pytest.mark.parametrize("spoken", [PLAIN, TIMED, transcript()], ids=["plain", "timed", "empty"])
@pytest.mark.parametrize("form", FORMATS)
def test_bytes_equal_openai_whisper(
    spoken: Transcript, form: TranscriptFormat, tmp_path: Path
) -> None:
    assert render(spoken, form).encode() == written_by_whisper(spoken, form, tmp_path)


@pytest.mark.reference
@pytest.mark.parametrize("form", FORMATS)
@given(rows=st.lists(plain_rows, max_size=4) | st.lists(timed_rows, max_size=4))
def test_bytes_of_any_transcript_equal_openai_whisper(
    tmp_path_factory: pytest.TempPathFactory, form: TranscriptFormat, rows: list[Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    spoken = transcript_of_rows(rows)
    assert render(spoken, form).encode() == written_by_whisper(spoken, form, folder)


@pytest.mark.reference
@given(text=st.text(st.characters(codec="utf-8")))
def test_compression_ratio_equals_openai_whisper(text: str) -> None:
    whisper_utils = pytest.importorskip("whisper.utils")
    assert compression_ratio(text) == whisper_utils.compression_ratio(text)


# Subtitles

CUTS = [
    SubtitleSettings(max_words_per_line=2),
    SubtitleSettings(max_line_width=12),
    SubtitleSettings(max_line_width=12, max_line_count=2),
    SubtitleSettings(max_line_width=12, max_line_count=2, highlight_words=True),
    SubtitleSettings(highlight_words=True),
]


def cues(text: str) -> list[tuple[float, float, str]]:
    """Read an srt file: starts, ends and texts."""
    found = []
    for block in text.split("\n\n")[:-1]:
        clocks, shown = block.split("\n", 2)[1:]
        start, end = (
            sum(60**power * float(part) for power, part in enumerate(clock.split(":")[::-1]))
            for clock in clocks.replace(",", ".").split(" --> ")
        )
        found.append((start, end, shown))
    return found


@pytest.mark.reference
@pytest.mark.parametrize("cut", CUTS, ids=str)
@given(
    lengths=st.lists(st.lists(st.integers(1, 14), min_size=1, max_size=8), max_size=4),
    data=st.data(),
)
def test_cues_are_cut_as_openai_whisper_cuts_them(
    cut: SubtitleSettings, lengths: list[list[int]], data: st.DataObject
) -> None:
    utils = pytest.importorskip("whisper.utils")
    at = 0.0
    rows: list[Any] = []
    for of_segment in lengths:
        words = []
        for length in of_segment:
            start = at + data.draw(st.sampled_from([0.0, 0.1, 3.5]))
            at = round(start + 0.4, 3)
            words.append((start, at, f" {'w' * length}", 0.5))
        rows.append((words[0][0], at, "".join(word[2] for word in words), words))
    spoken = transcript_of_rows(rows)
    writer = utils.WriteSRT(".")
    file = StringIO()
    writer.write_result(as_whisper(spoken), file, options=asdict(cut))
    theirs, ours = cues(file.getvalue()), cues(render(spoken, "srt", cut))
    assert [(start, text) for start, _, text in ours] == [
        (start, text) for start, _, text in theirs
    ]
    starts = [*(start for start, _, _ in ours), math.inf]
    for (start, end, text), (_, their_end, _), next_start in zip(
        ours, theirs, starts[1:], strict=True
    ):
        needed = start + max(5 / 6, len(text) / 20)
        wanted = their_end if cut.highlight_words else max(their_end, min(needed, next_start))
        assert end == pytest.approx(wanted, abs=0.002)


def test_cues_stay_for_a_reader_but_not_into_the_next() -> None:
    spoken = transcript(segment(0, 0.0, 0.2, " Yes."), segment(1, 0.5, 0.6, " No."))
    assert [cue[:2] for cue in cues(render(spoken, "srt", SubtitleSettings()))] == [
        (0.0, 0.5),
        (0.5, 1.333),
    ]


def test_no_cue_stays_behind_the_end_of_the_recording() -> None:
    spoken = replace(transcript(segment(0, 0.5, 0.6, " No.")), duration=0.9)
    assert [cue[:2] for cue in cues(render(spoken, "srt", SubtitleSettings()))] == [(0.5, 0.9)]


def test_cues_over_words_need_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="word_timestamps"):
        PLAIN.save(tmp_path / "talk.srt", SubtitleSettings(max_words_per_line=3))


@pytest.mark.parametrize("form", FORMATS)
def test_a_transcript_is_saved_in_the_format_of_its_name(form: str, tmp_path: Path) -> None:
    PLAIN.save(tmp_path / "new" / f"talk.{form.upper()}")
    saved = (tmp_path / "new" / f"talk.{form.upper()}").read_bytes()
    assert saved == render(PLAIN, form, SubtitleSettings()).encode()


def test_a_name_that_ends_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end with \.txt, .*talk\.doc"):
        PLAIN.save(tmp_path / "talk.doc")
    assert not list(tmp_path.iterdir())


# Channels and holes


def test_channels_are_interleaved_by_time_and_named() -> None:
    left = transcript(segment(0, 0.0, 2.0, " Hello."), segment(1, 5.0, 6.0, " Fine --> you?"))
    right = transcript(segment(0, 2.5, 3.0, " How are\tyou?"))
    both = interleave({"left": left, "right": right})
    assert both.text == "Hello. How are\tyou? Fine --> you?"
    assert [one.id for one in both.segments] == [0, 1, 2]
    assert render(both, "txt").splitlines()[:2] == ["left: Hello.", "right: How are\tyou?"]
    assert render(both, "srt").splitlines()[2::4] == [
        "left: Hello.",
        "right: How are\tyou?",
        "left: Fine -> you?",
    ]
    assert "\n<v left>Hello.\n" in render(both, "vtt")
    assert render(both, "tsv").splitlines()[2] == "2500\t3000\tright: How are you?"
    fields = json.loads(render(both, "json"))["segments"]
    assert [(one["channel"], one["text"]) for one in fields][1] == ("right", " How are\tyou?")


def test_an_ordinary_transcript_has_neither_channels_nor_notes() -> None:
    fields = json.loads(render(TIMED, "json"))
    assert "notes" not in fields
    assert not any("channel" in one for one in fields["segments"])
    noted = json.loads(render(replace(TIMED, notes=("odd",)), "json"))
    assert noted == {**fields, "notes": ["odd"]}


def test_no_time_lies_in_a_hole() -> None:
    words = (Word(0.0, 4.5, " Late", 1.0), Word(4.5, 7.0, " words", 1.0))
    found = transcript(
        segment(0, 0.0, 7.0, " Late words", words),
        segment(1, 7.5, 8.5, " in the hole"),
        segment(2, 8.5, 12.0, " and behind"),
        segment(3, 12.0, 30.0, " across"),
    )
    moved = outside([(0.0, 3.936), (5.12, 10.0), (15.0, 16.0)], found)
    assert [(one.start, one.end) for one in moved.segments] == [
        (3.936, 5.12),
        (7.5, 8.5),
        (10.0, 12.0),
        (12.0, 30.0),
    ]
    assert [(one.start, one.end) for one in moved.segments[0].words or ()] == [
        (3.936, 4.5),
        (4.5, 5.12),
    ]
    assert moved.text == found.text
    seam = transcript(segment(0, 0.0, 12.24, " before"), segment(1, 12.24, 17.0, " behind"))
    moved = outside([(5.12, 12.0)], seam)
    assert [(one.start, one.end) for one in moved.segments] == [(0.0, 5.12), (12.0, 17.0)]
    assert outside([], found) == found
