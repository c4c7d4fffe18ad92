"""What the events say, as typed records.

The reader is lenient about what is not there (an unknown figure is NaN, an unknown text is empty)
and strict about what is there: a text in the place of a number is a `ValueError` or `TypeError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from motley.units import Source

NAN = float("nan")
SOURCES = ("measured", "quoted", "predicted", "emulated")


@dataclass(frozen=True, kw_only=True)
class ChipFacts:
    """One chip of the run and the part of the plan it executes."""

    name: str
    kind: str
    emulated: bool
    peak_source: Source
    """Where `peak_flops_per_s` comes from."""
    rank: int
    replica: int
    position: int
    """Place of the stage in its replica's pipeline, from 0."""
    first_layer: int
    last_layer: int
    """Exclusive."""
    precision: str
    device: str
    peak_flops_per_s: float
    quoted_peak_flops_per_s: float
    """The catalog's, where `peak_flops_per_s` was measured; NaN if unknown."""
    memory_available_bytes: float

    @property
    def source(self) -> Source:
        """What this chip's timings are: those of an emulated chip are not a chip's own."""
        return "emulated" if self.emulated else "measured"


@dataclass(frozen=True, kw_only=True)
class ChipStep:
    """What one chip did in one step."""

    compute_s: float
    wait_s: float
    communication_s: float
    optimizer_s: float
    tokens: float
    flops: float
    memory_bytes: float


@dataclass(frozen=True, kw_only=True)
class Step:
    step: int
    segment: int
    """Index of the run's segment that did it."""
    time: float
    loss: float
    """Nats per token; NaN if it was not finite."""
    tokens: float
    step_s: float
    tokens_per_s: float
    learning_rate: float
    gradient_norm: float
    chips: Mapping[str, ChipStep]


@dataclass(frozen=True, kw_only=True)
class Validation:
    step: int
    loss: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class Span:
    """One stretch of work of a chip; seconds from the begin of the step."""

    chip: str
    kind: str
    micro_batch: int | None
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    step: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the plan promised."""

    step_s: float = NAN
    tokens_per_s: float = NAN
    busy_share: Mapping[str, float]
    memory_bytes: Mapping[str, float]
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One line of the run's log."""

    time: float
    step: int | None
    kind: str
    """The event's name."""
    text: str
    is_problem: bool = False


def number(table: Mapping[str, Any], key: str) -> float:
    """A number, or NaN where there is none."""
    value = table.get(key)
    if isinstance(value, str):
        raise TypeError(f"'{key}' is a text, not a number: '{value}'")
    return NAN if value is None else float(value)


def text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    return "" if value is None else str(value)


def chip_facts(table: Mapping[str, Any]) -> ChipFacts:
    first, last = table.get("layers") or (0, 0)
    emulated = bool(table.get("emulated"))
    source = "emulated" if emulated else text(table, "source")
    return ChipFacts(
        name=text(table, "name"),
        kind=text(table, "kind"),
        emulated=emulated,
        peak_source=cast(Source, source) if source in SOURCES else "quoted",
        rank=int(table.get("rank") or 0),
        replica=int(table.get("replica") or 0),
        position=int(table.get("position") or 0),
        first_layer=int(first),
        last_layer=int(last),
        precision=text(table, "precision"),
        device=text(table, "device"),
        peak_flops_per_s=number(table, "peak_flops_per_s"),
        quoted_peak_flops_per_s=number(table, "quoted_peak_flops_per_s"),
        memory_available_bytes=number(table, "memory_available_bytes"),
    )


def step_record(event: Mapping[str, Any], segment: int) -> Step:
    return Step(
        step=int(event["step"]),
        segment=segment,
        time=number(event, "time"),
        loss=number(event, "loss"),
        tokens=number(event, "tokens"),
        step_s=number(event, "step_s"),
        tokens_per_s=number(event, "tokens_per_s"),
        learning_rate=number(event, "learning_rate"),
        gradient_norm=number(event, "gradient_norm"),
        chips={text(chip, "name"): _chip_step(chip) for chip in event.get("chips") or ()},
    )


def _chip_step(table: Mapping[str, Any]) -> ChipStep:
    return ChipStep(
        compute_s=number(table, "compute_s"),
        wait_s=number(table, "wait_s"),
        communication_s=number(table, "communication_s"),
        optimizer_s=number(table, "optimizer_s"),
        tokens=number(table, "tokens"),
        flops=number(table, "flops"),
        memory_bytes=number(table, "memory_bytes"),
    )


def validation_record(event: Mapping[str, Any]) -> Validation:
    return Validation(
        step=int(event["step"]),
        loss=number(event, "loss"),
        bits_per_byte=number(event, "bits_per_byte"),
    )


def spans_of(table: Mapping[str, Any]) -> tuple[Span, ...]:
    """The spans of a timeline or a prediction, without those that have no length."""
    spans = (
        Span(
            chip=text(item, "chip"),
            kind=text(item, "kind"),
            micro_batch=None if item.get("micro_batch") is None else int(item["micro_batch"]),
            start_s=number(item, "start_s"),
            end_s=number(item, "end_s"),
        )
        for item in table.get("spans") or ()
    )
    return tuple(span for span in spans if span.end_s > span.start_s >= 0)


def prediction(table: Mapping[str, Any]) -> Prediction:
    busy, memory = table.get("busy_share") or {}, table.get("memory_bytes") or {}
    return Prediction(
        step_s=number(table, "step_s"),
        tokens_per_s=number(table, "tokens_per_s"),
        busy_share={str(chip): number(busy, chip) for chip in busy},
        memory_bytes={str(chip): number(memory, chip) for chip in memory},
        spans=spans_of(table),
    )
