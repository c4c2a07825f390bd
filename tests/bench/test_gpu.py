"""What the GPU benchmark makes of its records; it measures nothing here."""

import subprocess
import sys

from fastscan.bench import gpu
from fastscan.bench.gate import DIRECTIONS
from fastscan.bench.record import Record, Results, Timing
from fastscan.bench.timing import fail


def record(case, direction, milliseconds):
    return Record(
        case=case.name,
        family="linear",
        source=case.source,
        description=case.description,
        size=case.size,
        sweeps=(),
        memory="default",
        direction=direction,
        bytes=case.bytes[direction],
        floor_bytes=case.bytes["floor"],
        floor=None,
        timings={
            "triton": Timing(1.0, 0, 1, (1e-3 * milliseconds,)),
            "lax.associative_scan": Timing(1.0, 0, 1, (20e-3 * milliseconds,)),
        },
    )


def test_rows_and_plot(tmp_path):
    case = gpu.CASES[0]
    records = [record(case, direction, 1.0) for direction in DIRECTIONS]
    wrong = fail(gpu.CASES[1], "forward", "default", "off")
    results = Results({"device": "a GPU"}, (*records, wrong))
    forward, gradient = gpu.rows(results, copy=2e12)
    # 3 arrays of 512 MiB in a millisecond, where a copy would move 2 GB.
    assert f"{3 * 2**29 / 2e9:.1%} of the copy" in forward
    assert "(20.0x)" in forward and "gradient" in gradient
    gpu._draw(results, 2e12, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 1000


def test_lax_scan_is_left_out_where_it_would_take_seconds():
    names = {case.name: gpu.alternatives(case) for case in gpu.CASES}
    assert "lax.scan" in names["resets"]
    assert "lax.scan" not in names["million-steps"]


def test_it_is_refused_without_a_gpu(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fastscan.bench.gpu", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "JAX runs on cpu here: this needs an NVIDIA GPU."
