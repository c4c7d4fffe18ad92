"""Many parties on one machine: how a federation behaves and grows before anyone joins it.

    motley federation simulate --parties 256

Every party is a whole member with a key, a state and an optimizer of its own. They take turns on
one engine that trains a tiny model on real text, and they correspond through a real store.
"""

from __future__ import annotations

import dataclasses
import email
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from motley.data import PreparedData, SampleSource
from motley.federation.charter.charter import MemberKey, SharedRecipe
from motley.federation.charter.terms import OuterConfig, RoundTerms, Terms
from motley.federation.codec import CodecConfig
from motley.federation.founding import found
from motley.federation.keys.identity import Identity, new_identity
from motley.federation.party.correspondence import Correspondence
from motley.federation.party.lone import lone_engine, lone_process, optimizer_state
from motley.federation.party.pace import steps_between
from motley.federation.party.rounds import Member
from motley.federation.party.trained import Trained
from motley.federation.state.state import GlobalState
from motley.federation.storage.store import Store
from motley.model.transformer import build_transformer
from motley.optim.schedule import learning_rate
from motley.recipe import Recipe, parse_recipe
from motley.train.engine import Engine
from motley.train.prepare import prepare_data
from motley.train.whole import WholeModel

Report = Callable[[str], None]

RECIPE: dict[str, Any] = {
    "name": "simulated",
    "model": {"layers": 2, "width": 32, "heads": 2, "context": 32},
    "data": {"vocab_size": 512, "held_out_share": 0.2},
    "batch": {"sequence_length": 32, "global_batch": 4},
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"steps": 1000, "warmup_steps": 5, "decay": "constant"},
}
"""Forty thousand parameters: a step takes milliseconds."""


def simulated_terms(num_parties: int, local_steps: int) -> Terms:
    """Every party is waited for; what a round costs is then that of all of them."""
    return Terms(
        name="simulated",
        round=RoundTerms(
            local_steps=local_steps,
            quorum=num_parties,
            reviews=min(3, num_parties),
            grace_s=10.0,
        ),
        codec=CodecConfig(kind="topk"),
        outer=OuterConfig(kind="average", learning_rate=1.0),
    )


def simulated_text(report: Report) -> tuple[Recipe, PreparedData]:
    """The interpreter's own json and email packages."""
    sources = [str(Path(module.__file__ or "").parent) for module in (json, email)]
    table = {**RECIPE, "data": {**RECIPE["data"], "corpus": sources}}
    return prepare_data(parse_recipe(table), report)


def found_simulated(
    store: Store, recipe: Recipe, data: PreparedData, terms: Terms, identities: Sequence[Identity]
) -> str:
    """A federation of these parties in `store`; the charter's digest."""
    state = GlobalState(terms, build_transformer(recipe.model, seed=recipe.seed).state())
    _, digest = found(
        store,
        state,
        SharedRecipe(
            model=recipe.model,
            sequence_length=recipe.batch.sequence_length,
            optimizer=recipe.optimizer,
            schedule=recipe.schedule,
        ),
        (data.tokenizer.digest, (data.folder / "tokenizer.json").read_bytes()),
        identities[0],
        [MemberKey(name=each.party, public_key=each.public_key) for each in identities],
    )
    return digest


@dataclass
class _Party:
    """One of the parties between its turns on the engine."""

    correspondence: Correspondence
    samples: SampleSource
    parameters: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    round: int = 0

    def take_news(self) -> None:
        """What has come, into the party's own parameters."""
        while (news := self.correspondence.news()) is not None:
            for name, change in news.change.items():
                own = self.parameters.get(name)
                self.parameters[name] = change if news.keep == 0.0 or own is None else own + change
            self.round = news.round


@dataclass(frozen=True, kw_only=True)
class SimulatedRound:
    """What one round took and left. Seconds are of the processor, on this machine."""

    round: int
    training_s: float
    correspondence_s: float
    """Of all parties: publish, review, seal, apply."""
    loss: float
    """Mean over the parties in nats per token."""
    log_bytes: int
    """Control objects and payloads that the round added."""
    accepted: int
    digests: list[str]
    """Of the parties' states after the round: one, if none has diverged."""


@dataclass(kw_only=True)
class Simulation:
    """Parties that take turns. `run_round` is one round of all of them."""

    federation: str
    """Digest of the charter."""
    parties: list[_Party]
    store: Store
    terms: Terms
    recipe: Recipe
    engine: Engine
    whole: WholeModel

    def run_round(self) -> SimulatedRound:
        """Every party trains and publishes, then all take turns until all have the new state."""
        sent_before = self.store.traffic.sent_bytes
        round_ = self.parties[0].round
        began = time.process_time()
        work = [self._train(party) for party in self.parties]
        trained = time.process_time()
        for party, each in zip(self.parties, work, strict=True):
            party.correspondence.submit(each)
        while any(party.round == round_ for party in self.parties):
            for party in self.parties:
                party.correspondence.turn()
                party.take_news()
        ended = time.process_time()
        digests = sorted({party.correspondence.state.digest() for party in self.parties})
        sealed = self.parties[0].correspondence.last_sealed
        assert sealed is not None
        losses = [each.loss for each in work if each.loss is not None]
        return SimulatedRound(
            round=round_,
            training_s=trained - began,
            correspondence_s=ended - trained,
            loss=sum(losses) / max(1, len(losses)),
            log_bytes=self.store.traffic.sent_bytes - sent_before,
            accepted=len(sealed.accepted),
            digests=digests,
        )

    def _train(self, party: _Party) -> Trained:
        """The party's local steps, on the engine that all share."""
        self.whole.change(party.parameters, keep=0.0)
        live = optimizer_state(self.engine)
        for name, value in party.moments.items():
            live[name].copy_(value)
        began, loss_sum, tokens = time.monotonic(), 0.0, 0
        steps = steps_between(self.terms.round)
        for _ in range(steps):
            rate = learning_rate(
                self.recipe.optimizer.learning_rate, self.recipe.schedule, party.steps
            )
            result = self.engine.train_step(party.steps, party.samples, rate=rate, stop=False)
            party.steps += 1
            loss_sum += result.loss * result.num_targets
            tokens += result.num_targets
        party.moments = {name: value.clone() for name, value in live.items()}
        party.parameters = self.whole.gather()
        return Trained(
            round=party.round,
            local=party.parameters,
            tokens=tokens,
            steps=steps,
            seconds=time.monotonic() - began,
            loss=loss_sum / tokens,
        )


def begin_simulation(store: Store, num_parties: int, terms: Terms, report: Report) -> Simulation:
    """Founds a federation of so many parties, all of which have come in. In a `lone_process`."""
    recipe, data = simulated_text(report)
    identities = [new_identity(f"party-{index:05d}") for index in range(num_parties)]
    federation = found_simulated(store, recipe, data, terms, identities)
    engine = lone_engine(recipe)
    fresh = {name: value.clone() for name, value in optimizer_state(engine).items()}
    parties = []
    for index, identity in enumerate(identities):
        correspondence = Correspondence(Member(store, identity, federation), chips={"emulated": 1})
        correspondence.open()
        samples = SampleSource(data.train, recipe.batch.sequence_length, seed=index)
        party = _Party(correspondence, samples, moments=dict(fresh))
        party.take_news()
        parties.append(party)
    return Simulation(
        federation=federation,
        parties=parties,
        store=store,
        terms=terms,
        recipe=recipe,
        engine=engine,
        whole=WholeModel(engine),
    )


def simulate(
    store: Store, num_parties: int, num_rounds: int, local_steps: int, report: Report
) -> dict[str, Any]:
    """Runs a federation of that many parties and sums up what its rounds took."""
    terms = simulated_terms(num_parties, local_steps)
    rounds = []
    with lone_process():
        simulation = begin_simulation(store, num_parties, terms, report)
        for _ in range(num_rounds):
            done = simulation.run_round()
            rounds.append(done)
            report(
                f"round {done.round}: {done.accepted} of {num_parties} updates, "
                f"loss {done.loss:.3f}, "
                f"{done.correspondence_s / num_parties * 1e3:.0f} ms per party beside the "
                f"training, {done.log_bytes / num_parties:.0f} bytes of log per party"
            )
    count = max(1, len(rounds))
    return {
        "parties": num_parties,
        "federation": simulation.federation,
        "rounds": [dataclasses.asdict(each) for each in rounds],
        "seal_s_per_party": sum(each.correspondence_s for each in rounds) / count / num_parties,
        "log_bytes_per_party": sum(each.log_bytes for each in rounds) / count / num_parties,
        "digests_equal": all(len(each.digests) == 1 for each in rounds),
        "source": "measured",
    }
