"""The objective: follow the teacher's distribution, and say what the teacher said."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilwhisper.corpus.batches import IGNORE


class LossSums(NamedTuple):
    """Losses summed over the counted tokens of one micro-batch.

    Sums, not means: the loop adds them over micro-batches and divides once by the number of all
    counted tokens. A mean of means would give a token in a short utterance more weight.
    """

    kl: Float[Tensor, ""]  # nats, temperature squared included
    pl: Float[Tensor, ""]  # nats
    n_tokens: int


def distillation_sums(
    student_logits: Float[Tensor, "batch tokens vocab"],
    teacher_logits: Float[Tensor, "batch tokens vocab_t"],
    labels: Int[Tensor, "batch tokens"],
    *,
    temperature: float,
) -> LossSums:
    """Sum the KL and the pseudo-label loss over every token that counts.

    Args:
        student_logits: gradients flow through these alone.
        teacher_logits: a constant, scored on the same tokens as the student's.
        labels: pseudo-label ids; positions that hold IGNORE are skipped.
        temperature: softens both sides of the KL term only; 1.0 changes nothing.

    Raises:
        ValueError: the two vocabularies differ (large-v2 has one token fewer than large-v3), or
            the temperature is not above zero.

    Source: arXiv:2311.00430, eq. 3-6. Temperature squared keeps the size of the gradient
    independent of the temperature: arXiv:1503.02531, section 2.
    """
    if student_logits.shape[-1] != teacher_logits.shape[-1]:
        raise ValueError(
            "student and teacher must have one vocabulary: found "
            f"{student_logits.shape[-1]} and {teacher_logits.shape[-1]} tokens"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be above zero, found {temperature}")
    counted = labels != IGNORE
    student = student_logits[counted].float()  # (counted, vocab)
    teacher = teacher_logits[counted].detach().float()
    kl = F.kl_div(
        (student / temperature).log_softmax(dim=-1),
        (teacher / temperature).log_softmax(dim=-1),
        log_target=True,
        reduction="sum",
    )
    pl = F.cross_entropy(student, labels[counted], reduction="sum")
    return LossSums(kl * temperature**2, pl, len(student))


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of one step: linear warm-up, then linear decay to zero.

    Args:
        step: counted from 0.
        peak: reached at the end of the warm-up.
        warmup_steps: 0 begins at the peak.
        total_steps: the rate is zero from here on.

    Source: arXiv:2311.00430, table 15.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * max(0, total_steps - step) / max(1, total_steps - warmup_steps)


def clip_gradients(parameters: list[Tensor], max_norm: float) -> float:
    """Scale all gradients down together when their norm exceeds ``max_norm``.

    Returns:
        The norm before.
    """
    norm: Tensor = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.item()
