"""What an experiment works with: models and sets by name, and results that are stored."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.evaluation.bootstrap import Resampling
from distilwhisper.run.files import write_atomic
from distilwhisper.run.stages import fingerprint
from experiments import paper
from experiments.cells import Arm, Cell, EvalSet, digest, evaluate_cells, model_folder
from experiments.scores import ArmSummary, Row, summarise
from experiments.settings import ReproduceSettings


@dataclass(frozen=True)
class Model:
    """A model, and how long its chunks are."""

    name: str  # in tables
    path: str  # folder or hub id
    chunk_s: float = 30.0


@dataclass(frozen=True)
class Context:
    """What an experiment works with."""

    settings: ReproduceSettings
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
        """Names of the models to those of the paper's models that they stand beside."""
        roles = zip(self.distilled, (paper.TEACHER, paper.STUDENT), strict=False)
        return {m.name: m.name for m in self.models} | {m.name: theirs for m, theirs in roles}

    @property
    def short(self) -> list[EvalSet]:
        """Sets of short utterances."""
        return self._sets(self.settings.short)

    @property
    def long(self) -> list[EvalSet]:
        """Sets of long recordings."""
        return self._sets(self.settings.long)

    @property
    def train(self) -> EvalSet:
        """What is labelled and trained on; an experiment that asks for it needs "train"."""
        assert self.settings.train is not None
        return EvalSet(_set_name(self.settings.train), Path(self.settings.train))

    def arm(self, model: Model, name: str | None = None, **decoding: Any) -> Arm:
        """Return a model at work as the settings say, but for what is named.

        Args:
            model: who hears.
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

    def chunks_of(self, models: Iterable[Model]) -> str:
        """Say, below a table of long recordings, how long the chunks are that models hear."""
        said = ", ".join(f"{model.name} {model.chunk_s:g} s" for model in models)
        return f"Chunks: {said}."

    # Results

    def evaluate(self, arm: Arm, sets: Sequence[EvalSet]) -> dict[str, Cell]:
        """Return what an arm hears of sets, by set; stored for all experiments."""
        return evaluate_cells([arm], sets, self.folder / "cells", force=self.force)[arm.name]

    def evaluate_all(self, arms: Iterable[Arm], sets: Sequence[EvalSet]) -> dict[str, list[Row]]:
        """Return the rows of what several arms hear, by arm."""
        found = evaluate_cells(arms, sets, self.folder / "cells", force=self.force)
        return {
            name: [row for cell in cells.values() for row in cell.rows]
            for name, cells in found.items()
        }

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

    def summarise(
        self,
        rows: Mapping[str, Sequence[Row]],
        *,
        against: Mapping[str, str],
        more: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, ArmSummary]:
        """Sum up arms as :func:`scores.summarise`, drawn as the settings say."""
        return summarise(
            rows,
            against=against,
            resampling=Resampling(self.settings.resamples, seed=self.settings.seed),
            more=more,
        )

    def against_teacher(self, rows: Mapping[str, Sequence[Row]]) -> dict[str, ArmSummary]:
        """Sum up arms that are models by their names, each compared with the teacher."""
        return self.summarise(rows, against=dict.fromkeys(rows, self.teacher.name))

    def _sets(self, manifests: Sequence[str]) -> list[EvalSet]:
        """Name sets by their files, or by their folders where the file is manifest.jsonl."""
        names = [_set_name(other) for other in (*self.settings.short, *self.settings.long)]
        return [
            EvalSet(name if names.count(name) == 1 else manifest, Path(manifest))
            for manifest in manifests
            for name in [_set_name(manifest)]
        ]

    @cached_property
    def _loaded(self) -> dict[Any, Transcriber]:
        return {}

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {}


def _short_name(model: str) -> str:
    return Path(model).name.removeprefix("whisper-")


def _set_name(manifest: str) -> str:
    path = Path(manifest)
    return path.parent.name if path.stem == "manifest" else path.stem
