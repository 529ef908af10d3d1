"""Transcripts in the shapes of OpenAI's audio endpoints."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from distilwhisper.languages import LANGUAGES
from distilwhisper.serving.forms import Asked
from distilwhisper.text.formats import render, segment_fields
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.transcript import Segment, Transcript


def answer(
    transcript: Transcript, asked: Asked, duration_s: float, tokenizer: Tokenizer
) -> Response:
    """Return a transcript in the format that was asked for."""
    kind = asked.response_format
    if kind == "json":
        more = logprobs(transcript.segments, asked, tokenizer)
        more |= noted(transcript.notes)
        return JSONResponse({"text": transcript.text, **more, "usage": usage(duration_s)})
    if kind != "verbose_json":
        text = f"{transcript.text}\n" if kind == "text" else render(transcript, kind)
        headers = {"x-notes": json.dumps(transcript.notes)} if transcript.notes else {}
        media_type = "text/vtt" if kind == "vtt" else "text/plain"
        return PlainTextResponse(text, media_type=media_type, headers=headers)
    return JSONResponse(_verbose(transcript, asked, duration_s))


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
        self._is_begun = False
        self._space = ""  # behind the last word: it is none of the text unless another follows

    def add(self, text: str) -> str:
        """Return what a text adds."""
        new = self._space + text
        new = new if self._is_begun else new.lstrip()
        kept = new.rstrip()
        self._space = new[len(kept) :]
        self._is_begun |= bool(kept)
        return kept


def _verbose(transcript: Transcript, asked: Asked, duration_s: float) -> dict[str, Any]:
    is_translated = asked.decoding.task == "translate"
    code = "en" if is_translated else transcript.language
    fields: dict[str, Any] = {
        "task": asked.decoding.task,
        "language": LANGUAGES[code],
        "duration": duration_s,
        "text": transcript.text,
        "usage": usage(duration_s),
        **noted(transcript.notes),
    }
    if "segment" in asked.granularities:
        fields["segments"] = [_segment(segment) for segment in transcript.segments]
    if "word" in asked.granularities:
        fields["words"] = [
            {"word": word.text.strip(), "start": word.start, "end": word.end}
            for word in transcript.words
        ]
    return fields


def _segment(segment: Segment) -> dict[str, Any]:
    """Return the ten fields of a segment; a number that is not known is 0, as clients want one."""
    fields = segment_fields(replace(segment, words=None, language=None, channel=None))
    return {name: 0.0 if value is None else value for name, value in fields.items()}
