import pytest
import torch

from distilwhisper.training.ranks import BUCKET_BYTES, Ranks, _buckets, ranks_of_environment


def test_a_process_alone_waits_for_nobody_and_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks_of_environment() as ranks:
        assert ranks == Ranks(rank=0, n_ranks=1)
        assert ranks.is_first
        ranks.wait()
        gradient = torch.tensor([1.0, 2.0])
        ranks.add_up([gradient])
        assert gradient.tolist() == [1.0, 2.0]
        assert ranks.total(3, 0.5) == [3, 0.5]


def test_buckets_hold_every_tensor_once_in_order() -> None:
    sizes = [3, BUCKET_BYTES // 4, 1, BUCKET_BYTES // 2, 5]
    tensors = [torch.zeros(1).expand(size) for size in sizes]
    buckets = list(_buckets(tensors))
    assert [tensor.numel() for bucket in buckets for tensor in bucket] == sizes
    assert [len(bucket) for bucket in buckets] == [2, 2, 1]
