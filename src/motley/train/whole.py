"""The whole model of a running job, at rank 0: all parameters out, new ones in.

Stages hold different parameters, and replicas hold the same ones. Each parameter is handed out by
the one rank that answers for it; what comes in goes to every rank that holds it. Tensors travel as
one flat fp32 message per rank through host memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from motley.train.engine import Engine

NamedShapes = list[tuple[str, torch.Size]]


class WholeModel:
    """Access to all fp32 masters by name. All ranks make it, and call its methods, together."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rank = engine.placement.rank
        masters = engine.parameters.masters
        mine = [
            [(name, masters[name].shape) for name in held]
            for held in (engine.answered_names, sorted(masters))
        ]
        layouts: list[list[NamedShapes]] = [[] for _ in range(dist.get_world_size(engine.control))]
        dist.all_gather_object(layouts, mine, group=engine.control)
        self._answered = [answered for answered, _ in layouts]
        self._held = [held for _, held in layouts]

    @property
    def world_size(self) -> int:
        return len(self._held)

    @torch.no_grad()
    def gather(self) -> dict[str, Tensor]:
        """At rank 0 a copy of all parameters, fp32 in host memory, names sorted; elsewhere {}."""
        masters = self._engine.parameters.masters
        self._engine.runtime.synchronize()
        flat = _flat([masters[name] for name, _ in self._answered[self._rank]])
        if self._rank != 0:
            dist.send(flat, dst=0, group=self._engine.control)
            return {}
        whole = _unflat(flat, self._answered[0])
        for rank in range(1, self.world_size):
            received = torch.empty(_num_elements(self._answered[rank]))
            dist.recv(received, src=rank, group=self._engine.control)
            whole |= _unflat(received, self._answered[rank])
        return dict(sorted(whole.items()))

    @torch.no_grad()
    def change(self, values: Mapping[str, Tensor], *, keep: float) -> None:
        """Every named parameter becomes `keep` times itself plus its value; the rest stays.

        Rank 0 gives the values, fp32 in host memory; elsewhere they are not looked at.
        """
        names = [list(values)]
        dist.broadcast_object_list(names, src=0, group=self._engine.control)
        wanted = set(names[0])
        held = [[each for each in of_rank if each[0] in wanted] for of_rank in self._held]
        if self._rank == 0:
            for rank in range(1, self.world_size):
                if held[rank]:
                    message = _flat([values[name] for name, _ in held[rank]])
                    dist.send(message, dst=rank, group=self._engine.control)
            mine = {name: values[name] for name, _ in held[0]}
        elif held[self._rank]:
            received = torch.empty(_num_elements(held[self._rank]))
            dist.recv(received, src=0, group=self._engine.control)
            mine = _unflat(received, held[self._rank])
        else:
            mine = {}
        self._apply(mine, keep)

    def _apply(self, values: Mapping[str, Tensor], keep: float) -> None:
        parameters = self._engine.parameters
        for name, value in values.items():
            master = parameters.masters[name]
            if keep == 0.0:
                master.copy_(value)
                continue
            if keep != 1.0:
                master.mul_(keep)
            master.add_(value.to(master.device))
        parameters.refresh()


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """Copies of all of them in one fp32 tensor in host memory."""
    pieces = [tensor.detach().to("cpu", torch.float32).reshape(-1) for tensor in tensors]
    return torch.cat(pieces) if pieces else torch.empty(0)


def _unflat(flat: Tensor, layout: NamedShapes) -> dict[str, Tensor]:
    """Views into `flat`."""
    pieces = torch.split(flat, [shape.numel() for _, shape in layout])
    return {name: piece.view(shape) for (name, shape), piece in zip(layout, pieces, strict=True)}


def _num_elements(layout: NamedShapes) -> int:
    return sum(shape.numel() for _, shape in layout)
