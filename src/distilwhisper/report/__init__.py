"""What a finished run says of itself: a page for people, a card for the model."""

from distilwhisper.report.card import write_card
from distilwhisper.report.facts import RunFacts, read_facts
from distilwhisper.report.page import write_report

__all__ = ["RunFacts", "read_facts", "write_card", "write_report"]
