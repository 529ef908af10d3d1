from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora import noise
from distilwhisper.decoding.alignment import TimedWindow
from distilwhisper.decoding.segments import split_window
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.transcription import CRAWL_FRAMES, MAX_CRAWLS, Transcription
from distilwhisper.decoding.windows import DecodedWindow, WindowDecoder, WindowRequest
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.text.tokens import Tokenizer
from openai_reference import openai_model


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


def ids(tokenizer: Tokenizer, *pieces: float | str) -> list[int]:
    """Token ids of texts, and of timestamps in seconds."""
    found: list[int] = []
    for piece in pieces:
        found += (
            tokenizer.encode(piece) if isinstance(piece, str) else [tokenizer.timestamp_id(piece)]
        )
    return found


def cut(
    tokenizer: Tokenizer, *pieces: float | str, n_frames: int = 3000
) -> tuple[list[tuple[float, float, str]], int]:
    """Segments (start, end, text) of a window that begins at 100 s, and the frames moved by."""
    token_ids = ids(tokenizer, *pieces)
    found, moved = split_window(token_ids, tokenizer, start_s=100.0, n_frames=n_frames)
    for segment, said in found:
        assert list(segment.token_ids) == [i for i in said if not tokenizer.is_timestamp(i)]
    segments = [
        (round(segment.start_s, 6), round(segment.end_s, 6), tokenizer.decode(segment.token_ids))
        for segment, _ in found
    ]
    return segments, moved


def test_text_without_timestamps_lasts_as_long_as_the_window(tokenizer: Tokenizer) -> None:
    assert cut(tokenizer, " the end") == ([(100, 130, " the end")], 3000)
    assert cut(tokenizer, " the end", n_frames=1234) == ([(100, 112.34, " the end")], 1234)


def test_one_segment_lasts_until_its_only_end(tokenizer: Tokenizer) -> None:
    """The beginning is the window's own, as in openai-whisper."""
    assert cut(tokenizer, 1.0, " the end", 4.5) == ([(100, 104.5, " the end")], 3000)
    assert cut(tokenizer, 2.0, " the end") == ([(100, 102, " the end")], 3000)
    assert cut(tokenizer, 0.0, " the end") == ([(100, 130, " the end")], 3000)


def test_two_timestamps_in_a_row_part_segments_and_the_unfinished_one_is_left(
    tokenizer: Tokenizer,
) -> None:
    said = (0.0, " a", 2.0, 2.5, " the", 5.0, 6.24, " in")
    assert cut(tokenizer, *said) == ([(100, 102, " a"), (102.5, 105, " the")], 500)
    assert cut(tokenizer, *said[:-2], 5.0) == ([(100, 102, " a"), (102.5, 105, " the")], 500)


def test_a_single_timestamp_at_the_end_ends_the_window(tokenizer: Tokenizer) -> None:
    said = (0.0, " a", 2.0, 2.5, " the", 5.0)
    assert cut(tokenizer, *said, n_frames=2000) == (
        [(100, 102, " a"), (102.5, 105, " the")],
        2000,
    )


def test_segments_of_no_time_or_no_text_are_left_out(tokenizer: Tokenizer) -> None:
    assert cut(tokenizer, 0.0, 0.0) == ([], 0)
    assert cut(tokenizer, 1.0, " a", 1.0, 1.0, " the", 3.0, 3.0) == ([(101, 103, " the")], 300)
    assert cut(tokenizer, 1.0, " ", 2.0, 2.0, " the", 3.0, 3.0) == ([(102, 103, " the")], 300)
    assert cut(tokenizer) == ([], 3000)


# From window to window


def answer(
    request: WindowRequest, token_ids: list[int], *, temperature: float, logprob: float = -0.1
) -> DecodedWindow:
    return DecodedWindow(
        prompt_ids=request.previous_ids,
        token_ids=tuple(token_ids),
        finished=True,
        text="the end",
        language="en",
        temperature=temperature,
        avg_logprob=logprob,
        no_speech_prob=0.9,
        compression_ratio=1.0,
        logprobs=tuple(-float(place) for place in range(len(token_ids) + 1)),
    )


class Reader:
    """Runs sequential decoding with answers of a test's own instead of a model's."""

    def __init__(self, folder: Path, samples: Samples, **settings: Any) -> None:
        self.tokenizer = Tokenizer.from_folder(folder)
        chosen = DecodingSettings(long_form="sequential", **settings)
        decoder = WindowDecoder(load_checkpoint(folder), self.tokenizer, chosen)
        self.seconds: list[float] = []
        self.asked: list[WindowRequest] = []
        self.transcription = Transcription(
            decoder, HeldRecording(samples), "en", self.seconds.append
        )

    @property
    def windows(self) -> list[TimedWindow]:
        return self.transcription.windows

    def read(
        self,
        *said: tuple[float | str, ...],
        temperature: float = 0.0,
        logprob: float = -0.1,
    ) -> list[float]:
        """Return where the windows begin that hold text, answering with the last over and over."""
        task = next(self.transcription.tasks)
        answers = [ids(self.tokenizer, *pieces) for pieces in said]
        try:
            request = next(task)
            while True:
                self.asked.append(request)
                now = answers[min(len(self.asked), len(answers)) - 1]
                request = task.send(answer(request, now, temperature=temperature, logprob=logprob))
        except StopIteration:
            return [round(one.start_s, 2) for one in self.windows]


def test_each_window_begins_where_the_last_one_ended(tiny_model: Path) -> None:
    reader = Reader(tiny_model, noise(41.0, seed=1))
    begins = reader.read((0.0, " a", 12.5, 12.5, " the"), (0.0, " in", 9.0, 9.0))
    assert begins == [0, 12.5, 21.5, 30.5, 39.5]
    assert sum(reader.seconds) >= 41.0 - 1e-6
    assert [request.window.n_samples for request in reader.asked][-1] == 150 * 160


def test_a_words_log_probabilities_are_not_those_of_a_segment_that_is_left_out(
    tiny_model: Path,
) -> None:
    reader = Reader(tiny_model, noise(5.0, seed=1))
    reader.read((1.0, " the", 1.0, 1.0, " the", 5.0))  # the first lasts no time
    n_tokens = len(reader.tokenizer.encode(" the"))
    [word] = reader.windows[0].words
    assert word.logprobs == tuple(-float(3 + n_tokens + n) for n in range(n_tokens))


def test_a_model_that_crawls_is_moved_on(tiny_model: Path) -> None:
    reader = Reader(tiny_model, noise(70.0, seed=1))
    begins = reader.read((0.0, 0.02, 0.02))
    step = 2 / 100
    assert CRAWL_FRAMES > 2
    first = [round(n * step, 2) for n in range(MAX_CRAWLS + 1)]
    assert begins[: MAX_CRAWLS + 1] == first
    assert begins[MAX_CRAWLS + 1] == round(first[-1] + 30, 2)
    assert len(begins) < 20


def test_a_model_that_does_not_move_at_all_comes_to_an_end(tiny_model: Path) -> None:
    reader = Reader(tiny_model, noise(65.0, seed=1))
    assert reader.read((0.0, 0.0))[-1] >= 60


def test_silence_is_passed_over(tiny_model: Path) -> None:
    reader = Reader(tiny_model, noise(65.0, seed=1), temperature=(0.0,))
    assert reader.read((0.0, " a", 2.0, 2.0), logprob=-3.0) == []
    assert len(reader.asked) == 3
    assert sum(reader.seconds) == pytest.approx(65.0)


def test_only_spans_of_speech_are_read(tiny_model: Path) -> None:
    reader = Reader(tiny_model, noise(65.0, seed=1), clip_timestamps=(5.0, 9.0, 20.0, 60.0))
    assert reader.read((0.0, " a")) == [5, 20, 50]
    lengths = [request.window.n_samples / 16_000 for request in reader.asked]
    assert lengths == [4, 30, 10]


@pytest.mark.parametrize(
    ("condition", "temperature", "is_told"),
    [(True, 0.0, True), (True, 0.4, True), (True, 0.6, False), (False, 0.0, False)],
)
def test_a_window_is_told_what_was_said_before_it(
    tiny_model: Path, condition: bool, temperature: float, is_told: bool
) -> None:
    reader = Reader(
        tiny_model,
        noise(65.0, seed=1),
        condition_on_previous_text=condition,
        initial_prompt="other",
        hotwords="thin",
    )
    first, hot = ids(reader.tokenizer, " other"), ids(reader.tokenizer, " thin")
    said = (0.0, " a", 20.0, 20.0, " lost")
    reader.read(said, temperature=temperature)
    prev = reader.tokenizer.sot_prev
    assert reader.asked[0].previous_ids == (prev, *hot, *first)
    kept = ids(reader.tokenizer, *said[:3])
    told = (*first, *kept) if is_told else ()
    assert reader.asked[1].previous_ids == (prev, *hot, *told)


# Real weights


def long_recording(prompts: list[tuple[Samples, str]]) -> Samples:
    """Over a minute: the prompts, with pauses of up to three seconds between them."""
    spoken = [samples for samples, _ in prompts]
    pieces: list[Samples] = []
    for number, samples in enumerate([*spoken, *spoken[::-1]]):
        pieces += [samples, np.zeros(8_000 + 16_000 * (number % 4), dtype=np.float32)]
    joined: Samples = np.concatenate(pieces)
    return joined[: 75 * 16_000]


# Both are of openai-whisper itself.
@pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning")
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "initial_prompt"),
    [(False, None), (True, None), (True, "A recording of the Asterisk phone system.")],
)
def test_a_long_recording_equals_openai(
    tiny_en: Path,
    prompts: list[tuple[Samples, str]],
    condition: bool,
    initial_prompt: str | None,
) -> None:
    from whisper.transcribe import transcribe

    samples = long_recording(prompts)
    settings = DecodingSettings(
        long_form="sequential",
        condition_on_previous_text=condition,
        initial_prompt=initial_prompt,
    )
    transcriber = Transcriber.from_model(
        str(tiny_en), settings, Hardware(device="cpu", dtype="float32")
    )
    ours = transcriber.transcribe(samples)
    theirs = transcribe(
        openai_model(transcriber.checkpoint.model),
        samples,
        fp16=False,
        condition_on_previous_text=condition,
        initial_prompt=initial_prompt,
    )
    wanted = [one for one in theirs["segments"] if one["text"].strip()]
    assert {one["temperature"] for one in wanted} == {0.0}  # what is sampled would differ
    assert len({one["seek"] for one in wanted}) > 2
    assert ours.text == theirs["text"].strip()
    assert [segment.text for segment in ours.segments] == [one["text"] for one in wanted]
    for segment, one in zip(ours.segments, wanted, strict=True):
        assert segment.seek == one["seek"]
        assert segment.start == pytest.approx(one["start"], abs=1e-6)
        end_s = min(one["end"], len(samples) / 16_000)  # theirs may end in the padding
        assert segment.end == pytest.approx(end_s, abs=1e-6)
        assert segment.avg_logprob == pytest.approx(one["avg_logprob"], abs=1e-4)
        assert segment.no_speech_prob == pytest.approx(one["no_speech_prob"], abs=1e-4)


def test_no_time_lies_behind_the_end_of_a_recording(tiny_model: Path) -> None:
    settings = DecodingSettings(long_form="sequential", max_new_tokens=24, temperature=(0.0,))
    transcriber = Transcriber.from_model(str(tiny_model), settings, Hardware("cpu", "float32"))
    samples = np.random.default_rng(3).standard_normal(16_000 * 31).astype(np.float32) * 0.1
    segments = transcriber.transcribe(samples).segments
    assert segments
    assert all(0 <= segment.start <= segment.end <= 31 for segment in segments)
