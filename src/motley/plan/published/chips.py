"""Chips as tables name them: "A100-80GB-SXM", "H100-96GB HBM2e 500W", "12x V100-16GB + 4x T4".

A name holds a kind of the catalog and, loosely, a memory, a form and a power limit. Memory and form
choose among the catalog's chips of that kind; a memory that none of them has is taken from the
name, with the other figures of the nearest one, and said so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from motley.chips.catalog import CatalogChip, catalog
from motley.errors import UnknownChipError, nearest

HBM2E_STACK_GBPS = 408.0
"""GB/s of a 16-GB stack of HBM2e: an A100-80 has five and 2039 GB/s."""

_COUNT = re.compile(r"^(\d+)\s*x\s+(.+)$", re.IGNORECASE)
_MEMORY = re.compile(r"(?<![\w.])(\d+)\s*gi?b?\b", re.IGNORECASE)
_WATTS = re.compile(r"(?<![\w.])(\d+)\s*w\b", re.IGNORECASE)
_ALIASES = {"mi250": "mi250x", "ascend-910b": "ascend-910b3", "tpu-v6": "tpu-v6e"}
"""Kinds that the catalog lists under another name: the MI250 is an MI250X with 208 of its 220
units; a 910B without a number is the 910B3 of the Atlas 800T A2."""

_DIES = re.compile(r"\bgcds?\b", re.IGNORECASE)
_TWO_DIES = frozenset({"mi250x"})
"""Cards of two dies, each a device of its own to PyTorch, of which tables count either."""

_BRANDS = frozenset({"rtx", "gtx", "ascend", "radeon", "rx", "bi", "mtt", "dcu", "jetson"})
_FORMS = re.compile(r"-(sxm\d?|pcie|oam|module)$")
_CAPACITY = re.compile(r"-\d+g$")


@dataclass(frozen=True, kw_only=True)
class NamedChip:
    """What a name says, with the catalog's figures."""

    catalog: CatalogChip
    """With memory and bandwidth as the name says."""
    count: int | None = None
    power_w: float | None = None
    """A limit below the catalog's power."""
    share: float = 1.0
    """Of the catalog's chip that counts as one: half, where a table counts dies of two."""
    assumed: tuple[str, ...] = ()
    """What the name left open, and what was taken."""


@lru_cache(maxsize=1024)
def named_chips(text: str) -> tuple[NamedChip, ...]:
    """The chips of one cell; `UnknownChipError` says what is not known."""
    if not text.strip():
        raise UnknownChipError("no chip is named.", remedy="Name one in the column 'chip'.")
    parts = [part.strip() for part in re.split(r"\s\+\s", text)]
    found = []
    for part in parts:
        match = _COUNT.match(part)
        count, name = (int(match.group(1)), match.group(2)) if match else (None, part)
        if len(parts) > 1 and count is None:
            raise UnknownChipError(f"'{part}' of '{text}' has no count.", remedy="Write '4x T4'.")
        found.append(replace(_named(name), count=count))
    return tuple(found)


def _named(name: str) -> NamedChip:
    candidates, assumed = _of_kind(name)
    form = _form(name)
    if form is not None:
        candidates = [chip for chip in candidates if form in chip.id] or candidates
    memory = _MEMORY.search(name)
    capacity = float(memory.group(1)) if memory else None
    chip = _by_memory(candidates, capacity, name, assumed)
    watts = _WATTS.search(name)
    limit = float(watts.group(1)) if watts else None
    if limit is not None and chip.tdp_w is not None and limit >= chip.tdp_w:
        limit = None
    share = 1.0
    if _DIES.search(name) and _kind(chip) in _TWO_DIES:
        share = 0.5
        assumed.append(f"{name}: one of the two dies of {chip.id}")
    return NamedChip(catalog=chip, power_w=limit, share=share, assumed=tuple(assumed))


def _of_kind(name: str) -> tuple[list[CatalogChip], list[str]]:
    """The catalog's chips of the kind that is named, the most particular one."""
    lowered = name.lower().replace("_", "-")
    fits = {
        kind: match.end() - match.start()
        for kind, pattern in _kinds().items()
        if (match := pattern.search(lowered))
    }
    if not fits:
        hint = nearest(lowered, _kinds())
        raise UnknownChipError(
            f"the catalog has no chip '{name}'.", remedy=hint or "Name a chip of the catalog."
        )
    kind = max(fits, key=lambda each: (fits[each], -len(each)))
    alias = _ALIASES.get(kind)
    assumed = [f"{name}: taken as {alias}"] if alias else []
    wanted = alias or kind
    chips = [chip for chip in catalog().values() if _kind(chip) == wanted]
    return chips, assumed


@lru_cache(maxsize=1)
def _kinds() -> dict[str, re.Pattern[str]]:
    """A pattern for the name of every kind."""
    kinds = {_kind(chip) for chip in catalog().values()} | set(_ALIASES)
    return {kind: _pattern(kind) for kind in sorted(kinds)}


def _pattern(kind: str) -> re.Pattern[str]:
    """Letters and digits may stand apart, and a brand may be left out."""
    brand, _, rest = kind.partition("-")
    gap = r"[\s-]*"
    body = gap.join(re.findall(r"[a-z]+|\d+", rest if brand in _BRANDS and rest else kind))
    if brand in _BRANDS and rest:
        body = f"(?:{brand}{gap})?{body}"
    return re.compile(rf"(?<![a-z0-9]){body}(?![a-z0-9])")


def _kind(chip: CatalogChip) -> str:
    """ "nvidia-a100-sxm-80g" -> "a100"."""
    return _FORMS.sub("", _CAPACITY.sub("", chip.short_id))


def _form(name: str) -> str | None:
    lowered = name.lower()
    return next((form for form in ("sxm", "pcie", "oam") if form in lowered), None)


def _by_memory(
    candidates: list[CatalogChip], capacity: float | None, name: str, assumed: list[str]
) -> CatalogChip:
    """The candidate of that memory, of the usual form: modules before cards."""
    modules = [chip for chip in candidates if "pcie" not in chip.id] or candidates
    if capacity is None:
        if len(modules) > 1:
            assumed.append(f"{name}: memory not given, taken as {modules[0].id}")
        return modules[0]
    same = [chip for chip in modules if chip.memory_gb == capacity]
    same = same or [chip for chip in candidates if chip.memory_gb == capacity]
    if same:
        return same[0]
    near = min(modules, key=lambda chip: abs((chip.memory_gb or 0.0) - capacity))
    assumed.append(f"{name}: figures of {near.id} with {capacity:g} GB")
    bandwidth = near.mem_bandwidth_gbps
    if "hbm2e" in name.lower():
        bandwidth = HBM2E_STACK_GBPS * capacity / 16
        assumed.append(f"{name}: {bandwidth:.0f} GB/s of HBM2e")
    return replace(near, memory_gb=capacity, mem_bandwidth_gbps=bandwidth)
