"""Models of minimal-LRU, with its parameters and its figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import Chain, Noncausal
from fastscan.models.convert.flax_modules import Classifier, SequenceBlock
from fastscan.models.convert.minimal_lru import from_minimal_lru
from tests.models.golden import Golden, assert_parity, batched, below, input_gradient, outputs

BATCH = "minlru_Classifier_batch_pre_none_2"
LAYER = "minlru_Classifier_layer_pre_mean_1"


def test_lru():
    golden = Golden("minlru_LRU_default")
    model = from_minimal_lru(golden.meta["cls"], golden.params, **golden.kwargs)
    assert_parity(outputs(model, golden.inputs["x"]), golden.outputs["y"])
    assert_parity(input_gradient(model, golden.inputs["x"]), golden.gradients["x"])


@pytest.mark.parametrize("name", [LAYER, BATCH])
def test_classifier(name):
    golden = Golden(name)
    statistics = below("batch_stats_after_1_train_step/", golden.outputs)
    model = from_minimal_lru(
        golden.meta["cls"], golden.params, batch_stats=statistics or None, **golden.kwargs
    )
    xs = golden.inputs["x"]

    @batched
    def both(xs):
        def loss(xs):
            ys = model(None, xs)[1]
            return jnp.sum(ys**2), ys

        return jax.grad(loss, has_aux=True)(xs)

    gradient, ys = both(xs)
    assert_parity(ys, golden.outputs["logp_eval"])
    assert_parity(gradient, golden.gradients["x_eval"])
    assert isinstance(model, Noncausal) == (golden.kwargs["pooling"] != "none")


def first_variance(model):
    assert isinstance(model, Classifier) and isinstance(model.trunk, Chain)
    first = model.trunk.layers[1]
    assert isinstance(first, SequenceBlock) and first.norm is not None
    return first.norm.var


def test_statistics_beside_the_parameters():
    golden = Golden(BATCH)
    model = from_minimal_lru(golden.meta["cls"], golden.params, **golden.kwargs)
    var = "encoder/layers_0/normalization/var"
    np.testing.assert_array_equal(first_variance(model), golden.params[f"batch_stats0/{var}"])
    # Those of after some steps come before the initial ones, in any order.
    prefix = "batch_stats_after_1_train_step/"
    after = {f"batch_stats/{k}": v for k, v in below(prefix, golden.outputs).items()}
    for params in (golden.params | after, after | golden.params):
        model = from_minimal_lru(golden.meta["cls"], params, **golden.kwargs)
        np.testing.assert_array_equal(first_variance(model), after[f"batch_stats/{var}"])


def test_parts_of_a_classifier():
    """The stack is the classifier's trunk, and the layer the stack's first."""
    golden = Golden(LAYER)
    encoder = below("encoder/", golden.params)
    options = {"norm": "layer", "prenorm": True}
    stack = from_minimal_lru("StackedEncoderModel", encoder, **options)
    layer = from_minimal_lru("SequenceLayer", below("layers_0/", encoder), prenorm="True")
    post = from_minimal_lru("SequenceLayer", below("layers_0/", encoder))
    classifier = from_minimal_lru("ClassificationModel", golden.params, pooling="last", **options)
    xs = golden.inputs["x"][0]
    z = xs @ encoder["encoder/kernel"] + encoder["encoder/bias"]
    assert isinstance(stack, Chain)
    assert_parity(outputs(layer, z), outputs(stack.layers[1], z))
    # After the norm, the mean is that of the norm.
    normed = outputs(post, z) - encoder["layers_0/normalization/bias"]
    normed /= encoder["layers_0/normalization/scale"]
    assert_parity(np.mean(normed, axis=1), np.zeros(len(xs)))
    last = outputs(stack, xs)[-1] @ golden.params["decoder/kernel"] + golden.params["decoder/bias"]
    assert_parity(outputs(classifier, xs), jax.nn.log_softmax(last))


def test_dropout_leaves_out_channels_for_good():
    golden = Golden(LAYER)
    params = below("encoder/layers_0/", golden.params)
    model = from_minimal_lru("SequenceLayer", params, prenorm=True, dropout=0.5)
    xs = golden.inputs["x"][0][:, [0, 1, 1, 0]]
    keys = jax.random.split(jax.random.key(0), 16)
    added = jax.jit(jax.vmap(lambda key: model(None, xs, key=key)[1] - xs))(keys)
    dropped = np.abs(added) < 1e-7
    assert 0.3 < dropped.mean() < 0.7
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))


def test_errors_list_what_is_wrong():
    golden = Golden("minlru_LRU_default")
    with pytest.raises(ValueError, match=r"LRU has D of shape \(4,\) .*, got \(3,\)"):
        from_minimal_lru("LRU", golden.params | {"D": np.zeros(3, "float32")})
    params = dict(golden.params)
    params["E"] = params.pop("D")
    with pytest.raises(ValueError, match="(?s)parameters of LRU.*missing: D\nunknown: E"):
        from_minimal_lru("LRU", params)
    with pytest.raises(ValueError, match="known are BatchClassificationModel, .*, LRU"):
        from_minimal_lru("S4", params)
    with pytest.raises(ValueError, match="LRU takes no arguments hidden"):
        from_minimal_lru("LRU", golden.params, hidden=6)
    golden = Golden(BATCH)
    weights = {k: v for k, v in golden.params.items() if not k.startswith("batch_stats0/")}
    with pytest.raises(ValueError, match="batch_stats.*\nmissing: encoder/layers_0/norm"):
        from_minimal_lru(golden.meta["cls"], weights, **golden.kwargs)
    with pytest.raises(ValueError, match="'mean', 'last' or 'none', got 'max'"):
        options = golden.kwargs | {"pooling": "max"}
        from_minimal_lru(golden.meta["cls"], golden.params, **options)
