"""What every model promises, whatever it computes."""

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


def assert_close(actual, expected, rtol=2e-5):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=rtol, atol=2e-5)


def carry_after(model, length=6):
    """A carry that is not the initial one."""
    return run(model, None, sequence(length, seed=1))[0]


@every_model
@pytest.mark.parametrize("starts", [(), STARTS], ids=["no-reset", "resets"])
def test_step_equals_parallel(name, starts):
    model, xs, reset = make(name), sequence(), flags(*starts)
    carry = carry_after(model)

    def step(carry, inputs):
        return model.step(carry, inputs[0], reset=inputs[1])

    assert_close(
        jax.jit(lambda carry: jax.lax.scan(step, carry, (xs, reset)))(carry),
        run(model, carry, xs, reset=reset),
    )


@every_model
@pytest.mark.parametrize("starts", [(), STARTS], ids=["no-reset", "resets"])
def test_states_are_the_carries_after_every_step(name, starts):
    model, xs, reset = make(name), sequence(), flags(*starts)
    carry = carry_after(model)

    def step(carry, inputs):
        carry, _ = model.step(carry, inputs[0], reset=inputs[1])
        return carry, carry

    last, ys, states = run(model, carry, xs, reset=reset, return_states=True)
    assert jax.tree.structure(states) == jax.tree.structure(carry)
    assert_close((last, states), jax.jit(lambda c: jax.lax.scan(step, c, (xs, reset)))(carry))
    assert_close((last, ys), run(model, carry, xs, reset=reset))


@every_model
def test_flags_of_every_dtype(name):
    model, xs, reset = make(name), sequence(), flags(*STARTS)
    expected = run(model, None, xs, reset=reset)
    for dtype in ("int32", "float32"):
        assert_close(run(model, None, xs, reset=reset.astype(dtype)), expected)


@every_model
def test_step_starts_from_the_initial_carry(name):
    model, x = make(name), sequence()[0]
    step = jax.jit(lambda carry, reset: model.step(carry, x, reset=reset))
    expected = step(model.init_carry(), False)
    assert_close(step(None, False), expected)
    assert_close(step(carry_after(model), True), expected)


@every_model
def test_packed_equals_separate(name):
    model, xs = make(name), sequence()
    last, packed = run(model, carry_after(model), xs, reset=flags(*STARTS))
    bounds = (*STARTS, T)
    separate = [run(model, None, xs[i:j]) for i, j in zip(bounds, bounds[1:], strict=False)]
    assert_close((last, packed), (separate[-1][0], jnp.concatenate([ys for _, ys in separate])))


@every_model
@pytest.mark.parametrize("split", [0, 1, 7, T])
def test_split_carry_equals_whole(name, split):
    model, xs, reset = make(name), sequence(), flags(4, 9)
    carry, before = run(model, None, xs[:split], reset=reset[:split])
    last, after = run(model, carry, xs[split:], reset=reset[split:])
    assert_close((last, jnp.concatenate([before, after])), run(model, None, xs, reset=reset))


@every_model
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_reset_stops_poison(name, poison):
    model, clean, start = make(name), sequence(), 5
    poisoned = clean.at[start - 1].set(poison)
    bad_carry = jax.tree.map(lambda leaf: jnp.full_like(leaf, poison), model.init_carry())

    @jax.jit
    @jax.value_and_grad
    def loss(xs, carry):
        last, ys = model(carry, xs, reset=flags(start))
        return jnp.sum(ys[start:] ** 2) + sum(
            jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(last)
        )

    value, gradient = loss(poisoned, bad_carry)
    expected_value, expected_gradient = loss(clean, model.init_carry())
    assert np.isfinite(value) and np.all(np.isfinite(gradient[start:]))
    assert_close(value, expected_value, rtol=1e-4)
    assert_close(gradient[start:], expected_gradient[start:], rtol=1e-4)


@every_model
def test_a_reset_input_has_no_gradient(name):
    model, start = make(name), 5

    def loss(xs):
        return jnp.sum(model(None, xs, reset=flags(start))[1][start:])

    gradient = jax.jit(jax.grad(loss))(sequence())
    assert np.all(gradient[:start] == 0)
    assert np.any(gradient[start:] != 0)


@every_model
def test_vmap_equals_loop(name):
    model = make(name)
    xs = jnp.stack([sequence(seed=i) for i in range(3)])
    reset = jnp.stack([flags(), flags(3), flags(*STARTS)])
    carries = [carry_after(model, length) for length in (2, 3, 4)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries)
    actual = jax.jit(jax.vmap(lambda c, x, r: model(c, x, reset=r)))(batch, xs, reset)
    loop = [run(model, c, x, reset=r) for c, x, r in zip(carries, xs, reset, strict=True)]
    assert_close(actual, jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop))


@every_model
def test_jit_equals_eager(name):
    model, xs = make(name), sequence()
    assert_close(run(model, None, xs, reset=flags(4)), model(None, xs, reset=flags(4)))


@every_model
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_outputs_have_the_dtype_of_the_inputs(name, dtype):
    model, xs = make(name), sequence().astype(dtype)
    carry, ys = run(model, None, xs)
    assert ys.dtype == dtype
    assert jax.eval_shape(lambda x: model.step(None, x)[1], xs[0]).dtype == dtype
    for leaf, initial in zip(
        jax.tree.leaves(carry), jax.tree.leaves(model.init_carry()), strict=True
    ):
        assert (leaf.shape, leaf.dtype) == (initial.shape, initial.dtype)
    exact = run(model, None, sequence())[1]
    close = 0.1 if dtype == "bfloat16" else 1e-4
    np.testing.assert_allclose(ys.astype("float32"), exact, rtol=close, atol=close)


@every_model
def test_every_parameter_has_a_finite_gradient(name):
    model, xs = make(name), sequence()

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model):
        return jnp.sum(model(None, xs, reset=flags(*STARTS))[1] ** 2)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(model)):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path


@every_model
def test_remat_keeps_the_gradient(name):
    model, xs = make(name), sequence()

    def loss(xs):
        return jnp.sum(model(None, xs, reset=flags(4))[1] ** 2)

    assert_close(jax.jit(jax.grad(jax.checkpoint(loss)))(xs), jax.jit(jax.grad(loss))(xs))


@every_model
@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(name, length):
    model = make(name)
    before = carry_after(model)
    carry, ys = run(model, before, sequence(length), reset=flags(length=length))
    assert ys.shape == (length, model.output_size)
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
    np.testing.assert_array_equal(run(loaded, None, xs)[1], run(model, None, xs)[1])
