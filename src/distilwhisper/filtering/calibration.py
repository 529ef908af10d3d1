"""How well the gates that need no reference find bad labels, measured on labels with one."""

import math
from dataclasses import dataclass

import numpy as np

from distilwhisper.filtering.gates import GATES, Gate, above_wer
from distilwhisper.filtering.measures import Flags, Floats, Measures
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.tables import percent, titled_tables

GOOD_KEPT = 0.9  # share of the good labels that a limit must keep to be suggested
_HEAD = ("precision", "recall", "good kept")


@dataclass(frozen=True)
class Score:
    """What a gate does at one limit."""

    limit: float | None  # at which a label is still kept; None for several gates together
    precision: float | None  # share of the labels that it drops that are bad; None if it drops none
    recall: float  # share of the bad labels that it drops
    good_kept: float  # share of the good labels that it keeps


@dataclass(frozen=True)
class GateScore:
    """One gate, or all of them together."""

    gate: str  # name of its setting, or "all"
    n_known: int  # labels that its measure is known of
    at_limit: Score | None  # at the limit that is set; None where none is
    # At the strictest limit that keeps ``GOOD_KEPT`` of the good labels; None where that
    # catches no more bad ones than chance would
    suggested: Score | None


@dataclass(frozen=True)
class Calibration:
    """All gates against the word error rate.

    Limits are suggested by one half of the labels that have a reference, and all scores are those
    of the other half. A digest of its id decides which half a label is in.
    """

    n_good: int  # labels of the scored half whose errors are within the limit
    n_bad: int  # those whose errors are not
    # Those whose measure is known of any of these labels, and then all together
    gates: tuple[GateScore, ...]
    n_made_from: int  # labels of the half that limits are suggested by

    def __str__(self) -> str:
        n = self.n_good + self.n_bad
        head = ["", "as set: limit", *_HEAD, "suggested:", *_HEAD]
        rows = [[g.gate, *_cells(g.at_limit), *_cells(g.suggested)] for g in self.gates]
        title = (
            f"gates without a reference, against the errors of {n} labels that have one, "
            f"{self.n_bad} of them bad ({percent(self.n_bad / n)});\n"
            f"  limits are suggested by {self.n_made_from} others"
        )
        return "\n".join(titled_tables({title: [head, *rows]}))


def _cells(score: Score | None) -> list[str]:
    if score is None:
        return ["-"] * 4
    limit = "" if score.limit is None else f"{score.limit:g}"
    shares = (score.precision, score.recall, score.good_kept)
    return [limit, *(percent(share, none="-") for share in shares)]


def calibrate(measures: Measures, settings: FilterSettings) -> Calibration | None:
    """Compare each gate's verdict with that of the word error rate.

    Labels that are dropped in any case (failed, cut off, empty or in capitals) are not compared.
    None if one of the halves has no good label or no bad one.
    """
    rows = measures.rows
    fixed = ~rows["finished"] | rows["empty_reference"] | rows["empty_label"] | rows["all_capitals"]
    compared = measures.judged & ~fixed
    above = above_wer(measures, settings)
    fitting, scoring = compared & ~rows["held_out"], compared & rows["held_out"]
    if any(above[half].all() or not above[half].any() for half in (fitting, scoring)):
        return None
    bad = above[scoring]
    scores: list[GateScore] = []
    dropped = np.zeros((2, len(bad)), dtype=bool)  # under the limits as set, and as suggested
    for gate in GATES:
        of_fitting, values = (gate.values(measures)[half] for half in (fitting, scoring))
        n_known = int(np.count_nonzero(~np.isnan(values)))
        if n_known:
            limits = getattr(settings, gate.setting), suggest(gate, of_fitting, above[fitting])
            dropped |= [gate.beyond(values, limit) for limit in limits]
            both = (score_at(gate, limit, values, bad) for limit in limits)
            scores.append(GateScore(gate.setting, n_known, *both))
    together = GateScore("all together", len(bad), *(_score(flags, bad) for flags in dropped))
    n_bad = int(np.count_nonzero(bad))
    return Calibration(len(bad) - n_bad, n_bad, (*scores, together), int(np.count_nonzero(fitting)))


def suggest(gate: Gate, values: Floats, bad: Flags) -> float | None:
    """Return the strictest limit on values, of labels bad or good, that keeps enough of the good.

    nan is beyond no limit. None where what the limit drops is no worse than all labels are.
    """
    sign = 1 if gate.is_maximum else -1
    good = np.sort(sign * values[~bad])  # nan comes last, where nothing is dropped
    edge = sign * float(good[math.ceil(GOOD_KEPT * len(good)) - 1])
    if not math.isfinite(edge):
        return None
    limit = _round_outwards(edge, up=gate.is_maximum)
    precision = _score(gate.beyond(values, limit), bad).precision
    better = precision is not None and precision > np.count_nonzero(bad) / len(bad)
    return limit if better else None


def score_at(gate: Gate, limit: float | None, values: Floats, bad: Flags) -> Score | None:
    """Return what a gate does at a limit, if there is one; arguments as in :func:`suggest`."""
    return None if limit is None else _score(gate.beyond(values, limit), bad, limit)


def _score(dropped: Flags, bad: Flags, limit: float | None = None) -> Score:
    n_dropped, n_bad = np.count_nonzero(dropped), np.count_nonzero(bad)
    n_caught = np.count_nonzero(dropped & bad)
    return Score(
        limit=limit,
        precision=float(n_caught / n_dropped) if n_dropped else None,
        recall=float(n_caught / n_bad),
        good_kept=float(1 - (n_dropped - n_caught) / (len(bad) - n_bad)),
    )


def _round_outwards(value: float, *, up: bool) -> float:
    """Round to three digits that a person can type, to the side on which more is kept."""
    if value == 0:
        return 0.0
    digits = 2 - math.floor(math.log10(abs(value)))
    scaled = value * 10.0**digits
    return round((math.ceil(scaled) if up else math.floor(scaled)) / 10.0**digits, digits)
