"""The verbs of `motley federation` that found, govern and check one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from motley.cli.output import print_json, require_writable, say, write_text
from motley.errors import (
    InputError,
    TermsError,
    VerificationError,
)
from motley.federation.amending import Action, amend
from motley.federation.charter import (
    FINGERPRINT_DIGITS,
    MemberKey,
    check_shareable,
    shared_recipe,
)
from motley.federation.identity import Identity, load_identity, new_identity, save_identity
from motley.federation.ledger import STATED, LedgerLine, ledger, to_csv
from motley.federation.messages import Amendment, read_body
from motley.federation.store import open_store
from motley.federation.terms import Terms, doubts, load_terms, review_words, usual_terms
from motley.federation.view import View
from motley.units import percent, si, size


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
    from motley.federation.privacy import budget
    from motley.federation.state import GlobalState
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


def status(store_url: str, fingerprint: str | None, *, as_json: bool) -> None:
    view = View(open_store(store_url), fingerprint)
    view.refresh()
    look = view.look()
    charter = view.chain.charter
    last = view.chain.sealed[-1] if view.chain.sealed else None
    data = {
        "name": charter.terms.name,
        "fingerprint": view.federation[:FINGERPRINT_DIGITS],
        "founder": charter.founder.name,
        "next_round": view.chain.next_round,
        "withstood": charter.terms.round.withstood(len(look.membership.active())),
        "last_seal": last and {"round": last.round, "party": last.party},
        "published": sorted(look.updates),
        "reviewed": sorted(look.reviews),
        "pending_amendments": [
            f"{each.action} {each.name}" if each.name else each.action
            for each in (read_body(Amendment, signed, view.federation) for signed in look.pending)
        ],
        "parties": [
            {
                "party": line.party,
                "standing": line.standing,
                "strikes": line.strikes,
                "epsilon": line.epsilon,
            }
            for line in ledger(view.chain)
        ],
        "rejected": [
            {"round": sealed.round, "party": each.update.party, "reason": each.reason}
            for sealed in view.chain.sealed
            for each in sealed.rejected
        ],
        "refused": [dataclasses.asdict(refusal) for refusal in view.log.refused],
    }
    if as_json:
        print_json(data)
    else:
        _print_status(data, charter.terms)


def _print_status(data: dict[str, Any], terms: Terms) -> None:
    print(f"{data['name']}, fingerprint {data['fingerprint']}, founded by {data['founder']}")
    print(
        f"rounds sealed: {data['next_round']}; steps per round: "
        f"{terms.round.local_steps // terms.round.fragments}; codec: {terms.codec.kind}; "
        f"quorum: {terms.round.quorum}; dishonest reviewers withstood: {data['withstood']}"
    )
    if data["last_seal"]:
        print(f"last sealed by {data['last_seal']['party']}")
    if terms.privacy is not None:
        print(f"privacy: delta {terms.privacy.delta:g}; epsilon spent as each party states it")
    for line in data["parties"]:
        published = "published" if line["party"] in data["published"] else "-"
        spent = f"epsilon {_epsilon(line['epsilon'])}" if terms.privacy else ""
        print(f"  {line['party']:<32} {line['standing']:<10} {published:<9} {spent}".rstrip())
    if data["pending_amendments"]:
        print(f"from the next seal on: {', '.join(data['pending_amendments'])}")
    for each in data["rejected"][-10:]:
        print(f"rejected in round {each['round']}: {each['party']}: {each['reason']}")
    for each in data["refused"][-10:]:
        print(f"refused: {each['key']}: {each['reason']}")


def show_ledger(
    store_url: str, out: Path | None, html: Path | None, fingerprint: str | None, *, as_json: bool
) -> None:
    require_writable(out, html)
    view = View(open_store(store_url), fingerprint)
    view.refresh()
    lines = ledger(view.chain)
    if out is not None:
        write_text(out, to_csv(lines, view.chain.next_round))
    if html is not None:
        _write_page(html, view, lines)
    if as_json:
        print_json(
            {"rounds": view.chain.next_round, "lines": [dataclasses.asdict(line) for line in lines]}
        )
        return
    _print_ledger(lines, view.chain.next_round)
    if out or html:
        say(f"Written to {' and '.join(str(path) for path in (out, html) if path)}.")


def _write_page(path: Path, view: View, lines: list[LedgerLine]) -> None:
    from motley.report.ledger_page import LedgerFacts, write_ledger_page

    terms = view.chain.charter.terms
    facts = LedgerFacts(
        name=terms.name,
        fingerprint=view.federation[:FINGERPRINT_DIGITS],
        rounds=view.chain.next_round,
        delta=terms.privacy.delta if terms.privacy else None,
    )
    write_ledger_page(path, facts, [dataclasses.asdict(line) for line in lines])


def _print_ledger(lines: list[LedgerLine], rounds: int) -> None:
    print(f"after {rounds} rounds; {', '.join(STATED)}: as each party states them")
    is_private = any(line.epsilon is not None for line in lines)
    spent = ("epsilon",) if is_private else ()
    head = (
        "party", "share", "accepted", "rejected", "tokens", "chip-seconds", "bytes", *spent,
        "standing",
    )  # fmt: skip
    rows = [
        (
            line.party,
            percent(line.share),
            str(line.accepted),
            str(line.rejected),
            si(line.tokens),
            si(line.chip_seconds),
            size(line.payload_bytes),
            *([_epsilon(line.epsilon)] if is_private else ()),
            line.standing,
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _epsilon(spent: float | None) -> str:
    return "-" if spent is None else f"{spent:.3g}"


def check(
    store_url: str,
    ledger_file: Path | None,
    key_file: Path | None,
    fingerprint: str | None,
    *,
    as_json: bool,
) -> None:
    from motley.federation.verify import verify

    view = View(open_store(store_url), fingerprint)
    identity = load_identity(key_file) if key_file else None
    text = _read_ledger(ledger_file) if ledger_file else None
    result = verify(view, identity, ledger_csv=text)
    if as_json:
        print_json({**dataclasses.asdict(result), "holds": result.holds})
    else:
        for finding in result.findings:
            print(f"round {finding.round}: {finding.party} {finding.what}")
        for refusal in result.refused:
            print(f"refused: {refusal.key}: {refusal.reason}")
        print(
            f"{result.rounds} rounds, {result.updates} updates, {result.digests} digests and "
            f"{result.ledger_lines} ledger lines were checked; state {result.state[:16]}."
        )
    if not result.holds:
        raise VerificationError(
            "the log does not hold what it claims: " + "; ".join(result.faults[:5]) + ".",
            remedy="Compare with another copy of the store, and on another machine.",
        )


def _read_ledger(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(f"{path} cannot be read: {cause}.", remedy="Check the path.") from None
