"""Cases of `fastscan.selective_scan`: S6, the recurrence of Mamba."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import fastscan
from fastscan.bench.cases.case import Arguments, Case, Sweep, normal


@dataclass(frozen=True, kw_only=True)
class SelectiveCase(Case):
    """A shape of `selective_scan`: `batch` sequences of `steps` in `channels` of `states` each.

    `episode` is the mean number of steps between resets. With `complex_states` A, the states and y
    are complex64.
    """

    family: ClassVar[str] = "selective"

    batch: int
    steps: int
    channels: int
    states: int
    of: str = "float32"
    discretization: Literal["euler", "zoh"] = "euler"
    episode: int | None = None
    complex_states: bool = False

    @property
    def dtype(self) -> np.dtype:
        """The dtype of u, dt, B, C and, where the states are real, y."""
        return jnp.dtype(self.of)

    @property
    def state_dtype(self) -> np.dtype:
        """The dtype of A and of the states."""
        least = jnp.complex64 if self.complex_states else jnp.float32
        return jnp.promote_types(self.dtype, least)

    @property
    def y_dtype(self) -> np.dtype:
        """The dtype of y."""
        return self.state_dtype if self.complex_states else self.dtype

    @property
    def size(self) -> Mapping[str, int]:
        """Sequences, steps, channels."""
        return {"batch": self.batch, "steps": self.steps, "channels": self.channels}

    @property
    def description(self) -> str:
        """The shape of u, the states of a channel, and what else sets the case apart."""
        parts = [f"{self.of} {(self.batch, self.steps, self.channels)}, N {self.states}"]
        if self.complex_states:
            parts.append("complex states")
        if self.discretization != "euler":
            parts.append(self.discretization)
        if self.episode is not None:
            parts.append("resets")
        return ", ".join(parts)

    @property
    def bytes(self) -> Mapping[str, int]:
        """What must be read and written once; the states, A and D left out."""
        row = self.batch * self.steps * self.dtype.itemsize
        u, b = row * self.channels, row * self.states
        reset = 0 if self.episode is None else self.batch * self.steps
        y = 2 * u if self.complex_states else u
        forward = 2 * u + y + 2 * b + reset  # reads u, dt, B, C; writes y
        backward = 4 * u + y + 4 * b + reset  # and y's cotangent; writes those of u, dt, B, C
        return {"floor": 3 * u, "forward": forward, "gradient": forward + backward}

    def arguments(self) -> Arguments:
        """A, D and dt as Mamba's are at the start; all else normal; random resets."""
        random = self.random()
        accumulator = jnp.promote_types(self.dtype, jnp.float32)
        over_time = (self.batch, self.steps)

        dt = np.exp(random.uniform(math.log(1e-3), math.log(1e-1), (*over_time, self.channels)))
        n = np.arange(1.0, self.states + 1)
        a = np.tile(-0.5 + 1j * np.pi * n if self.complex_states else -n, (self.channels, 1))
        operands = (
            normal(random, (*over_time, self.channels), self.dtype),
            dt.astype(self.dtype),
            a.astype(self.state_dtype),
            normal(random, (*over_time, self.states), self.dtype),
            normal(random, (*over_time, self.states), self.dtype),
            np.ones(self.channels, accumulator),
        )
        constants = ()
        if self.episode is not None:
            constants = (random.random(over_time) < 1 / self.episode,)
        cotangents = (
            normal(random, (self.batch, self.channels, self.states), self.state_dtype),
            normal(random, (*over_time, self.channels), self.y_dtype),
        )
        return Arguments(operands, constants, cotangents)

    def _fastscan(self, implementation: str | None, *arguments: Array) -> tuple[Array, Array]:
        *operands, reset = self._named(arguments)
        return fastscan.selective_scan(
            *operands,
            discretization=self.discretization,
            reset=reset,
            implementation=implementation,
        )

    def oracle(self, *arguments: Array) -> tuple[Array, Array]:
        """`fastscan.reference.selective_scan`."""
        *operands, reset = self._named(arguments)
        return fastscan.reference.selective_scan(
            *operands, discretization=self.discretization, reset=reset
        )

    def floor(self, *arguments: Array) -> Array:
        """XLA's own u * dt + u."""
        u, dt = arguments[:2]
        return u * dt + u

    def _named(self, arguments: tuple[Array, ...]) -> tuple[Any, ...]:
        """The operands, and the flags or None."""
        return arguments if self.episode is not None else (*arguments, None)

    def _gates(self, u: Array, dt: Array, A: Array, B: Array, reset: Any) -> tuple[Array, Array]:
        """The decay exp(dt A) and the drive Bbar u, of shape (..., d, N)."""
        dt = dt.astype(A.dtype)[..., None]
        weight = dt if self.discretization == "euler" else jnp.expm1(dt * A) / A
        decay = jnp.exp(dt * A)
        if reset is not None:
            decay = jnp.where(reset[..., None, None], 0, decay)
        return decay, weight * u.astype(A.dtype)[..., None] * B.astype(A.dtype)[..., None, :]

    def _associative_scan(self, *arguments: Array) -> tuple[Array, Array]:
        """The recurrence as it is commonly written with `lax.associative_scan`."""
        u, dt, A, B, C, D, reset = self._named(arguments)

        def combine(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        gates = self._gates(u, dt, A, B, reset)
        _, h = lax.associative_scan(combine, gates, axis=1)
        y = jnp.einsum("btdn,btn->btd", h, C.astype(A.dtype)) + D * u.astype(A.dtype)
        return h[:, -1], y.astype(self.y_dtype)

    def _scan(self, *arguments: Array) -> tuple[Array, Array]:
        """The recurrence as it is commonly written with `lax.scan`."""
        u, dt, A, B, C, D, reset = self._named(arguments)
        rows = {"u": u, "dt": dt, "B": B, "C": C}
        if reset is not None:
            rows["reset"] = reset

        def step(h, row):
            decay, drive = self._gates(row["u"], row["dt"], A, row["B"], row.get("reset"))
            h = decay * h + drive
            return h, jnp.einsum("bdn,bn->bd", h, row["C"].astype(A.dtype))

        start = jnp.zeros((self.batch, *A.shape), A.dtype)
        h_last, y = lax.scan(step, start, {k: jnp.moveaxis(v, 1, 0) for k, v in rows.items()})
        y = jnp.moveaxis(y, 0, 1) + D * u.astype(A.dtype)
        return h_last, y.astype(self.y_dtype)


def _sweep_point(steps: int, channels: int, *sweeps: Sweep) -> SelectiveCase:
    return SelectiveCase(
        name=f"sweep-{steps}x{channels}",
        source=f"one point of the plot against {' and '.join(sweeps)}",
        batch=1,
        steps=steps,
        channels=channels,
        states=16,
        sweeps=sweeps,
    )


CASES: tuple[SelectiveCase, ...] = (
    SelectiveCase(
        name="mamba",
        source="a narrow Mamba layer (Gu and Dao 2023) on 4096 tokens",
        batch=1,
        steps=4096,
        channels=256,
        states=16,
        quick=True,
    ),
    SelectiveCase(
        name="mamba-bf16",
        source="the same layer in mixed precision",
        batch=1,
        steps=4096,
        channels=256,
        states=16,
        of="bfloat16",
    ),
    SelectiveCase(
        name="mamba-130m",
        source="a layer of Mamba-130M (1536 inner channels) on 512 tokens",
        batch=1,
        steps=512,
        channels=1536,
        states=16,
    ),
    SelectiveCase(
        name="vision",
        source="Vision Mamba Tiny (Zhu et al. 2024): 196 patches and a class token, 384 channels",
        batch=8,
        steps=197,
        channels=384,
        states=16,
    ),
    SelectiveCase(
        name="rl-small",
        source="a minibatch of a recurrent policy: 8 sequences of 64 steps",
        batch=8,
        steps=64,
        channels=128,
        states=16,
        episode=50,
        quick=True,
    ),
    SelectiveCase(
        name="rl-packed",
        source="episodes packed end to end, as a recurrent replay buffer gives them",
        batch=8,
        steps=1024,
        channels=64,
        states=16,
        episode=200,
    ),
    SelectiveCase(
        name="zoh",
        source="S6 with the zero-order hold, as recurrent models for reinforcement learning use it",
        batch=8,
        steps=1024,
        channels=64,
        states=16,
        discretization="zoh",
    ),
    SelectiveCase(
        name="complex",
        source="the layer of the first case with the complex A of S4D-Lin (Gu et al. 2022)",
        batch=1,
        steps=4096,
        channels=256,
        states=16,
        complex_states=True,
    ),
    SelectiveCase(
        name="wide-state",
        source="64 states a channel, as in later state-space layers",
        batch=1,
        steps=1024,
        channels=128,
        states=64,
    ),
    _sweep_point(64, 64, "steps"),
    _sweep_point(256, 64, "steps"),
    _sweep_point(1024, 64, "steps", "channels"),
    _sweep_point(4096, 64, "steps"),
    _sweep_point(16384, 64, "steps"),
    _sweep_point(1024, 4, "channels"),
    _sweep_point(1024, 16, "channels"),
    _sweep_point(1024, 256, "channels"),
    _sweep_point(1024, 1024, "channels"),
)
