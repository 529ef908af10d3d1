"""What a step trains on: its order, its prompts, and its sound."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilwhisper.corpus.batches import IGNORE, Drawn, Example, TokenBatch
from distilwhisper.corpus.records import Utterance, read_manifest, write_manifest
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.augment import AugmentSettings
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import build_student
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.loop import Trainer
from distilwhisper.training.settings import TrainingSettings
from tiny_model import write_tiny_model

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
    inputs = TrainingInput(manifest, examples, tokenizer, settings, student.model.config)
    return Trainer(teacher.model, student, inputs, out)


def micro_batches(trainer: Trainer, step: int) -> list[tuple[list[Drawn], TokenBatch]]:
    """Return the windows that go through the networks together, with their tokens."""
    inputs = trainer.inputs
    return [(part, inputs.tokens(part)) for parts in inputs.micro_batches(step) for part in parts]


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
            example = trainer.inputs.examples[d.example]
            before = [trainer.inputs.tokenizer.sot_prev, *example.previous]
            assert inputs[: len(before) + 1] == [*before, trainer.inputs.tokenizer.sot]
            assert set(labels[: len(before)]) == {IGNORE}
            learnt = [label for label in labels if label != IGNORE]
            assert learnt == list(example.token_ids[1:])
    one_step = replace(trainer.inputs.settings, steps=1)
    replace(trainer, inputs=replace(trainer.inputs, settings=one_step)).fit()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert abs(row["kl"]) < 1e-6
    assert row["grad_norm"] < 1e-5


def test_prompts_are_drawn_anew_every_epoch_and_fit_the_decoder(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path, prompt_probability=0.5)
    long = [replace(e, previous=e.previous * 20) for e in trainer.inputs.examples]
    trainer = replace(trainer, inputs=replace(trainer.inputs, examples=long))
    prompted: dict[int, set[bool]] = {}
    for step in range(8):
        for drawn, tokens in micro_batches(trainer, step):
            assert tokens.inputs.shape[1] <= 31
            for d, first in zip(drawn, tokens.inputs[:, 0].tolist(), strict=True):
                prompted.setdefault(d.example, set()).add(
                    first == trainer.inputs.tokenizer.sot_prev
                )
    assert set(map(frozenset, prompted.values())) == {frozenset({True, False})}
    never = make_trainer(model, corpus, tmp_path)
    assert all(
        t.inputs[:, 0].eq(never.inputs.tokenizer.sot).all() for _, t in micro_batches(never, 0)
    )


def test_prompts_where_nothing_was_said_before_are_refused(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path)
    alone = [replace(example, previous=()) for example in trainer.inputs.examples]
    settings = replace(trainer.inputs.settings, prompt_probability=0.5)
    message = r"found none: in .*manifest\.jsonl no kept utterance ends .* \(3 s\) before another"
    with pytest.raises(ValueError, match=message):
        replace(trainer.inputs, settings=settings, examples=alone)


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
    assert TrainingSettings(cache_encoder=True, cache_teacher=True, augment=SHORT).augment.is_on
    with pytest.raises(ValueError, match="weights of 'a' and utterances of 'a', 'b'"):
        make_trainer(model, corpus, tmp_path, source_weights=(("a", 1.0),))


# Left out


def test_skipped_windows_leave_all_others_where_they_were(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    everything = make_trainer(model, corpus, tmp_path)
    skipping = make_trainer(model, corpus, tmp_path, skip_utterances=("u1", "u4"))
    for step in range(4):
        others = [d for d in drawn_in(everything, step) if d.example not in (1, 4)]
        assert drawn_in(skipping, step) == others
        assert all(len(micro) <= 3 for micro, _ in micro_batches(skipping, step))
    assert [bool(skipping.inputs.forms(number)) for number in range(6)] == [
        number not in (1, 4) for number in range(6)
    ]
    with pytest.raises(ValueError, match=r"trained on, found others: 'u9'; take the ids from"):
        make_trainer(model, corpus, tmp_path, skip_utterances=("u1", "u9"))


# Sound


def heard(trainer: Trainer, drawn: list[Drawn]) -> torch.Tensor:
    source = trainer.source
    loaded = source.read(drawn, trainer.inputs.tokens(drawn))
    _, states = source.encode(drawn, loaded)
    return states


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
        times = {
            int(i) for i in tokens.labels.unique() if trainer.inputs.tokenizer.is_timestamp(int(i))
        }
        assert times == {trainer.inputs.tokenizer.timestamp_id(t) for t in (0.0, 0.4)}


# Short contexts


SHORT = AugmentSettings(short_context_probability=1.0, short_context_margin_s=(0.5, 2.5))


def whole_mel(trainer: Trainer, drawn: Drawn) -> torch.Tensor:
    utterance = trainer.inputs.examples[drawn.example].utterances[0]
    samples = load_samples(trainer.inputs.manifest.audio_source(utterance))
    return log_mel(stack_windows([samples]), n_mels=80)


def n_frames(trainer: Trainer, drawn: Drawn) -> int:
    return trainer.inputs.augmentation(drawn).n_frames


def estranged(trainer: Trainer) -> Trainer:
    """The run with a student whose encoder is another one than its teacher's."""
    noise = torch.Generator().manual_seed(1)
    for weight in trainer.student.model.encoder.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=noise)
    return trainer


def test_windows_of_which_the_student_hears_as_much_go_through_together(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path, SHORT)
    for micro, _ in micro_batches(trainer, 0):
        assert len(micro) <= SETTINGS.micro_batch_size
        (frames,) = {n_frames(trainer, drawn) for drawn in micro}
        for drawn in micro:
            margin_s = frames / 100 - LENGTHS_S[drawn.example]
            assert 0.5 <= margin_s < 3.5  # rounded up to a second
    # But the vocabulary is gone through as seldom as if all contexts were alike.
    whole = [sum(map(len, parts)) for parts in trainer.inputs.micro_batches(0)]
    assert whole == [3, 3, 2]
    assert sorted(drawn_in(trainer, 1)) == sorted(
        drawn_in(make_trainer(model, corpus, tmp_path), 1)
    )
    epochs = {n_frames(trainer, Drawn(1, epoch)) for epoch in range(20)}
    assert epochs == {500, 600, 700}  # 4.2 s and a margin that is drawn anew


def test_states_are_kept_a_micro_batch_at_a_time(model: Path, corpus: Path, tmp_path: Path) -> None:
    """Files of 32 windows, each in some forms, are no batch that must fit in the memory."""
    seen: list[int] = []
    for cached in ({"cache_encoder": True, "cache_teacher": True}, {"cache_teacher": True}):
        trainer = make_trainer(
            model, corpus, tmp_path / str(len(cached)), micro_batch_size=2, steps=8, **cached
        )
        forms = [len(trainer.inputs.forms(number)) for number in range(len(LENGTHS_S))]
        assert sum(forms) > len(LENGTHS_S)
        for part in (trainer.teacher.encoder, trainer.teacher.decoder.layer_norm):
            part.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        _ = trainer.source
        assert seen
        assert max(seen) == 2
        seen.clear()


def test_layers_are_kept_only_where_they_are_compared(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    for weight, n_layers in ((0.0, 0), (0.5, 4)):
        trainer = make_trainer(model, corpus, tmp_path, mse_weight=weight)
        micro, tokens = micro_batches(trainer, 0)[0]
        source = trainer.source
        loaded = source.read(micro, tokens)
        for_teacher, _ = source.encode(micro, loaded)
        taught = source.teacher_states(tokens, for_teacher, loaded)
        assert len(taught.layers) == n_layers


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("encoder", ["shared", "own", "trained"])
def test_the_student_hears_a_part_and_its_teacher_the_whole(
    model: Path, corpus: Path, tmp_path: Path, encoder: str, cached: bool
) -> None:
    half = replace(SHORT, short_context_probability=0.5)
    changed = {"cache_encoder": cached, "train_encoder": encoder == "trained"}
    trainer = make_trainer(model, corpus, tmp_path, half, **changed)
    if encoder != "shared":
        estranged(trainer)
    source, lengths = trainer.source, set()
    for step in range(2):
        for micro, tokens in micro_batches(trainer, step):
            frames = n_frames(trainer, micro[0])
            on_disk = cached and frames == 3000 and encoder != "trained"
            loaded = source.read(micro, tokens)
            assert (loaded.sounds is None) is on_disk
            for_teacher, for_student = source.encode(micro, loaded)
            mel = torch.cat([whole_mel(trainer, drawn) for drawn in micro])
            with torch.no_grad():
                whole = trainer.teacher.encoder(mel)
                part = trainer.student.model.encoder(mel[:, :, :frames])
            assert for_student.requires_grad == (encoder == "trained")
            assert for_teacher is not None
            # sums in another order
            torch.testing.assert_close(for_teacher, whole, rtol=0, atol=1e-4)
            torch.testing.assert_close(for_student.detach(), part, rtol=0, atol=1e-4)
            lengths.add(frames)
    assert len(lengths) > 2
    assert 3000 in lengths


@pytest.mark.parametrize(
    "changed",
    [{}, {"cache_encoder": True}, {"cache_teacher": True}, {"train_encoder": True}],
    ids=str,
)
def test_the_loss_compares_a_part_heard_with_the_whole(
    model: Path, corpus: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """A student that is its teacher has something to follow: what 30 s would have told it."""
    fixed = {"timestamp_probability": 1.0, "pl_weight": 0.0, "steps": 1}
    trainer = make_trainer(model, corpus, tmp_path, SHORT, **changed, **fixed)
    checkpoint = load_checkpoint(model)
    trainer = replace(trainer, student=build_student(checkpoint, StudentSettings(decoder_layers=4)))
    teacher, kl, n_tokens = checkpoint.model, 0.0, 0
    for drawn in drawn_in(trainer, 0):
        ids = torch.tensor([trainer.inputs.examples[drawn.example].token_ids])
        mel = whole_mel(trainer, drawn)
        with torch.no_grad():
            wanted = (teacher(mel, ids[:, :-1]).double() / 2).log_softmax(-1)
            said = teacher(mel[:, :, : n_frames(trainer, drawn)], ids[:, :-1]).double() / 2
        kl += 4 * float((wanted.exp() * (wanted - said.log_softmax(-1))).sum())
        n_tokens += ids.shape[1] - 1
    trainer.fit()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["kl"] > 1e-4
    # float16 on disk holds a state to 2^-11
    assert row["kl"] == pytest.approx(
        kl / n_tokens, rel=2e-2 if "cache_teacher" in changed else 1e-3
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
