"""Whether the best rates of a small model are the best of a wide one by the rules of motley scale.

    python benchmarks/compute_transfer.py --json
    python benchmarks/compute_transfer.py --kinds muon --width 128 --steps 60

A model of 2 x 64 is trained with rates from a quarter to four times the recipe's; each of these
recipes also four times as wide, by the rules and with its rates as they are. Where the rules hold,
the best factor of the small model is the best of the wide one, and its loss is near the lowest that
any factor reaches there. One seed, one process, the standard library as text.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Literal

from common import prepared, run_script, say
from federated_training import Job, Trainer
from motley.recipe import Recipe, load_recipe
from motley.recipe.transfer import Target, transferred

FRUGAL = Path(__file__).parents[1] / "recipes" / "frugal.toml"
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
VOCABULARY, LENGTH, HELD_OUT = 1024, 128, 96
NARROW = 64


def base_recipe(kind: Literal["adamw", "muon"], steps: int) -> Recipe:
    """A plain small model of the frugal block, under Muon or under AdamW alone."""
    recipe = load_recipe(FRUGAL)
    model = dataclasses.replace(recipe.model, layers=2, width=NARROW, heads=1, vocab_size=None)
    optimizer = dataclasses.replace(
        recipe.optimizer,
        kind=kind,
        matrix_learning_rate=recipe.optimizer.matrix_learning_rate if kind != "adamw" else None,
    )
    return dataclasses.replace(
        recipe,
        model=model,
        data=dataclasses.replace(recipe.data, vocab_size=VOCABULARY),
        batch=dataclasses.replace(recipe.batch, sequence_length=LENGTH, global_batch=8),
        optimizer=optimizer,
        schedule=dataclasses.replace(recipe.schedule, steps=steps, warmup_steps=steps // 20),
    )


def at_rates(recipe: Recipe, factor: float) -> Recipe:
    """All rates times the factor."""
    own = recipe.optimizer
    rates = {
        key: getattr(own, key) * factor
        for key in ("learning_rate", "matrix_learning_rate", "head_learning_rate")
        if getattr(own, key) is not None
    }
    return dataclasses.replace(recipe, optimizer=dataclasses.replace(own, **rates))


def as_they_are(recipe: Recipe, width: int) -> Recipe:
    """Wider, and nothing else."""
    heads = width // recipe.model.head_size
    model = dataclasses.replace(recipe.model, width=width, heads=heads)
    return dataclasses.replace(recipe, model=model)


def final_loss(recipe: Recipe) -> float:
    """Nats per held-out token after the recipe's steps; NaN if it diverges."""
    job = Job(recipe, lambda text: None)
    trainer, batch = Trainer(job), recipe.batch.global_batch
    for step in range(recipe.schedule.steps):
        if not math.isfinite(trainer.step(step, range(step * batch, (step + 1) * batch))):
            return math.nan
    loss_sum, num_targets, _ = job.score(trainer.model, range(HELD_OUT))
    return loss_sum / num_targets


def losses(kind: Literal["adamw", "muon"], width: int, steps: int) -> list[dict[str, float]]:
    """A row for each factor."""
    recipe, _ = prepared(base_recipe(kind, steps))
    rows = []
    for factor in FACTORS:
        began = time.process_time()
        small = at_rates(recipe, factor)
        rows.append(
            {
                "factor": factor,
                "small": final_loss(small),
                "wide_by_the_rules": final_loss(transferred(small, Target(width=width)).recipe),
                "wide_as_they_are": final_loss(as_they_are(small, width)),
                "process_s": time.process_time() - began,
            }
        )
        say(f"{kind} {rows[-1]}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kinds", nargs="+", default=["adamw", "muon"])
    parser.add_argument("--width", type=int, default=4 * NARROW)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {kind: losses(kind, given.width, given.steps) for kind in given.kinds}
    if given.json:
        print(json.dumps({"width": given.width, "steps": given.steps, "losses": found}, indent=2))
        return
    for kind, rows in found.items():
        print(kind, "factor  small  wide, by the rules  wide, as they are")
        for row in rows:
            print(
                f"{row['factor']:>6}  {row['small']:.3f}  {row['wide_by_the_rules']:.3f}  "
                f"{row['wide_as_they_are']:.3f}"
            )


if __name__ == "__main__":
    run_script(main)
