"""The objective without its logits: projection to the vocabulary and loss, some tokens at a time.

Two float32 tensors of (tokens, 51,866) logits, their softmaxes and gradients are most of what a
plain step of distillation holds. Here the gradients with respect to the student's states and its
embedding are made while a chunk's logits are there, in the forward pass, and only they are kept.
The plain formulas stand in ``tests/plain_loss.py``, which this is held to in float64. Sums, not
means: the loop adds them over micro-batches and divides once by the number of all tokens that
count. A mean of means would give a token in a short utterance more weight.

Sources: arXiv:2311.00430, eq. 3-6. Temperature squared keeps the size of the gradient independent
of the temperature: arXiv:1503.02531, section 2. Reverse KL: arXiv:2306.08543; Jensen-Shannon:
arXiv:2306.13649, with beta 1/2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distilwhisper.shapes import Float, Int

Divergence = Literal["forward-kl", "reverse-kl", "jensen-shannon"]

# Of a chunk's logits, as many go through the softmaxes at a time as stay in a CPU core's own
# cache: a dozen passes over them then cost less than one over main memory.
BLOCK_LOGITS = 2**19


def chunk_logits(device_type: str) -> int:
    """Return how many logits of one model are held at a time on a kind of device.

    Every chunk reads and writes the embedding's gradient once, so a chunk must not be small.
    """
    return 2**24 if device_type == "cpu" else 2**26


@dataclass(frozen=True)
class Objective:
    """What is minimised."""

    kl_weight: float
    pl_weight: float
    temperature: float
    divergence: Divergence = "forward-kl"


class FusedSums(NamedTuple):
    """Losses summed over tokens."""

    loss: Float[Tensor, ""]  # weighted; gradients flow through it alone
    kl: Float[Tensor, ""]  # nats, temperature squared included; zero without a teacher
    pl: Float[Tensor, ""]  # nats


def fused_sums(
    student_states: Float[Tensor, "tokens width"],
    student_embedding: Float[Tensor, "vocab width"],
    teacher_states: Float[Tensor, "tokens width_t"] | None,
    teacher_embedding: Float[Tensor, "vocab_t width_t"],
    labels: Int[Tensor, " tokens"],
    objective: Objective,
    *,
    chunk_tokens: int | None = None,
) -> FusedSums:
    """Sum the divergence and the pseudo-label loss over tokens that all count: none is IGNORE.

    Logits are products of final states with the embedding, of one vocabulary on both sides. Under
    autocast, products are made in its dtype; losses, softmaxes and what is summed over chunks stay
    float32 (or float64, where the states are). The student's embedding gets a gradient too, if it
    wants one; the teacher's side is constant, and without its states the divergence is left out.
    ``chunk_tokens`` are projected at a time; None: as many as suit the device.

    Raises:
        ValueError: the two vocabularies differ.
    """
    n_vocab, device = len(student_embedding), student_states.device.type
    if n_vocab != len(teacher_embedding):
        raise ValueError(
            f"student and teacher must have one vocabulary: found {n_vocab} and "
            f"{len(teacher_embedding)} tokens"
        )
    chunk_tokens = chunk_tokens or max(1, chunk_logits(device) // n_vocab)
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else student_states.dtype
    sum_dtype = torch.promote_types(student_states.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(device, enabled=False):
        states, embedding = student_states.to(dtype), student_embedding.to(dtype)
        teacher_weight = teacher_embedding.to(dtype)
        d_states, d_embedding = torch.zeros_like(states, dtype=sum_dtype), None
        if student_embedding.requires_grad:
            d_embedding = torch.zeros_like(embedding, dtype=sum_dtype)
        kl = pl = states.new_zeros((), dtype=sum_dtype)
        for at in range(0, len(states), chunk_tokens):
            some = slice(at, at + chunk_tokens)
            gradient = states[some] @ embedding.T  # of the logits, which it first holds
            wanted = None
            if teacher_states is not None:
                wanted = teacher_states[some].to(dtype) @ teacher_weight.T
            block = max(1, BLOCK_LOGITS // n_vocab) if device == "cpu" else chunk_tokens
            for row in range(0, len(gradient), block):
                rows = slice(row, row + block)
                ours = gradient[rows].to(sum_dtype)
                theirs = None if wanted is None else wanted[rows].to(sum_dtype)
                block_kl, block_pl, d_logits = _block(ours, theirs, labels[some][rows], objective)
                kl, pl = kl + block_kl, pl + block_pl
                gradient[rows] = d_logits
            d_states[some] = gradient @ embedding
            if d_embedding is not None and d_embedding.dtype == gradient.dtype:
                d_embedding.addmm_(gradient.T, states[some])
            elif d_embedding is not None:
                d_embedding += gradient.T @ states[some]
        loss = objective.kl_weight * kl + objective.pl_weight * pl
    loss = _WithGradients.apply(  # type: ignore[no-untyped-call]
        loss, student_states, student_embedding, d_states, d_embedding
    )
    return FusedSums(loss, kl, pl)


class _WithGradients(torch.autograd.Function):
    """A loss of states and an embedding whose gradients are there before it is asked for them."""

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, states: Tensor, embedding: Tensor, *gradients: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(*gradients)
        ctx.dtypes = states.dtype, embedding.dtype
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [
            None if saved is None else (saved * grads[0]).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, *gradients, None, None


def _block(
    student: Float[Tensor, "tokens vocab"],
    teacher: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, " tokens"],
    objective: Objective,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return divergence, pseudo-label loss and the gradient of their weighted sum.

    Logits are overwritten: every pass over them costs about as much as a tenth of their product.
    """
    t = objective.temperature
    kl, d_divergence = student.new_zeros(()), None
    if teacher is not None:
        log_q = (student / t if t != 1 else student).log_softmax(dim=-1)
        log_p = (teacher / t if t != 1 else teacher).log_softmax(dim=-1)
        kl, d_divergence = _DIVERGENCES[objective.divergence](log_p, log_q)
        kl = kl * t**2
    rows = torch.arange(len(labels), device=labels.device)
    log_probs = student.log_softmax(dim=-1)
    pl = -log_probs[rows, labels].sum()
    gradient = log_probs.exp_()
    gradient[rows, labels] -= 1
    gradient *= objective.pl_weight
    if d_divergence is not None:
        gradient.add_(d_divergence, alpha=objective.kl_weight * t)
    return kl, pl, gradient


# Each takes log-probabilities of teacher and student, may overwrite them, and returns the summed
# divergence and its gradient with respect to what the student's softmax was taken of.


def _forward_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p = log_p.exp()
    kl = torch.dot(p.flatten(), log_p.sub_(log_q).flatten())
    return kl, log_q.exp_().sub_(p)


def _reverse_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    gaps = log_q.sub_(log_p)
    per_token = (q * gaps).sum(dim=-1, keepdim=True)
    return per_token.sum(), q.mul_(gaps.sub_(per_token))


def _jensen_shannon(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    log_middle = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))
    p, q = log_p.exp(), log_q.exp()
    gaps = log_q.sub_(log_middle)
    per_token = (q * gaps).sum(dim=-1, keepdim=True)
    kl = (p * log_p.sub_(log_middle)).sum() + per_token.sum()
    return kl / 2, q.mul_(gaps.sub_(per_token)).div_(2)


_DIVERGENCES = {
    "forward-kl": _forward_kl,
    "reverse-kl": _reverse_kl,
    "jensen-shannon": _jensen_shannon,
}


# Beside the objective


def hidden_mse_sum(
    student: Sequence[Float[Tensor, "tokens width"]],
    teacher: Sequence[Float[Tensor, "tokens width"]],
) -> Float[Tensor, ""]:
    """Sum over tokens and student layers how far states are from the teacher's paired ones.

    A student's layer is paired with the last one of its block, where the teacher's layers, at least
    as many and constants, make as many equal blocks. Squared distances are averaged over the width.

    Source: arXiv:2311.00430, eq. 10-12.
    """
    sums = []
    for number, states in enumerate(student, start=1):
        wanted = teacher[number * len(teacher) // len(student) - 1].detach().to(states.dtype)
        sums.append(F.mse_loss(states, wanted, reduction="sum") / states.shape[-1])
    return torch.stack(sums).sum()
