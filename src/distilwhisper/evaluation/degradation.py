"""Degraded sound for an evaluation: noise, rooms, codecs and clipping, the same for every model.

Random draws for an utterance depend on the seed, the kind and the utterance's id alone: not on the
level, the model, the process, or the order of utterances.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, cast, get_args

import numpy as np

from distilwhisper.corpus.records import Manifest, Utterance, read_manifest
from distilwhisper.progress import say
from distilwhisper.speech import channel, noise
from distilwhisper.speech.audio import Choice, Samples, stream_samples
from distilwhisper.speech.sources import CorruptAudio

Kind = Literal["white", "pink", "babble", "recorded", "reverberation", "codec", "clipping"]

_ALL_KINDS = (
    "white:DB, pink:DB, babble:DB or babble:DB@MANIFEST, recorded:DB@FOLDER (dB of speech over "
    "noise), reverberation:RT60 (seconds) or reverberation@FOLDER (of impulse responses), "
    "codec:NAME (such as opus-6k, mp3-16k, mulaw), clipping:DB (dB beyond full scale)"
)
_SNR_DB = (-100.0, 100.0)  # lowest and highest level of all kinds but these
_LEVELS: Mapping[Kind, tuple[float, float]] = {"reverberation": (0.01, 10), "clipping": (0, 100)}
_WITH_PATH = ("babble", "recorded", "reverberation")
_MAX_DRAWS = 20  # of a stretch that is not silent

N_VOICES = 6  # of babble, at once
UTTERANCES_PER_VOICE = 3  # one after the other, before the voice begins again
HELD_UTTERANCES = 64  # in memory: of 30 s each, 123 MB

_Drawn = TypeVar("_Drawn")
_Groups: TypeAlias = Mapping[str, Sequence[Utterance]]  # by what they have in common


@dataclass(frozen=True)
class Degradation:
    """A degradation of sound, written as KIND[:LEVEL][@PATH].

    Raises:
        ValueError: with all faults.
    """

    kind: Kind
    # A codec's name; RT60 in seconds; else dB, of speech over noise or of clipping beyond full
    # scale. None where a room's response comes out of a folder.
    level: float | str | None = None
    # Folder of recorded noise or impulse responses; manifest of other voices for babble.
    source: Path | None = None

    def __post_init__(self) -> None:
        kind, level, source = self.kind, self.level, self.source
        faults = []
        if kind == "codec":
            try:
                channel.check_codec("" if level is None else str(level))
            except ValueError as error:
                faults.append(str(error))
        elif kind == "reverberation" and source is not None:
            if level is not None:
                faults.append("a recorded response has its own RT60")
        else:
            low, high = _LEVELS.get(kind, _SNR_DB)
            if not isinstance(level, (int, float)) or not low <= level <= high:
                faults.append(f"the level of {kind} must be a number from {low:g} to {high:g}")
        if kind == "recorded" and source is None:
            faults.append("recorded noise must have the @FOLDER that it is in")
        if source is not None and kind not in _WITH_PATH:
            faults.append(f"{kind} has no @PATH")
        if faults:
            raise ValueError(f'{"; ".join(faults)}; found "{self}", there are {_ALL_KINDS}')

    @classmethod
    def parse(cls, text: str) -> "Degradation":
        """Read KIND[:LEVEL][@PATH].

        Raises:
            ValueError: it is not written so, or the kind has no such level or path.
        """
        match = re.fullmatch(r"([^:@]*)(?::([^@]*))?(?:@(.+))?", text)
        if not match or match[1] not in get_args(Kind):
            raise ValueError(
                f'noise must be one kind, written KIND[:LEVEL][@PATH]; found "{text}", there are '
                f"{_ALL_KINDS}"
            )
        kind, level, source = match.groups()
        with suppress(TypeError, ValueError):  # there is none, or it is a name
            level = float(level)
        return cls(cast(Kind, kind), level, None if source is None else Path(source))

    def __str__(self) -> str:
        """Return the text that :meth:`parse` reads back."""
        level = self.level
        if isinstance(level, (int, float)):
            level = np.format_float_positional(level, trim="-")
        source = "" if self.source is None else f"@{self.source}"
        return f"{self.kind}{'' if level is None else f':{level}'}{source}"


class Degrader:
    """Applies a :class:`Degradation` to a manifest's utterances; built once a process.

    The voices of babble are of the same manifest where no other is named.

    Raises:
        ValueError: babble is wanted, and some utterance has no other voices; or the folder holds
            no sounds.
    """

    def __init__(self, degradation: Degradation, manifest: Manifest, seed: int = 0) -> None:
        self.n_silent = 0  # utterances so far, which are left as they are
        self._degradation, self._manifest, self._seed = degradation, manifest, seed
        source = degradation.source
        if degradation.kind == "babble":
            self._voices = OtherVoices(manifest if source is None else read_manifest(source))
            for utterance in manifest.utterances:
                self._voices.require_others(utterance, manifest.audio_source(utterance))
        elif source is not None:
            noise.recordings_in(source)

    def apply(self, samples: Samples, utterance: Utterance) -> Samples:
        """Return the samples of a whole utterance with the degradation, as many as before.

        Raises:
            ValueError, CorruptAudio: a noise is silent or cannot be read.
        """
        if not samples.any():
            self.n_silent += 1
            return samples
        kind, level = self._degradation.kind, self._degradation.level
        if kind == "codec":
            return channel.through_codec(samples, str(level))
        if kind == "clipping":
            return channel.clip_peaks(samples, cast(float, level))
        what = f"{self._seed}/{kind}/{utterance.id}"
        digest = hashlib.blake2b(what.encode(), digest_size=16).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "big"))
        for _ in range(_MAX_DRAWS):  # recordings have pauses, and voices too
            sound = self._draw(utterance, len(samples), generator)
            if not sound.any():
                continue
            if kind == "reverberation":
                return channel.reverberate(samples, sound)
            return noise.mix_at_snr(samples, sound, cast(float, level))
        raise ValueError(
            f"{self._degradation} must not be silent, found silence in {_MAX_DRAWS} draws: leave "
            "silent and unreadable recordings out"
        )

    def _draw(
        self, utterance: Utterance, n_samples: int, generator: np.random.Generator
    ) -> Samples:
        """Return a noise as long as the utterance, or a room's response."""
        kind, source = self._degradation.kind, self._degradation.source
        if kind == "white":
            return noise.white_noise(n_samples, generator)
        if kind == "pink":
            return noise.pink_noise(n_samples, generator)
        if kind == "babble":
            audio = self._manifest.audio_source(utterance)
            voices = self._voices.draw(utterance, audio, n_samples, generator)
            return noise.babble(voices, n_samples, generator)
        if source is None:
            return channel.room_response(cast(float, self._degradation.level), generator)
        if kind == "reverberation":
            return noise.draw_recording(source, generator)
        return noise.recorded_noise(source, n_samples, generator)


class OtherVoices:
    """The speakers of a manifest, to be mixed under utterances of others.

    At most the first 30 s of each utterance are used. One that cannot be read is left out and
    logged.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        sources = {utterance: manifest.audio_source(utterance) for utterance in manifest.utterances}
        self._recordings = {audio: u.recording or audio for u, audio in sources.items()}
        self._by_recording = defaultdict[str, list[Utterance]](list)
        self._by_speaker = defaultdict[str, list[Utterance]](list)
        for utterance, audio in sources.items():
            self._by_recording[self._recordings[audio]].append(utterance)
            if utterance.speaker is not None:
                self._by_speaker[utterance.speaker].append(utterance)
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
        voice: Samples = np.zeros(0, dtype=np.float32)
        for utterance in utterances:
            if len(voice) < n_samples:
                voice = np.concatenate([voice, self._load(utterance)])
        return voice

    def _read(self, utterance: Utterance) -> Samples:
        start_s, duration_s = utterance.start_s, utterance.duration_s
        audio, voice = self._manifest.audio_source(utterance), Choice(channel=utterance.channel)
        try:
            return next(stream_samples(audio, start_s=start_s, duration_s=duration_s, choice=voice))
        except (CorruptAudio, OSError, ValueError) as error:
            say(f"babble: {utterance.id} is left out: {error}")
            return np.zeros(0, dtype=np.float32)


def _drawn(of: Sequence[_Drawn], n: int, generator: np.random.Generator) -> list[_Drawn]:
    """Return n of a sequence, or all if there are no more, in random order."""
    return [of[i] for i in generator.choice(len(of), min(n, len(of)), replace=False)]
