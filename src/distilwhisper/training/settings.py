"""How a student is trained: the paper's hyper-parameters, and the arms beside them."""

from dataclasses import dataclass, field

from distilwhisper.checks import ABOVE_0, AT_LEAST_0, AT_LEAST_1, PROBABILITY, check_rules, ruled
from distilwhisper.corpus.packing import Fill
from distilwhisper.speech.augment import AugmentSettings
from distilwhisper.speech.units import WINDOW_S
from distilwhisper.training.loss import Divergence


@dataclass(frozen=True)
class TrainingSettings:
    """The paper's hyper-parameters (table 15) as defaults."""

    steps: int = ruled(80_000, AT_LEAST_1)
    """Updates of the weights."""
    batch_size: int = ruled(256, AT_LEAST_1)
    """Utterances per update."""
    micro_batch_size: int = ruled(16, AT_LEAST_1)
    """Utterances that go through the network at a time; less memory, the same result."""
    peak_lr: float = ruled(1e-4, ABOVE_0)
    """Learning rate at the end of the warm-up; it falls to zero linearly."""
    warmup_steps: int = ruled(500, AT_LEAST_0)
    """Updates of linear warm-up."""
    kl_weight: float = ruled(0.8, AT_LEAST_0)
    """Weight of the KL divergence between teacher and student (eq. 6); 0 needs no teacher."""
    pl_weight: float = ruled(1.0, AT_LEAST_0)
    """Weight of the cross-entropy on pseudo-labels (eq. 6)."""
    mse_weight: float = ruled(0.0, AT_LEAST_0)
    """Weight of the squared distance between hidden states (eq. 10-12)."""
    temperature: float = ruled(2.0, ABOVE_0)
    """Softens both distributions of the KL term."""
    divergence: Divergence = "forward-kl"
    """Which divergence takes the place of the paper's KL(teacher || student)."""
    teacher_annealing: bool = False
    """Let kl_weight and mse_weight fall linearly to 0, so that the labels teach alone in the end
    (arXiv:1907.04829)."""
    train_encoder: bool = False
    """Train the student's encoder too; the teacher keeps its own."""
    freeze_embeddings: bool = False
    """Leave the token embeddings as they are: half of a base student's parameters and a third of
    a step on a CPU. The student then differs from its teacher in its layers alone."""
    freeze_positions: bool = False
    """Leave the decoder's position embeddings as they are."""
    checkpoint_activations: bool = False
    """Make the activations inside layers again in the backward pass; less memory, more time."""
    timestamp_probability: float = ruled(0.5, PROBABILITY)
    """How often a label keeps its timestamps, drawn anew every epoch."""
    prompt_probability: float = ruled(0.0, PROBABILITY)
    """How often a window is given the text that precedes it, drawn anew every epoch."""
    prompt_gap_s: float = ruled(3.0, AT_LEAST_0)
    """Longest silence across which an utterance precedes the next of its recording."""
    source_weights: tuple[tuple[str, float], ...] = ()
    """Sources of the utterances with the share of the windows that each gets, up to a common
    factor; none: every utterance counts alike."""
    weight_decay: float = ruled(0.0, AT_LEAST_0)
    """AdamW's decoupled weight decay."""
    clip_norm: float = ruled(1.0, ABOVE_0)
    """Gradients are scaled down together beyond this norm."""
    checkpoint_every: int = ruled(5_000, AT_LEAST_1)
    """Updates between checkpoints; each is validated, and the best one becomes the student."""
    validation_context_margin_s: float | None = ruled(None, AT_LEAST_0)
    """Validate with so much silence behind the sound, as a student for short sound will be used
    (decoding's context_margin_s); none: 30 s."""
    log_every: int = ruled(25, AT_LEAST_1)
    """Updates between rows of metrics.jsonl."""
    pack_s: float = ruled(0.0, AT_LEAST_0)
    """Utterances are packed into windows of at most this length, at most 30; 0: a window holds one
    utterance."""
    pack_fill: Fill = "varied"
    """To lengths drawn evenly, so that there are short windows too; or "full"."""
    pack_pause_s: float = ruled(0.5, AT_LEAST_0)
    """Silence between packed utterances."""
    pack_across_recordings: bool = False
    """Pack utterances together that are not known to be of one recording or one speaker."""
    cache_encoder: bool = False
    """Keep frozen encoders' outputs on disk instead of computing them every epoch."""
    cache_teacher: bool = False
    """Keep the teacher's last hidden states on disk too, and train without its layers in memory."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    data_workers: int = ruled(2, AT_LEAST_1)
    """Threads that read audio and cached states ahead of the network; more for a faster one, the
    same result."""
    skip_utterances: tuple[str, ...] = ()
    """Ids: a window that holds one of them counts for nothing in its update, and is not read. A run
    that a loss has stopped goes on without the utterances that it names."""
    seed: int = 0
    """Seed of the order of the data and of all that is drawn for an example."""

    def __post_init__(self) -> None:
        is_cached = self.cache_encoder or self.cache_teacher
        check_rules(
            self,
            self.warmup_steps >= self.steps
            and f"warmup_steps must be below steps ({self.steps}), found {self.warmup_steps}: the "
            "learning rate has to rise and to fall",
            self.pack_s > WINDOW_S
            and f"pack_s must be at most {WINDOW_S:g}, found {self.pack_s:g}",
            any(weight <= 0 for _, weight in self.source_weights)
            and "source_weights must be above zero: leave the others' utterances out",
            len(dict(self.source_weights)) < len(self.source_weights)
            and "source_weights must name every source once",
            is_cached
            and self.augment.changes_sound
            and "cache_encoder keeps what the encoder made of the sound as it is, as does "
            "cache_teacher: switch it off, or everything in augment but short contexts",
            not (self.kl_weight or self.pl_weight or self.mse_weight)
            and "one of kl_weight, pl_weight and mse_weight must be above zero",
            self.teacher_annealing
            and not self.pl_weight
            and "teacher_annealing ends with the labels alone: pl_weight must be above 0",
            self.cache_teacher
            and bool(self.mse_weight or not self.kl_weight)
            and "cache_teacher keeps the teacher's last states alone, so that it must go with "
            f"kl_weight above 0 and mse_weight 0, found {self.kl_weight:g} and {self.mse_weight:g}",
        )

    @property
    def asks_teacher(self) -> bool:
        """Whether anything is learnt from the teacher's states."""
        return self.kl_weight > 0 or self.mse_weight > 0

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        It rises linearly to ``peak_lr``, and falls linearly to zero where the steps end.
        """
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        return self.peak_lr * max(0, self.steps - step) / max(1, self.steps - self.warmup_steps)

    def teacher_share(self, step: int) -> float:
        """Return what is left of ``kl_weight`` and ``mse_weight`` at a step, counted from 0."""
        return 1 - step / self.steps if self.teacher_annealing else 1.0
