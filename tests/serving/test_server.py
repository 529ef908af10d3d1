"""How a server treats its callers: who may call, how much, and what becomes of those who leave."""

import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from multiprocessing import forkserver
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from corpora import hearing_model, noise
from distilwhisper.cli import SOME_FAILED, USAGE, call
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.transcription import Transcription
from distilwhisper.decoding.windows import Task, WindowRequest
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.sources import CorruptAudio

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from distilwhisper.serving.metrics import Metrics  # noqa: E402
from distilwhisper.serving.service import Service  # noqa: E402
from distilwhisper.serving.settings import ServeSettings, named_models  # noqa: E402
from distilwhisper.serving.worker import Event, Job, ModelQueue, next_turn  # noqa: E402
from distilwhisper.speech.recording import HeldRecording  # noqa: E402
from servers import CPU, SHORT, running, wav  # noqa: E402

URL = "/v1/audio/transcriptions"
CLIP = wav(noise(3.0, seed=2))
SLOW = replace(SHORT, max_new_tokens=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearing_model(tmp_path_factory.mktemp("models") / "one")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, Service]]:
    with running({"one": folder}, ServeSettings(preload=True)) as found:
        yield found


def post(address: str, data: bytes = CLIP, **fields: str) -> "httpx.Response":
    return httpx.post(
        f"{address}{URL}",
        files={"file": ("a.wav", data)},
        data={"model": "one", **fields},
        timeout=300,
    )


def eventually(is_so, within_s: float = 20.0) -> bool:
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        if is_so():  # looked at once: a moment later it may have passed
            return True
        time.sleep(0.02)
    return False


def test_models_are_named_by_folder_or_as_asked(folder: Path) -> None:
    assert named_models((str(folder), "t=openai/whisper-base", "openai/whisper-tiny")) == {
        "one": str(folder),
        "t": "openai/whisper-base",
        "openai/whisper-tiny": "openai/whisper-tiny",
    }
    with pytest.raises(ValueError, match="'a' twice"):
        named_models(("a=x", "a=y"))
    with pytest.raises(ValueError, match="at least one model"):
        named_models(())


@pytest.mark.parametrize("name", ["max_upload_mb", "max_requests", "idle_unload_s", "drain_s"])
def test_limits_are_above_zero(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ServeSettings(**{name: -1})


def test_health_and_metrics(folder: Path) -> None:
    with running({"one": folder}) as (address, _):
        assert httpx.get(f"{address}/health").status_code == 503
        assert post(address).status_code == 200
        assert httpx.get(f"{address}/health").json() == {"status": "ok", "models": ["one"]}
        page = httpx.get(f"{address}/metrics").text
    counted = 'distilwhisper_requests_total{path="/v1/audio/transcriptions",status="200"} 1'
    assert counted in page
    assert "distilwhisper_audio_seconds_total 3\n" in page
    assert re.search(r"distilwhisper_request_seconds_count 1\n", page)
    for line in page.splitlines():
        assert line.startswith("# ") or re.fullmatch(r"[a-z_]+(\{[^{}]*\})? [-+.e\d]+", line)


def test_a_key_must_be_shown(folder: Path) -> None:
    with running({"one": folder}, keys=("first", "second")) as (address, _):
        assert httpx.get(f"{address}/health").status_code == 503  # nothing is loaded
        for shown in ({}, {"authorization": "Bearer wrong"}, {"authorization": "first"}):
            answer = httpx.get(f"{address}/v1/models", headers=shown)
            if shown == {"authorization": "first"}:
                assert answer.status_code == 200
                continue
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        shown = {"authorization": "Bearer second"}
        assert httpx.get(f"{address}/v1/models", headers=shown).status_code == 200


def test_other_pages_may_not_call_unless_they_are_named(folder: Path, server) -> None:
    address = server[0]
    evil = {"origin": "https://evil.example"}
    assert httpx.get(f"{address}/v1/models", headers=evil).status_code == 403
    assert httpx.get(f"{address}/v1/models", headers={"origin": address}).status_code == 200
    good = {"origin": "https://good.example"}
    with running({"one": folder}, ServeSettings(cors_origins=("https://good.example",))) as found:
        answer = httpx.get(f"{found[0]}/v1/models", headers=good)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://good.example"


def test_a_recording_that_is_too_long_is_refused_without_being_held(folder: Path) -> None:
    with running({"one": folder}, ServeSettings(max_duration_s=60)) as (address, _):
        answer = post(address, wav(np.zeros(16_000 * 70, dtype=np.float32)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "audio_too_long")


def test_a_sound_that_takes_too_much_memory_is_refused(folder: Path) -> None:
    settings = ServeSettings(sound_memory_mb=300)
    with running({"one": folder}, settings) as (address, _):
        answer = post(address)
        assert answer.status_code in (200, 422)  # as much as the libraries themselves take
    with running({"one": folder}, ServeSettings(sound_memory_mb=1)) as (address, _):
        answer = post(address)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "audio_too_costly")


def test_no_more_requests_than_may_be(folder: Path) -> None:
    long = wav(noise(120.0, seed=1))
    settings = ServeSettings(max_requests=1, preload=True)
    with (
        running({"one": folder}, settings, SLOW) as (address, service),
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(post, address, long)
        assert eventually(lambda: service.n_served["requests"] == 1)
        answer = post(address)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "queue_full"
        assert answer.headers["retry-after"] == "5"
        assert first.result().status_code == 200


def test_an_answer_that_takes_too_long(folder: Path) -> None:
    settings = ServeSettings(request_timeout_s=1.0, preload=True)
    with running({"one": folder}, settings, SLOW) as (address, service):
        answer = post(address, wav(noise(300.0, seed=1)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")
        assert eventually(lambda: service.models.n_running == 0)
        assert post(address, CLIP).status_code in (200, 503)


def begin_upload(address: str, n_bytes: int) -> socket.socket:
    """Send the beginning of an upload."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {n_bytes + 1000}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    )
    connection.sendall(head.encode() + bytes(n_bytes))
    return connection


def test_a_slow_upload_is_told_so_and_holds_up_nobody(folder: Path) -> None:
    with running({"one": folder}, ServeSettings(upload_timeout_s=1.5)) as (address, service):
        with begin_upload(address, 10_000) as connection:
            assert eventually(lambda: service.n_served["requests"] == 1)
            assert post(address).status_code == 200
            assert b"408" in connection.recv(1000)
        assert eventually(lambda: service.n_served["requests"] == 0)


def test_clients_that_leave_free_all_they_held(folder: Path) -> None:
    long = wav(noise(300.0, seed=1))
    with running({"one": folder}, ServeSettings(preload=True), SLOW) as (address, service):
        for _ in range(3):
            begin_upload(address, 100_000).close()
        with pytest.raises(httpx.ReadTimeout):  # while it is decoded
            httpx.post(
                f"{address}{URL}",
                files={"file": ("a.wav", long)},
                data={"model": "one"},
                timeout=httpx.Timeout(60, read=2.0),
            )
        with (
            httpx.Client() as client,
            client.stream(
                "POST",
                f"{address}{URL}",
                files={"file": ("a.wav", long)},
                data={"model": "one", "stream": "true"},
                timeout=60,
            ) as answer,
        ):
            assert next(answer.iter_lines()).startswith("data: ")  # and in the middle of its text
        assert eventually(lambda: service.n_served["requests"] == 0)
        assert eventually(lambda: service.models.n_running == 0)
        assert post(address).status_code == 200


def test_a_clip_behind_a_long_file_is_answered_before_it(folder: Path) -> None:
    long = wav(noise(150.0, seed=1))
    settings = ServeSettings(preload=True)
    with (
        running({"one": folder}, settings, SLOW) as (address, service),
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(post, address, long)
        assert eventually(lambda: service.models.n_running > 1)
        assert post(address, CLIP).status_code == 200
        assert not first.done()
        assert first.result().status_code == 200


def test_everybody_gets_a_turn(folder: Path) -> None:
    transcriber = Transcriber.from_model(str(folder), SHORT, CPU)

    def job(seconds: float, n_running: int, *, is_planned: bool = False) -> Job:
        made = Job(transcriber, HeldRecording(noise(seconds, seed=1)), lambda _: None)
        made.n_running, made.is_planned = n_running, is_planned
        return made

    long, other, clip = job(90, 2), job(90, 1), job(3, 0)
    assert next_turn([long, other, clip], 8, hold_long=False) is clip
    assert next_turn([long, other], 8, hold_long=False) is other
    assert next_turn([long, other], 8, hold_long=True) is None
    assert next_turn([job(90, 6)], 8, hold_long=False) is None  # a quarter is left to others
    assert next_turn([job(90, 0)], 1, hold_long=False) is not None
    assert next_turn([job(3, 0, is_planned=True)], 8, hold_long=False) is None
    assert next_turn([], 8, hold_long=False) is None
    silent, other = job(90, 0), job(90, 1)
    silent.n_silent = 2
    assert next_turn([silent, other], 8, hold_long=False) is other
    silent.n_silent = 6
    assert next_turn([silent], 8, hold_long=False) is None


def test_windows_that_fail_at_one_step_fail_their_recording_alone(folder: Path) -> None:
    transcriber = Transcriber.from_model(str(folder), SHORT, CPU)
    tokenizer = transcriber.tokenizer
    endless = replace(transcriber, settings=replace(SHORT, suppress_tokens=(tokenizer.eot,)))
    n_prompt = len(tokenizer.prompt_ids(language="en", timestamps=True))
    room = SHORT.max_new_tokens - 1  # for the window that comes a step later
    n_before = transcriber.checkpoint.model.config.max_tokens - n_prompt - room - 1

    def failing(before: tuple[int, ...]) -> Task[Transcription]:
        window = endless.window(noise(1.0, seed=1), language="en")
        yield WindowRequest(endless, window, before)
        raise CorruptAudio("the end is gone")

    events: list[Event] = []
    job = Job(endless, HeldRecording(noise(90, seed=1)), events.append)
    job.transcription.tasks = iter([failing(()), failing((tokenizer.sot_prev, *[1] * n_before))])
    queue = ModelQueue(endless, Metrics())
    queue.arrived.append(job)
    while not queue.is_idle:
        queue.turn()
    assert list(map(str, events)) == ["the end is gone"]


def test_many_clients_at_once_get_their_own_texts(folder: Path) -> None:
    """Short and long ones, some streamed: each gets what the command line says, or a 429."""
    sounds = [wav(noise(1.0 + 0.7 * i, seed=i)) for i in range(8)] + [wav(noise(65.0, seed=9))]
    with running({"one": folder}, ServeSettings(preload=True)) as (address, _):
        alone = [post(address, data).json()["text"] for data in sounds]
        assert len(set(alone)) > 3
        with ThreadPoolExecutor(18) as pool:
            answers = list(pool.map(lambda n: (n, post(address, sounds[n % 9])), range(36)))
    assert {answer.status_code for _, answer in answers} <= {200, 429}
    assert sum(answer.status_code == 200 for _, answer in answers) > 20
    for n, answer in answers:
        if answer.status_code == 200:
            assert answer.json()["text"] == alone[n % 9]


def test_a_model_whose_steps_fail_is_told_of_and_the_others_go_on(
    folder: Path, tmp_path: Path
) -> None:
    broken = hearing_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.decoder.layer_norm.bias"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with (
        running({"one": folder, "broken": broken}) as (address, service),
        ThreadPoolExecutor(4) as pool,
    ):
        models = ["broken", "one", "broken", "one"]
        answers = list(pool.map(lambda model: post(address, model=model), models))
        assert [answer.status_code for answer in answers] == [500, 200, 500, 200]
        assert answers[0].json()["error"]["code"] == "decoding_failed"
        assert post(address).status_code == 200
        assert service.metrics.total("failures_total") >= 1


def test_models_make_room_for_each_other_and_are_forgotten(folder: Path, tmp_path: Path) -> None:
    other = hearing_model(tmp_path / "other")
    settings = ServeSettings(max_memory_gb=1e-3, idle_unload_s=2.0)
    with running({"one": folder, "other": other}, settings) as (address, service):
        assert post(address).status_code == 200
        one_bytes = service.models.memory_bytes
        assert one_bytes < 1e6
        settings_most = ServeSettings(max_memory_gb=1.5 * one_bytes / 1e9)
        service.models.settings = settings_most
        assert post(address, model="other").status_code == 200
        assert list(service.models.loaded) == ["other"]
    with running({"one": folder}, ServeSettings(idle_unload_s=0.4)) as (address, service):
        assert post(address).status_code == 200
        assert eventually(lambda: not service.models.loaded)
        assert post(address).status_code == 200


def encoded(samples: Samples, kind: str, codec: str) -> bytes:
    """Samples as a file of some other format."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=16_000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = 16_000
        for one in (frame, None):
            container.mux(stream.encode(one))
    return file.getvalue()


@pytest.mark.parametrize("n_files", [24, pytest.param(500, marks=pytest.mark.slow)])
def test_fuzzed_uploads_are_each_answered(server, n_files: int) -> None:
    random = np.random.default_rng(1)
    sound = noise(2.0, seed=1)
    files = [wav(sound), encoded(sound, "flac", "flac"), encoded(sound, "mp3", "libmp3lame")]
    files += [encoded(sound, "ogg", "libopus"), encoded(sound, "mp4", "aac")]
    statuses = Counter()
    for number in range(n_files):
        data = bytearray(files[number % len(files)])
        kind = number // len(files) % 5
        if kind == 0:
            data = data[: random.integers(0, len(data))]
        elif kind in (1, 2):  # its header, or anything of it
            for place in random.integers(0, (60, len(data))[kind - 1], size=(4, 40)[kind - 1]):
                data[place] = random.integers(0, 256)
        elif kind == 3:
            data = bytearray(random.bytes(int(random.integers(1, 5000))))
        else:  # sizes that are not so
            place = int(random.integers(0, 60))
            data[4:8] = data[place : place + 4] = b"\xff\xff\xff\xff"
        statuses[post(server[0], bytes(data)).status_code] += 1
    assert set(statuses) <= {200, 400, 413, 422}
    assert len(statuses) > 1
    assert post(server[0]).status_code == 200


def hours_of_silence(hours: float) -> bytes:
    """An opus file in which every packet of 120 ms is two bytes that say: nothing."""
    template, file = io.BytesIO(encoded(noise(1.0, seed=1), "ogg", "libopus")), io.BytesIO()
    ticks = 5760  # of 48 kHz
    with av.open(template) as given, av.open(file, "w", format="ogg") as container:
        stream = container.add_stream_from_template(given.streams.audio[0])
        for number in range(round(hours * 3600 / 0.12)):
            packet = av.Packet(b"\x0b\x06")
            packet.stream, packet.time_base = stream, Fraction(1, 48_000)
            packet.pts = packet.dts = number * ticks
            packet.duration = ticks
            container.mux(packet)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("is_too_long", [True, False])
def test_hours_of_silence_hold_up_nobody(folder: Path, is_too_long: bool) -> None:
    """Of ten hours it is told that they are too long; an hour has an empty text."""
    data = (
        hours_of_silence(10)
        if is_too_long
        else encoded(np.zeros(16_000 * 3600, dtype=np.float32), "flac", "flac")
    )
    assert len(data) < 2_000_000
    waits_s: list[float] = []
    settings = ServeSettings(sound_timeout_s=600, preload=True)
    with running({"one": folder}, settings) as (address, _), ThreadPoolExecutor(1) as pool:
        long = pool.submit(post, address, data)
        while not long.done():
            began_s = time.monotonic()
            assert post(address).status_code == 200
            waits_s.append(time.monotonic() - began_s)
    if is_too_long:
        assert long.result().status_code == 413
        assert long.result().json()["error"]["code"] == "audio_too_long"
    else:
        assert long.result().json() == {"text": "", "usage": {"type": "duration", "seconds": 3600}}
    assert max(waits_s) < 20


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_decoders_of_sound_that_die_are_replaced(folder: Path) -> None:
    with running({"one": folder}) as (address, _), ThreadPoolExecutor(1) as pool:
        assert post(address).status_code == 200
        helper = forkserver._forkserver._forkserver_pid
        asked = pool.submit(post, address, hours_of_silence(1.9))
        assert eventually(lambda: bool(children(helper)))
        os.kill(children(helper)[0], signal.SIGKILL)
        assert asked.result().json()["error"]["code"] == "audio_too_costly"
        assert post(address).status_code == 200
        os.kill(helper, signal.SIGKILL)
        assert post(address).status_code == 200
        assert forkserver._forkserver._forkserver_pid != helper


def test_a_signal_ends_the_server_after_the_requests_that_run(folder: Path) -> None:
    command = [sys.executable, "-m", "distilwhisper", "serve", f"--model=one={folder}"]
    options = [
        "--port=0",
        "--preload",
        "--device=cpu",
        "--dtype=float32",
        "--batch-size=2",
        "--drain-s=250",
    ]
    with subprocess.Popen(
        [*command, *options, "--max-new-tokens=40", "--temperature", "0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        address = next(line for line in lines if "listening at" in line).split()[-1]
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(post(address, wav(noise(300.0, seed=1))))
        )
        asking.start()

        def is_decoding() -> bool:
            page = httpx.get(f"{address}/metrics").text
            return re.search(r"distilwhisper_batch_windows [12]\b", page) is not None

        try:
            assert eventually(is_decoding, 60)
            process.send_signal(signal.SIGTERM)
            asking.join(300)
            assert process.wait(100) == 0
        finally:
            process.kill()
        assert [answer.status_code for answer in answers] == [200]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")


def test_what_cannot_be_served_is_refused_at_the_start(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Log(logging.Handler):
        is_closed = False

        def close(self) -> None:
            self.is_closed = True
            super().close()

    others = Log()
    assert call(["serve", "--model", "nobody", "--port", "0"]) == USAGE
    assert "nobody: must be a short name" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert call(["serve", "--model", str(folder), "--port", port]) == SOME_FAILED
    assert f"cannot listen at 127.0.0.1:{port}: take another --port" in capsys.readouterr().err
    assert not others.is_closed
