"""Decides how a recipe is split over a cluster, predicts what that gives, and says why.

`search` finds the plan, `simulate` predicts it, `validate` checks one that was edited. Nothing here
imports torch; the terminal's tables (`motley.plan.explain`) import rich and are not re-exported.

Beside the plan itself lie here its layouts, objectives and money. `timing` and `memory` are the
models, `search` finds plans with them, `published` holds them against public figures, `explain`,
`advice` and `replace` answer what users ask.
"""

from motley.plan.plan import Placement, Plan, Rejected, Replica, Stage, load_plan
from motley.plan.search.build import build_plan, even_data_parallel, even_pipeline
from motley.plan.search.search import search
from motley.plan.simulate import Simulation, Span, simulate
from motley.plan.timing.schedule import Action, one_forward_one_backward
from motley.plan.timing.sync import Bucket, gradient_buckets
from motley.plan.validate import validate

__all__ = [
    "Action",
    "Bucket",
    "Placement",
    "Plan",
    "Rejected",
    "Replica",
    "Simulation",
    "Span",
    "Stage",
    "build_plan",
    "even_data_parallel",
    "even_pipeline",
    "gradient_buckets",
    "load_plan",
    "one_forward_one_backward",
    "search",
    "simulate",
    "validate",
]
