"""The silence behind a window's sound, in fewer frames than it lasts.

Whisper reads 30 s at once, and breaks where it is given less: it looks to the silence behind the
sound. But the frames of silence differ in little more than their place. Of each few in a row one
is encoded, and counts in attention as often as the frames that it stands for.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from distilwhisper.shapes import Float, Int

# The frames of 20 ms behind the sound that all stay, and of how many others one does. On eight sets
# of short speech whisper-base makes as many errors with one of 4 as with all (docs/speed.md).
MARGIN_FRAMES = 50
STRIDE = 4
# Windows have one of few lengths, which a library that compiles for lengths has soon met.
FRAMES_PER_BLOCK = 64

FrameBias: TypeAlias = Float[Tensor, "#batch 1 1 frames"]


@dataclass(frozen=True)
class KeptFrames:
    """Which of a window's encoder frames are encoded."""

    places: Int[Tensor, " kept"]
    bias: Float[Tensor, "1 1 1 kept"]  # added to their scores: log of how many each stands for


def thin_silence(n_sound: int, n_frames: int) -> KeptFrames | None:
    """Return the frames that stand for a whole window; None: all of them do."""
    least = n_sound + MARGIN_FRAMES
    silent = n_frames - least
    n_kept = least + max(-(-silent // STRIDE), 0)
    n_kept = -(-n_kept // FRAMES_PER_BLOCK) * FRAMES_PER_BLOCK
    if n_kept >= n_frames:
        return None
    # What the block has room for stays whole as well.
    n_tail = -(-(n_frames - n_kept) // (STRIDE - 1))
    head = n_kept - n_tail
    each = (n_frames - head) / n_tail
    tail = head + ((torch.arange(n_tail) + 0.5) * each).long()
    bias = torch.zeros(n_kept)
    bias[head:] = math.log(each)
    return KeptFrames(torch.cat([torch.arange(head), tail]), bias[None, None, None])
