"""Threads: how many there may be, and room that they share."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.coding import threads
from toolkit.coding.threads import Room, StoppedError, processors


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="of Linux")
def test_processors_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "GROUPS", Path("/nowhere"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processors() == 64


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "200000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "nonsense", "cpu.max": ""}, 16),
        ({}, 16),
    ],
)
def test_a_container_has_the_processors_whose_time_it_is_allowed(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert processors() == expected


def test_limits_of_all_groups_around_a_process_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slice" / "service").mkdir(parents=True)
    (tmp_path / "slice" / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "slice" / "service" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "own").write_text("0::/slice/service\n")
    monkeypatch.setattr(threads, "GROUPS", tmp_path)
    monkeypatch.setattr(threads, "GROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert processors() == 2


def test_blocks_wait_for_room_and_what_is_larger_than_all_of_it_is_alone() -> None:
    room, order = Room(10), list[str]()

    def block(name: str, size: int) -> None:
        with room.taken(size):
            order.append(name)

    with room.taken(6):
        waiting = [threading.Thread(target=block, args=given) for given in (("large", 99), ("second", 5))]
        for thread in waiting:
            thread.start()
        block("fits", 4)
        assert order == ["fits"]
    for thread in waiting:
        thread.join(5)
    assert sorted(order) == ["fits", "large", "second"]


def test_who_waits_for_room_ends_when_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    room, found = Room(1), list[BaseException]()
    monkeypatch.setattr(threads, "AWAKE", 0.01)

    def wait() -> None:
        try:
            with room.taken(1):
                pass
        except StoppedError as error:
            found.append(error)

    with room.taken(1), pytest.raises(KeyboardInterrupt), threads.threads(1) as submit:
        submit(wait)
        raise KeyboardInterrupt
    assert len(found) == 1


def test_a_task_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.01)
    done = threading.Event()
    with pytest.raises(KeyboardInterrupt), threads.threads(1) as submit:
        future = submit(done.wait, 60)
        raise KeyboardInterrupt
    assert threads.going_on()
    done.set()
    assert future.result(5) and not threads.going_on()


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_a_command_that_compiles_its_loops_at_once(
    sign: signal.Signals, status: int, tmp_path: Path
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    begun = subprocess.Popen(
        [sys.executable, "-m", "toolkit.compress", str(tmp_path / "a.png"), str(tmp_path / "a.tkc")],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),  # a shell's background job
    )  # fmt: skip
    assert begun.stderr is not None
    said = ""
    while "compiling the coder" not in said:
        assert begun.poll() is None
        said += begun.stderr.read(1)
    time.sleep(0.5)
    before = time.monotonic()
    begun.send_signal(sign)
    rest = begun.communicate(timeout=60)[1]
    assert time.monotonic() - before < 10 and begun.returncode == status
    assert "Traceback" not in said + rest
    assert ("error: interrupted; give the same command again" in rest) == (sign == signal.SIGINT)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "cache"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_threads_have_freed_is_given_back_to_the_system() -> None:
    program = """
import sys, threading
import numpy as np
from toolkit.coding.threads import return_memory, together
if sys.argv[1] == "back":
    return_memory()
np.zeros(30 << 20, np.uint8)  # freed: from now on, glibc takes arrays of this size from what it keeps
barrier = threading.Barrier(8)
def work(i):
    arrays = [np.ones(20 << 20, np.uint8) for _ in range(2)]
    barrier.wait()
together(8, work, range(8))
print(int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) >> 10)
"""
    kept, back = (
        int(subprocess.run([sys.executable, "-c", program, how], check=True, capture_output=True).stdout)
        for how in ("kept", "back")
    )
    assert back < 100 < kept  # MiB
