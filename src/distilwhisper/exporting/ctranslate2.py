"""To CTranslate2, and so to faster-whisper: what their own converter writes, byte by byte.

Source: OpenNMT/CTranslate2: ``python/ctranslate2/specs/model_spec.py``,
``python/ctranslate2/converters/transformers.py``. The file is described where it is read:
:mod:`distilwhisper.model.ctranslate2`.
"""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from distilwhisper.decoding.alignment import alignment_heads, upper_half_heads
from distilwhisper.decoding.settings import MAX_NEW_TOKENS
from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.ctranslate2 import (
    ATTRIBUTES,
    DTYPES,
    EMBEDDING,
    MAX_REVISION,
    PROJECTION,
    stacked_weights,
)
from distilwhisper.model.layout import ModelFiles, preprocessor_config, token_ids
from distilwhisper.model.whisper import WhisperConfig
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import window_log_mel
from distilwhisper.text.tokens import Tokenizer

LIBRARY = "faster-whisper"
CHECKED_BY = ("ctranslate2", "ctranslate2")
EXAMPLE = """\
```python
from faster_whisper import WhisperModel

model = WhisperModel("path/to/this/folder")
segments, info = model.transcribe("talk.mp3", word_timestamps=True)
print("".join(segment.text for segment in segments))
```
"""

_BINARY_VERSION = 6
# What the converter stores of a decoder beside its weights, as int8 or int16.
_BYTES = {**ATTRIBUTES, "decoder/alibi_use_positive_positions": 0, "decoder/scale_alibi": 0}
_SHORTS = {"decoder/alignment_heads": 1, "decoder/alignment_layer": -1}


def write(files: ModelFiles, folder: Path, settings: ExportSettings, *, where: Path) -> list[str]:
    """Write ``model.bin`` with all that CTranslate2 and faster-whisper look for beside it."""
    variables = _in_dtype(_variables(files), settings.written_dtype)
    with (folder / "model.bin").open("wb") as file:
        _write_variables(file, variables)
    rules = files.generation_config
    sizes = WhisperConfig.from_hf(files.config)
    named = alignment_heads(rules, sizes)
    languages = Tokenizer.from_json(files.tokenizer_json, where=where).languages
    vocabulary = [""] * sizes.vocab_size
    for token, token_id in token_ids(files.tokenizer_json, where=where).items():
        vocabulary[token_id] = token
    contents = {
        "config.json": {
            "alignment_heads": [list(head) for head in named or upper_half_heads(sizes)],
            "lang_ids": sorted(languages.values()),
            "suppress_ids": rules.get("suppress_tokens") or [],
            "suppress_ids_begin": rules.get("begin_suppress_tokens") or [],
        },
        "vocabulary.json": vocabulary,
        # faster-whisper asks the hub for a tokenizer that is not there, and takes 80 mel bins.
        "preprocessor_config.json": preprocessor_config(sizes.n_mels),
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(files.tokenizer_json, encoding="utf-8")
    if named:
        return []
    return [
        "The model names no attention heads that follow the speech, so word times come from all "
        "heads of the upper half of its decoder, and are rough. Measure them first: "
        "distilwhisper heads MODEL SET.jsonl DEST, and export DEST."
    ]


def recogniser(folder: Path, files: ModelFiles) -> Callable[[Samples, str], str]:
    """Return the exported model at work, through CTranslate2 on the CPU in float32 or int8.

    It is given the frames of this package: faster-whisper pads them in another way.
    """
    import ctranslate2

    model = ctranslate2.models.Whisper(str(folder), "cpu", intra_threads=torch.get_num_threads())
    tokenizer = Tokenizer.from_json(files.tokenizer_json, where=folder)
    n_mels = files.config["num_mel_bins"]

    def recognise(samples: Samples, language: str) -> str:
        prompt = tokenizer.prompt_ids(language=language, timestamps=False)
        frames = window_log_mel(samples, n_mels=n_mels, device=torch.device("cpu"))
        mel = ctranslate2.StorageView.from_array(frames[None].numpy())
        limit = len(prompt) + MAX_NEW_TOKENS
        (result,) = model.generate(mel, [prompt], beam_size=1, max_length=limit)
        return tokenizer.decode(result.sequences_ids[0])

    return recognise


def _variables(files: ModelFiles) -> dict[str, Tensor]:
    """Return the weights as CTranslate2 names and stacks them."""
    config, sides = files.config, ("encoder", "decoder")
    n_layers = {side: config[f"{side}_layers"] for side in sides}
    shorts = {**_SHORTS, **{f"{s}/num_heads": config[f"{s}_attention_heads"] for s in sides}}
    variables: dict[str, Tensor] = {}
    for name, sources in stacked_weights(n_layers).items():
        last = files.weights.get(sources[-1])
        if last is not None:  # keys, which have no bias, stand before values, which have one
            parts = [files.weights.get(source, torch.zeros_like(last)) for source in sources]
            variables[name] = torch.cat(parts)
    for facts, dtype in ((_BYTES, torch.int8), (shorts, torch.int16)):
        variables |= {name: torch.tensor(value, dtype=dtype) for name, value in facts.items()}
    return variables


def _in_dtype(variables: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    kept = torch.float32 if dtype == "int8" else getattr(torch, dtype.removeprefix("int8_"))
    converted = {}
    for name, variable in variables.items():
        if not variable.is_floating_point():
            converted[name] = variable
        elif dtype.startswith("int8") and name.endswith("/weight"):
            converted[name], converted[f"{name}_scale"] = _quantised(variable.float())
        else:
            converted[name] = variable.to(kept)
    return converted


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight in int8, and what each of its rows was multiplied by."""
    rows = weight.flatten(1)
    largest = rows.abs().amax(dim=1)
    # A number over a tensor is the number times the inverse, which is off by the last bit.
    scale = torch.full_like(largest, 127) / torch.where(largest == 0, 127.0, largest)
    return (rows * scale[:, None]).round().to(torch.int8).reshape(weight.shape), scale


def _write_variables(file: BinaryIO, variables: Mapping[str, Tensor]) -> None:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    file.write(struct.pack("<I", _BINARY_VERSION) + _string("WhisperSpec"))
    file.write(struct.pack("<II", MAX_REVISION, len(variables)))
    for name in sorted(variables):
        content = variables[name].contiguous()
        raw = content.reshape(-1).view(torch.uint8).numpy().data
        file.write(_string(name) + struct.pack(f"<B{content.ndim}I", content.ndim, *content.shape))
        file.write(struct.pack("<BI", codes[content.dtype], len(raw)))
        file.write(raw)
    file.write(struct.pack("<I", 1) + _string(PROJECTION) + _string(EMBEDDING))


def _string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw
