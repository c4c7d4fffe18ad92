"""`motley replace`: which weaker chips reach a strong one's tokens/s on a model."""

from __future__ import annotations

from collections.abc import Sequence

from motley.cli.output import print_json
from motley.cli.planning import known_recipe, show
from motley.plan.replace.replace import Wiring, replace
from motley.plan.replace.table import render, to_data


def run(
    strong: str,
    weak: Sequence[str],
    model: str,
    count: int,
    per_node: int,
    network_gbit: float,
    *,
    as_json: bool,
) -> None:
    """Plans the sets and shows them side by side."""
    recipe = known_recipe(model)
    wiring = Wiring(per_node=per_node, network_gbit_per_s=network_gbit)
    found = replace(strong, weak, recipe, count=count, wiring=wiring)
    if as_json:
        print_json(to_data(found, model, wiring))
    else:
        show(render(found, model, wiring))
