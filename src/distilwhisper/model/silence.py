"""The silence behind a window's sound, in fewer frames than it lasts.

Whisper reads 30 s at once, and breaks where it is given less: it looks to the silence behind the
sound. But the frames of silence differ in little more than their place. Their mean stands for a
few in a row, and counts in attention as often as these would.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from distilwhisper.shapes import Float

# The frames of 20 ms behind the sound that all stay, and how many of the others one mean stands
# for. Chosen by KL and word errors (docs/speed.md).
MARGIN_FRAMES = 50
STRIDE = 6
# By how many means windows differ at least: a library that compiles for lengths meets few of them.
MEANS_PER_BLOCK = 12

FrameBias: TypeAlias = Float[Tensor, "#batch 1 1 frames"]


@dataclass(frozen=True)
class KeptFrames:
    """What becomes of a window's frames before the encoder's layers: all, then means of a few."""

    n_whole: int  # frames that stay, from the first on
    n_means: int  # of STRIDE frames each, behind them

    def __len__(self) -> int:
        return self.n_whole + self.n_means

    @property
    def bias(self) -> Float[Tensor, "1 1 1 kept"]:
        """Added to the scores of what is kept: log of the number of frames that it stands for."""
        bias = torch.zeros(len(self))
        bias[self.n_whole :] = math.log(STRIDE)
        return bias[None, None, None]

    def thin(self, states: Float[Tensor, "batch all width"]) -> Float[Tensor, "batch kept width"]:
        """Return what is kept of all frames."""
        silence = states[:, self.n_whole :].reshape(len(states), self.n_means, STRIDE, -1)
        return torch.cat([states[:, : self.n_whole], silence.mean(dim=2)], dim=1)


def thin_silence(n_sound: int, n_frames: int) -> KeptFrames | None:
    """Return what to keep of a whole window; None: all frames."""
    n_silent = n_frames - n_sound - MARGIN_FRAMES
    n_means = n_silent // STRIDE // MEANS_PER_BLOCK * MEANS_PER_BLOCK
    return KeptFrames(n_frames - STRIDE * n_means, n_means) if n_means > 0 else None
