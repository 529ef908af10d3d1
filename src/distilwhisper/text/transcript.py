"""A finished transcript, and its five formats: txt, srt, vtt, tsv and json."""

import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby, zip_longest
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from distilwhisper.checks import AT_LEAST_1, check_rules, ruled
from distilwhisper.files import write_atomic

TranscriptFormat = Literal["txt", "srt", "vtt", "tsv", "json"]
FORMATS: tuple[TranscriptFormat, ...] = get_args(TranscriptFormat)

_SHORTEST_MS = 20  # of a word or a segment, where there is room: a frame of the encoder
_ABOUT_S = 0.5  # by which a text may seem to begin or end behind a hole, and end before it

_NO_LIMIT = 1000  # of characters in a line and of words in a cue; openai-whisper's
_PAUSE_S = 3.0  # behind which a cue ends, where cues are not the segments; openai-whisper's
_LEAST_S, _CHARACTERS_PER_S = 5 / 6, 20.0  # what a reader needs


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its time; ``text`` keeps the space or punctuation around it."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A timed piece of a transcript.

    Attributes:
        id: counts from 0 in the transcript.
        seek: 10-ms frame at which the window of this segment starts.
        start: seconds from the beginning of the recording.
        end: likewise.
        text: with its leading space, so that segments can be joined.
        token_ids: as the model wrote them, timestamps included.
        temperature: at which the text was sampled; 0.0 is greedy.
        avg_logprob: mean log-probability of the window's tokens, nats; NaN if unknown.
        compression_ratio: of the window's text, see :func:`compression_ratio`.
        no_speech_prob: that nobody speaks in the window; NaN if unknown.
        words: timed words, or None where they were not asked for.
        language: a code; None where the whole transcript is taken to be of one.
        channel: whose sound it is of; None where there is but one.
        logprobs: of each token, nats; empty where they are not known.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    token_ids: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None
    language: str | None = None
    channel: str | None = None
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of one recording. Build it with :meth:`of`.

    Attributes:
        text: of all segments.
        language: a code.
        segments: in order.
        duration: of the recording, in seconds; of clips, to the end of the last one.
        language_probability: how sure the model was of the language; None where it was given.
        notes: what is odd about the recording, for people.
    """

    text: str
    language: str
    segments: tuple[Segment, ...]
    duration: float = 0.0
    language_probability: float | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        segments: Iterable[Segment],
        language: str,
        *,
        duration_s: float,
        language_probability: float | None = None,
        begin_s: float = 0.0,
    ) -> "Transcript":
        """Build a transcript whose times can be relied on.

        Starts never go back, nothing overlaps what follows it, and nothing lasts 0 s. A segment
        lasts from its first timed word to its last one. All lies within the recording, behind
        ``begin_s``, in whole milliseconds, so that every format has the same times. Times that are
        so already are kept; the others move no further than they must. Segments without text are
        left out; the others come in the order of their text, whatever their times and ids.
        """
        pieces = [segment for segment in segments if segment.text.strip()]
        begin_ms = round(begin_s * 1000)
        end_ms = max(math.floor(duration_s * 1000 + 1e-6), begin_ms + 1)
        if sum(len(segment.words or " ") for segment in pieces) > end_ms - begin_ms:
            pieces = [_in_one(pieces)]  # a millisecond each is more than there is
        spans = [(one.start, one.end) for segment in pieces for one in segment.words or [segment]]
        times_s = iter(_settle(spans, begin_ms, end_ms))
        timed: list[Segment] = []
        for number, segment in enumerate(pieces):
            words = segment.words and tuple(
                replace(word, start=start_s, end=end_s)
                for word, (start_s, end_s) in zip(segment.words, times_s, strict=False)
            )
            start_s, end_s = (words[0].start, words[-1].end) if words else next(times_s)
            timed.append(replace(segment, id=number, start=start_s, end=end_s, words=words))
        text = _joined(timed).strip()
        return cls(text, language, tuple(timed), duration_s, language_probability)

    @property
    def words(self) -> tuple[Word, ...]:
        """The timed words of all segments; none where they were not asked for."""
        return tuple(word for segment in self.segments for word in segment.words or ())

    def save(self, path: str | Path, subtitles: "SubtitleSettings | None" = None) -> None:
        """Write it to a file, in the format that the name ends with: txt, srt, vtt, tsv or json.

        The file appears whole, by rename, and its folder is made. Without ``subtitles``, srt and
        vtt have one cue a segment.

        Raises:
            ValueError: the name ends otherwise, or the cues need timed words.
            StoreError: the file cannot be written.
        """
        path = Path(path)
        kind = path.suffix[1:].lower()
        if kind not in FORMATS:
            raise ValueError(f"a transcript's name must end with .{', .'.join(FORMATS)}: {path}")
        write_atomic(path, render(self, kind, subtitles or SubtitleSettings()))


def _joined(segments: Iterable[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def _in_one(segments: Sequence[Segment]) -> Segment:
    return replace(
        segments[0],
        text=_joined(segments),
        token_ids=tuple(chain.from_iterable(one.token_ids for one in segments)),
        words=segments[0].words and (),
        logprobs=tuple(chain.from_iterable(one.logprobs for one in segments)),
    )


def _settle(
    spans: Sequence[tuple[float, float]], begin_ms: int, end_ms: int
) -> Iterator[tuple[float, float]]:
    """Yield the nearest spans that follow each other within the time there is, in seconds."""
    shortest = min(_SHORTEST_MS, (end_ms - begin_ms) // max(len(spans), 1))
    # Of two that cross, none begins before the earlier one or ends behind the later one.
    starts = list(accumulate((start_s for start_s, _ in spans), max))
    ends = list(accumulate((end_s for _, end_s in reversed(spans)), min))[::-1]
    # Less the shortest length of all spans in front, times need only not go back.
    goals = [
        round(1000 * time_s) - shortest * number
        for index, span in enumerate(zip(starts, ends, strict=True))
        for number, time_s in enumerate(span, start=index)
    ]
    room = end_ms - shortest * len(spans)
    times = [min(max(round(time), begin_ms), room) for time in _nearest_rising(goals)]
    for index in range(len(spans)):
        start, end = times[2 * index : 2 * index + 2]
        yield (start + shortest * index) / 1000, (end + shortest * (index + 1)) / 1000


def _nearest_rising(values: Sequence[float]) -> list[float]:
    """Return the sequence that never falls and is nearest by the sum of squares.

    Source: pool adjacent violators; Barlow et al., Statistical Inference under Order Restrictions.
    """
    pools: list[tuple[float, int]] = []  # sum and number of values that become their mean
    for value in values:
        total, n = float(value), 1
        while pools and pools[-1][0] * n > total * pools[-1][1]:
            before, n_before = pools.pop()
            total, n = total + before, n + n_before
        pools.append((total, n))
    return [total / n for total, n in pools for _ in range(n)]


_Timed = TypeVar("_Timed", Segment, Word)


def interleave(channels: Mapping[str, Transcript]) -> Transcript:
    """Return one transcript of named channels: their segments by time, each with its channel.

    The language is that of the first one.
    """
    named = [(segment, name) for name, of in channels.items() for segment in of.segments]
    named.sort(key=lambda pair: pair[0].start)
    segments = tuple(replace(s, id=number, channel=name) for number, (s, name) in enumerate(named))
    first = next(iter(channels.values()))
    return Transcript(_joined(segments).strip(), first.language, segments, first.duration)


def outside(holes_s: Sequence[tuple[float, float]], transcript: Transcript) -> Transcript:
    """Return a transcript of which no time lies in a hole, where there is no sound.

    Whisper likes to begin a text with its window, however late the speech begins, and to let it
    last until the next begins. A piece that lies in a hole altogether stays where it is. Holes are
    given from when to when, in order.
    """
    segments: list[Segment] = []
    for segment in transcript.segments:
        words = segment.words and tuple(_outside(holes_s, word, 0.0) for word in segment.words)
        whole = _outside(holes_s, segment, segments[-1].end if segments else 0.0)
        first, last = (words[0], words[-1]) if words else (whole, whole)
        segments.append(replace(segment, words=words, start=first.start, end=last.end))
    if not segments:
        return transcript
    end_s = transcript.segments[-1].end
    result = Transcript.of(segments, transcript.language, duration_s=end_s)
    return replace(transcript, segments=result.segments)


def _outside(holes_s: Sequence[tuple[float, float]], piece: _Timed, spoken_s: float) -> _Timed:
    start_s, end_s = piece.start, piece.end
    for first_s, stop_s in holes_s:
        about_s = stop_s + min(_ABOUT_S, (stop_s - first_s) / 4)
        if first_s <= start_s < about_s and stop_s < end_s:
            start_s = max(round(stop_s, 3), spoken_s)
        if start_s < first_s < end_s <= about_s:
            end_s = round(first_s, 3)
    return replace(piece, start=start_s, end=end_s)


def compression_ratio(text: str) -> float:
    """Bytes of a text over its bytes when compressed, 0.0 for none; repetition makes it high.

    UTF-8 and zlib at its default level, as in Whisper, whose threshold for text is 2.4.
    """
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


# Formats


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


def _shown(transcript: Transcript, subtitles: SubtitleSettings | None) -> Iterable[Segment]:
    """Return the cues: segments with the text that is shown of them, and when."""
    segments = transcript.segments
    if subtitles and subtitles.needs_words and any(one.words is None for one in segments):
        raise ValueError("cues cut by words need timed words: transcribe with word_timestamps")
    cues = _cues(segments, subtitles or SubtitleSettings())
    if subtitles is None or subtitles.highlight_words:
        return cues
    return _readable(list(cues), transcript.duration or math.inf)


def _readable(cues: Sequence[Segment], end_s: float) -> Iterator[Segment]:
    """Yield cues that stay as long as a reader needs, up to the next one or the sound's end."""
    for cue, next_ in zip_longest(cues, cues[1:]):
        needed = cue.start + max(_LEAST_S, len(cue.text) / _CHARACTERS_PER_S)
        room = end_s if next_ is None else next_.start
        yield replace(cue, end=max(cue.end, round(min(needed, room), 3)))


def _cues(segments: Sequence[Segment], subtitles: SubtitleSettings) -> Iterator[Segment]:
    """Yield cues: segments, or parts of those that have timed words."""
    joins = subtitles.max_line_count is not None  # cues go on in the next segment of a channel
    runs = groupby(segments, lambda one: (bool(one.words), one.channel if joins else id(one)))
    for (is_timed, _), run in runs:
        if is_timed:
            yield from _cues_of_words(list(run), subtitles)
            continue
        for segment in run:
            if segment.words is None or segment.text.strip():
                yield replace(segment, text=_cue_text([segment.text.strip()]))


def _cues_of_words(segments: Sequence[Segment], subtitles: SubtitleSettings) -> Iterator[Segment]:
    for words, texts in _cut_words(segments, subtitles):
        start, end = words[0].start, words[-1].end
        cue = replace(segments[0], start=start, end=end, text=_cue_text(texts))
        if not subtitles.highlight_words:
            yield cue
            continue
        at = cue.start
        for number, word in enumerate(words):
            if word.start > at:
                yield replace(cue, start=at, end=word.start)
            marked = re.sub(r"^(\s*)(.*)$", r"\1<u>\2</u>", texts[number])
            text = _cue_text([*texts[:number], marked, *texts[number + 1 :]])
            yield replace(cue, start=word.start, end=word.end, text=text)
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


def _cue_text(texts: Iterable[str]) -> str:
    return "".join(texts).replace("-->", "->")


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
