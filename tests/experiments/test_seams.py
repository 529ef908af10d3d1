from pathlib import Path

import numpy as np
import pytest
from experiments.seams import (
    ChunkWords,
    decode_chunks,
    join_at_middle,
    join_by_words,
    seams_s,
    timed_errors,
)

from corpora import hearing_model, noise
from distilwhisper.corpus.records import Utterance
from distilwhisper.decoding.segments import TimedWord
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware

TEXT = "one two three four five six seven eight nine ten"
LONG_S = 40.0


def word(text: str, at_s: float) -> TimedWord:
    return TimedWord(f" {text}", (), at_s - 0.4, at_s + 0.4, 0)


def chunks_of(text: str, *, chunk_s: float, overlap_s: float) -> list[ChunkWords]:
    """Hear a text, a word a second, in chunks."""
    words = [word(one, at + 0.5) for at, one in enumerate(text.split())]
    chunks, start = [], 0.0
    while True:
        inside = [w for w in words if start <= w.start_s and w.end_s <= start + chunk_s]
        chunks.append(ChunkWords(start, start + chunk_s, tuple(inside)))
        if start + chunk_s >= len(words):
            return chunks
        start += chunk_s - overlap_s


@pytest.mark.parametrize("overlap_s", [0.0, 1.0, 2.0])
def test_joining_chunks_of_a_known_text_gives_it_back(overlap_s: float) -> None:
    chunks = chunks_of(TEXT, chunk_s=4.0, overlap_s=overlap_s)
    assert len(chunks) > 2
    assert "".join(w.text for w in join_at_middle(chunks)).strip() == TEXT


def test_the_middle_looks_at_no_text_where_the_run_does() -> None:
    first = ChunkWords(0.0, 6.0, (word("a", 1), word("b", 3.9), word("c", 5)))
    second = ChunkWords(4.0, 10.0, (word("b", 5.1), word("c", 6.2), word("d", 9)))
    assert seams_s([first, second]) == [5.0]
    assert [w.text for w in join_at_middle([first, second])] == [" a", " b", " b", " c", " d"]
    assert [w.text for w in join_by_words([first, second])] == [" a", " b", " c", " d"]


def test_nothing_and_one_chunk() -> None:
    assert join_at_middle([]) == []
    [chunk] = chunks_of("a b", chunk_s=4.0, overlap_s=1.0)
    assert join_at_middle([chunk]) == list(chunk.words)


def test_errors_are_dated_by_the_hypothesis() -> None:
    text = "alpha beta gamma delta omega"
    utterance = Utterance(id="u", audio="u.wav", text=text, language="en")
    said = {"Alfa,": 1.0, "beta": 2.0, "delta": 4.0, "omega.": 5.0, "more": 6.0}
    steps = list(timed_errors(utterance, [word(one, at_s) for one, at_s in said.items()]))
    assert steps == [
        (1.0, True, True),  # replaced
        (2.0, False, True),
        (2.0, True, True),  # missed after the word at 2 s
        (4.0, False, True),
        (5.0, False, True),
        (6.0, True, False),  # added
    ]


def test_characters_are_dated_where_words_are_not_spaced() -> None:
    utterance = Utterance(id="u", audio="u.wav", text="今天很好")
    steps = list(timed_errors(utterance, [word("今天", 1.0), word("真好。", 3.0)]))
    assert steps == [
        (1.0, False, True),
        (1.0, False, True),
        (3.0, True, True),  # replaced
        (3.0, False, True),
    ]


def test_words_that_the_normaliser_joins_keep_their_time() -> None:
    utterance = Utterance(id="u", audio="u.wav", text="at 25 past", language="en")
    heard = [word("at", 1.0), word("twenty", 2.0), word("five", 3.0), word("past", 4.0)]
    steps = list(timed_errors(utterance, heard))
    assert [is_error for _, is_error, _ in steps] == [False, False, False]
    assert steps[0][0] == 1.0
    assert 1.0 <= steps[1][0] <= 3.0
    assert steps[2][0] == 4.0


def test_the_chunks_that_are_heard_are_those_that_are_joined(tmp_path: Path) -> None:
    settings = DecodingSettings(
        max_new_tokens=8, temperature=(0.0,), chunk_s=15.0, overlap_s=2.0, language="en"
    )
    hardware = Hardware(device="cpu", dtype="float32")
    model = hearing_model(tmp_path / "model")
    transcriber = Transcriber.from_model(str(model), settings, hardware)
    samples = noise(LONG_S, seed=1)
    chunks = decode_chunks(transcriber, samples)
    assert len(chunks) >= 3
    assert chunks[0].start_s == 0.0
    assert chunks[-1].end_s == LONG_S
    words = [ChunkWords(one.start_s, one.end_s, one.words) for one in chunks]
    joined = "".join(w.text for w in join_by_words(words)).strip()
    assert joined == transcriber.transcribe(samples).text != ""
    with pytest.raises(ValueError, match="NaN"):
        decode_chunks(transcriber, np.full(16_000, np.nan, dtype=np.float32))
