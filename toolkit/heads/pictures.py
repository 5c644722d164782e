"""The lossless head of whole pictures: each is coded by itself, with a model that learns from it while it codes."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from toolkit import cli
from toolkit.container import Reader
from toolkit.heads.given import some
from toolkit.images import picture_archive
from toolkit.images.files import item_of
from toolkit.images.picture_archive import PictureContents, PictureModel, fingerprint
from toolkit.images.restore import Contents, check_model
from toolkit.images.source import Source
from toolkit.images.streaming import Encoder, PictureEncoder
from toolkit.images.verify import OPTION as VERIFY
from toolkit.images.verify import verify
from toolkit.run import Run

if TYPE_CHECKING:
    from lightning import Callback
    from matplotlib.figure import Figure

EFFORTS = "0", "1", "2"
MINE = "this model"


class Coded(NamedTuple):
    """What became of pictures in a file."""

    figures: dict[str, float]  # bits per dimension, and speeds
    sizes: list[float]  # bytes of each picture, with its share of the rest of the file


class Pictures:
    """Codes whole pictures with a `PictureModel`.

        picture --encode(effort)--> payload of a chunk --> file, several pictures in as many threads

    effort: of files that nobody asks another one for.
    """

    lossless = every = True
    monitor = "validation/bpd"
    compress_options: ClassVar = {"effort": "0 is fast, 2 smallest and slowest", "verify": VERIFY}
    measure_options: ClassVar = {"pictures": "folder of held-out pictures", "effort": "as of compress"}

    def __init__(self, effort: int) -> None:
        self.effort = self._asked({"effort": str(effort)})

    def identity(self, run: Run) -> dict[str, Any]:
        # Of what the experts know alone, as that is all that a decoder needs; short, for small pictures.
        return {"recipe": run.name, "model": fingerprint(run.module)}

    def watch(self, run: Run, data: Any) -> Callback:
        from toolkit.images import baselines
        from toolkit.training import plots
        from toolkit.training.evaluation import Regularly

        pictures = _arrays(data.validation)
        lines, history = _rates(pictures, baselines.sizes(pictures)), list[tuple[int, float, float]]()

        def look(module: Any, board: Any, step: int) -> dict[str, float]:
            found = coded(module, pictures, self.effort, run.folder / "validation.tkc").figures
            history.append((step, found["file_bpd"], found["payload_bpd"]))
            if board is not None:
                board.add_figure("validation/rate", plots.rate_figure(history, lines, "payload"), step)
                board.add_image("images/original", pictures[0], step)
            # `validation/bpd` is that of the payloads.
            return {f"validation/{name}": value for name, value in found.items() if name != "payload_bpd"}

        return Regularly(look, run.cfg.evaluation.every_n_epochs, baselines=lines)

    def finish(self, run: Run, data: Any) -> None:
        from toolkit.runs import save_weights

        save_weights(run.folder, run.module)

    def report(self, run: Run, data: Any, step: int) -> tuple[str, dict[str, float]]:
        from toolkit.images import baselines
        from toolkit.training.plots import rate_table

        pictures = _arrays(data.test)
        found = coded(run.module, pictures, self.effort, run.folder / "test.tkc").figures
        others = _rates(pictures, baselines.sizes(pictures))
        line, here = cli.command_line, f"run={run.folder}"
        return (
            f"""{rate_table(f"{len(pictures)} held-out photograph{'s' * (len(pictures) != 1)}", found, others)}

Next:
  tensorboard --logdir {shlex.quote(str(run.folder))}
  {line("compress", here, "FOLDER_OR_IMAGE", "photos.tkc")}   # effort=2 is smaller, effort=0 fast
  {line("decompress", here, "photos.tkc", "restored")}   # only=NAME for one picture
  {line("inspect", "photos.tkc")}
  {line("evaluate", here, "pictures=FOLDER")}
  {line("train", f"recipe={run.name}", "data.folder=FOLDER", "minutes=60")}   # on your own""",
            found,
        )

    def compress(self, run: Run, source: Source | None, output: str | Path, asked: dict[str, str]) -> str:
        source = some(source, run.folder)
        effort = self._asked(asked)
        if source.array:
            raise ValueError(
                "expected pictures for a model of whole ones, got an array; save its images as PNG files, or "
                "give run=, a trained model of tiles"
            )
        verified = cli.boolean(asked, "verify")
        size = picture_archive.compress(run.module, source, output, effort, self.identity(run), verified=verified)
        return (
            f"{len(source.items)} picture{'s' * (len(source.items) != 1)}, {source.values} values -> {output}: {size} "
            f"bytes, {8 * size / source.values:.4f} bits per dimension{', verified' * verified}"
        )

    def encoder(self, run: Run, asked: dict[str, str], before: Reader | None) -> Encoder:
        if before is not None:
            check_model(before, self.identity(run))
        return PictureEncoder(run.module, self._asked(asked), self.identity(run), before)

    def contents(self, run: Run, reader: Reader) -> Contents:
        check_model(reader, self.identity(run))
        return PictureContents(reader, run.module)

    def measure(self, run: Run, source: Source | None, asked: dict[str, str]) -> tuple[str, Figure]:
        """Of whole pictures; leaves their file, evaluation.tkc, in the run's folder."""
        from toolkit.images import baselines
        from toolkit.runs import build_data
        from toolkit.training.plots import rate_bars, rate_table

        effort, names = self._asked(asked), list[str]()
        if source:
            names = [item.name for item in source.items]
            pictures = list(map(source.picture, range(len(names))))
        else:
            pictures = _arrays(build_data(run.cfg, "test").test)
        found = coded(run.module, pictures, effort, run.folder / "evaluation.tkc")
        others = baselines.sizes(pictures)
        title = f"{len(pictures)} picture{'s' * (len(pictures) != 1)}, effort {effort}"
        text = rate_table(title, found.figures, _rates(pictures, others))
        if names:
            text += f"\n\n{_table(names, pictures, {MINE: found.sizes, **others})}"
        return text, rate_bars(found.figures, _rates(pictures, others))

    def _asked(self, asked: dict[str, str]) -> int:
        effort = asked.get("effort")
        if effort is None:
            return self.effort
        if effort not in EFFORTS:
            raise ValueError(f"expected effort to be one of {', '.join(EFFORTS)}, got {effort!r}; give one of them")
        return int(effort)


def coded(model: PictureModel, pictures: Sequence[np.ndarray], effort: int, file: Path) -> Coded:
    """Encode pictures, uint8 or uint16 [c, h, w], to a file, decode it, compare: bits per dimension and speeds in MB/s.

    Raises RoundTripError if a decoded picture is not equal.
    """
    from toolkit.training.evaluation import RoundTripError

    # Loading the loops is no part of a speed: those of flat pictures, of others, and of effort 0, which others may try.
    waves = 5 * np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)  # modulo 256, so that no difference is a constant
    for small, level in ((np.zeros_like(waves), effort), (waves, effort), (waves, 0)):
        model.encode(small, level)
    items = [item_of(f"{i}.png", picture) for i, picture in enumerate(pictures)]
    origin = Source(items, lambda i: pictures[i], None)
    began = time.perf_counter()
    picture_archive.compress(model, origin, file, effort, {}, progress=False)
    encoded = time.perf_counter()
    hint = f"the file is kept as {file}; this is a bug in the recipe's codec: encoder and decoder disagree"
    with Reader(file) as reader:
        try:
            verify(PictureContents(reader, model), origin, progress=False)
        except ValueError as error:
            raise RoundTripError(f"round trip failed: {error}; {hint}") from error
        decoded = time.perf_counter()
        sizes = [chunk.size + reader.overhead / len(pictures) for chunk in reader.chunks]
        payload = reader.size - reader.overhead
    values = origin.values
    figures = {
        "file_bpd": 8 * reader.size / values,
        "payload_bpd": 8 * payload / values,
        "speed/encode_MB_per_s": values / (encoded - began) / 1e6,
        "speed/decode_MB_per_s": values / (decoded - encoded) / 1e6,
    }
    return Coded(figures, sizes)


def _arrays(pictures: Any) -> list[np.ndarray]:
    """Pictures of a data set, tensors uint8 [c, h, w] of any sizes, as arrays."""
    return [pictures[i].numpy() for i in range(len(pictures))]


def _rates(pictures: Sequence[np.ndarray], sizes: dict[str, list[int]]) -> dict[str, float]:
    """Bits per dimension of all pictures together, by codec."""
    values = sum(picture.size for picture in pictures)
    return {name: 8 * sum(found) / values for name, found in sizes.items()}


def _table(names: Sequence[str], pictures: Sequence[np.ndarray], sizes: dict[str, Any]) -> str:
    """Bits per dimension of each picture, a column for each codec."""
    width = max(map(len, names))
    lines = [" " * width + "".join(f"  {name:>10}" for name in sizes)]
    for i, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        rates = "".join(f"  {8 * found[i] / picture.size:10.4f}" for found in sizes.values())
        lines.append(f"{name:{width}}{rates}")
    return "\n".join(lines)
