"""Optional native operations for training in bf16 on CPUs with AMX.

PyTorch's own CPU operations spend most of a step outside the matrix units: its attention's backward
pass alone takes a quarter of the time for a twentieth of the FLOPs. These do the same mathematics
fused and on AMX tiles. Each operation falls back to PyTorch where the kernels are off.

The C++ sources lie beside this file and are compiled once, at first use, for this machine.
"""

from motley.kernels.attention import causal_attention, causal_attention_packed
from motley.kernels.linear import linear, linear_joined, weight_gradient
from motley.kernels.native import disable, enable, usable
from motley.kernels.pointwise import add_norm, gelu, layer_norm

__all__ = [
    "add_norm",
    "causal_attention",
    "causal_attention_packed",
    "disable",
    "enable",
    "gelu",
    "layer_norm",
    "linear",
    "linear_joined",
    "usable",
    "weight_gradient",
]
