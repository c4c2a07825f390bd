"""Random calls of `linear_attention`, and how they are compared with the oracle."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from fastscan import reference
from tests.helpers import (
    ORACLE,
    assert_close,
    implementations,
    marks_of,
    normal,
    on_host,
    resets,
    state_dtype,
    widened,
)

# The fallbacks are compiled anew for every case, which takes them seconds: long tables of cases are
# for the kernels, and a few of them for the fallbacks.
NAMES = ("cpu", "chunked", "scan")
every_attention = implementations(None, *NAMES)


@dataclasses.dataclass(frozen=True)
class Case:
    """The shapes of one call. `decay` is "none", "step" or "key"; `batch` that of every operand."""

    T: int = 17
    K: int = 5
    V: int = 3
    batch: tuple[int, ...] = ()
    decay: str = "none"
    delta: bool = False
    S0: bool = True
    reset: str = "none"
    normalize: bool = False
    shared: tuple[str, ...] = ()
    """Operands without batch axes, where all others have them."""

    def __str__(self) -> str:
        parts = [f"{self.batch}T{self.T}K{self.K}V{self.V}", f"decay-{self.decay}"]
        parts += ["delta"] if self.delta else []
        parts += ["normalized"] if self.normalize else []
        parts += [f"reset-{self.reset}"] if self.reset != "none" else []
        parts += [f"shared-{'-'.join(self.shared)}"] if self.shared else []
        return "-".join([*parts, "S0" if self.S0 else "no-S0"]).replace(" ", "")

    def _lead(self, name: str) -> tuple[int, ...]:
        return (1,) * len(self.batch) if name in self.shared else self.batch

    def inputs(self, dtype: Any, seed: int = 0) -> dict[str, Any]:
        """Differentiable arguments and `reset`, by name; None is left out."""
        rng = np.random.default_rng(seed)
        state = state_dtype(dtype)

        def random(name: str, *core: int) -> jax.Array:
            wide = name in ("log_decay", "beta", "S0", "z")
            return normal(rng, (*self._lead(name), *core), state if wide else dtype)

        T, K, V = self.T, self.K, self.V
        found: dict[str, Any] = {
            "q": random("q", T, K),
            "k": random("k", T, K),
            "v": random("v", T, V),
            "log_decay": None,
            "beta": None,
            "S0": None,
            "reset": resets(self.reset, (*self.batch, T), len(self.batch), seed),
        }
        if self.normalize:  # keys and queries of one sign keep the divisor away from zero
            found["q"], found["k"] = jnp.abs(found["q"]) + 0.5, jnp.abs(found["k"]) + 0.5
        if self.decay != "none":
            core = (T,) if self.decay == "step" else (T, K)
            size = 10.0 ** rng.uniform(-3.0, 1.0, (*self._lead("log_decay"), *core))
            kind = rng.uniform(size=size.shape)
            log_decay = np.where(kind < 0.05, -np.inf, np.where(kind > 0.95, 0.01, -size))
            found["log_decay"] = jax.device_put(log_decay.astype(state))
        if self.delta:
            found["beta"] = jnp.abs(random("beta", T)) * 2
        if self.S0:
            found["S0"] = random("S0", K, V)
            if self.normalize:
                found["S0"] = fastscan.AttentionState(found["S0"], jnp.abs(random("z", K)) + 0.5)
        return found

    def cotangents(self, dtype: Any, seed: int = 1) -> tuple[Any, jax.Array]:
        """Cotangents of S_last and y."""
        rng = np.random.default_rng(seed)
        state = state_dtype(dtype)
        S: Any = normal(rng, (*self.batch, self.K, self.V), state)
        if self.normalize:
            S = fastscan.AttentionState(S, normal(rng, (*self.batch, self.K), state))
        return S, normal(rng, (*self.batch, self.T, self.V), dtype)


def apply(implementation: str | None, *, normalize: bool = False, **inputs: Any) -> Any:
    """S_last, y of an implementation or of the oracle."""
    if implementation == ORACLE:
        return reference.linear_attention(**inputs, normalize=normalize)
    return fastscan.linear_attention(**inputs, normalize=normalize, implementation=implementation)


def table(cases: Sequence[Case], fallbacks: Mapping[str, Sequence[Case]], dtype: str = "float64"):
    """Parametrise over (implementation, dtype, case): `cases` for the kernels, and `fallbacks`."""
    rows = [
        pytest.param(name, dtype, case, id=f"{name}-{dtype}-{case}", marks=marks_of(name))
        for name, some in {"cpu": cases, **fallbacks}.items()
        for case in some
    ]
    return pytest.mark.parametrize(("implementation", "dtype", "case"), rows)


@functools.partial(jax.jit, static_argnames=("implementation", "normalize"))
def values_and_vjp(implementation: str | None, normalize: bool, inputs: Any, cotangents: Any):
    """((S_last, y), cotangents of all arguments but `reset`), compiled as one program."""
    reset = inputs["reset"]

    def call(moving: dict[str, Any]) -> Any:
        return apply(implementation, **moving, reset=reset, normalize=normalize)

    outputs, vjp = jax.vjp(call, {n: x for n, x in inputs.items() if n != "reset"})
    return outputs, vjp(cotangents)[0]


def double(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same numbers for the oracle."""
    moving = {name: x for name, x in inputs.items() if name != "reset"}
    return {**widened(moving, np.float64), "reset": inputs["reset"]}


def check_against_oracle(implementation: str | None, case: Case, dtype: Any) -> None:
    """Values and all cotangents of a case, and their dtypes."""
    inputs, cotangents = case.inputs(dtype), case.cotangents(dtype)
    outputs, gradients = values_and_vjp(implementation, case.normalize, inputs, cotangents)
    with on_host():
        expected, slopes = values_and_vjp(
            ORACLE, case.normalize, double(inputs), widened(cotangents, np.float64)
        )
    moving = {name: x for name, x in inputs.items() if name != "reset"}
    assert [x.dtype for x in jax.tree.leaves(gradients)] == [
        x.dtype for x in jax.tree.leaves(moving)
    ]
    assert outputs[1].dtype == jnp.dtype(dtype)
    assert {x.dtype for x in jax.tree.leaves(outputs[0])} == {state_dtype(dtype)}
    assert_close(outputs, expected, dtype, case.T)
    for name, slope in slopes.items():
        assert_close(gradients[name], slope, dtype, case.T)
