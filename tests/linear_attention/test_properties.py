"""Any shape, form, resets and layout of the batch axes, against the oracle."""

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import RESETS, native_only
from tests.linear_attention.helpers import Case, check_against_oracle

CASES = st.builds(
    Case,
    T=st.integers(0, 70),
    K=st.integers(1, 20),
    V=st.integers(1, 40),
    batch=st.sampled_from([(), (2,), (1, 3)]),
    decay=st.sampled_from(["none", "step", "key"]),
    delta=st.booleans(),
    S0=st.booleans(),
    reset=st.sampled_from(RESETS),
    shared=st.sampled_from([(), ("q",), ("k", "v"), ("log_decay", "S0")]),
)


@native_only
@given(case=CASES)
def test_any_call(implementation, case):
    check_against_oracle(implementation, case, "float64")
