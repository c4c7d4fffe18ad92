"""Predicts the step of a published case with the evaluator that searches and predicts plans."""

from __future__ import annotations

from dataclasses import dataclass

from motley.plan.published.case import Case
from motley.plan.published.split import split_of_case


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One step, and what it consists of; all in seconds."""

    step_s: float
    pipeline_s: float
    """Passes of all micro-batches, with the pipeline's bubble and messages inside layers."""
    exchange_s: float
    """Of gradients, as far as nothing hides it."""
    optimizer_s: float


def predict(case: Case) -> Prediction:
    """The predicted step of a case, in the middle of a training: it begins with the optimizer."""
    evaluator, split, layouts = split_of_case(case)
    times = [
        evaluator.replica_times(replica, own, exact=False)
        for replica, own in zip(split, layouts, strict=True)
    ]
    step_s = evaluator.barrier(split, times)
    finish_s = max(time.finish_s for time in times)
    optimizer_s = max(
        max(evaluator.pipeline_cost(replica, own).start_s)
        for replica, own in zip(split, layouts, strict=True)
    )
    return Prediction(
        step_s=step_s,
        pipeline_s=finish_s - optimizer_s,
        exchange_s=step_s - finish_s,
        optimizer_s=optimizer_s,
    )
