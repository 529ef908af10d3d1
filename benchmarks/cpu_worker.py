"""One engine of the benchmark ``cpu.py``, loaded once in a process and environment of its own.

    PYTHON cpu_worker.py '{"engine": "ours", "model": "FOLDER", "threads": 2, "options": {}}'

A line of JSON on standard output says that the model is loaded. From then on each line of standard
input is a request, {"files": ["a.npy"], "long_form": false}, and each gets one line of answer:
{"seconds": 0.5, "cpu_seconds": 0.9, "texts": ["..."], "peak_rss_mb": 400.0}. The files hold 16 kHz
float32 samples, and reading them is not timed. Greedy decoding without fallback temperatures,
everywhere.

Needs the standard library, numpy, and what the one engine needs.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

SAMPLE_RATE_HZ = 16_000
Engine = Callable[[Any, bool], str]  # samples, and whether they are a long recording


def load_ours(model: str, threads: int, options: Mapping[str, Any]) -> Engine:
    """Load this project; its options are fields of Hardware and of DecodingSettings."""
    import torch

    from distilwhisper.decoding.settings import DecodingSettings
    from distilwhisper.decoding.transcriber import Transcriber
    from distilwhisper.model.hardware import Hardware

    torch.set_num_threads(threads)
    # With timestamps, the default: without them, attention is asked where each text ends.
    settings = DecodingSettings(**options.get("settings", {}))
    hardware = Hardware(device="cpu", **options.get("hardware", {}))
    transcriber = Transcriber.from_model(model, settings, hardware)
    language = spoken(model)

    def transcribe(samples: Any, long_form: bool) -> str:
        return transcriber.transcribe(samples, language=language).text

    return transcribe


def load_openvino(model: str, threads: int, options: Mapping[str, Any]) -> Engine:
    """Load OpenVINO GenAI; options: precision."""
    import openvino_genai  # type: ignore[import-not-found]

    pipeline = openvino_genai.WhisperPipeline(
        model,
        "CPU",
        INFERENCE_PRECISION_HINT=options["precision"],
        INFERENCE_NUM_THREADS=threads,
        PERFORMANCE_HINT="LATENCY",
    )
    language = spoken(model)
    known = {"language": f"<|{language}|>", "task": "transcribe"} if language else {}

    def transcribe(samples: Any, long_form: bool) -> str:
        # With timestamps it goes through a recording window by window; without, it cuts blindly.
        return str(pipeline.generate(samples, return_timestamps=long_form, **known))

    return transcribe


def load_faster_whisper(model: str, threads: int, options: Mapping[str, Any]) -> Engine:
    """Load faster-whisper; options: compute_type, batch_size."""
    from faster_whisper import (  # type: ignore[import-not-found]
        BatchedInferencePipeline,
        WhisperModel,
    )

    one = WhisperModel(
        model, device="cpu", compute_type=options["compute_type"], cpu_threads=threads
    )
    many = BatchedInferencePipeline(one)
    common = {"language": "en", "beam_size": 1, "temperature": 0.0, "without_timestamps": True}

    def transcribe(samples: Any, long_form: bool) -> str:
        if long_form:
            segments, _ = many.transcribe(samples, batch_size=options["batch_size"], **common)
        else:
            segments, _ = one.transcribe(samples, condition_on_previous_text=False, **common)
        return "".join(segment.text for segment in segments)

    return transcribe


def load_transformers(model: str, threads: int, options: Mapping[str, Any]) -> Engine:
    """Load transformers, sequential in long form; options: dtype."""
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    torch.set_num_threads(threads)
    dtype = getattr(torch, options["dtype"])
    network = WhisperForConditionalGeneration.from_pretrained(model, dtype=dtype).eval()
    processor: Any = WhisperProcessor.from_pretrained(model)
    language = spoken(model)
    known: dict[str, Any] = {"language": language, "task": "transcribe"} if language else {}
    whole = {"truncation": False, "padding": "longest", "return_attention_mask": True}
    sequential = {"return_timestamps": True, "temperature": 0.0, "condition_on_prev_tokens": False}

    @torch.inference_mode()
    def transcribe(samples: Any, long_form: bool) -> str:
        inputs: Any = processor(
            samples,
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            **(whole if long_form else {}),
        )
        inputs["input_features"] = inputs["input_features"].to(dtype)
        token_ids = network.generate(**inputs, **known, **(sequential if long_form else {}))
        return str(processor.batch_decode(token_ids, skip_special_tokens=True)[0])

    return transcribe


def load_openai_whisper(model: str, threads: int, options: Mapping[str, Any]) -> Engine:
    """Load openai-whisper in float32, from a folder in its own format; no options."""
    import torch
    import whisper

    torch.set_num_threads(threads)
    network = whisper.load_model(str(Path(model) / "model.pt"), device="cpu")

    def transcribe(samples: Any, long_form: bool) -> str:
        found = network.transcribe(
            samples,
            language="en",
            temperature=0.0,
            fp16=False,
            without_timestamps=not long_form,
            verbose=None,
        )
        return str(found["text"])

    return transcribe


def load_whisper_cpp(model: str, threads: int, options: Mapping[str, Any]) -> Engine:
    """Load whisper.cpp; no options."""
    from pywhispercpp.model import Model  # type: ignore[import-not-found]

    network = Model(
        str(Path(model) / "ggml.bin"),
        redirect_whispercpp_logs_to=None,
        n_threads=threads,
        language="en",
        print_progress=False,
        temperature_inc=0.0,  # no fallback
        greedy={"best_of": 1},
    )

    def transcribe(samples: Any, long_form: bool) -> str:
        segments = network.transcribe(samples, no_timestamps=not long_form)
        return " ".join(segment.text for segment in segments)

    return transcribe


def load_echo(model: str, threads: int, options: Mapping[str, Any]) -> Engine:
    """Hear nothing, and say how much there was to hear; for tests of the protocol."""

    def transcribe(samples: Any, long_form: bool) -> str:
        return f"{model} {len(samples)} {'long' if long_form else 'short'}"

    return transcribe


ENGINES: dict[str, Callable[[str, int, Mapping[str, Any]], Engine]] = {
    "ours": load_ours,
    "openvino": load_openvino,
    "faster-whisper": load_faster_whisper,
    "transformers": load_transformers,
    "openai-whisper": load_openai_whisper,
    "whisper.cpp": load_whisper_cpp,
    "echo": load_echo,
}


def spoken(model: str) -> str | None:
    """Return the language to tell a multilingual model; an English-only one refuses any."""
    config = json.loads((Path(model) / "config.json").read_text())
    return "en" if config["vocab_size"] > 51864 else None  # English-only models have 51,864 tokens


def serve(engine: Engine, requests: Iterable[str], answers: TextIO) -> None:
    """Answer each request, to the end of the requests."""
    for line in requests:
        request = json.loads(line)
        recordings = [np.load(file) for file in request["files"]]
        answer = json.dumps(timed(engine, recordings, long_form=request["long_form"]))
        print(answer, file=answers, flush=True)


def timed(engine: Engine, recordings: Sequence[Any], *, long_form: bool) -> dict[str, Any]:
    """Transcribe recordings one after the other, and tell what that took."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    texts = [engine(samples, long_form) for samples in recordings]
    seconds, cpu_seconds = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "texts": texts,
        "peak_rss_mb": round(peak_rss_mb, 1),
    }


def main(arguments: Sequence[str]) -> None:
    """Load what the one argument asks for and serve it."""
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.loads(arguments[0])
    engine = ENGINES[asked["engine"]](asked["model"], asked["threads"], asked["options"])
    print(json.dumps({"ready": True}), file=answers, flush=True)
    serve(engine, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
