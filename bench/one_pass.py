"""Split time in three phases and in one pass, on a GPU: `python -m fastscan.bench.one_pass FOLDER`.

Both forms of the Triton `linear_scan` on few channels and many steps, behind the gate, interleaved.
Leaves one_pass.json in the folder, and exits with 1 where a value is wrong, two runs differ in a
bit, or there is no GPU. `gpu.sh` runs it in a process of its own: programs of the one pass wait for
each other, and were one of them to wait forever, nothing else should.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fastscan.bench import environment
from fastscan.bench.cases.case import Arguments
from fastscan.bench.cases.linear import LinearCase
from fastscan.bench.gpu import copy_speed
from fastscan.bench.record import Record, Results
from fastscan.bench.timing import Budget, measure
from fastscan.kernels.case import accumulation_dtype
from fastscan.kernels.triton import tuning

ONE_PASS, THREE_PHASES = "triton, one pass", "triton, three phases"


@dataclass(frozen=True, kw_only=True)
class SplitCase(LinearCase):
    """A case whose time is split, by the kernels themselves in either form.

    Arrays of so many steps come from the device, and its scan of so many is `lax.associative_scan`.
    """

    def arguments(self) -> Arguments:
        """As those of `LinearCase`."""
        keys = jax.random.split(jax.random.key(0), 5)
        edge = self.x[: self.axis] + self.x[self.axis + 1 :]
        a = jax.random.uniform(keys[0], self.a, self.dtype, 0.9, 0.999)
        x, g = (jax.random.normal(key, self.x, self.dtype) for key in keys[1:3])
        g_last = jax.random.normal(keys[3], edge, accumulation_dtype(self.dtype))
        flags = self.x[: self.axis + 1]
        constants = ()
        if self.episode is not None:
            constants = (jax.random.bernoulli(keys[4], 1 / self.episode, flags),)
        return Arguments((a, x), constants, (g_last, g))

    def oracle(self, *arguments: Array) -> tuple[Array, Array]:
        """`lax.associative_scan`, in the double precision of the arguments."""
        return self._associative_scan(*arguments)

    def function(self, implementation: str) -> Callable[..., Any]:
        """As `Case.function`, which also takes the names of the two forms."""
        if implementation not in (ONE_PASS, THREE_PHASES):
            return super().function(implementation)
        return self._form(implementation)

    def _form(self, form: str) -> Callable[..., Any]:
        from fastscan.kernels.triton import linear

        settings = {"shape": self.x, "axis": self.axis, "reverse": self.reverse}
        edge = (*self.x[: self.axis], 1, *self.x[self.axis + 1 :])
        state = accumulation_dtype(self.dtype)
        # The form is chosen where the kernels are traced.
        chosen = tuning.one_pass if form == ONE_PASS else contextlib.nullcontext

        @jax.custom_vjp
        def scan(a: Array, x: Array, *reset: Array) -> tuple[Array, Array]:
            return forward(a, x, *reset)[0]

        def flags(reset: tuple[Array, ...]) -> list[Array]:
            return [r.reshape(r.shape + (1,) * (len(self.x) - r.ndim)) for r in reset]

        def forward(a: Array, x: Array, *reset: Array) -> tuple[Any, Any]:
            with chosen():
                h_last, h = linear.scan(a, x, jnp.zeros(edge, state), *flags(reset), **settings)
            return (h_last.squeeze(self.axis), h), (a, h, reset)

        def backward(known: Any, cotangents: Any) -> tuple[Any, ...]:
            a, h, reset = known
            g_last, g = cotangents
            g_last = jnp.expand_dims(g_last, self.axis)
            with chosen():
                da, dx, _ = linear.backward(
                    *(g_last, g, a, h, jnp.zeros(edge, state), *flags(reset)),
                    decay_shape=a.shape,
                    **settings,
                )
            return da, dx, *[None] * len(reset)

        scan.defvjp(forward, backward)
        return scan


def _case(name: str, x: tuple[int, ...], source: str, **settings: Any) -> SplitCase:
    return SplitCase(name=name, source=source, x=x, **{"a": x, **settings})


CASES = (
    _case("million-steps", (1, 1_000_000, 64), "few channels: B D = 64"),
    _case("time-last", (64, 1, 262_144), "one channel after another", axis=2),
    _case("resets", (2, 250_000, 64), "packed episodes", episode=200, reverse=True),
    _case("4-channels", (16, 250_000, 4), "a small state each"),
    _case("million-steps-bf16", (1, 1_000_000, 64), "in mixed precision", of="bfloat16"),
)


def main() -> None:
    """Measure all cases in both forms."""
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m fastscan.bench.one_pass FOLDER")
    if jax.default_backend() != "gpu":
        sys.exit(f"JAX runs on {jax.default_backend()} here: this needs an NVIDIA GPU.")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    copy = copy_speed()
    described = {**environment.describe(), "copy_bytes_per_second": copy}
    records: list[Record] = []
    for case in CASES:
        forms = (THREE_PHASES, ONE_PASS)
        records += measure(case, forms, "default", Budget(0.5), repeatable=forms)
        # Written after each: what was measured stays, should the next never end.
        Results(described, tuple(records)).write(folder / "one_pass.json")
        for row in rows(records[-2:], copy):
            print(row, flush=True)
    if any(record.failure is not None for record in records):
        sys.exit(1)


def rows(records: list[Record], copy: float) -> list[str]:
    """A line for each record: the time of each form and its share of the copy's speed."""
    lines = []
    for record in records:
        name = f"{record.case:18} {record.direction:9}"
        if record.failure is not None:
            lines.append(f"WRONG {name} {record.failure}")
            continue
        times = ", ".join(
            f"{form} {timing.median * 1e3:.3f} ms {record.bytes / timing.median / copy:.1%}"
            for form, timing in record.timings.items()
        )
        lines.append(f"{name} {times}")
    return lines


if __name__ == "__main__":
    main()
