"""How a source of speech is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from distilwhisper.checks import ABOVE_0, check_rules, ruled
from distilwhisper.languages import language_faults

Format: TypeAlias = Literal[
    "folder",
    "table",
    "kaldi",
    "librispeech",
    "commonvoice",
    "huggingface",
    "lhotse",
    "webdataset",
    "parquet",
    "manifest",
]

# The fields of an utterance that a column may hold, and what people call them. Ids come from paths
# and rows unless a column is named: a column called id is often not of one utterance alone.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "audio": ("path", "file", "audio", "file_name", "filename", "audio_filepath", "audio_path"),
    "text": ("text", "transcript", "transcription", "sentence"),
    "id": (),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "recording": ("recording", "recording_id"),
    "language": ("language", "lang", "locale"),
    "source": ("source", "domain"),
    "split": ("split",),
    "channel": ("channel", "channel_selector"),
    "start": ("start", "start_s", "start_time", "offset"),
    "end": ("end", "end_s", "end_time"),
    "duration": ("duration", "duration_s"),
}


@dataclass(frozen=True)
class ImportSettings:
    """How to read a source.

    Attributes:
        format: what it is; found out when left out.
        language: code or English name, where the source names none.
        config: config of a Hugging Face dataset.
        split: split of a Hugging Face dataset, Common Voice or Parquet files; train when left out.
        column: FIELD=NAME for a column that has a name of its own; may be repeated. Fields are
            audio, text, id, speaker, recording, language, source, split, channel, start, end,
            duration.
        cut: vad cuts what is longer than 30 s in its pauses, without its text.
        max_seconds: leave out what is longer, and count it.
        first: keep only so many utterances, the first that can be used.
        sample: keep only so many utterances, drawn at random.
        seed: seed of the sample; another seed draws other utterances.
    """

    format: Format | None = None
    language: str | None = None
    config: str | None = None
    split: str | None = None
    column: tuple[str, ...] = ()
    cut: Literal["vad"] | None = None
    max_seconds: float | None = ruled(None, ABOVE_0)
    first: int | None = ruled(None, ABOVE_0)
    sample: int | None = ruled(None, ABOVE_0)
    seed: int | None = None

    def __post_init__(self) -> None:
        names = [choice.partition("=")[0] for choice in self.column]
        faults: list[str | bool] = [
            f"column must be FIELD=NAME, each field once, of {', '.join(FIELDS)}; found {choice!r}"
            for name, choice in zip(names, self.column, strict=True)
            if name not in FIELDS or names.count(name) > 1 or not choice[len(name) + 1 :]
        ]
        if self.cut is not None and self.max_seconds is not None:
            faults.append("long recordings are cut or left out: give cut or max_seconds, not both")
        if self.first is not None and self.sample is not None:
            faults.append("give first or sample, not both")
        if self.seed is not None and self.sample is None:
            faults.append("seed is of a sample: give sample too")
        check_rules(self, *faults, *language_faults(self.language))

    @cached_property
    def columns(self) -> Mapping[str, str]:
        """The columns that are named, by field."""
        return dict(choice.split("=", 1) for choice in self.column)
