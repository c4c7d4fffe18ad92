"""Finished runs of `compute.py`: one JSON object a line, found again by what was run.

A run's key is a digest of its recipe (without name, paths, checkpoints), the text's digest, the
precision and the protocol's number. FLOPs and bits per byte are independent of the machine; seconds
stand beside the machine's name. The recipe is read with today's keys, so a key that came later and
is off changes nothing.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from common import commit, one_chip, prepared, say
from compute_corpora import PINNED
from compute_ladder import Loop, Size, Spec, recipe_of, small_of
from compute_worker import RESULT
from motley.chips.host import cpu_name, memory
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.data.selected import Selected
from motley.errors import MotleyError
from motley.events import EventLog
from motley.model.counts import model_counts
from motley.model.table_counts import table_parameters
from motley.optim.flops import optimizer_flops, training_flops
from motley.plan.search.search import search
from motley.recipe import (
    CheckpointConfig,
    DataConfig,
    GrowthConfig,
    Recipe,
    ValidationConfig,
    parse_recipe,
)
from motley.train.folder import RunFolder
from motley.train.prepare import cache_folder
from motley.train.selection import select
from motley.units import Precision

RESULTS = Path(__file__).parent / "results" / "compute"
PROTOCOL = 1
"""Of how a run is made and scored; figures of different numbers are not compared."""
WORKERS = {"motley": "compute_worker.py", "plain": "compute_plain.py"}
Record = dict[str, Any]

_texts: dict[DataConfig, PreparedData] = {}
"""Prepared once in a process; hashing a text takes a moment."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where runs are made."""

    device: str
    precision: Precision
    threads: int

    @property
    def name(self) -> str:
        if self.device == "cpu":
            return cpu_name() or "unknown CPU"
        return torch.cuda.get_device_name(self.device)

    def running(self, loop: Loop) -> Host:
        """What a loop makes of it: the plain one is always fp32 on the CPU."""
        if loop == "plain":
            return dataclasses.replace(self, device="cpu", precision="fp32")
        return self

    def cluster(self) -> Cluster:
        return one_chip(self.precision, memory()[0] // 2, self.device)


@dataclass(frozen=True)
class Prepared:
    """A run that can be looked up or trained."""

    spec: Spec
    recipe: Recipe
    data: PreparedData
    host: Host
    """Where it is made, as its loop does it."""
    key: str
    small: Prepared | None = None
    """The shallower run that it grows from; the recipe names it by the key of its own recipe."""

    @property
    def folder(self) -> RunFolder:
        return RunFolder(_place() / self.key)


def ready(spec: Spec, sizes: dict[str, Size], host: Host) -> Prepared:
    """The run's recipe with its vocabulary, its data and its key."""
    recipe = recipe_of(spec, sizes)
    if recipe.data not in _texts:
        _texts[recipe.data] = prepared(recipe)[1]
    data = _texts[recipe.data]
    recipe = recipe.with_vocabulary(data.index.vocab_size)
    host = host.running(spec.loop)
    shallower = small_of(spec)
    small = ready(shallower, sizes, host) if shallower else None
    if small is not None:
        steps, flops = small.recipe.schedule.steps, training_flops(small.recipe, host.precision)
        growth = GrowthConfig(run=small.key, steps=steps, flops=flops)
        recipe = dataclasses.replace(recipe, growth=growth)
    key = key_of(recipe, data.index.source_digest, host.precision, spec.loop)
    beside = small and dataclasses.replace(small, key=f"{key}-small")
    return Prepared(spec, recipe, data, host, key, beside)


def key_of(recipe: Recipe, source_digest: str, precision: str, loop: str) -> str:
    """Sixteen hex digits that two runs share if they must give the same figures."""
    data = dataclasses.replace(recipe.data, corpus=DataConfig().corpus)
    growth = recipe.growth and dataclasses.replace(recipe.growth, flops=None)
    bare = dataclasses.replace(
        recipe, name="run", data=data, growth=growth,
        validation=ValidationConfig(), checkpoint=CheckpointConfig(),
    )  # fmt: skip
    text = json.dumps([PROTOCOL, source_digest, precision, loop, bare.digest])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept() -> dict[str, Record]:
    """Every finished run by its key, of all texts, sizes and machines; FLOPs and parameters as
    counted today."""
    found: dict[str, Record] = {}
    for path in sorted(RESULTS.glob("runs-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["protocol"] == PROTOCOL and (recipe := _recipe_today(record)):
                precision, loop = record["precision"], record.get("loop", "motley")
                key = key_of(recipe, record["corpus_digest"], precision, loop)
                flops = flops_of(recipe, precision)
                again = {"flops": flops, "parameters": parameters_of(recipe)}
                found.setdefault(key, {**record, **again})
    return found


def _recipe_today(record: Record) -> Recipe | None:
    """None for a run whose recipe cannot be read any more."""
    try:
        return parse_recipe(record["recipe"])
    except MotleyError:
        return None


def run(job: Prepared) -> Record | None:
    """Trains to the end, from where an earlier try was; its record, which is kept on disk.

    None if another process is at it. Raises `SystemExit` if the training fails.
    """
    _place().mkdir(parents=True, exist_ok=True)
    with _alone(_place() / f"{job.key}.lock") as is_mine:
        if not is_mine:
            return None
        if (done := kept().get(job.key)) is not None:
            return done
        _train(job)
        record = _record(job)
        name = f"runs-{job.spec.corpus}-{job.spec.size}.jsonl"
        with EventLog.open(RESULTS / name) as log:
            log.write("run", **record)
        for each in filter(None, (job, job.small)):
            shutil.rmtree(each.folder.path)
    return record


def _place() -> Path:
    return cache_folder().parent / "compute" / "runs"


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process holds the file; held to the end of the block."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _train(job: Prepared) -> None:
    """To the end, from its newest checkpoint; first what it grows from, unless that is there."""
    if job.small is not None and not (job.small.folder.path / RESULT).is_file():
        _train(job.small)
    recipe, folder, cluster = _located(job), job.folder, job.host.cluster()
    folder.path.mkdir(exist_ok=True)
    folder.write(recipe, cluster, search(recipe, cluster), job.data.folder)
    if recipe.selection is not None:
        torch.set_num_threads(job.host.threads)
        folder.write_selection(select(recipe, job.data, say))
    worker = Path(__file__).with_name(WORKERS[job.spec.loop])
    process = subprocess.run(
        [sys.executable, str(worker), str(folder.path), str(job.host.threads)],
        capture_output=True,
        text=True,
        env={**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"},
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{job.spec.label} failed:\n{process.stderr[-3000:]}")


def _located(job: Prepared) -> Recipe:
    """The recipe with the folder of what it grows from."""
    if job.recipe.growth is None or job.small is None:
        return job.recipe
    growth = dataclasses.replace(job.recipe.growth, run=str(job.small.folder.path))
    return dataclasses.replace(job.recipe, growth=growth)


def _result(job: Prepared) -> Record:
    """What a finished run gave, with the seconds of its selection and of what it grew from in its
    own."""
    result: Record = json.loads((job.folder.path / RESULT).read_text())
    before = [_result(job.small)] if job.small else []
    if job.recipe.selection is not None:
        length = job.recipe.batch.sequence_length
        before.append(asdict(Selected.load(job.folder.selection, job.data, length).index))
    for key in ("process_s", "wall_s"):
        result[key] += sum(each[key] for each in before)
    return result


def _record(job: Prepared) -> Record:
    recipe, spec, host, result = job.recipe, job.spec, job.host, _result(job)
    return {
        "rung": spec.rung,
        "size": spec.size,
        "corpus": spec.corpus,
        "seed": spec.seed,
        "share": spec.share,
        "loop": spec.loop,
        **result,
        "held_out_bytes": job.data.index.held_out.num_bytes,
        "flops": flops_of(recipe, host.precision),
        "parameters": parameters_of(recipe),
        "machine": host.name,
        "device": host.device,
        "precision": host.precision,
        "threads": host.threads,
        "changes": dict(spec.changes),
        "commit": commit(),
        "protocol": PROTOCOL,
        "corpus_digest": job.data.index.source_digest,
        "corpus_is_pinned": job.data.index.source_digest == PINNED[spec.corpus],
        "recipe": {**recipe.to_dict(), "data": _without_paths(recipe)},
    }


def _without_paths(recipe: Recipe) -> dict[str, Any]:
    table = recipe.to_dict()["data"]
    return {key: value for key, value in table.items() if key != "corpus"}


def flops_of(recipe: Recipe, precision: Precision) -> dict[str, float]:
    """Of the whole run, matrix products only: the model's, forward and backward, with all that the
    training adds, and the optimizer's. Counted, not measured."""
    total = training_flops(recipe, precision)
    optimizer = recipe.schedule.steps * optimizer_flops(recipe, precision)
    return {"model": total - optimizer, "optimizer": optimizer, "total": total}


def parameters_of(recipe: Recipe) -> dict[str, int]:
    """All, those that one token passes, and those of tables, which are looked up."""
    counts = model_counts(recipe.model, recipe.batch.sequence_length)
    return {
        "total": counts.parameters,
        "active": counts.active_parameters,
        "table": table_parameters(recipe.model),
    }
