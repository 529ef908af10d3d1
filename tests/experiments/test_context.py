from pathlib import Path
from typing import Any

from experiments.context import Context
from experiments.settings import Settings


def context(**settings: Any) -> Context[Settings]:
    return Context(Settings(**{"teacher": "openai/whisper-large-v2", **settings}), Path())


def test_models_have_short_names_unless_two_share_one() -> None:
    own = context(
        student="runs/a/student",
        others=("distil-whisper/distil-large-v2", "runs/b/student"),
    )
    assert [model.name for model in own.models] == [
        "large-v2", "runs/a/student", "distil-large-v2", "runs/b/student"
    ]  # fmt: skip
    assert own.in_paper == {"large-v2": "large-v2", "runs/a/student": "distil-large-v2"}
    assert [model.chunk_s for model in own.models] == [30.0, 15.0, 30.0, 30.0]


def test_sets_are_named_by_file_or_folder_and_apart() -> None:
    own = context(
        short=("data/ljspeech.jsonl", "data/fleurs/manifest.jsonl", "data/short/test.jsonl"),
        long=("data/long/test.jsonl",),
    )
    assert [on.name for on in own.short] == ["ljspeech", "fleurs", "data/short/test.jsonl"]
    assert [on.name for on in own.long] == ["data/long/test.jsonl"]


def test_an_arm_decodes_as_the_settings_say_but_for_what_is_named() -> None:
    own = context(student="mine")
    assert own.student is not None
    arm = own.arm(own.student, "fast", batch_size=1)
    assert (arm.name, arm.decoding.chunk_s, arm.decoding.batch_size) == ("fast", 15.0, 1)
    assert own.arm(own.student, chunk_s=20.0).decoding.chunk_s == 20.0


def test_a_result_is_made_once_for_each_key(tmp_path: Path) -> None:
    own = Context(Settings(teacher="any"), tmp_path)
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"n": len(made), "pair": (1, 2)}

    first = own.remember("kind", {"a": 1}, make)
    assert first == own.remember("kind", {"a": 1}, make) == {"n": 1, "pair": [1, 2]}
    assert own.remember("kind", {"a": 2}, make)["n"] == 2
    assert own.remember("other", {"a": 1}, make)["n"] == 3
