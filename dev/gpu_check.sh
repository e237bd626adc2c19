#!/usr/bin/env bash
# Everything that only a GPU can show, in one command: builds for this machine's GPU, and in eight minutes more runs the tests
# of the CUDA layers, trains 124M against losses that the CPU program recorded, two ranks against one, runs
# compute-sanitizer, measures speed, reads Nsight Compute's counters, and compares with PyTorch. The machine needs an NVIDIA GPU, nvcc (toolkit or pip's packages), g++, make and python3; no network,
# no git history. What else the build needs is packed beforehand, elsewhere, by `make gpu_pack`.
#
#   dev/gpu_check.sh [--output DIR] [--minutes 8] [--parts build,tests,...] [--dry]      (--help for all)
#
# The report, report.md and report.json, is written again after each part, to --output, else $OUT, else
# dev/reports/gpu_<name>_<date>/. Exit status: 0 what ran passed and something ran, 1 something failed, 3 nothing could run.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v python3 >/dev/null; then
    echo "dev/gpu_check.sh: python3 is missing" >&2
    exit 3
fi
exec python3 -B dev/gpu_check/gpu_check.py "$@"
