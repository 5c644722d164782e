"""Sixteen float32 numbers at a time in Numba's functions: the same sums in the same order with vectors of any width.

A compiler may not reorder sums of floats, so loops over arrays stay scalar where a sum is wanted, and aliasing keeps it
from others. These operations are what a processor has; LLVM cuts them up where its vectors are shorter.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, attr-defined"
# Numba's functions have the types that they are called with.

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

LANES = 16
_FLOATS, _INDEX = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)


class Vector(types.Type):
    """Numba's type of sixteen float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


_vector = Vector()


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, type_) -> None:
        super().__init__(manager, type_, _FLOATS)


def _pointer(context, builder, array_type, array, index) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typing, array, index):
    """Sixteen numbers of a contiguous float32 array from an index on: not checked against its end."""

    def generate(context, builder, signature, given):
        found = builder.load(_pointer(context, builder, signature.args[0], *given))
        found.align = 4
        return found

    return _vector(array, types.int64), generate


@intrinsic
def store(typing, array, index, vector):
    """Write sixteen numbers into a contiguous float32 array from an index on: not checked against its end."""

    def generate(context, builder, signature, given):
        builder.store(given[2], _pointer(context, builder, signature.args[0], *given[:2])).align = 4
        return context.get_dummy_value()

    return types.void(array, types.int64, _vector), generate


@intrinsic
def splat(typing, number):
    """A float32 number, sixteen times."""

    def generate(context, builder, signature, given):
        nothing = ir.Constant(_FLOATS, ir.Undefined)
        first = builder.insert_element(nothing, given[0], ir.Constant(_INDEX, 0))
        return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))

    return _vector(types.float32), generate


@intrinsic
def total(typing, vector):
    """The sum of sixteen numbers: float32. The upper half is added to the lower one until one number is left."""

    def generate(context, builder, signature, given):
        found, n = given[0], LANES
        while n > 1:
            n //= 2
            nothing = ir.Constant(found.type, ir.Undefined)
            halves = [ir.Constant(ir.VectorType(_INDEX, n), list(range(at, at + n))) for at in (0, n)]
            found = builder.fadd(*(builder.shuffle_vector(found, nothing, half) for half in halves))
        return builder.extract_element(found, ir.Constant(_INDEX, 0))

    return types.float32(_vector), generate


@intrinsic
def bits(typing, number):
    """The bits of a float32 number: int32."""
    return types.int32(types.float32), lambda context, builder, signature, given: builder.bitcast(
        given[0], ir.IntType(32)
    )


def _operator(operation: Callable[..., Any], instruction: str) -> None:
    @intrinsic
    def apply(typing, x, y):
        return _vector(x, y), lambda context, builder, signature, given: getattr(builder, instruction)(*given)

    @overload(operation, jit_options={"forceinline": True})
    def _(x, y):
        return (lambda x, y: apply(x, y)) if x is _vector and y is _vector else None


for _operation, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _operator(_operation, _instruction)
