"""The three primitives of the linear scan and their rules under every JAX transformation.

    scan(a, x, h0, *reset)                           -> h_last, h
    tangent(da, dx, dh0, a, h, h0, *reset)           -> dh_last, dh    linear in (da, dx, dh0)
    backward(g_last, g, a, h, h0, *reset)            -> da, dx, dh0    linear in (g_last, g)
    adjoint(g_last, g, a, *reset)                    -> dx, dh0        linear in (g_last, g)

The tangent of `scan` is `tangent`; where `a` is not differentiated it is `scan` itself, which is
linear in (x, h0), and then nothing but `a` is kept for the backward pass. `tangent` and `backward`
are each other's transposes, and so are `scan` and `adjoint` (`backward` without the cotangent of
`a`). The tangents of all but `scan` follow from the definitions in `kernels/linear.py`.

Operands have the rank of the parameter `shape`, and each of their axes has its extent or is 1
and broadcasts (`kernels.case.LinearCase`). So batching is a matter of axes: a mapped axis joins
`shape` where it stands, an operand that is not mapped gets a 1 there, and nothing is broadcast or
moved; and a cotangent that is zero is a single zero.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fastscan import dispatch
from fastscan.kernels import linear
from fastscan.kernels.case import LinearCase, accumulation_dtype

scan_p = Primitive("fastscan_linear_scan")
tangent_p = Primitive("fastscan_linear_tangent")
backward_p = Primitive("fastscan_linear_backward")
adjoint_p = Primitive("fastscan_linear_adjoint")
PRIMITIVES = (scan_p, tangent_p, backward_p, adjoint_p)

# The position of `a` among the operands of each primitive: what follows are values that its result
# is not linear in.
_DECAY = {scan_p: 0, tangent_p: 3, backward_p: 2, adjoint_p: 2}


def bind(primitive: Primitive, *operands: Array, **params: Any) -> list[Array]:
    """Bind with operands that vary over the same mesh axes, as `shard_map` asks of them."""
    axes = [_varying(jax.typeof(operand)) for operand in operands]
    union = frozenset().union(*axes)
    return primitive.bind(
        *(
            lax.pcast(operand, tuple(union - own), to="varying") if union - own else operand
            for operand, own in zip(operands, axes, strict=True)
        ),
        **params,
    )


def _varying(aval: Any) -> frozenset[str]:
    manual = getattr(aval, "mat", None)  # JAX 0.10.2 and newer
    return manual.varying if manual is not None else getattr(aval, "vma", frozenset())


def _edge(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _zero(operand: Any, dtype: Any = None) -> Array:
    """A zero that broadcasts to `operand`, in the place of a symbolic zero."""
    aval = getattr(operand, "aval", operand)
    return jnp.zeros((1,) * len(aval.shape), dtype or aval.dtype)


def _instantiate(tangent: Any, like: Any) -> Array:
    return _zero(like) if isinstance(tangent, ad.Zero) else tangent


# ---- shapes ----------------------------------------------------------------------------------


def _states(like: Any, shape: tuple[int, ...], axis: int) -> list[Any]:
    """The types of (h_last, h), or of (dh0, dx) in that order."""
    dtype = np.dtype(like.dtype)
    return [
        like.update(shape=_edge(shape, axis), dtype=accumulation_dtype(dtype), weak_type=False),
        like.update(shape=shape, dtype=dtype, weak_type=False),
    ]


def _scan_type(a, x, h0, *reset, shape, axis, **_):
    return _states(x, shape, axis)


def _tangent_type(da, dx, dh0, *rest, shape, axis, **_):
    return _states(dx, shape, axis)


def _backward_type(g_last, g, a, h, h0, *reset, shape, axis, decay_shape, **_):
    dh0, dx = _states(g, shape, axis)
    return [a.update(shape=decay_shape, weak_type=False), dx, dh0]


def _adjoint_type(g_last, g, a, *reset, shape, axis, **_):
    dh0, dx = _states(g, shape, axis)
    return [dx, dh0]


# ---- definitions in terms of `scan`, from which JAX takes derivatives ------------------------


def _definition(function: Callable[..., Sequence[Array]], params: dict[str, Any]):
    params = dict(params)
    implementation = params.pop("implementation")

    def inner(*operands: Array, **inner_params: Any) -> list[Array]:
        return bind(scan_p, *operands, **inner_params, implementation=implementation)

    return functools.partial(function, inner, **params)


_DEFINITIONS = {
    tangent_p: linear.tangent,
    backward_p: linear.backward,
    adjoint_p: linear.adjoint,
}


def _jvp_by_definition(primitive: Primitive, primals, tangents, **params):
    """Differentiate the definition in the operands that have a tangent."""
    moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]
    function = _definition(_DEFINITIONS[primitive], params)

    def of_moving(*values: Array) -> list[Array]:
        operands = list(primals)
        for i, value in zip(moving, values, strict=True):
            operands[i] = value
        return list(function(*operands))

    _, out = jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])
    return bind(primitive, *primals, **params), out


def _scan_jvp(primals, tangents, **params):
    a, x, h0, *reset = primals
    da, dx, dh0, *_ = tangents
    h_last, h = bind(scan_p, *primals, **params)
    dx, dh0 = _instantiate(dx, x), _instantiate(dh0, h0)
    if isinstance(da, ad.Zero):
        out = bind(scan_p, a, dx, dh0, *reset, **params)
    else:
        out = bind(tangent_p, da, dx, dh0, a, h, h0, *reset, **params)
    return [h_last, h], out


# ---- transposes ------------------------------------------------------------------------------


def _cotangents(wanted: Sequence[Any], values: Sequence[Array]) -> list[Array | None]:
    """The cotangents of the operands that are linear, in the shapes of those operands."""
    return [
        linear.unbroadcast(value, operand.aval.shape) if ad.is_undefined_primal(operand) else None
        for operand, value in zip(wanted, values, strict=True)
    ]


def _scan_transpose(cotangents, a, x, h0, *reset, **params):
    g_last, g = cotangents
    dtype = (x.aval if ad.is_undefined_primal(x) else x).dtype
    g = _zero(g, dtype) if isinstance(g, ad.Zero) else g
    g_last = _zero(g_last) if isinstance(g_last, ad.Zero) else g_last
    dx, dh0 = bind(adjoint_p, g_last, g, a, *reset, **params)
    return [None, *_cotangents((x, h0), (dx, dh0)), *[None] * len(reset)]


def _adjoint_transpose(cotangents, g_last, g, a, *reset, **params):
    dx, dh0 = (_zero(c) if isinstance(c, ad.Zero) else c for c in cotangents)
    out = bind(scan_p, a, dx, dh0, *reset, **params)
    return [*_cotangents((g_last, g), out), None, *[None] * len(reset)]


def _tangent_transpose(cotangents, da, dx, dh0, *rest, **params):
    g_last, g = (_zero(c) if isinstance(c, ad.Zero) else c for c in cotangents)
    a, h, h0, *reset = rest
    if ad.is_undefined_primal(da):
        values = bind(backward_p, g_last, g, a, h, h0, *reset, decay_shape=da.aval.shape, **params)
    else:
        values = [g, *bind(adjoint_p, g_last, g, a, *reset, **params)]
    return [*_cotangents((da, dx, dh0), values), *[None] * len(rest)]


def _backward_transpose(cotangents, g_last, g, *rest, decay_shape, **params):
    da, dx, dh0 = (_zero(c) if isinstance(c, ad.Zero) else c for c in cotangents)
    out = bind(tangent_p, da, dx, dh0, *rest, **params)
    return [*_cotangents((g_last, g), out), *[None] * len(rest)]


# ---- batching --------------------------------------------------------------------------------


def _batch(primitive: Primitive, operands, dims, *, shape, axis, **params):
    """Let the mapped axis join `shape` where most of the operands have it already."""
    size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
    weights: collections.Counter[int] = collections.Counter()
    for operand, d in zip(operands, dims, strict=True):
        if d is not None:
            weights[d] += operand.size
    at = weights.most_common(1)[0][0]
    aligned = [
        jnp.expand_dims(x, at) if d is None else x if d == at else jnp.moveaxis(x, d, at)
        for x, d in zip(operands, dims, strict=True)
    ]
    params["shape"] = (*shape[:at], size, *shape[at:])
    params["axis"] = axis + (at <= axis)
    if "decay_shape" in params:
        # Each mapped call has its own cotangent of `a`, also where they share one `a`.
        decay_shape = params["decay_shape"]
        params["decay_shape"] = (*decay_shape[:at], size, *decay_shape[at:])
    out = bind(primitive, *aligned, **params)
    return out, [at] * len(out)


# ---- lowering --------------------------------------------------------------------------------


def _run(platform: str, primitive: Primitive, *operands: Array, implementation, **params):
    """Hand the operands to the implementation that `dispatch` chooses for `platform`."""
    module = dispatch.choose(case_of(primitive, operands, params), platform, implementation)
    run = {scan_p: "scan", backward_p: "backward", adjoint_p: "adjoint"}[primitive]
    return getattr(module, run)(*operands, **params)


def case_of(primitive: Primitive, operands: Sequence[Any], params: dict[str, Any]) -> LinearCase:
    """The facts of one bound primitive, from its operands or their types."""
    at = _DECAY[primitive]
    states = {scan_p: 2, tangent_p: 3, backward_p: 3, adjoint_p: 1}[primitive]
    return LinearCase(
        shape=params["shape"],
        axis=params["axis"],
        reverse=params["reverse"],
        dtype=np.dtype(operands[at].dtype),
        decay_shape=operands[at].shape,
        has_reset=len(operands) > at + states,
    )


@functools.cache
def _compiled(primitive: Primitive, **params: Any) -> Callable[..., list[Array]]:
    return jax.jit(functools.partial(primitive.bind, **params))


def _register(primitive: Primitive, abstract_eval: Callable[..., list[Any]]) -> None:
    primitive.multiple_results = True
    primitive.def_impl(lambda *operands, **params: _compiled(primitive, **params)(*operands))
    primitive.def_abstract_eval(abstract_eval)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    if primitive is tangent_p:

        def by_definition(*operands: Array, **params: Any) -> Sequence[Array]:
            return _definition(linear.tangent, params)(*operands)

        mlir.register_lowering(primitive, mlir.lower_fun(by_definition, multiple_results=True))
        return
    for platform in (*dispatch.PLATFORMS, None):
        run = functools.partial(_run, platform or "other", primitive)
        mlir.register_lowering(
            primitive, mlir.lower_fun(run, multiple_results=True), platform=platform
        )


_register(scan_p, _scan_type)
_register(tangent_p, _tangent_type)
_register(backward_p, _backward_type)
_register(adjoint_p, _adjoint_type)

ad.primitive_jvps[scan_p] = _scan_jvp
for _primitive in (tangent_p, backward_p, adjoint_p):
    ad.primitive_jvps[_primitive] = functools.partial(_jvp_by_definition, _primitive)
ad.primitive_transposes[scan_p] = _scan_transpose
ad.primitive_transposes[adjoint_p] = _adjoint_transpose
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[backward_p] = _backward_transpose
