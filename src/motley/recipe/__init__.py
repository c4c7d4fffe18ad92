"""What is trained and how, from `recipe.toml`.

The recipe alone fixes the mathematics: model, data, global batch, order of samples, optimizer and
schedule. No plan and no cluster changes any of it.
"""

from motley.recipe.data import BatchConfig, DataConfig
from motley.recipe.growth import GrowthConfig
from motley.recipe.optimizer import OptimizerConfig
from motley.recipe.read import load_recipe, parse_recipe
from motley.recipe.recipe import Recipe
from motley.recipe.schedule import ScheduleConfig
from motley.recipe.selection import SelectionConfig
from motley.recipe.upkeep import CheckpointConfig, ValidationConfig

__all__ = [
    "BatchConfig",
    "CheckpointConfig",
    "DataConfig",
    "GrowthConfig",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "SelectionConfig",
    "ValidationConfig",
    "load_recipe",
    "parse_recipe",
]
