"""What `motley federation` shows of a log and checks in it: status, ledger, verify. No key is used
but to read encrypted payloads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from motley.cli.output import print_json, require_writable, say, write_text
from motley.errors import InputError, VerificationError
from motley.federation.charter.charter import FINGERPRINT_DIGITS
from motley.federation.charter.messages import Amendment, read_body
from motley.federation.charter.terms import Terms
from motley.federation.keys.identity import load_identity
from motley.federation.log.ledger import STATED, LedgerLine, ledger, to_csv
from motley.federation.log.view import View
from motley.federation.storage.store import open_store
from motley.units import percent, si, size


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
