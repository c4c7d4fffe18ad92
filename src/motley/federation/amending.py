"""Amendments: a party is admitted, removed or readmitted, or the group key rotated, by one who
may. Where payloads are encrypted who comes is handed the group key, and whenever somebody goes the
others are handed a new one.
"""

from __future__ import annotations

from typing import Literal

from motley.errors import IdentityError, VoidObjectError
from motley.federation.charter.membership import Membership
from motley.federation.charter.messages import Amendment, body_of
from motley.federation.keys.encrypt import new_group_key
from motley.federation.keys.handout import Handout, hand_out
from motley.federation.keys.identity import Identity
from motley.federation.log.keyring import Keyring
from motley.federation.log.log import amendment_stem
from motley.federation.log.view import View

Action = Literal["admit", "remove", "readmit", "rotate"]


def amend(
    view: View,
    identity: Identity,
    action: Action,
    name: str | None = None,
    public_key: str | None = None,
) -> Amendment:
    """Writes the amendment behind those that are there; it takes effect in the next seal.

    `IdentityError` says why it cannot be made.
    """
    view.refresh()
    while True:
        membership = view.look().membership
        _check(membership, identity, action, name)
        handout = _handout(view.federation, membership, identity, action, name, public_key)
        try:
            amendment = Amendment(
                party=identity.party,
                number=membership.amendments,
                previous=membership.head,
                action=action,
                name=name,
                public_key=public_key,
                handout=handout,
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


def _handout(
    federation: str,
    membership: Membership,
    identity: Identity,
    action: Action,
    name: str | None,
    public_key: str | None,
) -> Handout | None:
    """The group key for who comes, or the next one for all who stay; None where nothing is
    encrypted. `IdentityError` if this party has not the key itself."""
    if membership.epoch is None:
        return None
    keyring = Keyring(federation, identity)
    keyring.learn(membership.handouts)
    key = keyring.key(membership.epoch)
    if action in ("admit", "readmit"):
        assert name is not None
        comes = {name: public_key or membership.key_of(name) or ""}
        return hand_out(key, membership.epoch, comes, federation)
    stay = membership.key_holders(without=name)
    return hand_out(new_group_key(), membership.epoch + 1, stay, federation, before=key)


def _check(membership: Membership, identity: Identity, action: Action, name: str | None) -> None:
    if membership.amender_key(identity.party) != identity.public_key:
        raise IdentityError(
            f"'{identity.party}' may not amend this federation.",
            remedy=f"Its charter lets the founder '{membership.founder}'"
            + (" and its members do so." if membership.admission == "member" else " alone do so."),
        )
    if name is None:
        if membership.epoch is None:
            raise IdentityError(
                "this federation does not encrypt its payloads: there is no group key to rotate.",
                remedy="A federation is encrypted from its founding, by encrypted = true.",
            )
        return
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
