"""Where somebody speaks: spans of a recording, found by Silero's voice activity detector.

The detector takes 32 ms at a time and remembers what came before. Its probabilities become spans
by two thresholds and a shortest pause, as in Silero's own package. That one is needed for the
weights alone and is never imported: doing so limits all of torch to one thread.

Source: snakers4/silero-vad: ``src/silero_vad/utils_vad.py``, get_speech_timestamps, and
``tinygrad_model.py``; thresholds, long pauses: SYSTRAN/faster-whisper: ``faster_whisper/vad.py``.
"""

import importlib.util
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilwhisper.extras import MissingExtra
from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples, in_blocks
from distilwhisper.speech.units import WINDOW_SAMPLES, Span, merged_spans, seconds_to_samples

FRAME_SAMPLES = 512  # of the detector, which has one probability for them: 32 ms
CONTEXT_SAMPLES = 64  # of the frame before, in front of each frame

SPEECH, SILENCE = 0.5, 0.35  # speech begins at the one probability, and ends below the other

# Frames that go through the network at once. Always so many, counted from the first sample: the
# roundings, and so the spans, then do not depend on the blocks a recording comes in.
_GROUP_FRAMES = 128

# The .safetensors beside it holds another training of the same network: not what the package uses.
_WEIGHTS = "data/silero_vad.jit"

# Silero's names of weights, to ours. Its cell, stepped in a loop, is the one layer of our LSTM.
_NAMES = {
    r"_model\.stft\.forward_basis_buffer": "stft.weight",
    r"_model\.encoder\.(\d)\.reparam_conv\.(\w+)": r"encoder.\1.\2",
    r"_model\.decoder\.rnn\.(\w+)": r"lstm.\1_l0",
    r"_model\.decoder\.decoder\.2\.(\w+)": r"unit.\1",
}

Groups = Iterable[tuple[int, Sequence[float]]]  # of frames: samples, and a probability for each
State = tuple[Float[Tensor, "1 1 128"], Float[Tensor, "1 1 128"]]


class Pauses(NamedTuple):
    """What parts one speech from the next."""

    min_silence_s: float  # shorter pauses belong to the speech around
    pad_s: float  # of silence on both ends; neighbours share a short pause


LONG_PAUSES = Pauses(min_silence_s=2.0, pad_s=0.4)  # as faster-whisper has them
SHORT_PAUSES = Pauses(min_silence_s=0.2, pad_s=0.1)  # between words, which is enough to cut in


def stream_spans(blocks: Iterable[Samples], pauses: Pauses = LONG_PAUSES) -> Iterator[Span]:
    """Yield the spans in which somebody speaks, of a recording in blocks of any length.

    Memory is bounded, and the spans do not depend on the blocks. They are in order, apart or
    touching, within the recording. A span is yielded when its end is certain: after
    ``min_silence_s`` or two ``pad_s`` of silence, whichever is longer, and 4 s at most for the
    frames that go through the network together. As in Silero's package, speech that was still open
    at the end lasts to the end, though its last pause may be part of it. A block must be one row of
    finite numbers.
    """
    return spans_of(frame_probabilities(blocks), pauses)


def frame_probabilities(blocks: Iterable[Samples]) -> Iterator[tuple[int, list[float]]]:
    """Yield numbers of samples, and how likely each frame of 512 that they fill is speech.

    The last frame of the recording is filled up with silence. It raises as :func:`stream_spans`.
    """
    detector = Detector()
    # Fewer samples than a group are the last ones: silence fills their frame.
    for group in in_blocks(_checked(blocks), _GROUP_FRAMES * FRAME_SAMPLES):
        padding = np.zeros(-len(group) % FRAME_SAMPLES, dtype=np.float32)
        yield len(group), detector.probabilities(np.concatenate([group, padding]))


class Detector:
    """The network of :func:`load_silero` on sound that comes piece by piece."""

    def __init__(self) -> None:
        self._network = load_silero()
        self._state: State | None = None
        self._rest: Samples = np.zeros(CONTEXT_SAMPLES, np.float32)  # context, and part of a frame

    def probabilities(self, samples: Samples) -> list[float]:
        """Return how likely each whole frame is speech; what fills no frame waits."""
        sound = np.concatenate([self._rest, samples])
        n_frames = (len(sound) - CONTEXT_SAMPLES) // FRAME_SAMPLES
        self._rest = sound[n_frames * FRAME_SAMPLES :]
        if not n_frames:
            return []
        frames = np.lib.stride_tricks.sliding_window_view(sound, CONTEXT_SAMPLES + FRAME_SAMPLES)
        with torch.inference_mode():
            probabilities, self._state = self._network(
                torch.from_numpy(frames[::FRAME_SAMPLES].copy()), self._state
            )
        return probabilities.tolist()


class SpeechWatch:
    """Where speech was last, in sound that comes bit by bit; needs :func:`load_silero`."""

    def __init__(self, threshold: float = SPEECH) -> None:
        self.n_samples = 0  # that were looked at, in whole frames
        self.speech_stop: int | None = None  # the first sample behind the last speech
        self._threshold = threshold
        self._detector = Detector()

    def watch(self, samples: Samples) -> None:
        """Look at what comes next; what fills no frame waits."""
        for probability in self._detector.probabilities(samples):
            self.n_samples += FRAME_SAMPLES
            if probability >= self._threshold:
                self.speech_stop = self.n_samples


@cache
def load_silero() -> "SileroVad":
    """Return the detector, with the weights of silero-vad; MissingExtra where they are not."""
    # Of a package at the top, this finds the folder without running its code.
    spec = importlib.util.find_spec("silero_vad")
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = next((p for p in (Path(folder) / _WEIGHTS for folder in folders) if p.is_file()), None)
    if path is None:
        lacking = f"{folders[0]} has no {_WEIGHTS}" if folders else "it is not installed"
        raise MissingExtra(
            "voice activity detection needs the weights of the package silero-vad, but "
            f'{lacking}: pip install "distilwhisper[vad]"'
        )
    network = SileroVad()
    try:
        with warnings.catch_warnings():
            # Of the loader's end, for which torch names no date.
            warnings.filterwarnings("ignore", ".*torch.jit.load", DeprecationWarning)
            weights = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        network.load_state_dict(
            {
                re.sub(theirs, own, name): weight
                for name, weight in weights.items()
                for theirs, own in _NAMES.items()
                if re.fullmatch(theirs, name)
            }
        )
    except RuntimeError as error:
        raise MissingExtra(
            f"{path} must hold the network of silero-vad 6, which it does not: {error}; "
            'pip install "distilwhisper[vad]"'
        ) from error
    return network.eval().requires_grad_(False)


class SileroVad(nn.Module):
    """Silero's network, version 6, for 16 kHz: spectrum, four convolutions, an LSTM, one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 258, kernel_size=256, stride=128, bias=False)
        shapes = (129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)
        self.encoder = nn.ModuleList(
            nn.Conv1d(n_in, n_out, kernel_size=3, stride=stride, padding=1)
            for n_in, n_out, stride in shapes
        )
        self.lstm = nn.LSTM(128, 128)
        self.unit = nn.Conv1d(128, 1, kernel_size=1)

    def forward(
        self, frames: Float[Tensor, "frames 576"], state: State | None
    ) -> tuple[Float[Tensor, " frames"], State]:
        """Return the speech probability of each frame, with its context in front, and the state."""
        waves = F.pad(frames[:, None], (0, CONTEXT_SAMPLES), mode="reflect")
        real, imaginary = self.stft(waves).chunk(2, dim=1)
        features = (real**2 + imaginary**2).sqrt()  # (frames, 129, 4)
        for convolution in self.encoder:
            features = convolution(features).relu()
        outputs, state = self.lstm(features.transpose(1, 2), state)  # (frames, 1, 128)
        return self.unit(outputs.transpose(1, 2).relu()).sigmoid().flatten(), state


def spans_of(groups: Groups, pauses: Pauses) -> Iterator[Span]:
    """Yield spans as :func:`stream_spans`, of what :func:`frame_probabilities` yields."""
    pad = seconds_to_samples(pauses.pad_s)
    held: Span | None = None  # padded in front; behind, that depends on when the next one starts
    now = 0
    for now, is_speech, ended in _bare_spans(groups, pauses):
        if ended is not None:
            before = pad
            if held is not None:
                before = min(pad, (ended.start - held.stop) // 2)
                yield replace(held, stop=held.stop + before)
            held = Span(max(ended.start - before, 0), ended.stop)
        if held is not None and not is_speech and now - held.stop >= 2 * pad:
            yield replace(held, stop=held.stop + pad)
            held = None
    if held is not None:
        yield replace(held, stop=min(held.stop + pad, now))


def _bare_spans(groups: Groups, pauses: Pauses) -> Iterator[tuple[int, bool, Span | None]]:
    """Yield where each frame begins, and then the end; whether somebody speaks; and what ended."""
    min_silence = seconds_to_samples(pauses.min_silence_s)
    start: int | None = None  # of what is being spoken
    silent_since: int | None = None  # the pause in it, if there is one
    now = n_samples = 0
    for n_new, probabilities in groups:
        n_samples += n_new
        for probability in probabilities:
            ended = None
            if probability >= SPEECH:
                silent_since = None
                start = now if start is None else start
            elif probability < SILENCE and start is not None:
                silent_since = now if silent_since is None else silent_since
                if now - silent_since >= min_silence:
                    ended, start, silent_since = Span(start, silent_since), None, None
            yield now, start is not None, ended
            now += FRAME_SAMPLES
    yield n_samples, False, None if start is None else Span(start, n_samples)


# Pieces of long recordings, each as long as a window holds

# No piece reaches over a pause so long that nothing in front helps to understand what follows.
LONG_PAUSE_S = 2.0


def speech_pieces(blocks: Iterable[Samples]) -> list[Span]:
    """Return the speech of a recording in pieces of at most 30 s, as long as fits.

    Pauses of 2 s and more are in no piece. Speech without any pause is cut where it is least
    certain to be speech. It raises as :func:`stream_spans`.
    """
    groups = list(frame_probabilities(blocks))
    probabilities = [probability for _, of_group in groups for probability in of_group]
    return plan_pieces(spans_of(groups, SHORT_PAUSES), probabilities)


def plan_pieces(spans: Iterable[Span], probabilities: Sequence[float]) -> list[Span]:
    """Return spans of at most 30 s that hold the given ones: as many of them as fit.

    These are of speech, in order and apart; the probabilities are of each frame of the recording.
    """
    parts = (part for span in spans for part in _broken(span, probabilities))
    return list(merged_spans(parts, WINDOW_SAMPLES, long_pause=seconds_to_samples(LONG_PAUSE_S)))


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


def _checked(blocks: Iterable[Samples]) -> Iterator[Samples]:
    n_before = 0
    for block in blocks:
        if block.ndim != 1:
            raise ValueError(
                f"samples must be one row, mono and 16 kHz, found an array of shape {block.shape}"
            )
        if len(bad := np.flatnonzero(~np.isfinite(block))):
            found = f"{block[bad[0]]} at sample {n_before + bad[0]}"
            raise ValueError(f"samples must be finite numbers, found {found}")
        n_before += len(block)
        yield block
