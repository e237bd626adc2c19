// Tensor cores: mma and ldmatrix for the 32 lanes of a warp, when all have come. What each lane holds of a matrix is
// described in the PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix". Here, and not in a header, because
// kernels are compiled with checks of every access that this inner loop does not need.
#include "test/cudahost/internal.h"

namespace cudahost {

namespace {

float low_bf16(uint32_t packed) { return std::bit_cast<float>(packed << 16); }
float high_bf16(uint32_t packed) { return std::bit_cast<float>(packed & 0xffff0000u); }

struct Mma {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
};
void mma_all(void* const (&data)[32], uint32_t) {
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
    uint16_t row[8];
};
template <bool transposed>
void ldmatrix_all(void* const (&data)[32], uint32_t) {
    uint16_t matrix[4][8][8];
    for (int lane = 0; lane < 32; lane++)
        std::memcpy(matrix[lane / 8][lane % 8], static_cast<const Ldmatrix*>(data[lane])->row, 16);
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

}  // namespace

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site where) {
    needs_capability(80, "mma of bf16", where);
    Mma mine{d, a, {b0, b1}};
    full_warp_collective("mma", &mine, mma_all, where);
}
void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed, Site where) {
    check_shared(row, 16, where);
    // Read now and not when all lanes have come: ldmatrix orders no lane's stores before another lane's reads, as
    // __syncwarp() does.
    Ldmatrix mine{r, {}};
    std::memcpy(mine.row, row, 16);
    if (transposed) full_warp_collective("ldmatrix.trans", &mine, ldmatrix_all<true>, where);
    else full_warp_collective("ldmatrix", &mine, ldmatrix_all<false>, where);
}

}  // namespace cudahost
