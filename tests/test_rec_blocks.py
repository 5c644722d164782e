"""Blocks: the laws of ordered random coding and space partitioning, what they cost, rebuilding, refusals."""

import math

import pytest
import torch
from torch import Tensor

from tests.test_rec_search import bound, channel, distance
from toolkit.coding import rec
from toolkit.coding.hashing import Keys
from toolkit.coding.rec import Target


def block(m: int, seed: int = 0, row: int = 0) -> Keys:
    return Keys.of(seed, torch.tensor(row), torch.arange(m))


def moment(x: Tensor, target: Target) -> float:
    return float((((x.flatten() - target.loc) / target.scale) ** 2).mean())


def entropy(node: Tensor) -> float:
    """Bits of a node as learned histograms would code it: depth, then raw bits."""
    depth = rec.depth_of(node)
    p = torch.bincount(depth).double() / len(depth)
    return float(depth.double().mean()) + float(-(p * p.clamp(min=1e-300).log2()).sum())


def test_many_candidates_give_samples_of_the_target() -> None:
    """2 dimensions of 1 bit, 10 bits of candidates, each row with candidates of its own: Kolmogorov-Smirnov."""
    rows = 600
    target = channel(2 * rows, 1, seed=1)
    found = []
    for i in range(rows):
        names = block(2, seed=5, row=i)
        node = rec.ordered_random(target.take(torch.arange(2 * i, 2 * i + 2)), names, 10).node
        found.append(rec.rebuild_block(node, names))
    assert distance(torch.cat(found).flatten(), target) < bound(2 * rows, 2)


def test_a_block_costs_about_two_bits_whatever_its_size() -> None:
    """8 dimensions of 1 bit, 2^14 shared candidates: 2.1 bits over the KL with a histogram (independent simulation)."""
    rows, m = 4000, 8
    target = channel(rows * m, 1, seed=2)
    names = block(m)
    node = rec.ordered_random(target, names, 14).node
    overhead = entropy(node) - float(target.kl().view(rows, m).sum(1).mean())
    assert 1.5 < overhead < 2.7
    assert moment(rec.rebuild_block(node, names), target) == pytest.approx(1.03, abs=0.06)


def test_few_candidates_are_cheap_and_biased() -> None:
    rows, m = 4000, 8
    target, names = channel(rows * m, 1, seed=2), block(m)
    node = rec.ordered_random(target, names, 10).node
    overhead = entropy(node) - float(target.kl().view(rows, m).sum(1).mean())
    assert overhead < 1.4
    assert 1.10 < moment(rec.rebuild_block(node, names), target) < 1.30


def test_the_product_of_matrices_scores_as_the_definition_does() -> None:
    """Both precisions of the product find the candidate with the least log t - log r."""
    for bits, m in ((1.5, 3), (6.0, 1)):
        rows = 40
        target, names = channel(rows * m, bits, seed=3), block(m)
        node = rec.ordered_random(target, names, 11).node
        number = torch.arange(1, (1 << 11) + 1)
        x = rec.rebuild_block(number, names)
        one = Keys.of(0, torch.tensor(0), torch.tensor([0] * len(number)))
        _, v = one.uniforms(number, 2)
        gaps = -torch.log(v) * len(number) / (len(number) - number + 1)
        wide = Target(target.loc.view(rows, 1, m), target.log_precision.view(rows, 1, m))
        score = torch.log(gaps.cumsum(0)) - wide.log_ratio(x).sum(2)
        assert torch.equal(node, score.argmin(1) + 1)


def test_a_candidate_is_rebuilt_from_its_number_alone() -> None:
    names = block(5)
    node = torch.tensor([7, 1 << 23, 1, 99])
    x = rec.rebuild_block(node, names)
    assert torch.equal(rec.rebuild_block(node[1:2], names), x[1:2])


def test_space_partitioning_draws_from_the_target_with_fewer_candidates() -> None:
    """4 dimensions of 2 bits, cut into 2^2 bins each; 2^8 candidates, where the other needs 2^14."""
    rows, m = 400, 4
    target, names = channel(rows * m, 2, seed=4), block(m)
    splits = torch.full((m,), 2)
    found = rec.partitioned(target, names, splits, 8)
    x = rec.rebuild_partitioned(found.rank, found.bin, names, splits)
    assert moment(x, target) == pytest.approx(1, abs=5 * math.sqrt(2 / (rows * m)) + 0.02)
    plain = rec.rebuild_block(rec.ordered_random(target, names, 8).node, names)
    assert moment(plain, target) > 1.2
    assert int(found.bin.max()) < 1 << 8
    assert int(found.rank.min()) == 1
    overhead = entropy(found.rank) + 8 - float(target.kl().view(rows, m).sum(1).mean())
    assert 0 < overhead < 5


def test_space_partitioning_rebuilds_what_the_search_scored() -> None:
    """The position lies in the bin that is named, for every dimension."""
    rows, m = 50, 3
    target, names = channel(rows * m, 2, seed=4), block(m)
    splits = torch.tensor([3, 0, 2])
    found = rec.partitioned(target, names, splits, 6)
    x = rec.rebuild_partitioned(found.rank, found.bin, names, splits)
    place = (torch.special.ndtr(x) * (1 << splits)).long()
    assert torch.equal((place[:, 0] << 2) + place[:, 2], found.bin)


def test_blocks_that_are_too_large_are_refused() -> None:
    target = channel(6, 1)
    with pytest.raises(
        ValueError, match=r"ordered_random: expected bits from 0 to 24 .*, got 25 .*; make smaller blocks"
    ):
        rec.ordered_random(target, block(3), 25)
    with pytest.raises(ValueError, match="whole rows of 4 latents, got 3 and 6 targets"):
        rec.ordered_random(target, block(4), 3)
    with pytest.raises(ValueError, match=r"partitioned: expected splits that sum to at most 36, .* got 60, 3 and 6"):
        rec.partitioned(target, block(3), torch.full((3,), 20), 3)


def test_blocks_hold_every_latent_once_and_no_more_than_they_may() -> None:
    kl = torch.tensor([0.0, 3.0, 11.0, 5.0, 0.5, 6.0, 4.0])
    found = rec.blocks(kl, 10)
    assert sorted(torch.cat(found.members).tolist()) == list(range(7))
    assert [some.tolist() for some in found.members] == [[2], [0, 5, 6], [1, 3, 4]]
    assert found.bits == [11 + 5, 10 + 5, 9 + 5]


def test_blocks_are_put_together_from_their_indices_alone() -> None:
    rows, kl = 50, torch.tensor([1.0, 3.0, 2.0, 0.0, 2.0])
    found = rec.blocks(kl, 4)
    target = channel(rows * 5, 1, seed=6)
    parts = zip(found.targets(target, 5), found.keys(7), found.bits, strict=True)
    node = torch.stack([rec.ordered_random(*part).node for part in parts], 1)
    z = found.rebuild(node, 7)
    assert moment(z, target) == pytest.approx(1, abs=0.4)
    for i, (some, keys) in enumerate(zip(found.members, found.keys(7), strict=True)):
        assert torch.equal(z[:, some], rec.rebuild_block(node[:, i], keys))


@pytest.mark.parametrize("bits", [1.5, 6.0])
def test_the_shortest_index_of_a_block_is_that_of_the_least_sum(bits: float) -> None:
    """Both precisions, against the definition: bits of the index less log2 r, the best three in order."""
    rows, m = 30, 2
    target, names = channel(rows * m, bits, seed=3), block(m)
    freqs = rec.learned(torch.arange(rec.DEPTHS).flip(0)[None])
    found = rec.shortest_block(target, names, freqs[0], 9, 3)
    number = torch.arange(1, (1 << 9) + 1)
    wide = Target(target.loc.view(rows, 1, m), target.log_precision.view(rows, 1, m))
    ratio = wide.log_ratio(rec.rebuild_block(number, names)).sum(2) / math.log(2)
    cost = rec.node_bits(number, freqs, torch.zeros_like(number)) - ratio
    assert torch.equal(found, number[cost.argsort(1)[:, :3]])
