#!/bin/sh
# Make the demo model from nothing, stage by stage: sh examples/train_demo.sh
# Every stage continues where it was stopped, and a finished one does nothing. docs/demo_training.md tells what each took and reached.
set -e
cd "$(dirname "$0")/.."
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1  # faster steps on a CPU under Linux

ivggt train supervised demo        # a teacher that sees whole clips, from random weights
ivggt train distill demo           # its causal student
ivggt train supervised demo_wide   # wide motion, twice
ivggt train supervised demo_wide --student runs/demo_wide/best --out runs/demo_wide_again
# more kinds of scenes, two sizes, cameras good and poor
ivggt train supervised demo_worlds --student runs/demo_wide_again/best
# larger frames, with Muon, four times; of each the last student, because which one is best on sixteen clips is mostly chance
ivggt train supervised demo_sharp
ivggt train supervised demo_sharp --student runs/demo_sharp/student --out runs/demo_sharp_again \
  --step.optimizer.learning-rate 2.5e-4 --steps 2000
ivggt train supervised demo_sharp --student runs/demo_sharp_again/student --out runs/demo_sharp_third \
  --step.optimizer.learning-rate 3e-4 --steps 3200
ivggt train supervised demo_sharp --student runs/demo_sharp_third/student --out runs/demo_sharp_last \
  --step.optimizer.learning-rate 3e-4 --steps 4000 --seed 4 --synthetic.scales 1.0 1.5 1.5 2.0
ivggt train supervised demo_heads --student runs/demo_sharp_last/student  # points and tracks, on the frozen trunk
ivggt convert runs/demo/best runs/demo_model --dtype float16 --overwrite
