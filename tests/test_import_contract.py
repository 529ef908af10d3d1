"""What import-linter cannot see: what a package's __init__ or another library brings in."""

import subprocess
import sys

import pytest

WITHOUT_TORCH = [
    "distilwhisper.corpus.records",
    "distilwhisper.corpus.store",
    "distilwhisper.stages.filter",
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


@pytest.mark.parametrize("arguments", [["--help"], ["lable"], ["transcribe", "--modle", "m"]])
def test_the_command_line_says_what_it_takes_without_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from distilwhisper.cli import call; "
        f"call({arguments}); print({{'torch', 'numpy'}} & set(sys.modules), file=sys.stdout)"
    )
    shown = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert shown.splitlines()[-1] == "set()"
