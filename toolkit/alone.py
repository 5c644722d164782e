"""Rows coded each alone: any one of a chunk is decoded by itself, for models that need no chain of rows.

A payload is an index, a zlib stream of the rows' lengths, and the rows' streams one after the other.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from toolkit.coding.ans import Message
from toolkit.coding.codecs import Codec
from toolkit.coding.streams import Streams
from toolkit.container import inflate
from toolkit.head import Account, Coder, NetworkClock

_PREAMBLE = struct.Struct("<IIB")  # rows, bytes of the stored index, bytes a length


class AloneCoder(Coder):
    """Encodes and decodes chunks of rows, each row a stream of its own, with a head that codes one row a lane.

    head(module, valid, number, trace) -> codec of int64 [rows, ...]; number: int64 [rows], of the rows in the chunk.
    The networks always see whole batches with each row at its own place, so that a row decoded alone meets the same
    arithmetic as one that is decoded with the others; exact networks, to whom that is one, see no more than is decoded.
    """

    def _encode(
        self, rows: Tensor, valid: Tensor, trace: bool, progress: Callable[[int], Any] | None
    ) -> tuple[bytes, Account]:
        account, data = Account(), list[bytes]()
        batch = self.settings.batch
        for first in range(0, len(rows), batch):
            x, drawn = rows[first : first + batch], list[Tensor]()
            whole = self._whole(x).long()
            streams = Streams(len(whole), self.module.device)
            codec = self._alone(valid[first : first + batch], first, **({"trace": drawn} if trace else {}))
            codec.push(cast(Message, streams), whole)
            data += streams.to_bytes()[: len(x)]
            account.net += float(streams.bits()[: len(x)].sum())
            account.latents.append([z[: len(x)] for z in drawn])
            if progress:
                progress(len(x))
        payload = joined(data)
        account.file = 8 * len(payload)
        return payload, account

    def _decode(self, payload: bytes, valid: Tensor, progress: Callable[[int], Any] | None) -> Tensor:
        return self._decode_range(payload, valid, 0, len(valid), progress)

    @torch.inference_mode()
    def decode_range(self, payload: bytes, valid: Tensor, first: int, count: int) -> Tensor:
        """Rows first, first + 1, ... of a chunk of `count`, as many as `valid` (bool [rows, c, h, w]) has; no others.

        Raises ValueError if the payload is damaged, or has another number of rows.
        """
        began = time.perf_counter()
        with NetworkClock() as networks:
            rows = self._decode_range(payload, valid, first, count, None)
        self.coder_seconds = time.perf_counter() - began - networks.seconds
        return rows

    def _decode_range(
        self, payload: bytes, valid: Tensor, first: int, count: int, progress: Callable[[int], Any] | None
    ) -> Tensor:  # fmt: skip
        if first + len(valid) > count:
            raise ValueError(f"expected rows {first} to {first + len(valid)} of a chunk, got one of {count}")
        data = streams_of(payload, count, first, first + len(valid))
        rows = torch.zeros(valid.shape, dtype=torch.uint8)
        batch = self.settings.batch
        for begin in range(first - first % batch, first + len(valid), batch):
            low, high = max(begin, first), min(begin + batch, first + len(valid))
            here = slice(low - first, high - first)
            before, after = self._around(low, high - low)
            codec = self._alone(valid[here], low)
            streams = Streams.from_bytes([b""] * before + data[here] + [b""] * after, self.module.device)
            rows[here] = codec.pop(cast(Message, streams))[before : before + high - low].to(torch.uint8).cpu()
            if not bool(streams.ended().all()):
                wrong = low - before + int((~streams.ended()).nonzero()[0])
                raise ValueError(
                    f"row {wrong} does not end as it began, so it is wrong: decode with the device, library versions "
                    "and settings that encoded it"
                )
            if progress:
                progress(high - low)
        return rows

    def _alone(self, valid: Tensor, first: int, **options: Any) -> Codec:
        """The head's codec of a batch, in which the rows of `valid` stand from place first % batch on."""
        valid, before = self._whole(valid, first), self._around(first, len(valid))[0]
        number = torch.arange(len(valid), device=self.module.device) + first - before
        return self.head(self.module, valid, number=number, **options)

    def _around(self, first: int, count: int) -> tuple[int, int]:
        """Rows that the networks see before and after `count` rows of a batch, from row `first` of the chunk on."""
        if getattr(self.module.net, "is_exact", False):
            return 0, 0
        before = first % self.settings.batch
        return before, self.settings.batch - before - count

    def _whole(self, x: Tensor, first: int = 0) -> Tensor:
        before, after = self._around(first, len(x))
        x = x.to(self.module.device)
        return torch.cat([x.new_zeros(before, *x.shape[1:]), x, x.new_zeros(after, *x.shape[1:])])


def joined(data: Sequence[bytes]) -> bytes:
    """The payload of a chunk whose rows have these streams."""
    lengths = np.array([len(stream) for stream in data], dtype=np.int64)
    width = next(w for w in (1, 2, 4) if int(lengths.max(initial=0)) < 1 << (8 * w))
    stored = zlib.compress(lengths.astype(f"<u{width}").tobytes(), 9)
    return _PREAMBLE.pack(len(data), len(stored), width) + stored + b"".join(data)


def streams_of(payload: bytes, count: int, first: int = 0, last: int | None = None) -> list[bytes]:
    """The streams of rows [first, last), by default all, of a payload of `count` rows."""
    try:
        rows, size, width = _PREAMBLE.unpack_from(payload)
        begin = _PREAMBLE.size + size
        if rows != count or width not in (1, 2, 4):
            raise ValueError(f"{rows} rows with lengths of {width} bytes")
        stored = inflate(payload[_PREAMBLE.size : begin], rows * width)
    except (struct.error, ValueError) as error:
        raise ValueError(f"expected an index of {count} rows, got {error}; the data are damaged") from error
    lengths = np.frombuffer(stored, f"<u{width}").astype(np.int64)
    ends = begin + np.cumsum(lengths)
    if (int(ends[-1]) if rows else begin) != len(payload):
        raise ValueError(
            f"expected {count} rows in {begin + int(lengths.sum())} bytes, got {len(payload)}; the data are damaged"
        )
    return [payload[end - size : end] for end, size in zip(ends[first:last], lengths[first:last], strict=True)]
