"""Relative entropy coding: an exact sample of a Gaussian posterior, in about KL + 1.4 to 1.8 bits, without bits-back.

The encoder knows the target N(mean, std^2), the decoder only the proposal (prior) and a seed; one index makes them
agree on one sample. Ten lines that code samples of your own posteriors, each row of latents with a prior N(0, 1):

>>> import torch
>>> from toolkit.coding import rec
>>> from toolkit.coding.message import Message
>>> mean, std = torch.linspace(-2, 2, 20000).view(1000, 20), torch.full((1000, 20), 0.1)
>>> keys = rec.Keys.of(0, torch.arange(1000)[:, None], torch.arange(20))  # seed, row, latent
>>> node = rec.ad_star(rec.target(mean, std), keys).node.view(1000, 20)
>>> codec = rec.node_codec(rec.learned(rec.count_depths(node)), torch.arange(20).expand(1000, 20))
>>> message = Message.empty(lanes=4)
>>> codec.push(message, node)
>>> data = message.to_bytes()
>>> decoded = codec.pop(Message.from_bytes(data)).flatten()
>>> z = rec.rebuild_dyadic(decoded, keys).view(1000, 20)
>>> torch.equal(decoded, node.flatten()), bool(((z - mean) / std).std().sub(1).abs() < 0.02)
(True, True)

A real decoder has the table of depths from elsewhere: learn it on other rows, and ship it with the model. Searches:
`ad_star` (`depth=` for DAD*), `as_star`, `global_astar`, `greedy_dyadic`, `greedy_path`, `gprs_path`, and for blocks
`ordered_random` and `partitioned`; `blocks` makes them of latents. Not samples, but shorter where only losslessness
counts: `shortest`, `shortest_block`, and `shortest_shared` with `codebook`. What each costs: scripts/rec_curves.py.
"""

from toolkit.coding.hashing import Keys
from toolkit.coding.rec.blocks import Blocks, blocks, ordered_random, partitioned, rebuild_block, rebuild_partitioned
from toolkit.coding.rec.gaussian import MAX_KL, REACH, Target, quantile, target
from toolkit.coding.rec.greedy import gprs_path, greedy_dyadic, greedy_path
from toolkit.coding.rec.index import (
    DEPTHS,
    codebook,
    count_depths,
    fixed_length,
    learned,
    learned_nodes,
    node_bits,
    node_codec,
    path_bits,
    path_codec,
    zeta,
)
from toolkit.coding.rec.search import (
    MAX_DEPTH,
    Choice,
    ad_star,
    as_star,
    depth_of,
    global_astar,
    rebuild_dyadic,
    rebuild_path,
    rebuild_rank,
)
from toolkit.coding.rec.shortest import shortest, shortest_block, shortest_shared

__all__ = [
    "DEPTHS", "MAX_DEPTH", "MAX_KL", "REACH", "Blocks", "Choice", "Keys", "Target", "ad_star", "as_star", "blocks",
    "codebook", "count_depths", "depth_of", "fixed_length", "global_astar", "gprs_path", "greedy_dyadic", "greedy_path",
    "learned", "learned_nodes", "node_bits", "node_codec", "ordered_random", "partitioned", "path_bits",
    "path_codec", "quantile", "rebuild_block", "rebuild_dyadic", "rebuild_partitioned", "rebuild_path",
    "rebuild_rank", "shortest", "shortest_block", "shortest_shared", "target", "zeta",
]  # fmt: skip
