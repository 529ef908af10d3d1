"""Rooms, codecs and clipping, applied to sound whose length and timing stay as they are."""

import io
import re
from dataclasses import dataclass

import av
import numpy as np

from distilwhisper.speech.audio import Samples, load_samples, to_pcm
from distilwhisper.speech.units import SAMPLE_RATE_HZ, seconds_to_samples

# The room of a synthetic response. By Sabine, reverberant over direct energy at a distance is
# 16 pi distance^2 RT60 / (0.161 volume), so that a tail of 60 dB in RT60 begins at a level which
# RT60 does not change.
ROOM_M3 = 100.0
DISTANCE_M = 1.5
_TAIL_POWER = (
    16 * np.pi * DISTANCE_M**2 / (0.161 * ROOM_M3) * 6 * np.log(10) / SAMPLE_RATE_HZ
)  # of its first sample, the direct sound being one

_LEAST_BLOCK_SAMPLES = 1 << 14  # of a convolution; shorter ones are all overhead
_PADDING_SAMPLES = SAMPLE_RATE_HZ // 10  # more than any of our codecs delays


def room_response(rt60_s: float, generator: np.random.Generator) -> Samples:
    """Return what a click becomes in a room: itself, and a tail of noise that dies away.

    Args:
        rt60_s: in which the tail falls by 60 dB, and where it ends. Shorter times give the same
            noise, sooner gone.
        generator: of the noise.

    Returns:
        The direct sound first, as 1.0. The tail's energy is 7 times RT60 in seconds on average, as
        1.5 m from who speaks in a room of 100 cubic metres.

    Source: Polack's model, white noise that decays exponentially, as in "Late reverberant spectral
    variance estimation based on a statistical model", Habets, Gannot and Cohen, IEEE Signal
    Processing Letters 16 (9), 2009.
    """
    n_samples = seconds_to_samples(rt60_s)
    decay = 10 ** (-3 * np.arange(1, n_samples + 1) / (rt60_s * SAMPLE_RATE_HZ))
    tail = np.sqrt(_TAIL_POWER) * generator.standard_normal(n_samples) * decay
    return np.concatenate([[1.0], tail]).astype(np.float32)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """Return samples as they sound in a room, at the same mean power.

    Args:
        samples: of any length above zero; the time taken grows as the length does.
        response: of the room to a click. Its greatest sample is taken for the direct sound, which
            stays where it is in time.

    Raises:
        ValueError: samples or response are silent.
    """
    if not samples.any() or not response.any():
        silent = "room's response" if samples.any() else "sound"
        raise ValueError(
            f"neither sound nor room's response may be silent, found the {silent} silent"
        )
    direct = int(np.argmax(np.abs(response)))
    reverberant = _convolve(samples, response)[direct : direct + len(samples)]
    before, after = (np.mean(np.square(x, dtype=np.float64)) for x in (samples, reverberant))
    return (reverberant * np.sqrt(before / after)).astype(np.float32)


def _convolve(samples: Samples, response: Samples) -> Samples:
    """Convolve block by block, adding up what overlaps; each block by its spectrum."""
    size = max(1 << (2 * len(response)).bit_length(), _LEAST_BLOCK_SAMPLES)
    step = size - len(response) + 1
    spectrum = np.fft.rfft(response.astype(np.float64), size)
    total = np.zeros(len(samples) + len(response) - 1, dtype=np.float32)
    for start in range(0, len(samples), step):
        block = np.fft.rfft(samples[start : start + step].astype(np.float64), size)
        part = np.fft.irfft(block * spectrum, size)[: len(total) - start]
        total[start : start + size] += part
    return total


def clip_peaks(samples: Samples, drive_db: float) -> Samples:
    """Return samples as an input gives them that is driven beyond what it can hold.

    Args:
        samples: their greatest is taken for full scale.
        drive_db: by how much it is driven beyond; nothing is left above.

    Returns:
        As loud as before where nothing was lost: what stands more than ``drive_db`` below the
        greatest sample is unchanged.
    """
    most = np.abs(samples).max(initial=0.0) * 10 ** (-drive_db / 20)
    return np.clip(samples, -most, most).astype(np.float32)


@dataclass(frozen=True)
class Codec:
    """A codec that speech is sent through: opus and mp3 at 16 kHz, mulaw (telephone) at 8 kHz."""

    encoder: str  # by PyAV's name
    container: str  # by PyAV's name
    sample_rate_hz: int = SAMPLE_RATE_HZ  # of the encoded sound
    # Thousands of bits per second; None where the codec has one rate alone
    bit_rate_k: int | None = None
    options: tuple[tuple[str, str], ...] = ()  # of the encoder

    @classmethod
    def parse(cls, text: str) -> "Codec":
        """Read "opus-6k", "mp3-16k" or "mulaw".

        Raises:
            ValueError: there is no such codec, or not at that rate.
        """
        if text == "mulaw":
            return cls("pcm_mulaw", "wav", 8_000)
        rated = re.fullmatch(r"(opus|mp3)-(\d+)k", text)
        name, rate_k = (rated[1], int(rated[2])) if rated else ("", 0)
        if name == "opus" and 6 <= rate_k <= 256:
            return cls("libopus", "ogg", bit_rate_k=rate_k, options=(("application", "voip"),))
        if name == "mp3" and rate_k in _MP3_RATES_K:
            return cls("libmp3lame", "mp3", bit_rate_k=rate_k)
        rates_k = ", ".join(map(str, _MP3_RATES_K))
        raise ValueError(
            f"a codec must be opus-6k to opus-256k, mp3-Nk where N is one of {rates_k}, or "
            f'mulaw, found "{text}"'
        )


_MP3_RATES_K = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG-2


def through_codec(samples: Samples, codec: Codec) -> Samples:
    """Return samples encoded and decoded again.

    Args:
        samples: what lies outside [-1, 1] is clipped.
        codec: a known one.

    Returns:
        As long as before, the codec's delay taken out. Opus moves low tones by up to a sample, as
        it filters what lies below a voice.
    """
    # Silence behind for what an encoder holds back.
    pcm = to_pcm(np.pad(samples, (0, _PADDING_SAMPLES)))
    frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE_HZ
    file = io.BytesIO()
    with av.open(file, "w", format=codec.container) as container:
        stream = container.add_stream(
            codec.encoder, rate=codec.sample_rate_hz, options=dict(codec.options)
        )
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        if codec.bit_rate_k is not None:
            stream.bit_rate = codec.bit_rate_k * 1000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    decoded = load_samples(file)[: len(samples)]
    return np.pad(decoded, (0, len(samples) - len(decoded)))
