"""Less compute for the same model: how many FLOPs each rung needs to reach the baseline's loss.

    python benchmarks/compute.py --size S --corpus python --budget-minutes 60
    python benchmarks/compute.py --size XS --only "sweep:b1 rate and batch"
    python benchmarks/compute.py --budget-minutes 0 --json      # only what is there already

The protocol is in `compute.md`, the rungs in `compute_ladder.toml`. Every finished run is kept as a
line of `results/compute/runs-TEXT-SIZE.jsonl` and never made again; a run that was cut short goes
on from its checkpoint; several of these commands may run side by side and share the work. Parts of
`--only`: names of rungs, `sweep:NAME`, `without` (leave-one-out of the final stack).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import origin, run_script, say
from compute_claims import Group, as_text, row, summary
from compute_corpora import CORPORA
from compute_ladder import (
    SWEEP_SEED,
    ComputeLadder,
    Spec,
    changes_for,
    load,
    rung_specs,
    sweep_specs,
    without_specs,
)
from compute_parts import part_rows, parts_as_text
from compute_runs import RESULTS, Host, Prepared, Record, kept, ready, run
from motley.ablation import UNSET, written
from motley.chips.host import num_threads
from motley.errors import InputError, nearest

PAGE = Path(__file__).with_name("compute.md")
MARKS = ("<!-- results -->", "<!-- end of results -->")


def wanted(ladder: ComputeLadder, chosen: argparse.Namespace) -> list[Spec]:
    """The runs that were asked for, in the order in which they are made; `InputError` for a size or
    a part that the ladder does not have."""
    _require_known("size", chosen.size, list(ladder.size))
    _require_known("part", chosen.only or (), parts_of(ladder))
    specs: list[Spec] = []
    for size in chosen.size:
        for corpus in chosen.corpus:
            specs += _of_part(ladder, chosen, size, corpus)
    return specs


def parts_of(ladder: ComputeLadder) -> list[str]:
    """All that `--only` takes."""
    rungs, sweeps = ladder.variant, ladder.sweep
    return [*(rung.name for rung in rungs), "without", *(f"sweep:{each.name}" for each in sweeps)]


def _require_known(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            listed = f"There are: {', '.join(known)}."
            raise InputError(f"no {kind} '{name}'.", remedy=nearest(name, known) or listed)


def _of_part(
    ladder: ComputeLadder, chosen: argparse.Namespace, size: str, corpus: str
) -> Iterator[Spec]:
    seeds, horizon, only = chosen.seeds, chosen.horizon_tokens, chosen.only
    shares = chosen.share
    for spec in rung_specs(ladder, size, corpus, seeds, horizon):
        if (only is None or spec.rung in only) and (not shares or spec.share in (1.0, *shares)):
            yield spec
    for name in only or ():
        if name.startswith("sweep:"):
            yield from sweep_specs(ladder, name.removeprefix("sweep:"), size, corpus, horizon)
        elif name == "without":
            yield from without_specs(ladder, size, corpus, seeds, horizon)


def train_missing(jobs: Sequence[Prepared], budget_minutes: float | None) -> None:
    """Makes the runs that no earlier call has made, until the time is over."""
    began = time.monotonic()
    for job in jobs:
        if budget_minutes is not None and time.monotonic() - began >= 60 * budget_minutes:
            say("The time is over; the same command goes on.")
            return
        if job.key in kept():
            continue
        say(f"{job.spec.label} ({job.key})")
        record = run(job)
        if record is None:
            say("  another process is at it.")
        else:
            say(f"  {record['bits_per_byte']:.4f} bits per byte, {record['process_s']:.0f} s.")


def results(
    ladder: ComputeLadder, jobs: Sequence[Prepared], size: str, corpus: str
) -> dict[str, Any]:
    """What is known of one size and text."""
    own = [
        job
        for job in jobs
        if (job.spec.size, job.spec.corpus) == (size, corpus) and job.spec.seed != SWEEP_SEED
    ]
    groups = _groups(own)
    base = next((g for g in groups if (g.rung, g.share) == (ladder.baseline, 1.0)), None)
    rows = [row(group, base) for group in groups] if base else []
    return {**summary(rows, base), "parts": part_rows(ladder, groups)}


def _groups(jobs: Sequence[Prepared]) -> list[Group]:
    found = kept()
    runs: dict[tuple[str, float], dict[int, Record]] = {}
    for job in jobs:
        if job.key in found:
            place = (job.spec.rung, job.spec.share)
            runs.setdefault(place, {})[job.spec.seed] = found[job.key]
    return [Group(rung, share, tuple(by.values())) for (rung, share), by in runs.items()]


def _sweep_lines(ladder: ComputeLadder, places: Container[tuple[str, str]]) -> list[dict[str, Any]]:
    """Every finished run that tuned something at these sizes and texts, from the best on."""
    lines = [
        {
            "size": record["size"],
            "corpus": record["corpus"],
            "rung": _tried(ladder, record),
            "tokens": record["tokens"],
            "bits_per_byte": record["bits_per_byte"],
        }
        for record in kept().values()
        if record["seed"] == SWEEP_SEED and (record["size"], record["corpus"]) in places
    ]
    return sorted(lines, key=lambda line: (line["size"], line["corpus"], line["bits_per_byte"]))


def _tried(ladder: ComputeLadder, record: Record) -> str:
    """A run's rung, and what it changes of the rung as it is today."""
    rung, changes = record["rung"].split(":")[0], record["changes"]
    if rung not in {each.name for each in ladder.variant}:
        return f"{rung}: {written(changes)}"
    today = changes_for(ladder, rung, record["size"], record["corpus"])
    other = {key: value for key, value in changes.items() if today.get(key) != value}
    gone = {key: UNSET for key in today if key not in changes}
    return f"{rung}: {written(other | gone) or 'as it is'}"


def _with_baseline(ladder: ComputeLadder, chosen: argparse.Namespace) -> list[Spec]:
    """What was asked for, and the baseline's runs, against which it is read."""
    specs = wanted(ladder, chosen)
    baseline = argparse.Namespace(**{**vars(chosen), "only": [ladder.baseline]})
    return [*specs, *(spec for spec in wanted(ladder, baseline) if spec not in specs)]


def _everything(ladder: ComputeLadder, chosen: argparse.Namespace) -> list[Spec]:
    """All parts of the sizes and texts that have finished runs."""
    places = {tuple(path.stem.split("-")[1:]) for path in RESULTS.glob("runs-*.jsonl")}
    specs: list[Spec] = []
    for corpus, size in sorted(places):
        part = {"size": [size], "corpus": [corpus], "only": parts_of(ladder), "share": None}
        specs += wanted(ladder, argparse.Namespace(**{**vars(chosen), **part}))
    return specs


def tables(found: dict[str, dict[str, Any]], sweep: Sequence[dict[str, Any]]) -> str:
    """All results as Markdown."""
    parts = []
    for name, part in found.items():
        target = part["target_bits_per_byte"]
        if target is not None:
            parts.append(f"### {name}: target {target:.4f} bits per byte")
            parts.append(as_text(part["rows"]))
        if part["parts"]:
            parts.append(f"### {name}: what each part is worth\n\n{parts_as_text(part['parts'])}")
    if sweep:
        parts.append("### Sweeps, one seed\n")
        parts[-1] += "\n| size, text | run | Mtokens | bits/byte |\n| --- | --- | --- | --- |"
        for line in sweep:
            place, tokens = f"{line['size']} {line['corpus']}", line["tokens"] / 1e6
            cells = [place, line["rung"], f"{tokens:.2f}", f"{line['bits_per_byte']:.4f}"]
            parts[-1] += f"\n| {' | '.join(cells)} |"
    return "\n\n".join(parts) if parts else "Nothing has been run yet."


def write_tables(found: dict[str, dict[str, Any]], sweep: Sequence[dict[str, Any]]) -> None:
    """Puts the tables between the marks of compute.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    inner = f"{MARKS[0]}\n\n{tables(found, sweep)}\n\n{MARKS[1]}"
    PAGE.write_text(before + inner + after, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", nargs="+", default=["S", "M"], help="of the ladder's file")
    parser.add_argument("--corpus", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--only", nargs="+", help="parts; see above")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", nargs="+", type=float, help="of the horizon: these, and 1")
    parser.add_argument("--horizon-tokens", type=int, help="instead of the size's own")
    parser.add_argument("--budget-minutes", type=float, help="begin no run after this time")
    parser.add_argument("--threads", type=int, default=num_threads())
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--write", action="store_true", help="put all that is known into compute.md"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def main() -> None:
    chosen, ladder = _arguments(), load()
    host = Host(device=chosen.device, precision=chosen.precision, threads=chosen.threads)
    specs = wanted(ladder, chosen)
    jobs = [ready(spec, dict(ladder.size), host) for spec in specs]
    train_missing(jobs, chosen.budget_minutes)
    specs = _everything(ladder, chosen) if chosen.write else _with_baseline(ladder, chosen)
    shown = [ready(spec, dict(ladder.size), host) for spec in specs]
    places = dict.fromkeys((spec.size, spec.corpus) for spec in specs)
    found = {f"{size} {text}": results(ladder, shown, size, text) for size, text in places}
    sweep = _sweep_lines(ladder, places)
    if chosen.write:
        write_tables(found, sweep)
    if chosen.json:
        whole = {"benchmark": "compute", "sizes": found, "sweeps": sweep, "origin": origin()}
        print(json.dumps(whole))
    else:
        print(tables(found, sweep))


if __name__ == "__main__":
    run_script(main)
