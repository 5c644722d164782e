"""A run: a model, the head that compresses with it, and its folder, as heads and commands see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from toolkit.container import Reader, plain
from toolkit.images.restore import Contents
from toolkit.images.source import Source
from toolkit.images.streaming import Encoder

if TYPE_CHECKING:
    from lightning import Callback
    from matplotlib.figure import Figure

CONFIG, WEIGHTS, EXACT = "config.yaml", "model.pt", "exact.pt"
SHIPPED = ".safetensors"  # instead of .pt, of weights that ship


class Run(NamedTuple):
    """A model and what belongs to it."""

    folder: Path
    name: str  # of the recipe
    # What the head asks for: `chunks.model.RowModel`, `images.picture_archive.PictureModel`, `heads.rate.RateModel`,
    # `heads.vectors.VectorModel`.
    module: Any
    head: Head
    cfg: Any = None  # the configuration, a DictConfig; None: of a model without torch, see `toolkit.opened`
    exact: bool = False  # whether the module's networks are in exact arithmetic: made to code, not to train


class Head(Protocol):
    """What is compressed with a model, and how: watches training, finishes it, compresses, reads, measures.

    `heads.rows.Rows`, `heads.pictures.Pictures`, `heads.rate.Rate` and `heads.vectors.Vectors` are heads. Commands and
    training ask all alike.
    """

    @property
    def lossless(self) -> bool:
        """Whether pictures come back as they were."""

    @property
    def every(self) -> bool:
        """Whether pictures may have transparency, or 16 bits a value."""

    @property
    def monitor(self) -> str:
        """The logged value whose least belongs to the best weights."""

    @property
    def compress_options(self) -> dict[str, str]:
        """Options of `compress` that this head takes, and what they are."""

    @property
    def measure_options(self) -> dict[str, str]:
        """Options of `measure`."""

    def identity(self, run: Run) -> dict[str, Any]:
        """What headers of its files say about the model that wrote them: recipe and model, a fingerprint."""

    def watch(self, run: Run, data: Any) -> Callback:
        """A callback of training that makes real files, decodes them, and shows what they are on TensorBoard."""

    def finish(self, run: Run, data: Any) -> None:
        """Write the trained weights into the run's folder, with all else that coding needs."""

    def report(self, run: Run, data: Any, step: int) -> tuple[str, dict[str, float]]:
        """What a training of so many steps ends with, of the run as loaded: text with what to do next, and figures."""

    def compress(self, run: Run, source: Source | None, output: str | Path, asked: dict[str, str]) -> str:
        """Write a .tkc file of pictures, or None: of the model itself; says what it did.

        asked: options that stand in `compress_options`. Raises ValueError for what it cannot code.
        """

    def encoder(self, run: Run, asked: dict[str, str], before: Reader | None) -> Encoder:
        """What codes pictures that come one after another, behind those of a file if there is one.

        asked: as of `compress`. Raises ValueError for what it cannot code, and for a file of another model.
        """

    def contents(self, run: Run, reader: Reader) -> Contents:
        """The pictures of a file that `compress` wrote. Raises ValueError for a file of another model."""

    def measure(self, run: Run, source: Source | None, asked: dict[str, str]) -> tuple[str, Figure]:
        """Rate and speed on pictures, or None: on data that training has not seen, beside other codecs.

        asked: options that stand in `measure_options`; a source comes only where `pictures` does. Returns a table and a
        figure. Raises ValueError where there are no such data.
        """


@contextlib.contextmanager
def described(run: Path) -> Iterator[None]:
    """Whatever goes wrong while a run is built from its configuration, as ValueError."""
    try:
        yield
    except Exception as error:  # a module given nonsense fails in ways of its own
        raise ValueError(
            f"expected {run / CONFIG} to describe a model as toolkit.train does, got {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; give the folder of a training"
        ) from error


def other_weights(file: Path, error: Exception) -> ValueError:
    """What to say of a file of weights that a model cannot take."""
    return ValueError(
        f"expected weights of the model that {file.with_name(CONFIG)} describes, got others in {file.name}: "
        f"{plain(error)}; give a run folder whose files belong together"
    )
