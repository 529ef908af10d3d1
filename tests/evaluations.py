"""Evaluation folders without a model: what was heard is given, and scored as evaluate does."""

from collections.abc import Mapping
from pathlib import Path

from distilwhisper.corpus.records import Utterance, read_manifest, write_manifest
from distilwhisper.evaluation.comparison import Evaluation
from distilwhisper.evaluation.scoring import COST, score

TEXTS: Mapping[str, str | None] = {
    "a": "the rain in the valley",
    "b": "a thin line there",
    "c": "another one then",
}


def evaluation(
    folder: Path,
    model: str,
    set_: str = "set",
    heard: Mapping[str, str] | None = None,
    *,
    noise: str | None = None,
    texts: Mapping[str, str | None] = TEXTS,
    recording: str | None = None,
    language: str | None = "en",
    error: str | None = None,
    compute_s: float = 2.0,
) -> Evaluation:
    """Write the results of a model on a set that lies in folder/corpus.

    Args:
        folder: of sets and models.
        model: name.
        set_: name.
        heard: what was heard wrong, by id; all else is heard right.
        noise: name.
        texts: the references.
        recording: of all utterances; None: each has its own.
        language: of the references.
        error: of the first utterance.
        compute_s: for 20 s of sound.
    """
    manifest = folder / "corpus" / f"{set_}.jsonl"
    write_manifest(
        manifest,
        [
            Utterance(
                id=id_, audio=f"{id_}.wav", start_s=1.0, duration_s=2.0, text=text,
                language=language, recording=recording,
            )
            for id_, text in texts.items()
        ],
    )  # fmt: skip
    out = folder / model / f"{set_}+{noise}" if noise else folder / model / set_
    out.mkdir(parents=True)
    rows = [
        {
            "id": id_,
            "text": (heard or {}).get(id_, text or ""),
            "language": language,
            "error": error if at == 0 else None,
        }
        for at, (id_, text) in enumerate(texts.items())
    ]
    timing = {"audio_s": 20.0, "compute_s": compute_s, **dict.fromkeys(COST, 0)}
    score(read_manifest(manifest), rows, [timing], out, n_parameters=1_500_000)
    return Evaluation(model, set_, noise, out)
