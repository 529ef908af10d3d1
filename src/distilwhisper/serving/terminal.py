"""Live captions in a terminal: of a microphone, or of a pipe of samples."""

import queue
import sys
import threading
from collections.abc import Callable, Iterator

import av

from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.serving.captions import Captions, CaptionSettings
from distilwhisper.serving.sound import pcm_samples
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.sources import OpenFile
from distilwhisper.speech.units import SAMPLE_RATE_HZ

BLOCK_BYTES = SAMPLE_RATE_HZ // 10 * 2
DEVICES = {"linux": ("alsa", "default"), "darwin": ("avfoundation", ":default")}
SYSTEM = sys.platform


def pipe_blocks(pipe: OpenFile) -> Iterator[Samples]:
    """Yield the sound of a pipe: 16-bit samples, little-endian, mono, 16 kHz."""
    while data := pipe.read(BLOCK_BYTES):
        yield pcm_samples(data[: len(data) // 2 * 2])


def microphone_blocks() -> Iterator[Samples]:
    """Yield the sound of the system's microphone.

    Raises:
        OSError: there is none that can be opened.
    """
    kind, device = DEVICES.get(SYSTEM, ("", ""))
    instead = "pipe 16-bit samples at 16 kHz into: distilwhisper live -"
    if not kind:
        raise OSError(f"a microphone must be on Linux or macOS, found {SYSTEM}: {instead}")
    try:
        container = av.open(device, format=kind)
    except (av.FFmpegError, ValueError) as error:
        raise OSError(f"the microphone cannot be opened ({error}): {instead}") from error
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
    with container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                yield pcm_samples(part.to_ndarray().tobytes())


def caption(
    blocks: Iterator[Samples],
    transcriber: Transcriber,
    settings: CaptionSettings,
    write: Callable[[str], None],
) -> None:
    """Write captions of sound as it comes, a line for each utterance, until the sound ends.

    The sound is read in a thread of its own.
    """
    coming: queue.Queue[Samples | Exception | None] = queue.Queue()
    threading.Thread(target=_read, args=(blocks, coming), daemon=True).start()
    captions = Captions(settings)
    is_over = False
    while True:
        one = captions.next_pass()
        if one is None:
            if is_over:
                return
            for block in _arrived(coming):
                if block is None:
                    captions.end()
                    is_over = True
                else:
                    captions.feed(block)
            continue
        found = one.fit(transcriber).transcribe(one.samples).words if len(one.samples) else ()
        text = "".join(word.text for word in captions.settle(one, found))
        write(f"{text}\n" if one.is_last else text)


def _read(blocks: Iterator[Samples], coming: "queue.Queue[Samples | Exception | None]") -> None:
    try:
        for block in blocks:
            coming.put(block)
        coming.put(None)
    except Exception as error:
        coming.put(error)


def _arrived(coming: "queue.Queue[Samples | Exception | None]") -> Iterator[Samples | None]:
    """Yield what has come, waiting for one piece at least; None is the end."""
    is_first = True
    while is_first or not coming.empty():
        is_first = False
        block = coming.get()
        if isinstance(block, Exception):
            raise block
        yield block
