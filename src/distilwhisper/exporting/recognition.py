"""What every exported model does when it is checked: a window of sound to its text."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import log_mel, stack_windows

# A model at work: the text of at most 30 s of sound, greedy and without timestamps. The language is
# a code; English-only models are given "en".
Recognise: TypeAlias = Callable[[Samples, str], str]


def window_mel(samples: Samples, *, n_mels: int) -> Float[Tensor, "1 n_mels 3000"]:
    """Return the frames of a window, as this package makes them."""
    return log_mel(stack_windows([samples]), n_mels=n_mels)
