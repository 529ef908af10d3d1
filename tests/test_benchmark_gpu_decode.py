"""benchmarks/gpu_decode.py on a CPU, with its tiny shape: no figure of it means anything here."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu_decode.py"
CPU = torch.device("cpu")


def load_script() -> ModuleType:
    spec = util.spec_from_file_location("gpu_decode", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["gpu_decode"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


bench = load_script()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small only lose by sharing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> Any:
    return bench.build_models(bench.TINY, agreement=0.9, device=CPU, dtype=torch.float32)


class Clock:
    """Time that passes by a second whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str, peer: bool = False) -> Any:
    if not peer:
        monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert bench.main(["--tiny", "--device", "cpu", "--out", str(out), *words]) == 0
    return json.loads(out.read_text())


@pytest.mark.slow
def test_the_script_runs_from_end_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(monkeypatch, tmp_path / "out.json")
    assert found["failed"] == {}
    assert found["skipped"] == {"transformers": "not installed"}
    drafts = [f"draft at batch {n}" for n in bench.TINY.draft_batches]
    names = [row["section"] for row in found["rows"]]
    assert list(dict.fromkeys(names)) == ["labelling", "distilled", "one window at a time", *drafts]
    for row in found["rows"]:
        assert len(row["timing"]["seconds"]) == bench.N_ROUNDS
        assert row["windows_per_s"] > 0
        assert row["share_of_floor"] is None  # of an H100, which this is not
    for key in ("device", "commit", "date", "versions", "dtype", "agreement"):
        assert found[key]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("| draft at batch 3 | the encoder alone |")


def test_no_time_at_all_leaves_everything_out_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(monkeypatch, tmp_path / "out.json", "--minutes", "0")
    assert found["rows"] == []
    assert "0 s are left" in found["skipped"]["labelling"]
    assert len(found["skipped"]) == 3 + len(bench.TINY.draft_batches) + 1
    assert "left out: distilled: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("compiled", [False, True])
def test_transformers_says_the_same_tokens(models: Any, compiled: bool) -> None:
    pytest.importorskip("transformers")
    work = bench.make_workload(models.teacher, bench.TINY, 6, ragged=True)
    ours = bench.make_ours(models.teacher, bench.TINY, 4)(work)
    theirs = bench.Transformers(models.teacher, bench.TINY, 4, compiled=compiled)
    bench.check_same("peer", ours, theirs(work), work)
    assert theirs.network.proj_out.weight.data_ptr() == (
        models.teacher.decoder.embed_tokens.weight.data_ptr()
    )


def test_windows_say_exactly_as_many_tokens_as_was_forced(models: Any) -> None:
    work = bench.make_workload(models.teacher, bench.TINY, 9, ragged=True)
    said = bench.make_ours(models.teacher, bench.TINY, 4)(work)
    assert len(set(work.lengths)) > 3
    assert [len(ids) for ids in said.token_ids] == list(work.lengths)
    assert len(set(said.token_ids)) == 9


def test_a_model_says_what_was_planted(models: Any) -> None:
    scale = bench.TINY
    follows = bench.successors(scale.n_text, scale.teacher.vocab_size, seed=bench.SEED)
    work = bench.make_workload(models.teacher, scale, 5, ragged=True)
    said = bench.make_ours(models.teacher, scale, 5)(work)
    for prompt, ids in zip(work.prompts, said.token_ids, strict=True):
        assert list(ids) == follows[[prompt[-1], *ids[:-1]]].tolist()


def test_all_layers_and_the_sound_move_the_probabilities(models: Any) -> None:
    """Otherwise equal log-probabilities would prove little."""
    work = bench.make_workload(models.teacher, bench.TINY, 2, ragged=True)
    said = bench.make_ours(models.teacher, bench.TINY, 2)(work)
    other = replace(work, mel=work.mel.flip(0))
    heard = bench.make_ours(models.teacher, bench.TINY, 2)(other)
    assert said.token_ids == heard.token_ids
    assert said.avg_logprobs[0] < -1e-3
    assert abs(said.avg_logprobs[0] - heard.avg_logprobs[0]) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("agreement", "least", "most"), [(0.0, 0.0, 0.05), (1.0, 0.9, 1.0)])
def test_a_draft_is_right_as_often_as_was_asked(
    agreement: float, least: float, most: float
) -> None:
    models = bench.build_models(bench.TINY, agreement=agreement, device=CPU, dtype=torch.float32)
    work = bench.make_workload(models.teacher, bench.TINY, 2, ragged=True)
    work = replace(work, lengths=(60,) * 2)
    drafted = bench.make_ours(models.teacher, bench.TINY, 2, draft=models.student)
    plain = bench.make_ours(models.teacher, bench.TINY, 2)
    bench.check_same("draft", drafted(work), plain(work), work)
    assert least <= drafted.search.counts.acceptance <= most


def test_lengths_are_seeded_and_spread_as_told() -> None:
    lengths = bench.draw_lengths(6400, mean=110, seed=1)
    assert lengths == bench.draw_lengths(6400, mean=110, seed=1)
    assert lengths != bench.draw_lengths(6400, mean=110, seed=2)
    mean = sum(lengths) / len(lengths)
    longest = [max(lengths[at : at + 64]) for at in range(0, 6400, 64)]
    assert mean == pytest.approx(110, abs=1.5)
    assert sum(longest) / len(longest) / mean == pytest.approx(1.6, abs=0.05)


def test_sides_take_turns_and_the_budget_ends_the_rounds() -> None:
    said: list[str] = []
    sides = {"a": lambda: said.append("a"), "b": lambda: said.append("b")}
    plenty = bench.Budget(1000.0, Clock())
    timings = bench.take_turns(sides, CPU, plenty, round_s=0.0)
    assert "".join(said) == "ab" * bench.N_ROUNDS
    assert timings["a"].seconds == (1.0,) * bench.N_ROUNDS

    said.clear()
    # A round costs two seconds, and six looks at the clock cost six: there is no third.
    timings = bench.take_turns(sides, CPU, bench.Budget(14.0, Clock()), round_s=2.0)
    assert "".join(said) == "abab"
    with pytest.raises(bench.OutOfTime, match="needs about 20 s"):
        bench.take_turns(sides, CPU, bench.Budget(14.0, Clock()), round_s=20.0)


def test_the_ratio_is_taken_round_by_round() -> None:
    # The machine got ten times slower in the second round.
    ours, theirs = bench.Timing((1.0, 10.0, 1.0)), bench.Timing((2.0, 30.0, 4.0))
    assert bench.ratio(ours, theirs) == 3.0
    assert ours.median_s == 1.0
    row = bench.Row("what", "ours", 6, bench.Timing((2.0, 3.0, 6.0)), floor_s=0.25)
    assert row.windows_per_s == 2.0
    assert row.share_of_floor == 0.5
    assert "| 2.00 (1.00-3.00) | 60 | 50 % |" in bench.table([row])


def test_tokens_that_differ_end_a_section_before_any_time_is_taken(models: Any) -> None:
    work = replace(bench.make_workload(models.teacher, bench.TINY, 1, ragged=True), lengths=(2,))
    one, other = bench.Decoded(((3, 4),), (-0.1,)), bench.Decoded(((3, 5),), (-0.1,))
    with pytest.raises(bench.Disagreement, match="window 0 to differ from token 1 of 2"):
        bench.check_same("x", one, other, work)
    with pytest.raises(bench.Disagreement, match="must say 2 tokens, found 1"):
        bench.check_same("x", bench.Decoded(((3,),)), other, work)
    with pytest.raises(bench.Disagreement, match=r"gap of 0\.900"):
        bench.check_same("x", one, replace(one, avg_logprobs=(-1.0,)), work)

    def fail(_: Any, name: str) -> Any:
        bench.check_same(name, one, other, work)

    wanted = [bench.Section("bad", fail), bench.Section("good", lambda _, name: [name])]
    outcome = bench.measure(bench.Bench(bench.TINY, models, bench.Budget(60.0)), wanted)
    assert outcome.rows == ["good"]
    assert outcome.failed["bad"].startswith("Disagreement: bad: ")
