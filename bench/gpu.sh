#!/usr/bin/env bash
# The tests and the benchmark of the Triton kernels on one NVIDIA GPU, in under 9 minutes.
#
#     bench/gpu.sh [OUTPUT [WHEELS]]
#
# Leaves tests.txt, gpu.json, gpu.png and torch.jsonl in OUTPUT (bench/results/gpu unless given), each
# written as it comes, and fails where a test fails or a value is wrong. Takes Python
# (PYTHON, python3 unless set), JAX for CUDA, triton, pytest and hypothesis as they are installed, and
# matplotlib and pytest-xdist if they are. Packages in the folder WHEELS (jax-triton, of any versions;
# accelerated-scan, ...) are unpacked for this run alone. Needs no network.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
output=${1:-$root/bench/results/gpu}
wheels=${2:-}
if [ -n "$wheels" ]; then
    wheels=$(cd "$wheels" && pwd)
fi
mkdir -p "$output"
output=$(cd "$output" && pwd)
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT

export PYTHONPATH=$root:$packages${PYTHONPATH:+:$PYTHONPATH}
# Kernels compiled, not interpreted; and the processes share the GPU's memory.
export TRITON_INTERPRET=0 XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1
# The oracle runs on the CPU.
unset JAX_PLATFORMS
cd "$root"
if [ -n "$wheels" ]; then
    "$PYTHON" -m fastscan.bench.unpack "$wheels" "$packages"
fi
# JAX assembles Triton's kernels by ptxas. Triton brings one, for where there is no CUDA toolkit.
PATH=$PATH:$("$PYTHON" -c 'from importlib.util import find_spec as f; print(*f("triton").submodule_search_locations)')/backends/nvidia/bin

timeout 60 "$PYTHON" - <<'PROGRAM'
import jax
import jax.numpy as jnp

import fastscan
from fastscan.kernels import triton

row = fastscan.implementations()["triton"]
print(row)
if jax.default_backend() != "gpu" or not row.available or triton.unsuited():
    reason = triton.unsuited() or f"runs where JAX has a GPU, not on {jax.default_backend()}"
    raise SystemExit(f"{row.name} {row.missing or reason}.")
_, h = fastscan.linear_scan(0.5, jnp.ones((64, 4)), implementation="triton")
if not jnp.allclose(h[-1], 2.0):
    raise SystemExit(f"The first kernel gave {h[-1]} where 2 was expected.")
PROGRAM

parallel=()
if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    processes=$(nproc)
    parallel=(-n $((processes < 10 ? processes : 10)))
fi
# Compiled beside the tests, which leave the time for it: what torch_scans.py needs.
timeout 200 "$PYTHON" -c 'import accelerated_scan.warp' >/dev/null 2>&1 &
failed=0
# Interrupted, pytest still says what has failed so far.
timeout -s INT -k 15 180 "$PYTHON" -m pytest tests/triton/test_{linear,selective,attention,matrix}.py \
    -p no:cacheprovider -v --tb=short "${parallel[@]}" -m "slow or not slow" 2>&1 |
    tee "$output/tests.txt" | tail -n 30 || failed=1
timeout 230 "$PYTHON" -m fastscan.bench.gpu "$output" 180 || failed=1
# Other packages' scans, where they are installed: no failure if they are not.
timeout 60 "$PYTHON" bench/torch_scans.py "$output/torch.jsonl" || true
exit $failed
