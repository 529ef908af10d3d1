"""What the tests of searches share: rules for a tiny model, rows of a cache, a driver of slots."""

from collections import deque
from collections.abc import Iterable, Sequence

import torch

from distilwhisper.decoding.rules import DecodingRules, TimestampRules
from distilwhisper.decoding.search import Search
from distilwhisper.decoding.slots import Hypothesis, Job
from distilwhisper.model.whisper import CrossCache
from distilwhisper.text.tokens import Tokenizer


def make_rules(
    tokenizer: Tokenizer,
    *,
    timestamps: bool = True,
    suppress: Sequence[int] = (7,),
    device: torch.device | str = "cpu",
) -> DecodingRules:
    grammar = TimestampRules(
        begin=tokenizer.timestamp_begin, no_timestamps=tokenizer.no_timestamps, eot=tokenizer.eot
    )
    return DecodingRules(
        suppress=suppress,
        begin_suppress=[tokenizer.eot],
        timestamps=grammar if timestamps else None,
        device=device,
    )


def rows_of(cross: CrossCache, rows: torch.Tensor) -> CrossCache:
    """The cache of some windows."""
    return CrossCache([k[rows] for k in cross.keys], [v[rows] for v in cross.values])


def decode(search: Search, jobs: Iterable[Job], *, at_a_time: int = 99) -> dict[int, Hypothesis]:
    """Decode jobs in order, each admitted when there is a slot, a few of them before each step."""
    waiting = deque(jobs)
    found: dict[int, Hypothesis] = {}
    while waiting or search.n_free < search.n_slots:
        n_new = min(len(waiting), search.n_free, at_a_time)
        search.admit([waiting.popleft() for _ in range(n_new)])
        done = search.step()
        assert not found.keys() & dict(done).keys()
        found |= done
    return found
