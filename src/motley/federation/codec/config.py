"""How updates are written down: a table of the charter, never a property of the local chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motley.schema import require_positive

CodecKind = Literal["fp32", "int8", "int4", "topk"]


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The codec of a federation."""

    kind: CodecKind = "topk"
    """"fp32" writes the values as they are; "int8" and "int4" round them on a scale of their own
    for every 256; "topk" keeps the largest of every 4,096 with two bits each."""
    density: float = 1 / 64
    """Share of the values that "topk" keeps."""
    feedback: Literal["added", "kept"] = "added"
    """What becomes of what an update leaves out. "added": the party takes the shared state as it
    is, and adds the rest to its next update (error feedback). "kept": the rest stays in the party's
    own parameters, so that its further steps start from it and do not do the same work again (error
    reset: Xie et al., arXiv 2007.13221)."""
    feedback_decay: float = 1.0
    """What stays from round to round of it; 1 loses nothing."""

    def __post_init__(self) -> None:
        require_positive(self, "density")
        if self.density > 0.25:
            raise ValueError(
                f"density: above 0.25 codec 'int4' is smaller and better, found {self.density}"
            )
        if not 0 <= self.feedback_decay <= 1:
            raise ValueError(f"feedback_decay: must be in [0, 1], found {self.feedback_decay}")
