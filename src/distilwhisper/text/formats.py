"""A transcript in five formats: txt, srt, vtt, tsv and json."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, get_args

from distilwhisper.checks import AT_LEAST_1, check_rules, ruled
from distilwhisper.text.transcript import Segment, Transcript, Word

TranscriptFormat = Literal["txt", "srt", "vtt", "tsv", "json"]
FORMATS: tuple[TranscriptFormat, ...] = get_args(TranscriptFormat)

_NO_LIMIT = 1000  # of characters in a line and of words in a cue; openai-whisper's
_PAUSE_S = 3.0  # behind which a cue ends, where cues are not the segments; openai-whisper's
_LEAST_S, _CHARACTERS_PER_S = 5 / 6, 20.0  # what a reader needs


@dataclass(frozen=True)
class SubtitleSettings:
    """How srt and vtt are cut into cues; those over words need timed words."""

    max_line_width: int | None = ruled(None, AT_LEAST_1)
    """Characters of a line of a cue."""
    max_line_count: int | None = ruled(None, AT_LEAST_1)
    """Lines of a cue, together with max_line_width: cues then follow the words, not the
    segments."""
    max_words_per_line: int | None = ruled(None, AT_LEAST_1)
    """Words of a cue, without max_line_width."""
    highlight_words: bool = False
    """Underline every word while it is spoken."""

    def __post_init__(self) -> None:
        check_rules(
            self,
            self.max_line_count is not None
            and self.max_line_width is None
            and "max_line_count needs max_line_width: lines are counted where they break",
            self.max_words_per_line is not None
            and self.max_line_width is not None
            and "give max_words_per_line or max_line_width, not both",
        )

    @property
    def needs_words(self) -> bool:
        """Whether any of it needs timed words."""
        return self != SubtitleSettings()


def render(
    transcript: Transcript,
    format: TranscriptFormat,  # noqa: A002  the field's word
    subtitles: SubtitleSettings | None = None,
) -> str:
    r"""A transcript in one of five formats, with the same bytes as openai-whisper's files.

    txt is a line per segment. srt and vtt are subtitles; timed words, where there are any,
    give the time and text of a subtitle. tsv has integer milliseconds. json is one line,
    ASCII, with Whisper's field names.

    It differs from openai-whisper where that would lose or break something: an arrow inside
    timed words also becomes ``->``, as the format reserves ``-->``; a segment with text but
    no timed words is shown by its own time; a number that is not finite is null in json.

    Encode the result as UTF-8 with ``\n`` line ends. ``subtitles`` says how cues are cut. With them
    a cue also stays, as far as there is room before the next one or the end of the recording, for
    as long as a reader needs: 5/6 s at least, and a second for 20 characters.

    A negative or infinite time, or subtitles that need words which are not timed, are a ValueError.

    Source: openai/whisper, whisper/utils.py, ``ResultWriter`` and below.
    """
    segments = transcript.segments
    for segment in segments:
        _check_times(segment)
    texts = [_labelled(segment.text.strip(), segment.channel) for segment in segments]
    match format:
        case "txt":
            return "".join(f"{text}\n" for text in texts)
        case "srt":
            return "".join(
                f"{number}\n{_srt_clock(cue.start)} --> {_srt_clock(cue.end)}\n"
                f"{_labelled(cue.text, cue.channel)}\n\n"
                for number, cue in enumerate(_shown(transcript, subtitles), start=1)
            )
        case "vtt":
            return "WEBVTT\n\n" + "".join(
                f"{_vtt_clock(cue.start)} --> {_vtt_clock(cue.end)}\n"
                f"{'' if cue.channel is None else f'<v {cue.channel}>'}{cue.text}\n\n"
                for cue in _shown(transcript, subtitles)
            )
        case "tsv":
            rows = (
                f"{_milliseconds(one.start)}\t{_milliseconds(one.end)}\t" + text.replace("\t", " ")
                for one, text in zip(segments, texts, strict=True)
            )
            return "".join(f"{row}\n" for row in ("start\tend\ttext", *rows))
        case "json":
            fields = {"text": transcript.text, "segments": list(map(segment_fields, segments))}
            fields |= {"language": transcript.language}
            fields |= {"notes": transcript.notes} if transcript.notes else {}
            return json.dumps(fields, allow_nan=False)
    raise ValueError(f'format must be txt, srt, vtt, tsv or json, found "{format}"')


@dataclass(frozen=True, slots=True)
class _Cue:
    start: float
    end: float
    text: str
    channel: str | None


def _shown(transcript: Transcript, subtitles: SubtitleSettings | None) -> Iterable[_Cue]:
    """Return what is shown, and when."""
    segments = transcript.segments
    if subtitles and subtitles.needs_words and any(one.words is None for one in segments):
        raise ValueError("cues cut by words need timed words: transcribe with word_timestamps")
    cues = _cues(segments, subtitles or SubtitleSettings())
    if subtitles is None or subtitles.highlight_words:
        return cues
    return _readable(list(cues), transcript.duration or math.inf)


def _readable(cues: Sequence[_Cue], end_s: float) -> Iterator[_Cue]:
    """Yield cues that stay as long as a reader needs, up to the next one or the sound's end."""
    for cue, next_ in zip_longest(cues, cues[1:]):
        needed = cue.start + max(_LEAST_S, len(cue.text) / _CHARACTERS_PER_S)
        room = end_s if next_ is None else next_.start
        yield replace(cue, end=max(cue.end, round(min(needed, room), 3)))


def _cues(segments: Sequence[Segment], subtitles: SubtitleSettings) -> Iterator[_Cue]:
    """Yield cues: segments, or parts of those that have timed words."""
    run: list[Segment] = []  # that cues may join
    joins = subtitles.max_line_count is not None
    for segment in segments:
        if run and not (joins and segment.words and segment.channel == run[-1].channel):
            yield from _cues_of_words(run, subtitles)
            run = []
        if segment.words:
            run.append(segment)
        elif segment.words is None or segment.text.strip():
            text = segment.text.strip().replace("-->", "->")
            yield _Cue(segment.start, segment.end, text, segment.channel)
    if run:
        yield from _cues_of_words(run, subtitles)


def _cues_of_words(segments: Sequence[Segment], subtitles: SubtitleSettings) -> Iterator[_Cue]:
    for words, texts in _cut_words(segments, subtitles):
        cue = _Cue(words[0].start, words[-1].end, _joined(texts), segments[0].channel)
        if not subtitles.highlight_words:
            yield cue
            continue
        at = cue.start
        for number, word in enumerate(words):
            if word.start > at:
                yield replace(cue, start=at, end=word.start)
            marked = [_underlined(t) if n == number else t for n, t in enumerate(texts)]
            yield replace(cue, start=word.start, end=word.end, text=_joined(marked))
            at = word.end


def _cut_words(
    segments: Sequence[Segment], subtitles: SubtitleSettings
) -> Iterator[tuple[list[Word], list[str]]]:
    """Yield the words of every cue, and their texts, with the breaks of lines in them."""
    width = subtitles.max_line_width or _NO_LIMIT
    per_cue = subtitles.max_words_per_line or _NO_LIMIT
    keeps_segments = subtitles.max_line_count is None
    most_lines = subtitles.max_line_count or math.inf
    words: list[Word] = []
    texts: list[str] = []
    length, n_lines, before = 0, 1, segments[0].start
    for segment in segments:
        for number, word in enumerate(segment.words or ()):
            begins = keeps_segments and number % per_cue == 0 and bool(words)
            pauses = not keeps_segments and word.start - before > _PAUSE_S
            if 0 < length <= width - len(word.text) and not begins and not pauses:
                text = word.text
                length += len(text)
            else:
                text = word.text.strip()
                if begins or (words and (pauses or n_lines >= most_lines)):
                    yield words, texts
                    words, texts, n_lines = [], [], 1
                elif length:
                    n_lines += 1
                    text = f"\n{text}"
                length = len(text.strip())
            words.append(word)
            texts.append(text)
            before = word.start
    if words:
        yield words, texts


def _joined(texts: Sequence[str]) -> str:
    return "".join(texts).replace("-->", "->")


def _underlined(text: str) -> str:
    return re.sub(r"^(\s*)(.*)$", r"\1<u>\2</u>", text)


def _labelled(text: str, channel: str | None) -> str:
    return text if channel is None else f"{channel}: {text}"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _srt_clock(seconds: float) -> str:
    minutes, milliseconds = divmod(_milliseconds(seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


def _vtt_clock(seconds: float) -> str:
    return _srt_clock(seconds).replace(",", ".").removeprefix("00:")


def segment_fields(segment: Segment) -> dict[str, Any]:
    """Return a segment as the json format has it; a number that is not finite is None."""
    names = ("id", "seek", "start", "end", "text")
    fields: dict[str, Any] = {name: getattr(segment, name) for name in names}
    fields["tokens"] = segment.token_ids
    for name in ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob"):
        fields[name] = _finite(getattr(segment, name))
    for name in ("language", "channel"):
        if getattr(segment, name) is not None:
            fields[name] = getattr(segment, name)
    if segment.words is not None:
        fields["words"] = [
            {"word": w.text, "start": w.start, "end": w.end, "probability": _finite(w.probability)}
            for w in segment.words
        ]
    return fields


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _check_times(segment: Segment) -> None:
    timed_pieces: tuple[Segment | Word, ...] = (segment, *(segment.words or ()))
    for timed in timed_pieces:
        if not (0 <= timed.start < math.inf and 0 <= timed.end < math.inf):
            raise ValueError(
                f"times of a transcript must be finite and not negative, found {timed.start} "
                f"... {timed.end} s in segment {segment.id} ({timed.text!r}); "
                "count seconds from the start of the recording"
            )
