"""The front door: a model that transcribes, and the stages that make a student of it.

    import distilwhisper as dw

    model = dw.load_model("base")
    result = model.transcribe("talk.mp3", language="en")
    result.save("talk.srt")

The command line does the same with the same settings.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from inspect import Parameter, signature
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.distilling import distil_labels
from distilwhisper.evaluation.comparison import Comparison
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.model.hardware import Backend, DTypeName, Hardware
from distilwhisper.progress import showing_progress
from distilwhisper.run.processes import EngineName, EngineSettings
from distilwhisper.run.settings import SettingsError, build_settings
from distilwhisper.speech.arrays import Sound, to_samples
from distilwhisper.speech.audio import Note, Samples
from distilwhisper.speech.sources import NamedBytes, OpenFile
from distilwhisper.speech.units import SAMPLE_RATE_HZ
from distilwhisper.stages.evaluate import evaluate_all
from distilwhisper.stages.filter import FilterSummary, filter_labels
from distilwhisper.stages.label import LabelSummary, label_manifest
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import EvaluateSettings, LabelSettings
from distilwhisper.text.transcript import Segment, Transcript
from distilwhisper.training.settings import TrainingSettings
from distilwhisper.transcribe import Listening, TranscribedFile, stream_file, transcribe_files

__all__ = ["Model", "distil", "evaluate", "filter", "label", "load_model"]

DEFAULT_MODEL = "base"

Audio: TypeAlias = str | PathLike[str] | bytes | OpenFile | Sound
Function = TypeVar("Function", bound=Callable[..., Any])
Settings = TypeVar("Settings")

_log = logging.getLogger(__name__)


def _with_settings(*kinds: type) -> Callable[[Function], Function]:
    """Show the fields of settings among a function's keywords, for help and editors."""

    def decorate(function: Function) -> Function:
        own = signature(function)
        named = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        taken = {parameter.name for parameter in named} | {"decoding"}
        for kind in kinds:
            default = kind()
            for one in fields(kind):
                if one.name not in taken:
                    taken.add(one.name)
                    value = getattr(default, one.name)
                    named.append(
                        Parameter(
                            one.name, Parameter.KEYWORD_ONLY, default=value, annotation=one.type
                        )
                    )
        vars(function)["__signature__"] = own.replace(parameters=named)
        return function

    return decorate


@dataclass(frozen=True)
class Model:
    """A loaded Whisper model; :func:`load_model` makes it.

    Threads may share it. Every call has settings of its own.

    Attributes:
        name: as it was asked for: a short name, a hub id or a folder.
        hardware: where it runs, and in which numbers.
        draft: the name of the model that drafts for it, if one does.
    """

    name: str
    hardware: Hardware = field(repr=False)
    draft: str | None = field(repr=False)
    transcriber: Transcriber = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The folder with its weights, in the Hugging Face layout."""
        return self.transcriber.checkpoint.folder

    @property
    def is_multilingual(self) -> bool:
        """Whether it knows languages other than English."""
        return self.transcriber.tokenizer.is_multilingual

    @_with_settings(DecodingSettings)
    def transcribe(
        self,
        audio: Audio,
        *,
        sampling_rate: int = SAMPLE_RATE_HZ,
        audio_track: int | str | None = None,
        channel: int | Literal["mix", "each"] = "mix",
        strict: bool = False,
        progress: bool = False,
        **options: Any,
    ) -> Transcript:
        """Transcribe a recording of any length.

        Args:
            audio: a path or URL of audio or video, the bytes of such a file, an open binary file,
                or samples: floats of about [-1, 1] or integers, of two channels the mean.
            sampling_rate: of samples, in Hz.
            audio_track: of a file with several: its number from 0, or its language.
            channel: of a file: its number from 0, or the mean of all; "each": one transcript of
                all of them, whose segments name their channel.
            strict: refuse a damaged file, instead of transcribing what can be read of it.
            progress: show a bar on standard error.
            **options: the fields of :class:`~distilwhisper.DecodingSettings`, such as language,
                word_timestamps, vad_filter, beam_size, initial_prompt.

        Returns:
            Text, language, duration, and segments with their times in seconds. What is odd about
            the sound stands in its notes, and is logged as a warning.

        Raises:
            OSError, CorruptAudio: the audio cannot be read.
            ValueError: the samples are no sound, or there is no such option.
        """
        done: list[TranscribedFile] = []
        with _progress(progress):
            transcribe_files(
                self._for_call(options),
                [_source(audio, sampling_rate)],
                on_done=done.append,
                listening=Listening(audio_track, channel, strict),
            )
        (result,) = done
        if result.transcript is None:
            assert result.error is not None
            raise result.error
        for note in result.notes:
            _warn(note)
        return result.transcript

    @_with_settings(DecodingSettings)
    def stream(
        self,
        audio: Audio,
        *,
        sampling_rate: int = SAMPLE_RATE_HZ,
        audio_track: int | str | None = None,
        channel: int | Literal["mix"] = "mix",
        strict: bool = False,
        **options: Any,
    ) -> Iterator[Segment]:
        """Transcribe a recording, and yield its segments as they are known, in order.

        A segment comes as soon as what follows can change it no more. Those of chunked
        transcription (the default) come a chunk at a time.

        Args:
            audio: as for :meth:`transcribe`.
            sampling_rate: likewise.
            audio_track: likewise.
            channel: likewise, but for "each".
            strict: likewise.
            **options: likewise.

        Raises:
            OSError, CorruptAudio, ValueError: as for :meth:`transcribe`, with the first segment.
        """
        return stream_file(
            self._for_call(options),
            _source(audio, sampling_rate),
            on_note=_warn,
            listening=Listening(audio_track, channel, strict),
        )

    def _for_call(self, options: dict[str, Any]) -> Transcriber:
        return self.transcriber.with_settings(_settings(DecodingSettings, options))


def load_model(
    name: str | PathLike[str] = DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: DTypeName = "auto",
    backend: Backend = Hardware.backend,
    draft: str | PathLike[str] | None = None,
) -> Model:
    """Load a model.

    Args:
        name: a short name (tiny, base.en, large-v3, turbo, distil-large-v3.5 ...), a hub id
            ``owner/name``, or a folder: a Hugging Face model or a student's delta.
        device: cpu, cuda, cuda:1 ..., mps; auto takes a CUDA GPU where there is one.
        dtype: auto takes 16 bits where the processor multiplies them natively.
        backend: what computes; see :class:`~distilwhisper.Hardware`.
        draft: a smaller model that drafts for this one, such as its student: the same text, sooner
            if most of what it proposes is right.

    Raises:
        ModelNotFound: there is no such folder, and the hub does not give the model either.
        BadCheckpoint: it is no Whisper model, or is damaged.
        ValueError: the device is not there, or the draft does not fit.
    """
    hardware = Hardware(device, dtype, backend)
    drafting = None if draft is None else fspath(draft)
    transcriber = Transcriber.from_model(fspath(name), DecodingSettings(), hardware, draft=drafting)
    return Model(fspath(name), hardware, drafting, transcriber)


@_with_settings(LabelSettings, DecodingSettings)
def label(
    manifest: str | PathLike[str],
    *,
    teacher: Model | str | PathLike[str],
    out: str | PathLike[str],
    engine: EngineName = "local",
    retry_failed: bool = False,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> LabelSummary:
    """Label a manifest's audio with a teacher, going on where a call before stopped.

    Args:
        manifest: a .jsonl file with an utterance a line, or a folder of shards.
        teacher: the model, or its name.
        out: folder of the labels.
        engine: which processes do it.
        retry_failed: try again what failed before.
        force: begin anew where settings or inputs have changed.
        progress: show a bar on standard error.
        **options: the fields of :class:`~distilwhisper.LabelSettings` and
            :class:`~distilwhisper.DecodingSettings`.

    Returns:
        What was done; where a folder of labels is wanted, it stands for its folder.

    Raises:
        StageChanged: the folder holds labels made from or with something else.
    """
    name, hardware, draft = _named(teacher)
    with _progress(progress):
        return label_manifest(
            Path(manifest),
            name,
            Path(out),
            _settings(LabelSettings, options),
            hardware=hardware,
            draft=draft,
            engine=EngineSettings(engine),
            retry_failed=retry_failed,
            force=force,
        )


@_with_settings(FilterSettings)
def filter(  # noqa: A001  the stage's name
    manifest: str | PathLike[str],
    labels: str | PathLike[str],
    *,
    out: str | PathLike[str],
    second_labels: str | PathLike[str] | None = None,
    figures: bool = False,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> FilterSummary:
    """Judge every label: keep or drop, with a reason.

    Args:
        manifest: what was labelled, with references where there are any.
        labels: folder of the labels, or what :func:`label` returns.
        out: folder of the verdicts.
        second_labels: folder of other labels of the same utterances, to compare with.
        figures: draw what is kept too.
        force: begin anew where settings or inputs have changed.
        progress: show a bar on standard error.
        **options: the fields of :class:`~distilwhisper.FilterSettings`, such as max_wer.

    Returns:
        What was kept, and why the rest was not; it stands for its folder too.
    """
    with _progress(progress):
        return filter_labels(
            Path(manifest),
            Path(labels),
            Path(out),
            _settings(FilterSettings, options),
            second_labels=None if second_labels is None else Path(second_labels),
            figures=figures,
            force=force,
        )


@_with_settings(StudentSettings, TrainingSettings)
def distil(
    manifest: str | PathLike[str],
    labels: str | PathLike[str],
    verdicts: str | PathLike[str],
    *,
    teacher: Model | str | PathLike[str],
    out: str | PathLike[str],
    validation: str | PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> Model:
    """Make a student of a teacher, and train it on the labels that were kept.

    Args:
        manifest: what was labelled.
        labels: folder of the labels, or what :func:`label` returns.
        verdicts: folder of the verdicts, or what :func:`filter` returns.
        teacher: the model, or its name.
        out: folder of the run; a call that is repeated goes on where it stopped.
        validation: a manifest with references that picks the best checkpoint; left out, some
            kept utterances are held out, speakers apart.
        force: begin anew where settings or inputs have changed.
        progress: show bars on standard error.
        **options: the fields of :class:`~distilwhisper.StudentSettings`, such as decoder_layers,
            and of :class:`~distilwhisper.TrainingSettings`, such as steps. What is left out is
            chosen for some hours of speech.

    Returns:
        The trained student, loaded from ``out/student``.
    """
    name, hardware, _ = _named(teacher)
    known = {one.name for one in fields(StudentSettings)}
    chosen = {key: value for key, value in options.items() if key in known}
    with _progress(progress):
        student = distil_labels(
            Path(manifest),
            Path(labels),
            Path(verdicts),
            teacher=name,
            hardware=hardware,
            out=Path(out),
            validation=None if validation is None else Path(validation),
            student=_settings(StudentSettings, chosen),
            training={key: value for key, value in options.items() if key not in known},
            force=force,
        )
    return load_model(
        student, device=hardware.device, dtype=hardware.dtype, backend=hardware.backend
    )


@_with_settings(EvaluateSettings, DecodingSettings)
def evaluate(
    model: Model | str | PathLike[str],
    manifests: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    against: Sequence[Model | str | PathLike[str]] = (),
    noise: Sequence[str] = ("none",),
    out: str | PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> Comparison:
    """Transcribe sets, count the errors, and compare models on the same utterances.

    Args:
        model: the model, or its name.
        manifests: a manifest with references, or several.
        against: other models; the first of them is the one that all others are compared with.
        noise: what the sound goes through first; "none", or as the command line takes it.
        out: folder of the results, which a repeated call goes on from; left out, they are not kept.
        force: begin anew where settings or inputs have changed.
        progress: show bars on standard error.
        **options: the fields of :class:`~distilwhisper.EvaluateSettings` and
            :class:`~distilwhisper.DecodingSettings`.

    Returns:
        Error rates with intervals, means over the sets, and differences with their significance.
    """
    name, hardware, draft = _named(model)
    paths = [manifests] if isinstance(manifests, (str, PathLike)) else manifests
    kept: AbstractContextManager[str] = (
        tempfile.TemporaryDirectory() if out is None else nullcontext(fspath(out))
    )
    with _progress(progress), kept as folder:
        return evaluate_all(
            [name, *(_named(other)[0] for other in against)],
            [Path(path) for path in paths],
            [None if text == "none" else text for text in noise],
            Path(folder),
            _settings(EvaluateSettings, options),
            baseline=1 if against else None,
            hardware=hardware,
            draft=draft,
            force=force,
        )


def _settings(kind: type[Settings], options: dict[str, Any]) -> Settings:
    """Build settings of keywords; those of decoding go into theirs."""
    table = {name: _plain(value) for name, value in options.items()}
    if isinstance(table.get("temperature"), (int, float)) and kind is not TrainingSettings:
        table["temperature"] = (table["temperature"],)
    own = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    if "decoding" in own:
        inner = {name: value for name, value in table.items() if name not in own}
        table = {name: value for name, value in table.items() if name in own}
        table |= {"decoding": inner} if inner else {}
    try:
        return build_settings(kind, table, where="the options")
    except SettingsError as error:
        raise SettingsError(str(error).replace("decoding.", "")) from None


def _plain(value: Any) -> Any:
    return fspath(value) if isinstance(value, PathLike) else value


def _named(model: Model | str | PathLike[str]) -> tuple[str, Hardware, str | None]:
    """Return a model's name, where it runs, and what drafts for it."""
    if isinstance(model, Model):
        return model.name, model.hardware, model.draft
    return fspath(model), Hardware(), None


def _source(audio: Audio, sampling_rate: int) -> str | NamedBytes | Samples:
    if isinstance(audio, (str, PathLike)):
        return fspath(audio)
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return NamedBytes(bytes(audio), "the audio")
    if hasattr(audio, "read"):
        return NamedBytes(audio.read(), str(getattr(audio, "name", "the audio")))
    return to_samples(audio, "the audio", sampling_rate=sampling_rate)


def _progress(shown: bool) -> AbstractContextManager[None]:
    return showing_progress() if shown else nullcontext()


def _warn(note: Note) -> None:
    _log.warning(note.text)
