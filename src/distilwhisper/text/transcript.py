"""A finished transcript, and its five formats."""

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, TypeVar

TranscriptFormat = Literal["txt", "srt", "vtt", "tsv", "json"]

_SHORTEST_MS = 20  # of a word or a segment, where there is room: a frame of the encoder
_ABOUT_S = 0.5  # by which a text may seem to begin or end behind a hole, and end before it
_MAX_CUE_LINE = 1000  # characters; Whisper breaks longer lines of a subtitle


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


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said in one recording. Build it with :meth:`of`.

    Attributes:
        text: of all segments.
        language: a code.
        segments: in order.
        language_probability: how sure the model was of the language; None where it was given.
        notes: what is odd about the recording, for people.
    """

    text: str
    language: str
    segments: tuple[Segment, ...]
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
        lasts from its first timed word to its last one. All lies within the recording, in whole
        milliseconds, so that every format tells the same times. Times that are so already are
        kept; the others move no further than they must. Segments without text are left out.

        Args:
            segments: in the order of their text, whatever their times and ids.
            language: a code.
            duration_s: of the recording.
            language_probability: as the attribute.
            begin_s: nothing begins before it.
        """
        spoken = [segment for segment in segments if segment.text.strip()]
        begin_ms = round(begin_s * 1000)
        end_ms = max(math.floor(duration_s * 1000 + 1e-6), begin_ms + 1)
        if sum(len(segment.words or " ") for segment in spoken) > end_ms - begin_ms:
            spoken = [_in_one(spoken)]  # a millisecond each is more than there is
        spans = [
            (one.start_s, one.end_s) for segment in spoken for one in segment.words or [segment]
        ]
        settled = iter(_settle(spans, begin_ms, end_ms))
        timed: list[Segment] = []
        for number, segment in enumerate(spoken):
            times = [next(settled) for _ in segment.words or [segment]]
            words = segment.words and tuple(
                replace(word, start_s=start_s, end_s=end_s)
                for word, (start_s, end_s) in zip(segment.words, times, strict=True)
            )
            start_s, end_s = times[0][0], times[-1][1]
            timed.append(replace(segment, id=number, start_s=start_s, end_s=end_s, words=words))
        text = "".join(segment.text for segment in timed).strip()
        return cls(text, language, tuple(timed), language_probability)


def _in_one(segments: Sequence[Segment]) -> Segment:
    text = "".join(segment.text for segment in segments)
    token_ids = tuple(token_id for segment in segments for token_id in segment.token_ids)
    return replace(segments[0], text=text, token_ids=token_ids, words=segments[0].words and ())


def _settle(
    spans: Sequence[tuple[float, float]], begin_ms: int, end_ms: int
) -> Iterator[tuple[float, float]]:
    """Yield the nearest spans that follow each other within the time there is, in seconds."""
    shortest = min(_SHORTEST_MS, (end_ms - begin_ms) // max(len(spans), 1))
    # Of two that cross, none begins before the earlier one or ends behind the later one.
    starts = list(accumulate((start_s for start_s, _ in spans), max))
    ends = list(accumulate((end_s for _, end_s in reversed(spans)), min))[::-1]
    # Less the shortest length of all spans in front, times need only not go back.
    wanted = [
        round(1000 * time_s) - shortest * number
        for index, span in enumerate(zip(starts, ends, strict=True))
        for number, time_s in enumerate(span, start=index)
    ]
    room = end_ms - shortest * len(spans)
    kept = [min(max(round(time), begin_ms), room) for time in _nearest_rising(wanted)]
    for index in range(len(spans)):
        start, end = kept[2 * index : 2 * index + 2]
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
    """Return one transcript of several channels: their segments by time, each with its channel.

    Args:
        channels: name to transcript, at least one; the first tells the language.
    """
    found = [
        replace(segment, channel=name)
        for name, transcript in channels.items()
        for segment in transcript.segments
    ]
    found.sort(key=lambda segment: segment.start_s)
    segments = tuple(replace(segment, id=number) for number, segment in enumerate(found))
    text = "".join(segment.text for segment in segments).strip()
    return Transcript(text, next(iter(channels.values())).language, segments)


def outside(holes_s: Sequence[tuple[float, float]], transcript: Transcript) -> Transcript:
    """Return a transcript of which no time lies in a hole, where nothing can have been said.

    Whisper likes to begin a text with its window, however late the speech begins, and to let it
    last until the next begins. A piece that lies in a hole altogether stays where it is.

    Args:
        holes_s: from when to when, in order.
        transcript: of the same recording.
    """
    segments: list[Segment] = []
    for segment in transcript.segments:
        words = segment.words and tuple(_outside(holes_s, word, 0.0) for word in segment.words)
        if words:
            times = words[0].start_s, words[-1].end_s
        else:
            moved = _outside(holes_s, segment, segments[-1].end_s if segments else 0.0)
            times = moved.start_s, moved.end_s
        segments.append(replace(segment, words=words, start_s=times[0], end_s=times[1]))
    if not segments:
        return transcript
    end_s = transcript.segments[-1].end_s
    settled = Transcript.of(segments, transcript.language, duration_s=end_s)
    return replace(transcript, segments=settled.segments)


def _outside(holes_s: Sequence[tuple[float, float]], piece: _Timed, spoken_s: float) -> _Timed:
    start_s, end_s = piece.start_s, piece.end_s
    for first_s, stop_s in holes_s:
        about_s = stop_s + min(_ABOUT_S, (stop_s - first_s) / 4)
        if first_s <= start_s < about_s and stop_s < end_s:
            start_s = max(round(stop_s, 3), spoken_s)
        if start_s < first_s < end_s <= about_s:
            end_s = round(first_s, 3)
    return replace(piece, start_s=start_s, end_s=end_s)


def compression_ratio(text: str) -> float:
    """Bytes of a text over its bytes when compressed; repetition makes it high.

    UTF-8 and zlib at its default level, as in Whisper, whose threshold for text is 2.4. An
    empty text has 0.0.
    """
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def render(transcript: Transcript, format: TranscriptFormat) -> str:  # noqa: A002  the field's word
    r"""A transcript in one of five formats, with the same bytes as openai-whisper's files.

    txt is a line per segment. srt and vtt are subtitles; timed words, where there are any,
    give the time and text of a subtitle. tsv has integer milliseconds. json is one line,
    ASCII, with Whisper's field names.

    It differs from openai-whisper where that would lose or break something: an arrow inside
    timed words also becomes ``->``, as the format reserves ``-->``; a segment with text but
    no timed words is shown by its own time; a number that is not finite is null in json.

    Args:
        transcript: to be written; encode the result as UTF-8 with ``\n`` line ends.
        format: one of txt, srt, vtt, tsv, json.

    Raises:
        ValueError: unknown format, or a time that is negative or not finite.

    Source: openai/whisper, whisper/utils.py, ``ResultWriter`` and below.
    """
    for segment in transcript.segments:
        _check_times(segment)
    if format == "txt":
        return "".join(
            f"{_labelled(segment.text.strip(), segment.channel)}\n"
            for segment in transcript.segments
        )
    if format == "srt":
        return _render_srt(transcript.segments)
    if format == "vtt":
        return _render_vtt(transcript.segments)
    if format == "tsv":
        return _render_tsv(transcript.segments)
    if format == "json":
        return json.dumps(_json_fields(transcript), allow_nan=False)
    raise ValueError(f'format must be txt, srt, vtt, tsv or json, found "{format}"')


@dataclass(frozen=True, slots=True)
class _Cue:
    start_s: float
    end_s: float
    text: str
    channel: str | None


def _labelled(text: str, channel: str | None) -> str:
    return text if channel is None else f"{channel}: {text}"


def _render_srt(segments: Sequence[Segment]) -> str:
    return "".join(
        f"{number}\n{_srt_clock(cue.start_s)} --> {_srt_clock(cue.end_s)}\n"
        f"{_labelled(cue.text, cue.channel)}\n\n"
        for number, cue in enumerate(_cues(segments), start=1)
    )


def _render_vtt(segments: Sequence[Segment]) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{_vtt_clock(cue.start_s)} --> {_vtt_clock(cue.end_s)}\n{_voice(cue)}{cue.text}\n\n"
        for cue in _cues(segments)
    )


def _voice(cue: _Cue) -> str:
    return "" if cue.channel is None else f"<v {cue.channel}>"


def _render_tsv(segments: Sequence[Segment]) -> str:
    lines = ["start\tend\ttext\n"]
    for segment in segments:
        text = _labelled(segment.text.strip(), segment.channel).replace("\t", " ")
        lines.append(f"{_milliseconds(segment.start_s)}\t{_milliseconds(segment.end_s)}\t{text}\n")
    return "".join(lines)


def _cues(segments: Sequence[Segment]) -> Iterator[_Cue]:
    for segment in segments:
        if segment.words:
            start_s, end_s = segment.words[0].start_s, segment.words[-1].end_s
            text = _cue_text(segment.words).replace("-->", "->")
            yield _Cue(start_s, end_s, text, segment.channel)
        elif segment.words is None or segment.text.strip():
            text = segment.text.strip().replace("-->", "->")
            yield _Cue(segment.start_s, segment.end_s, text, segment.channel)


def _cue_text(words: Sequence[Word]) -> str:
    text = ""
    line_length = 0
    for word in words:
        if 0 < line_length <= _MAX_CUE_LINE - len(word.text):
            text += word.text
            line_length += len(word.text)
        else:
            first_word = word.text.strip()
            text += f"\n{first_word}" if line_length else first_word
            line_length = len(first_word)
    return text


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _srt_clock(seconds: float) -> str:
    minutes, milliseconds = divmod(_milliseconds(seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


def _vtt_clock(seconds: float) -> str:
    clock = _srt_clock(seconds).replace(",", ".")
    return clock.removeprefix("00:")


def _json_fields(transcript: Transcript) -> dict[str, Any]:
    fields = {
        "text": transcript.text,
        "segments": [_segment_fields(segment) for segment in transcript.segments],
        "language": transcript.language,
    }
    return {**fields, "notes": transcript.notes} if transcript.notes else fields


def _segment_fields(segment: Segment) -> dict[str, Any]:
    fields = {
        "id": segment.id,
        "seek": segment.seek,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": segment.token_ids,
        "temperature": _finite_or_none(segment.temperature),
        "avg_logprob": _finite_or_none(segment.avg_logprob),
        "compression_ratio": _finite_or_none(segment.compression_ratio),
        "no_speech_prob": _finite_or_none(segment.no_speech_prob),
    }
    if segment.language is not None:
        fields["language"] = segment.language
    if segment.channel is not None:
        fields["channel"] = segment.channel
    if segment.words is not None:
        fields["words"] = [
            {
                "word": word.text,
                "start": word.start_s,
                "end": word.end_s,
                "probability": _finite_or_none(word.probability),
            }
            for word in segment.words
        ]
    return fields


def _finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _check_times(segment: Segment) -> None:
    timed_pieces: tuple[Segment | Word, ...] = (segment, *(segment.words or ()))
    for timed in timed_pieces:
        if not (0 <= timed.start_s < math.inf and 0 <= timed.end_s < math.inf):
            raise ValueError(
                f"times of a transcript must be finite and not negative, found {timed.start_s} "
                f"... {timed.end_s} s in segment {segment.id} ({timed.text!r}); "
                "count seconds from the start of the recording"
            )
