"""To onnxruntime and transformers.js: four graphs in the layout of Hugging Face's optimum.

    onnx/encoder_model.onnx             input_features -> last_hidden_state
    onnx/decoder_model.onnx             the first tokens: input_ids, encoder_hidden_states
    onnx/decoder_with_past_model.onnx   each further token: input_ids, past_key_values
    onnx/decoder_model_merged.onnx      both, as use_cache_branch says; transformers.js runs this

In int8 the names end in _quantized, which transformers.js calls q8. Beside the folder stand the
configs and the tokenizer of the Hugging Face layout.

The merged decoder has no branches. Keys and values of the encoder states that are given are put
behind those of the past: with an empty past they are all there is, and with ``use_cache_branch`` no
encoder states are taken. One row is always projected and dropped, since not every runtime can
multiply nothing.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilwhisper.decoding.settings import MAX_NEW_TOKENS
from distilwhisper.exporting.graphs import BOOL, FLOAT, INT64, Axes, Graph, decode, encode
from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.checkpoint import build_network
from distilwhisper.model.layout import ModelFiles, write_side_files
from distilwhisper.model.whisper import DecoderLayer, Whisper, WhisperConfig
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import window_log_mel
from distilwhisper.text.tokens import Tokenizer

LIBRARY = "transformers.js"
CHECKED_BY = ("onnxruntime", '"distilwhisper[export]"')
EXAMPLE = """\
```js
import { pipeline, env } from "@huggingface/transformers";

env.localModelPath = "path/to/the/folder/above/";
const task = "automatic-speech-recognition";
const transcribe = await pipeline(task, "this-folder", { dtype: "DTYPE" });
console.log((await transcribe(samples)).text); // Float32Array, mono, 16 kHz
```
"""

BATCH = "batch_size"  # transformers.js knows the axis by this name
FOLDER = "onnx"


def write(files: ModelFiles, folder: Path, settings: ExportSettings, *, where: Path) -> list[str]:
    """Write the graphs, with what transformers.js looks for beside them."""
    int8 = settings.written_dtype == "int8"
    suffix = "_quantized" if int8 else ""
    write_side_files(folder, files, dtype=torch.float32)
    (folder / FOLDER).mkdir()
    model = build_network(files).float()
    graph = Graph(int8=int8)
    states = encode(graph, model, "input_features", BATCH)
    graph.output("last_hidden_state", states, [BATCH, model.config.max_frames, model.config.width])
    graph.save(folder / FOLDER / f"encoder_model{suffix}.onnx")
    for name, has_past, has_states in (
        ("decoder_model", False, True),
        ("decoder_with_past_model", True, False),
        ("decoder_model_merged", True, True),
    ):
        graph = _decoder(model, past=has_past, states=has_states, int8=int8)
        graph.save(folder / FOLDER / f"{name}{suffix}.onnx")
    return []


def _decoder(model: Whisper, *, past: bool, states: bool, int8: bool) -> Graph:
    """Return a decoder, which may go on from the past of other tokens, and take encoder states."""
    graph, sizes = Graph(int8=int8), model.config
    heads, head_dim = sizes.decoder_heads, sizes.width // sizes.decoder_heads
    ids = graph.input("input_ids", INT64, [BATCH, "decoder_sequence_length"])
    encoded = ""
    if states:
        axes: Axes = [BATCH, "encoder_sequence_length", sizes.width]
        encoded = graph.input("encoder_hidden_states", FLOAT, axes)
    pasts: dict[str, str] = {}
    layers = range(sizes.decoder_layers if past else 0)
    for number, side, part in product(layers, ("decoder", "encoder"), ("key", "value")):
        name, length = f"{number}.{side}.{part}", f"past_{side}_sequence_length"
        axes = [BATCH, heads, length, head_dim]
        pasts[name] = graph.input(f"past_key_values.{name}", FLOAT, axes)
    if past and states:
        use_cache = graph.input("use_cache_branch", BOOL, [1])
        none, all_ = graph.constant([0]), graph.size(encoded, 1)
        taken = graph.op("Where", use_cache, none, all_)
        row = graph.op("Slice", encoded, none, [1], [1])
        encoded = graph.op("Concat", graph.op("Slice", encoded, none, taken, [1]), row, axis=1)
    n_past = graph.size(pasts["0.decoder.key"], 2) if past else None
    presents: dict[str, str] = {}

    def keys_values(number: int, layer: DecoderLayer, normed: str) -> list[str]:
        own, cross, found = layer.self_attn, layer.encoder_attn, dict[str, str]()
        for side, source, attention in (("decoder", normed, own), ("encoder", encoded, cross)):
            for part, linear in (("key", attention.k_proj), ("value", attention.v_proj)):
                name = f"{number}.{side}.{part}"
                found[name] = pasts.get(name, "")
                if source:
                    made = graph.linear(source, linear)
                    if past and side == "encoder":
                        made = graph.op("Slice", made, [0], [-1], [1])
                    made = graph.heads(made, attention)
                    found[name] = graph.op("Concat", found[name], made, axis=2) if past else made
        presents.update(found)
        return list(found.values())

    logits = decode(graph, model.decoder, ids, n_past, keys_values)
    graph.output("logits", logits, [BATCH, "decoder_sequence_length", sizes.vocab_size])
    for name, value in presents.items():
        if states or ".decoder." in name:
            length = f"{name.split('.')[1]}_sequence_length_out"
            graph.output(f"present.{name}", value, [BATCH, heads, length, head_dim])
    return graph


def recogniser(folder: Path, files: ModelFiles) -> Callable[[Samples, str], str]:
    """Return the exported model at work, through onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    encoder, decoder = (
        onnxruntime.InferenceSession(str(next((folder / FOLDER).glob(pattern))), options)
        for pattern in ("encoder_model*.onnx", "decoder_model_merged*.onnx")
    )
    tokenizer = Tokenizer.from_json(files.tokenizer_json, where=folder)
    rules, sizes = files.generation_config, WhisperConfig.from_hf(files.config)
    never, not_first = (rules.get(f"{w}suppress_tokens") or [] for w in ("", "begin_"))
    pasts = [each.name for each in decoder.get_inputs() if each.name.startswith("past_key_values")]
    nothing = np.zeros([1, sizes.decoder_heads, 0, sizes.width // sizes.decoder_heads], "f4")

    def recognise(samples: Samples, language: str) -> str:
        mel = window_log_mel(samples, n_mels=sizes.n_mels, device=torch.device("cpu"))[None]
        feeds: dict[str, Any] = dict.fromkeys(pasts, nothing)
        (feeds["encoder_hidden_states"],) = encoder.run(None, {"input_features": mel.numpy()})
        new_ids = tokenizer.prompt_ids(language=language, timestamps=False)
        found: list[int] = []
        while len(found) < MAX_NEW_TOKENS:
            feeds["input_ids"] = np.array([new_ids])
            feeds["use_cache_branch"] = np.array([bool(found)])
            logits, *presents = decoder.run(None, feeds)
            scores = logits[0, -1]
            scores[[*never, *([] if found else not_first)]] = -np.inf
            scores[tokenizer.timestamp_begin :] = -np.inf
            new_ids = [int(scores.argmax())]
            if new_ids[0] == tokenizer.eot:
                break
            found += new_ids
            feeds |= zip(pasts, presents, strict=True)
        return tokenizer.decode(found)

    return recognise
