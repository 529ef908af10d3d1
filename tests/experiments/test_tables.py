from operator import itemgetter

from experiments.tables import PAPER, Column, Table

from distilwhisper.evaluation.bootstrap import Interval

TABLE = Table(
    "Table 0: of nothing",
    of="model",
    columns=(
        Column("speed", itemgetter(0), 2, paper=0),
        Column("WER, %", itemgetter(1), percent=True, paper=1),
        Column("5-Dup", itemgetter(2), 0),
        Column("note", itemgetter(3)),
    ),
    rows={
        "base": (1.0, Interval(0.101, 0.08, 0.125), 1234, "a|b"),
        "mine": (2.5, 0.2, None, "none"),
    },
    paper={"large-v2": (1.0, 9.1), "medium.en": (1.4, 9.5)},
    called={"base": "large-v2"},
    notes=("A note.", "Another."),
)

MARKDOWN = """\
# Table 0: of nothing

| model | speed | paper | WER, % | paper | 5-Dup | note |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| base (paper: large-v2) | 1.00 | 1.00 | 10.1 [8.0, 12.5] | 9.1 | 1,234 | a/b |
| mine | 2.50 |  | 20.0 |  |  | none |
| medium.en |  | 1.40 |  | 9.5 |  |  |

- A note.
- Another.
"""

CSV = """\
model,speed,"speed, paper","WER, %","WER, %, low","WER, %, high","WER, %, paper",5-Dup,note
base,1.0,1.0,10.1,8.0,12.5,9.1,1234,a|b
mine,2.5,,20.0,,,,,none
medium.en,,1.4,,,,9.5,,
"""


def test_markdown_has_the_papers_figures_beside_ours() -> None:
    assert TABLE.to_markdown() == MARKDOWN


def test_csv_has_all_of_it_as_numbers() -> None:
    assert TABLE.to_csv() == CSV


def test_a_table_without_paper_or_notes() -> None:
    table = Table(
        "T",
        of="set",
        columns=(Column("WER, %", itemgetter(0), percent=True),),
        rows={"a": (0.5,)},
    )
    assert table.to_markdown() == "# T\n\n| set | WER, % |\n| --- | ---: |\n| a | 50.0 |\n"
    assert table.to_csv() == 'set,"WER, %"\na,50.0\n'


def test_the_papers_rows_stand_beside_ours_or_behind_them() -> None:
    table = Table(
        "T",
        of="model",
        columns=(Column("WER, %", itemgetter("wer"), percent=True, paper=2),),
        rows={"base": {"wer": 0.5}, "tiny.en": {"wer": 0.25}, "mine": {"wer": 0.125}},
        paper={name: PAPER["table5"][name] for name in ("tiny.en", "medium.en", "large-v2")},
        called={"base": "large-v2", "mine": "distil-large-v2"},
    )
    assert table.to_csv().splitlines()[1:] == [
        "base,50.0,9.1", "tiny.en,25.0,18.9", "mine,12.5,", "medium.en,,9.5"
    ]  # fmt: skip
    names = [line.split(" | ")[0] for line in table.to_markdown().splitlines()[4:8]]
    assert names == ["| base (paper: large-v2)", "| tiny.en", "| mine", "| medium.en"]


def test_a_column_is_of_one_of_the_things_that_a_row_has() -> None:
    column = Column("WER", itemgetter("wer")).at("student", paper=1)
    assert (column.name, column.paper) == ("student: WER", 1)
    assert column.value({"teacher": {"wer": 1}, "student": {"wer": 2}}) == 2
    assert column.value({"teacher": {"wer": 1}}) is None


def test_the_papers_figures_agree_with_each_other() -> None:
    """The same quantities in two of its tables."""
    assert PAPER["table7"]["large-v2, chunked"][1] == PAPER["table5"]["large-v2"][4]
    assert PAPER["table8"]["distil-large-v2"][4] == PAPER["table5"]["distil-large-v2"][4]
    for _, *parts, whole in PAPER["table8"].values():
        assert abs(sum(parts) - whole) < 0.11  # three rounded rates
