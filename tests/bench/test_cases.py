import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.bench.cases import FAMILIES, select
from fastscan.bench.cases.attention import AttentionCase
from fastscan.bench.cases.linear import LinearCase
from fastscan.bench.cases.matrix import MatrixCase
from fastscan.bench.cases.selective import SelectiveCase
from fastscan.bench.gate import check, directions, expect

ALL = [case for cases in FAMILIES.values() for case in cases]

SMALL = (
    LinearCase(name="plain", source="test", x=(2, 5, 3), a=(2, 5, 3)),
    LinearCase(name="time-major", source="test", x=(5, 2, 3), a=(5, 2, 3), axis=0, carry=True),
    LinearCase(name="resets", source="test", x=(2, 5, 3), a=(2, 5, 3), episode=3, carry=True),
    LinearCase(name="gae", source="test", x=(5, 4), a=(), axis=0, episode=3, reverse=True),
    LinearCase(name="reverse", source="test", x=(2, 5, 3), a=(5, 3), reverse=True, carry=True),
    LinearCase(name="heads", source="test", x=(2, 5, 4, 3), a=(2, 5, 4, 1)),
    LinearCase(name="complex", source="test", x=(2, 5, 3), a=(3,), of="complex64", carry=True),
    LinearCase(name="bf16", source="test", x=(2, 5, 3), a=(2, 5, 3), of="bfloat16", carry=True),
)

SELECTIVE = (
    SelectiveCase(name="plain", source="test", batch=2, steps=5, channels=3, states=2),
    SelectiveCase(name="resets", source="test", batch=2, steps=5, channels=3, states=2, episode=3),
    SelectiveCase(
        name="zoh", source="test", batch=1, steps=5, channels=3, states=2, discretization="zoh"
    ),
    SelectiveCase(
        name="bf16", source="test", batch=2, steps=5, channels=3, states=2, of="bfloat16"
    ),
)


SMALL_MATRIX = (
    MatrixCase(name="dense", source="test", X=(2, 5, 3, 2), episode=3),
    MatrixCase(name="shared", source="test", X=(2, 5, 3, 1), shared=True, of="complex64"),
    MatrixCase(name="low-rank", source="test", X=(2, 5, 3, 2), form="low-rank", terms=2),
    MatrixCase(name="product", source="test", X=(2, 5, 3, 2), form="product", terms=2),
)

SMALL_ATTENTION = (
    AttentionCase(name="plain", source="test", steps=9, width=3),
    AttentionCase(
        name="step", source="test", batch=(2,), steps=9, width=3, decay="step", episode=4
    ),
    AttentionCase(name="key", source="test", batch=(2, 2), steps=9, width=3, decay="key"),
    AttentionCase(name="delta", source="test", steps=9, width=3, delta=True, episode=4),
    AttentionCase(name="kda", source="test", steps=9, width=3, decay="key", delta=True),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_unique_and_sources_told(family):
    cases = FAMILIES[family]
    assert len({case.name for case in cases}) == len(cases)
    assert all(case.family == family and case.source for case in cases)


@pytest.mark.parametrize("case", FAMILIES["linear"], ids=lambda case: case.name)
def test_shapes_are_consistent(case):
    assert np.broadcast_shapes(case.a, case.x) == case.x
    assert math.prod(case.size.values()) == math.prod(case.x)
    assert case.bytes["floor"] <= case.bytes["forward"] < case.bytes["gradient"]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_fits_a_small_machine(case):
    # The oracle and the gradient of `lax.associative_scan` need a few dozen times this.
    assert case.bytes["floor"] <= 2**28


@pytest.mark.parametrize("case", FAMILIES["attention"], ids=lambda case: case.name)
def test_shapes_of_attention_are_consistent(case):
    assert case.bytes["floor"] <= case.bytes["forward"] < case.bytes["gradient"]
    arrays = case.arguments()
    rows = (*case.batch, case.steps)
    assert all(x.shape[: len(rows)] == rows for x in arrays.operands + arrays.constants)


@pytest.mark.parametrize("sweep", ["steps", "channels"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_varies_one_extent_alone(family, sweep):
    points = [case.size for case in FAMILIES[family] if sweep in case.sweeps]
    assert len({size[sweep] for size in points}) == len(points) >= 5
    assert len({tuple(size[key] for key in size if key != sweep) for size in points}) == 1


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_arguments_fit_the_description_and_repeat(case):
    first, second = case.arguments(), case.arguments()
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert [operand.shape for operand in first.operands[:2]] == [case.a, case.x]
    assert all(operand.dtype == case.dtype for operand in first.operands[:2])
    outputs = jax.eval_shape(case.function("fastscan"), *first.operands, *first.constants)
    assert [(o.shape, o.dtype) for o in outputs] == [(c.shape, c.dtype) for c in first.cotangents]


@pytest.mark.parametrize(
    "case",
    (
        *(*SMALL, *SMALL_MATRIX[:1], *SELECTIVE[:2], *SMALL_ATTENTION[:1]),
        # Whose alternatives take long to compile.
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in SMALL_MATRIX[1:] + SELECTIVE[2:] + SMALL_ATTENTION[1:]
        ),
    ),
    ids=lambda case: f"{case.family}-{case.name}",
)
def test_every_alternative_computes_the_same(case):
    arguments = case.arguments()
    expected = expect(case, arguments)
    for implementation in ("fastscan", *case.baselines):
        calls = directions(case.function(implementation), arguments)
        for direction, (call, arrays) in calls.items():
            check(case, jax.jit(call)(*map(jnp.asarray, arrays)), expected[direction])


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_floor_reads_and_writes_what_the_scan_does(case):
    arguments = case.arguments()
    out = jax.eval_shape(case.floor, *arguments.operands, *arguments.constants)
    assert (out.shape, out.dtype) == (case.x, case.dtype)
    a, x = arguments.operands[:2]
    assert case.bytes["floor"] == a.nbytes + 2 * x.nbytes


@pytest.mark.parametrize("case", SMALL_ATTENTION, ids=lambda case: case.name)
def test_the_floor_reads_and_writes_what_attention_does(case):
    arguments = case.arguments()
    jax.tree.map(np.testing.assert_array_equal, arguments, case.arguments())
    out = jax.eval_shape(case.floor, *arguments.operands, *arguments.constants)
    assert case.bytes["floor"] == sum(x.nbytes for x in arguments.operands[:3]) + out.size * 4


@pytest.mark.parametrize("case", SELECTIVE, ids=lambda case: case.name)
def test_selective_arguments_fit_the_description_and_repeat(case):
    first, second = case.arguments(), case.arguments()
    jax.tree.map(np.testing.assert_array_equal, first, second)
    u, dt, a = first.operands[:3]
    assert u.shape == dt.shape == tuple(case.size.values())
    assert (u.dtype, a.shape) == (case.dtype, (case.channels, case.states))
    outputs = jax.eval_shape(case.function("fastscan"), *first.operands, *first.constants)
    assert [(o.shape, o.dtype) for o in outputs] == [(c.shape, c.dtype) for c in first.cotangents]
    out = jax.eval_shape(case.floor, *first.operands, *first.constants)
    assert (out.shape, out.dtype) == (u.shape, u.dtype)
    assert case.bytes["floor"] == 3 * u.nbytes < case.bytes["forward"] < case.bytes["gradient"]


def test_select():
    quick = select("linear", quick=True)
    assert 0 < len(quick) < len(select("linear"))
    assert [case.name for case in select("linear", names=("gae",))] == ["gae"]
    assert [case.name for case in select("linear", names=("gae",), quick=True)] == ["gae"]


def test_select_names_what_there_is():
    with pytest.raises(ValueError, match="choose one of.*linear"):
        select("nonlinear")
    with pytest.raises(ValueError, match="No linear case gea; choose from .*gae"):
        select("linear", names=("gea",))


def test_an_unknown_implementation_is_refused():
    case = SMALL[0]
    function = case.function("nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        function(*case.arguments().operands)
