"""The optimiser: two groups of parameters, one schedule."""

import equinox as eqx
import jax
import optax

from fastscan.models import Layer
from fastscan.train.config import Optimizer


def parameter_groups(model: Layer):
    """Return `model` with each array replaced by its group, `"recurrent"` or `"other"`."""

    def has_recurrent(node):
        return isinstance(node, Layer) and bool(node.recurrent_parameters)

    def recurrent(tree):
        layers = filter(has_recurrent, jax.tree.leaves(tree, is_leaf=has_recurrent))
        fields = (getattr(layer, name) for layer in layers for name in layer.recurrent_parameters)
        # An option of the layer may leave a parameter out.
        return [field for field in fields if field is not None]

    groups = jax.tree.map(lambda _: "other", eqx.filter(model, eqx.is_inexact_array))
    return eqx.tree_at(recurrent, groups, replace_fn=lambda _: "recurrent")


def make_optimizer(config: Optimizer, steps: int) -> optax.GradientTransformation:
    """Return the optimiser of a run of that many steps."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=max(1, round(config.warmup_fraction * steps)),
        decay_steps=max(2, steps),
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.partition(
            {
                "recurrent": optax.adam(lambda count: config.recurrent_factor * schedule(count)),
                "other": optax.adamw(schedule, weight_decay=config.weight_decay),
            },
            # A model can be called, so optax would take a tree of labels for a function.
            lambda parameters: parameter_groups(parameters),
        ),
    )
