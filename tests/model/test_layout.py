import json
import os
import resource
import shutil
import stat
import threading
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from distilwhisper.files import StoreError
from distilwhisper.model.layout import (
    BadCheckpoint,
    check_vocab_size,
    complete_timestamps,
    read_complete_tokenizer,
    read_model_folder,
    token_ids,
    write_model_folder,
)

SENTENCE = " It's a naïve test, 123 «日本»  twice."


def ids_of(tokenizer_json):
    return token_ids(tokenizer_json, where=Path(__file__))


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_written_is_read_back(tmp_path, any_files):
    write_model_folder(tmp_path / "runs" / "model", any_files, dtype=torch.float32)
    read = read_model_folder(tmp_path / "runs" / "model")
    assert same_weights(read.weights, any_files.weights)
    assert read.tokenizer_json == any_files.tokenizer_json
    assert read.generation_config == any_files.generation_config
    assert read.config == {**any_files.config, "torch_dtype": "float32"}


def test_weights_are_stored_in_the_asked_type(tmp_path, english_files):
    write_model_folder(tmp_path / "model", english_files, dtype=torch.bfloat16)
    read = read_model_folder(tmp_path / "model")
    wanted = {name: w.to(torch.bfloat16) for name, w in english_files.weights.items()}
    assert same_weights(read.weights, wanted)
    assert read.config["torch_dtype"] == "bfloat16"


def test_everyone_may_read_the_files(folder):
    # tempfile and safetensors both create things that only their owner may read.
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == 0o644


def test_every_reader_finds_its_files(folder):
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "normalizer.json",
        "preprocessor_config.json",
        "processor_config.json",
    }


def test_dead_settings_are_not_written(tmp_path, own_files):
    own_files.config["forced_decoder_ids"] = [[1, 50362]]
    own_files.config["dtype"] = "float16"
    own_files.generation_config["forced_decoder_ids"] = [[1, 50362]]
    own_files.generation_config["_from_model_config"] = True
    write_model_folder(tmp_path / "model", own_files, dtype=torch.float32)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    generation_config = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert "forced_decoder_ids" not in config | generation_config
    assert "dtype" not in config
    assert "_from_model_config" not in generation_config


def test_a_folder_that_holds_something_is_not_overwritten(folder, english_files):
    before = (folder / "config.json").read_bytes()
    with pytest.raises(FileExistsError, match="must be new or empty"):
        write_model_folder(folder, english_files, dtype=torch.float16)
    assert (folder / "config.json").read_bytes() == before


def test_an_empty_folder_is_filled(tmp_path, english_files):
    write_model_folder(tmp_path, english_files, dtype=torch.float32)
    assert read_model_folder(tmp_path).config["d_model"] == 8


def test_a_failed_write_leaves_nothing(tmp_path, own_files):
    own_files.weights["shared"] = own_files.weights["model.encoder.conv1.weight"]
    with pytest.raises(RuntimeError, match="share memory"):
        write_model_folder(tmp_path / "model", own_files, dtype=torch.float32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weight", [4, 10**7])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, own_files, weight):
    # No file may grow beyond a limit: the tokenizer's, or that of the weights alone.
    own_files.weights["extra"] = torch.zeros(weight)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**3 if weight == 4 else 10**7, hard))
    try:
        with pytest.raises(StoreError, match=r"could not be written: .*File too large"):
            write_model_folder(tmp_path / "model", own_files, dtype=torch.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_one_wins_and_the_other_is_told(tmp_path, english_files):
    refused = []

    def write():
        try:
            write_model_folder(tmp_path / "model", english_files, dtype=torch.float32)
        except FileExistsError as error:
            refused.append(error)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(refused) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert same_weights(read_model_folder(tmp_path / "model").weights, english_files.weights)


# ------------------------------------------------------------------------------------------------
# Other shapes of the same folder


def test_sharded_weights(folder, english_files):
    (folder / "model.safetensors").unlink()
    names = sorted(english_files.weights)
    shards = {"model-1-of-2.safetensors": names[:9], "model-2-of-2.safetensors": names[9:]}
    for shard, held in shards.items():
        save_file({name: english_files.weights[name] for name in held}, folder / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert same_weights(read_model_folder(folder).weights, english_files.weights)

    (folder / "model-2-of-2.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"model-2-of-2\.safetensors: this shard is missing"):
        read_model_folder(folder)


def test_pickled_weights_with_a_tied_projection(folder, english_files):
    (folder / "model.safetensors").unlink()
    embedding = english_files.weights["model.decoder.embed_tokens.weight"]
    torch.save(english_files.weights | {"proj_out.weight": embedding}, folder / "pytorch_model.bin")
    assert same_weights(read_model_folder(folder).weights, english_files.weights)


def test_an_untied_projection_is_refused_with_the_difference(folder, english_files):
    embedding = english_files.weights["model.decoder.embed_tokens.weight"]
    projection = embedding.clone()
    projection[5, 3] += 0.25
    weights = english_files.weights | {"proj_out.weight": projection}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"differ by up to 0\.25"):
        read_model_folder(folder)


def test_float32_doubles_are_read_only_where_nothing_else_is(folder, english_files):
    doubles = {name: weight + 1 for name, weight in english_files.weights.items()}
    save_file(doubles, folder / "model.fp32.safetensors")
    assert same_weights(read_model_folder(folder).weights, english_files.weights)
    (folder / "model.safetensors").unlink()
    assert same_weights(read_model_folder(folder).weights, doubles)


def test_a_tokenizer_in_three_files(folder, english_files):
    (folder / "tokenizer.json").unlink()
    rebuilt = read_model_folder(folder).tokenizer_json
    assert ids_of(rebuilt) == ids_of(english_files.tokenizer_json)
    special = [
        {token["content"] for token in json.loads(text)["added_tokens"] if token["special"]}
        for text in (rebuilt, english_files.tokenizer_json)
    ]
    assert special[0] == special[1]
    old, new = (
        tokenizers.Tokenizer.from_str(text) for text in (english_files.tokenizer_json, rebuilt)
    )
    text = f"<|startoftranscript|><|0.00|>{SENTENCE}<|4.20|>"
    ids = old.encode(text, add_special_tokens=False).ids
    assert new.encode(text, add_special_tokens=False).ids == ids
    assert new.decode(ids) == old.decode(ids) == f"<|0.00|>{SENTENCE}<|4.20|>"


def test_suppress_lists_of_old_folders_stand_in_the_config(folder, english_files):
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config |= {"suppress_tokens": [1, 2, 7], "begin_suppress_tokens": [220, 1000]}
    (folder / "config.json").write_text(json.dumps(config))
    wanted = dict(english_files.generation_config)
    del wanted["alignment_heads"]
    assert read_model_folder(folder).generation_config == wanted


def test_missing_language_ids_are_made_from_the_tokenizer(tmp_path, multilingual_files):
    write_model_folder(tmp_path / "model", multilingual_files, dtype=torch.float32)
    (tmp_path / "model" / "generation_config.json").write_text('{"max_length": 99}')
    generation_config = read_model_folder(tmp_path / "model").generation_config
    assert generation_config["max_length"] == 99
    assert generation_config["is_multilingual"]
    assert generation_config["lang_to_id"]["<|en|>"] == 50259
    assert len(generation_config["lang_to_id"]) == 99
    assert generation_config["task_to_id"] == {"transcribe": 50359, "translate": 50358}
    assert "suppress_tokens" not in generation_config


# ------------------------------------------------------------------------------------------------
# Timestamps


def test_timestamps_are_added_once_behind_the_other_tokens(wheel_folder, real_tokenizer_json):
    assert "<|0.00|>" not in ids_of((wheel_folder / "tokenizer.json").read_text())
    ids = ids_of(real_tokenizer_json)
    assert (ids["<|notimestamps|>"], ids["<|0.00|>"], ids["<|0.02|>"]) == (50362, 50363, 50364)
    assert ids["<|30.00|>"] == 51863 == max(ids.values())
    again = complete_timestamps(real_tokenizer_json, vocab_size=51_864, where=wheel_folder)
    assert again == real_tokenizer_json


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(tokenizer_json, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"ids up to 2607, and .* holds 2607 tokens"):
        complete_timestamps(tokenizer_json, vocab_size=2607, where=tmp_path)


def test_a_vocabulary_of_another_size_is_refused_with_both_numbers(tokenizer_json, tmp_path):
    check_vocab_size(tokenizer_json, vocab_size=2608, where=tmp_path)
    with pytest.raises(BadCheckpoint, match=r"2609 tokens and the tokenizer one of 2608"):
        check_vocab_size(tokenizer_json, vocab_size=2609, where=tmp_path)


# ------------------------------------------------------------------------------------------------
# Broken folders


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["config.json"], "no config.json"),
        (["model.safetensors"], "no weights; looked for .*distilwhisper import"),
        (["tokenizer.json", "vocab.json"], "no tokenizer.json, nor vocab.json"),
        (["tokenizer.json", "added_tokens.json"], "no added_tokens.json"),
    ],
)
def test_a_missing_piece_is_named(folder, missing, message):
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(BadCheckpoint, match=message):
        read_model_folder(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BadCheckpoint, match="nowhere: no such folder"):
        read_model_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["{", "[1]", b"\xff"])
def test_broken_json_is_named(folder, name, content):
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(raw)
    with pytest.raises(BadCheckpoint, match=name):
        read_model_folder(folder)


def test_json_of_another_kind_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json: must hold a BPE tokenizer"):
        read_model_folder(folder)
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"index\.json: must hold a weight_map"):
        read_model_folder(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"vocab_size": None}, "vocab_size must be a whole number above 0"),
        ("config.json", {"vocab_size": "many"}, "vocab_size must be .*, found 'many'"),
        ("config.json", {"d_model": 0}, "d_model must be a whole number above 0, found 0"),
        ("tokenizer.json", {"model": []}, r"tokenizer\.json: must hold a BPE tokenizer"),
        ("tokenizer.json", {"model": {"merges": []}}, "must hold a BPE tokenizer"),
        ("tokenizer.json", {"added_tokens": [{"id": 1}]}, "must hold a BPE tokenizer"),
        (
            "tokenizer.json",
            {"added_tokens": [{"id": "1", "content": "<|0.00|>", "special": True}]},
            "must hold a BPE tokenizer",
        ),
        ("generation_config.json", {"suppress_tokens": "all"}, "suppress_tokens must be ids"),
        ("generation_config.json", {"suppress_tokens": ["a"]}, r"found 'a'.*: delete it, or take"),
        ("generation_config.json", {"begin_suppress_tokens": [10**6]}, "found 1000000"),
        ("generation_config.json", {"max_initial_timestamp_index": "one"}, "found 'one'"),
    ],
)
def test_json_without_what_a_model_needs_is_named(folder, name, change, message):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadCheckpoint, match=f"{folder}.*{message}"):
        read_model_folder(folder)


def test_a_config_without_sizes_is_named_also_where_the_tokenizer_alone_is_read(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match=rf"{folder}: config\.json lacks vocab_size"):
        read_complete_tokenizer(folder)


def test_an_index_of_something_else_is_named(folder):
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    with pytest.raises(BadCheckpoint, match=r"index\.json: must hold a weight_map"):
        read_model_folder(folder)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_torn_safetensors_are_named(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors: not a whole safetensors file"):
        read_model_folder(folder)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_torn_pickles_are_named(folder, english_files, kept):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(english_files.weights, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BadCheckpoint, match=r"pytorch_model\.bin: not a whole file"):
        read_model_folder(folder)


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_does_not_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"model.x": Malice(tmp_path / "harm")}, folder / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match=r"pytorch_model\.bin"):
        read_model_folder(folder)
    assert not (tmp_path / "harm").exists()


def test_weights_that_do_not_fit_the_config_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.decoder.layers.0.fc1.bias"] = torch.zeros(3)
    weights["model.decoder.layers.9.fc1.bias"] = torch.zeros(3)
    del weights["model.encoder.conv1.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint) as caught:
        read_model_folder(folder)
    message = str(caught.value)
    assert "no model.encoder.conv1.bias" in message
    assert "unknown model.decoder.layers.9.fc1.bias" in message
    assert "model.decoder.layers.0.fc1.bias is (3,), not (24,)" in message


def test_a_config_of_another_architecture_is_refused(folder):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "wav2vec2"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match="wav2vec2"):
        read_model_folder(folder)


# ------------------------------------------------------------------------------------------------
# transformers reads what we write


@pytest.fixture(scope="session")
def loaded(tmp_path_factory, any_files):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("written") / "model"
    write_model_folder(folder, any_files, dtype=torch.float32)
    model, report = transformers.WhisperForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    yield any_files, model, report, processor
    shutil.rmtree(folder)


@pytest.mark.reference
def test_transformers_loads_every_tensor(loaded):
    files, model, report, _ = loaded
    assert not any(report.values())
    state = model.state_dict()
    assert torch.equal(state.pop("proj_out.weight"), state["model.decoder.embed_tokens.weight"])
    assert same_weights(state, files.weights)
    assert model.dtype == torch.float32


@pytest.mark.reference
def test_transformers_loads_the_generation_config(loaded):
    files, model, _, _ = loaded
    for key, value in files.generation_config.items():
        assert getattr(model.generation_config, key) == value, key


@pytest.mark.reference
def test_transformers_loads_the_tokenizer(loaded):
    files, _, _, processor = loaded
    ours = tokenizers.Tokenizer.from_str(files.tokenizer_json)
    ids = ours.encode(SENTENCE, add_special_tokens=False).ids
    assert processor.tokenizer.encode(SENTENCE, add_special_tokens=False) == ids
    assert processor.tokenizer.decode(ids) == SENTENCE
    assert len(processor.tokenizer) == files.config["vocab_size"]


@pytest.mark.reference
def test_transformers_decodes_timestamps(loaded):
    # It takes the id behind the last special token for <|0.00|>.
    files, _, _, processor = loaded
    ids = ids_of(files.tokenizer_json)
    words = processor.tokenizer.encode(SENTENCE, add_special_tokens=False)
    timed = [ids["<|startoftranscript|>"], ids["<|0.00|>"], *words, ids["<|30.00|>"]]
    decoded = processor.tokenizer.decode(timed, decode_with_timestamps=True)
    assert decoded == f"<|startoftranscript|><|0.00|>{SENTENCE}<|30.00|>"
    assert processor.tokenizer.decode(timed, skip_special_tokens=True) == SENTENCE


@pytest.mark.reference
def test_transformers_loads_the_feature_extractor_and_the_spellings(loaded):
    *_, processor = loaded
    assert processor.feature_extractor.feature_size == 80
    assert processor.feature_extractor.n_samples == 480_000
    assert processor.tokenizer.english_spelling_normalizer["colour"] == "color"


@pytest.mark.reference
def test_what_transformers_writes_is_read_back(loaded, tmp_path):
    files, model, _, processor = loaded
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    read = read_model_folder(tmp_path)
    assert same_weights(read.weights, files.weights)
    assert ids_of(read.tokenizer_json) == ids_of(files.tokenizer_json)
    assert read.generation_config.items() >= files.generation_config.items()
