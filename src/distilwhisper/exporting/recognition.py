"""What every exported model does when it is checked: a window of sound to its text."""

from collections.abc import Callable
from typing import TypeAlias

from distilwhisper.speech.audio import Samples

# A model at work: the text of at most 30 s of sound, greedy and without timestamps. The language is
# a code; English-only models are given "en".
Recognise: TypeAlias = Callable[[Samples, str], str]
