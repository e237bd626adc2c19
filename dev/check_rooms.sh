#!/usr/bin/env bash
# The rooms of llmc/: how many lines each has of its budget, how long its files are, and that includes go one way only.
#
#   dev/check_rooms.sh        status 1 if an arrow, a budget or a file's length is broken; says which
set -euo pipefail
cd "$(dirname "$0")/.."

# Which rooms a room may include, besides itself. gpt2 is llmc/gpt2.h and what stands beside it.
declare -A may=(
    [base]=""
    [model]="base"
    [plain]="base model"
    [ranks]="base model"
    [text]="base model"
    [files]="base model text"
    [cpu]="base model plain ranks"
    [cuda]="base model ranks"
    [gpt2]="base model"
    [objectives]="base model gpt2"
    [run]="base model plain cpu cuda gpt2 objectives text files ranks"
)
status=0
complain() { echo "$*" >&2; status=1; }

room_of() { local path=${1#llmc/}; [[ $path == */* ]] && echo "${path%%/*}" || echo gpt2; }

# ---- arrows ----
while IFS=: read -r file line include; do
    from=$(room_of "$file") to=$(room_of "$(sed 's/.*"\(llmc[^"]*\)".*/\1/' <<<"$include")")
    [ -n "${may[$from]+x}" ] || { complain "$file: no such room: $from (dev/check_rooms.sh lists them)"; continue; }
    [ "$from" = "$to" ] || [[ " ${may[$from]} " == *" $to "* ]] ||
        complain "$file:$line: $from must not include $to (it may: ${may[$from]:-nothing}): $include"
    # of the machines' rooms, only what plans need without a machine
    [ "$from" != run ] || [[ $to != cpu && $to != cuda ]] || [[ $include =~ workspaces.h|cpu/host_memory.h ]] ||
        complain "$file:$line: run may include only workspaces.h of cpu and cuda, and host_memory.h"
done < <(git ls-files 'llmc/*' | xargs grep -nE '^#include "llmc/' /dev/null)
while IFS=: read -r file line include; do complain "$file:$line: llmc/ includes what is outside of it: $include"; done < <(
    git ls-files 'llmc/*' | xargs grep -nE '^#include "' /dev/null | grep -v '"llmc/' || true)
# files that include each other, by any way round
cycles=$(git ls-files 'llmc/*' | xargs grep -HE '^#include "llmc/' /dev/null | sed 's/:#include "\([^"]*\)".*/ \1/' | tsort 2>&1 >/dev/null |
    sed -n 's/^tsort: \(llmc.*\)/\1/p' || true)
[ -z "$cycles" ] || complain "files include each other in a circle: $cycles"

# third-party headers: in a few .cpp files only, so that nvcc and most compilations never see them; JSON by way of base/json.h
while IFS= read -r file; do complain "$file includes CLI11 or JSON: only .cpp files may"; done < <(
    git ls-files 'llmc/*' train_gpt2.cpp train_gpt2.cu | grep -v '\.cpp$' | grep -vx llmc/base/json.h |
        xargs grep -lE '#include (<(CLI|nlohmann)/|"llmc/base/json.h)' || true)
while IFS= read -r file; do complain "$file includes nlohmann: llmc/base/json.h does that for all"; done < <(
    git ls-files 'llmc/*' 'data/*' | grep -vx llmc/base/json.h | xargs grep -l '#include <nlohmann/' || true)

# ---- lines ----
count() { git ls-files "$@" | xargs -r cat | wc -l; }
budget() {  # budget LIMIT NAME PATHS...
    local limit=$1 name=$2 lines
    shift 2
    lines=$(count "$@")
    printf '%-42s %6d of %6d lines\n' "$name" "$lines" "$limit"
    [ "$lines" -lt "$limit" ] || complain "$name: $lines lines, the budget is $limit"
}
for room in base model plain cpu cuda objectives text files ranks run; do
    [ -z "$(git ls-files "llmc/$room/*")" ] || printf '  llmc/%-36s %6d lines in %d files\n' "$room/" "$(count "llmc/$room/*")" "$(git ls-files "llmc/$room/*" | wc -l)"
done
optimizers=(llmc/model/optimizer.h llmc/model/moments.h 'llmc/model/optimizers/*' llmc/plain/optimizer.h)
budget 3680 "what a reader reads: gpt2.h, plain/, model/" ':(glob)llmc/*.h' 'llmc/plain/*' 'llmc/model/*' "${optimizers[@]/#/:!}"
budget 600 "optimizers, of model/ and plain/" "${optimizers[@]}"
budget 7000 "llmc/cuda/" 'llmc/cuda/*'
budget 3000 "llmc/cpu/" 'llmc/cpu/*'
budget 7000 "text/ and data/" 'llmc/text/*' 'data/*.cpp' 'data/*.h'
budget 2500 "objectives/" 'llmc/objectives/*'
budget 13700 "base/, files/, ranks/, run/, and the programs" 'llmc/base/*' 'llmc/files/*' 'llmc/ranks/*' 'llmc/run/*' 'train_gpt2.*'

# A file fits one idea: 500 lines are the limit, generated tables apart.
while read -r lines file; do
    [ "$lines" -le 500 ] || complain "$file has $lines lines; divide it by idea (500 are the limit)"
done < <(git ls-files '*.h' '*.cpp' '*.cuh' '*.cu' '*.py' '*.sh' '*.awk' '*.mk' Makefile | grep -v unicode_table | xargs wc -l | grep -v ' total$')
exit $status
