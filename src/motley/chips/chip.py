"""A chip and a link as planner and trainer see them: rates, memory and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from motley.chips.efficiency import Efficiency
from motley.schema import require_positive
from motley.units import Precision, Source


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator or CPU that PyTorch sees as one device, or an emulated one."""

    name: str
    """Unique in its cluster; plans and messages name chips by it."""
    kind: str
    """The catalog id, or what the probe saw. Chips of one kind are interchangeable."""
    node: str = "local"
    device: str = "cpu"
    """The PyTorch device, such as "cuda:1"."""
    emulated: bool = False
    """Held to the declared rate, memory and links by counted work."""
    precision: Precision = "fp32"
    """The training dtype of its matmuls."""
    flops_per_s: Mapping[Precision, float]
    """Sustained dense matmul rate by precision."""
    training_efficiency: float = 1.0
    """Share of `flops_per_s` that whole transformer layers reach; 1.0 on an emulated chip."""
    efficiency: Efficiency | None = None
    """What kernels reach, for a chip known from quoted figures. Unset, `training_efficiency` holds
    for all work alike: of an emulated chip, or one whose layers were measured."""
    memory_bytes: int
    """What training may use; not what the datasheet says."""
    memory_bandwidth_bytes_per_s: float
    usd_per_hour: float | None = None
    source: Source = "measured"
    """Where the figures come from."""

    def __post_init__(self) -> None:
        require_positive(
            self, "memory_bytes", "memory_bandwidth_bytes_per_s", "training_efficiency"
        )
        if self.usd_per_hour is not None and self.usd_per_hour < 0:
            raise ValueError(f"usd_per_hour: must not be negative, found {self.usd_per_hour}")
        for precision, rate in self.flops_per_s.items():
            if not rate > 0:
                raise ValueError(f"flops_per_s.{precision}: must be above zero, found {rate}")
        if self.precision not in self.flops_per_s:
            raise ValueError(
                f"precision: '{self.precision}' has no rate in flops_per_s of chip '{self.name}'"
            )

    @property
    def training_flops_per_s(self) -> float:
        """FLOP/s that training layers reach in the chip's own precision."""
        return self.flops_per_s[self.precision] * self.training_efficiency

    def seconds(self, flops: float, num_bytes: float = 0.0) -> float:
        """Time of work that does `flops` and moves `num_bytes` in memory: the slower of the two.

        The roofline of Williams, Waterman and Patterson (CACM 2009).
        """
        by_compute = flops / self.training_flops_per_s
        return max(by_compute, num_bytes / self.memory_bandwidth_bytes_per_s)


@dataclass(frozen=True, kw_only=True)
class Link:
    """The path between two chips, in one direction."""

    between: tuple[str, str] = field(default=("*", "*"))
    """Two names of chips or nodes, in any order; "*" stands for all."""
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    emulated: bool = False
    """Held to the declared bandwidth and latency."""
    source: Source = "measured"

    def __post_init__(self) -> None:
        require_positive(self, "bandwidth_bytes_per_s")
        if self.latency_s < 0:
            raise ValueError(f"latency_s: must not be negative, found {self.latency_s}")
        if len(self.between) != 2:
            raise ValueError(f"between: needs two names, found {len(self.between)}")

    def seconds(self, num_bytes: float) -> float:
        """Time to move `num_bytes` over this link, alone."""
        return self.latency_s + num_bytes / self.bandwidth_bytes_per_s
