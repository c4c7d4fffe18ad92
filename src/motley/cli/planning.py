"""`motley plan`: the chosen split, what it is predicted to give and cost, and what lost against it.

Everything that can be planned is searched, more than `motley train` executes; where that makes a
difference, the best plan that can be trained is named beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motley.cli.output import print_json, require_writable, say
from motley.cli.probing import measure
from motley.cluster import Cluster, load_cluster
from motley.errors import InputError, MotleyError, NoPlanError, RecipeError, not_written
from motley.model.trainable import require_trainable
from motley.plan.advice.advice import Advice, advise, budget_of
from motley.plan.advice.typical import recipe_of
from motley.plan.explain.explain import to_json
from motley.plan.explain.frontier import frontier
from motley.plan.explain.more import OneMore, one_more
from motley.plan.money import money_of
from motley.plan.objective import FASTEST, SECONDS_PER_HOUR, Goal, Objective
from motley.plan.plan import Plan
from motley.plan.search.search import search
from motley.plan.space import ANY, TRAINABLE
from motley.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import RenderableType


def run(
    recipe_name: str,
    cluster_file: Path | None,
    goal: Goal,
    hours: float | None,
    out: Path,
    html: Path | None,
    *,
    trainable: bool,
    as_json: bool,
) -> None:
    """Plans, prints, writes `out`."""
    require_writable(out, html)
    require_hours(hours)
    given = load_cluster(cluster_file) if cluster_file else None
    recipe, corpus_tokens = _known(recipe_name)
    if trainable:
        require_trainable(recipe.model)
    objective = objective_of(goal, hours, recipe)
    cluster = cluster_for(None) if given is None else given
    space = TRAINABLE if trainable else ANY
    plan = search(recipe, cluster, objective=objective, space=space)
    ready = plan if trainable else _trainable_plan(plan, recipe, cluster, objective)
    _save(plan, out)
    more = one_more(recipe, cluster, plan, objective=objective, space=space)
    advice = _advice(recipe, plan, hours, corpus_tokens)
    if html:
        from motley.report.plan_page import write_plan_page

        points = frontier(recipe, cluster, chosen=plan, space=space)
        write_plan_page(
            html, plan, recipe, cluster, frontier=points, one_more=more, advice=_words(advice)
        )
    if as_json:
        print_json({**_as_data(plan, ready, more, recipe, cluster), "advice": _figures(advice)})
        return
    show_plan(plan, recipe, cluster)
    for line in [*_notes(plan, ready, recipe, cluster), *_more_notes(more)]:
        print(line)
    show(listed("What to train with this compute", _words(advice)))
    say(f"Written to {out}{f' and {html}' if html else ''}.")


def known_recipe(text: str) -> Recipe:
    """The recipe of a file or a model's name, with the vocabulary; choices are said.

    Text is tokenized only where the model leaves its vocabulary to the tokenizer.
    """
    return _known(text)[0]


def _known(text: str) -> tuple[Recipe, int | None]:
    """The same, and the tokens that it trains on where the text was read."""
    typical = recipe_of(text)
    if typical.reasons:
        say(f"{text} is no recipe, so its training is taken as it typically is:")
    for reason in typical.reasons:
        say(f"  {reason}")
    if typical.recipe.model.vocab_size is not None:
        return typical.recipe, None
    from motley.train.prepare import prepare_data

    recipe, prepared = prepare_data(typical.recipe, say)
    return recipe, prepared.train.num_tokens


def require_hours(hours: float | None) -> None:
    """`InputError` for a time that is none."""
    if hours is not None and not 0 < hours < float("inf"):
        raise InputError(
            f"--hours must be a time above zero, found {hours:g}.", remedy="Give --hours 48."
        )


def objective_of(goal: Goal, hours: float | None, recipe: Recipe) -> Objective:
    """The goal; a training that must end in `hours` has so long for each of its steps."""
    if goal != "deadline":
        return FASTEST if goal == "time" else Objective(goal=goal)
    if hours is None:
        raise InputError("the goal 'deadline' needs a time.", remedy="Give --hours 48.")
    longest = hours * SECONDS_PER_HOUR / recipe.schedule.steps
    return Objective(goal=goal, longest_step_s=longest)


def _advice(
    recipe: Recipe, plan: Plan, hours: float | None, corpus_tokens: int | None
) -> Advice | str:
    """What to train with the plan's compute, or why there is no advice."""
    try:
        return advise(recipe, budget_of(recipe, plan, hours), corpus_tokens)
    except ValueError as reason:
        return f"No advice: {reason}."


def _words(advice: Advice | str) -> Sequence[str]:
    return [advice] if isinstance(advice, str) else advice.sentences


def _figures(advice: Advice | str) -> dict[str, Any]:
    import dataclasses

    if isinstance(advice, str):
        return {"reason": advice}
    return {**dataclasses.asdict(advice), "source": "predicted"}


def _trainable_plan(
    plan: Plan, recipe: Recipe, cluster: Cluster, objective: Objective
) -> Plan | MotleyError:
    """The best plan that `motley train` executes, or why there is none."""
    try:
        require_trainable(recipe.model)
        if not plan.planned_only:
            return plan
        return search(recipe, cluster, objective=objective, space=TRAINABLE)
    except (RecipeError, NoPlanError) as reason:
        return reason


def _save(plan: Plan, out: Path) -> None:
    try:
        plan.save(out)
    except OSError as cause:
        raise not_written(out, cause) from None


def _notes(plan: Plan, ready: Plan | MotleyError, recipe: Recipe, cluster: Cluster) -> list[str]:
    """What the plan costs, what its prices rest on, and what can be trained of it."""
    from motley.units import duration, si

    money = money_of(plan, recipe, cluster)
    seconds = duration(money.training_hours * SECONDS_PER_HOUR)
    lines = ["", "Cost", f"  {recipe.schedule.steps} steps take {seconds} (predicted)."]
    if money.usd_per_hour is None:
        kinds = ", ".join(money.unknown_kinds)
        lines.append(f"  The price is unknown: that of {kinds} is. Give usd_per_hour.")
    else:
        lines.append(
            f"  {money.usd_per_hour:.4g} USD/h, {money.usd_per_billion_tokens:.4g} USD per billion "
            f"tokens, {money.training_usd:.4g} USD in all (predicted)."
        )
    lines += [f"  {price}" for price in cluster.prices]
    if isinstance(ready, MotleyError):
        lines += ["", f"It cannot be trained with motley: {ready.message}"]
    elif ready is not plan:
        lines += [
            "",
            f"It cannot be trained with motley yet: {plan.planned_only}. The best plan that can: "
            f"{si(ready.tokens_per_s)} tokens/s, {ready.tokens_per_s / plan.tokens_per_s:.0%} of "
            "this (predicted). Make it with --trainable.",
        ]
    return lines


def _more_notes(more: Sequence[OneMore]) -> list[str]:
    """What one more chip of each kind would bring."""
    if not more:
        return []
    gains = ", ".join(f"{each.kind} {each.change}" for each in more)
    return ["", f"One more chip would bring ({more[0].unit}, predicted): {gains}."]


def _as_data(
    plan: Plan,
    ready: Plan | MotleyError,
    more: Sequence[OneMore],
    recipe: Recipe,
    cluster: Cluster,
) -> dict[str, Any]:
    import dataclasses

    trainable: dict[str, Any] = {"planned_only": plan.planned_only}
    if isinstance(ready, MotleyError):
        trainable["reason"] = ready.message
    else:
        trainable |= {"step_s": ready.step_s, "tokens_per_s": ready.tokens_per_s}
    return {
        **to_json(plan, recipe, cluster),
        "money": dataclasses.asdict(money_of(plan, recipe, cluster)),
        "prices": [dataclasses.asdict(price) for price in cluster.prices],
        "trainable": trainable,
        "one_more": [dataclasses.asdict(each) for each in more],
    }


def listed(title: str, sentences: Sequence[str]) -> RenderableType:
    """Sentences below a title, as those of a plan."""
    from rich.console import Group
    from rich.text import Text

    from motley.plan.explain.explain import listed as indented

    return Group("", Text(title, style="bold"), *indented(sentences))


def show_plan(plan: Plan, recipe: Recipe, cluster: Cluster) -> None:
    """The plan as tables."""
    from motley.plan.explain.explain import render

    show(render(plan, recipe, cluster))


def show(what: RenderableType) -> None:
    """A table on standard output."""
    from rich.console import Console

    Console().print(what)


def cluster_for(path: Path | None) -> Cluster:
    """The cluster of the file; without one, this machine's chips, measured now."""
    if path is not None:
        return load_cluster(path)
    say("No cluster given: measuring this machine.")
    return measure()[1]
