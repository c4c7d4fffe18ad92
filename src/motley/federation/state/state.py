"""The state that all parties share: parameters in fp32 and the outer momentum, bit for bit the same
everywhere. The one place where codec, defences and outer step meet the log.

    state = GlobalState.unpack(charter.terms, data)
    state.apply(sealed, member.accepted_payloads(sealed))
    state.digest()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from motley.errors import PayloadError
from motley.federation.charter.terms import Terms
from motley.federation.codec import build_codec
from motley.federation.codec.codec import Codec
from motley.federation.codec.payload import Payload
from motley.federation.log.chain import Accepted, SealedRound
from motley.federation.state.defences import judge
from motley.federation.state.fragments import partition
from motley.federation.state.gate import LossOf, measure_rises
from motley.federation.state.merge import merge
from motley.federation.state.outer import has_momentum
from motley.federation.state.reviewing import Candidate
from motley.federation.state.tensors import combined_digest, pack, tensor_digest, unpack

PARAMETER, MOMENTUM = "parameter/", "momentum/"


class GlobalState:
    """Parameters by name, and a momentum for each where the outer optimizer has one."""

    def __init__(
        self,
        terms: Terms,
        parameters: Mapping[str, Tensor],
        momentum: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Takes the tensors over: contiguous, fp32, on the CPU. No momentum is a momentum of 0."""
        self.terms = terms
        self.codec: Codec = build_codec(terms.codec)
        self.parameters = dict(sorted(parameters.items()))
        self.momentum: dict[str, Tensor] = {}
        if has_momentum(terms.outer):
            given = momentum or {}
            self.momentum = {
                name: given[name] if name in given else torch.zeros_like(tensor)
                for name, tensor in self.parameters.items()
            }
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.parameters.items()}
        self._fragments = partition(self.shapes, terms.round.fragments)
        self._digests: dict[str, str] = {}
        self._earlier: dict[int, list[Payload]] = {}
        """Fragment to the payloads that counted in its last round."""

    # As bytes and as a digest

    def _tensors(self) -> dict[str, Tensor]:
        named = {PARAMETER + name: tensor for name, tensor in self.parameters.items()}
        return named | {MOMENTUM + name: tensor for name, tensor in self.momentum.items()}

    def digest(self) -> str:
        """Of all tensors; only those that changed are read again."""
        for name, tensor in self._tensors().items():
            if name not in self._digests:
                self._digests[name] = tensor_digest(tensor)
        return combined_digest(self._digests)

    def pack(self) -> bytes:
        """All that `unpack` needs."""
        return pack(self._tensors())

    @classmethod
    def unpack(cls, terms: Terms, data: bytes) -> GlobalState:
        """The state in a snapshot; `PayloadError` if it is none. Compare the digest."""
        tensors = unpack(data)
        if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
            raise PayloadError("a state has numbers other than fp32.", reason="malformed")
        parameters = _with_prefix(tensors, PARAMETER)
        momentum = _with_prefix(tensors, MOMENTUM)
        if len(parameters) + len(momentum) != len(tensors) or not momentum.keys() <= set(
            parameters
        ):
            raise PayloadError("a state has tensors of unknown names.", reason="malformed")
        return cls(terms, parameters, momentum)

    # Rounds

    def names(self, round_: int) -> tuple[str, ...]:
        """The parameters that a round concerns."""
        return self._fragments[round_ % len(self._fragments)]

    def shapes_of(self, round_: int) -> dict[str, tuple[int, ...]]:
        return {name: self.shapes[name] for name in self.names(round_)}

    def apply(self, sealed: SealedRound, payloads: Sequence[tuple[Accepted, bytes]]) -> list[float]:
        """The outer step of a sealed round, in place; the updates' norms.

        A payload that reviewers accepted though the codec cannot have written it counts nothing, at
        every party alike.
        """
        names = self.names(sealed.round)
        readable = self._readable(sealed.round, payloads)
        norms = merge(
            self.parameters,
            self.momentum,
            readable,
            names=names,
            codec=self.codec,
            outer=self.terms.outer,
            aggregate=self.terms.aggregate,
        )
        for name in names:
            self._digests.pop(PARAMETER + name, None)
            self._digests.pop(MOMENTUM + name, None)
        fragment = sealed.round % len(self._fragments)
        self._earlier[fragment] = [payload for _, payload in readable]
        return norms

    def _readable(
        self, round_: int, payloads: Sequence[tuple[Accepted, bytes]]
    ) -> list[tuple[int, Payload]]:
        shapes = self.shapes_of(round_)
        found = []
        for accepted, data in payloads:
            try:
                payload = unpack(data)
                self.codec.squared_norm(payload, shapes)
            except PayloadError:
                continue
            found.append((accepted.weight, payload))
        return found

    def judge(
        self,
        round_: int,
        candidates: Sequence[Candidate],
        loss_of: LossOf | None = None,
        *,
        knows_earlier: bool = True,
    ) -> list[str]:
        """A reason for each candidate, "" to accept; with `loss_of` the loss gate is asked too.

        Without it the answer is a function of the candidates in their order and of the payloads of
        the rounds before, as far as this state has taken them in; not `knows_earlier` leaves those
        out.
        """
        shapes = self.shapes_of(round_)
        reasons = [""] * len(candidates)
        payloads: dict[int, Payload] = {}
        for index, candidate in enumerate(candidates):
            try:
                payloads[index] = unpack(candidate.payload)
            except PayloadError as refused:
                reasons[index] = refused.reason

        def gate(payloads: Sequence[Payload]) -> list[float]:
            assert loss_of is not None
            return measure_rises(
                self.parameters,
                payloads,
                codec=self.codec,
                shapes=shapes,
                loss_of=loss_of,
                rate=self.terms.outer.learning_rate,
            )

        review = judge(
            list(payloads.values()),
            codec=self.codec,
            shapes=shapes,
            aggregate=self.terms.aggregate,
            defences=self.terms.defences,
            tokens=[candidates[index].update.tokens for index in payloads],
            earlier=self._earlier.get(round_ % len(self._fragments), ()) if knows_earlier else (),
            gate=gate if loss_of is not None else None,
        )
        for index, reason in zip(payloads, review.reasons, strict=True):
            reasons[index] = reason
        return reasons


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
