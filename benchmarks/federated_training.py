"""Several parties' training in one process, exactly as their rounds go, without store or network.

For what depends on the mathematics alone: the frontier of bytes against loss, and attackers. The
parties train one after the other with the product's model, optimizer, codecs and merge; what each
sends is made and counted by the codec. Time is not looked at.

Byte counts are those of one party, sent and received. Data-parallel training is counted with the
ring all-reduce of fp32 gradients, which moves the least: 2 (n - 1) / n times the model each way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from motley.data import SampleSource, bits_per_byte, evaluation_samples, target_bytes
from motley.federation.charter.terms import AggregateConfig, OuterConfig
from motley.federation.codec import CodecConfig, build_codec
from motley.federation.codec.payload import Payload
from motley.federation.state.fragments import mix_in, partition
from motley.federation.state.merge import merge
from motley.model.config import ModelConfig
from motley.model.transformer import Transformer, build_transformer
from motley.optim.optimizer import build_optimizer
from motley.optim.schedule import learning_rate
from motley.recipe import (
    BatchConfig,
    DataConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
)
from motley.train.prepare import prepare_data

Named = dict[str, Tensor]

SIZES = {
    "XXS": ModelConfig(layers=2, width=64, heads=2, context=128),
    "XS": ModelConfig(layers=4, width=96, heads=3, context=128),
    "S": ModelConfig(layers=5, width=192, heads=6, context=128),
    "M": ModelConfig(layers=6, width=352, heads=11, context=128),
}
"""0.2, 0.5, 2.6 and 10 million parameters."""
_BLOCK: dict[str, Any] = {
    "positions": "rotary", "norm": "rmsnorm", "activation": "relu2", "bias": False, "qk_norm": True,
}  # fmt: skip
VOCABULARY = {"XXS": 1024, "XS": 1024, "S": 2048, "M": 2048}
HELD_OUT_SAMPLES = 512
"""On which a contestant is scored; 65,536 tokens."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How the parties work together."""

    local_steps: int
    codec: CodecConfig
    outer: OuterConfig
    aggregate: AggregateConfig = dataclasses.field(default_factory=AggregateConfig)
    fragments: int = 1
    delay_steps: int = 0
    mixing: float = 1.0


MUONS_OTHER_RATE = 1e-2
"""Of embeddings and norms, which are under AdamW there; as in the demo's recipe."""


def optimizer_of(kind: Literal["adamw", "muon"], rate: float) -> OptimizerConfig:
    """AdamW with that rate for all parameters, or Muon with that rate for the blocks' matrices."""
    if kind == "adamw":
        return OptimizerConfig(learning_rate=rate)
    return OptimizerConfig(kind=kind, learning_rate=MUONS_OTHER_RATE, matrix_learning_rate=rate)


def build_recipe(
    size: str, *, steps: int, optimizer: OptimizerConfig, samples: int = 16, seed: int = 0
) -> Recipe:
    """The job that all contestants train: samples of 128 tokens of the standard library's text."""
    return Recipe(
        seed=seed,
        model=dataclasses.replace(SIZES[size], **_BLOCK),
        data=DataConfig(vocab_size=VOCABULARY[size]),
        batch=BatchConfig(sequence_length=128, global_batch=samples),
        optimizer=optimizer,
        schedule=ScheduleConfig(
            steps=steps, warmup_steps=steps // 12, decay="linear", final_share=0.0
        ),
    )


class Job:
    """A recipe with its data, and what all contestants do alike."""

    def __init__(self, recipe: Recipe, report: Callable[[str], None] = print) -> None:
        self.recipe, self.data = prepare_data(recipe, report)
        length = recipe.batch.sequence_length
        self.source = SampleSource(self.data.train, length, recipe.seed)
        self.held_out = evaluation_samples(self.data.held_out, length, HELD_OUT_SAMPLES)

    def model(self) -> Transformer:
        """With the initial parameters."""
        return build_transformer(self.recipe.model, seed=self.recipe.seed)

    @cached_property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.model().state().values())

    def bits_per_byte(self, model: Transformer) -> float:
        """On the held-out text; every contestant is scored on the same samples."""
        loss_sum, _, num_bytes = self.score(model, range(self.held_out.num_samples))
        return bits_per_byte(loss_sum, num_bytes)

    @torch.no_grad()
    def score(self, model: Transformer, samples: range) -> tuple[float, int, float]:
        """Summed loss in nats, targets and raw bytes of some held-out samples."""
        loss_sum, num_targets, num_bytes = 0.0, 0, 0.0
        for first in range(samples.start, samples.stop, 32):
            batch = range(first, min(first + 32, samples.stop))
            tokens, targets = self.held_out.batch(batch)
            loss_sum += float(model.loss(torch.from_numpy(tokens), torch.from_numpy(targets)))
            num_targets += self.held_out.num_targets(batch)
            num_bytes += target_bytes(targets, self.data.token_bytes)
        return loss_sum, num_targets, num_bytes


class Trainer:
    """A model with its optimizer, which lives across rounds."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model = job.model()
        self.optimizer = build_optimizer(self.model.named(), job.recipe.optimizer)

    def step(self, step: int, positions: Sequence[int]) -> float:
        """One update on those samples; their loss before it, in nats per token."""
        recipe = self.job.recipe
        tokens, targets = (torch.from_numpy(a) for a in self.job.source.batch(positions))
        loss = self.model.loss(tokens, targets) / (targets >= 0).sum()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimizer.gradient_clip)
        self.optimizer.step(learning_rate(1.0, recipe.schedule, step), step)
        self.model.zero_grad()
        return loss.item()

    def copy(self, names: Sequence[str]) -> Named:
        """The parameters of those names, as they are now."""
        state = self.model.state()
        return {name: state[name].clone() for name in names}


def data_parallel(job: Job) -> float:
    """Bits per byte of the whole batch on one model."""
    trainer = Trainer(job)
    batch = job.recipe.batch.global_batch
    for step in range(job.recipe.schedule.steps):
        trainer.step(step, range(step * batch, (step + 1) * batch))
    return job.bits_per_byte(trainer.model)


class Party:
    """A trainer with its fed-back error and what it has in flight."""

    def __init__(self, job: Job, index: int, num_parties: int) -> None:
        self.trainer = Trainer(job)
        self.index, self.num_parties = index, num_parties
        self.residual: Named = {}
        self.published: Named = {}

    def step(self, step: int) -> None:
        """On this party's share of the step's samples."""
        share = self.trainer.job.recipe.batch.global_batch // self.num_parties
        first = (step * self.num_parties + self.index) * share
        self.trainer.step(step, range(first, first + share))


Tamper = Callable[["Federation", int, list[Payload]], list[tuple[int, Payload]]]
"""Given the round and its payloads, those that are accepted, with their weights."""


class Federation:
    """All parties, their shared state and the bytes that each has sent and received."""

    def __init__(self, job: Job, rounds: Rounds, num_parties: int = 4) -> None:
        self.job, self.rounds, self.num_parties = job, rounds, num_parties
        self.parties = [Party(job, index, num_parties) for index in range(num_parties)]
        self.codec = build_codec(rounds.codec)
        self._keeps = rounds.codec.feedback == "kept"
        self.reference = job.model()
        self.shared = self.reference.state()
        self.momentum = {name: torch.zeros_like(tensor) for name, tensor in self.shared.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in self.shared.items()}
        self.fragments = partition(shapes, rounds.fragments)
        self.sent_bytes = self.received_bytes = 0
        self.norms: list[float] = []

    def train(self, accept: Tamper | None = None) -> float:
        """All steps of the recipe; bits per byte of the shared parameters at the end."""
        every = self.rounds.local_steps // self.rounds.fragments
        steps = self.job.recipe.schedule.steps
        in_flight: dict[int, Sequence[str]] = {}
        for step in range(steps):
            for party in self.parties:
                party.step(step)
            if (step + 1) % every == 0 or step + 1 == steps:
                number = step // every
                for names in self._turn(number, is_last=step + 1 == steps):
                    self._round(number, names, accept)
                    in_flight[min(step + self.rounds.delay_steps, steps - 1)] = names
            if step in in_flight:
                self._take_in(in_flight.pop(step))
        return self.job.bits_per_byte(self.reference)

    def _turn(self, number: int, *, is_last: bool) -> Iterator[Sequence[str]]:
        """The fragment of this round; at the end of the training all, once."""
        if is_last:
            yield from self.fragments
        else:
            yield self.fragments[number % len(self.fragments)]

    def _round(self, number: int, names: Sequence[str], accept: Tamper | None) -> None:
        payloads = []
        for party in self.parties:
            party.published = {**party.published, **party.trainer.copy(names)}
            delta = {name: party.published[name] - self.shared[name] for name in names}
            before = None if self._keeps else party.residual
            payload, residual = self.codec.encode(delta, before)
            party.residual.update(residual)
            payloads.append(payload)
        accepted = accept(self, number, payloads) if accept else [(1, each) for each in payloads]
        size = sum(array.nbytes for array in payloads[0].values())
        self.sent_bytes += size
        self.received_bytes += size * (self.num_parties - 1)
        self.norms = merge(
            self.shared,
            self.momentum,
            accepted,
            names=names,
            codec=self.codec,
            outer=self.rounds.outer,
            aggregate=self.rounds.aggregate,
        )

    def _take_in(self, names: Sequence[str]) -> None:
        merged = {name: self.shared[name] for name in names}
        decay = self.codec.feedback_decay
        for party in self.parties:
            own = party.published
            if self._keeps:
                own = {name: own[name] - party.residual[name] * decay for name in names}
            mix_in(party.trainer.model.state(), own, merged, self.rounds.mixing)

    @property
    def moved_bytes(self) -> int:
        """Of one party, sent and received."""
        return self.sent_bytes + self.received_bytes


def ring_bytes(job: Job, num_parties: int) -> int:
    """What a ring all-reduce of fp32 gradients moves at one party, sent and received."""
    one_way = 2 * (num_parties - 1) * 4 * job.num_parameters // num_parties
    return 2 * one_way * job.recipe.schedule.steps
