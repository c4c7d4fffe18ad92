"""The verbs of `motley federation` that found and govern one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from motley.cli.output import print_json, say
from motley.errors import (
    InputError,
    TermsError,
)
from motley.federation.amending import Action, amend
from motley.federation.charter.charter import (
    FINGERPRINT_DIGITS,
    MemberKey,
    check_shareable,
    shared_recipe,
)
from motley.federation.charter.messages import Amendment
from motley.federation.charter.terms import Terms, doubts, load_terms, review_words, usual_terms
from motley.federation.keys.identity import Identity, load_identity, new_identity, save_identity
from motley.federation.log.view import View
from motley.federation.storage.store import open_store


def keygen(name: str, out: Path, *, as_json: bool) -> None:
    identity = new_identity(name)
    save_identity(identity, out)
    member = f"{identity.party}:{identity.public_key}"
    if as_json:
        print_json({"party": identity.party, "public_key": identity.public_key, "file": str(out)})
        return
    print(member)
    say(f"The private key is in {out}; keep it to yourself. Give the founder the line above.")


def create(
    store_url: str,
    recipe_file: Path,
    terms_file: Path | None,
    key_file: Path,
    members: list[str],
    *,
    as_json: bool,
) -> None:
    from motley.federation.founding import found, initial_parameters, require_usable
    from motley.federation.party.privacy import budget
    from motley.federation.state.state import GlobalState
    from motley.recipe import load_recipe
    from motley.train.prepare import prepare_data

    founder = load_identity(key_file)
    recipe = load_recipe(recipe_file)
    check_shareable(recipe)
    terms = _terms(terms_file, recipe.schedule.steps)
    keys = _member_keys(founder, members, terms)
    spends = budget(terms, recipe.schedule)
    say(review_words(terms.round, len(keys)))
    if spends is not None:
        say(str(spends))
    store = open_store(store_url, create=True)
    require_usable(store)  # before minutes of tokenizing
    recipe, prepared = prepare_data(recipe, say)
    state = GlobalState(terms, initial_parameters(recipe.model, recipe.seed))
    tokenizer = (prepared.folder / "tokenizer.json").read_bytes()
    charter, digest = found(
        store,
        state,
        shared_recipe(recipe),
        (prepared.tokenizer.digest, tokenizer),
        founder,
        keys,
    )
    if as_json:
        print_json(
            {
                "federation": digest,
                "fingerprint": digest[:FINGERPRINT_DIGITS],
                "withstood": terms.round.withstood(len(keys)),
                "privacy": spends and dataclasses.asdict(spends),
            }
        )
        return
    say(
        f"Founded '{charter.terms.name}' in {store_url} with {len(keys)} parties. "
        "Tell them this fingerprint over another channel:"
    )
    print(digest[:FINGERPRINT_DIGITS])


def _terms(path: Path | None, steps: int) -> Terms:
    """The founder's, or those that are usual for the schedule; says what was chosen and why."""
    if path is None:
        terms, reason = usual_terms(steps)
        say(reason)
        return terms
    terms = load_terms(path)
    doubt = doubts(terms, steps)
    if doubt is not None:
        say(f"Note: {doubt}")
    return terms


def _member_keys(founder: Identity, members: list[str], terms: Terms) -> list[MemberKey]:
    """The founder and the others, each once; `TermsError` if they cannot meet the terms."""
    keys = [_member_key(text) for text in members]
    own = MemberKey(name=founder.party, public_key=founder.public_key)
    if own not in keys:
        keys.insert(0, own)
    if len({key.name for key in keys}) < len(keys) or len({k.public_key for k in keys}) < len(keys):
        raise InputError("a name or a key is given for two parties.", remedy="Name each once.")
    if terms.round.quorum > len(keys):
        raise TermsError(
            f"round.quorum is {terms.round.quorum}, but there are {len(keys)} parties.",
            remedy="Add parties with --member, or lower the quorum.",
        )
    return keys


def _member_key(text: str) -> MemberKey:
    name, separator, public_key = text.partition(":")
    try:
        if not separator:
            raise ValueError("there is no ':' in it")
        return MemberKey(name=name, public_key=public_key)
    except ValueError as cause:
        raise InputError(
            f"'{text}' is not NAME:PUBLICKEY: {cause}.",
            remedy="Give the line that 'motley federation keygen' printed.",
        ) from None


def admit(
    store_url: str, member: str, key_file: Path, fingerprint: str | None, *, as_json: bool
) -> None:
    if ":" in member:
        key = _member_key(member)
        _amend(store_url, key_file, fingerprint, "admit", key.name, key.public_key, as_json)
    else:
        _amend(store_url, key_file, fingerprint, "readmit", member, None, as_json)


def remove(
    store_url: str, name: str, key_file: Path, fingerprint: str | None, *, as_json: bool
) -> None:
    _amend(store_url, key_file, fingerprint, "remove", name, None, as_json)


def rotate(store_url: str, key_file: Path, fingerprint: str | None, *, as_json: bool) -> None:
    _amend(store_url, key_file, fingerprint, "rotate", None, None, as_json)


def _amend(
    store_url: str,
    key_file: Path,
    fingerprint: str | None,
    action: Action,
    name: str | None,
    public_key: str | None,
    as_json: bool,
) -> None:
    identity = load_identity(key_file)
    view = View(open_store(store_url), fingerprint)
    amendment = amend(view, identity, action, name, public_key)
    if as_json:
        print_json(dataclasses.asdict(amendment))
        return
    what = f"{action} '{name}'" if name else "a new group key"
    say(f"Amendment {amendment.number}: {what}. It takes effect in the next seal.")
    if action == "remove":
        _warn_of_too_few(view)
    _say_handout(amendment, name)


def _warn_of_too_few(view: View) -> None:
    """Where the parties that are left are no quorum: it falls to their number. And what they
    withstand."""
    view.refresh()
    terms = view.chain.charter.terms.round
    left, quorum = view.look().membership.active(), terms.quorum
    if not left:
        say("Note: nobody active is left: no round can be sealed until a party is admitted.")
    elif len(left) < quorum:
        say(
            f"Note: the quorum is {quorum}, and {len(left)} active "
            f"{'party is' if len(left) == 1 else 'parties are'} left: until more are admitted a "
            "round needs the updates of all of them, and no more."
        )
    if left:
        say(review_words(terms, len(left)))


def _say_handout(amendment: Amendment, name: str | None) -> None:
    """Who gets the group key with it, if any."""
    handout = amendment.handout
    if handout is None:
        return
    if handout.previous is None:
        say(f"'{name}' is handed the group key of epoch {handout.epoch} with it.")
        return
    say(
        f"From then on all but it is encrypted in epoch {handout.epoch}, of which the group key "
        f"goes to {', '.join(handout.sealed)}."
    )
    if name:
        say(f"'{name}' keeps what it has read, and can read what was written until then.")
