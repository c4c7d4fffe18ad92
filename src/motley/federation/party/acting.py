"""Whether this process may act for its party: a member in good standing, in its newest session."""

from __future__ import annotations

import secrets

from motley.errors import IdentityError
from motley.federation.charter.membership import Membership
from motley.federation.charter.messages import Session, body_of
from motley.federation.keys.identity import Identity
from motley.federation.log.log import session_stem
from motley.federation.log.view import View


class Acting:
    """One process that acts for a party."""

    def __init__(self, view: View, identity: Identity) -> None:
        self._view = view
        self._identity = identity
        self.session = 0
        """The number of this process's session, once it has begun one."""

    def begin_session(self, membership: Membership) -> int:
        """Says in the log that this process acts for the party; gives the session's number."""
        party = self._identity.party
        newest = self._view.sessions(membership).get(party)
        number = newest.number + 1 if newest else 0
        while True:
            session = Session(
                party=party,
                number=number,
                round=self._view.chain.next_round,
                nonce=secrets.token_hex(32),
            )
            stem = session_stem(party, number)
            read = self._view.reader_of_session(stem, party, membership)
            signed = self._identity.sign(body_of(session, "session", self._view.federation))
            _, is_own = self._view.log.claim(stem, "session", signed.data, read)
            if is_own:
                self.session = number
                return number
            number += 1

    def check_session(self) -> None:
        """`IdentityError` if a newer process acts for this party."""
        party = self._identity.party
        newest = self._view.sessions(self._view.chain.membership).get(party)
        if newest is not None and newest.number > self.session:
            raise IdentityError(
                f"another process acts for '{party}' with the same key since round "
                f"{newest.round}; this one stops.",
                remedy="Run one process per key; give each party its own key.",
            )

    def check_standing(self, membership: Membership) -> None:
        """`IdentityError` if the party is no active member, or its key is another."""
        party, own = self._identity.party, self._identity.public_key
        key = membership.key_of(party)
        if key is None:
            raise IdentityError(
                f"'{party}' is no member of this federation.",
                remedy=f"Ask who may admit you for: motley federation admit STORE {party}:{own}",
            )
        if key != own:
            raise IdentityError(
                f"the member '{party}' has another key than this.",
                remedy="Use the key that was admitted, or make one with another name.",
            )
        if membership.standings[party].is_removed:
            raise IdentityError(
                f"'{party}' was removed from this federation.",
                remedy=f"Ask who may amend for: motley federation admit STORE {party}",
            )
        if membership.is_suspended(party):
            raise IdentityError(
                f"'{party}' is suspended: its updates were rejected {membership.most_strikes} "
                "times.",
                remedy=f"Find the cause, then ask for: motley federation admit STORE {party}",
            )
