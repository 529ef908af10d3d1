import json
import re
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.model.ctranslate2 import read_ctranslate2, read_variables
from distilwhisper.model.layout import BadCheckpoint, write_model_folder

CODES = [torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16]
EMBEDDING = "decoder/embeddings/weight"


# ------------------------------------------------------------------------------------------------
# The format, written down a second time: what CTranslate2's converter does


def pack_string(text):
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def pack(variables, aliases, *, version=6, spec="WhisperSpec", revision=3):
    parts = [struct.pack("<I", version), pack_string(spec), struct.pack("<I", revision)]
    parts.append(struct.pack("<I", len(variables)))
    for name, tensor in variables.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        kind, size = CODES.index(tensor.dtype), len(raw)
        if version < 4:
            kind, size = tensor.dtype.itemsize, tensor.numel()
        parts += [pack_string(name), struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)]
        parts += [struct.pack("<BI", kind, size), raw]
    if version >= 3:
        parts.append(struct.pack("<I", len(aliases)))
        parts += [pack_string(alias) + pack_string(name) for alias, name in aliases.items()]
    return b"".join(parts)


def to_ctranslate2(files):
    """Return variables and aliases for a model in Hugging Face names."""
    weights = {name.removeprefix("model."): weight for name, weight in files.weights.items()}
    variables = {
        "encoder/num_heads": torch.tensor(files.config["encoder_attention_heads"]).short(),
        "decoder/num_heads": torch.tensor(files.config["decoder_attention_heads"]).short(),
        "decoder/activation": torch.tensor(3).to(torch.int8),
        "decoder/pre_norm": torch.tensor(1).to(torch.int8),
        "decoder/scale_embeddings": torch.tensor(0).to(torch.int8),
        EMBEDDING: weights["decoder.embed_tokens.weight"],
    }
    for name in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            variables[f"encoder/{name}/{kind}"] = weights[f"encoder.{name}.{kind}"]
    for side in ("encoder", "decoder"):
        positions = weights[f"{side}.embed_positions.weight"]
        variables[f"{side}/position_encodings/encodings"] = positions
        variables |= pack_norm(weights, f"{side}.layer_norm", f"{side}/layer_norm")
        for index in range(files.config[f"{side}_layers"]):
            source, dest = f"{side}.layers.{index}", f"{side}/layer_{index}"
            attentions = {"self_attn": "self_attention"}
            if side == "decoder":
                attentions["encoder_attn"] = "attention"
            for theirs, ours in attentions.items():
                variables |= pack_attention(weights, f"{source}.{theirs}", f"{dest}/{ours}")
            variables |= pack_norm(weights, f"{source}.final_layer_norm", f"{dest}/ffn/layer_norm")
            for number in (0, 1):
                for kind in ("weight", "bias"):
                    weight = weights[f"{source}.fc{number + 1}.{kind}"]
                    variables[f"{dest}/ffn/linear_{number}/{kind}"] = weight
    return variables, {"decoder/projection/weight": EMBEDDING}


def pack_norm(weights, source, dest):
    return {
        f"{dest}/gamma": weights[f"{source}.weight"],
        f"{dest}/beta": weights[f"{source}.bias"],
    }


def pack_attention(weights, source, dest):
    key_bias = torch.zeros(len(weights[f"{source}.q_proj.bias"]))
    biased = {**weights, f"{source}.k_proj.bias": key_bias}
    fused = ["qkv", "o"] if source.endswith("self_attn") else ["q", "kv", "o"]
    packed = pack_norm(weights, f"{source}_layer_norm", f"{dest}/layer_norm")
    for number, letters in enumerate(fused):
        for kind in ("weight", "bias"):
            names = [f"{source}.{'out' if x == 'o' else x}_proj.{kind}" for x in letters]
            packed[f"{dest}/linear_{number}/{kind}"] = torch.cat([biased[n] for n in names])
    return packed


def quantised(variables, dtype):
    """Return the variables with their matrices in int8 or int16, and the scales."""
    result = {}
    for name, weight in variables.items():
        if weight.ndim != 2 or not name.endswith("/weight"):
            result[name] = weight
            continue
        if dtype == torch.int8:
            scale = 127 / weight.abs().amax(dim=1)
            result[name] = (weight * scale[:, None]).round().to(torch.int8)
        else:
            scale = 1024 / weight.abs().amax()
            result[name] = (weight * scale).round().to(torch.int16)
        result[f"{name}_scale"] = scale
    return result


@pytest.fixture(scope="session")
def variables_and_aliases(english_files):
    return to_ctranslate2(english_files)


def write_folder(folder, content, files, tokenizer_json):
    (folder / "model.bin").write_bytes(content)
    (folder / "tokenizer.json").write_text(tokenizer_json)
    config = {
        "suppress_ids": files.generation_config["suppress_tokens"],
        "suppress_ids_begin": files.generation_config["begin_suppress_tokens"],
        "alignment_heads": files.generation_config["alignment_heads"],
        "lang_ids": [50259],
    }
    (folder / "config.json").write_text(json.dumps(config))


# ------------------------------------------------------------------------------------------------
# Whole folders


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folder_is_read_as_its_hugging_face_twin(
    tmp_path, english_files, variables_and_aliases, bare_tokenizer_json, dtype
):
    variables, aliases = variables_and_aliases
    stored = {n: v.to(dtype) if v.is_floating_point() else v for n, v in variables.items()}
    write_folder(tmp_path, pack(stored, aliases), english_files, bare_tokenizer_json)
    read = read_ctranslate2(tmp_path)
    assert read.config == english_files.config
    assert read.generation_config == english_files.generation_config
    assert read.tokenizer_json == english_files.tokenizer_json
    assert read.weights.keys() == english_files.weights.keys()
    for name, weight in english_files.weights.items():
        assert torch.equal(read.weights[name], weight.to(dtype)), name


@pytest.mark.parametrize(("dtype", "n_steps"), [(torch.int8, 127), (torch.int16, 1024)])
def test_quantised_weights_come_back_within_half_a_step(
    tmp_path, english_files, variables_and_aliases, bare_tokenizer_json, dtype, n_steps
):
    variables, aliases = variables_and_aliases
    content = pack(quantised(variables, dtype), aliases)
    write_folder(tmp_path, content, english_files, bare_tokenizer_json)
    read = read_ctranslate2(tmp_path)
    anywhere = max(weight.abs().max() for weight in english_files.weights.values())
    for name, weight in english_files.weights.items():
        found = read.weights[name]
        assert found.dtype == torch.float32
        if weight.ndim != 2 or "embed_positions" in name:
            assert torch.equal(found, weight), name
            continue
        # int16 has one scale for a matrix, which fused matrices share; int8 has one for a row.
        largest = weight.abs().amax(dim=1, keepdim=True) if dtype == torch.int8 else anywhere
        # 1.0001: the product and the quotient round in float32.
        assert ((found - weight).abs() <= 1.0001 * largest / n_steps / 2).all(), name


def test_the_result_can_be_written(
    tmp_path, english_files, variables_and_aliases, bare_tokenizer_json
):
    # Slices of fused matrices, and aliases, share memory, which safetensors refuses.
    variables, aliases = variables_and_aliases
    twin = "decoder/layer_1/ffn/layer_norm/beta"
    aliases = {**aliases, twin: "decoder/layer_0/ffn/layer_norm/beta"}
    variables = {name: variable for name, variable in variables.items() if name != twin}
    write_folder(tmp_path, pack(variables, aliases), english_files, bare_tokenizer_json)
    write_model_folder(tmp_path / "hf", read_ctranslate2(tmp_path), dtype=torch.float32)


def test_another_tokenizer_can_be_given(
    tmp_path, english_files, variables_and_aliases, bare_tokenizer_json
):
    write_folder(tmp_path, pack(*variables_and_aliases), english_files, bare_tokenizer_json)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"no tokenizer\.json"):
        read_ctranslate2(tmp_path)
    read = read_ctranslate2(tmp_path, tokenizer_json=english_files.tokenizer_json)
    assert read.tokenizer_json == english_files.tokenizer_json


def test_the_tokenizer_of_another_model_is_refused(
    tmp_path, english_files, variables_and_aliases, bare_tokenizer_json
):
    variables, aliases = variables_and_aliases
    one_more = torch.cat([variables[EMBEDDING], torch.zeros(1, 8)])
    content = pack({**variables, EMBEDDING: one_more}, aliases)
    write_folder(tmp_path, content, english_files, bare_tokenizer_json)
    with pytest.raises(BadCheckpoint, match=r"2609 tokens and the tokenizer one of 2608"):
        read_ctranslate2(tmp_path)


@pytest.mark.parametrize("name", ["model.bin", "config.json"])
def test_a_missing_file_is_named(
    tmp_path, english_files, variables_and_aliases, bare_tokenizer_json, name
):
    write_folder(tmp_path, pack(*variables_and_aliases), english_files, bare_tokenizer_json)
    (tmp_path / name).unlink()
    with pytest.raises(BadCheckpoint, match=f"no {name}"):
        read_ctranslate2(tmp_path)


def without(variables, name):
    return {key: value for key, value in variables.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: without(v, EMBEDDING), "no variable decoder/embeddings/weight"),
        (lambda v: without(v, "encoder/num_heads"), "no variable encoder/num_heads"),
        (
            lambda v: without(v, "decoder/layer_1/ffn/linear_0/bias"),
            "no model.decoder.layers.1.fc1.bias",
        ),
        (
            lambda v: without(v, "encoder/layer_2/self_attention/linear_0/weight"),
            "no model.encoder.layers.2.self_attn.q_proj.weight",
        ),
        (lambda v: v | {"decoder/activation": torch.tensor(0).short()}, "activation must be 3"),
        (lambda v: v | {"decoder/what/weight": torch.ones(2)}, "decoder/what/weight belongs to no"),
        (lambda v: v | {"decoder/projection/weight": v[EMBEDDING] + 1}, "must be an alias of"),
        (
            lambda v: v | {"decoder/layer_0/attention/linear_1/bias": torch.ones(16)},
            "encoder_attn.k_proj.bias must be zero, .* found 1",
        ),
        (
            lambda v: v | {"decoder/layer_0/attention/linear_1/bias": torch.ones(15)},
            "linear_1/bias must stack 2 matrices, found 15 rows",
        ),
        (
            lambda v: v | {"encoder/layer_0/ffn/linear_0/weight": torch.ones(16, 8).char()},
            "no variable encoder/layer_0/ffn/linear_0/weight_scale",
        ),
        (
            lambda v: (
                v
                | {
                    "encoder/layer_0/ffn/linear_0/weight": torch.ones(16, 8).char(),
                    "encoder/layer_0/ffn/linear_0/weight_scale": torch.ones(3),
                }
            ),
            "weight_scale must hold 1 or 16 numbers, found 3",
        ),
    ],
)
def test_another_network_is_refused(
    tmp_path, english_files, variables_and_aliases, bare_tokenizer_json, change, message
):
    variables, _ = variables_and_aliases
    write_folder(tmp_path, pack(change(variables), {}), english_files, bare_tokenizer_json)
    with pytest.raises(BadCheckpoint, match=message):
        read_ctranslate2(tmp_path)


# ------------------------------------------------------------------------------------------------
# The file

SMALL = {
    "a/weight": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([-3, 4], dtype=torch.int8),
    "c": torch.tensor(5, dtype=torch.int16),
}
MODERN = SMALL | {
    "d": torch.tensor([1.5], dtype=torch.float16),
    "e": torch.tensor([[1.5]], dtype=torch.bfloat16),
    "f": torch.tensor([70_000], dtype=torch.int32),
}


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_every_version_is_read(tmp_path, version):
    variables = SMALL if version < 4 else MODERN
    aliases = {"g/weight": "a/weight"}
    (tmp_path / "model.bin").write_bytes(pack(variables, aliases, version=version))
    read = read_variables(tmp_path / "model.bin")
    wanted = dict(variables) if version < 3 else {**variables, "g/weight": SMALL["a/weight"]}
    assert read.keys() == wanted.keys()
    for name, variable in wanted.items():
        assert read[name].dtype == variable.dtype
        assert torch.equal(read[name], variable)


def test_an_alias_brings_the_scale_along(tmp_path):
    variables = {"a": torch.ones(2).char(), "a_scale": torch.ones(2)}
    (tmp_path / "model.bin").write_bytes(pack(variables, {"b": "a"}))
    assert read_variables(tmp_path / "model.bin").keys() == {"a", "a_scale", "b", "b_scale"}


WHOLE = pack(MODERN, {"g": "c"})


@given(kept=st.integers(0, len(WHOLE) - 1))
def test_a_truncated_file_is_named_with_the_offset(tmp_path_factory, kept):
    path = tmp_path_factory.mktemp("cut") / "model.bin"
    path.write_bytes(WHOLE[:kept])
    with pytest.raises(BadCheckpoint, match=r"model\.bin, offset \d+: truncated") as caught:
        read_variables(path)
    assert int(re.search(r"offset (\d+)", str(caught.value))[1]) <= kept


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pack(SMALL, {}, version=7), "binary version must be 2 to 6, found 7"),
        (pack(SMALL, {}, version=1), "binary version must be 2 to 6, found 1"),
        (b"PK\3\4 something else", "is this a CTranslate2 model"),
        (pack(SMALL, {}, spec="TransformerSpec"), "must be WhisperSpec, found 'TransformerSpec'"),
        (pack(SMALL, {}, revision=4), "revision must be at most 3, found 4"),
        (pack(SMALL, {"x": "nothing"}), "alias x stands for nothing"),
        (pack(SMALL, {}) + b"more", "must end here, found 4 more bytes"),
        (
            WHOLE.replace(b"d\0\1\1\0\0\0\4", b"d\0\1\1\0\0\0\11"),
            "type of d must be one of .* found 9",
        ),
        (
            WHOLE.replace(b"d\0\1\1\0\0\0\4", b"d\0\1\2\0\0\0\4"),
            r"shape \(2,\) .* 4 bytes, found 2",
        ),
        (WHOLE.replace(b"a/weight", b"a/w\xffight", 1), "must be UTF-8"),
    ],
)
def test_a_faulty_file_is_named_with_what_was_found(tmp_path, content, message):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=message) as caught:
        read_variables(tmp_path / "model.bin")
    assert f"{tmp_path / 'model.bin'}, offset " in str(caught.value)


# ------------------------------------------------------------------------------------------------
# Real weights


@pytest.mark.slow
@pytest.mark.reference
def test_real_weights_know_english(tmp_path, wheel_folder):
    # Without any sound the decoder is a language model: wrong weights would not finish this.
    transformers = pytest.importorskip("transformers")
    write_model_folder(tmp_path / "hf", read_ctranslate2(wheel_folder), dtype=torch.float32)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.WhisperTokenizer.from_pretrained(tmp_path / "hf")
    prompt = "<|startoftranscript|><|notimestamps|> Thank you very"
    token_ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
    silence = torch.full((1, 80, 3000), -1.5)
    with torch.inference_mode():
        logits = model(silence, decoder_input_ids=token_ids).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " much"
    assert logits.softmax(-1).max() > 0.9
