"""Photographs whose licences allow a model that ships: python scripts/photographs.py OUT [permissive] [repositories]

Downloads Debian packages and writes OUT/train and OUT/held_out (PNG, at most 1.5 megapixels), OUT/SOURCES.md (where
each is from, its author and licence) and OUT/copyright (what packages and repositories say themselves). With
`permissive`, OUT/train leaves out what is under the GPL, LGPL, FDL or a share-alike licence; with `repositories`,
public git repositories add 19 to OUT/train. Needs Debian 12 or what is made from it, its package lists (`apt-get
update`), the network for 250 MB (and git, and 70 MB more), and no root.

The list is what was looked at and found to be photographs: renders, gradients, drawings, montages and files with
visible JPEG blocks stay out. Held-out ones are by photographers who, as far as they are named, are nowhere in train.
What was a JPEG is made smaller by 2 at least, and until it has no more than two pixels for each byte of its file.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PIXELS = 1_500_000
PERMISSIVE = ("CC0", "CC0-1.0", "CC-BY-4.0", "BSD-3-clause", "Expat")
PACKAGES = {  # where its pictures are
    "lomiri-wallpapers-16.04": "usr/share/backgrounds/{}.jpg",
    "lomiri-wallpapers-20.04": "usr/share/backgrounds/{}.jpg",
    "libjxl-testdata": "usr/share/libjxl-testdata/{}.png",
    "golang-github-disintegration-imaging-dev": "usr/share/gocode/src/github.com/disintegration/imaging/testdata/{}",
    "palapeli-data": "usr/share/palapeli/collection/{}.jpg",
    "lxqt-themes": "usr/share/lxqt/wallpapers/{}",
    "mate-backgrounds": "usr/share/backgrounds/mate/nature/{}.jpg",
    "plasma-workspace-wallpapers": "usr/share/wallpapers/{}/contents/images/2560x1600.jpg",
}
REPOSITORIES = {  # address, commit, commit and file that say the licence, and where its pictures are
    "budgie-backgrounds": (
        "https://github.com/BuddiesOfBudgie/budgie-backgrounds", "82067426f1dde366e9c9038fdbe457c2527525dd",
        "82067426f1dde366e9c9038fdbe457c2527525dd:LICENSE", "backgrounds/{}.jpg",
    ),
    "elementary-wallpapers": (
        "https://github.com/elementary/wallpapers", "f28b86144ba01d788ac61ad198ca16fa9477913f",
        "ba8b274cbb0afeda198a62007480ce89d00052f1:debian/copyright", "backgrounds/{}.jpg",
    ),
}  # fmt: skip
# package | author | licence by its copyright file, then by what lies beside the picture | smaller by at least | which
TRAIN = """
lomiri-wallpapers-16.04 | Aitzol Berasategi | CC-BY-4.0 | 2 | aitzgorri_by_Aitzol_Berasategi life_by_Aitzol_Berasategi
lomiri-wallpapers-16.04 | Aitzol Berasategi | CC-BY-4.0 | 2 | friends_by_Aitzol_Berasategi sunset_by_Aitzol_Berasategi
lomiri-wallpapers-16.04 | Aitzol Berasategi | CC-BY-4.0 | 2 | picosdeeuropa_by_Aitzol_Berasategi
lomiri-wallpapers-16.04 | Trevor "Freespace" | CC-BY-4.0 | 2 | Picture_0B_by_freespace Picture_1A_by_freespace
lomiri-wallpapers-16.04 | Clemens Engelhardt | CC0-1.0 | 2 | seeding_by_Clements_Engelhardt
lomiri-wallpapers-16.04 | Peter Nerlich | CC-BY-SA-4.0 | 2 | free_by_Peter_Nerlich greentock_by_Peter_Nerlich
libjxl-testdata | wesaturate.com | CC0 | 1 | external/wesaturate/500px/cvo9xd_keong_macan_srgb8
libjxl-testdata | wesaturate.com | CC0 | 1 | external/wesaturate/500px/tmshre_riaphotographs_srgb8
libjxl-testdata | wesaturate.com | CC0 | 1 | external/wesaturate/500px/u76c0g_bliznaca_srgb8
golang-github-disintegration-imaging-dev | Grigory Dryapak | Expat | 1 | branches.png flowers.png
palapeli-data | John Severns | GPL-2+, public domain | 2 | european-honey-bee
palapeli-data | Derek Jensen | GPL-2+, public domain | 2 | cincinnati-bridge
palapeli-data | US Department of Agriculture | GPL-2+, public domain | 2 | citrus-fruits
palapeli-data | Eric Pouhier | GPL-2+, FDL | 2 | castle-maintenon
lxqt-themes | stefonarch | LGPL-2.1+, CC-BY-SA-3.0 | 2 | after-the-rain.jpg appleflower.png butterfly.png drop.png
lxqt-themes | stefonarch | LGPL-2.1+, CC-BY-SA-3.0 | 2 | flowers.png fog.jpg this-is-not-windows.jpg
lxqt-themes | LXQt Project Team | LGPL-2.1+, CC-BY-SA-3.0 | 2 | Valendas.png
mate-backgrounds | Charles Barbin | GPL-2+ | 2 | Aqua Garden LadyBird TwoWings YellowFlower
mate-backgrounds | Lennart Poettering | GPL-2+ | 2 | Blinds
mate-backgrounds | blackcombwhistler07 | GPL-2+ | 2 | RainDrops
mate-backgrounds | Jean-François Fortin Tam | GPL-2+ | 2 | Wood
plasma-workspace-wallpapers | Risto Saukonpää | GPL-2+, LGPLv3 | 2 | ColdRipple DarkestHour Kite
plasma-workspace-wallpapers | Risto Saukonpää | GPL-2+, LGPLv3 | 2 | OneStandsOut Path summer_1am
plasma-workspace-wallpapers | Maciej Wiklo | GPL-2+, LGPLv3 | 2 | BytheWater
plasma-workspace-wallpapers | Sigi Sagi | GPL-2+, LGPLv3 | 2 | Grey
"""
# Photographs of repositories, in the same columns; ? stands for a space.
MORE = """
budgie-backgrounds | its contributors | CC0-1.0 | 2 | abstract-spiral beacon-street-sunset blue-periwinkle canyon-wren
budgie-backgrounds | its contributors | CC0-1.0 | 2 | casa-mila extreme-desert-hike high-trestle-trail lake-sherburne
budgie-backgrounds | its contributors | CC0-1.0 | 2 | oakland-zoo-otters perched-osprey piazza-gae-aulenti
budgie-backgrounds | its contributors | CC0-1.0 | 2 | roman-colosseum singaporean-cityscape tea-gardens
budgie-backgrounds | its contributors | CC0-1.0 | 2 | the-spices-of-life
elementary-wallpapers | Ashim D'Silva | CC0-1.0 | 2 | Ashim?DSilva
elementary-wallpapers | Mr. Lee | CC0-1.0 | 2 | Mr.?Lee
elementary-wallpapers | SpaceX | CC0-1.0 | 2 | Photo?by?SpaceX
elementary-wallpapers | unsplash.com/photos/ces8_Bo7bhQ | CC0-1.0 | 2 | Sunset?by?the?Pier
"""
HELD_OUT = """
lomiri-wallpapers-16.04 | Bolly | CC-BY-SA-4.0 | 2 | Dragonfly_by_Bolly
lomiri-wallpapers-16.04 | Sander Klootwijk | CC-BY-SA-4.0 | 2 | Bridge_by_Sander_Klootwijk
lomiri-wallpapers-16.04 | Jakub Mede | CC-BY-4.0 | 2 | Wine_by_Jakkub_Mede
lomiri-wallpapers-20.04 | Lukas Baubkus | CC-BY-SA-3.0 | 2 | Kleiber_by_Lukas_Baubkus
libjxl-testdata | the JPEG XL Project Authors | BSD-3-clause | 2 | jxl/flower/flower
palapeli-data | B. Navez and others | GPL-2+, FDL | 2 | panther-chameleon-female
mate-backgrounds | Marco Cogoni | GPL-2+ | 2 | Dune
mate-backgrounds | Timothy Schellhase | GPL-2+ | 2 | GreenMeadow
mate-backgrounds | Sergey Nazarov | GPL-2+ | 2 | Storm
plasma-workspace-wallpapers | Ian Hex | GPL-2+, LGPLv3 | 2 | EveningGlow
plasma-workspace-wallpapers | Martin Klapetek | GPL-2+, LGPLv3 | 2 | FallenLeaf
plasma-workspace-wallpapers | Dmitri Popov | GPL-2+, LGPLv3 | 2 | ColorfulCups
"""


def command(*words: str, folder: Path) -> str:
    """What a command prints, or an exit with what it says is wrong."""
    try:
        return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        sys.exit(f"{words[0]} is not here: this needs Debian or what is made from it, and git for repositories")
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["nothing"])[-1]
        hint = "" if words[0] == "git" else "\nIf the package is not found, run `apt-get update` first."
        sys.exit(f"`{' '.join(words)}` failed: {said}{hint}")


def unpack(package: str, folder: Path) -> str:
    """Download a package and unpack it into folder/package; its version."""
    print(package, flush=True)
    command("apt-get", "download", package, folder=folder)
    (archive,) = folder.glob(f"{package}_*.deb")
    command("dpkg", "-x", archive.name, package, folder=folder)
    return command("dpkg-deb", "-f", archive.name, "Version", folder=folder)


def check_out(repository: str, folder: Path) -> str:
    """Fetch a commit of a repository into folder/repository, with its licence as the file copyright; the commit."""
    print(repository, flush=True)
    address, commit, licence, _ = REPOSITORIES[repository]
    command("git", "init", "--quiet", repository, folder=folder)
    inside = folder / repository
    for wanted in (licence.split(":")[0], commit):
        command("git", "fetch", "--quiet", "--depth=1", address, wanted, folder=inside)
    command("git", "checkout", "--quiet", commit, folder=inside)
    (inside / "copyright").write_text(command("git", "show", licence, folder=inside) + "\n", encoding="utf-8")
    return commit[:12]


def smaller(file: Path, least: float) -> Image.Image:
    """A picture without what its JPEG left in it: grey or RGB, at most PIXELS."""
    with Image.open(file) as opened:
        allowed = min(PIXELS, opened.width * opened.height / least**2)
        if opened.format == "JPEG":
            allowed = min(allowed, 2 * file.stat().st_size)
        scale = math.sqrt(allowed / (opened.width * opened.height))
        picture = opened.convert("L" if opened.mode == "L" else "RGB")
    size = int(picture.width * scale + 1e-9), int(picture.height * scale + 1e-9)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def main(out: Path, permissive: bool, repositories: bool) -> None:
    """Download, choose, make smaller, write; `out` appears when all is there."""
    if out.exists():
        sys.exit(f"{out} exists: name a folder that does not, nothing is overwritten")
    rows = ["| file | size | of | package | version | author | licence |", "|" + "---|" * 7]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:  # beside it: to be renamed
        folder = Path(name).resolve()
        made = folder / "made"
        versions = {package: unpack(package, folder) for package in PACKAGES}
        places = {package: (f"usr/share/doc/{package}/copyright", place) for package, place in PACKAGES.items()}
        if repositories:
            versions |= {repository: check_out(repository, folder) for repository in REPOSITORIES}
            places |= {repository: ("copyright", place) for repository, (*_, place) in REPOSITORIES.items()}
        found = []
        splits = (("train", TRAIN + MORE * repositories), ("held_out", HELD_OUT))
        for split, line in [(split, line) for split, table in splits for line in table.splitlines() if line]:
            package, author, licence, least, names = (field.strip() for field in line.split("|"))
            if split == "train" and permissive and licence.split(", ")[-1] not in PERMISSIVE:
                continue
            for picture in names.split():
                source = folder / package / places[package][1].format(picture.replace("?", " "))
                if not source.is_file():
                    sys.exit(f"{package} {versions[package]} has no {source.name}; packages are those of Debian 12")
                found.append((split, package, author, licence, float(least), source))
        for part in ("train", "held_out", "copyright"):
            (made / part).mkdir(parents=True)
        for package, (licence, _) in places.items():
            shutil.copyfile(folder / package / licence, made / "copyright" / package)
        for split, package, author, licence, factor, source in found:
            photograph = smaller(source, factor)
            within = source.relative_to(folder / package)
            stem = within.parts[3] if package.startswith("plasma") else source.stem
            target = f"{split}/{package.split('-')[0]}_{stem.replace(' ', '_')}.png"
            photograph.save(made / target)
            size = f"{photograph.width} x {photograph.height}"
            rows.append(f"| {target} | {size} | {within} | {package} | {versions[package]} | {author} | {licence} |")
        text = "# Where these photographs are from\n\n" + "\n".join(rows) + "\n"
        (made / "SOURCES.md").write_text(text, encoding="utf-8")
        made.rename(out)
    print(f"{len(found)} photographs -> {out}, the source of each in {out / 'SOURCES.md'}")


if __name__ == "__main__":
    words = sys.argv[2:]
    if len(sys.argv) < 2 or sys.argv[1].startswith("-") or not {*words} <= {"permissive", "repositories"}:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), "permissive" in words, "repositories" in words)
