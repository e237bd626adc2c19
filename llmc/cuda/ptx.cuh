// The instructions that CUDA C++ has no name for, one function each. Nothing else in the program is PTX, but the rounding
// to bf16 in llmc/base/bf16.h.
//
// References are to the PTX ISA (https://docs.nvidia.com/cuda/parallel-thread-execution), by instruction, since numbers
// of sections change. "Fragment" layouts are those of "Matrix Fragments for mma.m16n8k16 with floating point type": in
// a warp, lane = 4 * group + quad;
//   A (16,16) bf16: a[0] = A[group][2 quad..], a[1] = A[group + 8][2 quad..], a[2] = A[group][2 quad + 8..],
//                   a[3] = A[group + 8][2 quad + 8..]          each register two neighbours of a row, the lower one
//                   first
//   B (16,8) bf16:  b[0] = B[2 quad..][group], b[1] = B[2 quad + 8..][group]               two neighbours of a column
//   C, D (16,8) fp32: d[0], d[1] = D[group][2 quad..], d[2], d[3] = D[group + 8][2 quad..]
//
// The tests on the CPU put test/cudahost's version of this header in its place.
#pragma once
#include <cstdint>
#include "llmc/base/bf16.h"

namespace ptx {

// ---- registers of two bf16 ----

// Rounds to nearest even; `low` goes to bits 0..15.
__device__ inline uint32_t pack_bf16x2(float low, float high) {
    uint32_t packed;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#else
    packed = bf16(low).bits | static_cast<uint32_t>(bf16(high).bits) << 16;
#endif
    return packed;
}
__device__ inline float low_bf16(uint32_t packed) { return __uint_as_float(packed << 16); }
__device__ inline float high_bf16(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

// ---- arithmetic ----

// 2^x, relative error about 2^-22; 0 below -126.                                                   (ex2.approx.ftz.f32)
__device__ inline float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// tanh, relative error about 2^-11: enough before a rounding to bf16, too little for fp32. (tanh.approx.f32)
__device__ inline float tanh_approx(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- tensor cores ----

// d (16,8) += a (16,16) . b (16,8), bf16 operands, fp32 sums; all 32 lanes together. (mma)
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    __trap();  // bf16 needs sm_80: the program refuses before it comes to this
#endif
}

// Four 8x8 matrices of bf16 from shared memory. Lane i gives the address of row i % 8 of matrix i / 8 (16 bytes, on a
// 16-byte boundary); r[j] of lane i is elements (i / 4, 2 (i % 4)..) of matrix j. (ldmatrix)
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
#if __CUDA_ARCH__ >= 750
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}
// The same, each matrix transposed: r[j] of lane i is elements (2 (i % 4).., i / 4) of matrix j.
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
#if __CUDA_ARCH__ >= 750
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// ---- asynchronous copies, global to shared memory (cp.async) ----

// 16 bytes, both ends on 16-byte boundaries; valid = false (a source size of 0) writes zeros and reads nothing, so that
// `global` may lie outside of the tensor. What is copied may be read by the thread itself after cp_async_wait, by
// others after a barrier behind that.
__device__ inline void cp_async_16(void* shared, const void* global, bool valid = true) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(global), "r"(valid ? 16 : 0)
        : "memory");
#else
    *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : uint4{0, 0, 0, 0};
#endif
}
// Closes a group of this thread's copies.
__device__ inline void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most `pending` of this thread's newest groups are under way.
template <int pending>
__device__ inline void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

}  // namespace ptx
