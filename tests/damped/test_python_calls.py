"""How many Python functions of this library a small solve runs through."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

import ngdla

PACKAGE = Path(ngdla.__file__).parent


def test_a_solve_passes_few_functions(rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((50, 2000)), rng.standard_normal(50)
    codes: list[CodeType] = []

    def record(frame: Any, event: str, _: Any) -> None:
        if event == "call" and PACKAGE in Path(frame.f_code.co_filename).parents:
            codes.append(frame.f_code)

    ngdla.damped_lstsq(S, f, 1e-3, method="cholesky")
    before = sys.getprofile()
    sys.setprofile(record)
    try:
        ngdla.damped_lstsq(S, f, 1e-3, method="cholesky")
    finally:
        sys.setprofile(before)
    files = {code.co_filename for code in codes}
    said = f"{len(codes)} calls of {len(set(codes))} functions in {len(files)} files"
    assert len(codes) <= 228, said
    assert len(set(codes)) <= 136, said
