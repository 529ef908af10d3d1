"""To sherpa-onnx: an encoder, a decoder and a list of tokens, with the sizes as metadata.

    encoder.onnx   mel -> n_layer_cross_k, n_layer_cross_v: keys and values for the decoder
    decoder.onnx   tokens, both caches of all 448 positions, offset -> logits, both caches
    tokens.txt     each text token in base 64, and its id

Keys and values are not split into heads; those of all layers are stacked on a first axis.

Source: k2-fsa/sherpa-onnx: ``scripts/whisper/export-onnx.py``,
``sherpa-onnx/csrc/offline-whisper-model.cc``.
"""

import base64
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from distilwhisper.exporting.graphs import FLOAT, INT64, Axes, Graph, decode, encode
from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.checkpoint import build_network
from distilwhisper.model.layout import ModelFiles, token_ids
from distilwhisper.model.openai import dims_of, suppressed_tokens
from distilwhisper.model.whisper import DecoderLayer, Whisper
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ
from distilwhisper.text.tokens import Tokenizer

LIBRARY = "sherpa-onnx"
CHECKED_BY = ("sherpa_onnx", "sherpa-onnx")
# Frames of silence behind the sound. With sherpa-onnx's own few, Whisper loses last words.
TAIL_PADDINGS = 3000
EXAMPLE = f"""\
```python
import sherpa_onnx, soundfile

folder = "path/to/this/folder"
recogniser = sherpa_onnx.OfflineRecognizer.from_whisper(
    encoder=f"{{folder}}/encoder.onnx",
    decoder=f"{{folder}}/decoder.onnx",
    tokens=f"{{folder}}/tokens.txt",
    tail_paddings={TAIL_PADDINGS},  # as Whisper was trained; with fewer it loses words
)
samples, rate = soundfile.read("talk.wav", dtype="float32")  # mono, at most 30 s
stream = recogniser.create_stream()
stream.accept_waveform(rate, samples)
recogniser.decode_stream(stream)
print(stream.result.text)
```
"""

BATCH = "n_audio"
PARTS = ("k", "v")


def write(files: ModelFiles, folder: Path, settings: ExportSettings, *, where: Path) -> list[str]:
    """Write the graphs and the tokens."""
    int8 = settings.written_dtype == "int8"
    model = build_network(files).float()
    tokenizer = Tokenizer.from_json(files.tokenizer_json, where=where)
    ids = token_ids(files.tokenizer_json, where=where)
    first_language = next(iter(tokenizer.languages), None)
    metadata = {
        "model_type": "whisper-distilwhisper",
        "version": 1,
        "maintainer": "distilwhisper",
        **dims_of(files),
        "sot_sequence": _listed(tokenizer.prompt_ids(language=first_language, timestamps=True)),
        "all_language_tokens": _listed(tokenizer.languages.values()),
        "all_language_codes": _listed(tokenizer.languages),
        "sot": tokenizer.sot,
        "sot_index": 0,
        "eot": tokenizer.eot,
        "blank_id": tokenizer.encode(" ")[0],
        "is_multilingual": int(tokenizer.is_multilingual),
        "no_speech": tokenizer.no_speech,
        "non_speech_tokens": _listed(suppressed_tokens(files.tokenizer_json, where=where)),
        "transcribe": ids["<|transcribe|>"],
        "translate": ids["<|translate|>"],
        "sot_lm": ids["<|startoflm|>"],
        "sot_prev": tokenizer.sot_prev,
        "no_timestamps": tokenizer.no_timestamps,
    }
    _encoder(model, int8=int8).save(folder / "encoder.onnx", metadata=metadata)
    _decoder(model, int8=int8).save(folder / "decoder.onnx")
    tokens = enumerate(tokenizer.text_tokens())
    lines = [f"{base64.b64encode(token).decode()} {i}\n" for i, token in tokens if token]
    (folder / "tokens.txt").write_text("".join(lines), encoding="ascii")
    return []


def _listed(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _encoder(model: Whisper, *, int8: bool) -> Graph:
    graph, sizes = Graph(int8=int8), model.config
    states = encode(graph, model, "mel", BATCH)
    axes: Axes = [sizes.decoder_layers, BATCH, sizes.max_frames, sizes.width]
    for part in PARTS:
        crosses = [getattr(layer.encoder_attn, f"{part}_proj") for layer in model.decoder.layers]
        made = [graph.linear(states, cross) for cross in crosses]
        graph.output(f"n_layer_cross_{part}", _stacked(graph, made), axes)
    return graph


def _decoder(model: Whisper, *, int8: bool) -> Graph:
    graph, sizes = Graph(int8=int8), model.config
    ids = graph.input("tokens", INT64, [BATCH, "n_tokens"])
    cache_axes: Axes = [sizes.decoder_layers, BATCH, sizes.max_tokens, sizes.width]
    cross_axes: Axes = [sizes.decoder_layers, BATCH, "n_frames", sizes.width]
    caches = [graph.input(f"in_n_layer_self_{p}_cache", FLOAT, cache_axes) for p in PARTS]
    crosses = [graph.input(f"n_layer_cross_{p}", FLOAT, cross_axes) for p in PARTS]
    offset = graph.input("offset", INT64, [1])
    stop = graph.op("Add", offset, graph.size(ids, 1))
    zero, end = graph.constant([0]), graph.constant([sizes.max_tokens])
    written: tuple[list[str], list[str]] = ([], [])

    def keys_values(number: int, layer: DecoderLayer, normed: str) -> list[str]:
        at = graph.constant(number)
        own, cross = layer.self_attn, layer.encoder_attn
        tokens = []
        for cached, linear, list_ in zip(caches, (own.k_proj, own.v_proj), written, strict=True):
            before = graph.op("Gather", cached, at, axis=0)
            past = graph.op("Slice", before, zero, offset, [1])
            now = graph.op("Concat", past, graph.linear(normed, linear), axis=1)
            tokens.append(graph.heads(now, own))
            rest = graph.op("Slice", before, stop, end, [1])
            list_.append(graph.op("Concat", now, rest, axis=1))
        sound = [graph.heads(graph.op("Gather", each, at, axis=0), cross) for each in crosses]
        return tokens + sound

    logits = decode(graph, model.decoder, ids, offset, keys_values)
    graph.output("logits", logits, [BATCH, "n_tokens", sizes.vocab_size])
    for part, list_ in zip(PARTS, written, strict=True):
        graph.output(f"out_n_layer_self_{part}_cache", _stacked(graph, list_), cache_axes)
    return graph


def _stacked(graph: Graph, values: list[str]) -> str:
    """Put one value of each layer behind the other on a new first axis."""
    axis = graph.constant([0])
    return graph.op("Concat", *(graph.op("Unsqueeze", v, axis) for v in values), axis=0)


def recogniser(folder: Path, files: ModelFiles) -> Callable[[Samples, str], str]:
    """Return the exported model at work, through sherpa-onnx on the CPU."""
    import sherpa_onnx

    is_multilingual = Tokenizer.from_json(files.tokenizer_json, where=folder).is_multilingual

    @cache  # it takes the language when it is made
    def model(language: str) -> Any:
        return sherpa_onnx.OfflineRecognizer.from_whisper(
            encoder=str(folder / "encoder.onnx"),
            decoder=str(folder / "decoder.onnx"),
            tokens=str(folder / "tokens.txt"),
            language=language if is_multilingual else "",
            num_threads=torch.get_num_threads(),
            tail_paddings=TAIL_PADDINGS,
        )

    def recognise(samples: Samples, language: str) -> str:
        stream = model(language).create_stream()
        stream.accept_waveform(SAMPLE_RATE_HZ, samples)
        model(language).decode_stream(stream)
        text: str = stream.result.text
        return text

    return recognise
