"""Blocks of a matrix in a file: what they hold, and files that do not hold the matrix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ngdla._backend.raw_file import raw_file

S = np.random.default_rng(2).standard_normal((7, 1100))  # rows of more than two pages


def written(path: Path, S: np.ndarray, offset: int = 0) -> str:
    with open(path / "S", "wb") as file:
        file.write(b"x" * offset)
        S.tofile(file)
    return str(path / "S")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("offset", [0, 24])
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_blocks_are_those_of_the_matrix(
    tmp_path: Path, axis: int, offset: int, ahead: bool, dtype: str
) -> None:
    T = (S * (1 + 2j)).astype(dtype) if dtype.startswith("complex") else S.astype(dtype)
    path = written(tmp_path, T, offset)
    blocks = raw_file(path, T.shape, dtype, 3, offset, axis=axis, ahead=ahead)
    for _ in range(2):  # each pass is a fresh one
        found = [block.copy() for block in blocks()]
        assert {block.shape[axis] for block in found[:-1]} == {3}
        np.testing.assert_array_equal(np.concatenate(found, axis=axis), T)


def test_blocks_are_chosen_by_their_size(tmp_path: Path) -> None:
    path = written(tmp_path, S)
    (block,) = raw_file(path, S.shape, "float64", None, 0, axis=1, ahead=False)()
    np.testing.assert_array_equal(block, S)


@pytest.mark.parametrize("shape", [(7, 1099), (8, 1100)], ids=str)
def test_a_file_of_another_size(tmp_path: Path, shape: Any) -> None:
    path = written(tmp_path, S)
    says = rf"holds {S.nbytes} bytes .* {re.escape(str(shape))} .* takes {shape[0] * shape[1] * 8}"
    with pytest.raises(ValueError, match=says):
        raw_file(path, shape, "float64", None, 0, axis=1, ahead=False)


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = written(tmp_path, S)
    blocks = raw_file(path, S.shape, "float64", 500, 0, axis=1, ahead=False)()
    next(blocks)
    with open(path, "rb+") as file:
        file.truncate(S.nbytes - 8)
    with pytest.raises(EOFError, match="has become shorter"):
        next(blocks)


def test_no_such_file_and_no_such_dtype(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        raw_file(tmp_path / "none", (1, 1), "float64", None, 0, axis=1, ahead=False)
    with pytest.raises(TypeError, match="`dtype` is 'bfloat16'"):
        raw_file(written(tmp_path, S), S.shape, "bfloat16", None, 0, axis=1, ahead=False)
