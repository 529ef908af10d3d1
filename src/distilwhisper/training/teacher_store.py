"""The teacher's last hidden states on disk: its exact distributions without its decoder.

A distribution over 51,866 tokens is the product of one state with the embedding, so the state of
every token that counts (2.5 KB at width 1,280) is all that the KL needs, where the top few logits
would be biased. An example is given to the decoder in a few forms, with timestamps and without:
those that the run will draw are kept, each once.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from distilwhisper.corpus.batches import IGNORE, TokenBatch, token_batch
from distilwhisper.shapes import Bool, Float, Int
from distilwhisper.training.encoder_cache import (
    SHARD_WINDOWS,
    digest,
    is_made_from,
    own_shards,
    shard_file,
    sound_key,
    write_shard,
)
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.ranks import Ranks


@dataclass(frozen=True)
class TeacherStore:
    """Final states of the tokens that count, of every example in every form that is drawn.

    Args:
        folder: made when needed.
        inputs: the corpus, and the token sequences that the run draws for each example.
        teacher_digest: all of the teacher's weights, from
            :func:`~distilwhisper.training.encoder_cache.weights_digest`.
        dtype: of the states on disk.
    """

    folder: Path
    inputs: TrainingInput
    teacher_digest: str
    dtype: torch.dtype

    def n_bytes(self, *, width: int) -> int:
        """Return the disk space that the whole store takes."""
        numbers = range(len(self.inputs.examples))
        forms = filter(None, (self.inputs.forms(number) for number in numbers))
        return sum(self._tokens(drawn).n_tokens for drawn in forms) * width * self.dtype.itemsize

    def fill(
        self,
        final_states: Callable[[Sequence[int], TokenBatch], Float[Tensor, "tokens width"]],
        ranks: Ranks,
        *,
        on_progress: Callable[[int], None],
    ) -> None:
        """Ask the teacher for what is not there yet and falls to this rank.

        Args:
            final_states: examples' numbers and one row of tokens for each, to the teacher's
                states of the tokens that count, row after row; an example's rows follow one
                another.
            ranks: the processes that share the work.
            on_progress: called with the number of examples just done, or found done.

        Raises:
            ValueError: a state is too large for ``dtype``, or no number.
        """
        for numbers in own_shards(len(self.inputs.examples), ranks):
            self._fill_shard(numbers, final_states)
            on_progress(len(numbers))

    def _fill_shard(
        self,
        numbers: range,
        final_states: Callable[[Sequence[int], TokenBatch], Float[Tensor, "tokens width"]],
    ) -> None:
        inputs = self.inputs
        drawn = [(index, form) for index in numbers for form in inputs.forms(index)]
        if not drawn:  # the run ends before any of them has its turn
            return
        indices, tokens = [i for i, _ in drawn], self._tokens([form for _, form in drawn])
        names = _names(indices, tokens)
        sounds = [sound_key(inputs.examples[i], inputs.manifest) for i in numbers]
        made_from = digest([self.teacher_digest, str(self.dtype), sounds, names])
        path = shard_file(self.folder, numbers[0])
        if not is_made_from(path, made_from):
            states = final_states(indices, tokens).to(self.dtype)
            pieces = torch.split(states, (tokens.labels != IGNORE).sum(dim=1).tolist())
            self._check(indices, pieces)
            named = zip(names, pieces, strict=True)
            write_shard(path, {name: piece.clone() for name, piece in named}, made_from)

    def _tokens(self, forms: Sequence[Sequence[int]]) -> TokenBatch:
        return token_batch(forms, self.inputs.tokenizer)

    def _check(self, indices: Sequence[int], pieces: Sequence[Tensor]) -> None:
        faulty = {
            utterance.id: None
            for index, piece in zip(indices, pieces, strict=True)
            if not piece.isfinite().all()
            for utterance in self.inputs.examples[index].utterances
        }
        if faulty:
            raise ValueError(
                f"the teacher's states must be numbers that {self.dtype} holds, found others in "
                f"{', '.join(faulty)}: name those at fault in skip_utterances, or train without "
                "cache_teacher"
            )

    def read(self, indices: Sequence[int], tokens: TokenBatch) -> Float[Tensor, "tokens width"]:
        """Return the states of the tokens that count, row after row.

        Args:
            indices: an example's number for each row.
            tokens: sequences that the run draws for them, padded as may be.
        """
        found = []
        for index, name in zip(indices, _names(indices, tokens), strict=True):
            with safe_open(shard_file(self.folder, index), framework="pt") as file:
                found.append(file.get_tensor(name))
        return torch.cat(found)


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
