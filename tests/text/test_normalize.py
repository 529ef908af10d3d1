import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.languages import LANGUAGES, uses_spaces
from distilwhisper.text.normalize import (
    is_written_with_spaces,
    normalizer_for,
    scoring_rule,
    whisper_normalizer_for,
)
from distilwhisper.text.wer import character_errors, word_errors

AWKWARD_ENGLISH = [
    "",
    " ",
    "\n\t ",
    "...",
    "?!",
    "Hello, world.",
    " Hello   there \n",
    "HELLO",
    # numbers
    "twenty one",
    "twenty-one",
    "one hundred and five",
    "a hundred and five people",
    "two thousand nineteen",
    "nineteen eighty four",
    "the 1960s and the nineteen sixties",
    "the twenty-first of the 3rd",
    "thirty seconds, thirty-second",
    "one oh one",
    "double oh seven",
    "triple five one two one two",
    "point five",
    "three point one four one five",
    "0.05 and .5 and 5.",
    "192.168.0.1",
    "two and a half million",
    "half a million and a half",
    "and a half",
    "minus twenty degrees, negative one, plus two",
    "1,234,567.89",
    "1,2,3,4",
    "ten thousand three hundred and twelve",
    "three hundred billion trillion",
    "one, ones, the ones, 1s, 1",
    "zero hundred",
    "6th of May, 5 th, 3 rds",
    "b2b and 4x4 and covid19",
    # money and per cent
    "$20 million",
    "twenty million dollars",
    "two dollars and seven cents",
    "$2 and 7 cents",
    "fifty cents, £0.50, €0.99",
    "$ 5, 5 $, $five",
    "ten percent, 10 per cent, ten per person, 100%",
    "% of % and 5% %",
    "pound for pound, a euro",
    # contractions, colloquial
    "I'm he's she'd we'll they've you're isn't",
    "won't can't let's ain't y'all",
    "wanna gotta gonna i'ma imma woulda coulda shoulda ma'am",
    "kinda sorta dunno 'cause cause because the cause",
    "he'd been, she's been, it's gone, he'd gone, I'd done, he's got",
    "rock 'n' roll, the '60s, dogs' , o'clock",
    "don ' t , it ’s and it’s",
    "Hmm, mm, mhm, mmm, uh, um, umm, uhm, er",
    # titles
    "Mr. Smith and Mrs. Jones met Dr. Who at St. Mary's",
    "Prof. X, Capt. Y, Gov. Z, Gen. A, Sen. B, Rep. C, Pres. D, Rev. E",
    "Hon. asst. assoc. lt. col. jr. sr. esq. ald.",
    # brackets
    "[laughter] hello (coughs) world <noise>",
    "(unclosed and [also",
    "a (nested (one)) b [x] ()",
    "<unk> & [MUSIC PLAYING]",
    # spelling
    "The colour of the theatre's grey tyre was honoured and analysed",
    "organise, organisation, centre, defence, jewellery, mum",
    # letters and symbols
    "naïve café Ångström ﬁnance Œuvre straße Łódź Þór",
    "Zo\u0308e and Zoë, re\u0301sume\u0301",
    "5½ cups, x², ①, Ⅻ, ٣ and 三",
    "e-mail, well-known, and/or, AT&T, C++, #1, @home",
    "👍 great 👩‍👩‍👧 ♪♪ music ♪",
    "你好 hello привет नमस्ते",
    "a\u200bb\u00a0c\ufeffd\u2028e",
    "U.S.A. e.g. i.e. a.m. 5 p.m. v1.2.3",
    "-- dashes – and — more…",
    "under_score and back`tick and \\slash",
]

ENGLISH_PIECES = """
    one two nine ten twelve nineteen twenty ninety hundred thousand million decillion
    oh o zero zeros ones sixes first second fifth twentieth hundredth millions
    and a half point double triple minus plus percent per cent cents dollars pounds
    $ £ € ¢ % . , ' - ( ) [ ] < > 0 1 7 10 007 3.5 $5 5% 1960s 2nd
    it's won't he'd been gone cause kinda mr dr colour um é ß
"""
english_like = st.lists(st.sampled_from(ENGLISH_PIECES.split()), max_size=12).flatmap(
    lambda pieces: st.sampled_from([" ".join(pieces), "".join(pieces)])
)

AWKWARD_OTHERS = [
    *AWKWARD_ENGLISH,
    "Œuvre, cœur, ça va? «Oui»",
    "Straße und Größe, ÄÖÜ",
    "¿Qué tal? ¡Bien!",
    "İstanbul ILIK",
    "Ελλάδα, ΣΊΣΥΦΟΣ",
    "हिन्दी में लिखा हुआ",
    "அகரம் தமிழ்",
    "السَّلَامُ عَلَيْكُمْ",
    "你好，世界。（笑）",
    "ﾊﾝｶｸ ｶﾞｷﾞｸﾞ と 全角ＡＢＣ",
    "ภาษาไทยง่ายนิดเดียว น้ำ",
    "မြန်မာစာ ភាសាខ្មែរ ພາສາລາວ བོད་སྐད།",
]


def test_english_sounds_alike_reads_alike() -> None:
    english = normalizer_for("en")
    spoken = "Mr. O'Neill's paid twenty-five dollars, uh, for the colour [laughs]!"
    written = "mister o'neill is paid $25 for the color"
    assert english(spoken).split() == english(written).split()


def test_the_rules_that_the_library_adds_are_off() -> None:
    """They would hide errors that published word error rates count."""
    text = "the cause is kinda sorta unclear i dunno"
    assert normalizer_for("en")(text) == text


def test_other_languages_keep_their_letters_and_numbers_as_they_are() -> None:
    basic = normalizer_for("de")
    assert basic("Größe: ZWANZIG (20) Euro!").split() == ["größe", "zwanzig", "euro"]
    assert basic("it's") == "it s"


@pytest.mark.parametrize("language", ["en", "EN", "English"])
def test_english_by_any_name_is_english(language: str) -> None:
    assert normalizer_for(language)("won't") == "will not"


def test_every_other_language_has_one_normaliser_of_whisper() -> None:
    others = {whisper_normalizer_for(code) for code in LANGUAGES if code != "en"}
    assert len(others) == 1
    assert whisper_normalizer_for("en") not in others


def test_the_language_must_be_said() -> None:
    for choose in (normalizer_for, whisper_normalizer_for):
        with pytest.raises(ValueError, match="name the language"):
            choose(None)
        with pytest.raises(ValueError, match='nearest is "german"'):
            choose("germn")


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_what_holds_no_letter_and_no_digit_is_no_word(language: str) -> None:
    for text in AWKWARD_OTHERS:
        for word in normalizer_for(language)(text).split():
            assert any(map(str.isalnum, word)), (text, word)


@pytest.mark.parametrize(
    "text", ["and so...", "and so ...", "... and so", "and % so ?!", "and so…"]
)
@pytest.mark.parametrize("language", ["en", "fr"])
def test_an_ellipsis_is_no_word(language: str, text: str) -> None:
    assert normalizer_for(language)(text) == "and so"


def test_an_ellipsis_is_a_word_to_whisper() -> None:
    """The published scores count it, so it stays available under that name."""
    assert whisper_normalizer_for("en")("and so...") == "and so ."


@given(text=st.one_of(english_like, st.text()))
def test_english_is_whispers_less_what_is_no_word(text: str) -> None:
    published = whisper_normalizer_for("en")(text).split()
    assert normalizer_for("en")(text).split() == [
        word for word in published if any(map(str.isalnum, word))
    ]


# How a reference may be written, another spelling of the same words, and other words.
SPELLINGS = [
    ("ar", "مُحَمَّدٌ رَسُولُ اللَّهِ", "محمد رسول الله", "محمد رسول الليل"),
    ("ar", "جميـــل", "جميل", "جمل"),
    ("ar", "عام ٢٠١٩", "عام 2019", "عام 2018"),
    ("fa", "می\u200cروم", "می\u200cروم", "می\u200cرود"),
    ("ur", "مُحبّت", "محبت", "صحبت"),
    ("he", "שָׁלוֹם עוֹלָם", "שלום עולם", "שלום עולה"),
    ("he", "\ufb2aלום", "שלום", "סלום"),
    ("hi", "वह की बात करता है", "वह की बात करता है!", "वह का बात करती हो"),
    ("bn", "আমি ভালো আছি", "আমি ভালো আছি।", "আমি ভালা আছি"),
    ("ml", "കേരളം", "കേരളം.", "കരളി"),
    ("ml", "അവന\u0d4d\u200d", "അവ\u0d7b", "അവ\u0d7c"),
    ("th", "กินข้าวแล้ว", "กิน ข้าว แล้ว", "กันขาวแล่ว"),
    ("tr", "İSTANBUL'DA IŞIK", "istanbul'da ışık", "ıstanbul'da işik"),
    ("az", "I İ", "ı i", "i i"),
    ("vi", "tiếng Việt", "tie\u0302\u0301ng Vie\u0323\u0302t", "tiêng Viêt"),
    ("yo", "ẹ\u0301", "é\u0323", "e"),
    ("de", "Ko\u0308ln", "Köln", "Koln"),
    ("yi", "אַ", "\ufb2e", "אָ"),
    ("km", "ភាសា", "ភា\u200bសា", "ភេសា"),
]


@pytest.mark.parametrize(("language", "text", "same", "other"), SPELLINGS)
def test_marks_count_where_they_carry_meaning(
    language: str, text: str, same: str, other: str
) -> None:
    rule = scoring_rule(text, language)
    assert rule.split(text) == rule.split(same) != rule.split(other)


def test_marks_count_where_no_language_is_named() -> None:
    for language, text, same, other in SPELLINGS:
        rule = scoring_rule(text, None)
        if language not in ("tr", "az", "yi", "de", "vi", "yo"):  # their script is not their own
            assert rule.split(text) == rule.split(same) != rule.split(other)


def test_whispers_basic_rules_take_marks_for_spaces() -> None:
    assert whisper_normalizer_for("hi")("की") == "क "
    assert whisper_normalizer_for("he")("שָׁלוֹם").split() == ["ש", "לו", "ם"]


def test_languages_without_spaces() -> None:
    without = {code for code in LANGUAGES if not uses_spaces(code)}
    assert without == {"zh", "ja", "th", "lo", "my", "yue", "km", "bo"}
    assert not uses_spaces("Mandarin")
    with pytest.raises(ValueError, match='nearest is "german"'):
        uses_spaces("germn")


def test_digits_without_end_do_not_stop_a_run() -> None:
    """A loop of zeros: Python refuses to read so long a number, and the library with it."""
    english = normalizer_for("en")
    assert english("0" * 9_000).replace(" ", "") == "0" * 3  # each run is the number nought
    assert english("it is " + "777," * 3_000 + "777").replace(" ", "") == "itis" + "7" * 9_003


@given(text=st.one_of(english_like, st.text()))
def test_no_text_stops_a_normaliser(text: str) -> None:
    for language in ("en", "fr"):
        assert isinstance(normalizer_for(language)(text), str)


def test_a_normaliser_can_be_sent_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(normalizer_for("en")))
    assert copy("colour") == "color"


def test_importing_it_is_quiet_and_brings_no_torch() -> None:
    code = "import distilwhisper.text.normalize, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- equal to the published normalisers -------------------------------------------------------


@pytest.fixture(scope="module")
def openai_english():
    import warnings

    english = pytest.importorskip("whisper.normalizers").EnglishTextNormalizer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its spelling list open
        return english()


@pytest.fixture(scope="module")
def transformers_english():
    published = pytest.importorskip("transformers.models.whisper.english_normalizer")
    whisper = pytest.importorskip("whisper")
    spelling = Path(whisper.__file__).parent / "normalizers" / "english.json"
    return published.EnglishTextNormalizer(json.loads(spelling.read_text(encoding="utf-8")))


@pytest.mark.reference
def test_english_equals_openai_whisper_and_transformers(
    openai_english, transformers_english
) -> None:
    ours = whisper_normalizer_for("en")
    for text in AWKWARD_ENGLISH:
        assert ours(text) == openai_english(text) == transformers_english(text)


@pytest.mark.reference
@given(text=st.one_of(english_like, st.text()))
def test_english_equals_both_on_any_text(openai_english, transformers_english, text) -> None:
    assert whisper_normalizer_for("en")(text) == openai_english(text) == transformers_english(text)


@pytest.mark.reference
def test_basic_equals_openai_whisper_and_transformers() -> None:
    openai = pytest.importorskip("whisper.normalizers").BasicTextNormalizer()
    published = pytest.importorskip("transformers.models.whisper.english_normalizer")
    transformers = published.BasicTextNormalizer()
    ours = whisper_normalizer_for("fr")
    for text in AWKWARD_OTHERS:
        assert ours(text) == openai(text) == transformers(text)


@pytest.mark.reference
@given(text=st.text())
def test_basic_equals_both_on_any_text(text: str) -> None:
    openai = pytest.importorskip("whisper.normalizers").BasicTextNormalizer()
    published = pytest.importorskip("transformers.models.whisper.english_normalizer")
    assert (
        whisper_normalizer_for("fr")(text) == openai(text) == published.BasicTextNormalizer()(text)
    )


@pytest.mark.reference
@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("你好，世界。今天天气很好！", "你好世界，今天天汽很好"),
        ("吾輩は猫である。名前はまだ無い。", "我輩は猫である、名前は未だ無い"),
        ("ภาษาไทยง่ายนิดเดียว น้ำ", "ภาษาไทยงายนิดเดียว นำ"),
        ("မြန်မာစာ", "မြန်မာ စာပေ"),
        ("ភាសាខ្មែរ", "ភាសាខ្មែ"),
        ("ພາສາລາວ", "ພາສາ ລາວ"),
        ("བོད་སྐད།", "བོད་ཡིག"),
    ],
)
def test_character_errors_equal_whisper_with_split_letters(reference: str, hypothesis: str) -> None:
    splitting = pytest.importorskip("whisper.normalizers").BasicTextNormalizer(split_letters=True)
    basic = whisper_normalizer_for("zh")
    assert character_errors(basic(reference), basic(hypothesis)) == word_errors(
        splitting(reference), splitting(hypothesis)
    )


# --- plain English, word by word ---------------------------------------------------------------


@pytest.fixture(scope="module")
def library_english():
    from whisper_normalizer.english import EnglishTextNormalizer

    english = EnglishTextNormalizer()
    for rule in (r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b"):
        del english.replacers[rule]
    return english


PLAIN_PIECES = """
    the cat's colour isn't grey don't he'd she's been gone done got 's 'cause and and and a half
    um uh hmm um's uh'd mm-hmm um, st. st mr Mr. Dr. th s nd - -- " "so" dogs' walkin' o'clock
    well-known twenty-one half-time x. x.. x... x.... ...x ..x . .. ... x,y x...? y...! e.g. b2b
    5 20 20. 20, 1,000 1,2,3 007 1 1s 1st 3rd 60s 1960s 3.5 $5 5% £ one ones two oh o zero hundred
    thousand point double triple minus plus percent per cent cents dollars pound second first half
""".split()


@given(
    pieces=st.lists(st.sampled_from(PLAIN_PIECES + ENGLISH_PIECES.split()), max_size=9),
    between=st.sampled_from([" ", " ", " ", "  ", "\n", ", ", "-", "\u00a0"]),
)
def test_word_by_word_is_as_a_whole(library_english, pieces: list[str], between: str) -> None:
    text = between.join(pieces)
    assert whisper_normalizer_for("en")(text) == library_english(text)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("I, um, paid one hundred and twenty dollars.", "i paid $120"),
        ("Wait... what?", "wait what"),
        ("Wait...", "wait ."),
        ("... what", " what"),
        ("...what now", " what now"),
        ("Wait ...what?", "wait what"),
        ("twenty ...five", "20 5"),
        ("He'd been on St. John's, in 1960s grey.", "he had been on saint john is in 1960s gray"),
        ("he um's gone", "he has gone"),
    ],
)
def test_word_by_word_by_example(library_english, text: str, normalised: str) -> None:
    assert whisper_normalizer_for("en")(text) == library_english(text) == normalised


@pytest.mark.parametrize(
    ("text", "spaced"),
    [
        ("to be or not to be", True),
        ("être ou ne pas être", True),
        ("서울은 한국의 수도입니다", True),
        ("東京は日本の首都です", False),
        ("กรุงเทพเป็นเมืองหลวง", False),
        ("我用 Python", True),  # most of its letters are Latin
        ("1, 2, 3", True),
        ("", True),
    ],
)
def test_a_script_tells_whether_words_have_spaces_between_them(text: str, spaced: bool) -> None:
    assert is_written_with_spaces(text) is spaced


@pytest.mark.parametrize(
    ("reference", "like"),
    [
        ("Mr. Hall isn't in", "en"),
        ("Être ou ne pas être", "en"),  # a script tells no language: manifests should
        ("Она не права, mister", "ru"),
        ("서울은 한국의 수도입니다", "ko"),
        ("東京は日本の首都です", "ja"),
        ("我用 Python", "en"),
        ("1, 2, 3", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_a_reference_of_unknown_language_is_scored_by_its_script(
    reference: str | None, like: str
) -> None:
    assert scoring_rule(reference, None) == scoring_rule("anything", like)


@pytest.mark.parametrize("reference", [None, "right", "那里"])
def test_a_known_language_says_how_to_score(reference: str | None) -> None:
    english, chinese = scoring_rule(reference, "en"), scoring_rule(reference, "Chinese")
    assert (english.normalize, english.spaced) == (normalizer_for("en"), True)
    assert (chinese.normalize, chinese.spaced) == (normalizer_for("zh"), False)
    assert english.split("Mr. Hall's, um, 那里") == ["mister", "hall", "is", "那里"]
    assert chinese.split("那里, um") == ["那", "里", "u", "m"]
    with pytest.raises(ValueError, match="germn"):
        scoring_rule(reference, "germn")
