"""Which weaker chips reach what a strong one does on a model: the fewest, the cheapest, the most
frugal.

Every set is planned over all that can be planned (`space.ANY`), in nodes of the stated size. More
chips of a kind never make the best plan slower, so that the least number of one kind is found by
following its tokens/s per chip. Mixed sets of two or three kinds are tried in the order of what
they take (chips, USD per hour or watts), as long as they take less than the best set so far and
could reach the goal if they were as fast together as their kinds are alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from motley.chips.catalog import look_up
from motley.chips.chip import Chip
from motley.cluster import Cluster, parse_cluster
from motley.errors import ClusterError, InputError, NoPlanError, UnknownChipError
from motley.plan.money import hourly_price
from motley.plan.plan import Plan
from motley.plan.search.search import search
from motley.plan.space import ANY
from motley.recipe import Recipe

MOST_CHIPS = 512
"""Of one kind."""

MOST_MIXED = 8
"""Mixed sets that are planned for each of the goals."""

LARGEST_MIXED = 48
"""Kinds of which more than this are needed alone are not mixed: the sets are too many."""

SYNERGY = 0.02
"""Share by which a kind may be faster in a mix than it was alone, and be found."""

OWN_PRICE = "yours"
"""The source of a price that the user gives."""

Counts = tuple[int, ...]
"""Of each weak kind."""


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """How the chips of all sets are put into nodes and connected, and what they cost by the user's
    own word."""

    per_node: int = 8
    network_gbit_per_s: float = 100.0
    """Of each node, one direction. Links inside nodes are the catalog's."""
    usd_per_hour: Mapping[str, float] = field(default_factory=dict)
    """Of one chip, by catalog id; other kinds have the catalog's price."""

    def __post_init__(self) -> None:
        if self.per_node < 1 or not 0 < self.network_gbit_per_s < 1e9:
            raise InputError("nodes need a chip and a network above zero Gbit/s.")

    def cluster(self, counts: Mapping[str, int]) -> Cluster:
        """Full nodes of each kind, and one with the rest."""
        groups: list[dict[str, Any]] = []
        for kind, count in counts.items():
            full, rest = divmod(count, self.per_node)
            sizes = [self.per_node] * full + [rest] * (rest > 0)
            network = self.network_gbit_per_s
            groups.append({"kind": kind, "per_node": sizes, "network_gbit_per_s": network})
            if kind in self.usd_per_hour:
                groups[-1] |= {"usd_per_hour": self.usd_per_hour[kind], "price_source": OWN_PRICE}
        return parse_cluster({"name": "replacement", "group": groups}, "replacement")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A set of chips and the best plan for it."""

    counts: Mapping[str, int]
    """By catalog id; only chips that work."""
    plan: Plan
    cluster: Cluster
    usd_per_hour: float | None
    power_w: float | None
    """Catalog TDP of all chips; None if one is unknown."""

    @property
    def num_chips(self) -> int:
        return sum(self.counts.values())

    @property
    def tokens_per_s(self) -> float:
        return self.plan.tokens_per_s

    @property
    def joules_per_token(self) -> float | None:
        return None if self.power_w is None else self.power_w / self.tokens_per_s

    @property
    def usd_per_billion_tokens(self) -> float | None:
        hours = 1e9 / self.tokens_per_s / 3600
        return None if self.usd_per_hour is None else self.usd_per_hour * hours

    @property
    def label(self) -> str:
        """ "2 x nvidia-a100-sxm-80g + 3 x nvidia-rtx-4090"."""
        return " + ".join(f"{count} x {kind}" for kind, count in self.counts.items())


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """What reaches the strong chips' tokens/s; None where no set is known to."""

    strong: Offer
    asked: int
    """Strong chips that were to be replaced; `strong` has more if they cannot hold the model."""
    lack: str
    """Why, in that case."""
    fewest: Offer | None
    cheapest: Offer | None
    frugal: Offer | None
    alone: tuple[Offer, ...]
    """The fewest of every kind by itself."""
    left_out: tuple[tuple[str, str], ...]
    """Kinds of which no set is considered, or not for a goal, and why."""
    num_planned: int
    num_untried: int
    """Mixed sets that might take less and were not planned."""


@dataclass
class _Planner:
    """Plans sets once."""

    recipe: Recipe
    wiring: Wiring
    known: dict[tuple[tuple[str, int], ...], Offer | None] = field(default_factory=dict)

    def offer(self, counts: Mapping[str, int]) -> Offer | None:
        """The best plan over the chips; None if the model does not fit."""
        wanted = {kind: count for kind, count in counts.items() if count}
        key = tuple(wanted.items())
        if key not in self.known:
            try:
                self.known[key] = self.planned(wanted)
            except NoPlanError:
                self.known[key] = None
        return self.known[key]

    def planned(self, counts: Mapping[str, int]) -> Offer:
        cluster = self.wiring.cluster(counts)
        plan = search(self.recipe, cluster, space=ANY)
        chips = [cluster.chip(name) for name in plan.chips]
        working = [chip.kind for chip in chips]
        powers = [chip.power_w for chip in chips if chip.power_w is not None]
        return Offer(
            counts={kind: working.count(kind) for kind in dict.fromkeys(working)},
            plan=plan,
            cluster=cluster,
            usd_per_hour=hourly_price(chips)[0],
            power_w=sum(powers) if len(powers) == len(chips) else None,
        )


Price = Callable[[str], float | None]
"""What one chip of a kind adds to a goal."""


def replace(
    strong: str, weak: Sequence[str], recipe: Recipe, *, count: int = 1, wiring: Wiring = Wiring()
) -> Replacement:
    """The sets of the weak kinds that reach `count` strong chips on the recipe's model.

    Raises:
        UnknownChipError: a name that the catalog does not know, or the strong chip lacks a figure.
        InputError: no weak kind is left, or a price is given for a kind that is not among them.
        NoPlanError: not even `MOST_CHIPS` strong chips hold the model.
    """
    strong = look_up(strong).id
    named = dict.fromkeys(look_up(name).id for name in weak)
    _require_used(wiring.usd_per_hour, (strong, *named))
    kinds, left_out = _usable(named, wiring)
    planner = _Planner(recipe, wiring)
    wiring.cluster({strong: 1})
    goal, lack = _strong_offer(planner, strong, count)
    alone: dict[str, Offer] = {}
    for kind in kinds:
        found = _fewest(planner, kind, goal)
        if found is None:
            left_out.append((kind, f"{MOST_CHIPS} do not reach {goal.tokens_per_s:.0f} tokens/s"))
        else:
            alone[kind] = found
    rates = _best_rates(planner, kinds)
    goals: list[tuple[str, Price]] = [
        ("fewest", lambda kind: 1.0),
        ("cheapest", lambda kind: _one(wiring, kind).usd_per_hour),
        ("most frugal", lambda kind: _one(wiring, kind).power_w),
    ]
    best: list[Offer | None] = []
    untried = 0
    for name, price in goals:
        known = {kind: price(kind) for kind in alone}
        left_out += [(kind, _unknown(name)) for kind in alone if known[kind] is None]
        prices = {kind: each for kind, each in known.items() if each is not None}
        offer, missed = _best(planner, alone, prices, rates, goal.tokens_per_s)
        best.append(offer)
        untried += missed
    return Replacement(
        strong=goal, asked=count, lack=lack, fewest=best[0], cheapest=best[1], frugal=best[2],
        alone=tuple(alone.values()), left_out=tuple(left_out), num_planned=len(planner.known),
        num_untried=untried,
    )  # fmt: skip


def _require_used(prices: Iterable[str], kinds: Sequence[str]) -> None:
    for kind in prices:
        if kind not in kinds:
            raise InputError(
                f"a price is given for {kind}, which is neither replaced nor among the others.",
                remedy=f"Give one for {', '.join(dict.fromkeys(kinds))}, or leave it out.",
            )


def _unknown(goal: str) -> str:
    figure = "price" if goal == "cheapest" else "power"
    return f"its {figure} is unknown, so the {goal} set is one without it"


def _one(wiring: Wiring, kind: str) -> Chip:
    return wiring.cluster({kind: 1}).chips[0]


def _usable(
    kinds: Sequence[str] | Mapping[str, None], wiring: Wiring
) -> tuple[list[str], list[tuple[str, str]]]:
    """The kinds of which clusters can be made, and why not of the others."""
    usable, left_out = [], []
    for kind in kinds:
        try:
            wiring.cluster({kind: min(2, wiring.per_node)})
            usable.append(kind)
        except (UnknownChipError, ClusterError) as error:
            left_out.append((kind, error.message.rpartition("group 1: ")[2].rstrip(".")))
    if not usable:
        raise InputError(
            "no chip is left to replace it with: "
            + "; ".join(f"{kind}: {reason}" for kind, reason in left_out)
            + ".",
            remedy="Name others with --with.",
        )
    return usable, left_out


def _strong_offer(planner: _Planner, strong: str, count: int) -> tuple[Offer, str]:
    """The offer of `count` strong chips, or of the least number that holds the model, and why."""
    try:
        return planner.planned({strong: count}), ""
    except NoPlanError as error:
        reason = error
    low, high = count, count
    while planner.offer({strong: high}) is None:
        if high >= MOST_CHIPS:
            raise reason
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if planner.offer({strong: middle}) is None:
            low = middle
        else:
            high = middle
    offer = planner.offer({strong: high})
    assert offer is not None
    return offer, reason.message


def _fewest(planner: _Planner, kind: str, goal: Offer) -> Offer | None:
    """The least number of one kind that reaches the goal; None above `MOST_CHIPS`."""
    speed = _one(planner.wiring, kind).training_flops_per_s
    strong = sum(goal.cluster.chip(name).training_flops_per_s for name in goal.plan.chips)
    low, high, best = 0, MOST_CHIPS + 1, None
    number = max(1, min(MOST_CHIPS, round(strong / speed)))
    while low + 1 < high:
        offer = planner.offer({kind: number})
        reached = offer.tokens_per_s if offer else 0.0
        if offer and reached >= goal.tokens_per_s:
            high, best = number, offer
        else:
            low = number
        if low >= MOST_CHIPS:
            return None
        wanted = math.ceil(number * goal.tokens_per_s / reached) if reached else 2 * number
        number = min(max(wanted, low + 1), high - 1, 4 * number)
    return best


def _best_rates(planner: _Planner, kinds: Sequence[str]) -> dict[str, float]:
    """The most tokens/s that a chip of each kind gave in a set of its own."""
    rates = dict.fromkeys(kinds, 0.0)
    for key, offer in planner.known.items():
        kind, number = key[0]
        if offer and len(key) == 1 and kind in rates:
            rates[kind] = max(rates[kind], offer.tokens_per_s / number * (1 + SYNERGY))
    return rates


def _best(
    planner: _Planner,
    alone: Mapping[str, Offer],
    prices: Mapping[str, float],
    rates: Mapping[str, float],
    goal: float,
) -> tuple[Offer | None, int]:
    """The set that takes least and reaches the goal, and how many better ones were not planned."""

    def taken(offer: Offer) -> float:
        return sum(prices[kind] * number for kind, number in offer.counts.items())

    offers = [alone[kind] for kind in prices]
    if not offers:
        return None, 0
    best = min(offers, key=lambda offer: (taken(offer), offer.num_chips))
    kinds = [kind for kind in prices if alone[kind].num_chips <= LARGEST_MIXED]
    mixed = sorted(_mixed(kinds, alone, prices, rates, goal, taken(best)))
    failed: list[Counts] = []
    tried = 0
    for position, (_, _, counts) in enumerate(mixed):
        if any(all(a <= b for a, b in zip(counts, other, strict=True)) for other in failed):
            continue
        if tried == MOST_MIXED:
            return best, len(mixed) - position
        tried += 1
        offer = planner.offer(dict(zip(kinds, counts, strict=True)))
        if offer and offer.tokens_per_s >= goal:
            return offer, 0
        failed.append(counts)
    return best, 0


def _mixed(
    kinds: Sequence[str],
    alone: Mapping[str, Offer],
    prices: Mapping[str, float],
    rates: Mapping[str, float],
    goal: float,
    limit: float,
) -> Iterator[tuple[float, int, Counts]]:
    """Sets of two or three kinds below the limit that could reach the goal, with what they take."""
    for size in (2, 3):
        for chosen in itertools.combinations(range(len(kinds)), size):
            ranges = [range(1, alone[kinds[k]].num_chips) for k in chosen]
            for numbers in itertools.product(*ranges):
                pairs = [(kinds[k], number) for k, number in zip(chosen, numbers, strict=True)]
                taken = sum(prices[kind] * number for kind, number in pairs)
                if taken < limit and sum(rates[kind] * n for kind, n in pairs) >= goal:
                    counts = [0] * len(kinds)
                    for k, number in zip(chosen, numbers, strict=True):
                        counts[k] = number
                    yield taken, sum(numbers), tuple(counts)
