"""The lossy head: whole pictures at any rate, as a model's latents on a grid of code points."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from toolkit import cli
from toolkit.chunks.model import fingerprint
from toolkit.container import Reader
from toolkit.data.embedded import held_out
from toolkit.data.splits import spread
from toolkit.heads.given import some
from toolkit.images import rate_archive, rate_coder, rate_distortion, rate_target
from toolkit.images.files import read_image
from toolkit.images.folder import find
from toolkit.images.rate_archive import RateContents, RateEncoder
from toolkit.images.rate_coder import LossyModel, PictureCoder
from toolkit.images.rate_distortion import Curve
from toolkit.images.rate_target import Target
from toolkit.images.restore import Contents, check_model
from toolkit.images.source import Source
from toolkit.images.streaming import Encoder
from toolkit.run import Run
from toolkit.runs import save_weights

if TYPE_CHECKING:
    from lightning import Callback
    from matplotlib.figure import Figure


YOUR_OWN = "data=folder", "data.splits.path=FOLDER", "data.splits.size=192", "data.batch_size=8", "minutes=120"


class RateModel(LossyModel, Protocol):
    """What this head asks of a recipe, beside `images.rate_coder.LossyModel`: a module of latents that are fitted."""

    def fit_tables(self, rows: Tensor, steps: int) -> float:
        """Fit the tables that code latents to uint8 [rows, 3, h, w], which coding needs. Returns bits a pixel."""


class Rate:
    """Codes pictures with a `RateModel`, each at the lambda, size or quality that is asked for.

        picture --tiles--> latents mu, sigma --search(lambda)--> code points k, coded --> chunk a tile --> file

    pictures: folder of whole held-out pictures, or None for two photographs that no training on embedded data sees;
    lambdas: of the rate-distortion curve; fit_rows, fit_steps: training rows and steps of `fit_tables` while training
    goes on, every_n_epochs; final_fit_rows, final_fit_steps: of the model that is saved; monitor:
    the figure of which the best weights have least.
    """

    lossless = every = False
    compress_options: ClassVar = {
        "lambda": "0.25 keeps most, 1024 least", "bpp": "bits a pixel of each picture",
        "psnr": "quality of each picture in dB", "effort": "0 is fast, 3 smallest and slowest",
        "metric": "what files are made small by: psnr (default) or ms-ssim",
    }  # fmt: skip
    measure_options: ClassVar = {
        "pictures": "folder of held-out pictures", "effort": "as of compress", "metric": "as of compress",
    }  # fmt: skip

    def __init__(
        self, pictures: str | None, lambdas: Sequence[float], fit_rows: int, fit_steps: int, final_fit_rows: int,
        final_fit_steps: int, every_n_epochs: int, monitor: str = "validation/objective_bpp",
    ) -> None:  # fmt: skip
        self.monitor = monitor
        self.folder, self.lambdas, self.every_n_epochs = pictures, list(lambdas), every_n_epochs
        self.fit, self.final_fit = (fit_rows, fit_steps), (final_fit_rows, final_fit_steps)
        self._codecs: dict[str, Curve] = {}

    def identity(self, run: Run) -> dict[str, Any]:
        # A short name of the model: a small picture takes a few hundred bytes.
        return {"recipe": run.name, "model": fingerprint(run.module, {})[:16]}

    def watch(self, run: Run, data: Any) -> Callback:
        from toolkit.training.evaluation import Regularly

        # Not at the end, when `report` does it, with the weights that are saved.
        return Regularly(functools.partial(self._look, run, data.train), self.every_n_epochs, at_end=False)

    def _look(self, run: Run, rows: Tensor, module: Any, board: Any, step: int) -> dict[str, float]:
        module.fit_tables(spread(rows, self.fit[0]), self.fit[1])
        self._show(board, run._replace(module=module), step)
        return {}

    def finish(self, run: Run, data: Any) -> None:
        print("\nfitting the tables of the coder, and coding the held-out pictures", flush=True)
        run.module.fit_tables(spread(data.train, self.final_fit[0]), self.final_fit[1])
        save_weights(run.folder, run.module)

    def report(self, run: Run, data: Any, step: int) -> tuple[str, dict[str, float]]:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run.folder)) as board:
            curves = self._show(board, run, step)
        line, here = cli.command_line, f"run={run.folder}"
        return (
            f"""
{rate_distortion.table(curves)}

Next:
  tensorboard --logdir {shlex.quote(str(run.folder))}
  {line("compress", here, "PICTURE_OR_FOLDER", "small.tkc", "bpp=0.5")}   # or psnr=32
  {line("decompress", here, "small.tkc", "restored")}   # only=NAME for one picture
  {line("evaluate", here, "pictures=FOLDER")}
  {line("train", f"recipe={run.name}", *YOUR_OWN)}   # on your own""",
            {"pictures": float(len(self.held_out()))},
        )

    def compress(self, run: Run, source: Source | None, output: str | Path, asked: dict[str, str]) -> str:
        source = some(source, run.folder)
        how, target = _asked(asked)
        if source.array:
            raise ValueError("expected pictures for a lossy model, got an array; save them as PNG files")
        size, misses = rate_archive.compress(_coder(run, **how), source, output, target, self.identity(run))
        pixels = sum(item.height * item.width for item in source.items)
        return (
            f"{len(source.items)} picture{'s' * (len(source.items) != 1)}, {pixels} pixels -> {output}: {size} bytes, "
            f"{8 * size / pixels:.4f} bits per pixel" + "\n" * bool(misses) + misses
        )

    def encoder(self, run: Run, asked: dict[str, str], before: Reader | None) -> Encoder:
        if before is not None:
            check_model(before, self.identity(run))
        how, target = _asked(asked)
        return RateEncoder(_coder(run, **how), target, self.identity(run), before)

    def contents(self, run: Run, reader: Reader) -> Contents:
        check_model(reader, self.identity(run))
        return RateContents(reader, _coder(run))

    def measure(self, run: Run, source: Source | None, asked: dict[str, str]) -> tuple[str, Figure]:
        """The rate-distortion curve of pictures, and the times of the first."""
        how = _how(asked)
        given = source and [torch.from_numpy(source.picture(i)) for i in range(len(source.items))]
        pictures = given or self.held_out()
        first, lam = pictures[0], sorted(self.lambdas)[len(self.lambdas) // 2]
        spent = rate_distortion.speed(rate_distortion.times(_coder(run, **how), first, lam), first[0].numel())
        curves, _ = self.curves(run, pictures, blind=True, **how)
        text = f"{len(pictures)} pictures\n{rate_distortion.table(curves)}\nthe first, lambda {lam:g}:\n{spent}"
        return text, rate_distortion.figure(curves, f"{len(pictures)} held-out pictures")

    def held_out(self) -> list[Tensor]:
        """Pictures that training has not seen, uint8 [c, h, w] each."""
        if self.folder is None:
            return held_out()
        return [torch.from_numpy(read_image(file)) for file in find(self.folder)]

    def curves(
        self, run: Run, pictures: Sequence[Tensor], blind: bool = False, effort: str = "0", metric: str = "psnr"
    ) -> tuple[dict[str, Curve], dict[float, Tensor]]:
        """Curves of the model's files, of other ways to quantise its latents, and of other codecs, by name.

        blind: also the curve of the same search with one sigma for all latents. The second output is the first picture
        as each lambda restores it.
        """
        run.folder.mkdir(parents=True, exist_ok=True)

        def files(choice: str, lambdas: Iterable[float]) -> tuple[Curve, dict[float, Tensor]]:
            spent = "0" if choice == "rounding" else effort
            coder = PictureCoder(run.module, run.module.device, choice, spent, metric)
            return rate_distortion.of_files(coder, pictures, lambdas, run.folder, {"recipe": run.name})

        mine, restored = files("search", self.lambdas)
        # Of larger lambdas, at which rounding makes files of about the same sizes.
        most = rate_target.lambda_of(rate_target.LEVELS)
        ways = {"its latents, rounded": files("rounding", sorted({*(min(2 * x, most) for x in self.lambdas), most}))[0]}
        if blind:
            ways["one sigma for all"] = files("one sigma", self.lambdas)[0]
        ways["its latents, k-means"] = rate_distortion.of_kmeans(_coder(run), pictures, rate_distortion.KMEANS_SIZES)
        self._codecs = self._codecs or rate_distortion.of_codecs(pictures)
        return {"this model": mine, **ways, **self._codecs}, restored

    def _show(self, board: Any, run: Run, step: int) -> dict[str, Curve]:
        """Curves, differences of rate, a picture at three rates, and what its channels cost, on TensorBoard."""
        pictures = self.held_out()
        curves, restored = self.curves(run, pictures)
        if board is None:
            return curves
        lambdas, picture = sorted(self.lambdas, reverse=True), pictures[0]
        for name, value in rate_distortion.differences(curves).items():
            board.add_scalar(f"validation/bd_rate_{name.lower().replace(',', '').replace(' ', '_')}", value, step)
        for lam, point in zip(lambdas, curves["this model"], strict=True):
            board.add_scalar(f"validation/bpp_lambda_{lam:g}", point.bpp, step)
            board.add_scalar(f"validation/psnr_lambda_{lam:g}", point.psnr, step)
        board.add_figure("validation/curve", rate_distortion.figure(curves, "held-out pictures"), step)
        board.add_image("images/original", picture, step)
        middle = lambdas[len(lambdas) // 2]
        for lam in {lambdas[0], middle, lambdas[-1]}:
            board.add_image(f"images/lambda_{lam:g}", restored[lam], step)
        bits = _coder(run).channel_bits(picture, rate_target.level_of(middle))
        plot = rate_distortion.channel_figure(bits, run.module.channel_names, picture[0].numel())
        board.add_figure("validation/bits_of_channels", plot, step)
        return curves


def _coder(run: Run, effort: str = "0", metric: str = "psnr") -> PictureCoder:
    return PictureCoder(run.module, run.module.device, effort=effort, metric=metric)


def _asked(asked: dict[str, str]) -> tuple[dict[str, str], Target]:
    """What a person asked a coder for: settings, and the target. Raises ValueError for others, or several targets."""
    how = _how(asked)
    if len(asked) != 1:
        ways = ", ".join(f"{way}=" for way in rate_target.WAYS)
        got = " and ".join(asked) or "none"
        raise ValueError(f"expected one of {ways}, got {got}; give one, for instance bpp=0.5")
    [way] = asked
    return how, Target(way, cli.number(asked, way))


def _how(asked: dict[str, str]) -> dict[str, str]:
    """Take effort and metric out of what a person asked for. Raises ValueError for others."""
    how = {"effort": asked.pop("effort", "0"), "metric": asked.pop("metric", "psnr")}
    for (key, value), known in zip(how.items(), (rate_coder.EFFORTS, rate_coder.METRICS), strict=True):
        if value not in known:
            raise ValueError(f"expected {key} to be one of {', '.join(known)}, got {value!r}; give one")
    return how
