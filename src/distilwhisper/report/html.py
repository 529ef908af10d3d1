"""The pieces of a page: text that is escaped unless it is HTML already, tables, figures, diffs."""

import base64
import html
from collections.abc import Iterable, Sequence
from itertools import islice
from urllib.parse import quote

from distilwhisper.text.wer import Alignment, align_words

NOTHING = "–"  # where there is no number

_EMPTY = ("img", "meta")  # elements that have no end

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; background: #fff;
       max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid #d9dee3; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.note, .muted { color: #56616d; font-size: .9rem; }
.headline { font-size: 1.08rem; background: #f2f5f8; border-left: 4px solid #0072b2;
            padding: .7rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; min-width: 60%;
        font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top;
         border-bottom: 1px solid #e4e8ec; }
td { white-space: nowrap; }
th { font-weight: 600; font-size: .85rem; color: #56616d; overflow-wrap: normal;
     vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
td.words, thead:has(+ * td.words) th:last-child { text-align: left; white-space: normal; }
td.words { min-width: 5.5rem; }
td small { color: #56616d; display: block; }
@media (max-width: 40rem) {
  table { font-size: .88rem; } th, td { padding: .25rem .4rem; }
  th:first-child, td:first-child { white-space: normal; min-width: 6rem; max-width: 8rem; }
}
.plots { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: 1rem 0; }
.plots img { width: 28rem; max-width: 100%; height: auto; }
.pair { margin: 0 0 1rem; padding: 0 0 .8rem; border-bottom: 1px solid #e4e8ec; }
.pair b { font-weight: 600; color: #56616d; font-size: .85rem; padding-right: .6rem; }
del { color: #a3261c; background: #fbe9e7; }
ins { color: #0b4f8a; background: #e3effa; text-decoration: underline; }
pre { white-space: pre-wrap; background: #f6f8fa; padding: .8rem; font-size: .82rem; }
details { margin: .6rem 0; } summary { cursor: pointer; padding: .3rem 0; }
details.part { border: 1px solid #d9dee3; padding: .2rem 1rem; }
details.part > summary { font-weight: 600; }
@media print {
  body { max-width: none; font-size: 10pt; padding: 0; }
  h1, h2, h3, summary { break-after: avoid; }
  tr, img, .pair, .headline { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: 8pt; min-width: 0; }
  th, td { padding: .15rem .3rem; } td { white-space: normal; }
  th:first-child, td:first-child { position: static; min-width: 6rem; }
  .plots img { max-width: 48%; }
  details.screen { display: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""


class Html(str):
    """HTML; what is a plain string is text, and is escaped on its way into an element."""

    __slots__ = ()


def join(parts: Iterable[str], between: str = "") -> Html:
    """Return HTML and text one after the other; the text is escaped."""
    return Html(between.join(p if isinstance(p, Html) else html.escape(p) for p in parts))


def tag(name: str, /, *inside: str, **attributes: str) -> Html:
    """Return an element.

    Args:
        name: of the element.
        inside: HTML, and text, which is escaped.
        attributes: by name; ``class_`` is ``class``.
    """
    start = name + "".join(
        f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{start}>" if name in _EMPTY else f"<{start}>{join(inside)}</{name}>")


def page(title: str, *inside: str) -> str:
    """Return a whole page, which needs no other file.

    Args:
        title: for the browser's tab.
        inside: what it shows.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *inside), lang='en')}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Return a table that scrolls sideways where it is too wide; its first column stays.

    Args:
        head: of each column.
        rows: cells, HTML or text; one that is a cell already (``td``) is taken as it is.
    """
    top = tag("thead", tag("tr", *(tag("th", _with_unit(cell), scope="col") for cell in head)))
    body = tag("tbody", *(tag("tr", *(_cell(cell) for cell in row)) for row in rows))
    return tag("div", tag("table", top, body), class_="scroll")


def words(text: str) -> Html:
    """Return a table's cell of words, not of a number."""
    return tag("td", text, class_="words")


def note(*inside: str) -> Html:
    """Return a remark in small print."""
    return tag("p", *inside, class_="note")


def folded(summary: str, *inside: str, prints: bool = True, class_: str = "") -> Html:
    """Return what is there when somebody asks for it.

    Args:
        summary: what is seen of it at first.
        inside: the rest.
        prints: whether it is printed, unfolded, in a browser that can do that.
        class_: of the element.
    """
    classes = " ".join(filter(None, (class_, "" if prints else "screen")))
    attributes = {"class_": classes} if classes else {}
    return tag("details", tag("summary", summary), *inside, **attributes)


def image(svg: str | bytes, says: str) -> Html:
    """Return an SVG as an image within the page: no name in it can meet another image's.

    Args:
        svg: the file's content.
        says: what it shows, for those who cannot see it.
    """
    data = base64.b64encode(svg if isinstance(svg, bytes) else svg.encode()).decode()
    return tag("img", alt=says, src=f"data:image/svg+xml;base64,{data}")


def sound(audio: str, start_s: float = 0.0, duration_s: float | None = None) -> Html:
    """Return a link to an utterance's sound; just its name where no browser can fetch it.

    Args:
        audio: path seen from the page's folder, or URL; ``#member`` of a tar file cannot be linked.
        start_s: where the utterance begins.
        duration_s: its length; None: to the end of the file.
    """
    name = audio.rpartition("/")[2]
    if "#" in audio or ("://" in audio and not audio.startswith(("http://", "https://"))):
        return tag("span", name)
    span = f"{start_s:g}" + ("" if duration_s is None else f",{start_s + duration_s:g}")
    part = f"#t={span}" if start_s else ""
    return tag("a", name, href=(audio if "://" in audio else quote(audio)) + part)


def word_diff(
    reference: str, hypothesis: str, *, in_characters: bool = False, at_most: int | None = None
) -> Html:
    """Return a hypothesis with its errors marked: struck what it lacks, underlined what it adds.

    Args:
        reference: normalised text.
        hypothesis: normalised text.
        in_characters: compare characters, as for scripts without spaces between words.
        at_most: words, or characters, to show.
    """
    if in_characters:
        reference, hypothesis = (" ".join(t.replace(" ", "")) for t in (reference, hypothesis))
    steps = align_words(reference, hypothesis)
    shown = join(map(_step, islice(steps, at_most)), "" if in_characters else " ")
    return shown if at_most is None or len(steps) <= at_most else join([shown, " ..."])


def _step(step: Alignment) -> Html:
    if step.kind == "equal":
        return join([step.reference or ""])
    missed = [] if step.reference is None else [tag("del", step.reference)]
    added = [] if step.hypothesis is None else [tag("ins", step.hypothesis)]
    return join([*missed, *added], " ")


def _with_unit(head: str) -> str:
    """Keep a unit on one line."""
    return head.replace("/ ", "/\u00a0").replace(" %", "\u00a0%")


def _cell(cell: str) -> Html:
    return cell if isinstance(cell, Html) and cell.startswith("<td") else tag("td", cell)
