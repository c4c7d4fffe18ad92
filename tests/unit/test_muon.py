"""Muon is PyTorch's, NorMuon its paper's; batches, layouts and ranks change nothing."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from motley.optim.muon import Muon
from motley.optim.optimizer import build_optimizer
from motley.optim.orthogonal import orthogonalise
from motley.optim.polar import QUINTIC, TOLERANCE, lower_bound, polar_coefficients
from motley.optim.products import orthogonal_flops, products_precision
from motley.recipe import OptimizerConfig

CONFIG = OptimizerConfig(
    kind="muon", matrix_learning_rate=0.02, weight_decay=0.1, orthogonal_coefficients="quintic"
)
SHAPES = {
    "blocks.0.attention.query.weight": (8, 8),
    "blocks.0.attention.key.weight": (4, 8),
    "blocks.0.mlp.up.weight": (32, 8),
    "blocks.0.mlp.down.weight": (8, 32),
    "blocks.1.attention.query.weight": (8, 8),
}


def matrices() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator) * 0.1)
        for name, shape in SHAPES.items()
    }


def gradient(name: str, step: int) -> Tensor:
    seed = 1000 * list(SHAPES).index(name) + step
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed))


def give(held: dict[str, nn.Parameter], step: int) -> None:
    for name, parameter in held.items():
        parameter.grad = gradient(name, step)


def polar_factor(matrix: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ v


def test_it_is_torchs_muon_step_by_step() -> None:
    """torch computes products in bf16, and so does this here; the order of roundings differs."""
    held, reference = matrices(), matrices()
    own = Muon(held, CONFIG, torch.bfloat16)
    theirs = torch.optim.Muon(list(reference.values()), lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(6):
        before = {name: parameter.detach().clone() for name, parameter in reference.items()}
        for name, parameter in held.items():
            with torch.no_grad():
                parameter.copy_(reference[name])
        give(held, step)
        give(reference, step)
        own.step(1.0, step)
        theirs.step()
        for name, parameter in held.items():
            moved, expected = (
                each.detach() - before[name] for each in (parameter, reference[name])
            )
            assert float((moved - expected).norm() / expected.norm()) < 0.1, name


def by_hand(config: OptimizerConfig, num_steps: int) -> dict[str, Tensor]:
    """Muon with NorMuon's second part, matrix by matrix in float64."""
    weights = {name: parameter.detach().double() for name, parameter in matrices().items()}
    momenta = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    moments: dict[str, Tensor] = {}
    for step in range(num_steps):
        for name, weight in weights.items():
            own = gradient(name, step).double()
            momenta[name] = 0.95 * momenta[name] + 0.05 * own
            x = 0.05 * own + 0.95 * momenta[name]
            x = x.T if x.shape[0] > x.shape[1] else x
            x = x / x.norm()
            is_polar = config.orthogonal_coefficients == "polar"
            polynomials = [QUINTIC] * config.orthogonal_iterations
            if is_polar:
                polynomials = list(polar_coefficients(config.orthogonal_iterations))
            for number, (a, b, c) in enumerate(polynomials):
                if number == 0 and is_polar:
                    x = x / torch.linalg.svdvals(x).pow(8).sum().pow(1 / 8)
                x = a * x + (b * x @ x.T + c * x @ x.T @ x @ x.T) @ x
            if config.kind == "normuon":
                dim = 1 if x.shape[0] == x.shape[1] else 0
                mean = x.square().mean(dim=dim, keepdim=True)
                moments[name] = 0.95 * moments.get(name, torch.zeros_like(mean)) + 0.05 * mean
                even = x / moments[name].sqrt()
                x = even * x.norm() / even.norm()
            x = x.T if weight.shape[0] > weight.shape[1] else x
            rate = 0.02 * max(1, weight.shape[0] / weight.shape[1]) ** 0.5
            weights[name] = weight * (1 - 0.02 * 0.1) - rate * x
    return weights


@pytest.mark.parametrize("kind", ["muon", "normuon"])
@pytest.mark.parametrize("coefficients", ["polar", "quintic"])
@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_it_is_the_papers_algorithm(kind: str, coefficients: str, iterations: int) -> None:
    config = dataclasses.replace(
        CONFIG,
        kind=kind,
        orthogonal_coefficients=coefficients,
        orthogonal_iterations=iterations,
    )
    held = matrices()
    optimizer = Muon(held, config)
    for step in range(4):
        give(held, step)
        optimizer.step(1.0, step)
    for name, expected in by_hand(config, 4).items():
        torch.testing.assert_close(held[name].detach().double(), expected, rtol=2e-4, atol=2e-5)


@given(st.integers(1, 8))
def test_the_polynomials_bring_all_values_of_their_interval_within_the_tolerance(num: int) -> None:
    values = torch.logspace(0, torch.log10(torch.tensor(lower_bound(num))), 4000).double()
    values = values.clamp(lower_bound(num), 1.0)
    for polynomial in polar_coefficients(num):
        values = torch.tensor([polynomial(float(value)) for value in values]).double()
    assert float((values - 1).abs().max()) < TOLERANCE + 0.05  # the safety moves values by 1 %
    if num > 1:
        assert lower_bound(num) < 0.3 * lower_bound(num - 1)


@pytest.mark.parametrize("shape", [(48, 48), (48, 200), (200, 48)])
@pytest.mark.parametrize("iterations", [3, 4, 5])
def test_directions_are_near_the_polar_factor(shape: tuple[int, int], iterations: int) -> None:
    """Of matrices with singular values over a factor of 30, as momenta have them."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape, generator=generator), full_matrices=False)
    stack = u @ torch.diag_embed(torch.logspace(0, -1.5, 48).expand(3, -1)) @ v
    config = dataclasses.replace(
        CONFIG, orthogonal_coefficients="polar", orthogonal_iterations=iterations
    )
    for dtype in (torch.float32, torch.bfloat16):
        found = orthogonalise(stack, config, dtype)
        values = torch.linalg.svdvals(found)
        assert float((values - 1).abs().max()) < TOLERANCE + (0.02 if dtype.itemsize == 4 else 0.15)
        aligned = (found.double() * polar_factor(stack)).sum(dim=(1, 2)) / found.norm(dim=(1, 2))
        assert float(aligned.min()) > 0.95 * 48**0.5


def test_zeros_stay_zero() -> None:
    config = dataclasses.replace(CONFIG, orthogonal_coefficients="polar")
    for shape in ((2, 6, 6), (2, 6, 30)):
        found = orthogonalise(torch.zeros(shape), config, torch.float32)
        assert torch.equal(found, torch.zeros(shape))


def test_a_chip_of_fp16_computes_its_products_in_fp32() -> None:
    """Small singular values to the fourth vanish in fp16, and zeros would become 0 / 0."""
    assert [products_precision(each) for each in ("fp32", "bf16", "fp16")] == [
        "fp32", "bf16", "fp32",
    ]  # fmt: skip


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 300)),
    st.integers(1, 7),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_flops_are_counted_exactly(
    shape: tuple[int, int], iterations: int, dtype: torch.dtype
) -> None:
    config = dataclasses.replace(
        CONFIG, orthogonal_coefficients="polar", orthogonal_iterations=iterations
    )
    with FlopCounterMode(display=False) as counter:
        orthogonalise(torch.ones(2, *shape), config, dtype)
    counted = 2 * orthogonal_flops(*shape, iterations, dtype.itemsize)
    assert counter.get_total_flops() == counted


def test_a_stack_of_experts_is_its_matrices() -> None:
    config = dataclasses.replace(CONFIG, kind="normuon", orthogonal_coefficients="polar")
    stack = nn.Parameter(torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(1)))
    apart = {f"blocks.{i}.w": nn.Parameter(stack.detach()[i].clone()) for i in range(3)}
    together, single = Muon({"blocks.0.experts.up.weight": stack}, config), Muon(apart, config)
    for step in range(3):
        gradients = torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(step))
        stack.grad = gradients.clone()
        for parameter, each in zip(apart.values(), gradients, strict=True):
            parameter.grad = each.clone()
        together.step(1.0, step)
        single.step(1.0, step)
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in apart.values()]))


def test_every_second_step_moves_twice_as_far_with_the_momentum_of_both() -> None:
    config = dataclasses.replace(CONFIG, weight_decay=0.0, orthogonal_coefficients="polar")
    held, still = matrices(), matrices()
    every, plain = Muon(held, dataclasses.replace(config, orthogonal_every=2)), Muon(still, config)
    start = {name: parameter.detach().clone() for name, parameter in held.items()}
    for step in range(2):
        give(held, step)
        give(still, step)
        every.step(1.0, step)
        if step == 0:
            assert all(torch.equal(held[name], start[name]) for name in held)
        plain.step(float(step), step)
    for name, parameter in held.items():
        moved, single = parameter.detach() - start[name], still[name].detach() - start[name]
        torch.testing.assert_close(moved, 2 * single, rtol=1e-4, atol=1e-6)


def test_ranks_that_share_matrices_stay_equal_to_one_rank() -> None:
    """Two ranks with a part of the work each, their directions handed over by hand."""
    config = dataclasses.replace(CONFIG, kind="normuon", orthogonal_coefficients="polar")
    alone, ranks = matrices(), (matrices(), matrices())
    names = list(SHAPES)
    owned = frozenset(names[:2]), frozenset(names[2:])
    optimizers: list[Muon] = []

    def exchange(rank: int) -> None:
        """Rank 0 steps first: it gets what rank 1 will find, worked out beside it."""
        if rank == 0:
            optimizers[1].step(0.0, len(done))
        for name in owned[1 - rank]:
            ranks[rank][name].grad.copy_(ranks[1 - rank][name].grad)  # type: ignore[union-attr]

    done: list[int] = []
    single = Muon(alone, config)
    optimizers = [
        Muon(ranks[0], config, foreign=owned[1], exchange=lambda: exchange(0)),
        Muon(ranks[1], config, foreign=owned[0]),
    ]
    for step in range(3):
        for held in (alone, *ranks):
            give(held, step)
        single.step(1.0, step)
        optimizers[0].step(1.0, step)
        done.append(step)
    for name, parameter in alone.items():
        assert torch.equal(parameter, ranks[0][name]), name
    assert set(optimizers[0].state(names[0])) == {"momentum", "neuron_moment"}
    assert optimizers[0].state(names[3]) == {}


def test_state_is_live_and_all_that_is_needed() -> None:
    config = dataclasses.replace(CONFIG, kind="normuon")
    held = matrices()
    optimizer = Muon(held, config)
    for step in range(2):
        give(held, step)
        optimizer.step(1.0, step)
    copy = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in held.items()}
    restored = Muon(copy, config)
    for name in SHAPES:
        for kind, target in restored.state(name).items():
            target.copy_(optimizer.state(name)[kind])
    for group, used in ((held, optimizer), (copy, restored)):
        give(group, 2)
        used.step(1.0, 2)
    assert all(torch.equal(held[name], copy[name]) for name in SHAPES)


def test_what_is_no_matrix_of_a_block_is_under_adamw() -> None:
    held = matrices()
    for name in ("embedding.token", "head.output", "blocks.0.mlp.router.weight"):
        held[name] = nn.Parameter(torch.zeros(4, 3))
    held["blocks.0.mlp.up.bias"] = nn.Parameter(torch.zeros(4))
    optimizer = build_optimizer(held, CONFIG)
    kinds = {name: set(optimizer.state(name)) for name in held}
    assert all(kinds[name] == {"momentum"} for name in SHAPES)
    others = [kinds[name] for name in held if name not in SHAPES]
    assert others == [{"first_moment", "second_moment", "update"}] * 4


@pytest.mark.parametrize("pair", list(itertools.combinations(range(3), 2)))
def test_a_clip_weighs_a_step_in_the_momentum_alone(pair: tuple[int, int]) -> None:
    """The direction does not depend on the size of all gradients together."""
    sizes = [1e-3, 1.0, 50.0]
    found = []
    for size in (sizes[index] for index in pair):
        held = matrices()
        give(held, 0)
        for parameter in held.values():
            parameter.grad = parameter.grad * size  # type: ignore[operator]
        Muon(held, CONFIG).step(1.0, 0)
        found.append(held)
    for name in SHAPES:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-5)
