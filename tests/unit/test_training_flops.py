"""What a training is counted at is what a real step does, by PyTorch's own counter: forward,
backward and update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from motley.model.products import attention_core
from motley.model.transformer import build_transformer
from motley.optim.flops import training_flops
from motley.optim.optimizer import build_optimizer
from motley.recipe import Recipe, parse_recipe

SHAPE = {"layers": 2, "width": 64, "heads": 2, "context": 32, "vocab_size": 320}
STACKS: dict[str, dict[str, Any]] = {
    "GPT-2, AdamW": {"model": SHAPE},
    "modern block, Muon": {
        "model": {
            **SHAPE, "positions": "rotary", "norm": "rmsnorm", "qk_norm": True, "zero_init": True,
            "activation": "relu2", "bias": False, "tied_head": False, "logit_softcap": 15.0,
            "input_residual": True, "value_residual": True,
        },
        "optimizer": {"kind": "normuon", "orthogonal_iterations": 3},
    },
}  # fmt: skip


def one_step(stack: dict[str, Any]) -> Recipe:
    table = {
        **stack,
        "batch": {"sequence_length": 32, "global_batch": 4},
        "schedule": {"steps": 1, "warmup_steps": 0},
    }
    return parse_recipe(table)


def causal_attention(recipe: Recipe) -> float:
    """FLOPs of the attention's two products, forward and backward, as training counts them."""
    length, model = recipe.batch.sequence_length, recipe.model
    cores = [attention_core(model, layer) for layer in range(model.num_layers)]
    forward = sum(core.forward_flops(length) for core in cores if core)
    return 3 * forward * recipe.batch.global_batch


def added(total: list[int], first: list[int], second: list[int], **_: Any) -> int:
    """FLOPs of `total += first @ second` by their shapes; the counter knows no in-place product."""
    return 2 * first[0] * first[1] * second[1]


@pytest.mark.parametrize("name", STACKS)
def test_a_whole_step_takes_the_counted_flops(name: str) -> None:
    """Attention apart: the counter takes the whole square of it, and flash attention's repeats."""
    recipe = one_step(STACKS[name])
    model = build_transformer(recipe.model, seed=0)
    optimizer = build_optimizer(model.named(), recipe.optimizer, torch.float32)
    tokens = torch.randint(320, (4, 33))
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added}) as counter:
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step(1.0, 0)
    by_kind = {str(kind): flops for kind, flops in counter.get_flop_counts()["Global"].items()}
    products = sum(flops for kind, flops in by_kind.items() if "attention" not in kind)
    assert products == training_flops(recipe) - causal_attention(recipe), by_kind
