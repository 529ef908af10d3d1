from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from distilwhisper.training import loss
from distilwhisper.training.loss import Divergence, Objective, fused_sums
from plain_loss import distillation_sums

TOKENS, VOCAB, WIDTH = 7, 11, 4
ARMS = [
    Objective(0.8, 1.0, 2.0),
    Objective(0.0, 1.0, 2.0),
    Objective(1.0, 0.0, 1.0),
    *(Objective(0.7, 0.3, t, kind) for kind, t in product(get_args(Divergence), (1.0, 1.7))),
]


def problem(dtype: torch.dtype = torch.float64, *, n: int = TOKENS, width_t: int = 5) -> Any:
    """States and embeddings of both sides, and labels."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)

    student = draw(n, WIDTH).requires_grad_(), draw(VOCAB, WIDTH).requires_grad_()
    labels = torch.randint(VOCAB, (n,), generator=random)
    return *student, draw(n, width_t), draw(VOCAB, width_t), labels


def plain(arguments: Any, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, divergence and PL from logits that are all there, differentiated by torch."""
    states, embedding, teacher_states, teacher_embedding, labels = arguments
    sums = distillation_sums(
        (states @ embedding.T)[None],
        (teacher_states @ teacher_embedding.T)[None],
        labels[None],
        temperature=objective.temperature,
        divergence=objective.divergence,
    )
    return objective.kl_weight * sums.kl + objective.pl_weight * sums.pl, sums.kl, sums.pl


@pytest.mark.parametrize("objective", ARMS)
@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
@pytest.mark.parametrize("block_tokens", [1, 2, 100])
def test_losses_and_gradients_are_those_of_the_plain_formula(
    objective: Objective, chunk_tokens: int, block_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "BLOCK_LOGITS", block_tokens * VOCAB)
    arguments = problem()
    sums = fused_sums(*arguments, objective, chunk_tokens=chunk_tokens)
    expected, kl, pl = plain(arguments, objective)
    torch.testing.assert_close(sums.loss, expected)
    torch.testing.assert_close(sums.kl, kl)
    torch.testing.assert_close(sums.pl, pl)
    found = torch.autograd.grad(sums.loss / 3, arguments[:2])
    torch.testing.assert_close(found, torch.autograd.grad(expected / 3, arguments[:2]))


@pytest.mark.parametrize("objective", ARMS)
def test_gradients_are_those_of_finite_differences(objective: Objective) -> None:
    states, embedding, *constants = problem()
    assert torch.autograd.gradcheck(
        lambda x, w: fused_sums(x, w, *constants, objective, chunk_tokens=3).loss,
        (states, embedding),
    )


@pytest.mark.parametrize("kind", get_args(Divergence))
def test_a_divergence_is_zero_between_equals_and_never_negative(kind: Divergence) -> None:
    states, embedding, *_, labels = problem()
    objective = Objective(1.0, 0.0, 2.0, kind)
    own = fused_sums(states, embedding, states, embedding, labels, objective)
    assert abs(own.kl.item()) < 1e-12
    for gradient in torch.autograd.grad(own.loss, (states, embedding)):
        assert gradient.abs().max() < 1e-12
    assert fused_sums(*problem(), objective).kl > 0.1


def test_jensen_shannon_does_not_care_who_teaches() -> None:
    states, embedding, other, other_embedding, labels = problem(width_t=WIDTH)
    objective = Objective(1.0, 0.0, 2.0, "jensen-shannon")
    one = fused_sums(states, embedding, other, other_embedding, labels, objective).kl
    two = fused_sums(other, other_embedding, states, embedding, labels, objective).kl
    torch.testing.assert_close(one, two)


def test_without_a_teacher_there_is_the_pseudo_label_loss_alone() -> None:
    states, embedding, _, teacher_embedding, labels = problem()
    objective = Objective(0.0, 0.5, 2.0)
    sums = fused_sums(states, embedding, None, teacher_embedding, labels, objective)
    expected = torch.nn.functional.cross_entropy(states @ embedding.T, labels, reduction="sum")
    assert sums.kl == 0
    torch.testing.assert_close(sums.loss, expected / 2)


def test_an_embedding_that_stays_costs_no_gradient() -> None:
    states, embedding, *rest = problem()
    sums = fused_sums(states, embedding.detach(), *rest, ARMS[0])
    expected, *_ = plain((states, embedding.detach(), *rest), ARMS[0])
    torch.testing.assert_close(
        torch.autograd.grad(sums.loss, states), torch.autograd.grad(expected, states)
    )


@pytest.mark.parametrize("objective", ARMS)
def test_float32_is_near_float64(objective: Objective) -> None:
    exact, single = problem(), problem(torch.float32)
    expected, *_ = plain(exact, objective)
    fused = fused_sums(*single, objective, chunk_tokens=2)
    assert fused.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(expected, exact[:2])
    for found, wanted in zip(torch.autograd.grad(fused.loss, single[:2]), gradients, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ARMS)
def test_under_autocast_the_sums_stay_float32(objective: Objective) -> None:
    """bfloat16 rounds logits to 2^-8 of their size; chunks add to one float32 sum."""
    exact, single = problem(), problem(torch.float32)
    expected, *_ = plain(exact, objective)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused = fused_sums(*single, objective, chunk_tokens=1)
    assert fused.loss.dtype == torch.float32
    assert fused.loss.item() == pytest.approx(expected.item(), rel=0.03)
    gradients = torch.autograd.grad(expected, exact[:2])
    for found, wanted in zip(torch.autograd.grad(fused.loss, single[:2]), gradients, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.03 * wanted.norm()


def test_many_small_chunks_are_not_lost_in_bfloat16() -> None:
    """A bfloat16 sum would stop growing after some 256 equal terms."""
    n = 2048
    states = torch.ones(n, WIDTH, requires_grad=True)
    embedding = torch.zeros(VOCAB, WIDTH, requires_grad=True)
    labels = torch.zeros(n, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = fused_sums(states, embedding, None, embedding, labels, ARMS[1], chunk_tokens=1)
    (found,) = torch.autograd.grad(sums.loss, embedding)
    assert found[0, 0].item() == pytest.approx(-n * (1 - 1 / VOCAB), rel=5e-3)


def test_no_logits_of_all_tokens_are_ever_held() -> None:
    """The largest tensor is the states themselves, which are narrower than logits."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    arguments = problem(n=50)
    with Watch():
        fused_sums(*arguments, ARMS[0], chunk_tokens=5).loss.backward()
    assert largest == 50 * WIDTH < 50 * VOCAB


def test_different_vocabularies_are_refused_with_both_numbers() -> None:
    states, embedding, teacher_states, teacher_embedding, labels = problem()
    with pytest.raises(ValueError, match="found 11 and 10 tokens"):
        fused_sums(states, embedding, teacher_states, teacher_embedding[1:], labels, ARMS[0])
