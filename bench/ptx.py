"""What the Triton kernels compile to, without a GPU: `python -m fastscan.bench.ptx`.

Each configuration that the rules choose is compiled for compute capability 80 and 90, and its
machine code read: registers, spills, shared memory, the widths of the accesses to global memory,
shuffles, instructions. Exits with 1 where registers spill.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

CAPABILITIES = (80, 90)


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch of a kernel, as the host code asked for it."""

    case: str
    kernel: Any
    types: tuple[str, ...]
    """Of the parameters in their order: `*fp32`, `i32`."""
    ones: tuple[int, ...]
    """The scalars that are 1, which are compiled in."""
    constants: tuple[tuple[str, Any], ...]
    warps: int

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.__name__


@dataclasses.dataclass(frozen=True)
class Report:
    """What a launch compiles to."""

    launch: Launch
    capability: int
    registers: int
    spills: int
    """Accesses to local memory."""
    shared: int
    """Bytes."""
    shuffles: int
    instructions: int
    loads: dict[str, int]
    """Instructions that read global memory, by their bits; copies to shared memory among them."""
    stores: dict[str, int]

    def __str__(self) -> str:
        def widths(found: dict[str, int]) -> str:
            return " ".join(f"{n}x{bits}" for bits, n in sorted(found.items())) or "-"

        return (
            f"{self.launch.case} {self.launch.name} sm_{self.capability}: "
            f"{self.registers} registers, {self.spills} spills, {self.shared} B shared, "
            f"{self.shuffles} shuffles, {self.instructions} instructions, "
            f"loads {widths(self.loads)}, stores {widths(self.stores)}"
        )


def launches(case: str, function: Callable[..., Any], *args: Any) -> list[Launch]:
    """The kernels that a function of JAX arrays (or their types) starts."""
    from fastscan.kernels.triton.launch import jax_triton

    get_triton_type = jax_triton().triton_lib.get_triton_type
    found = []
    for equation in equations(jax.make_jaxpr(function)(*args).jaxpr):
        if equation.primitive.name != "triton_kernel_call":
            continue
        params = dict(equation.params)
        types = [get_triton_type(v.aval) for v in equation.invars]
        for at, type_, _ in params["scalar_args"]:
            types.insert(at, type_)
        types += [get_triton_type(v.aval) for v in equation.outvars]
        kernel = params["fn"]
        constants = {name: params[name] for name in kernel.arg_names if name in params}
        found.append(
            Launch(
                case,
                kernel,
                tuple(types),
                tuple(at for at, _, value in params["scalar_args"] if value == 1),
                tuple(constants.items()),
                params["num_warps"],
            )
        )
    return found


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, also those of inner functions."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def compile_launch(launch: Launch, capability: int) -> Report:
    """Compile a launch as jax-triton does, and read the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature = dict(zip(names, launch.types, strict=False))
    constants = {**dict(launch.constants), **{names[at]: 1 for at in launch.ones}}
    signature.update(dict.fromkeys(constants, "constexpr"))
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, t in enumerate(launch.types) if t.startswith("*")
    }
    source = ASTSource(launch.kernel, signature, constants, aligned)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": launch.warps, "num_stages": 3},
    )
    return _read(launch, capability, compiled.metadata.shared, _disassemble(compiled.asm["cubin"]))


def _disassemble(binary: bytes) -> str:
    import triton

    program = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run(
            [program, "-sass", "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout


def _read(launch: Launch, capability: int, shared: int, code: str) -> Report:
    operations = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code, re.M)
    registers = re.search(r"REG:(\d+)", code)
    if registers is None or not operations:
        raise ValueError(f"cuobjdump said nothing of the code of {launch.name}: {code[:200]!r}")
    return Report(
        launch,
        capability,
        registers=int(registers[1]),
        spills=_count(operations, "LDL", "STL"),
        shared=shared,
        shuffles=_count(operations, "SHFL"),
        instructions=len(operations),
        loads=_widths(operations, "LDG", "LDGSTS"),
        stores=_widths(operations, "STG"),
    )


def _count(operations: Iterable[str], *names: str) -> int:
    return sum(operation.partition(".")[0] in names for operation in operations)


def _widths(operations: Iterable[str], *names: str) -> dict[str, int]:
    found: collections.Counter[str] = collections.Counter()
    for operation in operations:
        name, *modifiers = operation.split(".")
        if name in names:
            sizes = {"U8": "8", "S8": "8", "U16": "16", "S16": "16", "64": "64", "128": "128"}
            found[next((sizes[m] for m in modifiers if m in sizes), "32")] += 1
    return dict(found)


def main() -> None:
    """Print a line for each launch and capability; exit with 1 where registers spill."""
    from fastscan.bench.ptx_cases import FAMILIES

    unknown = set(sys.argv[1:]) - set(FAMILIES)
    if unknown:
        sys.exit(f"Unknown families {sorted(unknown)}; there are {', '.join(FAMILIES)}.")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        sys.exit("TRITON_INTERPRET is set: interpreted kernels are not compiled. Unset it.")
    jax.config.update("jax_enable_x64", True)
    spilled = 0
    for family in sys.argv[1:] or FAMILIES:
        for launch in FAMILIES[family]():
            for capability in CAPABILITIES:
                report = compile_launch(launch, capability)
                spilled += report.spills > 0
                print(report, flush=True)
    if spilled:
        sys.exit(f"Registers spill in {spilled} of them.")


if __name__ == "__main__":
    main()
