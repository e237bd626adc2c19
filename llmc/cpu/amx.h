// Products of tiles by AMX: a tile register is 16 rows of 64 bytes, and one instruction (tdpbf16ps) multiplies a tile of
// bf16 pairs by another and adds to a third, of fp32: 16 x 16 x 32 multiply-adds in 16 cycles, eight times the products of AVX512_BF16.
//                  (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18; Linux: arch/x86/xstate.rst)
//
//   c (m,n) = [accumulate ? c : 0] + a (m,2k) . b (2k,n)        k pairs along the sum
//
// a: rows of pairs, (m,k). b: row p has the pairs (2p, 2p + 1) of all columns, (k,n). A processor without AMX computes the
// same by loops, so that what is built on it is tested there, too.
#pragma once
#include "llmc/cpu/amx_available.h"
#include "llmc/cpu/tile.h"

// A pair of bf16 that lies where AMX reads it: k padded to whole tiles with zeros, n a multiple of kAmxRows, and rows of a
// may be read up to the next multiple of kAmxRows.
struct amx_pair {
    bf16_pair bits;
    amx_pair() = default;
    amx_pair(bf16_pair pair) : bits(pair) {}
};
constexpr int kAmxRows = 16, kAmxPairs = 16,
              kAmxTile = kAmxRows * kAmxPairs;  // of a tile, in pairs of bf16 or in floats

// A thread uses tiles as long as one of these lives. What the registers' shape was before (oneDNN's) is lost.
struct AmxTiles {
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
    AmxTiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        _tile_loadconfig(&shape);
    }
    ~AmxTiles() { _tile_release(); }
#else
    AmxTiles() {}
    ~AmxTiles() {}
#endif
    AmxTiles(const AmxTiles&) = delete;
    AmxTiles& operator=(const AmxTiles&) = delete;
};

// One or two tiles by one or two: c (16 ROWS, 16 COLUMNS). Steps in elements: a_tile, b_tile from one tile of a (b) to the
// next below (beside) it, a_step, b_step to the next along k; `tiles` of them.
template <int ROWS, int COLUMNS>
[[gnu::always_inline]] inline void amx_block(float* c, int64_t c_row, const amx_pair* a, int64_t a_row, int64_t a_tile,
                                             int64_t a_step, const amx_pair* b, int64_t b_row, int64_t b_tile,
                                             int64_t b_step, int tiles, bool accumulate) {
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
    const int64_t c_bytes = c_row * 4, a_bytes = a_row * 4, b_bytes = b_row * 4;
    float* below = c + 16 * c_row;
    asm volatile("" ::: "memory");  // GCC's loads of tiles do not say that they read memory
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        if (COLUMNS > 1) _tile_loadd(1, c + 16, c_bytes);
        if (ROWS > 1) _tile_loadd(2, below, c_bytes);
        if (ROWS > 1 && COLUMNS > 1) _tile_loadd(3, below + 16, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int t = 0; t < tiles; t++, a += a_step, b += b_step) {
        _tile_loadd(4, a, a_bytes);
        _tile_loadd(6, b, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (COLUMNS > 1) {
            _tile_loadd(7, b + b_tile, b_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (ROWS > 1) {
            _tile_loadd(5, a + a_tile, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
            if (COLUMNS > 1) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, c_bytes);
    if (COLUMNS > 1) _tile_stored(1, c + 16, c_bytes);
    if (ROWS > 1) _tile_stored(2, below, c_bytes);
    if (ROWS > 1 && COLUMNS > 1) _tile_stored(3, below + 16, c_bytes);
#else
    for (int r = 0; r < 16 * ROWS; r++)
        for (int n = 0; n < 16 * COLUMNS; n++) {
            const amx_pair *x = a + r / 16 * a_tile + r % 16 * a_row, *y = b + n / 16 * b_tile + n % 16;
            float sum = accumulate ? c[r * c_row + n] : 0;
            for (int t = 0; t < tiles; t++)
                for (int p = 0; p < kAmxPairs; p++) {
                    const bf16_pair u = x[t * a_step + p].bits, v = y[t * b_step + p * b_row].bits;
                    sum += std::bit_cast<float>(u << 16) * std::bit_cast<float>(v << 16);
                    sum += std::bit_cast<float>(u & 0xffff0000u) * std::bit_cast<float>(v & 0xffff0000u);
                }
            c[r * c_row + n] = sum;
        }
#endif
}

// tile.h's product, by tiles of AMX; a_k is 1.
inline void tile_product(float* c, int64_t c_row, const amx_pair* a, int64_t a_row, int64_t, const amx_pair* b,
                         int64_t b_row, int m, int n, int k, bool accumulate) {
    const int tiles = k / kAmxPairs;
    alignas(64) float edge[2 * kAmxTile];  // the last rows, fewer than a tile's
    for (int r = 0; r < m; r += 32, c += 32 * c_row, a += 32 * a_row) {
        for (int x = 0; x < n; x += 32) {
            const auto block = [&]<int ROWS, int COLUMNS>(int row, float* to, int64_t to_row, bool add) {
                amx_block<ROWS, COLUMNS>(to, to_row, a + row * a_row, a_row, 16 * a_row, kAmxPairs, b + x, b_row, 16,
                                         kAmxPairs * b_row, tiles, add);
            };
            const auto rows = [&]<int COLUMNS>() {
                const int whole = std::min(2, (m - r) / 16), rest = std::min(32, m - r) - 16 * whole;
                if (whole == 2) block.template operator()<2, COLUMNS>(0, c + x, c_row, accumulate);
                if (whole == 1) block.template operator()<1, COLUMNS>(0, c + x, c_row, accumulate);
                if (rest == 0) return;
                block.template operator()<1, COLUMNS>(16 * whole, edge, 32, false);
                for (int i = 0; i < rest; i++)
                    for (int j = 0; j < 16 * COLUMNS; j++) {
                        float& to = c[(16 * whole + i) * c_row + x + j];
                        to = (accumulate ? to : 0) + edge[i * 32 + j];
                    }
            };
            n - x >= 32 ? rows.template operator()<2>() : rows.template operator()<1>();
        }
    }
}
