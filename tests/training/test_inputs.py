"""What a step trains on: its order, its prompts, and its sound."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import write_tiny_model

from distilwhisper.corpus.batches import IGNORE, Drawn, Example, TokenBatch
from distilwhisper.corpus.records import Utterance, read_manifest, write_manifest
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.augment import AugmentSettings
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.student import StudentSettings, build_student
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.inputs import SoundReader
from distilwhisper.training.loop import Trainer, TrainingData
from distilwhisper.training.settings import TrainingSettings

SETTINGS = TrainingSettings(
    steps=2, batch_size=8, micro_batch_size=3, warmup_steps=0, checkpoint_every=2, log_every=1
)
LENGTHS_S = (0.6, 4.2, 0.7, 2.3, 1.4, 0.8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "short", max_tokens=32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    noise = np.random.default_rng(0)
    utterances = []
    for i, seconds in enumerate(LENGTHS_S):
        samples = 0.1 * noise.standard_normal(int(16_000 * seconds))
        write_wav(folder / f"{i}.wav", samples.astype(np.float32))
        source = "ab"[i % 2]
        utterances.append(Utterance(f"u{i}", f"{i}.wav", duration_s=seconds, source=source))
    write_manifest(folder / "manifest.jsonl", utterances)
    return folder / "manifest.jsonl"


def make_trainer(
    model: Path, corpus: Path, out: Path, augment: AugmentSettings | None = None, **changed: Any
) -> Trainer:
    teacher, tokenizer = load_checkpoint(model), Tokenizer.from_folder(model)
    manifest = read_manifest(corpus)
    start, end = tokenizer.timestamp_id(0.0), tokenizer.timestamp_id(0.5)
    examples = [
        Example(
            (utterance,),
            (0.0,),
            (tokenizer.sot, start, *tokenizer.encode(f" the {i}"), end, tokenizer.eot),
            tuple(tokenizer.encode(" a hat in the rain")),
        )
        for i, utterance in enumerate(manifest.utterances)
    ]
    student = build_student(teacher, StudentSettings(decoder_layers=2))
    settings = replace(SETTINGS, augment=augment or AugmentSettings(), **changed)
    data = TrainingData(manifest, examples)
    return Trainer(teacher.model, student, tokenizer, data, settings, out)


def micro_batches(trainer: Trainer, step: int) -> list[tuple[list[Drawn], TokenBatch]]:
    inputs = trainer.inputs
    return [(drawn, inputs.tokens(drawn)) for drawn in inputs.micro_batches(step)]


def drawn_in(trainer: Trainer, step: int) -> list[Drawn]:
    return [drawn for micro, _ in micro_batches(trainer, step) for drawn in micro]


# Prompts


def test_teacher_and_student_are_given_the_same_prompt_and_learn_none_of_it(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    """A student that is its teacher has nothing to follow only if both see the same."""
    trainer = make_trainer(
        model, corpus, tmp_path, prompt_probability=1.0, pl_weight=0.0, timestamp_probability=1.0
    )
    teacher = load_checkpoint(model)
    trainer = replace(trainer, student=build_student(teacher, StudentSettings(decoder_layers=4)))
    for drawn, tokens in micro_batches(trainer, 0):
        for d, inputs, labels in zip(
            drawn, tokens.inputs.tolist(), tokens.labels.tolist(), strict=True
        ):
            example = trainer.data.examples[d.example]
            before = [trainer.tokenizer.sot_prev, *example.previous]
            assert inputs[: len(before) + 1] == [*before, trainer.tokenizer.sot]
            assert set(labels[: len(before)]) == {IGNORE}
            learnt = [label for label in labels if label != IGNORE]
            assert learnt == list(example.token_ids[1:])
    replace(trainer, settings=replace(trainer.settings, steps=1)).fit()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert abs(row["kl"]) < 1e-6
    assert row["grad_norm"] < 1e-5


def test_prompts_are_drawn_anew_every_epoch_and_fit_the_decoder(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path, prompt_probability=0.5)
    long = [replace(e, previous=e.previous * 20) for e in trainer.data.examples]
    trainer = replace(trainer, data=replace(trainer.data, examples=long))
    prompted: dict[int, set[bool]] = {}
    for step in range(8):
        for drawn, tokens in micro_batches(trainer, step):
            assert tokens.inputs.shape[1] <= 31
            for d, first in zip(drawn, tokens.inputs[:, 0].tolist(), strict=True):
                prompted.setdefault(d.example, set()).add(first == trainer.tokenizer.sot_prev)
    assert set(map(frozenset, prompted.values())) == {frozenset({True, False})}
    never = make_trainer(model, corpus, tmp_path)
    assert all(t.inputs[:, 0].eq(never.tokenizer.sot).all() for _, t in micro_batches(never, 0))


# Sources


def test_sources_come_as_often_as_weighted(model: Path, corpus: Path, tmp_path: Path) -> None:
    weights = (("a", 1.0), ("b", 4.0))
    trainer = make_trainer(model, corpus, tmp_path, source_weights=weights)
    drawn = [d for step in range(50) for d in drawn_in(trainer, step)]
    of_b = np.mean([d.example % 2 for d in drawn])
    assert of_b == pytest.approx(0.8, abs=0.1)  # 5 standard deviations of 400 draws
    assert drawn_in(make_trainer(model, corpus, tmp_path, source_weights=weights), 7) == drawn_in(
        trainer, 7
    )


def test_settings_of_the_input_that_make_no_sense_are_refused_together(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"prompt_probability .* found 2; source_weights must be"):
        TrainingSettings(prompt_probability=2, source_weights=(("a", 0.0),))
    with pytest.raises(ValueError, match="name every source once"):
        TrainingSettings(source_weights=(("a", 1.0), ("a", 2.0)))
    with pytest.raises(ValueError, match=r"cache_encoder keeps what .* as it is, .* switch it off"):
        TrainingSettings(cache_encoder=True, augment=AugmentSettings(time_mask_share=0.05))
    with pytest.raises(ValueError, match="as does cache_teacher: switch it off"):
        TrainingSettings(cache_teacher=True, augment=AugmentSettings(noise_probability=0.5))
    with pytest.raises(ValueError, match="weights of 'a' and utterances of 'a', 'b'"):
        make_trainer(model, corpus, tmp_path, source_weights=(("a", 1.0),))


# Sound


def heard(trainer: Trainer, drawn: list[Drawn]) -> torch.Tensor:
    reader = SoundReader(trainer.inputs, iter([drawn]), n_threads=2)
    try:
        return trainer._source(reader).heard(drawn).student
    finally:
        reader.close()


def states(trainer: Trainer, drawn: Drawn) -> torch.Tensor:
    return heard(trainer, [drawn])[0]


@pytest.mark.parametrize(
    "augment",
    [
        AugmentSettings(noise_probability=1.0),
        AugmentSettings(speed_probability=1.0),
        AugmentSettings(time_mask_share=0.2),
        AugmentSettings(frequency_mask_share=0.3),
    ],
)
def test_sound_is_changed_every_epoch_anew_and_always_the_same(
    model: Path, corpus: Path, tmp_path: Path, augment: AugmentSettings
) -> None:
    trainer = make_trainer(model, corpus, tmp_path, augment)
    clean = make_trainer(model, corpus, tmp_path)
    epochs = [states(trainer, Drawn(1, epoch)) for epoch in range(6)]
    assert not any(torch.equal(found, states(clean, Drawn(1, 0))) for found in epochs)
    assert any(not torch.equal(found, epochs[0]) for found in epochs[1:])
    np.random.seed(0)  # what drew from a global state would follow it
    torch.manual_seed(0)
    again = make_trainer(model, corpus, tmp_path, augment)
    company = [Drawn(0, 4), Drawn(1, 3), Drawn(2, 5)]
    torch.testing.assert_close(
        heard(again, company)[1], epochs[3], rtol=0, atol=1e-4
    )  # a row of a batch adds up in another order


def test_faster_sound_has_earlier_times(model: Path, corpus: Path, tmp_path: Path) -> None:
    faster = AugmentSettings(speed_probability=1.0, speed_factors=(1.25,))
    trainer = make_trainer(model, corpus, tmp_path, faster, timestamp_probability=1.0)
    for _, tokens in micro_batches(trainer, 0):
        times = {int(i) for i in tokens.labels.unique() if trainer.tokenizer.is_timestamp(int(i))}
        assert times == {trainer.tokenizer.timestamp_id(t) for t in (0.0, 0.4)}


def test_short_contexts_leave_out_silence_alone_and_go_through_together(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    short = AugmentSettings(short_context_probability=1.0)
    trainer = make_trainer(model, corpus, tmp_path, short)
    for micro, _ in micro_batches(trainer, 0):
        assert len(micro) <= SETTINGS.micro_batch_size
        (n_frames,) = {trainer.inputs.augmentation(d).n_frames for d in micro}
        assert heard(trainer, micro).shape[1] == n_frames // 2
        for d in micro:
            assert n_frames == 100 * int(np.ceil(LENGTHS_S[d.example] + 0.5))
            utterance = trainer.data.examples[d.example].utterances[0]
            samples = load_samples(trainer.data.manifest.audio_source(utterance))
            whole = log_mel(stack_windows([samples]), n_mels=80)[:, :, :n_frames]
            expected = trainer.teacher.encoder(whole)[0]
            torch.testing.assert_close(states(trainer, d), expected, rtol=0, atol=1e-4)
    assert sorted(drawn_in(trainer, 1)) == sorted(
        drawn_in(make_trainer(model, corpus, tmp_path), 1)
    )


def test_a_run_with_everything_on_is_the_same_twice_and_when_resumed(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    augment = AugmentSettings(
        speed_probability=0.5,
        noise_probability=0.5,
        time_mask_share=0.05,
        frequency_mask_share=0.1,
        short_context_probability=0.5,
    )
    changed = {"prompt_probability": 0.5, "source_weights": (("a", 1.0), ("b", 2.0)), "steps": 4}
    ends = []
    for out in ("whole", "part"):
        trainer = make_trainer(model, corpus, tmp_path / out, augment, **changed)
        if out == "part":
            stopped: list[float] = []

            def stop(n: float, stopped: list[float] = stopped) -> None:
                stopped.append(n)
                if sum(stopped) == 3:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                trainer.fit(on_steps=stop)
            trainer = make_trainer(model, corpus, tmp_path / out, augment, **changed)
        trainer.fit()
        ends.append(trainer.student.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
