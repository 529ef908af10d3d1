from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.filtering.measures import longest_loop


def test_a_loop_counts_from_its_second_turn_on() -> None:
    assert longest_loop("and then and then and then".split()) == 4
    assert longest_loop("no no no no no".split()) == 4
    assert longest_loop("the cat and the dog and the cow".split()) == 0
    assert longest_loop("it was the the cat".split()) == 1
    assert longest_loop([]) == 0


@given(st.text("abc", max_size=14))
def test_it_equals_a_search_over_all_places_and_periods(text: str) -> None:
    found = [0]
    for start in range(len(text)):
        for period in range(1, len(text) - start):
            for end in range(start + 2 * period, len(text) + 1):
                piece = text[start:end]
                if piece[period:] == piece[:-period]:
                    found.append(len(piece) - period)
    assert longest_loop(text) == max(found)
