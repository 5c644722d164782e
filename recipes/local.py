"""Local autoregression: each pixel given those before it in a window (Zhang, Townsend, Kang, Barber 2022,
arXiv:2201.05213)."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.chunks.model import RowModel
from toolkit.coding.codecs import Codec
from toolkit.coding.message import Message
from toolkit.nets.exact import Conversion, converted
from toolkit.nets.exact_observation import LOCATION, PIXELS, ExactMixture
from toolkit.nets.observation import Mixture, complete, normalise
from toolkit.nets.residual import Residual

FLAT = 2  # reach of the window in which a pixel has to equal all before it to be one that teaches little
PART = 1024  # pixels, of which a multiple is trained on
BLOCK = 64  # rows that are looked at together where no gradient is wanted


class Step(NamedTuple):
    """Pixels that are coded at once: int64 [n], and [n, neighbours] on a canvas that is wider by the window's reach."""

    place: Tensor
    middle: Tensor  # themselves, on the canvas: [n]
    near: Tensor


def window(reach: int) -> list[tuple[int, int]]:
    """Where the pixels before one lie, in rows down and pixels to the right: those above, and to the left."""
    return [(i, j) for i in range(-reach, 1) for j in range(-reach, reach + 1) if (i, j) < (0, 0)]


@functools.lru_cache(16)
def steps(height: int, width: int, reach: int, device: torch.device) -> list[Step]:
    """Wavefronts in the order of coding, width + (reach + 1) (height - 1): pixels of one do not see each other."""
    i, j = torch.arange(height * width) // width, torch.arange(height * width) % width
    when, found = j + (reach + 1) * i, everywhere(height, width, reach)
    parts = [(when == step).nonzero()[:, 0] for step in range(int(when.max()) + 1)]
    return [Step(*(t[part].to(device) for t in found)) for part in parts if len(part)]


def everywhere(height: int, width: int, reach: int) -> Step:
    """All pixels."""
    place = torch.arange(height * width)
    across = width + 2 * reach
    middle = (place // width + reach) * across + place % width + reach
    return Step(place, middle, middle[:, None] + torch.tensor([i * across + j for i, j in window(reach)]))


def canvas(x: Tensor, reach: int, outside: float = 0.0) -> Tensor:
    """[rows, c, h, w] with `reach` pixels more above, left and right, row after row: [rows, c, ...]."""
    return F.pad(x, (reach, reach, reach, 0), value=outside).flatten(2)


def is_flat(x: Tensor) -> Tensor:
    """Pixels equal to all before them nearby: uint8 [rows, c, h, w] -> bool [rows, h * w]."""
    around, here = canvas(x.short(), FLAT, -1), x.short().flatten(2)
    all_of = everywhere(x.shape[2], x.shape[3], FLAT)
    same = torch.ones_like(here, dtype=torch.bool)
    for near in all_of.near.T:
        there = around.index_select(2, near.to(x.device))
        same &= (there == here) | (there < 0)
    return same.all(1)


class Net(nn.Module):
    """A mixture of logistics for each pixel, from the pixels before it in a window and, if `placed`, from where it is.

    All layers work on each pixel by itself, so that a decoder computes each once, and a training any pixels of a row.
    If `guessed`, locations are relative to a linear prediction, which starts as the mean of left and above.
    """

    places: Tensor | None
    guess: nn.Module | None

    def __init__(
        self, shape: Sequence[int], reach: int, width: int, blocks: int, components: int, placed: bool, guessed: bool
    ) -> None:
        super().__init__()
        if reach < FLAT or blocks < 1:
            raise ValueError(f"expected reach from {FLAT} and blocks from 1 on, got {reach} and {blocks}; give more")
        self.shape, self.reach = tuple(shape), reach
        inputs = shape[0] * len(window(reach))
        self.own = nn.Conv2d(inputs, width, 1)
        self.guess = nn.Conv2d(inputs, shape[0], 1) if guessed else None
        self.places = nn.Parameter(0.02 * torch.randn(shape[1] * shape[2], width)) if placed else None
        self.refine: nn.Module = nn.Sequential(*(Residual(width, 1) for _ in range(blocks)), nn.SiLU())
        self.mixture = Mixture(width, shape[0], components, side=1)
        # Components start all over the axis, or around the prediction.
        spread = 0.2 if guessed else 1.0
        with torch.no_grad():
            self.mixture.head.bias[components : (1 + shape[0]) * components] = torch.linspace(  # type: ignore[index]
                -spread, spread, components
            ).repeat(shape[0])
        if self.guess is not None:
            self.guess.weight.data.zero_()
            nn.init.zeros_(self.guess.bias)  # type: ignore[arg-type]  # Optional in the stubs; present here
            near = window(reach)
            for c in range(shape[0]):
                for neighbour in ((0, -1), (-1, 0)):
                    self.guess.weight.data[c, c * len(near) + near.index(neighbour)] = 0.5

    @torch.no_grad()
    def grown(self, small: Net) -> dict[str, Tensor]:
        """Weights with which this net says what a smaller one says (Chen, Goodfellow, Shlens 2016, arXiv:1511.05641).

        What is new starts as in any training, with weight zero towards what the smaller net has. A net that does not
        fit into this one, or differs in more than reach, width and blocks: its own weights, which will not load.
        """
        found, theirs = {name: value.clone() for name, value in self.state_dict().items()}, small.state_dict()
        near, seen = window(self.reach), window(small.reach)
        mine, other = ((net.shape, net.mixture.sizes, net.guess is None, net.places is None) for net in (self, small))
        fits = all(name in found and len(old) <= len(found[name]) for name, old in theirs.items())
        if mine != other or not fits or small.reach > self.reach:
            return theirs
        inputs = torch.tensor([c * len(near) + near.index(place) for c in range(self.shape[0]) for place in seen])
        for name, old in theirs.items():
            new = found[name]
            if old.dim() == 1:
                new[: len(old)] = old
                continue
            rows = slice(len(old))
            new[rows] = 0.0
            new[rows, inputs if name in ("own.weight", "guess.weight") else slice(old.shape[1])] = old
        return found

    def features(self, before: Tensor, place: Tensor) -> Tensor:
        """Of pixels, from neighbours float [rows, c * neighbours, n, 1], normalised, and places int64 [n]:
        [rows, width, n, 1]."""
        found = self.own(before)
        if self.places is not None:
            found = found + F.embedding(place, self.places).transpose(-1, -2)[..., None]
        return cast(Tensor, self.refine(found))

    def forward(self, x: Tensor, share: float = 1.0) -> Tensor:
        """uint8 [rows, c, h, w] -> bits, float32 [rows].

        share: of the pixels that equal all before them nearby, the part that is drawn and coded; its bits are divided
        by it, so that their mean is that of all pixels.
        """
        if len(x) > BLOCK and not torch.is_grad_enabled():  # what all pixels' features take is bounded
            return torch.cat([self(part, share) for part in x.split(BLOCK)])
        rows, _, h, w = x.shape
        near = everywhere(h, w, self.reach).near.to(x.device)
        pixels = normalise(x)
        around = canvas(pixels, self.reach).transpose(0, 1)  # [c, rows, ...]
        here = pixels.flatten(2).transpose(1, 2)
        if share == 1:
            before = around[:, :, near].movedim(0, 2).reshape(rows * h * w, -1)
            place = torch.arange(h * w, device=x.device).repeat(rows)
            return self.bits(before, here.flatten(0, 1), place).view(rows, -1).sum(1)
        flat = is_flat(x)
        chosen = (~flat | (torch.rand(flat.shape, device=x.device) < share)).flatten().nonzero()[:, 0]
        weight = torch.where(flat.flatten()[chosen], 1 / share, 1.0)
        # Whole parts: libraries keep memory and code for each size that they meet.
        missing = -len(chosen) % PART
        chosen, weight = F.pad(chosen, (0, missing)), F.pad(weight, (0, missing))
        row, place = chosen // (h * w), chosen % (h * w)
        seen = around.flatten(1)[:, (row * around.shape[2])[:, None] + near[place]]
        bits = self.bits(seen.transpose(0, 1).flatten(1), here[row, place], place)
        return torch.zeros(rows, device=x.device).index_add(0, row, bits * weight)

    def bits(self, before: Tensor, here: Tensor, place: Tensor) -> Tensor:
        """Of pixels, float [n, c], given their neighbours [n, c * neighbours] and places int64 [n]: float32 [n]."""
        if torch.is_grad_enabled():
            raw, base = self.products(before, place)
        else:
            seen = before.t()[None, ..., None]
            found = self.features(seen, place)
            with torch.autocast(before.device.type, enabled=False):  # bf16 knows locations to half a level
                raw = self.mixture.by_pixel(found.float())
                base = None if self.guess is None else self.guess(seen)[0, ..., 0].t()
        with torch.autocast(before.device.type, enabled=False):
            expected = None if base is None else base.t()[None, ..., None]
            return self.mixture.bits_of(here.t()[None, ..., None], self.mixture.parts(raw, 1, 1), expected)[0, :, 0]

    def products(self, before: Tensor, place: Tensor) -> tuple[Tensor, Tensor | None]:
        """Outputs of the mixture's layer, float [n, parameters], and the linear prediction, [n, c], of pixels.

        The same numbers as by convolutions, as products of matrices: they train in half the time.
        """

        def product(layer: nn.Module, x: Tensor) -> Tensor:
            assert isinstance(layer, nn.Conv2d)
            return F.linear(x, layer.weight.flatten(1), layer.bias)

        found = product(self.own, before)
        if self.places is not None:
            found = found + F.embedding(place, self.places)
        for block in cast(nn.Sequential, self.refine)[:-1]:
            assert isinstance(block, Residual)
            found = found + product(block.last, F.silu(product(block.first, F.silu(found))))
        with torch.autocast(before.device.type, enabled=False):
            base = None if self.guess is None else product(self.guess, before)
            return product(self.mixture.head, F.silu(found.float())), base

    def codec(self, valid: Tensor) -> Codec:
        """Codec of int64 levels; valid: bool [rows, c, h, w]."""
        rows, c, h, w = valid.shape
        waves = steps(h, w, self.reach, valid.device)
        dtype = self.own.weight.dtype

        def at(x: Tensor, place: Tensor) -> Tensor:  # [rows, c, h, w] -> [rows, c, n, 1]
            return x.flatten(2).index_select(2, place)[..., None]

        def law(around: Tensor, step: Step) -> Codec:
            before = around.index_select(2, step.near.flatten()).view(rows, c, *step.near.shape)
            before = before.transpose(2, 3).reshape(rows, -1, len(step.place), 1)
            base = None if self.guess is None else self.guess(before)
            return self.mixture.codec(self.features(before, step.place), at(valid, step.place), base)

        def push(message: Message, x: Tensor) -> None:
            around = canvas(normalise(x), self.reach).to(dtype)
            for step in reversed(waves):
                law(around, step).push(message, at(x, step.place))

        def pop(message: Message) -> Tensor:
            around = canvas(torch.zeros(valid.shape, dtype=dtype, device=valid.device), self.reach)
            x = torch.empty(rows, c, h * w, dtype=torch.int64, device=valid.device)
            for step in waves:
                found = complete(law(around, step).pop(message), at(valid, step.place))[..., 0]
                x.index_copy_(2, step.place, found)
                around.index_copy_(2, step.middle, normalise(found).to(dtype))
            return x.view(rows, c, h, w)

        return Codec(push, pop)

    def exact(self, conversion: Conversion) -> Net:
        """This net in exact arithmetic, whose `codec` is integers throughout."""
        found = copy.deepcopy(self)
        own, form = conversion.layer(self.own, PIXELS)
        found.own = own  # type: ignore[assignment]  # not a Conv2d
        if self.guess is not None:
            found.guess, _ = conversion.layer(self.guess, PIXELS, LOCATION, LOCATION)
        if self.places is not None:
            places = (self.places.detach().double().cpu() * 2**conversion.stream).round()
            del found.places  # a parameter
            found.register_buffer("places", places.float())
            form = form.plus(form._replace(most=int(places.abs().max()) + 1))
        found.refine, form = conversion.stack(self.refine, form)
        found.mixture = ExactMixture(self.mixture, form, conversion)
        return found


class Local(RowModel):
    """The model: minimises the bits of each pixel given those before it.

    shape: (channels, height, width) of the rows; reach: of the window, in pixels up, left and right; width, blocks: of
    the network, residual blocks; components: of the mixture; placed: whether it learns a bias for each place of a row,
    for rows that show the same kind of thing at the same place; guessed: whether locations are relative to a linear
    prediction, for photographs; flat_share: of the pixels that equal all nearby before them, so many are trained on;
    learning_rate: at its peak; warmup: steps. Raises ValueError for a share outside of (0, 1], a reach below 2 or no
    blocks.
    """

    part_names = ("x",)

    def __init__(
        self, shape: Sequence[int], reach: int, width: int, blocks: int, components: int, placed: bool,
        flat_share: float, learning_rate: float, warmup: int, weight_decay: float, guessed: bool = False,
    ) -> None:  # fmt: skip  # guessed: runs of before do not name it
        super().__init__()
        if not 0 < flat_share <= 1:
            raise ValueError(f"expected flat_share above 0 and at most 1, got {flat_share}; give 1 to train on all")
        self.shape = tuple(shape)
        net = Net(shape, reach, width, blocks, components, placed, guessed)
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions' fastest
        self.flat_share, self.learning_rate, self.weight_decay = flat_share, learning_rate, weight_decay

    def exact(self, rows: Tensor | None = None) -> Local:
        """This model with its network in exact arithmetic, for coding only; rows: see `recipes.bitswap`."""
        return cast(Local, converted(self, rows))

    def start_from(self, other: Local) -> dict[str, Tensor]:
        """Weights of another run for `init=`; those of a network of less reach, width or blocks grow."""
        return {f"net.{name}": value for name, value in self.net.grown(other.net).items()}

    def parts(self, x: Tensor, latents: Sequence[Tensor] | None = None) -> Tensor:
        """Bits of x, float32 [rows, 1]; there are no latents."""
        return cast(Tensor, self.net(x))[:, None]

    def training_step(self, x: Tensor, index: int) -> Tensor:
        rate = self.net(x, self.flat_share).mean() / self.dims
        self.log("train/elbo_bpd", rate.detach())
        self.log("bpd", rate.detach(), prog_bar=True, logger=False)
        return cast(Tensor, rate)

    @torch.inference_mode()
    def sample(self, rows: int, seed: int = 0) -> Tensor:
        """Images of the model, uint8 [rows, c, h, w], decoded from random bits."""
        valid = torch.ones(rows, *self.shape, dtype=torch.bool, device=self.device)
        noise = Message.random(1024, 4 * valid.numel() // 1024 + 64, seed, valid.device)
        return self.net.codec(valid).pop(noise).to(torch.uint8)


def head(module: Local, valid: Tensor, trace: Any = None) -> Codec:
    """Codec of a block of rows: int64 [rows, c, h, w] levels, of which `valid` (bool, the same shape) are coded.

    trace: for latents, of which there are none.
    """
    codec = module.net.codec(valid)
    return Codec(lambda message, x: codec.push(message, complete(x, valid)), codec.pop)
