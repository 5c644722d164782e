"""A module and its head as a codec of many rows: every row comes back, the account adds up, damage is noticed."""

import functools
import itertools
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

import toolkit.head
from recipes.bitswap import head
from tests.tiny import bitswap, images
from toolkit.coding.ans import EmptyMessage, Message, _identity
from toolkit.head import FIRST_LANES, Account, Coder, Settings, blocks, choose_lanes, fingerprint, rows_crc

BATCH = 16


def everything(rows: Tensor) -> Tensor:
    return torch.ones(rows.shape, dtype=torch.bool)


def coder(module: Any = None, scheme: str = "bitswap", lanes: int = 16, seed: int = 0, batch: int = BATCH) -> Coder:
    return Coder(module or bitswap(), functools.partial(head, scheme=scheme), Settings(batch, lanes, seed))


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
    x = images(rows)
    payload, _ = coder(lanes=lanes).encode(x, everything(x))
    assert torch.equal(coder(lanes=lanes).decode(payload, everything(x)), x)


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
    chosen = [choose_lanes(symbols) for symbols in (0, 1, 1000, 10**5, 10**6, 10**7, 10**9)]
    assert chosen == sorted(chosen) and chosen[0] == FIRST_LANES and chosen[-1] == 4096
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
    x, code = images(60), coder(lanes=64)
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
    payload, account = code.encode(x, everything(x))
    pushed, bits[0] = bits[0], 0.0
    code.decode(payload, everything(x))  # pushes the latents that encoding popped
    assert account.net == pytest.approx(pushed - bits[0], rel=1e-4)


def test_initial_bits_of_bit_swap_stay_when_layers_are_added_and_those_of_bb_ans_grow() -> None:
    x = images(40)

    def initial(scheme: str, layers: int) -> float:
        module = bitswap(latent_channels=[4] * layers, downscale=[2] + [1] * (layers - 1), blocks=[1] * layers)
        return coder(module, scheme).encode(x, everything(x))[1].initial

    # Every layer has as many latents as the first, so bb_ans pops twice and four times as much.
    assert initial("bbans", 4) > 2 * initial("bbans", 1)
    assert initial("bitswap", 4) < 1.5 * initial("bitswap", 1)


# Too few initial bits


def test_a_model_that_wants_more_initial_bits_than_expected_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(60)
    start, asked = Coder._start, []

    def scarce(self: Coder, words: int) -> Message:
        asked.append(words)
        return start(self, words if len(asked) > 3 else 0)

    monkeypatch.setattr(Coder, "_start", scarce)
    progress: list[int] = []
    payload, account = coder().encode(x, everything(x), progress=progress.append)
    assert len(asked) > 3 and asked[1] > asked[0]
    assert sum(progress) == len(x)
    monkeypatch.undo()
    assert torch.equal(coder().decode(payload, everything(x)), x)
    assert account.file == 8 * len(payload)


# At 0.083, half of the growth and the three digits of it that a payload stores make different blocks.
@pytest.mark.parametrize(("growth", "times"), [(60.0, 3), (0.083, 1), (0.083, 2)])
def test_rows_that_pop_more_than_the_first_one_come_back(
    monkeypatch: pytest.MonkeyPatch, growth: float, times: int
) -> None:
    x = images(50)
    monkeypatch.setattr(Coder, "_try_one", lambda self, *args: (growth, 1.0))
    pop, failed = Message.pop, [0]

    def scarce(self: Message, *args: Any, **kwargs: Any) -> Tensor:
        if failed[0] < times and int(self.size.sum()) > int(self.floor.sum()) + 60:  # in the middle
            failed[0] += 1
            raise EmptyMessage("made to happen")
        return pop(self, *args, **kwargs)

    monkeypatch.setattr(Message, "pop", scarce)
    progress: list[int] = []
    payload, _ = coder(lanes=32).encode(x, everything(x), progress=progress.append)
    assert failed[0] == times and sum(progress) == len(x)
    assert int.from_bytes(payload[:2], "little") <= 1000 * growth / 2**times + 1
    monkeypatch.undo()
    assert torch.equal(coder(lanes=32).decode(payload, everything(x)), x)


def test_lanes_do_not_double_at_the_same_place_again_when_a_later_row_found_them_empty() -> None:
    """Rows that want much more than the first one: more words at the bottom of the first lanes do not help these."""
    module = bitswap()
    x = images(60)
    valid = everything(x)

    def greedy(module: Any, ok: Tensor, **options: Any) -> Any:
        codec, tail = head(module, ok, **options), int(ok.flatten(1).any(1).sum())

        def push(message: Message, rows: Tensor) -> None:
            if int(message.size.sum()) > int(message.floor.sum()) + 150:  # all but the first rows
                lanes = message.lanes
                many = torch.ones(2000 * tail // lanes, lanes, dtype=torch.bool)
                popped = message.pop(many, _identity, (), (), 24)
                message.push(popped, torch.ones_like(popped), 24)
            codec.push(message, rows)

        return codec._replace(push=push)

    payload, _ = Coder(module, greedy, Settings(BATCH, 32, 0)).encode(x, valid)
    assert torch.equal(coder(module, lanes=32).decode(payload, valid), x)


def test_a_codec_that_never_has_enough_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise EmptyMessage("pop: never enough")

    monkeypatch.setattr(Message, "pop", fail)
    monkeypatch.setattr(toolkit.head, "MOST_WORDS", 1 << 10)
    with pytest.raises(ValueError, match="never enough"):
        coder().encode(images(2), everything(images(2)))


# Damage


def outcome(code: Coder, payload: bytes, rows: Tensor) -> bool:
    """Whether damage is noticed: a ValueError, or rows of another checksum."""
    valid = everything(rows)
    try:
        return rows_crc(code.decode(payload, valid), valid) != rows_crc(rows, valid)
    except ValueError:
        return True


def test_decoding_with_another_seed_is_noticed() -> None:
    x = images(30)
    payload, _ = coder(seed=0).encode(x, everything(x))
    with pytest.raises(ValueError, match="does not end in the bits that it started from"):
        coder(seed=1).decode(payload, everything(x))


@pytest.mark.parametrize("scheme", ["bitswap", "bbans"])
def test_decoding_with_another_scheme_weights_or_batch_is_noticed(scheme: str) -> None:
    x, other = images(30), {"bitswap": "bbans", "bbans": "bitswap"}[scheme]
    payload, _ = coder(scheme=scheme).encode(x, everything(x))
    assert not outcome(coder(scheme=scheme), payload, x)
    assert outcome(coder(scheme=other), payload, x)
    assert outcome(coder(bitswap(seed=1), scheme), payload, x)
    assert outcome(coder(scheme=scheme, batch=2), payload, x)


def test_each_flipped_bit_is_noticed() -> None:
    x = images(6)
    payload, _ = coder().encode(x, everything(x))
    for bit in [*range(0, 160, 7), *range(160, 8 * len(payload), len(payload) // 3)]:
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        noticed = outcome(coder(), bytes(damaged), x)
        assert noticed or bit < 16, (
            f"bit {bit}"
        )  # another growth may still mean the same blocks: then the rows are right


def test_each_cut_payload_is_refused() -> None:
    x = images(3)
    payload, _ = coder().encode(x, everything(x))
    for size in [*range(24), len(payload) - 1]:
        with pytest.raises(ValueError, match=r"expected|fit"):
            coder().decode(payload[:size], everything(x))


def test_random_bytes_are_refused() -> None:
    x = images(5)
    rng = torch.Generator().manual_seed(0)
    for size in (0, 3, 12, 100, 1000):
        noise = bytes(torch.randint(0, 256, (size,), generator=rng).tolist())
        assert outcome(coder(), noise, x)


def test_a_payload_of_more_lanes_than_the_settings_allow_is_refused() -> None:
    x = images(150)
    payload, _ = coder(lanes=64).encode(x, everything(x))
    with pytest.raises(ValueError, match=r"doubled 4 times to 16 or fewer, got 64; the data are damaged"):
        coder(lanes=16).decode(payload, everything(x))
    with pytest.raises(ValueError, match=r"few doublings, got .* and 4; the data are damaged"):
        coder(lanes=8).decode(payload, everything(x))


@pytest.mark.parametrize("first", [1, 2, 32])
def test_a_payload_that_began_with_another_number_of_lanes_is_read(first: int) -> None:
    x, other = images(60), coder(lanes=64)
    other.first_lanes = first
    payload, _ = other.encode(x, everything(x))
    assert torch.equal(coder(lanes=64).decode(payload, everything(x)), x)


# Fingerprint and checksum


def test_the_fingerprint_is_that_of_equal_models() -> None:
    assert fingerprint(bitswap(), {"a": 1, "b": [2]}) == fingerprint(bitswap(), {"b": [2], "a": 1})
    assert len(fingerprint(bitswap(), {})) == 64


def test_the_fingerprint_changes_with_each_weight_and_setting() -> None:
    module = bitswap()
    seen = {
        fingerprint(module, {}),
        fingerprint(module, {"a": 1}),
        fingerprint(module, {"a": 2}),
        fingerprint(module, {"b": 1}),
    }
    assert len(seen) == 4
    for parameter in module.parameters():
        with torch.no_grad():
            value = parameter.flatten()[-1].clone()
            parameter[tuple(n - 1 for n in parameter.shape)] = torch.nextafter(value, torch.tensor(9.0))
        seen.add(fingerprint(module, {}))
    assert len(seen) == 4 + len(list(module.parameters()))


def test_the_fingerprint_does_not_depend_on_the_memory_format() -> None:
    module = bitswap()
    before = fingerprint(module, {})
    assert fingerprint(module.to(memory_format=torch.contiguous_format), {}) == before
    assert fingerprint(module.to(memory_format=torch.channels_last), {}) == before


def test_the_fingerprint_is_defined_for_weights_of_any_dtype() -> None:
    kinds = [bitswap().to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)]
    assert len({fingerprint(module, {}) for module in kinds}) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_fingerprint_does_not_depend_on_the_device() -> None:
    assert fingerprint(bitswap().cuda(), {}) == fingerprint(bitswap(), {})


def test_the_checksum_is_that_of_the_coded_values_alone() -> None:
    x = images(4)
    valid = everything(x)
    valid[2, :, 3:] = False
    other = torch.where(valid, x, 0)
    assert rows_crc(x, valid) == rows_crc(other, valid) != rows_crc(x, everything(x))
    other[0, 0, 0, 0] ^= 1
    assert rows_crc(x, valid) != rows_crc(other, valid)
    assert rows_crc(x.contiguous(), valid) == rows_crc(x.transpose(2, 3).contiguous().transpose(2, 3), valid)


def test_an_empty_account_is_all_zeros() -> None:
    assert Account().lanes == 0


def test_a_coder_that_is_compiled_from_some_row_on_writes_the_same_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, used = images(60), []

    def pays(name: str, spent: float, ahead: float) -> bool:
        used.append((name, spent, ahead))
        return len(used) > 2

    # What would be compiled runs as it is: that compiled code gives the same integers is tested elsewhere.
    for where in ("toolkit.coding.ans.compiled", "toolkit.coding.fuse.compiled"):
        monkeypatch.setattr(where, lambda function: function)
    monkeypatch.setattr("toolkit.coding.ans._compiled", functools.partial)
    monkeypatch.setattr(toolkit.head, "compiling_pays", pays)
    monkeypatch.setattr(toolkit.head, "keep_compiled", lambda name: used.append(("kept", 0.0, 0.0)))
    measured = Coder(bitswap(), functools.partial(head, scheme="bitswap"), Settings(BATCH, 16, 0), None)
    payload, _ = measured.encode(rows, everything(rows))
    assert payload == coder().encode(rows, everything(rows))[0]
    assert [name for name, _, _ in used] == ["BitSwap"] * 3 + ["kept"]
    assert all(spent > 0 and ahead > 0 for _, spent, ahead in used[:3])
    used.clear()
    assert torch.equal(measured.decode(payload, everything(rows)), rows)
    assert len(used) == 3


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++) on a CPU")
def test_a_compiled_coder_writes_the_same_payload_and_reads_it() -> None:
    module, rows = bitswap((2, 8, 8)), images(9, (2, 8, 8))
    valid = everything(rows)
    valid[4, 1] = False
    make = functools.partial(Coder, module, head, Settings(BATCH, 8, 0))
    eager, _ = make(compiled=False).encode(rows, valid)
    compiled, _ = make(compiled=True).encode(rows, valid)
    assert compiled == eager
    assert torch.equal(make(compiled=True).decode(eager, valid)[valid], rows[valid])
