"""The rungs of `compute.py`, from `compute_ladder.toml`, and the recipe of each of their runs.

A rung is a variant as `motley ablate` has them: dotted keys over those of the rung that it comes
after. Nothing here knows what a key does. Three things are added: values tuned for a size or a text
(`tuned`), the horizons at which a rung is annealed (`shares` of the size's), and keys that count
steps, given as a share of the run's (`"share:schedule.warmup_steps" = 0.05`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from compute_corpora import corpus_folder
from motley.ablation import Variant, chain, changed, written
from motley.errors import InputError, nearest
from motley.model.config import ModelConfig
from motley.recipe import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    Recipe,
    ScheduleConfig,
    ValidationConfig,
)
from motley.schema import build, load_toml

FILE = Path(__file__).with_name("compute_ladder.toml")
CONTEXT = 256
"""Tokens; the held-out text is scored in windows of this length that do not overlap."""
SWEEP_SEED = 100
"""Of runs that tune: none of those that a claim rests on."""
CHECKPOINTS = 10
"""In the course of a run, so that one that was killed goes on from near there."""
_SHARE = "share:"

Loop = Literal["motley", "plain"]
"""What trains: the product's engine, or the loop of `compute_plain.py`."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model's shape and B1's horizon."""

    layers: int
    width: int
    heads: int
    vocab_size: int
    horizon_tokens: int


@dataclass(frozen=True, kw_only=True)
class Small:
    """The shallower run that a rung grows from, with the rung's keys but for these."""

    layers: Mapping[str, int]
    """By size; the size's own are a multiple."""
    share: float
    """Of the rung's horizon."""
    set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rung(Variant):
    loop: Loop = "motley"
    seeds: int | None = None
    """At most so many; unset means as many as are asked for."""
    shares: tuple[float, ...] = (1.0,)
    """Horizons to anneal at, as shares of the size's."""
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Changes for a size "S", a text "prose" or both "S prose"; rungs after keep them."""
    small: Small | None = None
    """Of a rung that begins as a shallower run, stacked (`[growth]`)."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Values tried around a rung at its full horizon."""

    name: str
    of: str
    """The rung."""
    vary: Mapping[str, tuple[Any, ...]]
    grid: bool = False
    """Every value of a key with every value of the others, instead of one key at a time."""

    def variations(self) -> Iterator[dict[str, Any]]:
        if self.grid:
            for values in itertools.product(*self.vary.values()):
                yield dict(zip(self.vary, values, strict=True))
            return
        yield {}
        for key, values in self.vary.items():
            yield from ({key: value} for value in values)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The final stack, and what each of its parts is when it is left out."""

    rung: str
    without: Mapping[str, Mapping[str, Any]]
    """Part to the changes that take it out."""


@dataclass(frozen=True, kw_only=True)
class ComputeLadder:
    baseline: str
    size: Mapping[str, Size]
    variant: tuple[Rung, ...]
    sweep: tuple[Sweep, ...] = ()
    stack: Stack | None = None


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One run, before its recipe is made."""

    rung: str
    """The rung's name; with what is varied or left out, if anything is."""
    size: str
    corpus: str
    seed: int
    share: float
    horizon_tokens: int
    """Of the whole horizon, of which `share` is run."""
    changes: Mapping[str, Any]
    loop: Loop = "motley"
    small: Small | None = None

    @property
    def label(self) -> str:
        return f"{self.rung} at {self.share:.3g} of {self.size} {self.corpus}, seed {self.seed}"


def load(path: Path = FILE) -> ComputeLadder:
    """`InputError` names the place of what is wrong."""
    return build(ComputeLadder, load_toml(path, InputError), path.name, InputError)


def changes_for(ladder: ComputeLadder, rung: str, size: str, corpus: str) -> dict[str, Any]:
    """All that a rung changes for one size and text: its chain's keys, then what is tuned, the
    most particular last."""
    together: dict[str, Any] = {}
    for variant in chain(ladder.variant, rung):
        assert isinstance(variant, Rung)
        together |= variant.set
        for place in (corpus, size, f"{size} {corpus}"):
            together |= variant.tuned.get(place, {})
    return together


def rung_specs(
    ladder: ComputeLadder, size: str, corpus: str, seeds: int, horizon: int | None
) -> Iterator[Spec]:
    """The ladder's runs; a seed goes through all rungs before the next begins, so that within
    one call a rung and the baseline run close to each other in time."""
    tokens = horizon or ladder.size[size].horizon_tokens
    for seed in range(seeds):
        for rung in ladder.variant:
            if rung.seeds is not None and seed >= rung.seeds:
                continue
            changes = changes_for(ladder, rung.name, size, corpus)
            for share in rung.shares:
                yield Spec(
                    rung=rung.name, size=size, corpus=corpus, seed=seed, share=share,
                    horizon_tokens=tokens, changes=changes, loop=rung.loop, small=rung.small,
                )  # fmt: skip


def sweep_specs(
    ladder: ComputeLadder, name: str, size: str, corpus: str, horizon: int | None
) -> Iterator[Spec]:
    """The runs of a sweep; `InputError` for one that the ladder does not have."""
    sweep = next((each for each in ladder.sweep if each.name == name), None)
    if sweep is None:
        known = [each.name for each in ladder.sweep]
        raise InputError(f"no sweep '{name}'.", remedy=nearest(name, known))
    base = changes_for(ladder, sweep.of, size, corpus)
    for variation in sweep.variations():
        yield Spec(
            rung=f"{sweep.of}: {written(variation) or 'as it is'}", size=size, corpus=corpus,
            seed=SWEEP_SEED, share=1.0,
            horizon_tokens=horizon or ladder.size[size].horizon_tokens, changes=base | variation,
        )  # fmt: skip


def without_specs(
    ladder: ComputeLadder, size: str, corpus: str, seeds: int, horizon: int | None
) -> Iterator[Spec]:
    """The final stack with one part left out, at the stack's longest horizon."""
    if ladder.stack is None:
        return
    tokens = horizon or ladder.size[size].horizon_tokens
    name, base = ladder.stack.rung, changes_for(ladder, ladder.stack.rung, size, corpus)
    (rung,) = (rung for rung in ladder.variant if rung.name == name)
    for seed in range(seeds):
        for part, changes in ladder.stack.without.items():
            yield Spec(
                rung=f"{name} without {part}", size=size, corpus=corpus, seed=seed,
                share=max(rung.shares), horizon_tokens=tokens, changes=base | dict(changes),
            )  # fmt: skip


def small_of(spec: Spec) -> Spec | None:
    """The shallower run that a run grows from; None if it begins anew."""
    small = spec.small
    if small is None:
        return None
    return dataclasses.replace(
        spec, rung=f"{spec.rung}, small", share=spec.share * small.share, small=None,
        changes={**spec.changes, **small.set, "model.layers": small.layers[spec.size]},
    )  # fmt: skip


def recipe_of(spec: Spec, sizes: Mapping[str, Size]) -> Recipe:
    """The recipe of a run; its data is named by the text's folder."""
    size = sizes[spec.size]
    base = _base(size, str(corpus_folder(spec.corpus)), spec.seed)
    recipe = changed(base, _for_steps(spec.changes, base.schedule.steps))
    steps = math.ceil(spec.share * spec.horizon_tokens / recipe.tokens_per_step)
    recipe = changed(recipe, {"schedule.steps": steps, **_for_steps(spec.changes, steps)})
    return dataclasses.replace(
        recipe,
        validation=ValidationConfig(every_steps=steps, max_samples=10**9),
        checkpoint=CheckpointConfig(every_steps=max(1, steps // CHECKPOINTS), keep=1),
    )


def _for_steps(changes: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The changes with each share of the steps as a number of them."""
    return {
        key.removeprefix(_SHARE): round(value * steps) if key.startswith(_SHARE) else value
        for key, value in changes.items()
    }


def _base(size: Size, corpus: str, seed: int) -> Recipe:
    """What all rungs share."""
    return Recipe(
        name="compute",
        seed=seed,
        model=ModelConfig(layers=size.layers, width=size.width, heads=size.heads, context=CONTEXT),
        data=DataConfig(corpus=(corpus,), vocab_size=size.vocab_size, held_out_share=0.05),
        batch=BatchConfig(sequence_length=CONTEXT, global_batch=16),
        schedule=ScheduleConfig(warmup_steps=0),
    )
