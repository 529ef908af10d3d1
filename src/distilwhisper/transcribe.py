"""Stage 6: files to transcripts."""

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import SURE_OF_LANGUAGE
from distilwhisper.languages import LANGUAGES
from distilwhisper.progress import progress_bar
from distilwhisper.speech.audio import Choice, Note, Samples, open_track, stream_samples
from distilwhisper.speech.levels import speech_like_s
from distilwhisper.speech.recording import HeldRecording, Recording, StreamedRecording, blocks_of
from distilwhisper.speech.sources import CorruptAudio, NamedBytes, Source
from distilwhisper.speech.units import samples_to_seconds
from distilwhisper.text.transcript import Segment, Transcript, TranscriptFormat, interleave, outside

STDIN = "-"
LEAST_SPEECH_S = 1.0  # a file without text gets a warning where so much sounds like speech


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
    transcriber: Transcriber,
    sources: Sequence[str | NamedBytes | Samples],
    listening: Listening = Listening(),
) -> Iterator[TranscribedFile]:
    """Transcribe files side by side, and yield each as soon as it and those before it are done.

    One that cannot be read does not stop the rest. Files are read as they are decoded, so that one
    of any length takes little memory; but standard input and pipes are read first, and kept as
    they came. Sources are paths, ``-`` for standard input, files in memory, or samples at 16 kHz.
    """
    if sum(isinstance(source, str) and source == STDIN for source in sources) > 1:
        raise ValueError("standard input can be read once, found - several times: name it once")
    begin_s = next(iter(transcriber.settings.clip_timestamps), 0.0)
    opened = [_Opened(source, listening, begin_s=begin_s) for source in sources]
    left = deque(opened)
    label = opened[0].name if len(opened) == 1 else f"{len(opened)} files"
    jobs = [(file, *job) for file in opened for job in file.recordings.items()]
    with progress_bar(label, sum(file.duration_s for file in opened), "seconds") as advance:
        recordings = (recording for _, _, recording in jobs)
        for number, outcome in transcriber.transcribe_all(recordings, on_progress=advance):
            file, channel, _ = jobs[number]
            file.outcomes[channel] = outcome
            while left and left[0].is_done:
                yield left.popleft().result()


def stream_file(
    transcriber: Transcriber,
    source: str | NamedBytes | Samples,
    listening: Listening,
    on_note: Callable[[str, Note], None],
) -> Iterator[Segment]:
    """Yield a file's segments in order, each as soon as what follows can change it no more.

    What is odd about its sound is told to ``on_note``, with the file's name.

    Raises:
        OSError, CorruptAudio: it cannot be read.
        ValueError: each channel is asked for.
    """
    if listening.channel == "each":
        raise ValueError("segments come in order from one channel: name it, or take the mix")
    opened = _Opened(source, listening, on_note)
    (recording,) = opened.recordings.values()
    yield from transcriber.stream(recording)


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

    def __init__(
        self,
        source: str | NamedBytes | Samples,
        listening: Listening,
        on_note: Callable[[str, Note], None] = lambda *_: None,
        *,
        begin_s: float = 0.0,  # of what is transcribed
    ) -> None:
        self._listening, self._on_note, self._begin_s = listening, on_note, begin_s
        self._notes: dict[Note, None] = {}  # in order, once each: a file may be read several times
        self._checked: set[Choice] = set()
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

    @property
    def is_done(self) -> bool:
        """Every channel has its transcript or its error."""
        return len(self.outcomes) == len(self.recordings)

    def result(self) -> TranscribedFile:
        """Return what came of the file, all of whose channels are done."""
        holes_s = [hole_s for note in self._notes for hole_s in note.holes_s]
        channels: dict[str | None, Transcript] = {}
        for name in self.recordings:
            outcome = self.outcomes[name]
            if not isinstance(outcome, Transcript):
                return TranscribedFile(self.name, None, outcome, tuple(self._notes))
            # Each by itself: what another channel says behind a hole does not hold one back.
            channels[name] = outside(holes_s, outcome)
        whole = channels.get(None) or interleave({str(name): t for name, t in channels.items()})
        doubts = [language_doubt(whole), None if whole.text else self._why_no_text()]
        notes = (*self._notes, *(Note(doubt) for doubt in doubts if doubt))
        transcript = replace(whole, notes=tuple(note.text for note in notes))
        return TranscribedFile(self.name, transcript, notes=notes)

    def _why_no_text(self) -> str | None:
        """Return a warning where a recording without text sounds as if somebody spoke in it."""
        begin_s, end_s = self._begin_s, self.duration_s / len(self.recordings)
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
            self._on_note(self.name, note)


def _read_once(source: str) -> bytes | None:
    """Return what is in standard input or a pipe; None: a source that can be opened again."""
    if source == STDIN:
        return sys.stdin.buffer.read()
    path = Path(source)
    return path.read_bytes() if path.is_fifo() or path.is_char_device() else None
