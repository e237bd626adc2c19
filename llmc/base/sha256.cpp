#include "llmc/base/sha256.h"

#include <sys/random.h>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include "llmc/base/error.h"

namespace {

// FIPS 180-4, 4.2.2 and 5.3.3: the first 32 bits behind the point of the cube roots (round constants) and square roots
// (start) of the first primes. A long double has 64 bits, enough for them.
struct Constants {
    std::array<uint32_t, 64> k{};
    std::array<uint32_t, 8> start{};
    Constants() {
        static_assert(sizeof(long double) > 8);
        auto fraction = [](long double x) { return static_cast<uint32_t>((x - std::floor(x)) * 4294967296.0L); };
        size_t n = 0;
        for (int p = 2; n < k.size(); p++) {
            bool prime = true;
            for (int d = 2; d * d <= p; d++) prime &= p % d != 0;
            if (!prime) continue;
            if (n < start.size()) start[n] = fraction(std::sqrt(static_cast<long double>(p)));
            k[n++] = fraction(std::cbrt(static_cast<long double>(p)));
        }
    }
};

void add_block(std::array<uint32_t, 8>& hash, const unsigned char* block, const Constants& c) {
    uint32_t w[64];
    for (size_t t = 0; t < 16; t++)
        w[t] = uint32_t{block[4 * t]} << 24 | uint32_t{block[4 * t + 1]} << 16 | uint32_t{block[4 * t + 2]} << 8 |
               block[4 * t + 3];
    auto turned = [](uint32_t x, int a, int b, int d) { return std::rotr(x, a) ^ std::rotr(x, b) ^ std::rotr(x, d); };
    for (size_t t = 16; t < 64; t++)
        w[t] = w[t - 16] + w[t - 7] + (std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ w[t - 15] >> 3) +
               (std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ w[t - 2] >> 10);
    std::array<uint32_t, 8> s = hash;  // a b c d e f g h
    for (size_t t = 0; t < 64; t++) {
        uint32_t one = s[7] + turned(s[4], 6, 11, 25) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + c.k[t] + w[t];
        uint32_t two = turned(s[0], 2, 13, 22) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s = {one + two, s[0], s[1], s[2], s[3] + one, s[4], s[5], s[6]};
    }
    for (size_t i = 0; i < 8; i++) hash[i] += s[i];
}

std::string hex(std::string_view bytes) {
    std::string text;
    for (unsigned char b : bytes) text += strf("%02x", b);
    return text;
}

}  // namespace

std::string sha256(std::string_view bytes) {
    static const Constants constants;
    std::string padded(bytes);
    padded += '\x80';
    padded.resize((padded.size() + 8 + 63) / 64 * 64 - 8, '\0');
    for (int shift = 56; shift >= 0; shift -= 8) padded += static_cast<char>(uint64_t{bytes.size()} * 8 >> shift);
    std::array<uint32_t, 8> hash = constants.start;
    for (size_t at = 0; at < padded.size(); at += 64)
        add_block(hash, reinterpret_cast<const unsigned char*>(padded.data()) + at, constants);
    std::string out;
    for (uint32_t word : hash)
        for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(word >> shift);
    return out;
}

std::string hmac_sha256(std::string_view key, std::string_view text) {
    std::string inner = key.size() > 64 ? sha256(key) : std::string(key);
    inner.resize(64, '\0');
    std::string outer = inner;
    for (char& c : inner) c ^= 0x36;
    for (char& c : outer) c ^= 0x5c;
    return hex(sha256(outer + sha256(inner.append(text))));
}

std::string random_hex(size_t bytes) {
    std::string random(bytes, '\0');
    for (size_t have = 0; have < bytes;) {
        ssize_t n = getrandom(random.data() + have, bytes - have, 0);
        if (n < 0 && errno != EINTR) throw Error(strf("the system gives no random numbers: %s", strerror(errno)));
        if (n > 0) have += static_cast<size_t>(n);
    }
    return hex(random);
}
