#!/usr/bin/env bash
# The tests and the benchmark of the Triton kernels on one NVIDIA GPU, in under 9 minutes.
#
#     bench/gpu.sh [OUTPUT [WHEELS]]
#
# Leaves gpu.json, gpu.png, one_pass.json, torch.jsonl, tests.txt and one_pass.txt in OUTPUT
# (bench/results/gpu unless given), and fails where a test fails or a value is wrong. Takes Python (PYTHON, python3 unless set), JAX for CUDA, triton,
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
# What takes one pass comes last: its programs wait for each other, and if one of them waited forever,
# all else would have been measured.
timeout 215 "$PYTHON" -m pytest tests/triton/test_{linear,selective,attention,matrix}.py \
    -p no:cacheprovider -q "${parallel[@]}" -m "slow or not slow" -k "not one-pass" \
    2>&1 | tee "$output/tests.txt" | tail -n 30 || failed=1
timeout 195 "$PYTHON" -m fastscan.bench.gpu "$output" || failed=1
# Other packages' scans, where they are installed: no failure if they are not.
timeout 40 "$PYTHON" bench/torch_scans.py | tee "$output/torch.jsonl" || true
timeout -k 5 30 "$PYTHON" -m pytest tests/triton/test_linear.py \
    -p no:cacheprovider -q "${parallel[@]}" -m "slow or not slow" -k "one-pass" \
    2>&1 | tee "$output/one_pass.txt" | tail -n 30 || failed=1
timeout -k 5 45 "$PYTHON" -m fastscan.bench.one_pass "$output" || failed=1
exit $failed
