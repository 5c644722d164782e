"""What a recipe's model is: an nn.Module with the hooks of a LightningModule, joined with one only to be trained.

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
    Watcher = Callback
else:

    class Model(nn.Module):
        """Base of a recipe's model: write it as a LightningModule, with `training_step`, `self.log` and so on.

        In training it is one (see `trainable`). Loaded from a run it is a plain module in evaluation mode, of which
        only the methods that its head and the commands call are used; these do without `self.trainer` and `self.log`.
        """

        @property
        def device(self) -> torch.device:
            """Where the parameters and buffers are."""
            return next(itertools.chain(self.parameters(), self.buffers())).device

    class Watcher:
        """Base of a recipe's callback: write it as a lightning.Callback. In training it is one (see `trainable`)."""


@functools.cache
def trainable(kind: type[Any]) -> type[Any]:
    """The class of a model or watcher joined with Lightning's: same name, same arguments, same names of weights."""
    from lightning import Callback, LightningModule

    if issubclass(kind, (LightningModule, Callback)):
        return kind
    base = LightningModule if issubclass(kind, nn.Module) else Callback
    return type(kind.__name__, (kind, base), {"__module__": kind.__module__, "__doc__": kind.__doc__})
