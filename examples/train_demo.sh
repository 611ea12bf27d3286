#!/bin/sh
# Make the demo model from nothing, stage by stage: sh examples/train_demo.sh
# Every stage continues where it was stopped, and a finished one does nothing. docs/training.md tells what each took and reached.
set -e
cd "$(dirname "$0")/.."
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1  # faster steps on a CPU under Linux

python -m train supervised demo        # a teacher that sees whole clips, from random weights
python -m train distill demo           # its causal student
python -m train supervised demo_wide   # wide motion, twice
python -m train supervised demo_wide --student runs/demo_wide/best --out runs/demo_wide_again
# more kinds of scenes, two sizes, cameras good and poor
python -m train supervised demo_worlds --student runs/demo_wide_again/best
python -m train supervised demo_heads  # points and tracks, on the frozen trunk
python -m convert runs/demo/best runs/demo_model --dtype bfloat16 --overwrite
