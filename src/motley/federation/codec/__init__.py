"""Codecs: an update as few bits as the charter says, and back, bit for bit the same everywhere.

codec = build_codec(CodecConfig(kind="topk"))
payload, residual = codec.encode(delta, residual)
delta = codec.decode(payload, shapes)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from motley.federation.codec.config import CodecConfig, CodecKind

if TYPE_CHECKING:
    from motley.federation.codec.codec import Codec

__all__ = ["CodecConfig", "CodecKind", "build_codec"]


def build_codec(config: CodecConfig) -> Codec:
    """The codec that a charter names."""
    from motley.federation.codec.plain import PlainCodec
    from motley.federation.codec.sparse import SparseCodec
    from motley.federation.codec.uniform import UniformCodec

    if config.kind == "fp32":
        return PlainCodec(config.feedback_decay)
    if config.kind == "topk":
        return SparseCodec(config.density, config.feedback_decay)
    return UniformCodec(8 if config.kind == "int8" else 4, config.feedback_decay)
