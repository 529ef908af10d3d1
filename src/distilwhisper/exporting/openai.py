"""To openai-whisper: one ``model.pt`` that ``whisper.load_model`` takes by its path.

Source: openai/whisper: ``whisper/__init__.py``, ``load_model``; ``whisper/model.py``.
"""

import base64
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distilwhisper.decoding.alignment import alignment_heads
from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.layout import ModelFiles
from distilwhisper.model.openai import check_conventions, dims_of, openai_name
from distilwhisper.model.whisper import WhisperConfig
from distilwhisper.speech.audio import Samples

LIBRARY = "openai-whisper"
CHECKED_BY = ("whisper", "openai-whisper")
EXAMPLE = """\
```python
import whisper

model = whisper.load_model("path/to/this/folder/model.pt")
print(model.transcribe("talk.mp3")["text"])
```
"""


def write(files: ModelFiles, folder: Path, settings: ExportSettings, *, where: Path) -> list[str]:
    """Write ``model.pt``; return how to set the heads that it does not hold."""
    check_conventions(files, where=where)
    dtype = getattr(torch, settings.written_dtype)
    weights = {openai_name(n): w.to(dtype).contiguous() for n, w in files.weights.items()}
    checkpoint = {"dims": dims_of(files), "model_state_dict": weights}
    content = io.BytesIO()  # torch, writing to a disk that is full, does not say so
    torch.save(checkpoint, content)
    (folder / "model.pt").write_bytes(content.getbuffer())
    sizes = WhisperConfig.from_hf(files.config)
    heads = alignment_heads(files.generation_config, sizes)
    if heads is None:
        return []
    mask = np.zeros((sizes.decoder_layers, sizes.decoder_heads), dtype=bool)
    mask[tuple(np.transpose(heads))] = True
    packed = base64.b85encode(gzip.compress(mask.tobytes(), mtime=0)).decode()
    return [
        "The file holds no alignment heads, and word_timestamps=True would take all heads of the "
        f"upper half of the decoder. Set the model's own first: "
        f"`model.set_alignment_heads(b{packed!r})`"
    ]


def recogniser(folder: Path, files: ModelFiles) -> Callable[[Samples, str], str]:
    """Return the exported model at work, through openai-whisper on the CPU in float32."""
    import whisper

    model = whisper.load_model(str(folder / "model.pt"), device="cpu")

    def recognise(samples: Samples, language: str) -> str:
        padded = whisper.pad_or_trim(samples)
        mel = whisper.log_mel_spectrogram(padded, n_mels=model.dims.n_mels)
        options = whisper.DecodingOptions(language=language, without_timestamps=True, fp16=False)
        text: str = whisper.decode(model, mel, options).text
        return text

    return recognise
