"""Rows that want more bits than expected, damaged payloads and other models: coded or noticed, never wrong."""

import zlib
from typing import Any

import pytest
import torch
from torch import Tensor

import toolkit.chunks.chained
from recipes.bitswap import head
from tests.tiny import bitswap, coder, everything, images
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import CHECKED, Settings, fingerprint, rows_crc
from toolkit.coding import kernels
from toolkit.coding.codecs import uniform
from toolkit.coding.message import EmptyMessage, Message

BATCH = 16


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
    pop, failed = kernels.pop, [0]

    def scarce(message: Message, *args: Any) -> Tensor:
        if failed[0] < times and int(message.size.sum()) > int(message.floor.sum()) + 60:  # in the middle
            failed[0] += 1
            raise EmptyMessage("made to happen")
        return pop(message, *args)

    monkeypatch.setattr(kernels, "pop", scarce)
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
                many = uniform((2000 * tail // message.lanes, message.lanes), 24)
                many.push(message, many.pop(message))
            codec.push(message, rows)

        return codec._replace(push=push)

    payload, _ = Coder(module, greedy, Settings(BATCH, 32, 0)).encode(x, valid)
    assert torch.equal(coder(module, lanes=32).decode(payload, valid), x)


def test_a_codec_that_never_has_enough_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise EmptyMessage("pop: never enough")

    monkeypatch.setattr(kernels, "pop", fail)
    monkeypatch.setattr(toolkit.chunks.chained, "MOST_WORDS", 1 << 10)
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
    x, code = images(6, (1, 4, 4)), coder(bitswap((1, 4, 4)))
    payload, _ = code.encode(x, everything(x))
    for bit in [*range(0, 160, 7), *range(160, 8 * len(payload), len(payload) // 3)]:
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        # Another growth may still mean the same blocks: then the rows are right.
        assert outcome(code, bytes(damaged), x) or bit < 16, f"bit {bit}"


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


def test_the_checksum_of_many_rows_is_that_of_their_coded_values() -> None:
    x = images(2 * CHECKED + 5, (1, 4, 4))
    valid = everything(x)
    for _ in range(2):  # with places that are not coded in a part of the rows only
        assert rows_crc(x, valid) == zlib.crc32(x.numpy()[valid.numpy()].tobytes())
        valid[CHECKED + 3, :, 2:] = False
    assert rows_crc(x[:0], valid[:0]) == 0
