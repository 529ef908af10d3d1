"""How a server behaves; its limits have an error of their own each."""

from dataclasses import dataclass
from pathlib import Path

from distilwhisper.checks import ABOVE_0, AT_LEAST_0, Checked, Rule, ruled

_PORT: Rule = ("lie in [0, 65535]", lambda port: 0 <= port <= 65535)


@dataclass(frozen=True)
class ServeSettings(Checked):
    """How a server behaves towards its callers."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all of this machine."""
    port: int = ruled(8000, _PORT)
    """Port to listen at; 0: a free one."""
    api_key_file: Path | None = None
    """A file of keys, one a line; callers must show one of them. None: anybody may call."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins may call, such as https://example.org; others may not."""

    live_margin_s: float | None = ruled(None, AT_LEAST_0)
    """Captions: encode the sound of a pass and this much silence, instead of 30 s, for students
    that were trained so; none: 30 s."""
    live_prompt: bool = False
    """Captions: the prompt of a pass is the text before it. For models trained with prompts."""

    preload: bool = False
    """Load all models at the start, instead of each when it is first asked for."""
    idle_unload_s: float | None = ruled(None, ABOVE_0)
    """Forget a model that was not asked for so long; none: never."""
    max_memory_gb: float | None = ruled(None, ABOVE_0)
    """Weights that are held at a time; a model that was not asked for the longest makes room."""

    max_upload_mb: float = ruled(100.0, ABOVE_0)
    """Size of a request."""
    max_duration_s: float = ruled(7200.0, ABOVE_0)
    """Length of a recording."""
    max_requests: int = ruled(64, ABOVE_0)
    """Requests at once, those that wait included."""
    max_sessions: int = ruled(8, ABOVE_0)
    """Realtime sessions at once."""
    upload_timeout_s: float = ruled(120.0, ABOVE_0)
    """Time for a request to arrive."""
    request_timeout_s: float = ruled(1800.0, ABOVE_0)
    """Time for its answer, from then on."""
    sound_memory_mb: int = ruled(1024, ABOVE_0)
    """Memory of the process that decodes a file to sound."""
    sound_timeout_s: float = ruled(120.0, ABOVE_0)
    """Time of the process that decodes a file to sound."""
    drain_s: float = ruled(30.0, AT_LEAST_0)
    """Time for running requests to finish once a signal has come."""


def named_models(sources: tuple[str, ...]) -> dict[str, str]:
    """Return what each model is called, and where it is.

    A source is ``NAME=SOURCE`` or a folder or hub id alone. A folder is called by its last part, a
    hub id by itself.

    Raises:
        ValueError: there is none, or two of one name.
    """
    if not sources:
        raise ValueError("name at least one model to serve: --model FOLDER or --model NAME=FOLDER")
    models: dict[str, str] = {}
    for text in sources:
        name, _, source = text.rpartition("=")
        name = name or (Path(source).resolve().name if Path(source).is_dir() else source)
        if name in models:
            raise ValueError(
                f"every model needs a name of its own, found {name!r} twice: "
                "tell them apart by --model NAME=FOLDER"
            )
        models[name] = source
    return models
