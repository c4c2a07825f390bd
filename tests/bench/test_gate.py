import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from fastscan.bench import gate
from fastscan.bench.cases.linear import LinearCase
from fastscan.bench.timing import Budget, measure

BUDGET = Budget(seconds=0.0, fewest=2, most=2)


def late_error(a, x):
    h_last, h = fastscan.linear_scan(a, x, axis=1)
    return h_last, h.at[0, -1, 0].add(0.01)


def wrong_last(a, x):
    h_last, h = fastscan.linear_scan(a, x, axis=1)
    return h_last + h[:, 0], h


def no_gradient_of_a(a, x):
    return fastscan.linear_scan(jax.lax.stop_gradient(a), x, axis=1)


def not_a_number(a, x):
    h_last, h = fastscan.linear_scan(a, x, axis=1)
    return h_last, h.at[0, 0, 0].set(jnp.nan)


def wrong_shape(a, x):
    h_last, h = fastscan.linear_scan(a, x, axis=1)
    return h_last[None], h


def raises(a, x):
    raise RuntimeError("no kernel")


def ignores_reset(a, x, reset):
    return right(a, x)


def right(a, x):
    return fastscan.linear_scan(a, x, axis=1)


class Rigged(LinearCase):
    def function(self, implementation):
        return globals()[implementation]


CASE = Rigged(name="rigged", source="test", x=(2, 9, 3), a=(2, 9, 3))


def test_a_right_implementation_is_timed():
    forward, gradient = measure(CASE, ["right"], "default", BUDGET)
    for record, direction in ((forward, "forward"), (gradient, "gradient")):
        assert record.failure is None
        assert record.direction == direction
        timing = record.timings["right"]
        assert len(timing.samples) == 2 and min(timing.samples) > 0 and timing.compile > 0
        assert record.floor is not None and len(record.floor.samples) == 2


def differs(a, x):
    """Right each time, but for the last bits."""
    h_last, h = right(a, x)
    noise = jax.pure_callback(lambda: next(NOISE), jax.ShapeDtypeStruct((), jnp.float32))
    return h_last, h.at[0, 0, 0].multiply(1.0 + noise)


NOISE = itertools.cycle((np.float32(0.0), np.float32(3e-7)))


def test_runs_that_differ_are_refused_where_they_must_not(monkeypatch):
    """As on an accelerator, where JAX compares, and several programs are compiled at a time."""
    monkeypatch.setattr(gate, "_array_module", lambda: jnp)
    names = ["right", "differs"]
    for repeatable, failure in (((), None), (names, "differs: two runs differ in a bit")):
        forward, gradient = measure(
            CASE, names, "default", BUDGET, repeatable=repeatable, compilers=4
        )
        assert forward.failure == failure
    wrong, _ = measure(CASE, ["late_error"], "default", BUDGET)
    assert "off by" in (wrong.failure or "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("late_error", "off by"),
        ("wrong_last", "array 0 is off by"),
        ("not_a_number", "off by nan"),
        ("wrong_shape", r"shape \(1, 2, 3\)"),
        ("raises", "RuntimeError: no kernel"),
    ],
)
def test_wrong_values_report_no_time(name, message):
    record, _ = measure(CASE, [name], "default", BUDGET)
    assert record.failure is not None and record.failure.startswith(name)
    assert re.search(message, record.failure)
    assert record.timings == {} and record.floor is None and record.floor_seconds is None


def test_wrong_gradients_report_no_time():
    forward, gradient = measure(CASE, ["no_gradient_of_a"], "default", BUDGET)
    assert forward.failure is None
    assert gradient.failure is not None and "array 0 is off by" in gradient.failure
    assert gradient.timings == {}


def test_a_reset_that_is_ignored_is_caught():
    case = Rigged(name="reset", source="test", x=(2, 9, 3), a=(2, 9, 3), episode=3)
    record, _ = measure(case, ["ignores_reset"], "default", BUDGET)
    assert record.failure is not None and "off by" in record.failure


def test_an_oracle_that_fails_fails_both_directions():
    class Broken(Rigged):
        def oracle(self, *arguments):
            raise RuntimeError("no oracle")

    records = measure(
        Broken(name="broken", source="test", x=(2, 9, 3), a=(3,)), ["right"], "default", BUDGET
    )
    assert [record.failure for record in records] == ["oracle: RuntimeError: no oracle"] * 2
