"""Where somebody speaks: spans of a recording, found by Silero's voice activity detector.

The detector takes 32 ms at a time and remembers what came before. Its probabilities become spans
by two thresholds, a shortest pause and a shortest speech, as in Silero's own package. That one is
needed for the weights alone and is never imported: doing so limits all of torch to one thread.

Source: snakers4/silero-vad: ``src/silero_vad/utils_vad.py``, get_speech_timestamps, and
``tinygrad_model.py``; the default settings: SYSTRAN/faster-whisper: ``faster_whisper/vad.py``.
"""

import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilwhisper.checks import AT_LEAST_0, SHARE, check_rules, ruled
from distilwhisper.extras import MissingExtra
from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples, in_blocks
from distilwhisper.speech.units import Span, seconds_to_samples

FRAME_SAMPLES = 512  # of the detector, which has one probability for them: 32 ms
CONTEXT_SAMPLES = 64  # of the frame before, in front of each frame

# The detector leaves speech at a threshold so much lower than the one at which it enters.
_HYSTERESIS = 0.15
_LOWEST_THRESHOLD = 0.01

# Frames that go through the network at once. Always so many, counted from the first sample: the
# roundings, and so the spans, then do not depend on the blocks a recording comes in.
_GROUP_FRAMES = 128

_PACKAGE = "silero_vad"
# The .safetensors beside it holds another training of the same network: not what the package uses.
_WEIGHTS = "data/silero_vad.jit"

# Silero's names of weights, to ours. Its cell, stepped in a loop, is the one layer of our LSTM.
_NAMES = {
    "_model.stft.forward_basis_buffer": "stft.weight",
    **{
        f"_model.encoder.{i}.reparam_conv.{kind}": f"encoder.{i}.{kind}"
        for i in range(4)
        for kind in ("weight", "bias")
    },
    **{
        f"_model.decoder.rnn.{kind}": f"lstm.{kind}_l0"
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    },
    "_model.decoder.decoder.2.weight": "unit.weight",
    "_model.decoder.decoder.2.bias": "unit.bias",
}

State = tuple[Float[Tensor, "1 1 128"], Float[Tensor, "1 1 128"]]


@dataclass(frozen=True)
class VadSettings:
    """What counts as speech. The defaults are those of faster-whisper."""

    threshold: float = ruled(0.5, SHARE)  # speech begins at this, and ends 0.15 below it
    min_speech_s: float = ruled(0.0, AT_LEAST_0)  # speech that is not longer is dropped
    min_silence_s: float = ruled(2.0, AT_LEAST_0)  # shorter pauses belong to the speech around
    pad_s: float = ruled(0.4, AT_LEAST_0)  # on both ends; neighbours share a short pause

    def __post_init__(self) -> None:
        check_rules(self)


def stream_spans(
    blocks: Iterable[Samples], settings: VadSettings = VadSettings()
) -> Iterator[Span]:
    """Yield the spans in which somebody speaks, of a recording that comes in blocks.

    Memory is bounded, and the spans do not depend on the blocks. They are in order, apart or
    touching, within the recording. A span is yielded when its end is certain: after
    ``min_silence_s`` or two ``pad_s`` of silence, whichever is longer, and 4 s at most for the
    frames that go through the network together. As in Silero's package, speech that was still open
    at the end lasts to the end, though its last pause may be part of it.

    Args:
        blocks: of one recording, mono, 16 kHz, in order, each of any length.
        settings: what counts as speech.

    Raises:
        ValueError: a block is not one row of finite numbers.
        MissingExtra: the weights are not installed.
    """
    machine = SpanMachine(settings)
    n_samples = 0
    for n_new, probabilities in frame_probabilities(blocks):
        n_samples += n_new
        for probability in probabilities:
            yield from machine.step(probability)
    yield from machine.finish(n_samples)


def frame_probabilities(blocks: Iterable[Samples]) -> Iterator[tuple[int, list[float]]]:
    """Yield how likely each frame of 512 samples is speech, some frames at a time.

    Args:
        blocks: of one recording, in order, each of any length. The last frame is filled up with
            silence.

    Yields:
        A number of samples, and the probabilities of the frames that they fill.

    Raises:
        ValueError, MissingExtra: as :func:`stream_spans`, when the block is reached.
    """
    detector = Detector()
    # Fewer samples than a group are the last ones: silence fills their frame.
    for group in in_blocks(_checked(blocks), _GROUP_FRAMES * FRAME_SAMPLES):
        padding = np.zeros(-len(group) % FRAME_SAMPLES, dtype=np.float32)
        yield len(group), detector.probabilities(np.concatenate([group, padding]))


class Detector:
    """The network on sound that comes piece by piece.

    Raises:
        MissingExtra: the weights are not installed.
    """

    def __init__(self) -> None:
        self._network = load_silero()
        self._state: State | None = None
        self._rest: Samples = np.zeros(
            CONTEXT_SAMPLES, dtype=np.float32
        )  # context, then part of a frame

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
        values: list[float] = probabilities.tolist()
        return values


class SpeechWatch:
    """Where speech was last, in sound that comes bit by bit.

    Attributes:
        n_samples: that were looked at, in whole frames.
        speech_stop: the first sample behind the last speech; None: there was none.

    Raises:
        MissingExtra: the weights are not installed.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.n_samples = 0
        self.speech_stop: int | None = None
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
    """Return the detector with the weights that the package silero-vad carries.

    Raises:
        MissingExtra: the package is not installed, or holds another network.
    """
    # Of a package at the top, this finds the folder without running its code.
    spec = importlib.util.find_spec(_PACKAGE)
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
        network.load_state_dict({own: weights[name] for name, own in _NAMES.items()})
    except (KeyError, RuntimeError) as error:
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
        self.encoder = nn.ModuleList(
            [
                nn.Conv1d(129, 128, kernel_size=3, padding=1),
                nn.Conv1d(128, 64, kernel_size=3, stride=2, padding=1),
                nn.Conv1d(64, 64, kernel_size=3, stride=2, padding=1),
                nn.Conv1d(64, 128, kernel_size=3, padding=1),
            ]
        )
        self.lstm = nn.LSTM(128, 128)
        self.unit = nn.Conv1d(128, 1, kernel_size=1)

    def forward(
        self, frames: Float[Tensor, "frames 576"], state: State | None
    ) -> tuple[Float[Tensor, " frames"], State]:
        """Return each frame's probability of speech, and what to remember for the next frames.

        Args:
            frames: in order, each with its context in front.
            state: after the frame before the first of these; None at the start of a recording.
        """
        waves = F.pad(frames[:, None], (0, CONTEXT_SAMPLES), mode="reflect")
        real, imaginary = self.stft(waves).chunk(2, dim=1)
        features = (real**2 + imaginary**2).sqrt()  # (frames, 129, 4)
        for convolution in self.encoder:
            features = convolution(features).relu()
        outputs, state = self.lstm(features.transpose(1, 2), state)  # (frames, 1, 128)
        return self.unit(outputs.transpose(1, 2).relu()).sigmoid().flatten(), state


class SpanMachine:
    """Makes spans of the frames' probabilities, one frame at a time.

    Two spans may be unfinished at once: one whose end waits to be padded, as that depends on when
    the next one starts, and the one now being spoken.
    """

    def __init__(self, settings: VadSettings) -> None:
        self.threshold = settings.threshold
        self.leave_at = max(settings.threshold - _HYSTERESIS, _LOWEST_THRESHOLD)
        self.min_speech = seconds_to_samples(settings.min_speech_s)
        self.min_silence = seconds_to_samples(settings.min_silence_s)
        self.pad = seconds_to_samples(settings.pad_s)
        self.n_frames = 0
        self.start: int | None = None  # of what is being spoken
        self.silent_since: int | None = None  # the pause in it, if there is one
        self.held: Span | None = None  # padded in front, and not yet behind

    def step(self, probability: float) -> Iterator[Span]:
        """Take one frame; yield the spans that it finishes."""
        now = self.n_frames * FRAME_SAMPLES
        self.n_frames += 1
        if probability >= self.threshold:
            self.silent_since = None
            self.start = now if self.start is None else self.start
        elif probability < self.leave_at and self.start is not None:
            self.silent_since = now if self.silent_since is None else self.silent_since
            if now - self.silent_since >= self.min_silence:
                yield from self._end(self.silent_since)
        if self.held and self.start is None and now - self.held.stop >= 2 * self.pad:
            yield replace(self.held, stop=self.held.stop + self.pad)
            self.held = None

    def finish(self, n_samples: int) -> Iterator[Span]:
        """Yield what is left when a recording of so many samples ends."""
        if self.start is not None:
            yield from self._end(n_samples)
        if self.held:
            yield replace(self.held, stop=min(self.held.stop + self.pad, n_samples))

    def _end(self, stop: int) -> Iterator[Span]:
        """End what is being spoken, and hold it; what was held is done."""
        start, self.start, self.silent_since = self.start, None, None
        if start is None or stop - start <= self.min_speech:
            return
        before = after = self.pad
        if self.held:
            pause = start - self.held.stop
            if pause < 2 * self.pad:
                before = after = pause // 2
            yield replace(self.held, stop=self.held.stop + after)
        self.held = Span(max(start - before, 0), stop)


def _checked(blocks: Iterable[Samples]) -> Iterator[Samples]:
    n_before = 0
    for block in blocks:
        if block.ndim != 1:
            raise ValueError(
                f"samples must be one row, mono and 16 kHz, found an array of shape {block.shape}"
            )
        finite = np.isfinite(block)
        if not finite.all():
            raise ValueError(
                "samples must be finite numbers, found "
                f"{block[~finite][0]} at sample {n_before + int((~finite).argmax())}"
            )
        n_before += len(block)
        yield block
