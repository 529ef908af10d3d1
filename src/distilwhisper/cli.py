"""Arguments and wiring, nothing else.

What a command works with is imported when it runs, by the package or inside the command, so that
help and a wrong option take no time: no torch, no numpy.

Results go to standard output (``--json`` for programs), the log and progress bars to standard
error. Exit status 0 means that all of it worked, 1 that some inputs failed (each is named) or that
the work could not be done, 2 that the command was wrong.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import partial
from io import TextIOWrapper
from json import dumps
from pathlib import Path
from typing import Any, Literal, get_args

import tyro
from tyro.conf import OmitArgPrefixes, Suppress, UseAppendAction

import distilwhisper as dw
from distilwhisper.extras import needed_by
from distilwhisper.progress import say, showing_progress
from distilwhisper.run.processes import EngineName
from distilwhisper.serving.settings import ServeSettings, named_models
from distilwhisper.stages.settings import STAGES, StageName, Workers
from distilwhisper.text.transcript import TranscriptFormat

OK, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_NUMBERS = ("--clip-timestamps", "--suppress-tokens", "--temperature")  # 1,2 as well as 1 2
Overrides = UseAppendAction[tuple[str, ...]]
_CONFIG = (OmitArgPrefixes,)  # --batch-size, not --settings.decoding.batch-size


def run(
    recipe: Path,
    /,
    *,
    out: Path | None = None,
    from_stage: StageName | None = None,
    to_stage: StageName | None = None,
    engine: EngineName | None = None,
    set: Overrides = (),
    force: bool = False,
) -> int:
    """Run a recipe from speech to report, going on where it stopped.

    Args:
        recipe: a TOML file that describes one run completely.
        out: folder of the run; runs/NAME when left out.
        from_stage: do this stage and all behind it again.
        to_stage: end with this stage.
        engine: which processes label and evaluate, in place of the recipe's.
        set: section.key=value, in place of the recipe's; may be repeated.
        force: do stages again whose settings or inputs have changed.
    """
    stages = STAGES if to_stage is None else STAGES[: STAGES.index(to_stage) + 1]
    if from_stage is not None and from_stage not in stages:
        raise ValueError(
            f"--from-stage must come before --to-stage, found {from_stage} behind {to_stage}"
        )
    engines = () if engine is None else (f"engine.engine={engine}",)
    settings = dw.read_recipe(recipe, dw.Recipe, (*set, *engines))
    folder = out or Path("runs") / settings.name
    finished = dw.run_recipe(settings, folder, stages=stages, from_stage=from_stage, force=force)
    print(folder / "report.html" if stages == STAGES else folder)
    return _name_each(finished.problems)


def plan(
    recipe: Path,
    /,
    *,
    settings: dw.PlanSettings = dw.PlanSettings(),
    set: Overrides = (),
    json: bool = False,
) -> int:
    """Estimate the windows, memory, disk and hours of a recipe before it runs.

    Args:
        recipe: a TOML file that describes one run completely.
        set: section.key=value, in place of the recipe's; may be repeated.
        json: print the plan for programs.
    """
    planned = dw.plan_recipe(dw.read_recipe(recipe, dw.Recipe, set), settings)
    print(_json(planned.to_dict()) if json else planned)
    return OK


def train(recipe: Path, /, *, out: Path, set: Overrides = (), force: bool = False) -> int:
    """Train a run's student: the recipe's train stage alone.

    Args:
        recipe: a TOML file; its stages before this one are done in the folder.
        out: folder of the run.
        set: section.key=value, in place of the recipe's; may be repeated.
        force: begin anew where settings or inputs have changed.
    """
    settings = dw.read_recipe(recipe, dw.Recipe, set)
    finished = dw.run_recipe(settings, out, stages=("train",), force=force)
    print(out / "student")
    return _name_each(finished.problems)


def tensorboard(runs: tuple[Path, ...], /, *, out: Path, follow: bool = False) -> int:
    """Turn the metrics of runs into event files, for TensorBoard to show.

    Args:
        runs: folders of runs, trained or in training.
        out: what to give to tensorboard --logdir; it gets a folder for each run.
        follow: go on as rows are added, until every run has been trained.
    """
    from distilwhisper.training.tensorboard import write_events

    write_events(runs, out, follow=follow)
    print(f"tensorboard --logdir {out}")
    return OK


def data(
    source: str,
    /,
    *,
    out: Path,
    settings: UseAppendAction[dw.ImportSettings] = dw.ImportSettings(),
    json: bool = False,
) -> int:
    """Make a manifest of audio, and of the transcripts that come with it.

    Args:
        source: a folder of audio with texts beside it or in tables; a Kaldi, LibriSpeech or Common
            Voice folder; Lhotse manifests; WebDataset shards; Parquet files; a table; a manifest;
            a Hugging Face dataset, saved in a folder or by its id on the hub.
        out: the manifest, a .jsonl file.
        json: print the summary for programs.
    """
    summary = dw.import_data(source, out, settings)
    print(_json(summary.to_dict()) if json else summary.table())
    return _name_each(summary.failed)


def import_(source: str, dest: Path, /, *, tokenizer: str | None = None) -> int:
    """Convert a model to a Hugging Face folder.

    Args:
        source: hub id, Hugging Face folder, openai-whisper .pt file, or CTranslate2 folder.
        dest: the new folder.
        tokenizer: for a .pt file, which holds none: a model folder or hub id.
    """
    print(dw.import_model(source, dest, tokenizer=tokenizer))
    return OK


def label(
    manifest: Path,
    /,
    *,
    teacher: str,
    out: Path,
    settings: dw.LabelSettings = dw.LabelSettings(),
    workers: Workers = Workers(),
    shards: str | None = None,
    retry_failed: bool = False,
    force: bool = False,
) -> int:
    """Label a manifest's audio with a teacher.

    Args:
        manifest: a .jsonl file, or a folder of shards.
        teacher: model folder or hub id.
        out: folder of the labels.
        shards: I/N: label every N-th shard alone, from the I-th on, counted from 0; N such
            commands may run side by side, as a Slurm array does. The same command without it
            then sees that all is there.
        retry_failed: try again what failed before, such as audio that has come back, and what has
            other sound now than was labelled.
        force: begin anew where settings or inputs have changed.
    """
    from distilwhisper.run.locks import Part
    from distilwhisper.stages.label import label_manifests

    outs, part = {manifest: out}, None if shards is None else Part.parse(shards)
    (summary,) = label_manifests(
        outs, teacher, settings, workers, part=part, retry_failed=retry_failed, force=force
    )
    print(f"{summary} in {out}")
    return _name_each(summary.failed)


def filter_(
    manifest: Path,
    labels: Path,
    /,
    *,
    out: Path,
    second_labels: Path | None = None,
    measures: Path | None = None,
    settings: dw.FilterSettings = dw.FilterSettings(),
    figures: bool = True,
    force: bool = False,
    json: bool = False,
) -> int:
    """Judge every label: keep or drop, with a reason.

    Args:
        manifest: what was labelled, with references where there are any.
        labels: folder of the labels.
        out: folder of the verdicts.
        second_labels: folder of other labels of the same utterances, to compare with.
        measures: folder of what is measured of the labels, once for all limits; with the labels
            when left out.
        figures: draw what is kept too, which takes seconds.
        force: begin anew where settings or inputs have changed.
        json: print the summary for programs.
    """
    from distilwhisper.stages.filter import filter_labels

    summary = filter_labels(
        manifest,
        labels,
        out,
        settings,
        second_labels=second_labels,
        measures=measures,
        figures=figures,
        force=force,
    )
    print(_json(summary.to_dict()) if json else f"{summary}\n{summary.tables()}")
    return OK


def distil(
    source: Path,
    /,
    *,
    teacher: str = "base",
    out: Path,
    language: str | None = None,
    max_wer: float = 0.10,
    steps: int | None = None,
    student: dw.StudentSettings = dw.StudentSettings(),
    hardware: dw.Hardware = dw.Hardware(),
    set: Overrides = (),
    force: bool = False,
) -> int:
    """Make a student of a folder of audio with transcripts: all stages, with good defaults.

    Args:
        source: a folder of audio with texts beside it or in a table, or a manifest.
        teacher: tiny, base.en, large-v3, turbo ..., a hub id, or a folder.
        out: folder of the run; the recipe that this stands for is written into it.
        language: of all the speech; what a manifest names, or else detected, when left out.
        max_wer: labels that differ more from their transcript are left out, a fraction.
        steps: of training; a number for the hours there are when left out.
        set: section.key=value of the recipe, in place of what is chosen; may be repeated.
        force: do stages again whose settings or inputs have changed.
    """
    from distilwhisper.api import distil_source

    decoding = {"language": language}
    table = {
        "name": out.name,
        "teacher": teacher,
        "data": {"source": str(source), "language": language},
        "hardware": asdict(hardware),
        "label": {"decoding": {**decoding, "temperature": (0.0,)}, "pack": True},
        "filter": {"max_wer": max_wer},
        "student": asdict(student),
        "training": {} if steps is None else {"steps": steps},
        "evaluate": {"decoding": decoding},
    }
    finished = distil_source(table, out, overrides=set, force=force)
    print(out / "report.html")
    return _name_each(finished.problems)


def student(
    teacher: str, dest: Path, /, *, settings: dw.StudentSettings = dw.StudentSettings()
) -> int:
    """Make a student of some of a teacher's layers.

    Args:
        teacher: model folder or hub id.
        dest: the new model folder.
    """
    from distilwhisper.model.checkpoint import read_config
    from distilwhisper.stages.student import describe_student

    checkpoint = dw.make_student(teacher, dest, settings)
    teacher_config = read_config(dw.resolve_model(teacher))
    print(f"{dest}: {describe_student(checkpoint.model.config, teacher_config)}")
    return OK


def delta(student: str, dest: Path, /, *, teacher: str) -> int:
    """Write a student as the weights in which it differs from its teacher.

    Args:
        student: model folder or hub id.
        dest: the new folder, which is used like any model folder where the teacher can be had.
        teacher: model folder or hub id; written down as it is given here.
    """
    student_folder, teacher_folder = dw.resolve_model(student), dw.resolve_model(teacher)
    n_bytes = dw.write_delta(student_folder, teacher_folder, dest, teacher_name=teacher)
    print(f"{dest}: {n_bytes / 1e6:.1f} MB beside {teacher}")
    return OK


def heads(model: str, manifest: Path, dest: Path, /) -> int:
    """Measure which attention heads time a model's words, and write the model with them.

    Args:
        model: folder or hub id.
        manifest: utterances with their texts.
        dest: the new model folder.
    """
    from distilwhisper.corpus.records import read_manifest
    from distilwhisper.model.checkpoint import load_checkpoint, save_checkpoint
    from distilwhisper.stages.student import add_alignment_heads

    checkpoint = load_checkpoint(dw.resolve_model(model))
    measured = add_alignment_heads(checkpoint, read_manifest(manifest))
    save_checkpoint(measured, dest)
    print(f"{dest}: {measured.generation_config['alignment_heads']}")
    return OK


@dataclass(frozen=True)
class EvaluateOptions(dw.EvaluateSettings):
    """The settings without the noise, of which a command line names several."""

    noise: Suppress[str | None] = None


def evaluate(
    model: str,
    manifests: tuple[Path, ...],
    /,
    *,
    out: Path,
    against: tuple[str, ...] = (),
    noise: tuple[str, ...] = ("none",),
    settings: EvaluateOptions = EvaluateOptions(),
    workers: Workers = Workers(),
    force: bool = False,
    json: bool = False,
) -> int:
    """Transcribe sets and count the errors; of several sets, models or noises, compare them.

    Args:
        model: folder or hub id.
        manifests: utterances with references, of any length.
        out: folder of the results; of several, it has a folder for each, comparison.json and
            report.html.
        against: other models to evaluate as well; the first of them is the one that all others
            are compared with.
        noise: what the sound goes through first: none, or `KIND[:LEVEL][@PATH]` such as
            white:10, pink:0, babble:5, recorded:10@FOLDER (dB of speech over noise),
            reverberation:0.6 (seconds of RT60), reverberation@FOLDER, codec:opus-6k, clipping:12
            (dB).
        force: begin anew where settings or inputs have changed.
        json: print the summary, or the comparison, for programs.
    """
    from distilwhisper.evaluation.scoring import summary_line
    from distilwhisper.stages.evaluate import EvaluationTask, evaluate_all, evaluate_tasks

    noises = [None if text == "none" else text for text in noise]
    if len(manifests) == len(noises) == 1 and not against:
        task = EvaluationTask(manifests[0], replace(settings, noise=noises[0]), out)
        (summary,) = evaluate_tasks(model, [task], workers, force=force)
        print(_json(summary.to_dict()) if json else summary_line(model, summary))
        return _name_each(summary.failed)
    models = [model, *against]
    comparison = evaluate_all(models, manifests, noises, out, settings, workers, force=force)
    say(f"evaluate: {dw.write_report(out / 'report.html', [dw.read_facts(out)])}")
    print(_json(comparison.to_dict()) if json else comparison)
    return _name_each(comparison.failed)


def transcribe(
    files: tuple[str, ...],
    /,
    *,
    model: str = "base",
    draft: str | None = None,
    format: UseAppendAction[tuple[TranscriptFormat | Literal["all"], ...]] = (),
    out: Path | None = None,
    audio_track: str | None = None,
    channel: str = "mix",
    strict: bool = False,
    threads: int | None = None,
    subtitles: dw.SubtitleSettings = dw.SubtitleSettings(),
    settings: dw.DecodingSettings = dw.DecodingSettings(),
    hardware: dw.Hardware = dw.Hardware(),
) -> int:
    """Transcribe audio and video files of any length.

    Args:
        files: paths, pipes too; - reads one file from standard input. Names that begin with a dash
            come last, behind --.
        model: tiny, base.en, large-v3, turbo, distil-large-v3.5 ..., a hub id, or a folder.
        draft: a smaller model that drafts for this one, such as its student: the same text,
            sooner if most of what it proposes is right.
        format: of the transcripts; several, or all of them, need --out. Plain text when left out.
        out: folder for them, named after the files; standard output when left out.
        audio_track: of several, by number from 0 or by language; the default one when left out.
        channel: left, right, a number from 0, or mix; each: one transcript per channel, put
            together by time, with the channel's name.
        strict: refuse a damaged file, instead of transcribing what can be read of it.
        threads: of the CPU; as many as it has cores when left out.
    """
    import torch

    from distilwhisper.decoding.transcriber import Transcriber
    from distilwhisper.text.transcript import FORMATS, render
    from distilwhisper.transcribe import Listening, output_paths, transcribe_files

    if not files:
        raise ValueError("name at least one file to transcribe, or - for standard input")
    kinds = tuple(kind for kind in dict.fromkeys(format) if kind != "all")
    formats = FORMATS if "all" in format else kinds or FORMATS[:1]
    if out is None and len(formats) > 1:
        raise ValueError("several formats need a folder to be written to: name it with --out")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, found {threads}")
        torch.set_num_threads(threads)
    if subtitles.needs_words:
        settings = replace(settings, word_timestamps=True)
    listening = Listening.parse(audio_track, channel, strict=strict)
    paths, failed = output_paths(files, out, formats) if out else ({}, {})
    is_damaged = False
    transcriber = Transcriber.from_model(model, settings, hardware, draft=draft)
    say(f"transcribe: {model} ({hardware.describe(has_draft=draft is not None)})")
    possible = [file for file in files if file not in failed]
    for done in transcribe_files(transcriber, possible, listening):
        for note in done.notes:
            say(f"distilwhisper: warning: {done.source}: {note.text}")
            is_damaged |= note.is_damage
        if done.transcript is None:
            failed[done.source] = _why(done.error)
            continue
        try:
            for path in paths.get(done.source, ()):
                done.transcript.save(path, subtitles)
                print(path)
            if not paths:
                text = render(done.transcript, formats[0], subtitles)
                print(text, end="\n" if formats[0] == "json" else "")
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            failed[done.source] = _why(error)
    if draft is not None:
        say(f"transcribe: {transcriber.counts.describe_draft()}")
    return max(_name_each(failed), SOME_FAILED if is_damaged else OK)


def export(
    model: str,
    dest: Path,
    /,
    *,
    settings: dw.ExportSettings,
    check: Path | None = None,
    json: bool = False,
) -> int:
    """Write a model as another program reads it.

    Args:
        model: folder, delta or hub id.
        dest: the new folder.
        check: utterances with references, to run the original and the exported model on, through
            the other program's own library.
        json: print the folder, and the result of the check, for programs.
    """
    from distilwhisper.exporting.exporter import export_model

    exported = export_model(model, dest, settings, check=check)
    checked = exported.check
    if json:
        print(_json({"folder": str(dest), "check": checked and checked.to_dict()}))
    else:
        print(dest if checked is None else f"{dest}\n\n{checked.table()}\n{checked.describe()}")
    return _name_each(checked.failed if checked else {})


def serve(
    *,
    model: Overrides = (),
    settings: ServeSettings = ServeSettings(),
    decoding: dw.DecodingSettings = dw.DecodingSettings(),
    hardware: dw.Hardware = dw.Hardware(),
) -> int:
    """Answer requests as OpenAI's speech API does, and caption live speech.

    Args:
        model: short name, hub id or folder, or NAME=FOLDER; may be repeated.
    """
    with needed_by("a server", extra="serve"):
        from distilwhisper.serving.server import serve as run_server
        from distilwhisper.serving.service import Service

    run_server(Service(named_models(model), decoding, hardware, settings))
    return OK


def live(
    source: str = "microphone",
    /,
    *,
    model: str,
    margin_s: float | None = None,
    with_prompt: bool = False,
    decoding: dw.DecodingSettings = dw.DecodingSettings(),
    hardware: dw.Hardware = dw.Hardware(),
) -> int:
    """Caption speech while it is spoken.

    Args:
        source: microphone; or - for standard input: 16-bit samples, mono, 16 kHz.
        model: folder or hub id.
        margin_s: encode the sound of a pass and this much silence, instead of 30 s, for students
            that were trained so.
        with_prompt: give each pass the text before it, for models trained with prompts.
    """
    if source not in ("microphone", "-"):
        raise ValueError(f"the source must be microphone or -, found {source!r}")
    from distilwhisper.decoding.transcriber import Transcriber
    from distilwhisper.serving import captions

    piped = source == "-"
    blocks = captions.pipe_blocks(sys.stdin.buffer) if piped else captions.microphone_blocks()
    settings = captions.live_settings(decoding, margin_s)
    transcriber = Transcriber.from_model(model, settings, hardware)
    say(f"live: {model} ({hardware.describe()})")
    write = partial(print, end="", flush=True)
    captions.caption(blocks, transcriber, captions.CaptionSettings(with_prompt=with_prompt), write)
    return OK


def report(folders: tuple[Path, ...], /, *, out: Path | None = None) -> int:
    """Write one page about finished runs, side by side, and comparisons of models.

    Args:
        folders: each of a run that has come to its end, or of what evaluate leaves.
        out: the page; report.html in the folder when left out, and here if there are several.
    """
    if not folders:
        raise ValueError("name at least one folder of a finished run or of a comparison")
    path = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    print(dw.write_report(path, [dw.read_facts(folder) for folder in folders]))
    return OK


COMMANDS: dict[str, Callable[..., int]] = {
    command.__name__.rstrip("_"): command
    for command in (
        *(transcribe, distil, run, plan, data, import_, label, filter_, student, delta, heads),
        *(train, tensorboard, evaluate, export, serve, live, report),
    )
}


def main() -> None:
    """Run the command line and exit with its status."""
    if "WORLD_SIZE" not in os.environ:
        sys.exit(call(sys.argv[1:]))
    from distilwhisper.training.ranks import ends_with_its_error

    with ends_with_its_error():  # torchrun has started this process beside others
        sys.exit(call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every console is UTF-8
    name, *rest = arguments or ["--help"]
    if name == "--version":
        print(dw.__version__)
        return OK
    if name in ("-h", "--help"):
        print(_help(), file=sys.stdout if arguments else sys.stderr)
        return OK if arguments else USAGE
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see distilwhisper --help"
        print(f"distilwhisper: error: there is no command {name!r}; {hint}", file=sys.stderr)
        return USAGE
    command, rest = COMMANDS[name], _each_value(rest)
    return status_of(
        lambda: tyro.cli(command, args=rest, prog=f"distilwhisper {name}", config=_CONFIG),
        program="distilwhisper",
    )


def _each_value(arguments: Sequence[str]) -> list[str]:
    """Name the option before each of several formats, so that none takes a file's place."""
    known, spread = {*get_args(TranscriptFormat), "all"}, list[str]()
    for argument in arguments:
        option = spread[-1].replace("_", "-") if spread else ""
        if argument in known and spread[-2:-1] == ["--format"] and option in known:
            spread.append("--format")
        spread += argument.split(",") if option in _NUMBERS else [argument]
    return spread


def status_of(command: Callable[[], int], *, program: str) -> int:
    """Run a command, which parses its arguments, and return its exit status.

    What it logs is shown; an error is a line of the log, behind the program's name.
    """
    with showing_progress():
        try:
            try:
                return command()
            finally:
                sys.stdout.flush()
        except SystemExit as stop:
            return USAGE if stop.code else OK
        except KeyboardInterrupt:
            say(f"{program}: interrupted; what is finished is kept: the command can be run again")
            return INTERRUPTED
        except BrokenPipeError:  # whoever read the output, such as head, wants no more of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
            return SOME_FAILED
        except (dw.DistilwhisperError, OSError, ValueError) as error:
            say(f"{program}: error: {_why(error)}")
            if isinstance(error, dw.DistilwhisperError):  # first: TornShard is a ValueError too
                return error.exit_status
            return SOME_FAILED if isinstance(error, OSError) else USAGE


def _help() -> str:
    width = max(map(len, COMMANDS))
    summaries = {name: (command.__doc__ or "").split("\n")[0] for name, command in COMMANDS.items()}
    commands = "\n".join(f"  {name:{width}}  {summary}" for name, summary in summaries.items())
    return f"""\
usage: distilwhisper COMMAND ...

Make big Whisper speech models small, fast and trustworthy, with proof.

{commands}

A command lists its options with --help; --version prints the version."""


def _name_each(failed: Mapping[str, str | None]) -> int:
    """Name every input that failed, and return the exit status."""
    for name, problem in failed.items():
        line = problem if problem and problem.startswith(f"{name}: ") else f"{name}: {problem}"
        say(f"distilwhisper: failed: {line}")
    return SOME_FAILED if failed else OK


def _why(error: Exception | None) -> str:
    """Return an error as a person reads it: without the system's number, the name in front."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return str(error)


def _json(value: Mapping[str, Any]) -> str:
    return dumps(value, ensure_ascii=False, indent=2)
