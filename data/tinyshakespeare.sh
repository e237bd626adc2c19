#!/usr/bin/env bash
# Tiny Shakespeare, 1.1 MB of plays, to data/download/tinyshakespeare.txt. `make data` calls this and makes tokens of it.
set -euo pipefail
cd "$(dirname "$0")/.."
. data/fetch.sh

fetch "$GITHUB_RAW/karpathy/char-rnn/master/data/tinyshakespeare/input.txt" data/download/tinyshakespeare.txt text 1115394
