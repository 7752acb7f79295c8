"""LUKS2 without device-mapper: cryptsetup writes the header, we encrypt what lies behind it.

The format is the "LUKS2 On-Disk Format Specification"; dm-crypt counts the initial vector of ``plain64`` in sectors of
512 bytes, whatever the size of the encrypted sectors.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.support.disks import loop, run

_SECTOR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Luks:
    """What one needs to write behind a header."""

    payload_offset: int
    volume_key: bytes


def format_luks(disk: Path, offset: int, passphrase: str, uuid: str, scratch: Path) -> Luks:
    """Write a LUKS2 header at a partition's offset; the key derivation is cheap, for emulated processors."""
    key = scratch / "volume.key"
    key.write_bytes(secrets.token_bytes(64))
    words = ["cryptsetup", "luksFormat", "--batch-mode", "--type=luks2", "--cipher=aes-xts-plain64", "--key-size=512"]
    words += ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", f"--sector-size={_SECTOR_BYTES}", f"--uuid={uuid}"]
    words += ["--luks2-keyslots-size=256k", f"--volume-key-file={key}", "--key-file=-"]
    with loop(disk, offset=offset) as device:
        run(*words, device, input=passphrase)
        told = json.loads(run("cryptsetup", "luksDump", "--dump-json-metadata", device))
    return Luks(int(told["segments"]["0"]["offset"]), key.read_bytes())


def encrypt(plain: Path, disk: Path, offset: int, luks: Luks) -> None:
    """Write the encrypted content of ``plain``, every sector of it, at ``offset`` of ``disk``."""
    algorithm = algorithms.AES(luks.volume_key)
    with plain.open("rb") as source, disk.open("r+b") as target:
        target.seek(offset)
        number = 0
        while data := source.read(_SECTOR_BYTES):
            encryptor = Cipher(algorithm, modes.XTS(number.to_bytes(16, "little"))).encryptor()
            target.write(encryptor.update(data) + encryptor.finalize())
            number += _SECTOR_BYTES // 512
