"""Keys of a restic repository; sealing and opening what is stored.

Source: restic's design document, "Keys, Encryption and MAC".  A sealed text is::

    nonce, 16 bytes | AES-256-CTR ciphertext | Poly1305-AES MAC, 16 bytes

The one-time Poly1305 key is ``r`` followed by AES-128 with key ``k`` of the nonce.  The primitives are
OpenSSL's, through cryptography and hashlib.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from recovery.errors import RepositoryDamaged, WrongPassword
from recovery.repository.format import SEAL_BYTES, KeyFile, MacKey, MasterKey, decode_json, encode_json
from recovery.units import MIB

_NONCE_BYTES = _MAC_BYTES = 16

#: scrypt parameters of the keys that we write: restic's own defaults (about 32 MiB, a tenth of a second).
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 15, 8, 1

#: A key file that asks for more memory than this, or for as much work, is refused: it is damaged or hostile.
MAX_SCRYPT_BYTES = 512 * MIB


class DoesNotAuthenticate(Exception):
    """A sealed text was changed, or belongs to another key."""


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """An encryption key (32 bytes) and a MAC key (16 + 16 bytes).  Never shown: it has no repr of its fields."""

    encrypt: bytes
    mac_k: bytes
    mac_r: bytes

    @classmethod
    def generate(cls) -> Key:
        """A fresh random key."""
        return cls(secrets.token_bytes(32), secrets.token_bytes(16), secrets.token_bytes(16))

    @classmethod
    def derive(cls, password: str, salt: bytes, n: int, r: int, p: int) -> Key:
        """The key that scrypt makes of ``password``.  Raises RepositoryDamaged on absurd parameters."""
        power_of_two = n > 1 and n & (n - 1) == 0
        if not power_of_two or r < 1 or p < 1 or 128 * n * r * p > MAX_SCRYPT_BYTES or 128 * r * p > MIB:
            raise RepositoryDamaged(
                f"a key file asks for impossible scrypt parameters (N={n}, r={r}, p={p})",
                "It is damaged; another key file may still open the repository.",
            )
        memory = 128 * r * (n + p + 2) + MIB
        secret = password.encode(errors="surrogateescape")  # as the environment held it, UTF-8 or not
        try:
            raw = hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=64)
        except ValueError as error:
            raise RepositoryDamaged(
                f"a key file asks for impossible scrypt parameters (N={n}, r={r}, p={p})",
                "It is damaged; another key file may still open the repository.",
            ) from error
        return cls(raw[:32], raw[32:48], raw[48:64])

    def _mac(self, nonce: bytes | memoryview, ciphertext: bytes | memoryview) -> bytes:
        block = Cipher(algorithms.AES(self.mac_k), modes.ECB()).encryptor().update(nonce)
        return Poly1305.generate_tag(self.mac_r + block, ciphertext)

    def seal(self, plain: bytes | memoryview) -> bytearray:
        """Encrypt and authenticate: ``SEAL_BYTES`` longer than ``plain``."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = bytearray(len(plain) + SEAL_BYTES)  # filled in place: a second copy of every byte would cost
        sealed[:_NONCE_BYTES] = nonce
        with memoryview(sealed) as view:
            ciphertext = view[_NONCE_BYTES:-_MAC_BYTES]
            Cipher(algorithms.AES(self.encrypt), modes.CTR(nonce)).encryptor().update_into(plain, ciphertext)
            view[-_MAC_BYTES:] = self._mac(nonce, ciphertext)
        return sealed

    def open(self, sealed: bytes | memoryview) -> bytes:
        """The plaintext.  Raises DoesNotAuthenticate."""
        return bytes(self.open_into(sealed, bytearray(len(sealed))))

    def open_into(self, sealed: bytes | memoryview, room: bytearray) -> memoryview:
        """The plaintext, in the first bytes of ``room``, which must be as long as ``sealed``.

        Raises DoesNotAuthenticate.
        """
        view = memoryview(sealed)
        if len(view) < SEAL_BYTES:
            raise DoesNotAuthenticate
        nonce, ciphertext, mac = view[:_NONCE_BYTES], view[_NONCE_BYTES:-_MAC_BYTES], view[-_MAC_BYTES:]
        if not hmac.compare_digest(self._mac(nonce, ciphertext), mac):
            raise DoesNotAuthenticate
        plain = memoryview(room)[: len(ciphertext)]
        Cipher(algorithms.AES(self.encrypt), modes.CTR(bytes(nonce))).decryptor().update_into(ciphertext, plain)
        return plain


def make_key_file(master: Key, password: str, created: datetime, username: str, hostname: str) -> bytes:
    """The content of a key file that opens ``master`` with ``password``; each call takes a new salt."""
    salt = secrets.token_bytes(64)
    plain = encode_json(MasterKey(MacKey(master.mac_k, master.mac_r), master.encrypt))
    sealed = Key.derive(password, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P).seal(plain)
    return encode_json(
        KeyFile(created, username, hostname, "scrypt", SCRYPT_N, SCRYPT_R, SCRYPT_P, salt=salt, data=bytes(sealed))
    )


def open_key_file(data: bytes, password: str) -> Key:
    """The master key in a key file.

    Raises WrongPassword when it does not open with ``password``, RepositoryDamaged when it is not a key file.
    """
    key_file = decode_json(data, KeyFile, "a key file")
    if key_file.kdf != "scrypt":
        raise RepositoryDamaged(f"a key file uses {key_file.kdf!r}, which is not known", "A newer restic wrote it.")
    derived = Key.derive(password, key_file.salt, key_file.N, key_file.r, key_file.p)
    try:
        plain = derived.open(key_file.data)
    except DoesNotAuthenticate as error:
        raise WrongPassword("the password is wrong", "Check the keyboard layout, and try again.") from error
    master = decode_json(plain, MasterKey, "a key")
    if (len(master.encrypt), len(master.mac.k), len(master.mac.r)) != (32, 16, 16):
        raise RepositoryDamaged("a key file holds keys of a wrong length", "Another key file may still open it.")
    return Key(master.encrypt, master.mac.k, master.mac.r)
