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
    from distilwhisper.api import distil as distil
    from distilwhisper.api import evaluate as evaluate
    from distilwhisper.api import export as export
    from distilwhisper.api import filter as filter  # noqa: A004
    from distilwhisper.api import label as label
    from distilwhisper.corpus.importing.importer import import_data as import_data
    from distilwhisper.corpus.importing.settings import ImportSettings as ImportSettings
    from distilwhisper.decoding.settings import DecodingSettings as DecodingSettings
    from distilwhisper.errors import DistilwhisperError as DistilwhisperError
    from distilwhisper.evaluation.comparison import Comparison as Comparison
    from distilwhisper.exporting.settings import ExportSettings as ExportSettings
    from distilwhisper.filtering.settings import FilterSettings as FilterSettings
    from distilwhisper.loaded import Model as Model
    from distilwhisper.loaded import load_model as load_model
    from distilwhisper.model.delta import write_delta as write_delta
    from distilwhisper.model.hardware import Hardware as Hardware
    from distilwhisper.model.hub import import_model as import_model
    from distilwhisper.model.hub import resolve_model as resolve_model
    from distilwhisper.pipeline import Recipe as Recipe
    from distilwhisper.pipeline import run_recipe as run_recipe
    from distilwhisper.plan import plan_recipe as plan_recipe
    from distilwhisper.report.facts import read_facts as read_facts
    from distilwhisper.report.page import write_report as write_report
    from distilwhisper.run.processes import EngineSettings as EngineSettings
    from distilwhisper.run.settings import read_recipe as read_recipe
    from distilwhisper.stages.layers import StudentSettings as StudentSettings
    from distilwhisper.stages.settings import EvaluateSettings as EvaluateSettings
    from distilwhisper.stages.settings import LabelSettings as LabelSettings
    from distilwhisper.stages.settings import PlanSettings as PlanSettings
    from distilwhisper.stages.student import make_student as make_student
    from distilwhisper.text.formats import SubtitleSettings as SubtitleSettings
    from distilwhisper.text.transcript import Segment as Segment
    from distilwhisper.text.transcript import Transcript as Transcript
    from distilwhisper.text.transcript import Word as Word
    from distilwhisper.training.settings import TrainingSettings as TrainingSettings

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
    "report.facts": ("read_facts",),
    "report.page": ("write_report",),
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

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'distilwhisper' has no attribute {name!r}")
    value: object = getattr(import_module(f"distilwhisper.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
