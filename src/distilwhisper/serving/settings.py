"""How a server behaves; its limits have an error of their own each."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServeSettings:
    """How a server behaves towards its callers."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all of this machine."""
    port: int = 8000
    """Port to listen at; 0: a free one."""
    api_key_file: Path | None = None
    """A file of keys, one a line; callers must show one of them. None: anybody may call."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins may call, such as https://example.org; others may not."""

    live_margin_s: float | None = None
    """Captions: encode the sound of a pass and this much silence, instead of 30 s, for students
    that were trained so; none: 30 s."""
    live_prompt: bool = False
    """Captions: tell each utterance the text before it, for models that were taught prompts."""

    preload: bool = False
    """Load all models at the start, instead of each when it is first asked for."""
    idle_unload_s: float | None = None
    """Forget a model that was not asked for so long; none: never."""
    max_memory_gb: float | None = None
    """Weights that are held at a time; a model that was not asked for the longest makes room."""

    max_upload_mb: float = 100.0
    """Size of a request."""
    max_duration_s: float = 7200.0
    """Length of a recording."""
    max_requests: int = 64
    """Requests at once, those that wait included."""
    max_sessions: int = 8
    """Realtime sessions at once."""
    upload_timeout_s: float = 120.0
    """Time for a request to arrive."""
    request_timeout_s: float = 1800.0
    """Time for its answer, from then on."""
    sound_memory_mb: int = 1024
    """Memory of the process that decodes a file to sound."""
    sound_timeout_s: float = 120.0
    """Time of the process that decodes a file to sound."""
    drain_s: float = 30.0
    """Time for running requests to finish when the server is told to stop."""

    def __post_init__(self) -> None:
        for name in (
            "max_upload_mb",
            "max_duration_s",
            "max_requests",
            "max_sessions",
            "upload_timeout_s",
            "request_timeout_s",
            "sound_memory_mb",
            "sound_timeout_s",
            "idle_unload_s",
            "max_memory_gb",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, found {value:g}")
        if self.live_margin_s is not None and self.live_margin_s < 0:
            raise ValueError(f"live_margin_s must be at least 0, found {self.live_margin_s:g}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must lie in [0, 65535], found {self.port}")
        if not self.drain_s >= 0:
            raise ValueError(f"drain_s must be at least 0, found {self.drain_s:g}")


def named_models(sources: tuple[str, ...]) -> dict[str, str]:
    """Return what each model is called, and where it is.

    Args:
        sources: ``NAME=SOURCE`` or a source alone, a folder or hub id. A folder is called by its
            last part, a hub id by itself.

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
