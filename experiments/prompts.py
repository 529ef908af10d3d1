"""Whether a model keeps its head when it is told what was said before: matching and other text."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from statistics import fmean
from typing import Any

from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.plotting import draw_lines
from distilwhisper.run.stages import fingerprint
from distilwhisper.text.tokens import Tokenizer
from experiments.cells import Arm, EvalSet
from experiments.context import Context, Model
from experiments.experiment import Outcome
from experiments.figures import wer_line
from experiments.scores import Row, interval_notes, score_texts
from experiments.tables import Column, Table, Value

KINDS = ("matching", "unrelated")

# Jane Austen, Pride and Prejudice (1813), chapter 1.
UNRELATED = """It is a truth universally acknowledged, that a single man in possession of a good
fortune, must be in want of a wife. However little known the feelings or views of such a man may be
on his first entering a neighbourhood, this truth is so well fixed in the minds of the surrounding
families, that he is considered as the rightful property of some one or other of their daughters.
"My dear Mr. Bennet," said his lady to him one day, "have you heard that Netherfield Park is let at
last?" Mr. Bennet replied that he had not. "But it is," returned she; "for Mrs. Long has just been
here, and she told me all about it." Mr. Bennet made no answer. "Do not you want to know who has
taken it?" cried his wife impatiently. "You want to tell me, and I have no objection to hearing it."
This was invitation enough. "Why, my dear, you must know, Mrs. Long says that Netherfield is taken
by a young man of large fortune from the north of England; that he came down on Monday in a chaise
and four to see the place, and was so much delighted with it that he agreed with Mr. Morris
immediately; that he is to take possession before Michaelmas, and some of his servants are to be in
the house by the end of next week." """


def run_prompts(context: Context) -> Outcome:
    """Error rate against the length of a prompt, matching and unrelated."""
    lengths = context.settings.prompt_tokens
    rows: dict[str, list[Row]] = {}
    against, told = {}, {}
    for model in context.distilled:
        plain = f"{model.name}, no prompt"
        rows[plain], _ = _hear(context, model, plain, "matching", 0)
        for kind in KINDS:
            for length in lengths:
                arm = _arm(model, kind, length)
                rows[arm], told[arm] = _hear(context, model, arm, kind, length)
                against[arm] = plain
    more = {arm: {"mean_prompt_tokens": mean} for arm, mean in told.items()}
    found = context.summarise(rows, against=against, more=more)
    columns = [
        column
        for model in context.distilled
        for kind in KINDS
        for column in (
            Column(f"{model.name}, {kind}: WER, %", percent=True),
            Column("less no prompt's, points", percent=True),
        )
    ]
    values: dict[str, list[Value]] = {"0": []}
    for model in context.distilled:
        values["0"] += [found[f"{model.name}, no prompt"].shown_wer, None] * len(KINDS)
    for length in lengths:
        arms = [found[_arm(model, kind, length)] for model in context.distilled for kind in KINDS]
        values[f"{length}"] = [v for arm in arms for v in (arm.shown_wer, arm.difference)]
    table = Table(
        "Prompts: error rate against the length of the text that is told before",
        of="prompt, tokens at most",
        columns=columns,
        rows=values,
        notes=(
            "Matching: the references of the utterances before it in its set, those at the end "
            "before the first one. Unrelated: the beginning of Pride and Prejudice.",
            *interval_notes(found),
        ),
    )
    figure = draw_lines(
        {
            f"{kind} prompt": [
                wer_line(
                    model.name,
                    {0: found[f"{model.name}, no prompt"]}
                    | {length: found[_arm(model, kind, length)] for length in lengths},
                )
                for model in context.distilled
            ]
            for kind in KINDS
        },
        x="prompt, tokens at most",
        y="WER, %",
    )
    return Outcome(table, found, rows, figure)


def _arm(model: Model, kind: str, length: int) -> str:
    return f"{model.name}, {kind} {length}"


def _hear(
    context: Context, model: Model, name: str, kind: str, length: int
) -> tuple[list[Row], float]:
    """Hear the first utterances of every short set, each told what came before it.

    Returns:
        The rows of an arm of this name, and how many tokens its prompts had in the mean.
    """
    arm = context.arm(model, name, batch_size=1)
    rows: list[Row] = []
    n_tokens: list[int] = []
    for on in context.short:
        key = {
            **arm.of_set(on),
            "weights": context.fingerprint(model.path),
            "utterances": [fingerprint(on.manifest), context.settings.prompt_utterances],
            "prompt": [kind, length],
        }
        decode = partial(_decode, context, arm, on, kind, length)
        heard: dict[str, Any] = context.remember("prompts", key, decode)
        said = [utterance for utterance in _with_reference(on) if utterance.id in heard]
        rows += score_texts(name, on.name, [(one, heard[one.id]["text"]) for one in said])
        n_tokens += [heard[one.id]["prompt_tokens"] for one in said]
    return rows, fmean(n_tokens)


def _decode(context: Context, arm: Arm, on: EvalSet, kind: str, length: int) -> dict[str, Any]:
    transcriber = context.transcriber(arm)
    tokenizer = transcriber.tokenizer
    utterances = _with_reference(on)
    first = utterances[: context.settings.prompt_utterances]
    heard = {}
    for place, (utterance, samples) in enumerate(load_readable(read_manifest(on.manifest), first)):
        before = UNRELATED if kind == "unrelated" else _text_before(utterances, place)
        prompt = last_tokens(before, length, tokenizer)
        told = replace(arm.decoding, initial_prompt=prompt or None)
        [window] = replace(transcriber, settings=told).decode(
            [samples], languages=[utterance.language]
        )
        n_tokens = len(tokenizer.encode(f" {prompt}")) if prompt else 0
        heard[utterance.id] = {"text": window.text, "prompt_tokens": n_tokens}
    return heard


def _with_reference(on: EvalSet) -> list[Utterance]:
    return [u for u in read_manifest(on.manifest).utterances if u.text is not None]


def _text_before(utterances: Sequence[Utterance], place: int) -> str:
    """Return the references before a place, as if the last utterances came before the first."""
    before = [*utterances[place + 1 :], *utterances[:place]]
    return " ".join((utterance.text or "").strip() for utterance in before)


def last_tokens(text: str, n_most: int, tokenizer: Tokenizer) -> str:
    """Return the last words of a text that have at most so many tokens together."""
    words = text.split()
    # A word and the space before it are tokens of their own, whatever stands around them.
    sizes = [len(tokenizer.encode(f" {word}")) for word in reversed(words)]
    n_kept = sum(total <= n_most for total in accumulate(sizes))
    return " ".join(words[len(words) - n_kept :])
