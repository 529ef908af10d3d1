"""Whisper's vocabulary: text to ids and back, and the ids that are no text."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import tokenizers

from distilwhisper.languages import LANGUAGES, language_code

Task = Literal["transcribe", "translate"]

LAST_TIMESTAMP_S = 30.0
MAX_PREVIOUS_TOKENS = 223  # half of the decoder's 448 positions, less one for <|startofprev|>

TIMESTAMPS_PER_SECOND = 50
_N_TIMESTAMPS = 1501  # 0.00, 0.02, ... 30.00

# A byte-level vocabulary writes each byte as a letter: one that is printed as itself, and any other
# as the next letter from 256 on. Source: openai/gpt-2: ``src/encoder.py``, ``bytes_to_unicode``.
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_BYTES = {chr(byte): byte for byte in _PRINTED} | {chr(256 + i): b for i, b in enumerate(_OTHERS)}

# GPT-2's vocabulary has 50,256 pieces, so the token that ends an English-only text has this
# id. The multilingual vocabulary has one piece more.
_ENGLISH_ONLY_EOT = 50_256

_SPECIAL = re.compile(r"<\|[^|]+\|>")
# Between a letter or digit and "|>" there is always a boundary of the byte-level split, so
# cutting here breaks every written-out special token and changes no other encoding.
_INSIDE_SPECIAL = re.compile(r"(?<=[A-Za-z0-9])(?=\|>)")


class BadTokenizer(ValueError):
    """A tokenizer.json that is missing, unreadable or lacks tokens that Whisper needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """The vocabulary of one Whisper model. Build it with :meth:`from_json`.

    The ids of special tokens were found by their text, so every published vocabulary works:
    51,864 ids (English only), 51,865 and 51,866 (multilingual, without and with Cantonese).

    The published files of ".en" models hold language and task tokens all the same, as Whisper gives
    both vocabularies one list of special tokens. Those models never learned them, so here they
    count as special ids and no more.
    """

    core: tokenizers.Tokenizer = field(repr=False)  # the byte-level BPE; better use the methods
    is_multilingual: bool
    languages: Mapping[str, int]  # code to id of every language token; empty when English only
    eot: int  # ends a text; Whisper pads with it too
    sot: int  # starts a transcript
    sot_prev: int  # starts the text of the window before
    no_speech: int  # its probability at the first position is that of a window without speech
    no_timestamps: int  # the last id of a prompt that asks for text alone
    transcribe: int | None  # the task; None when English only
    translate: int | None  # the task, into English; None when English only
    timestamp_begin: int  # the id of 0.00 s; 1,500 more follow in steps of 0.02 s
    special_ids: frozenset[int] = field(repr=False)  # every id that carries no text

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json of a Hugging Face model folder; as :meth:`from_json`."""
        path = folder / "tokenizer.json"
        try:
            return cls.from_json(path.read_text(encoding="utf-8"), where=path)
        except (OSError, UnicodeDecodeError) as error:
            raise BadTokenizer(
                f"a model folder must hold a readable tokenizer.json: {error}; re-import the model"
            ) from error

    @classmethod
    def from_json(cls, text: str, *, where: Path) -> "Tokenizer":
        """Make a tokenizer of the text of a tokenizer.json, which came from a place.

        One that cannot be read or lacks tokens, as files for other engines do, is a BadTokenizer.
        """
        try:
            core = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises this bare class for every fault of a file
            raise BadTokenizer(
                f"tokenizer.json must be a file of the tokenizers library: {where}: {error}; "
                "re-import the model"
            ) from error
        # Some files were saved with both switched on for training; texts would be cut or padded.
        core.no_truncation()
        core.no_padding()
        special = {t: token_id for t, token_id in core.get_vocab().items() if _SPECIAL.fullmatch(t)}
        required = partial(_required_id, special, where)
        eot = required("<|endoftext|>")
        languages = {c: special[f"<|{c}|>"] for c in LANGUAGES if f"<|{c}|>" in special}
        is_multilingual = eot != _ENGLISH_ONLY_EOT and bool(languages)
        first, last = special.get("<|0.00|>"), special.get("<|30.00|>")
        if first is None or last is None or last - first != _N_TIMESTAMPS - 1:
            raise BadTokenizer(
                f"a Whisper vocabulary must hold the {_N_TIMESTAMPS} timestamps <|0.00|> ... "
                f"<|30.00|> in a row, found ids {first} and {last} for the two ends in {where}; "
                "folders made for other engines often lack them: re-import the model with "
                "`distilwhisper import`"
            )
        return cls(
            core=core,
            is_multilingual=is_multilingual,
            languages=languages if is_multilingual else {},
            eot=eot,
            sot=required("<|startoftranscript|>"),
            sot_prev=required("<|startofprev|>"),
            no_speech=required("<|nospeech|>", "<|nocaptions|>"),
            no_timestamps=required("<|notimestamps|>"),
            transcribe=required("<|transcribe|>") if is_multilingual else None,
            translate=required("<|translate|>") if is_multilingual else None,
            timestamp_begin=first,
            special_ids=frozenset(special.values()),
        )

    def encode(self, text: str) -> list[int]:
        """The ids of a text, exactly as written.

        Nothing is added: give ``" " + text.strip()`` for what a model would write. Only text comes
        out: a special token that is written out, such as "<|endoftext|>", is encoded as the
        characters it is made of, as a transcript must not be able to end itself.
        """
        return [
            token_id
            for piece in _INSIDE_SPECIAL.split(text)
            for token_id in self.core.encode(piece, add_special_tokens=False).ids
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; special tokens and timestamps are skipped wherever they stand.

        So is the text before, where ids begin with start-of-prev. Bytes that are no whole
        character, as at the end of a text that was cut, become U+FFFD. As in transformers.
        """
        own_ids = list(ids)
        if own_ids and own_ids[0] == self.sot_prev:
            own_ids = own_ids[own_ids.index(self.sot) :] if self.sot in own_ids else []
        # Our list goes first: most files do not flag timestamps as special.
        text_ids = [token_id for token_id in own_ids if token_id not in self.special_ids]
        return self.core.decode(text_ids, skip_special_tokens=True)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a text token, which may be part of a character; none if there is no such."""
        return bytes(_BYTES[letter] for letter in self.core.id_to_token(token_id) or "")

    def text_tokens(self) -> list[bytes]:
        """The bytes of every text token, in the order of their ids."""
        return [self.token_bytes(token_id) for token_id in range(self.eot)]

    def is_special(self, token_id: int) -> bool:
        """Whether an id carries no text: a control, language, task or timestamp token."""
        return token_id in self.special_ids

    def is_timestamp(self, token_id: int) -> bool:
        """Whether an id is one of the 1,501 timestamps."""
        return 0 <= token_id - self.timestamp_begin < _N_TIMESTAMPS

    def timestamp_s(self, token_id: int) -> float:
        """Seconds from the start of the window: the float nearest to the token's two decimals."""
        if not self.is_timestamp(token_id):
            last = self.timestamp_begin + _N_TIMESTAMPS - 1
            raise ValueError(
                f"a timestamp id must lie in {self.timestamp_begin} ... {last}, found {token_id}"
            )
        return (token_id - self.timestamp_begin) / TIMESTAMPS_PER_SECOND

    def timestamp_id(self, seconds: float) -> int:
        """The id of the timestamp nearest to a time in the window, 0 to 30 s; halves go up."""
        if not 0.0 <= seconds <= LAST_TIMESTAMP_S:
            raise ValueError(
                f"a timestamp must lie in 0 ... {LAST_TIMESTAMP_S:g} s, found {seconds}; "
                "count from the start of its window"
            )
        return self.timestamp_begin + math.floor(seconds * TIMESTAMPS_PER_SECOND + 0.5)

    def language_code(self, name_or_code: str) -> str:
        """The code of a language, as by :func:`language_code`; one without a token is refused."""
        code = language_code(name_or_code)
        if code not in (self.languages if self.is_multilingual else ("en",)):
            scope = f"{len(self.languages)} languages" if self.is_multilingual else "English only"
            raise ValueError(
                f"this vocabulary must hold the language asked for, found {scope} and no "
                f'"{code}" ({LANGUAGES[code]}); use a model that knows it'
            )
        return code

    def prompt_ids(
        self, *, language: str | None, task: Task = "transcribe", timestamps: bool
    ) -> list[int]:
        """The ids that the decoder is given before it writes.

        Start of transcript, language (a code or a name), task and, unless timestamps are wanted,
        no-timestamps. An English-only model takes English or None, cannot translate, and has
        neither of the two; a multilingual one must be given a language.
        """
        ids = [self.sot]
        if language is not None:
            language = self.language_code(language)
        if self.transcribe is not None and self.translate is not None:
            if language is None:
                raise ValueError(
                    "a multilingual model needs a language, found None; "
                    "name one, or detect it from the audio first"
                )
            task_id = self.transcribe if task == "transcribe" else self.translate
            ids += [self.languages[language], task_id]
        elif task != "transcribe":
            raise ValueError(
                f'the task of an English-only model must be "transcribe", found "{task}"; '
                "use a multilingual model"
            )
        return ids if timestamps else [*ids, self.no_timestamps]

    def previous_ids(self, before: Sequence[int], *, hotwords: Sequence[int] = ()) -> list[int]:
        """The ids of the text before, as they go in front of the prompt.

        One start-of-prev, the hotwords, and as many of the last ids before as there is room for, at
        which a word may be cut, as in Whisper; nothing where there are none.

        Source: openai/whisper, whisper/decoding.py, ``_get_initial_tokens``.
        """
        ids = list(hotwords[:MAX_PREVIOUS_TOKENS])
        room = MAX_PREVIOUS_TOKENS - len(ids)
        ids += before[max(len(before) - room, 0) :]
        return [self.sot_prev, *ids] if ids else []


def _required_id(special: Mapping[str, int], where: Path, *names: str) -> int:
    for name in names:
        if name in special:
            return special[name]
    raise BadTokenizer(
        f"a Whisper vocabulary must hold {' or '.join(names)}, found none in {where}; "
        "re-import the model"
    )
