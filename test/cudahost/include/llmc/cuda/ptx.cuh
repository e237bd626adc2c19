// llmc/cuda/ptx.cuh for the CPU: the same functions with the semantics that the PTX ISA documents, and checks of what it
// demands. The fragments' layouts are described there.
#pragma once
#include <cstdint>

#include "llmc/base/bf16.h"

namespace ptx {

// ---- registers of two bf16 ----

inline uint32_t pack_bf16x2(float low, float high) {
    return bf16(low).bits | static_cast<uint32_t>(bf16(high).bits) << 16;
}
inline float low_bf16(uint32_t packed) { return __uint_as_float(packed << 16); }
inline float high_bf16(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

// ---- arithmetic ----

// Subnormal inputs and results are flushed to zero, as .ftz says.
inline float exp2_approx(float x) {
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}
// With the largest error that the instruction may have: what needs a better tanh shows here too.
inline float tanh_approx(float x) {
    float y = tanhf(x);
    return __uint_as_float((__float_as_uint(y) + 0x800) & 0xfffff000u);  // 11 bits of the mantissa stay
}

// ---- tensor cores ----

namespace detail {

struct Mma {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
};
inline void mma_all(void* const (&data)[32], uint32_t) {
    typedef float Row __attribute__((vector_size(32)));  // 8 columns
    float a[16][16];
    Row b[16];
    for (int lane = 0; lane < 32; lane++) {
        const Mma& m = *static_cast<const Mma*>(data[lane]);
        int group = lane / 4, quad = lane % 4;
        for (int i = 0; i < 4; i++) {
            float* to = &a[group + i % 2 * 8][2 * quad + i / 2 * 8];
            to[0] = low_bf16(m.a[i]), to[1] = high_bf16(m.a[i]);
        }
        for (int i = 0; i < 2; i++) {
            int k = 2 * quad + i * 8;
            b[k][group] = low_bf16(m.b[i]), b[k + 1][group] = high_bf16(m.b[i]);
        }
    }
    Row d[16];
    for (int row = 0; row < 16; row++) {
        Row sum = {};
        for (int k = 0; k < 16; k++) sum += a[row][k] * b[k];
        d[row] = sum;
    }
    for (int lane = 0; lane < 32; lane++) {
        const Mma& m = *static_cast<const Mma*>(data[lane]);
        int group = lane / 4, quad = lane % 4;
        for (int i = 0; i < 4; i++) m.d[i] += d[group + i / 2 * 8][2 * quad + i % 2];
    }
}

struct Ldmatrix {
    uint32_t* r;
    const uint16_t* row;
};
template <bool transposed>
void ldmatrix_all(void* const (&data)[32], uint32_t) {
    uint16_t matrix[4][8][8];
    for (int lane = 0; lane < 32; lane++) {
        const uint16_t* row = static_cast<const Ldmatrix*>(data[lane])->row;
        for (int c = 0; c < 8; c++) matrix[lane / 8][lane % 8][c] = row[c];
    }
    for (int lane = 0; lane < 32; lane++) {
        uint32_t* r = static_cast<const Ldmatrix*>(data[lane])->r;
        int group = lane / 4, quad = lane % 4;
        for (int j = 0; j < 4; j++) {
            auto& m = matrix[j];
            r[j] = transposed ? m[2 * quad][group] | static_cast<uint32_t>(m[2 * quad + 1][group]) << 16
                              : m[group][2 * quad] | static_cast<uint32_t>(m[group][2 * quad + 1]) << 16;
        }
    }
}

}  // namespace detail

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         cudahost::Site where = cudahost::Site::current()) {
    detail::Mma mine{d, a, {b0, b1}};
    cudahost::full_warp_collective("mma", &mine, detail::mma_all, where);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, cudahost::Site where = cudahost::Site::current()) {
    cudahost::check_shared(row, 16, where);
    detail::Ldmatrix mine{r, static_cast<const uint16_t*>(row)};
    cudahost::full_warp_collective("ldmatrix", &mine, detail::ldmatrix_all<false>, where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, cudahost::Site where = cudahost::Site::current()) {
    cudahost::check_shared(row, 16, where);
    detail::Ldmatrix mine{r, static_cast<const uint16_t*>(row)};
    cudahost::full_warp_collective("ldmatrix.trans", &mine, detail::ldmatrix_all<true>, where);
}

// ---- asynchronous copies ----

inline void cp_async_16(void* shared, const void* global, bool valid = true,
                        cudahost::Site where = cudahost::Site::current()) {
    cudahost::cp_async(shared, global, 16, valid, where);
}
inline void cp_async_commit() { cudahost::cp_async_commit(); }
template <int pending>
void cp_async_wait() {
    cudahost::cp_async_wait(pending);
}

}  // namespace ptx
