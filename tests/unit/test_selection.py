"""Selection by a reference model: its losses and training against plain torch, its cost against
torch's counter, what it drops, and what stays behind when it is cut short."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.data import PreparedData, SampleSource, prepare
from motley.data.selected import KEPT_FILE, Selected
from motley.errors import CorpusError, DivergedError, RecipeError
from motley.model.products import attention_core
from motley.model.transformer import Transformer, build_transformer
from motley.optim.curriculum import samples_before
from motley.optim.flops import selection_flops, training_flops
from motley.optim.schedule import learning_rate
from motley.optim.selection import num_candidates, num_kept, reference_recipe
from motley.recipe import Recipe, SelectionConfig, parse_recipe
from motley.train import prepare as preparing
from motley.train import selection as selecting
from motley.train.reference import sample_losses, train_reference
from motley.train.samples import training_samples
from motley.train.selection import chosen, middling, select

LENGTH = 32
NUM_DOCUMENTS = 60
DOCUMENT_CHARS = 1500
NOISE = "#"
"""Begins each line of noise and stands nowhere else."""


def silent(text: str) -> None:
    pass


def a_document(rng: random.Random, *, is_noise: bool) -> str:
    """Uniform letters, or lines that a small model learns soon."""
    lines = []
    while sum(map(len, lines)) < DOCUMENT_CHARS:
        if is_noise:
            lines.append(NOISE + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=20)))
        else:
            name = rng.choice(["alpha", "beta", "gamma", "delta"])
            lines.append(f"def {name}(self): return {name}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Half noise, half text, document by document."""
    base, rng = tmp_path_factory.mktemp("selection"), random.Random(1)
    documents = [a_document(rng, is_noise=n % 2 == 0) for n in range(NUM_DOCUMENTS)]
    corpus = base / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in documents))
    return prepare((str(corpus),), None, 257, 0.05, base / "cache", silent)


def recipe(data: PreparedData, steps: int = 75, **selection: Any) -> Recipe:
    table = {
        "model": {"layers": 1, "width": 16, "heads": 1, "context": LENGTH},
        "batch": {"sequence_length": LENGTH, "global_batch": 8},
        "schedule": {"steps": steps, "warmup_steps": 0},
        "selection": {
            "keep_share": 0.5, "layers": 1, "width": 32, "reference_share": 1.0,
            "learning_rate": 1e-2, **selection,
        },
    }  # fmt: skip
    return parse_recipe(table).with_vocabulary(data.index.vocab_size)


def fresh(data: PreparedData, folder: Path) -> PreparedData:
    """The same data with an empty cache about it."""
    return dataclasses.replace(data, folder=folder / data.folder.name)


def noise_share(data: PreparedData, samples: np.ndarray[Any, Any]) -> float:
    """Of samples that hold mostly noise."""
    marks = data.tokenizer.encode(NOISE)
    tokens = [data.train.read(int(number) * LENGTH, LENGTH) for number in samples[:-1]]
    return float(np.mean([np.isin(each, marks).any() for each in tokens]))


def test_unlearnable_noise_is_dropped(data: PreparedData, tmp_path: Path) -> None:
    job = recipe(data)
    order = SampleSource(data.train, LENGTH, job.seed)
    candidates = np.array([order.sample(n) for n in range(num_candidates(job))])
    kept = select(job, fresh(data, tmp_path), silent)
    assert 0.4 < noise_share(data, candidates) < 0.65
    assert noise_share(data, kept.kept) < 0.1
    assert set(kept.kept.tolist()) <= set(candidates.tolist())
    assert len(kept.kept) == num_kept(job) == samples_before(job, job.schedule.steps)
    assert (np.diff(kept.kept.astype(np.int64)) > 0).all()


def test_it_comes_out_the_same_again_and_otherwise_with_another_seed(
    data: PreparedData, tmp_path: Path
) -> None:
    job = recipe(data, steps=20)
    first = select(job, fresh(data, tmp_path / "a"), silent)
    again = select(job, fresh(data, tmp_path / "b"), silent)
    assert again.index.kept_sha256 == first.index.kept_sha256
    other = select(dataclasses.replace(job, seed=1), fresh(data, tmp_path / "a"), silent)
    assert other.index.kept_sha256 != first.index.kept_sha256
    said: list[str] = []
    cached = select(job, fresh(data, tmp_path / "a"), said.append)
    assert cached.folder == first.folder
    assert "made earlier" in said[0]
    (first.folder / KEPT_FILE).write_bytes(b"")
    mended = select(job, fresh(data, tmp_path / "a"), said.append)
    assert "is removed and made again" in said[2]
    assert mended.index.kept_sha256 == first.index.kept_sha256


def plain_losses(model: Transformer, source: SampleSource, positions: range) -> list[float]:
    """Of one sample after the other, from the logits."""
    found = []
    for position in positions:
        tokens, targets = map(torch.from_numpy, source.batch([position]))
        with torch.no_grad():
            logits = model.logits(tokens)[0]
        found.append(functional.cross_entropy(logits, targets[0]).item())
    return found


def test_losses_are_those_of_plain_torch_and_the_short_sample_counts_its_targets(
    data: PreparedData,
) -> None:
    source = SampleSource(data.train, LENGTH, None)
    last = range(source.num_samples - 20, source.num_samples)
    model = build_transformer(reference_recipe(recipe(data)).model, seed=3)
    found = sample_losses(model, source, last, lambda done: None)
    assert found.tolist() == pytest.approx(plain_losses(model, source, last), rel=1e-5)


def test_the_reference_is_trained_as_a_plain_loop_trains_it(data: PreparedData) -> None:
    job = reference_recipe(recipe(data, steps=10))
    source, first = SampleSource(data.train, LENGTH, job.seed), 30
    *_, model = train_reference(job, source, first, lambda done: None)
    plain = build_transformer(job.model, seed=job.seed)
    matrices = [each for each in plain.parameters() if each.ndim >= 2]
    vectors = [each for each in plain.parameters() if each.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    for step in range(job.schedule.steps):
        begin = first + step * job.batch.global_batch
        batch = source.batch(range(begin, begin + job.batch.global_batch))
        tokens, targets = map(torch.from_numpy, batch)
        optimizer.zero_grad()
        functional.cross_entropy(plain.logits(tokens).flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(job.optimizer.learning_rate, job.schedule, step)
        optimizer.step()
    for name, value in plain.state().items():
        torch.testing.assert_close(model.state()[name], value, rtol=1e-3, atol=1e-4)


def added(total: list[int], first: list[int], second: list[int], **_: Any) -> int:
    """FLOPs of `total += first @ second`: the counter knows no in-place product."""
    return 2 * first[0] * first[1] * second[1]


@pytest.mark.parametrize("score", ["learnability", "perplexity"])
def test_its_flops_are_what_torch_counts(data: PreparedData, score: str) -> None:
    """Attention apart, of which the counter takes the whole square and flash's repeats."""
    job = recipe(data, steps=4, score=score)
    source, reference = SampleSource(data.train, LENGTH, job.seed), reference_recipe(job)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added}) as counter:
        selecting.score_candidates(job, source, silent)
    by_kind = {str(kind): flops for kind, flops in counter.get_flop_counts()["Global"].items()}
    products = sum(flops for kind, flops in by_kind.items() if "attention" not in kind)
    cores = [attention_core(reference.model, layer) for layer in range(reference.model.num_layers)]
    forward = sum(core.forward_flops(LENGTH) for core in cores if core)
    learned = reference.schedule.steps * reference.batch.global_batch
    passes = 3 * learned + num_candidates(job) * (2 if score == "learnability" else 1)
    assert products == selection_flops(job) - passes * forward
    without = dataclasses.replace(job, selection=None)
    assert training_flops(job) == training_flops(without) + selection_flops(job)


def test_held_out_text_is_not_touched(data: PreparedData, tmp_path: Path) -> None:
    blind = dataclasses.replace(fresh(data, tmp_path), held_out=None)  # type: ignore[arg-type]
    assert select(recipe(data, steps=4), blind, silent).index.num_kept == 32


@pytest.mark.parametrize("at", ["a reference of", "is trained", "are scored"])
def test_an_interrupt_leaves_nothing_behind(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    monkeypatch.setattr(selecting, "TOLD_EVERY_S", 0.0)

    def interrupted(text: str) -> None:
        if at in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select(recipe(data, steps=20), fresh(data, tmp_path), interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_run_keeps_its_own_copy_and_makes_it_again_if_it_is_damaged(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "prepare_data", lambda job, report: (job, data))
    chip = Chip(
        name="chip", kind="test", precision="fp32", flops_per_s={"fp32": 1e12},
        memory_bytes=10**9, memory_bandwidth_bytes_per_s=1e10,
    )  # fmt: skip
    job, cluster = recipe(data, steps=4), Cluster(name="one", chips=(chip,))
    folder, _ = preparing.new_run(job, cluster, None, tmp_path / "run", silent)
    samples = training_samples(folder.selection, job, data)
    assert samples.kept is not None
    assert {samples.sample(n) for n in range(32)} == set(samples.kept.tolist())
    kept = (folder.selection / KEPT_FILE).read_bytes()
    (folder.selection / KEPT_FILE).write_bytes(kept[:-1] + b"\x7f")
    with pytest.raises(CorpusError, match="is damaged"):
        training_samples(folder.selection, job, data)
    said: list[str] = []
    preparing.resume_run(folder.path, None, None, said.append)
    assert any("Selecting the samples again" in text for text in said)
    assert (folder.selection / KEPT_FILE).read_bytes() == kept


def test_a_selection_of_another_tokenizer_or_length_is_refused(
    data: PreparedData, tmp_path: Path
) -> None:
    made = select(recipe(data, steps=4), fresh(data, tmp_path), silent)
    foreign = dataclasses.replace(data.index, tokenizer_digest="0" * 64)
    with pytest.raises(CorpusError, match="another tokenizer"):
        Selected.load(made.folder, dataclasses.replace(data, index=foreign), LENGTH)
    with pytest.raises(CorpusError, match="another sequence length"):
        Selected.load(made.folder, data, LENGTH // 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_share": 0}, "keep_share: must be above zero"),
        ({"keep_share": 1.5}, "keep_share: must be above 0 and at most 1, found 1.5"),
        ({"heads": 3}, "heads: 3 heads of an even size do not divide the width 32"),
        ({"learning_rate": 11}, "learning_rate: 11.0 is absurd"),
        ({"candidates": 15}, "selection.candidates: 7.5 kept samples are fewer than the 8"),
    ],
)
def test_a_wrong_recipe_is_refused(
    data: PreparedData, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(data, **changes)


@pytest.mark.parametrize(
    ("steps", "changes", "message"),
    [
        (10_000, {}, r"160000 candidates are more than the \d+ samples .* passed [\d.]+ times"),
        (4, {"reference_share": 1000.0}, "would learn from 32000 samples, but the text has"),
        (1, {"reference_share": 0.1}, "the reference would have a single update"),
    ],
)
def test_a_text_that_is_too_short_is_said_before_anything_is_trained(
    data: PreparedData, steps: int, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as refused:
        select(recipe(data, steps=steps, **changes), data, silent)
    assert refused.value.remedy


def test_a_lost_reference_says_so(data: PreparedData) -> None:
    job = reference_recipe(recipe(data, steps=20))
    object.__setattr__(job.optimizer, "learning_rate", 1e30)
    source = SampleSource(data.train, LENGTH, job.seed)
    with pytest.raises(DivergedError, match="reference model") as lost:
        list(train_reference(job, source, 0, lambda done: None))
    assert "selection.learning_rate" in lost.value.remedy


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.data())
def test_the_best_and_the_middling_are_chosen(values: list[float], draw: st.DataObject) -> None:
    count = draw.draw(st.integers(1, len(values)))
    scores = np.array(values)
    best = chosen(scores, count)
    assert best.sum() == count
    assert not best.all() or count == len(values)
    if count < len(values):
        assert scores[best].min() >= scores[~best].max()
    middle = np.sort(scores[chosen(middling(scores), count)])
    ordered = np.sort(scores)
    spare = (len(values) - count) / 2
    below = math.floor(spare)
    candidates = [ordered[start : start + count] for start in {below, math.ceil(spare)}]
    assert any(np.array_equal(middle, each) for each in candidates)


@given(st.integers(1, 10**6), st.floats(0.01, 1.0), st.integers(1, 64))
def test_what_is_kept_lasts_for_one_epoch(steps: int, share: float, batch: int) -> None:
    job = parse_recipe({
        "model": {"layers": 1, "width": 8, "heads": 1},
        "batch": {"global_batch": batch},
        "schedule": {"steps": steps},
        "selection": {"keep_share": share},
    })  # fmt: skip
    assert 0 <= num_kept(job) - samples_before(job, steps) <= 1


def test_the_table_is_read_and_written_back() -> None:
    table = {"model": {"layers": 1, "width": 8, "heads": 1}, "selection": {"keep_share": 0.5}}
    job = parse_recipe(table)
    assert job.selection == SelectionConfig(keep_share=0.5)
    assert parse_recipe(job.to_dict()) == job
