"""A replacement as people read it, and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from motley.cluster import Price
from motley.plan.replace.replace import Offer, Replacement, Wiring
from motley.plan.trust import error_band
from motley.units import si, size_of


def rows(found: Replacement) -> Iterator[tuple[str, Offer]]:
    """The strong chips, the three best sets, and each kind alone, with what they are."""
    yield "replaced", found.strong
    best = (("fewest", found.fewest), ("cheapest", found.cheapest), ("most frugal", found.frugal))
    shown: dict[str, list[str]] = {}
    offers: dict[str, Offer] = {}
    for name, offer in best:
        if offer:
            shown.setdefault(offer.label, []).append(name)
            offers[offer.label] = offer
    for offer in found.alone:
        shown.setdefault(offer.label, ["alone"])
        offers[offer.label] = offer
    for label, names in shown.items():
        yield ", ".join(names), offers[label]


def render(found: Replacement, model: str, wiring: Wiring) -> RenderableType:
    """The sets side by side, their splits, and what the figures rest on."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("chips", overflow="fold")
    for title in ("tokens/s", "USD/h", "power", "J/token", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    parts: list[RenderableType] = [*(Text(line) for line in _head(found, model)), "", table]
    for name, offer in rows(found):
        label = Text.assemble((offer.label, "bold"), f"\n{name}")
        table.add_row(label, si(offer.tokens_per_s), *_figures(offer), _memory(offer))
    parts += ["", Text("Splits", style="bold")]
    parts += [Text(f"  {line}") for _, offer in rows(found) for line in _split(offer)]
    return Group(*parts, "", *(Text(line) for line in _foot(found, wiring)))


def _head(found: Replacement, model: str) -> Iterator[str]:
    strong = found.strong
    if found.lack:
        kind = next(iter(strong.counts))
        yield (
            f"{found.asked} x {kind} cannot hold {model}; {strong.num_chips} can, and are what is "
            "replaced."
        )
    yield f"{strong.label} reach {si(strong.tokens_per_s)} tokens/s on {model} (predicted)."
    if not found.alone:
        yield "No set of the other chips does."


def _figures(offer: Offer) -> tuple[str, str, str]:
    price = "unknown" if offer.usd_per_hour is None else f"{offer.usd_per_hour:.4g}"
    if offer.power_w is None or offer.joules_per_token is None:
        return price, "unknown", "unknown"
    return price, si(offer.power_w, "W"), f"{offer.joules_per_token:.3g}"


def _memory(offer: Offer) -> str:
    """Of the fullest chip of each kind, in the order of the set."""
    full: dict[str, tuple[int, int]] = {}
    for place in offer.plan.placements():
        stage = place.stage
        kind = offer.cluster.chip(stage.chip).kind
        full[kind] = max(full.get(kind, (0, 0)), (stage.memory_bytes, stage.available_bytes))
    return "\n".join(size_of(need, has) for need, has in full.values())


def _split(offer: Offer) -> Iterator[str]:
    yield f"{offer.label}:"
    for replica in offer.plan.replicas:
        stages = " > ".join(_stage(offer, stage) for stage in replica.stages)
        each = f"{replica.num_samples} samples by {replica.micro_batch_size}"
        yield f"  {stages}: {each}, {replica.schedule}"


def _stage(offer: Offer, stage: Any) -> str:
    kind = offer.cluster.chip(stage.chip).kind.split("-", 1)[-1]
    marks = [f"tensor {stage.tensor}"] if stage.tensor > 1 else []
    if stage.data > 1:
        shared = {"none": "", "optimizer": " zero-1", "full": " sharded"}[stage.sharding]
        marks.append(f"data {stage.data}{shared}")
    if stage.recompute != "none":
        marks.append(f"recompute {stage.recompute}")
    inside = f" ({', '.join(marks)})" if marks else ""
    return f"{len(stage.chips)} x {kind} layers {stage.first_layer}-{stage.last_layer - 1}{inside}"


def _foot(found: Replacement, wiring: Wiring) -> Iterator[str]:
    yield (
        f"Nodes of up to {wiring.per_node} chips of one kind with the catalog's links, "
        f"{wiring.network_gbit_per_s:g} Gbit/s from node to node (stated, 50 us)."
    )
    yield "Tokens/s, memory and energy are predicted; power is the catalog's TDP, of chips alone."
    yield from (str(price) for price in _prices(found))
    band = error_band()
    yield f"Error band: {band}; two sets whose tokens/s differ by less are not told apart."
    for kind, reason in found.left_out:
        yield f"Left out: {kind}: {reason}."
    if found.num_untried:
        yield f"{found.num_untried} mixed sets that might take less were not planned."


def _prices(found: Replacement) -> list[Price]:
    """Of one chip of each kind that a set has, by its id."""
    known = {
        price.item: dataclasses.replace(price, num_chips=0)
        for _, offer in rows(found)
        for price in offer.cluster.prices
    }
    return [known[kind] for kind in sorted(known)]


def to_data(found: Replacement, model: str, wiring: Wiring) -> dict[str, Any]:
    """All figures as plain data."""
    band = error_band()
    return {
        "model": model,
        "asked": found.asked,
        "strong": _offer(found.strong),
        "cannot_hold": found.lack,
        "fewest": _offer(found.fewest),
        "cheapest": _offer(found.cheapest),
        "most_frugal": _offer(found.frugal),
        "alone": [_offer(offer) for offer in found.alone],
        "left_out": [{"kind": kind, "reason": reason} for kind, reason in found.left_out],
        "per_node": wiring.per_node,
        "network_gbit_per_s": wiring.network_gbit_per_s,
        "prices": [dataclasses.asdict(price) for price in _prices(found)],
        "num_planned": found.num_planned,
        "num_untried": found.num_untried,
        "error_band": {"share": band.share, "source": band.source},
        "source": "predicted",
    }


def _offer(offer: Offer | None) -> dict[str, Any] | None:
    if offer is None:
        return None
    return {
        "counts": dict(offer.counts),
        "num_chips": offer.num_chips,
        "tokens_per_s": offer.tokens_per_s,
        "usd_per_hour": offer.usd_per_hour,
        "usd_per_billion_tokens": offer.usd_per_billion_tokens,
        "power_w": offer.power_w,
        "joules_per_token": offer.joules_per_token,
        "replicas": offer.plan.to_dict()["replicas"],
    }
