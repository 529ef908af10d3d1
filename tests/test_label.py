import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from corpora import bad_utterances, corpus, hearing_model, noise, snapshot, utterance
from distilwhisper.corpus.records import Utterance, read_labels, read_manifest
from distilwhisper.corpus.store import shard_path, shard_paths
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.run.locks import Part
from distilwhisper.run.stages import StageChanged
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.settings import LabelSettings, Workers
from distilwhisper.stages.student import make_student
from distilwhisper.text.tokens import Tokenizer

CPU = Hardware(device="cpu", dtype="float32")
GREEDY = (0.0,)
SETTINGS = LabelSettings(
    decoding=DecodingSettings(max_new_tokens=8, batch_size=3, temperature=GREEDY), shard_size=4
)


def label(manifest: Path, teacher: Path, out: Path, settings: LabelSettings = SETTINGS):
    (summary,) = label_manifests({manifest: out}, str(teacher), settings, Workers(CPU))
    return summary


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearing_model(tmp_path_factory.mktemp("models") / "hearing")


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shard_paths(folder)}


def test_labels_are_what_the_decoder_said_in_the_manifests_order(
    tmp_path: Path, hearing: Path
) -> None:
    manifest = corpus(tmp_path, 6)
    summary = label(manifest, hearing, tmp_path / "labels")
    labels = read_labels(tmp_path / "labels")
    utterances = read_manifest(manifest).utterances

    assert summary.n_labels == 6
    assert summary.failed == {}
    assert list(labels) == [u.id for u in utterances]
    assert len(shard_paths(tmp_path / "labels")) == 2
    # One by one, so that an exchange of two utterances of a batch would show.
    transcriber = Transcriber.from_model(
        str(hearing), DecodingSettings(max_new_tokens=8, batch_size=1, temperature=GREEDY), CPU
    )
    assert len({label.token_ids for label in labels.values()}) > 3
    for u in utterances:
        (window,) = transcriber.decode([load_samples(tmp_path / u.audio)])
        said, ids = labels[u.id], labels[u.id].token_ids
        assert ids[: len(window.prompt_ids)] == window.prompt_ids
        end = (transcriber.tokenizer.eot,) if window.finished else ()
        assert ids[len(window.prompt_ids) :] == (*window.token_ids, *end)
        assert said.text == window.text
        assert said.finished == window.finished
        # Batches of other sizes add in another order; what is kept are six decimals.
        assert said.avg_logprob == pytest.approx(window.avg_logprob, abs=1e-4)
        assert said.duration_s == pytest.approx(u.duration_s, abs=1e-4)
        assert said.detected_language is said.language_probability is None  # it knows one only


def test_a_label_that_ended_by_itself_has_the_end_token_and_no_other_does(
    tmp_path: Path,
) -> None:
    ending = hearing_model(tmp_path / "model", multilingual=True, end=1.5)
    settings = replace(SETTINGS, decoding=DecodingSettings(max_new_tokens=17, temperature=GREEDY))
    label(corpus(tmp_path / "corpus", 8), ending, tmp_path / "labels", settings)
    labels = read_labels(tmp_path / "labels").values()
    eot = Tokenizer.from_folder(ending).eot
    assert {label.finished for label in labels} == {True, False}
    for label_ in labels:
        assert (label_.token_ids[-1] == eot) == label_.finished
        assert eot not in label_.token_ids[:-1]


def test_a_language_that_is_asked_for_goes_before_the_manifests(
    tmp_path: Path, tiny_multilingual_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = corpus(tmp_path, 2, more=[utterance(tmp_path, 2, language="en")])
    asked = replace(SETTINGS, decoding=replace(SETTINGS.decoding, language="German"))
    label(manifest, tiny_multilingual_model, tmp_path / "labels", asked)
    tokenizer = Tokenizer.from_folder(tiny_multilingual_model)
    for made in read_labels(tmp_path / "labels").values():
        assert made.language == "de"
        assert made.token_ids[1] == tokenizer.languages["de"]
    assert "1 of 3 utterances name another language (en) and are taken for de" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("vad_filter", True), ("chunk_s", 15.0), ("long_form", "sequential"), ("language_windows", 3)],
)
def test_settings_of_long_recordings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be left out"):
        LabelSettings(decoding=DecodingSettings(temperature=GREEDY, **{name: value}))


def test_a_multilingual_teacher_puts_the_language_into_the_prompt(
    tmp_path: Path, tiny_multilingual_model: Path
) -> None:
    named = [utterance(tmp_path, 8, language="de"), utterance(tmp_path, 9, language="german")]
    manifest = corpus(tmp_path, 2, more=named)
    label(manifest, tiny_multilingual_model, tmp_path / "labels")
    labels = read_labels(tmp_path / "labels")
    tokenizer = Tokenizer.from_folder(tiny_multilingual_model)
    for id_ in ("u008", "u009"):
        assert labels[id_].language == "de"
        assert labels[id_].token_ids[:3] == (
            tokenizer.sot,
            tokenizer.languages["de"],
            tokenizer.transcribe,
        )
    for id_ in ("u000", "u001"):  # detected
        assert labels[id_].token_ids[1] == tokenizer.languages[labels[id_].language]
        assert labels[id_].detected_language == labels[id_].language


@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_label_names_the_likeliest_language_whatever_was_told(
    tmp_path: Path, beam_size: int
) -> None:
    model = hearing_model(tmp_path / "model", multilingual=True)
    manifest = corpus(tmp_path, 2, more=[utterance(tmp_path, 8, language="en")])
    settings = replace(SETTINGS, decoding=replace(SETTINGS.decoding, beam_size=beam_size))
    label(manifest, model, tmp_path / "labels", settings)
    transcriber = Transcriber.from_model(str(model), settings.decoding, CPU)
    decoder, tokenizer = transcriber.checkpoint.model.decoder, transcriber.tokenizer
    codes = list(tokenizer.languages)
    for u in read_manifest(manifest).utterances:
        said = read_labels(tmp_path / "labels")[u.id]
        # By the book: the whole encoder and one step of the decoder, the languages alone.
        samples = load_samples(tmp_path / u.audio)
        mel = log_mel(stack_windows([samples]), n_mels=80)
        with torch.no_grad():
            states = transcriber.checkpoint.model.encoder(mel)
            cross = decoder.cross_cache(states)
            logits = decoder.project(decoder(torch.tensor([[tokenizer.sot]]), cross)[0, 0])
        likely = logits[list(tokenizer.languages.values())].softmax(dim=-1)
        assert said.detected_language == codes[int(likely.argmax())]
        assert said.language_probability == pytest.approx(float(likely.max()), abs=1e-4)
        assert said.duration_s == pytest.approx(len(samples) / 16000)


@pytest.mark.parametrize(
    "decoding",
    [
        DecodingSettings(),
        DecodingSettings(timestamps=False, language="de"),
    ],
)
def test_a_draft_changes_nothing_of_the_labels(tmp_path: Path, decoding: DecodingSettings) -> None:
    teacher = hearing_model(tmp_path / "teacher", multilingual=True)
    make_student(str(teacher), tmp_path / "student", StudentSettings(decoder_layers=2))
    decoding = replace(decoding, max_new_tokens=8, batch_size=2, temperature=GREEDY)
    settings = replace(SETTINGS, decoding=decoding)
    manifest = corpus(tmp_path, 3)
    rows = {}
    for name, draft in (("plain", None), ("drafted", str(tmp_path / "student"))):
        label_manifests(
            {manifest: tmp_path / name}, str(teacher), settings, Workers(CPU, draft=draft)
        )
        rows[name] = list(read_labels(tmp_path / name).values())
    tokenizer = Tokenizer.from_folder(teacher)
    for plain, drafted in zip(rows["plain"], rows["drafted"], strict=True):
        assert drafted.token_ids == plain.token_ids
        assert (drafted.text, drafted.finished) == (plain.text, plain.finished)
        assert drafted.detected_language == plain.detected_language
        for name in ("avg_logprob", "no_speech_prob", "language_probability"):
            assert getattr(drafted, name) == pytest.approx(getattr(plain, name), abs=1e-4)
        assert (tokenizer.no_timestamps in plain.token_ids) == (not decoding.timestamps)
        if decoding.language:
            assert plain.language == "de"
            assert plain.token_ids[1] == tokenizer.languages["de"]


def test_packed_labels_are_of_the_same_form(tmp_path: Path, hearing: Path) -> None:
    # A random model's segments cross the joins, so that here nearly all is decoded alone.
    manifest = corpus(tmp_path, 5, more=bad_utterances(tmp_path))
    label(manifest, hearing, tmp_path / "alone")
    summary = label(manifest, hearing, tmp_path / "packed", replace(SETTINGS, pack=True))
    assert set(summary.failed) == {"missing", "corrupt", "beyond"}
    alone, packed = read_labels(tmp_path / "alone"), read_labels(tmp_path / "packed")
    assert list(packed) == list(alone)
    for id_, one in packed.items():
        assert one.duration_s == alone[id_].duration_s
        if one.no_speech_prob is not None:  # it was not in a shared window
            assert one.token_ids == alone[id_].token_ids
    assert any(one.no_speech_prob is not None for one in packed.values())


def test_packing_and_beams_or_no_timestamps_are_refused_with_all_other_faults() -> None:
    with pytest.raises(ValueError, match=r"shard_size.*found 0; pack needs.*beam_size=3"):
        LabelSettings(decoding=DecodingSettings(beam_size=3), pack=True, shard_size=0)
    with pytest.raises(ValueError, match=r"pack needs.*timestamps=false"):
        LabelSettings(decoding=DecodingSettings(timestamps=False), pack=True)


def test_bad_recordings_are_named_and_the_rest_is_labelled(
    tmp_path: Path, tiny_model: Path
) -> None:
    bad = [*bad_utterances(tmp_path), utterance(tmp_path, 90, seconds=30.5)]
    manifest = corpus(tmp_path, 3, more=bad)
    summary = label(manifest, tiny_model, tmp_path / "labels")
    labels = read_labels(tmp_path / "labels")

    assert list(labels) == ["u000", "u001", "u002", "missing", "corrupt", "beyond", "u090"]
    assert set(summary.failed) == {"missing", "corrupt", "beyond", "u090"}
    assert summary.n_labels == 7
    assert str(tmp_path / "missing.wav") in summary.failed["missing"]
    assert str(tmp_path / "corrupt.wav") in summary.failed["corrupt"]
    assert "at most 30 s" in summary.failed["u090"]
    assert "30.50 s" in summary.failed["u090"]
    for id_, problem in summary.failed.items():
        assert labels[id_].error == problem
        assert labels[id_].token_ids == ()
    assert all(labels[f"u00{i}"].token_ids for i in range(3))


def test_what_has_other_sound_is_labelled_anew_with_what_failed(
    tmp_path: Path, hearing: Path
) -> None:
    manifest, out = corpus(tmp_path, 6), tmp_path / "labels"
    label(manifest, hearing, out)
    before = read_labels(out)
    write_wav(tmp_path / "u001.wav", noise(1.3, seed=99))
    label(manifest, hearing, out)
    assert read_labels(out) == before
    label_manifests({manifest: out}, str(hearing), SETTINGS, Workers(CPU), retry_failed=True)
    after = read_labels(out)
    assert [id_ for id_ in before if before[id_] != after[id_]] == ["u001"]
    assert before["u001"].sound != after["u001"].sound


def test_an_utterance_of_exactly_one_window_is_labelled(tmp_path: Path, tiny_model: Path) -> None:
    manifest = corpus(tmp_path, 0, more=[utterance(tmp_path, 5, seconds=30.0)])
    assert label(manifest, tiny_model, tmp_path / "labels").failed == {}


@pytest.mark.parametrize("language", ["germn", "fr"])
def test_a_language_the_teacher_does_not_know_is_refused_before_any_work(
    tmp_path: Path, tiny_multilingual_model: Path, language: str
) -> None:
    manifest = corpus(tmp_path, 5, more=[utterance(tmp_path, 7, language=language)])
    with pytest.raises(ValueError, match=f"'u007'.*\"{language}\""):
        label(manifest, tiny_multilingual_model, tmp_path / "labels")
    assert shard_paths(tmp_path / "labels") == []


def test_an_english_only_teacher_labels_no_other_language(tmp_path: Path, tiny_model: Path) -> None:
    manifest = corpus(tmp_path, 1, more=[utterance(tmp_path, 7, language="de")])
    with pytest.raises(ValueError, match=r"'u007'.*English only.*\"de\""):
        label(manifest, tiny_model, tmp_path / "labels")


def test_a_second_run_changes_nothing_and_loads_no_model(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = corpus(tmp_path, 5, more=bad_utterances(tmp_path))
    first = label(manifest, tiny_model, tmp_path / "labels")
    before = snapshot(tmp_path / "labels")
    assert "to label" in capsys.readouterr().err
    assert label(manifest, tiny_model, tmp_path / "labels") == first
    assert snapshot(tmp_path / "labels") == before
    assert capsys.readouterr().err == ""


def test_only_the_shard_that_is_not_there_is_made_again(tmp_path: Path, tiny_model: Path) -> None:
    manifest, out = corpus(tmp_path, 9), tmp_path / "labels"
    label(manifest, tiny_model, out)
    before = snapshot(out)
    lost = shard_path(out, 1)
    lost.unlink()
    label(manifest, tiny_model, out)
    after = snapshot(out)
    assert {k: v[1] for k, v in after.items()} == {k: v[1] for k, v in before.items()}
    assert {k for k in after if after[k] != before[k]} <= {lost.name}


def test_a_resumed_run_may_change_its_batch_size_alone(tmp_path: Path, tiny_model: Path) -> None:
    manifest, out = corpus(tmp_path, 5), tmp_path / "labels"
    label(manifest, tiny_model, out)
    shard_path(out, 1).unlink()
    smaller = replace(SETTINGS, decoding=replace(SETTINGS.decoding, batch_size=1))
    assert label(manifest, tiny_model, out, smaller).n_labels == 5


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (replace(SETTINGS, shard_size=5), "shard_size: was 4, now 5"),
        (
            replace(SETTINGS, decoding=replace(SETTINGS.decoding, max_new_tokens=9)),
            "decoding.max_new_tokens: was 8, now 9",
        ),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, tiny_model: Path, changed: LabelSettings, named: str
) -> None:
    manifest, out = corpus(tmp_path, 2), tmp_path / "labels"
    label(manifest, tiny_model, out)
    before = snapshot(out)
    with pytest.raises(StageChanged, match="--force") as caught:
        label(manifest, tiny_model, out, changed)
    assert named in str(caught.value)
    assert snapshot(out) == before


def test_other_inputs_are_refused_by_name_until_forced(
    tmp_path: Path, tiny_model: Path, tiny_multilingual_model: Path
) -> None:
    manifest, out = corpus(tmp_path, 2), tmp_path / "labels"
    label(manifest, tiny_model, out)
    with pytest.raises(StageChanged, match=r"input teacher: was .*, now"):
        label(manifest, tiny_multilingual_model, out)
    corpus(tmp_path, 3)
    with pytest.raises(StageChanged, match=r"input manifest: was .*, now"):
        label(manifest, tiny_model, out)
    (forced,) = label_manifests(
        {manifest: out}, str(tiny_model), SETTINGS, Workers(CPU), force=True
    )
    assert forced.n_labels == 3


def test_an_utterance_is_its_span_of_a_recording(tmp_path: Path, tiny_model: Path) -> None:
    whole = noise(2.0, seed=3)
    write_wav(tmp_path / "whole.wav", whole)
    write_wav(tmp_path / "part.wav", whole[8000:24000])
    spans = [
        Utterance(id="span", audio="whole.wav", start_s=0.5, duration_s=1.0),
        Utterance(id="part", audio="part.wav"),
    ]
    label(corpus(tmp_path, 0, more=spans), tiny_model, tmp_path / "labels")
    labels = read_labels(tmp_path / "labels")
    assert labels["span"].token_ids == labels["part"].token_ids
    assert labels["span"].token_ids


def test_a_shard_holds_at_least_one_utterance() -> None:
    with pytest.raises(ValueError, match="shard_size must be at least 1, found 0"):
        LabelSettings(shard_size=0)


def test_a_part_labels_its_own_shards_and_the_whole_finds_the_rest(
    tmp_path: Path, tiny_model: Path
) -> None:
    manifest, out, whole = corpus(tmp_path, 10), tmp_path / "parts", tmp_path / "whole"
    (part,) = label_manifests(
        {manifest: out}, str(tiny_model), SETTINGS, Workers(CPU), part=Part.parse("1/2")
    )
    assert part.n_labels == 4
    assert [path.name for path in shard_paths(out)] == ["shard-00001.jsonl"]
    assert label(manifest, tiny_model, out).n_labels == 10
    label(manifest, tiny_model, whole)
    assert shard_bytes(out) == shard_bytes(whole)
    with pytest.raises(ValueError, match="force must be for a whole folder, found it with part"):
        label_manifests({manifest: out}, str(tiny_model), SETTINGS, part=Part(0, 2), force=True)


@pytest.mark.slow
def test_two_processes_label_their_parts_side_by_side(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out, whole = corpus(tmp_path, 24), tmp_path / "parts", tmp_path / "whole"
    settings = replace(SETTINGS, shard_size=2)
    command = [sys.executable, "-c", "from distilwhisper.cli import main; main()"]
    command += ["label", str(manifest), "--teacher", str(tiny_model), "--out", str(out)]
    command += ["--shard-size", "2", "--max-new-tokens", "8", "--batch-size", "3"]
    command += ["--device", "cpu", "--dtype", "float32"]
    # Threads share out sums, so their number shows in the last digits.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    parts = [
        subprocess.Popen(
            [*command, "--shards", f"{i}/2"], env=environment, stdout=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    said = [part.communicate()[0] for part in parts]
    assert [part.returncode for part in parts] == [0, 0]
    assert said == [f"12 labels in {out}\n"] * 2
    before = snapshot(out)
    capsys.readouterr()
    assert label(manifest, tiny_model, out, settings).n_labels == 24
    assert capsys.readouterr().err == ""  # nothing was missing
    label(manifest, tiny_model, whole, settings)
    assert shard_bytes(out) == shard_bytes(whole)
    # Not so the parts' locks, which go with them.
    assert {k: v for k, v in before.items() if ".lock" not in k} == snapshot(out)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    manifest, out, whole = corpus(tmp_path, 40), tmp_path / "killed", tmp_path / "whole"
    settings = replace(SETTINGS, shard_size=2)
    command = [sys.executable, "-c", "from distilwhisper.cli import main; main()"]
    command += ["label", str(manifest), "--teacher", str(tiny_model), "--out", str(out)]
    command += ["--shard-size", "2", "--max-new-tokens", "8", "--batch-size", "3"]
    command += ["--device", "cpu", "--dtype", "float32"]
    # Threads share out sums, so their number shows in the last digits.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(
        command, env={**os.environ, **threads}, stderr=subprocess.PIPE
    ) as process:
        give_up = time.monotonic() + 120
        while not shard_path(out, 0).exists() and process.poll() is None:
            if time.monotonic() > give_up:
                process.kill()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, log = process.communicate()
    assert process.returncode == -signal.SIGKILL, log.decode()
    left = shard_bytes(out)
    assert 0 < len(left) < 20

    assert label(manifest, tiny_model, out, settings).n_labels == 40
    label(manifest, tiny_model, whole, settings)
    assert shard_bytes(out) == shard_bytes(whole)
    assert left.items() <= shard_bytes(whole).items()
    # Nor is anything half written left behind, such as the killed process's lock.
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
