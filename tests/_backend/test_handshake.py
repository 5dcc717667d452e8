"""What ranks tell each other before a sum."""

from typing import Any

import numpy as np
import pytest

from ngdla._backend.handshake import PAYLOAD, WORDS, Packets, checksum, disagreement, packet

OF_TWO: dict[str, float] = {"well": 1.0, "size": 8.0, "share": 3.0}


def said(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    packets = Packets(np.stack([packet({**OF_TWO, **fields}, ()) for fields in (first, second)]))
    return disagreement(packets, "S", "rows", ["f"])


def test_a_packet_has_fields_and_a_payload() -> None:
    words = packet({"well": 1.0, "size": 8.0}, [2.0, 3.0])
    packets = Packets(words[None, :])
    assert words.shape == (WORDS,)
    assert (packets["well"][0], packets["size"][0], packets["share"][0]) == (1.0, 8.0, 0.0)
    np.testing.assert_array_equal(packets.payload[0], [2.0, 3.0] + [0.0] * (PAYLOAD - 2))


@pytest.mark.parametrize(
    ("field", "first", "second", "words"),
    [
        ("axis", 0.0, 1.0, "rank 1 has other shards of `S` than rank 0"),
        ("size", 8.0, 9.0, "`S` has 8 rows on rank 0 but 9 on rank 1"),
        ("dtype", 2.0, 3.0, "`S` is float32 on rank 0 but float64 on rank 1"),
        ("library", 0.0, 2.0, "`S` is a numpy array on rank 0 but a torch one on rank 1"),
        ("declared", 6.0, 7.0, "`columns` of `S` differs between rank 0 and rank 1"),
        ("declared", 7.0, 7.0, "the columns of `S` do not add up: 3, 3 are 6 in all"),
        ("damping", 0.5, 1.0, "`damping` is 0.5 on rank 0 but 1.0 on rank 1"),
        ("damping", 0.0, 1.0, "rank 1 is at another place"),
        ("options", 0.0, 1.0, "rank 1 was called with other options"),
        ("data", 0.0, 1.0, "`f` differs between rank 0 and rank 1"),
        ("sent", 0.0, 1.0, "rank 1 is at another place"),
    ],
)
def test_what_differs_is_named(field: str, first: float, second: float, words: str) -> None:
    assert said({}, {}) is None
    text = said({field: first}, {field: second})
    assert text is not None
    assert words in text


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_a_checksum_sees_more_than_roundings(dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(50).astype(dtype)
    u = np.finfo(dtype).eps / 2
    word, tolerance = checksum(x, "f", dtype)
    rounded, _ = checksum((x * (1 + 4 * u)).astype(dtype), "f", dtype)
    assert abs(rounded - word) <= tolerance
    for other in (2 * x, x[::-1], -x, x + (np.arange(50) == 7) * 0.1):
        assert abs(checksum(other.astype(dtype), "f", dtype)[0] - word) > tolerance


def test_solutions_may_differ_by_more() -> None:
    x = np.random.default_rng(0).standard_normal(50)
    assert checksum(x, "x0", "float64", solved=True)[1] > 1e3 * checksum(x, "x0", "float64")[1]
