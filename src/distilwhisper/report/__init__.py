"""Reports on finished folders: a page for people, a card for the model."""

from distilwhisper.report.facts import (
    ComparisonFacts,
    RunFacts,
    error_rate,
    read_facts,
    read_run,
)
from distilwhisper.report.page import REPORT, write_card, write_comparison_report, write_report

__all__ = [
    "REPORT",
    "ComparisonFacts",
    "RunFacts",
    "error_rate",
    "read_facts",
    "read_run",
    "write_card",
    "write_comparison_report",
    "write_report",
]
