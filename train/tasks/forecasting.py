"""Forecasting of a dynamical system: what the tasks of `maps` and `flows` share."""

import abc
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.train.errors import TrainError
from fastscan.train.tasks.generated import Episode, Episodic, at_least
from fastscan.train.tasks.task import Batch, Regression

# Trajectories that must not run away.
TRIALS = 8


@dataclass(frozen=True, kw_only=True)
class Forecasting(Episodic, Regression):
    """From the trajectory so far, its values `horizon` samples ahead; every step counts.

    Every trajectory starts at a place of its own, and on the attractor: the samples before it gets
    there are left out. Values are shifted and scaled by `mean` and `deviation`, the attractor's at
    the default parameters.
    """

    coordinates: ClassVar[int]
    mean: ClassVar[float | tuple[float, ...]] = 0.0
    deviation: ClassVar[float | tuple[float, ...]] = 1.0

    length: int = 512
    """Samples of a trajectory that are read."""
    horizon: int = 1
    """How many samples ahead the forecast is."""
    observed: int | None = None
    """How many of the coordinates are read and forecast, from the first one on; None: all."""
    washout: int = 200
    """Samples that are left out at the start."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        self.check_options()
        self._check_trajectories()

    def check_options(self) -> None:
        """Raise `TrainError` if an option is out of its range."""
        at_least(self, length=1, horizon=1, washout=0)
        if self.observed is not None and not 1 <= self.observed <= self.coordinates:
            raise TrainError(
                f"observed of the task {self.name} must be from 1 to {self.coordinates}, got "
                f"{self.observed}"
            )

    def _check_trajectories(self) -> None:
        """Raise `TrainError` if trajectories run away, which those of the defaults do not."""
        common = {option.name for option in dataclasses.fields(Forecasting)}
        changed = [
            f"{option.name}={getattr(self, option.name)}"
            for option in dataclasses.fields(self)
            if option.name not in common and getattr(self, option.name) != option.default
        ]
        if not changed:
            return
        keys = jax.random.split(jax.random.key(0), TRIALS)
        samples = self.washout + self.length + self.horizon
        draw = jax.jit(jax.vmap(lambda key: self.trajectory(key, samples)))
        if not jnp.all(jnp.isfinite(draw(keys))):
            raise TrainError(
                f"trajectories of the task {self.name} run away with {', '.join(changed)}"
            )

    @abc.abstractmethod
    def trajectory(self, key: PRNGKeyArray, samples: int) -> Float[Array, "samples coordinates"]:
        """Return the trajectory from a random start."""

    @property
    def episode_length(self) -> int:
        """Samples of a trajectory that are read."""
        return self.length

    @property
    def input_size(self) -> int:
        """Coordinates that are read."""
        return min(self.coordinates, self.observed or self.coordinates)

    @property
    def output_size(self) -> int:
        """Coordinates that are forecast."""
        return self.input_size

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return a trajectory and its future."""
        values = self.trajectory(key, self.washout + self.length + self.horizon)[self.washout :]
        values = (values - jnp.array(self.mean, jnp.float32)) / jnp.array(
            self.deviation, jnp.float32
        )
        values = values[:, : self.input_size]
        return Episode(
            xs=values[: self.length],
            targets=values[self.horizon :],
            mask=jnp.ones(self.length, bool),
        )

    def persistence(self, batch: Batch) -> Float[Array, "batch time outputs"]:
        """Return the present values."""
        return batch.xs


def iterate(
    function: Callable[[Array], Array], start: Float[Array, "..."], samples: int
) -> Float[Array, "samples ..."]:
    """Return start, f(start), f(f(start)), ..."""
    return jax.lax.scan(lambda x, _: (function(x), x), start, length=samples)[1]
