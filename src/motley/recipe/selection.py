"""`[selection]`: a small reference model chooses the samples that the training sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motley.schema import require_positive, require_rates, switch


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Before the training begins, a reference model is trained on a little of the text and scores
    candidate samples; the best of them are what is trained on. All of its FLOPs count."""

    keep_share: float
    """Of the candidates, above 0 and at most 1."""
    score: Literal["learnability", "perplexity"] = switch("learnability")
    """Which are kept: those whose loss falls most between a snapshot early in the reference's
    training and its end (after RHO-loss, arXiv 2206.07137), or those of middling loss (Marion et
    al., arXiv 2309.04564)."""
    candidates: int | None = None
    """Samples that are scored; unset means as many as make the kept ones last for one epoch."""
    layers: int = 2
    width: int = 64
    heads: int = 2
    reference_share: float = 0.25
    """Samples that the reference is trained on, as a share of those of the training."""
    reference_batch: int = 4
    """Samples of one update of the reference."""
    learning_rate: float = 3e-3
    """The reference's, at its peak (AdamW)."""

    def __post_init__(self) -> None:
        require_positive(
            self, "keep_share", "candidates", "layers", "width", "heads", "reference_share",
            "reference_batch",
        )  # fmt: skip
        require_rates(self, "learning_rate")
        if self.keep_share > 1:
            raise ValueError(f"keep_share: must be above 0 and at most 1, found {self.keep_share}")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"heads: {self.heads} heads of an even size do not divide the width {self.width}"
            )
