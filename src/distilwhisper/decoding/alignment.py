"""When each word was spoken, from where the decoder looked while it wrote the word.

Some heads of the cross-attention follow the speech: the token they serve looks at the frames in
which it is spoken. Their weights, one row per token, are a picture with a line from its first
corner to its last; the best monotone path through it gives each token its frames.

Source: openai/whisper: ``whisper/timing.py``; arXiv:2212.04356 does not describe it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distilwhisper.decoding.segments import SENTENCE_ENDS, TimedSegment, TimedWord, split_words
from distilwhisper.decoding.windows import DecodedWindow, WindowRequest
from distilwhisper.languages import uses_spaces
from distilwhisper.model.checkpoint import Checkpoint
from distilwhisper.model.silence import KeptFrames
from distilwhisper.model.whisper import Attention, Whisper, WhisperConfig
from distilwhisper.shapes import Float, Float64, Int64
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.speech.units import HOP_SAMPLES, WINDOW_S, samples_to_seconds, seconds_to_samples
from distilwhisper.text.tokens import Tokenizer

Head = tuple[int, int]  # decoder layer, head in it
Maps: TypeAlias = Float[Tensor, "heads tokens frames"]
Costs: TypeAlias = Float64[np.ndarray, "tokens frames"]
Steps: TypeAlias = Int64[np.ndarray, " steps"]

FRAMES_PER_SECOND = 50  # encoder frames of 20 ms

# Measuring heads. The pause is longer than the frames that the median filter mixes; a head that is
# a second off at a join is lost there, and how far is chance; and a set is chosen by its figure
# only between sizes like those of the published lists, as one head alone wobbles inside a phrase.
_PAUSE_S = 0.3
_JOINED_S = WINDOW_S - 2.0
_LOST_S = 1.0
_FEWEST_HEADS = 4
_MOST_HEADS = 10

# As in openai-whisper: wide enough for single frames that stand out, shorter than a syllable.
_MEDIAN_FRAMES = 7

# openai-whisper's limits. A word that seems longer than twice the usual one holds a pause.
_LONGEST_USUAL_WORD_S = 0.7
_USUAL_WORDS_AT_MOST = 2
_PAUSE_IN_USUAL_WORDS = 4
_SEGMENT_IS_RIGHT_S = 0.5  # a word that leaves its segment by more is the one that is wrong

# What openai-whisper joins to the words beside it, and its like. Signs such as % are spoken.
_UNSPOKEN = frozenset("\"'“”‘’«»„¿¡()[]{}-–—.。,，、!！?？:：;；…")

# A text moves on in the sound if this share of its tokens looks later than those so many before,
# by this much a token at least. Of a sentence spoken over and over it was 0.75 or more, of a loop
# of the same words 0.46.
TOKENS_APART, LEAST_TOKEN_S, MOVING_SHARE = 16, 1 / 32, 0.7
LAST_TOKENS = 3  # one of them looks at the end of the text


def alignment_heads(
    generation_config: Mapping[str, Any], config: WhisperConfig
) -> list[Head] | None:
    """Return the heads that a checkpoint names as following the speech.

    None where it names none, or one that its decoder lacks: a list that was copied from a larger
    model says nothing of this one's heads. See :func:`measure_alignment_heads` and
    :func:`upper_half_heads` for what to take instead.
    """
    named = generation_config.get("alignment_heads")
    try:
        heads = [(int(layer), int(head)) for layer, head in named or []]
        _check_heads(heads, config)
    except (TypeError, ValueError):
        return None
    return heads


def upper_half_heads(config: WhisperConfig) -> list[Head]:
    """Return all heads of the upper half of the decoder layers, for want of better ones.

    Source: openai/whisper: ``whisper/model.py``, the start value of ``alignment_heads``.
    """
    layers = range(config.decoder_layers // 2, config.decoder_layers)
    return list(itertools.product(layers, range(config.decoder_heads)))


def with_alignment_heads(checkpoint: Checkpoint, heads: Sequence[Head]) -> Checkpoint:
    """Return a checkpoint that names ``heads``, as its ``generation_config.json`` will on disk.

    Raises:
        ValueError: the decoder lacks one of them, or there are none.
    """
    _check_heads(heads, checkpoint.model.config)
    return checkpoint.with_generation(alignment_heads=[[layer, head] for layer, head in heads])


@dataclass(frozen=True)
class LabelledSpeech:
    """An utterance with its text; a pseudo-label serves as well as a reference."""

    samples: Samples
    token_ids: tuple[int, ...]  # text only


def measure_alignment_heads(
    model: Whisper,
    utterances: Sequence[LabelledSpeech],
    *,
    prompt_ids: Sequence[int],
    tokenizer: Tokenizer,
) -> list[Head]:
    """Find the heads that follow the speech, from speech whose word times nobody knows.

    Utterances are joined, with a pause between them, to windows of up to 28 s. Where one ends and
    the next begins is then known: the word in front of a pause must end in it, and the one behind
    it begin. Heads are ranked by how far from the pauses their own best paths get there. Of the
    best 4, 5, ... 10 together, the set that comes nearest is returned, the smaller of equals. (How
    sharply a head's weights follow some path is no sign of a good one: the sharpest follow the
    token that is read, and so are one word behind the token that is written.)

    The utterances are of one language and any number of speakers, shuffled, and joined in this
    order. Each join is one measurement: with 15 of them the choice is rough, and 100 are plenty.
    One that is too long to share a window is left out. The prompt asks for no timestamps.

    Raises:
        ValueError: no two utterances fit in a window together, or one is empty; or as for
            :meth:`Aligner.place`.
    """
    _check_text(prompt_ids, [utterance.token_ids for utterance in utterances], tokenizer)
    groups: list[list[LabelledSpeech]] = [[]]
    for utterance in utterances:
        together = [*groups[-1], utterance]
        n_samples = sum(len(one.samples) + seconds_to_samples(_PAUSE_S) for one in together)
        n_tokens = len(prompt_ids) + sum(len(one.token_ids) for one in together) + 1
        if n_samples > seconds_to_samples(_JOINED_S) or n_tokens > model.config.max_tokens:
            groups.append([utterance])
        else:
            groups[-1] = together
    windows = [
        _joined_window(model, group, prompt_ids, tokenizer) for group in groups if len(group) > 1
    ]
    if not windows:
        raise ValueError(
            f"measuring needs utterances of which two follow each other within {_JOINED_S:g} s, "
            f"found {len(utterances)} that do not: give more and shorter ones"
        )
    return _best_heads(model.config, windows)


def _best_heads(config: WhisperConfig, windows: Sequence["_JoinedWindow"]) -> list[Head]:
    every = list(itertools.product(range(config.decoder_layers), range(config.decoder_heads)))
    ranking = np.argsort(_join_errors_s(windows, every), kind="stable")
    best = [every[i] for i in ranking[:_MOST_HEADS]]
    fewest = min(_FEWEST_HEADS, len(best))
    joint_s = _join_errors_s(windows, best, together=True)[fewest - 1 :]
    return sorted(best[: fewest + int(np.argmin(joint_s))])


@dataclass(frozen=True)
class _JoinedWindow:
    """Utterances behind one another."""

    aligner: "Aligner"  # with any heads
    text: tuple[int, ...]
    # Tokens that must begin in a pause, and when it begins and ends: the first of an utterance, and
    # what follows the last word of the one before, its full stop most often. Without the latter, a
    # head that is one token behind would pass, as it stands at the full stop, in the pause, when
    # the utterance begins.
    joins: tuple[tuple[int, float, float], ...]


@torch.no_grad()
def _joined_window(
    model: Whisper,
    group: Sequence[LabelledSpeech],
    prompt_ids: Sequence[int],
    tokenizer: Tokenizer,
) -> _JoinedWindow:
    pause = np.zeros(seconds_to_samples(_PAUSE_S), dtype=np.float32)
    sound, text = [group[0].samples], [*group[0].token_ids]
    joins: list[tuple[int, float, float]] = []
    for before, utterance in itertools.pairwise(group):
        unspoken = len(before.token_ids) - 1 - _spoken_tokens(before.token_ids, tokenizer)[1]
        begins = len(text) + _spoken_tokens(utterance.token_ids, tokenizer)[0]
        ended_s = samples_to_seconds(sum(map(len, sound)))
        joins += [(i, ended_s, ended_s + _PAUSE_S) for i in (len(text) - unspoken, begins)]
        sound += [pause, utterance.samples]
        text += utterance.token_ids
    samples = np.concatenate(sound)
    mel = log_mel(stack_windows([samples]).to(model.device), n_mels=model.config.n_mels)
    states = model.encoder(mel.to(model.dtype))[0]
    n_frames = math.ceil(samples_to_seconds(len(samples)) * FRAMES_PER_SECOND)
    aligner = Aligner(model, states, prompt_ids, tokenizer, (), n_frames)
    return _JoinedWindow(aligner, tuple(text), tuple(joins))


def _join_errors_s(
    windows: Sequence[_JoinedWindow], heads: Sequence[Head], *, together: bool = False
) -> Float64[np.ndarray, " heads"]:
    """Return how far outside the pauses the tokens at them begin, summed over all joins.

    By each head alone, or by it together with those in front of it.
    """
    errors_s = np.zeros(len(heads))
    for window in windows:
        aligner = replace(window.aligner, heads=heads)
        maps = aligner.maps(window.text, [aligner.tokenizer.eot])[0].cpu().double().numpy()
        maps = np.cumsum(maps, axis=0) if together else maps
        starts_s = np.stack([_token_starts(one) for one in maps]) / FRAMES_PER_SECOND
        outside_s = [
            np.maximum(from_s - starts_s[:, token], starts_s[:, token] - to_s)
            for token, from_s, to_s in window.joins
        ]
        errors_s += np.cumsum(np.clip(outside_s, 0.0, _LOST_S), axis=0)[-1]
    return errors_s


@dataclass(frozen=True)
class Aligner:
    """What tells when the text of a window was spoken."""

    model: Whisper  # which wrote the text, or any other of the same vocabulary
    encoder_states: Float[Tensor, "frames width"]  # of the window
    prompt_ids: Sequence[int]  # ends with no-timestamps; text that came before may stand in front
    tokenizer: Tokenizer
    heads: Sequence[Head]  # which follow the speech, see :func:`alignment_heads`
    n_frames: int  # that hold sound
    kept: KeptFrames | None = None  # the frames that were encoded; None: all

    @classmethod
    def of(cls, request: WindowRequest) -> "Aligner":
        """Return the aligner of a window that was decoded."""
        decoder, window = request.decoder, request.window
        checkpoint, tokenizer = decoder.checkpoint, decoder.tokenizer
        config, task = checkpoint.model.config, decoder.settings.task
        states = window.states[checkpoint.model.encoder]
        prompt = tokenizer.prompt_ids(language=window.language, task=task, timestamps=False)
        heads = alignment_heads(checkpoint.generation_config, config) or upper_half_heads(config)
        n_frames = min(-(-window.n_samples // (2 * HOP_SAMPLES)), len(states))
        return cls(checkpoint.model, states, prompt, tokenizer, heads, n_frames, window.kept)

    @torch.no_grad()
    def attention(self, token_ids: Sequence[int]) -> tuple[Maps, Float[Tensor, "tokens width"]]:
        """Return how much each token looks at each frame, by head, and the final states.

        In one pass without a cache; the prompt is among the tokens. The weights are float32 where
        the model is less. Each token's sum to 1 over the frames that hold sound, as in
        openai-whisper.

        Raises:
            ValueError: there are no heads, or the decoder lacks one; more frames or tokens than the
                encoder states or the decoder have, or none.
        """
        model, states = self.model, self.encoder_states
        _check_heads(self.heads, model.config)
        if not 1 <= self.n_frames <= len(states):
            raise ValueError(
                f"n_frames must lie in 1 ... {len(states)}, the frames of 20 ms that there are, "
                f"found {self.n_frames}"
            )
        if not 1 <= len(token_ids) <= model.config.max_tokens:
            raise ValueError(
                f"a sequence holds 1 to {model.config.max_tokens} tokens, found {len(token_ids)}: "
                "leave off previous text, or align fewer words"
            )
        decoder, weights = model.decoder, dict[Head, Tensor]()
        frames = states.to(device=model.device, dtype=model.dtype)[None]
        cross = decoder.cross_cache(frames, self.kept)
        step = decoder.begin(torch.tensor([list(token_ids)], device=model.device))
        precise = torch.promote_types(model.dtype, torch.float32)  # bfloat16 is off by one in 100

        def attend(number: int, attention: Attention, normed: Tensor) -> Tensor:
            keys, values = (made[number].to(model.dtype) for made in (cross.keys, cross.values))
            for head in {head for layer, head in self.heads if layer == number}:
                queries = attention.q_proj(normed[0]).unflatten(-1, (attention.heads, -1))[:, head]
                sounding = keys[0, head, : self.n_frames].to(precise)
                scores = (queries.to(precise) * keys.shape[-1] ** -0.5) @ sounding.T
                weights[number, head] = scores.softmax(dim=-1)
            return attention(normed, keys, values, cross.bias)

        final = step.states
        for number in range(len(decoder.layers)):
            final = decoder.run_layer(number, final, step, partial(attend, number))
        return torch.stack([weights[head] for head in self.heads]), decoder.layer_norm(final)[0]

    @torch.no_grad()
    def place(self, words: Sequence[TimedWord], *, start_s: float = 0.0) -> list[TimedWord]:
        """Time the words of the window, which begins at ``start_s``.

        The text is given to the decoder as if it had just written it, without timestamps. The times
        of a word are those of its tokens without the punctuation at its ends, which takes in the
        pauses: ``" Well,"`` ends with "Well". Its probability is the mean of the same tokens'.

        None starts before the one in front of it ends, and none leaves the first ``n_frames``; a
        word can be 0 s long. The times that they have count for nothing.

        Raises:
            ValueError: the prompt asks for timestamps; a word is empty or holds a special token; or
                as for :meth:`attention`.

        Source: openai/whisper: ``whisper/timing.py``, ``find_alignment``.
        """
        _check_text(self.prompt_ids, [word.token_ids for word in words], self.tokenizer)
        text = [token_id for word in words for token_id in word.token_ids]
        if not text:
            return []
        # As in openai-whisper; a full sequence has no place for it.
        has_room = len(self.prompt_ids) + len(text) < self.model.config.max_tokens
        maps, states = self.maps(text, [self.tokenizer.eot] if has_room else [])
        seen = maps.mean(dim=0).cpu().double().numpy()
        times = start_s + _token_starts(seen) / FRAMES_PER_SECOND
        odds = self.model.decoder.project(states[:-1])[:, : self.tokenizer.eot]
        odds = odds.to(maps.dtype).softmax(dim=-1)
        chosen = torch.tensor(text, device=odds.device)[:, None]
        probable = odds.gather(1, chosen)[:, 0].cpu().double().numpy()
        placed: list[TimedWord] = []
        at = 0
        for word in words:
            first, last = (at + place for place in _spoken_tokens(word.token_ids, self.tokenizer))
            placed.append(
                replace(
                    word,
                    start_s=float(times[first]),
                    end_s=float(times[last + 1]),
                    probability=float(probable[first : last + 1].mean()),
                )
            )
            at += len(word.token_ids)
        return placed

    def maps(
        self, text: Sequence[int], behind: Sequence[int] = ()
    ) -> tuple[Maps, Float[Tensor, "tokens width"]]:
        """Return how far the positions stand out in each frame, by head, and their final states.

        Those that write a token of the text, and the one behind, which tells when the text ends.
        """
        weights, states = self.attention([*self.prompt_ids, *text, *behind])
        first = len(self.prompt_ids) - 1  # position i writes token i + 1
        rows = slice(first, first + len(text) + 1)
        return _contrast(weights)[:, rows], states[rows]


@dataclass(frozen=True)
class TimedWindow:
    """A window's text, with times."""

    decoded: DecodedWindow
    start_s: float
    end_s: float  # of the sound
    segments: tuple[TimedSegment, ...]
    words: tuple[TimedWord, ...]


def time_window(
    request: WindowRequest,
    decoded: DecodedWindow,
    segments: Sequence[TimedSegment],
    *,
    start_s: float,
    end_s: float,
) -> TimedWindow:
    """Add words to a decoded window: timed by attention if the settings want it, else estimated."""
    decoder, spaced = request.decoder, uses_spaces(decoded.language)
    words = split_words(segments, decoder.tokenizer, spaced=spaced, logprobs=decoded.logprobs)
    if decoder.settings.word_timestamps and words:
        with decoder.searches.lock:
            words = Aligner.of(request).place(words, start_s=start_s)
        spans = [(segment.start_s, segment.end_s) for segment in segments]
        words = trim_words(words, spans, spoken_s=start_s)
    return TimedWindow(decoded, start_s, end_s, tuple(segments), tuple(words))


def moves_on(request: WindowRequest, decoded: DecodedWindow) -> bool:
    """Return whether a decoder looked further on in the sound as it wrote its text.

    It does where the same thing is spoken several times. In a loop it looks at one place, or
    returns to it with each turn.
    """
    if not decoded.finished:
        return False
    places_s = _places_s(request, decoded)
    if len(places_s) < 2:
        return False
    apart = min(TOKENS_APART, len(places_s) // 2)
    moved_s = places_s[apart:] - places_s[:-apart]
    return float(np.mean(moved_s > apart * LEAST_TOKEN_S)) >= MOVING_SHARE


def text_end_s(request: WindowRequest, decoded: DecodedWindow) -> float:
    """Return where in its window a text ends, in seconds, by where the decoder looked last."""
    return float(_places_s(request, decoded)[-LAST_TOKENS:].max())


def _places_s(request: WindowRequest, decoded: DecodedWindow) -> Float64[np.ndarray, " tokens"]:
    """Return where each token of the text looks most, in seconds from the window's start."""
    text = [i for i in decoded.token_ids if not request.decoder.tokenizer.is_special(i)]
    with request.decoder.searches.lock:
        maps, _ = Aligner.of(request).maps(text)
        seen = maps.mean(dim=0).cpu().double().numpy()
    return seen[:-1].argmax(axis=1) / FRAMES_PER_SECOND


def trim_words(
    words: Sequence[TimedWord], spans: Sequence[tuple[float, float]], *, spoken_s: float
) -> list[TimedWord]:
    """Cut the pauses off words that swallowed one: beside a sentence's end or a segment's.

    A pause has no token, so that a word next to it takes it in. Words there that last longer than
    twice the usual word (the median, 0.7 s at most) are shortened. Words only ever become shorter,
    and all times are on one clock: those of the words, in order; of the ``spans`` of their
    segments by their timestamps; and ``spoken_s``, when the last word before these ended.

    Source: openai/whisper: ``whisper/timing.py``, ``add_word_timestamps``. There punctuation
    counts as words of its own for the median, the second word after a pause may begin at half its
    time since the start of the recording, and a word may be made longer to reach its segment.
    """
    lengths_s = [word.end_s - word.start_s for word in words if word.end_s > word.start_s]
    usual_s = min(_LONGEST_USUAL_WORD_S, float(np.median(lengths_s))) if lengths_s else 0.0
    most_s = _USUAL_WORDS_AT_MOST * usual_s
    trimmed: list[TimedWord] = []
    before = ""
    for number, group in itertools.groupby(words, key=lambda word: word.segment):
        segment = list(group)
        for place, word in enumerate(segment):
            if before.rstrip().endswith(tuple(SENTENCE_ENDS)):
                segment[place] = _from(word, word.end_s - most_s)
            before = word.text
        first, second = segment[0], segment[:2][-1]
        is_behind_pause = first.end_s - spoken_s > _PAUSE_IN_USUAL_WORDS * usual_s
        is_long = first.end_s - first.start_s > most_s or second.end_s - first.start_s > 2 * most_s
        if is_behind_pause and is_long:
            segment[:2] = [_from(word, word.end_s - most_s) for word in segment[:2]]
        # Where the first or the last word leaves its segment by far, the segment is right.
        first, (start_s, end_s) = segment[0], spans[number]
        if first.start_s + _SEGMENT_IS_RIGHT_S < start_s < first.end_s:
            segment[0] = _from(first, min(first.end_s - usual_s, start_s))
        last = segment[-1]
        if last.start_s < end_s < last.end_s - _SEGMENT_IS_RIGHT_S:
            segment[-1] = replace(last, end_s=min(last.end_s, max(last.start_s + usual_s, end_s)))
        trimmed += segment
        spoken_s = trimmed[-1].end_s
    return trimmed


def _from(word: TimedWord, start_s: float) -> TimedWord:
    """Return the word with a later start, if it is later."""
    return replace(word, start_s=max(word.start_s, start_s))


def cheapest_path(costs: Costs) -> tuple[Steps, Steps]:
    """Return the token and the frame of every step of the cheapest path from corner to corner.

    Each step goes one token on, one frame on, or both: dynamic time warping. Of equal ways to a
    cell, that from the frame before is taken, then the diagonal. (Where the other two are equal,
    openai-whisper comes from the frame before even if that costs more.)
    """
    n_tokens, n_frames = costs.shape
    # Behind a border of infinity: totals[i + 1, j + 1] is the cheapest way to costs[i, j].
    totals = np.full((n_tokens + 1, n_frames + 1), np.inf)
    totals[0, 0] = 0
    for i, row in enumerate(costs):
        entered = np.minimum(totals[i, :-1], totals[i, 1:])
        # To enter the row at frame k and stay until j costs entered[k] + row[k] + ... + row[j]:
        # with running sums, the best k for every j is a running minimum, and no loop is needed.
        sums = np.cumsum(row)
        totals[i + 1, 1:] = sums + np.minimum.accumulate(entered - (sums - row))
    i, j = n_tokens, n_frames
    steps: list[tuple[int, int]] = []
    while i and j:
        steps.append((i - 1, j - 1))
        both, token, frame = totals[i - 1, j - 1], totals[i - 1, j], totals[i, j - 1]
        if frame <= both and frame <= token:
            j -= 1
        elif both <= token:
            i, j = i - 1, j - 1
        else:
            i -= 1
    tokens, frames = np.array(steps[::-1], dtype=np.int64).T
    return tokens, frames


def _contrast(weights: Maps) -> Maps:
    """Return each frame's weights in standard deviations over the tokens, smoothed in time.

    Thus a frame that every token looks at, as many do at the first, speaks for none.
    """
    std, mean = torch.std_mean(weights, dim=1, keepdim=True, unbiased=False)
    # A frame that all tokens treat alike has no spread; openai-whisper divides by it all the same.
    standing_out = torch.where(std > 0, (weights - mean) / std, torch.zeros_like(mean))
    reach = _MEDIAN_FRAMES // 2
    if standing_out.shape[-1] <= reach:  # too short to be mirrored
        return standing_out
    mirrored = F.pad(standing_out, (reach, reach), mode="reflect")
    return mirrored.unfold(-1, _MEDIAN_FRAMES, 1).sort(dim=-1).values[..., reach]


def _token_starts(standing_out: Costs) -> Int64[np.ndarray, " tokens"]:
    """Return the frame in which the best path comes to each token."""
    tokens, frames = cheapest_path(-standing_out)
    return frames[np.diff(tokens, prepend=-1) > 0]


def _spoken_tokens(ids: Sequence[int], tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the first and the last token that is no punctuation; of punctuation alone, all."""
    texts = [tokenizer.decode([one]).strip() for one in ids]
    spoken = [i for i, text in enumerate(texts) if not text or not _UNSPOKEN.issuperset(text)]
    return (spoken[0], spoken[-1]) if spoken else (0, len(ids) - 1)


def _check_heads(heads: Sequence[Head], config: WhisperConfig) -> None:
    n_layers, n_heads = config.decoder_layers, config.decoder_heads
    missing = [(i, j) for i, j in heads if i not in range(n_layers) or j not in range(n_heads)]
    if missing or not heads:
        raise ValueError(
            f"alignment needs heads of the decoder's {n_layers} layers of {n_heads} heads, counted "
            f"from 0; found {missing or 'none'}: measure them on this model, or take all heads of "
            "the upper half of its layers"
        )


def _check_text(
    prompt_ids: Sequence[int], words: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> None:
    if not prompt_ids or prompt_ids[-1] != tokenizer.no_timestamps:
        raise ValueError(
            f"the prompt must end with {tokenizer.no_timestamps}, which asks for no timestamps; "
            f"found {list(prompt_ids[-1:])}: make it with prompt_ids(..., timestamps=False)"
        )
    for number, ids in enumerate(words):
        if not ids or any(tokenizer.is_special(one) for one in ids):
            raise ValueError(
                f"a word must hold one token of text or more and no other, found {list(ids)} in "
                f"word {number}: leave timestamps and empty words out"
            )
