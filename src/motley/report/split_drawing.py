"""The split drawn: each replica as a bar over the layers, then what each group of chips holds.

In the map width is layers and height is samples, so an area is a share of the work.
"""

from __future__ import annotations

from collections.abc import Sequence

from motley.plan.memory.peak import StageMemory
from motley.plan.plan import Stage
from motley.recipe import Recipe
from motley.report.document import legend
from motley.report.kinds import Palette
from motley.report.markup import Markup, join, tag
from motley.report.plan_copies import (
    SCHEDULE_WORDS,
    Copies,
    Part,
    layers_words,
    layout_words,
    micro_batch_words,
)
from motley.report.svg import Scale
from motley.report.words import plural, size_of
from motley.units import percent, size

MOST_COPIES = 24
"""Replicas of unlike make that are drawn."""
NUM_SHADES = 3
"""For neighbours of one kind."""
MOST_PARTS = 64
"""Groups of chips that are listed."""
MAP_HEIGHT = 240
"""Pixels of all bars together, apart from the least height."""
LEAST_HEIGHT = 40
LABEL_SHARE = 0.07
"""A stage narrower than this share of the layers has no text in it."""

MEMORY_PARTS = (
    ("state", "parameters, gradients, optimizer state"),
    ("activations", "activations kept"),
    ("moment", "there for a moment"),
    ("buffers", "buffers"),
    ("margin", "margin and context"),
)


def split_section(copies: Sequence[Copies], recipe: Recipe, palette: Palette) -> Markup:
    """The map and the list."""
    drawn = copies[:MOST_COPIES]
    left = len(copies) - len(drawn)
    more = tag("p", f"{plural(left, 'further replica')} not drawn.", class_="note")
    batch = recipe.batch.global_batch
    layers = recipe.model.num_layers
    bars = [_bar(each, layers, batch, palette) for each in drawn]
    listed, hidden = _listed(drawn, palette)
    return join(
        [
            tag("div", *bars, _layer_axis(layers), class_="map"),
            more if left else None,
            tag("h3", "What each group of chips holds"),
            *listed,
            tag("p", f"{plural(hidden, 'further group')} not listed.", class_="note")
            if hidden
            else None,
            legend(
                [*((f"m-{key}", said) for key, said in MEMORY_PARTS), ("free", "free")],
                "memory of one chip, predicted",
            ),
        ]
    )


def _listed(drawn: Sequence[Copies], palette: Palette) -> tuple[list[Markup], int]:
    """A block for each replica, and how many groups of chips were too many to list."""
    blocks, room = [], MOST_PARTS
    for copies in drawn:
        rows = [_part_row(part, palette) for part in copies.parts[:room]]
        if rows:
            replica = copies.replica
            words = f"{micro_batch_words(replica)}; {SCHEDULE_WORDS[replica.schedule]}"
            title = tag("h4", copies.title, ": ", tag("span", words, class_="muted"))
            blocks.append(tag("div", title, *rows, class_="parts"))
        room -= len(rows)
    return blocks, sum(len(copies.parts) for copies in drawn) - (MOST_PARTS - room)


def _bar(copies: Copies, num_layers: int, batch: int, palette: Palette) -> Markup:
    """One replica; as tall as the share of the batch that it and those alike compute."""
    share = copies.num_samples / batch
    height = max(LEAST_HEIGHT, round(share * MAP_HEIGHT))
    groups = [part.chips for part in copies.parts]
    boxes = [
        _stage_box(copies, stage, groups.index(stage.chips), num_layers, palette)
        for stage in copies.replica.stages
    ]
    name = tag(
        "div",
        tag("b", copies.title),
        tag("span", f"{percent(share)} of the batch", class_="muted"),
        class_="who",
    )
    return tag(
        "div",
        name,
        tag("div", *boxes, class_="stages", style=f"height:{height}px"),
        class_="row",
    )


def _stage_box(
    copies: Copies, stage: Stage, group: int, num_layers: int, palette: Palette
) -> Markup:
    share = len(stage.layers) / num_layers
    chips, layers = palette.group(stage.chips), layers_words(stage)
    words = [micro_batch_words(copies.replica), *layout_words(stage)]
    words += filter(None, [palette.names(stage.chips)])
    said = "; ".join([f"{copies.title}: {chips}, {layers}", *words])
    fits = share >= LABEL_SHARE
    text = [tag("b", chips), tag("span", layers)] if fits else []
    return tag(
        "span",
        *text,
        class_=f"stage {palette.of_chip(stage.chip)} group{group % NUM_SHADES}",
        style=f"left:{stage.first_layer / num_layers:.3%};width:{share:.3%}",
        role="img",
        aria_label=said,
        data_tip=said,
        tabindex=0,
    )


def _layer_axis(num_layers: int) -> Markup:
    """Layer 0 is the embedding, the last one the head."""
    scale = Scale(0.0, float(num_layers))
    ticks = [
        tag("span", f"{tick:.0f}", class_="x", style=f"left:{scale.share(tick):.2%}")
        for tick in scale.ticks(6)
        if tick == int(tick)
    ]
    return tag("div", tag("div", *ticks, class_="ticks"), class_="row axis", aria_hidden="true")


def _part_row(part: Part, palette: Palette) -> Markup:
    first = part.stages[0]
    name = tag(
        "div",
        tag("i", class_=f"dot {palette.of_chip(part.chips[0])}", aria_hidden="true"),
        tag("b", palette.group(part.chips)),
        tag("span", f"{layers_words(*part.stages)}, {first.precision}", class_="muted"),
        tag("span", palette.names(part.chips), class_="muted"),
        class_="who",
    )
    words = layout_words(first) or ["whole layers on one chip, nothing computed twice"]
    phrases = tag("ul", *[tag("li", word) for word in words], class_="words")
    bars = tag("div", _memory_bar(part), _busy_bar(part), class_="gauges")
    return tag("div", name, phrases, bars, class_="row")


def memory_parts(memory: StageMemory) -> tuple[int, ...]:
    """Bytes of `MEMORY_PARTS`; their sum is the total."""
    parts = (
        memory.state_bytes,
        memory.activation_bytes,
        memory.transient_bytes,
        memory.buffer_bytes,
    )
    return (*parts, memory.total_bytes - sum(parts))


def _memory_bar(part: Part) -> Markup:
    whole = max(part.available_bytes, part.memory.total_bytes)
    pieces, said = [], []
    for (key, words), num_bytes in zip(MEMORY_PARTS, memory_parts(part.memory), strict=True):
        if num_bytes <= 0:
            continue
        said.append(f"{words} {size(num_bytes)}")
        width = f"width:{num_bytes / whole:.2%}"
        pieces.append(tag("span", class_=f"part m-{key}", style=width))
    mark = None
    if part.is_over:
        mark = tag("i", class_="mark", style=f"left:{part.available_bytes / whole:.2%}")
    total = size_of(part.memory.total_bytes, part.available_bytes)
    words = f"memory of one chip, predicted: {total}: {', '.join(said)}"
    bar = tag(
        "div", *pieces, mark, class_="bar", role="img", aria_label=words, data_tip=words, tabindex=0
    )
    amount = tag("span", total, class_="amount problem" if part.is_over else "amount")
    return tag("div", tag("span", "memory", class_="muted"), bar, amount, class_="gauge memory")


def _busy_bar(part: Part) -> Markup:
    words = f"computes {percent(part.busy_share)} of the step, predicted"
    piece = tag("span", class_="part used", style=f"width:{part.busy_share:.2%}")
    bar = tag("div", piece, class_="bar", role="img", aria_label=words, data_tip=words, tabindex=0)
    amount = tag("span", percent(part.busy_share), class_="amount")
    return tag("div", tag("span", "busy", class_="muted"), bar, amount, class_="gauge memory")
