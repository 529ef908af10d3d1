import json
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from corpora import hearing_model, noise
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.transcription import Transcription
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import Samples, load_samples, write_wav
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.speech.sources import CorruptAudio
from distilwhisper.speech.units import SAMPLE_RATE_HZ, WINDOW_SAMPLES, seconds_to_samples
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.transcript import Transcript, render
from tiny_model import write_tiny_model

CPU = Hardware(device="cpu", dtype="float32")
SHORT = DecodingSettings(max_new_tokens=8, temperature=(0.0,))


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    model = hearing_model(tmp_path_factory.mktemp("models") / "hearing")
    return Transcriber.from_model(str(model), SHORT, CPU)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    model = hearing_model(tmp_path_factory.mktemp("models") / "hearing", multilingual=True)
    return Transcriber.from_model(str(model), SHORT, CPU)


def test_every_piece_has_its_window_whatever_the_batch_size(english: Transcriber) -> None:
    pieces = [noise(0.4 + 0.3 * i, seed=i) for i in range(5)]
    together = english.decode(pieces)
    in_twos = replace(english, settings=replace(SHORT, batch_size=2)).decode(pieces)
    assert len({window.token_ids for window in together}) > 1
    assert [w.token_ids for w in in_twos] == [w.token_ids for w in together]
    assert all(len(window.token_ids) <= 8 for window in together)
    for window in together:
        assert window.text == english.tokenizer.decode(window.token_ids).strip()


def test_no_pieces_are_no_windows(english: Transcriber) -> None:
    assert english.decode([]) == []


def test_an_empty_piece_is_refused(english: Transcriber) -> None:
    with pytest.raises(ValueError, match="piece 1 must hold at least one sample"):
        english.decode([noise(0.5, seed=1), np.zeros(0, dtype=np.float32)])


def test_a_piece_longer_than_a_window_is_refused(english: Transcriber) -> None:
    with pytest.raises(ValueError, match=r"480,?000|30 s") as caught:
        english.decode([np.zeros(WINDOW_SAMPLES + 1, dtype=np.float32)])
    assert "480001" in str(caught.value).replace(",", "")


def test_a_recording_of_no_samples_is_refused(english: Transcriber) -> None:
    with pytest.raises(ValueError, match="at least one sample, found none"):
        english.transcribe(np.zeros(0, dtype=np.float32))


def test_a_recording_of_one_window_is_that_window(english: Transcriber) -> None:
    samples = noise(20.0, seed=4)
    cut = replace(english, settings=replace(SHORT, chunk_s=5, overlap_s=1))
    (window,) = english.decode([samples])
    transcript = cut.transcribe(samples)
    assert transcript.text == window.text
    assert {segment.seek for segment in transcript.segments} == {0}


def test_a_long_recording_is_covered_and_its_segments_are_in_order(english: Transcriber) -> None:
    cut = replace(english, settings=replace(SHORT, chunk_s=10, overlap_s=2, batch_size=2))
    done: list[float] = []
    samples = noise(41.3, seed=5)
    [(_, transcript)] = cut.transcribe_all([HeldRecording(samples)], on_progress=done.append)

    # Chunks of 10 s every 8 s, the last at the end; the join may leave nothing of one.
    seeks = [segment.seek for segment in transcript.segments]
    assert set(seeks) <= {0, 800, 1600, 2400, 3130}
    assert {0, 3130} <= set(seeks)
    assert seeks == sorted(seeks)
    assert [segment.id for segment in transcript.segments] == list(range(len(seeks)))
    assert sum(done) == pytest.approx(41.3)
    assert len(done) == 5
    for segment in transcript.segments:
        assert 0 <= segment.start <= segment.end <= 41.3
        assert segment.text == english.tokenizer.decode(segment.token_ids)
    for one, next_ in pairwise(transcript.segments):
        assert one.start <= next_.start
    assert transcript.text == "".join(s.text for s in transcript.segments).strip()
    assert transcript.language == "en"


def test_a_language_that_is_given_is_in_the_prompt(multilingual: Transcriber) -> None:
    tokenizer = multilingual.tokenizer
    piece = noise(0.5, seed=1)
    zh, de = multilingual.decode([piece, piece], languages=["zh", "german"])
    assert (zh.language, de.language) == ("zh", "de")
    assert zh.prompt_ids == (tokenizer.sot, tokenizer.languages["zh"], tokenizer.transcribe)
    assert de.prompt_ids == (tokenizer.sot, tokenizer.languages["de"], tokenizer.transcribe)


def test_the_settings_language_and_task_hold_where_a_piece_has_no_language(
    multilingual: Transcriber,
) -> None:
    settings = replace(SHORT, language="German", task="translate", timestamps=False)
    german = replace(multilingual, settings=settings)
    tokenizer = german.tokenizer
    own, none = german.decode([noise(0.5, seed=1)] * 2, languages=["zh", None])
    assert own.language == "zh"
    assert none.prompt_ids == (
        tokenizer.sot,
        tokenizer.languages["de"],
        tokenizer.translate,
        tokenizer.no_timestamps,
    )


def test_a_transcript_names_its_language_by_its_code(multilingual: Transcriber) -> None:
    german = replace(multilingual, settings=replace(SHORT, language="German"))
    assert german.transcribe(noise(0.5, seed=1)).language == "de"
    assert multilingual.transcribe(noise(0.5, seed=1), language="german").language == "de"


def detecting_model(folder: Path, *, sure: bool) -> Transcriber:
    """A random model that takes quiet noise and loud noise for two languages."""
    write_tiny_model(folder, seed=4, std=0.3, multilingual=True)
    weights = load_file(folder / "model.safetensors")
    rules = json.loads((folder / "generation_config.json").read_text())
    languages = list(rules["lang_to_id"].values())
    tokenizer = Tokenizer.from_folder(folder)
    rules["suppress_tokens"] = [  # it would write control characters, which are no text
        id_
        for id_ in range(tokenizer.timestamp_begin)
        if id_ != tokenizer.eot and not tokenizer.decode([id_]).strip().isalnum()
    ]
    (folder / "generation_config.json").write_text(json.dumps(rules))
    weights["model.decoder.embed_tokens.weight"][languages] *= 30 if sure else 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Transcriber.from_model(str(folder), replace(SHORT, max_new_tokens=24), CPU)


@pytest.fixture(scope="module")
def detecting(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    return detecting_model(tmp_path_factory.mktemp("models") / "detecting", sure=True)


@pytest.fixture(scope="module")
def doubting(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    return detecting_model(tmp_path_factory.mktemp("models") / "doubting", sure=False)


QUIET, LOUD = 0.3 * noise(3.0, seed=0), 1.3 * noise(8.0, seed=1)


def test_a_language_is_detected_where_none_is_given(detecting: Transcriber) -> None:
    windows = detecting.decode([QUIET, LOUD])
    quiet, loud = (window.language for window in windows)
    assert quiet != loud
    for window in windows:
        assert window.prompt_ids[1] == detecting.tokenizer.languages[window.language]
    # The others keep theirs, and a detected one stays in its place.
    mixed = detecting.decode([QUIET, QUIET, LOUD], languages=["en", None, None])
    assert [window.language for window in mixed] == ["en", quiet, loud]


def test_a_recordings_language_is_that_of_its_first_window(detecting: Transcriber) -> None:
    samples = np.zeros(40 * SAMPLE_RATE_HZ, dtype=np.float32)
    samples[: len(QUIET)], samples[-len(LOUD) :] = QUIET, LOUD
    cut = replace(detecting, settings=replace(SHORT, chunk_s=10, overlap_s=0, batch_size=1))
    ten_s = 10 * SAMPLE_RATE_HZ
    first, last = detecting.decode([samples[:ten_s], samples[-ten_s:]])
    assert first.language != last.language
    transcript = cut.transcribe(samples)
    assert transcript.language == first.language
    # All chunks are decoded in it, not each in a language of its own.
    given = cut.transcribe(samples, language=first.language)
    assert replace(transcript, language_probability=None) == given


def silent(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), dtype=np.float32)


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_a_language_is_not_detected_from_silence_or_steady_noise(
    detecting: Transcriber, long_form: str
) -> None:
    loud = detecting.decode([LOUD])[0].language
    alone = replace(detecting, settings=replace(detecting.settings, long_form=long_form))
    hiss = 1e-3 * np.random.default_rng(2).standard_normal(40 * SAMPLE_RATE_HZ)
    for before in (silent(40), hiss.astype(np.float32)):
        assert detecting.decode([before[:WINDOW_SAMPLES]])[0].language != loud
        transcript = alone.transcribe(np.concatenate([before, LOUD]))
        assert transcript.language == loud
        assert transcript.language_probability is not None
        assert transcript.language_probability > 0.5


def test_more_windows_are_asked_where_a_language_is_in_doubt(doubting: Transcriber) -> None:
    """Twice as many until there are no more, and the doubt is in the transcript."""
    samples = np.concatenate([QUIET, silent(27), LOUD, silent(22), QUIET, silent(27)])
    recording = HeldRecording(samples)
    begun = Transcription(doubting, recording)
    assert begun._speech_starts(1) == [0]
    assert begun._speech_starts(2) == [0, 2 * WINDOW_SAMPLES]
    assert begun._speech_starts(8) == [n * WINDOW_SAMPLES for n in range(3)]
    windows = [doubting.window(w) for w in np.split(samples, 3)]
    first = doubting.detect_language(windows[:1])
    assert not first.is_sure
    assert doubting.transcribe(samples).language_probability == pytest.approx(
        doubting.detect_language(windows).probability
    )


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_the_language_of_silence_is_the_one_given(
    multilingual: Transcriber, long_form: str
) -> None:
    alone = replace(multilingual, settings=replace(SHORT, long_form=long_form))
    assert alone.transcribe(silent(2), language="german").language == "de"


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_every_window_has_its_language_where_languages_are_mixed(
    detecting: Transcriber, long_form: str
) -> None:
    quiet, loud = (window.language for window in detecting.decode([QUIET, LOUD]))
    samples = np.concatenate([QUIET, silent(27), LOUD, silent(2)])
    plain = replace(detecting.settings, long_form=long_form, overlap_s=0.0)
    one = replace(detecting, settings=plain).transcribe(samples)
    assert {segment.language for segment in one.segments} == {None}
    mixed = replace(detecting, settings=replace(plain, multilingual=True)).transcribe(samples)
    assert {segment.language for segment in mixed.segments} == {quiet, loud}
    said = json.loads(render(mixed, "json"))["segments"]
    assert [segment["language"] for segment in said][:1] == [quiet]
    assert mixed.language in (quiet, loud)


@pytest.mark.parametrize("long_form", ["chunked", "sequential"])
def test_where_its_own_is_in_doubt_a_window_has_the_recordings_language(
    doubting: Transcriber, long_form: str
) -> None:
    samples = np.concatenate([QUIET, silent(27), LOUD, silent(2)])
    settings = replace(doubting.settings, long_form=long_form, multilingual=True)
    mixed = replace(doubting, settings=settings).transcribe(samples, language="de")
    assert {segment.language for segment in mixed.segments} == {"de"}


def test_an_english_only_model_mixes_no_languages(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="multilingual needs a model of several languages"):
        Transcriber.from_model(str(tiny_model), DecodingSettings(multilingual=True), CPU)


# Threads


def test_threads_may_share_a_transcriber(english: Transcriber) -> None:
    sounds = [noise(3.0 + number, seed=number) for number in range(4)]
    alone = [english.transcribe(sound) for sound in sounds]
    together: dict[int, Transcript] = {}

    def work(number: int) -> None:
        together[number] = english.transcribe(sounds[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together.get(number) for number in range(4)] == alone


def test_one_call_may_rest_while_another_is_made(tmp_path: Path) -> None:
    """Windows end at different times, so that some are unfinished while the first call rests."""
    settings = replace(SHORT, max_new_tokens=40, batch_size=4)
    model = hearing_model(tmp_path / "ending", multilingual=True, end=1.6)
    ending = Transcriber.from_model(str(model), settings, CPU)
    pieces = [noise(1.0 + 0.3 * number, seed=number) for number in range(8)]
    wanted = [window.token_ids for window in ending.decode(pieces)]
    assert len({len(token_ids) for token_ids in wanted}) > 1
    decoded = {}
    for number, window in ending.decode_each((piece, None) for piece in pieces):
        decoded[number] = window.token_ids
        assert ending.decode(pieces[:1])[0].token_ids == wanted[0]
    assert [decoded[number] for number in range(8)] == wanted


# Sound of other programs


def test_a_path_is_opened(english: Transcriber, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, noise(2.0, seed=1))
    wanted = english.transcribe(load_samples(path))
    assert english.transcribe(path) == wanted
    assert english.transcribe(str(path)) == wanted
    with pytest.raises(FileNotFoundError):
        english.transcribe(tmp_path / "absent.wav")
    path.write_bytes(b"no sound")
    with pytest.raises(CorruptAudio):
        english.transcribe(path)


def test_integers_and_channels_are_the_same_sound(english: Transcriber) -> None:
    integers = np.round(noise(2.0, seed=1) * 32768).astype(np.int16)
    wanted = english.transcribe(integers.astype(np.float32) / 32768)
    for same in (integers, integers.astype(np.int64), np.stack([integers, integers], axis=1)):
        assert english.transcribe(same) == wanted
        assert english.decode([same])[0].text == wanted.text


def test_a_folder_of_the_slow_tokenizer_is_loaded(english: Transcriber, tmp_path: Path) -> None:
    folder = hearing_model(tmp_path / "slow")
    assert (folder / "vocab.json").is_file()
    (folder / "tokenizer.json").unlink()
    slow = Transcriber.from_model(str(folder), SHORT, CPU)
    sound = noise(2.0, seed=1)
    assert slow.transcribe(sound) == english.transcribe(sound)


def test_an_unknown_language_names_the_nearest(tiny_multilingual_model: Path) -> None:
    settings = DecodingSettings(language="germn")
    with pytest.raises(ValueError, match='found "germn", nearest is "german"'):
        Transcriber.from_model(str(tiny_multilingual_model), settings, CPU)


def test_an_english_only_model_takes_no_other_language(tiny_model: Path) -> None:
    assert Transcriber.from_model(str(tiny_model), DecodingSettings(language="english"), CPU)
    with pytest.raises(ValueError, match='English only and no "de"'):
        Transcriber.from_model(str(tiny_model), DecodingSettings(language="de"), CPU)


def test_a_language_of_one_call_is_refused_as_one_of_the_settings(english: Transcriber) -> None:
    sound = noise(1.0, seed=1)
    for language in ("en", "English", None):
        assert english.transcribe(sound, language=language).language == "en"
    with pytest.raises(ValueError, match='English only and no "de"'):
        english.transcribe(sound, language="de")
    with pytest.raises(ValueError, match='English only and no "de"'):
        english.decode([sound], languages=["de"])


def test_languages_are_checked_by_utterance(multilingual: Transcriber) -> None:
    multilingual.check_languages({"a": "de", "b": None, "c": "chinese"})
    with pytest.raises(ValueError, match=r"utterance 'b'.*\"fr\""):
        multilingual.check_languages({"a": "de", "b": "fr"})


def test_an_english_only_model_cannot_translate(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="English-only and cannot translate"):
        Transcriber.from_model(str(tiny_model), DecodingSettings(task="translate"), CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_s": 31.0}, r"chunk_s must lie in \[1, 30\], found 31"),
        ({"chunk_s": 0.5}, r"chunk_s must lie in \[1, 30\], found 0.5"),
        ({"chunk_s": float("nan")}, "chunk_s must lie"),
        ({"chunk_s": 10.0, "overlap_s": 10.0}, r"at most 8, .*chunk_s \(10\), found 10"),
        ({"overlap_s": 25.0}, r"at most 24, .*chunk_s \(30\), found 25"),
        ({"overlap_s": -1.0}, "overlap_s must be at least 0.*found -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, found 0"),
        ({"draft_tokens": 0}, "draft_tokens must be at least 1, found 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecodingSettings(**settings)


@given(
    chunk_s=st.floats(1.0, 30.0),
    share=st.floats(0.0, 0.8),
    n_samples=st.integers(1, 100 * SAMPLE_RATE_HZ),
)
def test_whatever_settings_allow_covers_a_recording(
    multilingual: Transcriber, chunk_s: float, share: float, n_samples: int
) -> None:
    settings = replace(SHORT, chunk_s=chunk_s, overlap_s=share * chunk_s)
    recording = HeldRecording(np.zeros(n_samples, dtype=np.float32))
    begun = Transcription(replace(multilingual, settings=settings), recording)
    plan = list(begun._plan(recording))
    assert (plan[0].start, plan[-1].stop) == (0, n_samples)
    for left, right in pairwise(plan):
        assert left.stop - right.start >= seconds_to_samples(settings.shared_s)
        assert left.start < right.start
        assert left.stop <= right.stop


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cudda", "device must be auto, cpu, cuda, cuda:N or mps, found 'cudda'"),
        ("xpu", "device must be auto, cpu, cuda, cuda:N or mps, found 'xpu'"),
        ("cuda:99", r"device cuda:99 must be there, found \d+ GPUs"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hardware(device=device).pick_device()


def test_devices_and_dtypes_are_picked_as_asked() -> None:
    assert CPU.pick_device() == torch.device("cpu")
    assert CPU.pick_dtype() == torch.float32
    assert Hardware().pick_device().type in ("cpu", "cuda")
    assert CPU.describe() == "cpu, torch, float32"
    assert CPU.pick_training_dtype() == torch.float32
    with pytest.raises(ValueError, match="bfloat16 or float32, found dtype float16"):
        replace(CPU, dtype="float16").pick_training_dtype()


def test_the_overlap_is_a_third_of_a_chunk_unless_said_otherwise() -> None:
    assert DecodingSettings().shared_s == 10.0
    assert DecodingSettings(chunk_s=15.0).shared_s == 5.0
    assert DecodingSettings(overlap_s=0.0).shared_s == 0.0
