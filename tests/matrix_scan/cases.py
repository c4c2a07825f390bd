"""Calls of `matrix_scan`: random arguments, and the oracle on the same arguments."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from fastscan import HouseholderProduct, LowRank, reference
from tests.helpers import (
    assert_close,
    marks_of,
    normal,
    on_host,
    resets,
    state_dtype,
    widened,
)

FORMS = {"dense": None, "low-rank": LowRank, "product": HouseholderProduct}


@dataclasses.dataclass(frozen=True)
class Case:
    """The shapes of one call; `front` of a coefficient are its axes in front of its own."""

    X: tuple[int, ...]
    axis: int = 1
    form: str = "dense"
    vectors: bool = False
    front: tuple[int, ...] | None = None
    d: tuple[int, ...] | None = None
    terms: int | None = 2
    H0: bool = True
    reset: str = "none"
    reset_shape: tuple[int, ...] | None = None
    reverse: bool = False

    def __str__(self) -> str:
        given = dataclasses.asdict(self).items()
        default = {field.name: field.default for field in dataclasses.fields(self)}
        parts = [f"{k}={v}" for k, v in given if k != "X" and v != default[k]]
        return "-".join([str(self.X), *parts]).replace(" ", "").replace("'", "")

    @property
    def core(self) -> int:
        return 1 if self.vectors else 2

    @property
    def prefix(self) -> tuple[int, ...]:
        return self.X[: -self.core]

    @property
    def length(self) -> int:
        return self.X[self.axis]

    @property
    def edge(self) -> tuple[int, ...]:
        return self.X[: self.axis] + self.X[self.axis + 1 :]

    def arguments(self, dtype: Any, seed: int = 0) -> tuple[Any, Any, Any, Any]:
        """(coefficients by name, X, H0, reset), with matrices of a norm about one."""
        rng = np.random.default_rng(seed)
        n = self.X[-self.core]
        front = self.prefix if self.front is None else self.front
        if self.form == "dense":
            A = normal(rng, (*front, n, n), dtype)
            parts = {"A": jax.device_put((np.asarray(A) * 1.5 / np.sqrt(n)).astype(A.dtype))}
        else:
            own = (*front, n) if self.terms is None else (*front, self.terms, n)
            scale = 2.0 / np.sqrt(n)
            u, w = (normal(rng, own, dtype) for _ in range(2))
            d = 0.9 * np.exp(normal(rng, (*front, n) if self.d is None else self.d, dtype))
            u, w = (jax.device_put((np.asarray(v) * scale).astype(v.dtype)) for v in (u, w))
            parts = {"d": jax.device_put(np.asarray(d).astype(jnp.dtype(dtype))), "u": u, "w": w}
        X = normal(rng, self.X, dtype)
        H0 = normal(rng, self.edge, state_dtype(dtype)) if self.H0 else None
        flags = self.X[: self.axis + 1] if self.reset_shape is None else self.reset_shape
        return parts, X, H0, resets(self.reset, flags, self.axis)

    def cotangents(self, dtype: Any, seed: int = 1) -> tuple[jax.Array, jax.Array]:
        """Cotangents of H_last and H."""
        rng = np.random.default_rng(seed)
        return normal(rng, self.edge, state_dtype(dtype)), normal(rng, self.X, dtype)

    def scan(self, implementation: str | None, parts, X, H0, reset):
        """The call under test."""
        form = FORMS[self.form]
        A = parts["A"] if form is None else form(**parts)
        return fastscan.matrix_scan(
            A,
            X,
            H0,
            reset=reset,
            axis=self.axis,
            reverse=self.reverse,
            implementation=implementation,
        )

    def oracle(self, parts, X, H0, reset):
        """The same by `fastscan.reference.matrix_scan`, one system after the other."""
        core, prefix, axis = self.core, self.prefix, self.axis
        n = X.shape[-core]
        if self.form == "dense":
            A = parts["A"]
        else:
            u, w = (
                parts[name][..., None, :] if self.terms is None else parts[name]
                for name in ("u", "w")
            )
            d = jnp.broadcast_to(parts["d"], (*prefix, n))
            A = reference.dense(d, u, w, product=self.form == "product")
        A = jnp.moveaxis(jnp.broadcast_to(A, (*prefix, n, n)), axis, -3)
        m = 1 if core == 1 else X.shape[-1]
        moved = jnp.moveaxis(X.reshape(*prefix, n, m), axis, -3)
        batch = moved.shape[:-3]
        flags = jnp.zeros(prefix[: axis + 1], bool) if reset is None else jnp.asarray(reset)
        flags = flags.reshape(flags.shape + (1,) * (len(prefix) - flags.ndim))
        flags = jnp.moveaxis(jnp.broadcast_to(flags, prefix), axis, -1)
        start = jnp.zeros((*batch, n, m), X.dtype) if H0 is None else H0.reshape(*batch, n, m)
        one = functools.partial(reference.matrix_scan, reverse=self.reverse)
        call = jax.vmap(lambda A, X, H0, reset: one(A, X, H0, reset=reset))
        size = int(np.prod(batch))
        arrays = (A, moved, start, flags)
        flat = (v.reshape(size, *v.shape[len(batch) :]) for v in arrays)
        H_last, H = call(*flat)
        H = jnp.moveaxis(H.reshape(moved.shape), -3, axis)
        return H_last.reshape(self.edge), H.reshape(X.shape)


@functools.partial(jax.jit, static_argnames=("case", "implementation"))
def _values_and_vjp(case, implementation, parts, X, H0, reset, cotangents):
    def scan(parts, X, H0):
        if implementation == "oracle":
            return case.oracle(parts, X, H0, reset)
        return case.scan(implementation, parts, X, H0, reset)

    out, vjp = jax.vjp(scan, parts, X, H0)
    return out, vjp(cotangents)


def values_and_vjp(case: Case, implementation: str | None, *arrays: Any):
    """((H_last, H), cotangents of (coefficients, X, H0)), compiled as one program.

    Cases that differ in their random numbers alone share it.
    """
    kind = dataclasses.replace(case, reset="none")
    return _values_and_vjp(kind, implementation, *arrays)


def check(implementation: str | None, case: Case, dtype: Any) -> None:
    """Values and all cotangents, their dtypes and shapes, against the oracle."""
    *arrays, reset = case.arguments(dtype)
    cotangents = case.cotangents(dtype)
    (H_last, H), found = values_and_vjp(case, implementation, *arrays, reset, cotangents)
    assert (H_last.dtype, H.dtype) == (state_dtype(dtype), jnp.dtype(dtype))
    shape = case.X[: case.axis + 1] if case.reset_shape is None else case.reset_shape
    flags = np.zeros(shape, bool) if reset is None else reset
    with on_host():
        expected, gradients = values_and_vjp(
            case, "oracle", *widened(arrays, dtype), flags, widened(cotangents, dtype)
        )
    assert_close((H_last, H), expected, dtype, case.length)
    like = jax.tree.leaves(arrays)
    assert [(v.shape, v.dtype) for v in jax.tree.leaves(found)] == [
        (v.shape, v.dtype) for v in like
    ]
    assert_close(found, gradients, dtype, case.length)


def grid(implementation: str | None, cases: list[Case]):
    """Run a test with an implementation and each of these cases; it may be given several times."""

    def decorate(test):
        new = [
            pytest.param(implementation, case, id=f"{implementation or 'automatic'}-{case}",
                         marks=marks_of(implementation))
            for case in cases
        ]  # fmt: skip
        marked = getattr(test, "pytestmark", [])
        known = next((m for m in marked if m.args[0] == ("implementation", "case")), None)
        if known is None:
            return pytest.mark.parametrize(("implementation", "case"), new)(test)
        known.args[1].extend(new)
        return test

    return decorate
