"""A recording on its way to a transcript: its windows come in, and its text is known bit by bit."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from distilwhisper.decoding.chunks import JoinedText
from distilwhisper.decoding.segments import TimedWord, group_words, whole_segments
from distilwhisper.decoding.sequential import FRAMES_PER_SECOND
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.timing import TimedWindow
from distilwhisper.decoding.windows import DetectedLanguage, Task
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.transcript import Segment, Transcript, Word, compression_ratio


class Transcription:
    """A recording on its way to a transcript; made by ``Transcriber.begin``.

    Its tasks decode it, in this order; each is to be begun when there is a slot for it. They may
    finish in any order, and return this transcription.
    """

    def __init__(
        self, settings: DecodingSettings, tokenizer: Tokenizer, report: Callable[[float], None]
    ) -> None:
        self.tasks: Iterator[Task[Transcription]] = iter(())
        # The transcript, or why the recording could not be read; None: not done.
        self.outcome: Transcript | CorruptAudio | OSError | None = None
        self.report = report  # to be called with the seconds of audio just done
        self._settings = settings
        self._tokenizer = tokenizer
        self._starts_s: list[float] = []  # of the chunks that were planned
        self._early: dict[int, list[TimedWindow]] = {}  # chunks done before one in front of them
        self._n_chunks = 0  # that are joined
        self._is_planned = False  # there are no more chunks
        self._language: DetectedLanguage | None = None
        self._duration_s = 0.0
        self.windows: list[TimedWindow] = []  # those whose text is joined, in order
        self._text = JoinedText()
        self._n_taken = 0  # words
        self._taken: list[Segment] = []

    def plan(self, start_s: float) -> int:
        """Note where the next chunk begins; return its number."""
        self._starts_s.append(start_s)
        return len(self._starts_s) - 1

    def add_chunk(self, chunk: int, windows: list[TimedWindow]) -> None:
        """Take the windows of a chunk, in any order of chunks."""
        self._early[chunk] = windows
        while self._n_chunks in self._early:
            for one in self._early.pop(self._n_chunks):
                self.windows.append(one)
                self._text.add(one.words, start_s=one.start_s, stop_s=one.end_s)
            self._n_chunks += 1
        self._finish()

    def add_window(self, one: TimedWindow) -> None:
        """Take a window of sequential decoding: it shares no text with those before it."""
        self.windows.append(one)
        self._text.append(one.words)

    def end(self, spoken: DetectedLanguage | None, *, duration_s: float) -> None:
        """Note that there are no more chunks.

        Without a language it is that of the first window.
        """
        self._language, self._duration_s = spoken, duration_s
        self._is_planned = True
        self._finish()

    def fail(self, error: CorruptAudio | OSError) -> None:
        """Note why it cannot be read any further."""
        self.outcome = error

    def take_segments(self) -> list[Segment]:
        """Return the segments that nothing can change any more, and that were not returned before.

        Their texts together are the transcript's. Their times follow each other as the
        transcript's do, but may differ where two of them would overlap.
        """
        if isinstance(self.outcome, (CorruptAudio, OSError)):
            return []
        words = self._text.words(self._n_taken)
        n_words = self._n_words()
        if self.outcome is None and self._settings.long_form == "chunked":
            # No chunk that is still to be joined begins before the last of these.
            starts_s = self._starts_s[: self._n_chunks + 1] or [0.0]
            n_settled = self._text.n_settled(starts_s[-1]) - self._n_taken
            n_whole = whole_segments(words, max(n_settled, 0))
            groups = group_words(words[:n_whole], n_words)[:-1]  # the last may go on
        else:
            groups = group_words(words, n_words)
        self._n_taken += sum(map(len, groups))
        new = Transcript.of(
            [self._segment(group) for group in groups],
            "",
            duration_s=max((one.end_s for one in self.windows), default=0.0),
            begin_s=self._taken[-1].end if self._taken else 0.0,
        )
        n_taken = len(self._taken)
        taken = [replace(one, id=n_taken + number) for number, one in enumerate(new.segments)]
        self._taken += taken
        return taken

    def _n_words(self) -> Counter[tuple[int, int]]:
        return Counter(
            (n, word.segment) for n, one in enumerate(self.windows) for word in one.words
        )

    def _finish(self) -> None:
        if self.outcome is not None or not self._is_planned:
            return
        if self._n_chunks < len(self._starts_s):
            return
        groups = group_words(self._text.words(), self._n_words())
        segments = [self._segment(group) for group in groups]
        # Where none was given, and nobody speaks, it is English.
        languages = (one.decoded.own_language for one in self.windows)
        spoken = self._language or next(languages, DetectedLanguage("en"))
        if self._settings.multilingual and segments:
            seconds: defaultdict[str, float] = defaultdict(float)
            for segment in segments:
                seconds[segment.language or "en"] += segment.end - segment.start
            spoken = DetectedLanguage(max(seconds, key=lambda code: seconds[code]))
        self.outcome = Transcript.of(
            segments,
            spoken.code,
            duration_s=self._duration_s,
            language_probability=spoken.probability,
        )

    def _segment(self, group: Sequence[tuple[int, TimedWord]]) -> Segment:
        """Make a segment of words of a window, or of it and the next one; at least one word."""
        window = self.windows[group[0][0]]
        end_s = self.windows[group[-1][0]].end_s  # a timestamp may point behind it
        timed = [word for _, word in group]
        token_ids = tuple(token_id for word in timed for token_id in word.token_ids)
        text = self._tokenizer.decode(token_ids)
        words = tuple(
            Word(w.start_s, w.end_s, w.text, math.nan if w.probability is None else w.probability)
            for w in timed
        )
        return Segment(
            id=0,
            seek=round(window.start_s * FRAMES_PER_SECOND),
            start=min(timed[0].start_s, end_s),
            end=min(timed[-1].end_s, end_s),
            text=text,
            token_ids=token_ids,
            temperature=window.decoded.temperature,
            avg_logprob=window.decoded.avg_logprob,
            compression_ratio=compression_ratio(text),
            no_speech_prob=window.decoded.no_speech_prob,
            words=words if self._settings.word_timestamps else None,
            language=window.decoded.language if self._settings.multilingual else None,
            logprobs=tuple(p for word in timed for p in word.logprobs),
        )
