"""Keys: sealing and opening against published vectors, key files good and bad."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.errors import RepositoryDamaged, WrongPassword
from recovery.repository.crypto import DoesNotAuthenticate, Key, make_key_file, open_key_file

KEY = Key(bytes(range(32)), bytes(range(16)), bytes(range(16, 32)))
FILE = make_key_file(KEY, "p\u00e4ss", datetime(2024, 1, 1, tzinfo=UTC), "me", "here")


@given(st.binary(max_size=5000))
def test_what_was_sealed_opens_and_is_32_bytes_longer(plain: bytes) -> None:
    sealed = KEY.seal(plain)
    assert len(sealed) == len(plain) + 32
    assert KEY.open(bytes(sealed)) == plain
    assert KEY.seal(plain) != sealed  # a fresh nonce each time


@given(st.binary(min_size=1, max_size=200), st.data())
def test_one_flipped_bit_anywhere_does_not_authenticate(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(KEY.seal(plain))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DoesNotAuthenticate):
        KEY.open(bytes(sealed))


@given(st.binary(max_size=100))
def test_bytes_that_nobody_sealed_do_not_authenticate(data: bytes) -> None:
    with pytest.raises(DoesNotAuthenticate):
        KEY.open(data)


@pytest.mark.parametrize(
    ("message", "r", "k", "nonce", "tag"),
    [  # D. J. Bernstein, "The Poly1305-AES message-authentication code", appendix B
        ("f3f6", "851fc40c3467ac0be05cc20404f3f700", "ec074c835580741701425b623235add6",
         "fb447350c4e868c52ac3275cf9d4327e", "f4c633c3044fc145f84f335cb81953de"),
        ("", "a0f3080000f46400d0c7e9076c834403", "75deaa25c09f208e1dc4ce6b5cad3fbf",
         "61ee09218d29b0aaed7e154a2c5509cc", "dd3fab2251f11ac759f0887129cc2ee7"),
    ],
)  # fmt: skip
def test_the_mac_is_poly1305_aes(message: str, r: str, k: str, nonce: str, tag: str) -> None:
    key = Key(bytes(32), bytes.fromhex(k), bytes.fromhex(r))
    sealed = bytes.fromhex(nonce) + bytes.fromhex(message) + bytes.fromhex(tag)
    key.open(sealed)
    with pytest.raises(DoesNotAuthenticate):
        key.open(sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_a_key_is_never_shown() -> None:
    shown = repr(KEY) + str(KEY) + f"{[KEY]}"
    assert not any(part in shown for part in (KEY.encrypt.hex(), repr(KEY.encrypt), repr(KEY.mac_k), "encrypt="))


def test_a_key_file_opens_with_its_password_alone() -> None:
    opened = open_key_file(FILE, "p\u00e4ss")
    assert (opened.encrypt, opened.mac_k, opened.mac_r) == (KEY.encrypt, KEY.mac_k, KEY.mac_r)
    for wrong in ("", "pass", "p\u00e4ss "):
        with pytest.raises(WrongPassword):
            open_key_file(FILE, wrong)


def test_a_password_that_is_not_utf8_works_like_any_other() -> None:
    """The environment may hold any bytes; Python hands them over with surrogates."""
    password = b"caf\xe9".decode(errors="surrogateescape")
    file = make_key_file(KEY, password, datetime(2024, 1, 1, tzinfo=UTC), "me", "here")
    assert open_key_file(file, password).encrypt == KEY.encrypt


HOSTILE: list[dict[str, Any]] = [
    {"N": 0}, {"N": 1}, {"N": -8}, {"N": 12345}, {"N": 2**40}, {"N": 2**63}, {"N": 10**30}, {"N": 2**16, "r": 1},
    {"N": 1.5}, {"N": "8"}, {"r": 0}, {"r": -1}, {"r": 2**31}, {"r": 10**30}, {"p": 0}, {"p": -1}, {"p": 10**30},
    {"p": 2**30}, {"salt": "***"}, {"salt": 5}, {"data": "***"}, {"data": None}, {"kdf": "argon2"}, {"kdf": 5},
    {"created": "long ago"}, {"created": "2024-01-01T00:00:00"}, {"N": 2, "r": 2**12, "p": 2**12},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_key_file_with_absurd_fields_is_damaged(change: dict[str, Any]) -> None:
    with pytest.raises(RepositoryDamaged):
        open_key_file(json.dumps({**json.loads(FILE), **change}).encode(), "p\u00e4ss")


@pytest.mark.parametrize("change", [{"data": ""}, {"data": "AAAA"}, {"salt": ""}], ids=str)
def test_a_key_file_with_another_content_does_not_open(change: dict[str, Any]) -> None:
    with pytest.raises(WrongPassword):
        open_key_file(json.dumps({**json.loads(FILE), **change}).encode(), "p\u00e4ss")


@settings(deadline=None, max_examples=60)
@given(st.integers(-2, 2**20) | st.integers(0, 11).map(lambda power: 2**power), st.integers(-2, 9), st.integers(-2, 20))
def test_any_scrypt_parameters_derive_a_key_or_are_damaged(n: int, r: int, p: int) -> None:
    with contextlib.suppress(RepositoryDamaged):
        assert Key.derive("x", b"salt", n, r, p).encrypt != bytes(32)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", FILE[:-3], FILE[5:], b"\x00" * 400])
def test_what_is_no_key_file_is_damaged(data: bytes) -> None:
    with pytest.raises(RepositoryDamaged):
        open_key_file(data, "p\u00e4ss")


def test_a_key_file_holding_keys_of_a_wrong_length_is_damaged() -> None:
    fields = json.loads(FILE)
    salt = base64.b64decode(fields["salt"])
    derived = Key.derive("p\u00e4ss", salt, fields["N"], fields["r"], fields["p"])
    inners: list[object] = [
        {"mac": {"k": "AAAA", "r": "AAAA"}, "encrypt": "AAAA"},
        {"mac": {"k": "", "r": ""}, "encrypt": ""},
        {"encrypt": "AAAA"},
        [],
    ]
    for inner in inners:
        data = base64.b64encode(bytes(derived.seal(json.dumps(inner).encode()))).decode()
        with pytest.raises(RepositoryDamaged):
            open_key_file(json.dumps({**fields, "data": data}).encode(), "p\u00e4ss")
