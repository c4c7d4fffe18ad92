"""`motley replace`: which weaker chips reach a strong one's tokens/s on a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from motley.chips.catalog import look_up
from motley.cli.output import print_json
from motley.cli.planning import known_recipe, show
from motley.errors import InputError
from motley.plan.replace.replace import Wiring, replace
from motley.plan.replace.table import render, to_data


def run(
    strong: str,
    weak: Sequence[str],
    model: str,
    count: int,
    per_node: int,
    network_gbit: float,
    prices: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Plans the sets and shows them side by side."""
    wiring = Wiring(
        per_node=per_node, network_gbit_per_s=network_gbit, usd_per_hour=_own_prices(prices)
    )
    recipe = known_recipe(model)
    found = replace(strong, weak, recipe, count=count, wiring=wiring)
    if as_json:
        print_json(to_data(found, model, wiring))
    else:
        show(render(found, model, wiring))


def _own_prices(texts: Sequence[str]) -> dict[str, float]:
    """By catalog id, from `CHIP=USD`; `InputError` for what is none, or twice."""
    prices: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            usd = float(number)
        except ValueError:
            usd = math.nan
        if not name or not 0 < usd < math.inf:
            raise InputError(
                f"--price '{text}' must name a chip and USD per chip-hour above zero.",
                remedy="Give --price rtx-4090=0.35.",
            )
        kind = look_up(name).id
        if kind in prices:
            raise InputError(f"--price names {kind} twice.", remedy="Give one price for it.")
        prices[kind] = usd
    return prices
