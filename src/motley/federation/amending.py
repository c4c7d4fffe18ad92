"""Amendments: a party is admitted, removed or readmitted by one who may."""

from __future__ import annotations

from typing import Literal

from motley.errors import IdentityError, VoidObjectError
from motley.federation.identity import Identity
from motley.federation.log import amendment_stem
from motley.federation.membership import Membership
from motley.federation.messages import Amendment, body_of
from motley.federation.view import View

Action = Literal["admit", "remove", "readmit"]


def amend(
    view: View, identity: Identity, action: Action, name: str, public_key: str | None = None
) -> Amendment:
    """Writes the amendment behind those that are there; it takes effect in the next seal.

    `IdentityError` says why it cannot be made.
    """
    view.refresh()
    while True:
        membership = view.look().membership
        _check(membership, identity, action, name)
        try:
            amendment = Amendment(
                party=identity.party,
                number=membership.amendments,
                previous=membership.head,
                action=action,
                name=name,
                public_key=public_key,
            )
        except ValueError as cause:
            raise IdentityError(f"{cause}.") from None
        signed = identity.sign(body_of(amendment, "amendment", view.federation))
        read = view.reader_of_amendment(membership)
        stem = amendment_stem(amendment.number)
        try:
            _, is_own = view.log.claim(stem, "amendment", signed.data, read, view.amendment_slot)
        except VoidObjectError as cause:
            raise IdentityError(f"this cannot be amended: {cause.message}.") from None
        if is_own:
            return amendment


def _check(membership: Membership, identity: Identity, action: Action, name: str) -> None:
    if membership.amender_key(identity.party) != identity.public_key:
        raise IdentityError(
            f"'{identity.party}' may not amend this federation.",
            remedy=f"Its charter lets the founder '{membership.founder}'"
            + (" and its members do so." if membership.admission == "member" else " alone do so."),
        )
    known = membership.key_of(name) is not None
    if action == "admit" and known:
        raise IdentityError(
            f"'{name}' was admitted before; a name keeps its key.",
            remedy=f"Readmit it with its name alone ({name}), or choose another name.",
        )
    if action != "admit" and not known:
        raise IdentityError(
            f"'{name}' was never admitted.",
            remedy=f"Known: {', '.join(membership.standings)}. To admit it give NAME:PUBLICKEY.",
        )
