"""Images a second of data sets that a DataLoader reads: a .tkc file beside PNG files and, if installed, litdata.

    python scripts/data_speed.py --run RUN ARRAY.npy            # rows uint8 [n, c, h, w], and the run that codes them
    python scripts/data_speed.py --run photographs CROPS.npy

All read the same pictures in batches of 64, in a new order, with the same number of workers, one after the other,
several times; batches are thrown away. Beside other programs only the processor time says something: it is that of this
process and its workers, of one thread each.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import toolkit
from toolkit import opened, zoo
from toolkit.data import TkcIterableDataset

BATCH = 64


class Files(Dataset[Tensor]):
    """PNG files, each read and decoded by a function."""

    def __init__(self, paths: list[Path], read: Callable[[str], Tensor]) -> None:
        self.paths, self.read = [str(path) for path in paths], read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        return self.read(self.paths[i])


def by_torchvision(path: str) -> Tensor:
    from torchvision.io import decode_image

    return decode_image(path)


def by_pillow(path: str) -> Tensor:
    with Image.open(path) as image:
        pixels = np.array(image)
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)


def as_png(rows: np.ndarray, folder: Path) -> list[Path]:
    """Rows as PNG files, a thousand a folder."""
    paths = [folder / f"{i // 1000:03}" / f"{i:06}.png" for i in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row.transpose(1, 2, 0).squeeze()).save(path)
    return paths


def as_tkc(rows: np.ndarray, run: str, path: Path, exact: bool, chunk_rows: int) -> None:
    """Rows as a .tkc file: an array of a model of rows, pictures of a model of whole ones."""
    head, _ = opened.head_of(zoo.folder_of(run))
    if head.every:
        with toolkit.Writer(path, run, effort=0) as writer:
            for row in rows:
                writer.add(row)
        return
    with toolkit.Writer(path, run, exact=exact, chunk_rows=chunk_rows, device="cpu") as writer:
        writer.add(rows)


def litdata_of(paths: list[Path], folder: Path) -> Callable[[int], Any] | None:
    """A loader of the same files by litdata, None where it is not installed."""
    try:
        import litdata
    except ImportError:
        return None
    litdata.optimize(
        fn=_item, inputs=[str(path) for path in paths], output_dir=str(folder), chunk_bytes="16MB", num_workers=1
    )

    def loader(workers: int) -> Any:
        data = litdata.StreamingDataset(str(folder), shuffle=True, seed=0)
        return litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=_collated)

    return loader


def _item(path: str) -> dict[str, Any]:
    return {"image": Path(path).read_bytes()}


def _collated(items: list[dict[str, Any]]) -> Tensor:
    from torchvision.io import decode_image

    return torch.stack([decode_image(torch.frombuffer(bytearray(item["image"]), dtype=torch.uint8)) for item in items])


def processor_seconds() -> float:
    return sum(
        use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measured(loader: Any) -> tuple[int, float, float]:
    """Images of one epoch, seconds by the clock, and of processors; starting the workers is included."""
    began, spent, count = time.perf_counter(), processor_seconds(), 0
    for batch in loader:
        count += len(batch)
    del batch
    return count, time.perf_counter() - began, processor_seconds() - spent


Loader = Callable[[int], Any]  # by number of workers


def loaders(args: argparse.Namespace, rows: np.ndarray, folder: Path) -> Iterator[tuple[str, Loader, int]]:
    """Name, loader, bytes."""
    paths = as_png(rows, folder / "png")
    size = sum(path.stat().st_size for path in paths)

    def of_files(read: Callable[[str], Tensor]) -> Loader:
        data = Files(paths, read)
        return lambda workers: DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True)

    yield "PNG, torchvision decode_image", of_files(by_torchvision), size
    yield "PNG, Pillow", of_files(by_pillow), size
    place = folder / "litdata"
    if found := litdata_of(paths, place):
        yield "litdata, PNG bytes in chunks", found, sum(path.stat().st_size for path in place.iterdir())
    for i, run in enumerate(args.run):
        file = folder / f"{i}.tkc"
        as_tkc(rows, run, file, args.exact, args.chunk_rows)

        def loader(workers: int, file: Path = file, run: str = run) -> Any:
            data = TkcIterableDataset(file, run, BATCH)
            return DataLoader(data, batch_size=None, num_workers=workers) if workers else data

        yield f".tkc, {run}", loader, file.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("array", type=Path)
    parser.add_argument("--run", nargs="+", default=["photographs"])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--chunk-rows", type=int, default=1024)
    parser.add_argument("--exact", action="store_true", help="files that decode on any machine")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    rows = np.ascontiguousarray(np.load(args.array, mmap_mode="r")[: args.rows])
    folder = Path(tempfile.mkdtemp(prefix="data_speed-"))
    try:
        known = [*loaders(args, rows, folder)]
        for _, loader, _ in known:  # loading and compiling is no part of a speed
            measured(loader(0))
        print(
            f"{len(rows)} pictures {list(rows.shape[1:])}: images a second of processor time, of the clock; the first"
        )
        print("over that of the first line; bytes a picture")
        for workers in args.workers:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in known}
            for _ in range(args.repeat):
                for name, loader, _ in known:
                    count, seconds, spent = measured(loader(workers))
                    found[name].append((count / spent, count / seconds))
            first = float(np.median([cpu for cpu, _ in found[known[0][0]]]))
            for name, _, size in known:
                cpu, clock = (float(np.median(values)) for values in zip(*found[name], strict=True))
                share = f"{cpu:9.0f} {clock:9.0f} {cpu / first:7.3f} {size / len(rows):9.0f}"
                print(f"{workers} workers  {name:36} {share}")
                sys.stdout.flush()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
