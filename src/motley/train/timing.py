"""Where a chip's time goes within one step: spans of forward, backward, wait, sync, optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch

from motley.chips.runtime import Runtime

SpanKind = Literal["forward", "backward", "wait", "sync", "optimizer"]


@dataclass
class StepTimer:
    """Marks of one step; `spans` turns them into seconds once the chip is synchronised."""

    runtime: Runtime
    _origin: float | torch.Event = 0.0
    _marks: list[tuple[SpanKind, int | None, float | torch.Event, float | torch.Event]] = field(
        default_factory=list
    )

    def begin(self) -> None:
        """A new step starts now."""
        self._marks.clear()
        self._origin = self.runtime.mark()

    @contextlib.contextmanager
    def span(self, kind: SpanKind, micro_batch: int | None = None) -> Iterator[None]:
        start = self.runtime.mark()
        yield
        self._marks.append((kind, micro_batch, start, self.runtime.mark()))

    def spans(self) -> list[tuple[SpanKind, int | None, float, float]]:
        """(kind, micro-batch, start, end) in seconds from the begin of the step."""
        between = self.runtime.seconds_between
        return [
            (kind, micro_batch, between(self._origin, start), between(self._origin, end))
            for kind, micro_batch, start, end in self._marks
        ]

    def totals(self) -> dict[SpanKind, float]:
        """Seconds by kind."""
        totals: dict[SpanKind, float] = dict.fromkeys(
            ("forward", "backward", "wait", "sync", "optimizer"), 0.0
        )
        for kind, _, start, end in self.spans():
            totals[kind] += end - start
        return totals
