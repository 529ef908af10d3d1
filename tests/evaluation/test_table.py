from pathlib import Path

from distilwhisper.evaluation.bootstrap import Resampling
from distilwhisper.evaluation.comparison import compare
from evaluations import TEXTS, evaluation

FEW = Resampling(n=500)
TABLE = """\
first: 3 utterances, 3 files, 12 words
                     WER %  S   D  I  CER %  RTFx  M param.         against large         p
  small     0.0 [0.0, 0.0]  0   0  0    0.0  20.0       1.5     +0.0 [+0.0, +0.0]  1.0000
  large     0.0 [0.0, 0.0]  0   0  0    0.0   5.0       1.5

second: 12 utterances, 12 files, 48 words
                     WER %  S   D  I  CER %  RTFx  M param.         against large         p
  small  25.0 [12.5, 37.5]  0  12  0   26.5  20.0       1.5  +25.0 [+12.5, +37.5]  0.0040 *
  large     0.0 [0.0, 0.0]  0   0  0    0.0   5.0       1.5

mean over the sets
                     WER %  S   D  I  CER %  RTFx  M param.         against large         p
  small   12.5 [6.2, 20.8]                   20.0       1.5   +12.5 [+6.2, +20.8]  0.0040
  large     0.0 [0.0, 0.0]                    5.0       1.5

[low, high]: 95 % interval, by drawing 500 times over recordings (else speakers, else \
files); of a single one over its utterances, and then it holds for that one alone.
against large: difference in points, on the same draws; *: p below 0.05, for this one comparison.
Fewer than 10 recordings make intervals too narrow and p too small, so nothing is marked there; \
a single utterance makes none."""


def test_the_table_shows_sets_means_and_differences(tmp_path: Path) -> None:
    many = {f"u{i}": "red green blue black" for i in range(12)}
    half = {f"u{i}": "red green" for i in range(6)}
    evaluations = [
        evaluation(tmp_path, model, set_, heard, texts=texts, compute_s=compute_s)
        for model, heard, compute_s in (("small", half, 1.0), ("large", {}, 4.0))
        for set_, texts in (("first", TEXTS), ("second", many))
    ]
    found = compare(evaluations, folder=tmp_path, baseline="large", resampling=FEW)
    assert str(found) == TABLE


def test_what_is_not_known_is_left_open(tmp_path: Path) -> None:
    evaluations = [
        evaluation(tmp_path, "small", "untold", texts=dict.fromkeys(TEXTS), compute_s=0.0),
        evaluation(tmp_path, "small", "one", {"a": "the"}, texts={"a": TEXTS["a"]}, compute_s=0.0),
    ]
    found = compare(evaluations, folder=tmp_path, resampling=FEW)
    untold, one, mean = (table.splitlines()[2].split() for table in str(found).split("\n\n")[:3])
    assert untold == ["small", "-", "0", "0", "0", "-", "0.0", "1.5"]
    assert one == ["small", "80.0", "0", "4", "0", "83.3", "0.0", "1.5"]
    assert mean == ["small", "80.0", "0.0", "1.5"]


def test_a_set_of_one_voice_says_so(tmp_path: Path) -> None:
    found = compare(
        [evaluation(tmp_path, "small", "one", {"a": "the"}, recording="one")],
        folder=tmp_path,
        resampling=FEW,
    )
    table = str(found)
    assert table.startswith("one: 3 utterances, one recording, 12 words\n")
    assert "33.3 [0.0, 71.2]" in table


def test_a_set_counted_in_characters_says_so(tmp_path: Path) -> None:
    evaluations = [
        evaluation(tmp_path, "small", "words"),
        evaluation(tmp_path, "small", "signs", language="zh", texts={"a": "那里有雨"}),
    ]
    found = compare(evaluations, folder=tmp_path, resampling=FEW)
    sections = str(found).split("\n\n")
    assert ["WER %" in section for section in sections[:3]] == [True, False, False]
    assert "4 characters\n" in sections[1]
    assert "errors %" in sections[2]
