"""Short utterances to longer training windows.

A student that has only ever seen one short sentence in 30 s of silence learns to stop after one
sentence. Packed windows show it how speech goes on; and the encoder, which costs the same for any
window, has fewer of them to read.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

import numpy as np

from distilwhisper.corpus.batches import Example, split_prompt
from distilwhisper.speech.units import WINDOW_S, seconds_to_samples
from distilwhisper.text.tokens import LAST_TIMESTAMP_S, TIMESTAMPS_PER_SECOND, Tokenizer

# Leaves room for the prompt of the longest task; a window's tokens must fit in the decoder.
MAX_TOKENS = 440
LOOK_AHEAD = 64  # windows that stay open at once for what is still to come

Fill = Literal["varied", "full"]

_room = attrgetter("room")


def pack_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    max_s: float,
    pause_s: float,
    fill: Fill,
    across_recordings: bool,
    seed: int,
) -> list[Example]:
    """Join examples into windows, holding :data:`LOOK_AHEAD` open windows at most.

    Utterances that may lie anywhere are shuffled first; otherwise those of one file come in the
    order of their times, and files in the order given. The labels were judged one by one before;
    here they are strung together, their timestamps moved to where each utterance begins. A window
    is closed when it can take no more, or when too many are open and it is the fullest.

    Examples have one utterance each; one without a known length stays alone. The longest window has
    ``max_s``, at most 30; the silence between two utterances is rounded up to a whole timestamp of
    20 ms. "varied" fills every window to a length drawn evenly between nothing and ``max_s``, so
    that a student learns short and long ones alike; "full" puts every utterance where the least
    room is left, but keeps those of one recording in order.

    An utterance shares a window with others of its recording and speaker, or of its speaker where
    no recording is named; ``across_recordings``, also with what is not known to be of one. Sources
    are never mixed.
    """
    generator = np.random.default_rng(seed)
    if across_recordings:
        queue = [examples[i] for i in generator.permutation(len(examples))]
    else:
        queue = _by_voice(examples)
    limit_s = min(max_s, WINDOW_S)
    windows: list[Example] = []
    open_: list[_Window] = []
    for example in queue:
        voice, length_s = _voice(example, across_recordings), example.end_s
        if voice is None or length_s is None:
            windows.append(example)
            continue
        prompt, text_and_end = split_prompt(example.token_ids, tokenizer)
        text = [id_ for id_ in text_and_end if id_ != tokenizer.eot]
        like = [window for window in open_ if window.voice == voice and window.prompt == prompt]
        n_samples = seconds_to_samples(length_s)
        fitting = [window for window in like if window.fits(n_samples, len(text))]
        window = min(fitting, key=_room, default=None)
        if window is None:
            in_order = not across_recordings and example.utterances[0].recording is not None
            if like and (fill == "varied" or in_order):
                windows.append(_close_fullest(open_, like))
            drawn_s = generator.uniform(0, limit_s) if fill == "varied" else limit_s
            window = _Window(tokenizer, voice, prompt, seconds_to_samples(drawn_s), pause_s)
            open_.append(window)
        window.add(example, text, length_s)
        if len(open_) > LOOK_AHEAD:
            windows.append(_close_fullest(open_, open_))
    return [*windows, *(window.joined() for window in open_)]


def _close_fullest(open_: list["_Window"], among: Sequence["_Window"]) -> Example:
    fullest = min(among, key=_room)
    open_.remove(fullest)
    return fullest.joined()


@dataclass(eq=False)
class _Window:
    """A window that is being filled."""

    tokenizer: Tokenizer
    voice: tuple[Hashable, ...]
    prompt: Sequence[int]
    limit: int  # samples
    pause_s: float
    examples: list[Example] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    begin: int = 0  # of what comes next, in steps of 20 ms
    room: int = 0  # samples behind that

    def fits(self, n_samples: int, n_tokens: int) -> bool:
        tokens_left = MAX_TOKENS - 1 - len(self.prompt) - len(self.text)
        return n_samples <= self.room and n_tokens <= tokens_left

    def add(self, example: Example, text: list[int], length_s: float) -> None:
        start_s = self.begin / TIMESTAMPS_PER_SECOND
        end_s = start_s + length_s
        self.examples.append(example)
        self.starts_s.append(start_s)
        self.text += _moved(text, self.tokenizer, by=self.begin, end=_steps(end_s))
        self.begin = _steps(end_s + self.pause_s)
        self.room = self.limit - seconds_to_samples(self.begin / TIMESTAMPS_PER_SECOND)

    def joined(self) -> Example:
        if len(self.examples) == 1:
            return self.examples[0]
        return Example(
            tuple(example.utterances[0] for example in self.examples),
            tuple(self.starts_s),
            (*self.prompt, *self.text, self.tokenizer.eot),
            self.examples[0].previous,
        )


def _by_voice(examples: Sequence[Example]) -> list[Example]:
    """Return examples recording by recording, each in the order of its times."""
    voices: dict[Hashable, list[Example]] = {}
    files: dict[str, int] = {}
    for number, example in enumerate(examples):
        files.setdefault(example.utterances[0].audio, number)
        voice = _voice(example, across_recordings=False)
        voices.setdefault(number if voice is None else voice, []).append(example)

    def time(example: Example) -> tuple[int, float]:
        return files[example.utterances[0].audio], example.utterances[0].start_s

    return [example for group in voices.values() for example in sorted(group, key=time)]


def _voice(example: Example, across_recordings: bool) -> tuple[Hashable, ...] | None:
    """Return what utterances must have in common to share a window; None: this one shares none."""
    utterance = example.utterances[0]
    voice = (utterance.source, utterance.recording, utterance.speaker)
    if utterance.duration_s is None or (not across_recordings and voice[1:] == (None, None)):
        return None
    return voice[:1] if across_recordings else (*voice, utterance.channel)


def _moved(text: Sequence[int], tokenizer: Tokenizer, *, by: int, end: int) -> list[int]:
    """Return a text with its timestamps later by some steps of 20 ms, none behind its sound.

    A teacher may have found words in the padding, where the next utterance is now.
    """
    latest = tokenizer.timestamp_begin + min(end, _steps(LAST_TIMESTAMP_S))
    return [min(id_ + by, latest) if tokenizer.is_timestamp(id_) else id_ for id_ in text]


def _steps(seconds: float) -> int:
    return math.ceil(round(seconds * TIMESTAMPS_PER_SECOND, 6))
