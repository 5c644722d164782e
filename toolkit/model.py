"""Base class of models: a plain module where a run is loaded, Lightning's where it is trained.

Importing Lightning takes longer than compressing a picture, and a model that was loaded has no use for it.
"""

from __future__ import annotations

import copyreg
import functools
import itertools
from collections.abc import Mapping
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

        def start_from(self, other: Any) -> Mapping[str, torch.Tensor]:
            """The weights to start a training with, given the module of another run: a state dictionary, for `init=`.

            These are the other's own, and so of no use where its network has other shapes. A recipe that can grow a
            smaller network says here how.
            """
            state: Mapping[str, torch.Tensor] = other.state_dict()
            return state


@functools.cache
def trainable(kind: type[Any]) -> type[Any]:
    """A model's class under the same name that also derives from LightningModule."""
    from lightning import LightningModule

    if issubclass(kind, LightningModule):
        return kind
    return _Trainable(kind.__name__, (kind, LightningModule), {"__module__": kind.__module__, "__doc__": kind.__doc__})


class _Trainable(type):
    """Of classes that `trainable` made: pickle would look for them under their names, and find what they were made of.

    Another process makes them anew.
    """


def _remade(made: type[Any]) -> Any:
    return trainable, made.__bases__[:1]


copyreg.pickle(_Trainable, _remade)
