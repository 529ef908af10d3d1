"""A GPU gives what a CPU gives: tokens, labels, losses. Skipped where there is none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from corpora import corpus, hearing_model, noise
from distilwhisper.corpus.batches import Example
from distilwhisper.corpus.records import read_labels, read_manifest
from distilwhisper.corpus.store import read_jsonl
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.augment import AugmentSettings
from distilwhisper.speech.mel import window_log_mel
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import LabelSettings, Workers
from distilwhisper.stages.student import build_student, make_student
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.loop import Trainer
from distilwhisper.training.settings import TrainingSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SOUND = [noise(seconds, seed=i) for i, seconds in enumerate((2.0, 7.5, 1.0, 30.0, 12.0, 4.0))]
LONG = noise(75.0, seed=9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says something else of each recording, and ends now and then."""
    return hearing_model(tmp_path_factory.mktemp("models") / "teacher", multilingual=True, end=0.1)


@pytest.fixture(scope="module")
def draft(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "draft"
    make_student(str(model), folder, StudentSettings(decoder_layers=2))
    return folder


def transcriber(
    model: Path, device: torch.device, *, draft: str | None = None, **changed: Any
) -> Transcriber:
    settings = DecodingSettings(
        **{"language": "en", "temperature": (0.0,), "max_new_tokens": 40, **changed}
    )
    hardware = Hardware(device.type, "float32")
    return Transcriber.from_model(str(model), settings, hardware=hardware, draft=draft)


@torch.inference_mode()
def test_the_networks_states_are_the_cpus(model: Path) -> None:
    states = {}
    for device in (CPU, GPU):
        network = load_checkpoint(model, device=device).model
        mel = window_log_mel(SOUND[1], n_mels=80, device=device)[None]
        encoded = network.encoder(mel)
        cross = network.decoder.cross_cache(encoded)
        states[device] = [mel, encoded, *cross.keys, *cross.values]
    for ours, theirs in zip(states[GPU], states[CPU], strict=True):
        gap = torch.linalg.norm(ours.cpu() - theirs) / torch.linalg.norm(theirs)
        assert gap < 1e-5


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"timestamps": False},
        {"batch_size": 3},
        {"language": None},
        {"beam_size": 3},
        {"context_margin_s": 1.0},
        {"batch_size": 2, "context_margin_s": 1.0},
    ],
    ids=str,
)
def test_windows_have_the_cpus_tokens(model: Path, changed: Mapping[str, Any]) -> None:
    said = {}
    for device in (CPU, GPU):
        decoder = transcriber(model, device, **changed)
        said[device] = {n: w.token_ids for n, w in decoder.decode_each((s, None) for s in SOUND)}
    assert said[GPU] == said[CPU]
    assert len(set(said[CPU].values())) > 2


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_draft_leaves_the_tokens_as_they_are(model: Path, draft: Path, batch_size: int) -> None:
    said = []
    for drafts in (None, str(draft)):
        decoder = transcriber(model, GPU, batch_size=batch_size, draft=drafts)
        said.append({n: w.token_ids for n, w in decoder.decode_each((s, None) for s in SOUND)})
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"long_form": "chunked"},
        {"long_form": "sequential"},
        {"long_form": "sequential", "condition_on_previous_text": True},
        {"word_timestamps": True},
    ],
    ids=str,
)
def test_a_long_recording_has_the_cpus_segments(model: Path, changed: Mapping[str, Any]) -> None:
    said = {}
    for device in (CPU, GPU):
        segments = transcriber(model, device, **changed).transcribe(LONG).segments
        said[device] = [(s.start, s.end, s.text, s.words) for s in segments]
    assert said[GPU] == said[CPU]


def test_a_sample_is_the_same_alone_and_in_a_batch(model: Path) -> None:
    said = []
    for batch_size in (1, 4):
        decoder = transcriber(model, GPU, batch_size=batch_size, temperature=(0.8,))
        said.append({n: w.token_ids for n, w in decoder.decode_each((s, None) for s in SOUND)})
    assert said[0] == said[1]


def test_labels_are_the_cpus(model: Path, tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus", 20)
    for pack in (False, True):
        found = {}
        for device in (CPU, GPU):
            out = tmp_path / f"{device.type}-{pack}"
            decoding = DecodingSettings(language="en", temperature=(0.0,), max_new_tokens=40)
            label_manifests(
                {manifest: out},
                str(model),
                LabelSettings(decoding, pack=pack, shard_size=8),
                Workers(Hardware(device.type, "float32")),
            )
            found[device] = {i: one.token_ids for i, one in read_labels(out).items()}
        assert found[GPU] == found[CPU]


def trainer(model: Path, folder: Path, device: torch.device, **changed: Any) -> Trainer:
    dtype = changed.pop("dtype", torch.float32)
    teacher = load_checkpoint(model, device=device, dtype=dtype)
    student = build_student(load_checkpoint(model, device=device), StudentSettings(1))
    tokenizer = Tokenizer.from_folder(model)
    manifest = read_manifest(corpus(folder / "corpus", 10))
    prompt = tokenizer.prompt_ids(language="en", timestamps=True)
    start = tokenizer.timestamp_id(0.0)
    examples = [
        Example((u,), (0.0,), (*prompt, start, *tokenizer.encode(f" the {i}"), tokenizer.eot))
        for i, u in enumerate(manifest.utterances)
    ]
    settings = TrainingSettings(
        **{
            "steps": 6,
            "batch_size": 4,
            "micro_batch_size": 2,
            "peak_lr": 1e-3,
            "warmup_steps": 1,
            "checkpoint_every": 3,
            "log_every": 1,
            **changed,
        }
    )
    inputs = TrainingInput(manifest, examples, tokenizer, settings, student.model.config)
    return Trainer(teacher.model, student, inputs, folder / "train", {"all": manifest})


SHORT = AugmentSettings(short_context_probability=0.5, short_context_step_s=2)
CACHED = {"cache_encoder": True, "cache_teacher": True}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"freeze_embeddings": True},
        {"train_encoder": True},
        {"mse_weight": 0.5},
        {"checkpoint_activations": True},
        {"augment": SHORT},
        {**CACHED, "augment": SHORT, "freeze_embeddings": True},
    ],
    ids=str,
)
def test_training_has_the_cpus_losses(
    model: Path, tmp_path: Path, changed: Mapping[str, Any]
) -> None:
    losses, weights = {}, {}
    for device in (CPU, GPU):
        run = trainer(model, tmp_path / device.type, device, **changed)
        run.fit()
        rows = [r for r in read_jsonl(run.out / "metrics.jsonl") if "loss" in r]
        losses[device] = [[r["loss"], r["kl"], r["pl"], r["grad_norm"]] for r in rows]
        decoder = run.student.model.decoder
        weights[device] = torch.cat([p.detach().cpu().flatten() for p in decoder.parameters()])
    assert len(losses[CPU]) == 6
    torch.testing.assert_close(
        torch.tensor(losses[GPU]), torch.tensor(losses[CPU]), rtol=1e-3, atol=1e-5
    )
    gap = torch.linalg.norm(weights[GPU] - weights[CPU]) / torch.linalg.norm(weights[CPU])
    assert gap < 1e-3  # Adam makes much of small gradients


def test_training_in_bfloat16_comes_near_the_cpus_losses(model: Path, tmp_path: Path) -> None:
    losses = {}
    for device, dtype in ((CPU, torch.float32), (GPU, torch.bfloat16)):
        run = trainer(model, tmp_path / device.type, device, dtype=dtype, **CACHED)
        run.fit()
        rows = [r for r in read_jsonl(run.out / "metrics.jsonl") if "loss" in r]
        losses[device] = torch.tensor([r["loss"] for r in rows])
    torch.testing.assert_close(losses[GPU], losses[CPU], rtol=0.05, atol=0.05)
