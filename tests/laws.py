"""The law that every codec obeys, for the tests of every codec: `from tests.laws import check_codec`."""

import torch
from torch import Tensor

from toolkit.coding.codecs import Codec
from toolkit.coding.message import Message


def contents(message: Message) -> tuple[list[int], list[list[int]]]:
    """What is on a message: the heads, and the words in use of each lane as unsigned integers, the oldest first."""
    words = [
        [word & 0xFFFFFFFF for word in lane[:size]]
        for lane, size in zip(message.tail.tolist(), message.size.tolist(), strict=True)
    ]
    return message.head.tolist(), words


def check_codec(codec: Codec, x: Tensor, message: Message) -> None:
    """Assert that pop undoes push of x, and that push undoes pop, bit for bit; the message is left as it came.

    x: integers, 0 where the codec codes nothing. The message must hold what a push pops first (bits-back codecs). A
    message with a lane without words has nothing to pop, so there only the first half is checked.
    """
    before, given = contents(message), x.clone()

    codec.push(message, x)
    assert torch.equal(x, given), "push changed its argument"
    popped = codec.pop(message)
    assert popped.dtype == torch.int64, f"pop returned {popped.dtype}"
    assert torch.equal(popped.cpu(), given.long().cpu()), "pop did not return what was pushed"
    assert contents(message) == before, "pop after push changed the message"

    if int(message.size.min()) > 0:
        drawn = codec.pop(message)
        codec.push(message, drawn)
        assert contents(message) == before, "push after pop changed the message"
