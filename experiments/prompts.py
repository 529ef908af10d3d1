"""Prompts of growing length, of the text before an utterance and of other text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from statistics import fmean
from typing import Any

from distilwhisper.checks import AT_LEAST_1, NOT_EMPTY, ruled
from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.plotting import draw_panels
from distilwhisper.run.stages import fingerprint
from distilwhisper.text.tokens import Tokenizer
from experiments.cells import Arm, EvalSet, with_reference
from experiments.context import Context, Model
from experiments.experiment import Outcome, experiment
from experiments.figures import wer_line
from experiments.results import Row, interval_notes, score_texts
from experiments.settings import Settings
from experiments.tables import WER, Column, Table, less

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


@dataclass(frozen=True)
class PromptSettings(Settings):
    """Of this experiment."""

    prompt_tokens: tuple[int, ...] = ruled((10, 20, 40, 60, 80, 120, 160, 200), NOT_EMPTY)
    """Lengths of prompts, beside none."""
    prompt_utterances: int = ruled(40, AT_LEAST_1)
    """So many of every short set, the first."""


@dataclass(frozen=True)
class _Prompted:
    """A model with one kind and length of prompt."""

    model: str
    kind: str = "matching"
    length: int = 0

    def __str__(self) -> str:
        return f"{self.model}, {f'{self.kind} {self.length}' if self.length else 'no prompt'}"


@experiment("prompts", needs=("short",), settings=PromptSettings)
def prompts(context: Context[PromptSettings]) -> Outcome:
    """Error rate by length of the prompt, matching and unrelated."""
    lengths, models = context.settings.prompt_tokens, context.distilled
    rows: dict[_Prompted, list[Row]] = {}
    more: dict[_Prompted, Mapping[str, Any]] = {}
    for model in models:
        plain = _Prompted(model.name)
        rows[plain], _ = _decode_sets(context, model, plain)
        for kind in KINDS:
            for length in lengths:
                prompted = _Prompted(model.name, kind, length)
                rows[prompted], mean = _decode_sets(context, model, prompted)
                more[prompted] = {"mean_prompt_tokens": mean}
    results = context.summarise(rows, against=lambda arm: _Prompted(arm.model), more=more)
    by_length = {
        length: {
            (model.name, kind): results[_Prompted(model.name, kind if length else KINDS[0], length)]
            for model in models
            for kind in KINDS
        }
        for length in (0, *lengths)
    }
    columns: list[Column] = []
    for model in models:
        for kind in KINDS:
            key = (model.name, kind)
            columns.append(WER.at(key, f"{model.name}, {kind}: WER, %"))
            columns.append(less("no prompt's", 1).at(key, "less no prompt's, points"))
    table = Table(
        "Prompts: error rate against the length of the text that is told before",
        of="prompt, tokens at most",
        columns=columns,
        rows={f"{length}": row for length, row in by_length.items()},
        notes=(
            "Matching: the references of the utterances before it in its set, those at the end "
            "before the first one. Unrelated: the beginning of Pride and Prejudice.",
            *interval_notes(results.values()),
        ),
    )
    figure = draw_panels(
        {
            f"{kind} prompt": [
                wer_line(
                    model.name,
                    {length: row[model.name, kind] for length, row in by_length.items()},
                )
                for model in models
            ]
            for kind in KINDS
        },
        x="prompt, tokens at most",
        y="WER, %",
    )
    return Outcome(table, results, figure)


def _decode_sets(
    context: Context[PromptSettings], model: Model, prompted: _Prompted
) -> tuple[list[Row], float]:
    """Decode the first utterances of every short set, each with a prompt.

    Returns:
        The rows, and how many tokens the prompts had in the mean.
    """
    arm = context.arm(model, str(prompted), batch_size=1)
    rows: list[Row] = []
    n_tokens: list[int] = []
    for on in context.short:
        key = {
            **arm.of_set(on),
            "weights": context.fingerprint(model.path),
            "utterances": [fingerprint(on.manifest), context.settings.prompt_utterances],
            "prompt": [prompted.kind, prompted.length],
        }
        decode = partial(_decode, context, arm, on, prompted)
        decoded: dict[str, Any] = context.remember("prompts", key, decode)
        chosen = [utterance for utterance in with_reference(on) if utterance.id in decoded]
        rows += score_texts(arm.name, on.name, [(u, decoded[u.id]["text"]) for u in chosen])
        n_tokens += [decoded[utterance.id]["prompt_tokens"] for utterance in chosen]
    return rows, fmean(n_tokens)


def _decode(
    context: Context[PromptSettings], arm: Arm, on: EvalSet, prompted: _Prompted
) -> dict[str, Any]:
    transcriber = context.transcriber(arm)
    tokenizer = transcriber.tokenizer
    utterances = with_reference(on)
    first = utterances[: context.settings.prompt_utterances]
    decoded = {}
    for place, (utterance, samples) in enumerate(load_readable(read_manifest(on.manifest), first)):
        before = UNRELATED if prompted.kind == "unrelated" else _text_before(utterances, place)
        prompt = last_tokens(before, prompted.length, tokenizer)
        settings = replace(arm.decoding, initial_prompt=prompt or None)
        [window] = replace(transcriber, settings=settings).decode(
            [samples], languages=[utterance.language]
        )
        n_tokens = len(tokenizer.encode(f" {prompt}")) if prompt else 0
        decoded[utterance.id] = {"text": window.text, "prompt_tokens": n_tokens}
    return decoded


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
