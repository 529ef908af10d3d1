"""The two audio endpoints, called by OpenAI's own client."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corpora import hearing_model, noise
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.speech.audio import Samples, load_samples
from distilwhisper.text.transcript import render

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from distilwhisper.serving.service import Service  # noqa: E402
from distilwhisper.serving.settings import ServeSettings  # noqa: E402
from servers import CPU, SHORT, running, wav  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "many": hearing_model(folder / "many", multilingual=True),
        "english": hearing_model(folder / "english"),
    }


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[tuple[str, Service]]:
    with running(folders, ServeSettings(max_upload_mb=5, max_duration_s=120)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: tuple[str, Service]) -> Iterator["openai.OpenAI"]:
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def transcriber(folders: dict[str, Path]) -> Transcriber:
    return Transcriber.from_model(str(folders["many"]), SHORT, CPU)


def heard(data: bytes) -> Samples:
    return load_samples(io.BytesIO(data))


LONG = wav(noise(95.0, seed=3))
CLIP = wav(noise(3.0, seed=2))


@pytest.mark.parametrize("data", [CLIP, LONG], ids=["clip", "long"])
def test_the_text_is_that_of_the_command_line(client, transcriber, data: bytes) -> None:
    told = client.audio.transcriptions.create(file=("a.wav", data), model="many", language="de")
    german = replace(transcriber, settings=replace(SHORT, language="de"))
    assert told.text == german.transcribe(heard(data)).text
    assert told.text
    assert told.usage.type == "duration"
    assert told.usage.seconds == (3 if data is CLIP else 95)


def test_what_a_request_asks_for_is_asked_of_the_model(client, transcriber) -> None:
    asked = {
        "prompt": ("the end of it", {"initial_prompt": "the end of it"}),
        "temperature": (0.8, {"temperature": (0.8,)}),
        "language": ("zh", {"language": "zh"}),
    }
    texts = set()
    for field, (value, settings) in asked.items():
        told = client.audio.transcriptions.create(
            file=("a.wav", CLIP), model="many", **{"language": "en", field: value}
        )
        wanted = replace(SHORT, **{"language": "en", **settings})
        assert told.text == replace(transcriber, settings=wanted).transcribe(heard(CLIP)).text
        texts.add(told.text)
    hot = client.audio.transcriptions.create(
        file=("a.wav", CLIP), model="many", language="en", extra_body={"hotwords": "aha"}
    )
    wanted = replace(SHORT, language="en", hotwords="aha")
    assert hot.text == replace(transcriber, settings=wanted).transcribe(heard(CLIP)).text
    assert len(texts) > 1


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's own
def test_a_translation_is_the_models_translation(client, transcriber) -> None:
    told = client.audio.translations.create(
        file=("a.wav", CLIP), model="many", response_format="verbose_json"
    )
    translating = replace(transcriber, settings=replace(SHORT, task="translate"))
    assert told.text == translating.transcribe(heard(CLIP)).text
    assert told.language == "english"
    assert told.task == "translate"


@pytest.mark.parametrize("kind", ["text", "srt", "vtt"])
def test_texts_and_subtitles(client, transcriber, kind: str) -> None:
    told = client.audio.transcriptions.create(
        file=("a.wav", LONG), model="many", language="en", response_format=kind
    )
    whole = replace(transcriber, settings=replace(SHORT, language="en")).transcribe(heard(LONG))
    assert told == (f"{whole.text}\n" if kind == "text" else render(whole, kind))


def test_all_of_a_transcript(client, transcriber) -> None:
    told = client.audio.transcriptions.create(
        file=("a.wav", LONG),
        model="many",
        language="de",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    wanted = replace(SHORT, language="de", word_timestamps=True)
    whole = replace(transcriber, settings=wanted).transcribe(heard(LONG))
    assert told.language == "german"
    assert told.duration == pytest.approx(95.0)
    assert [(s.id, s.seek, s.start, s.end, s.text, tuple(s.tokens)) for s in told.segments] == [
        (s.id, s.seek, s.start, s.end, s.text, s.token_ids) for s in whole.segments
    ]
    assert set(told.segments[0].model_dump()) == {
        *("id", "seek", "start", "end", "text", "tokens", "temperature"),
        *("avg_logprob", "compression_ratio", "no_speech_prob"),
    }
    words = [word for segment in whole.segments for word in segment.words or ()]
    assert [(w.word, w.start, w.end) for w in told.words] == [
        (w.text.strip(), w.start, w.end) for w in words
    ]
    only = client.audio.transcriptions.create(
        file=("a.wav", CLIP),
        model="many",
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    assert only.segments is None
    assert only.words


@pytest.mark.parametrize("data", [CLIP, LONG], ids=["clip", "long"])
def test_a_stream_joined_is_the_text(client, data: bytes) -> None:
    asked = {"file": ("a.wav", data), "model": "many", "language": "de"}
    events = list(client.audio.transcriptions.create(**asked, stream=True))
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text
    assert done.text == client.audio.transcriptions.create(**asked).text
    if data is LONG:
        assert len(deltas) > 1


def raw(logprobs: list) -> list[bytes]:
    return [bytes(map(int, one.bytes)) for one in logprobs]


def test_tokens_come_with_their_log_probabilities(client, transcriber) -> None:
    asked = {"file": ("a.wav", CLIP), "model": "many", "language": "de", "include": ["logprobs"]}
    told = client.audio.transcriptions.create(**asked)
    german = replace(transcriber, settings=replace(SHORT, language="de"))
    (window,) = german.decode([heard(CLIP)])
    tokenizer = german.tokenizer
    wanted = [
        (i, logprob)
        for i, logprob in zip(window.token_ids, window.logprobs, strict=False)
        if not tokenizer.is_timestamp(i)
    ]
    assert wanted
    assert raw(told.logprobs) == [tokenizer.token_bytes(i) for i, _ in wanted]
    found = [one.logprob for one in told.logprobs]
    assert found == pytest.approx([logprob for _, logprob in wanted], abs=1e-4)
    assert [one.token for one in told.logprobs if "\ufffd" not in one.token] == [
        text for i, _ in wanted if "\ufffd" not in (text := tokenizer.decode([i]))
    ]


def test_a_stream_has_the_log_probabilities_of_its_text(client) -> None:
    asked = {"file": ("a.wav", LONG), "model": "many", "language": "de", "include": ["logprobs"]}
    *deltas, done = client.audio.transcriptions.create(**asked, stream=True)
    assert len(deltas) > 1
    assert b"".join(raw(done.logprobs)).decode(errors="replace").strip() == done.text
    whole = client.audio.transcriptions.create(**asked).logprobs
    of_deltas = [one for event in deltas for one in event.logprobs]
    for found in (of_deltas, whole):
        assert raw(found) == raw(done.logprobs)
        assert [one.logprob for one in found] == [one.logprob for one in done.logprobs]


def test_beams_have_no_log_probabilities_and_say_so(folders: dict[str, Path]) -> None:
    with running({"one": folders["english"]}, decoding=replace(SHORT, beam_size=2)) as (address, _):
        answer = httpx.post(
            f"{address}/v1/audio/transcriptions",
            files={"file": ("a.wav", CLIP)},
            data={"model": "one", "include[]": "logprobs"},
        )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "include")
    assert "beams have no log-probabilities" in answer.json()["error"]["message"]


def test_silence_is_an_empty_text(client) -> None:
    silent = wav(np.zeros(16_000 * 40, dtype=np.float32))
    assert client.audio.transcriptions.create(file=("a.wav", silent), model="many").text == ""


def test_models_are_listed_and_the_first_answers_to_openais_name(client) -> None:
    assert [model.id for model in client.models.list()] == ["many", "english"]
    assert client.models.retrieve("english").owned_by == "distilwhisper"
    assert client.audio.transcriptions.create(file=("a.wav", CLIP), model="whisper-1").text


def test_a_model_that_is_not_there_is_not_found(client) -> None:
    with pytest.raises(openai.NotFoundError, match="many, english") as caught:
        client.audio.transcriptions.create(file=("a.wav", CLIP), model="nobody")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's own
def test_an_english_model_knows_no_german_and_cannot_translate(client) -> None:
    with pytest.raises(openai.BadRequestError, match="English only"):
        client.audio.transcriptions.create(file=("a.wav", CLIP), model="english", language="de")
    with pytest.raises(openai.BadRequestError, match="cannot translate"):
        client.audio.translations.create(file=("a.wav", CLIP), model="english")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"beam_size": "3"}, "beam_size", "found 'beam_size'"),
        ({"known_speaker_names[]": "Ann"}, "known_speaker_names", "not supported"),
        ({"include[]": "logprobs", "response_format": "text"}, "include", "format=json"),
        ({"include[]": "item"}, "include", "must be logprobs"),
        ({"chunking_strategy[type]": "server_vad"}, "chunking_strategy", "take auto"),
        ({"response_format": "diarized_json"}, "response_format", "verbose_json"),
        ({"temperature": "hot"}, "temperature", "number in"),
        ({"temperature": "nan"}, "temperature", "number in"),
        ({"temperature": "1.5"}, "temperature", "number in"),
        ({"language": "klingon"}, "language", "klingon"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "verbose_json"),
        ({"stream": "true", "response_format": "srt"}, "stream", "json or text"),
        ({"prompt": "x" * 5000}, "prompt", "at most 4096"),
        ({"model": ""}, "model", "must name a model"),
    ],
)
def test_a_field_that_cannot_be_is_named(server, fields, param: str, message: str) -> None:
    answer = httpx.post(
        f"{server[0]}/v1/audio/transcriptions",
        files={"file": ("a.wav", CLIP)},
        data={"model": "many", **fields},
    )
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"


def test_granularities_may_be_spelled_without_brackets(server) -> None:
    answer = httpx.post(
        f"{server[0]}/v1/audio/transcriptions",
        files={"file": ("a.wav", CLIP)},
        data={
            "model": "many",
            "response_format": "verbose_json",
            "timestamp_granularities": "word",
        },
    )
    assert answer.json()["words"]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "invalid_audio"),
        (b"no sound at all" * 100, 400, "invalid_audio"),
        (wav(np.zeros(16_000 * 130, dtype=np.float32))[:1_900_000], 400, "invalid_audio"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", 400, "invalid_audio"),
        (b"x" * 5_100_000, 413, "upload_too_large"),
    ],
    ids=["empty", "text", "cut", "playlist", "large"],
)
def test_a_file_that_cannot_be_is_told_why(client, data: bytes, status: int, code: str) -> None:
    if code == "invalid_audio" and len(data) == 1_900_000:
        told = client.audio.transcriptions.create(file=("a.wav", data), model="many")
        assert told.usage.seconds == 60  # what there is of it
        (note,) = told.notes
        assert "the file was cut short" in note
        for kind in ("verbose_json", "srt", "stream"):
            asked = {"stream": True} if kind == "stream" else {"response_format": kind}
            create = client.audio.transcriptions.with_raw_response.create
            raw = create(file=("a.wav", data), model="many", **asked)
            text = raw.http_response.read().decode()
            assert note in (raw.headers["x-notes"] if kind == "srt" else text)
        return
    with pytest.raises(openai.APIStatusError) as caught:
        client.audio.transcriptions.create(file=("a.wav", data), model="many")
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert "etc/passwd" not in str(caught.value)


def test_a_body_that_is_no_form_is_refused(server) -> None:
    url = f"{server[0]}/v1/audio/transcriptions"
    assert httpx.post(url, json={"model": "many"}).status_code == 400
    broken = httpx.post(
        url, content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data"}
    )
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_form")
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{server[0]}/v2").json()["error"]["code"] == "unknown_url"
