"""What every model promises, whatever it computes.

The tests of a model share a few compiled programs: nearly all of their time is compilation.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.zoo import FEATURES, every_model, make, run

T = 13
STARTS = (0, 4, 5, 9)


def sequence(length=T, dtype=jnp.float32, seed=0):
    return jax.random.normal(jax.random.key(seed), (length, FEATURES), dtype)


def flags(*starts, length=T):
    return jnp.zeros(length, bool).at[jnp.array(starts, int)].set(True)


def assert_close(actual, expected, rtol=2e-5, atol=2e-5):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)


def call(model, carry, xs, reset=None):
    """Run a model; every call with inputs of the same length is the same program."""
    carry = model.init_carry() if carry is None else carry
    reset = flags(length=len(xs)) if reset is None else reset
    return run(model, carry, xs, reset=reset, return_states=True)


def carry_after(model, length=T):
    """A carry that is not the initial one."""
    return call(model, None, sequence(length, seed=1))[0]


@eqx.filter_jit
def step_by_step(model, carry, xs, reset):
    def step(carry, inputs):
        carry, y = model.step(carry, inputs[0], reset=inputs[1])
        return carry, (y, carry)

    last, (ys, states) = jax.lax.scan(step, carry, (xs, reset))
    return last, ys, states


@eqx.filter_jit
def gradients(model, carry, xs, reset, weights):
    """The loss of the weighted outputs and the last carry, and its gradients."""
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def loss(arrays, xs):
        last, ys = eqx.combine(arrays, rest)(carry, xs, reset=reset)
        squares = [jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(last)]
        selected = jnp.where(weights[:, None] > 0, ys, 0)
        return jnp.sum(weights[:, None] * selected**2) + weights[0] * sum(squares)

    return jax.value_and_grad(loss, (0, 1))(arrays, xs)


@every_model
@pytest.mark.parametrize("starts", [(), STARTS], ids=["no-reset", "resets"])
def test_step_equals_parallel(name, starts):
    model, xs, reset = make(name), sequence(), flags(*starts)
    carry = carry_after(model)
    last, ys, states = call(model, carry, xs, reset)
    assert jax.tree.structure(states) == jax.tree.structure(carry)
    assert_close((last, ys, states), step_by_step(model, carry, xs, reset))


@every_model
def test_initial_carry_and_flags_have_defaults(name):
    model, xs = make(name), sequence()
    expected = call(model, None, xs)
    assert_close(run(model, None, xs), expected[:2])
    assert_close(call(model, carry_after(model), xs, flags(0)), expected)
    step = jax.eval_shape(lambda: model.step(None, xs[0]))
    carry = model.init_carry()
    assert jax.tree.map(jnp.shape, step[0]) == jax.tree.map(jnp.shape, carry)
    assert step[1].shape == (model.output_size,)


@every_model
def test_packed_equals_separate(name):
    model, xs = make(name), sequence()
    last, packed, _ = call(model, carry_after(model), xs, flags(*STARTS))
    bounds = (*STARTS, T)
    separate = [call(model, None, xs[i:j]) for i, j in zip(bounds, bounds[1:], strict=False)]
    assert_close((last, packed), (separate[-1][0], jnp.concatenate([ys for _, ys, _ in separate])))


@every_model
def test_split_carry_equals_whole(name):
    model, xs, reset = make(name), sequence(), flags(3, 10)
    carry, parts = None, []
    for part in (slice(0, 4), slice(4, 5), slice(5, 9), slice(9, 13)):
        carry, ys, _ = call(model, carry, xs[part], reset[part])
        parts.append(ys)
    assert_close((carry, jnp.concatenate(parts)), call(model, None, xs, reset)[:2])


@every_model
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_reset_stops_poison(name, poison):
    model, clean, start = make(name), sequence(), 5
    poisoned = clean.at[start - 1].set(poison)
    initial = model.init_carry()
    bad_carry = jax.tree.map(
        lambda leaf: (
            jnp.full_like(leaf, poison) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
        ),
        initial,
    )
    reset = flags(start)
    actual, expected = (
        call(model, c, x, reset) for c, x in ((bad_carry, poisoned), (initial, clean))
    )
    assert_close((actual[0], actual[1][start:]), (expected[0], expected[1][start:]), rtol=1e-4)

    weights = jnp.where(jnp.arange(T) >= start, 1.0, 0.0).astype(jnp.float32)
    value, (_, gradient) = gradients(model, bad_carry, poisoned, reset, weights)
    expected_value, (_, expected_gradient) = gradients(model, initial, clean, reset, weights)
    assert_close(value, expected_value, rtol=1e-4)
    assert_close(gradient[start:], expected_gradient[start:], rtol=1e-4, atol=1e-4)


@every_model
def test_gradients_end_at_resets_and_reach_every_parameter(name):
    model, xs, start = make(name), sequence(), 5
    weights = jnp.where(jnp.arange(T) >= start, 1.0, 0.0).astype(jnp.float32)
    _, (_, by_input) = gradients(model, model.init_carry(), xs, flags(start), weights)
    assert np.all(by_input[:start] == 0)
    assert np.any(by_input[start:] != 0)

    everything = jnp.ones(T, jnp.float32)
    _, (by_parameter, _) = gradients(model, model.init_carry(), xs, flags(*STARTS), everything)
    for path, leaf in jax.tree_util.tree_leaves_with_path(by_parameter):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path


@every_model
def test_vmap_and_remat(name):
    model = make(name)
    xs = jnp.stack([sequence(seed=i) for i in range(3)])
    reset = jnp.stack([flags(), flags(3), flags(*STARTS)])
    carries = [carry_after(model), model.init_carry(), carry_after(model)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries)

    @jax.jit
    @jax.value_and_grad
    def loss(xs):
        rematerialised = jax.checkpoint(lambda c, x, r: model(c, x, reset=r))
        outputs = jax.vmap(rematerialised)(batch, xs, reset)
        squares = [jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(outputs[0])]
        return jnp.sum(outputs[1] ** 2) + sum(squares)

    loop = [
        gradients(model, c, x, r, jnp.ones(T, jnp.float32))
        for c, x, r in zip(carries, xs, reset, strict=True)
    ]
    value, gradient = loss(xs)
    np.testing.assert_allclose(value, sum(value for value, _ in loop), rtol=1e-4)
    expected = jnp.stack([by_input for _, (_, by_input) in loop])
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@every_model
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_outputs_have_the_dtype_of_the_inputs(name, dtype):
    model, xs = make(name), sequence().astype(dtype)
    carry, ys, _ = call(model, None, xs)
    assert ys.dtype == dtype
    assert jax.eval_shape(lambda x: model.step(None, x)[1], xs[0]).dtype == dtype
    assert jax.tree.map(_shape_and_dtype, carry) == jax.tree.map(
        _shape_and_dtype, model.init_carry()
    )
    exact = call(model, None, xs.astype("float32"))[1]
    close = 0.1 if dtype == "bfloat16" else 1e-4
    np.testing.assert_allclose(ys.astype("float32"), exact, rtol=close, atol=close)


def _shape_and_dtype(leaf):
    return f"{leaf.shape} {leaf.dtype}"


@every_model
@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(name, length):
    model = make(name)
    before = carry_after(model)
    carry, ys, states = call(model, before, sequence(length))
    assert ys.shape == (length, model.output_size)
    assert all(len(leaf) == length for leaf in jax.tree.leaves(states))
    if length == 0:
        assert_close(carry, before)


@every_model
def test_bad_inputs_name_the_cure(name):
    model = make(name)
    with pytest.raises(ValueError, match=r"\(2, 13, 3\); use jax.vmap for batches"):
        model(None, jnp.zeros((2, T, FEATURES)))
    with pytest.raises(ValueError, match=r"\(time, 3\), got \(13, 4\)"):
        model(None, jnp.zeros((T, FEATURES + 1)))
    with pytest.raises(TypeError, match="int32"):
        model(None, jnp.zeros((T, FEATURES), jnp.int32))
    with pytest.raises(ValueError, match=r"of shape \(13,\).*got \(13, 3\)"):
        model(None, sequence(), reset=jnp.zeros((T, FEATURES), bool))
    with pytest.raises(TypeError, match="complex64"):
        model(None, sequence(), reset=jnp.zeros(T, "complex64"))


@every_model
def test_serialisation_round_trip(name, tmp_path):
    model, xs = make(name), sequence()
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", model)
    blank = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_array(leaf) else leaf, model)
    loaded = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", blank)
    np.testing.assert_array_equal(call(loaded, None, xs)[1], call(model, None, xs)[1])


@every_model
def test_docstring_names_a_paper(name):
    layer = type(make(name))
    if layer.__module__.count(".") > 2:  # a model of the zoo, not what models are built from
        assert layer.__doc__ and ("arXiv:" in layer.__doc__ or " 19" in layer.__doc__)


def test_flags_of_every_dtype_eager():
    model, xs, reset = make("lru"), sequence(), flags(*STARTS)
    expected = call(model, None, xs, reset)[:2]
    for dtype in ("bool", "int32", "float32"):
        assert_close(model(None, xs, reset=reset.astype(dtype)), expected)
