"""The order in which one stage runs its micro-batches: non-interleaved 1F1B.

The trainer executes this list and the simulator predicts it; there is no second schedule. From
PipeDream-Flush (Narayanan et al., arXiv 2006.09503) and Megatron-LM (arXiv 2104.04473, figure 4).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple


class Action(NamedTuple):
    """One pass of one micro-batch through one stage."""

    kind: Literal["forward", "backward"]
    micro_batch: int


def one_forward_one_backward(
    position: int, num_stages: int, num_micro_batches: int
) -> tuple[Action, ...]:
    """What stage `position` of `num_stages` runs, in order.

    Warm-up forwards fill the stages behind it, then one forward and one backward alternate, then
    the remaining backwards drain. At most `in_flight(...)` micro-batches are kept at any moment.
    """
    warm_up = min(num_stages - 1 - position, num_micro_batches)
    actions = [Action("forward", index) for index in range(warm_up)]
    for index in range(num_micro_batches - warm_up):
        actions.append(Action("forward", warm_up + index))
        actions.append(Action("backward", index))
    first_left = num_micro_batches - warm_up
    actions += [Action("backward", index) for index in range(first_left, num_micro_batches)]
    return tuple(actions)


def in_flight(position: int, num_stages: int, num_micro_batches: int) -> int:
    """Most micro-batches whose activations stage `position` keeps at once."""
    return min(num_stages - position, num_micro_batches)


@lru_cache(maxsize=512)
def execution_order(num_stages: int, num_micro_batches: int) -> tuple[tuple[int, bool, int], ...]:
    """All stages' actions as (stage, is forward, micro-batch), each after what it depends on.

    A stage's forward needs the stage's before it, a backward the stage's behind it.
    """
    queues = [
        one_forward_one_backward(position, num_stages, num_micro_batches)
        for position in range(num_stages)
    ]
    next_action = [0] * num_stages
    done = {"forward": [0] * num_stages, "backward": [0] * num_stages}
    order: list[tuple[int, bool, int]] = []
    total = 2 * num_stages * num_micro_batches
    while len(order) < total:
        for stage, queue in enumerate(queues):
            while next_action[stage] < len(queue):
                kind, micro_batch = queue[next_action[stage]]
                source = stage - 1 if kind == "forward" else stage + 1
                if 0 <= source < num_stages and done[kind][source] <= micro_batch:
                    break
                order.append((stage, kind == "forward", micro_batch))
                done[kind][stage] += 1
                next_action[stage] += 1
    return tuple(order)
