"""A party's correspondence: publishes its work, helps to seal rounds, takes in what was sealed.

It runs in a thread beside the training (`start`), or turn by turn where many parties share a
process (`open`, `turn`). A store that cannot be reached is tried again until it can; whatever was
on its way goes on where it was. What cannot pass (a lost session, a diverged state) ends it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from motley.errors import StateDivergedError, StoreUnreachableError
from motley.federation.chain import SealedRound
from motley.federation.fragments import mix_in
from motley.federation.messages import Update
from motley.federation.pace import local_steps
from motley.federation.privacy import epsilon, privatize
from motley.federation.rounds import Member, Work
from motley.federation.snapshots import join_state, save_snapshot, wants_snapshot
from motley.federation.state import GlobalState
from motley.federation.tensors import pack
from motley.federation.trained import News, Trained

SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""Between two looks at the log: longer the longer nothing happens there."""
PAUSE_SHARE = 0.02
"""Of the grace time: no pause is longer."""
URGENT_SHARE = 0.4
"""Of the grace time, since the quorum was there: then a slower party sends what it has."""

MOST_RESTARTS = 3
"""A machine on which the state diverges more often is faulty."""

Record = Callable[..., None]
"""Takes the name of an event and its fields."""


@dataclass(frozen=True, kw_only=True)
class _Parcel:
    """An update as it is sent, however often that has to be tried."""

    round: int
    base: str
    payload: bytes
    work: Work


class Correspondence:
    """One party's; the state and all that goes to the store belong to its thread."""

    def __init__(
        self,
        member: Member,
        *,
        chips: Mapping[str, int],
        record: Record = lambda event, **fields: None,
        cache: Path | None = None,
        score: Callable[[Mapping[str, Tensor]], float] | None = None,
    ) -> None:
        self._member = member
        self._terms = member.chain.charter.terms
        self._chips = dict(chips)
        self._record = record
        self._score = score
        self._cache = cache
        self._state: GlobalState | None = None
        self._round = 0
        """The round that the state is before."""
        self._residual: dict[str, Tensor] = {}
        self._outbox: deque[Trained] = deque()
        self._parcel: _Parcel | None = None
        self._published: dict[int, Mapping[str, Tensor]] = {}
        """By round: what was local when this process published."""
        self._num_published = 0
        self._last: SealedRound | None = None
        self._open_round = -1
        self._owes_snapshot = False
        self._restarts_left = MOST_RESTARTS
        self._pauses: dict[int, float] = {}
        self._sealed_at = time.monotonic()
        self._quorum_since: float | None = None
        self._changed = threading.Condition()
        self._news: News | None = None
        self._failure: BaseException | None = None

    # For the training's thread

    def start(self) -> None:
        """Begins to catch up; `news` has the whole state when that is done."""
        threading.Thread(target=self._run, name="correspondence", daemon=True).start()

    def submit(self, trained: Trained) -> bool:
        """Takes work to publish; False if its round was taken in meanwhile, so that the work must
        be for the next one."""
        with self._changed:
            if trained.round != self._open_round:
                return False
            self._outbox.append(trained)
            self._changed.notify_all()
            return True

    def news(self, wait_s: float = 0.0) -> News | None:
        """What has come since the last call; raises what ended the correspondence."""
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._failure, wait_s)
            if self._failure is not None:
                raise self._failure
            news, self._news = self._news, None
            return news

    def is_flushed(self) -> bool:
        """Whether nothing is left to send."""
        with self._changed:
            return not self._outbox and not self._owes_snapshot

    def takes_work(self, round_: int) -> bool:
        """Whether the round is open and this party has no update for it, from any process."""
        return self._open_round == round_ and self._member.own_update() is None

    def is_urgent(self, round_: int) -> bool:
        """Whether the quorum of the round has been there for so long that work must be sent now."""
        since = self._quorum_since
        grace_s = self._terms.round.grace_s
        return (
            self._open_round == round_
            and since is not None
            and time.monotonic() - since > URGENT_SHARE * grace_s
        )

    def steps_for(self, round_: int, steps_per_s: float | None) -> int:
        """The local steps to take for a round, by the manifests of the round before."""
        before = [each.update for each in self._last.accepted] if self._last else []
        return local_steps(self._terms.round, steps_per_s, before)

    def final_state(self) -> Mapping[str, Tensor]:
        """All parameters after the rounds so far."""
        return self.state.parameters

    def record_pause(self, round_: int, paused_s: float) -> None:
        """So long did the training for a round stand still."""
        self._pauses[round_] = paused_s

    # The correspondence itself

    @property
    def state(self) -> GlobalState:
        """The state before the next round; there once the federation was caught up with."""
        assert self._state is not None
        return self._state

    @property
    def last_sealed(self) -> SealedRound | None:
        """The newest round that was taken in."""
        return self._last

    def open(self) -> None:
        """Says that this process acts for the party, and fetches the state."""
        self._member.begin_session()
        self._state = join_state(self._member, self._cache)
        self._round = self._member.next_round
        self._member.look()
        self._last = self._member.chain.sealed[-1] if self._member.chain.sealed else None
        decided = [
            each.update
            for sealed in self._member.chain.sealed
            for verdicts in (sealed.accepted, sealed.rejected)
            for each in verdicts
        ]
        self._num_published = sum(update.party == self._member.party for update in decided)
        whole = {name: value.clone() for name, value in self._state.parameters.items()}
        self._open_round = self._round
        self._tell(News(round=self._round, keep=0.0, change=whole))

    def turn(self) -> bool:
        """Does what can be done now; whether a round was taken in or work published."""
        published = self._publish()
        if self._owes_snapshot:
            self._save_snapshot()
        sealed = self._member.advance(self.state.digest(), self._judge, round_=self._round)
        if self._quorum_since is None and self._member.has_quorum:
            self._quorum_since = time.monotonic()
        if sealed is None or not self._close_round():
            return published
        self._take_in(sealed)
        return True

    def _close_round(self) -> bool:
        """No more work for the sealed round; False if some waits, which is sent first."""
        with self._changed:
            if self._outbox:
                return False
            self._open_round = self._round + 1
            self._quorum_since = None
            return True

    def _judge(self, round_: int, candidates: Any) -> list[str]:
        return self.state.judge(round_, candidates, self._loss_of if self._score else None)

    def _loss_of(self, replaced: Mapping[str, Tensor]) -> float:
        """This party's held-out loss with some parameters of the state replaced."""
        assert self._score is not None
        return self._score({**self.state.parameters, **replaced})

    def _publish(self) -> bool:
        """Sends the work that waits. It is encoded once, then sent until it is there."""
        if self._parcel is None:
            with self._changed:
                if not self._outbox:
                    return False
                trained = self._outbox[0]
            self._parcel = self._pack(trained)
        parcel = self._parcel
        published = self._member.publish(
            parcel.payload, parcel.work, base=parcel.base, round_=parcel.round
        )
        with self._changed:
            self._outbox.popleft()
            self._parcel = None
        self._num_published += 1
        self._record(
            "federation_update",
            round=parcel.round,
            bytes=len(parcel.payload),
            tokens=parcel.work.tokens,
            steps=parcel.work.steps,
            is_new=published.is_new,
            seconds=parcel.work.seconds,
            paused_s=self._pauses.pop(parcel.round, 0.0),
        )
        return True

    def _pack(self, trained: Trained) -> _Parcel:
        """The state has not moved on since the work was done: it is published before that."""
        state = self.state
        assert trained.round == self._round
        names = state.names(trained.round)
        delta = {name: trained.local[name] - state.parameters[name] for name in names}
        privacy = self._terms.privacy
        if privacy is not None:
            delta = privatize(delta, privacy)
        payload, residual = state.codec.encode(delta, self._residual)
        self._residual |= residual
        self._published = {trained.round: {name: trained.local[name] for name in names}}
        work = Work(
            tokens=trained.tokens,
            steps=trained.steps,
            seconds=trained.seconds,
            loss=trained.loss,
            chips=self._chips,
            epsilon=epsilon(privacy, self._num_published + 1) if privacy else None,
        )
        return _Parcel(round=trained.round, base=state.digest(), payload=pack(payload), work=work)

    def _take_in(self, sealed: SealedRound) -> None:
        """Applies a sealed round, and says what it changes for the training."""
        state, round_ = self.state, sealed.round
        names = state.names(round_)
        before = self._published.pop(round_, None)
        if before is None:
            before = {name: state.parameters[name].clone() for name in names}
        began = time.monotonic()
        payloads = self._member.accepted_payloads(sealed)
        state.apply(sealed, payloads)
        self._round += 1
        merged = {name: state.parameters[name] for name in names}
        change = {name: value.clone() for name, value in before.items()}
        mix_in(change, before, merged, self._terms.round.mixing)
        for name, value in before.items():
            change[name] -= value
        self._last = sealed
        self._tell(News(round=round_ + 1, keep=1.0, change=change))
        self._record_round(sealed, time.monotonic() - began)
        if self._round == self._member.next_round and wants_snapshot(self._member):
            self._owes_snapshot = True
            self._save_snapshot()

    def _save_snapshot(self) -> None:
        save_snapshot(self._member, self.state)
        self._owes_snapshot = False

    def _record_round(self, sealed: SealedRound, apply_s: float) -> None:
        now = time.monotonic()
        traffic = self._member.store.traffic
        self._record(
            "federation_round",
            round=sealed.round,
            sealed_by=sealed.party,
            accepted=[_row(each.update, weight=each.weight) for each in sealed.accepted],
            rejected=[_row(each.update, reason=each.reason) for each in sealed.rejected],
            digest=self.state.digest(),
            round_s=now - self._sealed_at,
            apply_s=apply_s,
            sent_bytes=traffic.sent_bytes,
            received_bytes=traffic.received_bytes,
        )
        self._sealed_at = now

    def _tell(self, news: News) -> None:
        with self._changed:
            self._news = news.after(self._news)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._until_reached(self.open)
            pause_s = SHORTEST_PAUSE_S
            longest_s = min(LONGEST_PAUSE_S, PAUSE_SHARE * self._terms.round.grace_s)
            longest_s = max(longest_s, SHORTEST_PAUSE_S)
            while True:
                happened = self._until_reached(self.turn)
                pause_s = SHORTEST_PAUSE_S if happened else min(1.5 * pause_s, longest_s)
                with self._changed:
                    self._changed.wait_for(lambda: self._outbox, pause_s)
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _until_reached(self, call: Callable[[], Any]) -> Any:
        """`call`, again and again while the store cannot be reached; says so once."""
        pause_s = SHORTEST_PAUSE_S
        while True:
            try:
                return self._or_anew(call)
            except StoreUnreachableError as failure:
                if pause_s == SHORTEST_PAUSE_S:
                    self._record("message", text=f"{failure.message} Training goes on.")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _or_anew(self, call: Callable[[], Any]) -> Any:
        """`call`; a party whose state has diverged takes that of the others, a few times."""
        try:
            return call()
        except StateDivergedError as diverged:
            if self._restarts_left == 0:
                raise
            self._restarts_left -= 1
            self._record("message", text=f"{diverged.message} Starting again from the log.")
            with self._changed:
                self._outbox.clear()
                self._parcel = None
            self._residual.clear()
            self._published.clear()
            return self.open()


def _row(update: Update, **verdict: Any) -> dict[str, Any]:
    """A line of the report: what the party's manifest says, and what became of it."""
    return {
        "party": update.party,
        "round": update.round,
        "tokens": update.tokens,
        "steps": update.steps,
        "seconds": update.seconds,
        "loss": update.loss,
        "bytes": update.payload.stored_bytes,
        **verdict,
    }
