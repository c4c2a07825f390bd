"""Complex recurrences whose real and imaginary parts are leaves of their own.

Two leaves h and k with

    h' = p h - q k + x
    k' = q h + p k + y

are z' = (p + i q) z + (x + i y) with z = h + i k. Which of them is called the real part makes no
difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastscan.recognition import Interpreter
from fastscan.values import Coupled, Known, Linear, Unrecognised, Value, is_identity

Join = Callable[[Any, Any], Any]
"""Makes complex numbers of two arrays that broadcast."""


def join(
    interpreter: Interpreter,
    leaf: int,
    real: Coupled,
    results: Sequence[Value],
    later: Sequence[Known],
    of: Join,
) -> tuple[int, Linear, Known]:
    """The recurrence of a leaf, whose result is `real`, and of the one that it is coupled with.

    Returns:
        Which other leaf is the imaginary part, the complex recurrence, and its elements.

    Raises:
        Unrecognised: it is not one.
    """
    others = sorted(set(real.parts) - {leaf})
    wrong = Unrecognised(
        f"it depends on the earlier element's leaves {' and '.join(map(str, sorted(real.parts)))},"
        " and not as the real part of a complex number on itself and on the imaginary part"
    )
    imag = results[others[0]]
    if len(others) > 1 or not isinstance(imag, Coupled) or set(imag.parts) != {leaf, *others}:
        raise wrong
    other = others[0]
    e, f = later[leaf], later[other]
    p, minus_q = real.parts[leaf], real.parts[other]
    q, p_again = imag.parts[leaf], imag.parts[other]
    terms = (p, minus_q, q, p_again)
    dtypes = {np.dtype(known.value.dtype) for known in (e, f)}
    if e.shape != f.shape or len(dtypes) > 1 or next(iter(dtypes)).name not in _REALS:
        raise wrong
    if any(
        term.matrix is not None or term.reset is not p.reset or not is_identity(term, e.shape)
        for term in terms
    ):
        raise wrong
    one = Known(interpreter.xp.ones((1,) * len(e.shape), np.int8), e.shape, fill=1)
    a, minus_b, b, a_again = (term.coefficient or one for term in terms)
    if not _same(a, a_again) or not _opposite(minus_b, b):
        raise wrong

    def added(x: Known | None, y: Known | None) -> Known:
        both = [offset for offset in (x, y) if offset is not None]
        if not both:
            return Known(interpreter.xp.zeros((), e.value.dtype), (), fill=0).fit(e.shape)
        return both[0] if len(both) == 1 else interpreter.plus(both[0], both[1], e.shape)

    x, y = added(p.offset, minus_q.offset), added(q.offset, p_again.offset)
    element = Known(of(e.value, f.value), e.shape, leaf=leaf)
    offset = element
    if (x.leaf, y.leaf) != (leaf, other):
        offset = Known(of(x.value, y.value), e.shape)
    coefficient = Known(of(a.value, b.value), e.shape)
    dims = tuple(range(len(e.shape)))
    recurrence = Linear(leaf, e.shape, dims, coefficient, reset=p.reset, offset=offset)
    return other, recurrence, element


_REALS = ("float32", "float64")


def _same(x: Known, y: Known) -> bool:
    return x.value is y.value or (x.fill is not None and x.fill == y.fill)


def _opposite(x: Known, y: Known) -> bool:
    if x.fill is not None and y.fill is not None:
        return x.fill == -y.fill
    return any(a.minus is not None and a.minus.value is b.value for a, b in ((x, y), (y, x)))
