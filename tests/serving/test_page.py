"""The page, in a real browser: without a network, and under its own strict policy."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.speech.audio import Samples
from distilwhisper.text.wer import word_errors

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")
pytest.importorskip("silero_vad", exc_type=ImportError)

import numpy as np  # noqa: E402

from servers import running, wav  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the browser Chromium"),
]


@pytest.fixture(scope="module")
def spoken(prompts) -> tuple[Samples, str]:
    return max(prompts, key=lambda prompt: len(prompt[0]))


@pytest.fixture(scope="module")
def address(tiny_en: Path) -> Iterator[str]:
    decoding = DecodingSettings(temperature=(0.0,), batch_size=2)
    with running({"tiny": tiny_en}, decoding=decoding) as (found, _):
        yield found


@pytest.fixture
def page(address: str, spoken, tmp_path: Path) -> Iterator["playwright.Page"]:
    """The page, in a browser whose microphone says a sentence, and then nothing for 20 s."""
    silence = np.zeros(16_000 * 20, dtype=np.float32)
    (tmp_path / "said.wav").write_bytes(wav(np.concatenate([spoken[0], silence])))
    options = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={tmp_path / 'said.wav'}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with playwright.sync_playwright() as made:
        browser = made.chromium.launch(executable_path=CHROMIUM, args=options)
        opened = browser.new_page(accept_downloads=True)
        problems: list[str] = []
        opened.on("console", lambda told: problems.append(told.text) if told.type == "error" else 0)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.goto(address)
        opened.wait_for_selector("#model option", state="attached")
        opened.set_default_timeout(120_000)
        yield opened
        browser.close()
    expected = "the server responded with a status of 400"  # the browser's own line for an answer
    assert [text for text in problems if expected not in text] == []


def test_an_upload_is_shown_word_by_word_and_can_be_edited_and_kept(
    page: "playwright.Page", spoken, tmp_path: Path
) -> None:
    page.set_input_files(
        "#file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": wav(spoken[0])}
    )
    page.wait_for_selector(".segments span")
    said = " ".join(page.locator(".segments p").all_inner_texts())
    assert word_errors(spoken[1].lower(), said.lower()).wer < 0.5
    page.screenshot(path=tmp_path / "page.png", full_page=True)

    page.evaluate("document.querySelector('audio').play()")
    page.wait_for_selector(".now")
    first = page.locator(".now").first.inner_text()
    page.wait_for_function(
        "first => [...document.querySelectorAll('.now')].some(w => w.textContent !== first)",
        arg=first,
    )
    page.evaluate("document.querySelector('audio').pause()")
    last = page.locator(".segments span").last
    last.click()
    assert page.evaluate("document.querySelector('audio').currentTime") > 0.5
    page.wait_for_function("w => w.classList.contains('now')", arg=last.element_handle())

    page.locator(".segments p").first.fill("another text")
    for kind, wanted in (("txt", "another text\n"), ("srt", "1\n00:00:"), ("vtt", "WEBVTT\n\n")):
        with page.expect_download() as kept:
            page.click(f"[data-format={kind}]")
        text = Path(kept.value.path()).read_text()
        assert text.startswith(wanted)
        assert "another text" in text
        assert kept.value.suggested_filename == f"a.{kind}"


def test_an_error_is_shown(page: "playwright.Page") -> None:
    page.set_input_files("#file", {"name": "b.wav", "mimeType": "audio/wav", "buffer": b"nothing"})
    page.wait_for_selector("#error:not([hidden])")
    assert "b.wav" in page.locator("#error").inner_text()
    assert "holds no sound" in page.locator("#error").inner_text()


@pytest.mark.parametrize("button", ["live", "record"])
def test_what_the_microphone_hears_comes_back(page: "playwright.Page", spoken, button: str) -> None:
    page.click(f"#{button}")
    length_s = len(spoken[0]) / 16_000
    if button == "live":
        page.wait_for_function(
            "() => document.querySelector('#captions').textContent.includes('\\n')"
        )
        said = page.locator("#captions").inner_text()
    else:
        page.wait_for_timeout(1000 * (length_s + 1.5))
        page.click("#record")
        page.wait_for_selector(".segments span")
        said = " ".join(page.locator(".segments p").all_inner_texts())
    assert word_errors(spoken[1].lower(), said.lower()).wer < 0.7


def test_the_page_works_by_keyboard_and_loads_nothing_from_outside(
    page: "playwright.Page", address: str
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    assert asked
    assert all(url.startswith((address, "data:")) for url in asked)
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"model", "language", "task", "key", "file", "record", "live"} <= reached


CONTRAST = """() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((c) => c / 255)
      .map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b + .05;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll("h1, label, select, button, .button, #error")]
    .map((e) => light(getComputedStyle(e).color))
    .map((ink) => Math.max(ink, ground) / Math.min(ink, ground)));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read_and_touched_on_a_phone(
    page: "playwright.Page", address: str, scheme: str
) -> None:
    phone = page.context.browser.new_context(
        color_scheme=scheme, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    held = phone.new_page()
    held.goto(address)
    held.wait_for_selector("#model option", state="attached")
    assert held.evaluate("document.documentElement.scrollWidth") <= 360
    assert held.evaluate(CONTRAST) >= 4.5
    for control in held.locator("select, #key, .button, button").all():
        assert control.bounding_box()["height"] >= 44
    assert not held.locator("#drop .hint").is_visible()
    phone.close()
