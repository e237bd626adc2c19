#!/usr/bin/env bash
# Speed of GPT-2's encoding, ours and tiktoken's, on one thread, measured in one run: best of ten, by the thread's CPU time.
#
#   dev/bench/bench_tokenizer.sh [TEXT] [VOCAB_DIR]        PYTHON: a Python with tiktoken (python3)
#
# On large texts, which no cache knows by heart, beside gigatoken: dev/bench/texts.sh DIR (Debian), pip install tiktoken gigatoken, and
# dev/bench/bench_tokenizer_peers.py VOCAB_DIR 5 DIR/*.txt.
#
# TEXT: by default what `make data` downloaded. VOCAB_DIR: GPT-2's vocab.json and merges.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."

first_of() {  # the first argument that exists
    for path in "$@"; do
        if [ -e "$path" ]; then echo "$path" && return; fi
    done
}
text=${1:-$(first_of data/download/tinyshakespeare.txt data/download/bible.txt ../shared/data/tinyshakespeare.txt)}
vocab=${2:-$(first_of data/gpt2/vocab.json gpt2/vocab.json ../shared/data/gpt2/vocab.json)}
vocab=${vocab%/vocab.json}
if [ -z "$text" ] || [ -z "$vocab" ]; then
    echo "usage: $0 TEXT VOCAB_DIR (found no text or no vocabulary of GPT-2; \`make data\` and \`make gpt2\` fetch them)" >&2
    exit 2
fi

read -r _ bytes _ tokens _ first _ best _ threads _ all < <("${TOKENIZE:-./tokenize}" bench --vocab "$vocab" "$text")
echo "text: $text, $bytes bytes, $tokens tokens"
report() { awk -v name="$1" -v speed="$2" 'BEGIN { printf "%-42s %8.1f MB/s\n", name, speed / 1e6 }'; }
report "./tokenize, 1 thread" "$best"
report "./tokenize, 1 thread, nothing cached" "$first"
report "./tokenize, $threads threads" "$all"
python=${PYTHON:-python3}
if ! version=$("$python" -c 'import tiktoken; print(tiktoken.__version__)' 2>/dev/null); then
    echo "tiktoken: not run ($python has no tiktoken; set PYTHON)"
    exit 0
fi
theirs=$("$python" dev/bench/bench_tokenizer.py "$vocab" "$text" 10)
report "tiktoken $version, 1 thread" "$theirs"
awk -v a="$best" -v b="$theirs" -v c="$first" \
    'BEGIN { printf "ratio on one thread: %.1f (nothing cached: %.1f)\n", a / b, c / b }'
