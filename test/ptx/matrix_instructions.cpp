// PTX ISA: Warp Level Matrix Multiply-Accumulate Instructions: mma, ldmatrix. llmc/cuda/ptx.cuh has the layouts of fragments.
#include "test/ptx/access.h"

namespace ptx {

namespace {

float bf16_at(uint32_t two, int half) { return std::bit_cast<float>(half ? two & 0xffff0000u : two << 16); }

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 d, a, b, c. The order of the sum is not specified: here it is exact, and
// rounded once.
void multiply(Warp& w, const Instruction& i, uint32_t lanes) {
    uint32_t sa[4][32], sb[2][32];
    float sc[4][32], out[4][32];
    double A[16][16], B[16][8];
    for (int r = 0; r < 4; r++) {
        const uint32_t* a = source<uint32_t>(w, i.operands[1].list[r], sa[r]);
        for (int l = 0; l < 32; l++)
            for (int h = 0; h < 2; h++) A[l / 4 + r % 2 * 8][l % 4 * 2 + r / 2 * 8 + h] = bf16_at(a[l], h);
    }
    for (int r = 0; r < 2; r++) {
        const uint32_t* b = source<uint32_t>(w, i.operands[2].list[r], sb[r]);
        for (int l = 0; l < 32; l++)
            for (int h = 0; h < 2; h++) B[l % 4 * 2 + r * 8 + h][l / 4] = bf16_at(b[l], h);
    }
    double D[16][8] = {};
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) D[m][n] += A[m][k] * B[k][n];
    for (int r = 0; r < 4; r++) {
        const float* c = source<float>(w, i.operands[3].list[r], sc[r]);
        for (int l = 0; l < 32; l++) out[r][l] = static_cast<float>(c[l] + D[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2]);
    }
    for (int r = 0; r < 4; r++) result<float>(w, i.operands[0].list[r], out[r], lanes);
}

// ldmatrix.sync.aligned.m8n8.x4{.trans}.shared.b16 r, [a]: lane i has the address of row i % 8 of matrix i / 8. Each lane
// reads what it gets.
template <bool transposed>
void load(Warp& w, const Instruction& i, uint32_t lanes) {
    uint64_t a[32];
    uint32_t out[4][32];
    addresses(w, i.operands[1], a);
    SharedMemory& shared = w.block->shared;
    for (int m = 0; m < i.count; m++) {
        uint32_t row[8];
        for (int r = 0; r < 8; r++) row[r] = shared_offset(w, m * 8 + r, a[m * 8 + r], 16);
        auto take = [&](int lane, uint32_t offset, uint32_t bytes, uint32_t& to) {
            std::string wrong = shared.read(who(w, lane), offset, bytes);
            if (!wrong.empty()) fail(w, lane, wrong);
            std::memcpy(&to, shared.at(offset), bytes);
        };
        for (int l = 0; l < 32; l++) {
            uint32_t column = static_cast<uint32_t>(transposed ? l / 4 : l % 4 * 2), low = 0, high = 0;
            if (transposed) {
                take(l, row[l % 4 * 2] + column * 2, 2, low);
                take(l, row[l % 4 * 2 + 1] + column * 2, 2, high);
                out[m][l] = low | high << 16;
            } else {
                take(l, row[l / 4] + column * 2, 4, out[m][l]);
            }
        }
    }
    const Operand& to = i.operands[0];
    for (int m = 0; m < i.count; m++)
        result<uint32_t>(w, to.kind == Operand::Kind::list ? to.list[m] : to, out[m], lanes);
}

}  // namespace

void decode_matrix(Instruction& i, Opcode& o) {
    if (o.name == "mma" && o.take("sync") && o.take("aligned") && o.take("m16n8k16") && o.take("row") &&
        o.take("col")) {
        const auto& t = o.types;
        i.flow = Flow::aligned;
        if (t.size() == 4 && t[0].kind == 'f' && t[1].kind == 'h' && t[2].kind == 'h' && t[3].kind == 'f')
            i.run = multiply;
    } else if (o.name == "ldmatrix" && o.take("sync") && o.take("aligned") && o.take("m8n8") &&
               i.space == Space::shared) {
        i.flow = Flow::aligned;
        i.count = o.take("x4") ? 4 : o.take("x2") ? 2 : o.take("x1") ? 1 : 0;
        i.run = o.take("trans") ? load<true> : load<false>;
    }
}

}  // namespace ptx
