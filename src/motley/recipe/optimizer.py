"""`[optimizer]`: how gradients become updates."""

from __future__ import annotations

from dataclasses import dataclass

from motley.schema import require_positive


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """On matrices only; norms, biases and other vectors are not decayed."""
    gradient_clip: float = 1.0
    """Largest L2 norm of the whole model's gradient."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "epsilon", "gradient_clip")
        if self.learning_rate > 10:
            raise ValueError(
                f"learning_rate: {self.learning_rate} is absurd; above 10 nothing trains"
            )
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: must not be negative, found {self.weight_decay}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must be in [0, 1), found {getattr(self, name)}")
