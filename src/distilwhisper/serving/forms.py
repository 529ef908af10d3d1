"""What a request asks for, and its answer: the fields and shapes of OpenAI's audio endpoints."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Literal, cast, get_args

from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse, PlainTextResponse, Response

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.languages import LANGUAGES
from distilwhisper.serving.errors import ApiError, invalid
from distilwhisper.text.tokens import Task, Tokenizer
from distilwhisper.text.transcript import Segment, Transcript, render, segment_fields

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]

_MANY = {"timestamp_granularities", "include", "keywords"}  # given often, or with [] behind them
_KNOWN = {
    *"file model language prompt temperature response_format stream".split(),
    *"chunking_strategy hotwords".split(),
    *_MANY,
}
# What the text of a field must be, where it must be one of some.
_AMONG: dict[str, tuple[str, ...]] = {
    "response_format": get_args(ResponseFormat),
    "stream": ("true", "false", "True", "False"),
    "timestamp_granularities": get_args(Granularity),
    "include": ("logprobs",),
}
_UNSUPPORTED = {
    "languages": "name one language, or none to have it detected",
    "known_speaker_names": "speakers are not told apart",
    "known_speaker_references": "speakers are not told apart",
    "chunking_strategy": "take auto, or leave it out",
    "include": "beams have no log-probabilities of tokens",
}
MAX_TEXT = 4096  # characters of a field; of a prompt the model reads some 220 tokens


@dataclass(frozen=True)
class Asked:
    """A request whose fields are in order."""

    upload: UploadFile
    model: str
    decoding: DecodingSettings
    response_format: ResponseFormat
    granularities: tuple[Granularity, ...]
    is_streamed: bool
    with_logprobs: bool

    @property
    def name(self) -> str:
        """The file's name, without any folder."""
        return (self.upload.filename or "file").replace("\\", "/").rpartition("/")[2][:255]

    def file(self) -> IO[bytes]:
        """Return the upload as an open file on disk."""
        spooled = cast("SpooledTemporaryFile[bytes]", self.upload.file)
        spooled.rollover()
        spooled.seek(0)
        return spooled


def read_form(form: FormData, task: Task, base: DecodingSettings) -> Asked:
    """Read a form.

    Raises:
        ApiError: a field is not known, not supported, or not as it must be; it is named.
    """
    texts = _texts(form)
    one = {name: next(filter(None, texts[name]), None) for name in _KNOWN - _MANY}
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise invalid("file", "must be a file", "none" if upload is None else "text")
    if one["model"] is None:
        raise invalid("model", "must name a model", "none")
    kind = cast(ResponseFormat, one["response_format"] or "json")
    granularities = cast(list[Granularity], texts["timestamp_granularities"])
    with_logprobs, is_streamed = bool(texts["include"]), one["stream"] in ("true", "True")
    for name, is_asked, kinds in (
        ("timestamp_granularities", granularities, ("verbose_json",)),
        ("include", with_logprobs, ("json",)),
        ("stream", is_streamed, ("json", "text")),
    ):
        if is_asked and kind not in kinds:
            raise invalid(name, f"needs response_format={' or '.join(kinds)}", kind)
    strategy = one["chunking_strategy"]
    if strategy not in (None, "auto"):
        raise _unsupported("chunking_strategy")
    if with_logprobs and base.beam_size > 1:
        raise _unsupported("include")
    temperature = _temperature(one["temperature"] or "0")
    hotwords = [one["hotwords"], *texts["keywords"]]
    try:
        decoding = replace(
            base,
            task=task,
            language=one["language"] or base.language,
            initial_prompt=one["prompt"] or base.initial_prompt,
            hotwords=", ".join(filter(None, hotwords)) or base.hotwords,
            temperature=(temperature,) if temperature else base.temperature,
            word_timestamps="word" in granularities or base.word_timestamps,
            vad_filter=strategy == "auto" or base.vad_filter,
        )
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    shown = tuple(granularities) or ("segment",)
    return Asked(upload, one["model"], decoding, kind, shown, is_streamed, with_logprobs)


def _texts(form: FormData) -> dict[str, list[str]]:
    """Return the texts of every field but the file, each once; an empty one may stand for none."""
    texts: dict[str, list[str]] = {name: [] for name in _KNOWN}
    for given, value in form.multi_items():
        name = given.removesuffix("[]")
        if given == "file":
            continue
        if given not in _KNOWN and name not in _MANY:
            if name in _UNSUPPORTED or given.startswith("chunking_strategy["):
                raise _unsupported(given.partition("[")[0])
            message = f"fields must be among {', '.join(sorted(_KNOWN))}, found {given[:80]!r}"
            raise ApiError(400, message, code="unknown_parameter", param=given[:80])
        if name not in _MANY and (n := len(form.getlist(name))) > 1:
            raise invalid(name, "must be given once", f"{n} of it")
        if isinstance(value, UploadFile):
            raise invalid(name, "must be text", "a file")
        if len(value) > MAX_TEXT:
            raise invalid(name, f"must have at most {MAX_TEXT} characters", f"{len(value)}")
        among = _AMONG.get(name, ())
        if among and value not in among and (value or name in _MANY):
            raise invalid(name, f"must be {' or '.join(among)}", repr(value))
        if value not in texts[name]:
            texts[name].append(value)
    return texts


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise invalid("temperature", "must be a number in [0, 1]", repr(text))
    return value


def _unsupported(name: str) -> ApiError:
    message = f"{name} is not supported by this server: {_UNSUPPORTED[name]}"
    return ApiError(400, message, code="unsupported_parameter", param=name)


def answer(
    transcript: Transcript, asked: Asked, duration_s: float, tokenizer: Tokenizer
) -> Response:
    """Return a transcript in the format that was asked for."""
    kind = asked.response_format
    if kind in ("text", "srt", "vtt"):
        text = f"{transcript.text}\n" if kind == "text" else render(transcript, kind)
        headers = {"x-notes": json.dumps(transcript.notes)} if transcript.notes else {}
        media_type = "text/vtt" if kind == "vtt" else "text/plain"
        return PlainTextResponse(text, media_type=media_type, headers=headers)
    used, notes = usage(duration_s), noted(transcript.notes)
    if kind == "json":
        more = logprobs(transcript.segments, asked, tokenizer)
        return JSONResponse({"text": transcript.text, **more, **notes, "usage": used})
    task = asked.decoding.task
    fields: dict[str, Any] = {
        "task": task,
        "language": LANGUAGES["en" if task == "translate" else transcript.language],
        "duration": duration_s,
        "text": transcript.text,
        "usage": used,
        **notes,
    }
    if "segment" in asked.granularities:
        fields["segments"] = [_segment(segment) for segment in transcript.segments]
    if "word" in asked.granularities:
        fields["words"] = [
            {"word": word.text.strip(), "start": word.start, "end": word.end}
            for word in transcript.words
        ]
    return JSONResponse(fields)


def _segment(segment: Segment) -> dict[str, Any]:
    """Return the ten fields of a segment; a number that is not known is 0, as clients want one."""
    fields = segment_fields(replace(segment, words=None, language=None, channel=None))
    return {name: 0.0 if value is None else value for name, value in fields.items()}


def noted(notes: Sequence[str]) -> dict[str, Any]:
    """Return what is odd about the sound, such as damage, where anything is."""
    return {"notes": list(notes)} if notes else {}


def usage(duration_s: float) -> dict[str, Any]:
    """Return what a request has used."""
    return {"type": "duration", "seconds": math.ceil(duration_s)}


def logprobs(segments: Iterable[Segment], asked: Asked, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the log-probability of each text token, if it was asked for."""
    if not asked.with_logprobs:
        return {}
    found = [
        (tokenizer.token_bytes(token_id), logprob)
        for segment in segments
        for token_id, logprob in zip(segment.token_ids, segment.logprobs, strict=True)
    ]
    return {
        "logprobs": [
            {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}
            for raw, logprob in found
        ]
    }


def event(kind: str, **fields: Any) -> bytes:
    """Return one server-sent event."""
    return f"data: {json.dumps({'type': kind, **fields})}\n\n".encode()


class Deltas:
    """The text of segments, as it is added to: joined, it is the transcript's text."""

    def __init__(self) -> None:
        self.text = self._added = ""

    def add(self, text: str) -> str:
        """Return what a text adds; a space behind it is none of the text unless a word follows."""
        self._added += text
        before, self.text = self.text, self._added.strip()
        return self.text[len(before) :]
