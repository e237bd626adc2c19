// The machine of test/ptx/ computes what the PTX ISA says: instructions by their definitions, lanes that part and meet again.
#include <cmath>

#include "test/ptx_test.h"

namespace {

class PtxMachine : public PtxTest {
  protected:
    // y[tid] after BODY, which leaves it in `reg`
    std::vector<uint32_t> results(const std::string& body, const std::string& reg = "%r1") {
        uint32_t threads = block.x * grid.x;
        auto* y = tensor<uint32_t>(threads, "y");
        run(ptx_text("u64 y",
                     body +
                         "\nmov.u32 %r30, %ctaid.x;\nmov.u32 %r31, %ntid.x;\nmad.lo.s32 %r30, %r30, %r31, %r0;\n"
                         "mul.wide.u32 %d14, %r30, 4;\nadd.s64 %d14, %y, %d14;\nst.global.b32 [%d14], " +
                         reg + ";"),
            seed++, y);
        return {y, y + threads};
    }
    uint32_t first(const std::string& body, const std::string& reg = "%r1") { return results(body, reg)[0]; }
    float first_float(const std::string& body) { return std::bit_cast<float>(first(body, "%f1")); }
    uint64_t seed = 0;
};

// A loop that each lane leaves at its own time; then all lanes together, which shfl shows: tid steps in lane tid.
TEST_F(PtxMachine, LanesMeetBehindALoop) {
    auto r = results(
        "mov.u32 %r2, 0;\nLOOP:\nsetp.ge.u32 %p0, %r2, %r0;\n@%p0 bra OUT;\nadd.u32 %r2, %r2, 1;\nbra LOOP;\nOUT:\n"
        "activemask.b32 %r3;\nshfl.sync.down.b32 %r1|%p1, %r2, 1, 31, -1;\nadd.u32 %r1, %r1, %r3;");
    for (uint32_t l = 0; l < 32; l++) EXPECT_EQ(r[l], (l < 31 ? l + 1 : l) - 1u);
}
// Both ways of a branch, one within the other, and a block of code before the branch in the text that both come back to.
TEST_F(PtxMachine, NestedBranches) {
    auto r = results(
        "bra START;\nEND:\nactivemask.b32 %r3;\npopc.b32 %r3, %r3;\nadd.u32 %r1, %r1, %r3;\nbra DONE;\nSTART:\n"
        "and.b32 %r4, %r0, 1;\nand.b32 %r5, %r0, 2;\nsetp.eq.u32 %p0, %r4, 0;\nsetp.eq.u32 %p1, %r5, 0;\n"
        "@%p0 bra EVEN;\nmov.u32 %r1, 1000;\nbra END;\nEVEN:\n@%p1 bra FOURTH;\nmov.u32 %r1, 2000;\nbra "
        "MEET;\nFOURTH:\n"
        "mov.u32 %r1, 3000;\nMEET:\nactivemask.b32 %r6;\npopc.b32 %r6, %r6;\nmad.lo.u32 %r1, %r6, 100, %r1;\nbra "
        "END;\nDONE:");
    for (uint32_t l = 0; l < 32; l++) EXPECT_EQ(r[l], l % 2 ? 1032u : l % 4 ? 3632u : 4632u) << l;
}
// Each half of the warp works alone, one waiting for lanes of itself only.
TEST_F(PtxMachine, HalvesOfAWarpGoTheirOwnWays) {
    auto r = results(
        "setp.lt.u32 %p0, %r0, 16;\n@%p0 bra LOW;\nshfl.sync.idx.b32 %r1|%p1, %r0, 31, 31, -65536;\nbra DONE;\nLOW:\n"
        "shfl.sync.idx.b32 %r1|%p1, %r0, 3, 31, 65535;\nDONE:");
    for (uint32_t l = 0; l < 32; l++) EXPECT_EQ(r[l], l < 16 ? 3u : 31u);
    // one instruction, two masks
    r = results(
        "setp.lt.u32 %p0, %r0, 16;\nselp.u32 %r2, 65535, -65536, %p0;\nselp.u32 %r3, 5, 20, %p0;\n"
        "shfl.sync.idx.b32 %r1|%p1, %r0, %r3, 31, %r2;");
    for (uint32_t l = 0; l < 32; l++) EXPECT_EQ(r[l], l < 16 ? 5u : 20u);
}
// Threads that have ended are waited for no more by the lanes that are left.
TEST_F(PtxMachine, LanesThatHaveEnded) {
    block = {40};
    auto r = results("setp.ge.u32 %p0, %r0, 36;\nvote.sync.ballot.b32 %r1, %p0, -1;");
    EXPECT_EQ(r[0], 0u);
    EXPECT_EQ(r[39], 0xf0u);
}
TEST_F(PtxMachine, BarriersOfTheBlock) {
    block = {96};
    auto r = results(
        ".shared .align 4 .b8 s[384];\nmov.u32 %r5, s;\nshl.b32 %r2, %r0, 2;\nadd.s32 %r2, %r2, %r5;\nst.shared.u32 "
        "[%r2], %r0;\n"
        "setp.eq.u32 %p0, %r0, 77;\nbar.red.or.pred %p1, 0, %p0;\nbar.red.popc.u32 %r3, 0, !%p0;\nsub.s32 %r4, 95, "
        "%r0;\n"
        "shl.b32 %r4, %r4, 2;\nadd.s32 %r4, %r4, %r5;\nld.shared.u32 %r1, [%r4];\n@%p1 add.u32 %r1, %r1, 1000;\n"
        "mad.lo.u32 %r1, %r3, 10000, %r1;");
    for (uint32_t t = 0; t < 96; t++) EXPECT_EQ(r[t], 951000u + 95 - t);
}

// ---- instructions ----

TEST_F(PtxMachine, Integers) {
    EXPECT_EQ(first("mul.hi.u32 %r1, -1, -1;"), 0xfffffffeu);
    EXPECT_EQ(first("mul.hi.s32 %r1, -1, 5;"), 0xffffffffu);
    EXPECT_EQ(first("mul.wide.s32 %d0, -3, 5;\nshr.s64 %d0, %d0, 1;\ncvt.u32.u64 %r1, %d0;"),
              static_cast<uint32_t>(-8));
    EXPECT_EQ(first("div.s32 %r1, -7, 2;"), static_cast<uint32_t>(-3));
    EXPECT_EQ(first("rem.s32 %r1, -7, 2;"), static_cast<uint32_t>(-1));
    EXPECT_EQ(first("shl.b32 %r1, 1, 32;"), 0u);
    EXPECT_EQ(first("shr.s32 %r1, -8, 40;"), 0xffffffffu);
    EXPECT_EQ(first("shr.u32 %r1, -8, 28;"), 15u);
    EXPECT_EQ(first("bfe.u32 %r1, 305419896, 8, 12;"), 0x456u);  // 0x12345678
    EXPECT_EQ(first("bfe.s32 %r1, 61440, 8, 8;"), 0xfffffff0u);
    EXPECT_EQ(first("bfi.b32 %r1, 255, 0, 4, 8;"), 0xff0u);
    EXPECT_EQ(first("bmsk.clamp.b32 %r1, 4, 8;"), 0xff0u);
    EXPECT_EQ(first("prmt.b32 %r1, 50462976, 117835012, 9296;"),
              0x02040500u);  // of bytes 0 to 7 those of 0x2450
    EXPECT_EQ(first("lop3.b32 %r1, 12, 10, 9, 150;"), 12u ^ 10u ^ 9u);
    EXPECT_EQ(first("shf.l.wrap.b32 %r1, -2147483648, 1, 33;"), 3u);
    EXPECT_EQ(first("shf.r.clamp.b32 %r1, 5, 7, 40;"), 7u);
    EXPECT_EQ(first("clz.b32 %r1, 256;"), 23u);
    EXPECT_EQ(first("brev.b32 %r1, 1;"), 0x80000000u);
    EXPECT_EQ(first("mov.u32 %r2, 255;\ncvt.s32.s8 %r1, %r2;"), 0xffffffffu);
    EXPECT_EQ(first("setp.lt.u32 %p0, -1, 1;\nsetp.lt.or.s32 %p1|%p2, -1, 1, %p0;\nselp.u32 %r1, 1, 2, %p1;\n@%p2 "
                    "add.u32 %r1, %r1, 4;"),
              1u);
    EXPECT_EQ(first("mov.b64 %d0, {%r0, %r0};\nadd.s64 %d0, %d0, 4294967295;\nmov.b64 {%r2, %r1}, %d0;"), 0u);
}
TEST_F(PtxMachine, Floats) {
    EXPECT_EQ(first_float("fma.rn.f32 %f1, 0f3F800001, 0f3F800001, 0fBF800002;"), 0x1p-46f);  // not rounded in between
    EXPECT_EQ(first_float("add.rz.f32 %f1, 0f3F800000, 0f33C00000;"), 1.0f);                  // 1 + 0.75 ulp
    EXPECT_EQ(first_float("add.rn.f32 %f1, 0f3F800000, 0f33C00000;"), 1 + 0x1p-23f);
    EXPECT_EQ(first_float("fma.rm.f32 %f1, 0f3F800000, 0f3F800000, 0fB3000000;"), 1 - 0x1p-24f);
    EXPECT_EQ(first_float("fma.rn.f32 %f1, 0f3F800000, 0f3F800000, 0fB2800000;"), 1.0f);
    EXPECT_EQ(first_float("mul.ftz.f32 %f1, 0f00800000, 0f3F000000;"), 0.0f);
    EXPECT_EQ(first_float("mul.f32 %f1, 0f00800000, 0f3F000000;"), 0x1p-127f);
    EXPECT_EQ(first("max.f32 %f1, 0f7FC00000, 0f3F800000;", "%f1"), 0x3f800000u);
    EXPECT_EQ(first("min.f32 %f1, 0f00000000, 0f80000000;", "%f1"), 0x80000000u);
    EXPECT_EQ(first("sub.f32 %f1, 0f7F800000, 0f7F800000;", "%f1"), 0x7fffffffu);
    EXPECT_EQ(first("setp.lt.f32 %p0, 0f7FC00000, 0f0;\nsetp.ltu.f32 %p1, 0f7FC00000, 0f0;\nselp.u32 %r1, 1, 0, %p0;\n"
                    "@%p1 add.u32 %r1, %r1, 2;"),
              2u);
    EXPECT_EQ(first_float("copysign.f32 %f1, 0fBF800000, 0f40000000;"), -2.0f);
    EXPECT_EQ(first_float("ex2.approx.ftz.f32 %f1, 0f40400000;"), 8.0f);
    EXPECT_EQ(first_float("div.approx.f32 %f1, 0f3F800000, 0f7F000000;"), 0.0f);  // beyond 2^126
    EXPECT_EQ(first_float("cvt.sat.f32.f32 %f1, 0f40000000;"), 1.0f);
}
TEST_F(PtxMachine, Conversions) {
    EXPECT_EQ(first("cvt.rzi.u32.f32 %r1, 0fBF800000;"), 0u);
    EXPECT_EQ(first("cvt.rzi.s32.f32 %r1, 0f4F800000;"), 0x7fffffffu);
    EXPECT_EQ(first("cvt.rzi.s32.f32 %r1, 0f7FC00000;"), 0u);
    EXPECT_EQ(first("cvt.rni.s32.f32 %r1, 0f40200000;"), 2u);
    EXPECT_EQ(first_float("cvt.rpi.f32.f32 %f1, 0f40200000;"), 3.0f);
    EXPECT_EQ(first_float("cvt.rn.f32.u32 %f1, 16777217;"), 16777216.0f);
    EXPECT_EQ(first_float("cvt.rp.f32.u32 %f1, 16777217;"), 16777218.0f);
    EXPECT_EQ(first("cvt.rn.bf16.f32 %h1, 0f3F808000;\ncvt.u32.u16 %r1, %h1;"), 0x3f80u);  // a tie: to even
    EXPECT_EQ(first("cvt.rn.bf16.f32 %h1, 0f3F818000;\ncvt.u32.u16 %r1, %h1;"), 0x3f82u);
    EXPECT_EQ(first("cvt.rn.bf16x2.f32 %r1, 0f3F800000, 0f40000000;"), 0x3f804000u);
    EXPECT_EQ(
        first_float("cvt.f64.f32 %d0, 0f3F800000;\nadd.f64 %d0, %d0, 0d3E60000000000000;\ncvt.rn.f32.f64 %f1, %d0;"),
        1.0f);
}
TEST_F(PtxMachine, ApproximationsAreAsFarOffAsTheyMay) {
    ptx::Module m = ptx::parse(ptx_text("u64 y", "ex2.approx.f32 %f1, 0f3F000000;\nst.global.f32 [%y], %f1;"));
    double most = 0, want = std::sqrt(2.0);
    for (uint64_t s = 0; s < 20; s++) {
        float* y = tensor<float>(1);
        block = {1};
        ptx::launch(memory, *m.kernel("test_kernel"),
                    {.grid = grid, .block = block, .args = ptx::arguments(y), .seed = s, .worst_error = true});
        most = std::max(most, std::abs(*y / want - 1));
    }
    EXPECT_GT(most, 0x1p-23);
    EXPECT_LE(most, 0x1p-22 + 0x1p-24);
}

// 4 (group, quad) of a 16x8 result against the sum itself; fragments as llmc/cuda/ptx.cuh has them.
TEST_F(PtxMachine, TensorCores) {
    // a[row][k] = row + 1 where k == row, b[k][column] = k * 8 + column: d = (row + 1) (8 row + column) + 1, by ldmatrix from s
    auto* d = tensor<float>(128, "d");
    auto* ab = tensor<uint16_t>(256 + 128, "ab");
    auto bf16_bits = [](float x) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16); };
    for (int i = 0; i < 16; i++) ab[i * 16 + i] = bf16_bits(static_cast<float>(i + 1));
    for (int i = 0; i < 128; i++) ab[256 + i] = bf16_bits(static_cast<float>(i));
    run(ptx_text("u64 d, u64 ab", R"(.shared .align 16 .b8 s[768];
        mov.u32 %r20, s;
        mul.lo.u32 %r1, %r0, 16;  cvt.u64.u32 %d0, %r1;  add.s64 %d0, %ab, %d0;  add.s32 %r1, %r1, %r20;
        ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%d0];  st.shared.v4.u32 [%r1], {%r2, %r3, %r4, %r5};
        setp.lt.u32 %p0, %r0, 16;
        @%p0 ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%d0+512];  @%p0 st.shared.v4.u32 [%r1+512], {%r2, %r3, %r4, %r5};
        bar.sync 0;
        and.b32 %r6, %r0, 15;  shl.b32 %r7, %r6, 5;  and.b32 %r8, %r0, 16;  add.s32 %r7, %r7, %r8;  add.s32 %r7, %r7, %r20;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r7];
        shl.b32 %r9, %r6, 4;  add.s32 %r9, %r9, %r20;
        ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r14, %r15, %r16, %r17}, [%r9+512];
        mov.f32 %f0, 0f3F800000;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r10,%r11,%r12,%r13}, {%r14,%r15}, {%f0,%f0,%f0,%f0};
        shr.u32 %r1, %r0, 2;  and.b32 %r2, %r0, 3;  shl.b32 %r1, %r1, 5;  shl.b32 %r2, %r2, 3;  add.s32 %r1, %r1, %r2;
        cvt.u64.u32 %d0, %r1;  add.s64 %d0, %d, %d0;
        st.global.v2.f32 [%d0], {%f1, %f2};  st.global.v2.f32 [%d0+256], {%f3, %f4};)"),
        0, d, ab);
    for (int i = 0; i < 128; i++) EXPECT_EQ(d[i], static_cast<float>((i / 8 + 1) * i + 1)) << i;
}

// ---- sizes that nobody has memory for ----

// A row of 50304 floats for each of 65536 blocks: 13 GB. The last rows lie beyond 2^31 elements.
TEST_F(PtxMachine, IndexOverflowShowsInTheLastBlock) {
    auto text = [](const std::string& offset) {
        return ptx_text("u64 x",
                        "mov.u32 %r1, %ctaid.x;\n" + offset + "\nadd.s64 %d0, %x, %d0;\nst.global.u32 [%d0], %r0;");
    };
    std::string narrow = "mul.lo.s32 %r2, %r1, 50304;\nadd.s32 %r2, %r2, %r0;\nmul.wide.s32 %d0, %r2, 4;";
    std::string wide =
        "mul.wide.u32 %d0, %r1, 50304;\ncvt.u64.u32 %d1, %r0;\nadd.s64 %d0, %d0, %d1;\nshl.b64 %d0, %d0, 2;";
    char* x = memory.allocate(size_t{65536} * 50304 * 4, "logits");
    grid = {65536};
    blocks = {0, 1, 40000, 65535};
    EXPECT_CLEAN(text(wide), x);
    EXPECT_FAULT("block (65535,0,0), thread (0,0,0): writes 4 bytes", text(narrow), x);
    blocks = {0, 1, 40000};
    EXPECT_CLEAN(text(narrow), x);
}

}  // namespace
