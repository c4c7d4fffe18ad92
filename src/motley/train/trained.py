"""A trained model back from its run: for sampling, and for whatever else needs it whole."""

from __future__ import annotations

from collections.abc import Callable

import torch

from motley.data import Tokenizer
from motley.errors import CheckpointError
from motley.model.generate import generate
from motley.model.table_config import TABLES
from motley.model.transformer import Transformer, build_transformer
from motley.train.checkpoint import load_state
from motley.train.folder import RunFolder
from motley.train.newest import Expected, newest_whole


def load_model(folder: RunFolder, report: Callable[[str], None]) -> tuple[Transformer, Tokenizer]:
    """The model of the newest whole checkpoint, fp32 on the CPU, and the run's tokenizer.

    After the last step of a recipe that averages it is the mean of the last weights.
    """
    recipe, tokenizer = folder.recipe(), folder.tokenizer()
    model = build_transformer(recipe.model, seed=recipe.seed)
    shapes = {f"parameter/{name}": tensor.shape for name, tensor in model.state().items()}
    newest = newest_whole(folder.checkpoints, report, Expected(tokenizer.digest, shapes))
    if newest is None:
        raise CheckpointError(
            f"{folder.path} has no whole checkpoint yet.",
            remedy="Train until the first checkpoint is saved, or resume the run.",
        )
    path, progress = newest
    is_over = progress.step >= recipe.schedule.steps
    is_averaged = is_over and progress.num_averaged > 0 and recipe.schedule.averages(progress.step)
    kinds = {
        name: "average" if is_averaged and not name.startswith(TABLES) else "parameter"
        for name in model.state()
    }
    state = {f"{kinds[name]}/{name}": tensor for name, tensor in model.state().items()}
    load_state(path, state, distributed=False)
    return model, tokenizer


def write_text(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    num_tokens: int,
    temperature: float,
    seed: int,
) -> str:
    """What the model writes after `prompt`; the same for the same seed."""
    start = tokenizer.encode(prompt) or [tokenizer.end_of_text]
    generator = torch.Generator().manual_seed(seed)
    tokens = generate(model, torch.tensor([start]), num_tokens, temperature, 50, generator)
    written = tokens[0, len(start) :].tolist()
    if tokenizer.end_of_text in written:
        written = written[: written.index(tokenizer.end_of_text)]
    return tokenizer.decode(written)
