"""The GPU's loops write the integers of the tensor program: in Triton's interpreter, on any machine, and on a GPU.

Run as a program, with TRITON_INTERPRET=1: that has to be decided before Triton is imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import on_gpu
from toolkit.coding import kernels
from toolkit.coding.codecs import Bits, Given
from toolkit.coding.kernels import EMPTY, NO_FREQUENCY, Order
from toolkit.coding.message import EmptyMessage, Message, NoFrequency
from toolkit.coding.wire import LOW

ROOT = Path(__file__).parents[1]
SIDE, LANE = Order
SETTINGS = ((7, 10, LANE, LOW), (64, 100, SIDE, 1), (1, 2, SIDE, 0), (64, 100, LANE, 0), (7, 12, SIDE, LOW))
# Pixels take seconds to compile: one architecture for each. Others differ little from one to the next.
COMPILED = [(name, 90) for name in (*on_gpu.NAMES[:9], "Given")]
COMPILED += [(name, arch) for name in ("Table", "logistic", "Mixture") for arch in (80, 100)] + [("Pixels", 100)]


def interpret() -> None:
    """All laws in the interpreter, on tensors of the CPU, which the loops are registered for."""
    from toolkit.coding import gpu

    torch.library.impl("toolkit::push", "CPU", gpu.push)
    torch.library.impl("toolkit::pop", "CPU", gpu.pop)
    kernels._available = lambda device: True  # type: ignore[assignment]
    gpu.block_of = lambda law: 32  # a program costs the interpreter as much whatever its lanes
    for name in on_gpu.NAMES:
        for lanes, n, order, first in SETTINGS[:2] if "Pixels" in name else SETTINGS:
            law = on_gpu.law(name, n, bins=5 if "Pixels" in name else 19, k=3)
            with kernels.reference():
                wanted = list(on_gpu.histories(law, n, lanes, order, first))
            assert list(on_gpu.histories(law, n, lanes, order, first)) == wanted, (name, lanes, order, first)
        print(name, flush=True)
    faults()


def faults() -> None:
    """Lanes that fail say so, and the others are as if the failing ones had had nothing to do."""
    law, n, lanes = on_gpu.law("logistic", 14, bins=19), 14, 7
    x, valid = torch.full((n,), 3), torch.ones(n, dtype=torch.bool)
    x[8], x[2] = 19, -1
    message, wanted = Message.random(lanes, 4, 0), Message.random(lanes, 4, 0)
    with pytest.raises(NoFrequency, match="from -1 to 19"):
        on_gpu.push(message, law, x, valid)
    assert message.is_random(0)
    found = _op("push", message, x, valid, law)
    with kernels.reference():
        on_gpu.push(wanted, law, torch.where((x >= 0) & (x < 19), x, 0), (x >= 0) & (x < 19))
    assert found == NO_FREQUENCY and on_gpu.words(message) == on_gpu.words(wanted)
    none = Given(torch.zeros(n, dtype=torch.int64), (torch.arange(n) != 5).long(), 4)
    assert _op("push", message, torch.zeros(n, dtype=torch.int64), valid, none) == NO_FREQUENCY

    law = Bits(torch.full((n,), 16).int(), 16)
    message = Message.empty(lanes)
    message.head[3] = LOW << 16  # its bits are enough for one symbol of the two
    message.head[4] = LOW << 31
    assert _op("pop", message, valid, law) == EMPTY
    assert message.floor.tolist() == [-2, -2, -2, -1, -1, -2, -2] and message.head[0] == LOW
    with pytest.raises(EmptyMessage, match="lane 0 of 7"):
        on_gpu.pop(Message.empty(lanes), law, valid)


def _op(which: str, message: Message, *given: Any) -> int:
    *tensors, law = given
    message.reserve(4)
    state = message.head, message.tail, message.size, message.floor
    found = getattr(torch.ops.toolkit, which)(*state, *tensors, *law.parts(), type(law).__name__, message.first, 0)
    return int(found if which == "push" else found[1])


def test_words_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    run = [sys.executable, "-m", "tests.test_gpu"]
    done = subprocess.run(run, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.parametrize(("name", "arch"), COMPILED)
def test_programs_compile_without_spills_and_divisions(name: str, arch: int) -> None:
    pytest.importorskip("triton")
    for operation in ("push",) if name == "Given" else ("push", "pop"):
        ptx, used = compiled(name, operation, arch)
        # Integers are divided by a reciprocal; weights of pixels are, as the CPU's, quotients that are rounded once.
        assert not re.findall(r"\b(?:div|rem)\.[su]\d+", ptx)
        assert len(re.findall(r"\bdiv\.rn\.f64", ptx)) == {"Pixels": 6, "Pixels, drawn": 3}.get(name, 0)
        assert not re.findall(r"\bfma\.", ptx), "a product and a sum were fused"
        assert used["REG"] <= 128, used
        assert used["STACK"] <= 16 and not used["LOCAL"], used  # what is saved around the quotients of floats


def compiled(name: str, operation: str, arch: int) -> tuple[str, dict[str, int]]:
    """PTX of a law's loop for an architecture, and what its program uses; no device is needed."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from toolkit.coding import gpu

    some = torch.zeros(9, dtype=torch.int64)
    law = Given(some, some, 24) if name == "Given" else on_gpu.law(name, 9, k=10)
    kind = type(law).__name__
    given = gpu.law_of(kind, *law.parts())
    kernel = getattr(gpu, f"{operation}_pixels" if kind == "Pixels" else f"{operation}_kernel")
    types = {"faults_p": "*i32", "valid_p": "*i1", "tail_p": "*i32", "law": _types(given)}
    signature = {x: types.get(x, "*i64" if x.endswith("_p") else "i32") for x in kernel.arg_names}
    constants: dict[Any, Any] = {
        (kernel.arg_names.index("law"), i): x.value
        for i, x in enumerate(given)
        if not hasattr(x, "dtype") and _fixed(x)
    }
    functions = dict(zip(("LOAD", "INTERVAL", "FIND"), gpu.FUNCTIONS.get(kind, ()), strict=False))
    for key, value in {**functions, "BLOCK": gpu.block_of(given)}.items():
        if key in signature:
            signature[key], constants[kernel.arg_names.index(key),] = "constexpr", value
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    program = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=gpu.OPTIONS)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        tool = Path(triton.__path__[0]) / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    return program.asm["ptx"], {x: int(y) for x, y in re.findall(r"(REG|STACK|LOCAL):(\d+)", text.stdout + text.stderr)}


def _fixed(x: Any) -> bool:
    return type(x).__name__ == "constexpr"


def _types(law: Any) -> Any:
    names = {torch.int64: "*i64", torch.int32: "*i32", torch.float32: "*fp32", torch.float64: "*fp64"}
    return type(law)(*(names[x.dtype] if hasattr(x, "dtype") else "constexpr" if _fixed(x) else "i32" for x in law))


def test_a_day_on_a_gpu_runs_dry(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    run = [sys.executable, "scripts/gpu_day.py", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {name} |" in table for name in on_gpu.NAMES) and (tmp_path / "gpu.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_day_needs_a_gpu(tmp_path: Path) -> None:
    run = [sys.executable, "scripts/gpu_day.py", "--out", str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no CUDA device" in done.stderr and "Traceback" not in done.stderr


gpu_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.gpu
@gpu_only
@pytest.mark.parametrize("name", on_gpu.NAMES)
def test_words_on_a_gpu(name: str) -> None:
    for lanes, n, order, first in (
        (1, 50, SIDE, 0),
        (7, 300, LANE, LOW),
        (4096, 30_000, SIDE, 1),
        (999, 9999, LANE, 0),
    ):
        law = on_gpu.law(name, n)
        wanted = list(on_gpu.histories(law, n, lanes, order, first))
        assert kernels._available("cuda"), "the GPU's loops did not load"
        assert list(on_gpu.histories(law, n, lanes, order, first, "cuda")) == wanted, (lanes, order, first)


@pytest.mark.gpu
@gpu_only
@pytest.mark.parametrize("name", on_gpu.NAMES)
@pytest.mark.parametrize("lanes", [4096, 65_536])
def test_speed_on_a_gpu(name: str, lanes: int) -> None:
    law = on_gpu.law(name, 16 * lanes)
    found = [on_gpu.speeds(law, 16 * lanes, lanes, device) for device in ("cuda", "cpu")]
    print(f"{name}, {lanes} lanes: push, pop Msymbols/s on the GPU {found[0]}, on the CPU {found[1]}")
    assert min(found[0]) > 10


if __name__ == "__main__":
    interpret()
