"""Language models of GatedLinearRNN, with its parameters, its figures and its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models.convert import from_gated_linear_rnn, from_gated_linear_rnn_lm
from fastscan.models.language import LanguageCarry
from tests.models.golden import Golden, assert_parity, batched

SIZES = {"tokens": 9, "inputs": 4, "hidden": 6, "inner": 7, "state": 5, "classes": 8, "length": 11}


def test_language_model():
    golden = Golden("gln_pypi_LM_none_emb_assoc")
    model = from_gated_linear_rnn_lm(golden.meta["cls"], golden.params, **golden.kwargs)
    carry, y = batched(lambda x: model(None, x))(golden.inputs["x"])
    assert_parity(y, golden.outputs["y"])
    assert_parity(jnp.stack(carry.layers, axis=1), golden.outputs["h"])
    before = LanguageCarry(None, tuple(golden.inputs["carry"].transpose(1, 0, 2)))
    carry, y = batched(lambda carry, x: model(carry, x))(before, golden.inputs["x"])
    assert_parity(y, golden.outputs["y_carry"])
    assert_parity(jnp.stack(carry.layers, axis=1), golden.outputs["h_carry"])
    # The sizes and options that the parameters tell need not be given.
    inferred = from_gated_linear_rnn_lm("GatedLinearRNNLM", golden.params)
    y = batched(lambda x: inferred(None, x)[1])(golden.inputs["x"])
    assert_parity(y, golden.outputs["y"])
    # So does the function for the layers.
    same = from_gated_linear_rnn(golden.meta["cls"], golden.params, **golden.kwargs)
    jax.tree.map(np.testing.assert_array_equal, same, model)


def test_self_attention():
    golden = Golden("gln_pypi_selfattn_dh8_causal")
    xs = golden.inputs["x"]
    model = from_gated_linear_rnn_lm("MultiHeadSelfAttention", golden.params, **golden.kwargs)
    assert_parity(batched(lambda x: model(None, x)[1])(xs), golden.outputs["y"])
    whole = from_gated_linear_rnn_lm(
        "MultiHeadSelfAttention", golden.params, use_causal_mask="False", **golden.kwargs
    )
    ys = batched(lambda x: whole(None, x)[1])(xs)
    # Seeing all steps, the last output is what a causal one sees, the first is not.
    assert_parity(ys[:, -1], golden.outputs["y"][:, -1])
    assert not np.allclose(ys[:, 0], golden.outputs["y"][:, 0])


def parameters(options, rng):
    """Return parameters for the original's options, of one layer."""
    s = SIZES
    hidden, state = s["hidden"], s["state"]
    params = {}

    def dense(name, inputs, outputs):
        params[f"{name}/kernel"] = rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)
        params[f"{name}/bias"] = rng.normal(size=outputs)

    def norm(name):
        params[f"{name}/scale"], params[f"{name}/bias"] = rng.normal(size=(2, hidden))

    if options["use_word_embedding"]:
        params["input_function/embedding"] = rng.normal(size=(s["tokens"], hidden))
    else:
        dense("input_function", s["inputs"], hidden)
    if options["positional_encoding_mode"] == "learned":
        params["wpe/embedding"] = rng.normal(size=(s["length"], hidden))
    time, channel = "time_mixing_layers_0", "channel_mixing_layers_0"
    norm(f"{time}/layer_norm_function")
    norm(f"{channel}/layer_norm")
    if "n_head" in options:
        dense(f"{time}/model/qkv_proj", hidden, 3 * hidden)
        dense(f"{time}/model/out_proj", hidden, hidden)
    else:
        gates = (3 if options["use_tied_gates"] else 4) * state
        dense(f"{time}/model/proj", hidden, gates)
        dense(f"{time}/model/out_proj", state, hidden)
        if options["use_true_recurrence"]:
            recurrent = rng.normal(size=(state, gates))
            params[f"{time}/model/model/recurrent_proj/kernel"] = recurrent
    dense(f"{channel}/dense_layers_0", hidden, s["inner"])
    dense(f"{channel}/dense_layers_1", s["inner"], hidden)
    if options["use_head"]:
        dense("head", hidden, s["classes"])
    return params


def reference(params, options, xs):
    """The original's equations for one sequence, step by step."""

    def dense(name, x):
        return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + options["eps"])
        return x * params[f"{name}/scale"] + params[f"{name}/bias"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def recurrence(name, x):
        us, ys = dense(f"{name}/proj", x), []
        h = np.zeros(SIZES["state"])
        weight = params.get(f"{name}/model/recurrent_proj/kernel", np.zeros((len(h), us.shape[1])))
        for u in us:
            value, *gates = np.split(u + h @ weight, us.shape[1] // len(h))
            inputs, *forget, output = map(sigmoid, gates)
            h = (forget[0] if forget else 1 - inputs) * h + inputs * np.tanh(value)
            ys.append(np.tanh(h) * output)
        return dense(f"{name}/out_proj", np.array(ys))

    def attention(name, x):
        heads = options["n_head"]
        qkv = dense(f"{name}/qkv_proj", x).reshape(len(x), heads, -1)
        ys = []
        for head in range(heads):
            q, k, v = np.split(qkv[:, head], 3, axis=-1)
            scores = q @ k.T / np.sqrt(q.shape[-1])
            scores[np.triu_indices(len(x), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            ys.append(weights / weights.sum(-1, keepdims=True) @ v)
        return dense(f"{name}/out_proj", np.concatenate(ys, axis=-1))

    x = dense("input_function", xs) if xs.ndim == 2 else params["input_function/embedding"][xs]
    mode, hidden = options["positional_encoding_mode"], SIZES["hidden"]
    if mode == "learned":
        x = x + params["wpe/embedding"][: len(x)]
    if mode == "sinusoidal":
        for i in range(0, hidden, 2):
            angle = np.arange(len(x)) / 10_000 ** (i / hidden)
            x[:, i] += np.sin(angle)
            x[:, i + 1] += np.cos(angle)
    time, channel = "time_mixing_layers_0", "channel_mixing_layers_0"
    mix = attention if "n_head" in options else recurrence
    x = x + mix(f"{time}/model", norm(f"{time}/layer_norm_function", x))
    inner = dense(f"{channel}/dense_layers_0", norm(f"{channel}/layer_norm", x))
    inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    x = x + dense(f"{channel}/dense_layers_1", inner)
    return dense("head", x) if options["use_head"] else x


@pytest.mark.parametrize(
    "changed",
    [
        {"positional_encoding_mode": "learned", "use_tied_gates": False},
        {"positional_encoding_mode": "sinusoidal", "use_true_recurrence": True, "eps": 0.1},
        {"use_word_embedding": False, "use_head": False, "use_tied_gates": "False"},
        {"n_head": 2, "positional_encoding_mode": "learned", "max_seq_length": SIZES["length"]},
    ],
    ids=["learned-untied", "sinusoidal-true", "dense-no-head-untied", "transformer"],
)
def test_options_by_their_equations(changed):
    options = {
        "positional_encoding_mode": "none",
        "use_word_embedding": True,
        "use_head": True,
        "use_true_recurrence": False,
        "use_tied_gates": True,
        "eps": 1e-6,
    } | changed
    spelled = dict(options, use_tied_gates=options["use_tied_gates"] not in (False, "False"))
    rng = np.random.default_rng(0)
    params = parameters(spelled, rng)
    if options["use_word_embedding"]:
        xs = rng.integers(0, SIZES["tokens"], SIZES["length"])
    else:
        xs = rng.normal(size=(SIZES["length"], SIZES["inputs"]))
    cls = "TransformerLM" if "n_head" in options else "GatedLinearRNNLM"
    gates = ("use_true_recurrence", "use_tied_gates") if "n_head" in options else ()
    given = {name: value for name, value in options.items() if name not in gates}
    model = from_gated_linear_rnn_lm(cls, params, **given)
    ys = jax.jit(lambda xs: model(None, xs)[1])(xs)
    # JAX's attention has scores in float32.
    tolerance = 1e-5 if "n_head" in options else 1e-9
    np.testing.assert_allclose(ys, reference(params, spelled, xs), rtol=tolerance, atol=tolerance)


def test_errors_list_what_is_wrong():
    golden = Golden("gln_pypi_LM_none_emb_assoc")

    def convert(cls="GatedLinearRNNLM", **changed):
        return from_gated_linear_rnn_lm(cls, golden.params, **golden.kwargs | changed)

    with pytest.raises(ValueError, match="missing: wpe/embedding"):
        convert(positional_encoding_mode="learned")
    with pytest.raises(ValueError, match="(?s)unknown: head/bias, head/kernel"):
        convert(use_head=False)
    with pytest.raises(ValueError, match="(?s)unknown: channel_mixing_layers_1/dense_layers_0/b"):
        convert(n_layer=1)
    with pytest.raises(ValueError, match="positional_encoding_mode must be .*'rotary'"):
        convert(positional_encoding_mode="rotary")
    with pytest.raises(ValueError, match="unknown class 'LSTM'; known are GatedLinearRNNLM, "):
        convert("LSTM")
    with pytest.raises(ValueError, match="GatedLinearRNNLM takes no arguments n_heads"):
        convert(n_heads=2)
    for size in ("d_model", "d_h", "d_channel_mixing", "input_vocab_size", "output_vocab_size"):
        with pytest.raises(ValueError, match=f"{size}=3, but the parameters are those of"):
            convert("GatedLinearRNNLM", **{size: 3})
    attention = Golden("gln_pypi_selfattn_dh8_causal").params
    with pytest.raises(ValueError, match="MultiHeadSelfAttention needs n_head"):
        from_gated_linear_rnn_lm("MultiHeadSelfAttention", attention)
