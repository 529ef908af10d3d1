"""Stage 6: files to transcripts, and the model that makes them, as Python has it."""

import io
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from inspect import Parameter, signature
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import SURE_OF_LANGUAGE
from distilwhisper.languages import LANGUAGES
from distilwhisper.model.hardware import Backend, DTypeName, Hardware
from distilwhisper.progress import progress_bar, showing_progress, warn
from distilwhisper.run.settings import SettingsError, build_settings
from distilwhisper.speech.arrays import Sound, to_samples
from distilwhisper.speech.audio import Choice, Note, Samples, open_track, stream_samples
from distilwhisper.speech.levels import speech_like_s
from distilwhisper.speech.recording import HeldRecording, Recording, StreamedRecording, blocks_of
from distilwhisper.speech.sources import CorruptAudio, NamedBytes, OpenFile, Source
from distilwhisper.speech.units import SAMPLE_RATE_HZ, samples_to_seconds
from distilwhisper.text.transcript import Segment, Transcript, TranscriptFormat, interleave, outside

STDIN = "-"
LEAST_SPEECH_S = 1.0  # a file without text gets a warning where so much sounds like speech

Input: TypeAlias = str | NamedBytes | Samples  # a path, a file in memory, or samples at 16 kHz
Audio: TypeAlias = str | PathLike[str] | bytes | OpenFile | Sound
Function = TypeVar("Function", bound=Callable[..., Any])
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Listening:
    """What of each file is transcribed, and whether it must be whole."""

    track: int | str | None = None  # a number from 0, or a language; None: the default one
    channel: int | Literal["mix", "each"] = "mix"  # from 0; each: a transcript each, interleaved
    strict: bool = False  # a damaged file is refused, before any of it is transcribed

    @classmethod
    def parse(cls, track: int | str | None, channel: int | str, *, strict: bool) -> "Listening":
        """Read what a caller or a command line says of it; raise ValueError where it cannot be."""
        named: dict[int | str, int | Literal["mix", "each"]]
        named = {"left": 0, "right": 1, "mix": "mix", "each": "each"}
        if channel not in named and not str(channel).isdecimal():
            raise ValueError(
                "channel must be left, right, mix, each or a number counted from 0, "
                f"found {channel!r}"
            )
        number = int(track) if isinstance(track, str) and track.isdecimal() else track
        if isinstance(number, int) and number < 0:
            raise ValueError(f"audio_track must be a language or a number from 0, found {number}")
        return cls(number, named[channel] if channel in named else int(channel), strict)


@dataclass(frozen=True)
class TranscribedFile:
    """A file's transcript, or what went wrong with it; and what is odd about its sound."""

    source: str
    transcript: Transcript | None
    error: CorruptAudio | OSError | None = None
    notes: tuple[Note, ...] = ()


def transcribe_files(
    transcriber: Transcriber, sources: Sequence[Input], listening: Listening = Listening()
) -> Iterator[TranscribedFile]:
    """Transcribe files side by side, and yield each as soon as it and those before it are done.

    One that cannot be read does not stop the rest. Files are read as they are decoded, so that one
    of any length takes little memory; but standard input and pipes are read first, and kept as
    they came. The path ``-`` is standard input.
    """
    if sum(isinstance(source, str) and source == STDIN for source in sources) > 1:
        raise ValueError("standard input can be read once, found - several times: name it once")
    begin_s = next(iter(transcriber.settings.clip_timestamps), 0.0)
    opened = [_Opened(source, listening) for source in sources]
    left = deque(opened)
    label = opened[0].name if len(opened) == 1 else f"{len(opened)} files"
    jobs = [(file, *job) for file in opened for job in file.recordings.items()]
    with progress_bar(label, sum(file.duration_s for file in opened), "seconds") as advance:
        recordings = (recording for _, _, recording in jobs)
        for number, outcome in transcriber.transcribe_all(recordings, on_progress=advance):
            file, channel, _ = jobs[number]
            file.outcomes[channel] = outcome
            while left and left[0].outcomes.keys() == left[0].recordings.keys():
                yield left.popleft().result(begin_s)


def output_paths(
    sources: Sequence[str], out: Path, formats: Sequence[TranscriptFormat]
) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Return where each file's transcripts go, one a format, and why some could not be written.

    They are named after the file's stem, as in openai-whisper. The folder is made.

    Raises:
        ValueError: two files would write one transcript, or ``out`` can be no folder.
    """
    stems = {source: "stdin" if source == STDIN else Path(source).stem for source in sources}
    doubled = [stem for stem, count in Counter(stems[s] for s in sources).items() if count > 1]
    if doubled:
        raise ValueError(
            f"transcripts are named after the files' stems, and more than one file is called "
            f"{doubled[0]!r}: transcribe them into different --out folders"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"--out must be a folder, found a file: {error.filename}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise ValueError(f"--out must be a folder that can be written to, found {out}")
    paths = {s: [out / f"{stem}.{kind}" for kind in formats] for s, stem in stems.items()}
    problems: dict[str, str] = {}
    for source, path in ((source, path) for source, own in paths.items() for path in own):
        try:
            if path.is_dir():
                problems.setdefault(source, f"its transcript would be {path}, which is a folder")
        except OSError as error:
            why = f"its transcript cannot be written ({error.strerror}): {path}"
            problems.setdefault(source, why)
    return paths, problems


def language_doubt(transcript: Transcript) -> str | None:
    """Return what to tell a person about a language that the model was not sure of."""
    probability = transcript.language_probability
    if probability is None or probability >= SURE_OF_LANGUAGE:
        return None
    name = LANGUAGES[transcript.language].title()
    return f"the language may not be {name} ({probability:.0%} sure): name it with --language"


class _Opened:
    """A file to be read, how long it says it is, and what has come of it."""

    def __init__(self, source: Input, listening: Listening, *, warns: bool = False) -> None:
        self._listening = listening
        self._warns = warns  # of what is odd about the sound, as it is read
        self._notes: dict[Note, None] = {}  # in order, once each: a file may be read several times
        self._checked: set[Choice] = set()
        # Of each channel, the last when all of them are done.
        self.outcomes: dict[str | None, Transcript | CorruptAudio | OSError] = {}
        self.recordings: dict[str | None, Recording] = {}
        if isinstance(source, np.ndarray):
            self.name = "the recording"
            self.duration_s = samples_to_seconds(len(source))
            self.recordings = {None: HeldRecording(source)}
            return
        self._data = _read_once(source) if isinstance(source, str) else source.getvalue()
        self.name = source if isinstance(source, str) else source.name
        channel = 0 if listening.channel == "each" else listening.channel
        numbers: dict[str | None, int | None] = {None: None if channel == "mix" else channel}
        self.duration_s = 0.0
        try:
            with open_track(self._open(), Choice(listening.track)) as track:
                n = track.n_channels
                if listening.channel == "each" and n > 1:
                    names = ["left", "right"] if n == 2 else [str(i) for i in range(n)]
                    numbers = {name: number for number, name in enumerate(names)}
                self.duration_s = len(numbers) * track.duration_s()
        except (CorruptAudio, OSError):
            pass  # reading it will say what is wrong
        self.recordings = {
            name: StreamedRecording(partial(self._blocks, Choice(listening.track, number)))
            for name, number in numbers.items()
        }

    def result(self, begin_s: float) -> TranscribedFile:
        """Return what came of the file, all of whose channels are done from ``begin_s`` on."""
        holes_s = [hole_s for note in self._notes for hole_s in note.holes_s]
        channels: dict[str | None, Transcript] = {}
        for name in self.recordings:
            outcome = self.outcomes[name]
            if not isinstance(outcome, Transcript):
                return TranscribedFile(self.name, None, outcome, tuple(self._notes))
            # Each by itself: what another channel says behind a hole does not hold one back.
            channels[name] = outside(holes_s, outcome)
        whole = channels.get(None) or interleave({str(name): t for name, t in channels.items()})
        doubts = [language_doubt(whole), None if whole.text else self._why_no_text(begin_s)]
        notes = (*self._notes, *(Note(doubt) for doubt in doubts if doubt))
        transcript = replace(whole, notes=tuple(note.text for note in notes))
        return TranscribedFile(self.name, transcript, notes=notes)

    def _why_no_text(self, begin_s: float) -> str | None:
        """Return a warning where a recording without text sounds as if somebody spoke in it."""
        end_s = self.duration_s / len(self.recordings)
        if begin_s >= end_s > 0:
            return f"clip_timestamps begin at {begin_s:g} s, and the sound ends at {end_s:.2f} s"
        blocks = (blocks_of(recording.again()) for recording in self.recordings.values())
        speech_s = max(map(speech_like_s, blocks))
        if speech_s < LEAST_SPEECH_S:
            return None
        return (
            f"no text was found, though the level of {speech_s:.0f} s of the sound rises and falls "
            "as that of speech: listen to it, and see --language, --no-speech-threshold and "
            "--vad-filter"
        )

    def _open(self) -> Source:
        return self.name if self._data is None else NamedBytes(self._data, self.name)

    def _blocks(self, choice: Choice) -> Iterator[Samples]:
        """Yield a channel's sound; if it must be whole, that is seen before the first block."""
        is_strict = self._listening.strict
        if is_strict and choice not in self._checked:
            deque(stream_samples(self._open(), choice=choice), maxlen=0)
            self._checked.add(choice)
        on_note = None if is_strict else self._note
        yield from stream_samples(self._open(), choice=choice, on_note=on_note)

    def _note(self, note: Note) -> None:
        if note not in self._notes:
            self._notes[note] = None
            if self._warns:
                warn(f"{self.name}: {note.text}")


def _read_once(source: str) -> bytes | None:
    """Return what is in standard input or a pipe; None: a source that can be opened again."""
    if source == STDIN:
        return sys.stdin.buffer.read()
    path = Path(source)
    return path.read_bytes() if path.is_fifo() or path.is_char_device() else None


# A model, as Python has it


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
        of_decoding = {name: table.pop(name) for name in [*table] if name not in own}
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
            warn(f"{result.source}: {note.text}")
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
        return _stream(self._for_call(options), source, listening)

    def _for_call(self, options: dict[str, Any]) -> Transcriber:
        settings = settings_of(DecodingSettings, options)
        transcriber = replace(self.transcriber, settings=settings)
        transcriber.warn_of_prompts()
        return transcriber


def load_model(
    name: str | PathLike[str] = "base",
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


def _stream(transcriber: Transcriber, source: Input, listening: Listening) -> Iterator[Segment]:
    if listening.channel == "each":
        raise ValueError("segments come in order from one channel: name it, or take the mix")
    (recording,) = _Opened(source, listening, warns=True).recordings.values()
    yield from transcriber.stream(recording)


def _source(audio: Audio, sampling_rate: int) -> Input:
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
