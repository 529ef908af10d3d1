"""What every exported model does when it is checked: a window of sound to its text."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import log_mel, stack_windows


@runtime_checkable
class Recognise(Protocol):
    """A model at work: greedy, without timestamps, one window at a time."""

    def __call__(self, samples: Samples, language: str) -> str:
        """Return the text of at most 30 s of sound.

        Args:
            samples: mono, 16 kHz.
            language: its code; English-only models are given "en".
        """


def window_mel(samples: Samples, *, n_mels: int) -> Float[Tensor, "1 n_mels 3000"]:
    """Return the frames of a window, as this package makes them."""
    return log_mel(stack_windows([samples]), n_mels=n_mels)
