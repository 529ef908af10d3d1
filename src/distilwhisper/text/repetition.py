"""How much of a text repeats the words directly before it."""

from collections.abc import Sequence


def longest_loop(words: Sequence[str]) -> int:
    """Count the words of the longest run that only repeats what stands directly before it.

    "and then and then and then" has 4, and so has "no no no no no"; a text that never repeats
    itself at once has 0. A phrase counts from its second turn on, which must be whole.

    Args:
        words: or characters, in scripts without spaces.
    """
    if len(set(words)) == len(words):
        return 0
    places: dict[str, list[int]] = {}
    runs: dict[int, int] = {}  # by period: how long words have equalled those a period before
    longest = 0
    for place, word in enumerate(words):
        before = places.setdefault(word, [])
        runs = {place - other: runs.get(place - other, 0) + 1 for other in before}
        longest = max([longest, *(run for period, run in runs.items() if run >= period)])
        before.append(place)
    return longest
