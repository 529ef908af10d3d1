"""What a request asks for: the fields of OpenAI's audio endpoints, each checked."""

import math
from dataclasses import dataclass, replace
from tempfile import SpooledTemporaryFile
from typing import IO, Literal, cast, get_args

from starlette.datastructures import FormData, UploadFile

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.serving.errors import ApiError, invalid
from distilwhisper.text.tokens import Task

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]

_MANY = {"timestamp_granularities", "include", "keywords"}  # also with [] behind them
_KNOWN = {
    *"file model language prompt temperature response_format stream".split(),
    *"chunking_strategy hotwords".split(),
    *_MANY,
}
_UNSUPPORTED = {
    "languages": "name one language, or none to have it detected",
    "known_speaker_names": "speakers are not told apart",
    "known_speaker_references": "speakers are not told apart",
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
    for name in form:
        _check_name(name)
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise invalid("file", "must be a file", "none" if upload is None else "text")
    model = _text(form, "model")
    if model is None:
        raise invalid("model", "must name a model", "none")
    response_format = cast(
        ResponseFormat, _choice(form, "response_format", get_args(ResponseFormat)) or "json"
    )
    granularities = _many(form, "timestamp_granularities", get_args(Granularity))
    if granularities and response_format != "verbose_json":
        raise invalid(
            "timestamp_granularities", "needs response_format=verbose_json", response_format
        )
    with_logprobs = bool(_many(form, "include", ("logprobs",)))
    if with_logprobs and response_format != "json":
        raise invalid("include", "needs response_format=json", response_format)
    if with_logprobs and base.beam_size > 1:
        raise _unsupported("include", "beams have no log-probabilities of tokens")
    is_streamed = _choice(form, "stream", ("true", "false", "True", "False")) in ("true", "True")
    if is_streamed and response_format not in ("json", "text"):
        raise invalid("stream", "needs response_format json or text", response_format)
    strategy = _text(form, "chunking_strategy")
    if strategy not in (None, "auto"):
        raise _unsupported("chunking_strategy", "take auto, or leave it out")
    temperature = _temperature(form)
    words = _text(form, "hotwords")
    keywords = _many(form, "keywords", None)
    try:
        decoding = replace(
            base,
            task=task,
            language=_text(form, "language") or base.language,
            initial_prompt=_text(form, "prompt") or base.initial_prompt,
            hotwords=", ".join(filter(None, [words, *keywords])) or base.hotwords,
            temperature=(temperature,) if temperature else base.temperature,
            word_timestamps="word" in granularities or base.word_timestamps,
            vad_filter=strategy == "auto" or base.vad_filter,
        )
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    shown = granularities or ("segment",)
    return Asked(upload, model, decoding, response_format, shown, is_streamed, with_logprobs)


def _check_name(name: str) -> None:
    plain = name.removesuffix("[]")
    if plain in _UNSUPPORTED:
        raise _unsupported(plain, _UNSUPPORTED[plain])
    if name.startswith("chunking_strategy["):
        raise _unsupported("chunking_strategy", "take auto, or leave it out")
    if name not in _KNOWN and not (name != plain and plain in _MANY):
        raise ApiError(
            400,
            f"fields must be among {', '.join(sorted(_KNOWN))}, found {name[:80]!r}",
            code="unknown_parameter",
            param=name[:80],
        )


def _text(form: FormData, name: str) -> str | None:
    values = form.getlist(name)
    if len(values) > 1:
        raise invalid(name, "must be given once", f"{len(values)} of it")
    value = values[0] if values else None
    if isinstance(value, UploadFile):
        raise invalid(name, "must be text", "a file")
    if value is not None and len(value) > MAX_TEXT:
        raise invalid(name, f"must have at most {MAX_TEXT} characters", f"{len(value)}")
    return value or None


def _many(form: FormData, name: str, among: tuple[str, ...] | None) -> tuple:  # type: ignore[type-arg]
    values = [*form.getlist(name), *form.getlist(f"{name}[]")]
    for value in values:
        if isinstance(value, UploadFile) or len(value) > MAX_TEXT:
            raise invalid(name, f"must be text of at most {MAX_TEXT} characters", "more")
        if among is not None and value not in among:
            raise invalid(name, f"must be {' or '.join(among)}", repr(value))
    return tuple(dict.fromkeys(values))


def _choice(form: FormData, name: str, among: tuple[str, ...]) -> str | None:
    value = _text(form, name)
    if value is not None and value not in among:
        raise invalid(name, f"must be one of {', '.join(among)}", repr(value))
    return value


def _temperature(form: FormData) -> float:
    text = _text(form, "temperature") or "0"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise invalid("temperature", "must be a number in [0, 1]", repr(text))
    return value


def _unsupported(name: str, instead: str) -> ApiError:
    return ApiError(
        400,
        f"{name} is not supported by this server: {instead}",
        code="unsupported_parameter",
        param=name,
    )
