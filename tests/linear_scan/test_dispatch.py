"""The choice of an implementation: the rule, its explanation, and the one warning."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from fastscan import dispatch
from fastscan.kernels import cpu
from fastscan.kernels.case import FusedCase
from tests.helpers import (
    NAMES,
    Case,
    assert_close,
    assert_same_bits,
    implementations,
    native_only,
    values,
)

CASE = Case((2, 9, 5), reset="random", reset_shape=(2, 9))
REASON = "the native library is missing: no compiler. Install g++."


def call(implementation, x):
    return fastscan.linear_scan(0.5, x, axis=1, implementation=implementation)


def lowered(implementation, x):
    return jax.jit(functools.partial(call, implementation)).lower(x).as_text()


@pytest.fixture
def without_native(monkeypatch):
    """fastscan as it is where the native library was not built."""
    monkeypatch.setattr(cpu, "missing", lambda: REASON)
    _forget()
    yield
    _forget()


def _forget():
    dispatch.implementations.cache_clear()
    dispatch._warn.cache_clear()
    jax.clear_caches()


def test_table_of_implementations():
    table = fastscan.implementations()
    assert {"cpu", "scan", "associative"} <= set(table)
    for name, row in table.items():
        assert row.name == name and name in str(row)
        assert row.available == (row.missing is None)
        assert row.missing is None or row.missing in str(row)
        assert row.platforms
    assert table["scan"].available and table["associative"].available


def test_missing_library_is_told_with_its_cure(without_native):
    row = fastscan.implementations()["cpu"]
    assert not row.available
    assert row.missing == REASON
    assert REASON in str(row)


def test_automatic_choice_works_without_the_library(without_native):
    inputs = CASE.inputs("float32")
    with pytest.warns(RuntimeWarning):
        result = values(None, inputs)
    assert_same_bits(result, values("scan", inputs))


def test_one_warning_says_why_the_faster_kernel_declined(without_native):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for steps in (4, 5, 6):
            call(None, jnp.ones((2, steps, 3)))
    messages = [str(w.message) for w in caught if "fastscan" in str(w.message)]
    assert len(messages) == 1
    assert REASON in messages[0] and "'scan'" in messages[0] and "'cpu'" in messages[0]


def test_no_warning_where_the_caller_chose(without_native):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call("scan", jnp.ones((2, 4, 3)))
        call(("cpu", "scan"), jnp.ones((2, 4, 3)))


def test_a_name_that_cannot_run_is_an_error_with_the_reason(without_native):
    with pytest.raises(ValueError) as raised:
        call("cpu", jnp.ones((2, 4, 3), jnp.float32))
    for text in ("'cpu'", REASON, "float32[2, 4, 3]", "'scan'"):
        assert text in str(raised.value)


@native_only
def test_no_warning_where_the_native_kernel_runs(implementation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in ("float32", "complex128", "bfloat16"):
            lowered(None, jnp.ones((2, 4, 3), dtype))


@native_only
def test_the_native_kernel_is_the_automatic_choice(implementation):
    inputs = CASE.inputs("float32")
    assert_same_bits(values(None, inputs), values(implementation, inputs))
    assert "fastscan_linear_scan" in lowered(None, inputs.x)


def test_names_run_what_they_say():
    x = jnp.ones((2, 40, 3), jnp.float32)
    scan, tree = lowered("scan", x), lowered("associative", x)
    assert "stablehlo.while" in scan and "custom_call" not in scan
    assert "stablehlo.while" not in tree and "custom_call" not in tree


@pytest.mark.parametrize("sequence", [tuple, list])
def test_sequence_takes_the_first_that_fits(without_native, sequence):
    inputs = CASE.inputs("float32")
    first = lowered(sequence(["cpu", "associative", "scan"]), inputs.x)
    assert first == lowered("associative", inputs.x)
    assert lowered(sequence(["scan", "associative"]), inputs.x) == lowered("scan", inputs.x)


def test_sequence_in_which_none_fits(without_native):
    with pytest.raises(ValueError, match="no compiler"):
        call(("cpu",), jnp.ones((2, 4, 3)))


@implementations(*NAMES)
def test_all_agree(implementation):
    inputs = CASE.inputs("float32")
    assert_close(values(implementation, inputs), values("scan", inputs), "float32", 9)


# ---- explain ---------------------------------------------------------------------------------


def lines(function, *arguments):
    return str(fastscan.explain(function, *arguments)).splitlines()


def test_explanation_names_what_runs_on_each_platform(without_native):
    text = lines(functools.partial(call, None), jnp.ones((2, 9, 5), jnp.float32))
    for platform in ("cpu", "cuda", "tpu"):
        rows = [line for line in text if f" on {platform}: " in line]
        assert sum(line.endswith("runs") for line in rows) == 1
        assert len(rows) == len({line.split(": ")[1].split()[0] for line in rows})
    assert any("on cpu: cpu declines" in line and REASON in line for line in text)
    assert any(line.endswith("on cpu: scan runs") for line in text)
    assert any(line.endswith("on tpu: associative runs") for line in text)
    assert all("float32[2, 9, 5]" in line for line in text)


@native_only
def test_explanation_of_the_native_kernel(implementation):
    text = lines(functools.partial(call, None), jnp.ones((2, 9, 5), jnp.float32))
    assert any(line.endswith("on cpu: cpu runs") for line in text)
    assert any("on cpu: scan could run" in line for line in text)


def test_explanation_of_a_chosen_implementation():
    text = lines(functools.partial(call, ("cpu", "scan")), jnp.ones((2, 9, 5)))
    assert any("on cuda: cpu declines: runs on cpu only" in line for line in text)
    assert any(line.endswith("on cuda: scan runs") for line in text)
    assert not any("associative" in line for line in text)


def test_explanation_does_not_run_the_function():
    def function(x):
        jax.debug.callback(lambda v: pytest.fail("it ran"), x)
        return call(None, x)

    assert lines(function, jnp.ones((2, 9, 5)))


def test_explanation_covers_every_call_inside_a_function():
    """Two calls, one in the body of a loop, and their backward passes."""

    def loss(x):
        def body(carry, _):
            return call("scan", carry)[1], None

        y, _ = jax.lax.scan(body, x, length=2)
        return jnp.sum(call("associative", y)[1])

    forward = {line.split(" on ")[0] for line in lines(loss, jnp.ones((2, 9, 5)))}
    both = {line.split(" on ")[0] for line in lines(jax.grad(loss), jnp.ones((2, 9, 5)))}
    assert len(forward) == 2
    assert len(both) == 4


def test_explanation_of_a_function_without_scans():
    assert "no fastscan call" in str(fastscan.explain(jnp.sin, 1.0))


def test_a_reserved_implementation_runs_by_name_only():
    """Triton's kernels, until they have been tested on a GPU."""
    x = jnp.ones((4, 3), jnp.float32)
    reason = fastscan.implementations()["triton"].reserved
    assert reason is not None
    explained = str(fastscan.explain(functools.partial(call, None), x[None]))
    row = next(line for line in explained.splitlines() if "triton" in line)
    assert "declines" in row
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "triton" not in lowered(None, x[None])


def test_what_is_proven_of_a_reserved_implementation_is_chosen():
    """Family by family: the others stay reserved."""
    row = dataclasses.replace(
        fastscan.implementations()["triton"], reserved="not yet", proven=("selective",)
    )
    linear = dispatch.LinearCase((2, 4, 3), 1, False, np.dtype("float32"), (2, 4, 3), False)
    assert row.reserves(linear) == "not yet"
    assert row.reserves(FusedCase("selective", (), (), ())) is None
