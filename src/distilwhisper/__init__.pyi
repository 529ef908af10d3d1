# The names of the package: type checkers read them here, and the package itself does, a line each.
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
from distilwhisper.model.delta import write_delta as write_delta
from distilwhisper.model.hardware import Hardware as Hardware
from distilwhisper.model.hub import import_model as import_model
from distilwhisper.model.hub import resolve_model as resolve_model
from distilwhisper.pipeline import run_recipe as run_recipe
from distilwhisper.plan import plan_recipe as plan_recipe
from distilwhisper.recipe import Recipe as Recipe
from distilwhisper.report.facts import read_facts as read_facts
from distilwhisper.report.page import write_report as write_report
from distilwhisper.run.processes import EngineSettings as EngineSettings
from distilwhisper.run.settings import read_recipe as read_recipe
from distilwhisper.stages.layers import StudentSettings as StudentSettings
from distilwhisper.stages.settings import EvaluateSettings as EvaluateSettings
from distilwhisper.stages.settings import LabelSettings as LabelSettings
from distilwhisper.stages.settings import PlanSettings as PlanSettings
from distilwhisper.stages.student import make_student as make_student
from distilwhisper.text.transcript import Segment as Segment
from distilwhisper.text.transcript import SubtitleSettings as SubtitleSettings
from distilwhisper.text.transcript import Transcript as Transcript
from distilwhisper.text.transcript import Word as Word
from distilwhisper.training.settings import TrainingSettings as TrainingSettings
from distilwhisper.transcribe import Model as Model
from distilwhisper.transcribe import load_model as load_model

__version__: str
