"""One chunk, with the windows that it asks for answered by hand."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corpora import noise
from distilwhisper.decoding.alignment import TimedWindow
from distilwhisper.decoding.chunked import Chunk, decode_chunk
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import DecodedWindow, WindowDecoder, WindowRequest
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import seconds_to_samples


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> WindowDecoder:
    settings = DecodingSettings(temperature=(0.0,))
    made = Transcriber.from_model(str(tiny_model), settings, Hardware("cpu", "float32"))
    return WindowDecoder(made.checkpoint, made.tokenizer, settings)


def silence(seconds: float) -> Samples:
    return np.zeros(seconds_to_samples(seconds), dtype=np.float32)


def says(decoder: WindowDecoder, *pieces: float | str) -> DecodedWindow:
    """A window's text with its timestamps, in seconds."""
    tokenizer = decoder.tokenizer
    ids = [
        id_
        for piece in pieces
        for id_ in (
            tokenizer.encode(piece)
            if isinstance(piece, str)
            else [tokenizer.timestamp_begin + round(piece / 0.02)]
        )
    ]
    return DecodedWindow(
        prompt_ids=(tokenizer.sot,),
        token_ids=tuple(ids),
        finished=True,
        text=tokenizer.decode(ids).strip(),
        language="en",
        temperature=0.0,
        avg_logprob=-0.3,
        no_speech_prob=0.1,
        compression_ratio=1.2,
    )


def run(
    decoder: WindowDecoder,
    samples: Samples,
    answers: Iterator[DecodedWindow],
    *,
    shared_s: float = 0.0,
    start_s: float = 0.0,
) -> tuple[list[TimedWindow], list[float]]:
    """Return the windows, and how long each window was that was asked for."""
    chunk = Chunk(seconds_to_samples(start_s), samples, shared_s, language="en")
    task = decode_chunk(decoder, chunk)
    asked: list[WindowRequest] = []
    try:
        asked.append(next(task))
        while True:
            asked.append(task.send(next(answers)))
    except StopIteration as stop:
        return stop.value, [request.window.n_samples / 16_000 for request in asked]


def test_what_lies_on_either_side_of_a_long_pause_is_a_window_of_its_own(
    decoder: WindowDecoder,
) -> None:
    samples = np.concatenate([noise(6.0, seed=1), silence(10.0), noise(5.0, seed=2)])
    answers = iter([says(decoder, 0.0, " one", 6.0), says(decoder, 0.5, " two", 5.4)])
    windows, lengths_s = run(decoder, samples, answers, start_s=100.0)
    assert lengths_s == [pytest.approx(6.5, abs=0.3), pytest.approx(5.5, abs=0.3)]
    assert [word.text for one in windows for word in one.words] == [" one", " two"]
    assert windows[0].segments[0].start_s == 100.0
    assert windows[1].segments[0].start_s == pytest.approx(116.0, abs=0.3)


def test_a_chunk_without_a_long_pause_is_one_window(decoder: WindowDecoder) -> None:
    samples = np.concatenate([noise(6.0, seed=1), silence(2.5), noise(5.0, seed=2)])
    answers = iter([says(decoder, 0.0, " one", 13.4)])
    windows, lengths_s = run(decoder, samples, answers)
    assert lengths_s == [13.5]
    assert len(windows) == 1
    assert run(decoder, silence(20.0), iter([])) == ([], [])


def test_a_last_chunk_that_says_that_more_follows_is_decoded_to_its_end(
    decoder: WindowDecoder,
) -> None:
    """Two timestamps at the end of a text: the model left the next segment to another window."""
    samples = noise(10.0, seed=1)
    unfinished = says(decoder, 0.0, " one", 8.0, 8.0)
    rest = says(decoder, 0.0, " two", 2.0)
    windows, lengths_s = run(decoder, samples, iter([unfinished, rest]))
    assert lengths_s == [10.0, pytest.approx(2.0)]
    assert [(w.text, w.start_s) for one in windows for w in one.words] == [
        (" one", 0.0),
        (" two", 8.0),
    ]
    # A single one says that nothing follows; and the next chunk may hear the rest anyway.
    finished = says(decoder, 0.0, " one", 8.0)
    assert run(decoder, samples, iter([finished]))[1] == [10.0]
    assert run(decoder, samples, iter([unfinished]), shared_s=4.0)[1] == [10.0]
    # That does not hold for what lies before a pause that the next chunk does not reach.
    paused = np.concatenate([samples, silence(10.0)])
    _, lengths_s = run(decoder, paused, iter([unfinished, rest]), shared_s=4.0)
    assert lengths_s == [pytest.approx(10.5, abs=0.1), pytest.approx(2.5, abs=0.1)]


def test_speech_far_behind_the_end_of_the_text_is_decoded_again(decoder: WindowDecoder) -> None:
    samples = noise(20.0, seed=1)
    answers = [says(decoder, 0.0, " one", 8.0), says(decoder, 0.0, " two", 12.0)]
    _, lengths_s = run(decoder, samples, iter(answers), shared_s=5.0)
    assert lengths_s == [20.0, pytest.approx(12.0)]
    assert run(decoder, samples, iter(answers), shared_s=13.0)[1] == [20.0]


@pytest.mark.parametrize("timestamps", [True, False])
def test_a_language_token_inside_a_text_is_none_of_its_words(
    decoder: WindowDecoder, timestamps: bool
) -> None:
    """Weak models write one; word times and logarithms are those of the text around it."""
    timing = replace(
        decoder,
        settings=replace(decoder.settings, word_timestamps=timestamps, timestamps=timestamps),
    )
    said = says(decoder, *((0.0, " the cat", 2.0) if timestamps else (" the cat",)))
    half = len(said.token_ids) // 2
    ids = (*said.token_ids[:half], decoder.tokenizer.sot + 1, *said.token_ids[half:])
    logprobs = tuple(-float(number) for number in range(len(ids) + 1))
    samples = noise(3.0, seed=1)
    task = decode_chunk(timing, Chunk(0, samples, language="en"))
    timing.encode([next(task).window])
    with pytest.raises(StopIteration) as stopped:
        task.send(replace(said, token_ids=ids, logprobs=logprobs))
    (window,) = stopped.value.value
    text = [i for i in said.token_ids if not decoder.tokenizer.is_timestamp(i)]
    assert [i for word in window.words for i in word.token_ids] == text
    assert all((word.probability is not None) == timestamps for word in window.words)
    found = [p for word in window.words for p in word.logprobs]
    assert found == [p for i, p in zip(ids, logprobs, strict=False) if i in text]


def test_a_rest_that_hardly_moves_on_ends_the_chunk(decoder: WindowDecoder) -> None:
    crawl = says(decoder, 0.0, " one", 0.02, 0.02)
    answers = iter([says(decoder, 0.0, " one", 2.0, 2.0), crawl, crawl])
    _, lengths_s = run(decoder, noise(10.0, seed=1), answers)
    assert len(lengths_s) == 2


def test_both_halves_of_a_chunk_that_loops_are_tried(decoder: WindowDecoder) -> None:
    loop = replace(says(decoder, 0.0, " one", 20.0), compression_ratio=9.0, finished=False)
    halves = [says(decoder, 0.0, " two", 11.0), says(decoder, 1.0, " three", 12.0)]
    windows, lengths_s = run(decoder, noise(20.0, seed=1), iter([loop, *halves]))
    assert lengths_s == [20.0, 12.0, 12.0]
    assert [word.text for one in windows for word in one.words] == [" two", " three"]
