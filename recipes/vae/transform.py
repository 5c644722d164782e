"""A learned transform of pictures that starts as the DCT of a luma-chroma rotation, and residual networks beside it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.coding.coefficients.codec import Channels
from toolkit.images.rate_coder import STRIDE
from toolkit.nets.residual import Residual

CHANNELS = 3 * STRIDE**2  # latent channels
DEEP = 3  # the averages, which are coded as differences from their predictions
MAGNITUDES = 20  # channels that a magnitude is predicted from
# Angles, in radians, of the rotations across a border of blocks, from the border outwards: those that make the mean
# logarithm of the coefficients of photographs least.
OVERLAP = (0.516, 0.333, 0.153)

# Bands of frequencies, coarse to fine, in the order in which they are coded: component (0 luma, 1 and 2 chroma
# together), and the first and last sum of the two frequencies.
BANDS = (
    (0, 0, 0), (1, 0, 0), (0, 1, 1), (0, 2, 2), (1, 1, 1), (0, 3, 3), (0, 4, 4), (1, 2, 3), (0, 5, 6), (0, 7, 8),
    (1, 4, 6), (0, 9, 14), (1, 7, 14),
)  # fmt: skip


def bands() -> list[list[tuple[int, int, int]]]:
    """Component and frequencies (down, across) of the channels of each band, in the order of the channels."""
    return [
        [
            (component, u, total - u)
            for component in ((1, 2) if chroma else (0,))
            for total in range(first, last + 1)
            for u in range(STRIDE)
            if 0 <= total - u < STRIDE
        ]
        for chroma, first, last in BANDS
    ]


def known() -> Channels:
    """What the coder of latents may expect to be alike: frequencies of a row or column, and of other components."""
    names = [name for band in bands() for name in band]
    number = {name: i for i, name in enumerate(names)}
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    means, sizes = [], []
    for c, (component, u, v) in enumerate(names):
        near = {(component, u, i): ((0, 0), (0, -1), (0, 1)) for i in range(STRIDE)}
        down = {(component, i, v): ((0, 0), (-1, 0), (1, 0)) for i in range(STRIDE)}
        same = {(i, u, v): around for i in range(3) if i != component} | {(component, 0, 0): around}
        found = [
            (number[name], y, x)
            for places in (near, down, same) for name, each in places.items() if number[name] < c for y, x in each
        ]  # fmt: skip
        means.append(list(dict.fromkeys(found)))

        def distance(e: int, c: int = c) -> int:
            return abs(names[e][1] - names[c][1]) + abs(names[e][2] - names[c][2]) + 2 * (names[e][0] != names[c][0])

        sizes.append(sorted(range(c), key=lambda e: (distance(e), -e))[:MAGNITUDES])
    return Channels([i for i, band in enumerate(bands()) for _ in band], DEEP, sizes, means, sizes)


def cosines() -> Tensor:
    """The orthonormal DCT-II of eight pixels: float64 [8 frequencies, 8]."""
    n = torch.arange(STRIDE, dtype=torch.float64)
    dct = torch.cos(math.pi / STRIDE * (n + 0.5) * n[:, None]) * math.sqrt(2 / STRIDE)
    dct[0] /= math.sqrt(2)
    return dct


def block_transform() -> Tensor:
    """Orthonormal 8 x 8 DCT-II of orthonormal luma and chroma: float32 [channels, 3 * 8 * 8], channels as in `bands`.

    Columns are those of `pixel_unshuffle`: colour, row, column.
    """
    dct = cosines()
    colour = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    colour /= colour.norm(dim=1, keepdim=True)
    rows = [torch.einsum("c,y,x->cyx", colour[c], dct[u], dct[v]).flatten() for band in bands() for c, u, v in band]
    return torch.stack(rows).float()


def overlap() -> Tensor:
    """What eight pixels across a border of blocks are multiplied with before the DCT: float32 [8, 8], orthonormal.

    With it, the DCT becomes a transform whose basis functions are 16 pixels long and fade out (lapped transforms: Tran,
    Liang, Tu 2003, doi:10.1109/TSP.2003.811222): sums of mirrored pixels stay as they are, and differences are turned.
    """
    one = torch.eye(STRIDE // 2, dtype=torch.float64)
    mirrored = one.flip(0)
    folded = torch.cat([torch.cat([one, mirrored], 1), torch.cat([mirrored, -one], 1)]) / math.sqrt(2)
    turned = one
    for i, angle in enumerate(OVERLAP):
        turn = one.clone()
        turn[i : i + 2, i : i + 2] = torch.tensor(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64
        )
        turned = turned @ turn
    return (folded.T @ torch.block_diag(one, turned) @ folded).float()


def lapped() -> Tensor:
    """Basis functions of the lapped transform in one direction: float64 [8 frequencies, 16].

    Rounded, as the last bits of products of matrices may differ from run to run.
    """
    half, border = STRIDE // 2, overlap().double()
    return torch.cat([cosines()[:, :half] @ border[half:], cosines()[:, half:] @ border[:half]], 1).round(decimals=6)


def across_borders(pixels: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the eight pixels across each border of blocks, in both directions: float32 [rows, 3, h, w]."""
    half = STRIDE // 2
    if pixels.shape[2] > STRIDE:
        rows = matrix @ pixels[:, :, half:-half].unflatten(2, (-1, STRIDE))
        pixels = torch.cat([pixels[:, :, :half], rows.flatten(2, 3), pixels[:, :, -half:]], 2)
    if pixels.shape[3] > STRIDE:
        columns = pixels[..., half:-half].unflatten(3, (-1, STRIDE)) @ matrix.T
        pixels = torch.cat([pixels[..., :half], columns.flatten(3), pixels[..., -half:]], 3)
    return pixels


class Matrix(nn.Module):
    """A matrix that is learned as a change of the one it starts from, at a tenth of the learning rate."""

    base: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("base", start.contiguous())
        self.change = nn.Parameter(torch.zeros_like(start))

    def forward(self, x: Tensor) -> Tensor:  # float [rows, inputs, h, w] -> float32 [rows, outputs, h, w]
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.float(), (self.base + 0.1 * self.change)[:, :, None, None])


class Analysis(nn.Module):
    """Means and standard deviations of the latents of a picture."""

    def __init__(self, width: int, blocks: int, unit: float) -> None:
        super().__init__()
        self.unit = unit  # about the step between code points that a network's input is measured in
        self.matrix = Matrix(block_transform())
        self.trunk = nn.Sequential(nn.Conv2d(CHANNELS, width, 1), *(Residual(width) for _ in range(blocks)), nn.SiLU())
        self.head = nn.Conv2d(width, 2 * CHANNELS, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # Optional in the stubs; present here

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """float [rows, 3, h, w] in [0, 1], sides multiples of 8 -> mean, and log of sigma / unit, float32 each."""
        y = self.matrix(F.pixel_unshuffle(pixels - 0.5, STRIDE))
        shift, log_scale = self.head(self.trunk(torch.asinh(y / self.unit))).float().chunk(2, 1)
        return y + self.unit * shift, log_scale.clamp(-4, 3)


class Restoration(nn.Module):
    """What to add to coefficients, in steps, so that they come closer to what they were before quantisation.

    matrix: a module to keep beside these layers and before them, as checkpoints know parameters by their order.
    """

    def __init__(self, width: int, blocks: int, matrix: nn.Module | None = None) -> None:
        super().__init__()
        if matrix is not None:
            self.matrix = matrix
        self.first = nn.Conv2d(CHANNELS, width, 1)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(blocks))
        self.rate = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 2 * width * blocks))
        self.head = nn.Conv2d(width, CHANNELS, 1)
        for part in (self.rate[-1], self.head):
            nn.init.zeros_(part.weight)  # type: ignore[arg-type]
            nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, k: Tensor, step: Tensor) -> Tensor:
        """float [rows, channels, h, w] in steps, step float [rows] -> float32 of the same shape."""
        h = self.first(torch.asinh(k))
        film = self.rate((step.log2() + 5)[:, None]).view(len(k), len(self.blocks), 2, -1, 1, 1)
        for i, block in enumerate(self.blocks):
            h = block(h * (1 + film[:, i, 0]) + film[:, i, 1])
        found: Tensor = self.head(F.silu(h)).float()
        return found


class Synthesis(Restoration):
    """Pixels from latents that were quantised with a known step."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__(width, blocks, Matrix(block_transform().T))

    def forward(self, z: Tensor, step: Tensor) -> Tensor:
        """float [rows, channels, h, w], step float [rows] -> pixels, float32 [rows, 3, 8 h, 8 w], not clamped.

        The network sees latents in units of the step and corrects in them, so that one network serves every rate.
        """
        unit = step[:, None, None, None]
        z = z + unit * super().forward(z / unit, step)
        return F.pixel_shuffle(self.matrix(z), STRIDE) + 0.5
