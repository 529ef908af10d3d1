"""How audio becomes text: one dataclass, the same for labels, scores and transcripts."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from distilwhisper.checks import AT_LEAST_0, AT_LEAST_1, Rule, check_rules, ruled
from distilwhisper.speech.units import WINDOW_S

# openai-whisper's limit per window: a window with more text than this is in a loop.
MAX_NEW_TOKENS = 224
MODELS_OWN = -1  # among the tokens to suppress: those that the model's configuration names


_CHUNK: Rule = (f"lie in [1, {WINDOW_S:g}]", lambda chunk_s: 1.0 <= chunk_s <= WINDOW_S)
_RISING: Rule = (
    "rise from 0 on",
    lambda times_s: all(0 <= a < b for a, b in pairwise((*times_s, math.inf))),
)
_IDS: Rule = ("be ids from 0 on, or -1", lambda ids: all(id_ >= MODELS_OWN for id_ in ids))
_TEMPERATURES: Rule = (
    "be one or more numbers in [0, 2]",
    lambda values: bool(values) and all(0 <= value <= 2 for value in values),
)


@dataclass(frozen=True)
class DecodingSettings:
    """How audio becomes text; the same for labels, scores and transcripts."""

    language: str | None = None
    """Code or English name, also where a manifest names another. None or "auto": the manifest's,
    or else it is detected; English-only models need none."""
    language_windows: int = ruled(1, AT_LEAST_1)
    """Windows with speech, spread over a recording, that its language is detected from; more
    where it stays in doubt."""
    multilingual: bool = False
    """Detect the language of every window: several are spoken in a recording."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Translate puts any language into English (multilingual models)."""
    timestamps: bool = True
    """Decode with timestamps; without them a window is one segment."""
    word_timestamps: bool = False
    """Time every word, by what the decoder attends to."""
    batch_size: int = ruled(16, AT_LEAST_1)
    """Windows decoded at a time."""
    max_new_tokens: int = ruled(MAX_NEW_TOKENS, AT_LEAST_1)
    """Tokens per window at most."""

    long_form: Literal["chunked", "sequential"] = "chunked"
    """Recordings over 30 s: chunks decoded together, or one window after the other, each beginning
    where the last one ended (as openai-whisper)."""
    chunk_s: float = ruled(WINDOW_S, _CHUNK)
    """Length of the chunks, at most 30; students trained on short audio like 15."""
    overlap_s: float | None = None
    """Seconds that neighbouring chunks share, 10 in the paper; none: they meet in a pause, and
    share a third of a chunk where there is none."""
    vad_filter: bool = False
    """Leave out what holds no speech (needs the extra "vad")."""
    clip_timestamps: tuple[float, ...] = ruled((), _RISING)
    """Transcribe these stretches of a recording alone: start, end, start, end ... in seconds; the
    last end may be left out. None: all of it."""
    condition_on_previous_text: bool = False
    """Sequential: a window's prompt holds the text before it. Smoother, but errors and loops carry
    on, and students that were not taught prompts break."""
    initial_prompt: str | None = None
    """Text before the recording, in the prompt of its first window; chunked: of every chunk."""
    hotwords: str | None = None
    """Words to expect, at the beginning of every prompt."""

    suppress_tokens: tuple[int, ...] = ruled((MODELS_OWN,), _IDS)
    """Ids that are never written; -1 stands for the model's own list: symbols nobody speaks."""

    beam_size: int = ruled(1, AT_LEAST_1)
    """Hypotheses kept at temperature 0; 1 is greedy."""
    temperature: tuple[float, ...] = ruled((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), _TEMPERATURES)
    """Tried in turn while a window fails the thresholds; above 0 tokens are sampled."""
    compression_ratio_threshold: float | None = 2.4
    """A window whose text compresses better than this has failed: it repeats itself."""
    logprob_threshold: float | None = -1.0
    """A window with a lower average log-probability has failed."""
    no_speech_threshold: float | None = 0.6
    """A window is silence if no-speech is likelier than this and the log-probability failed."""
    seed: int = 0
    """Of the sampling at temperatures above 0."""

    draft_tokens: int = ruled(5, AT_LEAST_1)
    """Tokens that a draft model proposes at a time, where there is one."""
    context_margin_s: float | None = ruled(None, AT_LEAST_0)
    """Encode a window's sound and this much silence behind it, instead of 30 s; none: 30 s. A
    window that stays without text, repeats itself, finds no end or fails a threshold is decoded
    again with 30 s before it is tried any hotter. What else shorter context breaks is not
    known."""

    def __post_init__(self) -> None:
        if self.language is not None and self.language.lower() == "auto":
            object.__setattr__(self, "language", None)
        check_rules(self, *self._faults())

    @property
    def cuts_in_pauses(self) -> bool:
        """Whether chunks meet in pauses, where there are some."""
        return self.overlap_s is None

    @property
    def shared_s(self) -> float:
        """Seconds that neighbouring chunks share where they do not meet in a pause."""
        return self.chunk_s / 3 if self.overlap_s is None else self.overlap_s

    def packing_fault(self) -> str | None:
        """Return why utterances cannot share windows with these settings, if they cannot."""
        if self.timestamps and self.beam_size == 1:
            return None
        return (
            "pack needs timestamps=true, which tell whose the text is, and beam_size=1; found "
            f"timestamps={str(self.timestamps).lower()} and beam_size={self.beam_size}"
        )

    def _faults(self) -> list[str | bool]:
        most_s, of_text = 0.8 * self.chunk_s, ("initial_prompt", "hotwords")
        return [
            not 0 <= self.shared_s <= most_s
            and f"overlap_s must be at least 0 and at most {most_s:g}, four fifths of chunk_s "
            f"({self.chunk_s:g}), found {self.shared_s:g}",
            *(_text_fault(name, getattr(self, name)) for name in of_text),
            bool(self.clip_timestamps)
            and self.vad_filter
            and "give clip_timestamps or vad_filter, not both: each names what is transcribed",
            self.word_timestamps
            and not self.timestamps
            and "word_timestamps need timestamps=true: segments are timed first",
            self.long_form == "sequential"
            and not self.timestamps
            and "long_form=sequential needs timestamps=true: they tell where a window begins",
            self.condition_on_previous_text
            and self.long_form != "sequential"
            and "condition_on_previous_text needs long_form=sequential: chunks are decoded at once",
        ]


def _text_fault(name: str, value: str | None) -> str | bool:
    """A command line of another encoding leaves bytes that are no characters."""
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        found = error.object[error.start : error.end].encode("utf-8", "surrogateescape")
        return f"{name} must be UTF-8 text, found {found!r} as character {error.start + 1}"
    return False
