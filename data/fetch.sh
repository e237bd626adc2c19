# Downloading, for the scripts in this directory to source.
#
#   fetch URL FILE KIND [SIZE]
#
# A file appears under its name only when it is whole: until then it is FILE.part, which the next call takes up where it broke
# off. A broken connection or a busy server is tried again, at first soon, then less often. What arrived is checked against the
# length that the server announced, against SIZE (bytes) where we know it, and against KIND: text, json, jsonl, shard (llm.c's
# token shards), safetensors. On failure: one line on stderr, status 1 (3: the server says that there is no such file).
#
# HF_ENDPOINT and GITHUB_RAW name mirrors; FETCH_TRIES and FETCH_DELAY (seconds) how patient to be.
# shellcheck shell=bash

export LC_ALL=C
HF_ENDPOINT=${HF_ENDPOINT:-https://huggingface.co}
GITHUB_RAW=${GITHUB_RAW:-https://raw.githubusercontent.com}
FETCH_TRIES=${FETCH_TRIES:-6}
FETCH_DELAY=${FETCH_DELAY:-1}

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }
size_of() { stat -c %s -- "$1" 2>/dev/null || echo 0; }
int32_at() { od -An -v -t d4 -j "$2" -N 4 -- "$1" | tr -d ' '; }  # int32_at FILE OFFSET; shards are little-endian, as are we

# Prints what is wrong with the content of FILE as a KIND; nothing if it may be right.
what_is_wrong() {
    local file=$1 kind=$2 size start last
    size=$(size_of "$file")
    start=$(head -c 512 -- "$file" | tr -d '\0\n\r\t ' | tr '[:upper:]' '[:lower:]')
    case $start in
        '<!doctype'* | '<html'* | '<?xml'*) echo "is a web page, not the file"; return ;;
        version*git-lfs*) echo "is a Git LFS pointer, not the file"; return ;;
    esac
    last=$(tail -c 16 -- "$file" | tr -d '\0\n\r\t ' | tail -c 1)
    case $kind in
        text) [ "$size" -gt 0 ] || echo "is empty" ;;
        json | jsonl) [ "${start:0:1}" = '{' ] && [ "$last" = '}' ] || echo "is not whole JSON" ;;
        shard)
            local width=2
            [ "$size" -ge 1024 ] || { echo "is no token shard (shorter than its header)"; return; }
            case $(int32_at "$file" 0)/$(int32_at "$file" 4) in
                20240520/1) ;;
                20240801/7) width=4 ;;
                *) echo "is no token shard (wrong magic number or version)"; return ;;
            esac
            local tokens; tokens=$(int32_at "$file" 8)
            [ "$size" -eq $((1024 + width * tokens)) ] || echo "has $size bytes, but its header promises $tokens tokens" ;;
        safetensors)
            local header end
            [ "$size" -ge 8 ] || { echo "is no safetensors file (too short)"; return; }
            header=$(od -An -v -t u8 -N 8 -- "$file" | tr -d ' ')
            # 100 MB is the format's own limit; longer numbers than bash can hold fail the length test first
            { [ ${#header} -le 9 ] && [ "$header" -le 100000000 ] && [ "$header" -le $((size - 8)) ]; } ||
                { echo "is no safetensors file (impossible header length)"; return; }
            end=$(head -c $((8 + header)) -- "$file" | tail -c "$header" | tr -d ' ' |
                grep -ao '"data_offsets":\[[0-9]*,[0-9]*\]' | sed 's/.*,\([0-9]*\)]/\1/' | sort -n | tail -n 1)
            [ -n "$end" ] || { echo "is no safetensors file (no tensors in its header)"; return; }
            [ "$size" -eq $((8 + header + end)) ] || echo "has $size bytes, but its header promises $((8 + header + end))" ;;
    esac
}

# fetch URL FILE KIND [SIZE]
fetch() {
    local url=$1 file=$2 kind=$3 want=${4:-} part=$2.part wrong
    if [ -f "$file" ]; then
        wrong=$(what_is_wrong "$file" "$kind")
        [ -z "$want" ] || [ "$(size_of "$file")" -eq "$want" ] || wrong="has $(size_of "$file") bytes instead of $want"
        if [ -z "$wrong" ]; then say "$file is there"; return 0; fi
        say "$file $wrong: fetching it again"
    fi
    command -v curl >/dev/null || { complain "curl is missing (package curl): run dev/setup.sh"; return 1; }
    mkdir -p -- "$(dirname -- "$file")" || return 1
    local lock
    { exec {lock}>>"$part"; } 2>/dev/null || { complain "cannot write $part"; return 1; }
    flock -n "$lock" || { complain "$file is being fetched by another process already"; exec {lock}>&-; return 1; }
    local status=0
    fetch_locked "$@" || status=$?
    exec {lock}>&-
    [ -s "$part" ] || rm -f -- "$part"
    return $status
}

fetch_locked() {
    local url=$1 file=$2 kind=$3 want=${4:-} part=$2.part
    local headers status code total have before failures=0 cannot_resume='' delay=$FETCH_DELAY problem fatal progress=-sS errors
    headers=$(mktemp) || return 1
    errors=$headers.err
    if [ -t 2 ]; then progress=--progress-bar errors=/dev/stderr; fi
    say "fetching $url"
    while :; do
        before=$(size_of "$part")
        [ "$before" -gt 0 ] && say "  going on after $before bytes"
        status=0
        code=$(curl -fL "$progress" --connect-timeout 20 --speed-limit 1 --speed-time 60 -C - -D "$headers" -o "$part" \
            -w '%{http_code}' -- "$url" 2>>"$errors") || status=$?
        have=$(size_of "$part")
        # of a redirected answer, the last headers count: "Content-Range: bytes 5-9/10" or "bytes */10", else Content-Length
        total=$(tr -d '\r' <"$headers" | awk 'tolower($1) ~ /^http\// { n = ""; range = "" }
            tolower($1) == "content-range:" { sub(/.*\//, ""); range = $0 }
            tolower($1) == "content-length:" { n = $2 }
            END { print range != "" ? range : n }')
        [ "$code" != 416 ] || [ "$total" != "$have" ] || { status=0; code=206; }  # nothing was left to fetch

        problem='' fatal=''
        case $status in
            0)
                if [ "$code" = 206 ] || [ "$before" -eq 0 ]; then
                    case $total in '' | *[!0-9]*) ;; *) [ "$have" -eq "$total" ] || problem="$have bytes arrived of $total" ;; esac
                fi ;;
            23) problem="cannot write $part (is the disk full?)" fatal=1 ;;
            33 | 22)
                case $status/$code in
                    22/404 | 22/410) problem="the server has no such file" fatal=3 ;;
                    33/* | 22/416)  # the server cannot go on where we broke off, or its file is another than before
                        problem="the server cannot resume, so this starts again" cannot_resume=1
                        : >"$part" ;;
                    22/408 | 22/429 | 22/5*) problem="the server is busy (HTTP $code)" ;;
                    *) problem="the server refused (HTTP $code)" fatal=1 ;;
                esac ;;
            *) problem=$(tail -n 1 "$headers.err" 2>/dev/null) || true
                problem=${problem#curl: (*) }
                problem=${problem:-curl failed with status $status} ;;
        esac
        [ -n "$problem" ] || break
        # every try that brought something starts the count anew, so that a long file can come over a bad line
        if [ "$have" -gt "$before" ] && [ -z "$cannot_resume" ]; then failures=0 delay=$FETCH_DELAY; fi
        failures=$((failures + 1))
        if [ -n "$fatal" ] || [ $failures -ge "$FETCH_TRIES" ]; then
            rm -f -- "$headers" "$headers.err"
            complain "could not fetch $file from $url: $problem; run the same command again to go on"
            return "${fatal:-1}"
        fi
        say "  $problem; trying again in $delay s"
        sleep "$delay"
        delay=$((delay < 30 ? delay * 2 : delay))
    done
    rm -f -- "$headers" "$headers.err"

    problem=$(what_is_wrong "$part" "$kind")
    [ -z "$want" ] || [ "$have" -eq "$want" ] || problem=${problem:-"has $have bytes instead of $want"}
    if [ -n "$problem" ]; then
        : >"$part"
        complain "refused $file: what $url sent $problem; try again later, or name a mirror (HF_ENDPOINT=https://..., GITHUB_RAW=https://...)"
        return 1
    fi
    mv -f -- "$part" "$file"
}
