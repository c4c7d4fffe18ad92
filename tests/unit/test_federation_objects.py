"""Control objects: one spelling, a signature, limits; and keys that only their owner can use."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from federation_cases import identity
from motley.errors import IdentityError, VoidObjectError
from motley.federation.keys.identity import holding, load_identity, new_identity, save_identity
from motley.federation.keys.objects import (
    DEEPEST,
    LARGEST_BYTES,
    LARGEST_INTEGER,
    Signed,
    canonical,
    open_signed,
    parse_canonical,
)
from motley.federation.state.tensors import pack, unpack

PARTY = identity("lab-a")
BODY = {"kind": "update", "federation": "0" * 64, "round": 3, "loss": 2.25, "chips": {"cpu": 2}}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(categories=["L", "N", "P"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc-", max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


def key_of(name: str) -> str | None:
    return PARTY.public_key if name == "lab-a" else None


def opened(data: bytes) -> Signed:
    return open_signed(data, "update", key_of)


@given(JSON)
def test_canonical_bytes_come_back_as_they_are(value: Any) -> None:
    data = canonical(value)
    assert canonical(parse_canonical(data)) == data
    assert parse_canonical(data) == value


@given(st.dictionaries(st.text("abc", max_size=3), JSON, max_size=4))
def test_what_is_signed_opens_and_nothing_else_does(extra: dict[str, Any]) -> None:
    signed = PARTY.sign({**BODY, "extra": extra})
    assert opened(signed.data).body == signed.body
    assert opened(signed.data).digest == signed.digest


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_void(position: int, change: int) -> None:
    data = bytearray(PARTY.sign(BODY).data)
    data[position % len(data)] ^= change
    with pytest.raises(VoidObjectError):
        opened(bytes(data))


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.replace('"kind"', '"kin\\u0064"'),
        lambda text: text.replace(",", ", ", 1),
        lambda text: text.replace('"round":3', '"round":3.0'),
        lambda text: text.replace('"round":3', '"round":3,"round":3'),
        lambda text: text.replace('"loss":2.25', '"loss":2.250'),
        lambda text: text.replace('"loss":2.25', '"loss":NaN'),
        lambda text: text.replace('"loss":2.25', '"loss":1e999'),
        lambda text: text + "\n",
        lambda text: "\ufeff" + text,
        lambda text: text[:-1],
        lambda text: text[:-1] + ',"extra":1}',
        lambda text: text.upper(),
    ],
)
def test_another_spelling_of_the_same_object_is_void(spell: Any) -> None:
    text = PARTY.sign(BODY).data.decode()
    with pytest.raises(VoidObjectError):
        opened(spell(text).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"9" * 10_000,
        b'{"body":{"kind":"update","party":["lab-a"]},"signature":""}',
        b'{"body":{"kind":"update","party":"lab-a"},"signature":"00"}',
        b'{"body":{"kind":"update","party":"lab-a"},"signature":5}',
        b'{"body":[],"signature":""}',
        b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
        "{\"body\":\"\N{SNOWMAN}\"}".encode(),
    ],
)  # fmt: skip
def test_garbage_is_void(data: bytes) -> None:
    with pytest.raises(VoidObjectError):
        opened(data)


def test_numbers_texts_and_depth_have_limits() -> None:
    deep: Any = 1
    for _ in range(DEEPEST + 1):
        deep = [deep]
    for bad in (deep, 2**53 + 1, "line\nfeed", "\ud800", {"\x1b[31m": 1}):
        with pytest.raises(VoidObjectError):
            opened(PARTY.sign({**BODY, "extra": bad}).data)
    with pytest.raises(VoidObjectError, match="more than"):
        opened(b" " * (LARGEST_BYTES["update"] + 1))
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(math.nan)


def test_kind_signer_and_signature_must_be_right() -> None:
    signed = PARTY.sign(BODY)
    with pytest.raises(VoidObjectError, match="not a seal"):
        open_signed(signed.data, "seal", key_of)
    with pytest.raises(VoidObjectError, match="signed by no member"):
        opened(identity("lab-b").sign(BODY).data)
    stolen = Signed({**signed.body, "round": 4}, signed.signature)
    with pytest.raises(VoidObjectError, match="signature"):
        opened(stolen.data)
    shouted = Signed(signed.body, signed.signature.upper())
    with pytest.raises(VoidObjectError, match="signature"):
        opened(shouted.data)


# Keys


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "lab-a.key"
    made = new_identity("lab-a")
    save_identity(made, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_identity(path).public_key == made.public_key
    assert json.loads(path.read_text())["private_key"] not in repr(made)
    with pytest.raises(IdentityError, match="exists already"):
        save_identity(made, path)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="read by others"):
        load_identity(path)
    with pytest.raises(IdentityError, match=r"No such file or directory\.\nName another file"):
        save_identity(made, path.parent / "deep" / "a.key")


@pytest.mark.parametrize("name", ["", "Lab", "-a", "a/b", "..", "a" * 33, "ä", "a b", "a\n"])
def test_a_name_that_no_party_can_have(name: str) -> None:
    with pytest.raises(IdentityError, match="name"):
        new_identity(name)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"format": "motley-key-2"}', '{"format": "motley-key-1", "party": "a"}',
     '{"format": "motley-key-1", "party": "a", "private_key": "00"}',
     '{"format": "motley-key-1", "party": "A", "private_key": "' + "00" * 32 + '"}'],
)  # fmt: skip
def test_a_damaged_key_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="not a key file"):
        load_identity(path)


def test_a_missing_key_file(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="no such key file") as caught:
        load_identity(tmp_path / "nope")
    assert "keygen" in caught.value.remedy


def test_two_processes_with_one_key_and_the_first_dies(tmp_path: Path) -> None:
    """A lock ends with its process, also when it is killed."""
    path = tmp_path / "lab-a.key"
    save_identity(new_identity("lab-a"), path)
    code = (
        "import sys; from pathlib import Path\n"
        "from motley.federation.keys.identity import holding\n"
        "with holding(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(IdentityError, match="another process"), holding(path):
        pass
    other.kill()
    other.wait()
    other.stdin.close()
    other.stdout.close()
    with holding(path) as held:
        assert held.party == "lab-a"


def test_tensors_are_what_safetensors_reads_in_any_order_of_names() -> None:
    named = {
        "b": torch.randn(3, 4),
        "a": torch.arange(5, dtype=torch.int8),
        "empty": torch.empty(0),
        "one": torch.tensor(3.0),
        "turned": torch.randn(4, 6).t(),
        "\u00e9": torch.arange(7, dtype=torch.int16),
    }
    data = pack(named)
    assert data == pack(dict(reversed(named.items())))
    read = safetensors.torch.load(data)
    assert read.keys() == named.keys() == unpack(data).keys()
    for name, tensor in named.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
