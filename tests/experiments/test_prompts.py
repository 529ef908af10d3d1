from pathlib import Path

import pytest
from experiments.context import Context
from experiments.prompts import UNRELATED, last_tokens
from experiments.settings import Settings
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.text.tokens import Tokenizer

WORDS = st.lists(st.text("abcdefghin ther", min_size=1, max_size=9).map(str.strip), max_size=12)


@pytest.fixture(scope="module")
def tokenizer(context: Context[Settings]) -> Tokenizer:
    return Tokenizer.from_folder(Path(context.teacher.path))


def test_a_prompt_is_the_end_of_a_text_and_no_longer_than_asked(tokenizer: Tokenizer) -> None:
    @given(WORDS, st.integers(0, 40))
    def check(words: list[str], n_most: int) -> None:
        text = " ".join(words)
        prompt = last_tokens(text, n_most, tokenizer)
        assert " ".join(text.split()).endswith(prompt)
        assert len(tokenizer.encode(f" {prompt}") if prompt else []) <= n_most

    check()


def test_the_unrelated_text_is_long_enough_for_every_prompt(tokenizer: Tokenizer) -> None:
    assert len(UNRELATED.split()) > 200
    assert last_tokens("in the inn", 0, tokenizer) == ""
    assert last_tokens("in the inn", 100, tokenizer) == "in the inn"
