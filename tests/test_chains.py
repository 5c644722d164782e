"""Bits-back coding on chains: the law, the words of the papers' loops, net bits and initial bits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.distributions import KINDS, generator, spent
from tests.laws import check_codec, contents
from toolkit.coding import frequencies
from toolkit.coding.codecs import Codec, Layer, bb_ans, bit_swap, bits_back
from toolkit.coding.distributions import location_scale
from toolkit.coding.message import EmptyMessage, Message

# A toy chain x = z_0 <- z_1 <- ... <- z_L with linear conditionals whose exact posteriors are known: every z_i is
# N(0, 1), and z_i given z_i+1 is N(A R_i z_i+1, 1 - A**2) with R_i a rotation; so z_i+1 given z_i is
# N(A R_i^T z_i, 1 - A**2).

A, SPREAD = 0.8, 0.6  # SPREAD**2 = 1 - A**2
PER_UNIT = (32, 8)  # bins a unit of x and of the latents
BINS = (256, 64)  # so both span [-4, 4)


def chain(depth: int, rows: int, dims: int, kind: str = "gaussian") -> tuple[Codec, list[Layer]]:
    """Prior and layers over symbols [rows, dims]; for logistics the posteriors are no longer exact, which is lawful."""
    rotations = [
        torch.linalg.qr(torch.randn(dims, dims, generator=generator(i), dtype=torch.float64))[0] for i in range(depth)
    ]

    def conditional(mean: Tensor, spread: float, level: int, least: int) -> Codec:
        loc = frequencies.snap_location(mean * PER_UNIT[level] + (BINS[level] - 1) / 2)
        scale = frequencies.snap_scale(torch.full_like(mean, spread * PER_UNIT[level]).log())
        return location_scale(kind, loc, scale, BINS[level], least)

    def units(z: Tensor, level: int) -> Tensor:
        return (z.double() - (BINS[level] - 1) / 2) / PER_UNIT[level]

    def layer(i: int) -> Layer:
        below, rotation = min(i, 1), rotations[i]
        return (
            lambda above: conditional(A * units(above, 1) @ rotation.T, SPREAD, below, 1),
            lambda x: conditional(A * units(x, below) @ rotation, SPREAD, 1, 0),
        )

    prior = conditional(torch.zeros(rows, dims, dtype=torch.float64), 1.0, min(depth, 1), 1)
    return prior, [layer(i) for i in range(depth)]


def data(seed: int, rows: int, dims: int) -> Tensor:
    """Symbols that the chain's x follows, int64 [rows, dims]."""
    normal = torch.randn(rows, dims, generator=generator(seed), dtype=torch.float64)
    return (normal * PER_UNIT[0] + (BINS[0] - 1) / 2).round().clamp(0, BINS[0] - 1).long()


def data_bits(x: Tensor) -> float:
    """-log2 of the probability of x under the chain: a discretised N(0, 1)."""
    edges = (torch.arange(1, BINS[0], dtype=torch.float64) - BINS[0] / 2) / PER_UNIT[0]
    cdf = torch.cat([torch.zeros(1), torch.special.ndtr(edges), torch.ones(1)])
    return -float(cdf.diff()[x].log2().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("combine", [bit_swap, bb_ans])
def test_each_order_of_a_chain_obeys_the_law(
    combine: Callable[[Codec, list[Layer]], Codec], depth: int, kind: str
) -> None:
    prior, layers = chain(depth, 3, 5, kind)
    for lanes in (1, 4, 20):
        check_codec(combine(prior, layers), data(0, 3, 5), Message.random(lanes, 60, 1))


def test_bits_back_obeys_the_law() -> None:
    prior, ((likelihood, posterior),) = chain(1, 4, 6)
    check_codec(bits_back(prior, likelihood, posterior), data(0, 4, 6), Message.random(3, 20, 1))


def test_bits_back_without_initial_bits_is_refused() -> None:
    prior, ((likelihood, posterior),) = chain(1, 4, 6)
    with pytest.raises(EmptyMessage, match=r"start from .* more words, or push more before popping"):
        bits_back(prior, likelihood, posterior).push(Message.empty(3), data(0, 4, 6))


# Words, net bits and initial bits.


def plain_bit_swap_encode(message: Message, x: Tensor, prior: Codec, layers: list[Layer]) -> None:
    """The loop of Kingma, Abbeel, Ho 2019, arXiv:1905.06845: pop z_i+1 given z_i, push z_i given z_i+1, go up."""
    z = [x]
    for i in range(len(layers)):
        likelihood, posterior = layers[i]
        z.append(posterior(z[i]).pop(message))
        likelihood(z[i + 1]).push(message, z[i])
    prior.push(message, z[-1])


def plain_bit_swap_decode(message: Message, prior: Codec, layers: list[Layer]) -> Tensor:
    z = prior.pop(message)
    for likelihood, posterior in reversed(layers):
        above, z = z, likelihood(z).pop(message)
        posterior(z).push(message, above)
    return z


def plain_bb_ans_encode(message: Message, x: Tensor, prior: Codec, layers: list[Layer]) -> None:
    """Townsend, Bird, Barber 2019, arXiv:1901.04866, all latents as one: pop every z_i, then push x and every z_i."""
    z = {0: x}
    for i in range(len(layers)):
        z[i + 1] = layers[i][1](z[i]).pop(message)
    for i in range(len(layers)):
        layers[i][0](z[i + 1]).push(message, z[i])
    prior.push(message, z[len(layers)])


def plain_bb_ans_decode(message: Message, prior: Codec, layers: list[Layer]) -> Tensor:
    z = {len(layers): prior.pop(message)}
    for i in range(len(layers) - 1, -1, -1):
        z[i] = layers[i][0](z[i + 1]).pop(message)
    for i in range(len(layers) - 1, -1, -1):
        layers[i][1](z[i]).push(message, z[i + 1])
    return z[0]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(
    ("combine", "encode", "decode"),
    [
        (bit_swap, plain_bit_swap_encode, plain_bit_swap_decode),
        (bb_ans, plain_bb_ans_encode, plain_bb_ans_decode),
    ],
    ids=["bit_swap", "bb_ans"],
)
def test_each_order_gives_the_words_of_the_loop_in_its_paper(
    combine: Callable[[Codec, list[Layer]], Codec],
    encode: Callable[[Message, Tensor, Codec, list[Layer]], None],
    decode: Callable[[Message, Codec, list[Layer]], Tensor],
    depth: int,
) -> None:
    prior, layers = chain(depth, 4, 6)
    ours, plain, start = (Message.random(4, 40, 2) for _ in range(3))
    for seed in range(3):
        combine(prior, layers).push(ours, data(seed, 4, 6))
        encode(plain, data(seed, 4, 6), prior, layers)
    assert contents(ours) == contents(plain)
    for seed in reversed(range(3)):
        assert torch.equal(decode(ours, prior, layers), data(seed, 4, 6))
        assert torch.equal(combine(prior, layers).pop(plain), data(seed, 4, 6))
    assert contents(ours) == contents(plain) == contents(start)


@pytest.mark.parametrize("depth", [0, 1])
def test_both_orders_are_the_same_with_no_more_than_one_layer(depth: int) -> None:
    prior, layers = chain(depth, 4, 6)
    swapped, together = Message.random(4, 40, 2), Message.random(4, 40, 2)
    bit_swap(prior, layers).push(swapped, data(0, 4, 6))
    bb_ans(prior, layers).push(together, data(0, 4, 6))
    assert contents(swapped) == contents(together)


def test_both_orders_differ_with_two_layers() -> None:
    prior, layers = chain(2, 4, 6)
    swapped, together = Message.random(4, 40, 2), Message.random(4, 40, 2)
    bit_swap(prior, layers).push(swapped, data(0, 4, 6))
    bb_ans(prior, layers).push(together, data(0, 4, 6))
    assert contents(swapped) != contents(together)


@pytest.mark.parametrize("depth", [1, 3])
def test_net_bits_of_both_orders_are_those_of_the_model(depth: int) -> None:
    rows, dims, blocks = 16, 8, 12
    prior, layers = chain(depth, rows, dims)
    nets = []
    for combine in (bit_swap, bb_ans):
        message = Message.random(4, 400, 3)
        nets.append(sum(spent(combine(prior, layers), data(seed, rows, dims), message) for seed in range(blocks)))
    # The posteriors are exact, so whatever latents are drawn the net is -log2 p(x), but for the latents' bins: sampling
    # noise of the 12 * 128 symbols is all that is left.
    expected = sum(data_bits(data(seed, rows, dims)) for seed in range(blocks))
    assert nets[0] == pytest.approx(expected, rel=0.0005)
    assert nets[1] == pytest.approx(expected, rel=0.0005)


def test_initial_bits_of_bit_swap_do_not_grow_with_the_layers_and_those_of_bb_ans_do() -> None:
    rows, dims, lanes = 32, 8, 4
    x, taken = data(0, rows, dims), {}
    for depth in (1, 2, 4, 8):
        prior, layers = chain(depth, rows, dims)
        for combine in (bit_swap, bb_ans):
            message = Message.random(lanes, 400, 3)
            combine(prior, layers).push(message, x)
            taken[combine, depth] = message.taken
    first = taken[bit_swap, 1]
    assert first > 8 * lanes
    for depth in (2, 4, 8):
        # Pushing x refills more than the next pop takes: the initial bits are those of the first pop, to the word.
        assert taken[bit_swap, depth] == first
        assert 0.9 * depth * first < taken[bb_ans, depth] < 1.1 * depth * first


def test_initial_bits_of_bit_swap_are_those_of_the_first_latent() -> None:
    rows, dims, lanes = 32, 8, 4
    prior, layers = chain(3, rows, dims)
    x, message = data(0, rows, dims), Message.random(lanes, 400, 3)
    z, before = layers[0][1](x).pop(message), message.bits()
    del z
    popped = Message.random(lanes, 400, 3).bits() - before
    message = Message.random(lanes, 400, 3)
    bit_swap(prior, layers).push(message, x)
    assert abs(32 * message.taken - popped) <= 32 * lanes
