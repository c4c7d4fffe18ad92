"""What to train with a given compute: model size, tokens and batch, each with its rule's source.

    advice = advise(recipe, budget_of(recipe, plan, hours=10), corpus_tokens=7_200_000)
    print(*advice.sentences, sep="\\n")

The recipe's model family is walked depth by depth (`motley.model.ladder`); each member spends the
compute whole, and the one whose loss the fit predicts lowest is recommended. Of a compute that a
small text cannot use, what it can is spent. Compute is the model's FLOPs, without the optimizer's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from motley.model.config import ModelConfig
from motley.model.counts import model_counts
from motley.model.ladder import DEEPEST, at_depth
from motley.plan.advice.laws import (
    FITTED_FLOPS,
    GOOD_EPOCHS,
    MOST_EPOCHS,
    best_batch_tokens,
    critical_batch_tokens,
    effective_tokens,
    limited_loss,
)
from motley.plan.objective import SECONDS_PER_HOUR
from motley.plan.plan import Plan
from motley.recipe import Recipe
from motley.units import duration, percent, si

EVEN_BATCH = 8
"""Larger batches are whole multiples of it, so that they split evenly."""
ALIKE_NATS = 0.01
"""Losses that differ by less are told as equal: seeds differ by about as much."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """FLOPs of the model to spend, and where the figure comes from."""

    flops: float
    origin: str


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model and how much it is trained; what the laws say of it is predicted."""

    model: ModelConfig
    parameters: int
    """Those that one token passes."""
    global_batch: int
    steps: int
    tokens: int
    flops: float
    loss: float
    """Nats per token on the fit's own text: only good to compare two trainings."""

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters


@dataclass(frozen=True, kw_only=True)
class Advice:
    budget: Budget
    best: Training
    own: Training
    """The recipe's model with the same budget, in its own batch."""
    corpus_tokens: int | None
    """Of the part that is trained on; None where no text was read."""
    sentences: tuple[str, ...]
    """The advice in words, with sources."""

    @property
    def epochs(self) -> float | None:
        return self.best.tokens / self.corpus_tokens if self.corpus_tokens else None


def budget_of(recipe: Recipe, plan: Plan | None = None, hours: float | None = None) -> Budget:
    """What the plan computes in `hours`; without them, what the recipe's own steps take."""
    length = recipe.batch.sequence_length
    flops_per_token = model_counts(recipe.model, length).flops_per_token
    if plan is None or hours is None:
        tokens = recipe.schedule.steps * recipe.tokens_per_step
        return Budget(
            flops=tokens * flops_per_token,
            origin=f"the recipe's own {recipe.schedule.steps} steps",
        )
    seconds = hours * SECONDS_PER_HOUR
    rate = plan.tokens_per_s * flops_per_token
    return Budget(
        flops=rate * seconds,
        origin=f"{duration(seconds)} at the plan's {si(rate, 'FLOP/s')} (predicted)",
    )


def advise(recipe: Recipe, budget: Budget, corpus_tokens: int | None = None) -> Advice:
    """The best member of the recipe's family for the budget, beside the recipe's own model.

    `ValueError` for a family that has no other sizes (see `motley.model.ladder`).
    """
    useful = _useful_flops(recipe, budget.flops, corpus_tokens)
    best = _best(recipe, useful, corpus_tokens)
    member = _counted(recipe.model, recipe.batch.sequence_length)
    own = _training(recipe, member, useful, corpus_tokens, recipe.batch.global_batch)
    return Advice(
        budget=budget,
        best=best,
        own=own,
        corpus_tokens=corpus_tokens,
        sentences=(
            *_compute(budget, useful, corpus_tokens),
            *_choice(best, own),
            _batch(best, recipe),
            _data(best, corpus_tokens),
            *_range(useful),
        ),
    )


def _useful_flops(recipe: Recipe, flops: float, corpus_tokens: int | None) -> float:
    """What of the compute the text can use: the most, in steps of 5 %, up to which no best training
    repeats it more than `MOST_EPOCHS` times; one epoch of the smallest model at least."""
    if corpus_tokens is None:
        return flops
    useful = corpus_tokens * _member(recipe, 1).flops_per_token
    while useful < flops:
        more = min(1.05 * useful, flops)
        if _best(recipe, more, corpus_tokens).tokens > MOST_EPOCHS * corpus_tokens:
            return useful
        useful = more
    return flops


def _best(recipe: Recipe, flops: float, corpus_tokens: int | None) -> Training:
    """The loss falls with depth to one lowest point and rises from there."""
    best = _training(recipe, _member(recipe, 1), flops, corpus_tokens)
    for layers in range(2, DEEPEST + 1):
        deeper = _training(recipe, _member(recipe, layers), flops, corpus_tokens)
        if deeper.loss >= best.loss:
            break
        best = deeper
    return best


class _Member(NamedTuple):
    """One model of the family."""

    model: ModelConfig
    parameters: int
    flops_per_token: float


def _member(recipe: Recipe, layers: int) -> _Member:
    return _family_member(recipe.model, layers, recipe.batch.sequence_length)


@lru_cache(maxsize=1024)
def _family_member(family: ModelConfig, layers: int, length: int) -> _Member:
    return _counted(at_depth(family, layers), length)


def _counted(model: ModelConfig, length: int) -> _Member:
    counts = model_counts(model, length)
    return _Member(model, counts.active_parameters, counts.flops_per_token)


def _training(
    recipe: Recipe,
    member: _Member,
    flops: float,
    corpus_tokens: int | None,
    global_batch: int | None = None,
) -> Training:
    """The training of that model that spends the FLOPs, to half a step; an unset batch is the best
    one."""
    length = recipe.batch.sequence_length
    tokens = flops / member.flops_per_token
    batch = global_batch or _batch_samples(tokens, length)
    steps = max(1, round(tokens / (batch * length)))
    whole = steps * batch * length
    return Training(
        model=member.model,
        parameters=member.parameters,
        global_batch=batch,
        steps=steps,
        tokens=whole,
        flops=whole * member.flops_per_token,
        loss=limited_loss(member.parameters, tokens, corpus_tokens),
    )


def _batch_samples(tokens: float, length: int) -> int:
    samples = best_batch_tokens(tokens) / length
    if samples < 2 * EVEN_BATCH:
        return max(1, round(samples))
    return EVEN_BATCH * round(samples / EVEN_BATCH)


def _compute(budget: Budget, useful: float, corpus_tokens: int | None) -> Iterator[str]:
    yield f"Compute: {budget.flops:.3g} FLOPs of the model, {budget.origin}."
    if useful < budget.flops and corpus_tokens is not None:
        yield (
            f"The text can use {useful:.3g} of them: it has {si(corpus_tokens)} tokens, and beyond "
            f"{MOST_EPOCHS} epochs repeats are worth nothing (arXiv 2305.16264)."
        )


def _choice(best: Training, own: Training) -> Iterator[str]:
    yield (
        f"Model: {_shape(best)} for {si(best.tokens)} tokens, "
        f"{best.tokens_per_parameter:.3g} for each parameter (Chinchilla's law, arXiv 2203.15556, "
        "in the corrected fit of arXiv 2404.10102)."
    )
    if (own.model.layers, own.model.width) == (best.model.layers, best.model.width):
        yield "The recipe's model has this size."
        return
    yield (
        f"The recipe: {_shape(own)}. With this compute it sees {si(own.tokens)} tokens, "
        f"{own.tokens_per_parameter:.3g} for each parameter; {_verdict(best, own)}."
    )


def _verdict(best: Training, own: Training) -> str:
    gap = own.loss - best.loss
    if gap <= ALIKE_NATS:
        return "by the fit that is as good (predicted)"
    if not _is_fitted(best.flops):
        return "by the fit its loss is higher (predicted)"
    return f"by the fit its loss is {gap:.2f} nats higher (predicted)"


def _shape(training: Training) -> str:
    model = training.model
    return f"{model.layers} layers, {model.width} wide, {si(training.parameters)} parameters"


def _batch(best: Training, recipe: Recipe) -> str:
    length = recipe.batch.sequence_length
    said = (
        f"Batch: {best.global_batch} samples of {length} tokens, {best.steps} steps "
        f"(arXiv 2503.04715); the recipe has {recipe.batch.global_batch} samples."
    )
    critical = critical_batch_tokens(best.tokens)
    if critical is None:
        return said
    return (
        f"{said} Above {si(critical)} tokens a step more chips hardly save time "
        "(critical batch, arXiv 2505.13738)."
    )


def _data(best: Training, corpus_tokens: int | None) -> str:
    if corpus_tokens is None:
        return "Data: no text was read, so how often it repeats is unknown."
    epochs = best.tokens / corpus_tokens
    said = f"Data: the corpus has {si(corpus_tokens)} tokens to train on, {epochs:.3g} epochs"
    if epochs <= 1:
        return f"{said}; nothing repeats."
    worth = percent(effective_tokens(best.tokens, corpus_tokens) / best.tokens)
    advice = "" if epochs <= GOOD_EPOCHS else " More text would help more than more compute."
    return f"{said}: all tokens together are worth {worth} of new ones (arXiv 2305.16264).{advice}"


def _range(flops: float) -> Iterator[str]:
    if not _is_fitted(flops):
        lowest, highest = FITTED_FLOPS
        yield (
            f"The law was fitted between {lowest:.0e} and {highest:.0e} FLOPs, on other text: here "
            "it is extrapolated. Try the sizes beside it, too."
        )


def _is_fitted(flops: float) -> bool:
    return FITTED_FLOPS[0] <= flops <= FITTED_FLOPS[1]
