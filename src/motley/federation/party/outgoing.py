"""What a party sends: its work as encoded updates, with the error that is fed back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from motley.errors import StorageError
from motley.federation.charter.membership import Membership
from motley.federation.charter.messages import Update
from motley.federation.party.privacy import epsilon, privatize
from motley.federation.party.residuals import Residuals
from motley.federation.party.rounds import Member, Published, Work
from motley.federation.party.trained import Trained
from motley.federation.state.state import GlobalState
from motley.federation.state.tensors import pack
from motley.federation.storage.reference import Bulk


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """An update as it is sent, however often that has to be tried."""

    round: int
    base: str
    payload: bytes
    work: Work
    local: Mapping[str, Tensor]
    """The party's own parameters that it was made from."""
    residual: Mapping[str, Tensor]
    """What is fed back once it stands in the log."""


class Outgoing:
    """One party's updates."""

    def __init__(
        self,
        member: Member,
        chips: Mapping[str, int],
        folder: Path | None,
        report: Callable[[str], None],
    ) -> None:
        """`folder` keeps the error that is fed back; without one a restart begins with none."""
        self._member = member
        self._terms = member.chain.charter.terms
        self._chips = dict(chips)
        is_exact = self._terms.codec.kind == "fp32" or self._terms.codec.feedback_decay == 0
        self._kept = Residuals(folder) if folder and not is_exact else None
        self._report = report
        self._residual: dict[str, Tensor] = {}
        self._published: set[int] = set()
        """Rounds with an update of this party; those that no seal decides only where privacy is
        counted."""
        self._local: dict[int, Mapping[str, Tensor]] = {}
        """By round: what was local when this process published."""

    def open(self, base: str, membership: Membership) -> None:
        """Takes up what an earlier process of this party has left, as the log confirms it; nothing
        else stays. `base` is the digest of the state before the open round."""
        view, chain, party = self._member.view, self._member.chain, self._member.party
        own = {update.round: update for update in self._decided_updates()}
        if self._terms.privacy is not None:
            own |= view.updates_of(party, membership, besides=own)
        self._published = set(own)
        self._local.clear()
        self._residual.clear()

        def payload_of(round_: int) -> Bulk | None:
            """What was computed from another state than the federation's counts for nothing."""
            update = own.get(round_)
            if update is None:
                late = view.updates(round_, membership).get(party)
                update = late.update if late else None
            right = chain.base_of(round_) or base
            return update.payload if update is not None and update.base == right else None

        if self._kept is not None:
            self._residual = self._kept.load(self._terms.round.fragments, payload_of)

    def _decided_updates(self) -> Iterator[Update]:
        for sealed in self._member.chain.sealed:
            yield from (each for each in sealed.updates() if each.party == self._member.party)

    def pack(self, state: GlobalState, trained: Trained) -> Parcel:
        """Work as an update of the state before its round."""
        names = state.names(trained.round)
        local = {name: trained.local[name] for name in names}
        delta = {name: value - state.parameters[name] for name, value in local.items()}
        privacy = self._terms.privacy
        if privacy is not None:
            delta = privatize(delta, privacy)
        is_kept = self._terms.codec.feedback == "kept"
        payload, residual = state.codec.encode(delta, None if is_kept else self._residual)
        work = Work(
            tokens=trained.tokens,
            steps=trained.steps,
            seconds=trained.seconds,
            loss=None if privacy else trained.loss,
            chips=self._chips,
            epsilon=epsilon(privacy, len(self._published | {trained.round})) if privacy else None,
        )
        return Parcel(
            round=trained.round,
            base=state.digest(),
            payload=pack(payload),
            work=work,
            local=local,
            residual=residual,
        )

    def send(self, parcel: Parcel) -> Published:
        """Publishes; may be repeated after any error. What an earlier process of this party has
        published for the round stays, and the error that it left too."""

        def keep(bulk: Bulk) -> None:
            if self._kept is None:
                return
            fragment = parcel.round % self._terms.round.fragments
            try:
                self._kept.save(fragment, parcel.round, bulk, parcel.residual)
            except StorageError as full:
                self._report(f"{full.message} {full.remedy or ''}".strip())

        published = self._member.publish(
            parcel.payload, parcel.work, base=parcel.base, round_=parcel.round, announcing=keep
        )
        if published.is_new:
            self._residual |= parcel.residual
        self._local = {parcel.round: parcel.local}
        self._published.add(parcel.round)
        return published

    def local_of(self, round_: int, state: GlobalState) -> Mapping[str, Tensor]:
        """What the shared state takes the place of: the party's parameters when it published for a
        round, without what it keeps of them; if it did not publish, the state's own."""
        local = self._local.pop(round_, None)
        if local is None:
            return {name: state.parameters[name].clone() for name in state.names(round_)}
        kept = self._kept_of(local)
        return {name: value - kept[name] for name, value in local.items()} if kept else local

    def start(self, state: GlobalState) -> dict[str, Tensor]:
        """The parameters with which the party begins to train from a state."""
        whole = {name: value.clone() for name, value in state.parameters.items()}
        for name, value in self._kept_of(whole).items():
            whole[name] += value
        return whole

    def _kept_of(self, names: Iterable[str]) -> dict[str, Tensor]:
        """What an update has left out and the party keeps in its own parameters."""
        codec = self._terms.codec
        if codec.feedback != "kept":
            return {}
        return {
            name: self._residual[name] * codec.feedback_decay
            for name in names
            if name in self._residual
        }
