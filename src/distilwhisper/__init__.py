"""Make big Whisper speech models small, fast and trustworthy, with proof."""

__version__ = "0.1.0"
