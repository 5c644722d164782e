"""One picture at any rate: tiles of quantised latents, found for a lambda, a file size or a PSNR.

docs/format.md, section "Pictures at a chosen rate", is the specification; `rate_archive` writes and reads
the files.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.coding.coefficients import codec as coefficients
from toolkit.coding.coefficients.loop import RATES
from toolkit.coding.exactness import exact_products
from toolkit.images import colours, similarity, wiener
from toolkit.images.files import CHANNELS, Item, item_of
from toolkit.images.rate_target import (
    LEVELS,
    SLOPE,
    TRIES,
    Target,
    approach,
    lambda_of,
    level_of,
    measured,
    nearest,
    slope_near,
)

STRIDE = 8  # pixels a side of a block
TILE = 128  # blocks a side of a tile, which is coded by itself
WINDOW = 2 * TILE  # blocks a side of what becomes pixels at once: larger, and its halo is a smaller part
FILTER_HALO = 1  # blocks around a rectangle that its filtered pixels depend on
CHUNK = 60  # bytes of a chunk without payload
SAMPLE_TILES = 6  # tiles of a large picture from which a target's lambda is found
BALANCE = 6 / math.log(2)  # bits for the square of a step: a finer one saves as much distortion as it costs bits
METRICS = ("psnr", "ms-ssim")  # that files are made small by
MEAN_WEIGHT = 0.35  # of errors with "ms-ssim", beside 1 with "psnr": the step is finer, and the search leaves more out


class Effort(NamedTuple):
    """What an encoder does after its first search."""

    fitted: bool  # a filter is fitted to the picture, and sent
    rounds: int  # of refinement of code points, after each of which the filter is fitted anew
    turns: bool = False  # angles of colours are improved by trial searches at the picture's own lambda


EFFORTS = {"0": Effort(False, 0), "1": Effort(True, 0), "2": Effort(True, 2), "3": Effort(True, 8, turns=True)}


class LossyModel(Protocol):
    """What a recipe offers: networks for pixels and latents, and the tables that code the latents."""

    # Blocks around a rectangle that its latents, and its pixels, depend on.
    latents_halo: int
    pixels_halo: int
    turned: bool  # whether it takes pictures of turned colours, whose pixels leave [0, 1]
    channel_names: ClassVar[Sequence[tuple[int, int, int]]]  # component, and frequencies down and across, of each
    basis: ClassVar[similarity.Basis]  # of these frequencies

    def latents(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [1, 3, h, w] in [0, 1], sides multiples of 8 -> mean and sigma [1, channels, h / 8, w / 8]."""

    def step(self, lam: float) -> float:
        """Distance between code points."""

    def pixels(self, k: Tensor, lam: float) -> Tensor:
        """Latents in steps, int or float [1, channels, h, w] -> float32 [1, 3, 8 h, 8 w], about 0 to 1."""

    def tables(self) -> coefficients.Model:
        """Of the latents. Raises ValueError if they were not fitted."""


class Latents(NamedTuple):
    """What is known of a tile before it is quantised, on the host."""

    mu: Tensor  # float32 [1, channels, h, w]
    sigma: Tensor
    pixels: Tensor  # float32 [1, 3, 8 h, 8 w] in [0, 1], or turned


class Encoded(NamedTuple):
    """A picture as it is sent."""

    level: int
    fitted: bytes  # angles that its colours were turned by, and its filter, if it has one; nothing where it has neither
    tiles: list[tuple[bytes, int]]  # payload of each, and the checksum of its coefficients
    got: float | None = None  # bits a pixel or PSNR, as the target counts them; none for a lambda


def rate_index(level: int) -> int:
    """The rate that the coder knows."""
    return level * RATES // (LEVELS + 1)


class Tile(NamedTuple):
    """A rectangle of blocks, and the one around it that the networks see."""

    y: int
    x: int
    height: int
    width: int
    top: int  # blocks of the halo
    left: int
    bottom: int
    right: int

    def place(self, scale: int = 1) -> tuple[slice, slice]:
        """Rows and columns of the tile in the picture, in blocks; scale=STRIDE: in pixels, maybe beyond its border."""
        return _span(self.y, self.height, scale), _span(self.x, self.width, scale)

    def around(self, scale: int = 1) -> tuple[slice, slice]:
        """The same of the tile with its halo."""
        rows = _span(self.y - self.top, self.top + self.height + self.bottom, scale)
        return rows, _span(self.x - self.left, self.left + self.width + self.right, scale)

    def inner(self, scale: int = 1) -> tuple[slice, slice]:
        """Rows and columns of the tile in `around`."""
        return _span(self.top, self.height, scale), _span(self.left, self.width, scale)


def _span(first: int, size: int, scale: int) -> slice:
    return slice(first * scale, (first + size) * scale)


def tiles(height: int, width: int, halo: int, side: int | None = None) -> list[Tile]:
    """Tiles of a picture of so many pixels, row by row; side: blocks a side instead of `TILE`."""
    side = side or TILE
    down, across = -(-height // STRIDE), -(-width // STRIDE)
    found = []
    for y in range(0, down, side):
        for x in range(0, across, side):
            h, w = min(side, down - y), min(side, across - x)
            rest = min(halo, down - y - h), min(halo, across - x - w)
            found.append(Tile(y, x, h, w, min(halo, y), min(halo, x), *rest))
    return found


def tile_count(item: Item) -> int:
    return -(-item.height // (STRIDE * TILE)) * -(-item.width // (STRIDE * TILE))


class PictureCoder:
    """Codes pictures with a model.

    choice: how code points are chosen. "search": the cheapest near the latents by distortion and rate; "one sigma": the
    same, as if all were equally uncertain; "rounding": the nearest. All three make files that decode alike. effort: a
    key of `EFFORTS`, for how long to go on after the first search. metric: one of `METRICS`; with "ms-ssim", a search
    with the sigma of each counts errors by what they take from MS-SSIM.
    """

    def __init__(
        self, model: LossyModel, device: torch.device | str = "cpu", choice: str = "search", effort: str = "0",
        metric: str = "psnr",
    ) -> None:  # fmt: skip
        self.model, self.device, self.choice, self.effort = model, device, choice, EFFORTS[effort]
        self.weighs = metric == "ms-ssim" and choice == "search"
        self.tables = model.tables()

    def angles(self, picture: Tensor) -> bytes:
        """How to turn the colours of a picture uint8 [1 or 3, h, w]: see `colours`; nothing where that is of no use."""
        found = colours.fit(picture.numpy()) if self.model.turned else b""
        return found if any(found) else b""

    def sensitivity(self, picture: Tensor, angles: bytes) -> Tensor | None:
        """How sensitive the metric is at each block, if it differs: float32 [scales, 1 or 3, h / 8, w / 8]."""
        if not self.weighs:
            return None
        found = similarity.sensitivity(picture.numpy())
        names, basis = self.model.channel_names, self.model.basis
        return torch.from_numpy(found * (MEAN_WEIGHT / similarity.usual(found, angles, names, basis)))

    @torch.inference_mode()
    def latents(self, picture: Tensor, tile: Tile, angles: bytes = b"", sensitivity: Tensor | None = None) -> Latents:
        """Mean and sigma of a tile of a picture uint8 [1 or 3, h, w], its colours turned by angles.

        sensitivity: of `sensitivity`. Where the metric is sensitive, a coefficient is taken to be known well.
        """
        rows, columns = tile.around(STRIDE)
        part = picture[:, rows, columns]
        short = columns.stop - columns.start - part.shape[2], rows.stop - rows.start - part.shape[1]
        pixels = F.pad(part[None].float() / 255, (0, short[0], 0, short[1]), mode="replicate").expand(-1, 3, -1, -1)
        pixels = turned(pixels[0], angles)[None]
        mu, sigma = (x.float().cpu()[(..., *tile.inner())] for x in self.model.latents(pixels.to(self.device)))
        if sensitivity is not None:
            here = sensitivity[(..., *tile.place())].numpy()
            weights = similarity.weights(here, angles, self.model.channel_names, self.model.basis)
            sigma = sigma * torch.from_numpy(weights)[None].rsqrt()
        return Latents(mu, sigma, pixels[(..., *tile.inner(STRIDE))])

    def quantise(self, latents: Latents, level: int, before: coefficients.Coded | None = None) -> coefficients.Coded:
        """The code points near a tile's latents of the least (z - mu)^2 / (2 sigma^2) + lambda bits, and the bytes.

        before: code points near these: see `coefficients.codec.search`.
        """
        lam, sigma = lambda_of(level), latents.sigma
        step = self.model.step(lam)
        mu = latents.mu / step
        if self.choice == "rounding":
            return coefficients.given(self.tables, mu.round(), rate_index(level))
        if self.choice == "one sigma":
            sigma = sigma.log().mean().exp().expand_as(sigma)
        return coefficients.search(self.tables, mu, sigma, step**2 / (2 * lam), rate_index(level), before)

    @torch.inference_mode()
    def _refined(
        self, latents: Latents, tile: Tile, around: Tensor, payload: bytes, level: int, chosen: wiener.Filter | None,
        last: bool,
    ) -> tuple[float, coefficients.Coded | None]:  # fmt: skip
        """What the code points of a tile cost, in bits, and, unless it is the last time, others that may cost less.

        around: int, of the tile and its halo; payload: of the tile. Code points are looked for near what would make up
        for the latents that the decoded and filtered picture lacks (iterated back-projection: Irani, Peleg 1991,
        doi:10.1016/1049-9652(91)90045-L), as if network and filter would change them no further. The gradient, which
        knows how these change, takes steps that are too long.
        """
        lam = lambda_of(level)
        step, inner, places = self.model.step(lam), (..., *tile.inner()), (..., *tile.inner(STRIDE))
        seen = self.model.pixels(around.to(self.device), lam).float().cpu()
        if chosen:
            seen = torch.from_numpy(wiener.apply(seen[0].numpy(), chosen, step))[None]
        distortion = BALANCE * float(((seen[places] - latents.pixels) / step).square().sum())
        lacking = torch.zeros(())
        if self.weighs or not last:
            lacking = latents.mu - self.model.latents(seen.to(self.device))[0].float().cpu()[inner]
        if self.weighs:
            distortion = float((lacking / latents.sigma).square().sum()) / (2 * lam)
        cost = distortion + 8 * len(payload)
        if last:
            return cost, None
        before = coefficients.given(self.tables, around[inner], rate_index(level))
        return cost, self.quantise(latents._replace(mu=around[inner] * step + lacking), level, before)

    def channel_bits(self, picture: Tensor, level: int) -> Tensor:
        """Bits of each channel of latents of a picture: float64 [channels]."""
        grid, angles = tiles(picture.shape[1], picture.shape[2], self.model.latents_halo), self.angles(picture)
        sensitivity = self.sensitivity(picture, angles)
        return sum(
            (self.quantise(self.latents(picture, tile, angles, sensitivity), level).channel_bits for tile in grid),
            torch.zeros(self.tables.channels, dtype=torch.float64),
        )

    def read(self, payload: bytes, level: int, size: tuple[int, int]) -> Tensor:
        """The coefficients of a tile: int16 [1, channels, height, width]; others for damaged bytes."""
        return coefficients.decode(self.tables, payload, rate_index(level), size)

    @torch.inference_mode()
    def restore(self, k: Tensor, item: Item, level: int, fitted: bytes = b"") -> Tensor:
        """The picture uint8 [c, h, w] of all its coefficients, int or float [1, channels, h / 8, w / 8].

        fitted: what was fitted to it and sent with it. Raises ValueError for bytes that are none of `encode`.
        """
        grey = CHANNELS[item.mode] == 1
        angles, chosen = read_fitted(fitted, grey)
        picture = torch.zeros(CHANNELS[item.mode], item.height, item.width, dtype=torch.uint8)
        halo = self.model.pixels_halo + (FILTER_HALO if chosen else 0)
        for tile in tiles(item.height, item.width, halo, WINDOW):
            pixels = self._pixels(k, tile, level)
            if chosen:
                filtered = wiener.apply(pixels.numpy(), chosen, self.model.step(lambda_of(level)))
                pixels = torch.from_numpy(filtered)
            pixels = turned(pixels, angles, back=True)
            inner = pixels[(..., *tile.inner(STRIDE))]
            inner = (255 * (inner.mean(0, keepdim=True) if grey else inner)).round().clamp(0, 255).to(torch.uint8)
            place = picture[(..., *tile.place(STRIDE))]
            place.copy_(inner[:, : place.shape[1], : place.shape[2]])
        return picture

    def _pixels(self, k: Tensor, tile: Tile, level: int) -> Tensor:
        """The pixels of a tile and its halo: float32 [3, h, w] on the host."""
        return self.model.pixels(k[(..., *tile.around())].to(self.device), lambda_of(level))[0].float().cpu()

    @torch.inference_mode()
    def fit(self, picture: Tensor, k: Tensor, level: int, angles: bytes = b"") -> bytes:
        """What is sent with a picture: the angles, and, if the effort has one, the filter that saves the most bits.

        k: all its coefficients. The filter is made for pixels whose colours are still turned.
        """
        if not self.effort.fitted:
            return angles
        grid, samples = tiles(picture.shape[1], picture.shape[2], self.model.pixels_halo + FILTER_HALO), []
        area = 0
        for tile in _some(grid):
            wanted = picture[(..., *tile.place(STRIDE))]
            area += wanted[0].numel()
            rows, columns = tile.inner(STRIDE)
            inner = _span(rows.start, wanted.shape[1], 1), _span(columns.start, wanted.shape[2], 1)
            if angles:
                wanted = 255 * turned(wanted.float() / 255, angles)
            samples.append(wiener.Sample(self._pixels(k, tile, level).numpy(), inner, wanted.numpy()))
        share = picture.shape[1] * picture.shape[2] / area  # of the picture in its sample
        found = wiener.fit(samples, self.model.step(lambda_of(level)), BALANCE * share)
        return (angles or bytes(colours.SIZE)) + found if found else angles

    def encode(self, picture: Tensor, target: Target, overhead: float = 0.0) -> Encoded:
        """A picture at the level of lambda that meets a target, or comes nearest to it.

        overhead: bytes of the file that are the picture's beside its tiles and filter. On a CPU it takes one thread, so
        that its bytes do not depend on how many there are.
        """
        with exact_products(threads=1):
            return self._encode(picture, target, overhead)

    def _encode(self, picture: Tensor, target: Target, overhead: float) -> Encoded:
        grid = tiles(picture.shape[1], picture.shape[2], self.model.latents_halo)
        angles, bits = self.angles(picture), target.way == "bpp"
        sensitivity = self.sensitivity(picture, angles)
        item, made = item_of("", picture), dict[int, Encoded]()

        def measure(level: int) -> float:
            k, fitted, found = self._at_level(picture, grid, level, angles, sensitivity)
            if bits:
                size = sum(len(payload) + CHUNK for payload, _ in found) + overhead + len(fitted)
                got = 8 * size / picture[0].numel()
            else:
                got = psnr(picture, self.restore(k, item, level, fitted))
            made[level] = Encoded(level, fitted, found, got)
            return measured(target.way, got)

        known, tried = target.way == "lambda", dict[int, float]()
        if not known:
            tried = self._find(picture, grid, target, overhead, angles, sensitivity)
        level = level_of(target.value) if known else nearest(tried, target)
        if self.effort.turns and self.model.turned and len(picture) > 1:
            angles = self._better_angles(picture, grid, level, angles, sensitivity)
        if known or not (bits or self.effort.fitted or len(grid) > 1):  # a PSNR that was measured already
            _, fitted, found = self._at_level(picture, grid, level, angles, sensitivity)
            return Encoded(level, fitted, found, tried.get(level))
        # Tiles were seen alone, of large pictures not all of them, and no filter was fitted.
        tried = approach(measure, target, level, TRIES, SLOPE["bpp"] if bits else slope_near(tried, level))
        return made[nearest(tried, target)]

    def _at_level(
        self, picture: Tensor, grid: list[Tile], level: int, angles: bytes, sensitivity: Tensor | None
    ) -> tuple[Tensor, bytes, list[tuple[bytes, int]]]:
        """The code points of a picture, what is fitted to it, and its tiles: see `Encoded`."""
        k = torch.zeros(1, self.tables.channels, *(-(-n // STRIDE) for n in picture.shape[1:]), dtype=torch.int16)
        best, least = (k, b"", list[tuple[bytes, int]]()), math.inf
        fitted, found = b"", list[tuple[bytes, int]]()
        for i in range(self.effort.rounds + 2 if self.effort.rounds else 1):
            _, chosen = read_fitted(fitted, len(picture) == 1)
            last, cost, earlier = i > self.effort.rounds, 8.0 * len(fitted), (k.clone(), fitted, [*found])
            found.clear()
            for n, tile in enumerate(grid):
                latents = self.latents(picture, tile, angles, sensitivity)
                if i:
                    around, (payload, _) = earlier[0][(..., *tile.around())], earlier[2][n]
                    bits, coded = self._refined(latents, tile, around, payload, level, chosen, last)
                    cost += bits
                    if coded is None:
                        continue
                else:
                    coded = self.quantise(latents, level)
                k[(..., *tile.place())] = coded.k
                found.append((coded.payload, checksum(coded.k)))
            if i and cost < least:  # steps may be too long
                best, least = earlier, cost
            if not last:
                fitted = self.fit(picture, k, level, angles)
        return best if self.effort.rounds else (k, fitted, found)

    def _better_angles(
        self, picture: Tensor, grid: list[Tile], level: int, angles: bytes, sensitivity: Tensor | None
    ) -> bytes:
        """Angles near these at which a first search costs least.

        Nearby angles differ mainly in how close the colours of flat areas come to code points, which `colours.fit` does
        not see. Sensitivity stays as it is for all, so that their costs can be compared.
        """

        def cost(stored: bytes) -> float:
            total = 8.0 * len(stored) * any(stored)
            for tile in _some(grid):
                latents = self.latents(picture, tile, stored if any(stored) else b"", sensitivity)
                coded = self.quantise(latents, level)
                miss = (latents.mu - self.model.step(lambda_of(level)) * coded.k) / latents.sigma
                total += float(miss.square().sum()) / (2 * lambda_of(level)) + 8 * len(coded.payload)
            return total

        found = colours.nearby(angles or bytes(colours.SIZE), cost)
        return found if any(found) else b""

    def _find(
        self, picture: Tensor, grid: list[Tile], target: Target, overhead: float, angles: bytes,
        sensitivity: Tensor | None,
    ) -> dict[int, float]:  # fmt: skip
        """Levels that were tried until a picture met its target at no effort, and what they gave: see `approach`."""
        grid = _some(grid)
        latents = [self.latents(picture, tile, angles, sensitivity) for tile in grid]
        parts = [picture[(..., *tile.place(STRIDE))] for tile in grid]
        area, whole = sum(part[0].numel() for part in parts), picture[0].numel()

        def measure(level: int) -> float:
            """log2 of bits a pixel, or the PSNR, each falling with the level."""
            coded = [self.quantise(x, level) for x in latents]
            if target.way == "bpp":
                bits = sum(8 * (len(c.payload) + CHUNK) for c in coded)
                return math.log2(bits / area + 8 * (overhead + len(angles)) / whole)
            # Of tiles that are seen alone, without blocks beside others, which are needed for their pixels.
            error, seen = 0.0, 0
            for c, tile, part in zip(coded, grid, parts, strict=True):
                item = item_of("", part)
                miss = self.restore(c.k, item, level, angles).float() - part.float()
                miss = miss[:, _alone(tile.top, item.height, tile.bottom), _alone(tile.left, item.width, tile.right)]
                error, seen = error + float(miss.square().sum()), seen + miss.numel()
            return _decibels(error / seen)

        return approach(measure, target, LEVELS // 2)


def read_fitted(stored: bytes, grey: bool) -> tuple[bytes, wiener.Filter | None]:
    """Angles and filter of what was sent with a picture, where it has them. Raises ValueError for other bytes."""
    angles, rest = stored[: colours.SIZE], stored[colours.SIZE :]
    if stored:
        colours.matrix(angles)
    if grey and any(angles):
        raise ValueError("expected no angles for the colours of a grey picture")
    return angles if any(angles) else b"", wiener.from_bytes(rest, grey) if rest else None


def turned(pixels: Tensor, angles: bytes, back: bool = False) -> Tensor:
    """Pixels float32 [3, h, w] with their colours turned, or turned back."""
    if not angles:
        return pixels
    turn = torch.from_numpy(colours.matrix(angles))
    return torch.tensordot(turn.T if back else turn, pixels - 0.5, 1) + 0.5


def _some(grid: list[Tile]) -> list[Tile]:
    """Tiles that stand for all of a large picture."""
    if len(grid) <= SAMPLE_TILES:
        return grid
    return [grid[(2 * i + 1) * len(grid) // (2 * SAMPLE_TILES)] for i in range(SAMPLE_TILES)]


def psnr(picture: Tensor, restored: Tensor) -> float:
    """PSNR in dB of uint8 pictures of one shape, over all their values."""
    return _decibels(float((picture.double() - restored.double()).square().mean()))


def _decibels(error: float) -> float:
    """PSNR of a mean squared error in grey levels: 78 dB where there is none."""
    return 10 * math.log10(255**2 / max(error, 1e-3))


def _alone(before: int, size: int, after: int) -> slice:
    """Of so many pixels of a tile those that halos of so many blocks leave, if any."""
    first, last = before * STRIDE, size - after * STRIDE
    return slice(first, last) if first < last else slice(size)


def checksum(k: Tensor) -> int:
    """CRC-32 of the coefficients of a tile, as int16, little-endian."""
    return zlib.crc32(k.to(torch.int16).contiguous().numpy().astype("<i2", copy=False).data)
