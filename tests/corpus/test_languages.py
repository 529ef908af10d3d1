from pathlib import Path

import pytest

from distilwhisper.corpus.records import Manifest, Utterance, in_language


def manifest(*languages: str | None) -> Manifest:
    utterances = (Utterance(f"u{i}", "a.wav", language=name) for i, name in enumerate(languages))
    return Manifest(Path("m.jsonl"), Path("/"), tuple(utterances))


def test_a_language_that_is_asked_for_is_that_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    changed = in_language(manifest("de", None, "French", "fr", "klingon"), "French")
    assert [u.language for u in changed.utterances] == ["fr"] * 5
    assert [u.id for u in changed.utterances] == ["u0", "u1", "u2", "u3", "u4"]
    told = capsys.readouterr().err
    assert told == (
        "m.jsonl: 2 of 5 utterances name another language (de, klingon) and are taken for fr, "
        "the language of the settings\n"
    )


@pytest.mark.parametrize("language", [None, "de"])
def test_nothing_is_told_where_nothing_is_overruled(
    language: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    named = manifest("de", "German")
    assert (in_language(named, language) is named) == (language is None)
    assert capsys.readouterr().err == ""


def test_a_language_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match='found "klingon"'):
        in_language(manifest(None), "klingon")
