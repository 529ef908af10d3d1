"""What is written for openai-whisper, against this package's reader and their network."""

import re
from pathlib import Path

import pytest
import torch

from distilwhisper.exporting.exporter import export_model
from distilwhisper.exporting.settings import ExportSettings, Target
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.layout import BadCheckpoint, read_model_folder
from distilwhisper.model.openai import read_openai


def export(model: Path, dest: Path, dtype: str = "float32") -> Path:
    export_model(str(model), dest, ExportSettings(to="openai", dtype=dtype))
    return dest / "model.pt"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read_back_bit_by_bit(
    published: Path, tmp_path: Path, dtype: str
) -> None:
    original = read_model_folder(published)
    path = export(published, tmp_path / "out", dtype)
    found = read_openai(path, lambda _: original.tokenizer_json)
    assert found.weights.keys() == original.weights.keys()
    for name, weight in original.weights.items():
        assert torch.equal(found.weights[name], weight.to(getattr(torch, dtype))), name
    assert found.config["decoder_attention_heads"] == original.config["decoder_attention_heads"]


@pytest.mark.parametrize("to", ["openai", "ggml"])
def test_a_model_that_their_code_does_not_know_is_refused(
    tiny_model: Path, tmp_path: Path, to: Target
) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        export_model(str(tiny_model), tmp_path / "out", ExportSettings(to=to))
    assert str(caught.value).startswith(f"{tiny_model}: ")
    assert "a published one, of 51864, 51865, 51866 tokens, found " in str(caught.value)
    assert "encoder_ffn_dim must be 128, 4 times d_model, found 64" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # their vocabulary file is never closed
def test_their_network_computes_the_same(published: Path, tmp_path: Path) -> None:
    whisper = pytest.importorskip("whisper")
    path = export(published, tmp_path / "out")
    theirs = whisper.load_model(str(path), device="cpu")
    ours = load_checkpoint(published).model
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(1, ours.config.n_mels, 3000, generator=generator)
    tokens = torch.tensor([[50258, 50263, 17, 4000]])
    with torch.inference_mode():
        torch.testing.assert_close(theirs(mel, tokens), ours(mel, tokens), rtol=1e-4, atol=1e-4)
    # The card says how to set the heads, which the file does not hold.
    card = (path.parent / "README.md").read_text()
    dump = re.search(r"set_alignment_heads\(b'(.+)'\)", card)
    assert dump is not None
    theirs.set_alignment_heads(dump[1].encode())
    assert theirs.alignment_heads.indices().T.tolist() == [[1, 0]]
