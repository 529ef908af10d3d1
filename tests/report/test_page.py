import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from distilwhisper.corpus.store import read_jsonl, write_jsonl
from distilwhisper.evaluation.bootstrap import Resampling
from distilwhisper.evaluation.comparison import compare
from distilwhisper.filtering.retention import Groups, Kept, Retention
from distilwhisper.report.facts import read_facts
from distilwhisper.report.page import write_report
from evaluations import TEXTS, evaluation
from pages import Page
from runs import METRICS, make_run

FEW = Resampling(n=200)
NOISES = (None, "white:10", "white:0", "codec:opus-6k")
MANY = {f"u{i:02}": "red green blue black" for i in range(12)}  # enough to be sure of


def page_of(*folders: Path, out: Path | None = None) -> Page:
    path = out or folders[0] / "report.html"
    return Page(write_report(path, [read_facts(folder) for folder in folders]).read_text())


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def make_comparison(
    folder: Path, *, noises: tuple[str | None, ...] = NOISES, baseline: str | None = "large"
) -> Path:
    """Two models on two sets: the small one makes 3 of 12 and 12 of 48 errors, the large none."""
    heard = {"a": "the rein in a valley", "b": "a thin line"}
    evaluations = [
        made
        for noise in noises
        for made in (
            evaluation(folder, "small", "first", heard, noise=noise, compute_s=1.0),
            evaluation(folder, "small", "second", dict.fromkeys(MANY, "red green blue bleak"),
                       noise=noise, texts=MANY, compute_s=1.0),
            evaluation(folder, "large", "first", noise=noise),
            evaluation(folder, "large", "second", noise=noise, texts=MANY, error="torn"),
        )
    ]  # fmt: skip
    found = compare(evaluations, folder=folder, baseline=baseline, resampling=FEW)
    (folder / "comparison.json").write_text(json.dumps(found.to_dict()))
    return folder


# One run


def test_a_run_s_page_says_what_its_files_say(run: Path) -> None:
    text = page_of(run).text
    for said in (
        "On 2 utterances held out from training the student makes 37.5 % word errors , the "
        "teacher 12.5 %: 25.0 points more (fewer than 10 recordings: too few to be sure)",
        "It has 75 % of the parameters and runs 2.50 times as fast, on the long recording 2.50",
        "trained for 2 steps on 0.10 hours of speech (3 utterances)",
        "1 (25.0 %) dropped",
        "wer above limit 1 0.020",
        "labelled by the teacher 4 0.120",
        "held-out test 2 0.011",
        "2 steps, 1.0 epochs, 3.25 windows per second; kl_weight 0.8",
        "lowest validation WER, 25.0 % at step 2",
        "student held-out test 2 8 1 2 0 12.5 25.0 0.0",
        "A student of openai/some-teacher",
        "student 30.0 1.3 3.2 25.0 75 % 2.50",
    ):
        assert said in text


def test_what_the_files_say_differently_the_page_does_too(run: Path) -> None:
    before = page_of(run).text
    edit(run / "eval/student-test/summary.json", wer=0.123, n_parameters=20_000_000, ser=0.0456)
    edit(run / "verdicts/summary.json", total={"count": 999, "hours": 7.0})
    after = page_of(run).text
    for number in ("12.3 %", "50 %", "4.6", "999", "7.000"):
        assert number not in before
        assert number in after


def test_a_page_is_one_file_and_the_same_bytes_each_time(run: Path) -> None:
    first = write_report(run / "report.html", [read_facts(run)]).read_bytes()
    assert write_report(run / "report.html", [read_facts(run)]).read_bytes() == first
    page = Page(first.decode())
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in first.decode()
    assert len(page.images) == 3
    assert set(page.links) == {"sound/first.wav#t=1.5,3.5", "sound/second.wav#t=1.5,3.5"}


def test_what_was_said_is_escaped(run: Path) -> None:
    for model in ("teacher", "student"):
        path = run / "eval" / f"{model}-test" / "scores.jsonl"
        rows = [
            {**row, "id": f"<i>{row['id']}", "reference": "a <script>", "hypothesis": "<b>"}
            for row in read_jsonl(path)
        ]
        write_jsonl(path, rows)
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('"small"', '"<script>alert()</script>"'))
    page = page_of(run)
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert "<script>alert()</script>" in page.text
    assert "<i>first" in page.text


def test_errors_are_marked_and_sounds_linked_from_where_the_page_is(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "elsewhere" / "deep" / "page.html"
    page = page_of(run, out=out)
    source = out.read_text()
    assert "<del>twice</del> <ins>thrice</ins>" in source
    assert "and <del>then</del> <ins>than</ins> once more <del>please</del>" in source
    linked = {out.parent / link.partition("#")[0] for link in page.links}
    assert {path.resolve() for path in linked} == {
        (run / "sound" / f"{name}.wav").resolve() for name in ("first", "second")
    }


def test_sound_in_a_tar_file_is_named_and_not_linked(run: Path) -> None:
    for name in ("teacher-test", "student-test", "teacher-long", "student-long"):
        path = run / "eval" / name / "scores.jsonl"
        write_jsonl(path, [{**row, "audio": "a.tar#x.wav"} for row in read_jsonl(path)])
    page = page_of(run)
    assert page.links == []
    assert "a.tar#x.wav" in page.text


def test_a_filter_s_report_and_figures_are_on_the_page(run: Path) -> None:
    kept = Kept(4, 0.12, 3, 0.1, 0.3, 0.05, None, None)
    found = Retention(
        groups={"source": Groups(31, 0, {"radio": kept})},
        by_limit={0.2: kept},
        n_judged=4,
        error_curve=(),
    )
    counts = {"substitutions": 2, "deletions": 0, "insertions": 0, "words": 16}
    edit(
        run / "verdicts/summary.json",
        retention=asdict(found),
        errors={"word": {**counts, "wer": 2 / 16}},
        errors_kept={"word": {**counts, "words": 40, "wer": 2 / 40}},
    )
    (run / "verdicts" / "figures").mkdir()
    (run / "verdicts" / "figures" / "kept.svg").write_text("<svg>kept</svg>")
    page = page_of(run)
    assert "By source: 31, the largest 1" in page.text
    assert "radio 4 0.120 75.0 % 30.0 % 5.0 %" in page.text
    assert "What other limits on errors would keep limit" in page.text
    assert "all labels have 12.5 % word errors, those that were kept 5.0 %" in page.text
    assert "<svg>kept</svg>" in page.images


def test_several_validation_sets_are_lines_of_their_own(run: Path) -> None:
    judged = {"validation_wer": 0.2, "wer_by_set": {"calls": 0.1, "radio": 0.3}}
    write_jsonl(run / "train/metrics.jsonl", [*METRICS[:2], {"step": 2, **judged}])
    (plot,) = (svg for svg in page_of(run).images if "Validation WER" in svg)
    assert {"mean", "calls", "radio"} <= set(re.findall(r">([^<>]+)</text>", plot))


def test_a_run_without_validation_has_no_curve_of_it(run: Path) -> None:
    write_jsonl(run / "train/metrics.jsonl", METRICS[:2])
    page = page_of(run)
    assert "The last checkpoint is the student" in page.text
    assert not any("Validation WER" in svg for svg in page.images)


def test_what_is_for_the_screen_is_not_printed(run: Path) -> None:
    classes = [value for name, value in page_of(run).attributes if name == "class"]
    assert classes.count("screen") == 4  # the recipe, the record, two texts of the teacher


# Several runs


def test_runs_are_put_side_by_side(run: Path, tmp_path: Path) -> None:
    better = make_run(tmp_path / "better", name="other", student={})
    out = tmp_path / "report.html"
    page = page_of(run, better, out=out)
    for said in (
        "Of 2 students other is nearest to its teacher on the held-out test: 0.0 % word errors, "
        "the teacher 12.5 %, 12.5 points fewer",
        "small openai/some-teacher 37.5 % +25.0 points 37.5 % +25.0 points 2.50 2.50 30.0 75 % "
        "0.10 2",
        "other openai/some-teacher 0.0 % -12.5 points",
        "All were judged on the same 2 held-out utterances",
    ):
        assert said in page.text
    curves = [svg for svg in page.images if "small" in svg and "other" in svg]
    assert len(curves) == 2
    assert page.tags.count("h1") == 1


def test_runs_of_one_name_and_of_other_tests_are_told_apart(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", texts={"first": "something else"})
    text = page_of(run, other, out=tmp_path / "report.html").text
    names = f"small ({run})", f"small ({other})"
    assert f"the same had: {names[0]}; {names[1]}): compare the gaps, not the rates" in text


# Comparisons


def test_a_comparison_s_page_says_what_its_file_says(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path)
    path = write_report(folder / "report.html", [read_facts(folder)])
    assert path == folder / "report.html"
    text = Page(path.read_text()).text
    for said in (
        "small against large",
        "In the mean over 2 sets: small makes 25.0 % word errors, large 0.0 %, 25.0 points more ",
        "(a set has fewer than 10 recordings: too few to be sure), with 100 % of the parameters at "
        "2.00 times the speed",
        "small second +25.0 [+25.0, +25.0] 0.0100 significantly more errors",
        "small first 3 12 2 1 0 16.7 8.3 0.0",
        "small 1.5 0.7 2.0 20.0 100 % 2.00",
        "4 utterances could not be read",
        "large, second, u00: torn",
        "white:10 25.0 %",
        "More of codec:opus-6k",
        "a : 2 errors, 5 words",
    ):
        assert said.replace(" : ", ": ") in text


def test_figures_show_speed_and_the_noises_that_have_levels(tmp_path: Path) -> None:
    page = page_of(make_comparison(tmp_path))
    assert len(page.images) == 2
    assert "WER against speed" in page.images[0]
    assert "WER under white noise" in page.images[1]
    says = [value for name, value in page.attributes if name == "alt"]
    assert says[1].endswith("small: 25.0 % at 10, 25.0 % at 0; large: 0.0 % at 10, 0.0 % at 0")


def test_levels_are_read_as_evaluation_reads_them(tmp_path: Path) -> None:
    noises = ("recorded:1e1@cafe", "recorded:+0@cafe", "recorded:5@street", "reverberation@rooms")
    page = page_of(make_comparison(tmp_path, noises=noises))
    _, under_noise = page.images
    assert "WER under recorded noise of cafe" in under_noise
    says = [value for name, value in page.attributes if name == "alt"]
    assert "small: 25.0 % at 10, 25.0 % at 0;" in says[1]


def test_sounds_of_worst_utterances_are_linked(tmp_path: Path) -> None:
    page = page_of(make_comparison(tmp_path, noises=(None,)), out=tmp_path / "sub" / "r.html")
    assert "../corpus/a.wav#t=1,3" in page.links


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        (None, "Of 2 models large makes the fewest errors, 0.0 % [0.0, 0.0] word errors in the "
               "mean over 2 sets; small is the fastest, 20.0 seconds"),
        ("small", "large makes 0.0 % word errors, small 25.0 %, 25.0 points fewer"),
    ],
)  # fmt: skip
def test_the_headline_knows_who_is_compared(
    tmp_path: Path, baseline: str | None, said: str
) -> None:
    page = page_of(make_comparison(tmp_path, noises=(None,), baseline=baseline))
    assert said in page.text
    assert ("Against" in page.text) == (baseline is not None)
    assert "Under noise" not in page.text


def test_of_many_models_the_headline_tells_of_the_best(tmp_path: Path) -> None:
    wrong = {"worse": 1, "best": 0, "worst": 3, "base": 0}
    evaluations = [
        evaluation(tmp_path, name, heard=dict.fromkeys(list(TEXTS)[:n], "nothing of it"))
        for name, n in wrong.items()
    ]
    found = compare(evaluations, folder=tmp_path, baseline="base", resampling=FEW)
    (tmp_path / "comparison.json").write_text(json.dumps(found.to_dict()))
    text = page_of(tmp_path).text
    assert "On set: best makes 0.0 % word errors, base 0.0 %" in text
    assert f"; 2 others make {100 * 5 / 12:.1f} % to 100.0 %." in text


def test_one_model_on_several_sets_is_no_comparison_of_models(tmp_path: Path) -> None:
    evaluations = [evaluation(tmp_path, "alone", name) for name in ("first", "second")]
    found = compare(evaluations, folder=tmp_path, resampling=FEW)
    (tmp_path / "comparison.json").write_text(json.dumps(found.to_dict()))
    page = page_of(tmp_path)
    assert "alone makes 0.0 % [0.0, 0.0] word errors in the mean over 2 sets." in page.text
    assert page.images == []


def test_sets_without_references_have_no_rates(tmp_path: Path) -> None:
    texts = {"a": None, "b": None}
    evaluations = [evaluation(tmp_path, name, texts=texts) for name in ("one", "two")]
    found = compare(evaluations, folder=tmp_path, baseline="one", resampling=FEW)
    (tmp_path / "comparison.json").write_text(json.dumps(found.to_dict()))
    text = page_of(tmp_path).text
    assert "No set has references" in text
    assert "one – " in text


def test_scripts_without_spaces_are_compared_in_characters(tmp_path: Path) -> None:
    texts = {"a": "天気がいい", "b": "雨"}
    evaluations = [
        evaluation(tmp_path, "one", heard={"a": "天気はいい"}, texts=texts, language="ja")
    ]
    found = compare(evaluations, folder=tmp_path, resampling=FEW)
    (tmp_path / "comparison.json").write_text(json.dumps(found.to_dict()))
    page = page_of(tmp_path)
    assert "character errors on set" in page.text
    assert "set, in characters" in page.text
    source = (tmp_path / "report.html").read_text()
    assert "天気<del>が</del> <ins>は</ins>いい" in source


def test_runs_and_comparisons_share_a_page(run: Path, tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "both", noises=(None,))
    page = page_of(run, folder, out=tmp_path / "report.html")
    assert page.tags.count("h1") == 2
    assert "small against large" in page.text
    assert "both/corpus/a.wav#t=1,3" in page.links
    shutil.rmtree(folder)  # the page needs no other file
    assert Page((tmp_path / "report.html").read_text()).text == page.text
