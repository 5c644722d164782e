"""The model of photographs where it codes only: what the experts know, as arrays, without torch."""

from __future__ import annotations

import numpy as np

from toolkit.photographs import codec, deep


class Coder:
    """Codes pictures: see `images.picture_archive.PictureModel`.

    arrays: by name, as in the weights of a run. Raises ValueError for others.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        expected = {f"net.{name}": (values.shape, values.dtype) for name, values in codec.initial().items()}
        found = {name: (values.shape, values.dtype) for name, values in arrays.items()}
        if found != expected:
            raise ValueError(f"expected arrays {expected}, got {found}")
        self.arrays = arrays
        self._state = {name.removeprefix("net."): values for name, values in arrays.items()}

    def encode(self, picture: np.ndarray, effort: int = 1) -> bytes:
        """The payload of a picture, uint8 or uint16 [c, h, w]; effort: 0, 1 or 2."""
        return deep.encode(picture, self._state, effort)

    def decode(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """The picture of a payload, of the dtype that it had. Raises ValueError if it is damaged."""
        return deep.decode(data, shape, self._state)
