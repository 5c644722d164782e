"""The bytes of what a person gave, beside those of the .tkc file."""

from __future__ import annotations

from pathlib import Path

from toolkit.container import Reader
from toolkit.images.picture_archive import KIND
from toolkit.images.source import Source


def given(pictures: Source, file: str, lossless: bool) -> str:
    """The bytes of what was given beside those of the file; where there are several kinds of files, of each."""
    before, count, size = sum(pictures.sizes), len(pictures.sizes), Path(file).stat().st_size
    lines = [f"{_files(count, 'input')}: {before} bytes; the .tkc: {size}, {100 * size / before:.1f} %"]
    kinds = sorted(set(pictures.kinds))
    if size > before and kinds != ["JPEG"]:
        lines[0] += "\nThe .tkc is the larger one: pictures of a few pixels, or of noise, cannot be made smaller."
    if not lossless or len(kinds) < 2:
        return lines[0] + "\nAll are JPEG files, whose pixels are kept, and not their bytes." * (kinds == ["JPEG"])
    with Reader(file) as reader:
        apart = reader.header["kind"] == KIND  # each picture is a chunk
        chunks = [chunk.size for chunk in reader.chunks]
    for kind in kinds:
        which = [i for i, other in enumerate(pictures.kinds) if other == kind]
        before, after = sum(pictures.sizes[i] for i in which), sum(chunks[i] for i in which) if apart else 0
        pixels = f"; their pixels: {after}, {100 * after / before:.1f} %" if apart else ""
        lines.append(f"  {_files(len(which), kind)}: {before} bytes{pixels}")
    return "\n".join(lines)


def _files(count: int, kind: str) -> str:
    return f"{count} {kind} file{'s' * (count != 1)}"
