"""A chip and a link as planner and trainer see them: rates, memory and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from motley.chips.efficiency import Efficiency
from motley.schema import require_positive
from motley.units import Precision, Source

DEFAULT_SITE = "local"


def require_price(instance: object, name: str) -> None:
    """`ValueError` for a price that is not above zero."""
    price = getattr(instance, name)
    if price is not None and not price > 0:
        raise ValueError(
            f"{name}: a price must be above zero, found {price}; leave out one that is not known"
        )


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator or CPU that PyTorch sees as one device, or an emulated one."""

    name: str
    """Unique in its cluster; plans and messages name chips by it."""
    kind: str
    """The catalog id, or what the probe saw. Chips of one kind are interchangeable."""
    node: str = "local"
    site: str = DEFAULT_SITE
    """The place of the node."""
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
    time_scale: float = 1.0
    """Time that whole training steps took on the chip over what its other figures predict, as
    `motley calibrate` finds it; 1.0 on an emulated chip, whose figures hold exactly."""
    memory_bytes: int
    """What training may use; not what the datasheet says."""
    memory_bandwidth_bytes_per_s: float
    usd_per_hour: float | None = None
    """What the chip costs; unset is unknown, not free."""
    price_source: str | None = None
    """Where and when that price was found; unset for one that the user gave without."""
    power_w: float | None = None
    """Of the board under load; unset is unknown."""
    source: Source = "measured"
    """Where the figures come from."""

    def __post_init__(self) -> None:
        require_positive(
            self, "memory_bytes", "memory_bandwidth_bytes_per_s", "training_efficiency", "power_w"
        )
        require_positive(self, "time_scale")
        if self.emulated and self.time_scale != 1.0:
            raise ValueError("time_scale: an emulated chip is held to its figures; leave it out")
        require_price(self, "usd_per_hour")
        if self.price_source is not None and self.usd_per_hour is None:
            raise ValueError("price_source: of a price that is not given; give usd_per_hour")
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
        return self.flops_per_s[self.precision] * self.training_efficiency / self.time_scale

    def seconds(self, flops: float, num_bytes: float = 0.0) -> float:
        """Time of work that does `flops` and moves `num_bytes` in memory: the slower of the two.

        The roofline of Williams, Waterman and Patterson (CACM 2009).
        """
        by_compute = flops / self.training_flops_per_s
        by_memory = self.time_scale * num_bytes / self.memory_bandwidth_bytes_per_s
        return max(by_compute, by_memory)


@dataclass(frozen=True, kw_only=True)
class Link:
    """The path between two chips, in one direction."""

    between: tuple[str, str] = field(default=("*", "*"))
    """Two names of chips, nodes or sites, in any order; "*" stands for all."""
    kind: str = ""
    """What it is, such as "NVLink 3"; empty if nobody said."""
    bandwidth_bytes_per_s: float
    """Of a chip inside a node; of the whole node between nodes; of all between sites."""
    latency_s: float = 0.0
    usd_per_gb: float | None = None
    """Price of 10^9 bytes sent; unset is unknown, not free."""
    unmetered: bool = False
    """Nothing is paid by the byte."""
    price_source: str | None = None
    """Where and when that price was found."""
    emulated: bool = False
    """Held to the declared bandwidth and latency."""
    source: Source = "measured"
    origin: str | None = None
    """The page of a quoted bandwidth."""

    def __post_init__(self) -> None:
        require_positive(self, "bandwidth_bytes_per_s")
        require_price(self, "usd_per_gb")
        if self.price_source is not None and self.usd_per_gb is None:
            raise ValueError("price_source: of a price that is not given; give usd_per_gb")
        if self.unmetered and self.usd_per_gb is not None:
            raise ValueError("unmetered: contradicts usd_per_gb")
        if self.latency_s < 0:
            raise ValueError(f"latency_s: must not be negative, found {self.latency_s}")
        if len(self.between) != 2:
            raise ValueError(f"between: needs two names, found {len(self.between)}")

    def seconds(self, num_bytes: float) -> float:
        """Time to move `num_bytes` over this link, alone."""
        return self.latency_s + num_bytes / self.bandwidth_bytes_per_s
