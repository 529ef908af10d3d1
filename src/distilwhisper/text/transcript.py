"""A finished transcript."""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from distilwhisper.files import write_atomic

if TYPE_CHECKING:
    from distilwhisper.text.formats import SubtitleSettings

_SHORTEST_MS = 20  # of a word or a segment, where there is room: a frame of the encoder
_ABOUT_S = 0.5  # by which a text may seem to begin or end behind a hole, and end before it


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
        from distilwhisper.text.formats import FORMATS, SubtitleSettings, render

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
    labelled = [
        replace(segment, channel=name)
        for name, transcript in channels.items()
        for segment in transcript.segments
    ]
    labelled.sort(key=lambda segment: segment.start)
    segments = tuple(replace(segment, id=number) for number, segment in enumerate(labelled))
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
