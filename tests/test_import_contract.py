"""What import-linter cannot see: torch brought in by a package's __init__ or by another library."""

import subprocess
import sys

import pytest

WITHOUT_TORCH = [
    "distilwhisper.corpus.records",
    "distilwhisper.corpus.store",
    "distilwhisper.filter",
    "distilwhisper.run",
    "distilwhisper.speech.audio",
    "distilwhisper.text.normalize",
    "distilwhisper.text.tokens",
    "distilwhisper.text.transcript",
    "distilwhisper.text.wer",
]


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_words_and_records_load_no_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
