import itertools
from pathlib import Path

import pytest

from distilwhisper.decoding.segments import (
    TimedSegment,
    TimedWord,
    group_words,
    split_segments,
    split_words,
)
from distilwhisper.text.tokens import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


def test_segments_stand_on_the_recordings_clock(tokenizer: Tokenizer) -> None:
    a, b = tokenizer.encode(" the cat"), tokenizer.encode(" sat")
    at = tokenizer.timestamp_id
    ids = [at(0.0), *a, at(2.0), at(2.5), *b, at(4.0)]
    assert split_segments(ids, tokenizer, start_s=20.0, end_s=50.0) == [
        TimedSegment(20.0, 22.0, tuple(a)),
        TimedSegment(22.5, 24.0, tuple(b)),
    ]


def test_text_outside_timestamps_is_kept(tokenizer: Tokenizer) -> None:
    text = tokenizer.encode(" the")
    at = tokenizer.timestamp_id
    bare = split_segments(text, tokenizer, start_s=1.0, end_s=4.0)
    assert bare == [TimedSegment(1.0, 4.0, tuple(text))]
    open_end = split_segments([at(1.0), *text], tokenizer, start_s=0.0, end_s=7.0)
    assert open_end == [TimedSegment(1.0, 7.0, tuple(text))]


def test_times_in_the_padding_move_back_to_the_end_of_the_sound(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.timestamp_id(0.0), *tokenizer.encode(" the"), tokenizer.timestamp_id(29.0)]
    [segment] = split_segments(ids, tokenizer, start_s=30.0, end_s=33.5)
    assert (segment.start_s, segment.end_s) == (30.0, 33.5)


def test_words_hold_all_tokens_and_share_the_time(tokenizer: Tokenizer) -> None:
    text = " the cat's hat, naïve — and 你好"
    ids = tuple(tokenizer.encode(text))
    words = split_words([TimedSegment(1.0, 9.0, ids)], tokenizer, spaced=True)
    assert [word.text for word in words] == [" the", " cat's", " hat,", " naïve", " —", " and",
                                             " 你好"]  # fmt: skip
    assert tuple(i for word in words for i in word.token_ids) == ids
    assert words[0].start_s == 1.0
    assert words[-1].end_s == pytest.approx(9.0)
    for left, right in itertools.pairwise(words):
        assert left.end_s == right.start_s


def test_scripts_without_spaces_split_at_characters(tokenizer: Tokenizer) -> None:
    ids = tuple(tokenizer.encode("你好，世界。"))
    words = split_words([TimedSegment(0.0, 4.0, ids)], tokenizer, spaced=False)
    assert [word.text for word in words] == ["你", "好，", "世", "界。"]


def test_half_a_character_at_the_end_is_kept(tokenizer: Tokenizer) -> None:
    ids = tuple(tokenizer.encode(" the 你"))[:-1]
    words = split_words([TimedSegment(0.0, 4.0, ids)], tokenizer, spaced=True)
    assert tuple(i for word in words for i in word.token_ids) == ids


# Words of two windows: "so we are | going home." passes from one to the other before "going".
FIRST = [(0, TimedWord(f" {text}", (), at, at + 0.4, 3)) for at, text in ((8.0, "so"), (8.5, "we"))]
REST = [(1, TimedWord(" home.", (), 9.0, 9.4, 0))]


def test_a_segment_that_two_windows_share_is_one() -> None:
    assert group_words(FIRST + REST, {(0, 3): 4, (1, 0): 1}) == [FIRST + REST]
    assert group_words(FIRST + REST, {(0, 3): 2, (1, 0): 3}) == [FIRST + REST]


def test_segments_of_which_nothing_was_left_out_stay_two() -> None:
    assert group_words(FIRST + REST, {(0, 3): 2, (1, 0): 1}) == [FIRST, REST]


def test_segments_of_one_window_stay_two() -> None:
    other = [(0, TimedWord(" home.", (), 9.0, 9.4, 4))]
    assert group_words(FIRST + other, {(0, 3): 4, (0, 4): 2}) == [FIRST, other]


@pytest.mark.parametrize(
    ("text", "start_s", "end_s"),
    [(" we.”", 9.0, 9.4), (" we", 11.0, 11.4), (" we", 9.0, 39.0)],
    ids=["sentence", "pause", "length"],
)
def test_what_does_not_belong_together_stays_two(text: str, start_s: float, end_s: float) -> None:
    first = [FIRST[0], (0, TimedWord(text, (), 8.5, 8.9, 3))]
    rest = [(1, TimedWord(" home", (), start_s, end_s, 0))]
    assert group_words(first + rest, {(0, 3): 4, (1, 0): 3}) == [first, rest]
