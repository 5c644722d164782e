"""The head of word vectors: the model itself is compressed, each coordinate as exactly as its uncertainty is worth."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from toolkit import cli, embeddings
from toolkit.container import Reader, atomic_path
from toolkit.embeddings import baselines, exporting, scores, sources
from toolkit.embeddings.sources import VOCABULARY, read_counts
from toolkit.images.restore import Contents
from toolkit.images.source import Source
from toolkit.images.streaming import Encoder
from toolkit.run import Run
from toolkit.runs import identity, save_weights

if TYPE_CHECKING:
    from lightning import Callback
    from matplotlib.figure import Figure

Curves = dict[str, list[tuple[float, dict[str, float]]]]  # (bits per dimension without vocabulary, scores), by method
SCORES = "full/top10/all", "excluding/top1/all"  # that are shown
COMMAND = "export_embeddings"


class VectorModel(Protocol):
    """What this head asks of a recipe."""

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the words' vectors, float32 [words, d], on the host."""


class Vectors:
    """Compresses the posterior of a `VectorModel`.

        mu, sigma [words, d] --VBQ(lambda)--> code points --tables, a lane each 512 rows--> file, or one word of it

    lambdas: of the files that are made while training goes on, every_n_epochs; questions: analogies at most;
    projected: words that TensorBoard's projector shows; bits_per_dim: of the file that a training ends with. The run's
    folder also holds the vocabulary.
    """

    lossless = every = False
    monitor = "validation/bits_per_pair"
    compress_options = exporting.OPTIONS
    measure_options: ClassVar[dict[str, str]] = {}

    def __init__(
        self, lambdas: Sequence[float], questions: int, every_n_epochs: int, projected: int, bits_per_dim: float = 2,
    ) -> None:  # fmt: skip
        self.lambdas, self.questions, self.every_n_epochs = list(lambdas), questions, every_n_epochs
        self.projected, self.bits_per_dim = projected, bits_per_dim

    def identity(self, run: Run) -> dict[str, Any]:
        return identity(run)

    def watch(self, run: Run, data: Any) -> Callback:
        from toolkit.training.evaluation import Regularly

        run.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{word} {count}\n" for word, count in zip(data.words, data.counts.tolist(), strict=True)]
        with atomic_path(run.folder / VOCABULARY) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

        def look(module: Any, board: Any, step: int) -> dict[str, float]:
            curves = self.curves(run.folder / "vectors.tkc", data.words, *module.posterior())
            if board is not None:
                for score in SCORES:
                    board.add_figure(f"rate_accuracy/{score}", _figure(curves, score), step)
                n = min(self.projected, len(data.words))
                board.add_embedding(module.posterior()[0][:n], data.words[:n], global_step=step, tag="words")
            return {f"accuracy/{name}": value for name, value in curves["uncompressed"][0][1].items()}

        return Regularly(look, self.every_n_epochs)

    def finish(self, run: Run, data: Any) -> None:
        save_weights(run.folder, run.module)

    def report(self, run: Run, data: Any, step: int) -> tuple[str, dict[str, float]]:
        found, file = vectors_of(run), run.folder / "vectors.tkc"
        sizes, summary = exporting.export_vectors(file, found, {"bits_per_dim": str(self.bits_per_dim)})
        size, word = sizes["file"], found.words[99 % len(found.words)]
        one = f"from toolkit import embeddings; print(embeddings.load({str(file)!r}).most_similar({word!r}))"
        line = cli.command_line
        return f"""
{summary}

Next:
  tensorboard --logdir {shlex.quote(str(run.folder))}
  python -c {shlex.quote(one)}
  {line(COMMAND, f"run={run.folder}", "output=small.tkc", f"target_size={size / 2e3:.0f}kB")}
  {line(COMMAND, f"input={file}", "output=vectors.bin")}   # for word2vec, gensim, spaCy
  {line("train", f"recipe={run.name}", "data=corpus", "data.path=TEXT", "epochs=5", "minutes=600")}""", {
            "file_bytes": size, "file_bpd": 8 * size / found.vectors.numel()
        }  # fmt: skip

    def compress(self, run: Run, source: Source | None, output: str | Path, asked: dict[str, str]) -> str:
        if source is not None:
            raise ValueError(
                f"expected a run that codes pictures, got {run.folder}, of word vectors; use "
                + cli.command_line(COMMAND, f"run={run.folder}")
            )
        return exporting.export_vectors(Path(output), vectors_of(run), asked)[1]

    def encoder(self, run: Run, asked: dict[str, str], before: Reader | None) -> Encoder:
        raise ValueError(
            "expected a lossless model of pictures, got one of word vectors; use toolkit export_embeddings"
        )

    def contents(self, run: Run, reader: Reader) -> Contents:
        raise ValueError(
            f"expected a file of pictures and the run that wrote it, got run={run.folder}, of word vectors; use "
            + cli.command_line(COMMAND, f"input={reader.path}", "output=vectors.bin")
        )

    def measure(self, run: Run, source: Source | None, asked: dict[str, str]) -> tuple[str, Figure]:
        """Analogies that files of several sizes answer, beside other ways to make vectors smaller."""
        curves = self.curves(run.folder / "evaluation.tkc", vectors_of(run).words, *run.module.posterior())
        if not scores.questions(vectors_of(run).words, self.questions):
            raise ValueError(f"expected words that the analogies ask for, got none in {run.folder}; train on more text")
        lines = [f"{'bits per dimension':>18}  {SCORES[0]:>20} {SCORES[1]:>20} {'similarity':>12}"]
        for name, points in curves.items():
            for bits, found in points:
                shown = " ".join(f"{found[score]:20.4f}" for score in SCORES)
                lines.append(f"{bits:18.3f}  {shown} {found['similarity']:12.4f}  {name}")
        return "\n".join(lines), _figure(curves, SCORES[0])

    def curves(self, file: Path, words: list[str], mu: Tensor, sigma: Tensor) -> Curves:
        """Of VBQ's files, each written, read and compared, and of what else people do."""
        asked, n = scores.questions(words, self.questions), mu.numel()

        def score(vectors: Tensor) -> dict[str, float]:
            return {**scores.analogies(vectors, asked), "similarity": scores.similarity(words, vectors)}

        def small(made: baselines.Small) -> tuple[float, dict[str, float]]:
            return 8 * made.size / n, score(made.vectors)

        points = []
        for lam in self.lambdas:
            quantised = embeddings.quantise(mu, sigma, lam)
            sizes = embeddings.write(file, words, quantised)
            with embeddings.open(file) as opened:
                vectors = opened.vectors()
            if not torch.equal(vectors, quantised.vectors()):
                raise RuntimeError(f"round trip failed: {file} decodes to other vectors than were encoded")
            points.append((8 * (sizes["file"] - sizes["vocabulary"]) / n, score(vectors)))
        spread = float(mu.std())
        return {
            "uncompressed": [(32.0, score(mu))],
            "VBQ": points,
            "uniform": [small(baselines.uniform(mu, spread * step)) for step in (0.4, 0.8, 1.2, 1.6)],
            "product": [small(baselines.product(mu, width)) for width in (2, 4, 8)],
            "int8": [small(baselines.int8(mu))],
            "float16": [small(baselines.float16(mu))],
        }


def vectors_of(run: Run) -> sources.Vectors:
    """The posterior of a trained run, with its vocabulary. Raises FileNotFoundError or ValueError."""
    file = run.folder / VOCABULARY
    if not file.is_file():
        raise FileNotFoundError(
            f"expected a run folder of word vectors with {VOCABULARY}, got {run.folder} without it; give the folder "
            "that toolkit.train printed (outputs/...)"
        )
    counts = read_counts(file)
    mu, sigma = run.module.posterior()
    if len(mu) != len(counts) or not bool((sigma > 0).all()):
        raise ValueError(
            f"{run.folder}: expected means and precisions of the {len(counts)} words in {VOCABULARY}, got {len(mu)}; "
            "give another run folder"
        )
    return sources.Vectors(list(counts), mu, sigma, torch.tensor(list(counts.values())), "posterior")


def _figure(curves: Curves, score: str) -> Figure:
    from toolkit.training import plots

    lines = {name: [(bits, found[score]) for bits, found in points] for name, points in curves.items()}
    return plots.accuracy_figure(lines, score)
