"""What a page says of several models on several sets."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from distilwhisper.evaluation.comparison import Average, Comparison, WorstUtterance
from distilwhisper.evaluation.table import rate_name
from distilwhisper.report.comparison_figures import figures, noise_plots, speed_plot
from distilwhisper.report.facts import ComparisonFacts, percent
from distilwhisper.report.html import Html, folded, note, sound, table, tag, word_diff
from distilwhisper.report.results import (
    ERRORS,
    KINDS_NOTE,
    MEAN,
    bounds,
    diff_note,
    differences_note,
    differences_table,
    error_kinds_table,
    errors_name,
    failures,
    in_words,
    is_against,
    mean_rate,
    n_parameters_of,
    plain_sound,
    points,
    rates_note,
    rates_table,
    rtfx_of,
    seen_from,
    sound_name,
    speed_table,
    unit_of,
)

MAX_WORDS = 300  # of one utterance


def comparison_sections(facts: ComparisonFacts, folder: Path) -> list[Html]:
    """Return all that a page says of a comparison.

    Args:
        facts: of it.
        folder: that the page is in.
    """
    comparison, noise = facts.comparison, plain_sound(facts.comparison)
    return [
        tag("h1", _title(comparison)),
        tag("p", ", ".join(comparison.sets), class_="muted"),
        tag("p", _headline(comparison), class_="headline"),
        tag("h2", "Error rates"),
        rates_table(comparison, noise),
        rates_note(comparison),
        differences_table(comparison, noise),
        differences_note(comparison),
        tag("h2", "Speed"),
        speed_table(comparison),
        speed_plot(comparison),
        tag("h2", "Kinds of errors"),
        error_kinds_table(comparison, noise, comparison.sets),
        note(KINDS_NOTE),
        failures(comparison),
        *_under_noise(comparison),
        tag("h2", "Worst utterances"),
        *_worst(facts, folder),
    ]


def _title(comparison: Comparison) -> str:
    names = comparison.models
    if len(names) == 1:
        return names[0]
    if comparison.baseline is None:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    others = [name for name in names if name != comparison.baseline]
    return f"{', '.join(others)} against {comparison.baseline}"


def _headline(comparison: Comparison) -> str:
    """Return the result in a sentence or a few, of the sound as it is where it was heard."""
    noise = plain_sound(comparison)
    averages = [a for a in comparison.averages if a.noise == noise and a.wer is not None]
    if not averages:
        return "No set has references, so that no errors are counted."
    where = f"{_over_sets(comparison)}{'' if noise is None else f' with {noise}'}"
    if is_against(comparison):
        baseline = next(a for a in averages if a.model == comparison.baseline)
        others = sorted((a for a in averages if a is not baseline), key=lambda a: a.wer or 0.0)
        shown = others if len(others) <= 2 else others[:1]
        told = [_against(comparison, average, baseline) for average in shown]
        if len(shown) < len(others):
            rates = f"{percent(others[1].wer)} to {percent(others[-1].wer)}"
            told.append(f"{len(others) - 1} others make {rates}")
        return f"{where[0].upper()}{where[1:]}: {'; '.join(told)}."
    best = min(averages, key=lambda average: average.wer or 0.0)
    rate = f"{percent(best.wer)} {bounds(best.low, best.high)} {errors_name(comparison)}"
    if len(averages) == 1:
        return f"{best.model} makes {rate} {where}."
    fastest = max(averages, key=lambda average: rtfx_of(comparison, average.model, noise))
    return (
        f"Of {len(averages)} models {best.model} makes the fewest errors, {rate} {where}; "
        f"{fastest.model} is the fastest, {rtfx_of(comparison, fastest.model, noise):.1f} seconds "
        "of audio per second."
    )


def _against(comparison: Comparison, average: Average, baseline: Average) -> str:
    noise = average.noise
    found = next(
        row
        for row in comparison.differences
        if (row.model, row.noise, row.set) == (average.model, noise, None)
    )
    ours, theirs = (rtfx_of(comparison, each.model, noise) for each in (average, baseline))
    size, of = (n_parameters_of(comparison, each.model) for each in (average, baseline))
    return (
        f"{average.model} makes {percent(average.wer)} {errors_name(comparison)}, {baseline.model} "
        f"{percent(baseline.wer)}, {points(found)} {bounds(found.low, found.high, sign='+')} "
        f"({in_words(comparison, found)}), with {100 * size / of:.0f} % of the parameters"
        + (f" at {ours / theirs:.2f} times the speed" if theirs else "")
    )


def _over_sets(comparison: Comparison) -> str:
    """Name the set that has references, or say how many have."""
    sets = list(dict.fromkeys(cell.set for cell in comparison.cells if cell.wer is not None))
    return f"on {sets[0]}" if len(sets) == 1 else f"in the mean over {len(sets)} sets"


def _under_noise(comparison: Comparison) -> Iterator[Html]:
    """Tell of every sound: the means over the sets together, and more of each when asked."""
    if len(comparison.noises) < 2:
        return
    yield tag("h2", "Under noise")
    plots = noise_plots(comparison)
    if plots:
        clean = " Dotted: the sound as it is." if None in comparison.noises else ""
        yield figures(plots, f"The mean over the sets, shaded its interval.{clean}")
    rows = [
        [sound_name(noise), *(mean_rate(comparison, model, noise) for model in comparison.models)]
        for noise in comparison.noises
    ]
    yield table([f"{rate_name(comparison)}, {MEAN}", *comparison.models], rows)
    for noise in comparison.noises:
        if noise == plain_sound(comparison):
            continue
        yield folded(
            f"More of {sound_name(noise)}",
            rates_table(comparison, noise),
            differences_table(comparison, noise),
            error_kinds_table(comparison, noise, comparison.sets),
            prints=False,
        )


def _worst(facts: ComparisonFacts, folder: Path) -> Iterator[Html]:
    comparison = facts.comparison
    yield diff_note()
    by_cell = groupby(comparison.worst, key=lambda row: (row.model, row.set, row.noise))
    for (model, set_, noise), rows in by_cell:
        pairs = [_pair(comparison, row, facts.folder, folder) for row in rows]
        name = ", ".join(filter(None, (model, set_, noise)))
        yield folded(f"{name}: the {len(pairs)} with the most errors", *pairs, prints=noise is None)


def _pair(comparison: Comparison, row: WorstUtterance, of: Path, folder: Path) -> Html:
    unit = unit_of(comparison, row.set)
    heard = word_diff(
        row.reference, row.hypothesis, in_characters=unit == "character", at_most=MAX_WORDS
    )
    errors = sum(row.errors[kind] for kind in ERRORS)
    audio = seen_from(folder, of, row.audio)
    return tag(
        "div",
        tag(
            "div",
            f"{row.id}: {errors} errors, {row.errors['words']} {unit}s, ",
            sound(audio, row.start_s, row.duration_s),
            class_="muted",
        ),
        tag("div", heard),
        class_="pair",
    )
