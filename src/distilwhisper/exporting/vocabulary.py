"""The text tokens of a vocabulary as bytes, for formats that keep no ``tokenizer.json``."""

import json

PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def text_tokens(tokenizer_json: str, *, end_of_text: int) -> list[bytes]:
    """Return the bytes of every token before the end-of-text one, in the order of their ids.

    A byte-level vocabulary writes each byte as a letter: one that is printed as itself, and any
    other as the next letter from 256 on.

    Source: openai/gpt-2: ``src/encoder.py``, ``bytes_to_unicode``.
    """
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    byte_of = {chr(byte): byte for byte in PRINTABLE}
    byte_of |= {chr(256 + place): byte for place, byte in enumerate(others)}
    tokens = [b""] * end_of_text
    for token, token_id in json.loads(tokenizer_json)["model"]["vocab"].items():
        if token_id < end_of_text:
            tokens[token_id] = bytes(byte_of[letter] for letter in token)
    return tokens
