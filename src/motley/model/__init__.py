"""The transformer. This package imports no torch: `counts` and `config` serve the planner, and what
needs torch is imported by its module (`motley.model.layers`, ...)."""

from motley.model.config import ModelConfig, RopeScaling
from motley.model.counts import (
    LayerCounts,
    ModelCounts,
    ParameterGroup,
    layer_counts,
    model_counts,
    parameter_groups,
)

__all__ = [
    "LayerCounts",
    "ModelConfig",
    "ModelCounts",
    "ParameterGroup",
    "RopeScaling",
    "layer_counts",
    "model_counts",
    "parameter_groups",
]
