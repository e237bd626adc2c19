#include "llmc/base/human.h"

#include <algorithm>
#include <cmath>
#include "llmc/base/error.h"

std::string human_seconds(double seconds) {
    if (!std::isfinite(seconds) || seconds > 1e15) return "?";
    const long long s = std::llround(std::max(seconds, 0.0)), minutes = (s + 30) / 60, hours = (s + 1800) / 3600;
    if (s < 60) return strf("%lld s", s);
    if (s < 3600) return strf("%lld min %lld s", s / 60, s % 60);
    if (minutes < 24 * 60) return strf("%lld h %lld min", minutes / 60, minutes % 60);
    return strf("%lld d %lld h", hours / 24, hours % 24);
}

std::string human_count(int64_t n) {
    std::string digits = std::to_string(n);
    const int first = n < 0 ? 1 : 0;
    for (int i = static_cast<int>(digits.size()) - 3; i > first; i -= 3) digits.insert(static_cast<size_t>(i), 1, ',');
    return digits;
}

std::string human_bytes(double bytes) {
    const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int unit = 0;
    while (unit < 5 && std::abs(bytes) >= (unit == 0 ? 999.5 : 999.995)) bytes /= 1000, unit++;
    return unit == 0 ? strf("%.0f B", bytes) : strf("%.2f %s", bytes, units[unit]);
}
