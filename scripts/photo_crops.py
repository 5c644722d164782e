"""Crops of photographs as one array to train on.

    python scripts/photo_crops.py OUT.npy SIZE FOLDER:CROPSxFACTOR,... ... [turned]

For each picture of a folder, in the order of its name, so many random crops of it made smaller by each factor, if it is
large enough. For instance `crops.npy 192 photos:360x1 web:8x1,14x2`. With `turned` as the last word, each is in one of
the eight positions of a square, at random. Seed 0.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from toolkit.data.splits import downsample, random_crops
from toolkit.images.files import read_image
from toolkit.images.folder import find


def in_all_positions(rows: torch.Tensor) -> torch.Tensor:
    """Rows [n, c, size, size], an eighth of them in each position of a square: turned by 0 to 3 quarters, mirrored."""
    return torch.cat([part.rot90(i % 4, (2, 3)).flip(3 if i < 4 else ()) for i, part in enumerate(rows.chunk(8))])


def main(output: str, size: int, specifications: list[str]) -> None:
    """Write uint8 [n, 3, size, size] in a random order."""
    generator = torch.Generator().manual_seed(0)
    turned = specifications[-1] == "turned"
    found = []
    for specification in specifications[: -1 if turned else None]:
        folder, _, parts = specification.partition(":")
        wanted = [tuple(map(int, part.split("x"))) for part in parts.split(",")]
        for file in find(folder):
            picture = torch.from_numpy(read_image(file)).expand(3, -1, -1)
            for crops, factor in wanted:
                smaller = downsample(picture, factor)
                if min(smaller.shape[1:]) >= size:
                    found.append(random_crops(smaller, crops, size, generator))
    rows = torch.cat(found)
    rows = rows[torch.randperm(len(rows), generator=generator)]
    if turned:  # in random order already
        rows = in_all_positions(rows)
        rows = rows[torch.randperm(len(rows), generator=generator)]
    np.save(output, rows.numpy())
    print(f"{len(rows)} crops of {size} x {size} -> {output}")


if __name__ == "__main__":
    if len(sys.argv) < 4 or not sys.argv[2].isdecimal() or not all(":" in x for x in sys.argv[3:] if x != "turned"):
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
