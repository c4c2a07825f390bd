"""recurrent-memory-transformer-pytorch 0.7.0, 0.5.6 and 0.2.2, with its parameters and figures."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import SegmentedTransformer
from fastscan.models.convert import from_rmt
from tests.models.golden import Golden, assert_parity, batched
from tests.models.test_rmt_segments import cross_entropy

SEGMENTS = [
    "rmt_default",
    "rmt_no_xl",
    "rmt_streams1",
    "rmt_rotary_xl",
    "rmt_flash_memory_causal",
    "rmt_mask_no_read",
    "rmt056_default",
    "rmtseed_flash_default",
]


def converted(golden, **options):
    return from_rmt("RecurrentMemoryTransformer", golden.params, **golden.kwargs | options)


def initial(model, batch=2):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * batch), model.init_carry())


@pytest.mark.parametrize("name", SEGMENTS)
def test_segments(name):
    golden = Golden(name)
    model, expected = converted(golden), golden.outputs
    carry, mask = initial(model), golden.inputs.get("mask")
    call = batched(lambda carry, xs, mask: model(carry, xs, mask=mask))
    for index in range(3):
        carry, logits = call(carry, golden.inputs[f"seg{index}"], mask)
        assert_parity(logits, expected[f"logits{index}"])
        assert_parity(carry.memories, expected[f"mem{index}"])
        for layer in range(2 if model.xl_mem_len else 0):
            keys, values = carry.xl_keys[:, layer], carry.xl_values[:, layer]
            xl = jnp.stack([keys, values]).swapaxes(2, 3)
            assert_parity(xl, expected[f"xl{index}/layer{layer}"])


def test_gradients():
    golden = Golden("rmt_streams1")
    model, inputs = converted(golden, use_xl_memories=False), golden.inputs
    carry = initial(model)._replace(written=jnp.ones(2, bool))

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model_and_memories):
        model, memories = model_and_memories
        call = jax.vmap(lambda carry, xs: model(carry, xs)[1])
        return jnp.sum(call(carry._replace(memories=memories), inputs["seg1"]) ** 2)

    model, memories = gradient((model, jnp.asarray(inputs["grad_read_memories"])))
    expected = golden.gradients
    assert_parity(memories, expected["read_memories(seg1)"])
    layer = model.stack.layers[1]
    for name, value in {
        "token_emb.weight": model.token_emb.weight,
        "memory_tokens": model.memory_tokens,
        "layers.1.0.branch.null_kv": layer.attention.null_kv,
        "layers.1.0.branch.learned_value_residual_mix.0.weight": layer.attention.to_mix.weight,
        "layers.1.1.branch.4.weight": layer.feedforward.to_out.weight,
    }.items():
        np.testing.assert_allclose(value, expected[f"param/{name}"], rtol=1e-3, atol=1e-3)


def test_wrapper():
    golden = Golden("rmt_wrapper_noxl_truncNone")
    wrapper, expected = SegmentedTransformer(converted(golden)), golden.outputs
    carry, logits = batched(lambda xs: wrapper(None, xs))(golden.inputs["seq"])
    assert_parity(logits, expected["logits"])
    assert_parity(carry.memories, expected["mem"])
    labels = golden.inputs["seq_plus1"][:, 1:]
    loss = cross_entropy(logits.reshape(-1, 11), labels.reshape(-1)).mean()
    assert_parity(loss, expected["loss"])
    assert_parity(loss, expected["mrbp_loss"])


def test_generation():
    golden = Golden("rmt_generate_exact")
    wrapper = SegmentedTransformer(converted(golden))
    tokens = jax.vmap(lambda prime: wrapper.generate(prime, 20, temperature=0))
    np.testing.assert_array_equal(tokens(golden.inputs["prime"]), golden.outputs["generated"])


def test_arguments_as_they_are_printed_or_read_off():
    golden = Golden("rmt_default")
    printed = {name: str(value) for name, value in golden.kwargs.items()}
    cls, inside = "RecurrentMemoryTransformerWrapper", golden.params
    read_off = from_rmt(
        cls, {f"transformer.{k}": v for k, v in inside.items()}, heads=2, dim_head=4
    )
    for model in (from_rmt(cls, inside, **printed), read_off):
        assert eqx.tree_equal(model, converted(golden))


def test_what_is_refused():
    golden = Golden("rmt_rotary_xl")
    with pytest.raises(ValueError, match="unknown class"):
        from_rmt("Transformer", golden.params)
    with pytest.raises(ValueError, match="not the parameters of a Recurrent"):
        from_rmt("RecurrentMemoryTransformer", {"weight": np.ones(3)})
    fewer = {"extra": np.ones(3), **golden.params}
    del fewer["memory_tokens"]
    with pytest.raises(ValueError, match="missing: memory_tokens\nunknown: extra"):
        from_rmt("RecurrentMemoryTransformer", fewer, **golden.kwargs)
    with pytest.raises(ValueError, match=r"to_q\.weight must have shape"):
        converted(golden, heads=3)
    with pytest.raises(ValueError, match=r"0\.7\.0 takes no arguments token_shift"):
        converted(golden, token_shift=True)
    with pytest.raises(ValueError, match="dim=16, but the parameters are those of 8"):
        converted(golden, dim=16)
    with pytest.raises(ValueError, match="seq_len must be given"):
        from_rmt("RecurrentMemoryTransformer", golden.params, abs_pos_emb=False)
