"""Pseudo-labelled utterances to training batches; and audio, read ahead.

What a step trains on is a pure function of the seed and the step: which example has which place
in the stream, whether its label keeps its timestamps, and what is done to its sound, are drawn
from (seed, epoch, example), never from a random state that would have to be saved and restored.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distilwhisper.corpus.ahead import in_order
from distilwhisper.corpus.records import Label, Manifest, Utterance, Verdict, write_manifest
from distilwhisper.errors import DistilwhisperError
from distilwhisper.progress import say
from distilwhisper.shapes import Int
from distilwhisper.speech.audio import Choice, Samples, load_samples, write_wav
from distilwhisper.speech.sources import CorruptAudio, fingerprint
from distilwhisper.speech.units import samples_to_seconds, seconds_to_samples
from distilwhisper.text.tokens import LAST_TIMESTAMP_S, MAX_PREVIOUS_TOKENS, Tokenizer

# Targets that count for nothing; the value torch's cross-entropy skips by itself.
IGNORE = -100


class UnreadableRecording(DistilwhisperError):
    """A recording that the work needs cannot be read."""


class ChangedRecording(DistilwhisperError):
    """A recording is not the one that was labelled."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training window: an utterance whose label was kept, or several packed together."""

    utterances: tuple[Utterance, ...]
    starts_s: tuple[float, ...]  # where each begins in the window; silence lies between them
    token_ids: tuple[int, ...]  # start of transcript to end of text, as decoded
    previous: tuple[int, ...] = ()  # the text just before; see with_previous_text

    @property
    def id(self) -> str:
        """Its utterances' ids."""
        return "+".join(utterance.id for utterance in self.utterances)

    @property
    def end_s(self) -> float | None:
        """Where its sound ends in the window; None where that is not known before it is read."""
        length_s = self.utterances[-1].duration_s
        return None if length_s is None else self.starts_s[-1] + length_s


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
    manifest: Manifest, labels: dict[str, Label], verdicts: dict[str, Verdict], tokenizer: Tokenizer
) -> list[Example]:
    """Return the utterances that the filter kept, with their labels, in the manifest's order.

    A label begins at its last start of transcript: the student does not get the teacher's prompt
    (``initial_prompt``, ``hotwords``). Where the reference is blank, so is the text of the label.

    Raises:
        ValueError: a verdict is of an utterance or a label that is not there: the stages' files
            are of different runs; or a label has no start of transcript.
    """
    ids = {utterance.id for utterance in manifest.utterances}
    kept = {verdict.id: labels.get(verdict.id) for verdict in verdicts.values() if verdict.keep}
    strays = [id_ for id_, label in kept.items() if label is None or id_ not in ids]
    if strays:
        raise ValueError(
            f"every kept verdict must have its utterance and its label: {len(strays)} have not, "
            f"first {strays[0]!r}; filter again with the manifest and the labels of this run"
        )
    same: dict[int, int] = {}  # one object for equal ids: a label takes a quarter of the memory
    examples = []
    for utterance in manifest.utterances:
        label = kept.get(utterance.id)
        if label is None:
            continue
        if utterance.duration_s is None:
            utterance = replace(utterance, duration_s=label.duration_s)
        if tokenizer.sot not in label.token_ids:
            raise ValueError(
                f"a label must hold a start of transcript ({tokenizer.sot}), found none in that of "
                f"{label.id!r}: label it again with this teacher"
            )
        target = label.token_ids[_last_start(label.token_ids, tokenizer) :]
        if utterance.is_silent:
            target = (*split_prompt(target, tokenizer)[0], tokenizer.eot)
        token_ids = tuple(same.setdefault(id_, id_) for id_ in target)
        examples.append(Example((utterance,), (0.0,), token_ids))
    return examples


def split_prompt(
    token_ids: Sequence[int], tokenizer: Tokenizer
) -> tuple[Sequence[int], Sequence[int]]:
    """Return a label's prompt, up to a no-timestamps token if it has one, and its text."""
    n_prompt = _last_start(token_ids, tokenizer) + (3 if tokenizer.is_multilingual else 1)
    n_prompt += tokenizer.no_timestamps in token_ids
    return token_ids[:n_prompt], token_ids[n_prompt:]


def _last_start(token_ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Return the place of the last start of transcript, which follows the prompt."""
    return len(token_ids) - 1 - token_ids[::-1].index(tokenizer.sot)


def with_previous_text(
    manifest: Manifest, examples: Sequence[Example], tokenizer: Tokenizer, *, max_gap_s: float
) -> list[Example]:
    """Return examples, one utterance each, with the text just before them.

    An utterance precedes another if it lies in the same file and channel, is of the same recording
    and speaker, ends at most ``max_gap_s`` before the other begins, and nothing of the manifest,
    which has the dropped ones too, lies between. What precedes it precedes the other as well, and
    so on, up to the tokens that a prompt can hold; an utterance that the filter dropped ends it.
    """
    ids_of = {example.id: example.token_ids for example in examples}
    previous: dict[str, tuple[int, ...]] = {}
    text: tuple[int, ...] = ()
    for before, utterance, precedes in _neighbours(manifest, max_gap_s):
        if precedes and before.id in ids_of:
            words = (id_ for id_ in ids_of[before.id] if not tokenizer.is_special(id_))
            text = (*text, *words)[-MAX_PREVIOUS_TOKENS:]
        else:
            text = ()
        previous[utterance.id] = text
    return [replace(e, previous=previous.get(e.id, ())) for e in examples]


def follow_each_other(manifest: Manifest, *, max_gap_s: float) -> bool:
    """Return whether any utterance precedes another, as :func:`with_previous_text` defines it."""
    return any(precedes for _, _, precedes in _neighbours(manifest, max_gap_s))


def _neighbours(
    manifest: Manifest, max_gap_s: float
) -> Iterator[tuple[Utterance, Utterance, bool]]:
    """Yield utterances that are next to each other, and whether the first precedes the second."""
    in_time = sorted(manifest.utterances, key=lambda u: (u.audio, str(u.channel), u.start_s))
    voice_of = attrgetter("audio", "channel", "recording", "speaker")
    for before, utterance in pairwise(in_time):
        precedes = before.duration_s is not None and voice_of(before) == voice_of(utterance)
        gap_s = utterance.start_s - (before.start_s + (before.duration_s or 0.0))
        # Times in decimals need not add up in binary.
        yield before, utterance, precedes and -1e-6 <= gap_s <= max_gap_s


# The stream of examples


class Drawn(NamedTuple):
    """The window at one place of the stream."""

    example: int  # its number
    epoch: int  # how often all examples of its source came before


class Mixture:
    """Every example's places in the endless stream that a run trains on.

    A source's examples come in epochs, each in another order and without replacement, however
    many places the source is given. Of every 10,000 places each source has its share exactly, in
    a random order. What stands at a place follows from the seed and the place alone.

    Weights are shares up to a common factor; with none, all examples are of one source. Weights
    that are not of the sources, or one of less than one in 10,000, are a ValueError.
    """

    def __init__(
        self, sources: Sequence[str | None], weights: Mapping[str, float], *, seed: int
    ) -> None:
        self._seed = seed
        # Of each source: its examples, its places in a block, and its newest epoch with its order
        self._parts = _parts(sources, weights) if weights else [range(len(sources))]
        self._quotas = _quotas([*weights.values()] or [1.0])
        self._newest: list[tuple[int, tuple[int, ...]]] = [(-1, ())] * len(self._parts)

    def at(self, place: int) -> Drawn:
        """Return the window at a place, counted from 0."""
        block, at = divmod(place, _BLOCK)
        parts = _block_order(self._quotas, seed=self._seed, block=block)
        part = int(parts[at])
        n_before = block * self._quotas[part] + int(np.count_nonzero(parts[:at] == part))
        n_examples = len(self._parts[part])
        epoch, at = divmod(n_before, n_examples)
        newest, order = self._newest[part]
        if newest != epoch:
            order = epoch_order(n_examples, seed=self._seed, epoch=epoch, part=part)
            self._newest[part] = epoch, order
        return Drawn(self._parts[part][order[at]], epoch)


_BLOCK = 10_000


def _parts(sources: Sequence[str | None], weights: Mapping[str, float]) -> list[Sequence[int]]:
    parts: dict[str | None, list[int]] = {}
    for index, source in enumerate(sources):
        parts.setdefault(source, []).append(index)
    if set(parts) != set(weights):
        raise ValueError(
            "source_weights must name just the sources of the kept utterances, found weights of "
            f"{', '.join(map(repr, weights))} and utterances of {', '.join(map(repr, parts))}"
        )
    return [parts[source] for source in weights]


def _quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many places of a block each part gets: the largest remainders are rounded up."""
    shares = [weight / sum(weights) * _BLOCK for weight in weights]
    quotas = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda part: quotas[part] - shares[part])
    for part in by_remainder[: _BLOCK - sum(quotas)]:
        quotas[part] += 1
    if min(quotas) < 1:
        raise ValueError(
            f"every weight must be at least 1/{_BLOCK} of all, found {min(weights):g} of "
            f"{sum(weights):g}: leave the source out"
        )
    return tuple(quotas)


@lru_cache(maxsize=2)
def _block_order(quotas: tuple[int, ...], *, seed: int, block: int) -> npt.NDArray[np.int64]:
    """Return the part at each place of a block."""
    parts = np.repeat(np.arange(len(quotas)), quotas)
    return np.random.default_rng((seed, block, 0, 1)).permutation(parts)


def epoch_order(n_examples: int, *, seed: int, epoch: int, part: int = 0) -> tuple[int, ...]:
    """Return the order in which one epoch visits the examples of one part of the data."""
    # A part of 0 is as none at all: numpy fills a seed up with zeros.
    return tuple(np.random.default_rng((seed, epoch, part)).permutation(n_examples).tolist())


# What is drawn for each example anew every epoch


def keeps_timestamps(example_id: str, *, probability: float, seed: int, epoch: int) -> bool:
    """Draw whether an example's label keeps its timestamps in one epoch."""
    return _hash(f"{seed}/{epoch}/{example_id}") / 2**64 < probability


def keeps_previous(example_id: str, *, probability: float, seed: int, epoch: int) -> bool:
    """Draw whether an example is given the text before it in one epoch."""
    return _hash(f"previous/{seed}/{epoch}/{example_id}") / 2**64 < probability


def example_generator(example_id: str, *, seed: int, epoch: int) -> np.random.Generator:
    """Return the random generator for an example's sound in one epoch."""
    return np.random.default_rng(_hash(f"sound/{seed}/{epoch}/{example_id}"))


def _hash(what: str) -> int:
    return int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), "big")


# Labels as the decoder sees them


def decoder_sequence(
    token_ids: Sequence[int], tokenizer: Tokenizer, *, timestamps: bool, speed: float = 1.0
) -> list[int]:
    """Return a label, as decoded, as the decoder's target, from its prompt to the end token.

    Without ``timestamps`` they go, and the prompt has no-timestamps; a label that was decoded
    without has none to keep. An empty label gets the single timestamp without which the decoding
    rules do not let anything end. Timestamps are divided by the speed at which the sound is played.
    """
    if tokenizer.no_timestamps in token_ids:
        return list(token_ids)
    prompt, text = split_prompt(token_ids, tokenizer)
    if not timestamps:
        words = (id_ for id_ in text if not tokenizer.is_timestamp(id_))
        return [*prompt, tokenizer.no_timestamps, *words]
    if tokenizer.eot in text[:1]:
        return [*prompt, tokenizer.timestamp_begin, *text]
    return [*prompt, *(_at_speed(id_, speed, tokenizer) for id_ in text)]


def _at_speed(token_id: int, speed: float, tokenizer: Tokenizer) -> int:
    if speed == 1.0 or not tokenizer.is_timestamp(token_id):
        return token_id
    return tokenizer.timestamp_id(min(tokenizer.timestamp_s(token_id) / speed, LAST_TIMESTAMP_S))


def with_prompt(
    sequence: Sequence[int], previous: Sequence[int], tokenizer: Tokenizer, *, max_tokens: int
) -> list[int]:
    """Return a sequence behind the text that precedes it, cut on its left to fit the positions.

    At most the last 223 tokens of that text, which has no timestamps, are taken.
    """
    room = max(max_tokens - len(sequence) - 1, 0)  # start-of-prev takes one
    return [*tokenizer.previous_ids(previous[max(len(previous) - room, 0) :]), *sequence]


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
        first_target = _last_start(sequence, tokenizer) + 1
        inputs[row, : len(ids) - 1] = ids[:-1]
        labels[row, first_target - 1 : len(ids) - 1] = ids[first_target:]
    return TokenBatch(inputs, labels)


# The sound of utterances


def load_windows(
    manifest: Manifest, examples: Sequence[Example], *, n_threads: int = 2
) -> list[Samples]:
    """Return the sound of examples, each utterance at its place in its window; as load_readable."""
    utterances = [utterance for example in examples for utterance in example.utterances]
    loaded = load_readable(manifest, utterances, n_threads=n_threads)
    windows = []
    for example in examples:
        pieces: list[Samples] = []
        n_samples = 0
        for start_s in example.starts_s:
            _, samples = next(loaded)
            n_silent = max(seconds_to_samples(start_s) - n_samples, 0)
            pieces += [np.zeros(n_silent, dtype=np.float32), samples]
            n_samples += n_silent + len(samples)
        windows.append(np.concatenate(pieces))
    return windows


def load_readable(
    manifest: Manifest, utterances: Iterable[Utterance], *, n_threads: int = 2
) -> Iterator[tuple[Utterance, Samples]]:
    """Yield as :func:`load_utterances` does; UnreadableRecording where one cannot be read."""
    for utterance, samples in load_utterances(manifest, utterances, n_threads=n_threads):
        if isinstance(samples, Exception):
            raise UnreadableRecording(
                f"utterance {utterance.id!r} of {manifest.path} must have audio that can be read, "
                f"found {samples}; bring the audio back, or take the utterance out of the "
                "manifest and label and filter again, where that was done"
            ) from samples
        yield utterance, samples


def load_utterances(
    manifest: Manifest, utterances: Iterable[Utterance], *, n_threads: int = 2
) -> Iterator[tuple[Utterance, Samples | Exception]]:
    """Yield utterances with their samples, a few read ahead, in order.

    A recording that cannot be read comes as its error: the caller decides, and nothing is lost.
    """

    def load(utterance: Utterance) -> tuple[Utterance, Samples | Exception]:
        try:
            return utterance, load_samples(
                manifest.audio_source(utterance),
                start_s=utterance.start_s,
                duration_s=utterance.duration_s,
                choice=Choice(channel=utterance.channel),
            )
        except (CorruptAudio, OSError, ValueError) as error:  # a span may be no span at all
            return utterance, error

    return in_order(load, utterances, n_threads=n_threads, n_ahead=4 * n_threads)


def join_recordings(
    manifest: Manifest, utterances: Sequence[Utterance], out: Path, *, pause_s: float
) -> Path:
    """Join utterances to ``out/long.wav``, whose text is known to the word.

    Returns the path of its manifest, of a single line. Audio is read as by ``load_readable``.
    """
    pause: Samples = np.zeros(seconds_to_samples(pause_s), dtype=np.float32)
    loaded = load_readable(manifest, utterances)
    whole = np.concatenate([piece for _, samples in loaded for piece in (samples, pause)])
    out.mkdir(parents=True, exist_ok=True)
    write_wav(out / "long.wav", whole)
    record = Utterance(
        id="long",
        audio="long.wav",
        duration_s=round(samples_to_seconds(len(whole)), 3),
        text=" ".join(utterance.text or "" for utterance in utterances),
        language=utterances[0].language,
        source=f"{len(utterances)} utterances joined with {pause_s:g} s of silence",
    )
    write_manifest(out / "manifest.jsonl", [record])
    return out / "manifest.jsonl"


def check_sounds(
    manifest: Manifest, utterances: Iterable[Utterance], labels: Mapping[str, Label]
) -> None:
    """Check that recordings hold what they held when they were labelled, as far as is known.

    A file of which only the time of change is another, as of a copy, is taken for the same; the log
    says how many there are. One that holds something else, or cannot be read any more, is a
    ChangedRecording.
    """
    sources = {u.id: manifest.audio_source(u) for u in utterances if labels[u.id].sound}
    unique = dict.fromkeys(sources.values())
    now = dict(zip(unique, in_order(_fingerprint, unique), strict=True))
    changed, touched = [], set()
    for id_, source in sources.items():
        before, after = (labels[id_].sound or "").split("-"), now[source].split("-")
        if before[0] != after[0]:
            changed.append(f"utterance {id_!r}: {source}")
        elif before != after:
            touched.add(source)
    if touched:
        say(
            f"{manifest.path}: {len(touched)} recordings have another time of change than when "
            "they were labelled, and the same size, beginning and end: taken for the same"
        )
    if changed:
        raise ChangedRecording(
            f"recordings must be those that were labelled, found {len(changed)} with other "
            f"contents, or none: {'; '.join(changed[:3])}{' ...' if len(changed) > 3 else ''}; "
            "bring the old ones back, or label anew what has changed (distilwhisper label "
            "--retry-failed; of a run, --from-stage label)"
        )


def is_as_labelled(source: str, sound: str | None) -> bool:
    """Return whether a recording has a label's fingerprint; any has one that is not known."""
    return sound is None or sound.split("-")[0] == _fingerprint(source).split("-")[0]


def _fingerprint(source: str) -> str:
    """Return a fingerprint; an empty one where the recording cannot be read."""
    try:
        return fingerprint(source)
    except (CorruptAudio, OSError):
        return ""
