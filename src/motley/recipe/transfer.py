"""A recipe at another size: what was tuned on a small model carried over to a large one.

    larger = transferred(recipe, Target(layers=12, width=768, global_batch=256, steps=9000))
    print(*larger.changes, sep="\\n")

The rules keep what a step does to activations the same at every size:

- Width: matrices of blocks under AdamW, the lookahead's and that of projected n-gram rows get a
  rate and a squared initial deviation in proportion to 1 / width, the untied head a rate and a
  deviation in proportion to 1 / width; embeddings and vectors stay (muP, arXiv 2203.03466,
  table 3). Muon's update, scaled by the root of outputs over inputs, has a spectral norm that no
  width changes: its rate stays (arXiv 2310.17813).
- Depth: rates of matrices in proportion to 1 / sqrt(layers) (depth-muP, arXiv 2310.02244); what
  adds to the residual stream starts at 1 / sqrt(2 x layers) of the others anyway.
- Batch: all rates in proportion to its square root (arXiv 2205.10287 for Adam; taken over for
  Muon).
- Steps: rates stay; weight decay forgets over a share of the training that goes with
  (tokens / parameters)^-0.527 (arXiv 2505.13738).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from motley.model.config import STANDARD_DEVIATION, ModelConfig
from motley.model.counts import model_counts
from motley.model.ladder import reshaped
from motley.recipe.optimizer import OptimizerConfig, Role, roles_of
from motley.recipe.recipe import Recipe
from motley.recipe.schedule import ScheduleConfig
from motley.recipe.upkeep import CheckpointConfig, ValidationConfig

TIMESCALE_POWER = -0.527
"""Weight decay's memory as a share of the training, by tokens per parameter (arXiv 2505.13738,
figure 1)."""
DIGITS = 3
"""Of derived numbers: none is known better."""

Section = TypeVar("Section", ScheduleConfig, ValidationConfig, CheckpointConfig)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The size to go to; what is unset stays as the recipe has it."""

    layers: int | None = None
    width: int | None = None
    global_batch: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Change:
    """One key of the recipe that gets another value."""

    table: str
    """Where it stands, such as "model" or "model.mixture"."""
    key: str
    value: Any
    """None takes the key away."""
    reason: str
    """Why; empty where it was asked for."""

    def __str__(self) -> str:
        said = f": {self.reason}" if self.reason else ""
        return f"{self.table}.{self.key} = {self.value}{said}"


@dataclass(frozen=True, kw_only=True)
class Transfer:
    recipe: Recipe
    changes: tuple[Change, ...]


def transferred(recipe: Recipe, target: Target) -> Transfer:
    """The recipe at the target's size, and each key that is another in it, with the reason.

    `ValueError` if the model has no such size. The vocabulary must be known.
    """
    model = reshaped(
        recipe.model, target.layers or recipe.model.layers, target.width or recipe.model.width
    )
    steps = target.steps or recipe.schedule.steps
    batch = dataclasses.replace(
        recipe.batch, global_batch=target.global_batch or recipe.batch.global_batch
    )
    length = recipe.batch.sequence_length
    scale = _Scale(
        width=model.width / recipe.model.width,
        layers=model.layers / recipe.model.layers,
        batch=batch.global_batch / recipe.batch.global_batch,
        steps=steps / recipe.schedule.steps,
        parameters=model_counts(model, length).active_parameters
        / model_counts(recipe.model, length).active_parameters,
    )
    model = _started(recipe.model, model, scale)
    larger = dataclasses.replace(
        recipe,
        model=model,
        batch=batch,
        optimizer=_optimizer(recipe.optimizer, recipe.model, scale),
        schedule=_in_share(recipe.schedule, scale.steps, steps=steps),
        validation=_in_share(recipe.validation, scale.steps),
        checkpoint=_in_share(recipe.checkpoint, scale.steps),
    )
    return Transfer(recipe=larger, changes=tuple(_changes(recipe, larger)))


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """The target's figures over the recipe's."""

    width: float
    layers: float
    batch: float
    steps: float
    parameters: float

    @property
    def tokens_per_parameter(self) -> float:
        return self.batch * self.steps / self.parameters


def _started(old: ModelConfig, new: ModelConfig, scale: _Scale) -> ModelConfig:
    """The new model with the initial deviations of its width."""
    if scale.width == 1:
        return new
    matrix = STANDARD_DEVIATION if old.matrix_deviation is None else old.matrix_deviation
    head = STANDARD_DEVIATION if old.head_deviation is None else old.head_deviation
    return dataclasses.replace(
        new,
        matrix_deviation=_rounded(matrix / math.sqrt(scale.width)),
        head_deviation=None if old.tied_head else _rounded(head / scale.width),
    )


def _optimizer(old: OptimizerConfig, model: ModelConfig, scale: _Scale) -> OptimizerConfig:
    """Rates and decay; a role whose rate is the common one, and moves with it, has none of its
    own."""
    common = math.sqrt(scale.batch)
    changed: dict[str, Any] = {}
    if common != 1:
        changed["learning_rate"] = _rounded(old.learning_rate * common)
    for role in roles_of(model):
        key, factor = f"{role}_learning_rate", _rate_factor(role, old, model, scale)
        follows = factor == common and old.peak_rate(role) == old.learning_rate
        if factor != 1 and not (follows and getattr(old, key) is None):
            changed[key] = _rounded(old.peak_rate(role) * factor)
    changed["weight_decay"] = _decay("embedding", old, model, scale)
    if (
        old.matrix_weight_decay is not None
        or _decay("matrix", old, model, scale) != (changed["weight_decay"])
    ):
        changed["matrix_weight_decay"] = _decay("matrix", old, model, scale)
    if old.momentum_warmup_steps:
        changed["momentum_warmup_steps"] = _steps(old.momentum_warmup_steps, scale.steps)
    return dataclasses.replace(old, **changed)


def _decay(role: Role, old: OptimizerConfig, model: ModelConfig, scale: _Scale) -> float:
    """Rate x decay x steps goes with the inverse of the memory's share of the training."""
    memory = scale.tokens_per_parameter**TIMESCALE_POWER
    factor = 1 / (_rate_factor(role, old, model, scale) * scale.steps * memory)
    return old.decay(role) if factor == 1 else _rounded(old.decay(role) * factor)


def _rate_factor(role: Role, old: OptimizerConfig, model: ModelConfig, scale: _Scale) -> float:
    factor = math.sqrt(scale.batch)
    if role == "matrix":
        factor /= math.sqrt(scale.layers)
        return factor if old.orthogonalises else factor / scale.width
    if role == "head" or (role == "embedding" and model.tied_head):
        return factor / scale.width
    return factor


def _in_share(config: Section, share: float, **given: int) -> Section:
    """A section whose numbers of steps keep their share of the training."""
    fields = [field.name for field in dataclasses.fields(config)]
    moved: dict[str, Any] = {
        name: _steps(getattr(config, name), share)
        for name in fields
        if name.endswith("steps") and getattr(config, name)
    }
    return dataclasses.replace(config, **{**moved, **given})


def _steps(steps: int, share: float) -> int:
    return max(1, round(steps * share))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _changes(old: Recipe, new: Recipe) -> Iterator[Change]:
    """The keys whose values differ, in the recipe's order."""
    before, after = old.to_dict(), new.to_dict()
    yield from _differing("", before, after)


def _differing(table: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    for key in [*after, *(key for key in before if key not in after)]:
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        place = f"{table}.{key}".removeprefix(".")
        if isinstance(new, dict):
            yield from _differing(place, old if isinstance(old, dict) else {}, new)
        else:
            yield Change(table, key, new, _reason(place))


def _reason(place: str) -> str:
    """Why that key changes with the size."""
    key = place.rpartition(".")[2]
    if key.endswith("learning_rate"):
        return "muP over width, 1/sqrt(layers), sqrt(batch)"
    if key.endswith("deviation"):
        return "muP over width"
    if key.endswith("weight_decay"):
        return "forgets over the best share of the steps (arXiv 2505.13738)"
    if key.endswith("steps") and key != "steps":
        return "the same share of the training"
    return ""
