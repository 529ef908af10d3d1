"""Stage 6: files to transcripts."""

import io
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distilwhisper.corpus.store import write_atomic
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import SURE_OF_LANGUAGE
from distilwhisper.progress import progress_bar
from distilwhisper.speech.audio import probe_duration_s
from distilwhisper.speech.levels import speech_like_s
from distilwhisper.speech.recording import Recording, StreamedRecording, blocks_of
from distilwhisper.speech.sources import CorruptAudio, Source
from distilwhisper.text.tokens import LANGUAGES
from distilwhisper.text.transcript import Transcript, TranscriptFormat, render

STDIN = "-"
LEAST_SPEECH_S = 1.0  # a file without text gets a warning where so much sounds like speech


@dataclass(frozen=True)
class TranscribedFile:
    """A file's transcript, or what went wrong with it."""

    source: str
    transcript: Transcript | None
    error: str | None = None
    warning: str | None = None


def transcribe_files(
    transcriber: Transcriber,
    sources: Sequence[str],
    *,
    on_done: Callable[[TranscribedFile], None],
) -> list[TranscribedFile]:
    """Transcribe files side by side; one that cannot be read does not stop the rest.

    Files are read as they are decoded, so that one of any length takes little memory.

    Args:
        transcriber: a loaded model.
        sources: paths, or ``-`` for standard input.
        on_done: called with each file, in order, as soon as it and those before it are done, so
            that what is finished is written.
    """
    done: dict[int, TranscribedFile] = {}
    n_told = 0
    opened = [_Opened(source) for source in sources]
    label = sources[0] if len(sources) == 1 else f"{len(sources)} files"
    total_s = sum(one.duration_s for one in opened)
    with progress_bar(label, total_s, "seconds") as advance:
        recordings = (one.recording for one in opened)
        for number, came in transcriber.transcribe_all(recordings, on_progress=advance):
            transcript = came if isinstance(came, Transcript) else None
            error = None if transcript is not None else str(came)
            warning = None
            if transcript is not None and not transcript.text:
                warning = _why_no_text(opened[number].recording)
            done[number] = TranscribedFile(sources[number], transcript, error, warning)
            while n_told in done:
                on_done(done[n_told])
                n_told += 1
    return [done[number] for number in range(len(sources))]


def output_paths(sources: Sequence[str], out: Path, format: TranscriptFormat) -> list[Path]:  # noqa: A002
    """Return where each file's transcript goes: its stem, as in openai-whisper.

    Raises:
        ValueError: two files would write one transcript.
    """
    stems = ["stdin" if source == STDIN else Path(source).stem for source in sources]
    doubled = [stem for stem, count in Counter(stems).items() if count > 1]
    if doubled:
        raise ValueError(
            f"transcripts are named after the files' stems, and more than one file is called "
            f"{doubled[0]!r}: transcribe them into different --out folders"
        )
    return [out / f"{stem}.{format}" for stem in stems]


def language_doubt(transcript: Transcript) -> str | None:
    """Return what to tell a person about a language that the model was not sure of."""
    probability = transcript.language_probability
    if probability is None or probability >= SURE_OF_LANGUAGE:
        return None
    name = LANGUAGES[transcript.language].title()
    return f"the language may not be {name} ({probability:.0%} sure): name it with --language"


def write_transcript(transcript: Transcript, path: Path, format: TranscriptFormat) -> None:  # noqa: A002
    """Write a transcript; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(transcript, format))


def _why_no_text(recording: Recording) -> str | None:
    """Return a warning where a recording without text sounds as if somebody spoke in it."""
    speech_s = speech_like_s(blocks_of(recording.again()))
    if speech_s < LEAST_SPEECH_S:
        return None
    return (
        f"no text was found, though the level of {speech_s:.0f} s of the sound rises and falls as "
        "that of speech: listen to it, and see --language, --no-speech-threshold and --vad-filter"
    )


class _Opened:
    """A file to be read, and how long it says it is."""

    def __init__(self, source: str) -> None:
        data = sys.stdin.buffer.read() if source == STDIN else b""

        def open_source() -> Source:
            return io.BytesIO(data) if source == STDIN else source

        self.recording = StreamedRecording(open_source)
        try:
            self.duration_s = probe_duration_s(open_source())
        except (CorruptAudio, OSError):
            self.duration_s = 0.0  # reading it will say what is wrong
