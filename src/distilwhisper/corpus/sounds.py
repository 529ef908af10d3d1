"""Whether recordings are still those that were labelled."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from distilwhisper.corpus.records import Label, Manifest, Utterance
from distilwhisper.errors import DistilwhisperError
from distilwhisper.progress import say
from distilwhisper.speech.sources import CorruptAudio, fingerprint

_N_READERS = 8  # that wait for the disk at the same time


class ChangedRecording(DistilwhisperError):
    """A recording is not the one that was labelled."""


def check_sounds(
    manifest: Manifest, utterances: Iterable[Utterance], labels: Mapping[str, Label]
) -> None:
    """Check that recordings hold what they held when they were labelled, as far as is known.

    A file of which only the time of change is another, as of a copy, is taken for the same; the log
    says how many there are.

    Raises:
        ChangedRecording: one holds something else, or cannot be read any more.
    """
    sources = {u.id: manifest.audio_source(u) for u in utterances if labels[u.id].sound}
    unique = dict.fromkeys(sources.values())
    with ThreadPoolExecutor(_N_READERS) as threads:
        now = dict(zip(unique, threads.map(_fingerprint, unique), strict=True))
    changed, touched = [], set()
    for id_, source in sources.items():
        before, after = (labels[id_].sound or "").split("-"), now[source].split("-")
        if before[0] != after[0]:
            changed.append(f"utterance {id_!r}: {source}")
        elif before != after:
            touched.add(source)
    if touched:
        say(
            f"{manifest.path}: {len(touched)} recordings have another time of change than when "
            "they were labelled, and the same size, beginning and end: taken for the same"
        )
    if changed:
        raise ChangedRecording(
            f"recordings must be those that were labelled, found {len(changed)} with other "
            f"contents, or none: {'; '.join(changed[:3])}{' ...' if len(changed) > 3 else ''}; "
            "bring the old ones back, or label anew what has changed (distilwhisper label "
            "--retry-failed; of a run, --from-stage label)"
        )


def is_as_labelled(source: str, sound: str | None) -> bool:
    """Return whether a recording has a label's fingerprint; any has one that is not known."""
    return sound is None or sound.split("-")[0] == _fingerprint(source).split("-")[0]


def _fingerprint(source: str) -> str:
    """Return a fingerprint; an empty one where the recording cannot be read."""
    try:
        return fingerprint(source)
    except (CorruptAudio, OSError):
        return ""
