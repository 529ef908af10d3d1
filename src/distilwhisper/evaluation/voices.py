"""Voices of other speakers, which babble over an utterance is made of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias, TypeVar

import numpy as np

from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.progress import say
from distilwhisper.speech.audio import Choice, Samples, stream_samples
from distilwhisper.speech.sources import CorruptAudio

N_VOICES = 6  # at once
UTTERANCES_PER_VOICE = 3  # one after the other, before the voice begins again
HELD_UTTERANCES = 64  # in memory: of 30 s each, 123 MB

_Drawn = TypeVar("_Drawn")
_Groups: TypeAlias = Mapping[str, Sequence[Utterance]]  # by what they have in common


class OtherVoices:
    """The speakers of a manifest, to be mixed under utterances of others.

    At most the first 30 s of each utterance are used. One that cannot be read is left out and
    logged.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._by_speaker = _grouped(manifest.utterances, lambda u: u.speaker)
        self._recordings = {
            (audio := manifest.audio_source(u)): u.recording or audio for u in manifest.utterances
        }
        self._by_recording = _grouped(
            manifest.utterances, lambda u: self._recordings[manifest.audio_source(u)]
        )
        self._load = lru_cache(HELD_UTTERANCES)(self._read)

    def require_others(self, utterance: Utterance, audio: str) -> None:
        """Refuse an utterance, of this manifest or another, in which its only speaker speaks.

        ``audio`` is the absolute path or URL of the utterance's sound.

        Raises:
            ValueError: there is no other speaker, and no other recording.
        """
        groups, own = self._others(utterance, audio)
        if len(groups) == sum(name in groups for name in own):
            raise ValueError(
                "babble must be of other speakers than the utterance's, or at least of other "
                f"recordings, found none in {self._manifest.path} for {utterance.id!r}: name "
                "another manifest, as in babble:5@other.jsonl"
            )

    def draw(
        self, utterance: Utterance, audio: str, n_samples: int, generator: np.random.Generator
    ) -> list[Samples]:
        """Return voices of other speakers; where none are known, of other recordings.

        Each voice is of another speaker as long as there are any, and has utterances of its own,
        three at most; it goes on for ``n_samples`` or ends before. The utterance has passed
        :meth:`require_others`. Nothing but the generator shapes the draws. At most six come back,
        fewer where the manifest has no more, or some cannot be read.
        """
        groups, own = self._others(utterance, audio)
        names = _drawn(list(groups), N_VOICES + len(own), generator)
        others = [name for name in names if name not in own][:N_VOICES]
        voices = []
        for place, name in enumerate(others):
            n_voices = len(range(place, N_VOICES, len(others)))
            utterances = _drawn(groups[name], n_voices * UTTERANCES_PER_VOICE, generator)
            voices += [self._voice(utterances[v::n_voices], n_samples) for v in range(n_voices)]
        return [voice for voice in voices if voice.any()]

    def _others(self, utterance: Utterance, audio: str) -> tuple[_Groups, set[str]]:
        """Return all groups of utterances, and the names of those that are the utterance's own."""
        speaker, speakers = utterance.speaker, self._by_speaker
        if speaker is not None and len(speakers) > (speaker in speakers):
            return speakers, {speaker}
        recording = utterance.recording or audio
        return self._by_recording, {recording, self._recordings.get(audio, recording)}

    def _voice(self, utterances: Iterable[Utterance], n_samples: int) -> Samples:
        pieces: list[Samples] = [np.zeros(0, dtype=np.float32)]
        for utterance in utterances:
            if sum(map(len, pieces)) >= n_samples:
                break
            pieces.append(self._load(utterance))
        return np.concatenate(pieces)

    def _read(self, utterance: Utterance) -> Samples:
        blocks = stream_samples(
            self._manifest.audio_source(utterance),
            start_s=utterance.start_s,
            duration_s=utterance.duration_s,
            choice=Choice(channel=utterance.channel),
        )
        try:
            return next(blocks)
        except (CorruptAudio, OSError, ValueError) as error:
            say(f"babble: {utterance.id} is left out: {error}")
            return np.zeros(0, dtype=np.float32)


def _grouped(utterances: Iterable[Utterance], key: Callable[[Utterance], str | None]) -> _Groups:
    """Return utterances by a key, without those for which it is None."""
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        name = key(utterance)
        if name is not None:
            groups.setdefault(name, []).append(utterance)
    return groups


def _drawn(of: Sequence[_Drawn], n: int, generator: np.random.Generator) -> list[_Drawn]:
    """Return n of a sequence, or all if there are no more, in random order."""
    return [of[i] for i in generator.choice(len(of), min(n, len(of)), replace=False)]
