"""What a founder chooses for a federation: the tables of `federation.toml`, and their place in the
charter. Everything that changes the mathematics between parties stands here; nothing depends on
a party's chips."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from motley.errors import TermsError
from motley.federation.codec import CodecConfig
from motley.schema import build, load_toml, require_positive

AGREEING_REVIEWS = 2
"""So many that say the same seal a round: where one reviewer is dishonest, the other is not."""


@dataclass(frozen=True, kw_only=True)
class RoundTerms:
    """How rounds run."""

    local_steps: int = 100
    """Optimizer steps between two turns of one fragment (H)."""
    fragments: int = 1
    """Parts of the parameters that are synchronised in turn (P); must divide `local_steps`."""
    delay_steps: int = 0
    """Steps that a party trains on before it takes in the new state (tau)."""
    mixing: float = 1.0
    """Share of the new state that is taken in; the rest stays the party's own (alpha)."""
    quorum: int = 2
    """Updates of a round without which it is not sealed."""
    reviews: int | None = None
    """Reviews without which a round is not sealed; 2f + 1 outvote f dishonest ones. Unset: two that
    say the same, or else three, as far as quorum and members allow."""
    grace_s: float = 30.0
    """What parties wait for the slower ones once the quorum is there."""
    staleness: int = 2
    """Turns of its fragment for which a late update still counts."""
    snapshot_every: int = 10
    """Rounds between stored states, for those who join."""

    def __post_init__(self) -> None:
        require_positive(
            self, "local_steps", "fragments", "mixing", "quorum", "reviews", "snapshot_every"
        )
        if self.local_steps % self.fragments:
            raise ValueError(f"fragments: {self.fragments} do not divide {self.local_steps} steps")
        if not 0 <= self.delay_steps < self.local_steps // self.fragments:
            raise ValueError("delay_steps: must be fewer than the steps between rounds")
        if self.mixing > 1:
            raise ValueError(f"mixing: must be at most 1, found {self.mixing}")
        if self.reviews is not None and self.reviews > self.quorum:
            raise ValueError(
                f"reviews: {self.reviews} cannot be had where quorum = {self.quorum} parties may "
                "be all that are there: raise quorum to it, or leave reviews out"
            )
        if self.grace_s < 0 or not 0 <= self.staleness <= 1000:
            raise ValueError("staleness, grace_s: must not be negative, nor above 1000 turns")

    @property
    def _agreeing(self) -> int:
        return min(self.quorum, AGREEING_REVIEWS)

    def needed_reviews(self, num_members: int) -> int:
        """Without which no round of so many active members is sealed."""
        return min(self.reviews or self._agreeing, num_members)

    def settling_reviews(self, num_members: int) -> int:
        """That are enough whatever they say; fewer must say the same."""
        return min(self.reviews or 2 * self._agreeing - 1, num_members)

    def withstood(self, num_members: int) -> int:
        """Dishonest reviewers that the others outvote."""
        return (self.settling_reviews(num_members) - 1) // 2


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """The step that all parties take with the accepted updates."""

    kind: Literal["nesterov", "average"] = "average"
    learning_rate: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: must be in [0, 1), found {self.momentum}")


@dataclass(frozen=True, kw_only=True)
class AggregateConfig:
    """How accepted updates become one."""

    aggregate: Literal["mean", "trimmed_mean", "krum"] = "mean"
    assumed_attackers: int = 1
    """How many dishonest updates of a round `trimmed_mean` and `krum` are to withstand."""
    clip_to_median: bool = True
    """Scale updates down to the median of the accepted updates' norms."""

    def __post_init__(self) -> None:
        if self.assumed_attackers < 0:
            raise ValueError("assumed_attackers: must not be negative")


@dataclass(frozen=True, kw_only=True)
class DefenceConfig:
    """Which updates are refused."""

    max_norm_ratio: float = 10.0
    """Reject an update whose norm is more than this many times the median."""
    max_weight_ratio: float = 8.0
    """An update's weight is at most this many times the lower median of the tokens."""
    noise: bool = True
    """Reject an update that has no more in common with the others than noise has; to be turned off
    where the parties' texts have nothing in common."""
    loss_gate: float | None = None
    """How many times what the middle update of a round lowers a reviewer's held-out loss an update
    may raise it; unset asks for no held-out loss."""
    strikes: int = 3
    """Rejections after which a party is suspended until it is readmitted."""
    lapse: int = 50
    """Accepted updates in a row for which one strike is taken back."""

    def __post_init__(self) -> None:
        require_positive(self, "max_norm_ratio", "max_weight_ratio", "strikes", "lapse")
        if self.loss_gate is not None and self.loss_gate < 0:
            raise ValueError("loss_gate: must not be negative")
        if self.max_weight_ratio < 1:
            raise ValueError("max_weight_ratio: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """Differential privacy at the party: clip its update, then add Gaussian noise."""

    clip_norm: float
    noise_multiplier: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        require_positive(self, "clip_norm", "noise_multiplier", "delta")
        if self.delta >= 1:
            raise ValueError(f"delta: must be below 1, found {self.delta}")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a founder chooses; `federation.toml`."""

    name: str = "federation"
    round: RoundTerms = field(default_factory=RoundTerms)
    codec: CodecConfig = field(default_factory=CodecConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    aggregate: AggregateConfig = field(default_factory=AggregateConfig)
    defences: DefenceConfig = field(default_factory=DefenceConfig)
    privacy: PrivacyConfig | None = None
    admission: Literal["founder", "member"] = "founder"
    """Who may admit and remove parties: the founder alone, or any active member."""
    encrypted: bool = False
    """Whether payloads are encrypted with a group key."""

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 64 or not self.name.isprintable():
            raise ValueError("name: must be 1 to 64 printable characters")
        if self.codec.kind == "topk" and self.outer.kind == "nesterov":
            raise ValueError(
                "outer.kind: must be 'average' with the codec 'topk', whose error feedback is "
                "the momentum"
            )
        if self.codec.kind == "topk" and self.aggregate.aggregate == "trimmed_mean":
            raise ValueError(
                "aggregate.aggregate: a trimmed mean of 'topk' updates is nearly nothing, since "
                "most leave most values out"
            )


LEAST_ROUNDS = 30
"""In a training with fewer rounds parties hardly learn from each other."""
MOST_LOCAL_STEPS = 100
LEAST_SENDINGS = 4.0
"""Times that a value must be sent in a training, on average. Sparse updates of a training with 6 of
them cost 13 % of bits per byte in a pilot (164,000 parameters, density 1/64, 429 rounds)."""


def usual_terms(steps: int) -> tuple[Terms, str]:
    """What is chosen for a founder without terms, for a schedule of so many steps, and why.

    The outer step stays `average` with either codec. In a pilot (`int8`, 40,000 parameters, three
    parties, 30 and 120 rounds of 5 to 60 steps) the held-out loss of the shared model ended 0.3 to
    1.0 nats higher with `nesterov` at rate 0.7 and momentum 0.9.
    """
    local_steps = max(1, min(MOST_LOCAL_STEPS, steps // LEAST_ROUNDS))
    rounds = -(-steps // local_steps)
    sendings = rounds * CodecConfig().density
    is_sparse = sendings >= LEAST_SENDINGS
    terms = Terms(
        round=RoundTerms(local_steps=local_steps, delay_steps=local_steps // 10),
        codec=CodecConfig(kind="topk" if is_sparse else "int8"),
    )
    reason = f"{rounds} rounds of {local_steps} local steps each. Codec "
    if is_sparse:
        return terms, f"{reason}topk: it sends each value about {sendings:.0f} times."
    return (
        terms,
        f"{reason}int8: with topk most values would be sent {LEAST_SENDINGS:g} times at most.",
    )


def doubts(terms: Terms, steps: int) -> str | None:
    """What speaks against these terms for a schedule of so many steps."""
    rounds = -(-steps * terms.round.fragments // terms.round.local_steps)
    turns = rounds // terms.round.fragments
    if terms.codec.kind == "topk" and turns * terms.codec.density < LEAST_SENDINGS:
        return (
            f"with {turns} rounds and density {terms.codec.density:g} a value is sent "
            f"{turns * terms.codec.density:.1g} times on average: the shared model lags behind. "
            "Take fewer local_steps, a higher density, or codec 'int8' or 'int4'."
        )
    return None


def review_words(terms: RoundTerms, num_members: int) -> str:
    """How many dishonest reviewers so many members withstand, and what would withstand one."""
    needed, settling = terms.needed_reviews(num_members), terms.settling_reviews(num_members)
    reviews = f"{needed} that say the same, or {settling}" if needed < settling else str(settling)
    withstood = terms.withstood(num_members)
    text = (
        f"Reviews that seal a round: {reviews}. Dishonest reviewers that {num_members} members "
        f"withstand: {withstood or 'none'}."
    )
    if withstood:
        return text
    if num_members < 3 and terms.withstood(3):
        return f"{text} Three members withstand one; two cannot outvote each other."
    if terms.quorum == 1:
        return f"{text} With quorum = 1 each party may seal alone: take 2, and leave reviews out."
    return f"{text} Leave round.reviews = {terms.reviews} out, and one is withstood."


def load_terms(path: Path) -> Terms:
    """The terms of a TOML file; `TermsError` names the place of what is wrong."""
    terms = build(Terms, load_toml(path, TermsError), path.name, TermsError)
    if terms.privacy is not None and terms.defences.loss_gate is not None:
        raise TermsError(  # here alone: older charters may have both, and stay readable
            f"{path.name}.defences.loss_gate: not with [privacy], for each vote would tell of a "
            "party's held-out text, and no epsilon counts that.",
            remedy="Leave loss_gate out, or [privacy].",
        )
    return terms
