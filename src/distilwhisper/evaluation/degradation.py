"""Degraded sound for an evaluation: noise, rooms, codecs and clipping, the same for every model.

Random draws for an utterance depend on the seed, the kind and the utterance's id alone: not on the
level, the model, the process, or the order of utterances.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from distilwhisper.corpus.records import Manifest, Utterance, read_manifest
from distilwhisper.evaluation.voices import OtherVoices
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.channel import (
    Codec,
    clip_peaks,
    reverberate,
    room_response,
    through_codec,
)
from distilwhisper.speech.noise import (
    babble,
    draw_recording,
    mix_at_snr,
    pink_noise,
    recorded_noise,
    recordings_in,
    white_noise,
)

Kind = Literal["white", "pink", "babble", "recorded", "reverberation", "codec", "clipping"]

_ALL_KINDS = (
    "white:DB, pink:DB, babble:DB or babble:DB@MANIFEST, recorded:DB@FOLDER (dB of speech over "
    "noise), reverberation:RT60 (seconds) or reverberation@FOLDER (of impulse responses), "
    "codec:NAME (such as opus-6k, mp3-16k, mulaw), clipping:DB (dB beyond full scale)"
)
_SNR_DB = (-100.0, 100.0)
_LEVELS: Mapping[str, tuple[float, float]] = {  # lowest and highest
    "white": _SNR_DB,
    "pink": _SNR_DB,
    "babble": _SNR_DB,
    "recorded": _SNR_DB,
    "reverberation": (0.01, 10.0),
    "clipping": (0.0, 100.0),
}
_WITH_PATH = ("babble", "recorded", "reverberation")
_MAX_DRAWS = 20  # of a stretch that is not silent


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
                Codec.parse("" if level is None else str(level))
            except ValueError as error:
                faults.append(str(error))
        elif kind == "reverberation" and source is not None:
            if level is not None:
                faults.append("a recorded response has its own RT60")
        else:
            low, high = _LEVELS[kind]
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
        self._degradation = degradation
        self._manifest = manifest
        self._seed = seed
        self._voices: OtherVoices | None = None
        if degradation.kind == "babble":
            source = degradation.source
            self._voices = OtherVoices(manifest if source is None else read_manifest(source))
            for utterance in manifest.utterances:
                self._voices.require_others(utterance, manifest.audio_source(utterance))
        elif degradation.source is not None:
            recordings_in(degradation.source)

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
            return through_codec(samples, Codec.parse(str(level)))
        if kind == "clipping":
            assert isinstance(level, (int, float))
            return clip_peaks(samples, level)
        what = f"{self._seed}/{kind}/{utterance.id}"
        digest = hashlib.blake2b(what.encode(), digest_size=16).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "big"))
        # Recordings have pauses, and voices too.
        sounds = (self._draw(utterance, len(samples), generator) for _ in range(_MAX_DRAWS))
        sound = next((sound for sound in sounds if sound.any()), None)
        if sound is None:
            raise ValueError(
                f"{self._degradation} must not be silent, found silence in {_MAX_DRAWS} "
                "draws: leave silent and unreadable recordings out"
            )
        if kind == "reverberation":
            return reverberate(samples, sound)
        assert isinstance(level, (int, float))
        return mix_at_snr(samples, sound, level)

    def _draw(
        self, utterance: Utterance, n_samples: int, generator: np.random.Generator
    ) -> Samples:
        """Return a noise as long as the utterance, or a room's response."""
        kind, source = self._degradation.kind, self._degradation.source
        if kind == "white":
            return white_noise(n_samples, generator)
        if kind == "pink":
            return pink_noise(n_samples, generator)
        if self._voices is not None:
            audio = self._manifest.audio_source(utterance)
            voices = self._voices.draw(utterance, audio, n_samples, generator)
            return babble(voices, n_samples, generator)
        if source is None:
            assert isinstance(self._degradation.level, (int, float))
            return room_response(self._degradation.level, generator)
        if kind == "reverberation":
            return draw_recording(source, generator)
        return recorded_noise(source, n_samples, generator)
