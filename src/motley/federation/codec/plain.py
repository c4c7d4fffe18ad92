"""The reference: every value as it is."""

from __future__ import annotations

import numpy as np

from motley.federation.codec.arithmetic import LARGEST, sum_of_products
from motley.federation.codec.codec import Codec, require_finite
from motley.federation.codec.layout import Floats, Layout, Slab
from motley.federation.codec.payload import Arrays, ArraySpec, nonfinite


class PlainCodec(Codec):
    """fp32, as the bits of 32-bit integers."""

    chunk = 1024
    bits_per_parameter = 32.0

    def specs(self, layout: Layout) -> dict[str, ArraySpec]:
        return {"values": ArraySpec("int32", (layout.num_chunks, self.chunk))}

    def encode_slab(self, values_ce: Floats, slab: Slab, arrays: Arrays) -> None:
        require_finite(bool((np.abs(values_ce) < LARGEST).all()))
        arrays["values"][slab.rows] = values_ce.view(np.int32)
        values_ce.fill(0.0)

    def decode_slab(self, arrays: Arrays, slab: Slab) -> Floats:
        values_ce: Floats = arrays["values"][slab.rows].view(np.float32)
        if slab.tails:
            values_ce = values_ce.copy()
            slab.clear_padding(values_ce)
        if not (np.abs(values_ce) < LARGEST).all():
            raise nonfinite("a value is not finite")
        return values_ce

    def slab_squared_norm(self, arrays: Arrays, slab: Slab) -> float:
        values_ce = self.decode_slab(arrays, slab)
        return sum_of_products(values_ce, values_ce)
