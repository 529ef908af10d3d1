"""Tables of error rates, differences and speed, and what is said of them in words."""

import os
from collections.abc import Sequence
from pathlib import Path

from distilwhisper.corpus.records import audio_from
from distilwhisper.evaluation.bootstrap import FEW_RECORDINGS
from distilwhisper.evaluation.comparison import Average, Cell, Comparison, Difference
from distilwhisper.evaluation.scoring import OVER, drawn_sentence
from distilwhisper.evaluation.table import SIGNIFICANT, are_few
from distilwhisper.report.facts import percent
from distilwhisper.report.html import NOTHING, Html, folded, join, note, table, tag, words

KINDS_NOTE = (
    "SER, DER, IER: substitutions, deletions and insertions over reference words. CER: errors in "
    "characters. 5-Dup: five words in a row that came before in the set, which counts loops; "
    "compare it on one set only. Failed: could not be read, and counts as if nothing was heard."
)
ERRORS = ("substitutions", "deletions", "insertions")
MEAN = "mean over the sets"

# In words


def points(found: Difference) -> str:
    """Return a difference between rates in words."""
    if found.difference is None:
        return "no difference known"
    return (
        f"{100 * abs(found.difference):.1f} points {'more' if found.difference > 0 else 'fewer'}"
        if found.difference
        else "as many"
    )


def in_words(comparison: Comparison, found: Difference) -> str:
    """Return how far a difference is to be trusted."""
    if found.difference is None:
        return "no references"
    where = "a set has " if found.set is None else ""
    if found.p is None:
        return f"{where}a single utterance: nothing can be told"
    if are_few(comparison, found.set):
        return f"{where}fewer than {FEW_RECORDINGS} recordings: too few to tell"
    if found.p >= SIGNIFICANT:
        return "no significant difference"
    return f"significantly {'more' if found.difference > 0 else 'fewer'} errors"


def errors_name(comparison: Comparison) -> str:
    """Return what is counted: word errors, character errors, or both."""
    units = {cell.unit for cell in comparison.cells}
    return "errors" if len(units) > 1 else f"{units.pop()} errors"


def _set_name(comparison: Comparison, set_: str) -> str:
    return f"{set_}, in characters" if unit_of(comparison, set_) == "character" else set_


def diff_note() -> Html:
    """Say how errors are marked."""
    return note(
        "Normalised text. ",
        tag("del", "Struck"),
        ": in the reference but not heard; ",
        tag("ins", "underlined"),
        ": heard but not in the reference.",
    )


def seen_from(folder: Path, of: Path, audio: str) -> str:
    """Return where a sound is that is named from one folder, seen from another.

    Args:
        folder: that the page is in.
        of: the folder that the name is relative to.
        audio: a path, ``shard.tar#member``, or a URL.
    """
    if "://" in audio:
        return audio
    return audio_from(folder, os.path.join(of.resolve(), audio))  # noqa: PTH118  as in a manifest


# Tables


def rates_table(comparison: Comparison, noise: str | None, *, mean: bool = True) -> Html:
    """Return every model's error rate on every set.

    Args:
        comparison: the figures.
        noise: with this.
        mean: show the mean over the sets, where there are several.
    """
    head = ["model", *(_set_name(comparison, set_) for set_ in comparison.sets)]
    rows = [
        [
            model,
            *(
                rate_cell(cell.wer, cell.wer_low, cell.wer_high)
                for cell in cells_of(comparison, model, noise)
            ),
        ]
        for model in comparison.models
    ]
    if mean and len(comparison.sets) > 1:
        head.append(MEAN)
        for row in rows:
            row.append(mean_rate(comparison, row[0], noise))
    return table(head, rows)


def rates_note(comparison: Comparison) -> Html:
    """Say how error rates come about."""
    how = comparison.resampling
    limits = f" {drawn_sentence({cell.set: cell.drawn_over for cell in comparison.cells})}"
    if are_few(comparison):
        limits += f" With fewer than {FEW_RECORDINGS} the bounds lie too close together."
    return note(
        "Substitutions, deletions and insertions over the words of the references, summed over a "
        "set, after Whisper's normaliser on both sides. In brackets the interval that holds "
        f"{100 * how.level:g} % of {how.n:,} draws {OVER}.{limits}"
    )


def differences_table(comparison: Comparison, noise: str | None, *, mean: bool = True) -> Html:
    """Return how every model differs from the baseline, and how sure that is.

    Args:
        comparison: the figures.
        noise: with this.
        mean: say it of the mean over the sets too, where there are several.
    """
    if not is_against(comparison):
        return join([])
    mean = mean and len(comparison.sets) > 1
    rows = [
        [
            _of_set(found.model, found.set or MEAN),
            rate_cell(found.difference, found.low, found.high, sign="+", unit=""),
            NOTHING if found.p is None else f"{found.p:.4f}",
            words(in_words(comparison, found)),
        ]
        for found in comparison.differences
        if found.noise == noise and (found.set is not None or mean)
    ]
    return join(
        [
            tag("h3", f"Against {comparison.baseline}"),
            table(["model, set", "points", "p", "that is"], rows),
        ]
    )


def differences_note(comparison: Comparison) -> Html:
    """Say how differences are meant, where there are any."""
    if not is_against(comparison):
        return join([])
    return note(
        f"Points: per cent of the words, the model's less those of {comparison.baseline}, on the "
        "same draws of recordings. p, of two sides: how often chance alone gives as much. Below "
        f"{SIGNIFICANT:g} it is called significant, for each comparison alone."
    )


def is_against(comparison: Comparison) -> bool:
    """Tell whether models are compared with one of them."""
    return comparison.baseline is not None and len(comparison.models) > 1


def speed_table(comparison: Comparison) -> Html:
    """Return what every model costs, over all sets together."""
    noise, against = plain_sound(comparison), comparison.baseline or comparison.models[0]
    of, theirs = n_parameters_of(comparison, against), rtfx_of(comparison, against, noise)
    is_drafted = any(cell.acceptance is not None for cell in comparison.cells)
    head = ["model", "parameters / M", "audio / min", "computing / s", "RTFx"]
    head += ["draft accepted"] if is_drafted else []
    head += [f"parameters of {against}'s", "relative speed"] if len(comparison.models) > 1 else []
    rows = []
    for model in comparison.models:
        cells = cells_of(comparison, model, noise)
        size, rtfx = n_parameters_of(comparison, model), rtfx_of(comparison, model, noise)
        accepted = [percent(cell.acceptance) for cell in cells if cell.acceptance is not None]
        row = [
            model,
            f"{size / 1e6:.1f}",
            f"{sum(cell.audio_s for cell in cells) / 60:.1f}",
            f"{sum(cell.compute_s for cell in cells):.1f}",
            f"{rtfx:.1f}",
        ]
        row += [", ".join(accepted) or NOTHING] if is_drafted else []
        ratios = [f"{100 * size / of:.0f} %", f"{rtfx / theirs:.2f}" if theirs else NOTHING]
        rows.append(row + ratios if len(comparison.models) > 1 else row)
    told = note(
        "RTFx: seconds of audio per second of computing (mel, encoder, decoder; after a warm-up; "
        "reading files left out), over all sets together. Measured once, one model after the "
        "other: on a shared machine it drifts by tens of per cent."
    )
    return join([table(head, rows), told])


def error_kinds_table(comparison: Comparison, noise: str | None, sets: Sequence[str]) -> Html:
    """Return the errors by kind, and repetitions.

    Args:
        comparison: the figures.
        noise: with this.
        sets: of which to tell.
    """
    rows = [
        [
            _of_set(cell.model, cell.set),
            f"{cell.n_utterances:,}",
            f"{cell.errors['words']:,}",
            *(f"{cell.errors[kind]:,}" for kind in ERRORS),
            *(_in_percent(rate) for rate in (cell.ser, cell.der, cell.ier, cell.cer)),
            f"{cell.repeated_5_grams:,}",
            f"{len(cell.failed):,}",
        ]
        for cell in comparison.cells
        if cell.noise == noise and cell.set in sets
    ]
    head = [
        "model, set", "utterances", "words", "subst.", "del.", "ins.", "SER %", "DER %", "IER %",
        "CER %", "5-Dup", "failed",
    ]  # fmt: skip
    return table(head, rows)


def failures(comparison: Comparison) -> Html:
    """Name every utterance that could not be read."""
    if not comparison.failed:
        return join([])
    items = (tag("li", f"{name}: {problem}") for name, problem in comparison.failed.items())
    return folded(f"{len(comparison.failed)} utterances could not be read", tag("ul", *items))


# Looking things up


def plain_sound(comparison: Comparison) -> str | None:
    """Return what the models are judged by first: the sound as it is, or else the first noise."""
    return None if None in comparison.noises else comparison.noises[0]


def sound_name(noise: str | None) -> str:
    """Call a sound as people do."""
    return "as it is" if noise is None else noise


def cells_of(comparison: Comparison, model: str, noise: str | None) -> list[Cell]:
    """Return what a model did on every set."""
    return [cell for cell in comparison.cells if (cell.model, cell.noise) == (model, noise)]


def average_of(comparison: Comparison, model: str, noise: str | None) -> Average:
    """Return a model's mean over the sets."""
    return next(a for a in comparison.averages if (a.model, a.noise) == (model, noise))


def mean_rate(comparison: Comparison, model: str, noise: str | None) -> Html:
    """Return a model's mean over the sets, to be shown."""
    average = average_of(comparison, model, noise)
    return rate_cell(average.wer, average.low, average.high)


def n_parameters_of(comparison: Comparison, model: str) -> int:
    """Return a model's size."""
    return next(cell.n_parameters for cell in comparison.cells if cell.model == model)


def unit_of(comparison: Comparison, set_: str) -> str:
    """Return what is counted in a set."""
    return next(cell.unit for cell in comparison.cells if cell.set == set_)


def rtfx_of(comparison: Comparison, model: str, noise: str | None) -> float:
    """Return a model's seconds of audio per second of computing, over all sets together."""
    cells = cells_of(comparison, model, noise)
    compute_s = sum(cell.compute_s for cell in cells)
    return sum(cell.audio_s for cell in cells) / compute_s if compute_s else 0.0


# Numbers


def rate_cell(
    rate: float | None, low: float | None, high: float | None, *, sign: str = "", unit: str = " %"
) -> Html:
    """Return a rate with its interval below it, in per cent.

    Args:
        rate: a fraction.
        low: the lower bound.
        high: the upper bound.
        sign: + to show that of a difference.
        unit: behind the number.
    """
    if rate is None:
        return join([NOTHING])
    value = tag("b", f"{100 * rate:{sign}.1f}{unit}")
    interval = bounds(low, high, sign=sign)
    return join([value, tag("small", interval)]) if interval else value


def bounds(low: float | None, high: float | None, *, sign: str = "") -> str:
    """Return an interval in per cent; nothing where there is none."""
    if low is None or high is None:
        return ""
    return f"[{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def _of_set(model: str, set_: str) -> Html:
    return join([model, tag("small", set_)])


def _in_percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"
