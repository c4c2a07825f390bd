#!/usr/bin/env bash
# The tests and the benchmark of the Triton kernels on one NVIDIA GPU, in under 9 minutes.
#
#     bench/gpu.sh [OUTPUT [WHEELS]]
#
# Leaves gpu.json, gpu.png, torch.jsonl and tests.txt in OUTPUT (bench/results/gpu unless given), and
# fails where a test fails or a value is wrong. Takes Python (PYTHON, python3 unless set), JAX for CUDA, triton,
# pytest, hypothesis, matplotlib and tqdm as they are installed; packages in the folder WHEELS
# (jax-triton, accelerated-scan) are unpacked for this run alone. Needs no network.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
output=${1:-$root/bench/results/gpu}
wheels=${2:-}
mkdir -p "$output"
output=$(cd "$output" && pwd)
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT

if [ -n "$wheels" ]; then
    for wheel in "$wheels"/*.whl; do
        "$PYTHON" -m zipfile -e "$wheel" "$packages"
    done
fi
export PYTHONPATH=$root:$packages${PYTHONPATH:+:$PYTHONPATH}
# Kernels compiled, not interpreted; and the processes share the GPU's memory.
export TRITON_INTERPRET=0 XLA_PYTHON_CLIENT_PREALLOCATE=false
cd "$root"

"$PYTHON" - <<'PROGRAM'
import jax

import fastscan

row = fastscan.implementations()["triton"]
print(row)
if jax.default_backend() != "gpu" or not row.available:
    raise SystemExit(f"JAX runs on {jax.default_backend()}: this needs a GPU and {row.name}.")
PROGRAM

parallel=()
if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    parallel=(-n 6)
fi
failed=0
timeout 240 "$PYTHON" -m pytest tests/triton/test_{linear,selective,attention,matrix}.py \
    -p no:cacheprovider -q "${parallel[@]}" -m "slow or not slow" 2>&1 | tee "$output/tests.txt" | tail -n 30 || failed=1
timeout 240 "$PYTHON" -m fastscan.bench.gpu "$output" || failed=1
# Other packages' scans, where they are installed: no failure if they are not.
timeout 50 "$PYTHON" bench/torch_scans.py | tee "$output/torch.jsonl" || true
exit $failed
