"""Short utterances to longer training windows.

A student that has only ever seen one short sentence in 30 s of silence learns to stop after one
sentence. Packed windows show it how speech goes on; and the encoder, which costs the same for any
window, has fewer of them to read.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from distilwhisper.corpus.batches import Example
from distilwhisper.speech.audio import WINDOW_S
from distilwhisper.text.tokens import TIMESTAMPS_PER_SECOND, Tokenizer

# Leaves room for the prompt of the longest task; a window's tokens must fit in the decoder.
MAX_TOKENS = 440


def pack_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    max_s: float,
    pause_s: float,
    across_recordings: bool,
    seed: int,
) -> list[Example]:
    """Join examples into windows of varied length.

    Every window is filled to a length drawn evenly between nothing and ``max_s``, so that a
    student learns short and long ones alike. The labels were judged one by one before; here they
    are strung together, their timestamps moved to where each utterance begins.

    Args:
        examples: one utterance each, in the manifest's order.
        tokenizer: of the labels.
        max_s: longest window, at most 30.
        pause_s: silence between two utterances, rounded up to a whole timestamp of 20 ms.
        across_recordings: also join what is not known to be of one recording or one speaker; the
            utterances are shuffled first. Otherwise only neighbours of one recording, or of one
            speaker where no recording is named, share a window.
        seed: of the lengths and the shuffling.

    Returns:
        All utterances, each in one window. One without a known length stays alone.
    """
    generator = np.random.default_rng(seed)
    ordered: Iterable[Example] = examples
    if across_recordings:
        ordered = [examples[i] for i in generator.permutation(len(examples))]
    packed: list[Example] = []
    limit_s = 0.0
    for example in ordered:
        joined = None
        if packed and (across_recordings or _same_voice(packed[-1], example)):
            joined = _join(packed[-1], example, tokenizer, limit_s=limit_s, pause_s=pause_s)
        if joined is None:
            packed.append(example)
            limit_s = generator.uniform(0, min(max_s, WINDOW_S))
        else:
            packed[-1] = joined
    return packed


def _same_voice(left: Example, right: Example) -> bool:
    a, b = left.utterances[-1], right.utterances[0]
    if a.recording is not None or b.recording is not None:
        return a.recording == b.recording and a.speaker == b.speaker
    return a.speaker is not None and a.speaker == b.speaker


def _join(
    window: Example, example: Example, tokenizer: Tokenizer, *, limit_s: float, pause_s: float
) -> Example | None:
    """Append an utterance to a window; None where it does not fit."""
    last, new = window.utterances[-1], example.utterances[0]
    if last.duration_s is None or new.duration_s is None:
        return None
    prompt, text = _split(window.token_ids, tokenizer)
    new_prompt, new_text = _split(example.token_ids, tokenizer)
    begin = _steps(window.starts_s[-1] + last.duration_s + pause_s)
    start_s = begin / TIMESTAMPS_PER_SECOND
    fits = start_s + new.duration_s <= limit_s
    if not fits or prompt != new_prompt or len(window.token_ids) + len(new_text) > MAX_TOKENS:
        return None
    if len(window.utterances) == 1:
        text = _moved(text, tokenizer, by=0, end=_steps(last.duration_s))
    new_text = _moved(new_text, tokenizer, by=begin, end=_steps(start_s + new.duration_s))
    return Example(
        (*window.utterances, new),
        (*window.starts_s, start_s),
        (*prompt, *text, *new_text, tokenizer.eot),
    )


def _split(token_ids: Sequence[int], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return a label's prompt and its text, the end token left out."""
    ids = list(token_ids)
    first = next(
        (
            place
            for place, id_ in enumerate(ids)
            if tokenizer.is_timestamp(id_) or not tokenizer.is_special(id_)
        ),
        len(ids),
    )
    return ids[:first], [id_ for id_ in ids[first:] if id_ != tokenizer.eot]


def _moved(text: Sequence[int], tokenizer: Tokenizer, *, by: int, end: int) -> list[int]:
    """Return a text with its timestamps later by some steps of 20 ms.

    None is later than where the sound ends: a teacher may have heard words in the padding, where
    the next utterance is now.
    """
    latest = tokenizer.timestamp_begin + end
    return [min(id_ + by, latest) if tokenizer.is_timestamp(id_) else id_ for id_ in text]


def _steps(seconds: float) -> int:
    return math.ceil(round(seconds * TIMESTAMPS_PER_SECOND, 6))
