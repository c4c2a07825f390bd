"""Random shapes, forms, resets and layouts against the oracle."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import RESETS, native_only
from tests.matrix_scan.cases import FORMS, Case, check

# Few, as each shape compiles two programs; the kernels' own test has a thousand.
EXAMPLES = 6


@st.composite
def cases(draw) -> Case:
    """A call with up to one batch axis in front of time and one behind it."""
    form = draw(st.sampled_from(sorted(FORMS)))
    vectors = draw(st.booleans())
    front = draw(st.sampled_from([(), (1,), (3,), (9,)]))
    dense = form == "dense"
    beside = draw(st.sampled_from([(), (2,)] if dense or not vectors else [()]))
    length, n, m = (draw(st.integers(1, most)) for most in (12, 18, 18))
    X = (*front, length, *beside, n) if vectors else (*front, length, *beside, n, m)
    prefix = X[: -1 if vectors else -2]
    own = tuple(1 if draw(st.booleans()) else extent for extent in prefix)
    return Case(
        X,
        axis=len(front),
        form=form,
        vectors=vectors,
        front=own,
        terms=draw(st.integers(1, 3)),
        H0=draw(st.booleans()),
        reset=draw(st.sampled_from(RESETS)),
        reverse=draw(st.booleans()),
    )


@native_only
@settings(max_examples=EXAMPLES)
@given(case=cases())
def test_values_and_gradients(implementation, case):
    check(implementation, case, "float64")


@native_only
@settings(max_examples=EXAMPLES)
@given(case=cases())
def test_complex(implementation, case):
    check(implementation, case, "complex64")
