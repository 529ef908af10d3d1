import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distilwhisper.corpus.batches import (
    Drawn,
    Example,
    UnreadableRecording,
    epoch_order,
    join_kept,
)
from distilwhisper.corpus.records import (
    Label,
    Manifest,
    Utterance,
    Verdict,
    in_language,
    read_manifest,
    write_manifest,
)
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.speech.units import SAMPLE_RATE_HZ
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import allow_silence, build_student
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training import loop
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.loop import NonFiniteLoss, Trainer
from distilwhisper.training.settings import TrainingSettings
from distilwhisper.training.state import checkpoints
from plain_loss import distillation_sums
from tiny_model import write_tiny_model

# No bare space comes first, as the model folder forbids: they begin with whole pieces.
LOSSES = Path(__file__).parents[1] / "assets" / "losses" / "tiny.jsonl"
TEXTS = ("the cat", "a hat in the rain", "the nine", "another ant there", "a tin")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for 32 tokens, so that babble ends soon."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "short", max_tokens=32)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings of tones that differ, with their texts."""
    folder = tmp_path_factory.mktemp("corpus")
    noise = np.random.default_rng(0)
    for i, _ in enumerate(TEXTS):
        times = np.arange((3 + 3 * i) * SAMPLE_RATE_HZ // 10) / SAMPLE_RATE_HZ
        tone = 0.4 * np.sin(2 * np.pi * 200 * 2**i * times)
        samples = tone + 0.01 * noise.standard_normal(len(times))
        write_wav(folder / f"{i}.wav", samples.astype(np.float32))
    utterances = [Utterance(id=f"u{i}", audio=f"{i}.wav", text=t) for i, t in enumerate(TEXTS)]
    write_manifest(folder / "manifest.jsonl", utterances)
    return folder / "manifest.jsonl"


SETTINGS = TrainingSettings(
    steps=6,
    batch_size=4,
    micro_batch_size=2,
    peak_lr=1e-3,
    warmup_steps=2,
    checkpoint_every=3,
    log_every=2,
)
ONE_STEP = {"steps": 1, "warmup_steps": 0}


def make_trainer(
    model: Path, corpus: Path, out: Path, *, layers: int = 2, validate: bool = False, **changed: Any
) -> Trainer:
    """A run on the five recordings, whose labels have timestamps."""
    teacher, tokenizer = load_checkpoint(model), Tokenizer.from_folder(model)
    manifest = read_manifest(corpus)
    examples = [
        Example((utterance,), (0.0,), label(tokenizer, utterance.text or ""))
        for utterance in manifest.utterances
    ]
    student = build_student(teacher, StudentSettings(decoder_layers=layers))
    sizes, settings = student.model.config, replace(SETTINGS, **changed)
    inputs = TrainingInput(manifest, examples, tokenizer, settings, sizes)
    return Trainer(teacher.model, student, inputs, out, {"all": manifest} if validate else {})


def with_inputs(trainer: Trainer, **changed: Any) -> Trainer:
    """The run on other windows, or with other settings."""
    return replace(trainer, inputs=replace(trainer.inputs, **changed))


def label(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    start, end = tokenizer.timestamp_id(0.0), tokenizer.timestamp_id(1.0)
    return (tokenizer.sot, start, *tokenizer.encode(f" {text}"), end, tokenizer.eot)


def estranged(trainer: Trainer) -> Trainer:
    """The run with a student that is far from its teacher, so that the KL is no small change."""
    noise = torch.Generator().manual_seed(1)
    for weight in trainer.student.model.decoder.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=noise)
    return trainer


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    """What a run of one step, that clips nothing, hands to the optimiser."""
    single = replace(trainer.inputs.settings, steps=1, warmup_steps=0, clip_norm=1e9)
    one = with_inputs(trainer, settings=single)
    one.fit()
    found = {name: weight.grad for name, weight in one.student.model.decoder.named_parameters()}
    return {name: grad for name, grad in found.items() if grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], *, rel: float) -> None:
    """Gradients differ by less than ``rel`` of the whole gradient's norm."""
    assert found.keys() == expected.keys()
    flat_found = torch.cat([found[name].double().flatten() for name in found])
    flat = torch.cat([expected[name].double().flatten() for name in found])
    assert (flat_found - flat).norm() < rel * flat.norm()


def rows(out: Path) -> list[dict[str, Any]]:
    """The metrics but for the speed."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "windows_per_s"} for x in lines]


def stop_at(step: int) -> Callable[[float], None]:
    done = []

    def on_steps(n: float) -> None:
        done.append(n)
        if sum(done) >= step:
            raise KeyboardInterrupt

    return on_steps


# What is trained


def test_the_decoder_alone_is_trained(model: Path, corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model, corpus, tmp_path)
    teacher, student = weights_of(trainer.teacher), weights_of(trainer.student.model)
    progress = trainer.fit()
    assert progress.step == progress.best_step == 6
    assert same(weights_of(trainer.teacher), teacher)
    after = weights_of(trainer.student.model)
    unchanged = {name for name in student if torch.equal(after[name], student[name])}
    assert unchanged == {name for name in student if name.startswith("encoder.")}


# One update


def gradient_by_hand(
    trainer: Trainer, *, kl_weight: float, pl_weight: float, temperature: float
) -> tuple[dict[str, Tensor], float, float]:
    """The first update's gradient in float64, one utterance and one token after the other."""
    teacher, student = trainer.teacher.double(), trainer.student.model.double()
    manifest, examples = trainer.inputs.manifest, trainer.inputs.examples
    kl = pl = torch.zeros((), dtype=torch.float64)
    n_tokens = 0
    for index in epoch_order(len(examples), seed=0, epoch=0)[: trainer.inputs.settings.batch_size]:
        samples = load_samples(manifest.audio_source(examples[index].utterances[0]))
        mel = log_mel(stack_windows([samples]), n_mels=80).double()
        ids = list(examples[index].token_ids)
        inputs = torch.tensor([ids[:-1]])
        with torch.no_grad():
            p = teacher(mel, inputs)[0]
        q = student(mel, inputs)[0]
        for at, target in enumerate(ids[1:]):
            wanted, said = (p[at] / temperature).softmax(0), (q[at] / temperature).softmax(0)
            kl = kl + temperature**2 * (wanted * (wanted.log() - said.log())).sum()
            pl = pl - q[at].softmax(0)[target].log()
            n_tokens += 1
    ((kl_weight * kl + pl_weight * pl) / n_tokens).backward()
    found = {name: weight.grad for name, weight in student.decoder.named_parameters()}
    gradient = {name: grad for name, grad in found.items() if grad is not None}
    return gradient, kl.item() / n_tokens, pl.item() / n_tokens


@pytest.mark.parametrize(
    ("kl_weight", "pl_weight", "temperature"),
    [(0.8, 1.0, 2.0), (0.0, 1.0, 2.0), (1.0, 0.0, 2.0), (1.0, 0.0, 1.0)],
)
def test_the_gradient_is_that_of_the_formula(
    model: Path,
    corpus: Path,
    tmp_path: Path,
    kl_weight: float,
    pl_weight: float,
    temperature: float,
) -> None:
    weights = {"kl_weight": kl_weight, "pl_weight": pl_weight, "temperature": temperature}
    fixed = {"timestamp_probability": 1.0, "log_every": 1}
    found = gradients(estranged(make_trainer(model, corpus, tmp_path, **weights, **fixed)))
    (row,) = rows(tmp_path)
    again = estranged(make_trainer(model, corpus, tmp_path))
    by_hand, kl, pl = gradient_by_hand(again, **weights)
    assert kl > 0.1
    # float32 against float64: 1e-7 for each of some hundred roundings
    assert_close(found, by_hand, rel=1e-4)
    norm = torch.stack([grad.norm() for grad in by_hand.values()]).norm().item()
    assert row["kl"] == (pytest.approx(kl, rel=1e-5) if kl_weight else None)
    assert row["pl"] == pytest.approx(pl, rel=1e-5)
    assert row["loss"] == pytest.approx(kl_weight * kl + pl_weight * pl, rel=1e-5)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert row["lr"] == 1e-3


def test_a_student_that_is_its_teacher_has_nothing_to_follow(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    found = gradients(make_trainer(model, corpus, tmp_path, layers=4, pl_weight=0.0, log_every=1))
    (row,) = rows(tmp_path)
    assert abs(row["kl"]) < 1e-6
    assert row["grad_norm"] < 1e-5
    assert row["pl"] > 1
    assert all(grad.abs().max() < 1e-5 for grad in found.values())


@pytest.mark.parametrize(
    "changed",
    [
        {"micro_batch_size": 1},
        {"micro_batch_size": 3},
        {"micro_batch_size": 100},
        {"cache_encoder": True},
    ],
)
def test_how_the_update_is_computed_does_not_change_it(
    model: Path, corpus: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    expected = gradients(estranged(make_trainer(model, corpus, tmp_path / "expected", log_every=1)))
    found = gradients(
        estranged(make_trainer(model, corpus, tmp_path / "found", log_every=1, **changed))
    )
    assert_close(found, expected, rel=1e-5)  # sums of float32 in another order
    (a,), (b,) = rows(tmp_path / "expected"), rows(tmp_path / "found")
    assert a["n_tokens"] == b["n_tokens"]
    assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_in_bfloat16_teaches_nearly_the_same(
    model: Path, corpus: Path, tmp_path: Path, cached: bool
) -> None:
    expected = gradients(estranged(make_trainer(model, corpus, tmp_path / "expected")))
    trainer = estranged(make_trainer(model, corpus, tmp_path / "found", cache_encoder=cached))
    trainer.teacher.to(torch.bfloat16)
    found = gradients(trainer)
    assert {weight.dtype for weight in trainer.student.model.parameters()} == {torch.float32}
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    assert_close(found, expected, rel=0.1)  # bfloat16 holds 8 bits: 0.4 % in each product


@pytest.mark.slow
def test_labels_keep_their_timestamps_as_often_as_asked(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    """A label has two timestamps, or one no-timestamps in their place."""
    n_tokens = {}
    for probability in (0.0, 0.5, 1.0):
        changed = {"timestamp_probability": probability, "log_every": 1, "batch_size": 5}
        out = tmp_path / str(probability)
        make_trainer(model, corpus, out, **changed).fit()
        n_tokens[probability] = [row["n_tokens"] for row in rows(out)]
    always, never = n_tokens[1.0][0], n_tokens[0.0][0]
    assert always == never + 5
    assert n_tokens[1.0] == [always] * 6
    assert n_tokens[0.0] == [never] * 6
    assert never <= min(n_tokens[0.5]) < max(n_tokens[0.5]) <= always  # drawn anew every epoch


# Arms of the objective, and other students


def float64_objective(trainer: Trainer, *, share: float = 1.0) -> dict[str, Tensor]:
    """The first update's gradient in float64 from logits that are all there, by autograd."""
    settings = trainer.inputs.settings
    teacher, student = trainer.teacher.double(), trainer.student.model.double()
    manifest, examples = trainer.inputs.manifest, trainer.inputs.examples
    total, n_tokens = torch.zeros((), dtype=torch.float64), 0
    for index in epoch_order(len(examples), seed=0, epoch=0)[: settings.batch_size]:
        samples = load_samples(manifest.audio_source(examples[index].utterances[0]))
        mel = log_mel(stack_windows([samples]), n_mels=80).double()
        ids = torch.tensor([examples[index].token_ids])
        layers: dict[str, list[Tensor]] = {"teacher": [], "student": []}
        logits = {}
        for name, model in (("teacher", teacher), ("student", student)):
            hooks = [
                layer.register_forward_hook(lambda _, __, out, to=layers[name]: to.append(out))
                for layer in model.decoder.layers
            ]
            logits[name] = model(mel, ids[:, :-1])
            for hook in hooks:
                hook.remove()
        sums = distillation_sums(
            logits["student"],
            logits["teacher"],
            ids[:, 1:],
            temperature=settings.temperature,
            divergence=settings.divergence,
        )
        # Two student layers, four of the teacher: the second and the fourth.
        pairs = zip(layers["student"], layers["teacher"][1::2], strict=True)
        mse = sum(((ours - theirs.detach()) ** 2).mean(dim=-1).sum() for ours, theirs in pairs)
        taught = settings.kl_weight * sums.kl + settings.mse_weight * mse
        total = total + share * taught + settings.pl_weight * sums.pl
        n_tokens += sums.n_tokens
    (total / n_tokens).backward()
    named = student.named_parameters()
    return {name: weight.grad for name, weight in named if weight.grad is not None}


ARMS: list[dict[str, Any]] = [
    {"kl_weight": 0.0},
    {"pl_weight": 0.0},
    {"mse_weight": 0.5},
    {"kl_weight": 0.0, "pl_weight": 0.0, "mse_weight": 0.5},
    {"divergence": "reverse-kl"},
    {"divergence": "jensen-shannon"},
    {"checkpoint_activations": True},
    {"cache_encoder": True},
]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("train_encoder", [False, True])
def test_every_arm_has_the_gradient_of_its_formula(
    model: Path, corpus: Path, tmp_path: Path, arm: dict[str, Any], train_encoder: bool
) -> None:
    fixed = {"timestamp_probability": 1.0, "train_encoder": train_encoder, **ONE_STEP}
    trainer = estranged(make_trainer(model, corpus, tmp_path, clip_norm=1e9, **arm, **fixed))
    trainer.fit()
    named = trainer.student.model.named_parameters()
    found = {name: weight.grad for name, weight in named if weight.grad is not None}
    again = estranged(make_trainer(model, corpus, tmp_path, **arm))
    expected = float64_objective(again)
    if not train_encoder:
        expected = {name: grad for name, grad in expected.items() if name.startswith("decoder.")}
    if not (trainer.inputs.settings.kl_weight or trainer.inputs.settings.pl_weight):
        for name in ("decoder.layer_norm.weight", "decoder.layer_norm.bias"):
            assert not found.pop(name).any()  # behind the last states that are compared
            expected.pop(name)
    assert_close(found, expected, rel=1e-4)


def test_annealing_takes_the_teacher_away_step_by_step(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = {"teacher_annealing": True, "mse_weight": 0.5, "log_every": 1, "steps": 4}
    make_trainer(model, corpus, tmp_path, **settings).fit()
    for row, share in zip(rows(tmp_path), (1.0, 0.75, 0.5, 0.25), strict=True):
        taught = 0.8 * row["kl"] + 0.5 * row["mse"]
        assert row["loss"] == pytest.approx(share * taught + row["pl"], rel=1e-5)


def test_positions_that_are_frozen_stay(model: Path, corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model, corpus, tmp_path, freeze_positions=True, train_encoder=True)
    before = weights_of(trainer.student.model)
    trainer.fit()
    after = weights_of(trainer.student.model)
    unchanged = {name for name in before if torch.equal(after[name], before[name])}
    assert unchanged == {"encoder.embed_positions.weight", "decoder.embed_positions.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_that_are_frozen_stay_and_the_rest_learns_as_before(
    model: Path, corpus: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    gradients_by_freezing = []
    for freeze in (False, True):
        trainer = estranged(
            make_trainer(model, corpus, tmp_path / str(freeze), freeze_embeddings=freeze)
        )
        trainer.teacher.to(dtype)
        before = weights_of(trainer.student.model)
        gradients_by_freezing.append(gradients(trainer))
        trainer.fit()
        after = weights_of(trainer.student.model)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert ("decoder.embed_tokens.weight" in moved) is not freeze
        assert "decoder.layers.0.fc1.weight" in moved
    of_all, of_the_rest = gradients_by_freezing
    assert of_all.keys() - of_the_rest.keys() == {"embed_tokens.weight"}
    assert_close(of_the_rest, {name: of_all[name] for name in of_the_rest}, rel=1e-6)


@pytest.mark.parametrize("train_encoder", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_a_student_with_an_encoder_of_its_own_hears_through_it(
    model: Path, corpus: Path, tmp_path: Path, train_encoder: bool, cached: bool
) -> None:
    """Of another width even: each decoder gets its own encoder's states."""
    narrow = load_checkpoint(write_tiny_model(tmp_path / "narrow", width=16, seed=3, max_tokens=32))
    changed = {"train_encoder": train_encoder, "cache_encoder": cached, **ONE_STEP}
    trainer = make_trainer(
        model, corpus, tmp_path / "run", clip_norm=1e9, timestamp_probability=1.0, **changed
    )
    trainer = replace(trainer, student=narrow)
    trainer.fit()
    named = narrow.model.named_parameters()
    found = {name: weight.grad for name, weight in named if weight.grad is not None}
    fresh = load_checkpoint(tmp_path / "narrow")
    again = replace(make_trainer(model, corpus, tmp_path), student=fresh)
    expected, *_ = gradient_by_hand(again, kl_weight=0.8, pl_weight=1.0, temperature=2.0)
    assert any(name.startswith("encoder.") for name in found) == train_encoder
    of_decoder = {
        name.removeprefix("decoder."): grad
        for name, grad in found.items()
        if name.startswith("decoder.")
    }
    assert_close(of_decoder, expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_teacher_on_disk_teaches_as_the_one_in_memory(
    model: Path, corpus: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """To the bit in bfloat16, which the products round states to anyway."""
    found = {}
    for cached in (False, True):
        trainer = estranged(
            make_trainer(
                model, corpus, tmp_path / str(cached), cache_teacher=cached, cache_encoder=True
            )
        )
        trainer.teacher.to(dtype)
        found[cached] = gradients(trainer)
        assert len(trainer.teacher.decoder.layers) == (0 if cached else 4)
        assert len(trainer.teacher.encoder.layers) == (0 if cached else 1)
        assert not (trainer.out / "teacher-cache").exists()  # the run is over
    if dtype == torch.bfloat16:
        assert same(found[True], found[False])
    # float16 holds the states to 2^-11
    assert_close(found[True], found[False], rel=1e-3)


@pytest.mark.slow
def test_a_store_holds_every_form_that_a_run_draws(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = {"log_every": 1, "batch_size": 5, "cache_teacher": True}
    make_trainer(model, corpus, tmp_path / "expected", log_every=1, batch_size=5).fit()
    make_trainer(model, corpus, tmp_path / "found", **settings).fit()
    for found, expected in zip(rows(tmp_path / "found"), rows(tmp_path / "expected"), strict=True):
        assert found["n_tokens"] == expected["n_tokens"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)


def test_a_store_names_the_utterance_of_which_the_teacher_has_no_numbers(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    """A token that one label alone has; without its utterance there is a store."""
    trainer = make_trainer(model, corpus, tmp_path, cache_teacher=True)
    labels = [example.token_ids for example in trainer.inputs.examples]
    owners = {id_: [n for n, ids in enumerate(labels) if id_ in ids] for id_ in sum(labels, ())}
    id_, (owner,) = next((id_, found) for id_, found in owners.items() if len(found) == 1)
    trainer.teacher.decoder.embed_tokens.weight.data[id_] = float("nan")
    with pytest.raises(ValueError, match=f"found others in u{owner}: name those at fault in skip"):
        _ = trainer.source
    skipping = replace(trainer.inputs.settings, skip_utterances=(f"u{owner}",))
    assert with_inputs(trainer, settings=skipping).source.store is not None


def test_a_teacher_that_gave_up_its_layers_teaches_no_second_run(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path / "first", cache_teacher=True)
    trainer.fit()
    with pytest.raises(ValueError, match="4 decoder layers, found 0: load it again"):
        replace(trainer, out=tmp_path / "second").fit()


def test_the_cache_is_filled_once_and_gone_at_the_end(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path, cache_encoder=True)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(on_steps=stop_at(2))
    (states,) = (tmp_path / "encoder-cache").iterdir()
    before = states.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        make_trainer(model, corpus, tmp_path, cache_encoder=True).fit(on_steps=stop_at(2))
    assert states.stat().st_mtime_ns == before
    make_trainer(model, corpus, tmp_path, cache_encoder=True).fit()
    assert not (tmp_path / "encoder-cache").exists()


# What is refused


def test_other_vocabularies_and_mel_bins_are_refused_with_both_numbers(
    model: Path, tiny_multilingual_model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path)
    n_tokens = trainer.teacher.config.vocab_size
    with pytest.raises(ValueError, match=rf"same vocab_size: found {n_tokens + 3} and {n_tokens};"):
        replace(trainer, teacher=load_checkpoint(tiny_multilingual_model).model)
    finer = write_tiny_model(tmp_path / "finer", n_mels=128)
    with pytest.raises(ValueError, match="same n_mels: found 128 and 80; build the student from"):
        replace(trainer, teacher=load_checkpoint(finer).model)
    with pytest.raises(ValueError, match="must be in float32 or bfloat16, found float16"):
        replace(trainer, teacher=load_checkpoint(model, dtype=torch.float16).model)
    wider = load_checkpoint(write_tiny_model(tmp_path / "wider", width=64)).model
    paired = replace(trainer.inputs.settings, mse_weight=1.0)
    with pytest.raises(ValueError, match="widths 64 and 32, 4 and 2 decoder layers"):
        replace(trainer, teacher=wider, inputs=replace(trainer.inputs, settings=paired))


def test_a_validation_that_the_student_cannot_do_is_refused(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path)
    with pytest.raises(ValueError, match="English-only and cannot translate"):
        replace(trainer, task="translate")
    german = in_language(trainer.inputs.manifest, "de")
    with pytest.raises(ValueError, match=r"found English only and no \"de\""):
        replace(trainer, validation={"all": german})


def test_what_nothing_is_learnt_from_is_refused_with_the_way_out(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path)
    with pytest.raises(ValueError, match=r"one kept utterance, found none: raise filter\.max_wer"):
        with_inputs(trainer, examples=[])
    endless = replace(trainer.inputs.examples[1], token_ids=(1,) * 33)
    with pytest.raises(ValueError, match=r"hold 2 to 32 tokens, found 33 in 'u1': filter again"):
        with_inputs(trainer, examples=[trainer.inputs.examples[0], endless])


def test_settings_that_make_no_sense_are_refused_together() -> None:
    nothing = {"kl_weight": 0.0, "pl_weight": 0.0}
    with pytest.raises(ValueError, match="one of kl_weight, pl_weight and mse_weight"):
        TrainingSettings(**nothing)
    with pytest.raises(
        ValueError, match=r"warmup_steps must be below steps \(500\), found 500: the"
    ):
        TrainingSettings(steps=500)
    with pytest.raises(ValueError, match="pl_weight must be above 0"):
        TrainingSettings(pl_weight=0.0, teacher_annealing=True)
    with pytest.raises(ValueError, match=r"mse_weight 0, found 0\.8 and 1"):
        TrainingSettings(mse_weight=1.0, cache_teacher=True)
    with pytest.raises(ValueError, match=r"steps .* least 1, found 0; .*\[0, 1\], found 1.5"):
        TrainingSettings(steps=0, timestamp_probability=1.5)
    for wrong in ({"temperature": 0.0}, {"clip_norm": 0.0}, {"peak_lr": -1.0}):
        with pytest.raises(ValueError, match="must be above 0"):
            TrainingSettings(**wrong)


def test_a_loss_that_is_no_number_stops_before_the_update(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path, log_every=1, checkpoint_every=2)
    norm, poisoned = trainer.student.model.decoder.layer_norm, {}

    def on_steps(n: float) -> None:
        poisoned["done"] = poisoned.get("done", 0) + n
        if poisoned["done"] == 3:
            norm.weight.data[0] = float("nan")
            poisoned["weights"] = weights_of(trainer.student.model)

    chosen = [epoch_order(5, seed=0, epoch=epoch) for epoch in (2, 3)]
    ids = [f"u{i}" for i in [*chosen[0][2:], *chosen[1][:1]]]  # places 12 to 15 of the stream
    message = f"found KL nan, PL nan.* step 4, utterances {', '.join(ids)}; the weights were not"
    with pytest.raises(NonFiniteLoss, match=message):
        trainer.fit(on_steps=on_steps)
    for name, weight in trainer.student.model.state_dict().items():
        torch.testing.assert_close(
            weight, poisoned["weights"][name], rtol=0, atol=0, equal_nan=True
        )
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000002"]


def test_a_run_goes_on_without_the_utterance_that_stopped_it(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    """A position that the longest label alone reaches is no number."""
    changed = {"batch_size": 1, "micro_batch_size": 1, "log_every": 1, "checkpoint_every": 1}

    def trainer(**more: Any) -> Trainer:
        made = make_trainer(model, corpus, tmp_path, timestamp_probability=1.0, **changed, **more)
        last = max(len(example.token_ids) for example in made.inputs.examples) - 2
        made.student.model.decoder.embed_positions.weight.data[last] = float("nan")
        return made

    lengths = [len(example.token_ids) for example in trainer().inputs.examples]
    (longest,) = [i for i, length in enumerate(lengths) if length == max(lengths)]
    at = epoch_order(5, seed=0, epoch=0).index(longest)
    with pytest.raises(NonFiniteLoss, match=rf"step {at + 1}, utterances u{longest}; .*skip_utt"):
        trainer().fit()
    before = rows(tmp_path)
    assert len(before) == at
    assert trainer(skip_utterances=(f"u{longest}",)).fit().step == 6
    after = rows(tmp_path)
    assert after[:at] == before
    assert (after[at]["loss"], after[at]["grad_norm"]) == (0, 0)
    places = [*epoch_order(5, seed=0, epoch=0), epoch_order(5, seed=0, epoch=1)[0]]
    assert [row["n_tokens"] for row in after] == [
        0 if place == longest else lengths[place] - 1 for place in places
    ]


def test_the_micro_batch_at_fault_is_named_and_not_its_neighbours(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model, corpus, tmp_path, batch_size=5, timestamp_probability=1.0)
    last = max(len(example.token_ids) for example in trainer.inputs.examples) - 2
    trainer.student.model.decoder.embed_positions.weight.data[last] = float("nan")
    lengths = [len(trainer.inputs.examples[d.example].token_ids) for d in drawn(trainer, 0)]
    (at,) = [i for i, length in enumerate(lengths) if length == last + 2]
    micro_batches = [list(chain.from_iterable(m)) for m in trainer.inputs.micro_batches(0)]
    (named,) = [windows for windows in micro_batches if drawn(trainer, 0)[at] in windows]
    ids = ", ".join(f"u{d.example}" for d in named)
    with pytest.raises(NonFiniteLoss, match=f"step 1, utterances {ids}; "):
        trainer.fit()


def drawn(trainer: Trainer, step: int) -> list[Drawn]:
    micro_batches = trainer.inputs.micro_batches(step)
    return [one for parts in micro_batches for part in parts for one in part]


def test_audio_that_is_gone_is_named(model: Path, corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model, corpus, tmp_path)
    moved = Manifest(corpus, tmp_path, trainer.inputs.manifest.utterances)
    with pytest.raises(UnreadableRecording, match=r"utterance 'u\d' of .* must have audio"):
        with_inputs(trainer, manifest=moved).fit()


# Stopped and resumed


def assert_same_end(found: Path, expected: Path) -> None:
    assert rows(found) == rows(expected)
    assert [p.name for p in checkpoints(found)] == [p.name for p in checkpoints(expected)]
    newest = checkpoints(found)[-1].name
    for name in ("weights.safetensors", "optimizer.safetensors", "state.json"):
        assert (found / newest / name).read_bytes() == (expected / newest / name).read_bytes()


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    model: Path, corpus: Path, tmp_path: Path, cached: bool
) -> None:
    whole = make_trainer(model, corpus, tmp_path / "whole", cache_encoder=cached, log_every=1)
    whole.fit()
    for stop in (1, 5):  # before the first checkpoint; between it and the next
        part = make_trainer(model, corpus, tmp_path / "part", cache_encoder=cached, log_every=1)
        with pytest.raises(KeyboardInterrupt):
            part.fit(on_steps=stop_at(stop))
    done: list[float] = []
    last = make_trainer(model, corpus, tmp_path / "part", cache_encoder=cached, log_every=1)
    last.fit(on_steps=done.append)
    assert done == [3, 1, 1, 1]
    assert same(weights_of(last.student.model), weights_of(whole.student.model))
    assert_same_end(tmp_path / "part", tmp_path / "whole")


@pytest.mark.parametrize(
    ("killed_in", "checkpoint"),  # the first, or the last
    [("save_state", 2), ("validation_wers", 1), ("validation_wers", 2), ("save_progress", 2)],
)
def test_a_run_killed_at_a_checkpoint_ends_as_one_that_was_not(
    model: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_in: str,
    checkpoint: int,
) -> None:
    """Before it is saved; before it is validated; before it is noted that it was."""
    settings = {"validate": True, "log_every": 1, "checkpoint_every": 1}
    settings |= {"steps": 2, "warmup_steps": 0, "batch_size": 2}
    whole = make_trainer(model, corpus, tmp_path / "whole", **settings)
    expected = whole.fit()
    part = make_trainer(model, corpus, tmp_path / "part", **settings)
    calls, real = [], getattr(loop, killed_in)

    def dies(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == checkpoint:
            raise KeyboardInterrupt
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(loop, killed_in, dies)
        with pytest.raises(KeyboardInterrupt):
            part.fit()
    assert len(checkpoints(part.out)) == checkpoint - (killed_in == "save_state")
    last = make_trainer(model, corpus, tmp_path / "part", **settings)
    assert last.fit() == expected
    assert same(weights_of(last.student.model), weights_of(whole.student.model))
    assert_same_end(tmp_path / "part", tmp_path / "whole")


def test_a_finished_run_trains_no_more_and_gives_the_same_student(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    first = make_trainer(model, corpus, tmp_path)
    progress, before = first.fit(), rows(tmp_path)
    again = make_trainer(model, corpus, tmp_path)
    done: list[float] = []
    assert again.fit(on_steps=done.append) == progress
    assert done == [6]
    assert same(weights_of(again.student.model), weights_of(first.student.model))
    assert rows(tmp_path) == before


TRAINS = """
import runpy, sys
from pathlib import Path

test, model, corpus, out = map(Path, sys.argv[1:])
trainer = runpy.run_path(str(test))["make_trainer"](
    model, corpus, out, validate=True, steps=12, checkpoint_every=2, log_every=1
)
print("ready", flush=True)
trainer.fit(on_steps=lambda n: print(n, flush=True))
"""


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = {"validate": True, "steps": 12, "checkpoint_every": 2, "log_every": 1}
    whole = make_trainer(model, corpus, tmp_path / "whole", **settings)
    progress = whole.fit()
    command = [sys.executable, "-c", TRAINS, __file__, str(model), str(corpus)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    when = random.Random()  # another moment each time; the message of a failure names it
    moments = []
    for _ in range(2):
        with subprocess.Popen(
            [*command, str(tmp_path / "part")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == "ready\n"
            n_lines, delay_s = when.randrange(1, 6), when.uniform(0, 0.1)
            moments.append((n_lines, delay_s))
            for _ in range(n_lines):
                run.stdout.readline()
            time.sleep(delay_s)
            run.send_signal(signal.SIGKILL)
    last = make_trainer(model, corpus, tmp_path / "part", **settings)
    assert last.fit() == progress, moments
    assert same(weights_of(last.student.model), weights_of(whole.student.model)), moments
    assert_same_end(tmp_path / "part", tmp_path / "whole")


# Which weights are taken


LEARNS_BY_HEART = {
    "batch_size": 5,
    "micro_batch_size": 5,
    "peak_lr": 1e-2,
    "warmup_steps": 10,
    "kl_weight": 0.0,
    "timestamp_probability": 0.0,
    "cache_encoder": True,
}


def says(trainer: Trainer) -> list[str]:
    """What the student hears in what it learns from, decoded greedily and without timestamps."""
    settings = DecodingSettings(timestamps=False, temperature=(0.0,))
    transcriber = Transcriber(trainer.student, trainer.inputs.tokenizer, settings)
    manifest = trainer.inputs.manifest
    pieces = [load_samples(manifest.audio_source(u)) for u in manifest.utterances]
    return [window.text for window in transcriber.decode(pieces)]


@pytest.mark.slow
def test_the_weights_of_the_best_validation_are_taken(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    """The references are what the student says after 20 of 60 steps, so it is best there."""
    settings = {**LEARNS_BY_HEART, "steps": 60, "checkpoint_every": 20}
    first = make_trainer(model, corpus, tmp_path / "first", **settings)
    with pytest.raises(KeyboardInterrupt):
        first.fit(on_steps=stop_at(20))
    best = weights_of(first.student.model)
    heard = [
        replace(utterance, text=text)
        for utterance, text in zip(first.inputs.manifest.utterances, says(first), strict=True)
    ]
    second = make_trainer(model, corpus, tmp_path / "second", **settings)
    validation = replace(first.inputs.manifest, utterances=tuple(heard))
    second = replace(second, validation={"heard": validation})
    progress = second.fit()
    wers = {r["step"]: r["validation_wer"] for r in rows(second.out) if "validation_wer" in r}
    assert list(wers) == [20, 40, 60]
    assert wers[20] == 0
    assert min(wers[40], wers[60]) > 0
    assert (progress.step, progress.best_step, progress.best_wer) == (60, 20, 0)
    assert same(weights_of(second.student.model), best)


@pytest.mark.slow
def test_a_student_learns_to_say_exactly_what_it_is_told(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(
        model,
        corpus,
        tmp_path,
        validate=True,
        **{**LEARNS_BY_HEART, "steps": 120, "checkpoint_every": 60},
    )
    assert says(trainer) != list(TEXTS)
    progress = trainer.fit()
    assert says(trainer) == list(TEXTS)
    assert progress.best_wer == 0


@pytest.mark.slow
def test_a_student_learns_to_say_nothing_where_nobody_speaks(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    """Its teacher says something everywhere."""
    settings = {**LEARNS_BY_HEART, "steps": 120, "checkpoint_every": 120}
    trainer = make_trainer(model, corpus, tmp_path, **settings)
    first, *others = trainer.inputs.manifest.utterances
    heard = {
        u.id: Label(u.id, label(trainer.inputs.tokenizer, t), t, "en", -0.1, 0.0, 1.0, None)
        for u, t in zip(trainer.inputs.manifest.utterances, TEXTS, strict=True)
    }
    manifest = replace(trainer.inputs.manifest, utterances=(replace(first, text=""), *others))
    kept = {id_: Verdict(id_, True, "") for id_ in heard}
    examples = join_kept(manifest, heard, kept, trainer.inputs.tokenizer)
    trainer = with_inputs(trainer, manifest=manifest, examples=examples)
    student = allow_silence(replace(trainer.student, folder=model))
    trainer = replace(trainer, student=student)
    trainer.fit()
    assert says(trainer) == ["", *TEXTS[1:]]


def test_the_mean_over_validation_sets_decides(model: Path, corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model, corpus, tmp_path, log_every=1, **ONE_STEP)
    manifest = trainer.inputs.manifest
    first, rest = manifest.utterances[:1], manifest.utterances[1:]
    sets = {
        "one": replace(manifest, utterances=first),
        "others": replace(manifest, utterances=rest),
    }
    progress = replace(trainer, validation=sets).fit()
    (row,) = [row for row in rows(tmp_path) if "validation_wer" in row]
    assert set(row["wer_by_set"]) == {"one", "others"}
    assert row["validation_wer"] == sum(row["wer_by_set"].values()) / 2 == progress.best_wer


def test_of_equal_validations_the_latest_is_taken(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.5, 0.25, 0.25, 0.75])
    monkeypatch.setattr(loop, "validation_wers", lambda *_: {"set": next(found)})
    settings = {**ONE_STEP, "steps": 4, "checkpoint_every": 1}
    progress = make_trainer(model, corpus, tmp_path, **settings).fit()
    assert (progress.best_step, progress.best_wer) == (3, 0.25)


@pytest.mark.slow
def test_readers_of_audio_change_nothing(model: Path, corpus: Path, tmp_path: Path) -> None:
    """Neither their number nor how far ahead of the network they are."""
    ended = []
    for n_workers in (1, 3):
        trainer = make_trainer(
            model, corpus, tmp_path / str(n_workers), data_workers=n_workers, micro_batch_size=1
        )
        trainer.fit()
        ended.append(weights_of(trainer.student.model))
    assert same(*ended)


def test_the_losses_are_those_on_record(model: Path, corpus: Path, tmp_path: Path) -> None:
    """A change that should not move them must leave them; one that should says so in CHANGELOG.md.

    To record them anew: copy what the message shows into the file.
    """
    make_trainer(model, corpus, tmp_path, steps=12, log_every=1, checkpoint_every=12).fit()
    kept = ("step", "loss", "kl", "pl", "grad_norm", "n_tokens")
    found = [{name: row[name] for name in kept} for row in rows(tmp_path)]
    recorded = list(read_jsonl(LOSSES))
    # Processors add up in different orders; twelve updates multiply that.
    same = [pytest.approx(row, rel=1e-3) for row in recorded]
    assert found == same, "\n".join(map(json.dumps, found))
