"""The Bayesian skip-gram: derivatives, posterior, a small training, its file, resuming, and refusals."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from recipes.word_embeddings import Posterior, SkipGram, WordEmbeddings, _fold
from toolkit import compress, decompress, embeddings, evaluate, export_embeddings
from toolkit.container import Reader
from toolkit.embeddings.sources import VOCABULARY, sigma_of
from toolkit.heads.vectors import vectors_of
from toolkit.runs import load
from toolkit.train import train

TOPICS, WORDS = 6, 30


def write_text(path: Path, lines: int = 1500, seed: int = 0) -> Path:
    """Lines of one topic each; word i of a topic is the more frequent the smaller i."""
    rng = np.random.default_rng(seed)
    weight = 1 / (np.arange(WORDS) + 1.0)
    rows = []
    for _ in range(lines):
        topic = rng.integers(TOPICS)
        rows.append(" ".join(f"t{topic}_{i}" for i in rng.choice(WORDS, 20, p=weight / weight.sum())))
    path.write_text("\n".join(rows))
    return path


def configuration(text: Path, *overrides: str) -> DictConfig:
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose(
            "train",
            [
                "recipe=word_embeddings", "data=corpus", f"data.path={text}", "data.validation_tokens=1000",
                "data.batch_tokens=3000", "data.sample=0.1", "recipe.module.dimensions=16",
                "recipe.module.step_tokens=256", "recipe.head.lambdas=[0.1,1]", "trainer.accelerator=cpu",
                "recipe.head.questions=50", "trainer.log_every_n_steps=1", *overrides,
            ],
        )  # fmt: skip
    OmegaConf.set_struct(cfg, False)
    return cfg


class Trained(NamedTuple):
    run: Path
    cfg: DictConfig
    result: dict[str, float]
    said: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run = tmp_path_factory.mktemp("words")
    cfg = configuration(write_text(run / "text"), "epochs=6", "recipe.head.bits_per_dim=4")
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("builtins.print", lambda *args, **kwargs: said.append(" ".join(map(str, args))))
        result = train(cfg, run)
    return Trained(run, cfg, result, "\n".join(said))


def loss_of(net: SkipGram, u: Tensor, both: Tensor, near: Tensor) -> Tensor:
    """The negative log-likelihood, pair by pair."""
    contexts = near.shape[2]
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(u)):
        for i in range(u.shape[1]):
            for j in range(both.shape[1]):
                logit = u[b, i] @ both[b, j]
                if j < contexts:
                    total = total - near[b, i, j] * torch.nn.functional.logsigmoid(logit)
                else:
                    weight = near[b, i].sum() * net.negatives / net.shared
                    total = total - weight * torch.nn.functional.logsigmoid(-logit)
    return total


def test_derivatives_are_those_of_the_likelihood() -> None:
    torch.manual_seed(0)
    net = SkipGram(10, 3, window=2, negatives=4, shared=3, block=4, prior_std=1.0)
    u = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    both = torch.randn(2, 11, 3, dtype=torch.float64, requires_grad=True)
    near = (torch.rand(2, 4, 8) < 0.5).double()
    loss, first_u, second_u, first_both, second_both = net(u, both[:, :8], both[:, 8:], near)
    expected = loss_of(net, u, both, near)
    assert float(loss) == pytest.approx(float(expected))
    for x, first, second in ((u, first_u, second_u), (both, first_both, second_both)):
        (gradient,) = torch.autograd.grad(expected, x, create_graph=True)
        torch.testing.assert_close(first, gradient)
        for index in ((0, 1, 2), (1, 3, 0)):
            (row,) = torch.autograd.grad(gradient[index], x, retain_graph=True)
            assert float(second[index]) == pytest.approx(float(row[index]))


def test_folding_adds_up_what_blocks_share() -> None:
    x = torch.arange(2 * (3 + 4 + 2) * 1.0).view(2, 9, 1)
    folded = _fold(x, block=3, window=2)
    total = torch.zeros(10)
    for b in range(2):
        for j in range(7):
            total[3 * b + j] += x[b, j, 0]
    assert folded[:6, 0].tolist() == total[2:8].tolist()
    assert folded[6:, 0].tolist() == [7, 8, 16, 17]


def test_the_precision_becomes_the_prior_plus_the_curvature_of_an_epoch() -> None:
    posterior = Posterior(3, 2, prior_std=0.5, init=0.0)
    pairs = torch.tensor([100.0, 50.0, 10.0])
    posterior.start(pairs, temperature=0.5)
    rows = torch.tensor([0, 2])
    for _ in range(400):  # each: a tenth of an epoch, curvature 0.3 a pair
        n = 0.1 * pairs[rows, None]
        posterior.update(rows, torch.zeros(2, 2), 0.3 * n.expand(-1, 2), n, n, pairs[rows, None], 0.5, 0.0)
    expected = 4 + 0.3 * pairs / 0.5
    torch.testing.assert_close(posterior.precision[rows], expected[rows, None].expand(-1, 2), rtol=1e-3, atol=0)
    assert float(posterior.precision[1, 0]) == pytest.approx(4 + 50 * 0.005 / 0.5)


def test_the_loop_of_a_cpu_updates_rows_as_the_tensor_program_does() -> None:
    torch.manual_seed(0)
    module = WordEmbeddings((50,), 12, 2, 3, 4, 8, 8, 0.7, 0.1, 0.05, 1)
    module.net.pairs.copy_(torch.rand(50) * 100)
    first, second = Posterior(50, 12, 0.7, 1.0), Posterior(50, 12, 0.7, 1.0)
    first.precision.uniform_(2, 9)
    first.seen.uniform_(0, 9)
    second.load_state_dict(first.state_dict())
    places = torch.randint(0, 40, (300,))
    gradient, curvature = torch.randn(300, 12), torch.rand(300, 12) - 0.2
    pairs, weight = torch.rand(300, 1), 1 + torch.rand(300, 1)
    module._update(first, places, gradient, curvature, pairs, weight, 0.05)
    rows, index = torch.unique(places, return_inverse=True)
    sums = [x.new_zeros(len(rows), x.shape[1]).index_add(0, index, x) for x in (gradient, curvature, pairs, weight)]
    second.update(rows, *sums, module.net.pairs[rows, None].clamp(min=1), 0.1, 0.05)
    for name, x in first.state_dict().items():
        torch.testing.assert_close(x, second.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_samples_have_the_mean_and_spread_of_their_rows() -> None:
    torch.manual_seed(0)
    posterior = Posterior(3, 2, 1.0, 1.0)
    posterior.precision.copy_(torch.tensor([[1.0, 4.0], [100.0, 1.0], [1.0, 1.0]]))
    drawn = posterior.draw(torch.tensor([0, 1]).repeat(20_000)).view(-1, 2, 2)
    torch.testing.assert_close(drawn.mean(0), posterior.mean[:2].data, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(0), posterior.precision[:2].rsqrt(), atol=0, rtol=0.03)


def test_the_kl_divergence_is_that_of_gaussians() -> None:
    posterior = Posterior(4, 3, prior_std=0.7, init=1.0)
    posterior.precision.uniform_(1, 9)
    q = torch.distributions.Normal(posterior.mean, posterior.precision.rsqrt())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 0.7)).sum()
    assert float(posterior.kl()) == pytest.approx(float(expected), rel=1e-5)


def test_words_of_one_topic_become_similar(trained: Trained) -> None:
    keyed = embeddings.load(trained.run / "vectors.tkc")
    right = 0
    for topic in range(TOPICS):
        for i in range(5):
            right += sum(word.startswith(f"t{topic}_") for word, _ in keyed.most_similar(f"t{topic}_{i}", topn=5))
    assert right > 0.9 * 5 * 5 * TOPICS


def test_rare_words_are_less_certain(trained: Trained) -> None:
    found = vectors_of(load(trained.run, "cpu"))
    assert found.sigma is not None and found.counts is not None
    sigma = found.sigma.mean(1)
    assert float(sigma[-20:].mean()) > 1.5 * float(sigma[:20].mean())
    assert bool((found.sigma < 1.0).all())  # more certain than the prior
    assert int(found.counts.max()) > 10 * int(found.counts.min())


def test_held_out_pairs_are_predicted_better_than_by_chance(trained: Trained) -> None:
    checkpoint = torch.load(trained.run / "checkpoints/best.ckpt", weights_only=True)
    scores = [state.get("best_model_score") for state in checkpoint["callbacks"].values()]
    best = next(float(score) for score in scores if score is not None)
    assert 1 < best < 0.9 * 6  # one bit for a pair and for each of its 5 negatives would be chance


def test_the_run_ends_with_a_file_and_what_to_do_next(trained: Trained) -> None:
    size = (trained.run / "vectors.tkc").stat().st_size
    assert trained.result["file_bytes"] == size
    for part in (f"{size} bytes", "float32", "float16", "tensorboard --logdir", "toolkit.export_embeddings run="):
        assert part in trained.said
    assert "training tokens of" in trained.said and "run: " in trained.said


def test_the_tensorboard_has_curves_and_the_projector(trained: Trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.run), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"rate_accuracy/full/top10/all", "rate_accuracy/excluding/top1/all"} <= set(tags["images"])
    assert {"train/bits_per_pair", "validation/bits_per_pair", "validation/kl_bits_per_pair"} <= set(tags["scalars"])
    assert list(trained.run.rglob("metadata.tsv"))


def test_a_run_is_exported_at_any_size(trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / "v.tkc"
    sizes = []
    for goal in ("lambda=1", "lambda=0.01", "target_size=3kB"):
        assert export_embeddings.main([f"run={trained.run}", f"output={output}", goal, "overwrite=true"]) == 0
        sizes.append(output.stat().st_size)
    assert sizes[0] < sizes[1] and 2940 < sizes[2] <= 3000


def test_a_metric_takes_the_place_of_the_posterior_of_a_run(trained: Trained, tmp_path: Path) -> None:
    found = vectors_of(load(trained.run, "cpu"))
    assert found.sigma is not None and found.counts is not None
    files = []
    for metric, rule in ((None, "posterior"), ("frequency", "counts"), ("ranks", "ranks"), ("cosine", "cosine")):
        output = tmp_path / f"{rule}.tkc"
        asked = [] if metric is None else [f"metric={metric}"]
        assert export_embeddings.main([f"run={trained.run}", f"output={output}", "lambda=0.1", *asked]) == 0
        sigma = found.sigma if metric is None else sigma_of(found, metric)
        with Reader(output) as reader, embeddings.open(output) as opened:
            assert reader.header["sigma"] == rule
            files.append(opened.vectors())
        assert torch.equal(files[-1], embeddings.quantise(found.vectors, sigma, 0.1).vectors())
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(files, 2))
    by_rank, by_count = (sigma_of(found, metric)[:, 0] for metric in ("ranks", "frequency"))
    torch.testing.assert_close(by_rank[5] / by_rank[0], torch.tensor((7.7 / 2.7) ** 0.5))
    torch.testing.assert_close(by_count[5] / by_count[0], (found.counts[0] / found.counts[5]).sqrt().float())


@pytest.mark.training
def test_a_resumed_training_goes_on(trained: Trained, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", 300)
    run = tmp_path / "run"
    run.mkdir()
    cfg = configuration(text, "epochs=1")
    train(cfg, run)
    first = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    with open_dict(cfg):
        cfg.epochs, cfg.resume = 2, str(run)
    train(cfg, run)
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 2 * first["global_step"] > 0
    assert not torch.equal(last["state_dict"]["net.words.mean"], first["state_dict"]["net.words.mean"])
    assert 0.8 * TOPICS * WORDS < (run / VOCABULARY).read_text().count("\n") <= TOPICS * WORDS


@pytest.mark.training
def test_training_twice_gives_the_same_vectors(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", 300)
    means = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        # The learning rate follows the clock, too, where a machine is slow.
        train(configuration(text, "max_steps=2", "epochs=-1", "minutes=1e9"), tmp_path / name)
        means.append(vectors_of(load(tmp_path / name, "cpu")).vectors)
    assert torch.equal(*means)


def test_commands_for_pictures_say_what_a_run_of_words_is(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8), np.uint8))
    arguments = [f"run={trained.run}", f"input={tmp_path / 'x.npy'}", f"output={tmp_path / 'x.tkc'}"]
    assert compress.main(arguments) == 1
    assert "expected a run that codes pictures" in (said := capsys.readouterr().err)
    assert f"use python -m toolkit.export_embeddings run={trained.run}" in said
    arguments[1] = f"input={trained.run / 'vectors.tkc'}"
    assert decompress.main(arguments) == 1
    assert "toolkit.export_embeddings input=" in capsys.readouterr().err


def test_a_run_is_measured_by_the_analogies_that_its_files_answer(trained: Trained) -> None:
    assert evaluate.main([f"run={trained.run}"]) == 0
    text = (trained.run / "evaluation.txt").read_text()
    assert "VBQ" in text and "float16" in text and (trained.run / "evaluation.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "change", ["dimensions=0", "step_tokens=100", "prior_std=0", "temperature=-1", "negatives=0", "window=0"]
)
def test_arguments_out_of_range_are_refused(change: str) -> None:
    arguments = {
        "dimensions": 4, "window": 2, "negatives": 2, "shared_negatives": 4, "block": 32, "step_tokens": 64,
        "prior_std": 1.0, "temperature": 1.0, "learning_rate": 0.1, "warmup": 1,
    }  # fmt: skip
    name, value = change.split("=")
    with pytest.raises(ValueError, match="expected dimensions, window, negatives, shared_negatives and block"):
        WordEmbeddings((10,), **{**arguments, name: float(value) if "." in value else int(value)})


def test_training_on_several_devices_is_refused() -> None:
    several: Any = SimpleNamespace(trainer=SimpleNamespace(world_size=2))
    with pytest.raises(ValueError, match=r"expected trainer\.devices=1, got more"):
        WordEmbeddings.on_fit_start(several)


def test_a_vocabulary_that_is_damaged_is_refused(trained: Trained, tmp_path: Path) -> None:
    for name in ("model.pt", "config.yaml"):
        (tmp_path / name).write_bytes((trained.run / name).read_bytes())
    (tmp_path / VOCABULARY).write_text("one 5\none 3\n")
    with pytest.raises(ValueError, match="line 2: expected a new word and its count, got 'one 3'"):
        vectors_of(load(tmp_path, "cpu"))


def test_the_share_of_the_kl_term_is_finite_for_words_that_never_occur() -> None:
    posterior = Posterior(2, 2, prior_std=1.0, init=1.0)
    posterior.start(torch.tensor([0.0, 4.0]), 1.0)
    zero = torch.zeros(1, 1)
    posterior.update(torch.tensor([0]), torch.zeros(1, 2), torch.ones(1, 2), zero, zero + 1, zero + 1, 1.0, 0.1)
    assert bool(posterior.precision.isfinite().all()) and math.isfinite(float(posterior.kl()))


def test_a_run_from_before_heads_is_read(trained: Trained, tmp_path: Path) -> None:
    cfg = OmegaConf.load(trained.run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    head = cfg.recipe.pop("head")
    head.pop("bits_per_dim")
    cfg.recipe.evaluation = {**head, "_target_": "recipes.word_embeddings.Evaluation", "_partial_": True}
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    for name in ("model.pt", VOCABULARY):
        (tmp_path / name).write_bytes((trained.run / name).read_bytes())
    found, wanted = (vectors_of(load(folder, "cpu")) for folder in (tmp_path, trained.run))
    assert found.words == wanted.words and torch.equal(found.vectors, wanted.vectors)
