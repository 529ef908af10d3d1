"""A model that transcribes: the front door's first half, which needs no more than the core."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from inspect import Parameter, signature
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Backend, DTypeName, Hardware
from distilwhisper.progress import showing_progress, warn
from distilwhisper.run.settings import SettingsError, build_settings
from distilwhisper.speech.arrays import Sound, to_samples
from distilwhisper.speech.audio import Note, Samples
from distilwhisper.speech.sources import NamedBytes, OpenFile
from distilwhisper.speech.units import SAMPLE_RATE_HZ
from distilwhisper.text.transcript import Segment, Transcript
from distilwhisper.transcribe import Listening, stream_file, transcribe_files

DEFAULT_MODEL = "base"

Audio: TypeAlias = str | PathLike[str] | bytes | OpenFile | Sound
Function = TypeVar("Function", bound=Callable[..., Any])
Settings = TypeVar("Settings")


def with_settings(*kinds: type) -> Callable[[Function], Function]:
    """Show the fields of settings among a function's keywords, for help and editors."""

    def decorate(function: Function) -> Function:
        own = signature(function)
        shown = {p.name: p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD}
        for default in (kind() for kind in kinds):
            for one in fields(default):
                if one.name != "decoding":
                    keyword = Parameter(one.name, Parameter.KEYWORD_ONLY, annotation=one.type)
                    value = getattr(default, one.name)
                    shown.setdefault(one.name, keyword.replace(default=value))
        vars(function)["__signature__"] = own.replace(parameters=list(shown.values()))
        return function

    return decorate


def settings_of(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """Build settings of keywords; those of decoding go into their section.

    Raises:
        SettingsError: there is no such option, or no such value can be.
    """
    table = {k: fspath(v) if isinstance(v, PathLike) else v for k, v in options.items()}
    own = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    of_decoding = table if "timestamps" in own else {}
    if "decoding" in own:
        of_decoding = {name: value for name, value in table.items() if name not in own}
        table = {name: value for name, value in table.items() if name in own}
        table["decoding"] = of_decoding
    if isinstance(of_decoding.get("temperature"), (int, float)):
        of_decoding["temperature"] = (of_decoding["temperature"],)
    try:
        return build_settings(kind, table, where="the options")
    except SettingsError as error:
        raise SettingsError(str(error).replace("decoding.", "")) from None


@dataclass(frozen=True)
class Model:
    """A loaded Whisper model; :func:`load_model` makes it.

    Threads may share it. Every call has settings of its own. Pickled, it is its name: another
    process loads it.

    Attributes:
        name: as it was asked for: a short name, a hub id or a folder.
        hardware: where it runs, and in which numbers.
        draft: the name of the model that drafts for it, if one does.
    """

    name: str
    hardware: Hardware = field(repr=False)
    draft: str | None = field(repr=False)
    transcriber: Transcriber = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(load_model, draft=self.draft, **asdict(self.hardware)), (self.name,)

    @property
    def folder(self) -> Path:
        """The folder with its weights, in the Hugging Face layout."""
        return self.transcriber.checkpoint.folder

    @property
    def is_multilingual(self) -> bool:
        """Whether it knows languages other than English."""
        return self.transcriber.tokenizer.is_multilingual

    @with_settings(DecodingSettings)
    def transcribe(
        self,
        audio: Audio,
        *,
        sampling_rate: int = SAMPLE_RATE_HZ,
        audio_track: int | str | None = None,
        channel: int | Literal["left", "right", "mix", "each"] = "mix",
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
            channel: of a file: left, right, its number from 0, or the mean of all; "each": one
                transcript of all of them, whose segments name their channel.
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
        listening = Listening.parse(audio_track, channel, strict=strict)
        source = _source(audio, sampling_rate)
        with showing_progress(progress):
            (result,) = transcribe_files(self._for_call(options), [source], listening)
        if result.transcript is None:
            assert result.error is not None
            raise result.error
        for note in result.notes:
            _warn(result.source, note)
        return result.transcript

    @with_settings(DecodingSettings)
    def stream(
        self,
        audio: Audio,
        *,
        sampling_rate: int = SAMPLE_RATE_HZ,
        audio_track: int | str | None = None,
        channel: int | Literal["left", "right", "mix"] = "mix",
        strict: bool = False,
        **options: Any,
    ) -> Iterator[Segment]:
        """Transcribe a recording, and yield its segments as they are known, in order.

        A segment comes as soon as what follows can change it no more. Those of chunked
        transcription (the default) come a chunk at a time. All arguments are as for
        :meth:`transcribe`, but for the channel "each".

        Raises:
            OSError, CorruptAudio, ValueError: as for :meth:`transcribe`, with the first segment.
        """
        listening = Listening.parse(audio_track, channel, strict=strict)
        source = _source(audio, sampling_rate)
        return stream_file(self._for_call(options), source, listening, _warn)

    def _for_call(self, options: dict[str, Any]) -> Transcriber:
        return self.transcriber.with_settings(settings_of(DecodingSettings, options))


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


def _source(audio: Audio, sampling_rate: int) -> str | NamedBytes | Samples:
    is_file = isinstance(audio, (str, PathLike, bytes, bytearray, memoryview))
    if sampling_rate != SAMPLE_RATE_HZ and (is_file or hasattr(audio, "read")):
        raise ValueError("sampling_rate is that of samples, found a file, which states its own")
    if isinstance(audio, io.TextIOBase):
        raise ValueError('the audio must be a binary file, found one of text: open it with "rb"')
    if isinstance(audio, (str, PathLike)):
        return fspath(audio)
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return NamedBytes(bytes(audio), "the audio")
    if hasattr(audio, "read"):
        file: Any = audio
        content, name = file.read(), str(getattr(file, "name", "the audio"))
        if not content and getattr(file, "seekable", bool)() and file.tell():
            raise ValueError(f"{name} is at its end, and holds no more to read: seek(0) first")
        return NamedBytes(content, name)
    return to_samples(audio, "the audio", sampling_rate=sampling_rate)


def _warn(name: str, note: Note) -> None:
    warn(f"{name}: {note.text}")
