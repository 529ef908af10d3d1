"""What an import found, counted as it goes by."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from distilwhisper.corpus.importing.entries import Problem
from distilwhisper.corpus.records import Utterance
from distilwhisper.speech.audio import AudioFacts
from distilwhisper.speech.units import WINDOW_S

BIN_S = 5
_N_BINS = int(WINDOW_S) // BIN_S
_BAR = 30  # characters of the fullest bin
_N_NAMED = 10  # of sources and languages, in the table


@dataclass(frozen=True)
class ImportSummary:
    """What an import found.

    Attributes:
        n_utterances: lines of the manifest.
        n_with_text: those that have a reference.
        n_speakers: that are named.
        hours: of audio.
        min_s: length of the shortest utterance; 0 if there is none, as for the next two.
        median_s: middle length.
        max_s: length of the longest utterance.
        n_by_length: of each 5 s up to 30 s, and of all that are longer, which no window holds.
        n_cut: long recordings that were cut into pieces.
        n_texts_lost: of these, how many had a text.
        n_left_out: longer than they may be.
        n_same_audio: utterances whose audio an earlier one has, by the bytes of the file.
        n_same_text: utterances whose text and length an earlier one has.
        languages: utterances by language.
        sources: hours by source.
        sample_rates: utterances by the rate of their files, in Hz.
        problems: what could not be used.
    """

    n_utterances: int
    n_with_text: int
    n_speakers: int
    hours: float
    min_s: float
    median_s: float
    max_s: float
    n_by_length: tuple[int, ...]
    n_cut: int
    n_texts_lost: int
    n_left_out: int
    n_same_audio: int
    n_same_text: int
    languages: Mapping[str, int]
    sources: Mapping[str, float]
    sample_rates: Mapping[int, int]
    problems: tuple[Problem, ...]

    @property
    def n_without_text(self) -> int:
        """Utterances without a reference."""
        return self.n_utterances - self.n_with_text

    @property
    def failed(self) -> dict[str, str]:
        """What could not be used, by place."""
        failed: dict[str, str] = {}
        for where, _, message in self.problems:
            failed[where] = f"{failed[where]}; {message}" if where in failed else message
        return failed

    @property
    def n_by_kind(self) -> dict[str, int]:
        """Problems by kind, the commonest first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON can hold it; problems are counted by kind."""
        names = [name for name in self.__dataclass_fields__ if name != "problems"]
        return {
            **{name: getattr(self, name) for name in names},
            "problems": self.n_by_kind,
        }

    def __str__(self) -> str:
        return (
            f"{self.n_utterances} utterances, {self.hours:.2f} h "
            f"({self.min_s:.2f} to {self.max_s:.2f} s, median {self.median_s:.2f} s); "
            f"{self.n_with_text} with text, {self.n_without_text} without; "
            f"{len(self.problems)} problems"
        )

    def table(self) -> str:
        """Return the summary for a person to read."""
        lines = [
            ("utterances", f"{self.n_utterances}, {self.n_with_text} with text"),
            ("hours", f"{self.hours:.2f}"),
            ("speakers", str(self.n_speakers or "not named")),
            ("languages", _shares(self.languages, "utterances")),
            ("sources", _shares({k: round(v, 2) for k, v in self.sources.items()}, "h")),
            ("sample rates", _shares({f"{k} Hz": n for k, n in self.sample_rates.items()})),
            ("length", f"{self.min_s:.2f} to {self.max_s:.2f} s, median {self.median_s:.2f} s"),
            *self._histogram(),
            ("duplicates", f"{self.n_same_audio} of audio, {self.n_same_text} of text and length"),
            ("problems", _shares(self.n_by_kind)),
        ]
        if self.n_cut:
            texts = f", {self.n_texts_lost} of them without the text they had"
            lines.append(("cut", f"{self.n_cut} long recordings{texts * bool(self.n_texts_lost)}"))
        if self.n_left_out:
            lines.append(("left out", f"{self.n_left_out} longer than --max-seconds"))
        if self.n_by_length[-1]:
            lines.append(
                (
                    "too long",
                    f"{self.n_by_length[-1]} over {WINDOW_S:.0f} s: see --cut, or --max-seconds",
                )
            )
        return "\n".join(f"{name:<14}{value}".rstrip() for name, value in lines)

    def _histogram(self) -> list[tuple[str, str]]:
        names = [f"{BIN_S * i} to {BIN_S * (i + 1)} s" for i in range(_N_BINS)]
        names.append(f"over {WINDOW_S:.0f} s")
        fullest = max(self.n_by_length) or 1
        return [
            (f"  {name}", f"{n:>9} {'#' * -(-_BAR * n // fullest)}")
            for name, n in zip(names, self.n_by_length, strict=True)
        ]


class Tally:
    """Counts utterances one by one; of each it keeps a length and three short digests."""

    def __init__(self) -> None:
        self.n_cut = 0
        self.n_texts_lost = 0
        self.n_left_out = 0
        self.problems: list[Problem] = []
        self.seconds = 0.0
        self._lengths = array("f")
        self._n_with_text = 0
        self._n_by_length = [0] * (_N_BINS + 1)
        self._n_same_audio = 0
        self._n_same_text = 0
        self._ids: set[int] = set()
        self._sounds: set[int] = set()
        self._texts: set[int] = set()
        self._speakers: set[int] = set()
        self._languages: Counter[str] = Counter()
        self._seconds_of: Counter[str] = Counter()
        self._sample_rates: Counter[int] = Counter()

    @property
    def n_utterances(self) -> int:
        """How many have been counted."""
        return len(self._lengths)

    def knows(self, id_: str) -> bool:
        """Whether an utterance of this id has been counted."""
        return _digest(id_) in self._ids

    def add(self, utterance: Utterance, facts: AudioFacts) -> None:
        """Count an utterance, which has a duration."""
        length_s = utterance.duration_s or 0.0
        self.seconds += length_s
        self._lengths.append(length_s)
        self._n_by_length[_bin(length_s)] += 1
        self._ids.add(_digest(utterance.id))
        span = f"{utterance.start_s} {length_s} {utterance.channel}"
        self._n_same_audio += _seen(f"{facts.digest.hex()} {span}", self._sounds)
        if utterance.text is not None:
            self._n_with_text += 1
            self._n_same_text += _seen(f"{length_s:.3f} {utterance.text}", self._texts)
        if utterance.speaker is not None:
            self._speakers.add(_digest(utterance.speaker))
        if utterance.language is not None:
            self._languages[utterance.language] += 1
        if utterance.source is not None:
            self._seconds_of[utterance.source] += length_s  # type: ignore[assignment]
        self._sample_rates[facts.sample_rate_hz] += 1

    def summary(self) -> ImportSummary:
        """Return the sums."""
        lengths = self._lengths
        return ImportSummary(
            n_utterances=self.n_utterances,
            n_with_text=self._n_with_text,
            n_speakers=len(self._speakers),
            hours=self.seconds / 3600,
            min_s=round(min(lengths, default=0.0), 3),
            median_s=round(median(lengths), 3) if lengths else 0.0,
            max_s=round(max(lengths, default=0.0), 3),
            n_by_length=tuple(self._n_by_length),
            n_cut=self.n_cut,
            n_texts_lost=self.n_texts_lost,
            n_left_out=self.n_left_out,
            n_same_audio=self._n_same_audio,
            n_same_text=self._n_same_text,
            languages=dict(self._languages.most_common()),
            sources={k: s / 3600 for k, s in self._seconds_of.most_common()},
            sample_rates=dict(self._sample_rates.most_common()),
            problems=tuple(self.problems),
        )


def _bin(length_s: float) -> int:
    """Return the bin of a length; each holds its upper end."""
    return min(max(-int(-length_s // BIN_S) - 1, 0), _N_BINS)


def _seen(what: str, seen: set[int]) -> bool:
    digest = _digest(what)
    known = digest in seen
    seen.add(digest)
    return known


def _digest(text: str) -> int:
    """Return 64 bits for a text: ten million of them meet by chance once in a hundred thousand."""
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")


def _shares(of: Mapping[str, float], unit: str = "") -> str:
    """Return names and numbers in a line, the first few of them."""
    named = [f"{name} {n:g} {unit}".rstrip() for name, n in list(of.items())[:_N_NAMED]]
    more = [f"and {len(of) - _N_NAMED} more"] if len(of) > _N_NAMED else []
    return ", ".join([*named, *more]) or "none"
