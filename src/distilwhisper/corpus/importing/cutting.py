"""Long recordings cut in their pauses, into pieces that a window holds."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from distilwhisper.corpus.importing.entries import Entry, Unusable, span_id
from distilwhisper.corpus.records import Utterance
from distilwhisper.speech.audio import Choice, stream_samples
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.speech.units import (
    WINDOW_S,
    WINDOW_SAMPLES,
    Span,
    samples_to_seconds,
    seconds_to_samples,
)
from distilwhisper.speech.vad import FRAME_SAMPLES, VadSettings, frame_probabilities, spans_of

# Between words is silence enough to cut in; a piece does not reach over a pause so long that
# nothing in front of it helps to understand what follows.
PAUSES = VadSettings(min_silence_s=0.2, pad_s=0.1)
LONG_PAUSE_S = 2.0


def cut_at_pauses(item: Entry) -> list[Utterance]:
    """Return the speech of a long utterance in pieces of at most 30 s, as long as fits.

    Pieces have no text, their span in their ids, and the utterance as recording if it has none.
    Pauses of 2 s and more are in no piece. Speech without any pause is cut where it is least
    certain to be speech. A shorter utterance comes back as it is.

    Raises:
        Unusable: the sound cannot be had whole, or nobody speaks in it.
        MissingExtra: the voice activity detector is not installed.
    """
    utterance = item.utterance
    if (utterance.duration_s or 0) <= WINDOW_S:
        return [utterance]
    blocks = stream_samples(
        utterance.audio,
        start_s=utterance.start_s,
        duration_s=utterance.duration_s,
        choice=Choice(channel=utterance.channel),
    )
    try:
        groups = list(frame_probabilities(blocks))
    except (CorruptAudio, OSError) as error:
        raise Unusable(str(error), "audio unreadable") from error
    probabilities = [probability for _, of_group in groups for probability in of_group]
    pieces = []
    for span in plan_pieces(spans_of(groups, PAUSES), probabilities):
        start_s = round(utterance.start_s + samples_to_seconds(span.start), 6)
        duration_s = samples_to_seconds(span.stop - span.start)
        id_ = span_id(utterance.id, start_s, duration_s)
        piece = replace(utterance, id=id_, start_s=start_s, duration_s=duration_s, text=None)
        pieces.append(replace(piece, recording=utterance.recording or utterance.id))
    if not pieces:
        raise Unusable(f"{utterance.audio}: nobody speaks in it", "no speech")
    return pieces


def plan_pieces(spans: Iterable[Span], probabilities: Sequence[float]) -> list[Span]:
    """Return spans of at most 30 s that hold the given ones: as many of them as fit.

    These are of speech, in order and apart; the probabilities are of each frame of the recording.
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
