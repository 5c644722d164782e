"""Published image data sets: MNIST, Fashion-MNIST, CIFAR-10 and ImageNet32, from files at hand or downloaded."""

import gzip
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.data.splits import Splits, hold_out

ALTERNATIVE = "or take data that need no download: data=photos or data=digits"


def mnist(root: str | Path, validation_rows: int = 5_000) -> Splits:
    """MNIST: rows uint8 [n, 1, 28, 28]; 60,000 training rows, less the last `validation_rows`, and 10,000 test rows.

    Read from the published .gz files if they lie in `root` (checked by MD5), else from torchvision's layout
    `root`/MNIST/raw, downloaded when absent. Raises FileNotFoundError if there are neither files nor a network.
    Source: LeCun, Bottou, Bengio, Haffner 1998.
    """
    return _mnist_like("MNIST", Path(root), validation_rows)


def fashion_mnist(root: str | Path, validation_rows: int = 5_000) -> Splits:
    """Fashion-MNIST, with the shapes and files of `mnist` (torchvision's layout: `root`/FashionMNIST/raw).

    Source: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747.
    """
    return _mnist_like("FashionMNIST", Path(root), validation_rows)


def cifar10(root: str | Path, validation_rows: int = 5_000) -> Splits:
    """CIFAR-10: rows uint8 [n, 3, 32, 32]; 50,000 training rows, less the last `validation_rows`, and 10,000 test rows.

    Read through torchvision from `root`/cifar-10-batches-py, downloaded when absent. Raises FileNotFoundError if there
    are neither files nor a network. Source: Krizhevsky 2009.
    """
    root = Path(root).expanduser()
    wanted = f"cifar-10-python.tar.gz in {root} (or unpacked: {root / 'cifar-10-batches-py'})"
    parts = [torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in _torchvision("CIFAR10", root, wanted)]
    return Splits(*hold_out(parts[0].contiguous(), validation_rows), parts[1].contiguous(), "cifar10")


def imagenet32(root: str | Path, validation_rows: int = 5_000) -> Splits:
    """ImageNet32: rows uint8 [n, 3, 32, 32]; 1,281,167 training rows, less the last `validation_rows`, 50,000 for test.

    Read from the published files train_data_batch_1.npz to train_data_batch_10.npz and val_data.npz in `root`; the
    official validation set is the test set here, as in the papers. There is no download: image-net.org wants a login.
    Raises FileNotFoundError if one is missing, ValueError if one holds something else. Takes 4 GB of memory.
    Source: Chrabaszcz, Loshchilov, Hutter 2017, arXiv:1707.08819 (the box-filtered version).
    """
    root = Path(root).expanduser()
    names = [f"train_data_batch_{i}.npz" for i in range(1, 11)]
    missing = [name for name in [*names, "val_data.npz"] if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected train_data_batch_1.npz to train_data_batch_10.npz and val_data.npz in {root}, "
            f"missing: {', '.join(missing)}; do: download ImageNet32 (npz) from image-net.org/download-images into "
            f"{root}, {ALTERNATIVE}"
        )
    train = _npz_rows([root / name for name in names])
    return Splits(*hold_out(train, validation_rows), _npz_rows([root / "val_data.npz"]), "imagenet32")


def _npz_rows(paths: list[Path]) -> Tensor:  # uint8 [n, 3, 32, 32]
    shapes = [_npz_shape(path) for path in paths]
    rows = torch.empty(sum(shape[0] for shape in shapes), 3, 32, 32, dtype=torch.uint8)
    start = 0  # one file at a time into the final tensor: concatenating at the end would need the memory twice
    for path, (n, _) in zip(paths, shapes, strict=True):
        with np.load(path, allow_pickle=False) as file:
            rows[start : start + n] = torch.from_numpy(file["data"]).view(n, 3, 32, 32)
        start += n
    return rows


def _npz_shape(path: Path) -> tuple[int, int]:
    got = "no array named 'data'"
    with zipfile.ZipFile(path) as archive:
        if "data.npy" in archive.namelist():
            with archive.open("data.npy") as file:
                major, _ = np.lib.format.read_magic(file)
                header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = header(file)
            if dtype == np.uint8 and len(shape) == 2 and shape[1] == 3072 and not fortran:
                return int(shape[0]), 3072
            got = f"{dtype} {list(shape)}"
    raise ValueError(
        f"expected uint8 [n, 3072] under the key 'data' in {path}, got {got}; "
        "do: download the 32 x 32 npz version of the file again"
    )


def _mnist_like(name: str, root: Path, validation_rows: int) -> Splits:
    from torchvision import datasets  # imported here: seconds that other data do not pay

    root = root.expanduser()
    md5s = dict(getattr(datasets, name).resources)
    files = ["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"]
    found = [root / file for file in files if (root / file).is_file()]
    # By MD5, because MNIST and Fashion-MNIST name their files alike, and may share a root.
    found = [path for path in found if hashlib.md5(path.read_bytes()).hexdigest() == md5s[path.name]]
    if len(found) == len(files):
        parts = [_read_idx(path) for path in found]
    else:
        wanted = f"{' and '.join(files)} of {name} (MD5 {' and '.join(md5s[file] for file in files)}) in {root}"
        wanted += f" or all four unpacked in {root / name / 'raw'}"
        parts = [part.data for part in _torchvision(name, root, wanted)]
    train, test = (part.unsqueeze(1).contiguous() for part in parts)
    return Splits(*hold_out(train, validation_rows), test, {"MNIST": "mnist", "FashionMNIST": "fashion_mnist"}[name])


def _read_idx(path: Path) -> Tensor:  # uint8 [n, h, w]
    data = gzip.decompress(path.read_bytes())
    n, height, width = np.frombuffer(data, ">i4", 3, offset=4).tolist()  # after a magic number of 4 bytes
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=16).reshape(n, height, width).copy())


def _torchvision(name: str, root: Path, wanted: str) -> list[Any]:
    from torchvision import datasets

    kind = getattr(datasets, name)
    try:
        return [kind(root, train=train, download=True) for train in (True, False)]  # download: only if absent
    except (OSError, RuntimeError) as error:  # torchvision wraps some network errors in a RuntimeError
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"expected {wanted}; the files are not there and the download failed ({reason}); "
            f"do: put them there, set TOOLKIT_DATA or data.splits.root to the folder that holds them, {ALTERNATIVE}"
        ) from error
