"""Which implementation runs a call, and why the others do not.

The order on each platform is a rule that can be read here (`preference`) and asked
(`fastscan.explain`). A name that the caller gives is that implementation or an error.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.export

from fastscan.kernels.case import FAMILIES, FusedCase, LinearCase

Case = LinearCase | FusedCase

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to run the recurrences: its name, where it runs, and what it lacks here."""

    name: str
    summary: str
    platforms: tuple[str, ...]
    families: tuple[str, ...]
    package: str
    missing: str | None
    """What is missing and how to get it; None where the implementation is ready."""
    reserved: str | None = None
    """Why it runs only where the caller names it; None where the automatic choice may take it."""
    proven: tuple[str, ...] = ()
    """The families that the automatic choice may take all the same."""
    unsuited: Callable[[], str | None] = lambda: None
    """Why it does not run on the devices of this process; asks JAX for them."""

    @property
    def available(self) -> bool:
        """Whether it can run in this process."""
        return self.missing is None

    def declines(self, case: Case, platform: str) -> str | None:
        """Why it does not run `case` on `platform`, or None where it does."""
        if case.family not in self.families:
            return f"has no {function_of(case)}"
        if platform not in self.platforms:
            return f"runs on {', '.join(self.platforms)} only"
        return self.missing or self.unsuited() or self.module(case.family).supports(case)

    def reserves(self, case: Case) -> str | None:
        """Why it runs `case` only where the caller names it, or None where it need not."""
        return None if case.family in self.proven else self.reserved

    def module(self, family: str) -> ModuleType:
        """The file with this implementation's functions for a family."""
        return importlib.import_module(f"{self.package}.{family}")

    def __str__(self) -> str:
        return f"{self.name}: {self.missing or 'ready'} ({self.summary})"


ANYWHERE = (*PLATFORMS, "other")

FALLBACK = "associative_scan not recognised: "
"""How the name of a call of JAX's own scan begins, in whose place no kernel was found."""


PLAIN = ("scan", "associative", "chunked")
"""The implementations in plain JAX."""


def function_of(case: Case) -> str:
    """The public function that a case is a call of."""
    return FAMILIES[case.family].function if case.family in FAMILIES else "linear_scan"


@functools.cache
def implementations() -> dict[str, Implementation]:
    """What is installed here, by name, and what is missing for the rest.

    Each value has `name`, `summary`, `platforms`, `available` and `missing` (what is missing and
    how to get it, or None); `str(value)` is a line to print.
    """
    from fastscan.kernels import cpu, triton

    rows = (
        Implementation(
            "cpu",
            "native kernels, C++",
            ("cpu",),
            ("linear", "attention", "selective", "matrix"),
            "fastscan.kernels.cpu",
            cpu.missing(),
        ),
        Implementation(
            "triton",
            "kernels for NVIDIA GPUs, Triton",
            triton.platforms(),
            ("linear", "attention", "selective", "matrix"),
            "fastscan.kernels.triton",
            triton.missing(),
            triton.reserved(),
            triton.proven(),
            triton.unsuited,
        ),
        Implementation(
            "scan",
            "jax.lax.scan",
            ANYWHERE,
            ("linear", "attention", "selective", "matrix"),
            "fastscan.kernels.scan",
            None,
        ),
        Implementation(
            "associative",
            "jax.lax.associative_scan",
            ANYWHERE,
            ("linear", "selective", "matrix"),
            "fastscan.kernels.associative",
            None,
        ),
        Implementation(
            "chunked",
            "matrix products inside chunks of time",
            ANYWHERE,
            ("attention",),
            "fastscan.kernels.chunked",
            None,
        ),
        Implementation(
            "pallas",
            "kernels for TPUs, Pallas",
            ("tpu",),
            ("linear",),
            "fastscan.kernels.pallas",
            None,
            # To go when its tests have passed on a TPU and its times are committed.
            reserved="runs only by name until its tests have passed on a TPU",
        ),
    )
    return {row.name: row for row in rows}


def fallback(case: Case, platform: str) -> tuple[str, ...]:
    """The implementations in plain JAX, the fastest one first."""
    if case.family == "attention":
        return ("chunked", "scan")
    sequential, parallel = ("scan", "associative"), ("associative", "scan")
    if platform == "cpu":
        return sequential
    # On an accelerator every step of `lax.scan` is a kernel launch or more.
    return sequential if case.length <= 8 else parallel


def preference(case: Case, platform: str) -> tuple[str, ...]:
    """The names that the automatic choice tries, best first."""
    rows = implementations()
    names = (*_native(platform), *fallback(case, platform))
    if case.length <= 1:
        # XLA makes plain arithmetic of a loop of one step, and fuses it with what surrounds it.
        names = ("scan", *(name for name in names if name != "scan"))
    return tuple(
        name
        for name in names
        if case.family in rows[name].families and not rows[name].reserves(case)
    )


def _native(platform: str) -> list[str]:
    """The implementations with kernels of their own for a platform."""
    rows = implementations()
    return [name for name, row in rows.items() if name not in PLAIN and platform in row.platforms]


def choose(case: Case, platform: str, implementation: tuple[str, ...] | None) -> ModuleType:
    """The module that runs `case`: the first that fits.

    Raises:
        ValueError: none of the implementations that the caller named fits.
    """
    known = implementations()
    reasons = []
    for name in preference(case, platform) if implementation is None else implementation:
        reason = known[name].declines(case, platform)
        if reason is None:
            if implementation is None and reasons:
                _warn(platform, name, "; ".join(reasons))
            return known[name].module(case.family)
        reasons.append(f"{name!r} {reason}")
    raise ValueError(
        f"{function_of(case)}(implementation={implementation!r}) cannot run on {platform!r} with "
        f"{case}: {'; '.join(reasons)}. Leave `implementation` out for the automatic choice, or "
        "end it with 'scan', which always fits."
    )


@functools.cache
def _warn(platform: str, name: str, reasons: str) -> None:
    warnings.warn(
        f"fastscan runs on {platform!r} by {name!r}, several times slower than a kernel of its "
        f"own: {reasons}",
        RuntimeWarning,
        stacklevel=2,
    )


def export_checks() -> list[jax.export.DisabledSafetyCheck]:
    """What `jax.export.export` has to be told to accept programs that call native kernels.

    `jax.export.export(jax.jit(f), disabled_checks=fastscan.export_checks())(x)` allows the custom
    calls of fastscan. What is exported then runs wherever a compatible fastscan has been imported;
    with `implementation="scan"` or `"associative"` no such permission is needed, and none is given.
    """
    from fastscan.kernels import cpu, triton

    targets = (*cpu.TARGETS, *triton.TARGETS)
    return [jax.export.DisabledSafetyCheck.custom_call(target) for target in targets]


def canonical_names(implementation: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The caller's `implementation` as a tuple of known names.

    Raises:
        ValueError: a name is not known, or there is none.
    """
    if implementation is None:
        return None
    names = (implementation,) if isinstance(implementation, str) else tuple(implementation)
    unknown = [name for name in names if name not in implementations()]
    if unknown or not names:
        raise ValueError(
            f"implementation={implementation!r}: expected None, a name or a sequence of names "
            f"among {', '.join(map(repr, implementations()))}."
        )
    return names


def _reserved(case: Case, platform: str) -> list[str]:
    """The names that the automatic choice passes over, although they have a kernel for `case`."""
    rows = ((name, implementations()[name]) for name in _native(platform))
    return [name for name, row in rows if case.family in row.families and row.reserves(case)]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` found: `rows` of (call, platform, implementation, reason it declines)."""

    rows: tuple[tuple[str, str, str, str | None], ...]

    def __str__(self) -> str:
        if not self.rows:
            return "no fastscan call: nothing here is run by fastscan"
        lines, chosen = [], set()
        for call, platform, name, reason in self.rows:
            if reason is not None:
                verdict = f"declines: {reason}"
            elif (call, platform) in chosen:
                verdict = "could run, but is not the first choice"
            else:
                chosen.add((call, platform))
                verdict = "runs"
            lines.append(f"{call} on {platform}: {name} {verdict}")
        return "\n".join(lines)


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Which implementation would run `function(*args, **kwargs)` on each platform, and why.

    `function` is any function that calls fastscan (also its gradient); it is traced, not run.
    `print(fastscan.explain(f, x))` gives one line for each call, platform and implementation:
    which one runs, and why each other one declined.
    """
    from fastscan import fused, primitives
    from fastscan.evaluation import called_by

    rows = []
    calls = 0

    def visit(jaxpr: Any) -> None:
        nonlocal calls
        scope = None
        for equation in jaxpr.eqns:
            last, scope = scope, _fallback_scope(equation)
            if scope is not None:
                if scope != last:
                    calls += 1
                    rows.append((f"{calls}. {scope}", "all", "jax.lax.associative_scan", None))
                continue
            home = next(
                (m for m in (primitives, fused) if equation.primitive in m.PRIMITIVES), None
            )
            if home is not None:
                avals = [v.aval for v in equation.invars]
                case = home.case_of(equation.primitive, avals, equation.params)
                calls += 1
                label = f"{calls}. {equation.primitive.name} {case}"
                if home is fused:
                    label = f"{calls}. {function_of(case)} {equation.primitive.name} {case}"
                wanted = equation.params["implementation"]
                for platform in PLATFORMS:
                    for name in wanted or (*_reserved(case, platform), *preference(case, platform)):
                        row = implementations()[name]
                        reason = row.declines(case, platform) or (
                            None if wanted else row.reserves(case)
                        )
                        rows.append((label, platform, name, reason))
            for inner in called_by(equation):
                visit(getattr(inner, "jaxpr", inner))

    # As a function of its own, which JAX has not traced before: `patch` may be active only now.
    traced = jax.make_jaxpr(lambda *args, **kwargs: function(*args, **kwargs))(*args, **kwargs)
    visit(traced.jaxpr)
    return Explanation(tuple(rows))


def _fallback_scope(equation: Any) -> str | None:
    """The scope of a call of JAX's own scan that an equation stands in, if any."""
    names = (part.name for part in equation.source_info.name_stack.stack)
    return next((name for name in names if name.startswith(FALLBACK)), None)
