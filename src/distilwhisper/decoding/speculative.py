"""Speculative decoding: a small draft proposes tokens, the model checks them all in one pass.

The model's own choice is written at every place, drafted or not, so the text is the model's alone.
In a round a row gets as many tokens as the draft guessed right, and one more. Every row goes on
from its own place: a wrong guess in one row costs the others nothing.

Source: arXiv:2211.17192; arXiv:2311.00430, section 5 ("speculative decoding"), which accepts in
lock-step over a batch.
"""

import torch
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules, best, choose
from distilwhisper.decoding.slots import Counts, Lane, SlotState
from distilwhisper.model.silence import KeptFrames
from distilwhisper.model.whisper import Whisper
from distilwhisper.shapes import Float, Int


class Draft:
    """A draft's caches over all slots.

    Args:
        model: the draft.
        n_slots: as many as the search has.
        n_tokens: proposed in a round.

    Raises:
        ValueError: no token is to be proposed.
    """

    def __init__(self, model: Whisper, n_slots: int, n_tokens: int) -> None:
        if n_tokens < 1:
            raise ValueError(f"draft_tokens must be at least 1, found {n_tokens}")
        self.n_tokens = n_tokens
        self.lengths = torch.zeros(n_slots, dtype=torch.long, device=model.device)  # read so far
        self._lane = Lane(model, n_slots)

    def place(
        self, slot: int, states: Float[Tensor, "frames width"], kept: KeptFrames | None
    ) -> None:
        """Begin a window of which nothing has been read."""
        self._lane.place(slot, states, kept)
        self.lengths[slot] = 0

    def move(self, source: int, dest: int, n_tokens: int) -> None:
        """Move a window to another slot."""
        self._lane.move(source, dest, n_tokens)
        self.lengths[dest] = self.lengths[source]

    def propose(
        self, state: SlotState, rules: DecodingRules, *, n_tokens: int, longest: int
    ) -> Int[Tensor, "rows tokens"]:
        """Return what the draft would write next in each row, under the same rules.

        It first reads what it has not read yet: the prompt, or what the model wrote instead of its
        last guesses.

        Args:
            state: of the rows.
            rules: the model's.
            n_tokens: to propose.
            longest: of the rows' lengths.
        """
        n = len(state.lengths)
        device = state.lengths.device
        decoder = self._lane.model.decoder
        n_wanted = int((state.lengths + 1 - self.lengths[:n]).max())
        # Rows with less to read are padded; what stands behind a row's end is overwritten later.
        # Near the last position a row reads some tokens again instead.
        read = self.lengths[:n].clamp(max=state.tokens.shape[1] - n_wanted)
        n_unread = state.lengths + 1 - read
        at = read[:, None] + torch.arange(n_wanted, device=device)
        unread = state.tokens.gather(1, at)
        n_keys = int(at.max()) + 1
        states = self._lane.run(unread, read, n_keys=n_keys)
        states = states[torch.arange(n, device=device), n_unread - 1]
        rule_state = state.rules
        drafted: list[Tensor] = []
        for number in range(n_tokens):
            if drafted:
                lengths = state.lengths + number
                new = self._lane.run(drafted[-1][:, None], lengths, n_keys=longest + number + 1)
                states = new[:, 0]
            allowed = rules(decoder.project(states).float(), rule_state)
            drafted.append(best(allowed))
            rule_state = rules.advance(rule_state, drafted[-1])
        return torch.stack(drafted, dim=1)


def speculate(
    lane: Lane, draft: Draft, state: SlotState, rules: DecodingRules, *, eot: int, longest: int
) -> Counts:
    """Write as many tokens in each row as the draft guesses right, and one more.

    Args:
        lane: the model's caches.
        draft: with the same slots.
        state: of the slots in use; changed in place.
        rules: apply to the draft and to the model alike.
        eot: ends a row.
        longest: of the rows' lengths.

    Returns:
        What the round cost, and how much of the draft was accepted; the tokens are not counted.
    """
    decoder = lane.model.decoder
    n = len(state.lengths)
    room = state.tokens.shape[1] - longest - 1  # places behind the longest row's last token
    n_drafted = min(draft.n_tokens, room)
    block = state.last[:, None]
    if n_drafted:
        drafted = draft.propose(state, rules, n_tokens=n_drafted, longest=longest)
        block = torch.cat([block, drafted], dim=1)
    before = state.lengths.clone()
    logits = decoder.project(lane.run(block, before, n_keys=longest + 1 + n_drafted)).float()
    speaking = ~state.ended
    n_open = int(speaking.sum())
    n_accepted = 0
    for place in range(n_drafted + 1):
        allowed = rules(logits[:, place], state.rules)
        choice, logprobs = choose(allowed)
        state.say(choice, logprobs, speaking, rules=rules, eot=eot)
        if place < n_drafted:
            right = speaking & (choice == block[:, place + 1])
            n_accepted += int(right.sum())
            speaking = right & ~state.ended
    # The draft has read its guesses but the last; those beyond what was written do not count.
    draft.lengths[:n] = torch.minimum(state.lengths, before + n_drafted)
    return Counts(steps=1, row_steps=n_open, drafted=n_open * n_drafted, accepted=n_accepted)
