"""The silence behind a window's sound, in fewer frames than it lasts.

Whisper reads 30 s at once, and breaks where it is given less: it looks to the silence behind the
sound. But all frames of silence are alike until they get their places in time. One with the mean
of a few places stands for as many, and counts in attention as often as they would.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from distilwhisper.shapes import Float, Int

# The frames of 20 ms behind the sound that all stay, and how many of the others one stands for:
# chosen by KL and word errors (docs/speed.md).
MARGIN_FRAMES = 50
STRIDE = 6
# By how many means windows differ at least: a library that compiles for lengths meets few of them.
MEANS_PER_BLOCK = 12

FrameBias: TypeAlias = Float[Tensor, "#batch 1 1 frames"]


@dataclass(frozen=True)
class KeptFrames:
    """Which frames of a window go through the encoder's layers, the others being silent."""

    n_whole: int  # that stay, from the first on: the sound, and at least one behind it
    n_means: int  # that stand for STRIDE frames each, all of them silence

    def __len__(self) -> int:
        return self.n_whole + self.n_means

    @property
    def sources(self) -> Int[Tensor, " kept"]:
        """The frame of the window that each is, but for its place."""
        return torch.arange(len(self)).clamp(max=self.n_whole)

    def read(self, mel: Tensor, positions: Float[Tensor, "most width"]) -> tuple[Tensor, Tensor]:
        """Return what has to be read of a mel, and the embedding of each one's place in time."""
        silent = positions[self.n_whole : -(-mel.shape[2] // 2)]
        means = silent.reshape(self.n_means, STRIDE, positions.shape[1]).mean(dim=1)
        # The sound, and a frame of silence, depend on no mel frames behind these.
        return mel[:, :, : 2 * (self.n_whole + 2)], torch.cat([positions[: self.n_whole], means])

    @property
    def bias(self) -> FrameBias:
        """Added to the scores of each: log of the number of frames that it stands for."""
        bias = torch.zeros(len(self))
        bias[self.n_whole :] = math.log(STRIDE)
        return bias[None, None, None]


def thin_silence(n_sound: int, n_frames: int) -> KeptFrames | None:
    """Return what to keep of a whole window; None: all frames."""
    n_silent = n_frames - n_sound - MARGIN_FRAMES
    n_means = n_silent // STRIDE // MEANS_PER_BLOCK * MEANS_PER_BLOCK
    return KeptFrames(n_frames - STRIDE * n_means, n_means) if n_means > 0 else None
