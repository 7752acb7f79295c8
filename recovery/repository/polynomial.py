"""A random irreducible polynomial over GF(2) of degree 53, which restic's ``config`` must hold.

restic cuts files with it (Rabin fingerprints, its package ``chunker``); disks are cut by a fixed grid, so this
program only writes it, for restic's own file backups into the same repository.
"""

from __future__ import annotations

import secrets

DEGREE = 53


def random_irreducible() -> int:
    """Bit ``i`` is the coefficient of ``x**i``; about one in 27 candidates is irreducible."""
    while True:
        candidate = secrets.randbits(DEGREE + 1) | 1 << DEGREE | 1
        if is_irreducible(candidate):
            return candidate


def is_irreducible(polynomial: int) -> bool:
    """Ben-Or's test: no common factor with ``x**(2**i) - x`` for any i up to half the degree."""
    power = 2
    for _ in range((polynomial.bit_length() - 1) // 2):
        power = _remainder(_square(power), polynomial)
        if _common_factor(polynomial, power ^ 2) != 1:
            return False
    return True


def _square(value: int) -> int:
    """Squaring over GF(2) spreads the bits: a zero between each two."""
    return int("0".join(f"{value:b}"), 2)


def _remainder(value: int, modulus: int) -> int:
    degree = modulus.bit_length()
    while value.bit_length() >= degree:
        value ^= modulus << (value.bit_length() - degree)
    return value


def _common_factor(a: int, b: int) -> int:
    while b:
        a, b = b, _remainder(a, b)
    return a
