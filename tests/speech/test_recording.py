from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import noise
from distilwhisper.speech.audio import Samples, stream_samples, write_wav
from distilwhisper.speech.mel import RecordingMel
from distilwhisper.speech.recording import HeldRecording, Recording, StreamedRecording
from distilwhisper.speech.units import FRAMES_PER_WINDOW, HOP_SAMPLES

CPU = torch.device("cpu")
SECONDS = 65.37  # two blocks of 30 s and a part of one


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "noise.wav"
    write_wav(path, noise(SECONDS, seed=1))
    return path


@pytest.fixture(scope="module")
def samples(path: Path) -> Samples:
    """What the file holds: 16 bits a sample."""
    recording = StreamedRecording(lambda: stream_samples(path))
    return recording.read(0, 10_000_000)


def test_both_are_recordings(path: Path, samples: Samples) -> None:
    assert isinstance(HeldRecording(samples), Recording)
    assert isinstance(StreamedRecording(lambda: stream_samples(path)), Recording)
    np.testing.assert_allclose(samples, noise(SECONDS, seed=1), atol=2**-15)


@settings(max_examples=25)
@given(data=st.data())
def test_a_streamed_recording_reads_like_a_held_one(
    path: Path, samples: Samples, data: st.DataObject
) -> None:
    """Forward reads of any length that leave out, overlap and reach beyond the end."""
    held, streamed = HeldRecording(samples), StreamedRecording(lambda: stream_samples(path))
    start = 0
    for step, length, further in data.draw(
        st.lists(
            st.tuples(st.integers(0, 400_000), st.integers(0, 700_000), st.integers(0, 500_000)),
            max_size=6,
        )
    ):
        start += step
        stop = start + length
        np.testing.assert_array_equal(streamed.read(start, stop), held.read(start, stop))
        assert streamed.reach(stop + further) == held.reach(stop + further)
        # What was reached and not read is still there.
        np.testing.assert_array_equal(streamed.read(start, stop), held.read(start, stop))


def test_what_lies_before_a_read_is_forgotten_and_refused(path: Path) -> None:
    streamed = StreamedRecording(lambda: stream_samples(path))
    streamed.reach(900_000)
    streamed.read(800_000, 810_000)
    with pytest.raises(ValueError, match="samples before 800000 are gone, found 799999"):
        streamed.read(799_999, 810_000)
    assert len(streamed.read(800_000, 810_000)) == 10_000
    with pytest.raises(ValueError, match="read forwards"):
        streamed.read(0, 1)


def test_reading_on_holds_no_more_than_a_block_beyond_what_was_asked(path: Path) -> None:
    streamed = StreamedRecording(lambda: stream_samples(path))
    for start in range(0, 1_000_000, 50_000):
        streamed.read(start, start + 50_000)
        assert len(streamed._held) <= 480_000 + 50_000


def test_reaching_forgets_nothing(path: Path, samples: Samples) -> None:
    streamed = StreamedRecording(lambda: stream_samples(path))
    assert streamed.reach(10_000_000) == len(samples)
    assert streamed.reach(5) == 5
    np.testing.assert_array_equal(streamed.read(0, len(samples)), samples)


def test_read_again_it_begins_at_its_beginning(path: Path, samples: Samples) -> None:
    first = StreamedRecording(lambda: stream_samples(path))
    first.read(700_000, 700_100)
    second = first.again()
    np.testing.assert_array_equal(second.read(0, 100), samples[:100])
    np.testing.assert_array_equal(first.read(700_000, 700_100), samples[700_000:700_100])
    held = HeldRecording(samples)
    np.testing.assert_array_equal(held.again().read(0, 100), samples[:100])


def test_nothing_is_opened_before_it_is_read(tmp_path: Path) -> None:
    streamed = StreamedRecording(lambda: stream_samples(tmp_path / "missing.wav"))
    with pytest.raises(FileNotFoundError):
        streamed.reach(1)
    with pytest.raises(FileNotFoundError):
        streamed.again().read(0, 1)


# The mel of a recording


@pytest.fixture(scope="module")
def mel(samples: Samples) -> RecordingMel:
    return RecordingMel(HeldRecording(samples), n_mels=80, device=CPU)


def test_a_streamed_recordings_mel_is_that_of_a_held_one(
    path: Path, samples: Samples, mel: RecordingMel
) -> None:
    streamed = RecordingMel(StreamedRecording(lambda: stream_samples(path)), n_mels=80, device=CPU)
    for first in (0, 1, 2_999, 3_100, 5_000, 6_530, 6_537, 9_999):
        ours, n_ours = streamed.window(first, 100_000)
        wanted, n_wanted = mel.window(first, 100_000)
        assert n_ours == n_wanted
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("first", [0, 1, 2, 1_234, 2_999, 3_000, 3_536, 3_537, 5_000, 6_536])
def test_a_window_is_the_same_wherever_it_begins(mel: RecordingMel, first: int) -> None:
    """Frames do not know which window they are read for."""
    whole = torch.cat([mel.window(at, 100_000)[0] for at in (0, 3_000, 6_000)], dim=1)
    n_frames = int(SECONDS * 100)
    window, n_found = mel.window(first, 100_000)
    assert window.shape == (80, FRAMES_PER_WINDOW)
    assert n_found == min(FRAMES_PER_WINDOW, n_frames - first)
    # The transform of a frame is summed in another order in another batch of frames.
    wanted = whole[:, first : first + n_found]
    torch.testing.assert_close(window[:, :n_found], wanted, rtol=0, atol=1e-5)
    assert not window[:, n_found:].any()


def test_a_window_ends_where_it_is_told(mel: RecordingMel) -> None:
    whole, _ = mel.window(100, 100_000)
    cut, n_found = mel.window(100, 400)
    assert n_found == 300
    torch.testing.assert_close(cut[:, :300], whole[:, :300], rtol=0, atol=1e-5)
    assert not cut[:, 300:].any()
    nothing, n_found = mel.window(400, 400)
    assert n_found == 0
    assert not nothing.any()


@pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning")
@pytest.mark.reference
@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.1, 3.21, 29.995, 30.0, 42.5, SECONDS])
def test_windows_equal_openai(seconds: float, n_mels: int) -> None:
    from whisper.audio import log_mel_spectrogram, pad_or_trim

    samples = noise(seconds, seed=2)
    whole = log_mel_spectrogram(samples, n_mels, padding=480_000)
    n_frames = whole.shape[1] - FRAMES_PER_WINDOW
    assert n_frames == len(samples) // HOP_SAMPLES
    mel = RecordingMel(HeldRecording(samples), n_mels=n_mels, device=CPU)
    for first in (0, 1, 999, 3_000, n_frames - 1):
        if first >= n_frames:
            continue
        size = min(FRAMES_PER_WINDOW, n_frames - first)
        wanted = pad_or_trim(whole[:, first : first + size], FRAMES_PER_WINDOW)
        found, n_found = mel.window(first, n_frames)
        assert n_found == size
        # The same float32 sums in another order; a quiet bin's logarithm feels it.
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
