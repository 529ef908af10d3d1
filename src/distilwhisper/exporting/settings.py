"""What a model is exported to, and in which numbers."""

from dataclasses import dataclass
from typing import Literal

from distilwhisper.checks import AT_LEAST_0, check_rules, ruled

Target = Literal["ctranslate2", "ggml", "openai", "onnx", "sherpa"]

# The types that each target's weights are written in; the first is taken where none is named.
DTYPES: dict[Target, tuple[str, ...]] = {
    "ctranslate2": ("float16", "float32", "bfloat16", "int8", "int8_float16"),
    "ggml": ("float16", "q8_0", "q5_0"),
    "openai": ("float16", "float32"),
    "onnx": ("float32", "int8"),
    "sherpa": ("float32", "int8"),
}


@dataclass(frozen=True)
class ExportSettings:
    """What a model is exported to, and how far it may fall behind the original."""

    to: Target
    """ctranslate2: faster-whisper. ggml: whisper.cpp. openai: openai-whisper. onnx: onnxruntime and
    transformers.js, in optimum's layout. sherpa: sherpa-onnx."""
    dtype: str | None = None
    """Of the weights. ctranslate2: float16 (where none is named), float32, bfloat16, int8 or
    int8_float16; ggml: float16, q8_0 or q5_0; openai: float16 or float32; onnx and sherpa: float32
    or int8."""
    third_layer: bool = False
    """ggml: give a two-layer student a third decoder layer that changes nothing, without which
    whisper.cpp times no segments of it."""
    max_wer_increase: float = ruled(0.5, AT_LEAST_0)
    """Points of WER by which the exported model may be worse than the original on a checked set."""

    def __post_init__(self) -> None:
        dtypes = DTYPES.get(self.to, ())
        check_rules(
            self,
            bool(dtypes)
            and self.written_dtype not in dtypes
            and f"dtype must be one of {', '.join(dtypes)} for {self.to}, found {self.dtype}",
            (self.to, self.dtype) == ("ggml", "float32")
            and "whisper.cpp ends the whole process on float32 weights on a CPU",
            self.third_layer
            and self.to != "ggml"
            and f"third_layer is for ggml alone, found {self.to}",
        )

    @property
    def written_dtype(self) -> str:
        """The type that the weights are written in."""
        return self.dtype or DTYPES[self.to][0]
