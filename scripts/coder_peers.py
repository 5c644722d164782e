"""Other people's entropy coders, as far as they are installed, on the symbols of bench_coders.py."""

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BINS = 256
MOST_FOR_TABLES = 1 << 18  # symbols where each has a table of 256 frequencies
MOST_FOR_LISTS = 1 << 20  # symbols for a peer that wants lists of Python integers

Speed = tuple[str, float, float]  # what, and Msymbols/s encoding and decoding


def timed(function: Callable[[], object], device: str, repeat: int) -> float:
    """Seconds of the fastest of `repeat` calls after one that does not count."""
    best = float("inf")
    for i in range(repeat + 1):
        began = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        if i:
            best = min(best, time.perf_counter() - began)
    return best


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def both(encode: Callable[[], Any], decode: Callable[[Any], Any], symbols: int, repeat: int) -> tuple[float, float]:
    """Msymbols/s of a pair of functions; what `encode` returns goes to `decode`."""
    code: list[Any] = []
    encoding = timed(lambda: code.__setitem__(slice(None), [encode()]), "cpu", repeat)
    return symbols / encoding / 1e6, symbols / timed(lambda: decode(code[0]), "cpu", repeat) / 1e6


def static_peers(weight: Tensor, repeat: int, x: np.ndarray) -> Iterator[Speed]:
    if installed("constriction"):
        import constriction

        model = constriction.stream.model.Categorical(weight.double().numpy() / 65536, perfect=False)
        yield "constriction, static", *constriction_speed(x, model, (), repeat)
    if installed("compressai"):
        ans = compressai_ans()
        some = x[:MOST_FOR_LISTS]
        cdf, which = [0, *weight.cumsum(0).tolist()], [0] * len(some)

        def decode(data: bytes) -> None:
            found = ans.RansDecoder().decode_with_indexes(data, which, [cdf], [BINS + 1], [0])
            assert np.array_equal(found, some)

        # Lists of Python integers are what it takes; making them from an array counts, as tensors are what we have.
        yield (
            "CompressAI, static",
            *both(
                lambda: ans.RansEncoder().encode_with_indexes(some.tolist(), which, [cdf], [BINS + 1], [0]),
                decode, len(some), repeat,
            ),
        )  # fmt: skip


def compressai_ans() -> Any:
    """CompressAI's coder without the rest of CompressAI."""
    spec = importlib.util.find_spec("compressai")
    assert spec and spec.submodule_search_locations
    (path,) = Path(next(iter(spec.submodule_search_locations))).glob("ans.*.so")
    found = importlib.util.spec_from_file_location("compressai.ans", path)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def gaussian_peers(loc: np.ndarray, scale: np.ndarray, repeat: int, x: np.ndarray) -> Iterator[Speed]:
    if installed("constriction"):
        import constriction

        model = constriction.stream.model.QuantizedGaussian(0, BINS - 1)
        yield "constriction, Gaussian", *constriction_speed(x, model, (loc, scale), repeat)


def mixture_peers(logits: Tensor, loc: Tensor, log_scale: Tensor, repeat: int, x: np.ndarray) -> Iterator[Speed]:
    """A table for each symbol: what constriction offers for distributions that it does not know; making it counts."""
    if not installed("constriction"):
        return
    import constriction

    n = min(len(x), MOST_FOR_TABLES)
    edges = torch.arange(1, BINS)[:, None] - 0.5

    def tables() -> np.ndarray:
        below = torch.zeros(BINS + 1, n)
        below[BINS] = 1
        for w, at, s in zip(logits.softmax(0)[:, :n], loc[:, :n], log_scale[:, :n], strict=True):
            below[1:-1] += (w * torch.sigmoid((edges - at) / s.exp())).float()
        return below.diff(dim=0).clamp(min=1e-7).T.contiguous().numpy()

    model = constriction.stream.model.Categorical(perfect=False)
    making = timed(tables, "cpu", 1)
    push, pop = constriction_speed(x[:n], model, (tables(),), repeat)
    yield "constriction, tables", n / (n / push + making * 1e6), n / (n / pop + making * 1e6)


def table_peers(starts: Tensor, repeat: int, x: np.ndarray) -> Iterator[Speed]:
    if installed("constriction"):
        import constriction

        model = constriction.stream.model.Categorical(perfect=False)
        tables = (starts.diff(dim=1).float() / 65536).numpy()
        yield "constriction, tables", *constriction_speed(x, model, (tables,), repeat)
    if installed("torchac") and installed("ninja"):
        import torchac

        cdf, symbols = starts.to(torch.int16), torch.from_numpy(x).to(torch.int16)  # 65536 wraps to 0, as it expects

        def decode(data: bytes) -> None:
            assert torch.equal(torchac.decode_int16_normalized_cdf(cdf, data), symbols)

        yield (
            "torchac",
            *both(lambda: torchac.encode_int16_normalized_cdf(cdf, symbols), decode, len(x), repeat),
        )


def bit_peers(ones: Tensor, repeat: int, x: np.ndarray) -> Iterator[Speed]:
    if installed("constriction"):
        import constriction

        model = constriction.stream.model.Bernoulli(perfect=False)
        yield "constriction", *constriction_speed(x, model, (ones.double().numpy() / 65536,), repeat)


def constriction_speed(
    x: np.ndarray, model: object, arrays: tuple[np.ndarray, ...], repeat: int
) -> tuple[float, float]:  # Msymbols/s, encoding and decoding
    import constriction

    def encode() -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(x, model, *arrays)
        return coder.get_compressed()

    def decode(data: np.ndarray) -> None:
        coder = constriction.stream.stack.AnsCoder(data.copy())
        out = coder.decode(model, *arrays) if arrays else coder.decode(model, len(x))
        assert np.array_equal(out, x)

    return both(encode, decode, len(x), repeat)
