"""`[validation]` and `[checkpoint]`: what happens now and then between steps."""

from __future__ import annotations

from dataclasses import dataclass

from motley.schema import require_positive


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    every_steps: int = 50
    max_samples: int = 64
    """Held-out samples that are scored each time; the same ones, from the start."""

    def __post_init__(self) -> None:
        require_positive(self, "every_steps", "max_samples")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every_steps: int = 100
    keep: int = 2
    """The newest checkpoints that stay on disk."""

    def __post_init__(self) -> None:
        require_positive(self, "every_steps", "keep")
