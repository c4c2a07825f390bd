"""Cases of `fastscan.linear_scan`: h[t] = a[t] * h[t-1] + x[t]."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import fastscan
from fastscan.bench.cases.case import Arguments, Case, Sweep, normal


@dataclass(frozen=True, kw_only=True)
class LinearCase(Case):
    """A shape of `linear_scan`.

    `a` is any shape that broadcasts to `x`; `episode` is the mean number of steps between resets,
    whose flags have the shape of x up to the time axis; `carry` passes a random h0.
    """

    family: ClassVar[str] = "linear"

    x: tuple[int, ...]
    a: tuple[int, ...]
    axis: int = 1
    of: str = "float32"
    episode: int | None = None
    carry: bool = False
    reverse: bool = False

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a and x."""
        return jnp.dtype(self.of)

    @property
    def size(self) -> Mapping[str, int]:
        """The axes before time, time, and the axes after it."""
        return {
            "batch": math.prod(self.x[: self.axis]),
            "steps": self.x[self.axis],
            "channels": math.prod(self.x[self.axis + 1 :]),
        }

    @property
    def description(self) -> str:
        """The shape of x, and what else sets the case apart."""
        parts = [f"{self.of} {self.x}"]
        if self.axis != 1:
            parts.append(f"time at {self.axis}")
        if self.a != self.x:
            parts.append(f"a {self.a}")
        if self.episode is not None:
            parts.append("resets")
        if self.carry:
            parts.append("h0")
        if self.reverse:
            parts.append("reverse")
        return ", ".join(parts)

    @property
    def bytes(self) -> Mapping[str, int]:
        """What must be read and written once, h0 and h_last left out."""
        a = math.prod(self.a) * self.dtype.itemsize
        x = math.prod(self.x) * self.dtype.itemsize
        reset = 0 if self.episode is None else math.prod(self.x[: self.axis + 1])
        forward = a + reset + 2 * x  # reads a, x; writes h
        backward = 2 * a + reset + 3 * x  # reads a, h and h's cotangent; writes those of a and x
        return {"floor": a + 2 * x, "forward": forward, "gradient": forward + backward}

    def arguments(self) -> Arguments:
        """Moduli of a in [0.9, 0.999); normal x, h0 and cotangents; random resets."""
        random = self.random()
        carry_shape = self.x[: self.axis] + self.x[self.axis + 1 :]
        accumulator = jnp.promote_types(self.dtype, jnp.float32)

        a = random.uniform(0.9, 0.999, self.a)
        if jnp.issubdtype(self.dtype, jnp.complexfloating):
            a = a * np.exp(1j * random.uniform(0, 2 * np.pi, self.a))
        operands = [np.asarray(a).astype(self.dtype), normal(random, self.x, self.dtype)]
        if self.carry:
            operands.append(normal(random, carry_shape, accumulator))
        constants = []
        if self.episode is not None:
            constants.append(random.random(self.x[: self.axis + 1]) < 1 / self.episode)
        cotangents = (normal(random, carry_shape, accumulator), normal(random, self.x, self.dtype))
        return Arguments(tuple(operands), tuple(constants), cotangents)

    def _fastscan(self, implementation: str | None, *arguments: Array) -> tuple[Array, Array]:
        a, x, h0, reset = self._named(arguments)
        return fastscan.linear_scan(
            a,
            x,
            h0,
            reset=reset,
            axis=self.axis,
            reverse=self.reverse,
            implementation=implementation,
        )

    def oracle(self, *arguments: Array) -> tuple[Array, Array]:
        """`fastscan.reference.linear_scan`."""
        a, x, h0, reset = self._named(arguments)
        return fastscan.reference.linear_scan(
            a, x, h0, reset=reset, axis=self.axis, reverse=self.reverse
        )

    def floor(self, *arguments: Array) -> Array:
        """XLA's own a * x + x."""
        a, x, _, _ = self._named(arguments)
        return a * x + x

    def _named(self, arguments: tuple[Array, ...]) -> tuple[Array, Array, Array | None, Any]:
        a, x, *rest = arguments
        h0 = rest.pop(0) if self.carry else None
        reset = rest.pop(0) if self.episode is not None else None
        return a, x, h0, reset

    def _flags(self, reset: Array) -> Array:
        return reset.reshape(reset.shape + (1,) * (len(self.x) - reset.ndim))

    def _associative_scan(self, *arguments: Array) -> tuple[Array, Array]:
        """The recurrence as it is commonly written with `lax.associative_scan`."""
        a, x, h0, reset = self._named(arguments)
        accumulator = jnp.promote_types(x.dtype, jnp.float32)
        first, last = (-1, 0) if self.reverse else (0, -1)
        decay = jnp.broadcast_to(a, x.shape).astype(accumulator)
        drive = x.astype(accumulator)
        if reset is not None:
            decay = jnp.where(self._flags(reset), 0, decay)
        if h0 is not None:
            start = (slice(None),) * self.axis + (first,)
            drive = drive.at[start].add(decay[start] * h0)

        def combine(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        _, h = lax.associative_scan(combine, (decay, drive), reverse=self.reverse, axis=self.axis)
        h_last = lax.index_in_dim(h, last, self.axis, keepdims=False)
        return h_last, h.astype(x.dtype)

    def _scan(self, *arguments: Array) -> tuple[Array, Array]:
        """The recurrence as it is commonly written with `lax.scan`."""
        a, x, h0, reset = self._named(arguments)
        accumulator = jnp.promote_types(x.dtype, jnp.float32)
        a = a.reshape((1,) * (x.ndim - a.ndim) + a.shape).astype(accumulator)
        a = jnp.moveaxis(a, self.axis, 0)
        inputs = {"x": jnp.moveaxis(x.astype(accumulator), self.axis, 0)}
        if a.shape[0] > 1:
            inputs["a"] = a
        if reset is not None:
            inputs["reset"] = jnp.moveaxis(self._flags(reset), self.axis, 0)

        def step(h, now):
            if "reset" in now:
                h = jnp.where(now["reset"], 0, h)
            h = now.get("a", a[0]) * h + now["x"]
            return h, h

        if h0 is None:
            h0 = jnp.zeros(inputs["x"].shape[1:], accumulator)
        h_last, h = lax.scan(step, h0, inputs, reverse=self.reverse)
        return h_last, jnp.moveaxis(h, 0, self.axis).astype(x.dtype)


def _sweep_point(steps: int, channels: int, *sweeps: Sweep) -> LinearCase:
    return LinearCase(
        name=f"sweep-{steps}x{channels}",
        source=f"one point of the plot against {' and '.join(sweeps)}",
        x=(4, steps, channels),
        a=(4, steps, channels),
        sweeps=sweeps,
    )


CASES: tuple[LinearCase, ...] = (
    LinearCase(
        name="one-channel",
        source="a single short signal: what a call costs",
        x=(1, 64, 1),
        a=(1, 64, 1),
        quick=True,
    ),
    LinearCase(
        name="gae",
        source="generalised advantage estimation (Schulman et al. 2016), 2048 environments",
        x=(128, 2048),
        a=(),
        axis=0,
        episode=100,
        reverse=True,
    ),
    LinearCase(
        name="rl-small",
        source="a minibatch of a recurrent policy: 8 sequences of 64 steps",
        x=(8, 64, 128),
        a=(8, 64, 128),
        quick=True,
    ),
    LinearCase(
        name="rl-rollout",
        source="a time-major PPO rollout, 64 environments, state carried from the last rollout",
        x=(128, 64, 256),
        a=(128, 64, 256),
        axis=0,
        episode=50,
        carry=True,
    ),
    LinearCase(
        name="rl-packed",
        source="episodes packed end to end, batch-major, as a recurrent replay buffer gives them",
        x=(16, 1024, 256),
        a=(16, 1024, 256),
        episode=200,
    ),
    LinearCase(
        name="gated-rnn",
        source="a gated linear recurrent layer (minGRU, GILR, RG-LRU) on 4096 tokens",
        x=(4, 4096, 256),
        a=(4, 4096, 256),
        quick=True,
    ),
    LinearCase(
        name="gated-rnn-bf16",
        source="the same layer in mixed precision",
        x=(4, 4096, 256),
        a=(4, 4096, 256),
        of="bfloat16",
    ),
    LinearCase(
        name="heads",
        source="one decay per head and step, as in Mamba-2, 8 heads of 64 channels",
        x=(4, 2048, 8, 64),
        a=(4, 2048, 8, 1),
    ),
    LinearCase(
        name="mamba",
        source="Mamba's d x N states of one layer (256 x 16), decay per step",
        x=(2, 1024, 4096),
        a=(2, 1024, 4096),
    ),
    LinearCase(
        name="lra-image",
        source="LRU or S5 on Long Range Arena's Image (1024 steps), time-invariant decay",
        x=(16, 1024, 128),
        a=(128,),
        of="complex64",
    ),
    LinearCase(
        name="lra-text",
        source="LRU or S5 on Long Range Arena's Text (4096 steps)",
        x=(16, 4096, 64),
        a=(64,),
        of="complex64",
    ),
    LinearCase(
        name="lra-path-x",
        source="LRU or S5 on Long Range Arena's Path-X (16384 steps)",
        x=(16, 16384, 32),
        a=(32,),
        of="complex64",
    ),
    LinearCase(
        name="million-steps",
        source="raw audio, genomes, sensor logs: a million steps, few channels",
        x=(1, 1_000_000, 16),
        a=(1, 1_000_000, 16),
    ),
    _sweep_point(64, 64, "steps"),
    _sweep_point(256, 64, "steps"),
    _sweep_point(1024, 64, "steps", "channels"),
    _sweep_point(4096, 64, "steps"),
    _sweep_point(16384, 64, "steps"),
    _sweep_point(65536, 64, "steps"),
    _sweep_point(1024, 1, "channels"),
    _sweep_point(1024, 4, "channels"),
    _sweep_point(1024, 16, "channels"),
    _sweep_point(1024, 256, "channels"),
    _sweep_point(1024, 1024, "channels"),
    _sweep_point(1024, 4096, "channels"),
)
