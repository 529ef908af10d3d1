"""The errors of stored hypotheses: of each utterance, and their sums over a set.

Scoring reads what decoding has written and nothing else, so a new metric needs no new decoding.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distilwhisper.corpus.records import Manifest, Utterance, audio_from
from distilwhisper.corpus.store import write_jsonl
from distilwhisper.decoding.slots import Counts
from distilwhisper.run.files import write_json
from distilwhisper.tables import percent
from distilwhisper.text.normalize import scoring_rule
from distilwhisper.text.wer import ErrorCounts, character_errors, repeated_ngrams, text_errors

# What intervals are drawn over.
OVER = (
    "over recordings (else speakers, else files); of a single one over its utterances, and then it "
    "holds for that one alone"
)

RATES = ("wer", "ser", "der", "ier")  # of ErrorCounts
COST = ("tokens", "row_steps", "drafted", "accepted")  # of decoding: Counts


@dataclass(frozen=True)
class EvaluationSummary:
    """Sums over a whole set."""

    n_utterances: int
    n_without_reference: int  # transcribed, not scored
    failed: dict[str, str]  # utterance id to what went wrong; scored as an empty transcript
    audio_s: float
    compute_s: float  # mel, encoder and decoder; reading the files is left out
    tokens: int  # decoded, over all attempts
    row_steps: int  # passes of the decoder that a window took part in, summed over the windows
    drafted: int  # tokens proposed by a draft
    accepted: int  # of these
    n_parameters: int
    unit: str  # "word"; "character" where any language of the set is written without spaces
    errors: ErrorCounts
    character_errors: ErrorCounts  # of the same texts; white space does not count
    whisper_errors: ErrorCounts  # in the same unit, by Whisper's own normaliser
    repeated_5_grams: int  # over all hypotheses joined

    @property
    def cost(self) -> Counts:
        """What decoding cost, with its rates; passes over several windows are not known."""
        return Counts(**{name: getattr(self, name) for name in COST})

    @property
    def rtfx(self) -> float:
        """Seconds of audio per second of computing."""
        return self.audio_s / self.compute_s if self.compute_s else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds: the sums, and the rates made of them."""
        counts = self.errors
        return {
            **asdict(self),
            **{of: getattr(counts, of) if counts.words else None for of in RATES},
            "cer": self.character_errors.rate,
            "wer_whisper_normalizer": self.whisper_errors.rate,
            "acceptance": self.cost.acceptance if self.drafted else None,
            "tokens_per_step": self.cost.tokens_per_step if self.row_steps else None,
            "rtfx": round(self.rtfx, 2),
        }


def score(
    manifest: Manifest,
    rows: Sequence[Mapping[str, Any]],
    timing: Sequence[Mapping[str, float]],
    out: Path,
    *,
    n_parameters: int,
) -> EvaluationSummary:
    """Count the errors of stored hypotheses and write scores.jsonl and summary.json.

    There is a row for the hypothesis of every utterance, and for every shard what decoding it took.
    """
    by_id = {utterance.id: utterance for utterance in manifest.utterances}
    texts = [(by_id[row["id"]], row["text"]) for row in rows if by_id[row["id"]].text is not None]
    spaced = are_spaced(utterance for utterance, _ in texts)
    scores = [
        {
            **count_errors(utterance, text, spaced=spaced),
            "audio": audio_from(out, manifest.audio_source(utterance)),
            "start_s": utterance.start_s,
            "duration_s": utterance.duration_s,
        }
        for utterance, text in texts
    ]
    sums: dict[str, Any] = {name: int(sum(t[name] for t in timing)) for name in COST}
    for kind in ("errors", "character_errors", "whisper_errors"):
        sums[kind] = sum((ErrorCounts(**row[kind]) for row in scores), ErrorCounts())
    summary = EvaluationSummary(
        n_utterances=len(rows),
        n_without_reference=len(rows) - len(scores),
        failed={row["id"]: row["error"] for row in rows if row["error"]},
        audio_s=round(sum(t["audio_s"] for t in timing), 3),
        compute_s=round(sum(t["compute_s"] for t in timing), 3),
        n_parameters=n_parameters,
        unit="word" if spaced else "character",
        repeated_5_grams=repeated_ngrams(row["hypothesis"] for row in scores),
        **sums,
    )
    write_jsonl(out / "scores.jsonl", scores)
    write_json(out / "summary.json", summary.to_dict())
    return summary


def are_spaced(utterances: Iterable[Utterance]) -> bool:
    """Return whether a set is counted in words: all of it is written with spaces between them."""
    return all(scoring_rule(u.text, u.language).spaced for u in utterances)


def count_errors(utterance: Utterance, text: str, *, spaced: bool) -> dict[str, Any]:
    """Normalise reference and hypothesis alike and count words, or characters.

    ``whisper_errors`` are counted after Whisper's own rules, as public leaderboards count. Within a
    group, the recording (else the speaker, else the file), errors are not independent.
    """
    rule = scoring_rule(utterance.text, utterance.language)
    reference, hypothesis = rule.normalize(utterance.text or ""), rule.normalize(text)
    by_whisper = rule.whisper_normalize(utterance.text or ""), rule.whisper_normalize(text)
    return {
        "id": utterance.id,
        "reference": reference,
        "hypothesis": hypothesis,
        "errors": asdict(text_errors(reference, hypothesis, spaced=spaced)),
        "character_errors": asdict(character_errors(reference, hypothesis)),
        "whisper_errors": asdict(text_errors(*by_whisper, spaced=spaced)),
        "group": _group(utterance),
    }


def _group(utterance: Utterance) -> str:
    if utterance.recording is not None:
        return f"recording {utterance.recording}"
    if utterance.speaker is not None:  # whose name is unique within a source
        return f"speaker {utterance.source or ''}/{utterance.speaker}"
    return f"file {utterance.audio}"


def drawn_over(groups: Sequence[str]) -> str:
    """Return in words how many recordings, speakers or files are the groups of some utterances."""
    if not groups:
        return "no references"
    kinds, n_groups = sorted({group.split(" ")[0] for group in groups}), len(set(groups))
    if n_groups == 1:
        return f"one {kinds[0]}"
    return f"{n_groups} {' and '.join(f'{kind}s' for kind in kinds)}"


def drawn_sentence(over: Mapping[str, str]) -> str:
    """Return a sentence of what :func:`drawn_over` returns for each set, by name."""
    return f"Drawn: {'; '.join(f'of {name} {groups}' for name, groups in over.items())}."


def summary_line(name: str, summary: EvaluationSummary) -> str:
    """Return a result in one line, for people."""
    counts, by_whisper, cost = summary.errors, summary.whisper_errors, summary.cost
    line = (
        f"{name}: {'WER' if summary.unit == 'word' else 'CER'} "
        f"{percent(counts.rate, none='no references')} ({counts.substitutions} S, "
        f"{counts.deletions} D, {counts.insertions} I of {counts.words}"
    )
    if by_whisper.words and by_whisper != counts:
        line += f"; {percent(by_whisper.rate)} by Whisper's normaliser"
    line += (
        f"), {summary.n_utterances} utterances, RTFx {summary.rtfx:.1f}, "
        f"{summary.n_parameters / 1e6:.1f} M parameters"
    )
    if summary.drafted:
        share = percent(cost.acceptance, digits=0)
        line += f", {share} of the draft accepted, {cost.tokens_per_step:.1f} tokens a step"
    return line
