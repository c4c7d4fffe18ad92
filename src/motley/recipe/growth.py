"""`[growth]`: the training begins from a shallower model that was trained before."""

from __future__ import annotations

from dataclasses import dataclass

from motley.schema import require_positive


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """Depthwise stacking (G_stack, arXiv 2405.15319): block i begins as block i mod L of a run with
    L layers; everything else begins as it was there. Moments begin at zero."""

    run: str
    """The folder of that run; its model differs in the number of layers alone."""
    steps: int | None = None
    """Updates of it that are taken over; unset means those of its newest checkpoint."""
    flops: float | None = None
    """What they cost, part of this training's FLOPs; counted when the new run is made."""

    def __post_init__(self) -> None:
        require_positive(self, "steps", "flops")
        if not self.run:
            raise ValueError("run: names no folder")
