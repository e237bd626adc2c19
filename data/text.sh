#!/usr/bin/env bash
# From text to a data set: trains a vocabulary on it and writes token shards to data/NAME/.
#
#   data/text.sh [TEXT]
#
# TEXT: a text file, a JSON-lines file (field "text") or a directory of them; NAME is its name without the ending. Without TEXT:
# Tiny Shakespeare or, where it cannot be downloaded, the King James Bible from the distribution's package bible-kjv.
# VOCAB_SIZE (2048) and NAME can be set in the environment. The last line says where the data set is.
set -euo pipefail
text=${1:+$(realpath -m -- "$1")}
cd "$(dirname "$0")/.."
. data/fetch.sh

VOCAB_SIZE=${VOCAB_SIZE:-2048}
TOKENIZE=${TOKENIZE:-./tokenize}
name=${NAME:-}

# The whole Bible, a verse a line, an empty line between chapters. `bible -f` prints "Ge1:1 In the beginning ...".
write_bible() {
    local bible=(bible) out=data/download/bible.txt libraries
    [ ! -s $out ] || return 0
    if [ -x .deps/usr/bin/bible ]; then
        libraries=$(echo .deps/lib/*-linux-gnu .deps/usr/lib/*-linux-gnu | tr ' ' :)
        bible=(env "LD_LIBRARY_PATH=$libraries" .deps/usr/bin/bible -p .deps/usr/lib)
    fi
    command -v "${bible[0]}" >/dev/null || return 1
    mkdir -p data/download
    "${bible[@]}" -f ge1:1-rev22:21 </dev/null 2>/dev/null | awk '{ chapter = $1; sub(/:.*/, "", chapter)
        if (NR > 1 && chapter != last) print ""
        last = chapter; sub(/^[^ ]+ +/, ""); print }' >$out.part || true
    if [ "$(size_of $out.part)" -lt 4000000 ]; then rm -f $out.part; return 1; fi
    mv $out.part $out
}

if [ -z "$text" ]; then
    # what an earlier call has found stays the default
    for name in tinyshakespeare bible; do
        if [ -e data/$name/vocab.json ]; then text=data/download/$name.txt; break; fi
    done
fi
if [ -z "$text" ]; then
    if FETCH_TRIES=$((FETCH_TRIES < 3 ? FETCH_TRIES : 3)) bash data/tinyshakespeare.sh; then
        text=data/download/tinyshakespeare.txt
    else
        say "Tiny Shakespeare cannot be downloaded: trying the King James Bible (package bible-kjv)"
        write_bible || { bash dev/setup.sh bible-kjv && write_bible; } || {
            complain "there is no text to learn from: give your own, make data TEXT=mybook.txt (plain text, some 100 kB or more)"
            exit 1
        }
        text=data/download/bible.txt
    fi
    name=$(basename $text .txt)
fi
if [ -z "$name" ]; then
    name=$(basename -- "$text")
    [ -d "$text" ] || name=${name%.*}
    name=$(printf %s "$name" | tr -c 'A-Za-z0-9._-' _)
fi
dir=data/$name
text=$(realpath -m --relative-base="$PWD" -- "$text")  # so that the repository can be moved

if [ -e "$dir" ]; then
    if [ ! -e "$dir/source.txt" ]; then
        complain "$dir is there already and is not a data set made from $text: give this one another name, make data TEXT=... NAME=..."
        exit 1
    elif [ "$(cat "$dir/source.txt")" != "$text" ]; then
        complain "$dir was made from $(cat "$dir/source.txt"): remove it, or give this one another name, make data TEXT=... NAME=..."
        exit 1
    elif [ "$text" -nt "$dir/source.txt" ]; then
        say "$text has changed since $dir was made from it; to make it again, first: rm -r $dir"
    fi
else
    [ -e "$text" ] || { complain "TEXT=$text: no such file or directory"; exit 2; }
    [ -x "$TOKENIZE" ] || { complain "$TOKENIZE is missing: run make tokenize"; exit 1; }
    # made under another name, so that a data set is either whole or not there
    part=$dir.part
    rm -rf "$part"
    mkdir -p "$part"
    "$TOKENIZE" train --vocab-size "$VOCAB_SIZE" -o "$part" "$text"
    "$TOKENIZE" encode --vocab "$part" -o "$part" "$text"
    for file in "$part"/train_000000.bin "$part"/val_000000.bin; do
        [ -e "$file" ] || { complain "$text is too short to train on: $file was not written"; rm -rf "$part"; exit 1; }
    done
    printf '%s\n' "$text" >"$part/source.txt"
    mv "$part" "$dir"
fi
say "data set: $dir"
