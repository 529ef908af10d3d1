import json
import os

import pytest
import torch

from distilwhisper.model.layout import BadCheckpoint, write_model_folder
from distilwhisper.model.openai import (
    published_alignment_heads,
    read_openai,
    suppressed_tokens,
)

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 20,
    "n_audio_state": 8,
    "n_audio_head": 2,
    "n_audio_layer": 3,
    "n_vocab": 2608,
    "n_text_ctx": 32,
    "n_text_state": 8,
    "n_text_head": 4,
    "n_text_layer": 2,
}


@pytest.fixture(scope="session")
def whisper_package():
    return pytest.importorskip("whisper", reason="compares with openai-whisper")


@pytest.fixture(scope="session")
def reference(whisper_package):
    """A tiny random model of openai-whisper. Shared: never change it."""
    torch.manual_seed(3)
    model = whisper_package.model.Whisper(whisper_package.model.ModelDimensions(**DIMS)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def checkpoint(reference):
    return {"dims": dict(DIMS), "model_state_dict": dict(reference.state_dict())}


def save(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@pytest.mark.reference
def test_transformers_gives_the_logits_of_openai(tmp_path, reference, checkpoint, tokenizer_json):
    transformers = pytest.importorskip("transformers")
    files = read_openai(save(checkpoint, tmp_path), lambda _: tokenizer_json)
    write_model_folder(tmp_path / "hf", files, dtype=torch.float32)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    mel = torch.randn(2, 80, 40)
    token_ids = torch.randint(0, 2608, (2, 9))
    with torch.inference_mode():
        wanted = reference(mel, token_ids)
        found = model(mel, decoder_input_ids=token_ids).logits
    # The same float32 sums in another order; logits reach about 10.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.reference
def test_the_configs_follow_the_dims(tmp_path, checkpoint, english_files):
    files = read_openai(save(checkpoint, tmp_path), lambda _: english_files.tokenizer_json)
    feed_forward = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    assert files.config == {**english_files.config, **feed_forward}
    wanted = dict(english_files.generation_config)
    wanted["suppress_tokens"] = files.generation_config["suppress_tokens"]
    del wanted["alignment_heads"]  # not a published size
    assert files.generation_config == wanted


@pytest.mark.reference
def test_a_tokenizer_without_timestamps_is_completed(
    tmp_path, checkpoint, bare_tokenizer_json, tokenizer_json
):
    files = read_openai(save(checkpoint, tmp_path), lambda _: bare_tokenizer_json)
    assert files.tokenizer_json == tokenizer_json


@pytest.mark.reference
def test_half_precision_is_kept(tmp_path, checkpoint, tokenizer_json):
    state = checkpoint["model_state_dict"]
    checkpoint["model_state_dict"] = {name: weight.half() for name, weight in state.items()}
    files = read_openai(save(checkpoint, tmp_path), lambda _: tokenizer_json)
    assert {weight.dtype for weight in files.weights.values()} == {torch.float16}


@pytest.mark.reference
def test_the_tokenizer_of_another_model_is_refused_with_both_numbers(
    tmp_path, checkpoint, multilingual_tokenizer_json, tokenizer_json
):
    with pytest.raises(BadCheckpoint, match=r"ids up to 51864, .* holds 2608 tokens"):
        read_openai(save(checkpoint, tmp_path), lambda _: multilingual_tokenizer_json)
    checkpoint["dims"]["n_vocab"] = 2609
    state = checkpoint["model_state_dict"]
    embedding = state["decoder.token_embedding.weight"]
    state["decoder.token_embedding.weight"] = torch.cat([embedding, embedding[:1]])
    with pytest.raises(BadCheckpoint, match=r"2609 tokens and the tokenizer one of 2608"):
        read_openai(save(checkpoint, tmp_path), lambda _: tokenizer_json)


def drop_dims(checkpoint):
    del checkpoint["dims"]


def drop_a_size(checkpoint):
    del checkpoint["dims"]["n_text_head"]


def contradict_a_size(checkpoint):
    checkpoint["dims"]["n_audio_layer"] = 4


def name_no_size(checkpoint):
    checkpoint["dims"]["n_vocab"] = [2608]


def hold_no_weights(checkpoint):
    checkpoint["model_state_dict"]["step"] = 3


def add_a_weight(checkpoint):
    checkpoint["model_state_dict"]["encoder.blocks.0.extra.weight"] = torch.ones(2)


def drop_a_weight(checkpoint):
    del checkpoint["model_state_dict"]["decoder.blocks.1.mlp.2.bias"]


def drop_the_embedding(checkpoint):
    del checkpoint["model_state_dict"]["decoder.token_embedding.weight"]


@pytest.mark.reference
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_dims, r"must hold 'dims' and 'model_state_dict', found \['model_state_dict'\]"),
        (drop_a_size, "'dims' lacks n_text_head"),
        (name_no_size, "'dims' lacks n_vocab"),
        (hold_no_weights, "must hold 'dims' and 'model_state_dict'"),
        (contradict_a_size, "n_audio_layer 4, the weights have 3"),
        (add_a_weight, r"encoder\.blocks\.0\.extra\.weight belongs to no Whisper network"),
        (drop_a_weight, r"no model\.decoder\.layers\.1\.fc2\.bias"),
        (drop_the_embedding, r"no weight model\.decoder\.embed_tokens\.weight"),
    ],
)
def test_a_faulty_checkpoint_is_refused(tmp_path, checkpoint, tokenizer_json, change, message):
    change(checkpoint)
    with pytest.raises(BadCheckpoint, match=message):
        read_openai(save(checkpoint, tmp_path), lambda _: tokenizer_json)


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_does_not_run(tmp_path, tokenizer_json):
    path = save({"dims": Malice(tmp_path / "harm")}, tmp_path)
    with pytest.raises(BadCheckpoint, match=r"tiny\.pt: not a whole file of plain tensors"):
        read_openai(path, lambda _: tokenizer_json)
    assert not (tmp_path / "harm").exists()


# ------------------------------------------------------------------------------------------------
# What lives in their code


def test_suppressed_tokens_are_those_published(wheel_folder, real_tokenizer_json):
    published = json.loads((wheel_folder / "config.json").read_text())["suppress_ids"]
    assert suppressed_tokens(real_tokenizer_json, where=wheel_folder) == published


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # their vocabulary file is never closed
def test_suppressed_tokens_are_those_of_the_reference(
    whisper_package, wheel_folder, real_tokenizer_json
):
    tokenizer = whisper_package.tokenizer.get_tokenizer(multilingual=False)
    prompt = [tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.no_speech]
    wanted = {*tokenizer.non_speech_tokens, *prompt, tokenizer.sot_prev, tokenizer.sot_lm}
    assert suppressed_tokens(real_tokenizer_json, where=wheel_folder) == sorted(wanted)


def test_alignment_heads_are_those_published(wheel_folder):
    published = json.loads((wheel_folder / "config.json").read_text())["alignment_heads"]
    assert published_alignment_heads(width=384, n_layers=4, vocab_size=51_864) == published


def test_no_alignment_heads_for_a_model_of_another_size():
    # A student's decoder is shorter; heads of its teacher would point at layers that it lacks.
    assert published_alignment_heads(width=384, n_layers=2, vocab_size=51_864) is None


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "width", "n_layers", "n_heads", "vocab_size"),
    [
        ("tiny", 384, 4, 6, 51_865),
        ("base.en", 512, 6, 8, 51_864),
        ("base", 512, 6, 8, 51_865),
        ("small.en", 768, 12, 12, 51_864),
        ("small", 768, 12, 12, 51_865),
        ("medium.en", 1024, 24, 16, 51_864),
        ("medium", 1024, 24, 16, 51_865),
        ("large-v3", 1280, 32, 20, 51_866),
        ("turbo", 1280, 4, 20, 51_866),
    ],
)
def test_alignment_heads_are_those_of_the_reference(
    whisper_package, reference, name, width, n_layers, n_heads, vocab_size
):
    sizes = {**DIMS, "n_text_layer": n_layers, "n_text_head": n_heads}
    holder = torch.nn.Module()
    holder.dims = whisper_package.model.ModelDimensions(**sizes)
    dump = whisper_package._ALIGNMENT_HEADS[name]
    whisper_package.model.Whisper.set_alignment_heads(holder, dump)
    wanted = holder.alignment_heads.indices().T.tolist()
    found = published_alignment_heads(width=width, n_layers=n_layers, vocab_size=vocab_size)
    assert found == wanted
