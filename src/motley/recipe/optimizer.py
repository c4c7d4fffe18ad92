"""`[optimizer]`: how gradients become updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motley.model.config import ModelConfig
from motley.model.table_counts import projected_width
from motley.schema import require_positive, require_rates, require_unset, switch

Role = Literal["matrix", "embedding", "head", "vector"]
"""What a parameter is to the optimizer: a matrix of a block, the embeddings (token, with a tied
head, and positions), a matrix outside the blocks that activations are multiplied with (the head's
own, the lookahead's, that of projected n-gram rows), or anything with fewer than two dimensions."""

MUON_LEARNING_RATE = 0.02
"""Of matrices under Muon if nothing else is said (Keller Jordan's default)."""

_MUONS_KEYS = (
    "momentum", "momentum_warmup_steps", "orthogonal_iterations", "orthogonal_coefficients",
    "orthogonal_every",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) for all parameters, or Muon for the blocks'
    matrices and AdamW for the rest."""

    kind: Literal["adamw", "muon", "normuon"] = switch("adamw")
    """Of the blocks' matrices. "muon" orthogonalises their momentum (Jordan et al. 2024, arXiv
    2502.16982); "normuon" also evens out its neurons (arXiv 2510.05491)."""
    learning_rate: float = 1e-3
    """Peak rate of every parameter that has no rate of its own below."""
    matrix_learning_rate: float | None = None
    """Of the blocks' matrices; unset means 0.02 under Muon and `learning_rate` under AdamW. Muon's
    update is scaled by sqrt(max(1, outputs / inputs))."""
    embedding_learning_rate: float | None = None
    """Of token and position embeddings, and so of a tied head."""
    head_learning_rate: float | None = None
    """Of other matrices that activations are multiplied with: an untied head's, the lookahead's, a
    router's, and that of projected n-gram rows."""
    vector_learning_rate: float | None = None
    """Of norms, biases and scalars."""
    beta1: float = 0.9
    beta2: float = 0.95
    """Of second moments: AdamW's, and NorMuon's of each neuron."""
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """On matrices only, embeddings and head too; norms, biases and other vectors are not decayed.
    A step takes away rate x decay of a weight."""
    matrix_weight_decay: float | None = None
    """Of the blocks' matrices; unset means `weight_decay`."""
    cautious_weight_decay: bool = switch(False)
    """A weight decays only where the update moves it towards zero too (arXiv 2510.12402)."""
    gradient_clip: float = 1.0
    """Largest L2 norm of the whole model's gradient. A longer one is scaled down as a whole, before
    any momentum; under Muon that is how much the step weighs in the momentum."""
    momentum: float = switch(0.95)
    """Of Muon, in Nesterov's form."""
    momentum_warmup_steps: int = switch(0)
    """Steps in which Muon's momentum rises from 0.85."""
    orthogonal_iterations: int = switch(5)
    """Matrix polynomials of degree 5 that orthogonalise a momentum."""
    orthogonal_coefficients: Literal["polar", "quintic"] = switch("polar")
    """"polar" has the best polynomials for the number of iterations (Polar Express, arXiv
    2505.16932); "quintic" repeats that of the first Muon."""
    orthogonal_every: int = switch(1)
    """Matrices move at every so many steps only, so many times as far; each step's gradient enters
    the momentum."""
    state_bits: Literal[32, 8] = switch(32)
    """Of AdamW's moments; 8 keeps them in blocks with a scale each (arXiv 2110.02861). Muon's
    momentum is fp32."""

    def __post_init__(self) -> None:
        require_positive(
            self, "epsilon", "gradient_clip", "orthogonal_iterations", "orthogonal_every"
        )
        require_rates(
            self, "learning_rate", "matrix_learning_rate", "embedding_learning_rate",
            "head_learning_rate", "vector_learning_rate",
        )  # fmt: skip
        for name in ("weight_decay", "matrix_weight_decay", "momentum_warmup_steps"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}: must not be negative, found {getattr(self, name)}")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must be in [0, 1), found {getattr(self, name)}")
        if not self.orthogonalises:
            require_unset(self, _MUONS_KEYS, 'kind is "adamw", and they are Muon\'s')
        if self.orthogonal_iterations > 10:
            raise ValueError(
                f"orthogonal_iterations: {self.orthogonal_iterations} gain nothing over 10"
            )

    @property
    def orthogonalises(self) -> bool:
        """Whether the blocks' matrices are under Muon or its kin."""
        return self.kind != "adamw"

    def peak_rate(self, role: Role) -> float:
        """Learning rate of parameters of that role at the schedule's peak."""
        own: dict[Role, float | None] = {
            "matrix": self.matrix_learning_rate,
            "embedding": self.embedding_learning_rate,
            "head": self.head_learning_rate,
            "vector": self.vector_learning_rate,
        }
        if role == "matrix" and self.orthogonalises:
            return own["matrix"] or MUON_LEARNING_RATE
        return own[role] or self.learning_rate

    def decay(self, role: Role) -> float:
        """Weight decay of parameters of that role."""
        if role == "vector":
            return 0.0
        if role == "matrix" and self.matrix_weight_decay is not None:
            return self.matrix_weight_decay
        return self.weight_decay


def roles_of(model: ModelConfig) -> tuple[Role, ...]:
    """The roles that parameters of the model can have; not all have matrices of a head's own."""
    own = (
        not model.tied_head
        or model.lookahead_weight is not None
        or model.mixture is not None
        or projected_width(model) > 0
    )
    return ("matrix", "embedding", "head", "vector") if own else ("matrix", "embedding", "vector")
