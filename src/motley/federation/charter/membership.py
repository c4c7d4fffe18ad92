"""Who belongs to a federation, as the charter and the amendments in force say. Values never change:
an amendment or a strike gives a new `Membership`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from motley.errors import VoidObjectError
from motley.federation.charter.charter import Charter
from motley.federation.charter.messages import Amendment
from motley.federation.keys.handout import Handout
from motley.federation.keys.objects import Signed


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One party that was ever admitted."""

    public_key: str
    is_removed: bool = False
    strikes: int = 0
    """Since it was admitted or readmitted, less those that have lapsed."""
    accepted: int = 0
    """Updates in a row since the last strike, or since one has lapsed."""


@dataclass(frozen=True, kw_only=True)
class Membership:
    """The parties by name, in the order of their names."""

    standings: Mapping[str, Standing]
    founder: str
    founder_key: str
    admission: Literal["founder", "member"]
    most_strikes: int
    lapse: int
    """Accepted updates in a row for which one strike is taken back."""
    amendments: int = 0
    """Amendments in force."""
    head: str
    """Digest of the last of them, or of the charter."""
    handouts: tuple[Handout, ...] = ()
    """Of the group key, in their order; none where payloads are not encrypted."""

    @classmethod
    def of(cls, charter: Charter, federation: str) -> Membership:
        """The members that the charter names."""
        members = sorted(charter.members, key=lambda member: member.name)
        return cls(
            standings={each.name: Standing(public_key=each.public_key) for each in members},
            founder=charter.founder.name,
            founder_key=charter.founder.public_key,
            admission=charter.terms.admission,
            most_strikes=charter.terms.defences.strikes,
            lapse=charter.terms.defences.lapse,
            head=federation,
            handouts=(charter.handout,) if charter.handout else (),
        )

    @property
    def epoch(self) -> int | None:
        """Of the group key in force; None where payloads are not encrypted."""
        return self.handouts[-1].epoch if self.handouts else None

    def key_holders(self, without: str | None = None) -> dict[str, str]:
        """Who is given a group key, with the public key that it is sealed for: all who were not
        removed, and the founder, who may amend in any case."""
        holders = {
            name: each.public_key
            for name, each in self.standings.items()
            if not each.is_removed and name != without
        }
        return {**holders, self.founder: self.founder_key}

    def key_of(self, name: str) -> str | None:
        """The key of a party that was ever admitted."""
        standing = self.standings.get(name)
        return standing.public_key if standing else None

    def amender_key(self, name: str) -> str | None:
        """The key of a party that may amend."""
        if name == self.founder:
            return self.founder_key
        standing = self.standings.get(name)
        if self.admission != "member" or standing is None or standing.is_removed:
            return None
        return standing.public_key

    def is_suspended(self, name: str) -> bool:
        return self.standings[name].strikes >= self.most_strikes

    def is_active(self, name: str) -> bool:
        """Whether the party's objects count now."""
        standing = self.standings.get(name)
        return standing is not None and not standing.is_removed and not self.is_suspended(name)

    def active(self) -> list[str]:
        """The names of the active members, sorted."""
        return [name for name in self.standings if self.is_active(name)]

    def amended(self, signed: Signed, amendment: Amendment) -> Membership:
        """The membership after an amendment; `VoidObjectError` if it is not the next one."""
        if (amendment.number, amendment.previous) != (self.amendments, self.head):
            raise VoidObjectError("does not continue the amendments")
        if self.amender_key(amendment.party) is None:
            raise VoidObjectError(f"'{amendment.party}' may not amend")
        standings = dict(self.standings)
        if amendment.name is not None:
            standings[amendment.name] = self._changed(amendment, amendment.name)
        after = dataclasses.replace(
            self,
            standings=dict(sorted(standings.items())),
            amendments=self.amendments + 1,
            head=signed.digest,
        )
        return dataclasses.replace(after, handouts=after._handed_out(amendment))

    def _handed_out(self, amendment: Amendment) -> tuple[Handout, ...]:
        """The handouts with that of an amendment whose standings are in force here."""
        handout = amendment.handout
        if not self.handouts:
            if handout is not None or amendment.action == "rotate":
                raise VoidObjectError("hands out a group key where nothing is encrypted")
            return ()
        if handout is None:
            raise VoidObjectError("hands out no group key")
        newest = self.handouts[-1]
        if amendment.action in ("admit", "readmit"):
            is_right = (
                handout.sealed.keys() == {amendment.name}
                and (handout.epoch, handout.check) == (newest.epoch, newest.check)
                and handout.previous is None
            )
        else:
            is_right = (
                handout.sealed.keys() == self.key_holders().keys()
                and handout.epoch == newest.epoch + 1
                and handout.check not in {each.check for each in self.handouts}
                and handout.previous is not None
            )
        if not is_right:
            raise VoidObjectError("does not hand out the group key to whom it is due")
        return (*self.handouts, handout)

    def _changed(self, amendment: Amendment, name: str) -> Standing:
        standing = self.standings.get(name)
        if amendment.public_key is not None:
            keys = {each.public_key for each in self.standings.values()}
            is_founders = amendment.public_key == self.founder_key
            if standing is not None or amendment.public_key in keys:
                raise VoidObjectError("admits a name or a key that is known already")
            if (name == self.founder) != is_founders:
                raise VoidObjectError("takes the founder's name or key for another party")
            return Standing(public_key=amendment.public_key)
        if standing is None:
            raise VoidObjectError(f"'{name}' was never admitted")
        if amendment.action == "remove":
            return dataclasses.replace(standing, is_removed=True)
        if name == amendment.party and amendment.party != self.founder:
            raise VoidObjectError("nobody can readmit itself")
        return Standing(public_key=standing.public_key)

    def after(self, accepted: Iterable[str], struck: Iterable[str]) -> Membership:
        """The membership after an accepted update for each of the first names, then a strike for
        each of the others, as often as they are there."""
        standings = dict(self.standings)
        for name in accepted:
            if name in standings:
                standings[name] = self._credited(standings[name])
        for name in struck:
            if name in standings:
                strikes = standings[name].strikes + 1
                standings[name] = dataclasses.replace(standings[name], strikes=strikes, accepted=0)
        return dataclasses.replace(self, standings=standings)

    def _credited(self, standing: Standing) -> Standing:
        accepted = standing.accepted + 1
        if standing.strikes and accepted >= self.lapse:
            return dataclasses.replace(standing, strikes=standing.strikes - 1, accepted=0)
        return dataclasses.replace(standing, accepted=accepted)
