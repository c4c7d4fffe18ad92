"""What a chip can do: public facts, measurements, one interface to every PyTorch backend."""

from motley.chips.catalog import CatalogChip, catalog, look_up
from motley.chips.chip import Chip, Link

__all__ = ["CatalogChip", "Chip", "Link", "catalog", "look_up"]
