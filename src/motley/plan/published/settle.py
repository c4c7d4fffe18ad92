"""What a row leaves open, settled so that the training fits, as whoever measured it will have done.

A row that does not say how state is shared out, where the experts are or how large a micro-batch is
is taken at first as if nothing were saved. If that does not fit, the settings that it leaves open
are changed one after the other, those that cost least time first; what was changed is told in
`Case.assumed`. A row that says them all is never touched, and neither is one that fits with none.

Recompute is different: those who publish a fast step and say nothing of it repeat little, and less
than whole layers. So it costs no time here, but the memory is that of as much as it takes to fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import gcd

from motley.chips.constants import Constants
from motley.plan.layout import Recompute
from motley.plan.published.case import Case, written_case
from motley.plan.published.memory import case_fits, case_memory
from motley.plan.published.rows import PublishedRow
from motley.plan.published.words import is_open

_RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
"""In the order of what they cost."""


def case_of(
    row: PublishedRow,
    table: Sequence[PublishedRow] = (),
    constants: Constants | None = None,
    *,
    known_framework: bool = True,
) -> Case:
    """The case of one row; `Incomplete` or `UnknownChipError` says why there is none.

    Unless `known_framework`, it is predicted as if nobody had ever seen the row's framework.
    """
    written = written_case(row, table, constants, known_framework=known_framework)
    if written.offloads:
        return written
    cases = [written, *_smaller(written, row)]
    for kind in _for_memory(written, row):
        for case in cases:
            found = _with_memory(case, kind)
            if case_fits(found, case_memory(found)):
                return found
    return written


def _for_memory(case: Case, row: PublishedRow) -> tuple[Recompute, ...]:
    """What may be recomputed as far as memory goes: what a row says, and more where it says nothing
    or has a policy of its own."""
    own = case.layout.recompute
    if is_open(row.recompute) or "remat" in f"{row.recompute} {row.notes}".lower():
        return _RECOMPUTE[_RECOMPUTE.index(own) :]
    return (own,)


def _with_memory(case: Case, kind: Recompute) -> Case:
    """The case if as much of it is recomputed, as far as memory goes."""
    own = case.layout.recompute
    if kind == own:
        return case
    told = f"recompute not given in full: {kind} for the memory, {own} for the time"
    return replace(case, memory_recompute=kind, assumed=(*case.assumed, told))


def _smaller(case: Case, row: PublishedRow) -> Iterator[Case]:
    """The case with one more of the settings changed that the row leaves open."""
    if is_open(row.zero_or_fsdp) and case.layout.sharding == "none" and case.num_replicas > 1:
        shared = case.layout._replace(data=case.num_replicas, sharding="optimizer")
        case = _told(replace(case, layout=shared, num_replicas=1), "sharding not given: optimizer")
        yield case
    experts = _spread(case)
    if experts > case.layout.expert == 1:
        spread = replace(case, layout=case.layout._replace(expert=experts))
        case = _told(spread, f"experts not placed: spread over {experts} chips")
        yield case
    while row.micro_batch is None and case.micro_batch > 1:
        per_member, size = case.micro_batch * case.num_micro_batches, case.micro_batch // 2
        smaller = replace(case, micro_batch=size, num_micro_batches=-(-per_member // size))
        case = _told(smaller, f"micro_batch not given: {size}")
        yield case


def _told(case: Case, changed: str) -> Case:
    return replace(case, assumed=(*case.assumed, f"{changed}, or it would not fit"))


def _spread(case: Case) -> int:
    """Over how many chips of a group the experts of a mixture can be spread evenly."""
    mixture = case.config.mixture
    chips = case.layout.num_chips * (case.num_replicas if len(case.chips) == 1 else 1)
    return gcd(mixture.experts, chips) if mixture else 1
