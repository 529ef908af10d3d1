"""The example page's module in Node, with a real model on real speech."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.exporting.exporter import export_model
from distilwhisper.exporting.settings import ExportSettings
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import Samples

pytest.importorskip("onnx")

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser" / "transcribe.js"
PROGRAM = """
import fs from "node:fs";
import { load, transcribe } from "./transcribe.js";
const [folder, dtype, ...files] = process.argv.slice(2);
const model = await load(folder, dtype);
const texts = [];
for (const file of files) {
  const bytes = fs.readFileSync(file);
  const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  texts.push(await transcribe(model, samples));
}
console.log(JSON.stringify(texts));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's module, and transformers.js beside it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(EXAMPLE, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "program.js").write_text(PROGRAM)
    install = ["npm", "install", "@huggingface/transformers", "--prefer-offline", "--no-audit"]
    # What Node runs is in the package; only what needs a GPU would be fetched from elsewhere.
    environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    done = subprocess.run(install, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the package @huggingface/transformers: {done.stderr[-200:]}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "name"), [("float32", "fp32"), ("int8", "q8")])
def test_the_page_transcribes_as_the_original(
    page: Path,
    tiny_en: Path,
    prompts: list[tuple[Samples, str]],
    tmp_path: Path,
    dtype: str,
    name: str,
) -> None:
    export_model(str(tiny_en), tmp_path / "student", ExportSettings(to="onnx", dtype=dtype))
    files = []
    for number, (samples, _) in enumerate(prompts):
        samples.astype("<f4").tofile(tmp_path / f"{number}.f32")
        files.append(str(tmp_path / f"{number}.f32"))
    program = ["node", "program.js", str(tmp_path / "student"), name, *files]
    done = subprocess.run(program, cwd=page, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    model = Transcriber.from_model(str(tiny_en), hardware=Hardware("cpu", "float32"))
    wanted = [window.text.strip() for window in model.decode([samples for samples, _ in prompts])]
    n_equal = sum(ours == theirs for ours, theirs in zip(wanted, found, strict=True))
    assert n_equal >= (len(wanted) - 1 if dtype == "float32" else len(wanted) // 2)
