"""Realtime sessions: sound in, captions out, in the shape that OpenAI's client knows."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from corpora import hearing_model
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.windows import Batch
from distilwhisper.speech.audio import Samples
from distilwhisper.text.wer import word_errors

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("silero_vad", exc_type=ImportError)

from websockets.exceptions import InvalidStatus  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402

from distilwhisper.serving.settings import ServeSettings  # noqa: E402
from servers import SHORT, running  # noqa: E402

DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearing_model(tmp_path_factory.mktemp("models") / "one")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with running({"one": folder}, ServeSettings(preload=True, max_sessions=2)) as (found, _):
        yield found.replace("http", "ws") + "/v1/realtime"


def pcm(samples: Samples) -> bytes:
    return np.rint(samples * 32767).astype("<i2").tobytes()


def talk(prompts: list[tuple[Samples, str]]) -> tuple[Samples, str]:
    """Speech with a pause behind it, and its text."""
    pause = np.zeros(16_000, dtype=np.float32)
    samples, text = max(prompts, key=lambda prompt: len(prompt[0]))
    return np.concatenate([samples, pause, pause]), text


def receive(socket: ClientConnection, kind: str) -> dict:
    """Return the next event of a kind; none may be an error unless it is wanted."""
    while (event := json.loads(socket.recv(60)))["type"] != kind:
        assert event["type"] != "error", event
    return event


def update(**given: object) -> str:
    session = {"type": "transcription", "audio": {"input": given}}
    return json.dumps({"type": "session.update", "session": session})


def test_sound_becomes_captions_that_are_completed_at_a_pause(address: str, prompts) -> None:
    samples, _ = talk(prompts)
    with connect(address) as socket:
        assert receive(socket, "session.created")["session"]["type"] == "transcription"
        socket.send(update(format={"type": "audio/pcm", "rate": 16_000}))
        told = receive(socket, "session.updated")["session"]["audio"]["input"]
        assert told["format"]["rate"] == 16_000
        for start in range(0, len(samples), 4000):
            socket.send(pcm(samples[start : start + 4000]))
        assert receive(socket, "input_audio_buffer.speech_started")["item_id"] == "item_1"
        text, item = "", None
        while (event := json.loads(socket.recv(60)))["type"] != COMPLETED:
            assert event["type"] != "error", event
            if event["type"] == DELTA:
                text += event["delta"]
            if event["type"] == "input_audio_buffer.committed":
                item = event["item_id"]
        assert event["transcript"] == text
        assert event["item_id"] == item == "item_1"
        assert event["usage"]["type"] == "duration"


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")  # the client's own call
def test_openais_client_commits_and_is_answered(address: str, prompts) -> None:
    samples, _ = talk(prompts)
    at_24k = np.interp(np.arange(0, len(samples), 2 / 3), np.arange(len(samples)), samples)
    client = openai.OpenAI(api_key="any", websocket_base_url=address.rpartition("/")[0])
    with client.realtime.connect(model="one") as connection:
        sound = {"transcription": {"model": "one"}, "turn_detection": None}
        connection.session.update(session={"type": "transcription", "audio": {"input": sound}})
        for start in range(0, len(at_24k), 12_000):
            piece = base64.b64encode(pcm(at_24k[start : start + 12_000])).decode()
            connection.input_audio_buffer.append(audio=piece)
        connection.input_audio_buffer.commit()
        for event in connection:
            assert event.type != "error", event
            if event.type == COMPLETED:
                assert event.item_id == "item_1"
                break
    client.close()


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("nonsense", "event"),
        ('{"type": "response.create"}', "type"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "audio"),
        ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "audio"),
        ('{"type": "input_audio_buffer.append"}', "audio"),
        (update(format={"type": "audio/pcm", "rate": 8000}), "format"),
        (update(transcription={"model": "nobody"}), "model"),
        (update(transcription={"language": "klingon"}), "language"),
        (update(turn_detection={"type": "semantic_vad"}), "turn_detection"),
        (update(loudness=3), "loudness"),
        (
            json.dumps({"type": "session.update", "session": {"include": ["logprobs"]}}),
            "include",
        ),
    ],
)
def test_what_cannot_be_is_told_and_the_session_goes_on(
    address: str, message: str, param: str
) -> None:
    with connect(address) as socket:
        socket.send(message)
        error = receive(socket, "session.created") and json.loads(socket.recv(60))
        assert error["type"] == "error"
        assert error["error"]["param"] == param
        socket.send(update(turn_detection={"type": "server_vad", "silence_duration_ms": 400}))
        receive(socket, "session.updated")


def test_no_more_sessions_than_may_be(address: str) -> None:
    with connect(address) as one, connect(address) as two:
        receive(one, "session.created")
        receive(two, "session.created")
        with connect(address) as three:
            error = json.loads(three.recv(60))
            assert error["error"]["code"] == "queue_full"


def test_a_page_shows_its_key_as_a_protocol(folder: Path) -> None:
    with running({"one": folder}, keys=("first",)) as (address, _):
        url = address.replace("http", "ws") + "/v1/realtime"
        with pytest.raises(InvalidStatus), connect(url):
            pass
        protocols = ["realtime", "openai-insecure-api-key.first"]
        with connect(url, subprotocols=protocols) as socket:
            assert socket.subprotocol == "realtime"
            receive(socket, "session.created")
        with pytest.raises(InvalidStatus), connect(url, origin="https://evil.example"):
            pass


@pytest.mark.slow
def test_the_captions_of_a_real_model_are_what_was_said(tiny_en: Path, prompts) -> None:
    samples, text = talk(prompts)
    decoding = DecodingSettings(temperature=(0.0,), batch_size=SHORT.batch_size)
    with (
        running({"one": tiny_en}, decoding=decoding) as (address, _),
        connect(address.replace("http", "ws") + "/v1/realtime") as socket,
    ):
        socket.send(update(format={"type": "audio/pcm", "rate": 16_000}))
        for start in range(0, len(samples), 4000):
            socket.send(pcm(samples[start : start + 4000]))
        heard = receive(socket, COMPLETED)["transcript"]
    assert word_errors(text, heard).errors <= 1 + len(text.split()) // 5


def test_a_commit_of_no_sound_is_completed_without_text(address: str) -> None:
    with connect(address) as socket:
        socket.send(update(turn_detection=None))
        socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        assert receive(socket, COMPLETED)["transcript"] == ""


def test_a_session_whose_pass_fails_is_told_so(
    folder: Path, prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Batch) -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(Batch, "step", fail)
    with (
        running({"one": folder}) as (address, _),
        connect(address.replace("http", "ws") + "/v1/realtime") as socket,
    ):
        receive(socket, "session.created")
        socket.send(pcm(talk(prompts)[0]))
        while (event := json.loads(socket.recv(60)))["type"] != "error":
            assert "speech_started" in event["type"]
        assert event["error"]["code"] == "decoding_failed"
        assert "the device is lost" in event["error"]["message"]
        socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        receive(socket, "input_audio_buffer.cleared")
