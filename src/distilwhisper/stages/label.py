"""Stage 1: pseudo-label a corpus with a teacher; safe to interrupt.

    OUT/stage.json         what the labels were made from and with
    OUT/shard-00000.jsonl  one label per utterance, in the manifest's order
    OUT/problems.jsonl     the files that no label could be made of, and why; absent without any

A shard is a fixed run of utterances and appears whole, by rename: a run that is killed loses one
shard at most, and a run that is repeated makes only what is not there. A shard that somebody has
changed is refused.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from distilwhisper.corpus.batches import is_as_labelled, load_utterances
from distilwhisper.corpus.records import Label, Manifest, Utterance, in_language, read_manifest
from distilwhisper.corpus.store import check_shard, read_jsonl, shard_path, write_jsonl, write_shard
from distilwhisper.decoding.slots import Counts
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import DecodedWindow
from distilwhisper.engines import DecodingJob, ShardedSet, run_stage
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.layout import require_whole
from distilwhisper.progress import Advance, say
from distilwhisper.run.locks import Part, lock_folder
from distilwhisper.run.stages import fingerprint, open_stage
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.sources import fingerprint as fingerprint_of_sound
from distilwhisper.speech.units import WINDOW_S, WINDOW_SAMPLES, samples_to_seconds
from distilwhisper.stages.settings import LabelSettings, Workers


@dataclass(frozen=True)
class LabelSummary:
    """What a labelling run left behind; as a path it is the folder of the labels."""

    folder: Path = field(compare=False)
    n_labels: int  # one of every utterance; those that failed hold an error
    failed: dict[str, str]  # utterance id to what went wrong

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        n_good = self.n_labels - len(self.failed)
        return f"{n_good} of {self.n_labels} labels" if self.failed else f"{n_good} labels"


def label_manifests(
    outs: Mapping[Path, Path],
    teacher: str,
    settings: LabelSettings,
    workers: Workers | None = None,
    *,
    part: Part | None = None,
    retry_failed: bool = False,
    force: bool = False,
) -> list[LabelSummary]:
    """Label manifests, going on where a run before stopped; return a summary of each.

    ``outs`` holds the folder of the labels of each manifest. The teacher is loaded once at most; a
    draft changes the speed, not the labels. With a part its shards alone are done, while other
    processes may do others; the same without one, afterwards, sees that none is missing.
    ``retry_failed`` tries again what failed, and what has other sound now than was labelled.

    Raises:
        StageChanged: a folder holds labels made from or with something else.
        ChangedShard: somebody has edited the labels.
        FolderInUse: another process works in the folder, or on this part of it.
        ValueError: force with a part, whose neighbours it would delete.
    """
    if part is not None and force:
        raise ValueError(
            f"force must be for a whole folder, found it with part {part}: delete "
            f"{', '.join(map(str, outs.values()))}, and start its parts anew"
        )
    workers, folder = workers or Workers(), resolve_model(teacher)
    hardware, draft = workers.hardware, workers.draft
    draft = None if draft is None else str(resolve_model(draft).absolute())
    table = {**asdict(settings), "dtype": hardware.dtype, "backend": hardware.backend}
    for name in ("batch_size", "draft_tokens"):  # a resumed run may change them, to fit its machine
        del table["decoding"][name]
    decoding, teacher_print = settings.decoding, fingerprint(folder)
    with ExitStack() as stack:
        sets = []
        for path, out in outs.items():
            manifest = in_language(read_manifest(path), decoding.language)
            inputs = {"manifest": fingerprint(path), "teacher": teacher_print}
            stack.enter_context(lock_folder(out, part))
            whole = partial(require_whole, folder)
            open_stage(out, settings=table, inputs=inputs, force=force, check=whole)
            place, size = out.absolute(), settings.shard_size
            sets.append(LabelSet(manifest, place, size, settings.pack, retry_failed))
        job = DecodingJob(tuple(sets), str(folder.absolute()), decoding, hardware, draft)
        costs: list[Counts] = run_stage("label", job, workers.engine, part=part)
        if draft is not None and costs:
            say(f"label: {sum(costs, Counts()).describe_draft()}")
        return [one.summary(out, part) for one, out in zip(sets, outs.values(), strict=True)]


@dataclass(frozen=True)
class LabelSet(ShardedSet):
    """Utterances to be labelled."""

    pack: bool
    retry_failed: bool

    def left(self, number: int) -> Sequence[Utterance]:
        """Return what of a shard is to be labelled: all, or to retry what failed, some; or none."""
        shard = shard_path(self.out, number)
        if self.retry_failed or not shard.exists():
            kept = self._kept(number)
            return [utterance for utterance in self.shard(number) if utterance.id not in kept]
        check_shard(shard)
        return ()

    def _kept(self, number: int) -> dict[str, dict[str, Any]]:
        """Return the rows of a shard that need not be made again, by id."""
        path = shard_path(self.out, number)
        if not path.exists():
            return {}
        source_of = {u.id: self.manifest.audio_source(u) for u in self.shard(number)}
        return {
            row["id"]: row
            for row in read_jsonl(path)
            if row["error"] is None and is_as_labelled(source_of[row["id"]], row.get("sound"))
        }

    def write(self, transcriber: Transcriber, number: int, on_progress: Advance) -> Counts:
        """Label a shard, and return what decoding it cost."""
        before, rows = transcriber.counts, self._kept(number)
        left = [utterance for utterance in self.shard(number) if utterance.id not in rows]
        labels = label_utterances(
            transcriber, self.manifest, left, pack=self.pack, on_progress=on_progress
        )
        rows |= {label.id: label.to_dict() for label in labels}
        write_shard(shard_path(self.out, number), [rows[u.id] for u in self.shard(number)])
        return transcriber.counts - before

    def summary(self, folder: Path, part: Part | None) -> LabelSummary:
        """Read what was labelled, and list the problems where that is all."""
        shards = [i for i in range(self.n_shards) if part is None or part.holds(i)]
        rows = [row for shard in shards for row in read_jsonl(shard_path(self.out, shard))]
        failed = {row["id"]: row["error"] for row in rows if row["error"]}
        if part is None:
            _write_problems(self.out / "problems.jsonl", self.manifest, failed)
        return LabelSummary(folder, len(rows), failed)


def label_utterances(
    transcriber: Transcriber,
    manifest: Manifest,
    utterances: Sequence[Utterance],
    *,
    pack: bool = False,
    on_progress: Advance,
) -> list[Label]:
    """Return labels of some of a manifest's utterances, in their order; with pack several a window.

    An utterance that cannot be read or is no single window becomes a label with an error.
    """
    labels: dict[str, Label] = {}
    decoding: list[tuple[Utterance, int, str]] = []  # with the number of samples, and the sound
    sound_of = cache(fingerprint_of_sound)  # utterances may be spans of one recording

    def readable() -> Iterator[tuple[Samples, str | None]]:
        for utterance, samples in load_utterances(manifest, utterances):
            if isinstance(samples, Exception):
                problem = str(samples)
            elif len(samples) > WINDOW_SAMPLES:
                problem = (
                    f"an utterance must last at most {WINDOW_S:g} s, found "
                    f"{samples_to_seconds(len(samples)):.2f} s: cut it at a pause, or leave it out "
                    f"(distilwhisper data MANIFEST --max-seconds {WINDOW_S:g} --out NEW)"
                )
            else:
                sound = sound_of(manifest.audio_source(utterance))
                decoding.append((utterance, len(samples), sound))
                yield samples, utterance.language
                continue
            labels[utterance.id] = Label(
                utterance.id, language=utterance.language, error=problem, finished=False
            )
            on_progress(1)

    decode = transcriber.decode_packed if pack else transcriber.decode_each
    for number, window in decode(readable()):
        utterance, n_samples, sound = decoding[number]
        label = _label(utterance, n_samples, window, transcriber.tokenizer.eot)
        labels[utterance.id] = replace(label, sound=sound)
        on_progress(1, samples_to_seconds(n_samples))
    return [labels[utterance.id] for utterance in utterances]


def _label(utterance: Utterance, n_samples: int, window: DecodedWindow, eot: int) -> Label:
    """Return a label of the ids as the decoder had them; a text cut off has no end token."""
    return Label(
        id=utterance.id,
        token_ids=(*window.prompt_ids, *window.token_ids, *([eot] if window.finished else [])),
        text=window.text,
        language=window.language,
        avg_logprob=_rounded(window.avg_logprob),
        no_speech_prob=_rounded(window.no_speech_prob),
        compression_ratio=_rounded(window.compression_ratio),
        finished=window.finished,
        duration_s=samples_to_seconds(n_samples),
        detected_language=window.detected_language,
        language_probability=_rounded(window.language_prob),
    )


def _rounded(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else round(number, 6)


def _write_problems(path: Path, manifest: Manifest, failed: Mapping[str, str]) -> None:
    """List every file with a problem once, with the ids of its utterances that have it."""
    ids = defaultdict[tuple[str, str], list[str]](list)
    for utterance in manifest.utterances:
        if utterance.id in failed:
            ids[manifest.audio_source(utterance), failed[utterance.id]].append(utterance.id)
    rows = [{"path": audio, "problem": why, "ids": own} for (audio, why), own in ids.items()]
    if not rows:
        path.unlink(missing_ok=True)
    elif not path.exists() or list(read_jsonl(path)) != rows:
        write_jsonl(path, rows)
