"""The program of `test_shard_map.py`: a scan under `shard_map` over two devices.

Run as `python -m tests.linear_scan.sharded IMPLEMENTATION`, with
`XLA_FLAGS=--xla_force_host_platform_device_count=2`.
"""

import sys

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from tests.helpers import ORACLE, Case, apply, assert_close

S = PartitionSpec

# The specs of (a, x, h0, reset) and of (h_last, h) for x (B, T, D), a (T, D).
SPECS = {
    "batch": ((S(), S("d"), S("d"), S("d")), (S("d"), S("d"))),
    "channels": (
        (S(None, "d"), S(None, None, "d"), S(None, "d"), S()),
        (S(None, "d"), S(None, None, "d")),
    ),
}
CASE = Case((4, 5, 6), a=(5, 6), reset="random", reset_shape=(4, 5))


def loss(h_last, h):
    return jnp.sum(jnp.sin(h_last)) + jnp.sum(h**3)


def check(implementation, mesh, in_specs, out_specs):
    arguments = CASE.inputs("float64")[:4]

    def sharded(function, in_specs=in_specs, out_specs=out_specs):
        mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
        return jax.jit(mapped)

    def scan(name, a, x, h0, reset):
        return apply(name, a, x, h0, reset, axis=1)

    def gradients(function):
        return jax.jit(jax.grad(lambda *v: loss(*function(*v)), (0, 1, 2)))

    def ours(*v):
        return scan(implementation, *v)

    def oracle(*v):
        return scan(ORACLE, *v)

    assert_close(sharded(ours)(*arguments), jax.jit(oracle)(*arguments), "float64", 5)

    # Without a carry: the zero state does not vary over the mesh, and the states do.
    no_carry = sharded(lambda a, x: ours(a, x, None, None), in_specs[:2])
    expected = jax.jit(lambda a, x: oracle(a, x, None, None))(*arguments[:2])
    assert_close(no_carry(*arguments[:2]), expected, "float64", 5)

    # The gradient of the map: the cotangent of what is not sharded is summed over the mesh.
    expected = gradients(oracle)(*arguments)
    assert_close(gradients(sharded(ours))(*arguments), expected, "float64", 20)

    # The gradient inside the map, as in a training step.
    def inside(a, x, h0, reset):
        def total(a, x, h0):
            return jax.lax.psum(loss(*ours(a, x, h0, reset)), "d")

        return jax.grad(total, (0, 1, 2))(a, x, h0)

    got = sharded(inside, out_specs=in_specs[:3])(*arguments)
    assert_close(got, expected, "float64", 20)

    # Forward mode.
    def tangents(name, a, x, h0, reset):
        return jax.jvp(lambda a, x: scan(name, a, x, h0, reset), (a, x), (a, 2.0 * x))[1]

    got = sharded(lambda *v: tangents(implementation, *v))(*arguments)
    assert_close(got, jax.jit(lambda *v: tangents(ORACLE, *v))(*arguments), "float64", 5)


def main(name):
    jax.config.update("jax_enable_x64", True)
    assert jax.device_count() == 2
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    for in_specs, out_specs in SPECS.values():
        check(name, mesh, in_specs, out_specs)


if __name__ == "__main__":
    main(sys.argv[1])
