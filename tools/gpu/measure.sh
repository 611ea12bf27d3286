#!/usr/bin/env bash
# What docs/performance.md wants to know of a GPU, correctness first: tools/gpu/measure.sh [CLONE OF THE PYTORCH CODE]
# Prints tables; JSON files go to the folder `gpu/`. Needs the test extra, and PyTorch where a clone is given.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p gpu
bench() { python -m ivggt_jax.bench --json "gpu/$1.json" "${@:2}"; }

python -m ivggt_jax.doctor
# Our kernels compiled; attention, policies, goldens and the stream in float32 on the GPU.
JAX_PLATFORMS=cuda pytest -q -p no:cacheprovider tests/test_kernels.py tests/test_selection.py \
  tests/test_attention.py tests/test_policies.py tests/test_golden.py tests/test_stream.py

python tools/gpu/kernels.py | tee gpu/kernels.md

bench default ${1:+--reference "$1"}
# Loops and conditions on the device too, so that the host is asked nothing between the kernels of a frame.
XLA_FLAGS=--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL bench graphs
bench memory --capacity-factor 1.1
bench int8 --cache-dtype int8
bench int8_small --cache-dtype int8 --capacity-factor 1.1
bench passes --chunk 8 --sweep frames_per_step=1,2,4,8
bench streams --budget 300000 --sweep batch=1,2,4,8
bench resolution --sweep size=280x210,518x392 budget=300000,1200000
bench flat --model demo --flat 10000
