"""Base classes of recipes: plain where a run is loaded, Lightning's where it is trained."""

import copy
import pickle
from typing import Any

import pytest
import torch
from lightning import LightningModule
from omegaconf import OmegaConf
from torch import nn

from toolkit import runs
from toolkit.model import Model, trainable


class Small(Model):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.net = nn.Linear(2, width)

    def training_step(self, x: torch.Tensor, index: int) -> torch.Tensor:
        self.log("loss", loss := self.net(x).square().mean())
        return loss


def test_a_loaded_model_is_no_lightning_module_and_a_trained_one_is() -> None:
    plain, trained = Small(), trainable(Small)()
    assert not isinstance(plain, LightningModule)
    assert isinstance(trained, LightningModule) and isinstance(trained, Small)
    assert type(trained).__name__ == "Small"
    assert list(plain.state_dict()) == list(trained.state_dict()) == ["net.weight", "net.bias"]
    assert trained.net.out_features == 3 and trainable(Small)(5).net.out_features == 5


def test_a_class_is_derived_once() -> None:
    assert trainable(Small) is trainable(Small)
    assert trainable(trainable(Small)) is trainable(Small)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_trained_model_can_be_copied_and_pickled(again: Any) -> None:
    module = trainable(Small)()
    copied = again(module)
    assert type(copied) is type(module) and copied is not module
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), module.parameters(), strict=True))


def test_the_class_of_a_trained_model_can_be_pickled() -> None:
    kind = trainable(Small)
    assert kind is not Small and pickle.loads(pickle.dumps(kind)) is kind
    assert pickle.loads(pickle.dumps(Small)) is Small


def test_a_model_is_where_its_tensors_are() -> None:
    assert Small().device == torch.device("cpu") == Model().device
    assert Small().to("meta").device == torch.device("meta")


@pytest.mark.parametrize("target", ["recipes.bitswap.head", None])
def test_a_model_that_is_no_class_is_refused(target: str | None) -> None:
    cfg = OmegaConf.create({"_target_": target} if target else {"width": 3})
    with pytest.raises(ValueError, match=f"expected _target_ to name a class.*, got '?{target or 'none'}'?"):
        runs._instantiate(cfg, ["recipes"], train=True)
