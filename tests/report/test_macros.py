from typing import Any

import pytest

from distilwhisper.report.figures import Picture
from distilwhisper.report.page import templates
from pages import Page


@pytest.fixture(scope="module")
def macros() -> Any:
    return templates().get_template("macros.html").module


def test_an_image_is_part_of_the_page(macros: Any) -> None:
    picture = Picture("<svg>ü</svg>".encode(), 'a "u"')
    page = macros.plots([picture])
    assert Page(page).images == ["<svg>ü</svg>"]
    assert 'alt="a &#34;u&#34;"' in page


@pytest.mark.parametrize(
    ("audio", "start_s", "duration_s", "link"),
    [
        ("../a b#1.wav", 0.0, 2.0, None),  # as a member of a tar file would be written
        ("../sound/a b.wav", 0.0, 2.0, "../sound/a%20b.wav"),
        ("a.wav", 1.5, 2.0, "a.wav#t=1.5,3.5"),
        ("a.wav", 1.5, None, "a.wav#t=1.5"),
        ("https://host/a.wav", 0.0, None, "https://host/a.wav"),
        ("s3://bucket/a.wav", 0.0, None, None),
        ("shard.tar#a.flac", 0.0, None, None),
    ],
)
def test_a_sound_is_linked_where_a_browser_can_fetch_it(
    macros: Any, audio: str, start_s: float, duration_s: float | None, link: str | None
) -> None:
    read = Page(macros.sound(audio, start_s, duration_s))
    assert read.links == ([] if link is None else [link])
    assert read.text == audio.rpartition("/")[2]


def test_errors_are_marked(macros: Any) -> None:
    assert macros.diff("say it twice", "say that twice more") == (
        "say <del>it</del> <ins>that</ins> twice <ins>more</ins>"
    )
    assert macros.diff("<b>", "") == "<del>&lt;b&gt;</del>"
    assert macros.diff("a b c d", "a b c d", at_most=2) == "a b ..."
    assert macros.diff("天 気が", "天気は", in_characters=True) == "天気<del>が</del> <ins>は</ins>"
