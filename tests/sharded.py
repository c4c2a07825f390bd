"""The program of `test_shard_map.py`: the fused families under `shard_map` over two devices.

Run as `python -m tests.sharded IMPLEMENTATION`, with
`XLA_FLAGS=--xla_force_host_platform_device_count=2`.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

import fastscan
from tests.helpers import assert_close, normal, resets

BATCHED, SHARED = PartitionSpec("d"), PartitionSpec()
B, T = 4, 5


def matrix(implementation, A, X, H0, reset):
    return fastscan.matrix_scan(A, X, H0, reset=reset, axis=1, implementation=implementation)


def selective(implementation, u, A, B, h0, reset):
    return fastscan.selective_scan(
        u, jnp.abs(u), -jnp.abs(A), B, B, h0=h0, reset=reset, implementation=implementation
    )


def attention(implementation, q, log_decay, v, S0, reset):
    return fastscan.linear_attention(
        q, q, v, log_decay=-jnp.abs(log_decay), S0=S0, reset=reset, implementation=implementation
    )


# Shapes and specs of all arguments but the flags: one operand of each has no batch.
FAMILIES = {
    matrix: (
        ((1, T, 3, 3), (B, T, 3, 2), (B, 3, 2)),
        (SHARED, BATCHED, BATCHED),
    ),
    selective: (
        ((B, T, 3), (3, 2), (B, T, 2), (B, 3, 2)),
        (BATCHED, SHARED, BATCHED, BATCHED),
    ),
    attention: (
        ((B, T, 3), (1, T), (B, T, 2), (B, 3, 2)),
        (BATCHED, SHARED, BATCHED, BATCHED),
    ),
}


def loss(last, y):
    return jnp.sum(jnp.sin(last)) + jnp.sum(y**3)


def check(implementation, function, shapes, specs, mesh):
    rng = np.random.default_rng(0)
    arguments = tuple(normal(rng, shape, "float64") for shape in shapes)
    reset = resets("random", (B, T), 1)
    moving = tuple(range(len(arguments)))

    def call(*arguments):
        return function(implementation, *arguments)

    def total(*arguments):
        return loss(*call(*arguments))

    def outputs_and_gradients(*arguments):
        return call(*arguments), jax.grad(total, moving)(*arguments)

    in_specs = (*specs, BATCHED)
    mapped = jax.shard_map(call, mesh=mesh, in_specs=in_specs, out_specs=(BATCHED, BATCHED))

    def of_the_map(*arguments):
        return mapped(*arguments), jax.grad(lambda *v: loss(*mapped(*v)), moving)(*arguments)

    def inside(*arguments):
        return jax.grad(lambda *v: jax.lax.psum(total(*v), "d"), moving)(*arguments)

    expected = jax.jit(outputs_and_gradients)(*arguments, reset)
    assert_close(jax.jit(of_the_map)(*arguments, reset), expected, "float64", T)
    # As in a training step: what is not sharded is summed over the mesh.
    in_map = jax.shard_map(inside, mesh=mesh, in_specs=in_specs, out_specs=specs)
    assert_close(jax.jit(in_map)(*arguments, reset), expected[1], "float64", T)


def main(implementation):
    jax.config.update("jax_enable_x64", True)
    assert jax.device_count() == 2
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    for function, (shapes, specs) in FAMILIES.items():
        check(implementation, function, shapes, specs, mesh)


if __name__ == "__main__":
    main(sys.argv[1])
