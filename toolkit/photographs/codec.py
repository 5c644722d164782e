"""A stand-in for the codec of photographs that learns while it codes, with its interface: zlib."""

import math
import zlib

import numpy as np

State = dict[str, np.ndarray]


def initial() -> State:
    """What the experts know before the first pixel of all."""
    return {"count": np.zeros(4)}


def encode(picture: np.ndarray, state: State, effort: int = 1) -> bytes:
    """The payload of a picture uint8 [c, h, w], c from 1 to 4; effort: 0, 1 or 2."""
    return bytes([effort]) + zlib.compress(picture.tobytes(), (1, 6, 9)[effort])


def decode(data: bytes, shape: tuple[int, int, int], state: State) -> np.ndarray:
    """The picture uint8 [c, h, w] of a payload. Raises ValueError for data that are no such payload."""
    size, stream = math.prod(shape), zlib.decompressobj()
    try:
        values = stream.decompress(data[1:], size + 1)
    except zlib.error as error:
        raise ValueError(f"expected a payload, got another one ({error}); copy it again") from error
    if not data or data[0] > 2 or len(values) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"expected a payload of {size} values, got another one; copy it again")
    return np.frombuffer(values, np.uint8).reshape(shape).copy()


def learn(picture: np.ndarray, state: State) -> tuple[State, float]:
    """The state after coding a picture, and the bits that it took."""
    return {**state, "count": state["count"] + 1}, 8.0 * len(encode(picture, state))
