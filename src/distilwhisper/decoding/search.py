"""Search in slots: windows come in, are decoded together, and leave as they finish.

Whoever drives a search admits a window wherever a slot is free, so that a window that is done is
followed at once by the next one, and asks for one step (or, with a draft, one round) after the
other. A window's text depends on that window alone: not on its neighbours, its slot or the
time it came in.

In a round a small draft proposes tokens, and the model checks them all in one pass. The model's
own choice is written at every place, drafted or not, so the text is the model's alone. A row gets
as many tokens as the draft guessed right, and one more, and goes on from its own place.

Source: arXiv:2211.17192; arXiv:2311.00430, section 5, which accepts in lock-step over a batch.
"""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distilwhisper.decoding.rules import DecodingRules, RuleState, best, choose
from distilwhisper.decoding.slots import (
    Counts,
    Hypothesis,
    Job,
    Lane,
    SlotState,
    SpecialTokens,
    start_scores,
)
from distilwhisper.errors import DistilwhisperError
from distilwhisper.model.whisper import Whisper
from distilwhisper.shapes import Bool, Float, Int

# Steps between two looks at which rows have ended: on a GPU, looking waits for the device. A row
# that ended writes nothing more in between.
GPU_STEPS_PER_LOOK = 8
# The time between two such looks on a CPU, where a look takes a tenth of a short step. Windows that
# wait are admitted after it.
CPU_SECONDS_PER_LOOK = 0.02
# Tokens between two judgements of a text, whenever its row is looked at.
TOKENS_PER_JUDGEMENT = 16
# A step captured in a CUDA graph looks at whole blocks of keys, or every length would need its own.
KEYS_PER_BLOCK = 64

RULE_FIELDS = [field.name for field in fields(RuleState)]


class NonFiniteOutput(DistilwhisperError, ArithmeticError):
    """The model produced NaN or infinity: its weights or its input are broken."""

    def __init__(self) -> None:
        super().__init__(
            "log-probabilities must be finite, found others: the weights hold NaN, or the sound "
            "overflows this dtype (try float32)"
        )


@dataclass(eq=False)
class Search:
    """A model at work on up to ``n_slots`` windows, greedily or by sampling.

    A draft proposes ``draft_tokens`` a round; the text stays the same.
    """

    model: Whisper
    rules: DecodingRules
    special: SpecialTokens
    _: KW_ONLY
    n_slots: int
    draft: InitVar[Whisper | None] = None
    draft_tokens: int = 5

    def __post_init__(self, draft: Whisper | None) -> None:
        self.counts = Counts()
        self._lane = Lane(self.model, self.n_slots)
        self._draft = None if draft is None else Lane(draft, self.n_slots)
        self._state = SlotState.blank(self.n_slots, self.model.config.max_tokens, self.rules)
        self._n_positions = self.model.config.max_tokens
        self._rows = cache(self._state.rows)  # asked for at every step
        self._jobs: list[Job | None] = []  # of the slots in use; None: done, to be filled up
        self._lengths: list[int] = []  # of each slot's tokens when last looked at
        self._noise: dict[Any, torch.Generator] = {}  # ticket to its random numbers
        self._graphs: dict[tuple[int, int, int], torch.cuda.CUDAGraph] = {}

    @property
    def n_free(self) -> int:
        """Slots that a window could be admitted to."""
        return self.n_slots - len(self.tickets)

    @property
    def tickets(self) -> list[Any]:
        """Those of the windows in slots."""
        return [job.ticket for job in self._jobs if job is not None]

    @torch.inference_mode()
    def admit(self, jobs: Sequence[Job]) -> None:
        """Take windows into free slots, read their prompts, and write the first token of each.

        Raises:
            ValueError: more windows than free slots, or one that no slot can hold.
        """
        if len(jobs) > self.n_free:
            raise ValueError(f"{self.n_free} slots are free, found {len(jobs)} windows")
        for job in jobs:
            require_room(self.model, n_prompt=len(job.prompt), n_new=job.max_new_tokens)
            if self.special.sot not in job.prompt:
                raise ValueError("a prompt must hold start of transcript, found none")
            if (self._draft is None) != (job.draft_states is None):
                raise ValueError("a window needs a draft's states exactly where there is a draft")
        if not jobs:
            return
        self._close_ranks()
        first = len(self._jobs)
        for slot, job in enumerate(jobs, start=first):
            for lane, states in ((self._lane, job.states), (self._draft, job.draft_states)):
                if lane is not None and states is not None:
                    lane.place(slot, states, job.kept)
            self._state.begin(slot, job, self.rules)
            if job.temperature > 0:
                noise = torch.Generator(self.model.device)
                self._noise[job.ticket] = noise.manual_seed(job.seed)
            self._jobs.append(replace(job, states=None, draft_states=None))
            self._lengths.append(len(job.prompt))
        self._read_prompts(first, jobs)

    @torch.inference_mode()
    def step(self, for_s: float = 0.0) -> list[tuple[Any, Hypothesis]]:
        """Write at least one more token in every slot whose text has not ended.

        On a CPU it takes as many steps as begin within ``for_s`` seconds, or until a text ends.

        Returns ticket and hypothesis of the windows that are now done; their slots are free.

        Raises:
            NonFiniteOutput: a row's probabilities are not numbers.
        """
        self._close_ranks()
        n = len(self._jobs)
        if not n:
            return []
        longest = max(self._lengths)
        noise = self._sample_noise(0, n)
        if self._draft is not None and noise is None:
            self._speculate(self._draft, n, longest)
        elif noise is not None:
            self._decode(n, longest + 1, noise=noise)
            self.counts += Counts(steps=1, row_steps=n)
        else:
            on_gpu = self._is_capturable(n)
            until_s = time.monotonic() + for_s
            n_most = GPU_STEPS_PER_LOOK if on_gpu else self._n_positions
            for n_keys in range(longest + 1, min(longest + n_most, self._n_positions) + 1):
                (self._replay if on_gpu else self._decode)(n, n_keys)
                self.counts += Counts(steps=1, row_steps=n)
                if not on_gpu and (time.monotonic() >= until_s or self._state.ended[:n].any()):
                    break
        return self._collect(n)

    def drop(self, tickets: Collection[Any]) -> None:
        """Forget some of the windows; their slots are free."""
        for slot, job in enumerate(self._jobs):
            if job is not None and job.ticket in tickets:
                self._jobs[slot] = None
                self._noise.pop(job.ticket, None)

    def clear(self) -> None:
        """Forget all windows, done or not."""
        self._jobs.clear()
        self._lengths.clear()
        self._noise.clear()

    def _read_prompts(self, first: int, jobs: Sequence[Job]) -> None:
        """Fill the caches, and write the first token of each window."""
        device = self.model.device
        state = self._rows(first, first + len(jobs))
        rows = [torch.tensor(job.prompt) for job in jobs]
        prompts = pad_sequence(rows, batch_first=True, padding_value=self.special.eot).to(device)
        zeros = torch.zeros(len(jobs), dtype=torch.long, device=device)
        states = self._lane.run(prompts, zeros, first=first, n_keys=prompts.shape[1])
        places = [(job.prompt.index(self.special.sot), len(job.prompt) - 1) for job in jobs]
        each = torch.arange(len(jobs), device=device)[:, None]
        logits = self.model.decoder.project(states[each, torch.tensor(places, device=device)])
        kept = (state.no_speech_probs, state.languages, state.language_probs)
        for ours, new in zip(kept, start_scores(logits[:, 0].float(), self.special), strict=True):
            ours.copy_(new)
        self._write(state, logits[:, 1], self._sample_noise(first, first + len(jobs)))
        self.counts += Counts(steps=1, row_steps=len(jobs))

    def _decode(self, n: int, n_keys: int, *, noise: Tensor | None = None) -> None:
        """Write one token in the first ``n`` slots; nothing here waits for the device."""
        state = self._rows(0, n)
        states = self._lane.run(state.last[:, None], state.lengths, n_keys=n_keys)
        self._write(state, self.model.decoder.project(states[:, 0]), noise)

    def _write(
        self, state: SlotState, logits: Float[Tensor, "rows vocab"], noise: Tensor | None
    ) -> None:
        """Choose a token for each row and write it in those whose text has not ended."""
        allowed = self.rules(logits.float(), state)
        sampled = None
        if noise is not None:  # rows that are not hot have none: their likeliest token it is
            scale = torch.where(state.temperature > 0, state.temperature, 1.0)
            sampled = best(allowed / scale[:, None] + noise)
        self._append(state, *choose(allowed, sampled), ~state.ended)

    def _append(
        self, state: SlotState, choice: Tensor, logprobs: Tensor, speaking: Bool[Tensor, " rows"]
    ) -> None:
        """Write one more token in the rows that are ``speaking``."""
        at = state.lengths[:, None] + 1  # in rows that are not speaking, it is not read
        state.tokens.scatter_(1, at, choice[:, None])
        state.logprobs.scatter_(1, at, logprobs[:, None])
        state.lengths.add_(speaking)
        after = self.rules.advance(state, choice)
        for name in RULE_FIELDS:
            ours = getattr(state, name)
            torch.where(speaking, getattr(after, name), ours, out=ours)
        ends = (choice == self.special.eot) | (state.lengths + 1 >= state.limits)
        state.ended.logical_or_(speaking & ends)

    def _speculate(self, draft: Lane, n: int, longest: int) -> None:
        """Write as many tokens in each row as the draft guesses right, and one more."""
        state, decoder = self._rows(0, n), self.model.decoder
        room = self._n_positions - longest - 1  # behind the longest row's last token
        n_drafted = min(self.draft_tokens, room)
        block = state.last[:, None]
        if n_drafted:
            drafted = self._propose(draft, state, n_drafted, longest)
            block = torch.cat([block, drafted], dim=1)
        before = state.lengths.clone()
        states = self._lane.run(block, before, n_keys=longest + 1 + n_drafted)
        logits = decoder.project(states).float()
        speaking = ~state.ended
        n_open, n_accepted = int(speaking.sum()), 0
        for place in range(n_drafted + 1):
            choice, logprobs = choose(self.rules(logits[:, place], state))
            self._append(state, choice, logprobs, speaking)
            if place < n_drafted:
                right = speaking & (choice == block[:, place + 1])
                n_accepted += int(right.sum())
                speaking = right & ~state.ended
        # The draft has read its guesses but the last; those beyond what was written do not count.
        state.draft_lengths.copy_(torch.minimum(state.lengths, before + n_drafted))
        self.counts += Counts(
            steps=1, row_steps=n_open, drafted=n_open * n_drafted, accepted=n_accepted
        )

    def _propose(
        self, draft: Lane, state: SlotState, n_tokens: int, longest: int
    ) -> Int[Tensor, "rows tokens"]:
        """Return what the draft would write next in each row, under the model's rules."""
        # It first reads the prompt, or what the model wrote instead of its last guesses.
        n_wanted = int((state.lengths + 1 - state.draft_lengths).max())
        # Rows with less to read are padded; what stands behind a row's end is overwritten later.
        # Near the last position a row reads some tokens again instead.
        read = state.draft_lengths.clamp(max=self._n_positions - n_wanted)
        at = read[:, None] + torch.arange(n_wanted, device=read.device)
        states = draft.run(state.tokens.gather(1, at), read, n_keys=int(at.max()) + 1)
        last = state.lengths - read
        states = states[torch.arange(len(read), device=read.device), last]
        rule_state: RuleState = state
        drafted: list[Tensor] = []
        for number in range(n_tokens):
            if drafted:
                lengths, n_keys = state.lengths + number, longest + number + 1
                states = draft.run(drafted[-1][:, None], lengths, n_keys=n_keys)[:, 0]
            allowed = self.rules(draft.model.decoder.project(states).float(), rule_state)
            drafted.append(best(allowed))
            rule_state = self.rules.advance(rule_state, drafted[-1])
        return torch.stack(drafted, dim=1)

    def _sample_noise(self, first: int, stop: int) -> Float[Tensor, "rows vocab"] | None:
        """Return Gumbel noise for some slots, each window's from its own random numbers.

        The largest of log-probabilities with such noise is a sample of the distribution. Windows
        that are not sampled get zeros; None: none is.
        """
        hot = [
            (row, job.ticket)
            for row, job in enumerate(self._jobs[first:stop])
            if job is not None and job.temperature > 0
        ]
        if not hot:
            return None
        noise = torch.zeros(stop - first, self.model.config.vocab_size, device=self.model.device)
        for row, ticket in hot:
            noise[row].exponential_(generator=self._noise[ticket])
            noise[row].log_().neg_()
        return noise

    def _is_capturable(self, n: int) -> bool:
        on_gpu = self.model.device.type == "cuda" and self.model.decoder.is_capturable
        return on_gpu and len(set(self._lane.n_frames[:n])) == 1

    def _replay(self, n: int, n_keys: int) -> None:
        """Run a step as a CUDA graph, captured at the first step of its size."""
        whole = -(-n_keys // KEYS_PER_BLOCK) * KEYS_PER_BLOCK
        n_keys = min(whole, self._n_positions)
        size = (n, n_keys, self._lane.n_frames[0])
        with torch.cuda.device(self.model.device):
            if size not in self._graphs:
                self._graphs[size] = self._capture(n, n_keys)
            self._graphs[size].replay()

    def _capture(self, n: int, n_keys: int) -> torch.cuda.CUDAGraph:
        """Capture :meth:`_decode`, leaving the slots as they were."""
        rows = vars(self._rows(0, n)).values()
        before = [tensor.clone() for tensor in rows]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up outside of any capture
            for _ in range(2):
                self._decode(n, n_keys)
        torch.cuda.current_stream().wait_stream(side)
        for tensor, saved in zip(rows, before, strict=True):
            tensor.copy_(saved)
        graph = torch.cuda.CUDAGraph()
        # Nothing made in a capture outlives its step, so all of them may share their memory.
        shared = next(iter(self._graphs.values())).pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=shared):
            self._decode(n, n_keys)
        return graph

    def _collect(self, n: int) -> list[tuple[Any, Hypothesis]]:
        """Take the windows that are done out of their slots."""
        state = self._state
        ended, lengths = torch.stack([state.ended[:n].long(), state.lengths[:n]]).tolist()
        for slot in range(n):
            if (cut := self._hopeless_at(slot, lengths[slot])) is not None:
                ended[slot], lengths[slot] = True, cut
        self._lengths = lengths
        done = [slot for slot in range(n) if ended[slot] and self._jobs[slot] is not None]
        if not done:
            return []
        rows = torch.tensor(done, device=self.model.device)
        texts = (tensor[rows].tolist() for tensor in (state.tokens, state.logprobs))
        languages, places = self.special.languages, state.languages[rows].tolist()
        scores = (tensor[rows].tolist() for tensor in (state.no_speech_probs, state.language_probs))
        hypotheses = []
        for slot, tokens, logprobs, place, silence, spoken in zip(
            done, *texts, places, *scores, strict=True
        ):
            job = self._jobs[slot]
            assert job is not None
            self.drop([job.ticket])
            written = slice(len(job.prompt), lengths[slot] + 1)
            new, total = tokens[written], sum(logprobs[written])
            if not all(map(math.isfinite, (total, silence, spoken))):
                raise NonFiniteOutput
            self.counts += Counts(tokens=len(new))
            finished = new[-1] == self.special.eot
            hypothesis = Hypothesis(
                token_ids=tuple(new[:-1] if finished else new),
                finished=finished,
                avg_logprob=total / len(new),
                no_speech_prob=silence,
                language_id=languages[place] if languages else None,
                language_prob=spoken if languages else None,
                logprobs=tuple(logprobs[written]),
            )
            hypotheses.append((job.ticket, hypothesis))
        return hypotheses

    def _hopeless_at(self, slot: int, length: int) -> int | None:
        """Return the length at which a slot's text has become hopeless, if it has."""
        job = self._jobs[slot]
        if job is None or job.hopeless is None:
            return None
        first, every = len(job.prompt), TOKENS_PER_JUDGEMENT
        n_before, n_now = (last + 1 - first for last in (self._lengths[slot], length))
        stops = range(n_before + every - n_before % every, n_now + 1, every)
        texts = ((n, self._state.tokens[slot, first : first + n].tolist()) for n in stops)
        return next((first + n - 1 for n, text in texts if job.hopeless(text)), None)

    def _close_ranks(self) -> None:
        """Move the last windows into slots that are done: the slots in use are the first ones."""
        while None in self._jobs:
            hole = self._jobs.index(None)
            last = len(self._jobs) - 1
            job, length = self._jobs.pop(), self._lengths.pop()
            if job is None or hole == last:
                continue
            self._jobs[hole], self._lengths[hole] = job, length
            self._state.move(last, hole)
            for lane in filter(None, (self._lane, self._draft)):
                lane.move(last, hole, length + 1)


def require_room(model: Whisper, *, n_prompt: int, n_new: int) -> None:
    """Check that a prompt and what may follow it have a position each; raise ValueError."""
    most = model.config.max_tokens
    if n_prompt + n_new > most:
        raise ValueError(
            f"prompt and new tokens must fit in {most} positions, found {n_prompt} + {n_new}: "
            "shorten the prompt or lower max_new_tokens"
        )
