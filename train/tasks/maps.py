"""Forecasting of systems in discrete time: NARMA-10, Henon, logistic, multiple sines."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.train.errors import TrainError
from fastscan.train.tasks.forecasting import Forecasting, iterate
from fastscan.train.tasks.generated import Episode, Episodic, at_least
from fastscan.train.tasks.task import Regression

ORDER = 10

# Up to so many steps, NARMA-10 runs away on one in four inputs at most. Beyond, so many draws are
# tried, and it must not run away on all.
SAFE_LENGTH, SAMPLES = 20_000, 64

# Of NARMA-10, in the mean over inputs and steps.
INPUT_MEAN, INPUT_DEVIATION = 0.25, 0.1443
OUTPUT_MEAN, OUTPUT_DEVIATION = 0.388, 0.108


@dataclass(frozen=True, kw_only=True)
class Narma(Episodic, Regression):
    """The next output of a nonlinear moving average of order 10, from its inputs alone.

    y[t+1] = 0.3 y[t] + 0.05 y[t] (y[t] + ... + y[t-9]) + 1.5 u[t-9] u[t] + 0.1, u uniform in
    [0, 0.5], from zeros. Inputs are u[t], targets y[t+1], both shifted and scaled. The system runs
    away on some inputs: where y reaches 1, others are drawn.

    Atiya and Parlos, "New results on recurrent network training", IEEE Transactions on Neural
    Networks 11, 2000.
    """

    name = "narma"
    input_size = 1
    output_size = 1

    length: int = 512
    """Steps."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, length=1)
        if self.length <= SAFE_LENGTH:
            return
        # Inputs on which the system stays bounded could be drawn for ever.
        u = jax.random.uniform(jax.random.key(0), (SAMPLES, self.length), jnp.float32, 0, 0.5)
        if not jnp.any(jnp.max(jax.jit(jax.vmap(narma))(u), axis=1) < 1):
            raise TrainError(
                f"the system of the task {self.name} runs away in {self.length} steps on nearly "
                "all inputs: give a smaller length"
            )

    @property
    def episode_length(self) -> int:
        """Steps of an episode."""
        return self.length

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return inputs and outputs that stay below 1."""

        def draw(carry):
            key, again = jax.random.split(carry[0])
            u = jax.random.uniform(key, (self.length,), jnp.float32, 0, 0.5)
            return again, u, narma(u)

        def runs_away(carry):
            return ~(jnp.max(carry[2]) < 1)

        _, u, y = jax.lax.while_loop(runs_away, draw, draw((key,)))
        return Episode(
            xs=((u - INPUT_MEAN) / INPUT_DEVIATION)[:, None],
            targets=((y - OUTPUT_MEAN) / OUTPUT_DEVIATION)[:, None],
            mask=jnp.ones(self.length, bool),
        )


def narma(u: Float[Array, " time"]) -> Float[Array, " time"]:
    """Return y[1], y[2], ... for the inputs u[0], u[1], ..."""

    def step(carry, new):
        inputs, outputs = carry
        inputs = jnp.roll(inputs, 1).at[0].set(new)
        y = outputs[0]
        y = 0.3 * y + 0.05 * y * jnp.sum(outputs) + 1.5 * inputs[-1] * new + 0.1
        return (inputs, jnp.roll(outputs, 1).at[0].set(y)), y

    zeros = jnp.zeros(ORDER, u.dtype)
    return jax.lax.scan(step, (zeros, zeros), u)[1]


@dataclass(frozen=True, kw_only=True)
class Henon(Forecasting):
    """Henon's map: x[t+1] = 1 - a x[t]^2 + y[t], y[t+1] = b x[t].

    Henon, "A two-dimensional mapping with a strange attractor", Communications in Mathematical
    Physics 50, 1976.
    """

    name = "henon"
    coordinates = 2
    mean = (0.256, 0.0768)
    deviation = (0.722, 0.217)

    a: float = 1.4
    """Coefficient of x[t]^2."""
    b: float = 0.3
    """Contraction of areas."""

    def trajectory(self, key: PRNGKeyArray, samples: int) -> Float[Array, "samples 2"]:
        """Return the trajectory from near the origin."""
        start = jax.random.uniform(key, (2,), jnp.float32, -0.1, 0.1)
        return iterate(self.next, start, samples)

    def next(self, state: Float[Array, "2"]) -> Float[Array, "2"]:
        """Return the next state."""
        x, y = state
        return jnp.stack([1 - self.a * x**2 + y, self.b * x])


@dataclass(frozen=True, kw_only=True)
class Logistic(Forecasting):
    """The logistic map: x[t+1] = r x[t] (1 - x[t]).

    May, "Simple mathematical models with very complicated dynamics", Nature 261, 1976.
    """

    name = "logistic"
    coordinates = 1
    mean = 0.593
    deviation = 0.299

    r: float = 3.9
    """Growth rate."""

    def check_options(self) -> None:
        """Raise `TrainError` if an option is out of its range."""
        super().check_options()
        if not 0 <= self.r <= 4:
            raise TrainError(f"r must be in [0, 4], got {self.r}")

    def trajectory(self, key: PRNGKeyArray, samples: int) -> Float[Array, "samples 1"]:
        """Return the trajectory from anywhere in between."""
        start = jax.random.uniform(key, (1,), jnp.float32, 0.1, 0.9)
        return iterate(self.next, start, samples)

    def next(self, x: Float[Array, "1"]) -> Float[Array, "1"]:
        """Return the next state."""
        return self.r * x * (1 - x)


# Of Jaeger and Haas' followers, in radians per step.
FREQUENCIES = (0.2, 0.311, 0.42, 0.51, 0.63, 0.74, 0.85, 0.97)


@dataclass(frozen=True, kw_only=True)
class Sines(Forecasting):
    """The sum of sines of incommensurable frequencies, each with a phase of its own.

    x[t] = sum over i of sin(w[i] t + phase[i]).

    Jaeger and Haas, "Harnessing nonlinearity", Science 304, 2004; Schmidhuber et al., "Training
    recurrent networks by Evolino", Neural Computation 19, 2007.
    """

    name = "sines"
    coordinates = 1

    waves: int = 5
    """How many of the frequencies 0.2, 0.311, 0.42, 0.51, 0.63, 0.74, 0.85, 0.97 there are."""
    horizon: int = 10
    """How many samples ahead the forecast is."""
    washout: int = 0
    """Samples that are left out at the start."""

    def check_options(self) -> None:
        """Raise `TrainError` if an option is out of its range."""
        super().check_options()
        at_least(self, waves=1)
        if self.waves > len(FREQUENCIES):
            raise TrainError(f"there are {len(FREQUENCIES)} waves, got {self.waves}")

    def trajectory(self, key: PRNGKeyArray, samples: int) -> Float[Array, "samples 1"]:
        """Return the sum, with a variance of 1."""
        phases = jax.random.uniform(key, (self.waves,), jnp.float32, 0, 2 * np.pi)
        steps = jnp.arange(samples, dtype=jnp.float32)[:, None]
        waves = jnp.sin(jnp.array(FREQUENCIES[: self.waves], jnp.float32) * steps + phases)
        return jnp.sum(waves, axis=1, keepdims=True) * (2 / self.waves) ** 0.5
