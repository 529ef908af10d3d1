"""Pseudo-labelled utterances to training batches; and audio, read ahead.

What a step trains on is a pure function of the seed and the step: the order of an epoch, and
whether a label keeps its timestamps, are drawn from (seed, epoch, example), never from a
random state that would have to be saved and restored.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from distilwhisper.corpus.records import Label, Manifest, Utterance, Verdict
from distilwhisper.speech.audio import CorruptAudio, Samples, load_samples, seconds_to_samples
from distilwhisper.text.tokens import Tokenizer

# Targets that count for nothing; the value torch's cross-entropy skips by itself.
IGNORE = -100


class UnreadableRecording(Exception):
    """Audio that an earlier stage has read cannot be read now."""


@dataclass(frozen=True)
class Example:
    """One training window: an utterance whose label was kept, or several packed together."""

    utterances: tuple[Utterance, ...]
    starts_s: tuple[float, ...]  # where each begins in the window; silence lies between them
    token_ids: tuple[int, ...]  # start of transcript to end of text, as decoded

    @property
    def id(self) -> str:
        """Its utterances' ids."""
        return "+".join(utterance.id for utterance in self.utterances)


@dataclass(frozen=True)
class TokenBatch:
    """Decoder inputs and targets of some examples, padded to the longest of them."""

    inputs: Int[Tensor, "batch tokens"]
    labels: Int[Tensor, "batch tokens"]  # IGNORE where nothing counts

    @property
    def n_tokens(self) -> int:
        """How many targets count."""
        return int((self.labels != IGNORE).sum())


def join_kept(
    manifest: Manifest, labels: dict[str, Label], verdicts: dict[str, Verdict]
) -> list[Example]:
    """Return the utterances that the filter kept, with their labels, in the manifest's order.

    Raises:
        ValueError: a verdict speaks of an utterance or a label that is not there: the stages'
            files are of different runs.
    """
    known = {utterance.id for utterance in manifest.utterances}
    kept = [verdict.id for verdict in verdicts.values() if verdict.keep]
    strays = [id_ for id_ in kept if id_ not in known or id_ not in labels]
    if strays:
        raise ValueError(
            f"every kept verdict must have its utterance and its label: {len(strays)} have not, "
            f"first {strays[0]!r}; filter again with the manifest and the labels of this run"
        )
    return [
        Example((utterance,), (0.0,), labels[utterance.id].token_ids)
        for utterance in manifest.utterances
        if utterance.id in verdicts and verdicts[utterance.id].keep
    ]


@lru_cache(maxsize=2)  # every step asks for its epoch's order, at an epoch's end for two
def epoch_order(n_examples: int, *, seed: int, epoch: int) -> tuple[int, ...]:
    """Return the order in which one epoch visits the examples."""
    return tuple(np.random.default_rng((seed, epoch)).permutation(n_examples).tolist())


def keeps_timestamps(example_id: str, *, probability: float, seed: int, epoch: int) -> bool:
    """Draw whether an example's label keeps its timestamps in one epoch."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{example_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < probability


def decoder_sequence(
    token_ids: Sequence[int], tokenizer: Tokenizer, *, timestamps: bool
) -> list[int]:
    """Return a label as the decoder is to say it, from its prompt to the end token.

    Args:
        token_ids: start of transcript to end of text, as decoded.
        tokenizer: the model's.
        timestamps: keep them; otherwise they go, and the prompt says so. A label that was
            decoded without timestamps has none to keep.
    """
    if timestamps or tokenizer.no_timestamps in token_ids:
        return list(token_ids)
    text = [id_ for id_ in token_ids if not tokenizer.is_timestamp(id_)]
    sot_at = len(text) - 1 - text[::-1].index(tokenizer.sot)
    prompt_end = sot_at + (3 if tokenizer.is_multilingual else 1)
    return [*text[:prompt_end], tokenizer.no_timestamps, *text[prompt_end:]]


def token_batch(sequences: Sequence[Sequence[int]], tokenizer: Tokenizer) -> TokenBatch:
    """Shift sequences into inputs and targets, and pad them to the longest.

    Everything up to and with the last start-of-transcript is given, not learnt; language, task
    and no-timestamps are targets. The first end token is a target too; padding, which Whisper
    writes with the same id, is not: it is masked by length.
    """
    longest = max(map(len, sequences)) - 1
    inputs = torch.full((len(sequences), longest), tokenizer.eot)
    labels = torch.full((len(sequences), longest), IGNORE)
    for row, sequence in enumerate(sequences):
        ids = torch.tensor(sequence)
        first_target = len(sequence) - list(sequence)[::-1].index(tokenizer.sot)
        inputs[row, : len(ids) - 1] = ids[:-1]
        labels[row, first_target - 1 : len(ids) - 1] = ids[first_target:]
    return TokenBatch(inputs, labels)


def load_windows(manifest: Manifest, examples: Sequence[Example]) -> list[Samples]:
    """Return the sound of some examples, each utterance at its place in its window.

    Raises:
        UnreadableRecording: audio that was labelled cannot be read now.
    """
    utterances = [utterance for example in examples for utterance in example.utterances]
    loaded = load_utterances(manifest, utterances)
    return [_window(example, loaded) for example in examples]


def _window(example: Example, loaded: Iterator[tuple[Utterance, Samples | Exception]]) -> Samples:
    pieces: list[Samples] = []
    filled = 0
    for start_s in example.starts_s:
        utterance, samples = next(loaded)
        if isinstance(samples, Exception):
            raise UnreadableRecording(
                f"utterance {utterance.id!r} was labelled but its audio cannot be read now: "
                f"{samples}; bring the audio back, or label and filter again without it"
            ) from samples
        silence = seconds_to_samples(start_s) - filled
        pieces += [np.zeros(max(silence, 0), dtype=np.float32), samples]
        filled += max(silence, 0) + len(samples)
    return np.concatenate(pieces)


def load_utterances(
    manifest: Manifest, utterances: Iterable[Utterance], *, n_threads: int = 2
) -> Iterator[tuple[Utterance, Samples | Exception]]:
    """Yield utterances with their samples, a few read ahead, in order.

    A recording that cannot be read comes as its error: the caller decides, and nothing is lost.
    """
    ahead: deque[tuple[Utterance, Future[Samples]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for utterance in utterances:
            future = pool.submit(
                load_samples,
                manifest.audio_source(utterance),
                start_s=utterance.start_s,
                duration_s=utterance.duration_s,
            )
            ahead.append((utterance, future))
            if len(ahead) > 4 * n_threads:
                yield _finished(*ahead.popleft())
        while ahead:
            yield _finished(*ahead.popleft())


def _finished(
    utterance: Utterance, future: "Future[Samples]"
) -> tuple[Utterance, Samples | Exception]:
    try:
        return utterance, future.result()
    except (CorruptAudio, OSError, ValueError) as error:  # a span may be no span at all
        return utterance, error
