"""A recording on its way to a transcript: it is cut, its windows come in, and its text is known."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest
from typing import TypeAlias

from distilwhisper.decoding.alignment import TimedWindow, time_window
from distilwhisper.decoding.chunked import Chunk, decode_chunk
from distilwhisper.decoding.chunks import (
    WHOLE,
    ChunkSpan,
    Cut,
    JoinedText,
    plan_chunks,
    plan_speech,
)
from distilwhisper.decoding.failure import decode_with_fallback, is_silence
from distilwhisper.decoding.segments import (
    FRAMES_PER_SECOND,
    NumberedWord,
    group_words,
    split_window,
    whole_segments,
)
from distilwhisper.decoding.windows import DetectedLanguage, Task, WindowDecoder, WindowRequest
from distilwhisper.speech.levels import longest_pause, speech_like_s
from distilwhisper.speech.mel import RecordingMel
from distilwhisper.speech.recording import Recording, blocks_of, end_of
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.speech.units import (
    HOP_SAMPLES,
    WINDOW_S,
    WINDOW_SAMPLES,
    Span,
    samples_to_seconds,
    seconds_to_samples,
)
from distilwhisper.speech.vad import stream_spans
from distilwhisper.text.transcript import Segment, Transcript, Word, compression_ratio

LAST_CHUNK_S = WINDOW_S - 3.0  # the rest of its window is silence, so that the text is ended
MOST_LANGUAGE_WINDOWS = 8  # that a language is detected from where it stays in doubt

HOT = 0.5  # text sampled above this temperature is in no prompt
# A window that ends its text this early, so many times in a row, is left for the next one: a model
# that writes timestamps alone would go on in steps of 20 ms.
CRAWL_FRAMES, MAX_CRAWLS = 100, 3

Unreadable = (CorruptAudio, OSError)
End: TypeAlias = float | CorruptAudio | OSError  # seconds, or why it cannot be read any further


@dataclass(eq=False)
class Transcription:
    """A recording on its way to a transcript, whose tasks the caller runs, beside those of others.

    Its tasks decode it, in this order; each is to be begun when there is a slot for it, and taking
    it reads the recording. They may finish in any order, and return this transcription.
    """

    decoder: WindowDecoder
    recording: Recording
    language: str | None = None  # of the recording; None: the settings' language, or else detected
    on_progress: Callable[[float], None] = lambda _: None  # called with the seconds just done

    def __post_init__(self) -> None:
        self._settings = self.decoder.settings
        code = self.decoder.code_of(self.language)
        self._spoken = None if code is None else DetectedLanguage(code)
        is_sequential = self._settings.long_form == "sequential"
        self.tasks: Iterator[Task[Transcription]] = (
            iter([self._sequential_task()]) if is_sequential else self._chunk_tasks()
        )
        # The transcript, or why the recording could not be read; None: not done.
        self.outcome: Transcript | CorruptAudio | OSError | None = None
        self.windows: list[TimedWindow] = []  # those whose text is joined, in order
        self._starts_s: list[float] = []  # of the chunks that were planned
        self._early: dict[int, list[TimedWindow]] = {}  # chunks done before one in front of them
        self._n_chunks = 0  # that are joined
        self._end: End | None = None  # known when there are no more chunks
        self._text = JoinedText()
        self._n_taken = 0  # words
        self._taken: list[Segment] = []

    def result(self) -> Transcript:
        """Return the transcript, all tasks being done; raise why it could not be read."""
        if isinstance(self.outcome, Transcript):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome

    def take_segments(self) -> list[Segment]:
        """Return the segments that nothing can change any more, and that were not returned before.

        Their texts together are the transcript's. Their times follow each other as the
        transcript's do, but may differ where two of them would overlap.
        """
        if isinstance(self.outcome, Unreadable):
            return []
        words = self._text.words(self._n_taken)
        if self.outcome is None and self._settings.long_form == "chunked":
            # No chunk that is still to be joined begins before the last of these.
            starts_s = self._starts_s[: self._n_chunks + 1] or [0.0]
            n_settled = self._text.n_settled(starts_s[-1]) - self._n_taken
            words = words[: whole_segments(words, max(n_settled, 0))]
            groups = self._groups(words)[:-1]  # the last may go on
        else:
            groups = self._groups(words)
        self._n_taken += sum(map(len, groups))
        new = Transcript.of(
            map(self._segment, groups),
            "",
            duration_s=max((one.end_s for one in self.windows), default=0.0),
            begin_s=self._taken[-1].end if self._taken else 0.0,
        )
        first = len(self._taken)
        self._taken += [replace(one, id=first + one.id) for one in new.segments]
        return self._taken[first:]

    def _sequential_task(self) -> Task["Transcription"]:
        model = self.decoder.checkpoint.model
        try:
            self._spoken = self._spoken or self._detect()
            mel = RecordingMel(self.recording, n_mels=model.config.n_mels, device=model.device)
            yield from self._decode_in_order(mel, self._spoken.code)
            self._end = mel.duration_s
        except Unreadable as error:
            self._end = error
        self._finish()
        return self

    def _decode_in_order(self, mel: RecordingMel, language: str) -> Task[None]:
        """Decode window by window: each begins where the timestamps of the last one ended.

        Where languages are mixed, the language is that of windows whose own is in doubt.

        Source: ``openai/whisper: whisper/transcribe.py``; with the same weights and settings the
        text is the same, as long as nothing is sampled.
        """
        decoder, settings, tokenizer = self.decoder, self._settings, self.decoder.tokenizer
        before = list(decoder.first_prompt)
        seek = crawls = 0
        for span in self._spans(self.recording):
            seek = max(seek, span.start // HOP_SAMPLES)
            while True:
                frames, n_frames = mel.window(seek, -(-span.stop // HOP_SAMPLES))
                if not n_frames:
                    break
                own_language = None if settings.multilingual else language
                window = decoder.window_of(frames, n_frames * HOP_SAMPLES, language=own_language)
                previous = tuple(tokenizer.previous_ids(before, hotwords=decoder.hotwords))
                request = WindowRequest(decoder, window, previous, seed=settings.seed + seek)
                decoded = yield from decode_with_fallback(request)
                if window.language != language and not decoded.own_language.is_sure:
                    window.language = language
                    decoded = yield from decode_with_fallback(request)
                moved = n_frames
                if not is_silence(decoded, settings):
                    start_s = seek / FRAMES_PER_SECOND
                    end_s = start_s + n_frames / FRAMES_PER_SECOND
                    pieces, moved = split_window(
                        decoded.token_ids, tokenizer, start_s=start_s, n_frames=n_frames
                    )
                    segments = [segment for segment, _ in pieces]
                    timed = time_window(request, decoded, segments, start_s=start_s, end_s=end_s)
                    self._join(timed, stop_s=start_s)  # the next one shares no text with it
                    before += [token_id for _, ids in pieces for token_id in ids]
                    if decoded.temperature > HOT or not settings.condition_on_previous_text:
                        before = []
                    crawls = crawls + 1 if moved < CRAWL_FRAMES else 0
                    moved = n_frames if crawls > MAX_CRAWLS else moved
                seek += moved
                self.on_progress(moved / FRAMES_PER_SECOND)

    def _chunk_tasks(self) -> Iterator[Task["Transcription"]]:
        """Yield a task for every chunk, and one for the end."""
        recording, settings = self.recording, self._settings
        end: End
        done = 0
        try:
            for span in self._plan(recording):
                samples = recording.read(span.start, span.stop)
                is_last = recording.reach(span.stop + 1) <= span.stop
                if self._spoken is None and not is_last:
                    self._spoken = self._detect()  # else its only window tells
                new_s = samples_to_seconds(max(span.stop - done, 0))
                self._starts_s.append(samples_to_seconds(span.start))
                chunk = Chunk(span.start, samples, samples_to_seconds(span.shared))
                yield self._chunk_task(len(self._starts_s) - 1, chunk, new_s)
                done = max(span.stop, done)
            # Behind clips nothing is read: a second of ten hours takes no longer than that.
            end = samples_to_seconds(done if settings.clip_timestamps else end_of(recording, done))
        except Unreadable as error:
            end = error
        yield self._end_task(end)

    def _chunk_task(self, number: int, chunk: Chunk, new_s: float) -> Task["Transcription"]:
        """Decode a chunk in the recording's language or, where they are mixed, in its own."""
        code = None if self._spoken is None else self._spoken.code
        for language in (None, code) if self._settings.multilingual and code else (code,):
            windows = yield from decode_chunk(self.decoder, replace(chunk, language=language))
            found = (one.decoded.own_language for one in windows)
            if all(own.code == code or own.is_sure for own in found):
                break
        self.on_progress(new_s)
        self._early[number] = windows
        while self._n_chunks in self._early:
            for one in self._early.pop(self._n_chunks):
                self._join(one, stop_s=one.end_s)
            self._n_chunks += 1
        self._finish()
        return self

    def _end_task(self, end: End) -> Task["Transcription"]:
        """Note that there are no more chunks; a task without a window."""
        yield from ()
        self._end = end
        self._finish()
        return self

    def _join(self, one: TimedWindow, *, stop_s: float) -> None:
        self.windows.append(one)
        self._text.add(one.words, start_s=one.start_s, stop_s=stop_s)

    def _finish(self) -> None:
        """Make the transcript, once there are no more chunks and all are joined."""
        if not isinstance(self._end, float):
            self.outcome = self._end
            return
        if self.outcome is not None or self._n_chunks < len(self._starts_s):
            return
        segments = [self._segment(group) for group in self._groups(self._text.words())]
        # Where none was given, and nobody speaks, it is English.
        languages = (one.decoded.own_language for one in self.windows)
        spoken = self._spoken or next(languages, DetectedLanguage("en"))
        if self._settings.multilingual and segments:
            seconds: defaultdict[str, float] = defaultdict(float)
            for segment in segments:
                seconds[segment.language or "en"] += segment.end - segment.start
            spoken = DetectedLanguage(max(seconds, key=seconds.__getitem__))
        self.outcome = Transcript.of(
            segments,
            spoken.code,
            duration_s=self._end,
            language_probability=spoken.probability,
        )

    def _groups(self, words: Sequence[NumberedWord]) -> list[list[NumberedWord]]:
        places = ((n, word.segment) for n, one in enumerate(self.windows) for word in one.words)
        return group_words(words, Counter(places))

    def _segment(self, group: Sequence[NumberedWord]) -> Segment:
        """Make a segment of words of a window, or of it and the next one; at least one word."""
        window, last = (self.windows[number] for number in (group[0][0], group[-1][0]))
        timed = [word for _, word in group]
        token_ids = tuple(token_id for word in timed for token_id in word.token_ids)
        text = self.decoder.tokenizer.decode(token_ids)
        words = tuple(
            Word(w.start_s, w.end_s, w.text, math.nan if w.probability is None else w.probability)
            for w in timed
        )
        return Segment(
            id=0,
            seek=round(window.start_s * FRAMES_PER_SECOND),
            start=min(timed[0].start_s, last.end_s),  # a timestamp may point behind it
            end=min(timed[-1].end_s, last.end_s),
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

    # What of the recording is decoded

    def _plan(self, recording: Recording) -> Iterator[ChunkSpan]:
        """Cut it; a recording that fits in a window is not cut, however short the chunks are."""
        spans = self._spans(recording)
        is_short = recording.reach(WINDOW_SAMPLES + 1) <= WINDOW_SAMPLES
        chunk_s = WINDOW_S if is_short else self._settings.chunk_s
        cut = Cut(
            seconds_to_samples(chunk_s),
            seconds_to_samples(self._settings.shared_s),
            seconds_to_samples(min(chunk_s, LAST_CHUNK_S)),
            partial(_find_pause, recording) if self._settings.cuts_in_pauses else None,
        )
        if self._settings.vad_filter:
            return plan_speech(spans, cut)
        return chain.from_iterable(plan_chunks(recording.reach, cut, span) for span in spans)

    def _spans(self, recording: Recording) -> Iterable[Span]:
        if self._settings.vad_filter:
            return stream_spans(blocks_of(recording.again()))
        times_s = self._settings.clip_timestamps
        if not times_s:
            return [WHOLE]
        clips = (
            Span(seconds_to_samples(a), WHOLE.stop if b is None else seconds_to_samples(b))
            for a, b in zip_longest(times_s[::2], times_s[1::2])  # the last may name no end
        )
        return (clip for clip in clips if recording.reach(clip.start + 1) > clip.start)

    def _detect(self) -> DetectedLanguage:
        """Return the language of windows with speech.

        Where they leave it in doubt, twice as many are taken, again spread over the recording.
        """
        n_windows = self._settings.language_windows
        while True:
            starts = self._speech_starts(n_windows)
            scan = self.recording.again()
            pieces = (scan.read(start, start + WINDOW_SAMPLES) for start in starts)
            detected = self.decoder.detect_language([self.decoder.window(p) for p in pieces])
            if detected.is_sure or len(starts) < n_windows or 2 * n_windows > MOST_LANGUAGE_WINDOWS:
                return detected
            n_windows *= 2

    def _speech_starts(self, n_windows: int) -> list[int]:
        """Return where windows with speech begin, spread over the recording; its first in any case.

        One window is the first of them, and nothing behind it is read.
        """
        scan = self.recording.again()
        starts: Iterator[int]
        if self._settings.vad_filter:
            starts = (chunk.start for chunk in self._plan(scan))
        else:
            windows = enumerate(blocks_of(scan))
            starts = (n * WINDOW_SAMPLES for n, window in windows if speech_like_s([window]))
        if n_windows == 1:
            return [next(starts, 0)]
        all_starts = list(starts) or [0]
        last = len(all_starts) - 1
        places = {last * number // (n_windows - 1) for number in range(n_windows)}
        return [all_starts[place] for place in sorted(places)]


def _find_pause(recording: Recording, stretch: Span, first: int) -> int | None:
    """Return the middle of a stretch's longest pause behind a place, if it has one there."""
    samples = recording.read(stretch.start, stretch.stop)
    pause = longest_pause(samples, first - stretch.start)
    return None if pause is None else stretch.start + pause
