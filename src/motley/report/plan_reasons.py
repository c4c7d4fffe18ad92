"""Why this plan: reasons, what lost against it, what one more chip brings, and where figures are
from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from motley.chips.catalog import catalog
from motley.cluster import Cluster
from motley.plan.explain.more import LEAST_GAIN, OneMore
from motley.plan.plan import Plan
from motley.plan.stack import Stack
from motley.report.cluster_drawing import linked
from motley.report.cluster_shape import Path, path_of
from motley.report.kinds import Palette, short
from motley.report.markup import Child, Markup, join, tag
from motley.report.tables import badge, table
from motley.units import Source, duration


def why_section(plan: Plan, one_more: Sequence[OneMore] | None, palette: Palette) -> Markup:
    """Reasons, rejected splits, and what one more chip of each kind would bring."""
    reasons = tag("ul", *[tag("li", reason) for reason in plan.reasons], class_="reasons")
    none = tag("p", "The plan gives no reasons: nothing was searched for it.", class_="note")
    return join(
        [
            reasons if plan.reasons else none,
            *(_rejected(plan) if plan.rejected else ()),
            *(_one_more(one_more, palette) if one_more else ()),
        ]
    )


def _rejected(plan: Plan) -> Iterable[Markup]:
    longest = max(each.step_s or 0.0 for each in plan.rejected)
    rows: list[list[Child]] = [
        ["this plan", _step_bar(plan.step_s, max(longest, plan.step_s), "used"), ""]
    ]
    for each in plan.rejected:
        bar: Child = "-"
        if each.step_s is not None:
            bar = _step_bar(each.step_s, max(longest, plan.step_s), "lost")
        rows.append([each.split, bar, each.reason])
    yield tag("h3", "Rejected")
    yield table(("split", "step, predicted", "why it lost"), rows, "Rejected splits")


def _step_bar(step_s: float, longest: float, kind: str) -> Markup:
    width = f"width:{step_s / longest:.1%}"
    bar = tag("i", tag("i", style=width, class_=kind), class_="meter", aria_hidden="true")
    return tag("span", bar, duration(step_s), class_="figure")


def _one_more(offers: Sequence[OneMore], palette: Palette) -> Iterable[Markup]:
    """A bar per kind, the most useful first; a loss cannot be: the chip may stay idle."""
    ordered = sorted(offers, key=lambda offer: (-offer.gain, offer.kind))
    most = max(max(offer.gain for offer in ordered), LEAST_GAIN)
    rows = []
    for offer in ordered:
        gain = f"{offer.change}, {offer.reached_words}"
        words = f"{short(offer.kind)}: {gain}, predicted"
        piece = tag("span", class_="part used", style=f"width:{max(0.0, offer.gain) / most:.2%}")
        rows.append(
            tag(
                "div",
                tag("div", palette.named(offer.kind), class_="who"),
                tag("div", piece, class_="bar", role="img", aria_label=words, data_tip=words),
                tag("span", gain, class_="amount"),
                class_="row",
            )
        )
    yield tag("h3", "What one more chip would bring ", badge("predicted"))
    yield tag("div", *rows, class_="bars memory")


def sources_section(plan: Plan, cluster: Cluster, stack: Stack) -> Markup:
    """Every figure of the page and where it comes from."""
    rows: list[list[Child]] = [*_chip_rows(cluster), *_link_rows(cluster)]
    rows.append(["prices", "", join([linked(text) for text in _price_sources(cluster)], "; ")])
    shown_here = (
        ("step time, tokens/s, timeline", f"simulated pass by pass, for the stack '{stack.name}'"),
        ("memory", "counted per stage, with a margin; a plan whose sum does not fit is not made"),
        ("busy and waiting", "from the simulated step"),
    )
    rows += [[what, badge("predicted"), how] for what, how in shown_here]
    rows.append(["reasons, rejected splits", badge("predicted"), "the search of motley plan"])
    head = ("figure", "is", "from")
    digests = f"Recipe {plan.recipe_digest}, cluster {plan.cluster_digest}."
    return join([
        table(head, rows, "Where figures come from"), tag("p", digests, class_="note"),
    ])  # fmt: skip


def _chip_rows(cluster: Cluster) -> Iterable[list[Child]]:
    """A row per kind and source, with the catalog's origin of a quoted peak."""
    seen = dict.fromkeys((chip.kind, chip.source, chip.precision) for chip in cluster.chips)
    for kind, source, precision in seen:
        row = catalog().get(kind)
        origin = "the cluster's file"
        if source == "quoted" and row:
            origin = row.origin_of(f"{precision}_tflops") or origin
        if source == "emulated":
            origin = "declared; the chip is a process that is held to it"
        yield [f"rates of {short(kind)}", badge(source), linked(origin)]


def _link_rows(cluster: Cluster) -> Iterable[list[Child]]:
    """A row per kind, source and origin of the links that are given."""
    paths: dict[tuple[str, Source, str | None], Path] = {}
    for link in cluster.links:
        paths.setdefault((link.kind, link.source, link.origin), path_of(link))
    for path in paths.values():
        name = f"links ({path.kind})" if path.kind else "links"
        yield [name, badge(path.source), linked(path.origin or "the cluster's file")]
    if not cluster.links and len(cluster.chips) > 1:
        yield ["links", badge("predicted"), "assumed: the cluster says nothing of them"]


def _price_sources(cluster: Cluster) -> list[str]:
    known = dict.fromkeys(price.source for price in cluster.prices if price.source)
    return [source for source in known if source] or ["no price is known"]
