"""What libraries say to their own developers, or about things that training does on purpose, is left out."""

import logging
import warnings

MESSAGES = (
    ".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*", ".*GPU available but not used.*",
    ".*exists and is not empty.*", ".*lr_scheduler.step.*", ".*across ranks.*", ".*sync_dist=True.*",
    ".*could not find the monitored key.*",  # of an interrupted training that goes on: its epoch has no validation
    ".*ended before the epoch ended.*",  # of a checkpoint that an interrupted training left
    ".*Trying to infer the `batch_size`.*", ".*barrier.*device.*", ".*smaller than the logging interval.*",
)  # fmt: skip


def hush() -> None:
    """Filter these messages in this process."""
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
