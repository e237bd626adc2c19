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

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         cudahost::Site where = cudahost::Site::current()) {
    cudahost::mma_m16n8k16(d, a, b0, b1, where);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, cudahost::Site where = cudahost::Site::current()) {
    cudahost::ldmatrix_x4(r, row, false, where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, cudahost::Site where = cudahost::Site::current()) {
    cudahost::ldmatrix_x4(r, row, true, where);
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
