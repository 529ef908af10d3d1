"""The server to compare with: FastAPI and faster-whisper, as a page of code makes it.

    distilwhisper export MODEL FOLDER --to ctranslate2 --dtype int8
    python benchmarks/serve_peer.py FOLDER --port 8001
    python benchmarks/serve_load.py http://127.0.0.1:8000 MODEL FILE... --pid PID
    python benchmarks/serve_load.py http://127.0.0.1:8001 any FILE... --pid PID

Both servers run at once and are asked in turn, several times: the machine is then alike for both.
"""

import argparse
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Form, UploadFile
from faster_whisper import WhisperModel


def make_app(folder: str, n_threads: int) -> FastAPI:
    """Return the application; requests are decoded one at a time each, in FastAPI's own threads."""
    app = FastAPI()
    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=n_threads)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/audio/transcriptions")
    def transcribe(
        file: Annotated[UploadFile, File()], model_name: Annotated[str, Form(alias="model")]
    ) -> dict[str, str]:
        segments, _ = model.transcribe(file.file, beam_size=1, language="en")
        return {"text": "".join(segment.text for segment in segments).strip()}

    return app


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    uvicorn.run(make_app(asked.folder, asked.threads), port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
