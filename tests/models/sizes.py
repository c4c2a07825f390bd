"""The largest array that a function makes."""

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params


def largest_array(function, *args) -> int:
    """Return the elements of the largest array in the traced function, loops included."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (np.prod(var.aval.shape, dtype=int) for var in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*args).jaxpr))
