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

std::string printable(const std::string& text) {
    auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
    std::string out;
    for (size_t i = 0, n; i < text.size(); i += n) {
        const unsigned lead = byte(i);
        n = lead < 0xc2 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 1;  // bytes of the character
        bool good = lead < 0x80 ? lead >= 0x20 && lead != 0x7f : n > 1;
        for (size_t k = 1; k < n; k++) good &= byte(i + k) >> 6 == 2;
        if (n == 2 && lead == 0xc2 && byte(i + 1) < 0xa0) good = false;  // U+0080 to U+009F
        if (!good) n = 1;
        out += good ? text.substr(i, n) : strf("\\x%02x", lead);
    }
    return out;
}
