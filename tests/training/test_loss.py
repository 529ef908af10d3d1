import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilwhisper.corpus.batches import IGNORE
from distilwhisper.training.settings import TrainingSettings
from plain_loss import distillation_sums

BATCH, TOKENS, VOCAB = 3, 5, 11


@pytest.fixture
def labels() -> Tensor:
    labels = torch.randint(VOCAB, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    labels[0, 3:] = IGNORE
    labels[2, 0] = IGNORE
    return labels


def random_logits(seed: int) -> Tensor:
    return 3 * torch.randn(BATCH, TOKENS, VOCAB, generator=torch.Generator().manual_seed(seed))


def test_sums_equal_the_formula_written_out(labels: Tensor) -> None:
    student, teacher = random_logits(1), random_logits(2)
    sums = distillation_sums(student, teacher, labels, temperature=2.0)
    kl = pl = 0.0
    for b in range(BATCH):
        for t in range(TOKENS):
            if labels[b, t] == IGNORE:
                continue
            p = (teacher[b, t].double() / 2).softmax(-1)
            q = (student[b, t].double() / 2).softmax(-1)
            kl += 4 * float((p * (p.log() - q.log())).sum())
            pl -= float(student[b, t].double().log_softmax(-1)[labels[b, t]])
    assert sums.n_tokens == 12
    assert sums.kl.item() == pytest.approx(kl, rel=1e-5)
    assert sums.pl.item() == pytest.approx(pl, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), temperature=st.floats(0.5, 8), constant=st.floats(-50, 50))
def test_kl_is_zero_for_equal_models_never_negative_and_blind_to_a_constant(
    seed: int, temperature: float, constant: float
) -> None:
    labels = torch.zeros(BATCH, TOKENS, dtype=torch.long)
    student, teacher = random_logits(seed), random_logits(seed + 1)
    own = distillation_sums(student, student.clone(), labels, temperature=temperature)
    assert abs(own.kl.item()) < 1e-4  # float32 sums of 15 distributions
    kl = distillation_sums(student, teacher, labels, temperature=temperature).kl.item()
    assert kl > 0
    moved = distillation_sums(
        student + constant, teacher - constant, labels, temperature=temperature
    )
    assert moved.kl.item() == pytest.approx(kl, rel=1e-3)


def test_the_direction_is_forward() -> None:
    """A student that misses one of the teacher's modes pays; one that adds a mode pays little."""
    labels = torch.zeros(1, 1, dtype=torch.long)
    two_modes = torch.tensor([[[5.0, 5.0, -5.0]]])
    one_mode = torch.tensor([[[5.0, -5.0, -5.0]]])
    misses = distillation_sums(one_mode, two_modes, labels, temperature=1.0).kl
    adds = distillation_sums(two_modes, one_mode, labels, temperature=1.0).kl
    assert misses > 4
    assert adds == pytest.approx(math.log(2), abs=1e-2)


def test_gradients_flow_through_the_student_alone(labels: Tensor) -> None:
    student = random_logits(1).requires_grad_()
    teacher = random_logits(2).requires_grad_()
    sums = distillation_sums(student, teacher, labels, temperature=2.0)
    (sums.kl + sums.pl).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert (student.grad[labels == IGNORE] == 0).all()
    assert (student.grad[labels != IGNORE] != 0).any()


def test_the_gradient_of_pl_is_cross_entropys(labels: Tensor) -> None:
    student = random_logits(1).requires_grad_()
    distillation_sums(student, random_logits(2), labels, temperature=2.0).pl.backward()
    again = student.detach().clone().requires_grad_()
    F.cross_entropy(
        again.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    ).backward()
    torch.testing.assert_close(student.grad, again.grad)


def test_sums_of_micro_batches_are_the_sums_of_the_batch(labels: Tensor) -> None:
    student, teacher = random_logits(1), random_logits(2)
    whole = distillation_sums(student, teacher, labels, temperature=2.0)
    parts = [
        distillation_sums(
            student[b : b + 1], teacher[b : b + 1], labels[b : b + 1], temperature=2.0
        )
        for b in range(BATCH)
    ]
    assert sum(p.n_tokens for p in parts) == whole.n_tokens
    assert sum(p.kl.item() for p in parts) == pytest.approx(whole.kl.item(), rel=1e-5)
    assert sum(p.pl.item() for p in parts) == pytest.approx(whole.pl.item(), rel=1e-5)


def test_the_schedule_of_table_15() -> None:
    rate = {
        step: TrainingSettings().learning_rate(step)
        for step in (0, 249, 499, 500, 40_250, 79_999, 80_000)
    }
    assert rate[0] == pytest.approx(1e-4 / 500)
    assert rate[249] == pytest.approx(0.5e-4)
    assert rate[499] == rate[500] == 1e-4
    assert rate[40_250] == pytest.approx(0.5e-4)
    assert 0 < rate[79_999] < 1e-8
    assert rate[80_000] == 0
