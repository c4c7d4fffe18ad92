"""What a party keeps of what it has fetched: real folders, real rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from federation_cases import Clock, Federation, federation, terms
from motley.federation.log.view import View
from motley.federation.party.correspondence import Correspondence
from motley.federation.party.rounds import Member
from motley.federation.party.trained import Trained
from motley.federation.state.state import GlobalState

EVERY, STALENESS = 3, 1


def line(made: Federation, name: str, cache: Path) -> Correspondence:
    """A new process of a party, with a folder for downloads."""
    member = Member(made.store, made.identities[name], made.digest, cache=cache, clock=made.clock)
    correspondence = Correspondence(member, chips={"cpu": 1}, cache=cache)
    correspondence.open()
    return correspondence


def trained(state: GlobalState, round_: int, seed: int) -> Trained:
    """A change that has much in common with those of the others."""
    common = torch.Generator().manual_seed(1000 + round_)
    own = torch.Generator().manual_seed(100 * round_ + seed)
    local = {
        name: value
        + 0.1 * torch.randn(value.shape, generator=common)
        + 0.03 * torch.randn(value.shape, generator=own)
        for name, value in state.parameters.items()
    }
    return Trained(round=round_, local=local, tokens=100, steps=10, seconds=1.0, loss=2.0)


def run_round(lines: dict[str, Correspondence], clock: Clock, round_: int) -> None:
    for seed, each in enumerate(lines.values()):
        assert each.submit(trained(each.state, round_, seed))
    waiting = list(lines.values())
    for _ in range(40):
        for each in list(waiting):
            each.turn()
            if each.last_sealed is not None and each.last_sealed.round == round_:
                waiting.remove(each)
        if not waiting:
            return
        clock.wait(0.5)
    raise AssertionError("the round is not sealed")


def flush(lines: dict[str, Correspondence]) -> None:
    """Until the stored states are named in the log."""
    while any(not each.is_flushed() for each in lines.values()):
        for each in lines.values():
            each.turn()


@pytest.fixture
def made() -> Federation:
    return federation("a", "b", chosen=terms(snapshot_every=EVERY, staleness=STALENESS))


def rounds_in(cache: Path) -> list[int]:
    return sorted(int(path.name) for path in cache.iterdir())


def stored_state(made: Federation) -> int:
    """The round before which the newest stored state is, as the chain confirms it."""
    view = View(made.store)
    view.refresh()
    return max((snapshot.round for snapshot in view.snapshots()), default=0)


def test_downloads_stay_as_long_as_a_resume_or_a_late_update_needs_them(
    made: Federation, tmp_path: Path
) -> None:
    caches = {name: tmp_path / name for name in ("a", "b")}
    lines = {name: line(made, name, cache) for name, cache in caches.items()}
    most = 0
    for round_ in range(4 * EVERY):
        run_round(lines, made.clock, round_)
        flush(lines)
        for cache in caches.values():
            kept = rounds_in(cache)
            assert kept == list(range(kept[0], round_ + 1)), "none between is lacking"
            assert kept[0] <= max(0, stored_state(made) - STALENESS)
            most = max(most, len(kept))
    assert most <= 2 * EVERY + STALENESS
    calls = made.store.traffic.received_bytes
    cold = line(made, "b", tmp_path / "elsewhere")
    without = made.store.traffic.received_bytes - calls
    again = line(made, "b", caches["b"])
    warm = made.store.traffic.received_bytes - calls - without
    assert again.state.digest() == cold.state.digest() == lines["a"].state.digest()
    assert warm < without


def test_a_new_process_deletes_what_an_earlier_one_has_left(
    made: Federation, tmp_path: Path
) -> None:
    lines = {name: line(made, name, tmp_path / name) for name in ("a", "b")}
    for round_ in range(2 * EVERY + 1):
        run_round(lines, made.clock, round_)
        flush(lines)
    cache = tmp_path / "a"
    digest = "1" * 64
    newest = cache / f"{2 * EVERY:08d}"
    left = [
        cache / digest,
        cache / f"{digest}.77-5.partial",
        cache / "00000000" / digest,
        newest / f"{digest}.77-5.partial",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left")
    kept = set(newest.iterdir()) - set(left)
    line(made, "a", cache)
    assert not [path for path in left if path.exists()]
    assert kept
    assert kept <= set(newest.iterdir())


def test_a_party_that_is_behind_keeps_what_it_has_not_taken_in(
    made: Federation, tmp_path: Path
) -> None:
    """A stored state newer than its own leaves it what it has fetched for its next round."""
    lines = {name: line(made, name, tmp_path / name) for name in ("a", "b")}
    run_round(lines, made.clock, 0)
    behind = line(made, "b", tmp_path / "b")
    lines["b"] = line(made, "b", tmp_path / "other")
    last = EVERY + STALENESS + 2
    for round_ in range(1, last + 1):
        run_round(lines, made.clock, round_)
        flush(lines)
    assert stored_state(made) - STALENESS > 2
    downloads = tmp_path / "b"
    for round_ in range(1, last + 1):
        assert behind.turn()
        assert round_ in rounds_in(downloads)
    assert behind.state.digest() == lines["a"].state.digest()
