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


def make_optimizer(
    config: Optimizer, steps: int, evaluate_every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Return the optimiser of a run of that many steps; its `update` takes the loss as `value`."""
    schedule = make_schedule(config, steps)
    parts = [
        optax.partition(
            {
                "recurrent": optax.adam(lambda count: config.recurrent_factor * schedule(count)),
                "other": optax.adamw(schedule, weight_decay=config.weight_decay),
            },
            # A model can be called, so optax would take a tree of labels for a function.
            lambda parameters: parameter_groups(parameters),
        )
    ]
    if config.clip is not None:
        parts.insert(0, optax.clip_by_global_norm(config.clip))
    if config.schedule == "plateau":
        parts.append(
            optax.contrib.reduce_on_plateau(
                factor=config.plateau_factor,
                patience=config.plateau_patience,
                accumulation_size=evaluate_every,
            )
        )
    return optax.with_extra_args_support(optax.chain(*parts))


def make_schedule(config: Optimizer, steps: int) -> optax.Schedule:
    """Return the learning rate by the number of updates before; a plateau is not part of it."""
    peak, warmup = config.learning_rate, round(config.warmup_fraction * steps)
    if config.schedule == "cosine":
        # The steps of the decay include the warm-up's, and there must be one of its own.
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, max(steps, warmup + 1), end_value=config.final_rate
        )
    return optax.linear_schedule(0.0, peak, warmup) if warmup else optax.constant_schedule(peak)
