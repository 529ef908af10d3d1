from distilwhisper.evaluation.bootstrap import Interval
from experiments import paper
from experiments.tables import Column, Table

TABLE = Table(
    "Table 0: of nothing",
    of="model",
    columns=(
        Column("speed", 2),
        Column("WER, %", percent=True),
        Column("5-Dup", 0),
        Column("note"),
    ),
    rows={
        "base": (1.0, Interval(0.101, 0.08, 0.125), 1234, "a|b"),
        "mine": (2.5, 0.2, None, "none"),
    },
    paper={"base": (1.0, 9.1, None, None), "medium.en": (1.4, 9.5, None, None)},
    paper_names={"base": "large-v2"},
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
    table = Table("T", of="set", columns=(Column("WER, %", percent=True),), rows={"a": (0.5,)})
    assert table.to_markdown() == "# T\n\n| set | WER, % |\n| --- | ---: |\n| a | 50.0 |\n"
    assert table.to_csv() == 'set,"WER, %"\na,50.0\n'


def test_the_papers_rows_stand_beside_ours_or_behind_them() -> None:
    rows, names = paper.beside(
        {"base": "large-v2", "tiny.en": "tiny.en", "mine": "mine"}, paper.TABLE_5
    )
    assert rows["base"] == paper.TABLE_5["large-v2"]
    assert rows["tiny.en"] == paper.TABLE_5["tiny.en"]
    assert "large-v2" not in rows
    assert "mine" not in rows
    assert rows["medium.en"] == paper.TABLE_5["medium.en"]
    assert names == {"base": "large-v2"}


def test_the_papers_figures_agree_with_each_other() -> None:
    """The same quantities in two of its tables."""
    assert paper.TABLE_7["large-v2, chunked"][1] == paper.TABLE_5["large-v2"][4]
    assert paper.TABLE_8["distil-large-v2"][4] == paper.TABLE_5["distil-large-v2"][4]
    for *parts, whole in paper.TABLE_8.values():
        assert abs(sum(parts[1:]) - whole) < 0.11  # three rounded rates
