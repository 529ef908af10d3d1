"""How far students are from their teacher, token by token: KL in nats, on speech of your choice.

    python benchmarks/student_kl.py TEACHER MANIFEST LABELS STUDENT [STUDENT ...]

LABELS is what ``distilwhisper label MANIFEST --teacher TEACHER`` wrote. Every model is given the
teacher's own text without timestamps, in float32, behind 30 s of sound. KL is that of the student's
probabilities from the teacher's, of each token of text and the end, and its mean is over the tokens
of a source (the manifest's ``source``). The last column is the mean over the sources.

Word errors of a few hundred words cannot tell two good students apart. This can: a hundred
utterances have thousands of tokens, and each of them is a number instead of right or wrong.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distilwhisper.corpus.batches import decoder_sequence, load_readable
from distilwhisper.corpus.records import read_labels, read_manifest
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.whisper import Whisper
from distilwhisper.speech.mel import window_log_mel
from distilwhisper.text.tokens import Tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("students", nargs="+")
    asked = parser.parse_args(arguments)
    manifest, labels = read_manifest(asked.manifest), read_labels(asked.labels)
    labelled = [u for u in manifest.utterances if u.id in labels and labels[u.id].text]
    folder = resolve_model(asked.teacher)
    teacher, tokenizer = load_checkpoint(folder).model, Tokenizer.from_folder(folder)
    students = {name: load_checkpoint(resolve_model(name)).model for name in asked.students}
    for student in students.values():
        if student.encoder.equals(teacher.encoder):  # as it has when that was frozen
            student.encoder = teacher.encoder
    found: dict[str, list[Tensor]] = defaultdict(list)  # of a source: (students, tokens)
    for utterance, samples in load_readable(manifest, labelled):
        mel = window_log_mel(samples, n_mels=teacher.config.n_mels, device=teacher.device)
        ids = decoder_sequence(labels[utterance.id].token_ids, tokenizer, timestamps=False)
        n_prompt = ids.index(tokenizer.no_timestamps) + 1
        divergences = token_divergences(teacher, list(students.values()), mel, ids, n_prompt)
        found[utterance.source or "no source"].append(divergences)
    joined = {source: torch.cat(parts, dim=1) for source, parts in sorted(found.items())}
    print("| KL, nats |", *(f"{name} |" for name in joined), "mean |")
    print("|---|" + "---|" * (len(joined) + 1))
    print("| tokens |", *(f"{kl.shape[1]:,} |" for kl in joined.values()), "|")
    for number, name in enumerate(students):
        means = [float(kl[number].mean()) for kl in joined.values()]
        print(f"| {name} |", *(f"{mean:.3f} |" for mean in (*means, sum(means) / len(means))))


@torch.inference_mode()
def token_divergences(
    teacher: Whisper, students: Sequence[Whisper], mel: Tensor, ids: Sequence[int], n_prompt: int
) -> Tensor:
    """Return the KL of each student from its teacher at each token behind the prompt, in nats.

    ``mel`` is of one window, (n_mels, frames); the result is (students, tokens).
    """
    states = teacher.encoder(mel[None])
    given, wanted = torch.tensor([ids[:-1]]), slice(n_prompt - 1, None)

    def log_probs(model: Whisper) -> Tensor:
        own = states if model.encoder is teacher.encoder else model.encoder(mel[None])
        cross = model.decoder.cross_cache(own)
        return model.decoder.project(model.decoder(given, cross)[0, wanted]).log_softmax(dim=-1)

    expected = log_probs(teacher)
    return torch.stack(
        [(expected.exp() * (expected - log_probs(student))).sum(dim=-1) for student in students]
    )


if __name__ == "__main__":
    main()
