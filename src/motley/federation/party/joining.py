"""A party joins: its own text, seed and chips meet the charter, and a run folder is made ready.

    folder = join(config, recipe, cluster, Path("runs/lab-a"), report)
    job = start(folder, WORKER)

Joining again with the same folder goes on: the party fetches what the others have done meanwhile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from motley.cluster import Cluster
from motley.data import load_tokenizer
from motley.errors import (
    FederationError,
    RecipeError,
    RunFolderError,
    TokenizerError,
    not_written,
)
from motley.federation.charter.charter import (
    FINGERPRINT_DIGITS,
    Charter,
    SharedRecipe,
    shared_recipe,
)
from motley.federation.keys.identity import holding
from motley.federation.keys.objects import digest_of
from motley.federation.party.party_folder import PartyConfig, is_party, read_party, write_party
from motley.federation.party.privacy import budget
from motley.federation.party.rounds import Member
from motley.federation.storage.bulk import read_bulk
from motley.recipe import Recipe
from motley.train.folder import RunFolder, check_free
from motley.train.prepare import new_run, resume_run

Report = Callable[[str], None]

WORKER = "motley.federation.party.worker"
"""The module that each rank of a party runs."""

TOKENIZER_FILE = "tokenizer.json"
LARGEST_TOKENIZER_BYTES = 256 * 2**20


def join(
    config: PartyConfig, recipe: Recipe, cluster: Cluster, path: Path, report: Report
) -> RunFolder:
    """A run folder in which the party can start; `config.federation` may be a fingerprint, or
    empty: then the charter is held against the one that the run began with, if it has begun.

    Raises what is wrong with the store, the charter, the key, the recipe or the tokenizer, before
    anything is trained or published.
    """
    before = read_party(path) if is_party(path) else None
    fingerprint = config.federation or (before.federation if before else None)
    with holding(Path(config.key)) as identity:
        member = Member(config.open_store(), identity, fingerprint)
        member.check_standing()
    charter = member.chain.charter
    report(f"Joining '{charter.terms.name}' as '{member.party}'.")
    report(_compared(member.chain.federation, given=bool(config.federation), before=before))
    spends = budget(charter.terms, charter.recipe.schedule)
    if spends is not None:
        report(str(spends))
    config = dataclasses.replace(config, federation=member.chain.federation)
    shared = check_recipe(recipe, charter)
    if before is not None:
        _check_same(path, before, config)
        folder, _ = resume_run(path, cluster, None, report)
    else:
        check_free(path)
        _check_tokenizer(recipe, charter)
        if recipe.data.tokenizer is None and recipe.data.vocab_size != shared.model.vocab_size:
            report(
                f"data.vocab_size = {recipe.data.vocab_size} is not used: the federation's "
                f"tokenizer, which all share, has {shared.model.vocab_size} tokens."
            )
        tokenizer = fetch_tokenizer(member, path)
        data = dataclasses.replace(shared.data, tokenizer=str(tokenizer))
        seed = own_seed(recipe.seed, member.party)
        report(f"Seed {seed}: {recipe.seed} mixed with the party's name, for samples of its own.")
        shared = dataclasses.replace(shared, data=data, seed=seed)
        folder, _ = new_run(shared, cluster, None, path, report)
    write_party(path, config)
    return folder


def own_seed(seed: int, party: str) -> int:
    """The seed of a party's training. Parties with one recipe and one text would else train on the
    same samples in the same order, and send the same update."""
    return int(digest_of(f"{seed} {party}".encode())[:8], 16)


def check_recipe(recipe: Recipe, charter: Charter) -> Recipe:
    """The party's recipe with what all parties share; `RecipeError` where it says otherwise."""
    theirs = charter.recipe
    vocabulary = recipe.model.vocab_size or theirs.model.vocab_size
    model = dataclasses.replace(recipe.model, vocab_size=vocabulary)
    ours = shared_recipe(dataclasses.replace(recipe, model=model))
    for field in dataclasses.fields(SharedRecipe):
        mine, shared = getattr(ours, field.name), getattr(theirs, field.name)
        if mine != shared:
            raise RecipeError(
                f"the recipe differs from the federation's: "
                f"{_difference(field.name, mine, shared)}.",
                remedy="Use the founder's recipe; only [data], [selection], [batch].global_batch, "
                "[validation], [checkpoint], name and seed are a party's own.",
            )
    return dataclasses.replace(recipe, model=theirs.model)


def _difference(name: str, mine: object, shared: object) -> str:
    if dataclasses.is_dataclass(mine):
        for field in dataclasses.fields(mine):
            ours, theirs = getattr(mine, field.name), getattr(shared, field.name)
            if ours != theirs:
                return f"{name}.{field.name}: {ours}, theirs is {theirs}"
    return f"{name}: {mine}, theirs is {shared}"


def _check_tokenizer(recipe: Recipe, charter: Charter) -> None:
    if recipe.data.tokenizer is None:
        return
    own = load_tokenizer(Path(recipe.data.tokenizer))
    if own.digest != charter.tokenizer.digest:
        raise TokenizerError(
            f"{recipe.data.tokenizer} is another tokenizer ({own.digest[:12]}) than the "
            f"federation's ({charter.tokenizer.digest[:12]}).",
            remedy="Leave data.tokenizer out: the federation's own is fetched from its store.",
        )


def fetch_tokenizer(member: Member, path: Path) -> Path:
    """The federation's tokenizer, in a file beside the run's folder."""
    named = member.chain.charter.tokenizer
    cipher = member.keyring.cipher(named.bulk.epoch)
    data = read_bulk(member.store, named.bulk, cipher, max_bytes=LARGEST_TOKENIZER_BYTES)
    target = path.with_name(f"{path.name}.{TOKENIZER_FILE}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as cause:
        raise not_written(target, cause, "Free space.") from None
    if load_tokenizer(target).digest != named.digest:
        raise FederationError(
            "the tokenizer in the store is not the one that the charter names.",
            remedy="Ask the founder; do not join.",
        )
    return target


def _compared(federation: str, *, given: bool, before: PartyConfig | None) -> str:
    """The charter's fingerprint, and what it was held against."""
    text = f"The charter's fingerprint is {federation[:FINGERPRINT_DIGITS]}"
    if given:
        return f"{text}, as you gave it."
    if before is not None:
        return f"{text}, as when this run began."
    return (
        f"{text}. WARNING: it was held against nothing. Compare it with what the founder told you "
        "over another channel, or give that with --fingerprint: a changed charter is refused then."
    )


def _check_same(path: Path, before: PartyConfig, config: PartyConfig) -> None:
    if before.federation != config.federation:
        raise RunFolderError(
            f"{path} belongs to another federation ({before.federation[:16]}).",
            remedy="Name another folder with --run.",
        )
