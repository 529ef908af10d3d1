"""Live captions: words of growing sound, given out when they will not change any more.

The sound since the last words that are settled is transcribed again and again. A word is settled
when two passes in a row agree on it and on all before it, or when a pause follows. Sound behind a
settled sentence is dropped. A terminal shows the captions of a microphone, or of a pipe of samples.

Source: LocalAgreement-2 of arXiv:2307.14743, section 3.
"""

import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import av
import numpy as np

from distilwhisper.decoding.segments import SENTENCE_ENDS, word_key
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.serving.sound import pcm_samples, resampled
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.sources import OpenFile
from distilwhisper.speech.units import SAMPLE_RATE_HZ, samples_to_seconds, seconds_to_samples
from distilwhisper.speech.vad import SpeechWatch
from distilwhisper.text.transcript import Word

# Sound before the first speech that is kept, and behind the last one.
LEAD_S, TAIL_S = 0.5, 0.3
STEP_S = 0.5  # of new sound between two passes
LONG_PASS_S = 12.0  # sound beyond it is dropped behind any settled word
MAX_PASS_S = 25.0  # a window holds 30
SAME_S = 0.6  # a word that begins so shortly before the last settled one's end may be it again
MAX_REPEATED = 5  # settled words that a pass may repeat
PROMPT_CHARACTERS = 1000  # more than a model reads

BLOCK_BYTES = SAMPLE_RATE_HZ // 10 * 2
DEVICES = {"linux": ("alsa", "default"), "darwin": ("avfoundation", ":default")}
SYSTEM = sys.platform


@dataclass(frozen=True)
class CaptionSettings:
    """When a pass is made, and what ends an utterance."""

    pause_s: float | None = 0.7  # silence that ends an utterance; None: the caller ends it
    threshold: float = 0.5  # probability from which sound is taken for speech
    with_prompt: bool = False  # the prompt of a pass is the text before it


@dataclass(frozen=True)
class Pass:
    """Sound to be transcribed now."""

    samples: Samples  # at most 25 s; none where an utterance is ended that holds none
    start_s: float
    is_last: bool  # of an utterance: all of its words are settled
    prompt: str  # the text before it; empty without a prompt

    def fit(self, transcriber: Transcriber) -> Transcriber:
        """Return the model with the prompt of this pass."""
        if not self.prompt:
            return transcriber
        settings = replace(transcriber.settings, initial_prompt=self.prompt)
        return replace(transcriber, settings=settings)


def live_settings(base: DecodingSettings, margin_s: float | None) -> DecodingSettings:
    """Return how a pass of captions is decoded: its words are timed.

    A pass whose text repeats itself, or is unlikely, is decoded again as any window is: where a
    model loops, two passes agree on the loop, and it would be settled.
    """
    return replace(
        base,
        task="transcribe",
        word_timestamps=True,
        context_margin_s=margin_s,
        vad_filter=False,
        long_form="chunked",
        condition_on_previous_text=False,
    )


class Captions:
    """Captions of one speaker; :meth:`feed`, :meth:`next_pass` and :meth:`settle` in turn."""

    def __init__(self, settings: CaptionSettings) -> None:
        self._settings = settings
        self._watch = SpeechWatch(settings.threshold)
        self._samples: Samples = np.zeros(0, dtype=np.float32)
        self._start = 0  # place of the first sample that is held
        self._passed = 0  # up to where the last pass went
        self._is_ended = False  # by the caller
        self._doubtful: list[Word] = []  # of the last pass
        self._settled: list[Word] = []  # of this utterance
        self._text = ""  # that is settled, the end of it

    @property
    def now_s(self) -> float:
        """Length of the sound so far."""
        return samples_to_seconds(self._stop)

    @property
    def backlog_s(self) -> float:
        """Length of the sound that is held."""
        return samples_to_seconds(len(self._samples))

    @property
    def _stop(self) -> int:
        return self._start + len(self._samples)

    @property
    def is_speaking(self) -> bool:
        """There is speech that no pass has settled."""
        return (self._watch.speech_stop or 0) > self._start

    def feed(self, samples: Samples) -> None:
        """Take sound."""
        self._samples = np.concatenate([self._samples, samples])
        self._watch.watch(samples)

    def end(self) -> None:
        """End the utterance: what was fed is settled by the next pass."""
        self._is_ended = True

    def clear(self) -> None:
        """Forget sound that is not settled, and its words."""
        self._begin_at(self._stop)

    def next_pass(self) -> Pass | None:
        """Return what is to be transcribed now; None: wait for more sound.

        Silence is none of it: where nobody has spoken, sound is dropped.
        """
        speech_stop = self._watch.speech_stop or 0
        silent_s = samples_to_seconds(self._watch.n_samples - speech_stop)
        pause_s = self._settings.pause_s
        is_over = self._is_ended or (pause_s is not None and silent_s >= pause_s)
        if not self.is_speaking:
            if is_over and (self._settled or self._is_ended):
                return self._make_pass(self._start, is_last=True)
            if not self._settled:
                self._drop(self._stop - seconds_to_samples(LEAD_S))
            return None
        if is_over:
            stop = min(speech_stop + seconds_to_samples(TAIL_S), self._stop)
            return self._make_pass(stop, is_last=True)
        if self._stop - self._passed < seconds_to_samples(STEP_S):
            return None
        return self._make_pass(self._stop, is_last=False)

    def settle(self, one: Pass, words: Iterable[Word]) -> list[Word]:
        """Take what a pass has found, timed from its beginning; return the words now settled."""
        start_s = one.start_s
        moved = [replace(w, start=w.start + start_s, end=w.end + start_s) for w in words]
        found = self._new(moved)
        stop_s = start_s + samples_to_seconds(len(one.samples))
        n_agreed = len(found) if one.is_last else _n_agreed(self._doubtful, found)
        if not n_agreed and stop_s - start_s >= MAX_PASS_S:  # a window holds no more
            n_agreed = len(found)
        new, self._doubtful = found[:n_agreed], found[n_agreed:]
        self._settled += new
        self._text = (self._text + "".join(word.text for word in new))[-PROMPT_CHARACTERS:]
        if one.is_last:
            self._begin_at(seconds_to_samples(stop_s))
        elif (cut_s := self._cut_s(stop_s)) is not None:
            self._drop(seconds_to_samples(cut_s))
        return new

    def _make_pass(self, stop: int, *, is_last: bool) -> Pass:
        most = seconds_to_samples(MAX_PASS_S)
        is_whole = stop - self._start <= most
        self._passed = min(stop, self._start + most)
        samples = self._samples[: self._passed - self._start]
        start_s = samples_to_seconds(self._start)
        prompt = self._text if self._settings.with_prompt else ""
        return Pass(samples, start_s, is_last and is_whole, prompt)

    def _new(self, words: list[Word]) -> list[Word]:
        """Return the words of a pass behind those that are settled."""
        if not self._settled:
            return words
        end_s = self._settled[-1].end
        late = [word for word in words if word.end > end_s and word.start > end_s - SAME_S]
        for n in range(min(MAX_REPEATED, len(late), len(self._settled)), 0, -1):
            if _keys(late[:n]) == _keys(self._settled[-n:]):
                return late[n:]
        return late

    def _cut_s(self, stop_s: float) -> float | None:
        """Return where the next pass begins: behind a settled sentence, or any word if need be."""
        start_s = samples_to_seconds(self._start)
        ends = [w.end for w in self._settled if w.text.rstrip().endswith(tuple(SENTENCE_ENDS))]
        if ends and ends[-1] > start_s:
            return ends[-1]
        if stop_s - start_s < LONG_PASS_S:
            return None
        if self._settled and self._settled[-1].end > start_s:
            return self._settled[-1].end
        return stop_s if stop_s - start_s >= MAX_PASS_S else None

    def _begin_at(self, start: int) -> None:
        """Begin another utterance."""
        self._doubtful, self._settled, self._is_ended = [], [], False
        self._drop(start)

    def _drop(self, stop: int) -> None:
        """Forget the sound before a place."""
        n_gone = min(max(stop - self._start, 0), len(self._samples))
        self._samples = self._samples[n_gone:]
        self._start += n_gone
        self._passed = max(self._passed, self._start)


def _n_agreed(before: Sequence[Word], now: Sequence[Word]) -> int:
    """Return how many words two passes begin with alike."""
    pairs = zip(_keys(before), _keys(now), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _keys(words: Iterable[Word]) -> list[str]:
    return [word_key(word.text) for word in words]


def pipe_blocks(pipe: OpenFile) -> Iterator[Samples]:
    """Yield the sound of a pipe: 16-bit samples, little-endian, mono, 16 kHz."""
    while data := pipe.read(BLOCK_BYTES):
        yield pcm_samples(data[: len(data) // 2 * 2])


def microphone_blocks() -> Iterator[Samples]:
    """Yield the sound of the system's microphone.

    Raises:
        OSError: there is none that can be opened.
    """
    kind, device = DEVICES.get(SYSTEM, ("", ""))
    instead = "pipe 16-bit samples at 16 kHz into: distilwhisper live -"
    if not kind:
        raise OSError(f"a microphone must be on Linux or macOS, found {SYSTEM}: {instead}")
    try:
        container = av.open(device, format=kind)
    except (av.FFmpegError, ValueError) as error:
        raise OSError(f"the microphone cannot be opened ({error}): {instead}") from error
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
    with container:
        for frame in container.decode(audio=0):
            yield resampled(resampler, frame)


def caption(
    blocks: Iterator[Samples],
    transcriber: Transcriber,
    settings: CaptionSettings,
    write: Callable[[str], None],
) -> None:
    """Write captions of sound as it comes, a line for each utterance, until the sound ends.

    The sound is read in a thread of its own.
    """
    coming: queue.Queue[Samples | Exception | None] = queue.Queue()
    threading.Thread(target=_read, args=(blocks, coming), daemon=True).start()
    captions, is_over = Captions(settings), False
    while not is_over:
        match coming.get():
            case None:
                captions.end()
                is_over = True
            case Exception() as error:
                raise error
            case block:
                captions.feed(block)
        if not coming.empty():
            continue
        while (one := captions.next_pass()) is not None:
            found = one.fit(transcriber).transcribe(one.samples).words if len(one.samples) else ()
            text = "".join(word.text for word in captions.settle(one, found))
            write(f"{text}\n" if one.is_last else text)


def _read(blocks: Iterator[Samples], coming: "queue.Queue[Samples | Exception | None]") -> None:
    """Put into a queue all that comes, and the end, or why there is no more."""
    try:
        for block in blocks:
            coming.put(block)
        coming.put(None)
    except Exception as error:
        coming.put(error)
