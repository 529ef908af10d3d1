"""Make big Whisper speech models small, fast and trustworthy, with proof.

    import distilwhisper as dw

    model = dw.load_model("base")
    result = model.transcribe("talk.mp3")
    result.save("talk.srt")

Names are imported when they are first used, so that ``import distilwhisper`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distilwhisper.api import distil, evaluate, export, filter, label  # noqa: A004
    from distilwhisper.corpus.importing.importer import import_data
    from distilwhisper.corpus.importing.settings import ImportSettings
    from distilwhisper.decoding.settings import DecodingSettings
    from distilwhisper.errors import DistilwhisperError
    from distilwhisper.evaluation.comparison import Comparison
    from distilwhisper.exporting.settings import ExportSettings
    from distilwhisper.filtering.settings import FilterSettings
    from distilwhisper.loaded import Model, load_model
    from distilwhisper.model.delta import write_delta
    from distilwhisper.model.hardware import Hardware
    from distilwhisper.model.hub import import_model, resolve_model
    from distilwhisper.pipeline import Recipe, run_recipe
    from distilwhisper.plan import plan_recipe
    from distilwhisper.report import read_facts, write_report
    from distilwhisper.run.processes import EngineSettings
    from distilwhisper.run.settings import read_recipe
    from distilwhisper.stages.layers import StudentSettings
    from distilwhisper.stages.settings import EvaluateSettings, LabelSettings, PlanSettings
    from distilwhisper.stages.student import make_student
    from distilwhisper.text.formats import SubtitleSettings
    from distilwhisper.text.transcript import Segment, Transcript, Word
    from distilwhisper.training.settings import TrainingSettings

__version__ = "0.1.0"

_HOMES = {
    "api": ("distil", "evaluate", "export", "filter", "label"),
    "corpus.importing.importer": ("import_data",),
    "corpus.importing.settings": ("ImportSettings",),
    "decoding.settings": ("DecodingSettings",),
    "errors": ("DistilwhisperError",),
    "evaluation.comparison": ("Comparison",),
    "exporting.settings": ("ExportSettings",),
    "filtering.settings": ("FilterSettings",),
    "loaded": ("Model", "load_model"),
    "model.delta": ("write_delta",),
    "model.hardware": ("Hardware",),
    "model.hub": ("import_model", "resolve_model"),
    "pipeline": ("Recipe", "run_recipe"),
    "plan": ("plan_recipe",),
    "report": ("read_facts", "write_report"),
    "run.processes": ("EngineSettings",),
    "run.settings": ("read_recipe",),
    "stages.layers": ("StudentSettings",),
    "stages.settings": ("EvaluateSettings", "LabelSettings", "PlanSettings"),
    "stages.student": ("make_student",),
    "text.formats": ("SubtitleSettings",),
    "text.transcript": ("Segment", "Transcript", "Word"),
    "training.settings": ("TrainingSettings",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Comparison",
    "DecodingSettings",
    "DistilwhisperError",
    "EngineSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FilterSettings",
    "Hardware",
    "ImportSettings",
    "LabelSettings",
    "Model",
    "PlanSettings",
    "Recipe",
    "Segment",
    "StudentSettings",
    "SubtitleSettings",
    "TrainingSettings",
    "Transcript",
    "Word",
    "__version__",
    "distil",
    "evaluate",
    "export",
    "filter",
    "import_data",
    "import_model",
    "label",
    "load_model",
    "make_student",
    "plan_recipe",
    "read_facts",
    "read_recipe",
    "resolve_model",
    "run_recipe",
    "write_delta",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'distilwhisper' has no attribute {name!r}")
    value: object = getattr(import_module(f"distilwhisper.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
