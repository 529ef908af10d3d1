"""A fair split of a manifest: parts that share neither a text nor a recording."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.text.normalize import normalizer_for

# What an utterance has, as kind and value. Of a group's traits the smallest is its name.
_Trait: TypeAlias = tuple[int, str]
_TEXT, _ID, _RECORDING, _SPEAKER = range(4)


def split_manifest(
    manifest: Manifest,
    fractions: Mapping[str, float],
    *,
    seed: int,
    keep_speakers_together: bool = False,
) -> dict[str, list[Utterance]]:
    """Split utterances into named parts that share neither a text nor a recording.

    Utterances of one text (normalised) or one recording make a group, and so do groups that share
    an utterance. A group goes to one part as a whole, drawn by a hash of the seed and its first
    text (its first id, if nothing is said): parts are about as large as asked, and utterances that
    are added later move no group but those they join. A part that would be empty gets the group
    drawn nearest to it.

    Args:
        manifest: what to split.
        fractions: of the groups, by the names of the parts that are held out; the part called
            ``train`` is the rest.
        seed: another one draws another split.
        keep_speakers_together: a speaker is in one part only, too.

    Returns:
        The parts by name, ``train`` first, each in the manifest's order.

    Raises:
        ValueError: the fractions are not between 0 and 1 or leave nothing to train on, or there
            are fewer groups than parts.
    """
    if not all(0 < fraction < 1 for fraction in fractions.values()) or sum(fractions.values()) >= 1:
        raise ValueError(
            "held-out fractions must be above 0 and sum to less than 1, found "
            + ", ".join(f"{name} {fraction}" for name, fraction in fractions.items())
        )
    group_of = _groups(manifest.utterances, keep_speakers_together=keep_speakers_together)
    groups = sorted(set(group_of.values()), key=lambda group: (_draw(group, seed), group))
    if len(groups) <= len(fractions):
        raise ValueError(
            f"{manifest.path} must fall into at least {len(fractions) + 1} groups that share no "
            f"text{', speaker' * keep_speakers_together} or recording, found {len(groups)} in "
            f"{len(manifest.utterances)} utterances: name parts that were made by hand"
        )
    part_of = _deal(groups, fractions, seed)
    parts: dict[str, list[Utterance]] = {"train": [], **{name: [] for name in fractions}}
    for utterance in manifest.utterances:
        parts[part_of[group_of[utterance.id]]].append(utterance)
    return parts


def _groups(utterances: Sequence[Utterance], *, keep_speakers_together: bool) -> dict[str, _Trait]:
    """Return every utterance's group by id: the first text, else the first id, that is in it."""
    parent: dict[_Trait, _Trait] = {}
    for utterance in utterances:
        own = (_ID, utterance.id)
        for trait in _traits(utterance, keep_speakers_together=keep_speakers_together):
            parent[_root(parent, own)] = _root(parent, trait)
    first: dict[_Trait, _Trait] = {}
    for trait in parent:
        root = _root(parent, trait)
        first[root] = min(first.get(root, trait), trait)
    return {u.id: first[_root(parent, (_ID, u.id))] for u in utterances}


def _traits(utterance: Utterance, *, keep_speakers_together: bool) -> Iterator[_Trait]:
    """Yield what no two parts may share."""
    yield _ID, utterance.id
    if utterance.text is not None:
        # Which normaliser it is decides here only what counts as the same text.
        text = normalizer_for(utterance.language or "en")(utterance.text).strip()
        if text:
            yield _TEXT, text
    if utterance.recording is not None:
        yield _RECORDING, utterance.recording
    if utterance.speaker is not None and keep_speakers_together:
        yield _SPEAKER, utterance.speaker


def _root(parent: dict[_Trait, _Trait], trait: _Trait) -> _Trait:
    while parent.setdefault(trait, trait) != trait:
        parent[trait] = parent[parent[trait]]
        trait = parent[trait]
    return trait


def _draw(group: _Trait, seed: int) -> float:
    """Return a number in [0, 1) for a group."""
    digest = hashlib.blake2b(f"{seed}/{group[0]}/{group[1]}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _deal(groups: Sequence[_Trait], fractions: Mapping[str, float], seed: int) -> dict[_Trait, str]:
    """Return every group's part; groups come in the order of their draws, more than parts."""
    draws = [_draw(group, seed) for group in groups]
    part_of = dict.fromkeys(groups, "train")
    begin, bound = 0, 0.0
    for n_dealt, (part, fraction) in enumerate(fractions.items()):
        bound += fraction
        n_to_leave = len(fractions) - n_dealt  # one group for every part to come
        end = min(max(bisect_left(draws, bound), begin + 1), len(groups) - n_to_leave)
        part_of |= dict.fromkeys(groups[begin:end], part)
        begin = end
    return part_of
