"""The parts of benchmarks/cpu.py that need no other engine."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load_script(name: str) -> ModuleType:
    spec = util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


cpu = load_script("cpu")
convert = load_script("cpu_convert")
PEER = next(engine for engine in cpu.ENGINES if engine.engine != cpu.OURS)


def runs_of(seconds: list[float], texts: list[str]) -> list[dict[str, Any]]:
    return [
        {"seconds": s, "cpu_seconds": 2 * s, "texts": texts, "peak_rss_mb": 100.0 * s}
        for s in seconds
    ]


DATA: Mapping[str, Any] = {
    "short": cpu.AudioSet(("a.npy", "b.npy"), ("red fox", "blue sky"), (4.0, 6.0)),
    "long": cpu.AudioSet(("c.npy",), ("a b c d e f g h i j",), (100.0,)),
}


def row_of(engine: Any, *, short: list[float], long: list[float], wrong: bool = False) -> Any:
    texts = ["Red, fox.", "Blue sea." if wrong else "Blue sky."]
    runs = {"short": runs_of(short, texts), "long": runs_of(long, ["a b c d e f g h i j"])}
    return cpu.score(engine, runs, DATA)


def test_engines_take_turns_on_one_set_after_the_other() -> None:
    a, b = cpu.ENGINES[:2]
    one_round = [("short", a), ("short", b), ("long", a), ("long", b)]
    assert list(cpu.turns([a, b], n_rounds=2)) == [(n, *turn) for n in (0, 1) for turn in one_round]


def test_a_score_sums_errors_and_keeps_every_round() -> None:
    row = row_of(cpu.ENGINES[0], short=[2.0, 1.0, 5.0], long=[10.0, 20.0, 10.0], wrong=True)
    assert row.short.errors.errors == 1
    assert row.short.errors.words == 4
    assert row.short.rtfx == (5.0, 10.0, 2.0)
    assert row.short.median_rtfx == 5.0
    assert row.short.cpu_s == (4.0, 2.0, 10.0)
    assert row.long.errors.errors == 0
    assert row.peak_rss_mb == 2000.0


def test_the_ratio_is_taken_round_by_round() -> None:
    # The machine got ten times slower in the second round: the ratio of medians would be 1.1.
    ours = row_of(cpu.ENGINES[0], short=[1.0, 10.0], long=[1.0, 10.0])
    theirs = row_of(PEER, short=[2.0, 20.0], long=[4.0, 40.0])
    assert cpu.ratio(ours.short, theirs.short) == 2.0
    assert cpu.ratio(ours.long, theirs.long) == 4.0


def test_a_marked_row_of_ours_is_not_the_one_that_peers_are_compared_with() -> None:
    float32, bfloat16 = cpu.ENGINES[:2]
    rows = [
        row_of(float32, short=[4.0], long=[4.0]),
        row_of(bfloat16, short=[1.0], long=[1.0], wrong=True),
        row_of(PEER, short=[8.0], long=[8.0]),
    ]
    assert cpu.best_of_ours(rows, "short") is rows[0]
    assert cpu.best_of_ours(rows, "long") is rows[1]
    lines = cpu.table(rows).splitlines()
    assert lines[3] == (
        "| ours bfloat16 | 25.00 ! | 10.0 (10.0-10.0) | 0.25 | 0.00 | 100.0 (100.0-100.0) | 1.00 "
        "| 100 |"
    )
    assert lines[4] == (
        "| OpenVINO int8 + bf16 | 0.00 | 1.2 (1.2-1.2) | 2.00 | 0.00 | 12.5 (12.5-12.5) | 8.00 "
        "| 800 |"
    )


def test_every_row_has_an_environment_and_a_format_that_exist() -> None:
    for engine in cpu.ENGINES:
        assert engine.engine in {cpu.OURS, *cpu.ENVIRONMENTS}
        assert engine.model_format in {None, *cpu.MODEL_FORMATS}
    assert len({engine.name for engine in cpu.ENGINES}) == len(cpu.ENGINES)
    assert cpu.REFERENCE.engine == cpu.OURS


def test_rows_are_asked_for_by_a_word_of_their_name() -> None:
    names = [engine.name for engine in cpu.ENGINES if cpu.wanted(engine, ["openvino", "OURS"])]
    assert names == [
        "ours float32",
        "ours bfloat16",
        "ours openvino",
        "ours openvino float32",
        "student openvino",
        "student openvino, 1 s of silence",
        "OpenVINO int8 + bf16",
        "OpenVINO float32",
    ]


def test_a_worker_answers_each_request(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(7, np.float32))
    np.save(tmp_path / "b.npy", np.zeros(9, np.float32))
    files = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    with cpu.start_worker(cpu.Engine("it", "echo"), Path("m"), threads=1) as worker:
        first = worker.ask(files, long_form=False)
        second = worker.ask(files[:1], long_form=True)
    assert first["texts"] == ["m 7 short", "m 9 short"]
    assert second["texts"] == ["m 7 long"]
    assert first["seconds"] > 0
    assert first["cpu_seconds"] > 0
    assert first["peak_rss_mb"] > 1
    assert worker.process.poll() is not None


def test_busy_processes_end_with_their_work() -> None:
    with cpu.busy_processes(2) as others:
        assert [other.poll() for other in others] == [None, None]
    assert all(other.returncode for other in others)


def test_a_worker_that_ends_is_left_out_and_named(tmp_path: Path) -> None:
    engine = cpu.Engine("it", "echo")
    missing = {"short": cpu.AudioSet((str(tmp_path / "no.npy"),), ("",), (1.0,))}
    left_out: dict[str, str] = {}
    with cpu.start_worker(engine, Path("m"), threads=1) as worker:
        answers = cpu.measure({engine: worker}, missing, n_rounds=1, left_out=left_out)
    assert answers == {}
    assert left_out == {"it": "the process ended with status 1"}


def test_a_clip_longer_than_a_window_is_refused(tmp_path: Path) -> None:
    data = {"short": cpu.AudioSet(("a",), ("",), (31.0,)), "long": DATA["long"]}
    with pytest.raises(ValueError, match=r"at most 30 s, found 31\.0 s"):
        cpu.check_lengths(data)


def test_calibration_windows_reach_from_the_beginning_to_the_end(tmp_path: Path) -> None:
    samples = np.arange(16_000 * 100, dtype=np.float32)
    np.save(tmp_path / "long.npy", samples)
    path = tmp_path / "windows.npy"
    cpu.calibration_windows(cpu.AudioSet((str(tmp_path / "long.npy"),), ("",), (100.0,)), path)
    windows = np.load(path)
    assert windows.shape == (cpu.N_CALIBRATION_WINDOWS, 480_000)
    assert windows[0, 0] == samples[0]
    assert windows[-1, -1] == samples[-1]


@pytest.mark.parametrize(
    ("name", "openai"),
    [
        ("model.encoder.embed_positions.weight", "encoder.positional_embedding"),
        ("model.encoder.layer_norm.weight", "encoder.ln_post.weight"),
        ("model.decoder.embed_tokens.weight", "decoder.token_embedding.weight"),
        ("model.decoder.layers.3.self_attn.k_proj.weight", "decoder.blocks.3.attn.key.weight"),
        ("model.decoder.layers.0.final_layer_norm.bias", "decoder.blocks.0.mlp_ln.bias"),
    ],
)
def test_weights_get_the_names_of_openai_whisper(name: str, openai: str) -> None:
    assert convert.openai_name(name) == openai


def test_q8_blocks_hold_the_numbers_to_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    weight[1, :32] = 0
    blocks = np.frombuffer(convert.q8_blocks(weight), np.uint8).reshape(6, 34)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    values = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)
    # Half a step, and 127 steps of a scale that float16 rounds by up to 2^-11.
    assert (np.abs(scales * values - weight.reshape(6, 32)) <= scales * 0.57).all()


def test_what_is_written_is_json() -> None:
    row = row_of(cpu.ENGINES[0], short=[1.0], long=[1.0])
    assert json.loads(json.dumps(cpu.asdict(row)))["short"]["errors"]["words"] == 4


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_a_comparison_that_is_terminated_ends_its_workers(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import time\nprint('{}', flush=True)\ntime.sleep(600)\n")
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import cpu\n"
        "cpu.WORKER = Path(sys.argv[2])\n"
        "cpu.end_workers_when_terminated()\n"
        "with cpu.start_worker(cpu.REFERENCE, Path('model'), threads=1) as worker:\n"
        "    print(worker.process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(BENCHMARKS), str(worker)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as comparison:
        assert comparison.stdout is not None
        pid = int(comparison.stdout.readline())
        os.kill(pid, 0)  # it runs
        comparison.terminate()
        assert comparison.wait(timeout=60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
