"""Random shapes, resets, discretizations and batch layouts against the oracle."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import RESETS, native_only
from tests.selective_scan.problems import NAMES, Problem, check

# Few, as each shape compiles two programs; the kernels' own test has a thousand.
EXAMPLES = 4


@st.composite
def problems(draw) -> Problem:
    """A call of which every operand has the batch axes, some of them, or ones in their place."""
    lead = draw(st.sampled_from([(), (1,), (3,), (2, 3)]))

    def own() -> tuple[int, ...]:
        kept = lead[draw(st.integers(0, len(lead))) :]
        return tuple(draw(st.sampled_from([1, extent])) for extent in kept)

    names = [name for name in (*NAMES, "reset") if lead and draw(st.booleans())]
    return Problem(
        length=draw(st.integers(1, 70)),
        d=draw(st.integers(1, 18)),
        n=draw(st.integers(1, 18)),
        lead=lead,
        batch=tuple((name, own()) for name in names),
        discretization=draw(st.sampled_from(["euler", "zoh"])),
        reset=draw(st.sampled_from(RESETS)),
        reverse=draw(st.booleans()),
        optional=draw(st.booleans()),
    )


@native_only
@settings(max_examples=EXAMPLES)
@given(problem=problems())
def test_values_and_gradients(implementation, problem):
    check(implementation, problem, "float64")
