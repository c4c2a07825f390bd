"""Cases of `fastscan.linear_attention`."""

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
class AttentionCase(Case):
    """A shape of `linear_attention`, with as many values as keys.

    `decay` says whether there is one for each step, or for each step and key; `episode` is the mean
    number of steps between resets.
    """

    family: ClassVar[str] = "attention"
    baselines: ClassVar[tuple[str, ...]] = ("lax.associative_scan", "lax.scan", "chunked")

    batch: tuple[int, ...] = (1,)
    steps: int
    width: int
    decay: Literal["none", "step", "key"] = "none"
    delta: bool = False
    episode: int | None = None

    @property
    def dtype(self) -> np.dtype:
        """The dtype of all operands."""
        return np.dtype(np.float32)

    @property
    def size(self) -> Mapping[str, int]:
        """The sequences, their steps, and the elements of a state."""
        return {
            "batch": math.prod(self.batch),
            "steps": self.steps,
            "channels": self.width * self.width,
        }

    @property
    def description(self) -> str:
        """The shape of q, k and v, and what else sets the case apart."""
        parts = [f"{self.dtype} {(*self.batch, self.steps, self.width)}"]
        parts += [f"decay per {self.decay}"] if self.decay != "none" else []
        parts += ["delta rule"] if self.delta else []
        parts += ["resets"] if self.episode is not None else []
        return ", ".join(parts)

    @property
    def bytes(self) -> Mapping[str, int]:
        """What must be read and written once, states left out."""
        rows = math.prod(self.batch) * self.steps * self.dtype.itemsize
        wide = rows * self.width
        decay = {"none": 0, "step": rows, "key": wide}[self.decay]
        more = decay + (rows if self.delta else 0)
        reset = 0 if self.episode is None else rows // self.dtype.itemsize
        forward = 4 * wide + more + reset  # reads q, k, v, the decays and betas; writes y
        backward = 7 * wide + 2 * more + reset  # reads these and y's cotangent; writes theirs
        return {"floor": 4 * wide, "forward": forward, "gradient": forward + backward}

    def arguments(self) -> Arguments:
        """Normal q, v and cotangents; keys of length one; decays in [0.9, 1); random resets."""
        random = self.random()
        rows, width = (*self.batch, self.steps), self.width

        q, k, v = (normal(random, (*rows, width), self.dtype) for _ in range(3))
        operands = [q / math.sqrt(width), k / np.linalg.norm(k, axis=-1, keepdims=True), v]
        if self.decay != "none":
            shape = rows if self.decay == "step" else (*rows, width)
            operands.append(np.log(random.uniform(0.9, 1.0, shape)))
        if self.delta:
            operands.append(random.uniform(0.0, 1.0, rows))
        constants = []
        if self.episode is not None:
            constants.append(random.random(rows) < 1 / self.episode)
        shapes = ((*self.batch, width, width), (*rows, width))
        cotangents = tuple(normal(random, shape, self.dtype) for shape in shapes)
        return Arguments(
            tuple(x.astype(self.dtype) for x in operands), tuple(constants), cotangents
        )

    def _fastscan(self, implementation: str | None, *arguments: Array) -> tuple[Array, Array]:
        q, k, v, options = self._named(arguments)
        return fastscan.linear_attention(q, k, v, **options, implementation=implementation)

    def oracle(self, *arguments: Array) -> tuple[Array, Array]:
        """`fastscan.reference.linear_attention`."""
        q, k, v, options = self._named(arguments)
        return fastscan.reference.linear_attention(q, k, v, **options)

    def floor(self, *arguments: Array) -> Array:
        """XLA's own q * k + v."""
        q, k, v, _ = self._named(arguments)
        return q * k + v

    def _named(self, arguments: tuple[Array, ...]) -> tuple[Array, Array, Array, dict[str, Any]]:
        q, k, v, *rest = arguments
        options = {}
        if self.decay != "none":
            options["log_decay"] = rest.pop(0)
        if self.delta:
            options["beta"] = rest.pop(0)
        if self.episode is not None:
            options["reset"] = rest.pop(0)
        return q, k, v, options

    def _decays(self, k: Array, options: dict[str, Any]) -> Array:
        """Decays as factors of the rows of a state, zero at resets."""
        log_decay = options.get("log_decay", jnp.zeros_like(k[..., 0]))
        decay = jnp.exp(log_decay if self.decay == "key" else log_decay[..., None])
        return jnp.where(options["reset"][..., None], 0, decay) if "reset" in options else decay

    def _associative_scan(self, *arguments: Array) -> tuple[Array, Array]:
        """All states at once: of outer products, or with the delta rule of pairs of matrices."""
        q, k, v, options = self._named(arguments)
        time = len(self.batch)
        decay = self._decays(k, options)[..., None]
        drive = k[..., :, None] * v[..., None, :]
        if self.delta:
            beta = options["beta"][..., None, None]
            erase = jnp.eye(self.width, dtype=q.dtype) - beta * k[..., :, None] * k[..., None, :]
            matrices = erase * jnp.swapaxes(decay, -1, -2)

            def compose(left, right):
                return right[0] @ left[0], right[0] @ left[1] + right[1]

            _, S = lax.associative_scan(compose, (matrices, beta * drive), axis=time)
        else:

            def combine(left, right):
                return left[0] * right[0], right[0] * left[1] + right[1]

            _, S = lax.associative_scan(combine, (decay, drive), axis=time)
        return lax.index_in_dim(S, -1, time, keepdims=False), jnp.einsum("...k,...kv->...v", q, S)

    def _scan(self, *arguments: Array) -> tuple[Array, Array]:
        """A step at a time with `lax.scan`."""
        q, k, v, options = self._named(arguments)
        time = len(self.batch)
        inputs = {"q": q, "k": k, "v": v, "decay": self._decays(k, options)}
        if self.delta:
            inputs["beta"] = options["beta"]

        def step(S, now):
            S = now["decay"][..., None] * S
            v = now["v"]
            if self.delta:
                v = now["beta"][..., None] * (v - jnp.einsum("...k,...kv->...v", now["k"], S))
            S = S + now["k"][..., :, None] * v[..., None, :]
            return S, jnp.einsum("...k,...kv->...v", now["q"], S)

        start = jnp.zeros((*self.batch, self.width, self.width), q.dtype)
        S, y = lax.scan(step, start, {n: jnp.moveaxis(x, time, 0) for n, x in inputs.items()})
        return S, jnp.moveaxis(y, 0, time)


def _sweep_point(steps: int, width: int, *sweeps: Sweep) -> AttentionCase:
    return AttentionCase(
        name=f"sweep-{steps}x{width}",
        source=f"one point of the plot against {' and '.join(sweeps)}",
        steps=steps,
        width=width,
        decay="step",
        sweeps=sweeps,
    )


CASES: tuple[AttentionCase, ...] = (
    AttentionCase(
        name="rl-small",
        source="a minibatch of a recurrent policy: 8 sequences of 64 steps",
        batch=(8,),
        steps=64,
        width=16,
        quick=True,
    ),
    AttentionCase(
        name="rl-packed",
        source="episodes packed end to end, as a replay buffer gives fast weights them",
        batch=(16,),
        steps=1024,
        width=16,
        decay="step",
        episode=200,
    ),
    AttentionCase(
        name="linear-transformer",
        source="one head of a linear transformer (Katharopoulos et al. 2020) on 4096 tokens",
        steps=4096,
        width=64,
        quick=True,
    ),
    AttentionCase(
        name="linear-transformer-resets",
        source="the same head on packed documents",
        steps=4096,
        width=64,
        episode=200,
    ),
    AttentionCase(
        name="retnet",
        source="RetNet or Mamba-2: a decay per step, 4 heads of 64",
        batch=(1, 4),
        steps=1024,
        width=64,
        decay="step",
    ),
    AttentionCase(
        name="gla",
        source="gated linear attention or HGRN2: a decay per step and key, 4096 tokens",
        steps=4096,
        width=64,
        decay="key",
    ),
    AttentionCase(
        name="deltanet",
        source="DeltaNet (Yang et al. 2024), a head of 64; the tree multiplies 64 x 64 matrices",
        steps=1024,
        width=64,
        delta=True,
        quick=True,
    ),
    AttentionCase(
        name="gated-deltanet",
        source="Gated DeltaNet (Yang et al. 2024) on packed documents",
        steps=1024,
        width=64,
        decay="step",
        delta=True,
        episode=200,
    ),
    AttentionCase(
        name="kda",
        source="Kimi delta attention: the delta rule with a decay per step and key",
        steps=1024,
        width=64,
        decay="key",
        delta=True,
    ),
    _sweep_point(64, 32, "steps"),
    _sweep_point(256, 32, "steps"),
    _sweep_point(1024, 32, "steps", "channels"),
    _sweep_point(4096, 32, "steps"),
    _sweep_point(16384, 32, "steps"),
    _sweep_point(1024, 4, "channels"),
    _sweep_point(1024, 8, "channels"),
    _sweep_point(1024, 16, "channels"),
    _sweep_point(1024, 64, "channels"),
    _sweep_point(1024, 128, "channels"),
)
