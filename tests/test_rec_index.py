"""Codes of nodes: the codecs' law, real bytes near the divergence, fixed length, paths, and refusals."""

import doctest
import math

import pytest
import torch

from tests.laws import check_codec
from tests.test_rec_search import channel, isokl, keys
from toolkit.coding import rec
from toolkit.coding.hashing import Keys
from toolkit.coding.message import Message

FLAT = torch.zeros(500, dtype=torch.int64)


def some_nodes(n: int = 500, deepest: int = 57, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    depth = torch.randint(0, deepest, (n,), generator=rng)
    return (torch.ones_like(depth) << depth) + (torch.randint(0, 1 << 60, (n,), generator=rng) % (1 << depth))


@pytest.mark.parametrize("lanes", [1, 4, 500])
@pytest.mark.parametrize("start", ["empty", "random"])
def test_nodes_of_every_depth_come_back(lanes: int, start: str) -> None:
    message = Message.empty(lanes) if start == "empty" else Message.random(lanes, 40 * 64 // lanes + 8, seed=1)
    check_codec(rec.node_codec(rec.zeta(1.3), FLAT), some_nodes(), message)


def test_places_that_are_not_coded_cost_nothing() -> None:
    valid = torch.arange(500) % 3 > 0
    codec = rec.node_codec(rec.zeta(1.5), FLAT, valid)
    node = torch.where(valid, some_nodes(), 1)
    message = Message.empty(4)
    codec.push(message, node)
    freqs = rec.zeta(1.5)
    assert message.bits() == pytest.approx(float(rec.node_bits(node, freqs, FLAT)[valid].sum()), abs=1)
    assert torch.equal(codec.pop(message), node)


def test_each_latent_is_coded_under_its_own_table() -> None:
    counts = torch.zeros(2, rec.DEPTHS, dtype=torch.int64)
    counts[0, 0], counts[1, 5] = 10_000, 10_000
    freqs = rec.learned(counts)
    which = torch.arange(2).expand(300, 2)
    bits = rec.node_bits(torch.tensor([1, 40]).expand(300, 2), freqs, which)
    assert float(bits[:, 0].max()) < 0.01
    assert float(bits[:, 1].max()) < 5.01
    swapped = rec.node_bits(torch.tensor([40, 1]).expand(300, 2), freqs, which)
    assert float(swapped.min()) > 15


def test_learned_frequencies_follow_the_counts_and_leave_none_out() -> None:
    counts = rec.count_depths(torch.tensor([[1, 2], [3, 2], [2, 9], [4, 2]]))
    assert counts[0, :4].tolist() == [1, 2, 1, 0]
    assert counts[1, :4].tolist() == [0, 3, 0, 1]
    freqs = rec.learned(1000 * counts)
    assert freqs.sum(1).tolist() == [1 << 16] * 2
    assert int(freqs.min()) >= 1
    assert freqs[0, 1] / 65536 == pytest.approx(0.5, abs=0.002)
    assert rec.learned(torch.zeros(1, rec.DEPTHS, dtype=torch.int64)).sum() == 1 << 16


def test_a_zeta_code_is_a_power_of_the_depth() -> None:
    freqs = rec.zeta(1.5)[0].double()
    assert float(freqs[3] / freqs[0]) == pytest.approx(4**-1.5, rel=0.02)
    assert int(freqs.sum()) == 1 << 16


# Must hold: at most KL + 1.9 bits from 0.5 to 12 bits; 0.15 where a latent has collapsed
@pytest.mark.parametrize(
    ("bits", "most"), [(0.0005, 0.15), (0.5, 1.9), (1, 1.9), (2, 1.9), (4, 1.9), (8, 1.9), (12, 1.9)]
)
def test_bytes_of_a_star_codes_stay_near_the_divergence(bits: float, most: float) -> None:
    """Bytes of a message on four lanes, depths learned on other rows."""
    n = 10_000
    trained = rec.ad_star(channel(n, bits, seed=1), keys(n, seed=2)).node
    freqs = rec.learned(rec.count_depths(trained[:, None]))
    target, names = channel(n, bits, seed=3), keys(n, seed=4)
    node = rec.ad_star(target, names).node
    message = Message.empty(4)
    codec = rec.node_codec(freqs, torch.zeros_like(node))
    codec.push(message, node)
    data = message.to_bytes()
    assert torch.equal(codec.pop(Message.from_bytes(data)), node)
    overhead = 8 * len(data) / n - float(target.kl().mean())
    assert 0.1 * most < overhead < most


def test_the_learned_histogram_is_shorter_than_the_literature_s_code() -> None:
    """8 bits of a Gaussian channel, the best exponent: 9.81 against 12.30 bits, 11.95 as ours ends at 57 depths."""
    n = 20_000
    node = rec.ad_star(channel(n, 8, seed=1), keys(n, seed=2)).node
    which = torch.zeros_like(node)
    learned = rec.node_bits(node, rec.learned(rec.count_depths(node[:, None])), which).mean()
    best = min(float(rec.node_bits(node, rec.zeta(e / 100), which).mean()) for e in range(130, 155, 2))
    assert float(learned) == pytest.approx(9.81, abs=0.06)
    assert best == pytest.approx(11.95, abs=0.1)


@pytest.mark.parametrize(("depth", "lanes"), [(0, 1), (4, 4), (20, 4), (56, 1)])
def test_a_fixed_length_code_spends_one_bit_more_than_the_depth(depth: int, lanes: int) -> None:
    node = some_nodes(400, depth + 1)
    codec = rec.fixed_length(depth, node)
    message = Message.random(lanes, 1000, seed=0)
    before = message.bits()
    codec.push(message, node)
    assert message.bits() - before == pytest.approx(400 * (depth + 1), abs=0.01)
    assert torch.equal(codec.pop(message), node)


def test_isokl_targets_fit_a_fixed_length_of_two_bits_more() -> None:
    """DAD* with depth kappa + 1: kappa + 2 bits a latent in real bytes, no table at all."""
    kappa, n = 3, 20_000
    target, names = isokl(n, kappa), keys(n)
    node = rec.ad_star(target, names, kappa + 1).node
    message = Message.empty(4)
    rec.fixed_length(kappa + 1, node).push(message, node)
    assert 8 * len(message.to_bytes()) / n == pytest.approx(kappa + 2, abs=0.02)


def test_paths_come_back_and_cost_the_mass_of_their_cells() -> None:
    """12 bits of a Gaussian channel: a turn costs -log2 of P's share, far less than a bit on the whole."""
    n = 1000
    target, names = channel(n, 12, seed=3), keys(n, seed=4)
    node = rec.as_star(target, names).node
    which = torch.zeros_like(node)
    freqs = rec.learned(rec.count_depths(node[:, None]))
    message = Message.empty(4)
    codec = rec.path_codec(freqs, which, names)
    codec.push(message, node)
    bits = message.bits() / n
    raw = float(rec.node_bits(node, freqs, which).mean())
    assert torch.equal(codec.pop(message), node)
    assert bits < raw - 3
    assert bits == pytest.approx(float(rec.path_bits(node, freqs, which, names).mean()), abs=0.01)
    assert 12 < bits < 12 + 3.2


def test_paths_obey_the_law_of_codecs() -> None:
    names = keys(200)
    node = rec.as_star(channel(200, 3), names).node.view(20, 10)
    check_codec(rec.path_codec(rec.zeta(1.5), torch.zeros_like(node), names), node, Message.empty(3))


def test_the_example_of_the_module_runs() -> None:
    result = doctest.testmod(rec)
    assert result.attempted > 10
    assert result.failed == 0


def test_100_000_latents_are_coded_and_decoded_whole() -> None:
    n = 100_000
    target = channel(n, 4)
    names = Keys.of(3, torch.arange(n // 20)[:, None], torch.arange(20))
    node = rec.ad_star(target, names).node
    which = (torch.arange(n) % 20).view(-1, 20)
    codec = rec.node_codec(rec.learned(rec.count_depths(node.view(-1, 20))), which)
    message = Message.empty(64)
    codec.push(message, node.view(-1, 20))
    z = rec.rebuild_dyadic(codec.pop(message).flatten(), names)
    assert float((((z - target.loc) / target.scale) ** 2).mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / n))


# Refusals


def test_counts_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"learned: expected int64 counts of shape \[latents, 57\], got torch.float32"):
        rec.learned(torch.zeros(3, 57))
    with pytest.raises(ValueError, match=r"got torch.int64 \[57\]"):
        rec.learned(torch.zeros(57, dtype=torch.int64))


def test_an_exponent_whose_sum_diverges_is_refused() -> None:
    with pytest.raises(ValueError, match="zeta: expected an exponent above 1, got 1"):
        rec.zeta(1)


def test_frequencies_that_leave_a_depth_out_are_refused() -> None:
    freqs = rec.zeta(1.5).clone()
    freqs[0, 0] += freqs[0, 7]
    freqs[0, 7] = 0
    with pytest.raises(
        ValueError, match=r"expected \[tables, 57\] frequencies of at least 1 that sum to 65536, .*least 0"
    ):
        rec.node_codec(freqs, FLAT)


def test_nodes_that_a_code_cannot_hold_are_refused() -> None:
    for bad in (0, -5):
        with pytest.raises(ValueError, match=rf"push: expected nodes in \[1, {1 << 57}\), got {bad}"):
            rec.node_codec(rec.zeta(1.5), FLAT[:1]).push(Message.empty(1), torch.tensor([bad]))
    with pytest.raises(ValueError, match=r"push: expected nodes in \[1, 16\), got 16 to 16; limit the search's depth"):
        rec.fixed_length(3, FLAT[:1]).push(Message.empty(1), torch.tensor([16]))
    with pytest.raises(ValueError, match=r"push: expected nodes of shape \[500\], got \[4\]"):
        rec.node_codec(rec.zeta(1.5), FLAT).push(Message.empty(1), torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="fixed_length: expected a depth from 0 to 56, got 57"):
        rec.fixed_length(57, FLAT)
