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

from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilwhisper.decoding.settings import MAX_NEW_TOKENS
from distilwhisper.exporting.graphs import BOOL, FLOAT, INT64, Graph, Pair, decode, encode
from distilwhisper.exporting.recognition import Recognise
from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.checkpoint import build_network
from distilwhisper.model.layout import ModelFiles, write_side_files
from distilwhisper.model.whisper import DecoderLayer, Whisper
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import window_log_mel
from distilwhisper.text.tokens import Tokenizer

LIBRARY = "transformers.js"
CHECKED_BY = {"onnxruntime": '"distilwhisper[export]"'}
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


def examine(files: ModelFiles, settings: ExportSettings, *, where: Path) -> list[str]:
    """Say what to know of the exported model."""
    return []


def write(files: ModelFiles, folder: Path, settings: ExportSettings) -> None:
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
        path = folder / FOLDER / f"{name}{suffix}.onnx"
        _write_decoder(model, path, past=has_past, states=has_states, int8=int8)


def _write_decoder(model: Whisper, path: Path, *, past: bool, states: bool, int8: bool) -> None:
    """Write a decoder, which may go on from the past of other tokens, and take encoder states."""
    sizes = model.config
    heads, head_dim = sizes.decoder_heads, sizes.width // sizes.decoder_heads
    graph = Graph(int8=int8)
    ids = graph.input("input_ids", INT64, [BATCH, "decoder_sequence_length"])
    pasts: dict[str, str] = {}
    encoded = ""
    if states:
        axes: list[str | int] = [BATCH, "encoder_sequence_length", sizes.width]
        encoded = graph.input("encoder_hidden_states", FLOAT, axes)
    for number in range(sizes.decoder_layers if past else 0):
        for side in ("decoder", "encoder"):
            for part in ("key", "value"):
                name = f"{number}.{side}.{part}"
                axes = [BATCH, heads, f"past_{side}_sequence_length", head_dim]
                pasts[name] = graph.input(f"past_key_values.{name}", FLOAT, axes)
    if past and states:
        use_cache = graph.input("use_cache_branch", BOOL, [1])
        none, all_ = graph.constant([0]), graph.size(encoded, 1)
        taken = graph.op("Where", use_cache, none, all_)
        row = graph.slice(encoded, none, graph.constant([1]), 1)
        encoded = graph.op("Concat", graph.slice(encoded, none, taken, 1), row, axis=1)
    n_past = graph.size(pasts["0.decoder.key"], 2) if past else None
    presents: dict[str, str] = {}

    def keys_values(number: int, layer: DecoderLayer, normed: str) -> tuple[Pair, Pair]:
        for side, attention, source in (
            ("decoder", layer.self_attn, normed),
            ("encoder", layer.encoder_attn, encoded),
        ):
            for part, linear in (("key", attention.k_proj), ("value", attention.v_proj)):
                name = f"{number}.{side}.{part}"
                if not source:
                    presents[name] = pasts[name]
                    continue
                new = graph.linear(source, linear)
                if past and side == "encoder":
                    new = graph.slice(new, graph.constant([0]), graph.constant([-1]), 1)
                new = graph.heads(new, attention)
                presents[name] = graph.op("Concat", pasts[name], new, axis=2) if past else new
        own, cross = (
            (presents[f"{number}.{side}.key"], presents[f"{number}.{side}.value"])
            for side in ("decoder", "encoder")
        )
        return own, cross

    logits = decode(graph, model.decoder, ids, n_past, keys_values)
    graph.output("logits", logits, [BATCH, "decoder_sequence_length", sizes.vocab_size])
    for name, value in presents.items():
        if states or ".decoder." in name:
            length = f"{name.split('.')[1]}_sequence_length_out"
            graph.output(f"present.{name}", value, [BATCH, heads, length, head_dim])
    graph.save(path)


def recogniser(folder: Path, files: ModelFiles) -> Recognise:
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
    rules, n_mels = files.generation_config, files.config["num_mel_bins"]

    def recognise(samples: Samples, language: str) -> str:
        mel = window_log_mel(samples, n_mels=n_mels, device=torch.device("cpu"))[None]
        feeds: dict[str, Any] = {
            each.name: np.zeros(
                [0 if isinstance(n, str) else n for n in [1, *each.shape[1:]]], "f4"
            )
            for each in decoder.get_inputs()
            if each.name.startswith("past_key_values.")
        }
        (feeds["encoder_hidden_states"],) = encoder.run(None, {"input_features": mel.numpy()})
        names = [each.name for each in decoder.get_outputs()]
        new_ids = tokenizer.prompt_ids(language=language, timestamps=False)
        found: list[int] = []
        while len(found) < MAX_NEW_TOKENS:
            feeds |= {
                "input_ids": np.array([new_ids]),
                "use_cache_branch": np.array([bool(found)]),
            }
            outputs = dict(zip(names, decoder.run(None, feeds), strict=True))
            logits = outputs["logits"][0, -1]
            first = [] if found else rules.get("begin_suppress_tokens") or []
            logits[[*(rules.get("suppress_tokens") or []), *first]] = -np.inf
            logits[tokenizer.timestamp_begin :] = -np.inf
            new_ids = [int(logits.argmax())]
            if new_ids[0] == tokenizer.eot:
                break
            found += new_ids
            feeds |= {
                name.replace("present", "past_key_values"): value
                for name, value in outputs.items()
                if name != "logits"
            }
        return tokenizer.decode(found)

    return recognise
