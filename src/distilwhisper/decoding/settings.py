"""How audio becomes text: one dataclass, the same for labels, scores and transcripts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from distilwhisper.speech.units import WINDOW_S

# openai-whisper's limit per window: a window that says more than this is in a loop.
MAX_NEW_TOKENS = 224
MODELS_OWN = -1  # among the tokens to suppress: those that the model's configuration names


@dataclass(frozen=True)
class DecodingSettings:
    """How audio becomes text; the same for labels, scores and transcripts."""

    language: str | None = None
    """Code or English name, whatever a manifest names; none or "auto": what it names, else
    English-only models need none and others detect it."""
    language_windows: int = 1
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
    batch_size: int = 16
    """Windows decoded at a time."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Tokens per window at most."""

    long_form: Literal["chunked", "sequential"] = "chunked"
    """Recordings over 30 s: overlapping chunks decoded together, or one window after the other,
    each beginning where the last one ended (as openai-whisper)."""
    chunk_s: float = 30.0
    """Length of the chunks, at most 30; students trained on short audio like 15."""
    overlap_s: float | None = None
    """Seconds that neighbouring chunks share; none: a third of a chunk, as in the paper."""
    vad_filter: bool = False
    """Leave out what holds no speech (needs the extra "vad")."""
    clip_timestamps: tuple[float, ...] = ()
    """Transcribe these stretches of a recording alone: start, end, start, end ... in seconds; the
    last end may be left out. None: all of it."""
    condition_on_previous_text: bool = False
    """Sequential: a window is told the text before it. Smoother, but errors and loops carry on,
    and students that never saw a prompt break."""
    initial_prompt: str | None = None
    """Text that the first window is told came before it; chunked: every chunk."""
    hotwords: str | None = None
    """Words to expect, told to every window before any other prompt."""

    suppress_tokens: tuple[int, ...] = (MODELS_OWN,)
    """Ids that are never written; -1 stands for the model's own list: symbols nobody speaks."""

    beam_size: int = 1
    """Hypotheses kept at temperature 0; 1 is greedy."""
    temperature: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tried in turn while a window fails the thresholds; above 0 tokens are sampled."""
    compression_ratio_threshold: float | None = 2.4
    """A window whose text compresses better than this has failed: it repeats itself."""
    logprob_threshold: float | None = -1.0
    """A window with a lower average log-probability has failed."""
    no_speech_threshold: float | None = 0.6
    """A window is silence if no-speech is likelier than this and the log-probability failed."""
    seed: int = 0
    """Of the sampling at temperatures above 0."""

    draft_tokens: int = 5
    """Tokens that a draft model proposes at a time, where there is one."""
    context_margin_s: float | None = None
    """Encode a window's sound and this much silence behind it, instead of 30 s; none: 30 s. A
    window that says nothing so, repeats itself, finds no end or fails a threshold is decoded again
    with 30 s before it is tried any hotter. What else shorter context breaks is not found out."""

    def __post_init__(self) -> None:
        if self.language is not None and self.language.lower() == "auto":
            object.__setattr__(self, "language", None)
        faults = [fault for fault in self._faults() if fault]
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def is_cut(self) -> bool:
        """Whether parts of a recording are left out."""
        return self.vad_filter or bool(self.clip_timestamps)

    @property
    def shared_s(self) -> float:
        """Seconds that neighbouring chunks share."""
        return self.chunk_s / 3 if self.overlap_s is None else self.overlap_s

    def packing_fault(self) -> str | None:
        """Return why utterances cannot share windows with these settings, if they cannot."""
        if self.timestamps and self.beam_size == 1:
            return None
        return (
            "pack needs timestamps=true, which tell whose the text is, and beam_size=1; found "
            f"timestamps={str(self.timestamps).lower()} and beam_size={self.beam_size}"
        )

    def _faults(self) -> list[str | None]:
        most_s = 0.8 * self.chunk_s
        return [
            _at_least("batch_size", self.batch_size, 1),
            _at_least("language_windows", self.language_windows, 1),
            _at_least("max_new_tokens", self.max_new_tokens, 1),
            _at_least("beam_size", self.beam_size, 1),
            _at_least("draft_tokens", self.draft_tokens, 1),
            _at_least("context_margin_s", self.context_margin_s, 0.0),
            None
            if 1.0 <= self.chunk_s <= WINDOW_S
            else f"chunk_s must lie in [1, {WINDOW_S:g}], found {self.chunk_s:g}",
            None
            if 0 <= self.shared_s <= most_s
            else f"overlap_s must be at least 0 and at most {most_s:g}, four fifths of chunk_s "
            f"({self.chunk_s:g}), found {self.shared_s:g}",
            None
            if self.temperature and all(0 <= t <= 2 for t in self.temperature)
            else f"temperature must be one or more numbers in [0, 2], found {self.temperature}",
            _as_text("initial_prompt", self.initial_prompt),
            _clip_fault(self.clip_timestamps),
            "give clip_timestamps or vad_filter, not both: each names what is transcribed"
            if self.clip_timestamps and self.vad_filter
            else None,
            None
            if all(id_ >= MODELS_OWN for id_ in self.suppress_tokens)
            else f"suppress_tokens must be ids from 0 on, or -1, found {self.suppress_tokens}",
            _as_text("hotwords", self.hotwords),
            "word_timestamps need timestamps=true: segments are timed first"
            if self.word_timestamps and not self.timestamps
            else None,
            "long_form=sequential needs timestamps=true: they tell where the next window begins"
            if self.long_form == "sequential" and not self.timestamps
            else None,
            "condition_on_previous_text needs long_form=sequential: chunks are decoded together"
            if self.condition_on_previous_text and self.long_form != "sequential"
            else None,
        ]


def _clip_fault(times_s: Sequence[float]) -> str | None:
    if all(0 <= a < b for a, b in pairwise((*times_s, math.inf))):
        return None
    return f"clip_timestamps must rise from 0 on, found {', '.join(f'{t:g}' for t in times_s)}"


def _as_text(name: str, value: str | None) -> str | None:
    """A command line of another encoding leaves bytes that are no characters."""
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        found = error.object[error.start : error.end].encode("utf-8", "surrogateescape")
        return f"{name} must be UTF-8 text, found {found!r} as character {error.start + 1}"
    return None


def _at_least(name: str, value: float | None, least: float) -> str | None:
    if value is None or value >= least:
        return None
    return f"{name} must be at least {least:g}, found {value:g}"
