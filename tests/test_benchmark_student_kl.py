"""benchmarks/student_kl.py on tiny models: no figure of theirs means anything here."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import distilwhisper as dw
from corpora import corpus, hearing_model
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.stages.layers import StudentSettings

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("student_kl")


def test_a_teacher_is_no_nat_from_itself_and_a_student_is_some(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = hearing_model(tmp_path / "teacher"), tmp_path / "student"
    manifest, labels = corpus(tmp_path / "set", 3), tmp_path / "labels"
    dw.label(manifest, teacher=teacher, out=labels)
    dw.make_student(teacher, student, StudentSettings(decoder_layers=1))
    script.main(list(map(str, (teacher, manifest, labels, teacher, student))))
    head, _, counts, itself, other = capsys.readouterr().out.splitlines()
    assert head == "| KL, nats | no source | mean |"
    assert int(counts.split("|")[2].replace(",", "")) > 3
    assert itself == f"| {teacher} | 0.000 | 0.000 |"
    assert float(other.split("|")[2]) > 0.001


def test_divergences_are_those_of_torch(script: Any, tmp_path: Path) -> None:
    teacher = load_checkpoint(hearing_model(tmp_path / "teacher")).model
    student = load_checkpoint(hearing_model(tmp_path / "student", end=2.0)).model
    mel = torch.randn(teacher.config.n_mels, 3000, generator=torch.Generator().manual_seed(0))
    ids = [300, 301, 5, 6, 7, 8]
    found = script.token_divergences(teacher, [student, teacher], mel, ids, 2)
    logits = []
    for model in (teacher, student):
        decoder = model.decoder
        cross = decoder.cross_cache(model.encoder(mel[None]))
        logits.append(decoder.project(decoder(torch.tensor([ids[:-1]]), cross)[0])[1:])
    p, q = (scores.log_softmax(-1) for scores in logits)
    expected = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    assert found.shape == (2, 4)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-6)
    assert not found[1].any()
