"""A party's correspondence: publishes its work, helps to seal rounds, takes in what was sealed.

It runs in a thread beside the training (`start`), or turn by turn where many parties share a
process (`open`, `turn`). A store that cannot be reached is tried again until it can; whatever was
on its way goes on where it was. What cannot pass (a lost session, a diverged state) ends it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from motley.errors import StateDivergedError, StoreUnreachableError
from motley.federation.log.chain import SealedRound
from motley.federation.log.downloads import prune
from motley.federation.log.records import round_fields
from motley.federation.party.keeping import SnapshotKeeper
from motley.federation.party.outgoing import Outgoing, Parcel
from motley.federation.party.pace import local_steps
from motley.federation.party.rounds import Member
from motley.federation.party.snapshots import join_state
from motley.federation.party.trained import News, Trained
from motley.federation.state.fragments import mix_in
from motley.federation.state.state import GlobalState

SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""Between two looks at the log: longer the longer nothing happens there."""
PAUSE_SHARE = 0.02
"""Of the grace time: no pause is longer."""
URGENT_SHARE = 0.4
"""Of the grace time, since the quorum was there: then a slower party sends what it has."""

MOST_RESTARTS = 3
"""A machine on which the state diverges more often is faulty."""

PATIENCE_S = 20.0
"""A round that lacks updates for so long is told of."""
MOST_NAMES = 8
"""In such a message."""

Record = Callable[..., None]
"""Takes the name of an event and its fields."""


class Correspondence:
    """One party's; the state and all that goes to the store belong to its thread."""

    def __init__(
        self,
        member: Member,
        *,
        chips: Mapping[str, int],
        record: Record = lambda event, **fields: None,
        cache: Path | None = None,
        residuals: Path | None = None,
        score: Callable[[Mapping[str, Tensor]], float] | None = None,
    ) -> None:
        """`cache` is a folder for downloads, `residuals` one for the error that is fed back."""
        self._member = member
        self._terms = member.chain.charter.terms
        self._record = record
        self._score = score
        self._cache = cache
        self._state: GlobalState | None = None
        self._round = 0
        """The round that the state is before."""
        self._outgoing = Outgoing(
            member, chips, residuals, lambda text: record("message", text=text)
        )
        self._snapshots = SnapshotKeeper(member)
        self._outbox: deque[Trained] = deque()
        self._parcel: Parcel | None = None
        self._last: SealedRound | None = None
        self._open_round = -1
        self._restarts_left = MOST_RESTARTS
        self._pauses: dict[int, float] = {}
        self._sealed_at = time.monotonic()
        self._quorum_since: float | None = None
        self._alone_since: float | None = None
        """When this party had given what it could and the quorum was not there; infinite once that
        was told."""
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
            return not self._outbox and not self._snapshots.is_busy

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
        self._prune()
        look = self._member.look()
        self._last = self._member.chain.sealed[-1] if self._member.chain.sealed else None
        self._outgoing.open(self._state.digest(), look.membership)
        whole = self._outgoing.start(self._state)
        self._open_round = self._round
        self._tell(News(round=self._round, keep=0.0, change=whole))

    def turn(self) -> bool:
        """Does what can be done now; whether a round was taken in or work published."""
        published = self._publish()
        self._snapshots.go_on()
        sealed = self._member.advance(self.state.digest(), self._judge, round_=self._round)
        if self._quorum_since is None and self._member.has_quorum:
            self._quorum_since = time.monotonic()
        if sealed is None:
            self._tell_of_a_lack()
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
            self._quorum_since = self._alone_since = None
            return True

    def _tell_of_a_lack(self) -> None:
        """Once for a round: who is waited for, when the quorum is long in coming."""
        if self._member.has_quorum or self._member.own_update() is None:
            return
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since < PATIENCE_S:
            return
        self._alone_since = math.inf
        number, missing = self._member.lacking()
        names = ", ".join(missing[:MOST_NAMES]) + (" ..." if len(missing) > MOST_NAMES else "")
        self._record(
            "message",
            text=f"Round {self._round} waits for {number} more "
            f"{'update' if number == 1 else 'updates'}; none yet from: {names}.",
        )

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
            assert trained.round == self._round, "work is published before the state moves on"
            self._parcel = self._outgoing.pack(self.state, trained)
        parcel = self._parcel
        published = self._outgoing.send(parcel)
        with self._changed:
            self._outbox.popleft()
            self._parcel = None
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

    def _take_in(self, sealed: SealedRound) -> None:
        """Applies a sealed round, and says what it changes for the training."""
        state, round_ = self.state, sealed.round
        names = state.names(round_)
        before = self._outgoing.local_of(round_, state)
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
        if self._round == self._member.next_round:
            self._snapshots.begin(state)
        self._prune()

    def _prune(self) -> None:
        """Of the downloads, what is not needed any more."""
        if self._cache is not None:
            prune(self._member.view, self._cache, self._round)

    def _record_round(self, sealed: SealedRound, apply_s: float) -> None:
        now = time.monotonic()
        traffic = self._member.store.traffic
        self._record(
            "federation_round",
            **round_fields(sealed),
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
            pause_s = 0.0
            while True:
                happened = self._until_reached(self.turn)
                pause_s = self._pause_s(pause_s, happened=happened)
                with self._changed:
                    self._changed.wait_for(lambda: self._outbox, pause_s)
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _pause_s(self, before_s: float, *, happened: bool) -> float:
        """Until the next look: none for a party that is behind, little while only reviews and a
        seal are waited for, else longer the longer nothing happens."""
        if happened:
            return 0.0 if self._round < self._member.next_round else SHORTEST_PAUSE_S
        if self._member.is_closed:
            return SHORTEST_PAUSE_S
        longest_s = min(LONGEST_PAUSE_S, PAUSE_SHARE * self._terms.round.grace_s)
        return max(SHORTEST_PAUSE_S, min(1.5 * before_s, longest_s))

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
            return self.open()
