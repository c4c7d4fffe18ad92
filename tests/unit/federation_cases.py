"""Small federations for tests: real keys, signatures, codecs, stores; a model of a few values."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from motley.federation.charter.charter import MemberKey, SharedRecipe
from motley.federation.charter.terms import RoundTerms, Terms
from motley.federation.codec import CodecConfig
from motley.federation.founding import found
from motley.federation.keys.identity import Identity
from motley.federation.log.chain import SealedRound
from motley.federation.party.rounds import Member, Published, Work
from motley.federation.party.snapshots import join_state
from motley.federation.state.reviewing import Candidate
from motley.federation.state.state import GlobalState
from motley.federation.state.tensors import pack
from motley.federation.storage.store import Entry, Store, Traffic, memory_store
from motley.model.config import ModelConfig
from motley.recipe import OptimizerConfig, ScheduleConfig

SHAPES = {"bias": (40,), "weight": (16, 8)}
TOKENIZER = ("5" * 64, b'{"vocabulary": "of a test"}')


def identity(name: str) -> Identity:
    """The same key for a name in every test, so that draws by digests are the same."""
    seed = hashlib.sha256(name.encode()).digest()
    return Identity(name, Ed25519PrivateKey.from_private_bytes(seed))


class Forwarding:
    """A store that does what another does; tests change single calls."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def traffic(self) -> Traffic:
        return self.store.traffic

    def put_new(self, key: str, data: bytes) -> bool:
        return self.store.put_new(key, data)

    def get(self, key: str, max_bytes: int) -> bytes | None:
        return self.store.get(key, max_bytes)

    def size(self, key: str) -> int | None:
        return self.store.size(key)

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        return self.store.list(prefix, after)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


def recipe() -> SharedRecipe:
    return SharedRecipe(
        model=ModelConfig(layers=1, width=8, heads=1, context=8, vocab_size=16),
        sequence_length=8,
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
    )


def terms(**round_terms: object) -> Terms:
    usual = {"quorum": 2, "reviews": 2, "grace_s": 10.0, "snapshot_every": 3, "local_steps": 10}
    return Terms(
        name="test",
        round=RoundTerms(**{**usual, **round_terms}),  # type: ignore[arg-type]
        codec=CodecConfig(kind="int8"),
    )


def base_state(chosen: Terms) -> GlobalState:
    random = torch.Generator().manual_seed(0)
    return GlobalState(
        chosen, {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
    )


class Party:
    """A member with its state and a pretended training: a change that has much in common with those
    of the other parties."""

    def __init__(self, store: Store, identity: Identity, clock: Clock) -> None:
        self.said: list[str] = []
        self.member = Member(store, identity, clock=clock, report=self.said.append)
        self.member.begin_session()
        self.state = join_state(self.member)
        self.round = self.member.next_round
        """The round that the state is before."""
        self.residual: dict[str, torch.Tensor] = {}

    @property
    def name(self) -> str:
        return self.member.party

    def payload(self, round_: int | None = None, scale: float = 0.1) -> bytes:
        round_ = self.round if round_ is None else round_
        common = torch.Generator().manual_seed(7)
        own = torch.Generator().manual_seed(sum(self.name.encode()) * 1000 + round_)
        delta = {}
        for name in self.state.names(round_):
            shape = self.state.shapes[name]
            delta[name] = 1.5 * torch.randn(shape, generator=common) + torch.randn(
                shape, generator=own
            )
            delta[name] *= scale
        payload, residual = self.state.codec.encode(delta, self.residual)
        self.residual.update(residual)
        return pack(payload)

    def publish(
        self, tokens: int = 100, payload: bytes | None = None, epsilon: float | None = None
    ) -> Published:
        chips = {"cpu": 2}
        work = Work(tokens=tokens, steps=10, seconds=1.5, loss=2.0, chips=chips, epsilon=epsilon)
        return self.member.publish(
            self.payload() if payload is None else payload,
            work,
            base=self.state.digest(),
            round_=self.round,
        )

    def judge(self, round_: int, candidates: Sequence[Candidate]) -> list[str]:
        return self.state.judge(round_, candidates)

    def advance(self) -> SealedRound | None:
        """Also takes the sealed round into the state."""
        sealed = self.member.advance(self.state.digest(), self.judge, round_=self.round)
        if sealed is not None:
            self.state.apply(sealed, self.member.accepted_payloads(sealed))
            self.round += 1
        return sealed


@dataclasses.dataclass
class Federation:
    store: Store
    founder: Identity
    identities: dict[str, Identity]
    clock: Clock
    parties: dict[str, Party]
    digest: str

    def party(self, name: str) -> Party:
        """A new process of a party."""
        made = Party(self.store, self.identities[name], self.clock)
        self.parties[name] = made
        return made

    def run_round(self, *names: str, publish: bool = True) -> list[SealedRound]:
        """One round of the named parties (all, if none is named)."""
        active = [self.parties[name] for name in names or self.parties]
        for party in active if publish else ():
            party.publish()
        return finish_round(active, self.clock)


def finish_round(
    parties: Sequence[Party], clock: Clock, most_looks: int = 60, look_s: float = 0.5
) -> list[SealedRound]:
    """Lets the parties look by turns until each has taken in the round."""
    waiting = list(parties)
    sealed = []
    for _ in range(most_looks):
        for party in list(waiting):
            if (done := party.advance()) is not None:
                sealed.append(done)
                waiting.remove(party)
        if not waiting:
            return sealed
        clock.wait(look_s)
    raise AssertionError(f"{[party.name for party in waiting]} wait still")


def federation(
    *names: str,
    store: Store | None = None,
    chosen: Terms | None = None,
    encrypted: bool = False,
) -> Federation:
    """Founded by "founder", with the named members, all of them there."""
    store = store or memory_store()
    founder = identity("founder")
    identities = {name: identity(name) for name in names}
    members = [MemberKey(name=name, public_key=key.public_key) for name, key in identities.items()]
    chosen = dataclasses.replace(chosen or terms(), encrypted=encrypted)
    _, digest = found(store, base_state(chosen), recipe(), TOKENIZER, founder, members)
    made = Federation(store, founder, identities, Clock(), {}, digest)
    for name in names:
        made.party(name)
    return made
