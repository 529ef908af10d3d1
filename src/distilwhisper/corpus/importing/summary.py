"""What an import finds, counted as it goes by."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from distilwhisper.corpus.importing.entries import Problem
from distilwhisper.corpus.records import Utterance
from distilwhisper.speech.audio import AudioFacts
from distilwhisper.speech.units import WINDOW_S

BIN_S = 5
_N_BINS = int(WINDOW_S) // BIN_S
_BINS = *(f"  {BIN_S * i} to {BIN_S * (i + 1)} s" for i in range(_N_BINS)), f"  over {WINDOW_S:g} s"
_BAR = 30  # characters of the fullest bin
_COUNTS = ("n_cut", "n_texts_lost", "n_left_out", "n_same_audio", "n_same_text")
_N_NAMED = 10  # of sources and languages, in the table


@dataclass
class ImportSummary:
    """What an import finds; of each utterance it keeps a length and three hashes."""

    n_with_text: int = 0  # utterances that have a reference
    n_cut: int = 0  # long recordings that were cut into pieces
    n_texts_lost: int = 0  # of these, how many had a text
    n_left_out: int = 0  # longer than they may be
    n_same_audio: int = 0  # utterances whose audio an earlier one has, by the bytes of the file
    n_same_text: int = 0  # utterances whose text and length an earlier one has
    languages: Counter[str] = field(default_factory=Counter)  # utterances by language
    seconds_of: dict[str, float] = field(default_factory=dict)  # audio by source
    # Utterances by the rate of their files, in Hz
    sample_rates: Counter[int] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)  # what could not be used
    seconds: float = 0.0  # of audio
    _lengths: "array[float]" = field(default_factory=lambda: array("d"))
    _hashes: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # by kind

    def knows(self, id_: str) -> bool:
        """Whether an utterance of this id has been counted."""
        return hash(id_) in self._hashes["id"]

    def _is_new(self, kind: str, what: str) -> bool:
        """Keep a 64-bit hash, and return whether it is the first of its kind.

        That two of ten million texts share one is less likely than 1 in 100,000.
        """
        n_before = len(self._hashes[kind])
        self._hashes[kind].add(hash(what))
        return len(self._hashes[kind]) > n_before

    def add(self, utterance: Utterance, facts: AudioFacts) -> None:
        """Count an utterance, which has a duration."""
        length_s, source = utterance.duration_s or 0.0, utterance.source
        self.seconds += length_s
        self._lengths.append(length_s)
        self._is_new("id", utterance.id)
        span = f"{utterance.start_s} {length_s} {utterance.channel}"
        self.n_same_audio += not self._is_new("sound", f"{facts.digest.hex()} {span}")
        if utterance.text is not None:
            self.n_with_text += 1
            self.n_same_text += not self._is_new("text", f"{length_s:.3f} {utterance.text}")
        if utterance.speaker is not None:
            self._is_new("speaker", utterance.speaker)
        if utterance.language is not None:
            self.languages[utterance.language] += 1
        if source is not None:
            self.seconds_of[source] = self.seconds_of.get(source, 0.0) + length_s
        self.sample_rates[facts.sample_rate_hz] += 1

    @property
    def n_utterances(self) -> int:
        """Lines of the manifest."""
        return len(self._lengths)

    @property
    def n_by_length(self) -> list[int]:
        """Utterances of each 5 s up to 30 s, each with its upper end, and of all longer ones."""
        bins = Counter(min(max(-int(-s // BIN_S) - 1, 0), _N_BINS) for s in self._lengths)
        return [bins[number] for number in range(_N_BINS + 1)]

    @property
    def lengths_s(self) -> tuple[float, float, float]:
        """Length of the shortest utterance, the middle one and the longest; 0 if there is none."""
        all_s = self._lengths or array("d", [0.0])
        return round(min(all_s), 3), round(median(all_s), 3), round(max(all_s), 3)

    @property
    def failed(self) -> dict[str, str]:
        """What could not be used, by place."""
        failed: dict[str, str] = {}
        for where, _, message in self.problems:
            failed[where] = f"{failed[where]}; {message}" if where in failed else message
        return failed

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON can hold it; problems are counted by kind."""
        by_source = Counter(self.seconds_of).most_common()
        return {
            "n_utterances": self.n_utterances,
            "n_with_text": self.n_with_text,
            "n_speakers": len(self._hashes["speaker"]),
            "hours": self.seconds / 3600,
            **dict(zip(("min_s", "median_s", "max_s"), self.lengths_s, strict=True)),
            "n_by_length": self.n_by_length,
            **{name: getattr(self, name) for name in _COUNTS},
            "languages": dict(self.languages.most_common()),
            "sources": {source: seconds / 3600 for source, seconds in by_source},
            "sample_rates": dict(self.sample_rates.most_common()),
            "problems": dict(Counter(problem.kind for problem in self.problems).most_common()),
        }

    def __str__(self) -> str:
        return (
            f"{self.n_utterances} utterances, {self.seconds / 3600:.2f} h ({self._range()}); "
            f"{self.n_with_text} with text, {self.n_utterances - self.n_with_text} without; "
            f"{len(self.problems)} problems"
        )

    def _range(self) -> str:
        low_s, middle_s, high_s = self.lengths_s
        return f"{low_s:.2f} to {high_s:.2f} s, median {middle_s:.2f} s"

    def table(self) -> str:
        """Return the summary for a person to read."""
        summary, n_long = self.to_dict(), self.n_by_length[-1]
        hours = {source: round(hours, 2) for source, hours in summary["sources"].items()}
        texts = f", {self.n_texts_lost} of them without the text they had"
        fullest = max(self.n_by_length) or 1
        lines = {
            "utterances": f"{self.n_utterances}, {self.n_with_text} with text",
            "hours": f"{summary['hours']:.2f}",
            "speakers": str(summary["n_speakers"] or "not named"),
            "languages": _shares(summary["languages"], "utterances"),
            "sources": _shares(hours, "h"),
            "sample rates": _shares({f"{k} Hz": n for k, n in summary["sample_rates"].items()}),
            "length": self._range(),
            **{
                name: f"{n:>9} {'#' * -(-_BAR * n // fullest)}"
                for name, n in zip(_BINS, self.n_by_length, strict=True)
            },
            "duplicates": f"{self.n_same_audio} of audio, {self.n_same_text} of text and length",
            "problems": _shares(summary["problems"]),
            "cut": self.n_cut and f"{self.n_cut} long recordings{texts * bool(self.n_texts_lost)}",
            "left out": self.n_left_out and f"{self.n_left_out} longer than --max-seconds",
            "too long": n_long and f"{n_long} over {WINDOW_S:.0f} s: see --cut, or --max-seconds",
        }
        return "\n".join(f"{name:<14}{value}".rstrip() for name, value in lines.items() if value)


def _shares(of: Mapping[str, float], unit: str = "") -> str:
    """Return names and numbers in a line, the first few of them."""
    named = [f"{name} {n:g} {unit}".rstrip() for name, n in list(of.items())[:_N_NAMED]]
    more = [f"and {len(of) - _N_NAMED} more"] if len(of) > _N_NAMED else []
    return ", ".join([*named, *more]) or "none"
