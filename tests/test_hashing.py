"""Counter-based random numbers: published vectors, devices agree, no two keys share a number."""

import math

import pytest
import torch

from toolkit.coding.hashing import Keys, philox, uniform

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
ONES = 0xFFFFFFFF
# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, output.
VECTORS = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, (ONES, ONES), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]  # fmt: skip


def keys(n: int, seed: int = 0) -> Keys:
    return Keys.of(seed, torch.arange(n), torch.tensor(0))


def big_int_philox(counter: list[int], key: tuple[int, int]) -> list[int]:
    """The same in Python's integers, with Philox's own definition: key words are bumped before every round but one."""
    c, k = list(counter), list(key)
    for i in range(10):
        if i:
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
    return c


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("counter", "key", "output"), VECTORS)
def test_philox_gives_the_published_vectors(
    device: str, counter: list[int], key: tuple[int, int], output: list[int]
) -> None:
    # Many at once, so that vectorised loops and their remainders are both met.
    words = philox([torch.full((37,), c, device=device) for c in counter], key)
    assert [w.tolist() for w in words] == [[w] * 37 for w in output]


@pytest.mark.parametrize("device", DEVICES)
def test_philox_agrees_with_big_integers_on_random_counters(device: str) -> None:
    rng = torch.Generator().manual_seed(0)
    counters = torch.randint(0, 1 << 32, (4, 500), generator=rng)
    key = (0xDEADBEEF, 0x01234567)
    words = torch.stack(philox(list(counters.to(device)), key)).cpu()
    for i in range(500):
        assert words[:, i].tolist() == big_int_philox(counters[:, i].tolist(), key)


def test_each_part_of_the_key_changes_the_numbers() -> None:
    def first(seed: int, row: int, latent: int, node: int, stream: int) -> float:
        key = Keys.of(seed, torch.tensor(row), torch.tensor(latent))
        return float(key.uniforms(torch.tensor([node]), stream)[0])

    base = (5, 6, 7, 8, 0)
    far = [(5 + 2**40, 6, 7, 8, 0), (5, 6, 7, 8 + 2**40, 0)]
    near = [tuple(value + (i == j) for j, value in enumerate(base)) for i in range(5)]
    assert len({first(*key) for key in [base, *near, *far]}) == 8  # type: ignore[arg-type]
    assert first(*base) == first(*base)


def test_the_key_lies_in_the_words_as_documented() -> None:
    seed, row, latent, node, stream = 0x0123456789ABCDEF, 3, 9, (1 << 60) + 5, 6
    words = Keys.of(seed, torch.tensor([row]), torch.tensor([latent])).words(torch.tensor([node]), stream)
    counter = [latent, row, node & ONES, node >> 32 | stream << 29]
    assert [int(w) for w in words] == big_int_philox(counter, (0x89ABCDEF, 0x01234567))


def test_uniform_numbers_stay_within_zero_and_one_and_are_symmetric() -> None:
    words = torch.tensor([0, ONES])
    u = uniform(words, words)
    assert u.tolist() == [2.0**-53, 1 - 2.0**-53]
    assert (1 - u).tolist() == u.flip(0).tolist()


def test_uniform_numbers_are_uniform_and_independent() -> None:
    """The Dvoretzky-Kiefer-Wolfowitz bound at one in a million, and the correlation of the two numbers of a node."""
    n = 200_000
    u, v = keys(n).uniforms(torch.ones(n, dtype=torch.int64))
    for x in (u, v):
        order = x.sort().values
        distance = (order - (torch.arange(n) + 0.5) / n).abs().max() + 0.5 / n
        assert float(distance) < math.sqrt(math.log(2e6) / (2 * n))
    assert abs(float(torch.corrcoef(torch.stack([u, v]))[0, 1])) < 5 / math.sqrt(n)


def test_keys_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected each row in \[0, 4294967296\), got -1 to 3; number them from 0"):
        Keys.of(0, torch.tensor([3, -1]), torch.tensor(0))
    with pytest.raises(ValueError, match=r"expected each latent in \[0, 4294967296\), got 4294967296"):
        Keys.of(0, torch.tensor([0]), torch.tensor(1 << 32))
    with pytest.raises(ValueError, match=r"expected each seed in \[0, 18446744073709551616\), got -1"):
        Keys.of(-1, torch.tensor([0]), torch.tensor(0))
