// What the machine of test/ptx/ counts, on programs whose counts are known; and what follows from counts.
#include "test/ptx/limits.h"
#include "test/ptx/resources.h"
#include "test/ptx_test.h"

namespace {

class PtxCounters : public PtxTest {
  protected:
    // of BODY, with %x a tensor of 64 KiB on a boundary of 256 bytes, %r1 = 4 tid, and the 4 KiB of shared memory s at %r2
    template <typename... Args>
    ptx::Totals count(const std::string& body, uint64_t of_blocks = 0) {
        char* x = tensor<char>(1 << 16);
        module = ptx::parse(
            ptx_text("u64 x", ".shared .align 16 .b8 s[4096];\nmov.u32 %r2, s;\nshl.b32 %r1, %r0, 2;\n" + body));
        kernel = module.kernel("test_kernel");
        counters = {};
        ptx::Launch l{grid, block, 0, ptx::arguments(x), blocks};
        l.counters = &counters;
        ptx::launch(memory, *kernel, l);
        return counters.totals(of_blocks);
    }
    // x[stride * tid + offset], of `type`
    ptx::Totals load(int stride, int offset, const std::string& type = "u32", const std::string& to = "%r9") {
        return count("mul.lo.u32 %r3, %r0, " + std::to_string(stride) +
                     ";\ncvt.u64.u32 %d0, %r3;\nadd.s64 %d1, %x, %d0;\n" + "ld.global." + type + " " + to + ", [%d1+" +
                     std::to_string(offset) + "];");
    }
    // all of s is written, without conflicts; then BODY, with %r3 = s + stride * (tid & mask)
    ptx::Totals behind_stores(int stride, const std::string& body, int mask = 31) {
        std::string fill;
        for (int i = 0; i < 4096; i += 512)
            fill += "st.shared.v4.u32 [%r4+" + std::to_string(i) + "], {%r0, %r0, %r0, %r0};\n";
        return count("shl.b32 %r4, %r0, 4;\nadd.s32 %r4, %r4, %r2;\n" + fill + "bar.sync 0;\nand.b32 %r3, %r0, " +
                     std::to_string(mask) + ";\nmad.lo.u32 %r3, %r3, " + std::to_string(stride) + ", %r2;\n" + body);
    }
    ptx::Module module;
    const ptx::Kernel* kernel = nullptr;
    ptx::Counters counters;
};
constexpr double kFill = 32;  // wavefronts of these stores: 4 KiB by 128 bytes

TEST_F(PtxCounters, SectorsOfALoad) {
    EXPECT_EQ(load(4, 0).sectors, 4);  // 128 bytes on a boundary
    EXPECT_EQ(load(4, 4).sectors, 5);  // not on one
    EXPECT_EQ(load(8, 0).sectors, 8);
    EXPECT_EQ(load(64, 0).sectors, 32);
    EXPECT_EQ(load(0, 0).sectors, 1);  // all lanes the same
    EXPECT_EQ(load(16, 0, "v4.u32", "{%r9, %r10, %r11, %r12}").sectors, 16);
    EXPECT_EQ(load(4, 0).requests, 1);
    EXPECT_EQ(load(4, 0).coalescing(), 1);
    EXPECT_EQ(load(64, 0).coalescing(), 4.0 / 32);
    EXPECT_EQ(load(16, 0, "v4.u32", "{%r9, %r10, %r11, %r12}").dram_bytes, 512);
}
TEST_F(PtxCounters, SectorsOfSomeLanes) {
    ptx::Totals t =
        count("setp.lt.u32 %p0, %r0, 8;\ncvt.u64.u32 %d0, %r1;\nadd.s64 %d1, %x, %d0;\n@%p0 st.global.u32 [%d1], %r0;");
    EXPECT_EQ(t.sectors, 1);
    EXPECT_EQ(t.requests, 1);
    t = count("setp.lt.u32 %p0, %r0, 0;\n@%p0 ld.global.u32 %r3, [%x];");  // none
    EXPECT_EQ(t.sectors, 0);
    EXPECT_EQ(t.requests, 0);
    EXPECT_EQ(t.slots_of[static_cast<int>(ptx::Class::global)], 1);  // it is issued all the same
}
TEST_F(PtxCounters, BankConflicts) {
    struct {
        int stride;
        const char *type, *to;
        double wavefronts, conflicts;
    } cases[] = {
        {4, "u32", "%r9", 1, 0},
        {8, "u32", "%r9", 2, 1},
        {12, "u32", "%r9", 1, 0},
        {16, "u32", "%r9", 4, 3},
        {128, "u32", "%r9", 32, 31},
        {0, "u32", "%r9", 1, 0},
        {2, "u16", "%h1", 1, 0},
        {8, "v2.u32", "{%r9, %r10}", 2, 0},
        {16, "v2.u32", "{%r9, %r10}", 4, 2},
        {16, "v4.u32", "{%r9, %r10, %r11, %r12}", 4, 0},
        {32, "v4.u32", "{%r9, %r10, %r11, %r12}", 8, 4},
    };
    for (auto& c : cases) {
        ptx::Totals t = behind_stores(c.stride, std::string("ld.shared.") + c.type + " " + c.to + ", [%r3];");
        EXPECT_EQ(t.wavefronts, kFill + c.wavefronts) << c.type << " by " << c.stride;
        EXPECT_EQ(t.conflicts(), c.conflicts) << c.type << " by " << c.stride;
    }
}
// ldmatrix takes eight rows of 16 bytes at a time: rows of 128 bytes meet in the same banks, rows of 144 do not.
TEST_F(PtxCounters, ConflictsOfLdmatrix) {
    auto rows = [&](int bytes) {
        const char* load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r3];";
        return behind_stores(bytes, load, 7).conflicts();
    };
    EXPECT_EQ(rows(16), 0);
    EXPECT_EQ(rows(144), 0);
    EXPECT_EQ(rows(128), 4 * 7);
}
TEST_F(PtxCounters, AsynchronousCopies) {
    ptx::Totals t = count(
        "shl.b32 %r3, %r0, 4;\ncvt.u64.u32 %d0, %r3;\nadd.s64 %d1, %x, %d0;\nadd.s32 %r3, %r3, %r2;\nsetp.lt.u32 %p0, "
        "%r0, "
        "16;\nselp.u32 %r4, 16, 0, %p0;\ncp.async.cg.shared.global [%r3], [%d1], 16, %r4;\ncp.async.wait_all;");
    EXPECT_EQ(t.sectors, 8);  // half of the lanes read, all write
    EXPECT_EQ(t.wavefronts, 4);
    EXPECT_EQ(t.conflicts(), 0);
}
TEST_F(PtxCounters, Instructions) {
    block = {64};
    ptx::Totals t = count(
        "mov.f32 %f0, 0f3F800000;\nex2.approx.ftz.f32 %f1, %f0;\nadd.f32 %f2, %f1, %f1;\nadd.s64 %d0, %x, 4;\n"
        "mov.u32 %r3, 0;\nbar.sync 0;\nmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4,%f5,%f6,%f7}, "
        "{%r3,%r3,%r3,%r3}, {%r3,%r3}, {%f0,%f0,%f0,%f0};\nsetp.lt.u32 %p0, %r0, 16;\n@%p0 add.f32 %f3, %f1, %f1;");
    auto of = [&](ptx::Class c) { return t.slots_of[static_cast<int>(c)]; };
    EXPECT_EQ(t.special, 2);  // of two warps
    EXPECT_EQ(t.tensor, 2);
    EXPECT_EQ(t.barriers, 2);
    EXPECT_EQ(of(ptx::Class::real), 4);
    EXPECT_EQ(of(ptx::Class::integer), 2 * (1 + 1 + 2 + 1));  // tid, shl, an add of 64 bits, setp
    EXPECT_EQ(of(ptx::Class::control), 2);                    // ret
    EXPECT_EQ(t.lanes, 64 * 9 + 16);                          // of ten: parameters and moves are none
}
// What ptxas makes one instruction of costs once.
TEST_F(PtxCounters, InstructionsThatBecomeOne) {
    auto slots = [&](const std::string& body) { return count(body).slots - count("").slots; };
    const std::string one = "mov.f32 %f0, 0f3F800000;\n";
    EXPECT_EQ(slots(one + "mul.f32 %f1, %f0, %f0;\nadd.f32 %f2, %f1, %f0;"), 1);
    EXPECT_EQ(slots(one + "mul.rn.f32 %f1, %f0, %f0;\nadd.f32 %f2, %f1, %f0;"), 2);
    EXPECT_EQ(slots(one + "mul.f32 %f1, %f0, %f0;\nadd.f32 %f2, %f1, %f0;\nmax.f32 %f3, %f1, %f0;"),
              3);  // the product, too
    EXPECT_EQ(slots("shl.b32 %r3, %r0, 4;\nadd.s32 %r4, %r3, %r2;"), 1);
    EXPECT_EQ(slots("add.s32 %r3, %r2, 16;\nst.global.u32 [%x], %r3;"), 2);
    EXPECT_EQ(slots("add.s64 %d1, %x, 16;\nld.global.u32 %r3, [%d1];"), 1);
    EXPECT_EQ(slots("setp.lt.u32 %p0, %r0, 5;\nsetp.lt.u32 %p1, %r0, 9;\nor.pred %p2, %p0, %p1;"), 2);
    EXPECT_EQ(slots("setp.lt.u32 %p0, %r0, 5;\nbar.red.or.pred %p1, 0, %p0;"), 2);
    EXPECT_EQ(slots("div.u32 %r3, %r0, 7;"), 18);
}
// A line of the cache that the block has read is near; what blocks share comes from memory once.
TEST_F(PtxCounters, CachesAndScale) {
    ptx::Totals t = count("ld.global.u32 %r3, [%x];\nld.global.u32 %r4, [%x+4];");
    EXPECT_EQ(t.sectors, 2);
    EXPECT_EQ(t.far, 1);
    grid = {1000}, blocks = {3, 500};
    t = count("ld.global.u32 %r3, [%x];", 1000);  // the same everywhere
    EXPECT_EQ(t.far, 1000);
    EXPECT_EQ(t.dram_bytes, 32 * 500);             // one sector of two blocks
    t = count("ld.global.u32 %r3, [%x];", 10000);  // the tensor has 64 KiB
    EXPECT_EQ(t.dram_bytes, 1 << 16);
}

// The line of the kernel, not that of a function which was inlined into one that was inlined.
TEST_F(PtxCounters, LinesOfTheKernel) {
    count(
        ".loc 1 10 5\nadd.s32 %r3, %r0, 1;\n.loc 1 20 3, function_name $L, inlined_at 1 11 7\n.loc 1 30 1, "
        "function_name $L, "
        "inlined_at 1 20 3\nadd.s32 %r4, %r0, 2;\n.loc 1 12 1\n");
    std::vector<std::pair<int, int>> lines;
    for (const ptx::Instruction& i : kernel->code)
        if (i.outer_line) lines.emplace_back(i.source_line, i.outer_line);
    EXPECT_EQ(lines, (std::vector<std::pair<int, int>>{{10, 10}, {30, 11}, {12, 12}}));
}

// ---- what follows ----

TEST(KernelLimits, Occupancy) {
    ptx::Resources r;
    r.registers = 32;
    EXPECT_EQ(ptx::blocks_a_multiprocessor(80, r, 128, 0), 16);  // 64 warps
    EXPECT_EQ(ptx::blocks_a_multiprocessor(89, r, 128, 0), 12);  // 48
    r.registers = 255;
    EXPECT_EQ(ptx::blocks_a_multiprocessor(90, r, 128, 0), 2);  // 65,536 / (256 * 128)
    r.registers = 33;                                           // by eight
    EXPECT_EQ(ptx::blocks_a_multiprocessor(80, r, 1024, 0), 1);
    r.registers = 32;
    EXPECT_EQ(ptx::blocks_a_multiprocessor(80, r, 32, 0), 32);
    EXPECT_EQ(ptx::blocks_a_multiprocessor(80, r, 128, 80 << 10), 2);  // of 164 KiB, with 1 KiB a block
    EXPECT_EQ(ptx::blocks_a_multiprocessor(89, r, 128, 80 << 10), 1);
}
TEST(KernelLimits, EachLimitByItself) {
    const ptx::Card& card = ptx::card("a100");
    ptx::Totals t;
    auto limiter = [&] { return ptx::times(card, t, 1 << 20).limiter(); };
    t.dram_bytes = 2.039e12 * ptx::kDramShare;
    EXPECT_EQ(limiter(), ptx::Limit::dram);
    EXPECT_NEAR(ptx::times(card, t, 1 << 20).predicted(), 1, 1e-6);
    t.slots = 4.0 * 108 * card.clock * 2;
    EXPECT_EQ(limiter(), ptx::Limit::issue);
    EXPECT_NEAR(ptx::times(card, t, 1 << 20).at[0], 2, 1e-3);
    t.special = 108 * card.clock * 3 / 2;
    EXPECT_EQ(limiter(), ptx::Limit::special);
    t.wavefronts = 108 * card.clock * 4;
    EXPECT_EQ(limiter(), ptx::Limit::shared);
    t.tensor = 312e12 / 4096 * 5;
    EXPECT_EQ(limiter(), ptx::Limit::tensor);
    EXPECT_NEAR(ptx::times(card, t, 109).at[static_cast<int>(ptx::Limit::tensor)], 5 * 216 / 109.0,
                1e-3);  // two rounds
    t.far = 7 * 5120 / 32 * card.clock;
    EXPECT_EQ(limiter(), ptx::Limit::l2);
}
TEST(KernelLimits, ReadsWhatPtxasSays) {
    auto found = ptx::read_resources(
        "ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function '_Z1fv' for 'sm_90'\n"
        "ptxas info    : Function properties for _Z1fv\n    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill "
        "loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size, 640 bytes smem, 568 bytes "
        "cmem[0]\n"
        "ptxas info    : Compiling entry function '_Z1gv' for 'sm_90'\nptxas info    : Function properties for _Z1gv\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 16 registers\n");
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found["_Z1fv"].registers, 255);
    EXPECT_EQ(found["_Z1fv"].spills, 28);
    EXPECT_EQ(found["_Z1fv"].stack, 8);
    EXPECT_EQ(found["_Z1fv"].shared_bytes, 640u);
    EXPECT_EQ(found["_Z1gv"].registers, 16);
    EXPECT_EQ(found["_Z1gv"].spills, 0);
    EXPECT_EQ(found["_Z1gv"].shared_bytes, 0u);
}

}  // namespace
