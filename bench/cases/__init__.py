"""The benchmark cases of each family of recurrences."""

from collections.abc import Collection

from fastscan.bench.cases import attention, linear, matrix, selective
from fastscan.bench.cases.case import Case

FAMILIES: dict[str, tuple[Case, ...]] = {
    "linear": linear.CASES,
    "matrix": matrix.CASES,
    "selective": selective.CASES,
    "attention": attention.CASES,
}


def select(family: str, *, quick: bool = False, names: Collection[str] = ()) -> tuple[Case, ...]:
    """The cases of `family`, all of them or only the quick or the named ones.

    Raises `ValueError` for a family or a case that does not exist.
    """
    if family not in FAMILIES:
        raise ValueError(f"No benchmark family {family!r}; choose one of {sorted(FAMILIES)}.")
    cases = FAMILIES[family]
    unknown = sorted(set(names) - {case.name for case in cases})
    if unknown:
        known = ", ".join(case.name for case in cases)
        raise ValueError(f"No {family} case {', '.join(unknown)}; choose from {known}.")
    return tuple(
        case
        for case in cases
        if (not names or case.name in names) and (not quick or case.quick or bool(names))
    )
