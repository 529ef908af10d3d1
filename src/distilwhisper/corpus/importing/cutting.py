"""Long recordings cut in their pauses, into pieces that a window holds."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from distilwhisper.corpus.importing.entries import span_id
from distilwhisper.corpus.records import Utterance
from distilwhisper.speech.audio import Choice, stream_samples
from distilwhisper.speech.units import WINDOW_SAMPLES, Span, samples_to_seconds, seconds_to_samples
from distilwhisper.speech.vad import FRAME_SAMPLES, VadSettings, frame_probabilities, spans_of

# Between words is silence enough to cut in; a piece does not reach over a pause so long that
# nothing in front of it helps to understand what follows.
PAUSES = VadSettings(min_silence_s=0.2, pad_s=0.1)
LONG_PAUSE_S = 2.0


def cut_at_pauses(utterance: Utterance) -> list[Utterance]:
    """Return the speech of a long utterance in pieces of at most 30 s, as long as fits.

    Pieces have no text, their span in their ids, and the utterance as recording if it has none.
    Pauses of 2 s and more are in no piece. Speech without any pause is cut where it is least
    certain to be speech.

    Args:
        utterance: its audio is an absolute path; the sound is streamed, whatever its length.

    Raises:
        CorruptAudio, FileNotFoundError: the sound cannot be had whole.
        MissingExtra: the voice activity detector is not installed.
    """
    blocks = stream_samples(
        utterance.audio,
        start_s=utterance.start_s,
        duration_s=utterance.duration_s,
        choice=Choice(channel=utterance.channel),
    )
    groups = list(frame_probabilities(blocks))
    probabilities = [probability for _, of_group in groups for probability in of_group]
    pieces = []
    for span in plan_pieces(spans_of(groups, PAUSES), probabilities):
        start_s = round(utterance.start_s + samples_to_seconds(span.start), 6)
        duration_s = samples_to_seconds(span.stop - span.start)
        piece = replace(utterance, start_s=start_s, duration_s=duration_s, text=None)
        id_ = span_id(utterance.id, start_s, duration_s)
        pieces.append(replace(piece, id=id_, recording=utterance.recording or utterance.id))
    return pieces


def plan_pieces(spans: Iterable[Span], probabilities: Sequence[float]) -> list[Span]:
    """Return spans of at most 30 s that hold the given ones: as many of them as fit.

    Args:
        spans: of speech, in order and apart.
        probabilities: of speech, of each frame of the recording.
    """
    pieces: list[Span] = []
    long_pause = seconds_to_samples(LONG_PAUSE_S)
    for span in spans:
        for part in _broken(span, probabilities):
            last = pieces[-1] if pieces else part
            fits = part.stop - last.start <= WINDOW_SAMPLES and part.start - last.stop < long_pause
            if pieces and fits:
                pieces[-1] = replace(last, stop=part.stop)
            else:
                pieces.append(part)
    return pieces


def _broken(span: Span, probabilities: Sequence[float]) -> list[Span]:
    """Cut a span that is too long in the later half of what fits, where speech is least likely."""
    parts = []
    while span.stop - span.start > WINDOW_SAMPLES:
        first = -(-(span.start + WINDOW_SAMPLES // 2) // FRAME_SAMPLES)
        last = (span.start + WINDOW_SAMPLES) // FRAME_SAMPLES - 1
        frame = min(range(first, last + 1), key=lambda i: (probabilities[i], -i))
        at = frame * FRAME_SAMPLES + FRAME_SAMPLES // 2
        parts.append(replace(span, stop=at))
        span = replace(span, start=at)
    return [*parts, span]
