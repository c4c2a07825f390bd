"""Micro-benchmarks for pytest-benchmark: ``pytest bench --benchmark-only``.

For a quick look while a kernel is being written; `fastscan bench` is what to report.
"""

import jax
import pytest

from fastscan.bench.cases import select
from fastscan.bench.gate import DIRECTIONS, check, directions, expect

CASES = select("linear", names=("rl-small", "sweep-4096x64"))
IMPLEMENTATIONS = ("fastscan", "lax.associative_scan", "lax.scan")


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request):
    arguments = request.param.arguments()
    return request.param, arguments, expect(request.param, arguments)


@pytest.fixture(params=DIRECTIONS)
def direction(request):
    return request.param


@pytest.fixture(params=IMPLEMENTATIONS)
def call(request, case, direction, benchmark):
    case, arguments, _ = case
    benchmark.group = f"{request.node.originalname}: {case.name}, {direction}"
    function, arrays = directions(case.function(request.param), arguments)[direction]
    return jax.jit(function), [jax.device_put(array) for array in arrays]


def test_run(benchmark, call, case, direction):
    case, _, expected = case
    function, arrays = call
    check(case, function(*arrays), expected[direction])
    benchmark(lambda: jax.block_until_ready(function(*arrays)))


def test_compile(benchmark, call):
    function, arrays = call
    benchmark.pedantic(lambda: function.lower(*arrays).compile(), setup=jax.clear_caches, rounds=2)
