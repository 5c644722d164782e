"""A module and its head as a codec of many rows: every row comes back, whatever the lanes, and the account adds up."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import bitswap, coder, everything, images
from toolkit.chunks.chained import blocks
from toolkit.chunks.model import FIRST_LANES, Account, choose_lanes
from toolkit.coding import kernels
from toolkit.coding.message import Message

BATCH = 16


# Round trips


@pytest.mark.parametrize("scheme", ["bitswap", "bbans"])
@pytest.mark.parametrize("likelihood", ["logistic", "mixture", "interlaced"])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_come_back_under_each_likelihood_and_scheme(channels: int, likelihood: str, scheme: str) -> None:
    module = bitswap((channels, 8, 8), likelihood=likelihood)
    rows = images(21, (channels, 8, 8))
    payload, _ = coder(module, scheme).encode(rows, everything(rows))
    assert torch.equal(coder(module, scheme).decode(payload, everything(rows)), rows)


@pytest.mark.parametrize("likelihood", ["logistic", "mixture", "interlaced"])
def test_values_that_are_coded_come_back_whichever_they_are(likelihood: str) -> None:
    module, rows = bitswap((3, 8, 8), likelihood=likelihood), images(20, (3, 8, 8))
    valid = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    valid[3], valid[4, 1:], valid[5, :, 3:] = False, False, False  # nothing, a grey picture, a border
    payload, _ = coder(module).encode(rows, valid)
    decoded = coder(module).decode(payload, valid)
    assert torch.equal(decoded[valid], rows[valid])
    changed = torch.where(valid, rows, 255 - rows)
    assert coder(module).encode(changed, valid)[0] == payload, "values that are not coded changed the payload"


@pytest.mark.parametrize("layers", [1, 3])
def test_rows_come_back_whatever_the_number_of_layers(layers: int) -> None:
    module = bitswap(latent_channels=[2] * layers, downscale=[2, 1, 2][:layers], blocks=[1] * layers)
    rows = images(20)
    for scheme in ("bitswap", "bbans"):
        payload, _ = coder(module, scheme).encode(rows, everything(rows))
        assert torch.equal(coder(module, scheme).decode(payload, everything(rows)), rows)


@pytest.mark.parametrize("rows", [1, BATCH - 1, BATCH + 1, 40])
@pytest.mark.parametrize("lanes", [1, 64])
def test_any_number_of_rows_comes_back_with_any_number_of_lanes(rows: int, lanes: int) -> None:
    shape = (1, 4, 4) if lanes == 1 else (1, 8, 8)  # one lane is coded symbol by symbol
    module, x = bitswap(shape), images(rows, shape)
    payload, _ = coder(module, lanes=lanes).encode(x, everything(x))
    assert torch.equal(coder(module, lanes=lanes).decode(payload, everything(x)), x)


def test_lanes_double_as_the_message_fills() -> None:
    x = images(150)
    few, many = (coder(lanes=lanes).encode(x, everything(x))[0] for lanes in (FIRST_LANES, 64))
    assert few[2] == 0, "doublings within the first lanes"
    assert many[2] == 4


def test_rows_without_a_value_that_is_coded_cost_nothing() -> None:
    """What fills a batch up must be free, in the latents too."""
    x, valid = images(5), torch.zeros(5, 1, 8, 8, dtype=torch.bool)
    assert coder().encode(x, valid)[1].net == 0
    valid[2, 0, 0, 0] = True
    _, account = coder().encode(x, valid, trace=True)
    assert account.net > 0
    for layer in zip(*account.latents, strict=True):
        assert torch.cat(layer).flatten(1).any(1).tolist() == [False, False, True, False, False]


def test_extreme_rows_come_back() -> None:
    x = torch.stack(
        [
            torch.zeros(1, 8, 8),
            torch.full((1, 8, 8), 255),
            *torch.eye(8)[:, None, None, :] * 255 * torch.ones(8, 1, 8, 8),
        ]
    )
    x = x.to(torch.uint8)
    payload, _ = coder().encode(x, everything(x))
    assert torch.equal(coder().decode(payload, everything(x)), x)


# Blocks and lanes


@pytest.mark.parametrize("growth", [0.001, 0.3, 1.0, 60.0])
@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 1000])
def test_blocks_cover_all_rows_and_grow_up_to_a_batch(rows: int, growth: float) -> None:
    found = list(blocks(rows, 64, growth))
    assert [i for first, last in found for i in range(first, last)] == list(range(rows))
    sizes = [last - first for first, last in found]
    assert sizes[0] == 1 and max(sizes) <= 64
    assert all(a <= b for a, b in itertools.pairwise(sizes[:-1])), "only the last block may be smaller"


def test_blocks_of_a_model_with_small_latents_reach_a_batch_soon() -> None:
    assert [last - first for first, last in blocks(300, 64, 3.0)] == [1, 4, 16, 64, 64, 64, 64, 23]


def test_the_number_of_lanes_is_a_power_of_two_that_grows_with_the_data() -> None:
    chosen = [choose_lanes(symbols) for symbols in (0, 1, 1000, 10**5, 10**6, 10**7, 2 * 10**9)]
    assert chosen == sorted(chosen) and chosen[0] == FIRST_LANES and chosen[-1] == 1 << 16
    assert all(lanes & (lanes - 1) == 0 for lanes in chosen)


# Determinism


def test_a_payload_does_not_depend_on_what_was_encoded_before() -> None:
    x, other = images(30), images(30, seed=1).flip(2)
    fresh = coder().encode(x, everything(x))[0]
    used = coder()
    used.encode(other, everything(other))
    used.encode(other[:1], everything(other[:1]))
    assert used.encode(x, everything(x))[0] == fresh
    assert used.encode(x, everything(x), trace=True)[0] == fresh


def test_the_seed_changes_the_payload_and_not_its_net_bits() -> None:
    x = images(60)
    (a, first), (b, second) = (coder(seed=seed).encode(x, everything(x)) for seed in (0, 1))
    assert a != b
    assert first.net == pytest.approx(second.net, rel=0.02)


def test_progress_counts_each_row_once() -> None:
    x = images(40)
    encoded: list[int] = []
    decoded: list[int] = []
    payload, _ = coder().encode(x, everything(x), progress=encoded.append)
    coder().decode(payload, everything(x), progress=decoded.append)
    assert sum(encoded) == sum(decoded) == 40


def test_the_trace_holds_the_latents_of_each_row_and_layer() -> None:
    x = images(40)
    _, account = coder().encode(x, everything(x), trace=True)
    first, second = (torch.cat(layer) for layer in zip(*account.latents, strict=True))
    assert first.shape == (40, 2, 4, 4) and second.shape == (40, 2, 2, 2)
    assert first.dtype == torch.int64 and int(first.min()) >= 0 and int(first.max()) < 256


# The account


@pytest.mark.parametrize("scheme", ["bitswap", "bbans"])
@pytest.mark.parametrize("lanes", [FIRST_LANES, 64])
def test_the_account_adds_up_to_the_file(lanes: int, scheme: str) -> None:
    x = images(100)
    payload, account = coder(scheme=scheme, lanes=lanes).encode(x, everything(x))
    assert account.file == 8 * len(payload) == account.net + account.initial + account.lanes
    assert 31 * FIRST_LANES <= account.initial < 64 * 100
    # Rounding a head to bytes costs less than a byte, its length a byte, the preambles and the seed's low heads little.
    assert 0 < account.lanes < 8 * (3 * lanes + 40)
    assert 0 < account.coder_seconds < account.seconds


def test_the_net_bits_are_the_costs_of_the_integer_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    x, code = images(30, (1, 4, 4)), coder(bitswap((1, 4, 4)))
    with torch.inference_mode():
        measured = code._try_one(x[:1], everything(x)[:1])
    monkeypatch.setattr(code, "_try_one", lambda *args: measured)
    push, narrow, bits, paused = Message.push, Message.narrow, [0.0], [False]

    def counted(self: Message, start: Tensor, freq: Tensor, precision: int, *args: Any) -> None:
        if not paused[0]:
            bits[0] += float((precision - freq.double().log2()).sum())
        push(self, start, freq, precision, *args)

    def uncounted(self: Message) -> None:  # moves bits between lanes and codes nothing
        paused[0] = True
        narrow(self)
        paused[0] = False

    monkeypatch.setattr(Message, "push", counted)
    monkeypatch.setattr(Message, "narrow", uncounted)
    with kernels.reference():  # where each step is a call
        payload, account = code.encode(x, everything(x))
        pushed, bits[0] = bits[0], 0.0
        code.decode(payload, everything(x))  # pushes the latents that encoding popped
    assert account.net == pytest.approx(pushed - bits[0], rel=1e-4)


def test_initial_bits_of_bit_swap_stay_when_layers_are_added_and_those_of_bb_ans_grow() -> None:
    x = images(16)

    def initial(scheme: str, layers: int) -> float:
        module = bitswap(latent_channels=[4] * layers, downscale=[2] + [1] * (layers - 1), blocks=[1] * layers)
        return coder(module, scheme).encode(x, everything(x))[1].initial

    # Every layer has as many latents as the first, so bb_ans pops twice and four times as much.
    assert initial("bbans", 4) > 2 * initial("bbans", 1)
    assert initial("bitswap", 4) < 1.5 * initial("bitswap", 1)


def test_an_empty_account_is_all_zeros() -> None:
    assert Account().lanes == 0


@pytest.mark.parametrize("likelihood", ["logistic", "mixture", "interlaced"])
def test_the_tensor_program_writes_the_same_payload_and_reads_it(likelihood: str) -> None:
    module, rows = bitswap((2, 4, 4), likelihood=likelihood), images(5, (2, 4, 4))
    valid = everything(rows)
    valid[3, 1] = False
    payload, account = coder(module).encode(rows, valid)
    with kernels.reference():
        again, counted = coder(module).encode(rows, valid)
        assert torch.equal(coder(module).decode(payload, valid)[valid], rows[valid])
    assert again == payload
    assert (counted.net, counted.initial) == (account.net, account.initial)
