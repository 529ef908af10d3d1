"""Which of a teacher's layers a student begins with."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from distilwhisper.checks import AT_LEAST_1, check_rules, ruled


@dataclass(frozen=True)
class StudentSettings:
    """Which of a model's layers the student begins with."""

    decoder_layers: int = ruled(2, AT_LEAST_1)
    """How many, spaced as widely as can be: the first and the last are among them."""
    layers: tuple[int, ...] | None = None
    """Named decoder layers instead, in order; negative numbers count from the end."""
    encoder_layers: int | None = ruled(None, AT_LEAST_1)
    """How many of the encoder's, spaced likewise; left out: all. Fewer need train_encoder."""
    merge_layers: bool = False
    """Begin with the mean of each of as many equal blocks of layers, instead of copies."""
    start: str | None = None
    """Model folder or hub id to take the layers from instead of the teacher: another student."""

    def __post_init__(self) -> None:
        layers, n_decoder = self.layers, self.decoder_layers
        check_rules(
            self,
            layers == () and "layers must name at least one layer, found none",
            bool(layers)
            and n_decoder not in (StudentSettings.decoder_layers, len(layers or ()))
            and f"decoder_layers must be left out beside layers, found {n_decoder} and "
            f"{len(layers or ())} layers by name",
            layers is not None
            and self.merge_layers
            and "merge_layers takes all layers: leave layers out, or merge_layers",
        )

    def decoder_sources(self, n_layers: int) -> list[list[int]]:
        """Return, for each decoder layer of the student, the layers that are averaged for it."""
        if self.layers is not None:
            return [[number] for number in named_layers(n_layers, self.layers)]
        return self._sources(n_layers, self.decoder_layers)

    def encoder_sources(self, n_layers: int) -> list[list[int]]:
        """Return the same for the encoder."""
        return self._sources(n_layers, self.encoder_layers or n_layers)

    def _sources(self, n_layers: int, n_kept: int) -> list[list[int]]:
        spaced = [[number] for number in spaced_layers(n_layers, n_kept)]
        return layer_blocks(n_layers, n_kept) if self.merge_layers else spaced


def spaced_layers(n_layers: int, n_kept: int) -> list[int]:
    """Return ``n_kept`` layers of ``n_layers``, as widely spaced as can be.

    The first and the last are always among them; a single one is the last, whose states are
    projected to the vocabulary.

    Raises:
        ValueError: there are fewer layers than are to be kept.

    Source: arXiv:2311.00430, section 3.1; ``training/create_student_model.py`` there.
    """
    if not 1 <= n_kept <= n_layers:
        raise ValueError(f"a student keeps 1 to {n_layers} of its teacher's layers, found {n_kept}")
    if n_kept == 1:
        return [n_layers - 1]
    return [i * (n_layers - 1) // (n_kept - 1) for i in range(n_kept)]


def layer_blocks(n_layers: int, n_blocks: int) -> list[list[int]]:
    """Return ``n_layers`` layers in consecutive blocks whose sizes differ by one at most."""
    ends = [number * n_layers // n_blocks for number in range(n_blocks + 1)]
    return [list(range(begin, end)) for begin, end in pairwise(ends)]


def named_layers(n_layers: int, layers: Sequence[int]) -> list[int]:
    """Return layers as numbers from 0, negative ones counted from the end.

    Raises:
        ValueError: a number names no layer, or two name the same.
    """
    wrong = [i for i in layers if not -n_layers <= i < n_layers]
    if wrong:
        raise ValueError(
            f"layers must lie in [{-n_layers}, {n_layers - 1}] for a teacher of {n_layers} "
            f"decoder layers, found {', '.join(map(str, wrong))}"
        )
    chosen = [i % n_layers for i in layers]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"layers must differ from one another, found {list(layers)} = {chosen}")
    return chosen
