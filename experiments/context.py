"""What an experiment works with: models and sets by name, and results that are stored."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Generic

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.evaluation.bootstrap import Resampling
from distilwhisper.evaluation.comparison import Evaluation
from distilwhisper.files import write_atomic
from distilwhisper.run.stages import fingerprint
from experiments import tables
from experiments.cells import Arm, EvalSet, digest, evaluate_cells, model_folder
from experiments.results import Key, Result, Row, rows_of, summarise
from experiments.settings import OwnSettings


@dataclass(frozen=True)
class Model:
    """A model, and how long its chunks are."""

    name: str  # in tables
    path: str  # folder or hub id
    chunk_s: float = 30.0


@dataclass(frozen=True)
class Context(Generic[OwnSettings]):
    """What an experiment works with."""

    settings: OwnSettings
    folder: Path  # of all experiments
    force: bool = False  # begin anew what was made of a model or manifest that has changed

    # Models and sets

    @cached_property
    def teacher(self) -> Model:
        """The teacher."""
        return self.model(self.settings.teacher)

    @cached_property
    def student(self) -> Model | None:
        """The student; None where there is none."""
        named = self.settings.student
        return None if named is None else self.model(named)

    @property
    def distilled(self) -> list[Model]:
        """The teacher, and the student where there is one."""
        return [self.teacher] + ([self.student] if self.student is not None else [])

    @property
    def models(self) -> list[Model]:
        """The teacher, the student where there is one, and all others."""
        return self.distilled + [self.model(path) for path in self.settings.others]

    def model(self, path: str) -> Model:
        """Name a model by the last part of its path, or by all of it where two share that."""
        settings = self.settings
        known = [settings.teacher, settings.student, *settings.others, *chain(*settings.pairs)]
        names = [_short_name(other) for other in dict.fromkeys(known) if other]
        short = _short_name(path)
        is_student = path == settings.student or path in (draft for _, draft in settings.pairs)
        return Model(
            name=short if names.count(short) <= 1 else path,
            path=path,
            chunk_s=settings.student_chunk_s if is_student else settings.teacher_chunk_s,
        )

    @property
    def in_paper(self) -> dict[str, str]:
        """Names of the teacher and the student to those of the paper's models beside them."""
        names = [model.name for model in self.distilled]
        return dict(zip(names, (tables.TEACHER, tables.STUDENT), strict=False))

    @property
    def short(self) -> list[EvalSet]:
        """Sets of short utterances."""
        return self._sets(self.settings.short)

    @property
    def long(self) -> list[EvalSet]:
        """Sets of long recordings."""
        return self._sets(self.settings.long)

    def arm(self, model: Model, name: str | None = None, **decoding: Any) -> Arm:
        """Return a model at work as the settings say, but for what is named.

        Args:
            model: what transcribes.
            name: of the arm; the model's when left out.
            decoding: fields of :class:`DecodingSettings`.
        """
        settings: DecodingSettings = replace(
            self.settings.decoding, **{"chunk_s": model.chunk_s, **decoding}
        )
        return Arm(
            name or model.name,
            model.path,
            settings,
            self.settings.hardware,
            noise_seed=self.settings.seed,
        )

    def arms(self, models: Iterable[Model]) -> dict[str, Arm]:
        """Return models at work as the settings say, by name."""
        return {model.name: self.arm(model) for model in models}

    def chunks_of(self, models: Iterable[Model]) -> str:
        """Tell, below a table of long recordings, how long the chunks of models are."""
        lengths = ", ".join(f"{model.name} {model.chunk_s:g} s" for model in models)
        return f"Chunks: {lengths}."

    # Results

    def evaluate(
        self,
        arms: Mapping[Key, Arm],
        sets: Sequence[EvalSet],
        *,
        against: Callable[[Key], Key] | None = None,
        more: Mapping[Key, Mapping[str, Any]] | None = None,
    ) -> dict[Key, Result]:
        """Return what arms make of sets, stored for all experiments, and summed up.

        Args:
            arms: under any keys.
            sets: that all of them transcribe.
            against: as for :func:`results.summarise`, which is given the rest.
            more: likewise.
        """
        cells = evaluate_cells(arms.values(), sets, self.folder / "cells", force=self.force)
        rows = {
            key: [row for evaluation in cells[arm.name] for row in rows_of(evaluation)]
            for key, arm in arms.items()
        }
        return self.summarise(rows, against=against, more=more)

    def cells(self, arm: Arm, sets: Sequence[EvalSet]) -> list[Evaluation]:
        """Return an arm's evaluations, one for each set, with what decoding cost."""
        return evaluate_cells([arm], sets, self.folder / "cells", force=self.force)[arm.name]

    def summarise(
        self,
        rows: Mapping[Key, Sequence[Row]],
        *,
        against: Callable[[Key], Key] | None = None,
        more: Mapping[Key, Mapping[str, Any]] | None = None,
    ) -> dict[Key, Result]:
        """Sum up arms as :func:`results.summarise`, drawn as the settings say."""
        resampling = Resampling(self.settings.resamples, seed=self.settings.seed)
        return summarise(rows, resampling, against=against, more=more)

    def remember(self, kind: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """Return a result that was stored under a key, or make and store it.

        Args:
            kind: a word for what it is.
            key: all that shapes it, as JSON can hold it.
            make: called where there is none; returns what JSON can hold.
        """
        path = self.folder / "results" / kind / f"{digest(key)}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["value"]
        value = json.loads(json.dumps(make()))
        record = {"key": key, "value": value}
        write_atomic(path, json.dumps(record, indent=1, default=str) + "\n")
        return value

    def transcriber(self, arm: Arm) -> Transcriber:
        """Return an arm's transcriber, for what evaluation cannot do.

        Arms of the same models share them; the caches are each one's own, and go with it.
        """
        key = arm.model, arm.draft, arm.hardware
        if key not in self._loaded:
            self._loaded[key] = Transcriber.from_model(
                str(model_folder(arm.model)), arm.decoding, arm.hardware, draft=arm.draft
            )
        return replace(self._loaded[key], settings=arm.decoding)

    def fingerprint(self, model: str) -> str:
        """Return what tells a model from another of the same name; read once."""
        if model not in self._fingerprints:
            self._fingerprints[model] = fingerprint(model_folder(model))
        return self._fingerprints[model]

    def _sets(self, manifests: Sequence[str]) -> list[EvalSet]:
        """Name sets by their files, or by their folders where the file is manifest.jsonl."""
        names = [set_name(other) for other in (*self.settings.short, *self.settings.long)]
        return [
            EvalSet(name if names.count(name) == 1 else manifest, Path(manifest))
            for manifest in manifests
            for name in [set_name(manifest)]
        ]

    @cached_property
    def _loaded(self) -> dict[Any, Transcriber]:
        return {}

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {}


def _short_name(model: str) -> str:
    return Path(model).name.removeprefix("whisper-")


def set_name(manifest: str) -> str:
    """Return what a set is called, unless two are called so."""
    path = Path(manifest)
    return path.parent.name if path.stem == "manifest" else path.stem
