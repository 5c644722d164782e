"""Eight or sixteen float32 numbers at a time in Numba's functions: the same sums whatever a processor's vectors are.

A compiler may not reorder sums of floats, so loops over arrays stay scalar where a sum is wanted, and aliasing keeps it
from others. These operations are what a processor has; LLVM cuts them up where its vectors are shorter. Numba renews a
caller's cache on disk when the caller's file changes, not when this one does: touch the caller after changes here.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, attr-defined, call-arg"
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
_WHOLE = ir.VectorType(_INDEX, LANES)
# Least squares at Chebyshev's nodes.
_EXP2 = (1.0000035762786865, 0.692969560623169, 0.24162131547927856, 0.05171773582696915, 0.013683983124792576)
_LOG2 = (
    -3.0346028804779053,
    6.089895725250244,
    -5.301709175109863,
    3.24946665763855,
    -1.247962474822998,
    0.2700374722480774,
    -0.025123203173279762,
)


class Vector(types.Type):
    """Numba's type of eight or sixteen float32 numbers."""

    def __init__(self, lanes: int) -> None:
        self.lanes, self.llvm = lanes, ir.VectorType(ir.FloatType(), lanes)
        super().__init__(name=f"float32x{lanes}")


_eight, _vector = Vector(8), Vector(LANES)


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, type_) -> None:
        super().__init__(manager, type_, type_.llvm)


def _pointer(context, builder, vector, array_type, array, index) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.llvm.as_pointer())


def _loads(vector: Vector) -> Any:
    def generate(context, builder, signature, given):
        found = builder.load(_pointer(context, builder, vector, signature.args[0], *given))
        found.align = 4
        return found

    return generate


@intrinsic
def load(typing, array, index):
    """Sixteen numbers of a contiguous float32 array from an index on: not checked against its end."""
    return _vector(array, types.int64), _loads(_vector)


@intrinsic
def load8(typing, array, index):
    """Eight numbers: see `load`."""
    return _eight(array, types.int64), _loads(_eight)


@intrinsic
def store(typing, array, index, vector):
    """Write the numbers into a contiguous float32 array from an index on: not checked against its end."""

    def generate(context, builder, signature, given):
        place = _pointer(context, builder, signature.args[2], signature.args[0], *given[:2])
        builder.store(given[2], place).align = 4
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


def _splats(vector: Vector) -> Any:
    def generate(context, builder, signature, given):
        nothing = ir.Constant(vector.llvm, ir.Undefined)
        one = builder.insert_element(nothing, given[0], ir.Constant(_INDEX, 0))
        return builder.shuffle_vector(
            one, nothing, ir.Constant(ir.VectorType(_INDEX, vector.lanes), [0] * vector.lanes)
        )

    return generate


@intrinsic
def splat(typing, number):
    """A float32 number, sixteen times."""
    return _vector(types.float32), _splats(_vector)


@intrinsic
def splat8(typing, number):
    """A float32 number, eight times."""
    return _eight(types.float32), _splats(_eight)


@intrinsic
def first(typing, vector):
    """The first of sixteen numbers: float32."""
    return types.float32(_vector), lambda context, builder, signature, given: builder.extract_element(
        given[0], ir.Constant(_INDEX, 0)
    )


def gather(n: int) -> Any:
    """Make `f(table, column, rows)`: a column of some rows of a contiguous float32 [.., 2] array, then 0.5.

    rows: int64 [n], n at most 16. Not checked against the table's end.
    """

    @intrinsic
    def found(typing, table, column, rows):
        def generate(context, builder, signature, given):
            data, at = (context.make_array(signature.args[i])(context, builder, given[i]).data for i in (0, 2))
            vector = ir.Constant(_FLOATS, [0.5] * LANES)
            for i in range(n):
                row = builder.load(builder.gep(at, [ir.Constant(_INDEX, i)]))
                cell = builder.add(builder.shl(row, ir.Constant(row.type, 1)), given[1])
                vector = builder.insert_element(vector, builder.load(builder.gep(data, [cell])), ir.Constant(_INDEX, i))
            return vector

        return _vector(table, types.int64, rows), generate

    return found


def scatter(n: int) -> Any:
    """Make `f(table, column, rows, vector)`: undo what `gather` makes, in the order of the rows."""

    @intrinsic
    def write(typing, table, column, rows, vector):
        def generate(context, builder, signature, given):
            data, at = (context.make_array(signature.args[i])(context, builder, given[i]).data for i in (0, 2))
            for i in range(n):
                row = builder.load(builder.gep(at, [ir.Constant(_INDEX, i)]))
                cell = builder.add(builder.shl(row, ir.Constant(row.type, 1)), given[1])
                builder.store(builder.extract_element(given[3], ir.Constant(_INDEX, i)), builder.gep(data, [cell]))
            return context.get_dummy_value()

        return types.void(table, types.int64, rows, vector), generate

    return write


@intrinsic
def total(typing, vector):
    """The sum of the numbers: float32. The upper half is added to the lower one until one number is left."""

    def generate(context, builder, signature, given):
        found, n = given[0], vector.lanes
        while n > 1:
            n //= 2
            nothing = ir.Constant(found.type, ir.Undefined)
            halves = [ir.Constant(ir.VectorType(_INDEX, n), list(range(at, at + n))) for at in (0, n)]
            found = builder.fadd(*(builder.shuffle_vector(found, nothing, half) for half in halves))
        return builder.extract_element(found, ir.Constant(_INDEX, 0))

    return types.float32(vector), generate


@intrinsic
def bits(typing, number):
    """The bits of a float32 number: int32."""
    return types.int32(types.float32), lambda context, builder, signature, given: builder.bitcast(
        given[0], ir.IntType(32)
    )


@intrinsic
def least(typing, x, y):
    """The lesser of each pair."""
    return _vector(_vector, _vector), lambda context, builder, signature, given: builder.select(
        builder.fcmp_ordered("<", *given), *given
    )


@intrinsic
def most(typing, x, y):
    """The greater of each pair."""
    return _vector(_vector, _vector), lambda context, builder, signature, given: builder.select(
        builder.fcmp_ordered(">", *given), *given
    )


def _whole(n: int) -> Any:
    return ir.Constant(_WHOLE, [n] * LANES)


def _polynomial(builder, x, coefficients) -> Any:
    """Horner's rule."""
    found = ir.Constant(_FLOATS, [coefficients[-1]] * LANES)
    for c in coefficients[-2::-1]:
        found = builder.fadd(builder.fmul(found, x), ir.Constant(_FLOATS, [c] * LANES))
    return found


@intrinsic
def exp2(typing, x):
    """Powers of two, of numbers from -126 to 127: a polynomial, to 2 parts in a million."""

    def generate(context, builder, signature, given):
        above = builder.fadd(given[0], ir.Constant(_FLOATS, [127.0] * LANES))
        power = builder.fptosi(above, _WHOLE)
        part = _polynomial(builder, builder.fsub(above, builder.sitofp(power, _FLOATS)), _EXP2)
        return builder.fmul(part, builder.bitcast(builder.shl(power, _whole(23)), _FLOATS))

    return _vector(_vector), generate


@intrinsic
def log2(typing, x):
    """Logarithms of positive numbers that are not subnormal: a polynomial, to 2 parts in 100,000."""

    def generate(context, builder, signature, given):
        bits = builder.bitcast(given[0], _WHOLE)
        power = builder.sitofp(builder.sub(builder.lshr(bits, _whole(23)), _whole(127)), _FLOATS)
        part = builder.or_(builder.and_(bits, _whole(0x7FFFFF)), _whole(0x3F800000))
        return builder.fadd(power, _polynomial(builder, builder.bitcast(part, _FLOATS), _LOG2))

    return _vector(_vector), generate


def _operator(operation: Callable[..., Any], instruction: str) -> None:
    @intrinsic
    def apply(typing, x, y):
        return x(x, y), lambda context, builder, signature, given: getattr(builder, instruction)(*given)

    @overload(operation, jit_options={"forceinline": True})
    def _(x, y):
        return (lambda x, y: apply(x, y)) if isinstance(x, Vector) and x is y else None


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_operation, _instruction)
