"""Memory and seconds of single stages and edges on the chips of a search, each worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from motley.chips.chip import Chip, Link
from motley.errors import RecipeError
from motley.plan.choices import ReplicaChoice, StageChoice
from motley.plan.cost import (
    backward_flops,
    backward_seconds,
    boundary_bytes,
    forward_flops,
    forward_seconds,
    optimizer_seconds,
)
from motley.plan.memory import groups_of, held_parameters, stage_memory
from motley.plan.schedule import in_flight
from motley.recipe import Recipe


class RunningSums(NamedTuple):
    """Running sums over layers: entry i is the time of the layers before i."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    recomputed_backward: tuple[float, ...]


class StageTables:
    """What stages of one recipe need on some chips."""

    def __init__(
        self, recipe: Recipe, chips: Sequence[Chip], link: Callable[[int, int], Link]
    ) -> None:
        if recipe.model.vocab_size is None:
            raise RecipeError(
                "model.vocab_size is not known yet; a plan needs it.",
                remedy="Set it, or take it from the tokenizer with Recipe.with_vocabulary.",
            )
        self.config = recipe.model
        self.sequence_length = recipe.batch.sequence_length
        self.global_batch = recipe.batch.global_batch
        self.num_layers = recipe.model.num_layers
        self.chips = tuple(chips)
        self.link = link
        self.groups = groups_of(self.config)
        self._sums: dict[tuple[int, int], RunningSums] = {}
        self._memory: dict[tuple[object, ...], int] = {}
        self._optimizer: dict[StageChoice, float] = {}

    def sample_flops(self) -> list[float]:
        """FLOPs of forward and backward of one sample, by layer."""
        precision = self.chips[0].precision
        return [
            forward_flops(self.config, layer, self.sequence_length, precision)
            + backward_flops(self.config, layer, self.sequence_length, precision, False)
            for layer in range(self.num_layers)
        ]

    def memory_bytes(
        self, stage: StageChoice, num_in_flight: int, micro_batch_size: int, recompute: bool
    ) -> int:
        """Predicted peak of a stage."""
        chip, first, last = stage
        precision = self.chips[chip].precision
        key = (precision, first, last, num_in_flight, micro_batch_size, recompute)
        need = self._memory.get(key)
        if need is None:
            need = stage_memory(
                self.config,
                self.sequence_length,
                precision,
                (first, last),
                num_in_flight=num_in_flight,
                micro_batch_size=micro_batch_size,
                recompute=recompute,
            ).total_bytes
            self._memory[key] = need
        return need

    def recompute(
        self, stage: StageChoice, num_in_flight: int, micro_batch_size: int
    ) -> bool | None:
        """Whether a stage must recompute to fit its chip; None if it does not fit at all."""
        available = self.chips[stage.chip].memory_bytes
        for recompute in (False, True):
            need = self.memory_bytes(stage, num_in_flight, micro_batch_size, recompute)
            if need <= available:
                return recompute
        return None

    def recompute_flags(self, replica: ReplicaChoice) -> tuple[bool, ...] | None:
        """`recompute` of every stage; None if any does not fit."""
        flags = []
        num_stages = len(replica.stages)
        size = min(replica.micro_batch_size, replica.num_samples)
        for position, stage in enumerate(replica.stages):
            kept = in_flight(position, num_stages, replica.num_micro_batches)
            flag = self.recompute(stage, kept, size)
            if flag is None:
                return None
            flags.append(flag)
        return tuple(flags)

    def running_sums(self, chip: int, num_samples: int) -> RunningSums:
        """Running sums of the layers' times on a chip."""
        key = (chip, num_samples)
        found = self._sums.get(key)
        if found is None:
            arguments = (self.chips[chip], self.config)
            length, layers = self.sequence_length, range(self.num_layers)

            def backward(recompute: bool) -> tuple[float, ...]:
                seconds = (
                    backward_seconds(*arguments, layer, length, num_samples, recompute)
                    for layer in layers
                )
                return tuple(accumulate(seconds, initial=0.0))

            forward = (forward_seconds(*arguments, layer, length, num_samples) for layer in layers)
            found = RunningSums(
                tuple(accumulate(forward, initial=0.0)), backward(False), backward(True)
            )
            self._sums[key] = found
        return found

    def pass_seconds(
        self, stage: StageChoice, num_samples: int, recompute: bool
    ) -> tuple[float, float]:
        """Forward and backward time of one micro-batch."""
        sums = self.running_sums(stage.chip, num_samples)
        backward = sums.recomputed_backward if recompute else sums.backward
        first, last = stage.first_layer, stage.last_layer
        return sums.forward[last] - sums.forward[first], backward[last] - backward[first]

    def optimizer_seconds(self, stage: StageChoice) -> float:
        """Time of the update of what the stage holds."""
        seconds = self._optimizer.get(stage)
        if seconds is None:
            held = held_parameters(self.config, stage.first_layer, stage.last_layer)
            seconds = self._optimizer[stage] = optimizer_seconds(self.chips[stage.chip], held)
        return seconds

    def edge_seconds(self, first: int, second: int, num_samples: int) -> tuple[float, float]:
        """How long one message occupies the edge between two chips, and its latency."""
        link = self.link(first, second)
        num_bytes = boundary_bytes(
            self.config,
            self.sequence_length,
            num_samples,
            self.chips[first].precision,
            self.chips[second].precision,
        )
        return num_bytes / link.bandwidth_bytes_per_s, link.latency_s
