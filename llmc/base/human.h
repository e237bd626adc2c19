// Numbers and texts for people.
#pragma once
#include <cstdint>
#include <string>

std::string human_seconds(double seconds);  // "42 s", "3 min 20 s", "5 h 12 min", "2 d 3 h"
std::string human_count(int64_t n);         // "1,234,567"
std::string human_bytes(double bytes);      // "1.23 GB" (10^9)

// Text of others on one line that moves no cursor: control characters and what is no UTF-8 as \x1b.
std::string printable(const std::string& text);
