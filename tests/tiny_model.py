"""The package's own tiny model, under the name that tests know."""

from distilwhisper.model.tiny import LANGUAGES, tokenizer_json, write_tiny_model

__all__ = ["LANGUAGES", "tokenizer_json", "write_tiny_model"]
