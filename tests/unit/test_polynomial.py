"""Irreducible polynomials, against Gauss's count of them and against plain trial division."""

from __future__ import annotations

import pytest

from recovery.repository.polynomial import DEGREE, is_irreducible, random_irreducible


def _divides(divisor: int, value: int) -> bool:
    while value.bit_length() >= divisor.bit_length():
        value ^= divisor << (value.bit_length() - divisor.bit_length())
    return value == 0


def _trial_division(value: int) -> bool:
    return not any(_divides(divisor, value) for divisor in range(2, 1 << (value.bit_length() + 1) // 2))


@pytest.mark.parametrize("degree", range(2, 9))
def test_agrees_with_trial_division(degree: int) -> None:
    for value in range(1 << degree, 2 << degree):
        assert is_irreducible(value) == _trial_division(value), bin(value)


@pytest.mark.parametrize(("degree", "count"), [(9, 56), (10, 99), (11, 186), (12, 335)])
def test_there_are_as_many_as_gauss_counted(degree: int, count: int) -> None:
    assert sum(is_irreducible(value) for value in range(1 << degree, 2 << degree)) == count


def test_the_polynomial_of_restics_documentation_is_one() -> None:
    assert is_irreducible(0x3DA3358B4DC173)
    assert not is_irreducible(0x3DA3358B4DC173 ^ 1)  # divisible by x


def test_a_random_one_has_the_degree_that_restic_wants() -> None:
    made = {random_irreducible() for _ in range(3)}
    assert all(value.bit_length() == DEGREE + 1 == 54 and is_irreducible(value) for value in made)
    assert len(made) > 1
