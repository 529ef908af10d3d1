"""The pieces of a page that templates cannot make: images, links to sounds, marked errors."""

import base64
from itertools import islice
from urllib.parse import quote

from distilwhisper.extras import needed_by
from distilwhisper.text.wer import Alignment, align_words

with needed_by("writing pages", extra="report"):
    from markupsafe import Markup as Markup


def image(svg: bytes, says: str) -> Markup:
    """Return an SVG as an image within the page: no name in it can meet another image's.

    Args:
        svg: the file's content.
        says: what it shows, for those who cannot see it.
    """
    data = base64.b64encode(svg).decode()
    return Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(says, data)


def sound(audio: str, start_s: float = 0.0, duration_s: float | None = None) -> Markup:
    """Return a link to an utterance's sound; just its name where no browser can fetch it.

    Args:
        audio: path seen from the page's folder, or URL; ``#member`` of a tar file cannot be linked.
        start_s: where the utterance begins.
        duration_s: its length; None: to the end of the file.
    """
    name = audio.rpartition("/")[2]
    if "#" in audio or ("://" in audio and not audio.startswith(("http://", "https://"))):
        return Markup("<span>{}</span>").format(name)
    span = f"{start_s:g}" + ("" if duration_s is None else f",{start_s + duration_s:g}")
    link = (audio if "://" in audio else quote(audio)) + (f"#t={span}" if start_s else "")
    return Markup('<a href="{}">{}</a>').format(link, name)


def word_diff(
    reference: str, hypothesis: str, *, in_characters: bool = False, at_most: int | None = None
) -> Markup:
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
    shown = Markup("" if in_characters else " ").join(map(_step, islice(steps, at_most)))
    return shown if at_most is None or len(steps) <= at_most else shown + " ..."


def _step(step: Alignment) -> Markup:
    if step.kind == "equal":
        return Markup.escape(step.reference)
    missed = "" if step.reference is None else Markup("<del>{}</del>").format(step.reference)
    added = "" if step.hypothesis is None else Markup("<ins>{}</ins>").format(step.hypothesis)
    return Markup(" ").join(filter(None, (missed, added)))
