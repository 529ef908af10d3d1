"""Recordings of many callers in one batch, and text that is known before a recording ends."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import hearing_model, noise
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.transcription import Transcription
from distilwhisper.decoding.windows import Batch
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.text.transcript import Transcript

SHORT = DecodingSettings(max_new_tokens=8, temperature=(0.0,), batch_size=4)
CUT = replace(SHORT, chunk_s=10, overlap_s=3)


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    model = hearing_model(tmp_path_factory.mktemp("models") / "hearing", multilingual=True)
    return Transcriber.from_model(str(model), SHORT, Hardware(device="cpu", dtype="float32"))


def many_settings() -> list[DecodingSettings]:
    return [
        replace(SHORT, language="en"),
        replace(SHORT, language="de", task="translate"),
        replace(SHORT, initial_prompt="the end of it"),
        replace(SHORT, hotwords="aha", language="zh"),
        replace(SHORT, temperature=(0.7,), seed=5),
        replace(SHORT, temperature=(1.0,), seed=6, language="de"),
        replace(SHORT, word_timestamps=True, language="en"),
        replace(SHORT, beam_size=3, language="en"),
        replace(SHORT, max_new_tokens=5, language="en"),
        replace(CUT, language="de"),
        replace(CUT, long_form="sequential", condition_on_previous_text=True, language="en"),
    ]


def run_together(
    callers: list[Transcriber], recordings: list[Samples], every: int
) -> list[Transcript]:
    """Run recordings in one batch, a new one after every so many steps."""
    waiting = [
        Transcription(caller, HeldRecording(samples))
        for caller, samples in zip(callers, recordings, strict=True)
    ]
    arrived: list[Transcription] = []
    begun: list[Transcription] = []
    steps = numbers = 0
    with closing(Batch(callers[0])) as batch:
        while waiting or arrived or not batch.is_empty:
            if waiting and steps % every == 0:
                arrived.append(waiting.pop(0))
                begun.append(arrived[-1])
            while arrived and batch.has_room:
                task = next(arrived[0].tasks, None)
                if task is None:
                    arrived.pop(0)
                    continue
                batch.add(numbers, task)
                numbers += 1
            batch.step()
            steps += 1
    outcomes = [one.outcome for one in begun]
    assert all(isinstance(outcome, Transcript) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Transcript)]


def written(transcript: Transcript) -> list[object]:
    """All of a transcript but its probabilities, whose last digits depend on the batch."""
    return [
        transcript.language,
        *((s.token_ids, s.text, s.start, s.end, s.temperature) for s in transcript.segments),
        *((w.text, w.start, w.end) for s in transcript.segments for w in s.words or ()),
    ]


@pytest.mark.parametrize("every", [1, 3])
def test_requests_of_different_settings_in_one_batch_give_what_each_gives_alone(
    transcriber: Transcriber, every: int
) -> None:
    callers = [replace(transcriber, settings=settings) for settings in many_settings()]
    recordings = [noise(2.0 + 3 * (i % 3), seed=7) for i in range(len(callers))]
    recordings[-2:] = [noise(41.0, seed=8), noise(41.0, seed=8)]
    alone = [one.transcribe(samples) for one, samples in zip(callers, recordings, strict=True)]
    together = run_together(callers, recordings, every)
    assert [written(one) for one in together] == [written(one) for one in alone]
    of_one_sound = [one.text for one, s in zip(alone, recordings, strict=True) if len(s) == 32_000]
    assert len(set(of_one_sound)) > 1, "settings make no difference to this model"


def test_settings_that_do_not_fit_the_model_are_refused(transcriber: Transcriber) -> None:
    with pytest.raises(ValueError, match="klingon"):
        replace(transcriber, settings=replace(SHORT, language="klingon"))


def test_other_settings_share_the_model_and_its_slots(transcriber: Transcriber) -> None:
    transcriber.transcribe(noise(1.0, seed=1))
    before = len(transcriber.searches.made)
    german = replace(transcriber, settings=replace(SHORT, language="de", temperature=(0.5,)))
    german.transcribe(noise(1.0, seed=1))
    assert german.searches is transcriber.searches
    assert len(transcriber.searches.made) == before
    assert german.counts == transcriber.counts


@pytest.mark.parametrize("change", [{"timestamps": False}, {"suppress_tokens": (3,)}])
def test_the_tasks_of_a_batch_have_the_same_rules(
    transcriber: Transcriber, change: dict[str, Any]
) -> None:
    other = replace(transcriber, settings=replace(SHORT, **change))
    task = next(Transcription(other, HeldRecording(noise(1.0, seed=1))).tasks)
    with closing(Batch(transcriber)) as batch:
        with pytest.raises(ValueError, match=f"have the same {next(iter(change))}, .* another"):
            batch.add(0, task)
        assert batch.is_empty


def test_a_cpu_admits_one_window_a_step(transcriber: Transcriber) -> None:
    one = Transcription(
        replace(transcriber, settings=CUT), HeldRecording(noise(60.0, seed=1)), language="en"
    )
    running = []
    with closing(Batch(transcriber)) as batch:
        for number, task in enumerate(one.tasks):
            if not batch.has_room:
                break
            batch.add(number, task)
            assert not batch.has_room
            batch.step()
            running.append(batch.n_running)
    assert running == [1, 2, 3, 4]


def test_a_task_that_is_left_frees_its_slot_and_the_others_stay_as_they_are(
    transcriber: Transcriber,
) -> None:
    english = replace(transcriber, settings=replace(SHORT, language="en"))
    sounds = [noise(1.0 + i, seed=i) for i in range(5)]
    alone = [english.transcribe(samples).text for samples in sounds]
    begun = [Transcription(english, HeldRecording(samples)) for samples in sounds]
    with closing(Batch(english)) as batch:
        left = next(begun[1].tasks)
        for number, task in enumerate([next(begun[0].tasks), left, next(begun[2].tasks)]):
            batch.add(number, task)
            batch.step()
        assert batch.n_running == 3
        batch.leave(1)
        assert batch.n_running == 2
        assert left.gi_frame is None
        for number in (3, 4):
            batch.add(number, next(begun[number].tasks))
            batch.step()
        assert batch.n_running == 4 - sum(one.outcome is not None for one in begun)
        batch.leave(99)  # nobody's
        while not batch.is_empty:
            batch.step()
    for one in begun:
        assert list(one.tasks)[-1:]  # the end
    texts = [[s.text for s in one.take_segments()] for one in begun]
    joined = ["".join(w.text for x in one.windows for w in x.words).strip() for one in begun]
    assert joined == [alone[0], "", *alone[2:]]
    assert texts[1] == []


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
@pytest.mark.parametrize("words", [False, True])
def test_streamed_segments_are_those_of_the_transcript(
    transcriber: Transcriber, long_form: str, words: bool
) -> None:
    settings = replace(
        CUT, long_form=long_form, word_timestamps=words, language="en", max_new_tokens=30
    )
    one = replace(transcriber, settings=settings)
    samples = noise(95.0, seed=3)
    whole = one.transcribe(samples)
    streamed = list(one.stream(samples))
    assert len(whole.segments) > 4
    assert [(s.id, s.text, s.token_ids) for s in streamed] == [
        (s.id, s.text, s.token_ids) for s in whole.segments
    ]
    times = [time for s in streamed for time in (s.start, s.end)]
    assert times == sorted(times)
    assert times[-1] <= 95.0
    for segment in streamed:
        assert (segment.words is not None) == words
        if segment.words:
            assert segment.words[0].start == segment.start


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_segments_come_long_before_the_end_of_a_recording(
    transcriber: Transcriber, long_form: str
) -> None:
    settings = replace(CUT, long_form=long_form, language="en", batch_size=1, max_new_tokens=30)
    done_s: list[float] = []
    samples = HeldRecording(noise(200.0, seed=3))
    english = replace(transcriber, settings=settings)
    one = Transcription(english, samples, on_progress=done_s.append)
    for _ in english.steps(one.tasks):
        if one.take_segments():
            break
    assert sum(done_s) < 40
    assert one.outcome is None


def test_silence_streams_nothing(transcriber: Transcriber) -> None:
    english = replace(transcriber, settings=replace(SHORT, language="en"))
    assert list(english.stream(np.zeros(16_000 * 40, dtype=np.float32))) == []


def test_a_click_is_no_word(transcriber: Transcriber) -> None:
    click, word = (np.full(n, 0.1, dtype=np.float32) for n in (1, 1_600))
    assert transcriber.transcribe(click, language="en").segments == ()
    assert transcriber.transcribe(word, language="en").segments


def test_a_stream_of_what_cannot_be_read_says_so(transcriber: Transcriber, tmp_path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(CorruptAudio, match="broken"):
        list(transcriber.stream(tmp_path / "broken.wav"))


@settings(max_examples=40, deadline=None)
@given(
    chunk_s=st.floats(1.0, 30.0), share=st.none() | st.floats(0.0, 0.8), length_s=st.floats(1, 70)
)
def test_whatever_settings_allow_can_be_planned(
    transcriber: Transcriber, chunk_s: float, share: float | None, length_s: float
) -> None:
    overlap_s = None if share is None else share * chunk_s
    cut = replace(SHORT, chunk_s=chunk_s, overlap_s=overlap_s)
    recording = HeldRecording(np.zeros(int(length_s * 16_000), dtype=np.float32))
    plan = list(Transcription(replace(transcriber, settings=cut), recording)._plan(recording))
    assert (plan[0].start, plan[-1].stop) == (0, len(recording.samples))
