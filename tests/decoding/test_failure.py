from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corpora import noise
from distilwhisper.decoding.failure import (
    MAX_PHRASE_WORDS,
    MAX_REPEATS,
    decode_with_fallback,
    is_silence,
    loops,
    loops_already,
    repeats,
    why_failed,
)
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import DecodedWindow, Window, WindowDecoder, WindowRequest
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.whisper import Encoder, WhisperConfig

SETTINGS = DecodingSettings()


def request_of(settings: DecodingSettings, window: Window) -> WindowRequest:
    """A request of a decoder of which nothing but the settings is asked."""
    decoder = create_autospec(WindowDecoder, instance=True, settings=settings)
    return WindowRequest(decoder, window, (5, 6), seed=3)


def window(
    *, logprob: float = -0.3, compression: float = 1.2, no_speech: float = 0.1
) -> DecodedWindow:
    return DecodedWindow(
        prompt_ids=(1,),
        token_ids=(2, 3),
        finished=True,
        text="the end",
        language="en",
        temperature=0.0,
        avg_logprob=logprob,
        no_speech_prob=no_speech,
        compression_ratio=compression,
    )


GOOD, UNLIKELY, LOOPING = window(), window(logprob=-1.4), window(compression=3.0)
SILENT = window(logprob=-1.4, compression=3.0, no_speech=0.9)


def climb(
    settings: DecodingSettings, answers: Iterator[DecodedWindow], **judge: object
) -> tuple[DecodedWindow, list[WindowRequest]]:
    """Answer each request with the next window; return what came out, and the requests."""
    request = request_of(settings, Window(torch.zeros(80, 10), 1600))
    judge = {"excuse": lambda *_: False, **judge}
    task = decode_with_fallback(request, **judge)  # type: ignore[arg-type]
    asked = [next(task)]
    while True:
        try:
            asked.append(task.send(next(answers)))
        except StopIteration as stop:
            return stop.value, asked


@pytest.mark.parametrize("n_failing", range(6))
def test_the_ladder_ends_at_the_first_text_that_is_believed(n_failing: int) -> None:
    failing = [UNLIKELY, LOOPING][n_failing % 2]
    answers = iter([*[failing] * n_failing, GOOD, UNLIKELY])
    decoded, asked = climb(SETTINGS, answers)
    assert decoded == GOOD
    assert [request.temperature for request in asked] == list(SETTINGS.temperature[: n_failing + 1])
    for request in asked:
        assert request == replace(asked[0], temperature=request.temperature)
        assert (request.previous_ids, request.seed) == ((5, 6), 3)
    assert next(answers) is UNLIKELY


def test_a_ladder_that_finds_nothing_ends_with_its_last_text() -> None:
    last = window(logprob=-7.25)
    decoded, asked = climb(SETTINGS, iter([*[LOOPING] * 5, last]))
    assert decoded == replace(last, failure="average log-probability -7.25 under -1")
    assert len(asked) == 6
    decoded, asked = climb(replace(SETTINGS, temperature=(0.0,)), iter([LOOPING]))
    assert decoded == replace(LOOPING, failure="compression ratio 3.0 over 2.4")
    assert len(asked) == 1


def test_of_texts_that_all_fail_the_likeliest_that_is_no_loop_is_kept() -> None:
    likeliest = window(logprob=-1.1)
    decoded, asked = climb(SETTINGS, iter([LOOPING, likeliest, *[window(logprob=-3.0)] * 4]))
    assert decoded == replace(likeliest, failure="average log-probability -1.10 under -1")
    assert len(asked) == 6


LOOPING_AND_UNLIKELY = window(logprob=-1.4, compression=3.0)
REPEATED = replace(GOOD, text="go on " * 6)


@pytest.mark.parametrize("repeating", [LOOPING, REPEATED])
def test_a_text_that_repeats_itself_as_the_sound_does_is_believed(
    repeating: DecodedWindow,
) -> None:
    decoded, asked = climb(SETTINGS, iter([repeating]), stricter=loops, excuse=lambda *_: True)
    assert decoded == repeating
    assert len(asked) == 1
    decoded, asked = climb(
        SETTINGS, iter([repeating, GOOD]), stricter=loops, excuse=lambda *_: False
    )
    assert decoded == GOOD


def test_only_the_first_text_and_only_its_repetition_is_excused() -> None:
    def never(*_: object) -> bool:
        raise AssertionError

    climb(SETTINGS, iter([UNLIKELY, LOOPING_AND_UNLIKELY, LOOPING, GOOD]), excuse=never)
    climb(SETTINGS, iter([LOOPING_AND_UNLIKELY, GOOD]), excuse=never)


def test_a_stricter_judge_is_asked_of_texts_that_pass_the_thresholds() -> None:
    seen = []

    def stricter(one: DecodedWindow) -> str | None:
        seen.append(one)
        return "too short" if len(seen) < 2 else None

    other = window(logprob=-0.2)
    decoded, _ = climb(SETTINGS, iter([GOOD, UNLIKELY, other]), stricter=stricter)
    assert decoded == other
    assert seen == [GOOD, other]
    decoded, _ = climb(replace(SETTINGS, temperature=(0.0,)), iter([GOOD]), stricter=lambda _: "no")
    assert decoded == replace(GOOD, failure="no")


def test_no_text_that_may_be_returned_is_given_up_on_its_way() -> None:
    """The first may be excused, and the last is taken where all fail."""
    decoded, asked = climb(SETTINGS, iter([LOOPING] * 6), hopeless=loops_already)
    assert decoded.failure
    assert [one.hopeless for one in asked] == [None, *[loops_already] * 4, None]
    once = replace(SETTINGS, temperature=(0.0,))
    _, asked = climb(once, iter([LOOPING]), hopeless=loops_already)
    assert [one.hopeless for one in asked] == [None]


@pytest.mark.parametrize(
    ("one", "changed", "failure"),
    [
        (GOOD, {}, None),
        (window(compression=2.4), {}, None),
        (window(compression=2.41), {}, "compression ratio 2.4 over 2.4"),
        (window(logprob=-1.0), {}, None),
        (window(logprob=-1.01), {}, "average log-probability -1.01 under -1"),
        (LOOPING, {"compression_ratio_threshold": None}, None),
        (LOOPING, {"compression_ratio_threshold": 3.5}, None),
        (LOOPING, {"logprob_threshold": None}, "compression ratio 3.0 over 2.4"),
        (UNLIKELY, {"logprob_threshold": None}, None),
        (UNLIKELY, {"compression_ratio_threshold": None}, "average log-probability -1.40 under -1"),
        (SILENT, {}, None),
        (SILENT, {"no_speech_threshold": None}, "compression ratio 3.0 over 2.4"),
        (SILENT, {"no_speech_threshold": 0.95}, "compression ratio 3.0 over 2.4"),
    ],
)
def test_a_text_fails_beyond_a_threshold(
    one: DecodedWindow, changed: dict[str, float | None], failure: str | None
) -> None:
    assert why_failed(one, replace(SETTINGS, **changed)) == failure  # type: ignore[arg-type]


def test_silence_is_no_speech_and_a_text_that_is_not_likely() -> None:
    assert is_silence(SILENT, SETTINGS)
    assert not is_silence(replace(SILENT, avg_logprob=-0.9), SETTINGS)
    assert not is_silence(replace(SILENT, no_speech_prob=0.6), SETTINGS)
    assert not is_silence(SILENT, replace(SETTINGS, no_speech_threshold=None))
    # Without a threshold for the text, no-speech alone decides.
    assert is_silence(replace(SILENT, avg_logprob=-0.1), replace(SETTINGS, logprob_threshold=None))


@pytest.mark.parametrize(
    "broken",
    [
        UNLIKELY,
        LOOPING,
        SILENT,
        replace(GOOD, text=""),
        replace(GOOD, finished=False),
        replace(GOOD, text="go on " * 6),
    ],
)
def test_a_cut_window_gets_its_silence_back_before_it_is_tried_hotter(
    broken: DecodedWindow,
) -> None:
    whole = torch.zeros(80, 30)
    cut = Window(whole[:, :10], 1600, whole_mel=whole)
    cut.states[Encoder(WhisperConfig(8, 80, 4, 1, 2, 8, 1, 2, 8))] = torch.zeros(5, 4)
    request = request_of(SETTINGS, cut)
    task = decode_with_fallback(request, excuse=lambda *_: False)
    assert next(task) == request
    again = task.send(broken)
    assert again == request
    assert cut.mel is whole
    assert not cut.states
    assert task.send(UNLIKELY).temperature == SETTINGS.temperature[1]
    assert task.send(UNLIKELY).temperature == SETTINGS.temperature[2]


def test_a_cut_window_that_is_believed_stays_cut() -> None:
    cut = Window(torch.zeros(80, 10), 1600, whole_mel=torch.zeros(80, 30))
    task = decode_with_fallback(request_of(SETTINGS, cut))
    next(task)
    with pytest.raises(StopIteration) as stop:
        task.send(GOOD)
    assert stop.value.value == GOOD
    assert cut.whole_mel is not None


@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_less_context_breaks_is_heard_as_with_all_of_it(
    tiny_model: Path, batch_size: int
) -> None:
    """A random model finds no end, whatever it hears."""
    pieces = [noise(0.3 + seed, seed=seed) for seed in range(3)]
    settings = DecodingSettings(temperature=(0.0,), batch_size=batch_size, max_new_tokens=6)
    model, on_cpu = str(tiny_model), Hardware("cpu", "float32")
    whole = Transcriber.from_model(model, settings, on_cpu)
    short = Transcriber.from_model(model, replace(settings, context_margin_s=0.2), on_cpu)
    for one, other in zip(short.decode(pieces), whole.decode(pieces), strict=True):
        # Sums over other numbers of rows end in another bit.
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-6)
        assert one == replace(other, logprobs=one.logprobs, avg_logprob=one.avg_logprob)
    assert short.counts.tokens == 2 * whole.counts.tokens > 0
    recording = np.concatenate(pieces)
    for long_form in ("chunked", "sequential"):
        wanted, found = (
            replace(one, settings=replace(one.settings, long_form=long_form)).transcribe(recording)
            for one in (whole, short)
        )
        assert found == wanted


def test_silence_is_not_tried_again() -> None:
    decoded, asked = climb(SETTINGS, iter([SILENT]))
    assert decoded == SILENT
    assert len(asked) == 1


WORDS = st.sampled_from("one two three four five six seven eight nine ten".split())
# Words around a loop that can be no part of it.
EDGES = st.lists(st.integers(100, 999).map(str), max_size=8, unique=True)


@given(st.lists(WORDS, min_size=1, max_size=MAX_PHRASE_WORDS), EDGES, EDGES)
def test_a_phrase_said_over_and_over_is_found_wherever_it_stands(
    phrase: list[str], before: list[str], after: list[str]
) -> None:
    assert repeats([*before, *phrase * (MAX_REPEATS + 1), *after])


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> Transcriber:
    return Transcriber.from_model(str(tiny_model), SETTINGS, Hardware("cpu", "float32"))


@pytest.mark.parametrize("language", ["en", "ja"])
@given(data=st.data())
def test_a_text_whose_beginning_loops_will_loop(
    decoder: Transcriber, language: str, data: st.DataObject
) -> None:
    words = data.draw(EDGES) + data.draw(st.lists(WORDS, max_size=3)) * 6 + data.draw(EDGES)
    token_ids = decoder.tokenizer.encode(" " + " ".join(words) + " né über")
    request = WindowRequest(decoder, Window(torch.zeros(80, 10), 1600, language))
    text = decoder.tokenizer.decode(token_ids).strip()
    is_loop = bool(loops(replace(GOOD, text=text, language=language)))
    already = [loops_already(request, token_ids[:n]) for n in range(len(token_ids) + 1)]
    assert already == sorted(already)
    assert not already[0]
    assert already[-1] == is_loop or language == "ja"  # whose last sign is not looked at


@given(
    st.lists(WORDS, min_size=1, max_size=MAX_PHRASE_WORDS, unique=True),
    EDGES,
    EDGES,
    st.integers(1, MAX_REPEATS),
)
def test_a_phrase_said_a_few_times_is_none(
    phrase: list[str], before: list[str], after: list[str], times: int
) -> None:
    assert not repeats([*before, *phrase * times, *after])


@given(st.lists(st.sampled_from("ab"), max_size=40))
def test_a_loop_is_what_a_plain_search_finds(words: list[str]) -> None:
    wanted = any(
        words[at : at + size] * (MAX_REPEATS + 1) == words[at : at + size * (MAX_REPEATS + 1)]
        for size in range(1, MAX_PHRASE_WORDS + 1)
        for at in range(len(words) - size * (MAX_REPEATS + 1) + 1)
    )
    assert repeats(words) == wanted


def test_a_longer_phrase_than_is_looked_for_is_no_loop() -> None:
    phrase = [str(n) for n in range(MAX_PHRASE_WORDS + 1)]
    assert not repeats(phrase * 10)
    assert not repeats([])
