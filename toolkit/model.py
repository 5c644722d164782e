"""Base classes of recipes: plain classes where a run is loaded, Lightning's where it is trained.

Importing Lightning takes longer than compressing a picture, and a model that was loaded has no use for it.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from lightning import Callback, LightningModule

    Model = LightningModule
    RecipeCallback = Callback
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

    class RecipeCallback:
        """Base of a recipe's callback: write it as a lightning.Callback. In training it is one (see `trainable`)."""


@functools.cache
def trainable(kind: type[Any]) -> type[Any]:
    """A class of the same name that also derives from LightningModule, or from Callback if it is no nn.Module."""
    from lightning import Callback, LightningModule

    if issubclass(kind, (LightningModule, Callback)):
        return kind
    base = LightningModule if issubclass(kind, nn.Module) else Callback

    def reduce(self: Any, protocol: Any) -> Any:  # pickle would look for the class under its name, and find `kind`
        return _remade, (kind,), self.__getstate__()

    names = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce_ex__": reduce}
    return type(kind.__name__, (kind, base), names)


def _remade(kind: type[Any]) -> Any:
    made: Any = trainable(kind)  # type: ignore[arg-type]  # classes can be hashed
    return object.__new__(made)
