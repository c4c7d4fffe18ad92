"""A stage computes what the whole model does: any split, any precision, with and without recompute.

Splits are chained by hand in one process; the reference is the plain autograd transformer.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from model_shapes import CONTEXT, SHAPES, VOCABULARY
from motley.chips.chip import Chip
from motley.chips.emulated import EmulatedRuntime
from motley.chips.runtime import Runtime
from motley.model.config import ModelConfig
from motley.model.counts import layer_counts, parameter_groups
from motley.model.layers import TOKEN_EMBEDDING
from motley.model.stream import FIRST_VALUES, carried
from motley.model.transformer import Transformer, build_transformer
from motley.plan.layout import Layout
from motley.plan.memory.held import held_parameters
from motley.plan.memory.stage import stage_memory
from motley.plan.timing.cost import layer_cost
from motley.train.assemble import hold_parameters
from motley.train.parameters import build_parameters
from motley.train.stage import StageRunner
from motley.units import BYTES_PER_ELEMENT, Precision

SEED = 7
NUM_LAYERS = 4
WHOLE = (0, NUM_LAYERS)
SPLITS = [
    (0, *cuts, NUM_LAYERS)
    for number in range(NUM_LAYERS)
    for cuts in itertools.combinations(range(1, NUM_LAYERS), number)
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads, by far so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def emulated(precision: Precision = "fp32") -> EmulatedRuntime:
    """So fast that the host never waits for it."""
    return EmulatedRuntime(
        Chip(
            name="fast", kind="test", emulated=True, precision=precision,
            flops_per_s={precision: 1e21}, memory_bytes=2**40, memory_bandwidth_bytes_per_s=1e21,
        )
    )  # fmt: skip


class Pipeline:
    """The stages of one split, chained by hand."""

    def __init__(
        self,
        config: ModelConfig,
        cuts: Sequence[int],
        *,
        precision: Precision = "fp32",
        recompute: bool = False,
        runtime: Runtime | None = None,
    ) -> None:
        self.runtime = runtime or emulated(precision)
        self.stages: list[StageRunner] = []
        self.parameters = []
        for first, last in itertools.pairwise(cuts):
            parameters = build_parameters(config, range(first, last), self.runtime, SEED)
            costs = functools.partial(layer_cost, config, precision=precision, recompute=recompute)
            hold_parameters(self.runtime, parameters, config, [CONTEXT])
            self.parameters.append(parameters)
            self.stages.append(
                StageRunner(config, self.runtime, parameters, costs, recompute=recompute)
            )
        self.done: list[int] = []

    def forward(self, index: int, tokens: Tensor, targets: Tensor) -> float:
        current = tokens
        for position, stage in enumerate(self.stages):
            is_last = position == len(self.stages) - 1
            current = stage.forward(index, current, targets if is_last else None)
            assert not current.requires_grad
        return float(current)

    def backward(self, index: int, targets: Tensor, factor: float = 1.0) -> None:
        gradient: Tensor | None = torch.tensor(factor)
        for position, stage in reversed(list(enumerate(self.stages))):
            assert gradient is not None
            is_last = position == len(self.stages) - 1
            gradient = stage.backward(
                index, gradient, targets if is_last else None, self.done.append
            )
        assert gradient is None, "tokens have no gradient"

    def gradients(self) -> dict[str, Tensor]:
        """By global name; what two stages hold (a tied matrix) is added up, as the trainer does."""
        total: dict[str, Tensor] = {}
        for parameters in self.parameters:
            for name, gradient in parameters.gradients.items():
                total[name] = total[name] + gradient if name in total else gradient.clone()
        return total


def batch(seed: int = 0, samples: int = 3) -> tuple[Tensor, Tensor]:
    """Tokens and targets, some of which are left out."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (samples, CONTEXT), generator=generator)
    targets = torch.randint(VOCABULARY, (samples, CONTEXT), generator=generator)
    targets[0, : seed + 3] = -100
    return tokens, targets


def reference(
    config: ModelConfig, batches: list[tuple[Tensor, Tensor]], factor: float = 1.0
) -> tuple[float, dict[str, Tensor]]:
    model: Transformer = build_transformer(config, seed=SEED)
    loss = torch.stack([model.loss(tokens, targets) for tokens, targets in batches]).sum()
    torch.autograd.backward(loss * factor)
    gradients = {}
    for name, parameter in model.named().items():
        assert parameter.grad is not None
        gradients[name] = parameter.grad
    return float(loss.detach()), gradients


def assert_same(own: dict[str, Tensor], expected: dict[str, Tensor], *, relative: float) -> None:
    """Each gradient is within `relative` of the expected one, by its L2 norm.

    Where that is as good as zero (keys' biases shift all scores alike) a share of the whole counts.
    """
    assert set(own) == set(expected)
    norms = {name: torch.linalg.vector_norm(gradient) for name, gradient in expected.items()}
    floor = 1e-3 * torch.linalg.vector_norm(torch.stack(list(norms.values())))
    for name, gradient in own.items():
        assert gradient.dtype == torch.float32
        error = torch.linalg.vector_norm(gradient - expected[name])
        assert error <= relative * max(norms[name], floor), f"{name}: {error / norms[name]:.2e}"


def run(pipeline: Pipeline, batches: list[tuple[Tensor, Tensor]], factor: float = 1.0) -> float:
    loss = 0.0
    for index, (tokens, targets) in enumerate(batches):
        loss += pipeline.forward(index, tokens, targets)
        pipeline.backward(index, targets, factor)
    return loss


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_one_stage_is_the_plain_transformer(name: str, tied: bool) -> None:
    config = _tied(SHAPES[name], tied)
    pipeline = Pipeline(config, WHOLE)
    loss = run(pipeline, [batch()], 0.25)
    expected_loss, expected = reference(config, [batch()], 0.25)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_same(pipeline.gradients(), expected, relative=1e-6)


@pytest.mark.parametrize("cuts", SPLITS, ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_any_split_is_the_whole(cuts: tuple[int, ...], tied: bool) -> None:
    for name in ("gpt2", "qwen3", "frugal"):
        config = _tied(SHAPES[name], tied)
        pipeline = Pipeline(config, cuts)
        loss = run(pipeline, [batch()])
        expected_loss, expected = reference(config, [batch()])
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        assert_same(pipeline.gradients(), expected, relative=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
def test_recompute_changes_no_bit_of_the_gradients(name: str, precision: Precision) -> None:
    plain = Pipeline(SHAPES[name], WHOLE, precision=precision)
    again = Pipeline(SHAPES[name], WHOLE, precision=precision, recompute=True)
    losses = [run(pipeline, [batch(0), batch(1)]) for pipeline in (plain, again)]
    assert losses[0] == losses[1]
    assert_same(again.gradients(), plain.gradients(), relative=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_bf16_is_near_fp32_and_sums_in_fp32(name: str) -> None:
    config, batches = SHAPES[name], [batch(0), batch(1)]
    pipeline = Pipeline(config, (0, 2, NUM_LAYERS), precision="bf16")
    loss = run(pipeline, batches)
    expected_loss, expected = reference(config, batches)
    assert loss == pytest.approx(expected_loss, rel=2e-3)
    # Near zero bf16 rounds to the other side of ReLU's kink, where the gradient jumps.
    kinked = config.activation == "relu"
    # The norm behind a mix takes the scale away: a small difference of large sums is left.
    relative = 0.2 if config.input_residual else 0.1 if kinked else 0.05
    assert_same(pipeline.gradients(), expected, relative=relative)
    for parameters in pipeline.parameters:
        assert {p.dtype for p in parameters.masters.values()} == {torch.float32}
        assert {p.dtype for p in parameters.compute.values()} == {torch.bfloat16}
        assert all(p.grad is None for p in parameters.compute.values())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_micro_batches_add_up(tied: bool, recompute: bool) -> None:
    """Uneven ones, with all forwards before the backwards, and those in their own order."""
    config = _tied(SHAPES["gpt2"], tied)
    batches = [batch(0, samples=3), batch(1, samples=1), batch(2, samples=2)]
    pipeline = Pipeline(config, (0, 1, NUM_LAYERS), recompute=recompute)
    loss = sum(pipeline.forward(index, *each) for index, each in enumerate(batches))
    for index, (_, targets) in enumerate(batches):
        pipeline.backward(index, targets)
    expected_loss, expected = reference(config, batches)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_same(pipeline.gradients(), expected, relative=2e-6)


def test_cleared_gradients_start_again_from_nothing() -> None:
    pipeline = Pipeline(SHAPES["gpt2"], WHOLE)
    run(pipeline, [batch(0)])
    first = pipeline.gradients()
    for parameters in pipeline.parameters:
        parameters.clear_gradients()
    assert not any(gradient.any() for gradient in pipeline.gradients().values())
    run(pipeline, [batch(0)])
    assert_same(pipeline.gradients(), first, relative=1e-6)


def test_each_layer_is_reported_when_its_gradients_are_complete() -> None:
    pipeline = Pipeline(SHAPES["gpt2"], (0, 2, NUM_LAYERS))
    run(pipeline, [batch()])
    assert pipeline.done == [3, 2, 1, 0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_held_memory_is_what_the_counts_say(
    name: str, recompute: bool, precision: Precision
) -> None:
    """The planner's memory model counts with these bytes; after the backward none is left."""
    config, runtime, samples = SHAPES[name], Held(precision), 2
    pipeline = Pipeline(config, WHOLE, precision=precision, recompute=recompute, runtime=runtime)
    batches = [batch(0, samples), batch(1, samples)]
    state_bytes = 16 + (2 if precision == "bf16" else 0)
    assert runtime.held == state_bytes * held_parameters(config, *WHOLE)
    runtime.held = 0.0

    counts = [layer_counts(config, layer, CONTEXT, precision) for layer in range(NUM_LAYERS)]
    inputs = [CONTEXT * 8, *(each.output_bytes for each in counts[:-1])]
    if config.value_residual:
        inputs.append(CONTEXT * carried(config, 2)[FIRST_VALUES] * BYTES_PER_ELEMENT[precision])
    kept = inputs if recompute else [each.activation_bytes for each in counts]
    loss_bytes = 4
    for number, each in enumerate(batches, start=1):
        pipeline.forward(number, *each)
        assert runtime.held == number * (samples * sum(kept) + loss_bytes)
    for number, (_, targets) in enumerate(batches, start=1):
        pipeline.backward(number, targets)
    assert runtime.held == 0.0


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("cuts", [(0, 2, 4, 6), (0, 3, 5, 6), (0, 1, 6), (0, 4, 6)], ids=str)
def test_stages_hold_what_is_carried_once_and_as_planned(
    cuts: tuple[int, ...], recompute: bool
) -> None:
    """The input and value residuals' tensors are shared by all blocks of a stage."""
    config, samples = dataclasses.replace(SHAPES["frugal"], layers=4), 2
    layout = Layout(recompute="full" if recompute else "none")
    current, targets = batch(0, samples)
    for first, last in itertools.pairwise(cuts):
        runtime = Held("fp32")
        pipeline = Pipeline(config, (first, last), recompute=recompute, runtime=runtime)
        before, is_last = runtime.held, last == cuts[-1]
        current = pipeline.stages[0].forward(0, current, targets if is_last else None)
        planned = stage_memory(
            config, CONTEXT, "fp32", (first, last),
            num_in_flight=1, micro_batch_size=samples, layout=layout,
        )  # fmt: skip
        held = runtime.held - before - (4 if is_last else 0)
        assert held <= planned.activation_bytes
        assert first == 1 or (recompute and last == 2) or held == planned.activation_bytes


class Held(EmulatedRuntime):
    """Keeps count of what is held."""

    def __init__(self, precision: Precision) -> None:
        super().__init__(emulated(precision).chip)
        self.held = 0.0

    def hold(self, num_bytes: float) -> None:
        self.held += num_bytes

    def release(self, num_bytes: float) -> None:
        self.held -= num_bytes


@pytest.mark.parametrize("recompute", [True, False])
def test_the_chip_is_charged_the_planners_flops(recompute: bool) -> None:
    config, samples = SHAPES["llama"], 3
    pipeline = Pipeline(config, (0, 2, NUM_LAYERS), recompute=recompute)
    spent: list[float] = []
    pipeline.runtime.spend = lambda flops, num_bytes=0.0: spent.append(flops)  # type: ignore[method-assign]
    run(pipeline, [batch(0, samples)])
    counts = [layer_counts(config, layer, CONTEXT, "fp32") for layer in range(NUM_LAYERS)]
    forwards = 2 if recompute else 1
    expected = sum(each.forward_flops * forwards + each.backward_flops for each in counts)
    assert sum(spent) == pytest.approx(samples * expected)


def test_evaluation_keeps_nothing_and_gives_the_same_loss() -> None:
    config, runtime = SHAPES["gpt2"], Held("fp32")
    pipeline = Pipeline(config, WHOLE, runtime=runtime)
    tokens, targets = batch()
    before = runtime.held
    loss = pipeline.stages[0].evaluate(tokens, targets)
    assert runtime.held == before
    assert not loss.requires_grad
    assert float(loss) == pytest.approx(reference(config, [batch()])[0], rel=1e-6)


@pytest.mark.parametrize("cuts", SPLITS, ids=str)
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "llama"])
def test_parameters_and_groups_are_those_of_the_plan(name: str, cuts: tuple[int, ...]) -> None:
    config = SHAPES[name]
    groups = parameter_groups(config)
    for first, last in itertools.pairwise(cuts):
        parameters = build_parameters(config, range(first, last), emulated(), SEED)
        assert parameters.num_parameters == held_parameters(config, first, last)
        held = {
            index
            for index, group in enumerate(groups)
            if any(first <= layer < last for layer in group.layers)
        }
        assert set(parameters.buffers) == set(parameters.group_names) == held
        for index, buffer in parameters.buffers.items():
            assert buffer.numel() == groups[index].num_parameters
        in_groups = [name for names in parameters.group_names.values() for name in names]
        assert sorted(in_groups) == sorted(parameters.masters)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_initial_weights_do_not_depend_on_the_split(precision: Precision) -> None:
    config = SHAPES["gpt2"]
    expected = build_transformer(config, seed=SEED).state()
    for cuts in SPLITS:
        for first, last in itertools.pairwise(cuts):
            runtime = emulated(precision)
            parameters = build_parameters(config, range(first, last), runtime, SEED)
            for name, master in parameters.masters.items():
                assert torch.equal(master, expected[name])
                assert torch.equal(parameters.compute[name], master.to(runtime.dtype))


def test_a_tied_matrix_on_one_stage_is_one_tensor() -> None:
    parameters = build_parameters(SHAPES["gpt2"], range(NUM_LAYERS), emulated("bf16"), SEED)
    embedding, head = parameters.modules[0], parameters.modules[NUM_LAYERS - 1]
    assert embedding.get_parameter("token") is head.get_parameter("token")
    assert embedding.get_parameter("token") is parameters.compute[TOKEN_EMBEDDING]


def test_refresh_copies_the_masters() -> None:
    parameters = build_parameters(SHAPES["gpt2"], range(NUM_LAYERS), emulated("bf16"), SEED)
    with torch.no_grad():
        for master in parameters.masters.values():
            master.add_(1.0)
    parameters.refresh()
    for name, master in parameters.masters.items():
        assert torch.equal(parameters.compute[name], master.bfloat16())


def _tied(config: ModelConfig, tied: bool) -> ModelConfig:
    return dataclasses.replace(config, tied_head=tied)
