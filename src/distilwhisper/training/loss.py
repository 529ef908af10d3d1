"""The objective: follow the teacher's distribution, and say what the teacher said."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distilwhisper.corpus.batches import IGNORE

Divergence = Literal["forward-kl", "reverse-kl", "jensen-shannon"]


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
    divergence: Divergence = "forward-kl",
) -> LossSums:
    """Sum the KL and the pseudo-label loss over every token that counts.

    The plain formulas, on logits that are all there: what ``fused.py`` is held to.

    Args:
        student_logits: gradients flow through these alone.
        teacher_logits: a constant, scored on the same tokens as the student's.
        labels: pseudo-label ids; positions that hold IGNORE are skipped.
        temperature: softens both sides of the KL term only; 1.0 changes nothing.
        divergence: the paper's KL(teacher || student), KL(student || teacher), or the mean of
            both sides' KL to their middle.

    Raises:
        ValueError: the two vocabularies differ (large-v2 has one token fewer than large-v3), or
            the temperature is not above zero.

    Source: arXiv:2311.00430, eq. 3-6. Temperature squared keeps the size of the gradient
    independent of the temperature: arXiv:1503.02531, section 2. Reverse KL: arXiv:2306.08543;
    Jensen-Shannon: arXiv:2306.13649, with beta 1/2.
    """
    check_vocabularies(student_logits.shape[-1], teacher_logits.shape[-1])
    if temperature <= 0:
        raise ValueError(f"temperature must be above zero, found {temperature}")
    counted = labels != IGNORE
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = student_logits[counted].to(dtype)  # (counted, vocab)
    teacher = teacher_logits[counted].detach().to(dtype)
    log_q = (student / temperature).log_softmax(dim=-1)
    log_p = (teacher / temperature).log_softmax(dim=-1)
    if divergence == "forward-kl":
        kl = _kl(log_p, log_q)
    elif divergence == "reverse-kl":
        kl = _kl(log_q, log_p)
    else:
        log_middle = torch.logaddexp(log_p, log_q) - math.log(2)
        kl = (_kl(log_p, log_middle) + _kl(log_q, log_middle)) / 2
    pl = F.cross_entropy(student, labels[counted], reduction="sum")
    return LossSums(kl * temperature**2, pl, len(student))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, log_target=True, reduction="sum")


def check_vocabularies(student: int, teacher: int) -> None:
    """See that two models have as many tokens as one another.

    Raises:
        ValueError: they have not.
    """
    if student != teacher:
        raise ValueError(
            f"student and teacher must have one vocabulary: found {student} and {teacher} tokens"
        )


def teacher_layer(number: int, *, n_student: int, n_teacher: int) -> int:
    """Return the teacher's layer whose states a student's layer is to come near to.

    The last one of as many equal blocks of the teacher's layers as the student has layers.

    Args:
        number: the student's layer, counted from 0.
        n_student: the student's layers.
        n_teacher: the teacher's, at least as many.

    Source: arXiv:2311.00430, eq. 10.
    """
    return (number + 1) * n_teacher // n_student - 1


def hidden_mse_sum(
    student: Sequence[Float[Tensor, "tokens width"]],
    teacher: Sequence[Float[Tensor, "tokens width"]],
) -> Float[Tensor, ""]:
    """Sum over tokens and student layers how far states are from the teacher's paired ones.

    Args:
        student: states after each layer, of the tokens that count.
        teacher: the same of the teacher, constants.

    Returns:
        Squared distances, averaged over the width, summed over tokens and layers.

    Source: arXiv:2311.00430, eq. 11-12.
    """
    sums = []
    for number, states in enumerate(student):
        paired = teacher_layer(number, n_student=len(student), n_teacher=len(teacher))
        wanted = teacher[paired].detach().to(states.dtype)
        sums.append(F.mse_loss(states, wanted, reduction="sum") / states.shape[-1])
    return torch.stack(sums).sum()


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
