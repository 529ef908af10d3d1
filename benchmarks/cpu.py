"""Transcription on a CPU, ours against other engines: same weights, audio and number of threads.

    python benchmarks/cpu.py --model openai/whisper-base --short SHORT.jsonl --long LONG.jsonl

Run it with the project's own Python. The others get environments of their own and converted models
in ``.cache/peers``, made on the first run (gigabytes, and minutes). Each engine is one process,
which loads its model once; they take turns, round after round, and only one computes at a time.

SHORT.jsonl and LONG.jsonl are manifests of English recordings with a text: clips of at most 30 s,
which go in one at a time, and recordings longer than that, which each engine transcribes in its
own best way. The README's figures are from 30 utterances of LJSpeech of 3 to 12 s, and from one
file of ten minutes, joined from readings of LJSpeech, sonnets and a monologue.

A word error rate that differs from that of our own float32 by more than 0.3 points is marked "!".
Ratios compare our fastest row without that mark with the row that they stand in, round by round.
With --busy one process per core counts meanwhile, as on most servers something does. On a machine
that others use, compare the processor seconds, which stand in the JSON file. The variables LIMITS,
such as ONEDNN_MAX_CPU_ISA=AVX2, show what a lesser CPU would do, as far as libraries obey them.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from distilwhisper.corpus.records import Manifest, read_manifest
from distilwhisper.model.hub import resolve_model
from distilwhisper.speech.audio import Samples, load_samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ, WINDOW_S
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.wer import ErrorCounts, word_errors

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = ROOT / ".cache" / "peers"
WORKER = HERE / "cpu_worker.py"
CONVERTER = HERE / "cpu_convert.py"

# They make oneDNN (OpenVINO), torch, MKL and CTranslate2 use less than the CPU has.
LIMITS = (
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
    "CT2_FORCE_CPU_ISA",
)
MAX_WER_POINTS = 0.3  # what a faster number format may cost
N_CALIBRATION_WINDOWS = 20
WARM_UP_S = 75.0  # of the long recording: more than two windows
OURS = "ours"
SETS = ("short", "long")


@dataclass(frozen=True, eq=False)  # a key of dictionaries, although its options cannot be
class Engine:
    """A row of the table: a way to run a model."""

    name: str
    engine: str  # of ENGINES in cpu_worker.py, and of ENVIRONMENTS
    options: Mapping[str, Any] = field(default_factory=dict)
    model_format: str | None = None  # of MODEL_FORMATS; none reads the Hugging Face folder
    is_student: bool = False  # runs --student


ENGINES = (
    Engine("ours float32", OURS, {"hardware": {"dtype": "float32"}}),
    Engine("ours bfloat16", OURS, {"hardware": {"dtype": "bfloat16"}}),
    Engine(
        "student float32, 1 s of silence",
        OURS,
        {"hardware": {"dtype": "float32"}, "settings": {"context_margin_s": 1.0}},
        is_student=True,
    ),
    Engine("ours openvino", OURS, {"hardware": {"backend": "openvino"}}),
    # What auto takes on a CPU with AVX2 alone.
    Engine(
        "ours openvino float32", OURS, {"hardware": {"backend": "openvino", "dtype": "float32"}}
    ),
    Engine("student openvino", OURS, {"hardware": {"backend": "openvino"}}, is_student=True),
    Engine(
        "student openvino, 1 s of silence",
        OURS,
        {"hardware": {"backend": "openvino"}, "settings": {"context_margin_s": 1.0}},
        is_student=True,
    ),
    Engine("OpenVINO int8 + bf16", "openvino", {"precision": "bf16"}, "openvino-int8"),
    Engine("OpenVINO float32", "openvino", {"precision": "f32"}, "openvino"),
    Engine(
        "faster-whisper int8",
        "faster-whisper",
        {"compute_type": "int8", "batch_size": 8},
        "ctranslate2",
    ),
    Engine(
        "faster-whisper float32",
        "faster-whisper",
        {"compute_type": "float32", "batch_size": 8},
        "ctranslate2",
    ),
    Engine("transformers bf16", "transformers", {"dtype": "bfloat16"}),
    Engine("openai-whisper float32", "openai-whisper", {}, "openai"),
    Engine("whisper.cpp q8_0", "whisper.cpp", {}, "ggml"),
)
REFERENCE = ENGINES[0]

TORCH = "torch==2.13.0"
TRANSFORMERS = "transformers==5.23.0"
ENVIRONMENTS: Mapping[str, Sequence[str]] = {
    "openvino": ("openvino-genai==2026.4.1.0", "numpy"),
    "openvino-export": (TORCH, "optimum-intel[openvino]==2.2.0", "nncf==3.4.0"),
    "faster-whisper": (TORCH, "faster-whisper==1.2.1", "ctranslate2==4.8.5", TRANSFORMERS),
    "transformers": (TORCH, TRANSFORMERS),
    "openai-whisper": (TORCH, "openai-whisper==20250625", "safetensors"),
    "whisper.cpp": ("pywhispercpp==1.5.1", "numpy"),
}
# optimum-intel asks for torchvision, which breaks transformers where it was built for a GPU.
UNWANTED = {"openvino-export": "torchvision"}


@dataclass(frozen=True)
class ModelFormat:
    """Where a conversion runs, and what it converts."""

    environment: str
    source: str | None = None  # another format; none: the Hugging Face folder


MODEL_FORMATS = {
    "openvino": ModelFormat("openvino-export"),
    "openvino-int8": ModelFormat("openvino-export", "openvino"),
    "ctranslate2": ModelFormat("faster-whisper"),
    "openai": ModelFormat("openai-whisper"),
    "ggml": ModelFormat("transformers"),
}


class EngineFailed(Exception):
    """An engine or its preparation ended in an error: the row is left out, and named."""


def main() -> int:
    """Compare, print the table, and return 0 if every engine worked."""
    end_workers_when_terminated()
    arguments = parse_arguments()
    models = {False: resolve_model(arguments.model)}
    if arguments.student:
        models[True] = resolve_model(arguments.student)
    rows_here = (e for e in ENGINES[1:] if e.is_student in models)
    engines = [REFERENCE] + [e for e in rows_here if wanted(e, arguments.engines)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if arguments.busy:
            stack.enter_context(busy_processes(os.cpu_count() or 1))
        data = {name: decode(getattr(arguments, name), Path(folder) / name) for name in SETS}
        check_lengths(data)
        windows = calibration_windows(data["long"], Path(folder) / "windows.npy")
        beginning = warm_up_recording(data["long"], Path(folder) / "beginning.npy")
        workers: dict[Engine, Worker] = {}
        left_out: dict[str, str] = {}
        for engine in engines:
            try:
                peer_model = prepare(engine, models[engine.is_student], windows)
                worker = stack.enter_context(
                    start_worker(engine, peer_model, threads=arguments.threads)
                )
                warm_up(worker, data["short"], beginning)
                workers[engine] = worker
            except EngineFailed as error:
                left_out[engine.name] = str(error)
                say(f"{engine.name} is left out: {error}")
        answers = measure(workers, data, n_rounds=arguments.rounds, left_out=left_out)
    if REFERENCE not in answers:
        say(f"{REFERENCE.name} must work, which all others are compared with")
        return 1
    rows = [score(engine, runs, data) for engine, runs in answers.items()]
    result = {
        **conditions(arguments),
        "audio_s": {name: data[name].audio_s for name in SETS},
        "rows": [asdict(row) for row in rows],
        "left_out": left_out,
        "texts": {e.name: {n: runs[n][-1]["texts"] for n in SETS} for e, runs in answers.items()},
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(describe(result))
    print(table(rows))
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    return 1 if left_out else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--student", help="model folder or hub id for rows of a student")
    parser.add_argument("--short", type=Path, required=True, help="manifest of clips up to 30 s")
    parser.add_argument("--long", type=Path, required=True, help="manifest of longer recordings")
    parser.add_argument("--threads", type=int, default=2, help="of each engine (2)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each engine gets (3)")
    parser.add_argument("--busy", action="store_true", help="one other busy process per core")
    parser.add_argument("--out", type=Path, help="JSON file for everything measured")
    parser.add_argument(
        "--engines",
        nargs="+",
        metavar="WORD",
        help=f"only rows whose name has one of these words, beside {REFERENCE.name}",
    )
    return parser.parse_args()


def wanted(engine: Engine, words: Sequence[str] | None) -> bool:
    """Whether a row was asked for."""
    return words is None or any(word.lower() in engine.name.lower() for word in words)


# ------------------------------------------------------------------------------------------------
# The audio


@dataclass(frozen=True)
class AudioSet:
    """Decoded recordings and what was said in them."""

    files: tuple[str, ...]  # .npy, float32 at 16 kHz
    references: tuple[str, ...]
    durations_s: tuple[float, ...]

    @property
    def audio_s(self) -> float:
        """Seconds of all recordings together."""
        return sum(self.durations_s)


def decode(manifest_path: Path, folder: Path) -> AudioSet:
    """Decode a manifest's recordings, so that no engine's clock holds the decoding."""
    manifest = read_manifest(manifest_path)
    folder.mkdir()
    files, references, durations_s = [], [], []
    for number, utterance in enumerate(manifest.utterances):
        if not utterance.text:
            raise ValueError(f"{manifest_path}: utterance {utterance.id!r} must have a text")
        samples = samples_of(manifest, number)
        file = folder / f"{number:05d}.npy"
        np.save(file, samples)
        files.append(str(file))
        references.append(utterance.text)
        durations_s.append(len(samples) / SAMPLE_RATE_HZ)
    return AudioSet(tuple(files), tuple(references), tuple(durations_s))


def samples_of(manifest: Manifest, number: int) -> Samples:
    """Return the samples of an utterance."""
    utterance = manifest.utterances[number]
    return load_samples(
        manifest.audio_source(utterance),
        start_s=utterance.start_s,
        duration_s=utterance.duration_s if utterance.start_s else None,
    )


def check_lengths(data: Mapping[str, AudioSet]) -> None:
    """See that a clip is a clip and a long recording is long."""
    if max(data["short"].durations_s) > WINDOW_S:
        raise ValueError(
            f"the clips of --short must last at most {WINDOW_S:g} s, "
            f"found {max(data['short'].durations_s):.1f} s"
        )
    if min(data["long"].durations_s) <= WINDOW_S:
        raise ValueError(
            f"the recordings of --long must last more than {WINDOW_S:g} s, "
            f"found {min(data['long'].durations_s):.1f} s"
        )


def warm_up_recording(data: AudioSet, path: Path) -> Path:
    """Write the beginning of the first long recording, long enough for several windows."""
    np.save(path, np.load(data.files[0])[: int(WARM_UP_S * SAMPLE_RATE_HZ)])
    return path


def calibration_windows(data: AudioSet, path: Path) -> Path:
    """Write windows spread evenly over the first long recording, for quantisation."""
    samples = np.load(data.files[0])
    size = int(WINDOW_S * SAMPLE_RATE_HZ)
    starts = np.linspace(0, len(samples) - size, N_CALIBRATION_WINDOWS).astype(int)
    np.save(path, np.stack([samples[start : start + size] for start in starts]))
    return path


# ------------------------------------------------------------------------------------------------
# The peers' environments and models


def prepare(engine: Engine, model: Path, windows: Path) -> Path:
    """Make what a row needs, unless it is there, and return its model."""
    if engine.engine in ENVIRONMENTS:
        make_environment(engine.engine)
    return convert(engine.model_format, model, windows)


def python_of(environment: str) -> Path:
    """Return the Python of a peer; ours is the one that runs this."""
    return PEERS / environment / "bin" / "python" if environment != OURS else Path(sys.executable)


def make_environment(name: str) -> None:
    """Install a peer's requirements into an environment of its own."""
    requirements = ENVIRONMENTS[name]
    state = PEERS / name / "benchmark-state"
    if state.exists() and state.read_text() == "\n".join(requirements):
        return
    say(f"making the environment {PEERS / name}")
    base = getattr(sys, "_base_executable", sys.executable)
    run([base, "-m", "venv", "--clear", PEERS / name])
    # torch first, as in ./run: the machine's own build of it must win.
    for requirement in ([r for r in requirements if r == TORCH], list(requirements)):
        if requirement:
            run([*installer(python_of(name)), *requirement])
    if name in UNWANTED:
        run([python_of(name), "-m", "pip", "uninstall", "--quiet", "--yes", UNWANTED[name]])
    state.write_text("\n".join(requirements))


def installer(python: Path) -> list[str | Path]:
    """Return the start of an install command: uv where ./run has put it, or else pip."""
    script = load_run_script()
    uv = script.VENV / "bin" / "uv"
    if uv.exists():
        options = script.uv_options(script.pip_settings())
        return [uv, "pip", "install", "--quiet", "--python", python, *options]
    return [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]


def load_run_script() -> ModuleType:
    """Load ``./run``, which knows how to tell uv of pip's settings."""
    loader = SourceFileLoader("run_script", str(ROOT / "run"))
    spec = spec_from_loader("run_script", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def convert(model_format: str | None, model: Path, windows: Path) -> Path:
    """Return a model in another format, made once for each content of its folder."""
    if model_format is None:
        return model
    way = MODEL_FORMATS[model_format]
    weights = (model / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights + CONVERTER.read_bytes()).hexdigest()[:12]
    out = PEERS / "models" / f"{model.name}-{digest}" / model_format
    if out.exists():
        return out
    source = convert(way.source, model, windows)
    make_environment(way.environment)
    say(f"converting {model} to {model_format}")
    out.parent.mkdir(parents=True, exist_ok=True)
    run([python_of(way.environment), CONVERTER, model_format, source, out, windows])
    return out


def run(command: Sequence[str | Path]) -> None:
    """Run a program that has to succeed; what it prints is shown if it does not."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        say(done.stdout[-3000:])
        raise EngineFailed(f"status {done.returncode} from {' '.join(words[:4])} ...")


# ------------------------------------------------------------------------------------------------
# The workers


@dataclass(frozen=True)
class Worker:
    """An engine in a process, waiting for its turn."""

    name: str
    process: "subprocess.Popen[str]"

    def ask(self, files: Sequence[str], *, long_form: bool) -> dict[str, Any]:
        """Have files transcribed.

        Raises:
            EngineFailed: the process has ended.
        """
        assert self.process.stdin is not None
        request = json.dumps({"files": list(files), "long_form": long_form})
        try:
            print(request, file=self.process.stdin, flush=True)
        except BrokenPipeError as error:
            raise EngineFailed("the process has ended") from error
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Read one line of what the process says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EngineFailed(f"the process ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def end_workers_when_terminated() -> None:
    """Let a termination from outside leave every block in the usual way, as an interrupt does."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@contextlib.contextmanager
def start_worker(engine: Engine, model: Path, *, threads: int) -> Iterator[Worker]:
    """Start an engine's process and wait until its model is loaded."""
    asked = {
        "engine": engine.engine,
        "model": str(model),
        "threads": threads,
        "options": engine.options,
    }
    python = python_of(engine.engine if engine.engine in ENVIRONMENTS else OURS)
    process = subprocess.Popen(
        [str(python), str(WORKER), json.dumps(asked)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
        text=True,
    )
    try:
        worker = Worker(engine.name, process)
        worker.answer()
        yield worker
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def busy_processes(n: int) -> Iterator[Sequence["subprocess.Popen[bytes]"]]:
    """Keep some processes counting, as other work on the machine."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield others
    finally:
        for other in others:
            other.kill()
            other.wait()


def warm_up(worker: Worker, clips: AudioSet, beginning: Path) -> None:
    """Have a little transcribed in both ways: libraries compile for shapes first seen."""
    say(f"warming up {worker.name}")
    worker.ask(clips.files[:2], long_form=False)
    worker.ask([str(beginning)], long_form=True)


Answers = dict[Engine, dict[str, list[dict[str, Any]]]]


def measure(
    workers: Mapping[Engine, Worker],
    data: Mapping[str, AudioSet],
    *,
    n_rounds: int,
    left_out: dict[str, str],
) -> Answers:
    """Let the engines take turns, and return each one's answers, set by set.

    Args:
        workers: of each engine.
        data: the sets, by name.
        n_rounds: turns of each engine on each set.
        left_out: gets the engines that failed on the way, with the reason.
    """
    answers: Answers = {engine: {name: [] for name in SETS} for engine in workers}
    for number, name, engine in turns(list(workers), n_rounds=n_rounds):
        if engine not in answers:
            continue
        try:
            answer = workers[engine].ask(data[name].files, long_form=name == "long")
        except EngineFailed as error:
            left_out[engine.name] = str(error)
            del answers[engine]
            continue
        answers[engine][name].append(answer)
        rtfx = data[name].audio_s / answer["seconds"]
        say(f"round {number + 1}/{n_rounds} {name}: {engine.name}: RTFx {rtfx:.1f}")
    return answers


def turns(engines: Sequence[Engine], *, n_rounds: int) -> Iterator[tuple[int, str, Engine]]:
    """Yield round, set and engine: within a round all have one set behind each other."""
    for number in range(n_rounds):
        for name in SETS:
            for engine in engines:
                yield number, name, engine


# ------------------------------------------------------------------------------------------------
# The figures


@dataclass(frozen=True)
class SetScore:
    """An engine on one set."""

    errors: ErrorCounts  # of the last round
    rtfx: tuple[float, ...]  # of each round
    cpu_s: tuple[float, ...]  # processor seconds of each round

    @property
    def median_rtfx(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.rtfx)


@dataclass(frozen=True)
class Row:
    """An engine with all its figures."""

    name: str
    is_ours: bool
    short: SetScore
    long: SetScore
    peak_rss_mb: float

    def on(self, name: str) -> SetScore:
        """Return the score on a set."""
        return self.short if name == "short" else self.long


def score(
    engine: Engine, runs: Mapping[str, Sequence[Mapping[str, Any]]], data: Mapping[str, AudioSet]
) -> Row:
    """Make figures of an engine's answers."""
    scores = {
        name: SetScore(
            count_errors(data[name].references, runs[name][-1]["texts"]),
            tuple(data[name].audio_s / run["seconds"] for run in runs[name]),
            tuple(run["cpu_seconds"] for run in runs[name]),
        )
        for name in SETS
    }
    peak_rss_mb = max(run["peak_rss_mb"] for name in SETS for run in runs[name])
    return Row(engine.name, engine.engine == OURS, scores["short"], scores["long"], peak_rss_mb)


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Sum the word errors of English texts, as Whisper's authors count them."""
    normalize = normalizer_for("en")
    pairs = zip(references, hypotheses, strict=True)
    return sum((word_errors(normalize(r), normalize(h)) for r, h in pairs), ErrorCounts())


def is_marked(row: Row, rows: Sequence[Row], name: str) -> bool:
    """Whether the error rate on a set is not that of our float32."""
    reference = next(r for r in rows if r.name == REFERENCE.name)
    points = 100 * (row.on(name).errors.wer - reference.on(name).errors.wer)
    return abs(points) > MAX_WER_POINTS


def best_of_ours(rows: Sequence[Row], name: str) -> Row:
    """Return our fastest row whose error rate is not marked."""
    unmarked = [row for row in rows if row.is_ours and not is_marked(row, rows, name)]
    return max(unmarked, key=lambda row: row.on(name).median_rtfx)


def ratio(ours: SetScore, theirs: SetScore) -> float:
    """Return how many times faster ours is: the median of the rounds' ratios.

    A round's two figures were taken within minutes, on a machine whose speed may drift.
    """
    return statistics.median(a / b for a, b in zip(ours.rtfx, theirs.rtfx, strict=True))


def table(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| engine | short: WER % | RTFx | ours / it | long: WER % | RTFx | ours / it | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.name]
        for name in SETS:
            found = row.on(name)
            mark = " !" if is_marked(row, rows, name) else ""
            spread = f"{min(found.rtfx):.1f}-{max(found.rtfx):.1f}"
            times = ratio(best_of_ours(rows, name).on(name), found)
            cells += [f"{100 * found.errors.wer:.2f}{mark}", f"{found.median_rtfx:.1f} ({spread})"]
            cells.append(f"{times:.2f}")
        lines.append(f"| {' | '.join(cells)} | {row.peak_rss_mb:.0f} |")
    return "\n".join(lines)


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what must stand beside the figures."""
    return {
        "model": arguments.model,
        "student": arguments.student,
        "short": str(arguments.short),
        "long": str(arguments.long),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "busy": arguments.busy,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "requirements": {name: list(words) for name, words in ENVIRONMENTS.items()},
    }


def describe(result: Mapping[str, Any]) -> str:
    """Return the line above the table."""
    audio = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["audio_s"].items())
    return (
        f"{result['model']}; {audio}; {result['cpu']}, {result['cores']} cores"
        f"{''.join(f' {name}={value}' for name, value in result['limits'].items())}, "
        f"{result['threads']} threads; {result['rounds']} rounds"
        f"{', one busy process per core' if result['busy'] else ''}; "
        f"commit {result['commit']}; {result['date']}"
    )


def cpu_name() -> str:
    """Return what the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor()


def commit() -> str:
    """Return the checkout's revision, with a plus if files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def say(message: str) -> None:
    """Print one line to standard error."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
