"""What would fail on a GPU, found without one: mixed devices, host reads, float64 on Apple's.

Everything runs on torch's meta device, where tensors have shapes and no values. As on a GPU, a
tensor there cannot be mixed with one on the CPU, and unlike there, reading a value back fails.
"""

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distilwhisper.decoding.search import Search
from distilwhisper.decoding.slots import Job, SpecialTokens
from distilwhisper.model.hardware import Hardware, one_thread
from distilwhisper.model.whisper import Whisper, WhisperConfig
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.forcing import forced_states
from distilwhisper.training.loss import Objective, fused_sums
from searching import make_rules

META = torch.device("meta")
HOST_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default)
VOCAB = 3_000  # more than the ids of the tiny tokenizer


class Gpu(TorchDispatchMode):
    """Refuses float64, which Apple's GPUs lack, and counts what is read back to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.n_reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HOST_READS and args[0].device.type == "meta":
            self.n_reads += 1
            return 1
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                assert tensor.dtype != torch.float64, func
        return result


@pytest.fixture(autouse=True)
def _autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast, which knows no meta device, takes it for the CPU; it is off in these tests."""
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled
    monkeypatch.setattr(torch, "autocast", lambda kind, **more: autocast(_real(kind), **more))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: is_enabled(_real(kind)))


def _real(device_type: str) -> str:
    return "cpu" if device_type == "meta" else device_type


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Gpu]:
    with Gpu() as mode:
        yield mode


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


def network(*, decoder_layers: int = 2) -> Whisper:
    config = WhisperConfig(
        vocab_size=VOCAB,
        n_mels=80,
        width=16,
        encoder_layers=2,
        encoder_heads=2,
        encoder_ffn=32,
        decoder_layers=decoder_layers,
        decoder_heads=2,
        decoder_ffn=32,
    )
    return Whisper(config).to(META).eval()


def jobs(model: Whisper, tokenizer: Tokenizer, draft: Whisper | None = None) -> list[Job]:
    states = model.encoder(torch.empty(1, 80, 3000, device=META))
    prompt = tuple(tokenizer.prompt_ids(language=None, timestamps=True))
    drafts = None if draft is None else states[0]
    return [
        Job(number, states[0], prompt, max_new_tokens=20, draft_states=drafts) for number in (0, 1)
    ]


def search(model: Whisper, tokenizer: Tokenizer, draft: Whisper | None = None) -> Search:
    special = SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech)
    rules = make_rules(tokenizer, device=META)
    made = Search(model, rules, special, n_slots=3, draft=draft)
    made.admit(jobs(model, tokenizer, draft))
    return made


@pytest.mark.parametrize("n_mels", [80, 128])
def test_samples_become_a_log_mel_on_their_device(n_mels: int) -> None:
    samples = stack_windows([np.zeros(16_000, dtype=np.float32)]).to(META)
    assert log_mel(samples, n_mels=n_mels).shape == (1, n_mels, 3000)


@torch.inference_mode()
def test_a_step_that_is_captured_reads_nothing_back(tokenizer: Tokenizer, gpu: Gpu) -> None:
    """A CUDA graph cannot hold a wait for the host."""
    made = search(network(), tokenizer)
    before = gpu.n_reads
    made._decode(2, 8)
    assert gpu.n_reads == before


@torch.inference_mode()
def test_a_speculative_round_stays_on_its_device(tokenizer: Tokenizer, gpu: Gpu) -> None:
    model, small = network(), network(decoder_layers=1)
    made = search(model, tokenizer, small)
    assert made._draft is not None
    before = gpu.n_reads
    made._speculate(made._draft, 2, longest=4)
    assert gpu.n_reads > before  # how many were right decides what comes next


@pytest.mark.parametrize("freeze_embeddings", [False, True])
def test_the_gradients_of_an_update_stay_on_their_device(freeze_embeddings: bool) -> None:
    teacher, student = network(), network(decoder_layers=1)
    student.requires_grad_(False)
    student.decoder.requires_grad_(True)
    student.decoder.embed_tokens.requires_grad_(not freeze_embeddings)
    trained = [weight for weight in student.parameters() if weight.requires_grad]
    inputs = torch.zeros(2, 6, dtype=torch.long, device=META)
    with torch.no_grad():
        states = teacher.encoder(torch.empty(2, 80, 3000, device=META))
        wanted = forced_states(teacher.decoder, states, inputs).final
    found = forced_states(student.decoder, states, inputs).final
    sums = fused_sums(
        found.flatten(0, 1),
        student.decoder.embed_tokens.weight,
        wanted.flatten(0, 1),
        teacher.decoder.embed_tokens.weight,
        inputs.flatten(),
        Objective(0.8, 1.0, 2.0),
    )
    (sums.loss / 12).backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)


def test_apples_gpus_are_taken_in_16_or_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="device mps must be there"):
        Hardware(device="mps").pick_device()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert Hardware(device="mps").pick_device() == torch.device("mps")
    assert Hardware(device="auto").pick_device() == torch.device("cpu")
    assert Hardware(device="mps").pick_dtype() == torch.float16
    assert Hardware(device="mps").pick_training_dtype() == torch.float32
    assert Hardware(device="mps", dtype="float32").pick_dtype() == torch.float32


def test_one_thread_is_the_callers_alone() -> None:
    n_before, n_found = torch.get_num_threads(), list[int]()
    is_entered, may_leave = Event(), Event()

    def take_one() -> None:
        with one_thread():
            is_entered.set()
            may_leave.wait()

    def take_one_too() -> None:
        with one_thread():
            n_found.append(torch.get_num_threads())
        n_found.append(torch.get_num_threads())

    threads = [Thread(target=take_one), Thread(target=take_one_too)]
    try:
        torch.set_num_threads(2)
        threads[0].start()
        is_entered.wait()
        threads[1].start()  # and would find one thread, and keep it
        threads[1].join(0.2)
    finally:
        may_leave.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(n_before)
    assert n_found == [1, 2]
