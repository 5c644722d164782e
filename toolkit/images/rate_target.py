"""The size of a file or the PSNR that a picture is to have, and the search for the lambda that gives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

OCTAVE = 64  # levels of lambda to a factor of two
LEVELS = 12 * OCTAVE  # lambda lies in [2**-2, 2**10]
WAYS = ("lambda", "bpp", "psnr")
TOLERANCE = {"bpp": math.log2(1.01), "psnr": 0.04}  # of targets, as they are measured
GOAL = {"bpp": math.log2(1.02), "psnr": 0.1}  # what is promised: people are told of a picture that is further off
SLOPE = {"bpp": -0.6, "psnr": -1.0}  # of what is measured, for a factor of two in lambda, about
TRIES = 8  # at a target, at the whole effort


class Target(NamedTuple):
    """What a person asks for: way is "lambda", "bpp" (bits of the file a pixel) or "psnr" (dB, of all channels)."""

    way: str
    value: float


def lambda_of(level: int) -> float:
    return 2.0 ** (level / OCTAVE - 2)


def level_of(lam: float) -> int:
    """The level nearest to a lambda. Raises ValueError outside of their range."""
    low, high = lambda_of(0), lambda_of(LEVELS)
    if not (math.isfinite(lam) and low <= lam <= high):
        raise ValueError(f"expected lambda from {low:g} (finest) to {high:g} (smallest file), got {lam:g}; choose one")
    return round((math.log2(lam) + 2) * OCTAVE)


def check(target: Target) -> None:
    """Raise ValueError for a target that no picture can meet."""
    if target.way not in WAYS:
        raise ValueError(f"expected one of {', '.join(WAYS)}, got {target.way!r}; choose one")
    if target.way == "lambda":
        level_of(target.value)
    elif not (math.isfinite(target.value) and target.value > 0):
        raise ValueError(f"expected {target.way} above 0, got {target.value:g}; choose one")


def measured(way: str, value: float) -> float:
    """Bits a pixel or a PSNR on the scale on which a search compares them, on which they fall about evenly."""
    return math.log2(value) if way == "bpp" else value


def missed(level: int, got: float | None, target: Target) -> str:
    """What people are told of a picture that misses its target by more than `GOAL`; nothing where it does not.

    got: bits a pixel or PSNR at the level of lambda that was taken; None where lambda was given.
    """
    if got is None:
        return ""
    miss = measured(target.way, got) - measured(*target)
    if abs(miss) <= GOAL[target.way]:
        return ""
    asked = f"{target.way}={target.value:g}"
    said = f"{got:.3g}" if target.way == "bpp" else f"{got:.2f} dB"
    if level == (LEVELS if miss > 0 else 0):
        return f"{asked} is out of reach, {said} is the {'least' if miss > 0 else 'most'}; took that"
    return f"{asked} is not met, {said} is the nearest that was found; took that"


def nearest(tried: dict[int, float], target: Target) -> int:
    """Of levels and what they gave, the level that comes closest."""
    return min(tried, key=lambda i: abs(tried[i] - measured(*target)))


def slope_near(tried: dict[int, float], level: int) -> float:
    """Decibels for a factor of two in lambda near a level that was tried: see `SLOPE`, which differs most for these."""
    others = [i for i in tried if abs(i - level) >= OCTAVE // 4]
    if not others:
        return SLOPE["psnr"]
    near = min(others, key=lambda i: abs(i - level))
    return (tried[near] - tried[level]) / (near - level) * OCTAVE


def approach(
    measure: Callable[[int], float], target: Target, level: int, most: int = LEVELS, slope: float | None = None
) -> dict[int, float]:
    """Levels that were tried, at most so many, and what they gave: the secant rule, in brackets, from a first level on.

    measure: what a level gives, which falls as levels rise; slope: where it is known better than by `SLOPE`. It ends at
    a level that meets the target, or has none between it and others. If the last in the direction of the target is not
    enough, it alone is returned.
    """
    wanted, slope = measured(*target), SLOPE[target.way] if slope is None else slope
    low, high, tried = 0, LEVELS, dict[int, float]()
    while level not in tried and len(tried) < most:
        tried[level] = measure(level)
        if abs(tried[level] - wanted) <= TOLERANCE[target.way]:
            break
        low, high = (level, high) if tried[level] > wanted else (low, level)
        if level == (LEVELS if tried[level] > wanted else 0):
            return {level: tried[level]}
        if low in tried and high in tried:
            slope = (tried[high] - tried[low]) / (high - low) * OCTAVE
        step = (wanted - tried[level]) / min(slope, -0.01) * OCTAVE
        level = min(max(round(level + step), low + (low in tried)), high - (high in tried))
    return tried
