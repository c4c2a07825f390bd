"""Forecasting of systems in continuous time."""

import abc
import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from fastscan.train.errors import TrainError
from fastscan.train.tasks.forecasting import Forecasting, iterate
from fastscan.train.tasks.generated import at_least


def runge_kutta(
    function: Callable[[Array], Array], state: Float[Array, "..."], h: float
) -> Float[Array, "..."]:
    """Return the state a time h later, by the classical method of order 4."""
    k1 = function(state)
    k2 = function(state + h / 2 * k1)
    k3 = function(state + h / 2 * k2)
    k4 = function(state + h * k3)
    return state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@dataclass(frozen=True, kw_only=True)
class Flow(Forecasting):
    """An ordinary differential equation, by Runge and Kutta's method of order 4."""

    interval: float = 0.03
    """Time between two samples."""
    substeps: int = 3
    """Steps of the integration between two samples."""
    horizon: int = 10
    """How many samples ahead the forecast is."""

    def check_options(self) -> None:
        """Raise `TrainError` if an option is out of its range."""
        super().check_options()
        at_least(self, substeps=1)
        if self.interval <= 0:
            raise TrainError(f"interval must be positive, got {self.interval}")

    @abc.abstractmethod
    def start(self, key: PRNGKeyArray) -> Float[Array, " coordinates"]:
        """Return a random state near the attractor."""

    @abc.abstractmethod
    def derivative(self, state: Float[Array, " coordinates"]) -> Float[Array, " coordinates"]:
        """Return the state's derivative with respect to time."""

    def next(self, state: Float[Array, " coordinates"]) -> Float[Array, " coordinates"]:
        """Return the state at the next sample."""
        h = self.interval / self.substeps
        for _ in range(self.substeps):
            state = runge_kutta(self.derivative, state, h)
        return state

    def trajectory(self, key: PRNGKeyArray, samples: int) -> Float[Array, "samples coordinates"]:
        """Return the trajectory from a random start."""
        return iterate(self.next, self.start(key), samples)


def _near(key: PRNGKeyArray, *centre: float) -> Float[Array, " coordinates"]:
    return jnp.array(centre, jnp.float32) + jax.random.normal(key, (len(centre),), jnp.float32)


@dataclass(frozen=True, kw_only=True)
class Lorenz(Flow):
    """Lorenz' convection: x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z.

    Lorenz, "Deterministic nonperiodic flow", Journal of the Atmospheric Sciences 20, 1963.
    """

    name = "lorenz"
    coordinates = 3
    mean = (0.0, 0.0, 23.5)
    deviation = (7.9, 9.0, 8.6)

    sigma: float = 10.0
    """Prandtl number."""
    rho: float = 28.0
    """Relative Rayleigh number."""
    beta: float = 8 / 3
    """Shape of the convection cells."""

    def start(self, key: PRNGKeyArray) -> Float[Array, "3"]:
        """Return a state near (1, 1, 25)."""
        return _near(key, 1, 1, 25)

    def derivative(self, state: Float[Array, "3"]) -> Float[Array, "3"]:
        """Return the state's derivative with respect to time."""
        x, y, z = state
        return jnp.stack([self.sigma * (y - x), x * (self.rho - z) - y, x * y - self.beta * z])


@dataclass(frozen=True, kw_only=True)
class Lorenz96(Flow):
    """Lorenz' atmosphere on a circle: x[i]' = (x[i+1] - x[i-2]) x[i-1] - x[i] + F.

    Lorenz, "Predictability: a problem partly solved", ECMWF seminar, 1996.
    """

    name = "lorenz96"
    mean = 2.35
    deviation = 3.64

    sites: int = 36
    """Number of x[i]."""
    force: float = 8.0
    """F."""
    interval: float = 0.05
    """Time between two samples; 0.05 stands for six hours."""
    substeps: int = 1
    """Steps of the integration between two samples."""

    def check_options(self) -> None:
        """Raise `TrainError` if an option is out of its range."""
        super().check_options()
        at_least(self, sites=4)

    @property
    def coordinates(self) -> int:
        """The sites."""
        return self.sites

    def start(self, key: PRNGKeyArray) -> Float[Array, " sites"]:
        """Return a state near the one where all x[i] are F."""
        return _near(key, *[self.force] * self.sites)

    def derivative(self, state: Float[Array, " sites"]) -> Float[Array, " sites"]:
        """Return the state's derivative with respect to time."""
        ahead, behind, two_behind = (jnp.roll(state, shift) for shift in (-1, 1, 2))
        return (ahead - two_behind) * behind - state + self.force


@dataclass(frozen=True, kw_only=True)
class Roessler(Flow):
    """Roessler's spiral: x' = -y - z, y' = x + a y, z' = b + z (x - c).

    Roessler, "An equation for continuous chaos", Physics Letters A 57, 1976.
    """

    name = "roessler"
    coordinates = 3
    mean = (0.16, -0.83, 0.83)
    deviation = (5.2, 4.8, 2.8)

    a: float = 0.2
    """Growth of the spiral."""
    b: float = 0.2
    """Source of z."""
    c: float = 5.7
    """Where z starts to grow."""
    interval: float = 0.2
    """Time between two samples."""
    substeps: int = 4
    """Steps of the integration between two samples."""

    def start(self, key: PRNGKeyArray) -> Float[Array, "3"]:
        """Return a state on a turn of the spiral; z above 0, below which it may run away."""
        angle = jax.random.uniform(key, (), jnp.float32, 0, 2 * np.pi)
        return jnp.stack([5 * jnp.cos(angle), 5 * jnp.sin(angle), jnp.float32(0.03)])

    def derivative(self, state: Float[Array, "3"]) -> Float[Array, "3"]:
        """Return the state's derivative with respect to time."""
        x, y, z = state
        return jnp.stack([-y - z, x + self.a * y, self.b + z * (x - self.c)])


@dataclass(frozen=True, kw_only=True)
class Multiscroll(Flow):
    """Chen's double scroll: x' = a (y - x), y' = (c - a) x - x z + c y, z' = x y - b z.

    Chen and Ueta, "Yet another chaotic attractor", International Journal of Bifurcation and Chaos
    9, 1999.
    """

    name = "multiscroll"
    coordinates = 3
    mean = (0.0, 0.0, 16.4)
    deviation = (7.0, 7.2, 4.5)

    a: float = 40.0
    """Rate at which x follows y."""
    b: float = 3.0
    """Decay of z."""
    c: float = 28.0
    """Growth of y."""
    interval: float = 0.01
    """Time between two samples."""
    substeps: int = 2
    """Steps of the integration between two samples."""

    def start(self, key: PRNGKeyArray) -> Float[Array, "3"]:
        """Return a state near (3, 3, 20)."""
        return _near(key, 3, 3, 20)

    def derivative(self, state: Float[Array, "3"]) -> Float[Array, "3"]:
        """Return the state's derivative with respect to time."""
        x, y, z = state
        return jnp.stack(
            [self.a * (y - x), (self.c - self.a) * x - x * z + self.c * y, x * y - self.b * z]
        )


@dataclass(frozen=True, kw_only=True)
class MackeyGlass(Forecasting):
    """Mackey and Glass' blood cells: x'(t) = a x(t - tau) / (1 + x(t - tau)^n) - b x(t).

    Samples are one unit of time apart. The delayed value is held during a step of the integration,
    of `1 / substeps`, as is customary; a random constant stands for what came before.

    Mackey and Glass, "Oscillation and chaos in physiological control systems", Science 197, 1977.
    """

    name = "mackey_glass"
    coordinates = 1
    mean = 0.924
    deviation = 0.229

    tau: int = 17
    """Delay; chaotic from 17 on."""
    a: float = 0.2
    """Production."""
    b: float = 0.1
    """Decay."""
    n: int = 10
    """Exponent."""
    substeps: int = 1
    """Steps of the integration between two samples."""
    horizon: int = 10
    """How many samples ahead the forecast is."""

    def check_options(self) -> None:
        """Raise `TrainError` if an option is out of its range."""
        super().check_options()
        at_least(self, tau=1, n=1, substeps=1)

    def trajectory(self, key: PRNGKeyArray, samples: int) -> Float[Array, "samples 1"]:
        """Return the trajectory from a constant past."""
        past = jax.random.uniform(key, (), jnp.float32, 0.4, 1.3)
        history = jnp.full(self.tau * self.substeps + 1, past)
        return iterate(self.next, history, samples)[:, -1:]

    def next(self, history: Float[Array, " delay+1"]) -> Float[Array, " delay+1"]:
        """Return the values from x(t - tau) to x(t), one sample later."""
        for _ in range(self.substeps):
            derivative = functools.partial(self.derivative, history[0])
            new = runge_kutta(derivative, history[-1], 1 / self.substeps)
            history = jnp.append(history[1:], new)
        return history

    def derivative(self, delayed: Float[Array, ""], x: Float[Array, ""]) -> Float[Array, ""]:
        """Return the derivative of x with respect to time."""
        return self.a * delayed / (1 + delayed**self.n) - self.b * x


@dataclass(frozen=True, kw_only=True)
class KuramotoSivashinsky(Forecasting):
    """Flames and films: u_t = -u u_x - u_xx - u_xxxx on a circle.

    Integrated in Fourier space by exponential time differencing of order 4, whose coefficients are
    means over a circle in the complex plane.

    Kuramoto, Progress of Theoretical Physics Supplement 64, 1978; Sivashinsky, Acta Astronautica 4,
    1977; the method: Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM
    Journal on Scientific Computing 26, 2005.
    """

    name = "kuramoto_sivashinsky"
    deviation = 1.19

    points: int = 32
    """Points of the circle, an even number; at least one a unit of length resolves it."""
    domain: float = 22.0
    """Length of the circle; 22 is chaotic."""
    interval: float = 0.25
    """Time between two samples, and step of the integration."""
    horizon: int = 20
    """How many samples ahead the forecast is."""
    washout: int = 400
    """Samples that are left out at the start."""

    def check_options(self) -> None:
        """Raise `TrainError` if an option is out of its range."""
        super().check_options()
        at_least(self, points=16)
        if self.points % 2:
            raise TrainError(f"points must be an even number, got {self.points}")
        for option in ("domain", "interval"):
            if getattr(self, option) <= 0:
                raise TrainError(f"{option} must be positive, got {getattr(self, option)}")

    @property
    def coordinates(self) -> int:
        """The points."""
        return self.points

    def trajectory(self, key: PRNGKeyArray, samples: int) -> Float[Array, "samples points"]:
        """Return the trajectory from four waves of random amplitude and phase."""
        amplitude, phase = jax.random.normal(key, (2, 4), jnp.float32)
        angle = 2 * np.pi * jnp.arange(self.points, dtype=jnp.float32) / self.points
        waves = jnp.arange(1, 5, dtype=jnp.float32)[:, None]
        # A wave of no amplitude at all would stay at rest.
        start = jnp.sum((1 + amplitude[:, None]) * jnp.cos(waves * angle + phase[:, None]), axis=0)
        return self.solve(start, samples)

    def solve(self, start: Float[Array, " points"], samples: int) -> Float[Array, "samples points"]:
        """Return the solution from its values at the points."""
        modes = iterate(self._stepper(), jnp.fft.rfft(start), samples)
        return jnp.fft.irfft(modes, self.points, axis=-1)

    def _stepper(self) -> Callable[[Array], Array]:
        h, n = self.interval, self.points
        wave = 2 * np.pi / self.domain * np.arange(n // 2 + 1)
        wave[-1] = 0  # the highest mode's sine is not seen at the points
        linear = wave**2 - wave**4
        circle = np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
        z = h * linear[:, None] + circle

        def mean(values: np.ndarray) -> Float[Array, " modes"]:
            return jnp.asarray(h * np.mean(values, axis=1).real, jnp.float32)

        whole, half = (jnp.asarray(np.exp(f * h * linear), jnp.float32) for f in (1, 0.5))
        q = mean((np.exp(z / 2) - 1) / z)
        first = mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3)
        middle = mean((2 + z + np.exp(z) * (z - 2)) / z**3)
        last = mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3)
        factor = jnp.asarray(-0.5j * wave, jnp.complex64)

        def advection(modes: Complex[Array, " modes"]) -> Complex[Array, " modes"]:
            return factor * jnp.fft.rfft(jnp.square(jnp.fft.irfft(modes, n)))

        def step(v: Complex[Array, " modes"]) -> Complex[Array, " modes"]:
            at_v = advection(v)
            a = half * v + q * at_v
            at_a = advection(a)
            b = half * v + q * at_a
            at_b = advection(b)
            c = half * a + q * (2 * at_b - at_v)
            return whole * v + first * at_v + 2 * middle * (at_a + at_b) + last * advection(c)

        return step
