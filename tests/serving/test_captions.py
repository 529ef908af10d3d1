"""Words that are settled: what a growing sound may give out, and never take back."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import seconds_to_samples
from distilwhisper.text.transcript import Word

pytest.importorskip("silero_vad", exc_type=ImportError)

from distilwhisper.serving.captions import Captions, CaptionSettings, Pass, live_settings


@pytest.fixture(scope="module")
def speech(prompts) -> Samples:
    """Twelve seconds of speech and then two of silence."""
    joined = np.concatenate([samples for samples, _ in prompts])
    voiced = np.concatenate([joined] * 20)[: seconds_to_samples(12.0)]
    return np.concatenate([voiced, np.zeros(seconds_to_samples(2.0), dtype=np.float32)])


def spoken(start_s: float, stop_s: float, *, end: str = "") -> list[Word]:
    """A word each half second of a sound, with times from the start of a pass on."""
    first, last = int(np.ceil(start_s * 2)), int(stop_s * 2)
    return [
        Word(n / 2 - start_s, (n + 1) / 2 - start_s, f" w{n}{end if n % 7 == 6 else ''}", 1.0)
        for n in range(first, last)
    ]


def transcribed(one: Pass, *, unsure: int, end: str = "") -> list[Word]:
    """What a model might say: right, but for the last words, which differ each time."""
    stop_s = one.start_s + len(one.samples) / 16_000
    words = spoken(one.start_s, min(stop_s, 12.0), end=end)
    if one.is_last or not unsure:
        return words
    guesses = [Word(w.start, w.end, f" {w.text}{len(one.samples)}", 0.1) for w in words[-unsure:]]
    return [*words[:-unsure], *guesses]


def caption(
    captions: Captions, sound: Samples, *, step_s: float = 0.25, unsure: int = 2, end: str = ""
) -> Iterator[tuple[Pass, list[Word]]]:
    step = seconds_to_samples(step_s)
    for start in range(0, len(sound), step):
        captions.feed(sound[start : start + step])
        while (one := captions.next_pass()) is not None:
            yield one, captions.settle(one, transcribed(one, unsure=unsure, end=end))


@pytest.mark.parametrize("end", ["", "."])
def test_every_word_is_settled_once_and_in_order(speech: Samples, end: str) -> None:
    passes = list(caption(Captions(CaptionSettings()), speech, end=end))
    words = [word.text for _, settled in passes for word in settled]
    assert words == [word.text for word in spoken(0.0, 12.0, end=end)]
    assert [one.is_last for one, _ in passes].count(True) == 1
    assert passes[-1][0].is_last
    before_the_end = sum(len(settled) for one, settled in passes if not one.is_last)
    assert before_the_end >= 20  # of 24
    # Behind a settled sentence the sound is dropped: passes stay short.
    longest_s = max(len(one.samples) for one, _ in passes) / 16_000
    assert longest_s < (6.5 if end else 14.0)


def test_what_two_passes_do_not_agree_on_is_not_settled(speech: Samples) -> None:
    captions = Captions(CaptionSettings(pause_s=None))
    for one, settled in caption(captions, speech[: 16_000 * 10], unsure=99):
        assert not one.is_last
        assert settled == []


def test_a_speaker_who_never_pauses_is_cut_at_a_window(speech: Samples) -> None:
    endless = np.tile(speech[: 16_000 * 12], 4)
    captions = Captions(CaptionSettings(pause_s=None))
    step = seconds_to_samples(0.5)
    for start in range(0, len(endless), step):
        captions.feed(endless[start : start + step])
        while (one := captions.next_pass()) is not None:
            assert len(one.samples) <= 16_000 * 25
            words = [Word(0.1, 0.3, f" never{start}", 1.0)]
            captions.settle(one, words)
    assert captions.backlog_s < 26


def test_silence_is_not_transcribed() -> None:
    captions = Captions(CaptionSettings())
    silence = np.zeros(16_000 * 20, dtype=np.float32)
    assert list(caption(captions, silence)) == []
    assert captions.backlog_s <= 1.0
    assert not captions.is_speaking


def test_a_caller_may_end_an_utterance_or_forget_it(speech: Samples) -> None:
    captions = Captions(CaptionSettings(pause_s=None))
    captions.feed(speech[: 16_000 * 3])
    captions.end()
    one = captions.next_pass()
    assert one is not None
    assert one.is_last
    assert captions.settle(one, transcribed(one, unsure=0))
    assert captions.next_pass() is None
    captions.feed(speech[16_000 * 3 : 16_000 * 6])
    captions.clear()
    assert captions.next_pass() is None
    assert captions.backlog_s == 0


def test_a_pass_that_repeats_itself_is_tried_hotter_as_any_window_is() -> None:
    base = DecodingSettings(temperature=(0.0, 0.4), compression_ratio_threshold=2.0)
    live = live_settings(base, None)
    assert live.temperature == base.temperature
    assert live.compression_ratio_threshold == base.compression_ratio_threshold


@pytest.mark.parametrize("with_prompt", [False, True])
def test_a_pass_is_told_the_settled_text_before_it_if_it_shall_be(
    speech: Samples, tiny_model: Path, with_prompt: bool
) -> None:
    settings = live_settings(DecodingSettings(), None)
    transcriber = Transcriber.from_model(str(tiny_model), settings, Hardware("cpu", "float32"))
    passes = list(caption(Captions(CaptionSettings(with_prompt=with_prompt)), speech))
    so_far = ""
    for one, settled in passes:
        assert one.prompt == (so_far if with_prompt else "")
        assert one.fit(transcriber).settings.initial_prompt == (one.prompt or None)
        so_far += "".join(word.text for word in settled)


def test_words_said_again_by_a_pass_behind_a_cut_are_given_once() -> None:
    captions = Captions(CaptionSettings())
    sound = np.zeros(16_000 * 4, dtype=np.float32)
    first = Pass(sound, 0.0, is_last=False, prompt="")
    words = [Word(0.0, 0.5, " one.", 1.0), Word(0.5, 1.0, " two", 1.0), Word(1.0, 1.5, " x", 1.0)]
    captions.settle(first, words)
    assert [w.text for w in captions.settle(first, [*words[:2], Word(1.0, 1.5, " y", 1.0)])] == [
        " one.",
        " two",
    ]
    behind = Pass(sound, 0.5, is_last=False, prompt="")  # behind "one."
    again = [Word(0.1, 0.6, " Two", 1.0), Word(0.6, 1.1, " three", 1.0)]
    captions.settle(behind, again)
    assert [w.text for w in captions.settle(behind, again)] == [" three"]


@given(step_s=st.sampled_from([0.1, 0.4, 1.0]), data=st.data())
def test_settled_text_only_grows(step_s: float, data: st.DataObject) -> None:
    """Whatever the passes say, times and all."""
    captions = Captions(CaptionSettings())
    settled: list[Word] = []
    for n in range(12):
        start_s = data.draw(st.floats(0, 2))
        words = [
            Word(start_s + i * step_s, start_s + (i + 1) * step_s, f" {text}", 1.0)
            for i, text in enumerate(data.draw(st.lists(st.sampled_from("abc."), max_size=6)))
        ]
        one = Pass(np.zeros(16_000, dtype=np.float32), n * 0.5, is_last=n == 11, prompt="")
        new = captions.settle(one, words)
        if settled and new and n < 11:
            assert new[0].end > settled[-1].end
        settled += new


def test_the_benchmark_says_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "live_captions.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert "--margin" in capsys.readouterr().out
