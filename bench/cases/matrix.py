"""Cases of `fastscan.matrix_scan`: H[t] = A[t] @ H[t-1] + X[t]."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import fastscan
from fastscan import HouseholderProduct, LowRank
from fastscan.bench.cases.case import Arguments, Case, Sweep, normal

Form = Literal["dense", "low-rank", "product"]


@dataclass(frozen=True, kw_only=True)
class MatrixCase(Case):
    """A shape of `matrix_scan`, with time at axis 1 of X (batch, steps, n, m).

    The baselines compose or apply dense matrices, which they build from the factors where `form`
    is not dense: the factored forms are what fastscan adds. `episode` is the mean number of steps
    between resets.
    """

    family: ClassVar[str] = "matrix"

    X: tuple[int, int, int, int]
    form: Form = "dense"
    terms: int = 1
    shared: bool = False
    """Whether the matrix is the same at every step, and in all of the batch."""
    of: str = "float32"
    episode: int | None = None

    @property
    def dtype(self) -> np.dtype:
        """The dtype of A and X."""
        return jnp.dtype(self.of)

    @property
    def size(self) -> Mapping[str, int]:
        """The batch, time, and the entries of a state."""
        batch, steps, n, m = self.X
        return {"batch": batch, "steps": steps, "channels": n * m}

    @property
    def coefficients(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of A, or of its factors d, u and w."""
        batch, steps, n, _ = self.X
        if self.form == "dense":
            return ((n, n),) if self.shared else ((batch, steps, n, n),)
        factor = (batch, steps, self.terms, n)
        return ((batch, steps, 1), factor, factor)

    @property
    def description(self) -> str:
        """The shape of X, and what else sets the case apart."""
        parts = [f"{self.of} {self.X}"]
        if self.form != "dense":
            parts.append(f"{self.form}, r={self.terms}")
        if self.shared:
            parts.append("one matrix")
        if self.episode is not None:
            parts.append("resets")
        return ", ".join(parts)

    @property
    def bytes(self) -> Mapping[str, int]:
        """What must be read and written once, H_last left out."""
        item = self.dtype.itemsize
        A = sum(math.prod(shape) for shape in self.coefficients) * item
        X = math.prod(self.X) * item
        reset = 0 if self.episode is None else math.prod(self.X[:2])
        forward = A + reset + 2 * X  # reads A, X; writes H
        backward = 2 * A + reset + 3 * X  # reads A, H and H's cotangent; writes those of A and X
        return {"floor": A + 2 * X, "forward": forward, "gradient": forward + backward}

    def arguments(self) -> Arguments:
        """Matrices of a norm below one; normal X and cotangents; random resets."""
        random = self.random()
        batch, steps, n, m = self.X
        double = jnp.promote_types(self.dtype, np.float64)
        if self.form == "dense":
            # The largest singular value of a normal n x n matrix is about 2 sqrt(n).
            values = [normal(random, self.coefficients[0], double) * (0.45 / math.sqrt(n))]
        else:
            scale, key, _ = self.coefficients
            w = normal(random, key, double)
            w /= np.linalg.norm(w, axis=-1, keepdims=True)
            beta = random.uniform(0.1, 0.9, (*key[:-1], 1)) / self.terms
            values = [random.uniform(0.9, 0.999, scale), beta * w.conj(), w]
        values.append(normal(random, self.X, double))
        operands = tuple(v.astype(self.dtype) for v in values)
        constants = ()
        if self.episode is not None:
            constants = (random.random((batch, steps)) < 1 / self.episode,)
        accumulator = jnp.promote_types(self.dtype, jnp.float32)
        cotangents = (
            normal(random, (batch, n, m), accumulator),
            normal(random, self.X, self.dtype),
        )
        return Arguments(operands, constants, cotangents)

    def _fastscan(self, implementation: str | None, *arguments: Array) -> tuple[Array, Array]:
        factors, X, reset = self._named(arguments)
        forms = {"low-rank": LowRank, "product": HouseholderProduct}
        A = factors[0] if self.form == "dense" else forms[self.form](*factors)
        return fastscan.matrix_scan(A, X, axis=1, reset=reset, implementation=implementation)

    def oracle(self, *arguments: Array) -> tuple[Array, Array]:
        """`fastscan.reference.matrix_scan` over the dense matrices."""
        factors, X, reset = self._named(arguments)
        reference, product = fastscan.reference, self.form == "product"

        def one(factors, X, reset):
            A = factors[0] if self.form == "dense" else reference.dense(*factors, product=product)
            return reference.matrix_scan(A, X, reset=reset)

        axes = (None if self.shared else 0, 0, None if reset is None else 0)
        return jax.vmap(one, axes)(factors, X, reset)

    def floor(self, *arguments: Array) -> Array:
        """XLA's own sum of X with as much of the coefficients' bytes as there is."""
        factors, X, _ = self._named(arguments)
        return X + sum(jnp.sum(factor) for factor in factors)

    def _named(self, arguments: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array, Any]:
        count = len(self.coefficients)
        reset = arguments[count + 1] if self.episode is not None else None
        return arguments[:count], arguments[count], reset

    def _matrices(self, factors: tuple[Array, ...]) -> Array:
        """The dense matrices, of shape (batch, steps, n, n), in the accumulation dtype."""
        batch, steps, n, _ = self.X
        accumulator = jnp.promote_types(self.dtype, jnp.float32)
        wide = [factor.astype(jnp.promote_types(factor.dtype, accumulator)) for factor in factors]
        if self.form == "dense":
            return jnp.broadcast_to(wide[0], (batch, steps, n, n))
        d, u, w = wide
        eye = jnp.eye(n, dtype=d.dtype)
        outer = u[..., :, None] * w[..., None, :]
        if self.form == "low-rank":
            return d[..., None] * eye - jnp.sum(outer, axis=2)
        A = d[..., None] * eye
        for i in range(self.terms):
            A = (eye - outer[:, :, i]) @ A
        return A

    def _prepared(self, arguments: tuple[Array, ...]) -> tuple[Array, Array]:
        factors, X, reset = self._named(arguments)
        A = self._matrices(factors)
        if reset is not None:
            A = jnp.where(reset[..., None, None], 0, A)
        return A, X.astype(A.dtype)

    def _associative_scan(self, *arguments: Array) -> tuple[Array, Array]:
        """Pairs (M, X) composed as M_j M_i, M_j X_i + X_j."""

        def compose(earlier, later):
            return later[0] @ earlier[0], later[0] @ earlier[1] + later[1]

        _, H = lax.associative_scan(compose, self._prepared(arguments), axis=1)
        return H[:, -1], H.astype(self._named(arguments)[1].dtype)

    def _scan(self, *arguments: Array) -> tuple[Array, Array]:
        def step(H, at_t):
            A, X = at_t
            H = A @ H + X
            return H, H

        A, X = (jnp.moveaxis(v, 1, 0) for v in self._prepared(arguments))
        H_last, H = lax.scan(step, jnp.zeros(X.shape[1:], X.dtype), (A, X))
        return H_last, jnp.moveaxis(H, 0, 1).astype(self._named(arguments)[1].dtype)


def _sweep_point(steps: int, n: int, *sweeps: Sweep) -> MatrixCase:
    return MatrixCase(
        name=f"sweep-{steps}x{n}",
        source=f"one point of the plot against {' and '.join(sweeps)}",
        X=(8, steps, n, 1),
        sweeps=sweeps,
    )


CASES: tuple[MatrixCase, ...] = (
    MatrixCase(
        name="small-blocks",
        source="block-diagonal state-space model, 8 blocks of 8 x 8 with 8 inputs",
        X=(8, 1024, 8, 8),
        quick=True,
    ),
    MatrixCase(
        name="vectors-4",
        source="64 input-dependent 4 x 4 state-space models",
        X=(64, 1024, 4, 1),
        quick=True,
    ),
    MatrixCase(
        name="dense-32",
        source="products of dense matrices, as DeltaNet's reference code composes them, one head",
        X=(1, 4096, 32, 32),
    ),
    MatrixCase(
        name="rotations",
        source="RotRNN: 128 blocks that a 2 x 2 matrix turns, episodes packed end to end",
        X=(128, 1024, 2, 1),
        episode=200,
    ),
    MatrixCase(
        name="iir",
        source="an IIR filter of order 8 in companion form on 32 signals",
        X=(32, 4096, 8, 1),
        shared=True,
    ),
    MatrixCase(
        name="unitary",
        source="complex 16 x 16 matrices, as in unitary RNNs",
        X=(8, 512, 16, 1),
        of="complex64",
    ),
    MatrixCase(
        name="deltanet",
        source="gated DeltaNet, 4 heads with keys and values of 64",
        X=(4, 1024, 64, 64),
        form="low-rank",
    ),
    MatrixCase(
        name="deltaproduct",
        source="DeltaProduct with 3 Householder factors a step, 4 heads of 32",
        X=(4, 1024, 32, 32),
        form="product",
        terms=3,
    ),
    _sweep_point(64, 8, "steps"),
    _sweep_point(256, 8, "steps"),
    _sweep_point(1024, 8, "steps", "channels"),
    _sweep_point(4096, 8, "steps"),
    _sweep_point(16384, 8, "steps"),
    _sweep_point(1024, 2, "channels"),
    _sweep_point(1024, 4, "channels"),
    _sweep_point(1024, 16, "channels"),
    _sweep_point(1024, 32, "channels"),
)
