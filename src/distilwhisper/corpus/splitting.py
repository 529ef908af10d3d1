"""A fair split of a manifest: parts that share no text, recording or speaker."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeAlias

from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.progress import say
from distilwhisper.text.normalize import normalizer_for

# What an utterance has, as kind and value. Of a group's traits the smallest is its name.
_Trait: TypeAlias = tuple[int, str]
_TEXT, _ID, _RECORDING, _SPEAKER = range(4)

# With fewer groups than this a part has just the size wanted. With more it is about as large,
# by chance, and what is added later moves no group: of 300 a tenth is 30, give or take 5.
_FEW = 300


def split_manifest(
    manifest: Manifest,
    fractions: Mapping[str, float],
    *,
    seed: int,
    keep_speakers_together: bool = True,
) -> dict[str, list[Utterance]]:
    """Split utterances into named parts that share no text, recording or speaker.

    Utterances of one text (normalised), recording or speaker make a group, and so do groups that
    share an utterance. A group goes to one part as a whole, drawn by a hash of the seed and its
    first text (its first id, if there is no text). Of few groups parts have the size wanted, as
    nearly as groups allow, and their share of every language and source. Of many they are about as
    large as wanted, and utterances that are added later move no group but those they join. Where
    there are too few speakers for that, their recordings are shared out, which is logged.

    A part that utterances name as their split is theirs, and none is drawn into it. Every part is
    in the manifest's order.

    Fractions are of the utterances that name none of these parts, by the names of the parts that
    are held out; the part called ``train``, which comes first, is the rest. Speakers that are kept
    together, whose names are good within a source, are in one part only.

    Raises:
        ValueError: the fractions are not between 0 and 1 or leave nothing to train on, or there
            are fewer groups than parts.
    """
    if not all(0 < fraction < 1 for fraction in fractions.values()) or sum(fractions.values()) >= 1:
        found = ", ".join(f"{name} {fraction}" for name, fraction in fractions.items())
        raise ValueError(
            f"held-out fractions must be above 0 and sum to less than 1, found {found}"
        )
    own_parts = {u.split for u in manifest.utterances} & {*fractions}
    to_draw = {name: fraction for name, fraction in fractions.items() if name not in own_parts}
    pool = [u for u in manifest.utterances if u.split not in own_parts]
    group_of = _groups(pool, with_speakers=keep_speakers_together)
    n_least = len(to_draw) + 1
    if keep_speakers_together and len({*group_of.values()}) < n_least:
        group_of = _groups(pool, with_speakers=False)
        say(f"data: {manifest.path} has too few speakers to hold some out: parts share speakers")
    if (n_groups := len({*group_of.values()})) < n_least:
        raise ValueError(
            f"{manifest.path} must fall into at least {n_least} groups that share no text or "
            f"recording, found {n_groups} in {len(pool)} utterances: make the parts by hand"
        )
    part_of = _deal(pool, group_of, to_draw, seed)
    parts: dict[str, list[Utterance]] = {"train": [], **{name: [] for name in fractions}}
    for utterance in manifest.utterances:
        part = utterance.split if utterance.split in own_parts else part_of[group_of[utterance.id]]
        parts[str(part)].append(utterance)
    return parts


def _groups(utterances: Sequence[Utterance], *, with_speakers: bool) -> dict[str, _Trait]:
    """Return every utterance's group by id: the first text, else the first id, that is in it."""
    parent: dict[_Trait, _Trait] = {}  # of two groups that become one, the smaller root is its root
    for utterance in utterances:
        for trait in _traits(utterance, with_speakers=with_speakers):
            roots = _root(parent, (_ID, utterance.id)), _root(parent, trait)
            parent[max(roots)] = min(roots)
    return {u.id: _root(parent, (_ID, u.id)) for u in utterances}


def _traits(utterance: Utterance, *, with_speakers: bool) -> Iterator[_Trait]:
    """Yield what no two parts may share."""
    yield _ID, utterance.id
    # Which normaliser it is decides here only what counts as the same text.
    text = utterance.text and normalizer_for(utterance.language or "en")(utterance.text).strip()
    if text:
        yield _TEXT, text
    if utterance.recording is not None:
        yield _RECORDING, utterance.recording
    if utterance.speaker is not None and with_speakers:
        yield _SPEAKER, f"{utterance.speaker} of {utterance.source}"


def _root(parent: dict[_Trait, _Trait], trait: _Trait) -> _Trait:
    while parent.setdefault(trait, trait) != trait:
        parent[trait] = parent[parent[trait]]
        trait = parent[trait]
    return trait


def _deal(
    utterances: Sequence[Utterance],
    group_of: Mapping[str, _Trait],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[_Trait, str]:
    """Return every group's part; there are more groups than parts."""
    sizes = Counter(group_of[utterance.id] for utterance in utterances)
    draws: dict[_Trait, float] = {}  # a number in [0, 1) for each group
    for kind, name in sizes:
        digest = hashlib.blake2b(f"{seed}/{kind}/{name}".encode(), digest_size=8).digest()
        draws[kind, name] = int.from_bytes(digest, "big") / 2**64
    order = sorted(sizes, key=lambda group: (draws[group], group))
    if len(sizes) < _FEW:
        strata = {group_of[u.id]: (u.language, u.source) for u in utterances}
        order = _spread(order, sizes, strata)
    part_of = dict.fromkeys(order, "train")
    begin = end = 0.0
    for n_dealt, (part, fraction) in enumerate(fractions.items()):
        rest = [group for group in order if part_of[group] == "train"]
        n_most = len(rest) - (len(fractions) - n_dealt)  # one for every part to come
        n_wanted = fraction * len(utterances)
        begin, end = end, end + fraction
        if len(sizes) < _FEW:
            part_groups = _filled(rest, sizes, n_wanted)
        else:
            part_groups = [g for g in rest if begin <= draws[g] < end and sizes[g] <= n_wanted]
        part_of |= dict.fromkeys(part_groups[:n_most] or [min(rest, key=sizes.__getitem__)], part)
    return part_of


def _spread(
    groups: Sequence[_Trait], sizes: Mapping[_Trait, int], strata: Mapping[_Trait, Hashable]
) -> list[_Trait]:
    """Return groups in an order of which every stretch has its share of every stratum."""
    before: Counter[Hashable] = Counter()  # utterances of each stratum so far
    middles: dict[_Trait, float] = {}
    for group in groups:
        middles[group] = before[strata[group]] + sizes[group] / 2
        before[strata[group]] += sizes[group]
    return sorted(groups, key=lambda group: middles[group] / before[strata[group]])


def _filled(groups: Sequence[_Trait], sizes: Mapping[_Trait, int], n_wanted: float) -> list[_Trait]:
    """Return the first groups that bring the sum of their sizes nearer to the one wanted."""
    chosen, n_taken = [], 0
    for group in groups:
        if n_taken + sizes[group] / 2 <= n_wanted:
            chosen.append(group)
            n_taken += sizes[group]
    return chosen
