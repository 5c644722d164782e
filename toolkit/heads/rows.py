"""The lossless head: rows of data, cut from pictures, are coded with a model of rows near to its bound."""

from __future__ import annotations

import functools
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from toolkit import cli
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import MOST_BATCH, ChunkCoder, RowCodec, RowModel, Settings, choose_lanes
from toolkit.chunks.separate import AloneCoder
from toolkit.container import Reader
from toolkit.heads.given import some
from toolkit.images import baselines, row_archive
from toolkit.images.files import Item
from toolkit.images.restore import Contents, check_model
from toolkit.images.row_archive import RowContents
from toolkit.images.row_streaming import RowEncoder
from toolkit.images.source import Source
from toolkit.images.streaming import Encoder
from toolkit.images.verify import OPTION as VERIFY
from toolkit.nets.exact import exactly
from toolkit.run import Run
from toolkit.runs import build_data, has_exact, identity, load, save_exact, save_weights

if TYPE_CHECKING:
    from lightning import Callback
    from matplotlib.figure import Figure

CHUNK_ROWS = 16384
TEST_ROWS = 1000
MANY = 4096  # rows after which speeds hardly rise
LINES = "PNG", "WebP", "JPEG XL", "WebP mosaic", "JPEG XL mosaic"  # of TensorBoard's figure


class Rows:
    """Codes rows of `chunks.model.RowModel`.

        picture --tiles--> rows, valid --blocks--> codec(model, valid).push --> message --> payload of a chunk --> file

    codec: see `chunks.model.RowCodec`; tile: about the most rows and columns of the tiles that pictures are cut into,
    where networks take any; 0: those of training rows, as for all other models.
    """

    lossless = True
    every = False
    monitor = "validation/elbo_bpd"
    compress_options: ClassVar = {
        "chunk_rows": "rows coded together", "exact": "whether any machine decodes the file", "verify": VERIFY,
    }  # fmt: skip
    measure_options: ClassVar = {
        "rows": "test rows to code",
        "exact": "whether networks are those whose files any machine decodes",
    }

    def __init__(self, codec: RowCodec, tile: int = 0) -> None:
        if tile < 0:
            raise ValueError(f"expected recipe.head.tile of at least 0, got {tile}; give a number of pixels")
        self.codec, self.tile = codec, tile

    def coder(
        self, run: Run, rows: int, settings: Settings | None = None, shape: Sequence[int] | None = None
    ) -> ChunkCoder:
        """What codes chunks of so many rows; settings, shape: of the file, when decoding; shape None: of the model.

        Raises ValueError for a shape that the model cannot have, or more in a network call than of any training row.
        """
        module = run.module if shape is None else run.module.of_shape(shape)
        larger = module.dims / run.module.dims
        settings = settings or Settings(
            max(1, int(run.cfg.coding.batch / larger)), choose_lanes(rows * module.dims), run.cfg.coding.seed
        )
        if settings.batch * larger > MOST_BATCH:
            raise ValueError(f"expected a batch of at most {int(MOST_BATCH / larger)} such rows, got {settings.batch}")
        codec = exactly(self.codec) if run.exact else self.codec
        return (AloneCoder if module.alone else Coder)(module, codec, settings)

    def _shape(self, module: RowModel, source: Source) -> tuple[int, ...]:
        """Of tiles: as few as cover the largest picture down and across, of about the same size."""
        channels, *sides = module.shape
        step = module.side_step
        if step is None or not self.tile or not source.items:
            return module.shape

        def covering(side: int, largest: int) -> int:
            parts = -(-largest // max(self.tile, side))
            return -(-largest // (parts * step)) * step

        height, width = (max(sizes) for sizes in zip(*(item[2:] for item in source.items), strict=True))
        return channels, covering(sides[0], height), covering(sides[1], width)

    def identity(self, run: Run) -> dict[str, Any]:
        return identity(run)

    def watch(self, run: Run, data: Any) -> Callback:
        from toolkit.data.splits import spread
        from toolkit.training.evaluation import CodecEvaluation

        rows, options = spread(data.validation, run.cfg.evaluation.rows), run.cfg.evaluation
        lines = baselines.lossless(rows, rows=len(rows))
        return CodecEvaluation(
            rows, functools.partial(self._coder_of, run, len(rows)), run.folder / "validation.tkc",
            options.every_n_epochs, {name: lines[name] for name in LINES if name in lines},
        )  # fmt: skip

    def _coder_of(self, run: Run, rows: int, module: Any) -> ChunkCoder:
        return self.coder(run._replace(module=module), rows)

    def finish(self, run: Run, data: Any) -> None:
        save_weights(run.folder, run.module)
        try:
            save_exact(run.folder, data.train)
        except ValueError as error:  # the training is none the worse for it
            print(f"\nfiles will decode only where networks compute the same floats: {error}", file=sys.stderr)

    def report(self, run: Run, data: Any, step: int) -> tuple[str, dict[str, float]]:
        from toolkit.data.splits import spread
        from toolkit.training.evaluation import evaluate
        from toolkit.training.plots import rate_table

        asked = run.cfg.evaluation.test_rows
        rows = data.test if asked is None else spread(data.test, asked)
        result = evaluate(run.module, self.coder(_codes(run, None), len(rows)), rows, run.folder / "test.tkc")
        table = rate_table(
            f"{len(rows)} held-out test rows", result, baselines.lossless(rows, rows=len(rows), mosaic_rows=len(rows))
        )
        line, here = cli.command_line, f"run={run.folder}"
        return (
            f"""{table}

Next:
  tensorboard --logdir {shlex.quote(str(run.folder))}
  {line("compress", here, "FOLDER_OR_IMAGE", "photos.tkc")}
  {line("decompress", here, "photos.tkc", "restored")}   # only=NAME for one picture
  {line("inspect", "photos.tkc")}
  {line("evaluate", here)}
  {line("train", f"resume={run.folder}", f"minutes={2 * math.ceil(run.cfg.minutes)}")}   # train longer""",
            result,
        )

    def compress(self, run: Run, source: Source | None, output: str | Path, asked: dict[str, str]) -> str:
        source = some(source, run.folder)
        if "exact" in asked and cli.boolean(asked, "exact") != run.exact:
            run = load(run.folder, str(run.module.device), not run.exact)
        shape, verified = self._shape(run.module, source), cli.boolean(asked, "verify")
        size = row_archive.compress(
            source, output, functools.partial(self.coder, run), identity(run),
            cli.positive(asked, "chunk_rows", max(1, CHUNK_ROWS * run.module.dims // math.prod(shape))), shape,
            verified=verified,
        )  # fmt: skip
        text = (
            f"{len(source.items)} picture{'s' * (len(source.items) != 1)}, {source.values} values -> {output}: "
            f"{size} bytes, {8 * size / source.values:.4f} bits per dimension{', verified' * verified}"
        )
        if not run.exact and "exact" not in asked:
            text += (
                "\nIt decodes only where networks compute the same floats. To make files that decode anywhere: "
                f"{cli.command_line('make_exact', f'run={run.folder}')}, and compress again"
            )
        return text

    def encoder(self, run: Run, asked: dict[str, str], before: Reader | None) -> Encoder:
        if before is not None and asked:
            raise ValueError(
                f"expected no {next(iter(asked))} for a file that goes on, which has its own; leave it out"
            )

        def shape_of(item: Item) -> tuple[int, ...]:
            return self._shape(run.module, Source([item], lambda _: np.zeros(0), None))

        def chunk_rows_of(shape: tuple[int, ...]) -> int:
            return cli.positive(asked, "chunk_rows", max(1, CHUNK_ROWS * run.module.dims // math.prod(shape)))

        make_coder, contents = functools.partial(self.coder, run), None
        if before is not None:
            check_model(before, identity(run))
            contents = RowContents(before, make_coder)
        return RowEncoder(make_coder, identity(run), shape_of, chunk_rows_of, contents)

    def contents(self, run: Run, reader: Reader) -> Contents:
        check_model(reader, identity(run))
        return RowContents(reader, functools.partial(self.coder, run))

    def measure(self, run: Run, source: Source | None, asked: dict[str, str]) -> tuple[str, Figure]:
        """Of test rows of the run's data set; leaves their file, evaluation.tkc, in the run's folder."""
        from toolkit.data.splits import spread
        from toolkit.training.evaluation import evaluate
        from toolkit.training.plots import rate_bars, rate_table

        wanted = None if asked.get("rows") == "all" else cli.positive(asked, "rows", TEST_ROWS)
        data, file = build_data(run.cfg), run.folder / "evaluation.tkc"
        count = wanted or len(data.test)
        once = spread(data.test, count)
        # The codecs beside get each row once: some would find the second for nothing.
        rows = once.repeat(-(-count // len(once)), *[1] * (once.dim() - 1))[:count] if "rows" in asked else once
        coder = self.coder(_codes(run, cli.boolean(asked, "exact") if "exact" in asked else None), len(rows))
        evaluate(run.module, coder, rows[:8], file)  # loading the coder is no part of a speed
        result = evaluate(run.module, coder, rows, file)
        others = baselines.lossless(once, rows=len(once), mosaic_rows=len(once))
        text = rate_table(f"{data.name}, {len(rows)} test rows", result, others)
        if len(rows) < MANY:
            text += f"\nSpeeds of few rows are those of starting, with few stacks; time many by rows={MANY}."
        return text, rate_bars(result, others)


def _codes(run: Run, exact: bool | None) -> Run:
    """The run whose networks code: with the exact ones, or None: if there are any."""
    wanted = has_exact(run.folder) if exact is None else exact
    return load(run.folder, str(run.module.device), True) if wanted else run
