"""Short streams: what is pushed comes back, ends cost next to nothing, lanes do not meet, damage is refused."""

from typing import Any

import pytest
import torch

from toolkit.coding.codecs import categorical, location_scale, uniform
from toolkit.coding.streams import Streams, Tally

RNG = torch.Generator()


def skewed(n: int, lanes: int, seed: int = 0) -> torch.Tensor:
    """Mostly zeros, as the border of an image is."""
    rng = RNG.manual_seed(seed)
    x = torch.randint(0, 4, (n, lanes), generator=rng)
    return torch.where(torch.rand(n, lanes, generator=rng) < 0.9, 0, x)


def codec(n: int, lanes: int, precision: int = 16) -> Any:
    freqs = torch.tensor([(1 << precision) - 3 * (1 << precision) // 32, *[(1 << precision) // 32] * 3])
    return categorical(freqs, (n, lanes), precision)


@pytest.mark.parametrize(("n", "lanes"), [(0, 3), (1, 1), (7, 5), (900, 4)])
def test_what_was_pushed_comes_back_through_bytes(n: int, lanes: int) -> None:
    x = skewed(n, lanes)
    streams: Any = Streams(lanes)
    codec(n, lanes).push(streams, x)
    back: Any = Streams.from_bytes(streams.to_bytes())
    assert torch.equal(codec(n, lanes).pop(back), x)
    assert bool(back.ended().all())


def test_streams_of_every_length_come_back() -> None:
    """Each number of head bytes and words, 2 to 54 bytes: the length alone says which is which."""
    lengths = set()
    for n in range(0, 60):
        x = torch.randint(0, 256, (n, 4), generator=RNG.manual_seed(n))
        plain, small = uniform((n, 4), 8), codec(n, 4)
        y = skewed(n, 4, seed=n)
        streams: Any = Streams(4)
        plain.push(streams, x)
        small.push(streams, y)
        data = streams.to_bytes()
        lengths |= set(map(len, data))
        back: Any = Streams.from_bytes(data)
        assert torch.equal(small.pop(back), y)
        assert torch.equal(plain.pop(back), x)
        assert bool(back.ended().all())
    assert lengths >= set(range(2, 54))


def test_an_empty_stream_and_one_of_certain_symbols_cost_nothing() -> None:
    streams: Any = Streams(3)
    zeros = torch.zeros(700, 3, dtype=torch.int64)
    codec(700, 3).push(streams, zeros)
    assert streams.to_bytes() == [b""] * 3


def test_the_end_of_a_stream_costs_a_few_bits() -> None:
    """Against -log2 of the frequencies, in bytes: rounding to a byte, and a first head that was small."""
    n, lanes = 900, 64
    x = skewed(n, lanes)
    streams: Any = Streams(lanes)
    codec(n, lanes).push(streams, x)
    information = torch.where(x == 0, -torch.log2(torch.tensor(29 / 32)), 5.0).sum(0)
    excess = torch.tensor([8.0 * len(data) for data in streams.to_bytes()]) - information
    assert 0 < float(excess.mean()) < 17
    assert float((streams.bits() - information).mean()) < 13


def test_a_lane_decodes_without_the_others() -> None:
    n, lanes = 300, 6
    loc = torch.randint(0, 64 * 255, (n, lanes), generator=RNG.manual_seed(1))
    scale = torch.full((n, lanes), 250)
    x = (loc // 64 + skewed(n, lanes)).clamp(max=255)
    streams: Any = Streams(lanes)
    location_scale("logistic", loc, scale, 256, 1, 18).push(streams, x)
    data = streams.to_bytes()
    one: Any = Streams.from_bytes([data[4]])
    assert torch.equal(location_scale("logistic", loc[:, 4:5], scale[:, 4:5], 256, 1, 18).pop(one), x[:, 4:5])
    assert bool(one.ended().all())


def test_most_damaged_streams_do_not_end_as_they_began() -> None:
    n, lanes = 300, 64
    x = skewed(n, lanes)
    streams: Any = Streams(lanes)
    codec(n, lanes).push(streams, x)
    data = [bytes([d[0] ^ 4, *d[1:]]) for d in streams.to_bytes()]
    back: Any = Streams.from_bytes(data)
    codec(n, lanes).pop(back)
    assert int(back.ended().sum()) < lanes / 2


def test_bytes_that_are_no_stream_are_refused() -> None:
    for data in (bytes(3), bytes(20), b"\xff" * 8):
        with pytest.raises(ValueError, match=r"stream 1 of 2: expected a head in \[2\*\*31, 2\*\*63\), got"):
            Streams.from_bytes([b"", data])


def test_symbols_that_are_not_one_lane_an_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected start and freq of shape \[n, 3\] .* got \[2, 2\]"):
        Streams(3).push(torch.zeros(2, 2), torch.ones(2, 2), 16)


def test_a_tally_is_what_long_streams_cost() -> None:
    x = skewed(4000, 3)
    tally: Any = Tally(3)
    streams: Any = Streams(3)
    codec(4000, 3).push(tally, x)
    codec(4000, 3).push(streams, x)
    assert (streams.bits() - tally.bits).tolist() == pytest.approx([8] * 3, abs=9)  # the first symbols'
