"""All that a GPU has to say about the coders, in one command of at most ten minutes.

    python scripts/gpu_day.py [--out docs/results/gpu]
    python scripts/gpu_day.py --dry-run  # small, in Triton's interpreter, without a GPU

Runs the tests that need a GPU; times push and pop of each law at 4,096 and 65,536 lanes, beside a plain copy on the
device; profiles one push and pop. Writes gpu.json, gpu.md, tests.txt and profile.txt into the folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTS, ALL = 300, 540  # seconds for the tests, and after which no law is begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--dry-run", action="store_true", help="small, in Triton's interpreter, without a GPU")
    args = parser.parse_args()
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    import torch

    if not args.dry_run and not torch.cuda.is_available():
        print("gpu_day: no CUDA device here; --dry-run runs small parts of it without one", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT))
    from toolkit.coding import kernels

    began, device = time.monotonic(), "cpu" if args.dry_run else "cuda"
    args.out.mkdir(parents=True, exist_ok=True)
    if args.dry_run:
        interpret()
    elif not kernels.compiled(device):
        print("gpu_day: the kernels do not load on this machine: see the warning above", file=sys.stderr)
        return 1
    found: dict[str, Any] = {"torch": torch.__version__, "device": device, "tests": tests(args.out, args.dry_run)}
    if not args.dry_run:
        found["device"] = torch.cuda.get_device_name()
    found["copy_GBps"] = copy_speed(device, 1 << 14 if args.dry_run else 1 << 28)
    found["laws"] = speeds(device, (2,) if args.dry_run else (4096, 65_536), 1 if args.dry_run else 64, began)
    profile(args.out / "profile.txt", device, 2 if args.dry_run else 65_536, 1 if args.dry_run else 64)
    found["seconds"] = round(time.monotonic() - began)
    (args.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "gpu.md").write_text(table(found))
    print(table(found))
    return int("failed" in found["tests"] or "error" in found["tests"])


def interpret() -> None:
    """Let the interpreter code what is on the CPU."""
    import torch

    from toolkit.coding import gpu, kernels

    torch.library.impl("toolkit::push", "CPU", gpu.push)
    torch.library.impl("toolkit::pop", "CPU", gpu.pop)
    kernels._available = lambda device: True  # type: ignore[assignment]


def tests(out: Path, dry: bool) -> str:
    """The last line of pytest."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-s", "tests"]
    if dry:
        command = [*command[:3], "--version"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS)
        text = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        text = f"{error.stdout or b''!r}\nfailed: the tests took more than {TESTS} s"
    (out / "tests.txt").write_text(text)
    return (text.strip().splitlines() or ["failed: no output"])[-1]


def copy_speed(device: str, size: int) -> float:
    """Gigabytes a second that a copy reads and writes."""
    import torch

    source, best = torch.zeros(size, dtype=torch.uint8, device=device), float("inf")
    target = torch.empty_like(source)
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return round(2 * size / best / 1e9, 1)


def wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def speeds(device: str, lanes: tuple[int, ...], steps: int, began: float) -> list[dict[str, Any]]:
    from tests import on_gpu

    rows = []
    for name in on_gpu.NAMES:
        for count in lanes:
            if time.monotonic() - began > ALL:
                print(f"gpu_day: no time left for {name} at {count} lanes", file=sys.stderr)
                continue
            n = count * steps
            law = on_gpu.law(name, n, k=10 if device == "cuda" else 2)
            push, pop = on_gpu.speeds(law, n, count, device, 4 if device == "cuda" else 1)
            # Symbols and which are valid, read or written once, and parameters, of as many symbols as there are.
            each = (
                9
                + sum(x.numel() * x.element_size() for x in law.parts()[0] if n in x.shape)
                / on_gpu.valid_of(law, n).numel()
            )
            rows.append({"law": name, "lanes": count, "push": push, "pop": pop, "bytes": round(each, 1)})
            print(f"{name}, {count} lanes: push {push:.4g}, pop {pop:.4g} Msymbols/s", flush=True)
    return rows


def profile(path: Path, device: str, lanes: int, steps: int) -> None:
    import torch

    from tests import on_gpu
    from toolkit.coding.message import Message

    n = lanes * steps
    law, valid = on_gpu.on(on_gpu.law("logistic", n), device), on_gpu.valid_of(on_gpu.law("Bit", n), n).to(device)
    message = Message.random(lanes, 4 + 4 * steps, 0, device)
    with torch.profiler.profile() as seen:  # whatever there is to see
        on_gpu.push(message, law, on_gpu.pop(message, law, valid), valid)
        wait(device)
    path.write_text(seen.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=25))


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['device']}, torch {found['torch']}; tests: {found['tests']}; copy {found['copy_GBps']} GB/s", "",
        "| law | lanes | push Msymbols/s | pop Msymbols/s | bytes a symbol | share of a copy, push | pop |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["laws"]:
        shares = [row[key] * row["bytes"] / 1e3 / found["copy_GBps"] for key in ("push", "pop")]
        lines.append(
            f"| {row['law']} | {row['lanes']:,} | {row['push']:.4g} | {row['pop']:.4g} | {row['bytes']} | "
            f"{shares[0]:.1%} | {shares[1]:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
