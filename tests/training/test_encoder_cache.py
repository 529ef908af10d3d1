import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distilwhisper.corpus.batches import Example
from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.training.ranks import Ranks
from distilwhisper.training.source import (
    SHARD_WINDOWS,
    Shard,
    StateCache,
    sound_key,
    weights_digest,
)

FRAMES, WIDTH = 5, 4


class Encoder:
    """States that are a function of an example alone; it remembers what it was asked."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.asked: list[str] = []

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        self.asked += [example.id for example in examples]
        return torch.stack([self.states(example) for example in examples])

    def states(self, example: Example) -> Tensor:
        random = np.random.default_rng(list(example.id.encode()))
        return torch.from_numpy(random.standard_normal((FRAMES, WIDTH))).to(self.dtype)


def examples(n: int, *, prefix: str = "u") -> list[Example]:
    return [
        Example((Utterance(id=f"{prefix}{i}", audio=f"{i}.wav"),), (0.0,), (1, 2)) for i in range(n)
    ]


def cache_of(
    folder: Path,
    of: Sequence[Example],
    encoder: Encoder | None = None,
    *,
    root: Path | None = None,
    digest: str = "one",
) -> StateCache:
    """A cache; the sound is in ``root``, where there is any."""
    root, encode = root or folder, encoder or Encoder()
    manifest = Manifest(root / "manifest.jsonl", root, tuple(u for e in of for u in e.utterances))

    def shard(numbers: range) -> Shard:
        windows = [of[number] for number in numbers]
        facts = [digest, *(sound_key(window, manifest) for window in windows)]
        return facts, lambda: {"states": encode(windows)}

    return StateCache(folder, len(of), shard)


def filled(
    folder: Path, of: Sequence[Example], encoder: Encoder | None = None, **changed: Any
) -> tuple[StateCache, list[int]]:
    cache, done = cache_of(folder, of, encoder, **changed), []
    cache.fill(Ranks(), on_progress=done.append)
    return cache, done


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, SHARD_WINDOWS, 2 * SHARD_WINDOWS + 3])
def test_what_is_read_is_what_was_encoded(tmp_path: Path, n: int, dtype: torch.dtype) -> None:
    of, encoder = examples(n), Encoder(dtype)
    cache, done = filled(tmp_path / "cache", of, encoder)
    assert encoder.asked == [example.id for example in of]  # each once
    assert sum(done) == n
    wanted = np.random.default_rng(0).integers(n, size=10).tolist()  # any order, some twice
    read = cache.read(wanted)
    assert read.dtype == dtype
    assert torch.equal(read, torch.stack([encoder.states(of[i]) for i in wanted]))


def test_a_full_cache_encodes_nothing_and_counts_everything(tmp_path: Path) -> None:
    of = examples(SHARD_WINDOWS + 3)
    filled(tmp_path, of)
    before, encoder = contents(tmp_path), Encoder()
    _, done = filled(tmp_path, of, encoder)
    assert encoder.asked == []
    assert sum(done) == len(of)
    assert contents(tmp_path) == before


def test_a_lost_file_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    of = examples(2 * SHARD_WINDOWS + 3)
    filled(tmp_path, of)
    before = contents(tmp_path)
    assert len(before) == 3
    (tmp_path / sorted(before)[1]).unlink()
    encoder = Encoder()
    filled(tmp_path, of, encoder)
    assert encoder.asked == [example.id for example in of[SHARD_WINDOWS : 2 * SHARD_WINDOWS]]
    assert contents(tmp_path) == before


def test_an_interrupted_fill_goes_on_where_it_stopped(tmp_path: Path) -> None:
    of = examples(2 * SHARD_WINDOWS + 3)
    filled(tmp_path / "whole", of, root=tmp_path)
    encoder = Encoder()

    def stop(n_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_of(tmp_path / "cut", of, encoder, root=tmp_path).fill(Ranks(), on_progress=stop)
    filled(tmp_path / "cut", of, encoder, root=tmp_path)
    assert encoder.asked == [example.id for example in of]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_ranks_encode_a_part_each(tmp_path: Path) -> None:
    of = examples(4 * SHARD_WINDOWS + 3)
    filled(tmp_path / "alone", of, root=tmp_path)
    encoders, done = [Encoder(), Encoder()], []
    for rank, encoder in enumerate(encoders):
        cache = cache_of(tmp_path / "shared", of, encoder, root=tmp_path)
        cache.fill(Ranks(rank, 2), on_progress=done.append)
    assert [len(e.asked) for e in encoders] == [2 * SHARD_WINDOWS + 3, 2 * SHARD_WINDOWS]
    assert sum(done) == len(of)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


@pytest.mark.parametrize("other", ["other ids", "another order", "one more", "one less"])
def test_states_of_other_examples_are_not_taken_for_these(tmp_path: Path, other: str) -> None:
    of = examples(6)
    before = {
        "other ids": examples(6, prefix="v"),
        "another order": of[::-1],
        "one more": examples(7),
        "one less": of[:5],
    }[other]
    filled(tmp_path, before)
    cache, _ = filled(tmp_path, of)
    assert torch.equal(cache.read(range(6)), Encoder()(of))


def test_packed_windows_with_another_pause_are_other_examples(tmp_path: Path) -> None:
    a, b = (Utterance(id=name, audio=f"{name}.wav") for name in "ab")
    filled(tmp_path, [Example((a, b), (0.0, 2.0), (1,))])
    encoder = Encoder()
    filled(tmp_path, [Example((a, b), (0.0, 3.0), (1,))], encoder)
    assert encoder.asked == ["a+b"]


@pytest.mark.parametrize("change", ["contents", "span", "another encoder", "time", "nothing"])
def test_states_of_other_sound_or_of_another_encoder_are_made_again(
    tmp_path: Path, change: str
) -> None:
    of, digest = examples(3), "one"
    for name in "012":
        (tmp_path / f"{name}.wav").write_bytes(b"sound")
    filled(tmp_path / "cache", of, root=tmp_path)
    if change == "contents":
        (tmp_path / "1.wav").write_bytes(b"other sound")
    elif change == "span":
        utterance = replace(of[1].utterances[0], start_s=1.0)
        of[1] = replace(of[1], utterances=(utterance,))
    elif change == "another encoder":
        digest = "two"
    elif change == "time":  # as of a corpus that was copied
        os.utime(tmp_path / "1.wav", ns=(1, 1))
    encoder = Encoder()
    filled(tmp_path / "cache", of, encoder, root=tmp_path, digest=digest)
    assert encoder.asked == ([] if change in ("time", "nothing") else ["u0", "u1", "u2"])


def test_a_shard_of_sound_that_was_rewritten_is_other_sound(tmp_path: Path) -> None:
    of = [Example((Utterance(id="u", audio="shard.tar#u.wav"),), (0.0,), (1,))]
    (tmp_path / "shard.tar").write_bytes(b"sound")
    filled(tmp_path / "cache", of, root=tmp_path)
    (tmp_path / "shard.tar").write_bytes(b"other")
    encoder = Encoder()
    filled(tmp_path / "cache", of, encoder, root=tmp_path)
    assert encoder.asked == ["u"]


def test_a_digest_tells_one_weight_and_one_number_format_from_another() -> None:
    one = torch.nn.Linear(2, 2)
    digests = {weights_digest(one), weights_digest(copy.deepcopy(one))}
    assert len(digests) == 1
    digests.add(weights_digest(copy.deepcopy(one).to(torch.bfloat16)))
    one.weight.data[0, 0] += 1e-3
    digests.add(weights_digest(one))
    assert len(digests) == 3


@pytest.mark.parametrize("fault", [b"", b"half a file"])
def test_a_broken_file_is_made_again(tmp_path: Path, fault: bytes) -> None:
    of = examples(3)
    filled(tmp_path, of)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(fault or whole[: len(whole) // 2])
    cache, _ = filled(tmp_path, of)
    assert path.read_bytes() == whole
    assert torch.equal(cache.read([0, 1, 2]), Encoder()(of))


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    of = examples(SHARD_WINDOWS + 3)
    for dtype in (torch.float32, torch.bfloat16):
        cache, _ = filled(tmp_path / str(dtype), of, Encoder(dtype))
        on_disk = sum(map(len, contents(cache.folder).values()))
        n_bytes = len(of) * FRAMES * WIDTH * dtype.itemsize
        assert n_bytes <= on_disk < n_bytes + 2048 * len(list(cache.folder.iterdir()))
