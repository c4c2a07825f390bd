"""The primitives of the fused families and their rules under every JAX transformation.

    scan(*operands)                        -> *results, *residuals
    tangent(*tangents, *operands, *saved)  -> tangents of the results      linear in the tangents
    backward(*cotangents, *operands, *saved) -> cotangents of operands     linear in the cotangents

`saved` is what `scan` returned. A family (`kernels.case.Family`) says what its operands are, what
`scan` returns, and what it means, in JAX functions: `tangent` is the derivative of that meaning,
and so are the tangents of `tangent` and of `backward`. What was saved is a function of the
operands, so a derivative with respect to these is the whole of it, and none is taken with respect
to what was saved. `tangent` and `backward` are each other's transposes.

Operands have the axes of the parameter `batch` in front, each of its extent or 1 where the operand
broadcasts. A mapped axis becomes a new first one, of extent 1 in what is not mapped; a cotangent
has extent 1 where it is summed over the batch (`wanted`), whether or not its operand has 1 there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fastscan import dispatch
from fastscan.kernels.case import FAMILIES, FusedCase
from fastscan.kernels.linear import unbroadcast
from fastscan.primitives import bind

scan_p = Primitive("fastscan_scan")
tangent_p = Primitive("fastscan_tangent")
backward_p = Primitive("fastscan_backward")
PRIMITIVES = (scan_p, tangent_p, backward_p)

# Parameters of all: family, names (of the operands), batch, options, implementation. Of `tangent`
# and `backward`: moving (the names of the operands whose tangents are given, or cotangents wanted).
# Of `backward`: wanted (the batch axes of each of these cotangents).


def call(
    family: str,
    operands: Mapping[str, Array | None],
    options: dict[str, Any],
    implementation: tuple[str, ...] | None,
    *,
    ranks: dict[str, int],
) -> list[Array]:
    """The results of a family for operands with any leading batch axes, which broadcast.

    `ranks` says how many axes each operand has without them. None is an operand left out.
    """
    known = FAMILIES[family]
    ordered = ((name, operands.get(name)) for name in known.operands)
    given = {name: array for name, array in ordered if array is not None}
    batch = np.broadcast_shapes(
        *(array.shape[: array.ndim - ranks[name]] for name, array in given.items())
    )
    aligned = [
        array.reshape((1,) * (len(batch) + ranks[name] - array.ndim) + array.shape)
        for name, array in given.items()
    ]
    out = bind(
        scan_p,
        *aligned,
        family=family,
        names=tuple(given),
        batch=batch,
        options=tuple(sorted(options.items())),
        implementation=implementation,
    )
    return out[: known.public]


# ---- types -----------------------------------------------------------------------------------


def _case(operands: Sequence[Any], *, family, names, batch, options, **_: Any) -> FusedCase:
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands[: len(names)]]
    return FusedCase(family, batch, tuple(zip(names, types, strict=True)), options)


def _results(case: FusedCase) -> list[jax.ShapeDtypeStruct]:
    return [
        jax.ShapeDtypeStruct((*case.batch, *core.shape), core.dtype)
        for core in FAMILIES[case.family].results(case)
    ]


def _like(aval: Any, type_: jax.ShapeDtypeStruct) -> Any:
    return aval.update(shape=type_.shape, dtype=type_.dtype, weak_type=False)


def _scan_type(*operands, **params):
    return [_like(operands[0], r) for r in _results(_case(operands, **params))]


def _split(values: Sequence[Any], *counts: int) -> list[Sequence[Any]]:
    parts, at = [], 0
    for count in counts:
        parts.append(values[at : at + count])
        at += count
    return [*parts, values[at:]]


def _tangent_type(*values, moving, **params):
    _, operands, _ = _split(values, len(moving), len(params["names"]))
    public = FAMILIES[params["family"]].public
    return [_like(operands[0], r) for r in _results(_case(operands, **params))[:public]]


def _backward_type(*values, moving, wanted, **params):
    public = FAMILIES[params["family"]].public
    _, operands, _ = _split(values, public, len(params["names"]))
    case = _case(operands, **params)
    return [
        _like(
            operands[0],
            jax.ShapeDtypeStruct((*axes, *case.core(name)), case[name].dtype),
        )
        for name, axes in zip(moving, wanted, strict=True)
    ]


# ---- definitions, from which JAX takes derivatives -------------------------------------------


def _meaning(case: FusedCase, fixed: dict[str, Array], moving: Sequence[str]):
    """The family's definition as a function of the operands named `moving`."""

    def of_moving(*values: Array) -> list[Array]:
        operands = {**fixed, **dict(zip(moving, values, strict=True))}
        return list(FAMILIES[case.family].definition(case, operands))

    return of_moving


def _tangent(*values: Array, moving, **params: Any) -> list[Array]:
    tangents, operands, _ = _split(values, len(moving), len(params["names"]))
    case = _case(operands, **params)
    named = dict(zip(case.names, operands, strict=True))
    # Under vmap, an operand and its tangent may broadcast along different batch axes.
    primals, moved = [], []
    for name, tangent in zip(moving, tangents, strict=True):
        primal, tangent = jnp.broadcast_arrays(named[name], tangent)
        primals.append(primal)
        moved.append(tangent)
    _, out = jax.jvp(_meaning(case, named, moving), primals, moved)
    return out


def _backward(*values: Array, moving, wanted, **params: Any) -> list[Array]:
    public = FAMILIES[params["family"]].public
    cotangents, operands, _ = _split(values, public, len(params["names"]))
    case = _case(operands, **params)
    named = dict(zip(case.names, operands, strict=True))
    shapes = [(*axes, *case.core(name)) for name, axes in zip(moving, wanted, strict=True)]
    primals = [
        jnp.broadcast_to(named[name], np.broadcast_shapes(named[name].shape, shape))
        for name, shape in zip(moving, shapes, strict=True)
    ]
    out, pullback = jax.vjp(_meaning(case, named, moving), *primals)
    full = [jnp.broadcast_to(c, o.shape) for c, o in zip(cotangents, out, strict=True)]
    return [unbroadcast(c, shape) for c, shape in zip(pullback(full), shapes, strict=True)]


_DEFINITIONS = {tangent_p: _tangent, backward_p: _backward}


# ---- tangents --------------------------------------------------------------------------------


def _scan_jvp(primals, tangents, **params):
    out = bind(scan_p, *primals, **params)
    public = FAMILIES[params["family"]].public
    moving = tuple(
        name
        for name, tangent in zip(params["names"], tangents, strict=True)
        if not isinstance(tangent, ad.Zero)
    )
    given = [t for t in tangents if not isinstance(t, ad.Zero)]
    moved = bind(tangent_p, *given, *primals, *out, moving=moving, **params)
    return out, [*moved, *(ad.Zero(jax.typeof(o).to_tangent_aval()) for o in out[public:])]


def _jvp_by_definition(primitive: Primitive, primals, tangents, **params):
    """Differentiate the definition in the values that have a tangent, except what was saved."""
    moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

    def of_moving(*values: Array) -> list[Array]:
        operands = list(primals)
        for i, value in zip(moving, values, strict=True):
            operands[i] = value
        return _DEFINITIONS[primitive](*operands, **params)

    _, out = jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])
    return bind(primitive, *primals, **params), out


# ---- transposes ------------------------------------------------------------------------------


def _zeros(aval: Any, rank: int) -> Array:
    """Zeros that broadcast over the batch, in the place of a symbolic zero."""
    aval = getattr(aval, "aval", aval)
    return jnp.zeros((*(1,) * rank, *aval.shape[rank:]), aval.dtype)


def _instantiate(cotangents: Sequence[Any], rank: int) -> list[Array]:
    return [_zeros(c, rank) if isinstance(c, ad.Zero) else c for c in cotangents]


def _tangent_transpose(cotangents, *values, moving, **params):
    rank = len(params["batch"])
    tangents, rest = values[: len(moving)], values[len(moving) :]
    linear = [i for i, t in enumerate(tangents) if ad.is_undefined_primal(t)]
    out = bind(
        backward_p,
        *_instantiate(cotangents, rank),
        *rest,
        moving=tuple(moving[i] for i in linear),
        wanted=tuple(tangents[i].aval.shape[:rank] for i in linear),
        **params,
    )
    found = dict(zip(linear, out, strict=True))
    return [*(found.get(i) for i in range(len(moving))), *[None] * len(rest)]


def _backward_transpose(cotangents, *values, moving, wanted, **params):
    del wanted
    public = FAMILIES[params["family"]].public
    g, rest = values[:public], values[public:]
    given = [i for i, c in enumerate(cotangents) if not isinstance(c, ad.Zero)]
    out = bind(
        tangent_p,
        *(cotangents[i] for i in given),
        *rest,
        moving=tuple(moving[i] for i in given),
        **params,
    )
    return [
        *(
            unbroadcast(value, operand.aval.shape) if ad.is_undefined_primal(operand) else None
            for operand, value in zip(g, out, strict=True)
        ),
        *[None] * len(rest),
    ]


# ---- batching --------------------------------------------------------------------------------


def _batch(primitive: Primitive, values, dims, *, batch, **params):
    """Let the mapped axis become the first batch axis."""
    size = next(x.shape[d] for x, d in zip(values, dims, strict=True) if d is not None)
    aligned = [
        jnp.expand_dims(x, 0) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(values, dims, strict=True)
    ]
    if "wanted" in params:
        # Each mapped call has its own cotangents, also of what is not mapped.
        params["wanted"] = tuple((size, *axes) for axes in params["wanted"])
    out = bind(primitive, *aligned, batch=(size, *batch), **params)
    return out, [0] * len(out)


# ---- lowering --------------------------------------------------------------------------------


def run(platform: str, primitive: Primitive, *values: Array, implementation, **params):
    """Hand the operands to the implementation that `dispatch` chooses for `platform`."""
    public = FAMILIES[params["family"]].public
    if primitive is scan_p:
        case = _case(values, **params)
        module = dispatch.choose(case, platform, implementation)
        return list(module.scan(case, dict(zip(case.names, values, strict=True))))
    cotangents, operands, saved = _split(values, public, len(params["names"]))
    case = _case(operands, **params)
    wanted = dict(zip(params["moving"], params["wanted"], strict=True))
    module = dispatch.choose(case, platform, implementation)
    named = dict(zip(case.names, operands, strict=True))
    found = module.backward(case, tuple(cotangents), named, tuple(saved), wanted)
    return [found[name] for name in wanted]


def case_of(primitive: Primitive, values: Sequence[Any], params: dict[str, Any]) -> FusedCase:
    """The facts of one bound primitive, from its operands or their types."""
    skipped = {
        scan_p: 0,
        tangent_p: len(params.get("moving", ())),
        backward_p: FAMILIES[params["family"]].public,
    }[primitive]
    return _case(values[skipped:], **params)


@functools.cache
def _compiled(primitive: Primitive, **params: Any):
    return jax.jit(functools.partial(primitive.bind, **params))


def _register(primitive: Primitive, abstract_eval) -> None:
    primitive.multiple_results = True
    primitive.def_impl(lambda *values, **params: _compiled(primitive, **params)(*values))
    primitive.def_abstract_eval(abstract_eval)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    if primitive is tangent_p:
        mlir.register_lowering(primitive, mlir.lower_fun(_tangent, multiple_results=True))
        return
    for platform in (*dispatch.PLATFORMS, None):
        lowered = functools.partial(run, platform or "other", primitive)
        mlir.register_lowering(
            primitive, mlir.lower_fun(lowered, multiple_results=True), platform=platform
        )


_register(scan_p, _scan_type)
_register(tangent_p, _tangent_type)
_register(backward_p, _backward_type)

ad.primitive_jvps[scan_p] = _scan_jvp
ad.primitive_jvps[tangent_p] = functools.partial(_jvp_by_definition, tangent_p)
ad.primitive_jvps[backward_p] = functools.partial(_jvp_by_definition, backward_p)
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[backward_p] = _backward_transpose
