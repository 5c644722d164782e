"""The VAE and IsoKL VAE: the budget of a posterior, its gradient, what coding costs, and that rows are coded alone."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from recipes.ikvae import BLOCK_SAMPLERS, IKVAE, SAMPLERS, head, least
from recipes.ikvae.isokl import IsoKL, index_overhead, kl_bits
from tests.archives import unpack
from tests.test_rec_search import channel
from tests.tiny import configure, images
from toolkit import compress
from toolkit.chunks.model import Settings
from toolkit.chunks.separate import AloneCoder
from toolkit.coding import rec, wire
from toolkit.runs import build, save, save_exact

SMALL: dict[str, Any] = {
    "posterior": "gaussian", "likelihood": "mixture", "components": 2, "latents": 5, "network": "conv", "width": 8,
    "blocks": 1, "kappa": 3.0, "kappa_learned": False, "overhead": 0.0, "learning_rate": 1e-3, "warmup": 1,
    "weight_decay": 0.0, "kl_warmup": 0,
}  # fmt: skip


def model(shape: tuple[int, ...] = (1, 8, 8), seed: int = 0, **changes: Any) -> IKVAE:
    """An untrained model whose posteriors depend on what it sees, with tables learned on other rows."""
    torch.manual_seed(seed)
    module = IKVAE(shape, **{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in module.net.infer[-1].parameters():
            parameter.mul_(4)
        if module.net.likelihood == "logistic":  # wide enough that no pixel falls to its least frequency
            module.net.observe[0].bias[4:] += 2.5
    module.learn_tables(images(32, shape, seed=9), 16)
    return module


def coder(
    module: IKVAE, sampler: str = "ad_star", code: str = "learned", batch: int = 8, **options: int
) -> AloneCoder:  # fmt: skip
    return AloneCoder(module, functools.partial(head, sampler=sampler, code=code, **options), Settings(batch, 4, 0))


def everywhere(x: Tensor) -> Tensor:
    return torch.ones(x.shape, dtype=torch.bool)


# The posterior


@pytest.mark.parametrize("kappa", [0.01, 0.5, 3.0, 7.0])
def test_an_isokl_posterior_has_its_budget_wherever_its_mean_is(kappa: float) -> None:
    alpha = torch.linspace(-3.5, 3.5, 101, dtype=torch.float64)
    nats = kappa * math.log(2)
    mean = math.sqrt(2 * nats) * torch.tanh(alpha)
    y = IsoKL.apply(2 * nats / torch.cosh(alpha) ** 2)
    assert torch.allclose(kl_bits(mean, y), torch.full_like(mean, kappa), rtol=1e-9)
    assert float(y.min()) > 0


def test_the_gradient_of_the_variance_is_that_of_finite_differences() -> None:
    t = torch.tensor([1e-6, 0.01, 0.7, 3.0, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(IsoKL.apply, (t,), eps=1e-9, atol=1e-4, rtol=1e-4)


def test_every_posterior_that_the_networks_can_make_can_be_coded() -> None:
    """Whatever the last layer's outputs: targets that rec.target refuses would stop a training."""
    raw = torch.cartesian_prod(*2 * [torch.tensor([-1e4, -20.0, -3.0, 0.0, 3.0, 20.0, 1e4])])
    for posterior in ("gaussian", "isokl"):
        for kappa in (0.01, 7.0):
            module = model(posterior=posterior, kappa=kappa, latents=49)
            module.net.infer = torch.nn.Sequential(torch.nn.Flatten(), _Constant(raw.T.flatten()))
            target = module.targets(module.net.encode(images(3)))
            if posterior == "isokl":
                assert target.kl().tolist() == pytest.approx([kappa] * len(target.loc), rel=1e-4)
            assert rec.ad_star(target, module.keys(torch.arange(3))[0]).node.min() >= 1


class _Constant(torch.nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), -1)


def test_a_budget_that_is_learned_gets_a_gradient_and_a_fixed_one_none() -> None:
    x = images(4)
    for learned in (True, False):
        module = model(posterior="isokl", kappa_learned=learned)
        nll, kl = module.net(x)
        (nll.mean() + kl.mean()).backward()
        assert (module.net.raw_kappa.grad is not None) == learned


# What coding costs


@pytest.mark.parametrize("likelihood", ["interlaced", "mixture", "logistic", "beta_binomial"])
@pytest.mark.parametrize(
    ("posterior", "sampler"), [("gaussian", "ad_star"), ("isokl", "dad_star"), ("gaussian", "greedy")]
)
def test_rows_cost_their_pixels_and_their_nodes(likelihood: str, posterior: str, sampler: str) -> None:
    """Streams against -log2 p(x|z) in floats and the cost of the nodes: apart by the first symbols and the floors."""
    module, x = model(likelihood=likelihood, posterior=posterior), images(32)
    payload, account = coder(module, sampler).encode(x, everywhere(x), trace=True)
    assert torch.equal(coder(module, sampler).decode(payload, everywhere(x)), x)
    z = torch.cat([z for (z,) in account.latents])
    keys, which = module.keys(torch.arange(32))
    with torch.inference_mode():
        target = module.targets(module.net.encode(x))
        node = module.search(target, keys, which, sampler)
        pixels = float(module.net.nll(x, z.float()).sum())
    assert torch.equal(rec.rebuild_dyadic(node, keys).view(32, -1), z)
    expected = pixels + float(rec.node_bits(node, module.frequencies(sampler), which).sum())
    assert expected < account.net < expected + 32 * (18 + 2)
    assert account.file == 8 * len(payload)


def test_the_shortest_node_costs_less_than_a_sample() -> None:
    """Node and pixels together, if the encoder's posterior is that of the decoder."""
    module, x = model(), images(64)
    keys, which = module.keys(torch.arange(64))
    with torch.inference_mode():
        target = module.targets(module.net.encode(x))

    def cost(sampler: str) -> float:
        node = module.search(target, keys, which, sampler)
        bits = rec.node_bits(node, module.frequencies(sampler), which)
        return float((bits - target.log_ratio(rec.rebuild_dyadic(node, keys)) / math.log(2)).mean())

    assert cost("shortest") < cost("ad_star") - 0.2


def test_tables_forget_a_model_whose_latents_were_dead() -> None:
    """Tables that were learned on dead latents must not hold living ones at depth 0."""
    module, x = model(), images(32, seed=9)
    fresh = module.depths[SAMPLERS.index("shortest")].clone()
    module.depths.zero_()
    module.depths[:, :, 0] = 1024
    module.learn_tables(x, 16)
    assert torch.equal(module.depths[SAMPLERS.index("shortest")], fresh)
    assert float(fresh[:, 1:].sum()) > 0


def test_shared_points_under_a_table_of_their_own_cost_less_still() -> None:
    """Posteriors of a Gaussian channel of 3 bits: overhead of exact samples, of shortest nodes, of shared points."""
    module = model(latents=1)
    targets = [channel(4000, 3, seed=i) for i in (1, 2)]
    keys, which = module.keys(torch.arange(4000), "codebook")
    for _ in range(8):
        node = rec.shortest_shared(targets[0], 0, module.book())
        module.nodes = torch.bincount(node, minlength=module.nodes.shape[1])[None].float()
    node = rec.shortest_shared(targets[1], 0, module.book())
    bits = 16 - module.book()[which, node].double().log2()
    ratio = targets[1].log_ratio(rec.rebuild_dyadic(node, keys)) / math.log(2)
    assert 0.2 < float((bits - ratio).mean()) < 0.7


def test_a_fixed_length_costs_exactly_two_bits_more_than_the_budget() -> None:
    module, x = model(posterior="isokl", latents=12), images(16)
    fixed = coder(module, "dad_star", "fixed")
    payload, account = fixed.encode(x, everywhere(x), trace=True)
    assert torch.equal(fixed.decode(payload, everywhere(x)), x)
    z = torch.cat([z for (z,) in account.latents]).float()
    with torch.inference_mode():
        pixels = float(module.net.nll(x, z).sum())
    assert pixels + 16 * 12 * 5 < account.net < pixels + 16 * (12 * 5 + 20)


def test_every_sampler_and_code_gives_the_rows_back() -> None:
    module, x = model(), images(11)
    for sampler in SAMPLERS:
        for code in ("learned", "zeta") if sampler != "codebook" else ("learned",):
            one = coder(module, sampler, code)
            assert torch.equal(one.decode(one.encode(x, everywhere(x))[0], everywhere(x)), x)


@pytest.mark.parametrize(("sampler", "tries"), [("blocks", 1), ("shortest_blocks", 1), ("shortest_blocks", 4)])
def test_blocks_of_latents_give_the_rows_back(sampler: str, tries: int) -> None:
    """Also with a row that is not there, by one row alone, and by a model that loads the tables."""
    module, x = model(block_bits=1.5), images(11)
    assert 1 < len(module.blocks().bits) < 5
    valid = everywhere(x)
    valid[4] = False
    payload, _ = coder(module, sampler, tries=tries).encode(x, valid)
    again = model(block_bits=1.5, seed=3)
    again.load_state_dict(module.state_dict())
    back = coder(again, sampler).decode(payload, valid)  # what was tried is the encoder's affair
    assert torch.equal(back[valid], x[valid])
    assert torch.equal(coder(module, sampler).decode(payload, valid, slice(9, 10)), x[9:10])
    assert coder(module, sampler, "zeta").encode(x, valid)[1].net > 0


def test_blocks_cost_less_than_latents_and_tries_on_the_pixels_less_still() -> None:
    module, x = model(block_bits=8.0), images(64)
    net = [
        coder(module, sampler, tries=tries).encode(x, everywhere(x))[1].net / 64
        for sampler, tries in (("ad_star", 1), ("blocks", 1), ("shortest_blocks", 1), ("shortest_blocks", 8))
    ]
    assert net[1] < net[0] - 3
    assert net[3] < net[2] - 0.1


def test_the_least_of_some_options_is_found_unit_by_unit() -> None:
    options = torch.tensor([[[5, 5], [1, 2]], [[4, 6], [3, 1]], [[7, 2], [9, 9]]])
    assert least(options, lambda node: node.sum(0).double()).tolist() == [[4, 2], [1, 1]]


def test_places_that_are_not_coded_cost_nothing() -> None:
    module, x, valid = model(), images(8), everywhere(images(8))
    whole = coder(module).encode(x, valid)[1].net
    valid[:, :, 4:] = False
    valid[5] = False
    payload, account = coder(module).encode(x, valid)
    back = coder(module).decode(payload, valid)
    assert torch.equal(back[valid], x[valid])
    assert account.net < 0.6 * whole


def test_the_overhead_of_an_index_is_small_where_a_latent_is_dead_and_rises_to_two_bits() -> None:
    kl = torch.tensor([0.0, 0.001, 0.1, 1.0, 4.0, 100.0])
    assert index_overhead(kl).tolist() == pytest.approx([0.05, 0.15, 0.88, 1.43, 1.67, 1.92], abs=0.03)


# Rows alone


def alone_in(payload: bytes, row: int) -> bytes:
    """A payload in which the heads and words of all rows but one are destroyed."""
    where, bits = wire.index(payload), np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
    stored = np.maximum(where.bits - 1, 0)
    broken, word = bits.copy(), 8 * where.words_at + 32 * (where.word_ends - where.size)
    broken[where.head_ends[0] - stored[0] : where.head_ends[-1]] = 1
    broken[8 * where.words_at :] = 1
    for first, count in ((where.head_ends - stored, stored), (word, 32 * where.size)):
        mine = slice(int(first[row]), int(first[row] + count[row]))
        broken[mine] = bits[mine]
    return np.packbits(broken, bitorder="little").tobytes()


def test_any_row_of_a_chunk_is_decoded_without_the_others() -> None:
    """What is left of all other rows is destroyed, and no other one is read."""
    module, x = model(), images(21)
    one = coder(module)
    payload, _ = one.encode(x, everywhere(x))
    for i in (0, 7, 8, 20):
        broken = alone_in(payload, i)
        assert broken != payload
        assert torch.equal(one.decode(broken, everywhere(x), slice(i, i + 1)), x[i : i + 1])
    assert torch.equal(one.decode(payload, everywhere(x), slice(5, 19)), x[5:19])


def test_a_row_alone_calls_the_decoder_on_one_batch_only() -> None:
    module, x = model(), images(40)
    one = coder(module)
    payload, _ = one.encode(x, everywhere(x))
    calls: list[int] = []
    module.net.features.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    one.decode(payload, everywhere(x), slice(17, 18))
    assert calls == [8]


def test_an_exact_decoder_sees_nothing_but_the_row_that_is_wanted() -> None:
    """The same bytes as in whole batches, whatever stands beside a row."""
    x = images(20)
    one = coder(model(block_bits=6.0).exact(x), "blocks")
    payload, _ = one.encode(x, everywhere(x))
    calls: list[int] = []
    one.module.net.features.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    assert torch.equal(one.decode(payload, everywhere(x), slice(17, 18)), x[17:18])
    assert torch.equal(one.decode(payload, everywhere(x), slice(6, 13)), x[6:13])
    assert calls == [1, 2, 5]
    assert torch.equal(one.decode(payload, everywhere(x)), x)


def test_only_one_picture_of_an_exact_file_is_decoded_for_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = configure("ikvae")
    run = tmp_path / "run"
    run.mkdir()
    save(run, cfg, build(cfg, run)[0].module)
    (tmp_path / "in").mkdir()
    for i, image in enumerate(images(20)):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"in/{i:02}.png")
    save_exact(run, images(20))
    calls: list[slice] = []
    decode = AloneCoder.decode

    def counted(self: AloneCoder, payload: bytes, valid: Tensor, only: slice, progress: Any) -> Tensor:
        calls.append(only)
        return decode(self, payload, valid, only, progress)

    monkeypatch.setattr(AloneCoder, "decode", counted)
    for name, expected in (("true", slice(13, 14)), ("false", slice(0, 20))):  # just the whole chunk has a checksum
        file = tmp_path / f"{name}.tkc"
        assert compress.main([f"run={run}", f"input={tmp_path / 'in'}", f"output={file}", f"exact={name}"]) == 0
        assert unpack(run, file, tmp_path / file.stem, "only=13.png") == 0
        assert calls == [expected]
        calls.clear()
        with Image.open(tmp_path / file.stem / "13.png") as back:
            assert torch.equal(torch.from_numpy(np.asarray(back).copy()), images(20)[13, 0])


def test_diagnostics_say_what_the_latents_cost() -> None:
    module, x = model(), images(16)
    result = {"file_bpd": 5.0, "elbo_bpd": 4.0, "speed/encode_MB_per_s": 1.0, "speed/decode_MB_per_s": 2.0}
    figures, histograms = module.diagnose(x, result)
    with torch.inference_mode():
        mean_kl = float(module.net(x)[1].mean())
    assert figures["rec/overhead_bits_a_latent"] == 64 / 5
    assert figures["rec/encode_s_a_row"] == pytest.approx(64e-6)
    assert figures["rec/nodes_visited"] == pytest.approx(float(histograms["rec/nodes"].double().mean()))
    assert figures["rec/kl_bits_a_latent"] == pytest.approx(mean_kl, rel=1e-4)
    assert {name: len(values) for name, values in histograms.items()} == dict.fromkeys(histograms, 16 * 5)


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posterior": "laplace"}, "expected posterior to be one of gaussian, isokl, got 'laplace'"),
        ({"likelihood": "poisson"}, "expected likelihood to be one of interlaced, mixture"),
        ({"shape": (3, 8, 8)}, "expected grey images whose sides are multiples of 4, got 3 x 8 x 8"),
        ({"shape": (1, 8, 10)}, "got 1 x 8 x 10; change data or data.splits.size"),
        ({"block_bits": 17.0}, "expected block_bits above 0 and at most 16, got 17.0"),
        ({"kappa": 9.0}, "expected kappa above 0 and at most 7 bits a latent, got 9.0"),
    ],
)
def test_settings_that_make_no_model_are_refused(change: dict[str, Any], message: str) -> None:
    shape = change.pop("shape", (1, 8, 8))
    with pytest.raises(ValueError, match=message):
        IKVAE(shape, **{**SMALL, **change})


def test_samplers_and_codes_that_do_not_exist_are_refused() -> None:
    x = images(2)
    with pytest.raises(ValueError, match=r"expected sampler to be one of ad_star, .*, got 'mcmc'"):
        coder(model(), "mcmc").encode(x, everywhere(x))
    for sampler in BLOCK_SAMPLERS:
        with pytest.raises(ValueError, match=r"expected block_bits above 0 .* with recipe\.module\.block_bits=10"):
            coder(model(), sampler).encode(x, everywhere(x))
    for sampler, tries in (("ad_star", 2), ("blocks", 2), ("shortest_blocks", 33), ("shortest_blocks", 0)):
        with pytest.raises(ValueError, match=f"expected tries=1, .* up to 32, got {tries}"):
            coder(model(block_bits=6.0), sampler, tries=tries).encode(x, everywhere(x))
    with pytest.raises(ValueError, match=r"expected code to be learned, .* got 'fixed' with ad_star"):
        coder(model(), "ad_star", "fixed").encode(x, everywhere(x))


def test_a_damaged_index_is_refused() -> None:
    module, x = model(), images(9)
    one = coder(module)
    payload, _ = one.encode(x, everywhere(x))
    for broken in (payload[:4], b"\x0a" + payload[1:], payload[:-1], payload + b"\x00", b""):
        with pytest.raises(ValueError, match=r"; the data are damaged"):
            one.decode(broken, everywhere(x))
    with pytest.raises(ValueError, match="expected 10 rows, got 9; the data are damaged"):
        one.decode(payload, everywhere(images(10)), slice(0, 9))


def test_a_row_that_another_model_decodes_is_refused() -> None:
    x = images(16)
    payload, _ = coder(model()).encode(x, everywhere(x))
    with pytest.raises(ValueError, match=r"row \d+ does not end as it began, so it is wrong: decode with the device"):
        coder(model(seed=1)).decode(payload, everywhere(x))
