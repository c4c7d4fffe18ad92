"""What the finished runs of `compute.py` say: target, multipliers, tests, seconds.

Target: the mean bits per byte of the baseline's annealed runs at its horizon. A rung at a shorter
horizon reaches it if its own annealed runs have a lower mean with one-sided p < 0.01 (Welch). Its
multiplier is the baseline's FLOPs over its own. Seconds are those of pairs of runs with one seed
on one machine with as many threads; their ratio is the median over the pairs. The two of a pair may
be days apart and under another load, which moves processor seconds too: a hint and no claim.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compute_runs import Record
from motley.ablation import difference_interval, mean_interval, probability_not_lower

P_LIMIT = 0.01
SEEDS_FOR_CLAIM = 5


@dataclass(frozen=True)
class Group:
    """The runs of one rung at one share, size and text, one per seed."""

    rung: str
    share: float
    runs: tuple[Record, ...]

    @property
    def values(self) -> list[float]:
        return [run["bits_per_byte"] for run in self.runs]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def flops(self) -> float:
        return statistics.fmean(run["flops"]["total"] for run in self.runs)

    @property
    def optimizer_share(self) -> float:
        first = self.runs[0]["flops"]
        share: float = first["optimizer"] / first["total"]
        return share


def row(group: Group, base: Group) -> dict[str, Any]:
    """One line of the ladder; null where too few runs are there."""
    p = probability_not_lower(group.values, base.values)
    interval = mean_interval(group.values)
    difference = difference_interval(group.values, base.values)
    enough = min(len(group.runs), len(base.runs)) >= SEEDS_FOR_CLAIM
    reaches = p is not None and p < P_LIMIT and enough
    first = group.runs[0]
    return {
        "rung": group.rung,
        "share": group.share,
        "seeds": len(group.runs),
        "bits_per_byte": group.mean,
        "interval": [interval.low, interval.high] if interval else None,
        "difference": [difference.mean, difference.low, difference.high] if difference else None,
        "p": p,
        "reaches_target": reaches if enough else None,
        "tokens": first["tokens"],
        "flops": group.flops,
        "flops_ratio": base.flops / group.flops,
        "multiplier": base.flops / group.flops if reaches else None,
        "optimizer_share": group.optimizer_share,
        "parameters": first["parameters"],
        "process_seconds_ratio": _paired(group, base, lambda run: run["process_s"]),
        "wall_seconds_ratio": _paired(group, base, lambda run: run["wall_s"]),
        "process_s": statistics.median(run["process_s"] for run in group.runs),
        "machines": sorted({run["machine"] for run in group.runs}),
        "commits": sorted({run["commit"] for run in group.runs}),
    }


def summary(rows: Sequence[dict[str, Any]], base: Group | None) -> dict[str, Any]:
    """Of one size and text: the target and the best rung that reaches it; null where not run."""
    if base is None:
        return {"target_bits_per_byte": None, "multiplier": None, "rows": list(rows)}
    claimed = [each for each in rows if each["multiplier"] is not None]
    best = max(claimed, key=lambda each: each["multiplier"], default=None)
    return {
        "target_bits_per_byte": base.mean,
        "target_seeds": len(base.runs),
        "multiplier": best and best["multiplier"],
        "rung": best and best["rung"],
        "p": best and best["p"],
        "optimizer_share": best and best["optimizer_share"],
        "process_seconds_ratio": best and best["process_seconds_ratio"],
        "wall_seconds_ratio": best and best["wall_seconds_ratio"],
        "rows": list(rows),
    }


def _paired(group: Group, base: Group, seconds: Callable[[Record], float]) -> float | None:
    """Median of baseline over own, of pairs with the same seed, machine, threads and precision."""

    def place(run: Record) -> tuple[Any, ...]:
        return tuple(run[key] for key in ("seed", "machine", "threads", "device", "precision"))

    peers = {place(run): run for run in base.runs}
    ratios = [
        seconds(peers[place(run)]) / seconds(run) for run in group.runs if place(run) in peers
    ]
    return statistics.median(ratios) if ratios else None


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """The ladder as a Markdown table."""
    head = (
        "| rung | share of horizon | seeds | bits/byte | 95 % interval | p | FLOPs ratio "
        "| reaches target | optimizer's share | M parameters (active, tables) "
        "| seconds ratio (process) |\n" + "| --- " * 11 + "|"
    )
    return "\n".join([head, *map(_line, rows)])


def _line(each: dict[str, Any]) -> str:
    interval, p, reaches = each["interval"], each["p"], each["reaches_target"]
    ratio = each["process_seconds_ratio"]
    cells = [
        each["rung"],
        f"{each['share']:.3g}",
        str(each["seeds"]),
        f"{each['bits_per_byte']:.4f}",
        f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "one seed",
        "" if p is None else f"{p:.2g}",
        f"{each['flops_ratio']:.2f}",
        "too few seeds" if reaches is None else "yes" if reaches else "no",
        f"{each['optimizer_share']:.1%}",
        "{total:.2f} ({active:.2f}, {table:.2f})".format_map(
            {k: v / 1e6 for k, v in each["parameters"].items()}
        ),
        "" if ratio is None else f"{ratio:.2f}",
    ]
    return f"| {' | '.join(cells)} |"
