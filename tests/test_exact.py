"""Exact networks: sums that cannot round, the same files whatever runs them, and what that costs."""

import copy
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.bitswap import head
from tests import test_ikvae, tiny
from tests.archives import restore_rows
from tests.mixed import Setting, decode, encode
from toolkit import compress, decompress
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import Settings
from toolkit.chunks.separate import AloneCoder
from toolkit.coding import frequencies
from toolkit.coding.exactness import exact_products
from toolkit.container import DamagedFile, Reader
from toolkit.nets import exact as exact_nets
from toolkit.nets.exact import LIMIT, STREAM, Conversion, ExactLayer, Form, Seen, lookup, prove, real, watch
from toolkit.nets.residual import residual_stack
from toolkit.run import EXACT, WEIGHTS
from toolkit.runs import identity, load, save_exact

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of switching oneDNN off and on
HEAD = functools.partial(head, scheme="bitswap")
SETTINGS = Settings(16, 16, 0)
# Each way to run a model differs from the first in one respect; the last in all that a CPU has at once.
WAYS = [
    Setting(), Setting(threads=2), Setting(rows=1), Setting(rows=7), Setting(channels_last=False),
    Setting(double=True), Setting(onednn=False), Setting(False, 2, 7, False, True, False),
]  # fmt: skip
ORDERS = [torch.contiguous_format, torch.channels_last]
LIKELIHOODS = {
    "logistic": {"likelihood": "logistic"},
    "mixture": {"likelihood": "mixture"},
    "guided": {"likelihood": "guided", "finer": 1, "downscale": [2, 1]},
    "interlaced": {"levels": 2, "refinements": 1},
}


@functools.cache
def models(channels: int = 1, name: str = "interlaced") -> tuple[Any, Any]:
    """An untrained model and its exact form."""
    module = tiny.bitswap((channels, 8, 8), **LIKELIHOODS[name])
    return module, module.exact(tiny.images(64, (channels, 8, 8), seed=5))


@functools.cache
def alone(likelihood: str, network: str) -> tuple[Any, Any]:
    """The same of a model whose rows are coded alone."""
    module = test_ikvae.model(likelihood=likelihood, network=network)
    return module, module.exact(tiny.images(64, seed=5))


def small_net(width: int = 24) -> nn.Sequential:
    torch.manual_seed(0)
    net = residual_stack(3, width, 2, 5)
    for parameter in net.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.05)
    return net


def exact_net(net: nn.Module, x: Tensor, **options: Any) -> nn.Module:
    found, _ = Conversion(watch(net, lambda: net(x))).stack(net, real(None, 0), **options)
    return found


# Layers


def integers_of(layer: ExactLayer) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Weights and biases as integers in the unit of their output's sums, and the least and the largest input."""
    weight, bias = layer.weight.double().flatten(1), layer.bias.double()
    both = torch.cat([weight, bias[:, None]], 1)
    unit = torch.full((len(both), 1), 2.0**-60, dtype=torch.float64)
    for _ in range(90):  # the largest power of two that divides them all
        unit = torch.where((both / (2 * unit) == (both / (2 * unit)).round()).all(1, keepdim=True), 2 * unit, unit)
    span = (float(layer.table.min()), float(layer.table.max())) if len(layer.table) else (layer.low, layer.high)
    return weight / unit, bias / unit[:, 0], span


@pytest.mark.parametrize("name", list(LIKELIHOODS))
@pytest.mark.parametrize("channels", [1, 3])
def test_no_sum_of_any_layer_can_reach_the_limit(channels: int, name: str) -> None:
    layers = [part for part in models(channels, name)[1].modules() if isinstance(part, ExactLayer)]
    assert len(layers) > 10
    for layer in layers:
        weight, bias, (low, high) = integers_of(layer)
        assert low <= 0 <= high  # any part of a sum may be all there is of it so far
        ends = torch.stack([weight * low, weight * high])
        total = torch.maximum(ends.amax(0).sum(1), -ends.amin(0).sum(1)) + bias.abs()
        assert bool((total < LIMIT).all())
        # Linear maps that layers start as have weights of few bits; whatever else is there fills the sums.
        assert float(total.max()) > LIMIT / 8 or len(weight.unique()) < 4, "bits are left unused"


def test_an_exact_network_computes_what_the_trained_one_does() -> None:
    net, x = small_net(), torch.randn(64, 3, 8, 8)
    want, got = net(x).detach(), exact_net(net, x, gain=2.0**14)(x) / 2**14
    error = float(((got - want).square().mean() / want.var()).sqrt())
    assert 0 < error < 0.01  # measured: 0.005


@pytest.mark.parametrize("gain", [1000.0, 0.1])
def test_the_last_layers_outputs_are_scaled_and_shifted_before_they_are_rounded(gain: float) -> None:
    net, x = small_net(), torch.randn(64, 3, 8, 8)
    gains, shifts = gain * torch.arange(1, 6).double(), torch.arange(5).double() + 7
    got = exact_net(net, x, gain=gains, shift=shifts)(x)
    assert torch.equal(got, got.round())
    want = net(x).detach() * gains.float()[:, None, None] + shifts.float()[:, None, None]
    assert float((got - want).abs().mean()) < 0.01 * float(want.std()) + 0.5


def test_float32_gives_what_float64_does_bit_by_bit() -> None:
    net, x = small_net(), 3 * torch.randn(64, 3, 8, 8)
    exact = exact_net(net, torch.randn(64, 3, 8, 8))
    with exact_products():
        assert torch.equal(exact(x).double(), copy.deepcopy(exact).double()(x))


def test_float32_of_the_trained_network_does_not() -> None:
    """What the test above would see if the networks were not exact."""
    net, x = small_net(), torch.randn(64, 3, 8, 8)
    assert not torch.equal(net(x).double(), copy.deepcopy(net).double()(x.double()))


def test_dense_layers_have_an_exact_form_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 50), nn.SiLU(), nn.Linear(50, 48), nn.Unflatten(1, (3, 4, 4)), nn.SiLU())
    net.append(nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(100, 10)
    exact, want = exact_net(net, x), net(x).detach()
    assert float((exact(x) / 2**STREAM - want).abs().max()) < 0.02
    assert torch.equal(exact(x).double(), exact.double()(x))


def test_inputs_beyond_those_of_calibration_are_clamped() -> None:
    net = small_net()
    exact = exact_net(net, torch.randn(64, 3, 8, 8))
    for x in (1e6 * torch.randn(4, 3, 8, 8), torch.full((1, 3, 8, 8), 3.0e38)):
        found = exact(x)
        assert bool(found.isfinite().all())
        assert torch.equal(found.double(), copy.deepcopy(exact).double()(x))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("inputs", "outputs", "sides", "padding"),
    [
        (1, 4, (1, 1), (0, 0)), (7, 5, (1, 1), (2, 1)), (3, 8, (3, 3), (1, 1)), (24, 24, (3, 3), (0, 0)),
        (6, 3, (5, 5), (2, 2)), (2, 1, (3, 5), (0, 2)), (64, 64, (3, 3), (1, 1)),
    ],
)  # fmt: skip
def test_what_convolves_on_a_gpu_gives_the_same_integers(
    inputs: int, outputs: int, sides: tuple[int, int], padding: tuple[int, int], order: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rng = torch.Generator().manual_seed(inputs)
    products = inputs * sides[0] * sides[1]
    most = math.isqrt((LIMIT - 1) // products)  # sums fill what float32 holds
    weight = torch.randint(-most, most + 1, (outputs, inputs, *sides), generator=rng).float()
    weight, bias = weight.contiguous(memory_format=order), torch.randint(-9, 10, (outputs,), generator=rng).float()
    x = torch.randint(-most + 1, most, (5, inputs, 9, 8), generator=rng).float().contiguous(memory_format=order)
    with exact_products():
        want = exact_nets.convolve(x, weight, bias, padding)
        for dtype in (torch.float32, torch.float64):
            got = exact_nets.by_columns(x.to(dtype), weight.to(dtype), bias.to(dtype), padding)
            assert got.dtype == dtype
            assert got.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(got.float(), want)
        monkeypatch.setattr(exact_nets, "COLUMNS", 2 * want[0, 0].numel() * products)  # two rows at a time
        assert torch.equal(exact_nets.by_columns(x, weight, bias, padding), want)
        assert exact_nets.by_columns(x[:0], weight, bias, padding).shape == (0, *want.shape[1:])


@pytest.mark.parametrize("order", ORDERS)
def test_a_table_is_looked_up_in_the_order_of_memory(order: torch.memory_format) -> None:
    table, x = (
        torch.arange(100.0).square(),
        torch.randint(-80, 80, (3, 4, 5, 6)).float().contiguous(memory_format=order),
    )
    assert torch.equal(lookup(table, x, -50, 49), (x.clamp(-50, 49) + 50).square())
    assert torch.equal(lookup(table, x[:, 1:3], -50, 49), (x[:, 1:3].clamp(-50, 49) + 50).square())


def test_the_table_of_silu_is_silu_on_both_grids() -> None:
    silu, layer = nn.SiLU(), nn.Conv2d(1, 1, 1)
    found, _ = Conversion({layer: Seen(4.0, torch.eye(2).double())}).layer(layer, Form(2.0**-STREAM, silu=True))
    x = torch.arange(-30 * 2**STREAM, 4 * 2**STREAM).float()[None, None, None]
    step = 2.0**-STREAM / found.factor
    assert float((found.inputs(x) * step - silu(x / 2**STREAM)).abs().max()) <= step / 2
    assert found.inputs(torch.zeros(1, 1, 1, 1)).item() == 0  # or padding with zeros would be something else


def test_arithmetic_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = models()[1]
    prove(exact)

    def shortened(x: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Tensor:  # as bfloat16 and TF32 do
        return CONV(x.bfloat16().float(), weight, *rest, **options)

    monkeypatch.setattr(F, "conv2d", shortened)
    with pytest.raises(ValueError, match="expected float products and sums of integers to be exact, got numbers up to"):
        prove(exact)


CONV = F.conv2d


def test_weights_with_more_bits_are_found_by_the_proof() -> None:
    exact = copy.deepcopy(models()[1])
    layer = next(part for part in exact.modules() if isinstance(part, ExactLayer))
    layer.weight.mul_(1 + 2.0**-20)
    with pytest.raises(ValueError, match=r"got numbers up to .* away in net\.infer\.0"):
        prove(exact)


def test_a_layer_without_an_exact_form_is_refused() -> None:
    for wrong in (nn.Sequential(nn.Conv2d(1, 1, 3), nn.GELU()), nn.Sequential(nn.Conv2d(1, 1, 3, stride=2))):
        with pytest.raises(TypeError, match=r"expected (layers that have an exact form|a convolution of stride)"):
            Conversion().stack(wrong, real(1.0, 10))


def test_weights_too_large_for_sums_between_layers_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.SiLU(), nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        net[0].weight.fill_(1e9)  # type: ignore[operator,union-attr]
    with pytest.raises(ValueError, match="weights are too large for exact arithmetic; train with more weight decay"):
        Conversion().stack(net, real(1.0, 10))


# Whole models


@pytest.mark.parametrize("name", list(LIKELIHOODS))
@pytest.mark.parametrize("channels", [1, 3])
def test_the_exact_model_costs_what_the_trained_one_does(channels: int, name: str) -> None:
    rows = tiny.images(32, (channels, 8, 8))
    valid = torch.ones(rows.shape, dtype=torch.bool)
    net = [Coder(module, HEAD, SETTINGS).encode(rows, valid)[1].net for module in models(channels, name)]
    assert net[1] < 1.01 * net[0]
    assert net[0] != net[1]


@pytest.mark.parametrize("name", list(LIKELIHOODS))
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_is_the_same_and_decodes_whatever_runs_the_networks(channels: int, name: str) -> None:
    """As all ways write the same bytes, that each decodes them means that each decodes the others' files."""
    exact, rows = models(channels, name)[1], tiny.images(12, (channels, 8, 8))
    payload = encode(WAYS[0], exact, HEAD, SETTINGS, rows)
    ways = WAYS if (channels, name) == (1, "interlaced") else WAYS[-1:]
    for way in ways:
        assert encode(way, exact, HEAD, SETTINGS, rows) == payload, way
        assert torch.equal(decode(way, exact, HEAD, SETTINGS, payload, rows), rows), way


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_a_model_codes_the_same_with_what_convolves_on_a_gpu(
    name: str, order: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded outputs keep the layout that it leaves them in, unlike where `tests.mixed` runs the layers."""
    exact, rows = copy.deepcopy(models(3, name)[1]).to(memory_format=order), tiny.images(20, (3, 8, 8))
    coder, valid = Coder(exact, exact_nets.exactly(HEAD), SETTINGS), torch.ones(rows.shape, dtype=torch.bool)
    payload = coder.encode(rows, valid)[0]
    monkeypatch.setattr(exact_nets, "convolve", exact_nets.by_columns)
    prove(exact)
    assert coder.encode(rows, valid)[0] == payload
    assert torch.equal(coder.decode(payload, valid), rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_convolution_on_a_gpu_is_a_few_launches() -> None:
    layer = next(part for part in models(3)[1].modules() if isinstance(part, ExactLayer) and part.weight.dim() == 4)
    layer = copy.deepcopy(layer).cuda()
    x = torch.zeros(128, layer.weight.shape[1], 8, 8, device="cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile, exact_products():
        layer.multiply(x)
        torch.cuda.synchronize()
    kernels = [event for event in profile.events() if event.device_type == torch.profiler.DeviceType.CUDA]
    assert 0 < len(kernels) < 10


ALONE = [("mixture", "conv"), ("mixture", "dense"), ("logistic", "conv"), ("beta_binomial", "conv")]


@pytest.mark.parametrize(("likelihood", "network"), ALONE)
def test_rows_coded_alone_decode_whatever_runs_the_decoder(likelihood: str, network: str) -> None:
    """The encoder's network stays in floats: ways need not write the same bytes, but each must decode all."""
    (module, exact), rows = alone(likelihood, network), tiny.images(20)
    code = functools.partial(test_ikvae.head, sampler="ad_star", code="learned")
    valid = torch.ones(rows.shape, dtype=torch.bool)
    net = [AloneCoder(model, code, SETTINGS).encode(rows, valid)[1].net for model in (module, exact)]
    assert net[0] != net[1] < 1.01 * net[0]
    for writer, *readers in ((WAYS[0], *WAYS), (WAYS[-1], WAYS[0])):
        payload = encode(writer, exact, code, SETTINGS, rows)
        for reader in readers:
            assert torch.equal(decode(reader, exact, code, SETTINGS, payload, rows), rows), (writer, reader)


def test_the_limit_of_a_limited_tree_is_stored_not_computed() -> None:
    module = test_ikvae.model(posterior="isokl", kappa=2.5)
    exact = module.exact(tiny.images(16))
    assert exact.net.depth_limit() == module.net.depth_limit() == 4
    with torch.no_grad():
        exact.net.raw_kappa.add_(10)
    assert exact.net.depth_limit() == 4


def test_a_compiled_network_computes_the_same() -> None:
    net, x = small_net(8), torch.randn(16, 3, 8, 8)
    exact = exact_net(net, x)
    want = exact(x)
    exact.compile(dynamic=False)
    assert torch.equal(exact(x), want)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", list(LIKELIHOODS))
@pytest.mark.parametrize("double", [False, True])
def test_a_gpu_decodes_a_cpus_file_and_the_other_way_round(name: str, double: bool) -> None:
    exact, rows = models(3, name)[1], tiny.images(40, (3, 8, 8))
    cpu, gpu = Setting(), Setting(double=double, device="cuda")
    payload = encode(gpu, exact, HEAD, SETTINGS, rows)
    assert payload == encode(cpu, exact, HEAD, SETTINGS, rows)
    assert torch.equal(decode(gpu, exact, HEAD, SETTINGS, payload, rows), rows)
    assert torch.equal(decode(cpu, exact, HEAD, SETTINGS, payload, rows), rows)


def disturbed(module: Any, kinds: tuple[type[nn.Module], ...], size: float, outputs: bool) -> Any:
    """A copy whose layers' inputs or outputs are off by some 1e-6 of themselves, as another library's are."""
    module = copy.deepcopy(module)
    rng = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        return x * (1 + size * torch.randn(x.shape, generator=rng))

    for part in module.modules():
        if isinstance(part, kinds) and outputs:
            part.register_forward_hook(lambda layer, given, found: noisy(found))
        elif isinstance(part, kinds) and not len(part.table):  # type: ignore[arg-type]
            part.register_forward_pre_hook(lambda layer, given: (noisy(given[0]),))
    return module


def test_networks_that_are_a_millionth_off_are_noticed_on_the_float_path() -> None:
    module, rows = models()[0], tiny.images(20)
    valid = torch.ones(rows.shape, dtype=torch.bool)
    payload, _ = Coder(module, HEAD, SETTINGS).encode(rows, valid)
    other = disturbed(module, (nn.Conv2d,), 1e-6, outputs=True)
    try:
        found = Coder(other, HEAD, SETTINGS).decode(payload, valid)
    except ValueError:
        return
    assert not torch.equal(found, rows), "the perturbation had no effect, so this test shows nothing"


def test_inputs_that_are_a_millionth_off_change_nothing_on_the_exact_path() -> None:
    exact, rows = models()[1], tiny.images(20)
    payload = encode(WAYS[0], exact, HEAD, SETTINGS, rows)
    other = disturbed(exact, (ExactLayer,), 1e-6, outputs=False)
    assert encode(WAYS[0], other, HEAD, SETTINGS, rows) == payload
    assert torch.equal(decode(WAYS[0], other, HEAD, SETTINGS, payload, rows), rows)


# Runs and files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tiny.run_folder(tmp_path_factory.mktemp("exact") / "run", (1, 8, 8))
    save_exact(path, tiny.images(64, seed=5))
    yield path


def test_a_loaded_exact_network_is_the_one_that_was_saved(run: Path) -> None:
    made, loaded = models_of(run), load(run, "cpu", exact=True)
    assert loaded.exact
    state = loaded.module.state_dict()
    assert state.keys() == made.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in made.state_dict().items())
    rows = tiny.images(20)
    assert encode(WAYS[0], loaded.module, HEAD, SETTINGS, rows) == encode(WAYS[0], made, HEAD, SETTINGS, rows)


def models_of(run: Path) -> Any:
    module: Any = load(run, "cpu").module
    return module.exact(tiny.images(64, seed=5))


def test_compress_writes_exact_files_by_default_and_says_so(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.pt"
    torch.save(tiny.images(20), rows)
    for name, argument in (("exact", []), ("float", ["exact=false"])):
        file, back = tmp_path / f"{name}.tkc", tmp_path / f"{name}.pt"
        assert compress.main([f"run={run}", f"input={rows}", f"output={file}", *argument]) == 0
        with Reader(file) as reader:
            assert reader.header["exact"] is (name == "exact")
        assert decompress.main([f"run={run}", f"input={file}", f"output={back}"]) == 0
        assert torch.equal(torch.load(back), torch.load(rows))


def test_a_run_without_exact_networks_makes_float_files_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = tiny.run_folder(tmp_path / "run", (1, 8, 8)), tmp_path / "rows.pt"
    torch.save(tiny.images(2), rows)
    for name, arguments, said in (("a", [], True), ("b", ["exact=false"], False)):
        assert compress.main([f"run={run}", f"input={rows}", f"output={tmp_path / name}.tkc", *arguments]) == 0
        assert (f"python -m toolkit.make_exact run={run}" in capsys.readouterr().out) is said


def test_an_exact_file_needs_nothing_of_the_trained_weights(run: Path, tmp_path: Path) -> None:
    rows, file, back, other = (tmp_path / name for name in ("rows.pt", "rows.tkc", "back.pt", "other"))
    torch.save(tiny.images(20), rows)
    assert compress.main([f"run={run}", f"input={rows}", f"output={file}"]) == 0
    tiny.run_folder(other, (1, 8, 8), seed=1)
    assert decompress.main([f"run={other}", f"input={file}", f"output={back}"]) == 1
    (other / EXACT).write_bytes((run / EXACT).read_bytes())
    assert decompress.main([f"run={other}", f"input={file}", f"output={back}"]) == 0
    assert torch.equal(torch.load(back), torch.load(rows))


def test_float_networks_that_are_off_make_an_error_that_names_the_chunk(run: Path, tmp_path: Path) -> None:
    rows, file = tmp_path / "rows.pt", tmp_path / "rows.tkc"
    torch.save(tiny.images(40), rows)
    assert compress.main([f"run={run}", f"input={rows}", f"output={file}", "chunk_rows=20", "exact=false"]) == 0
    loaded: Any = load(run, "cpu")
    make_coder, about = functools.partial(loaded.head.coder, loaded), identity(loaded)
    off = loaded._replace(module=disturbed(loaded.module, (nn.Conv2d,), 1e-5, outputs=True))
    with pytest.raises(DamagedFile, match=r"chunk [01] of 2 (does not decode|decodes to other rows)"):
        restore_rows(file, tmp_path / "back.pt", functools.partial(loaded.head.coder, off), about)
    assert not (tmp_path / "back.pt").exists()
    assert restore_rows(file, tmp_path / "back.pt", make_coder, about).restored == 40


def test_new_weights_make_an_old_exact_network_go(run: Path, tmp_path: Path) -> None:
    other = tiny.run_folder(tmp_path / "other", (1, 8, 8))
    (other / EXACT).write_bytes((run / EXACT).read_bytes())
    tiny.save(other, tiny.configuration((1, 8, 8)), tiny.bitswap(seed=2))
    assert not (other / EXACT).exists()
    with pytest.raises(FileNotFoundError, match=r"expected a run with an exact network.*make_exact run="):
        load(other, "cpu", exact=True)


def test_an_exact_network_of_another_model_is_refused(run: Path, tmp_path: Path) -> None:
    other = tiny.run_folder(tmp_path / "other", (1, 8, 8), latent_channels=[2, 3])
    torch.save(torch.load(run / WEIGHTS), other / EXACT)
    with pytest.raises(ValueError, match=r"describes, got others in exact.pt"):
        load(other, "cpu", exact=True)


def test_scale_levels_and_locations_are_those_of_the_float_path() -> None:
    """A network whose outputs are given: the exact heads must snap as `frequencies` does, but for rounding."""
    module, exact = models(3, "mixture")
    features = torch.randn(8, 8, 4, 4)
    mixture, other = module.net.observe.mixture, exact.net.observe.mixture
    seen = Seen(5.0, torch.eye(mixture.head.weight[0].numel() + 1).double())
    conversion = Conversion({mixture.head: seen})
    other = type(other)(mixture, real(None, 0), conversion)
    logits, loc, scale, coupling = mixture(features)
    levels = frequencies.snap_scale((scale - 2.5).clamp(-7, 3) + math.log(127.5))
    found = other.integers(other.by_pixel(features)).detach().split(mixture.sizes, 1)
    for want, got, off in (
        (logits * 32, found[0], 1), (frequencies.snap_location(loc * 127.5), found[1], 60),
        (levels, found[2].clamp(*other.scale_range), 1), (coupling * 256, found[3], 4),
    ):  # fmt: skip
        assert float((got.T.reshape(want.shape) - want).detach().abs().max()) <= off
