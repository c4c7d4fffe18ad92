"""What slow links, large payloads and unlike parties cost: parts of `benchmarks/federation.py`.

The links are emulated and scaled down faithfully to a 1B model at 400 TFLOP/s per party: see
`ScaledLink`. Nothing is scaled that would make the federation's own work look smaller.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from common import run_plan, say
from federation_parties import FederationSpec, PartySpec, apart, events_of, start_party
from motley.chips.chip import Chip, Link
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.events import read_events
from motley.federation.charter.terms import OuterConfig, RoundTerms, Terms
from motley.federation.codec import CodecConfig, build_codec
from motley.federation.keys.identity import new_identity, save_identity
from motley.federation.party.joining import WORKER, join
from motley.federation.party.party_folder import PartyConfig
from motley.federation.simulate import found_simulated, simulated_text
from motley.federation.storage.shaped import ShapedStore
from motley.federation.storage.store import open_store
from motley.model.counts import model_counts
from motley.plan.search.search import search
from motley.recipe import Recipe, parse_recipe
from motley.train.launch import start

REAL_PARAMETERS = 1e9
REAL_FLOPS_PER_S = 4e14
REAL_TOKENS_PER_STEP = 2**19
"""Of one party."""
STEPS_PER_ROUND = 50
STEP_S = 0.4
"""A step of the scaled party; the real one takes 6 x 1e9 x 2^19 / 4e14 = 7.9 s."""
PARTIES = 4
ROUNDS = 3

TOPK = CodecConfig(kind="topk", density=1 / 64)
AVERAGE = OuterConfig(kind="average", learning_rate=1.0)


def with_model(recipe: Recipe, steps: int, **model: int) -> Recipe:
    """The simulated recipe with another model and length."""
    table = recipe.to_dict()
    table["model"] = {**table["model"], **model}
    return dataclasses.replace(
        parse_recipe(table), schedule=dataclasses.replace(recipe.schedule, steps=steps)
    )


def scaled_link(recipe: Recipe, bandwidth_bits_per_s: float, latency_s: float) -> Link:
    """The link at which the small model's payload takes as large a share of its round as the 1B
    model's takes of its own; the latency is not scaled, so it weighs more than in reality."""
    real_step_s = 6 * REAL_PARAMETERS * REAL_TOKENS_PER_STEP / REAL_FLOPS_PER_S
    parameters = model_counts(recipe.model, recipe.batch.sequence_length).parameters
    scale = parameters / REAL_PARAMETERS * real_step_s / STEP_S
    return Link(
        bandwidth_bytes_per_s=bandwidth_bits_per_s / 8 * scale,
        latency_s=latency_s,
        emulated=True,
        source="emulated",
    )


def utilisation(bandwidth_bits_per_s: float, latency_s: float = 0.05) -> dict[str, Any]:
    """Four parties on such links: the share of the time in which their chips compute."""
    recipe, data = simulated_text(lambda text: None)
    recipe = with_model(recipe, ROUNDS * STEPS_PER_ROUND, layers=4, width=128, heads=4)
    link = scaled_link(recipe, bandwidth_bits_per_s, latency_s)
    flops = model_counts(recipe.model, recipe.batch.sequence_length).flops_per_token
    rate = flops * recipe.tokens_per_step / STEP_S
    terms = Terms(
        round=RoundTerms(
            local_steps=STEPS_PER_ROUND, delay_steps=10, quorum=PARTIES, reviews=2, grace_s=8.0,
            snapshot_every=1000,
        ),
        codec=TOPK, outer=AVERAGE,
    )  # fmt: skip
    runs = run_parties(recipe, data, terms, [rate] * PARTIES, link)
    shares = [run["computing_s"] / run["until_last_step_s"] for run in runs]
    updates = [event for run in runs for event in run["updates"]]
    seconds, paused = (sum(event[key] for event in updates) for key in ("seconds", "paused_s"))
    return {
        "bandwidth_bits_per_s": bandwidth_bits_per_s,
        "latency_s": latency_s,
        "scaled_bandwidth_bytes_per_s": link.bandwidth_bytes_per_s,
        "payload_bytes": updates[0]["bytes"],
        "payload_of_the_1b_model_bytes": updates[0]["bytes"] * REAL_PARAMETERS
        / model_counts(recipe.model, recipe.batch.sequence_length).parameters,
        "utilisation": sum(shares) / len(shares),
        "worst_party": min(shares),
        "training_not_paused": seconds / (seconds + paused),
        "digests_equal": len({run["digest"] for run in runs}) == 1,
        "source": "emulated",
    }  # fmt: skip


def run_parties(
    recipe: Recipe, data: PreparedData, terms: Terms, rates: list[float], link: Link | None
) -> list[dict[str, Any]]:
    """A federation of small processes from founding to end; what each party said at its end."""
    with tempfile.TemporaryDirectory(prefix="motley-links-") as name:
        base = Path(name)
        identities = [new_identity(f"party-{index}") for index in range(len(rates))]
        place = base / "store"
        federation = apart(
            lambda: found_simulated(
                open_store(str(place), create=True), recipe, data, terms, identities
            ),
            base / "founded.json",
        )
        spec = FederationSpec(
            store=place,
            federation=federation,
            recipe=recipe,
            data=data,
            wrap=(lambda store: ShapedStore(store, link)) if link else (lambda store: store),
        )
        parties = [
            PartySpec(identity=each, folder=base / each.party, seed=index, flops_per_s=rates[index])
            for index, each in enumerate(identities)
        ]
        for party in parties:
            party.folder.mkdir()
        wait_all([start_party(spec, party) for party in parties])
        return [_ending(events_of(party), party.folder) for party in parties]


def wait_all(processes: list[int]) -> None:
    import os

    for process in processes:
        os.waitpid(process, 0)


def _ending(events: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    ends = [event for event in events if event["event"] == "finished"]
    if not ends:
        trace = folder / "trace.txt"
        raise RuntimeError(trace.read_text() if trace.exists() else str(events[-1]))
    return {**ends[0], "updates": [e for e in events if e["event"] == "federation_update"]}


def round_overhead(payload_bytes: float = 100e6) -> dict[str, Any]:
    """Two parties with fp32 payloads of 100 MB in a folder: how long their training stands still
    for a round, and how long the payload is on its way beside it."""
    recipe, data = simulated_text(lambda text: None)
    recipe = with_model(recipe, 3 * 10, layers=8, width=504, heads=8)
    terms = Terms(
        round=RoundTerms(
            local_steps=10, delay_steps=4, quorum=2, reviews=2, grace_s=20.0, snapshot_every=1000
        ),
        codec=CodecConfig(kind="fp32"),
        outer=OuterConfig(kind="nesterov", learning_rate=0.7, momentum=0.9),
    )
    runs = run_parties(recipe, data, terms, [1e15] * 2, None)
    updates = [event for run in runs for event in run["updates"]]
    return {
        "payload_bytes": updates[0]["bytes"],
        "paused_s": max(event["paused_s"] for event in updates[2:]),
        "digests_equal": len({run["digest"] for run in runs}) == 1,
        "source": "measured",
    }


def mixed_cluster(name: str, speed: float) -> Cluster:
    """Two unlike emulated chips, 3 : 1, which together have that rate."""
    chips = tuple(
        Chip(
            name=f"{name}-{kind}",
            kind=f"emulated-{kind}",
            emulated=True,
            precision="fp32",
            flops_per_s={"fp32": share * speed},
            memory_bytes=10**9,
            memory_bandwidth_bytes_per_s=1e12,
            source="emulated",
        )
        for kind, share in (("strong", 0.75), ("weak", 0.25))
    )
    link = Link(bandwidth_bytes_per_s=1e9, latency_s=1e-4, emulated=True, source="emulated")
    return Cluster(name=name, chips=chips, links=(link,))


def mixed_efficiency(unit_flops_per_s: float = 2.5e8) -> dict[str, Any]:
    """Parties of speeds 4 : 2 : 1 : 1, each of two unlike chips, against what each does alone.

    Eight processes and four launchers share this machine: at 7e8 FLOP/s for a party of speed 1 two
    cores did not keep up (0.88; the fast party alone had 3.2 times the slow one's rate)."""
    speeds = {"a": 4, "b": 2, "c": 1, "d": 1}
    recipe, data = simulated_text(lambda text: None)
    recipe = dataclasses.replace(
        recipe,
        batch=dataclasses.replace(recipe.batch, global_batch=16),
        schedule=dataclasses.replace(recipe.schedule, steps=4 * 24),
    )
    clusters = {name: mixed_cluster(name, unit_flops_per_s * s) for name, s in speeds.items()}
    alone: dict[int, float] = {}
    short = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, steps=20))
    for name, speed in speeds.items():
        if speed not in alone:
            plan = search(short, clusters[name])
            alone[speed] = run_plan(short, clusters[name], plan, data).tokens_per_s
            say(f"  speed {speed} alone: {alone[speed]:.0f} tokens/s")
    total = sum(alone[speed] for speed in speeds.values())
    together = _joined_tokens_per_s(recipe, data, clusters)
    return {
        "speeds": list(speeds.values()),
        "mixed_efficiency": sum(together.values()) / total,
        "tokens_per_s": together,
        "sum_alone_tokens_per_s": total,
        "source": "emulated",
    }


def _joined_tokens_per_s(
    recipe: Recipe, data: PreparedData, clusters: dict[str, Cluster]
) -> dict[str, float]:
    """Each party as `motley federation join` runs it; its rate from its first step to its last."""
    terms = Terms(
        round=RoundTerms(
            local_steps=24, delay_steps=4, quorum=len(clusters), reviews=2, grace_s=20.0
        ),
        codec=TOPK,
        outer=AVERAGE,
    )
    with tempfile.TemporaryDirectory(prefix="motley-mixed-") as name:
        base = Path(name)
        identities = {each: new_identity(f"party-{each}") for each in clusters}
        store = open_store(str(base / "store"), create=True)
        federation = found_simulated(store, recipe, data, terms, list(identities.values()))
        running = []
        for number, (each, cluster) in enumerate(clusters.items()):
            key = base / f"{each}.key"
            save_identity(identities[each], key)
            config = PartyConfig(store=str(base / "store"), federation=federation, key=str(key))
            own = dataclasses.replace(recipe, seed=number)
            folder = join(config, own, cluster, base / each, lambda text: None)
            running.append((each, start(folder, WORKER)))
        for _, job in running:
            job.finish()
        return {each: _rate(read_events(job.folder.events)) for each, job in running}


def _rate(events: list[dict[str, Any]]) -> float:
    """Tokens/s from the end of the first step to that of the last, the last round's wait left out:
    nobody waits in it but for the end."""
    steps = [event for event in events if event["event"] == "step"]
    tokens = sum(event["tokens"] for event in steps[1:])
    return float(tokens / (steps[-1]["time"] - steps[0]["time"]))


def payload_share() -> float:
    """Bits per parameter of the codec that the links are measured with."""
    return build_codec(TOPK).bits_per_parameter
