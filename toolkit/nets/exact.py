"""Networks in exact arithmetic: the same numbers on any device, with any library, compiler, batch size and threads.

Every layer multiplies small integers by integers times a power of two of its output channel's own, in ordinary floating
point, where products and sums of integers are exact while they stay below 2**24, whatever their order. Between layers
tensors hold integers too, in units of 2**-STREAM; nonlinearities are tables. Nothing rounds but where it is asked to.
(Integer networks for coding: Balle, Johnston, Minnen 2019, ICLR; that floats can carry them is our own way.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.coding.exactness import exact_products
from toolkit.coding.rounding import compensated
from toolkit.nets.residual import Residual

STREAM = 10  # bits after the point of what layers pass on
COARSE = 8  # instead, in networks whose sums would be too large
TABLE = 8  # bits after the point of what a table at the end of a network is given
SILU_LEAST = 0.2785  # no SiLU is below its negative
LIMIT = 1 << 24  # sums of integers are exact below, in float32
COLUMNS = 1 << 28  # numbers that `by_columns` holds at a time, and so a GiB of float32
SEEN = 2048  # columns of inputs that `watch` looks at, of each call
PERMUTATIONS = (nn.PixelShuffle, nn.PixelUnshuffle, nn.Flatten, nn.Unflatten, nn.Identity)


class LargeSumsError(ValueError):
    """Sums of a network can be larger than floats hold exactly."""


class Form(NamedTuple):
    """What a tensor holds between two layers."""

    unit: float  # what a 1 in it means
    step: float | None = None  # its values are integers of at most `most` times this; None: as calibration finds
    most: int = 0
    silu: bool = False  # a SiLU is still to be applied: the next layer's table does

    def plus(self, other: Form) -> Form:
        """The form of a sum."""
        return _checked(self._replace(most=self.most + other.most))


def real(step: float | None, most: int) -> Form:
    """The form of what a network is given: real numbers, near to integers of at most `most` times `step`."""
    return Form(1.0, step, most)


class ExactLayer(nn.Module):
    """A convolution or a linear layer, with what makes its input small integers: a table, or scaling and rounding.

    Its output is rounded to integers: of 2**-STREAM, or of whatever `Conversion.layer` was told.
    """

    weight: Tensor  # float32, integers times a power of two for each output
    bias: Tensor
    table: Tensor  # float32 [n], integers at low, low + 1, ...; empty if inputs are only scaled and rounded
    span: Tensor  # float64 [3]: factor, low, high

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor, table: Tensor, span: list[float]
    ) -> None:
        super().__init__()
        self.padding = cast(tuple[int, ...], layer.padding) if isinstance(layer, nn.Conv2d) else ()
        self.register_buffer("weight", weight.view_as(layer.weight).float())
        self.register_buffer("bias", bias.float())
        self.register_buffer("table", table.float())
        self.register_buffer("span", torch.tensor(span, dtype=torch.float64))
        self._read()

    def forward(self, x: Tensor) -> Tensor:  # float [rows, inputs, ...] -> float [rows, outputs, ...]
        return self.multiply(self.inputs(x.to(self.weight.dtype))).round_()

    def inputs(self, x: Tensor) -> Tensor:
        """The integers that are multiplied."""
        if len(self.table):
            return lookup(self.table, x, self.low, self.high)
        return (x * self.factor).round_().clamp_(self.low, self.high)

    def span_of_inputs(self) -> tuple[float, float]:
        """Least and largest integer that is multiplied."""
        if len(self.table):
            return float(self.table.min()), float(self.table.max())
        return self.low, self.high

    def multiply(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 4:
            return convolve(x, self.weight, self.bias, self.padding)
        return F.linear(x, self.weight, self.bias)

    def _read(self) -> None:
        self.factor, self.low, self.high = self.span.tolist()

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        _take(self, state, prefix)
        super()._load_from_state_dict(state, prefix, *args)
        self._read()


class Table(nn.Module):
    """A function of integers, clamped to those that it is defined for, as integers."""

    values: Tensor  # float32 [n], at low, low + 1, ...
    first: Tensor  # float64 [1]: low

    def __init__(self, values: Tensor, low: int) -> None:
        super().__init__()
        self.register_buffer("values", values.float())
        self.register_buffer("first", torch.tensor([low], dtype=torch.float64))
        self._read()

    def forward(self, x: Tensor) -> Tensor:  # float [...] -> float [...]
        return lookup(self.values, x, self.low, self.high)

    def _read(self) -> None:
        self.low = float(self.first)
        self.high = self.low + len(self.values) - 1

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        _take(self, state, prefix)
        super()._load_from_state_dict(state, prefix, *args)
        self._read()


class ExactResidual(nn.Module):
    """A residual block of exact layers, whose tables are its nonlinearities."""

    def __init__(self, first: ExactLayer, last: ExactLayer) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.first(x))).add_(x)


class Conversion:
    """Makes exact modules of trained ones.

    seen: what each layer was given on training rows, by `watch`; layers that are not in it get some range, for a module
    whose tensors are loaded afterwards. stream: bits after the point of what layers pass on.
    """

    def __init__(self, seen: dict[nn.Module, Seen] | None = None, stream: int = STREAM) -> None:
        self.seen, self.stream = seen or {}, stream

    def stack(
        self, modules: nn.Module, form: Form, gain: Tensor | float | None = None, shift: Tensor | float = 0.0
    ) -> tuple[nn.Sequential, Form]:
        """A sequence of layers; gain, shift: of the last one. A SiLU at the end is left to the next layer."""
        parts = list(_flat(modules))
        layers = [i for i, part in enumerate(parts) if isinstance(part, nn.Conv2d | nn.Linear | Residual)]
        last = layers[-1] if layers else -1
        found: list[nn.Module] = []
        for i, part in enumerate(parts):
            if isinstance(part, nn.SiLU):
                form = form._replace(silu=True)
            elif isinstance(part, Residual):
                first, middle = self.layer(part.first, form._replace(silu=True))
                second, end = self.layer(part.last, middle._replace(silu=True))
                form = form.plus(end)
                found.append(ExactResidual(first, second))
            elif isinstance(part, nn.Conv2d | nn.Linear):
                layer, form = self.layer(part, form, *((gain, shift) if i == last else ()))
                found.append(layer)
            elif isinstance(part, PERMUTATIONS):
                found.append(copy.deepcopy(part))
            else:
                raise TypeError(f"expected layers that have an exact form, got {type(part).__name__}; add it here")
        return nn.Sequential(*found), form

    def layer(
        self, layer: nn.Module, form: Form, gain: Tensor | float | None = None, shift: Tensor | float = 0.0
    ) -> tuple[ExactLayer, Form]:
        """One layer, whose output is round(gain x + shift) for the real output x.

        gain, shift: a number an output; gain None: 2**stream.
        """
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        if isinstance(layer, nn.Conv2d) and (layer.stride, layer.dilation, layer.groups) != ((1, 1), (1, 1), 1):
            raise TypeError(f"expected a convolution of stride, dilation and groups 1, got {layer}")
        weight = layer.weight.detach().double().cpu().flatten(1)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().cpu()
        unit = 2.0**-self.stream
        gain = torch.as_tensor(1 / unit if gain is None else gain, dtype=torch.float64).expand(len(weight))
        weight, bias = weight * gain[:, None], bias * gain + shift
        seen = self.seen.get(layer)
        if form.step is not None and form.most < 1 << 11 and not form.silu:
            step, most = form.step, form.most
        else:
            step, most = _choose_step(weight, bias, seen, form.silu) if seen else (2.0**-6, 1 << 10)
        table, low, high = torch.zeros(0), float(-most), float(most)
        least = low
        if form.silu:
            table, low = _silu_table(form.unit, step, most)
            high, least = low + len(table) - 1, float(table.min())
        moments = seen.moments if seen else torch.eye(weight.shape[1] + 1, dtype=torch.float64)
        weight, bias, bound = _integers(weight * step, bias, (least, float(most)), _in_steps(moments, step))
        found = ExactLayer(layer, weight, bias, table, [form.unit / step, low, high])
        return found, _checked(Form(unit, most=math.ceil(bound) + 1))

    @staticmethod
    def table(function: Callable[[Tensor], Tensor], reach: float) -> Table:
        """A function of real numbers in [-reach, reach], given in units of 2**-TABLE: float64 [n] -> integers [n]."""
        most = round(reach * 2**TABLE)
        return Table(function(torch.arange(-most, most + 1).double() / 2**TABLE), -most)


class Seen(NamedTuple):
    """What a layer is given, column by column: the inputs that one of its outputs sees."""

    largest: float  # magnitude
    moments: Tensor  # float64 [inputs + 1, the same]: mean products of inputs and a one among themselves


def watch(net: nn.Module, run: Callable[[], Any]) -> dict[nn.Module, Seen]:
    """What all layers of a network are given while `run` calls it."""
    found: dict[nn.Module, list[Seen]] = {}

    def note(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0].detach().float()
        columns = _columns(layer, x)
        columns = torch.cat([columns, columns.new_ones(len(columns), 1)], 1).cpu().double()
        moments = columns.T @ columns / len(columns)
        found.setdefault(layer, []).append(Seen(float(x.abs().max()), moments))

    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {
        layer: Seen(max(one.largest for one in every), torch.stack([one.moments for one in every]).mean(0))
        for layer, every in found.items()
    }


def _columns(layer: nn.Module, x: Tensor) -> Tensor:
    """Some of the columns of a layer's inputs: float32 [at most SEEN, inputs]."""
    if isinstance(layer, nn.Conv2d):
        some = x[:: max(len(x) * x[0, 0].numel() // (4 * SEEN), 1)]
        columns = F.unfold(some, cast(tuple[int, int], layer.kernel_size), padding=cast(tuple[int, int], layer.padding))
        columns = columns.transpose(1, 2).reshape(-1, columns.shape[1])
    else:
        columns = x.flatten(0, -2)
    chosen = torch.linspace(0, len(columns) - 1, min(len(columns), SEEN), device=x.device).long()
    return columns[chosen]


def converted(module: Any, rows: Tensor | None) -> Any:
    """A module whose `net` is exact: `net.exact(Conversion)` of it, calibrated with `bits` of rows if there are any."""
    was = module.training
    module.eval()

    def run() -> None:
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(0)
            for part in rows.split(64) if rows is not None else ():
                module.bits(part.to(module.device))

    seen = watch(module.net, run)
    try:
        exact = module.net.exact(Conversion(seen))
    except LargeSumsError:
        exact = module.net.exact(Conversion(seen, COARSE))
    module.train(was)
    # Without the float networks, which would only be copied.
    net, module.net = module.net, None
    try:
        found = copy.deepcopy(module)
    finally:
        module.net = net
    found.net = exact.to(module.device, memory_format=torch.channels_last)
    found.is_exact = True
    return found.eval()


def exactly(head: Callable[..., Any]) -> Callable[..., Any]:
    """A head whose networks run in `exact_products`: (module, ...) -> codec."""

    def guarded(*arguments: Any, **options: Any) -> Any:
        with exact_products():
            codec = head(*arguments, **options)
        return codec._replace(push=_within(codec.push), pop=_within(codec.pop))

    return guarded


def _within(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with exact_products():
            return function(*arguments)

    return call


@torch.inference_mode()
def prove(module: nn.Module) -> None:
    """Compare each exact layer of a module with integer arithmetic, on inputs that reach its bounds.

    Raises ValueError where this machine's float arithmetic is not exact.
    """
    rng = torch.Generator().manual_seed(0)
    for name, layer in module.named_modules():
        if isinstance(layer, ExactLayer):
            low, high = layer.span_of_inputs()
            _, inputs, *sides = layer.weight.shape
            x = torch.randint(-1, 2, (16, inputs, *(4 * side for side in sides)), generator=rng) * high
            # In one window all products of the first output add up.
            window = (slice(0, 1), slice(None), *(slice(side, 2 * side) for side in sides))
            first = layer.weight[0].cpu()
            x[window] = first.sign() * high * (1.0 if float(first.sum()) > 0 else -1.0)
            x.clamp_(low, high)
            weight, bias = (t.cpu().double() for t in (layer.weight, layer.bias))
            with exact_products():
                got = layer.multiply(x.to(layer.weight)).cpu().double()
            if sides:
                columns = F.unfold(x.double(), (sides[0], sides[1]), padding=layer.padding).transpose(1, 2)
                got = got.flatten(2).transpose(1, 2)
            else:
                columns = x.double()
            wrong = float((got - (columns @ weight.flatten(1).T + bias)).abs().max())  # float64 is exact to 2**53
            if wrong:
                raise ValueError(
                    f"expected float products and sums of integers to be exact, got numbers up to {wrong:g} away in "
                    f"{name} on {layer.weight.device}; use device=cpu"
                )


def convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, ...]) -> Tensor:
    """A convolution by sums of products alone, whatever computes it; of stride 1.

    x: float [rows, inputs, h, w]; weight: the same dtype, [outputs, inputs, down, across]; bias: [outputs]; padding:
    zeros above and below, left and right. Returns [rows, outputs, ...].
    """
    if x.device.type == "cpu":
        return F.conv2d(x, weight, bias, padding=padding)
    return by_columns(x, weight, bias, padding)


def by_columns(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, ...]) -> Tensor:
    """As `convolve`, by one product of matrices: libraries of GPUs convolve in ways that are not sums of products.

    The result is channels_last in memory.
    """
    outputs, inputs, down, across = weight.shape
    height, width = x.shape[2] + 2 * padding[0] - down + 1, x.shape[3] + 2 * padding[1] - across + 1
    most = max(COLUMNS // (height * width * inputs * down * across), 1)
    if len(x) > most:
        return torch.cat([by_columns(part, weight, bias, padding) for part in x.split(most)])
    x = x.permute(0, 2, 3, 1)  # no copy, as exact networks hold channels last in memory
    if any(padding):
        x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    columns = x.unfold(1, down, 1).unfold(2, across, 1).movedim(3, -1)  # [rows, height, width, down, across, inputs]
    columns = columns.reshape(-1, down * across * inputs)
    found = F.linear(columns, weight.permute(0, 2, 3, 1).reshape(outputs, -1), bias)
    return found.view(len(x), height, width, outputs).permute(0, 3, 1, 2)


def lookup(table: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """table[x - low] for x clamped to [low, high]: integers in floats, [n] and [...] -> [...]."""
    i = (x.clamp(low, high) - low).int()
    # In the order of memory: index_select of one dimension is several times as fast as any other way to look up.
    if i.dim() == 4 and i.is_contiguous(memory_format=torch.channels_last):
        i = i.permute(0, 2, 3, 1)
        return table.index_select(0, i.flatten()).view(i.shape).permute(0, 3, 1, 2)
    return table.index_select(0, i.flatten()).view(i.shape)


def _choose_step(weight: Tensor, bias: Tensor, seen: Seen, silu: bool) -> tuple[float, int]:
    """Step of the inputs, and their largest number of steps: coarse inputs leave room for fine weights.

    silu: whether inputs are those of a SiLU, none of which is much below zero.
    """
    norm = weight.square().sum(1)
    used = norm > 0
    best, choice = math.inf, (2.0**-6, 1 << 10)
    for exponent in range(-16, 9):
        step = 2.0**exponent
        most = max(math.ceil(seen.largest / step), 1)
        if most > LIMIT >> 6 or not bool(used.any()):
            continue
        # Of inputs that are rounded, and of weights, the more so the less of an input follows from the others.
        unit = _most(weight * step, bias, (-SILU_LEAST / step if silu else -most, most)) / (LIMIT / 1.5)
        own = _factor(_in_steps(seen.moments, step)).diagonal()[:-1].square().reciprocal().sum()
        total = float((step**2 + unit.square() * own / norm)[used].mean())
        if total < best:
            best, choice = total, (step, most)
    return choice


def _in_steps(moments: Tensor, step: float) -> Tensor:
    """Moments of inputs in steps, which are rounded to them."""
    scale = torch.full((len(moments),), 1 / step, dtype=torch.float64)
    scale[-1] = 1.0
    rounding = torch.full_like(scale, 1 / 12)
    rounding[-1] = 0.0
    return moments * scale * scale[:, None] + rounding.diag()


def _factor(moments: Tensor) -> Tensor:
    """What `compensated` makes up for errors with: the upper factor of the inverse of the moments."""
    regular = moments + 1e-9 * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
    upper = torch.linalg.cholesky(regular.flip(0, 1)).flip(0, 1)
    return torch.linalg.solve_triangular(upper, torch.eye(len(moments), dtype=moments.dtype), upper=True)


def _most(weight: Tensor, bias: Tensor, span: tuple[float, float]) -> Tensor:
    """The largest magnitude that any part of each output's sum can have, for inputs of a span around zero."""
    above, below = weight.clamp(min=0).sum(1), (-weight).clamp(min=0).sum(1)
    low, high = span
    return torch.maximum(above * high - below * low, below * high - above * low) + bias.abs()


def _integers(weight: Tensor, bias: Tensor, span: tuple[float, float], moments: Tensor) -> tuple[Tensor, Tensor, float]:
    """Weights and biases on the finest grids that keep all sums exact, and the largest output.

    float64 [outputs, inputs], [outputs] -> the same, integers times a power of two for each output. span: least and
    largest input; moments: of the inputs.
    """
    order = torch.cat([moments.diagonal()[:-1].argsort(descending=True), torch.tensor([len(moments) - 1])])
    both, factor = torch.cat([weight, bias[:, None]], 1)[:, order], _factor(moments[order][:, order])
    grid = torch.exp2(torch.floor(torch.log2(LIMIT / _most(weight, bias, span).clamp(min=2.0**-30))))
    while True:
        found = torch.empty_like(both)
        found[:, order] = compensated(both * grid[:, None], factor)
        whole, rest = found[:, :-1], found[:, -1]
        total = _most(whole, rest, span)
        if bool((total < LIMIT).all()):
            return whole / grid[:, None], rest / grid, float((total / grid).max())
        grid = torch.where(total < LIMIT, grid, grid / 2)


def _silu_table(unit: float, step: float, most: int) -> tuple[Tensor, float]:
    """SiLU in steps, from where it is all but 0 to where it is `most`: integers [n], and where it begins."""
    low, high = math.floor(-20 / unit), math.ceil((most * step + 1) / unit)
    values = (F.silu(torch.arange(low, high + 1).double() * unit) / step).round().clamp(-most, most)
    first = max(int((values != 0).nonzero()[0]) - 1, 0) if bool(values.any()) else len(values) - 1
    last = int((values == values[-1]).nonzero()[0])
    return values[first : last + 1], float(low + first)


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _flat(part)
    else:
        yield module


def _checked(form: Form) -> Form:
    if form.most >= LIMIT:
        raise LargeSumsError(
            f"expected sums below {LIMIT}, got {form.most}: the network's weights are too large for exact arithmetic; "
            "train with more weight decay, or code with exact=false"
        )
    return form


def _take(module: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """Make a module's buffers as large as the stored ones."""
    for name, value in list(module._buffers.items()):
        stored = state.get(prefix + name)
        if value is not None and stored is not None and stored.dtype == value.dtype:
            module._buffers[name] = torch.empty_like(stored, device=value.device)


class ExactParameters(nn.Module):
    """Locations and scales, integers of `frequencies`, from a network in exact arithmetic and a table for each."""

    def __init__(self, net: nn.Module, location: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.net, self.location, self.scale = net, location, scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # -> int32, int32
        loc, raw = self.net(x).chunk(2, 1)
        return self.location(loc).int(), self.scale(raw).int()
