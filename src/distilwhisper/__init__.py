"""Make big Whisper speech models small, fast and trustworthy, with proof.

    import distilwhisper as dw

    model = dw.load_model("base")
    result = model.transcribe("talk.mp3")
    result.save("talk.srt")

Names are imported when they are first used, so that ``import distilwhisper`` takes no time.
"""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8").splitlines()
# Of "from HOME import NAME as NAME".
_HOME_OF = {words[3]: words[1] for words in map(str.split, _STUB) if words[:1] == ["from"]}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'distilwhisper' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
