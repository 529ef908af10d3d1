"""Stage 1: a teacher to pseudo-labels, lost by nothing that can happen on the way.

    OUT/stage.json         what the labels were made from and with
    OUT/shard-00000.jsonl  one label per utterance, in the manifest's order

A shard is a fixed run of utterances and appears whole, by rename: a run that is killed loses one
shard at most, and a run that is repeated makes only what is not there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Label, Manifest, Utterance, read_manifest
from distilwhisper.corpus.store import read_jsonl, shard_path, write_jsonl
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import DecodedWindow
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import resolve_model
from distilwhisper.progress import progress_bar, say
from distilwhisper.run import fingerprint, lock_folder, open_stage
from distilwhisper.speech.audio import WINDOW_S, WINDOW_SAMPLES, Samples, samples_to_seconds


@dataclass(frozen=True)
class LabelSettings:
    """How a corpus is labelled."""

    decoding: DecodingSettings = field(
        default_factory=lambda: DecodingSettings(temperatures=(0.0,))
    )
    """How audio becomes text. Labels are greedy: what fails is filtered out, not sampled again."""
    shard_size: int = 256
    """Utterances per shard: what a killed run loses at most."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, found {self.shard_size}")


@dataclass(frozen=True)
class LabelSummary:
    """What a labelling run left behind."""

    n_labels: int
    failed: dict[str, str]  # utterance id to what went wrong


def label_manifest(
    manifest_path: Path,
    teacher: str,
    out: Path,
    settings: LabelSettings,
    *,
    hardware: Hardware | None = None,
    draft: str | None = None,
    force: bool = False,
) -> LabelSummary:
    """Label every utterance of a manifest with a teacher, going on where a run before stopped.

    Args:
        manifest_path: what to label.
        teacher: model folder or hub id.
        out: folder of the labels.
        settings: how to decode.
        hardware: device and dtype.
        draft: model that drafts for the teacher; it changes the speed, not the labels.
        force: begin anew where settings or inputs have changed.

    Raises:
        StageChanged: the folder holds labels made from or with something else.
    """
    hardware = hardware or Hardware()
    manifest = read_manifest(manifest_path)
    folder = resolve_model(teacher)
    size = settings.shard_size
    utterances = manifest.utterances
    shards = [utterances[at : at + size] for at in range(0, len(utterances), size)]
    with lock_folder(out):
        open_stage(
            out,
            settings={
                **_what_shapes_labels(settings),
                "dtype": hardware.dtype,
                "backend": hardware.backend,
            },
            inputs={"manifest": fingerprint(manifest_path), "teacher": fingerprint(folder)},
            force=force,
        )
        missing = [i for i in range(len(shards)) if not shard_path(out, i).exists()]
        if missing:
            transcriber = Transcriber.from_model(
                str(folder), settings.decoding, hardware, draft=draft
            )
            transcriber.check_languages({u.id: u.language for u in utterances})
            n_left = sum(len(shards[i]) for i in missing)
            say(
                f"label: {n_left} of {len(utterances)} utterances to label with {teacher} "
                f"({hardware.describe()})"
            )
            with progress_bar("label", n_left, "utterances") as advance:
                for i in missing:
                    labels = label_utterances(transcriber, manifest, shards[i], on_progress=advance)
                    write_jsonl(shard_path(out, i), [label.to_dict() for label in labels])
            if draft is not None:
                say(f"label: {transcriber.counts.describe_draft()}")
    return _summary(shard_path(out, i) for i in range(len(shards)))


def label_utterances(
    transcriber: Transcriber,
    manifest: Manifest,
    utterances: Sequence[Utterance],
    *,
    on_progress: Callable[[int], None],
) -> list[Label]:
    """Label some utterances.

    An utterance that cannot be read or is no single window becomes a label with an error.

    Args:
        transcriber: the teacher.
        manifest: which the utterances are of.
        utterances: some of its.
        on_progress: called with the number of utterances just done.

    Returns:
        Their labels, in the same order.
    """
    labels: dict[str, Label] = {}
    heard: list[Utterance] = []

    def readable() -> Iterator[tuple[Samples, str | None]]:
        for utterance, samples in load_utterances(manifest, utterances):
            problem = _problem(samples)
            if problem is not None:
                labels[utterance.id] = _failed(utterance, problem)
                on_progress(1)
            elif not isinstance(samples, Exception):
                heard.append(utterance)
                yield samples, utterance.language

    for number, window in transcriber.decode_each(readable()):
        utterance = heard[number]
        labels[utterance.id] = _label(utterance, window, transcriber.tokenizer.eot)
        on_progress(1)
    return [labels[utterance.id] for utterance in utterances]


def _problem(samples: Samples | Exception) -> str | None:
    if isinstance(samples, Exception):
        return str(samples)
    if len(samples) > WINDOW_SAMPLES:
        return (
            f"an utterance must last at most {WINDOW_S:g} s, found "
            f"{samples_to_seconds(len(samples)):.2f} s: cut it at a pause"
        )
    return None


def _label(utterance: Utterance, window: DecodedWindow, eot: int) -> Label:
    """Keep the ids as the decoder saw them; a text that was cut off has no end token."""
    return Label(
        id=utterance.id,
        token_ids=(*window.prompt_ids, *window.token_ids, *([eot] if window.finished else [])),
        text=window.text,
        language=window.language,
        avg_logprob=round(window.avg_logprob, 6),
        no_speech_prob=round(window.no_speech_prob, 6),
        compression_ratio=round(window.compression_ratio, 6),
        finished=window.finished,
        error=None,
    )


def _failed(utterance: Utterance, problem: str) -> Label:
    return Label(
        id=utterance.id,
        token_ids=(),
        text="",
        language=utterance.language,
        avg_logprob=None,
        no_speech_prob=None,
        compression_ratio=None,
        finished=False,
        error=problem,
    )


def _what_shapes_labels(settings: LabelSettings) -> dict[str, Any]:
    """All settings but those that a resumed run may change to fit its machine."""
    values = asdict(settings)
    for name in ("batch_size", "draft_tokens"):
        del values["decoding"][name]
    return values


def _summary(paths: Iterable[Path]) -> LabelSummary:
    rows = [row for path in paths for row in read_jsonl(path)]
    return LabelSummary(len(rows), {row["id"]: row["error"] for row in rows if row["error"]})
