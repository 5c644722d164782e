"""What codes rows makes each tensor where it is needed: on a pretended GPU (`tests.pretend`) bytes are the CPU's."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from recipes import bitswap, ikvae, local, vae_lossless
from tests import test_ikvae, test_local, test_vae_lossless, tiny
from tests.on_gpu import NAMES, histories, law
from tests.pretend import Pretended, on_device, pretended
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import Settings
from toolkit.chunks.separate import AloneCoder
from toolkit.coding import kernels, rec, vbq
from toolkit.coding.beta_binomial import beta_binomial, snap
from toolkit.coding.codecs import Codec, bernoulli, interval_codec, uniform
from toolkit.coding.kernels import Order
from toolkit.coding.message import EmptyMessage, Message
from toolkit.coding.tables import categorical, of_starts
from toolkit.coding.wire import LOW
from toolkit.nets.exact import exactly

PROGRAMS = {"kernels": contextlib.nullcontext, "tensors": kernels.reference}
SETTINGS = Settings(4, 8, 0)
SAMPLERS = [  # whether the decoder is exact, which no search sees
    ("ad_star", "zeta", True), ("dad_star", "fixed", True), ("greedy", "learned", False), ("shortest", "learned", True),
    ("codebook", "learned", False), ("blocks", "learned", False), ("shortest_blocks", "learned", True),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[torch.device]:
    with pretended() as found:
        yield found


def rows_of(channels: int = 1, count: int = 7) -> tuple[Tensor, Tensor]:
    """Rows, and which of their values are coded: all but a row, and a value."""
    rows = tiny.images(count, (channels, 8, 8))
    valid = tiny.everything(rows)
    valid[3], valid[5, 0, 1, 2] = False, False
    return rows, valid


def check(kind: type[Coder], module: Any, head: Any, rows: Tensor, valid: Tensor) -> None:
    """That rows are coded as the same bytes on both devices, and that each device reads them."""
    with _disable_current_modes():  # faster
        payload, account = kind(module, head, SETTINGS).encode(rows, valid, trace=True)
    other = kind(on_device(module), head, SETTINGS)
    assert other.module.device.type == "cuda"
    again, counted = other.encode(rows, valid, trace=True)
    assert again == payload
    assert (counted.net, counted.initial, counted.file) == (account.net, account.initial, account.file)
    traced = [x for block in counted.latents for x in block]
    assert len(traced) == sum(map(len, account.latents)) and all(isinstance(x, Pretended) for x in traced)
    decoded = other.decode(payload, valid)
    assert torch.equal(decoded[valid], rows[valid]) and decoded.is_cpu
    if isinstance(other, AloneCoder):
        assert torch.equal(other.decode(payload, valid, slice(5, len(rows)))[1], rows[6])


# Recipes


@functools.cache
def bitswap_of(likelihood: str, channels: int) -> tuple[Any, Any]:
    module = tiny.bitswap((channels, 8, 8), likelihood=likelihood)
    return module, module.exact(tiny.images(16, (channels, 8, 8), seed=5))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("likelihood", "channels", "scheme"),
    [("interlaced", 1, "bitswap"), ("mixture", 3, "bbans"), ("logistic", 1, "bitswap")],
)
def test_a_chain_of_latents_codes_the_same_bytes(likelihood: str, channels: int, scheme: str, exact: bool) -> None:
    head = functools.partial(bitswap.head, scheme=scheme)
    check(Coder, bitswap_of(likelihood, channels)[exact], exactly(head) if exact else head, *rows_of(channels))


@pytest.mark.parametrize(("likelihood", "exact"), [("interlaced", True), ("mixture", False)])
def test_a_lossless_vae_codes_the_same_bytes(likelihood: str, exact: bool) -> None:
    rows, valid = rows_of()
    module: Any = test_vae_lossless.model(likelihood=likelihood)
    module = module.exact(rows) if exact else module
    check(Coder, module, exactly(vae_lossless.head) if exact else vae_lossless.head, rows, valid)


@pytest.mark.parametrize("exact", [False, True])
def test_a_model_of_neighbours_codes_the_same_bytes(exact: bool) -> None:
    rows, valid = rows_of(3)
    module: Any = test_local.model((3, 8, 8))
    module = module.exact(rows) if exact else module
    check(Coder, module, exactly(local.head) if exact else local.head, rows, valid)


@functools.cache
def alone_of(likelihood: str, posterior: str, network: str = "conv") -> tuple[Any, Any]:
    module = test_ikvae.model(likelihood=likelihood, posterior=posterior, network=network, block_bits=4.0)
    return module, module.exact(tiny.images(16, seed=5))


def check_alone(model: tuple[Any, Any], exact: bool, sampler: str, code: str, tries: int = 1) -> None:
    head = functools.partial(ikvae.head, sampler=sampler, code=code, tries=tries)
    check(AloneCoder, model[exact], exactly(head) if exact else head, *rows_of())


@pytest.mark.parametrize(("sampler", "code", "exact"), SAMPLERS)
def test_rows_alone_are_coded_as_the_same_bytes_by_each_sampler(sampler: str, code: str, exact: bool) -> None:
    check_alone(alone_of("logistic", "isokl" if sampler == "dad_star" else "gaussian"), exact, sampler, code)


@pytest.mark.parametrize(
    ("likelihood", "network", "exact"),
    [("mixture", "dense", False), ("interlaced", "conv", True), ("beta_binomial", "conv", False)],
)
def test_rows_alone_are_coded_as_the_same_bytes_under_each_likelihood(
    likelihood: str, network: str, exact: bool
) -> None:  # fmt: skip
    check_alone(alone_of(likelihood, "gaussian", network), exact, "codebook", "learned")


def test_nodes_that_are_tried_on_the_pixels_are_the_same() -> None:
    check_alone(alone_of("logistic", "gaussian"), False, "shortest_blocks", "learned", tries=3)


def test_tables_of_nodes_are_learned_on_the_device() -> None:
    host, rows = copy.deepcopy(alone_of("logistic", "gaussian")[0]), tiny.images(4, seed=2)
    other = on_device(host)
    host.learn_tables(rows, 8, rounds=1)
    other.learn_tables(rows, 8, rounds=1)
    for name, value in host.named_buffers():
        assert torch.equal(other.get_buffer(name).cpu(), value), name


@pytest.mark.parametrize("model", ["bitswap", "vae_lossless", "ikvae", "local"])
def test_models_draw_images_on_the_device(model: str) -> None:
    module: Any = {
        "bitswap": lambda: tiny.bitswap(), "vae_lossless": test_vae_lossless.model,
        "ikvae": lambda: alone_of("mixture", "gaussian")[0], "local": lambda: test_local.model(),
    }[model]()  # fmt: skip
    other = on_device(module)
    assert torch.equal(other.sample(3).cpu(), module.sample(3))
    x = tiny.images(3)
    if model not in ("vae_lossless", "local"):
        theirs, ours = other.views(on_device(x)), module.views(x)
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name].cpu(), ours[name]) for name in ours)


# Codecs


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", NAMES)
def test_laws_write_the_same_words(name: str, program: str, device: torch.device) -> None:
    one = law(name, 20, bins=19, k=3)
    order, first = (Order.SIDE_BY_SIDE, LOW) if program == "kernels" else (Order.LANE_BY_LANE, 0)
    wanted = list(histories(one, 20, 7, order, first))
    with PROGRAMS[program]():
        assert list(histories(one, 20, 7, order, first, device)) == wanted


def node_parts() -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies of depths, the table of each of 12 nodes, and which nodes are coded."""
    return rec.zeta(4.0, 3).contiguous(), torch.arange(12) % 3, torch.arange(12) != 4


def a_binomial(device: Any) -> Codec:
    table = snap(torch.linspace(-2, 2, 12, device=device), torch.linspace(0, 8, 12, device=device))
    return beta_binomial(table, 40, 16, torch.ones(12, dtype=torch.bool, device=device))


def a_node(device: Any) -> Codec:
    return rec.node_codec(*(x.to(device) for x in node_parts()))


def a_path(device: Any) -> Codec:
    freqs, which, _ = (x.to(device) for x in node_parts())
    return rec.path_codec(freqs, which, rec.Keys.of(0, torch.arange(12, device=device), which))


def a_codebook(device: Any) -> Codec:
    freqs = rec.learned_nodes((torch.arange(3 * 16, device=device).view(3, 16) % 5).long())
    return rec.codebook(freqs, *(x.to(device) for x in node_parts()[1:]))


def a_dictionary(device: Any) -> Codec:
    book, _ = vbq.plain(torch.linspace(-1, 1, 60).view(20, 3), torch.full((20, 3), 0.3), 0.5)
    book = vbq.Codebook(*(x.to(device) for x in book))
    return book.codec(book.context.repeat(4), torch.ones(12, dtype=torch.bool, device=device))


def one_of_mine(device: Any) -> Codec:
    def interval(x: Tensor) -> tuple[Tensor, Tensor]:
        return 16 * x, torch.full_like(x, 16)

    return interval_codec(interval, lambda u, at: (u // 16, *interval(u // 16)), (3, 4), 10, device)


CODECS: dict[str, Callable[[Any], Codec]] = {
    "beta_binomial": a_binomial,
    "node_codec": a_node,
    "zeta": lambda device: rec.node_codec(rec.zeta(1.5, 3, device), node_parts()[1].to(device)),
    "path_codec": a_path,
    "codebook": a_codebook,
    "fixed_length": lambda device: rec.fixed_length(4, *(x.to(device) for x in node_parts()[1:])),
    "vbq": a_dictionary,
    "categorical": lambda device: categorical(torch.tensor([1, 4, 3, 8], device=device), (3, 4), 4),
    "tabled": lambda device: of_starts(torch.tensor([[0, 3, 5, 16], [0, 9, 9, 16]], device=device), 4).codec(
        torch.arange(12, device=device) % 2, torch.ones(12, dtype=torch.bool, device=device)
    ),
    "uniform": lambda device: uniform((3, 4), 5, device),
    "bernoulli": lambda device: bernoulli(torch.arange(1, 13, device=device) << 4, 8),
    "interval_codec": one_of_mine,
}  # fmt: skip


@pytest.mark.parametrize("name", CODECS)
def test_codecs_write_the_same_bytes(name: str, device: torch.device) -> None:
    found = []
    for where in ("cpu", device):
        codec, message = CODECS[name](where), Message.random(5, 40, 1, where)
        if name in ("codebook", "fixed_length"):  # which may pop a node 0, and refuse to push that
            codec.push(message, torch.where(torch.arange(12, device=where) == 4, 1, 15))
        x = codec.pop(message)
        assert x.device == message.head.device
        codec.push(message, x)
        found.append((x.tolist(), message.to_bytes()))
        assert torch.equal(codec.pop(message), x)
    assert found[0] == found[1]


# Relative entropy coding and quantisation


def targets(device: Any, rows: int = 6, latents: int = 3) -> tuple[rec.Target, rec.Keys]:
    mean = torch.linspace(-1.5, 1.5, rows * latents, dtype=torch.float64, device=device)
    keys = rec.Keys.of(0, torch.arange(rows, device=device)[:, None], torch.arange(latents, device=device))
    return rec.target(mean, torch.full_like(mean, 0.4)), keys


def in_blocks(device: Any) -> list[Tensor]:
    target, _ = targets(device)
    groups = rec.blocks(target.kl().view(-1, 3).mean(0), 4.0)
    freqs = rec.zeta(1.5, 1, device)[0]
    parts = list(zip(groups.targets(target, 3), groups.keys(0), groups.bits, strict=True))
    chosen = [rec.ordered_random(*part).node for part in parts]
    shortest = [rec.shortest_block(one, keys, freqs, bits, 3) for one, keys, bits in parts]
    return [*chosen, *shortest, groups.rebuild(torch.stack(chosen, 1), 0)]


def in_partitions(device: Any) -> list[Tensor]:
    target, keys = targets(device)
    mine, splits = rec.Keys.of(0, keys.row[:1] * 0, keys.latent[:3]), torch.tensor([1, 0, 2], device=device)
    found = rec.partitioned(target, mine, splits, 6)
    nothing = rec.partitioned(target.take(splits[:0]), mine, splits, 6)
    return [*found, *nothing, rec.rebuild_partitioned(found.rank, found.bin, mine, splits)]


def shortest(device: Any) -> list[Tensor]:
    target, keys = targets(device)
    which = torch.arange(18, device=device) % 3
    freqs = rec.zeta(1.5, 3, device)
    book = rec.learned_nodes(torch.ones(3, 16, dtype=torch.int64, device=device))
    node = rec.shortest(target, keys, freqs, which)
    return [
        node, rec.shortest_shared(target, 0, book), rec.node_bits(node, freqs, which),
        rec.path_bits(node, freqs, which, keys), rec.count_depths(node.view(6, 3)),
    ]  # fmt: skip


def search(name: str, rebuild: str) -> Callable[[Any], list[Tensor]]:
    def found(device: Any) -> list[Tensor]:
        target, keys = targets(device)
        choice = getattr(rec, name)(target, keys)
        return [*choice, getattr(rec, rebuild)(choice.node, keys)]

    return found


def quantised(device: Any) -> list[Tensor]:
    mu, sigma = (x.to(device) for x in (torch.linspace(-1, 1, 60).view(20, 3), torch.full((20, 3), 0.3)))
    plain, refined = vbq.plain(mu, sigma, 0.5), vbq.refined(mu, sigma, 0.5)
    grid = vbq.dyadic_grid(vbq.gaussian(1.0)).to(device)
    costs = torch.arange(11.0, 0.0, -1.0)
    more = [vbq.search(mu, sigma, grid, 0.1), vbq.search(mu, sigma, grid, 0.1, costs), *vbq.evenly(mu, sigma, 1e-6)]
    books = [plain[0].coded, refined[0].coded, torch.tensor(plain[0].bits(plain[1]), device=device)]
    return [*plain[0], plain[1], *refined[0], refined[1], *more, *books, vbq.lengths(3, device)]


SEARCHES: dict[str, Callable[[Any], list[Tensor]]] = {
    "ad_star": search("ad_star", "rebuild_dyadic"),
    "as_star": search("as_star", "rebuild_path"),
    "global_astar": search("global_astar", "rebuild_rank"),
    "greedy_dyadic": search("greedy_dyadic", "rebuild_dyadic"),
    "greedy_path": search("greedy_path", "rebuild_path"),
    "gprs_path": search("gprs_path", "rebuild_path"),
    "shortest": shortest,
    "blocks": in_blocks,
    "partitioned": in_partitions,
    "vbq": quantised,
}


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_find_the_same(name: str, device: torch.device) -> None:
    wanted, found = (SEARCHES[name](where) for where in ("cpu", device))
    for one, other in zip(wanted, found, strict=True):
        assert isinstance(other, Pretended) and torch.equal(other.cpu(), one)


# Messages


def test_messages_begin_widen_narrow_and_are_stored_the_same(device: torch.device) -> None:
    def states(where: Any) -> Iterator[Any]:
        message = Message.random(4, 20, 7, where)
        yield message.to_bytes()
        message.widen()
        yield message.to_bytes(), message.bits(), message.taken
        back = Message.from_bytes(message.to_bytes(), where)
        assert back.head.device == message.head.device
        back.narrow()
        yield back.to_bytes()
        message.narrow()
        assert message.is_random(7) and not message.is_random(8)
        empty = Message.empty(3, where, 1)
        uniform((6,), 9, where).push(empty, torch.arange(6, device=where) * 80)
        joined = Message.joined([empty.part(0, 2), Message.empty(2, where, 1), empty.part(2, 3)])
        yield joined.to_bytes(), joined.lane_bits().tolist(), joined.ended().tolist()
        with pytest.raises(EmptyMessage, match="lane 0 of 2 needs"):
            uniform((40,), 9, where).pop(Message.empty(2, where))

    assert list(states("cpu")) == list(states(device))


def test_tensors_of_two_devices_cannot_meet(device: torch.device) -> None:
    """What the other tests would see."""
    mine, other = torch.arange(3, device=device), torch.arange(3)
    for meet in (lambda: mine + other, lambda: mine[other], lambda: other[mine], lambda: torch.cat([mine, other])):
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            meet()
    with pytest.raises(TypeError, match="can't convert"):
        mine.numpy()
    assert (mine + torch.tensor(1)).tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="expected all tensors on one device"):
        uniform((3,), 4).push(Message.empty(2, device), mine)
