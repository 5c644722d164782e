"""Least squares in Numba's loops: recursive ones of all samples so far, and local ones of faded sums of products.

Functions of n features take `parts`, a tuple of n / 8 numbers: its length is known when they are compiled.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, index, misc, call-arg, var-annotated"
# Numba's functions have the types that they are called with.

from __future__ import annotations

import numpy as np

from toolkit.coding.compiled import inline
from toolkit.coding.vectors import load8, splat8, store, total

f4 = np.float32


@inline
def product(parts, p, at, x, found):
    """A symmetric matrix times a vector."""
    n = 8 * len(parts)
    for q in range(0, n, 8):
        a, b = splat8(f4(0)), splat8(f4(0))
        for j in range(0, n, 2):
            o = at + j * n + q
            a = a + load8(p, o) * splat8(x[j])
            b = b + load8(p, o + n) * splat8(x[j + 1])
        store(found, q, a + b)


@inline
def dot(parts, a, i, b):
    found = load8(a, i) * load8(b, 0)
    for q in range(8, 8 * len(parts), 8):
        found = found + load8(a, i + q) * load8(b, q)
    return total(found)


@inline
def shrink(parts, p, at, g, growth):
    """A matrix minus a product of two vectors, and grown."""
    n = 8 * len(parts)
    s = splat8(growth)
    for q in range(0, n, 8):
        gq = load8(g, q)
        for i in range(n):
            o = at + i * n + q
            store(p, o, (load8(p, o) - splat8(g[i]) * gq) * s)


@inline
def sideways(parts, sums, around, blocks, fade):
    """Sums of products in the rows above, faded to both sides."""
    n = 8 * len(parts)
    s = splat8(fade)
    for i in range(0, (n + 1) * n, 8):
        carried = splat8(f4(0))
        for q in range(blocks):
            carried = load8(sums[q], i) + s * carried
            store(around[q], i, carried)
        carried = splat8(f4(0))
        for q in range(blocks - 1, -1, -1):
            here = s * carried
            store(around[q], i, load8(around[q], i) + here)
            carried = load8(sums[q], i) + here


@inline
def faded(parts, sums, fade):
    """Sums of products, faded, and without what is too small to matter."""
    n = 8 * len(parts)
    s, large = splat8(fade), splat8(f4(64))
    for i in range(0, (n + 1) * n, 8):
        store(sums, i, (s * load8(sums, i) + large) - large)


@inline
def add(parts, sums, left, z, value, weight, fade):
    """A sample, to the sums of its columns and of its row."""
    n = 8 * len(parts)
    f = splat8(fade)
    for q in range(0, n, 8):
        zq = load8(z, q) * splat8(weight)
        for i in range(n):
            t = splat8(z[i]) * zq
            o = i * n + q
            store(sums, o, load8(sums, o) + t)
            store(left, o, f * load8(left, o) + t)
        t = splat8(value) * zq
        o = n * n + q
        store(sums, o, load8(sums, o) + t)
        store(left, o, f * load8(left, o) + t)


@inline
def solve(parts, m, around, left, u, at, towards, ridge, steps, v):
    """Steps of conjugate gradients, scaled by the diagonal, from u on towards the local least squares solution."""
    n = 8 * len(parts)
    for i in range(0, (n + 1) * n, 8):
        store(m, i, load8(around, i) + load8(left, i))
    r, p, q, h, d = v[0], v[1], v[2], v[3], v[4]
    for i in range(n):
        d[i] = f4(1) / (m[i * n + i] + ridge)
    for b in range(0, n, 8):
        store(p, b, load8(u, at + b))
    product(parts, m, 0, p, q)
    e = splat8(ridge)
    for b in range(0, n, 8):
        x = load8(m, n * n + b) - load8(q, b) + e * (load8(towards, b) - load8(p, b))
        store(r, b, x)
        x = x * load8(d, b)
        store(h, b, x)
        store(p, b, x)
    rh = dot(parts, r, 0, h)
    for step in range(steps):
        product(parts, m, 0, p, q)
        for b in range(0, n, 8):
            store(q, b, load8(q, b) + e * load8(p, b))
        a = splat8(rh / (dot(parts, p, 0, q) + f4(1e-12)))
        for b in range(0, n, 8):
            store(u, at + b, load8(u, at + b) + a * load8(p, b))
        if step + 1 < steps:
            for b in range(0, n, 8):
                x = load8(r, b) - a * load8(q, b)
                store(r, b, x)
                store(h, b, x * load8(d, b))
            rn = dot(parts, r, 0, h)
            be = splat8(rn / (rh + f4(1e-12)))
            rh = rn
            for b in range(0, n, 8):
                store(p, b, load8(h, b) + be * load8(p, b))
    for b in range(0, n, 8):
        store(h, b, load8(u, at + b))
    if not dot(parts, h, 0, h) < f4(1e5):
        for i in range(n):
            u[at + i] = towards[i]


@inline
def reset(parts, work, c):
    n = 8 * len(parts)
    for i in range(n * n):
        work.inverse[c * n * n + i] = f4(0)
    for i in range(n):
        work.inverse[c * n * n + i * n + i] = f4(0.01)
        work.global_weights[c * n + i] = f4(0)
    work.global_weights[c * n] = work.global_weights[c * n + 1] = f4(0.5)


@inline
def learn(parts, work, c, x, error, noise, keep):
    """A step of recursive least squares, in class c."""
    n = 8 * len(parts)
    at = c * n * n
    p, w, k = work.inverse, work.global_weights, work.vectors[5]
    if work.seen[c] & 15 == 0:
        trace = f4(0)
        for i in range(n):
            trace += p[at + i * n + i]
        work.growth[c] = f4(1) / keep if trace < f4(10 * n) else f4(1)
        if not (trace < f4(40 * n) and trace > f4(0)):
            reset(parts, work, c)
    work.seen[c] += 1
    product(parts, p, at, x, k)
    spread = keep * noise + dot(parts, k, 0, x)
    if not (spread > f4(1e-6) and spread < f4(1e12)):
        reset(parts, work, c)
        return
    root = f4(1) / np.sqrt(spread)
    s, e = splat8(root), splat8(error * root)
    for b in range(0, n, 8):
        g = load8(k, b) * s
        store(k, b, g)
        store(w, c * n + b, load8(w, c * n + b) + g * e)
    shrink(parts, p, at, k, work.growth[c])


@inline
def follow(parts, work, c, x, error, rate):
    """A step of normalised least mean squares, in class c: the cheap way to learn."""
    n = 8 * len(parts)
    w = work.global_weights
    step = splat8(rate * error / (f4(16) + dot(parts, x, 0, x)))
    for b in range(0, n, 8):
        w_b = load8(w, c * n + b)
        store(w, c * n + b, w_b + step * load8(x, b))
