"""Rooms, codecs and clipping, applied to sound whose length and timing stay as they are."""

import io
from collections.abc import Mapping

import av
import numpy as np

from distilwhisper.speech.audio import Samples, load_samples, to_pcm
from distilwhisper.speech.units import SAMPLE_RATE_HZ, seconds_to_samples

# The room of a synthetic response. By Sabine, reverberant over direct energy at a distance is
# 16 pi distance^2 RT60 / (0.161 volume), so that a tail of 60 dB in RT60 begins at a level which
# RT60 does not change.
ROOM_M3 = 100.0
DISTANCE_M = 1.5
# Of the first sample of the tail, the direct sound being one.
_TAIL_POWER = 16 * np.pi * DISTANCE_M**2 / (0.161 * ROOM_M3) * 6 * np.log(10) / SAMPLE_RATE_HZ

_LEAST_BLOCK_SAMPLES = 1 << 14  # of a convolution; shorter ones are all overhead
_PADDING_SAMPLES = SAMPLE_RATE_HZ // 10  # more than any of our codecs delays


def room_response(rt60_s: float, generator: np.random.Generator) -> Samples:
    """Return what a click becomes in a room: itself, as 1.0, and a tail of noise that dies away.

    The tail falls by 60 dB in ``rt60_s``, and ends there; shorter times give the same noise, sooner
    gone. Its energy is 7 times RT60 in seconds on average, as 1.5 m from who speaks in a room of
    100 cubic metres.

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

    Of the room's response to a click, the greatest sample is taken for the direct sound, which
    stays where it is in time. The time taken grows as the length does. Silence is a ValueError.
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
    """Return samples as an input gives them that is driven so far beyond what it can hold.

    What stands more than ``drive_db`` below the greatest sample is unchanged; nothing is above.
    """
    most = np.abs(samples).max(initial=0.0) * 10 ** (-drive_db / 20)
    return np.clip(samples, -most, most).astype(np.float32)


_MP3_RATES_K = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG-2
# By PyAV's names the encoder and the container, the rate of the encoded sound in Hz, and thousands
# of bits a second; None: the codec has one rate alone.
_CODECS: Mapping[str, tuple[str, str, int, int | None]] = {
    "mulaw": ("pcm_mulaw", "wav", 8_000, None),
    **{f"opus-{k}k": ("libopus", "ogg", SAMPLE_RATE_HZ, k) for k in range(6, 257)},
    **{f"mp3-{k}k": ("libmp3lame", "mp3", SAMPLE_RATE_HZ, k) for k in _MP3_RATES_K},
}


def check_codec(name: str) -> None:
    """Refuse what is no codec of :func:`through_codec`, or has another rate, with a ValueError."""
    if name not in _CODECS:
        rates_k = ", ".join(map(str, _MP3_RATES_K))
        raise ValueError(
            f"a codec must be opus-6k to opus-256k, mp3-Nk where N is one of {rates_k}, or "
            f'mulaw, found "{name}"'
        )


def through_codec(samples: Samples, name: str) -> Samples:
    """Return samples encoded and decoded again; what lies outside [-1, 1] is clipped.

    The codec is one such as "opus-6k" or "mp3-16k", at 16 kHz, or "mulaw" (telephone), at 8 kHz;
    another is a ValueError. The samples are as many as before, the codec's delay taken out. Opus
    moves low tones by up to a sample, as it filters what lies below a voice.
    """
    check_codec(name)
    encoder, kind, rate_hz, bit_rate_k = _CODECS[name]
    # Silence behind for what an encoder holds back.
    pcm = to_pcm(np.pad(samples, (0, _PADDING_SAMPLES)))
    frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE_HZ
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        options = {"application": "voip"} if encoder == "libopus" else {}
        stream = container.add_stream(encoder, rate=rate_hz, options=options)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        if bit_rate_k is not None:
            stream.bit_rate = bit_rate_k * 1000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    decoded = load_samples(file)[: len(samples)]
    return np.pad(decoded, (0, len(samples) - len(decoded)))
