"""Founding a federation: tokenizer and base into the store, then the charter that names them.

The charter is written last and by put-if-absent, so a founding that breaks off leaves no federation
and can be repeated, and of two founders in one store one is told that the other was first.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from motley.errors import CharterError, StoreError
from motley.federation.charter.charter import (
    Charter,
    MemberKey,
    NamedBulk,
    SharedRecipe,
    read_charter,
    sign_charter,
)
from motley.federation.keys.encrypt import GroupCipher, new_group_key
from motley.federation.keys.handout import CHARTER_PLACE, hand_out
from motley.federation.keys.identity import Identity
from motley.federation.keys.objects import LARGEST_BYTES
from motley.federation.log.log import CHARTER
from motley.federation.state.state import GlobalState
from motley.federation.storage.bulk import write_bulk
from motley.federation.storage.store import Store, check_put_if_absent
from motley.model.config import ModelConfig
from motley.model.init import initial_value
from motley.model.layers import build_layer, parameter_name

CONTAINER_BYTES = 2**16
"""What the container of a payload may add to its arrays."""


def found(
    store: Store,
    state: GlobalState,
    recipe: SharedRecipe,
    tokenizer: tuple[str, bytes],
    founder: Identity,
    members: Sequence[MemberKey],
) -> tuple[Charter, str]:
    """Makes the federation in `store`; its charter and the charter's digest.

    `state` is the base, with the terms; `tokenizer` its digest and the bytes of `tokenizer.json`.
    `StoreError` if the store cannot hold a federation or holds one.
    """
    require_usable(store)
    group_key = new_group_key() if state.terms.encrypted else None
    cipher = GroupCipher(group_key) if group_key else None
    holders = {each.name: each.public_key for each in members} | {founder.party: founder.public_key}
    fragments = range(state.terms.round.fragments)
    largest = max(state.codec.payload_bytes(state.shapes_of(each)) for each in fragments)
    charter = Charter(
        terms=state.terms,
        founder=MemberKey(name=founder.party, public_key=founder.public_key),
        members=tuple(members),
        recipe=recipe,
        tokenizer=NamedBulk(digest=tokenizer[0], bulk=write_bulk(store, tokenizer[1], cipher)),
        base=NamedBulk(digest=state.digest(), bulk=write_bulk(store, state.pack(), cipher)),
        payload_bytes=largest + CONTAINER_BYTES,
        handout=hand_out(group_key, 0, holders, CHARTER_PLACE) if group_key else None,
    )
    signed = sign_charter(charter, founder)
    if len(signed.data) > LARGEST_BYTES["charter"]:
        raise CharterError(
            f"the charter has {len(signed.data)} bytes; it may have {LARGEST_BYTES['charter']}.",
            remedy="Name fewer members now and admit the others later.",
        )
    if not store.put_new(CHARTER, signed.data):
        raise _taken()
    return read_charter(signed.data)


def require_usable(store: Store) -> None:
    """`StoreError` if there is a federation in the store, or if it cannot hold one."""
    if store.size(CHARTER) is not None:
        raise _taken()
    check_put_if_absent(store)


def _taken() -> StoreError:
    return StoreError(
        "there is a federation in this store already.",
        remedy="Name another folder or prefix, or join that one.",
    )


def initial_parameters(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """All parameters of a model by their global names, freshly initialised: fp32 on the CPU."""
    parameters: dict[str, Tensor] = {}
    for layer in range(config.num_layers):
        for local_name, parameter in build_layer(config, layer, device="meta").named_parameters():
            name = parameter_name(config, layer, local_name)
            if name not in parameters:
                parameters[name] = initial_value(config, name, parameter.shape, seed)
    return parameters
