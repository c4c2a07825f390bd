"""The program of `test_concurrency.py`: many calls at once, compared with one after another.

Run as `python -m tests.linear_scan.concurrent_calls IMPLEMENTATION [CORES]`.
"""

import concurrent.futures
import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import apply, assert_close, assert_same_bits

CALLS = 200
# A sequence long enough for its time axis to be split, where the kernel does that.
STEPS = 300_000


@functools.partial(jax.jit, static_argnames=("implementation", "axis"))
def gradients(implementation, a, x, axis):
    def loss(a, x):
        return jnp.sum(apply(implementation, a, x, axis=axis)[1] ** 2)

    return jax.grad(loss, (0, 1))(a, x)


def calls_of(implementation):
    """One channel, many channels, a batch, next to nothing."""
    rng = np.random.default_rng(0)
    calls = []
    steps = STEPS if implementation == "cpu" else 2_000
    for shape, axis in [((steps, 1), 0), ((200, 300), 0), ((8, 100, 33), 1), ((3, 2), 0)]:
        a = jnp.asarray(rng.uniform(0.5, 1.0, shape), jnp.float32)
        x = jnp.asarray(rng.normal(size=shape), jnp.float32)
        calls.append(functools.partial(gradients, implementation, a, x, axis))
    return calls


def from_several_threads(calls, expected):
    def work(i):
        assert_same_bits(calls[i % len(calls)](), expected[i % len(calls)])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(CALLS)))


def dispatched_without_waiting(calls, expected):
    results = [calls[i % len(calls)]() for i in range(CALLS)]
    for i, result in enumerate(results):
        assert_same_bits(result, expected[i % len(calls)])


def independent_in_one_program(implementation):
    """XLA runs calls that do not depend on each other at the same time."""
    rng = np.random.default_rng(1)
    a = jnp.asarray(rng.uniform(0.5, 1.0, (8, 50, 33)), jnp.float32)

    def one(a):
        return gradients(implementation, a, 2.0 * a, 0)

    expected = [one(v) for v in a]
    many = jax.jit(lambda a: [one(v) for v in a])
    first = many(a)
    assert_close(first, expected, "float32", 50)
    for _ in range(10):
        assert_same_bits(many(a), first)


def main(name, cores=None):
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    implementation = None if name == "automatic" else name
    calls = calls_of(implementation)
    expected = [jax.block_until_ready(call()) for call in calls]
    from_several_threads(calls, expected)
    dispatched_without_waiting(calls, expected)
    independent_in_one_program(implementation)


if __name__ == "__main__":
    main(*sys.argv[1:])
