import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.bench.cases import FAMILIES
from fastscan.bench.cases.matrix import MatrixCase
from fastscan.bench.gate import check, directions, expect

SMALL = (
    MatrixCase(name="dense", source="test", X=(2, 5, 3, 2)),
    MatrixCase(name="shared", source="test", X=(2, 5, 3, 1), shared=True, episode=3),
    MatrixCase(name="complex", source="test", X=(2, 5, 3, 1), of="complex64"),
    MatrixCase(name="low-rank", source="test", X=(2, 5, 3, 2), form="low-rank", terms=2),
    MatrixCase(name="product", source="test", X=(2, 5, 3, 2), form="product", terms=2, episode=3),
)
by_case = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)


@pytest.mark.parametrize("case", FAMILIES["matrix"], ids=lambda case: case.name)
def test_bytes_are_consistent(case):
    assert case.bytes["floor"] <= case.bytes["forward"] < case.bytes["gradient"]


@by_case
def test_arguments_fit_the_description_and_repeat(case):
    first, second = case.arguments(), case.arguments()
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert [operand.shape for operand in first.operands] == [*case.coefficients, case.X]
    assert all(operand.dtype == case.dtype for operand in first.operands)
    outputs = jax.eval_shape(case.function("fastscan"), *first.operands, *first.constants)
    assert [(o.shape, o.dtype) for o in outputs] == [(c.shape, c.dtype) for c in first.cotangents]
    moved = sum(operand.nbytes for operand in first.operands) + first.operands[-1].nbytes
    assert case.bytes["floor"] == moved


@by_case
def test_every_alternative_computes_the_same(case):
    arguments = case.arguments()
    expected = expect(case, arguments)
    for implementation in ("fastscan", *case.baselines):
        calls = directions(case.function(implementation), arguments)
        for direction, (call, arrays) in calls.items():
            check(case, jax.jit(call)(*map(jnp.asarray, arrays)), expected[direction])
