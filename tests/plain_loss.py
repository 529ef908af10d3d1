"""The objective by its plain formulas, on logits that are all there: what training is held to."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distilwhisper.corpus.batches import IGNORE
from distilwhisper.training.loss import Divergence


class LossSums(NamedTuple):
    """Losses summed over the counted tokens, in nats."""

    kl: Tensor  # temperature squared included
    pl: Tensor
    n_tokens: int


def distillation_sums(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    divergence: Divergence = "forward-kl",
) -> LossSums:
    """Sum the divergence and the pseudo-label loss over every token whose label is not IGNORE.

    Source: arXiv:2311.00430, eq. 3-6; reverse KL: arXiv:2306.08543; Jensen-Shannon:
    arXiv:2306.13649, with beta 1/2.
    """
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
