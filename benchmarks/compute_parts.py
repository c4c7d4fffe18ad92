"""What each part is worth: runs with it beside runs without it, at one share of the horizon.

A technique's rung is compared with the rung that it comes after, and the final stack with itself
less one part. Bits saved are means over pairs of runs with one seed, which pass the same samples
from the same initial values. Worth is how many times the FLOPs would be needed without the part for
the same loss: FLOPs without over FLOPs with, times exp(bits saved / slope), where slope is by how
many bits the loss falls for e times the FLOPs, fitted to the means of the rung of the two that has
been annealed at several horizons. It is read off one curve, and no claim in the ladder's sense.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from compute_claims import Group
from compute_ladder import ComputeLadder
from motley.ablation import Interval, mean_interval


def part_rows(ladder: ComputeLadder, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One line for each part that has runs on both sides; the stack's last one by what leaves it
    out."""
    found = {(group.rung, group.share): group for group in groups}
    left_out = _left_out(ladder)
    stacks = {stack for stack, _ in left_out.values()}
    after = {r.name: r.after for r in ladder.variant if r.after and r.name not in stacks}
    rows = []
    for group in groups:
        other, part = left_out.get(group.rung, (after.get(group.rung), group.rung))
        peer = found.get((other, group.share)) if other else None
        if other is None or peer is None:
            continue
        is_without = group.rung in left_out
        having, lacking = (peer, group) if is_without else (group, peer)
        beside = f"the rest of {other}" if is_without else other
        rows.append(_row(part, beside, having, lacking, slope_of(other, groups)))
    return rows


def _left_out(ladder: ComputeLadder) -> dict[str, tuple[str, str]]:
    """The final stack and the part, by the name of the runs that leave it out."""
    if ladder.stack is None:
        return {}
    rung = ladder.stack.rung
    return {f"{rung} without {part}": (rung, part) for part in ladder.stack.without}


def slope_of(rung: str, groups: Sequence[Group]) -> float | None:
    """Bits per byte by which a rung's loss falls for e times the FLOPs, least squares over its
    horizons; None with fewer than two, or if it does not fall."""
    own = [group for group in groups if group.rung == rung]
    if len(own) < 2:
        return None
    slope, _ = statistics.linear_regression(
        [math.log(group.flops) for group in own], [group.mean for group in own]
    )
    return -slope if slope < 0 else None


def _row(
    part: str, beside: str, having: Group, lacking: Group, slope: float | None
) -> dict[str, Any]:
    by_seed = {run["seed"]: run["bits_per_byte"] for run in lacking.runs}
    saved = [
        by_seed[run["seed"]] - run["bits_per_byte"] for run in having.runs if run["seed"] in by_seed
    ]
    interval = mean_interval(saved)
    flops = lacking.flops / having.flops
    return {
        "part": part,
        "beside": beside,
        "share": having.share,
        "seeds": len(saved),
        "bits_saved": statistics.fmean(saved) if saved else None,
        "bits_saved_interval": [interval.low, interval.high] if interval else None,
        "flops_without": flops,
        "worth": _worth(interval, flops, slope),
    }


def _worth(interval: Interval | None, flops: float, slope: float | None) -> list[float] | None:
    """Mean, low and high; None where an interval or a curve is lacking."""
    if interval is None or slope is None:
        return None
    bits = (interval.mean, interval.low, interval.high)
    return [flops * math.exp(each / slope) for each in bits]


def parts_as_text(rows: Sequence[dict[str, Any]]) -> str:
    """The parts as a Markdown table, the most valuable first."""
    head = (
        "| part | on top of | share of horizon | seeds | bits/byte saved | 95 % interval "
        "| FLOPs needed without it | 95 % interval |\n" + "| --- " * 8 + "|"
    )
    order = sorted(rows, key=lambda each: -(each["bits_saved"] or 0.0))
    return "\n".join([head, *map(_line, order)])


def _line(each: dict[str, Any]) -> str:
    bits, worth = each["bits_saved_interval"], each["worth"]
    cells = [
        each["part"],
        each["beside"],
        f"{each['share']:.3g}",
        str(each["seeds"]),
        "" if each["bits_saved"] is None else f"{each['bits_saved']:+.4f}",
        f"{bits[0]:+.4f} to {bits[1]:+.4f}" if bits else "one seed",
        f"{worth[0]:.2f}x" if worth else "",
        f"{worth[1]:.2f} to {worth[2]:.2f}" if worth else "",
    ]
    return f"| {' | '.join(cells)} |"
