#!/usr/bin/env bash
# Packs into .gpu_pack/ what dev/gpu_check.sh needs on a machine that has CUDA and a compiler, and no network:
# the headers of CLI11, nlohmann-json, GoogleTest and (where they are) cudnn-frontend, GoogleTest's library and its
# sources, and which commit this is. The Makefile takes from it what the machine does not have.
#
#   make gpu_pack      then copy the tree, .gpu_pack/ included, and run dev/gpu_check.sh there
set -euo pipefail
cd "$(dirname "$0")/../.."

pack=.gpu_pack.new
rm -rf "$pack"
mkdir -p "$pack/usr/include" "$pack/usr/lib"
cxx=${CXX:-g++}
multiarch=$("$cxx" -print-multiarch 2>/dev/null || true)
[ -n "$multiarch" ] || multiarch=none

# add_headers HEADER PACKAGE NAME...: NAME (files and directories) beside the first HEADER in the usual places
add_headers() {
    local header=$1 package=$2 root name
    shift 2
    for root in .deps/usr/include ".deps/usr/include/$multiarch" .deps/python/include /usr/local/include \
        /usr/include "/usr/include/$multiarch" $(python3 -c 'import sys; print(*(p + "/include" for p in sys.path if p.endswith("-packages")))' 2>/dev/null); do
        [ -e "$root/$header" ] || continue
        for name in "$@"; do
            for file in "$root"/$name; do
                cp -rL "$file" "$pack/usr/include/"
            done
        done
        return
    done
    echo "not packed: $header ($package) is not on this machine"
    return 1
}

add_headers CLI/CLI.hpp libcli11-dev CLI
add_headers nlohmann/json.hpp nlohmann-json3-dev nlohmann
add_headers gtest/gtest.h libgtest-dev gtest
add_headers cudnn_frontend.h "pip's nvidia-cudnn-frontend; for cuDNN's attention" 'cudnn_frontend*' || true

for library in libgtest.a libgtest_main.a; do
    for dir in ".deps/usr/lib/$multiarch" .deps/usr/lib "/usr/lib/$multiarch" /usr/local/lib /usr/lib; do
        [ -e "$dir/$library" ] || continue
        cp "$dir/$library" "$pack/usr/lib/"
        break
    done
done
for src in .deps/usr/src/googletest/googletest /usr/src/googletest/googletest; do  # for another processor or an older linker
    [ -e "$src/src/gtest-all.cc" ] || continue
    mkdir -p "$pack/googletest"
    cp -r "$src/src" "$pack/googletest/"
    break
done
if [ ! -e "$pack/usr/lib/libgtest.a" ] && [ ! -e "$pack/googletest" ]; then
    echo "gpu_pack: neither GoogleTest's library nor its sources are on this machine (package libgtest-dev)" >&2
    exit 1
fi

uname -m >"$pack/MACHINE"
{
    git rev-parse HEAD 2>/dev/null || echo unknown
    [ -z "$(git status --porcelain 2>/dev/null)" ] || echo "with changes that are not committed"
} | paste -sd, | sed 's/,/, /' >"$pack/COMMIT"

rm -rf .gpu_pack
mv "$pack" .gpu_pack
echo "packed: .gpu_pack, $(du -sh .gpu_pack | cut -f 1), commit $(cat .gpu_pack/COMMIT)"
