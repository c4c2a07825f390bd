"""The cases of `selective_scan`, and how they are compared with the oracle."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fastscan
from fastscan import reference
from tests.helpers import (
    ORACLE,
    assert_close,
    normal,
    on_host,
    resets,
    state_dtype,
    tolerance,
    wide,
)

NAMES = ("u", "dt", "A", "B", "C", "D", "h0")


@dataclasses.dataclass(frozen=True)
class Problem:
    """The shapes of one call; `batch` has the batch axes of the arguments that have other ones."""

    length: int = 17
    d: int = 5
    n: int = 3
    lead: tuple[int, ...] = ()
    batch: tuple[tuple[str, tuple[int, ...]], ...] = ()
    discretization: str = "euler"
    reset: str = "none"
    reverse: bool = False
    optional: bool = True
    """Whether D and h0 are given."""

    def __str__(self) -> str:
        parts = [f"{self.lead}T{self.length}d{self.d}n{self.n}", self.discretization]
        parts += [f"reset-{self.reset}"] if self.reset != "none" else []
        parts += ["reverse"] if self.reverse else []
        parts += [f"{name}{axes}" for name, axes in self.batch]
        parts += [] if self.optional else ["no-D-h0"]
        return "-".join(parts).replace(" ", "")

    def shape(self, name: str) -> tuple[int, ...]:
        core = {
            **dict.fromkeys(("u", "dt"), (self.length, self.d)),
            **dict.fromkeys(("A", "h0"), (self.d, self.n)),
            **dict.fromkeys(("B", "C"), (self.length, self.n)),
            "D": (self.d,),
            "reset": (self.length,),
        }[name]
        shared = () if name in ("A", "D") else self.lead
        return (*dict(self.batch).get(name, shared), *core)

    def arguments(self, dtype: Any, complex_: tuple[str, ...] = ()) -> dict[str, Any]:
        """All arguments by name; those in `complex_` are complex."""
        rng = np.random.default_rng(0)
        state = state_dtype(dtype)
        double = np.result_type(state, np.complex64)
        values = {}
        for name in NAMES if self.optional else NAMES[:5]:
            of = double if name in complex_ else state if name in ("A", "D", "h0") else dtype
            values[name] = normal(rng, self.shape(name), of)
        values["dt"] = jnp.asarray(rng.uniform(0.01, 0.5, self.shape("dt")), dtype)
        # Zero among the decays, which is a special case of zoh, and some that grow.
        size = -(10.0 ** rng.uniform(-2, 1, self.shape("A")))
        size = np.where(rng.uniform(size=size.shape) < 0.1, 0.02, size)
        size = np.where(rng.uniform(size=size.shape) < 0.1, 0.0, size)
        phase = 1j * rng.uniform(-3, 3, size.shape) if "A" in complex_ else 0
        values["A"] = jnp.asarray(size + phase, values["A"].dtype)
        shape = self.shape("reset")
        values["reset"] = resets(self.reset, shape, len(shape) - 1)
        return values

    def cotangents(self, outputs: Any) -> tuple[jax.Array, ...]:
        rng = np.random.default_rng(1)
        return tuple(normal(rng, o.shape, o.dtype) for o in outputs)


def apply(implementation: str | None, arguments: dict[str, Any], **options: Any):
    """h_last, y of the implementation, or of the oracle."""
    if implementation == ORACLE:
        return reference.selective_scan(**arguments, **options)
    return fastscan.selective_scan(**arguments, **options, implementation=implementation)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _outputs_and_vjp(implementation, discretization, reverse, arguments, reset, cotangents):
    def function(arguments):
        return apply(
            implementation,
            {**arguments, "reset": reset},
            discretization=discretization,
            reverse=reverse,
        )

    outputs, pullback = jax.vjp(function, arguments)
    return outputs, pullback(cotangents)[0]


def outputs_and_vjp(implementation, problem: Problem, arguments, cotangents):
    """The results and the cotangents of all arguments but the flags, by name."""
    moving = {name: v for name, v in arguments.items() if name != "reset"}
    return _outputs_and_vjp(
        implementation,
        problem.discretization,
        problem.reverse,
        moving,
        arguments["reset"],
        cotangents,
    )


def widened(values: Any) -> Any:
    """The same numbers in double precision, flags as they are."""
    return jax.tree.map(
        lambda v: v if v.dtype == bool else np.asarray(v).astype(wide(v.dtype)), values
    )


def check(implementation, problem: Problem, dtype: Any, complex_: tuple[str, ...] = ()) -> None:
    """Values and all cotangents, their dtypes and shapes, against the oracle."""
    arguments = problem.arguments(dtype, complex_)
    types = jax.eval_shape(
        lambda a: apply("scan", a, discretization=problem.discretization), arguments
    )
    assert types[0].dtype == np.result_type(state_dtype(dtype), *([np.complex64] * bool(complex_)))
    assert types[1].dtype == (types[0].dtype if complex_ else jnp.dtype(dtype))
    cotangents = problem.cotangents(types)
    outputs, gradients = outputs_and_vjp(implementation, problem, arguments, cotangents)
    assert [(o.shape, o.dtype) for o in outputs] == [(o.shape, o.dtype) for o in types]
    given = {name: v for name, v in arguments.items() if name != "reset"}
    assert {k: v.dtype for k, v in gradients.items()} == {k: v.dtype for k, v in given.items()}
    with on_host():
        expected, wanted = outputs_and_vjp(ORACLE, problem, widened(arguments), widened(cotangents))
    compute = np.dtype(types[1].dtype)
    assert_close(outputs, expected, compute, problem.length)
    for name, gradient in gradients.items():
        # A sum over channels or time may come out smaller than its terms, which are about 1.
        scale = 1.0 if tolerance(compute, 1) < 1e-3 else 0.0
        assert_close(gradient, wanted[name], compute, problem.length, scale=scale)
