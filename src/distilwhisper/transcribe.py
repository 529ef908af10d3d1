"""Stage 6: files to transcripts."""

import io
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distilwhisper.corpus.store import write_atomic
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.progress import progress_bar
from distilwhisper.speech.audio import CorruptAudio, Samples, load_samples, samples_to_seconds
from distilwhisper.text.transcript import Transcript, TranscriptFormat, render

STDIN = "-"


@dataclass(frozen=True)
class TranscribedFile:
    """A file's transcript, or what went wrong with it."""

    source: str
    transcript: Transcript | None
    error: str | None = None


def transcribe_files(
    transcriber: Transcriber,
    sources: Sequence[str],
    *,
    on_done: Callable[[TranscribedFile], None],
) -> list[TranscribedFile]:
    """Transcribe files one after the other; one that cannot be read does not stop the rest.

    Args:
        transcriber: a loaded model.
        sources: paths, or ``-`` for standard input.
        on_done: called with each file as soon as it is done, so that what is finished is written.
    """
    done = []
    for source in sources:
        try:
            samples = load_samples(_open(source))
            done.append(TranscribedFile(source, _transcribe(transcriber, source, samples)))
        except (CorruptAudio, OSError) as error:
            done.append(TranscribedFile(source, None, str(error)))
        on_done(done[-1])
    return done


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


def write_transcript(transcript: Transcript, path: Path, format: TranscriptFormat) -> None:  # noqa: A002
    """Write a transcript; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(transcript, format))


def _open(source: str) -> str | io.BytesIO:
    return io.BytesIO(sys.stdin.buffer.read()) if source == STDIN else source


def _transcribe(transcriber: Transcriber, source: str, samples: Samples) -> Transcript:
    duration_s = samples_to_seconds(len(samples))
    with progress_bar(source, duration_s, "seconds") as advance:
        return transcriber.transcribe(samples, on_progress=advance)
