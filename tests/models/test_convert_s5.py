"""S5 models of lindermanlab and popjaxrl, with their parameters and figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import S5, BidirectionalS5, Chain
from fastscan.models.convert.s5 import from_s5
from tests.models.golden import Golden, assert_parity, batched, below, input_gradient, outputs
from tests.models.zoo import run

STACK = "popjaxrl_StackedEncoder_half_glu1"


@pytest.mark.parametrize("name", ["s5_conj_zoh_uni", "s5_full_bilinear_bi"])
def test_lindermanlab(name):
    golden = Golden(name)
    model = from_s5("S5SSM", golden.params, **golden.kwargs)
    assert isinstance(model, BidirectionalS5 if golden.kwargs["bidirectional"] else S5)
    assert_parity(outputs(model, golden.inputs["x"]), golden.outputs["y"])
    assert_parity(input_gradient(model, golden.inputs["x"]), golden.gradients["x"])


def test_popjaxrl_with_resets_and_a_carry():
    golden = Golden("popjaxrl_S5SSM_zoh")
    model = from_s5("S5SSM", golden.params)
    x, start, h0 = (golden.inputs[name] for name in ("x", "resets", "h0"))
    carry, ys = run(model, h0[0], x, reset=start)
    assert_parity(ys, golden.outputs["y"])
    assert_parity(carry, golden.outputs["h"][0])
    carry, ys = run(model, h0[0], x)
    assert_parity(ys, golden.outputs["y_noreset"])
    assert_parity(carry, golden.outputs["h_noreset"][0])

    @jax.jit
    @jax.grad
    def gradient(x):
        return jnp.sum(model(h0[0], x, reset=start)[1] ** 2)

    assert_parity(gradient(x), golden.gradients["x"])


@pytest.mark.parametrize("cls", ["StackedEncoder", "StackedEncoderModel"])
def test_popjaxrl_stack(cls):
    golden = Golden(STACK)
    model = from_s5(cls, golden.params, activation="half_glu1")
    inputs = golden.inputs
    carry = tuple(inputs[f"h0/{i}"][0] for i in range(2))
    # There, the batch is the second axis.
    run_batch = jax.jit(jax.vmap(lambda c, x, r: model(c, x, reset=r), (0, 1, 1), (0, 1)))
    last, ys = run_batch(carry, inputs["x"], inputs["resets"])
    assert_parity(ys, golden.outputs["y"])
    for i in range(2):
        assert_parity(last[i], golden.outputs[f"h/{i}"][0])


def dense(params, name, x):
    return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]


def layer_norm(params, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params["norm/scale"] + params["norm/bias"]


def layer_parameters(*maps):
    params = below("layers_0/", Golden(STACK).params)
    kernel = params.pop("out2/kernel"), params.pop("out2/bias")
    scales = {"out1": 0.5, "out2": 1.0}
    for name in maps:
        params |= {f"{name}/kernel": scales[name] * kernel[0], f"{name}/bias": kernel[1]}
    return params


@pytest.mark.parametrize(
    ("activation", "maps"),
    [
        ("full_glu", ("out1", "out2")),
        ("half_glu1", ("out2",)),
        ("half_glu2", ("out2",)),
        ("gelu", ()),
    ],
)
def test_every_mixing_of_the_lindermanlab_layer(activation, maps):
    params, xs = layer_parameters(*maps), np.asarray(Golden(STACK).inputs["x"][:, 0])
    # Only this one cannot be told from its parameters.
    given = activation if activation == "half_glu2" else None
    model = from_s5("SequenceLayer", params, prenorm=False, activation=given)
    z = np.asarray(outputs(from_s5("S5SSM", below("seq/", params)), xs))
    g = np.asarray(jax.nn.gelu(z))
    gate = jax.nn.sigmoid(dense(params, "out2", g)) if maps else 1.0
    mixed = {
        "full_glu": lambda: dense(params, "out1", g) * gate,
        "half_glu1": lambda: g * gate,
        "half_glu2": lambda: z * gate,
        "gelu": lambda: g,
    }[activation]()
    assert_parity(outputs(model, xs), layer_norm(params, np.asarray(xs + mixed)))


def test_popjaxrl_layer_without_norms_has_none():
    params = {k: v for k, v in layer_parameters().items() if not k.startswith("norm/")}
    xs = np.asarray(Golden(STACK).inputs["x"][:, 0])
    model = from_s5("SequenceLayer", params, do_norm=False, do_gtrxl_norm=False)
    z = outputs(from_s5("S5SSM", below("seq/", params)), xs)
    assert_parity(outputs(model, xs), xs + jax.nn.gelu(z))


def test_lindermanlab_classifier_with_batch_normalisation():
    """Its trunk is the layers that were tested alone, with the statistics that are given."""
    kernel = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    layer = layer_parameters("out2")
    mean, var = kernel[0], np.square(kernel[1]) + 0.5
    params = {f"encoder/layers_0/{k}": v for k, v in layer.items()}
    params |= {"encoder/encoder/kernel": kernel, "encoder/encoder/bias": kernel[0]}
    params |= {"decoder/kernel": kernel[:2].T, "decoder/bias": kernel[2, :2]}
    statistics = {"encoder/layers_0/norm/mean": mean, "encoder/layers_0/norm/var": var}
    ssm = "partial(S5SSM, H=8, P=4, discretization='bilinear', conj_sym=True)"
    options = {"batchnorm": "True", "prenorm": True, "activation": "half_glu1", "ssm": ssm}
    xs = np.random.default_rng(1).normal(size=(2, 7, 3)).astype("float32")

    x = xs @ kernel + kernel[0]
    z = (x - mean) / np.sqrt(var + 1e-5) * layer["norm/scale"] + layer["norm/bias"]
    s5 = from_s5("S5SSM", below("seq/", layer), discretization="bilinear")
    g = jax.nn.gelu(batched(lambda z: s5(None, z)[1])(z))
    x = np.asarray(x + g * jax.nn.sigmoid(dense(layer, "out2", g)))
    for mode, pooled in (("pool", x.mean(1)), ("last", x[:, -1])):
        model = from_s5(
            "BatchClassificationModel", params, batch_stats=statistics, mode=mode, **options
        )
        expected = jax.nn.log_softmax(dense(params, "decoder", pooled))
        assert_parity(batched(lambda x, m=model: m(None, x)[1])(xs), expected)
    trunk = from_s5(
        "StackedEncoderModel",
        below("encoder/", params),
        batch_stats=below("encoder/", statistics),
        **options,
    )
    assert isinstance(trunk, Chain)
    assert_parity(outputs(trunk, xs[0]), x[0])


def test_one_matrix_c_for_both_directions():
    """The initialisation "complex_normal" keeps C1 and C2 side by side."""
    golden = Golden("s5_full_bilinear_bi")
    params = dict(golden.params)
    params["C"] = np.concatenate([params.pop("C1"), params.pop("C2")], axis=1)
    model = from_s5("S5SSM", params, **golden.kwargs)
    assert_parity(outputs(model, golden.inputs["x"]), golden.outputs["y"])


def test_errors_list_what_is_wrong():
    golden = Golden("s5_full_bilinear_bi")
    with pytest.raises(ValueError, match="(?s)parameters of S5SSM.*missing: C\nunknown: C1, C2"):
        from_s5("S5SSM", golden.params, conj_sym=False)
    with pytest.raises(ValueError, match="unknown class 'S4'; known are Batch"):
        from_s5("S4", golden.params)
    with pytest.raises(ValueError, match="S5SSM takes no arguments Q, conj"):
        from_s5("S5SSM", golden.params, conj=False, Q=3, seed=0)
    stack = Golden(STACK).params
    with pytest.raises(ValueError, match="missing: layers_2/norm/bias"):
        from_s5("StackedEncoder", stack, n_layers="3")
    with pytest.raises(ValueError, match="activation must be one of full_glu, .*, got 'relu'"):
        from_s5("StackedEncoder", stack, activation="relu")
