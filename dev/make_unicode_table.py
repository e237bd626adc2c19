#!/usr/bin/env python3
"""Writes llmc/text/unicode_table.h: which code points are letters, numbers or white space.

    python3 dev/make_unicode_table.py > llmc/text/unicode_table.h

The Unicode version is that of the module unicodedata2 if it is installed, else that of Python's own unicodedata.
The committed table is of Unicode 16.0.0, tiktoken 0.14's version:

    python3 -m pip install unicodedata2==16.0.0        (or Python 3.14, whose unicodedata is of 16.0.0)
"""
try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

OTHER, LETTER, NUMBER, SPACE = range(4)


def char_class(code):
    category = unicodedata.category(chr(code))
    # White_Space (PropList.txt): the separators, and these controls.
    if category[0] == "Z" or code in (0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85):
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(category[0], OTHER)


runs, last = [], None
for code in range(0x110000):
    now = char_class(code)
    if now != last:
        runs.append(code * 4 + now)
        last = now

print(f"""// Letters, numbers and white space of Unicode {unicodedata.unidata_version}. Written by dev/make_unicode_table.py; do not edit.
//
// One entry for each run of code points of one class: first code point * 4 + class. A run ends where the next begins.
#pragma once
#include <cstdint>

enum class CharClass : uint8_t {{ other, letter, number, space }};  // categories L*, N*; property White_Space

inline constexpr char kUnicodeVersion[] = "{unicodedata.unidata_version}";

// clang-format off
inline constexpr uint32_t kUnicodeRuns[] = {{""")
line = "   "
for run in runs:
    item = f" {run:#x},"
    if len(line) + len(item) > 120:
        print(line)
        line = "   "
    line += item
print(line)
print("};\n// clang-format on")
