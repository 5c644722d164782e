"""Base class of models: a plain module where a run is loaded, Lightning's where it is trained.

Importing Lightning takes longer than compressing a picture, and a model that was loaded has no use for it.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from lightning import LightningModule

    Model = LightningModule
else:

    class Model(nn.Module):
        """Base of a recipe's model: write it as a LightningModule, with `training_step`, `self.log` and so on.

        In training it is one (see `trainable`). Loaded from a run it is a plain module in evaluation mode, of which
        only the methods that its head and the commands call are used; these do without `self.trainer` and `self.log`.
        """

        @property
        def device(self) -> torch.device:
            """Where the parameters and buffers are."""
            tensors = itertools.chain(self.parameters(), self.buffers())
            return next((tensor.device for tensor in tensors), torch.device("cpu"))

        def exact(self, rows: torch.Tensor | None = None) -> Any:
            """The model with its networks in exact arithmetic, for coding only: see docs/exact.md.

            rows: training rows that show how large activations become; without them, a module of the same structure,
            whose tensors are to be loaded. Raises ValueError for a model that has no such form, as this.
            """
            raise ValueError(f"expected a recipe with an exact form, got {type(self).__name__}; code with exact=false")


def plain(error: Exception) -> str:
    """What a library says in an error, on one line; without advice to load files that may run programs."""
    text = " ".join(str(error).split())
    if "allow_pickle" in text:
        return "it is no array of numbers"
    return "it holds more than tensors" if "weights_only" in text else text[:300]


@functools.cache
def trainable(kind: type[Any]) -> type[Any]:
    """A model's class under the same name that also derives from LightningModule."""
    from lightning import LightningModule

    if issubclass(kind, LightningModule):
        return kind

    def reduce(self: Any, protocol: Any) -> Any:  # pickle would look for the class under its name, and find `kind`
        return _remade, (kind,), self.__getstate__()

    names = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce_ex__": reduce}
    return type(kind.__name__, (kind, LightningModule), names)


def _remade(kind: type[Any]) -> Any:
    made: Any = trainable(kind)  # type: ignore[arg-type]  # classes can be hashed
    return object.__new__(made)
