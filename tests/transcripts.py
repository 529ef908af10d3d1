"""What every transcript must hold to, and every format of it."""

import json
import re
from itertools import pairwise

from distilwhisper.text.transcript import Transcript, TranscriptFormat, render


def times_told(spoken: Transcript, form: TranscriptFormat) -> list[tuple[int, int]]:
    """Starts and ends that a format tells of its cues or segments, in milliseconds."""
    rendered = render(spoken, form)
    if form == "json":
        segments = json.loads(rendered)["segments"]
        return [(round(1000 * one["start"]), round(1000 * one["end"])) for one in segments]
    if form == "tsv":
        rows = [line.split("\t")[:2] for line in rendered.splitlines()[1:]]
        return [(int(start), int(end)) for start, end in rows]
    cues = re.findall("^(.*) --> (.*)$", rendered, re.MULTILINE)
    return [(in_ms(start), in_ms(end)) for start, end in cues]


def in_ms(clock: str) -> int:
    hours, minutes, seconds = ("0:" + clock).split(":")[-3:]
    return round(1000 * (3600 * int(hours) + 60 * int(minutes) + float(seconds.replace(",", "."))))


def assert_reliable(spoken: Transcript, duration_s: float) -> None:
    """Starts never go back, nothing overlaps or lasts no time, and all formats tell the same."""
    told = times_told(spoken, "json")
    assert [segment.id for segment in spoken.segments] == list(range(len(told)))
    for form in ("srt", "vtt", "tsv"):
        assert times_told(spoken, form) == told
    words = [word for segment in spoken.segments for word in segment.words or ()]
    for timed in (spoken.segments, words):
        for one in timed:
            assert 0 <= one.start < one.end <= max(duration_s, 0.001)
            assert one.start == round(one.start, 3)
        for one, next_ in pairwise(timed):
            assert one.end <= next_.start
    for segment in spoken.segments:
        assert segment.text.strip()
        if segment.words:
            assert segment.start == segment.words[0].start
            assert segment.end == segment.words[-1].end
