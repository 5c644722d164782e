"""Exact products: whatever asks for shorter ones is off, and as it was afterwards, for blocks in blocks and threads."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from toolkit.coding import exactness
from toolkit.coding.exactness import exact_products

C: Any = torch._C
get, put = C._get_fp32_precision_getter, C._set_fp32_precision_setter
ABOVE = [("generic", "all"), ("cuda", "all"), ("mkldnn", "all")]
BELOW = [("cuda", "matmul"), ("mkldnn", "matmul"), ("mkldnn", "conv")]
OTHERS = [("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "rnn")]
EXACT = {"none", "ieee"}


def state() -> list[str | bool]:
    """All that is set, each as it is set itself: not what it follows."""
    found: list[Any] = []
    for place in ABOVE:
        found.append(get(*place))
        put(*place, "none")
    found += [get(*place) for place in BELOW + OTHERS]
    for place in BELOW:
        put(*place, "ieee")
    found.append(torch.get_float32_matmul_precision())
    for place, value in zip(ABOVE + BELOW, found, strict=False):
        put(*place, value)
    backends: Any = torch.backends
    return [*found, backends.mkldnn.enabled, C._get_nnpack_enabled(), backends.cudnn.enabled, torch.get_num_threads()]


def exact() -> bool:
    """Whether products are exact now, and both families of switches can be read."""
    old = torch.get_float32_matmul_precision() == "highest" and not torch.backends.cuda.matmul.allow_tf32
    return old and {get(*place) for place in BELOW} <= EXACT and not C._get_nnpack_enabled()


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    """The switches as they were, whatever a test does to them."""
    before = state()
    yield
    torch.set_float32_matmul_precision(str(before[9]))
    for place, value in zip(BELOW + ABOVE, before[3:6] + before[:3], strict=True):
        put(*place, value)
    torch.set_num_threads(int(before[-1]))
    assert state() == before


def use(path: str, value: Any) -> Callable[[], None]:
    """What sets a switch of torch.backends."""
    *names, last = path.split(".")

    def call() -> None:
        place: Any = torch.backends
        for name in names:
            place = getattr(place, name)
        setattr(place, last, value)

    return call


PROGRAMS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "old high": lambda: torch.set_float32_matmul_precision("high"),
    "old medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old highest": lambda: torch.set_float32_matmul_precision("highest"),
    "old allow_tf32": use("cuda.matmul.allow_tf32", True),
    "new generic": use("fp32_precision", "tf32"),
    "new generic bf16": use("fp32_precision", "bf16"),
    "new generic ieee": use("fp32_precision", "ieee"),
    "new cuda": use("cudnn.fp32_precision", "tf32"),
    "new cuda matmul": use("cuda.matmul.fp32_precision", "tf32"),
    "new oneDNN matmul": use("mkldnn.matmul.fp32_precision", "bf16"),
    "new oneDNN conv": use("mkldnn.conv.fp32_precision", "bf16"),
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_products_are_exact_inside_and_as_the_program_set_them_afterwards(name: str) -> None:
    PROGRAMS[name]()
    before = state()
    with exact_products():
        assert exact()
        assert torch.get_num_threads() == before[-1]
    assert state() == before
    with pytest.raises(KeyError), exact_products():
        raise KeyError
    assert state() == before


@pytest.mark.parametrize("conv", ["tf32", "ieee"])
def test_the_new_switch_of_cudnn_is_neither_read_by_its_old_name_nor_changed(conv: str) -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    use("cudnn.conv.fp32_precision", conv)()  # the old name raises from here on where they differ
    try:
        with exact_products():
            assert exact()
            assert torch.backends.cudnn.conv.fp32_precision == conv
    finally:
        use("cudnn.conv.fp32_precision", before)()


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(list(PROGRAMS)[1:], 2)))
def test_a_program_may_use_both_families(first: str, second: str) -> None:
    PROGRAMS[first]()
    PROGRAMS[second]()
    before = state()
    with exact_products():
        assert exact()
        with exact_products():
            assert exact()
        assert exact()
    assert state() == before


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_what_is_set_inside_is_off_in_the_next_block_and_gone_in_the_end(name: str) -> None:
    torch.set_float32_matmul_precision("high")
    before = state()
    with exact_products():
        PROGRAMS[name]()
        with exact_products():
            assert exact()
        assert exact()
    assert state() == before


def test_blocks_of_two_threads_may_end_in_any_order() -> None:
    torch.set_float32_matmul_precision("high")
    before, entered, leave = state(), threading.Event(), threading.Event()

    def other() -> None:
        with exact_products():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with exact_products():
        thread.start()
        assert entered.wait(30)
    try:
        assert exact()  # the other block still runs
    finally:
        leave.set()
        thread.join()
    assert state() == before


def test_autocast_is_off_inside_and_on_again_afterwards() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with exact_products():
            assert (x @ x).dtype == torch.float32
            with torch.autocast("cpu", torch.bfloat16), exact_products():
                assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_autocast_of_a_device_that_is_not_there_is_off_too() -> None:
    torch.set_autocast_enabled("cuda", True)
    try:
        with exact_products():
            assert not torch.is_autocast_enabled("cuda")
        assert torch.is_autocast_enabled("cuda")
    finally:
        torch.set_autocast_enabled("cuda", False)


def test_threads_are_as_many_as_asked_for() -> None:
    torch.set_num_threads(2)
    with exact_products(threads=1):
        assert torch.get_num_threads() == 1
        with exact_products():
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="positive"), exact_products(threads=0):
        pass
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("trusted", [True, False])
def test_onednn_is_off_where_it_may_not_sum_products(trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "TRUSTED", trusted)
    backends: Any = torch.backends
    with exact_products():
        assert backends.mkldnn.enabled == trusted
    assert backends.mkldnn.enabled


@pytest.mark.filterwarnings("error")
def test_nothing_is_warned_of() -> None:
    with exact_products(threads=1):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_products_on_a_gpu_are_exact(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-361, 362, (128, 128), generator=rng) for _ in range(2))  # sums below 2**24
    PROGRAMS[name]()
    with exact_products():
        got = a.float().cuda() @ b.float().cuda()
    assert torch.equal(got.cpu().long(), a @ b)
