"""Speculative decoding: a small draft proposes tokens, the model checks them all in one pass.

The model's own choice is written at every place, drafted or not, so the text is the model's alone.
In a round a row gets as many tokens as the draft guessed right, and one more. Every row goes on
from its own place: a wrong guess in one row costs the others nothing.

Source: arXiv:2211.17192; arXiv:2311.00430, section 5 ("speculative decoding"), which accepts in
lock-step over a batch.
"""

import torch
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules, RuleState, best, choose
from distilwhisper.decoding.slots import Counts, Lane, SlotState
from distilwhisper.shapes import Int


def speculate(
    lane: Lane,
    draft: Lane,
    state: SlotState,
    rules: DecodingRules,
    *,
    n_tokens: int,
    eot: int,
    longest: int,
) -> Counts:
    """Write as many tokens in each row as the draft guesses right, and one more.

    The state is of the slots in use, whose longest row has ``longest`` tokens; it is changed in
    place. The rules apply to the draft and to the model alike.

    Returns:
        What the round cost, and how much of the draft was accepted; the tokens are not counted.
    """
    decoder = lane.model.decoder
    room = state.tokens.shape[1] - longest - 1  # places behind the longest row's last token
    n_drafted = min(n_tokens, room)
    block = state.last[:, None]
    if n_drafted:
        drafted = _propose(draft, state, rules, n_tokens=n_drafted, longest=longest)
        block = torch.cat([block, drafted], dim=1)
    before = state.lengths.clone()
    logits = decoder.project(lane.run(block, before, n_keys=longest + 1 + n_drafted)).float()
    speaking = ~state.ended
    n_open = int(speaking.sum())
    n_accepted = 0
    for place in range(n_drafted + 1):
        allowed = rules(logits[:, place], state)
        choice, logprobs = choose(allowed)
        state.say(choice, logprobs, speaking, rules=rules, eot=eot)
        if place < n_drafted:
            right = speaking & (choice == block[:, place + 1])
            n_accepted += int(right.sum())
            speaking = right & ~state.ended
    # The draft has read its guesses but the last; those beyond what was written do not count.
    state.draft_lengths.copy_(torch.minimum(state.lengths, before + n_drafted))
    return Counts(steps=1, row_steps=n_open, drafted=n_open * n_drafted, accepted=n_accepted)


def _propose(
    draft: Lane, state: SlotState, rules: DecodingRules, *, n_tokens: int, longest: int
) -> Int[Tensor, "rows tokens"]:
    """Return what the draft would write next in each row, under the model's rules.

    It first reads what it has not read yet: the prompt, or what the model wrote instead of its
    last guesses.
    """
    device = state.lengths.device
    n_wanted = int((state.lengths + 1 - state.draft_lengths).max())
    # Rows with less to read are padded; what stands behind a row's end is overwritten later.
    # Near the last position a row reads some tokens again instead.
    read = state.draft_lengths.clamp(max=state.tokens.shape[1] - n_wanted)
    n_unread = state.lengths + 1 - read
    at = read[:, None] + torch.arange(n_wanted, device=device)
    unread = state.tokens.gather(1, at)
    states = draft.run(unread, read, n_keys=int(at.max()) + 1)
    states = states[torch.arange(len(read), device=device), n_unread - 1]
    rule_state: RuleState = state
    drafted: list[Tensor] = []
    for number in range(n_tokens):
        if drafted:
            lengths = state.lengths + number
            new = draft.run(drafted[-1][:, None], lengths, n_keys=longest + number + 1)
            states = new[:, 0]
        allowed = rules(draft.model.decoder.project(states).float(), rule_state)
        drafted.append(best(allowed))
        rule_state = rules.advance(rule_state, drafted[-1])
    return torch.stack(drafted, dim=1)
