#!/usr/bin/env bash
# What the examples instruction and classification begin with: a small GPT that has read FOLDOC, the Free On-line Dictionary of
# Computing (Editor Denis Howe; Debian's package dict-foldoc), an entry a document, heading and text. Where it is, nothing is done.
#
# Entries of one of four fields (<language>, <networking>, ...), 180 of each, are held out for the classification; the fields
# themselves are not in the text.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ ! -e runs/foldoc/log.jsonl ] || exit 0
say() { echo "$*" | sed "s/  */ /g"; "$@"; }

dictionary() {  # of the package dict-NAME, wherever it is
    for dir in /usr .deps/usr; do
        [ ! -e $dir/share/dictd/$1.dict.dz ] || { zcat <$dir/share/dictd/$1.dict.dz; return; }
    done
    return 1
}
mkdir -p data/foldoc data/download
dictionary foldoc >data/download/foldoc.txt || { bash dev/setup.sh dict-foldoc >/dev/null && dictionary foldoc >data/download/foldoc.txt; }

# An entry a line: heading, field, text. Entries for the task are drawn by a generator of our own: the same with every awk.
awk '
    function flush() {
        gsub(/[{}]|\([12][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]\)/, "", text)
        gsub(/[ \t]+/, " ", text); sub(/^ /, "", text); sub(/ $/, "", text); field = ""
        if (match(text, /^<[^<>]*>/)) { field = substr(text, 2, RLENGTH - 2); text = substr(text, RLENGTH + 2) }
        gsub(/<[^<>]*> /, "", text)
        if (heading != "" && heading !~ /%%%/ && text != "") print heading "\t" field "\t" text
        text = ""
    }
    /^[^ ]/ && empty { flush(); heading = $0; empty = 0; next }
    { empty = $0 ~ /^ *$/; text = text " " $0 }
    END { flush() }' data/download/foldoc.txt >data/foldoc/entries.tsv
awk -F '\t' -v OFS='\t' '
    BEGIN { state = 1; held["language"]; held["networking"]; held["company"]; held["jargon"] }
    { state = (state * 16807) % 2147483647; if ($2 in held && length($3) > 40) print state, NR, $2 }' data/foldoc/entries.tsv | sort -n |
    awk -F '\t' '++n[$3] <= 180 { print $2 }' >data/foldoc/held_out
json='{ gsub(/[\\"]/, "\\\\&"); printf "{\"text\": \"%s\\n%s\"}\n", $1, $3 }'
awk -F '\t' 'NR == FNR { held[$1]; next } !(FNR in held)' data/foldoc/held_out data/foldoc/entries.tsv | awk -F '\t' "$json" >data/foldoc/foldoc.jsonl
awk -F '\t' 'NR == FNR { at[$1] = ++n; next } FNR in at { print at[FNR] "\t" $2 "\t" $3 }' data/foldoc/held_out data/foldoc/entries.tsv |
    sort -n >data/foldoc/held_out.tsv
wc -l data/foldoc/foldoc.jsonl data/foldoc/held_out.tsv

say ./tokenize train --vocab-size 4096 --force -o data/foldoc data/foldoc/foldoc.jsonl
say ./tokenize encode -o data/foldoc data/foldoc/foldoc.jsonl
say ./train_gpt2 train -e L4:H4:C128:T128 -i data/foldoc -b 8 -l 2e-3 -u 100 -x 4000 -v 500 -o runs/foldoc | grep -v tok/s
