from dataclasses import replace
from pathlib import Path

import pytest
from experiments.cells import EvalSet
from experiments.context import Context
from experiments.settings import TimingSettings
from experiments.timing import Timing, time_arms, timed_rows

from distilwhisper.decoding.slots import Counts


def test_speed_is_the_median_of_rounds_in_which_both_took_part() -> None:
    slow = Timing(10.0, (4.0, 8.0, 6.0), Counts(), {})
    fast = Timing(10.0, (2.0, 4.0, 1.0), Counts(), {})
    assert fast.speed_against(slow) == 2.0
    assert slow.speed_against(slow) == 1.0
    assert slow.rtf == 0.6
    assert slow.spread == 2.0


@pytest.mark.slow
def test_timed_texts_are_those_that_evaluation_hears(
    context: Context[TimingSettings], tmp_path: Path
) -> None:
    """Also on recordings longer than a window."""
    own = replace(context, folder=tmp_path)
    arms = [own.arm(own.teacher), own.arm(own.teacher, "one by one", batch_size=1)]
    sets = [own.short[0], *own.long]
    times = time_arms(own, arms, sets)
    evaluated = {
        (row.set, row.id): row.hypothesis
        for row in own.evaluate({"teacher": arms[0]}, sets)["teacher"].rows
    }
    for name, timing in times.items():
        rows = timed_rows(name, timing, sets)
        assert [(row.set, row.id) for row in rows] == [
            ("short-a", "short-a/000"), ("short-a", "short-a/001"), ("long", "long/000"),
        ]  # fmt: skip
        assert all(row.hypothesis == evaluated[row.set, row.id] for row in rows)
        assert timing.audio_s == pytest.approx(1.1 + 0.8 + 40.0)
        assert len(timing.seconds) == own.settings.rounds
        assert all(s > 0 for s in timing.seconds)
        assert timing.counts.tokens > 0


@pytest.mark.slow
def test_a_round_that_is_stored_is_not_run_again(
    context: Context[TimingSettings], tmp_path: Path
) -> None:
    own = replace(context, folder=tmp_path, settings=replace(context.settings, rounds=2))
    arms = [own.arm(own.teacher), own.arm(own.models[1])]
    before = time_arms(own, arms, own.short)
    stored = sorted((tmp_path / "results" / "timings").iterdir())
    assert len(stored) == own.settings.rounds
    assert time_arms(own, arms, own.short) == before
    stored[0].unlink()  # as if killed in that round
    after = time_arms(own, arms, own.short)
    kept = [a == b for a, b in zip(
        after["teacher"].seconds, before["teacher"].seconds, strict=True
    )]  # fmt: skip
    assert sorted(kept) == [False, True]
    # So is a manifest that has changed.
    [first, *_] = own.short
    other = first.manifest.with_name("other.jsonl")
    other.write_text(first.manifest.read_text().replace("short-a/000", "short-a/zero"))
    timed = time_arms(own, arms[:1], [EvalSet(first.name, other)])
    assert "short-a: short-a/zero" in timed["teacher"].texts
    # Another arm beside it is another measurement: arms take turns.
    time_arms(own, arms[:1], own.short)
    assert len(list((tmp_path / "results" / "timings").iterdir())) == 3 * own.settings.rounds
