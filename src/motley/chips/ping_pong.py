"""The ping-pong that measures links: messages go back and forth between two ranks.

Messages go over `torch.distributed`, as they do in training: gloo over host memory, or the
library of one kind of accelerator. A time is half of a round trip, the median over repetitions.
The first rank of a pair keeps the time and announces each size and its number of rounds.
"""

from __future__ import annotations

import datetime
import itertools
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from motley.chips.chip import Link
from motley.chips.link_fit import LinkPoint, fit_link
from motley.errors import ProbeError
from motley.units import duration, si, size

if TYPE_CHECKING:
    import torch

MESSAGE_SIZES = tuple(2**exponent for exponent in range(10, 27, 2))
"""1 KiB to 64 MiB."""
DEFAULT_SECONDS = 3.0
"""For one pair; no larger message is tried than fits."""
MIN_ROUNDS = 3
MAX_ROUNDS = 200
MIN_SIZES = 2


@dataclass(frozen=True)
class LinkMeasurement:
    """The link between two ranks, and the points that it was fitted to."""

    ranks: tuple[int, int]
    link: Link
    points: tuple[LinkPoint, ...]

    def table(self) -> list[str]:
        """One line per message size."""
        return [
            f"{size(point.num_bytes):>8}  {duration(point.seconds):>8}  "
            f"{si(point.bandwidth_bytes_per_s, 'B/s'):>10}  {point.num_messages} messages"
            for point in self.points
        ]


def measure_pairs(
    names: Sequence[str],
    device: torch.device,
    seconds: float = DEFAULT_SECONDS,
    sizes: Sequence[int] = MESSAGE_SIZES,
) -> list[LinkMeasurement]:
    """Measures every pair of ranks of the initialised process group, one pair after the other.

    All ranks call it; `names` names them. Rank 0 gets all measurements, the others none.
    `ProbeError` names the rank that does not answer.
    """
    import torch.distributed as dist

    rank = dist.get_rank()
    own: list[LinkMeasurement] = []
    for first, second in itertools.combinations(range(dist.get_world_size()), 2):
        if rank == first:
            points = _ask(second, names, device, seconds, sizes)
            bandwidth, latency = fit_link(points)
            link = Link(
                between=(names[first], names[second]),
                bandwidth_bytes_per_s=_digits(bandwidth),
                latency_s=_digits(latency),
            )
            own.append(LinkMeasurement((first, second), link, tuple(points)))
        elif rank == second:
            _answer(first, names, device)
        _speak(names[rank], dist.barrier)
    gathered: list[list[LinkMeasurement]] = [[] for _ in names]
    _speak(names[rank], partial(dist.all_gather_object, gathered, own))
    return list(itertools.chain(*gathered)) if rank == 0 else []


def _digits(value: float) -> float:
    """Four significant digits: more would claim what repetitions do not show."""
    return float(f"{value:.4g}")


def _ask(
    peer: int,
    names: Sequence[str],
    device: torch.device,
    seconds: float,
    sizes: Sequence[int],
) -> list[LinkPoint]:
    """The side that keeps the time, until the sizes or the seconds run out."""
    deadline = time.perf_counter() + seconds
    points: list[LinkPoint] = []
    for num_bytes in sizes:
        left = deadline - time.perf_counter()
        growth = num_bytes / points[-1].num_bytes if points else 1.0
        expected_s = 2 * growth * points[-1].seconds if points else 0.0
        if len(points) >= MIN_SIZES and MIN_ROUNDS * expected_s > left:
            break
        share = left / (len(sizes) - len(points))
        num_rounds = round(share / expected_s) if expected_s else MAX_ROUNDS // 10
        num_rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, num_rounds))
        times = _rounds(peer, names, device, num_bytes, num_rounds)
        points.append(LinkPoint(num_bytes, statistics.median(times) / 2, num_rounds))
    _send_plan(peer, names, device, 0, 0)
    return points


def _rounds(
    peer: int, names: Sequence[str], device: torch.device, num_bytes: int, num_rounds: int
) -> list[float]:
    """Seconds of each round trip; one more goes ahead to warm up."""
    import torch
    import torch.distributed as dist

    from motley.chips.vendors import synchronize

    _send_plan(peer, names, device, num_bytes, num_rounds)
    message = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    times = []
    for _ in range(num_rounds + 1):
        synchronize(device)
        start = time.perf_counter()
        _speak(names[peer], partial(dist.send, message, peer))
        _speak(names[peer], partial(dist.recv, message, peer))
        synchronize(device)
        times.append(time.perf_counter() - start)
    return times[1:]


def _send_plan(
    peer: int, names: Sequence[str], device: torch.device, num_bytes: int, num_rounds: int
) -> None:
    import torch
    import torch.distributed as dist

    plan = torch.tensor([num_bytes, num_rounds], device=device)
    _speak(names[peer], partial(dist.send, plan, peer))


def _answer(peer: int, names: Sequence[str], device: torch.device) -> None:
    """The other side: sends back each message until the announced size is 0."""
    import torch
    import torch.distributed as dist

    plan = torch.zeros(2, dtype=torch.int64, device=device)
    while True:
        _speak(names[peer], partial(dist.recv, plan, peer))
        num_bytes, num_rounds = plan.tolist()
        if num_bytes == 0:
            return
        message = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        for _ in range(num_rounds + 1):
            _speak(names[peer], partial(dist.recv, message, peer))
            _speak(names[peer], partial(dist.send, message, peer))


def _speak(peer: str, action: Callable[[], object]) -> None:
    """Turns the time-out or lost connection of a message into one sentence."""
    try:
        action()
    except RuntimeError as cause:
        lines = str(cause).splitlines()
        raise ProbeError(
            f"{socket.gethostname()} got no answer from {peer}: {lines[0] if lines else cause}",
            remedy="Check that the process runs there and that no firewall stands between.",
        ) from cause


def join(backend: str, init_method: str, rank: int, num_ranks: int, timeout_s: float) -> None:
    """Joins the process group; `ProbeError` if it does not come together in time."""
    import torch.distributed as dist

    try:
        dist.init_process_group(
            backend,
            init_method=init_method,
            rank=rank,
            world_size=num_ranks,
            timeout=datetime.timedelta(seconds=timeout_s),
        )
    except RuntimeError as cause:
        lines = str(cause).splitlines()
        raise ProbeError(
            f"rank {rank} of {num_ranks} could not join the others within {duration(timeout_s)}: "
            f"{lines[0] if lines else cause}",
            remedy="Check that all processes were started and that the first node can be reached.",
        ) from cause
