"""The teacher's last hidden states on disk: its exact distributions without its decoder.

A distribution over 51,866 tokens is the product of one state with the embedding, so the state of
every token that counts (2.5 KB at width 1,280) is all that the KL needs, where the top few logits
would be biased. An example is given to the decoder in a few forms, with timestamps and without:
those that the run will draw are kept, each once.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from torch import Tensor

from distilwhisper.corpus.batches import IGNORE, Example, TokenBatch
from distilwhisper.corpus.records import Manifest
from distilwhisper.training.encoder_cache import (
    SHARD_WINDOWS,
    digest,
    is_made_from,
    shard_file,
    sound_key,
    write_shard,
)


@dataclass(frozen=True)
class TeacherStore:
    """Final states of the tokens that count, of every example in every form that is drawn.

    Args:
        folder: made when needed.
        examples: in the order that numbers them.
        manifest: where their sound is.
        forms: an example's number to the token sequences that the run draws for it.
        batch: sequences to the decoder's inputs and targets, a row each.
        teacher_digest: all of the teacher's weights, from
            :func:`~distilwhisper.training.encoder_cache.weights_digest`.
        dtype: of the states on disk.
    """

    folder: Path
    examples: Sequence[Example]
    manifest: Manifest
    forms: Callable[[int], Sequence[Sequence[int]]]
    batch: Callable[[Sequence[Sequence[int]]], TokenBatch]
    teacher_digest: str
    dtype: torch.dtype

    def n_bytes(self, *, width: int) -> int:
        """Return the disk space that the whole store takes."""
        n_tokens = sum(self.batch(self.forms(i)).n_tokens for i in range(len(self.examples)))
        return n_tokens * width * self.dtype.itemsize

    def fill(
        self,
        final_states: Callable[[Sequence[int], TokenBatch], Float[Tensor, "tokens width"]],
        *,
        on_progress: Callable[[int], None],
    ) -> None:
        """Ask the teacher for what is not there yet.

        Args:
            final_states: examples' numbers and one row of tokens for each, to the teacher's
                states of the tokens that count, row after row.
            on_progress: called with the number of examples just done, or found done.

        Raises:
            ValueError: a state is too large for ``dtype``, or no number.
        """
        for first in range(0, len(self.examples), SHARD_WINDOWS):
            numbers = range(first, min(first + SHARD_WINDOWS, len(self.examples)))
            drawn = [(index, form) for index in numbers for form in self.forms(index)]
            indices, tokens = [i for i, _ in drawn], self.batch([form for _, form in drawn])
            names = _names(indices, tokens)
            sounds = [sound_key(self.examples[index], self.manifest) for index in numbers]
            made_from = digest([self.teacher_digest, str(self.dtype), sounds, names])
            path = shard_file(self.folder, first)
            if not is_made_from(path, made_from):
                states = self._checked(final_states(indices, tokens), indices)
                lengths = (tokens.labels != IGNORE).sum(dim=1).tolist()
                pieces = zip(names, torch.split(states, lengths), strict=True)
                write_shard(path, {name: piece.clone() for name, piece in pieces}, made_from)
            on_progress(len(numbers))

    def _checked(self, states: Tensor, indices: Sequence[int]) -> Tensor:
        stored = states.to(self.dtype)
        if not stored.isfinite().all():
            raise ValueError(
                f"the teacher's states must be numbers that {self.dtype} holds, found others in "
                f"one of {', '.join(sorted({self.examples[i].id for i in indices}))}: train "
                "without cache_teacher"
            )
        return stored

    def read(self, indices: Sequence[int], tokens: TokenBatch) -> Float[Tensor, "tokens width"]:
        """Return the states of the tokens that count, row after row.

        Args:
            indices: an example's number for each row.
            tokens: forms that :attr:`forms` told of, padded as may be.
        """
        found = []
        for index, name in zip(indices, _names(indices, tokens), strict=True):
            with safe_open(shard_file(self.folder, index), framework="pt") as file:
                found.append(file.get_tensor(name))
        return torch.cat(found)

    def remove(self) -> None:
        """Delete the store."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _names(indices: Sequence[int], tokens: TokenBatch) -> list[str]:
    """Return the name of each row's states: the example's place, and what the decoder is given."""
    return [
        f"{index % SHARD_WINDOWS}-{_form_digest(inputs, labels != IGNORE)}"
        for index, inputs, labels in zip(indices, tokens.inputs, tokens.labels, strict=True)
    ]


def _form_digest(inputs: Int[Tensor, " tokens"], counted: Bool[Tensor, " tokens"]) -> str:
    length = int(counted.nonzero()[-1]) + 1  # what is behind the last target is padding
    given = [inputs[:length].tolist(), counted[:length].tolist()]
    return hashlib.blake2b(json.dumps(given).encode(), digest_size=8).hexdigest()
