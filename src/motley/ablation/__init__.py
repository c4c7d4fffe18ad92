"""Ablations: variants of a recipe, trained alike with several seeds, and what their difference is
worth.

    variants = from_settings(["model.norm=rmsnorm"])
    tasks = tasks_of(recipes_of(recipe, variants), range(3), folder)
    outcomes = [outcome for outcome in train_all(tasks, cluster, train, print) if outcome]
    rows = compare(outcomes, [BASE, *(variant.name for variant in variants)])
"""

from motley.ablation.changes import UNSET, changed, parse_changes, written
from motley.ablation.compare import Row, compare
from motley.ablation.ladder import (
    BASE,
    Variant,
    chain,
    changes_of,
    from_settings,
    load_ladder,
    recipes_of,
)
from motley.ablation.parts import without_each
from motley.ablation.runs import Outcome, Task, finished, tasks_of, train_all
from motley.ablation.statistics import (
    Interval,
    difference_interval,
    mean_interval,
    probability_not_lower,
)

__all__ = [
    "BASE",
    "UNSET",
    "Interval",
    "Outcome",
    "Row",
    "Task",
    "Variant",
    "chain",
    "changed",
    "changes_of",
    "compare",
    "difference_interval",
    "finished",
    "from_settings",
    "load_ladder",
    "mean_interval",
    "parse_changes",
    "probability_not_lower",
    "recipes_of",
    "tasks_of",
    "train_all",
    "without_each",
    "written",
]
