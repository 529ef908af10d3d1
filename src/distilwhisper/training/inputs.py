"""The windows and labels of a training step: a pure function of the settings and the step.

Nothing here holds a random state. An example's place in the stream, its timestamps, its prompt and
what happens to its sound are drawn from the seed, the epoch and the example, so that a run that is
resumed, and one on more devices or with more threads, sees the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from distilwhisper.checks import check_rules
from distilwhisper.corpus.batches import (
    Drawn,
    Example,
    Mixture,
    TokenBatch,
    decoder_sequence,
    example_generator,
    keeps_previous,
    keeps_timestamps,
    load_windows,
    token_batch,
    with_prompt,
)
from distilwhisper.corpus.records import Manifest
from distilwhisper.model.whisper import WhisperConfig
from distilwhisper.shapes import Float
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.augment import Augmentation, augment_samples, draw_augmentation, mask_mel
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.speech.units import HOP_SAMPLES
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.settings import TrainingSettings

# A frame is made of samples of its neighbours too.
_FRAMES_AT_EDGE = 2


@dataclass(frozen=True)
class TrainingInput:
    """The stream of windows that a run trains on; its examples are in the order that numbers them.

    Raises:
        ValueError: there is nothing to learn from, or a label is too long; the settings weigh other
            sources than the examples have, skip utterances that are in none, or ask for prompts
            where there are none.
    """

    manifest: Manifest
    examples: Sequence[Example]
    tokenizer: Tokenizer
    settings: TrainingSettings
    sizes: WhisperConfig  # of the student

    def __post_init__(self) -> None:
        settings, most = self.settings, self.sizes.max_tokens
        strays = {*settings.skip_utterances}
        if strays:  # else nobody's ids need be gathered
            strays -= {u.id for example in self.examples for u in example.utterances}
        check_rules(
            self,
            not self.examples
            and "training needs at least one kept utterance, found none: raise filter.max_wer, or "
            "see why the labels were dropped in the verdicts' summary.json",
            *[
                f"a label must hold 2 to {most} tokens, found {len(example.token_ids)} in "
                f"{example.id!r}: filter again without it"
                for example in self.examples
                if not 2 <= len(example.token_ids) <= most
            ][:1],
            bool(strays)
            and "skip_utterances must name utterances that are trained on, found others: "
            f"{', '.join(map(repr, sorted(strays)))}; take the ids from {self.manifest.path}",
            settings.prompt_probability > 0
            and not any(example.previous for example in self.examples)
            and "prompt_probability needs windows with speech just before them, found none: in "
            f"{self.manifest.path} no kept utterance ends (start_s + duration_s) at most "
            f"prompt_gap_s ({settings.prompt_gap_s:g} s) before another begins in the same audio "
            "file, recording and speaker; name such spans, or set it to 0",
        )
        _ = self._mixture  # its weights may be of other sources

    @cached_property
    def _mixture(self) -> Mixture:
        sources = [example.utterances[0].source for example in self.examples]
        return Mixture(sources, dict(self.settings.source_weights), seed=self.settings.seed)

    def micro_batches(self, step: int) -> Iterator[list[list[Drawn]]]:
        """Yield the micro-batches of one update, each in parts of one context.

        The stream of epochs goes on across updates. Windows of different contexts go through the
        networks apart, so that none is given the silence of another. Skipped ones have their
        places in the stream, but are left out.
        """
        size, most = self.settings.batch_size, self.settings.micro_batch_size
        places = range(step * size, (step + 1) * size)
        drawn = [one for one in map(self._mixture.at, places) if one.example not in self._skipped]
        drawn.sort(key=self.n_frames)
        for at in range(0, len(drawn), most):
            parts = groupby(drawn[at : at + most], key=self.n_frames)
            yield [list(part) for _, part in parts]

    def n_frames(self, window: Drawn) -> int:
        """Return how many mel frames of a window the student is given."""
        return self.augmentation(window).n_frames

    def tokens(self, windows: Sequence[Drawn]) -> TokenBatch:
        """Return the decoder inputs and targets of some windows."""
        return token_batch([self.sequence(window) for window in windows], self.tokenizer)

    def sequence(self, window: Drawn) -> list[int]:
        """Return a window's label as it is drawn: timestamps or none, a prompt or none."""
        settings, example = self.settings, self.examples[window.example]
        draw = {"seed": settings.seed, "epoch": window.epoch}
        timed = keeps_timestamps(example.id, probability=settings.timestamp_probability, **draw)
        prompted = keeps_previous(example.id, probability=settings.prompt_probability, **draw)
        speed = self.augmentation(window).speed
        label = decoder_sequence(example.token_ids, self.tokenizer, timestamps=timed, speed=speed)
        if not prompted:
            return label
        return with_prompt(
            label, example.previous, self.tokenizer, max_tokens=self.sizes.max_tokens
        )

    def forms(self, example: int) -> list[Drawn]:
        """Return a window of each sequence that the run draws for an example; none if skipped."""
        if example in self._skipped:
            return []
        drawn = (Drawn(example, epoch) for epoch in sorted(self._epochs[example]))
        return list({tuple(self.sequence(window)): window for window in drawn}.values())

    @cached_property
    def _skipped(self) -> frozenset[int]:
        """The examples that hold an utterance to be skipped."""
        ids = set(self.settings.skip_utterances)
        return frozenset(
            number
            for number, example in enumerate(self.examples)
            if any(utterance.id in ids for utterance in example.utterances)
        )

    @cached_property
    def _epochs(self) -> list[set[int]]:
        """The epochs in which the run draws each example."""
        epochs: list[set[int]] = [set() for _ in self.examples]
        for place in range(self.settings.steps * self.settings.batch_size):
            window = self._mixture.at(place)
            epochs[window.example].add(window.epoch)
        return epochs

    def augmentation(self, window: Drawn) -> Augmentation:
        """Return the augmentation that is drawn for a window."""
        settings, example = self.settings, self.examples[window.example]
        if not settings.augment.is_on:
            return Augmentation()
        generator = example_generator(example.id, seed=settings.seed, epoch=window.epoch)
        return draw_augmentation(settings.augment, generator, end_s=example.end_s)

    def sound(self, window: Drawn) -> Samples:
        """Return a window's sound after its augmentation.

        Raises:
            UnreadableRecording: audio that was labelled cannot be read now.
        """
        (samples,) = load_windows(self.manifest, [self.examples[window.example]], n_threads=1)
        if not self.settings.augment.changes_sound:
            return samples
        return augment_samples(samples, self.augmentation(window), self.settings.augment)

    def mel(
        self,
        windows: Sequence[Drawn],
        sounds: Sequence[Samples],
        n_frames: int,
        device: torch.device,
    ) -> Float[Tensor, "batch n_mels frames"]:
        """Return the log-mel of some windows, ``n_frames`` of each: all its sound is within."""
        samples = stack_windows(sounds)[:, : (n_frames + _FRAMES_AT_EDGE) * HOP_SAMPLES]
        mel = log_mel(samples.to(device), n_mels=self.sizes.n_mels)[:, :, :n_frames]
        augment = self.settings.augment
        if not (augment.time_mask_share or augment.frequency_mask_share):
            return mel
        rows = []
        for row, window, sound in zip(mel, windows, sounds, strict=True):
            n_sound = -(-len(sound) // HOP_SAMPLES)
            rows.append(mask_mel(row, self.augmentation(window), augment, n_sound_frames=n_sound))
        return torch.stack(rows)
