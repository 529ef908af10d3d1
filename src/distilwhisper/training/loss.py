"""What stands around the objective: its kinds, hidden states, the learning rate, clipping."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distilwhisper.shapes import Float

Divergence = Literal["forward-kl", "reverse-kl", "jensen-shannon"]


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
