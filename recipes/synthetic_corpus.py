"""Make a corpus of synthetic English speech, the same for the same seed.

    python recipes/synthetic_corpus.py --hours 20 --out data/synthetic
    python recipes/synthetic_corpus.py --hours 40 --out data/synthetic --text novels.txt news.txt
    python recipes/synthetic_corpus.py --hours 5 --out data/kokoro --kokoro Kokoro-82M-v1.0-ONNX/

Takes WordNet's example sentences, and makes others by template: numbers, dates, times, names and
questions are rare in WordNet. With files of prose, half of the recordings hold consecutive
sentences of them. Three voices of flite speak them at varied speed and pitch, a few sentences to a
recording. Needs the program flite, and apt-get for the Debian package wordnet-base, which is
unpacked in a temporary folder (or name a folder that holds its data files by --wordnet).

With --kokoro the 28 English voices of Kokoro-82M speak instead: far more like people, at about
three times real time a core (flite: 50). Needs pip install openvino kokoro-onnx, and a folder that
holds onnx/model.onnx (of floats: the quantised ones are slower) and voices/*.bin.

Writes DIR/manifest.jsonl and one Ogg Opus (or wav) file per utterance. It widens a student's
vocabulary, but its sound varies little: mix it with real speech (docs/training.md,
"Several corpora").
"""

import argparse
import itertools
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from distilwhisper.speech.arrays import to_samples
from distilwhisper.speech.audio import write_wav

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "demo"))
from make_synthetic import encode_opus

VOICES = ("rms", "slt", "awb")
STRETCHES = (0.8, 0.9, 1.0, 1.1, 1.25)  # above one is slower
SHIFTS = (0.85, 0.95, 1.05, 1.2)  # of the pitch
MOST_WORDS = 60  # a slow voice takes 28 s for them; a window holds 30
SHARE_OF_TEMPLATES = 0.12
SHARE_OF_PROSE = 0.5  # where there is some
WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")

NAMES = (
    "Anna Ben Carla David Emma Farid Grace Hugo Ines Jonas Kate Liam Maria Noah Olga Peter".split()
)
PLACES = "Berlin Boston Chicago Dublin Geneva London Madrid Oslo Paris Rome Seattle Toronto".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TEMPLATES = (
    "{name}'s train leaves {place} at {hour}:{minute} on {day}.",
    "On {month} {date}, {year}, {name} moved from {place} to {other}.",
    "Could you call {name} back at {phone}?",
    "The bill came to ${dollars}.{cents}, didn't it, {name}?",
    "How many people live in {place}? About {thousands},000, I think.",
    "Please turn to page {page} and read the first {small} lines.",
    "It's {degrees} degrees in {place} today, and {more} in {other}.",
    "Where did {name} put the {small} boxes that came on {day}?",
    "We've sold {percent}% more than in {year}, said {name}.",
    "Room {page} is on the {floor} floor, next to {name}'s office.",
    "Would you rather meet on {day} at {hour} or on {month} {date}?",
    "No, {name}, the flight from {place} takes {small} hours and {minute} minutes.",
)
FLOORS = "first second third fourth fifth sixth seventh".split()


@dataclass(frozen=True)
class Passage:
    """What is spoken in one recording, and how."""

    id: str
    source: str
    text: str
    voice: str
    stretch: float
    shift: float


def main() -> None:
    """Write the corpus that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wordnet", type=Path, help="a folder with data.noun, data.verb ...")
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="files of plain prose")
    parser.add_argument("--kokoro", type=Path, help="a folder of Kokoro-82M in ONNX; else flite")
    parser.add_argument("--format", choices=("opus", "wav"), default="opus", help="wav: no coding")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        examples = read_examples(options.wordnet or unpack_wordnet(Path(temporary)))
    prose = [sentence for path in options.text for sentence in read_prose(path)]
    voices = VOICES if options.kokoro is None else english_voices(options.kokoro)
    source = "synthetic" if options.kokoro is None else "kokoro"
    planned = passages(examples, prose, voices, source, options.seed)
    speak_so = partial(speak, out=options.out, ending=options.format, kokoro=options.kokoro)
    wanted_s, spoken_s = options.hours * 3600, 0.0
    with (
        ProcessPoolExecutor(options.processes) as pool,
        (options.out / "manifest.jsonl").open("w", encoding="utf-8") as manifest,
    ):
        while spoken_s < wanted_s:
            some = list(itertools.islice(planned, 64 * options.processes))
            for passage, duration_s in zip(some, pool.map(speak_so, some), strict=True):
                if duration_s <= 29.5 and spoken_s < wanted_s:
                    spoken_s += duration_s
                    made = row(passage, duration_s, options.format)
                    manifest.write(json.dumps(made, ensure_ascii=False) + "\n")
    print(f"{options.out / 'manifest.jsonl'}: {spoken_s / 3600:.2f} h")


def unpack_wordnet(folder: Path) -> Path:
    """Download Debian's wordnet-base and return its folder of data files."""
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "wordnet-base"]
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return folder / "usr" / "share" / "wordnet"


def read_examples(folder: Path) -> list[str]:
    """Return WordNet's example sentences, written as sentences; those of three words and more."""
    found = []
    for name in WORDNET_FILES:
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            found += [as_sentence(text) for text in re.findall(r'"([^"]+)"', line)]
    return sorted({text for text in found if 3 <= len(text.split()) <= MOST_WORDS // 2})


def read_prose(path: Path) -> list[str]:
    """Return the sentences of a text in their order, of three words and more.

    What is in capitals, tables and numbers alone is left out; abbreviations may cut a sentence in
    two, which a voice does not mind.
    """
    text = " ".join(path.read_text(encoding="utf-8").replace("_", "").split())
    sentences = re.split(r"(?<=[.?!])[\"')\u201d\u2019]*\s+(?=[\"'(\u201c\u2018]?[A-Z])", text)
    wanted = re.compile(r"[A-Za-z0-9 ,.;:?!'\"()\u2018-\u201d\u2013\u2014%$-]+")
    return [
        sentence
        for sentence in sentences
        if 3 <= len(sentence.split()) <= MOST_WORDS
        and wanted.fullmatch(sentence)
        and sum(map(str.islower, sentence)) > len(sentence) / 2
    ]


def as_sentence(text: str) -> str:
    """Give an example a capital and a full stop."""
    text = " ".join(text.split()).strip("-; ")
    ended = text if text.endswith((".", "?", "!")) else f"{text}."
    return ended[:1].upper() + ended[1:]


def passages(
    examples: list[str], prose: list[str], voices: Sequence[str], source: str, seed: int
) -> Iterator[Passage]:
    """Yield passages without end: drawn sentences, a voice, a speed and a pitch."""
    draw = random.Random(seed)
    for number in itertools.count():
        n_words = draw.randint(4, MOST_WORDS)
        from_prose = prose and draw.random() < SHARE_OF_PROSE
        place = draw.randrange(len(prose)) if from_prose else 0
        sentences: list[str] = []
        while not sentences or sum(len(s.split()) for s in sentences) < n_words:
            if from_prose:
                sentences.append(prose[(place + len(sentences)) % len(prose)])
            else:
                made = draw.random() < SHARE_OF_TEMPLATES
                sentences.append(from_template(draw) if made else draw.choice(examples))
        if len(sentences) > 1 and sum(len(s.split()) for s in sentences) > MOST_WORDS:
            sentences.pop()
        yield Passage(
            id=f"{source}-{seed}-{number:06d}",
            source=source,
            text=" ".join(sentences),
            voice=draw.choice(voices),
            stretch=draw.choice(STRETCHES),
            shift=draw.choice(SHIFTS),
        )


def from_template(draw: random.Random) -> str:
    """Return a sentence with names and numbers."""
    place, other = draw.sample(PLACES, 2)
    return draw.choice(TEMPLATES).format(
        name=draw.choice(NAMES),
        place=place,
        other=other,
        day=draw.choice(DAYS),
        month=draw.choice(MONTHS),
        date=draw.randint(1, 28),
        year=draw.randint(1900, 2030),
        hour=draw.randint(1, 12),
        minute=draw.randint(10, 59),
        phone=f"555-{draw.randint(1000, 9999)}",
        dollars=draw.randint(2, 400),
        cents=draw.randint(10, 99),
        thousands=draw.randint(2, 900),
        page=draw.randint(2, 499),
        small=draw.randint(2, 19),
        degrees=draw.randint(-10, 39),
        more=draw.randint(1, 40),
        percent=draw.randint(2, 98),
        floor=draw.choice(FLOORS),
    )


def speak(passage: Passage, out: Path, ending: str, kokoro: Path | None) -> float:
    """Write a passage's recording and return how many seconds it lasts."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as temporary:
        wav = Path(temporary.name)
        if kokoro is None:
            speak_flite(passage, wav)
        elif not speak_kokoro(passage, wav, kokoro):
            return math.inf
        path = out / f"{passage.id}.{ending}"
        if ending == "opus":
            encode_opus(wav, path)
        else:
            shutil.copyfile(wav, path)
        return (wav.stat().st_size - 44) / 2 / 16_000


def speak_flite(passage: Passage, wav: Path) -> None:
    """Let flite write a passage as 16-bit wav of 16 kHz."""
    features = ["--setf", f"duration_stretch={passage.stretch}"]
    features += ["--setf", f"f0_shift={passage.shift}"]
    command = ["flite", "-voice", passage.voice, *features, "-t", passage.text, "-o", str(wav)]
    subprocess.run(command, check=True)


def speak_kokoro(passage: Passage, wav: Path, folder: Path) -> bool:
    """Let Kokoro do the same; return whether the passage is short enough for it."""
    network, alphabet = load_kokoro(folder)
    language = "en-gb" if passage.voice.startswith("b") else "en-us"
    phonemes = alphabet.tokenize(alphabet.phonemize(passage.text, language))
    styles = np.fromfile(folder / "voices" / f"{passage.voice}.bin", np.float32)
    styles = styles.reshape(-1, 1, 256)  # one for each number of phonemes
    if len(phonemes) >= len(styles):
        return False
    speed = np.array([1 / passage.stretch], np.float32)
    (samples,) = network.infer([[[0, *phonemes, 0]], styles[len(phonemes)], speed]).values()
    write_wav(wav, to_samples(samples.ravel(), passage.id, sampling_rate=24_000))
    return True


@cache  # once for each process
def load_kokoro(folder: Path) -> tuple[Any, Any]:
    """Return Kokoro's network, on one thread, and its alphabet."""
    import openvino
    from kokoro_onnx.tokenizer import Tokenizer

    options = {
        "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": False,  # else all processes share a core
        "CPU_RUNTIME_CACHE_CAPACITY": 64,  # of shapes: every passage has its own
    }
    network = openvino.Core().compile_model(folder / "onnx" / "model.onnx", "CPU", options)
    return network.create_infer_request(), Tokenizer()


def english_voices(folder: Path) -> list[str]:
    """Return the names of Kokoro's American and British voices."""
    return sorted(path.stem for path in (folder / "voices").glob("[ab][fm]_*.bin"))


def row(passage: Passage, duration_s: float, ending: str) -> dict[str, object]:
    """Return the manifest's row of a passage."""
    if passage.source == "kokoro":  # which takes no pitch
        speaker = f"kokoro-{passage.voice}-{passage.stretch}"
    else:
        speaker = f"flite-{passage.voice}-{passage.stretch}-{passage.shift}"
    return {
        "id": passage.id,
        "audio": f"{passage.id}.{ending}",
        "duration_s": round(duration_s, 3),
        "text": passage.text,
        "speaker": speaker,
        "language": "en",
        "source": passage.source,
    }


if __name__ == "__main__":
    main()
