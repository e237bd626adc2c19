// What the machine of test/ptx/ is there to find, planted one at a time, each beside a twin without it.
#include "test/ptx_test.h"

namespace {

class PtxFaults : public PtxTest {};

// ---- memory ----

TEST_F(PtxFaults, MisalignedAccesses) {
    auto load = [](int offset) {
        return ptx_text("u64 x", "ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%x+" + std::to_string(offset) + "];");
    };
    float* x = tensor<float>(16);
    EXPECT_CLEAN(load(16), x);
    EXPECT_FAULT("misaligned", load(4), x);
    auto store = [](int offset) {
        return ptx_text(
            "", ".shared .align 16 .b8 s[64];\nmov.u32 %r1, 0;\nsetp.ne.u32 %p0, %r0, 0;\n@!%p0 st.shared.v2.u32 [s+" +
                    std::to_string(offset) + "], {%r1, %r1};");
    };
    EXPECT_CLEAN(store(8));
    EXPECT_FAULT("misaligned", store(4));
}

// Each tensor is its own: what lies behind one is another's, or nobody's.
TEST_F(PtxFaults, BehindTheEndOfATensor) {
    std::string text = ptx_text("u64 x, u32 n",
                                "setp.ge.u32 %p0, %r0, %n;\n@%p0 bra DONE;\nmul.wide.u32 %d0, %r0, 4;\n"
                                "add.s64 %d1, %x, %d0;\nst.global.u32 [%d1], %r0;\nDONE:");
    int* x = tensor<int>(20);
    EXPECT_CLEAN(text, x, 20u);
    EXPECT_FAULT("thread (20,0,0): writes 4 bytes", text, x, 21u);
    EXPECT_FAULT("behind x of 80 bytes", text, x, 21u);
    EXPECT_FAULT("is no device memory", text, uint64_t{16}, 1u);
}

TEST_F(PtxFaults, BetweenSharedVariables) {
    auto text = [](int offset) {
        return ptx_text(
            "",
            ".shared .align 4 .b8 a[128];\n.shared .align 4 .b8 b[128];\nshl.b32 %r1, %r0, 2;\nmov.u32 %r2, a;\n"
            "add.s32 %r1, %r1, %r2;\nst.shared.u32 [%r1+" +
                std::to_string(offset) + "], %r0;\nmov.u32 %r3, b;");
    };
    EXPECT_CLEAN(text(0));
    EXPECT_FAULT("outside of each variable", text(4));
    EXPECT_FAULT("outside of it", text(4096));
}
TEST_F(PtxFaults, BehindDynamicSharedMemory) {
    std::string text =
        ptx_text("", "shl.b32 %r1, %r0, 2;\nmov.u32 %r2, dynamic;\nadd.s32 %r1, %r1, %r2;\nst.shared.u32 [%r1], %r0;",
                 ".extern .shared .align 16 .b8 dynamic[];");
    shared_bytes = 128;
    EXPECT_CLEAN(text);
    shared_bytes = 124;
    EXPECT_FAULT("outside of it", text);
}

TEST_F(PtxFaults, ReadsOfWhatNobodyWrote) {
    auto text = [](const std::string& body) {  // %r9: a place in shared memory
        return ptx_text(
            "",
            ".shared .align 4 .b8 s[128];\nshl.b32 %r9, %r0, 2;\nmov.u32 %r10, s;\nadd.s32 %r9, %r9, %r10;\n" + body);
    };
    const std::string store = "st.shared.u32 [%r9], %r2;";
    EXPECT_CLEAN(text("mov.u32 %r1, 1;\nadd.s32 %r2, %r1, 1;\n" + store));
    EXPECT_FAULT("reads a register that nobody wrote", text("add.s32 %r2, %r1, 1;\n" + store));
    EXPECT_CLEAN(text("add.s32 %r2, %r1, 1;"));  // computed ahead, and thrown away
    EXPECT_FAULT("reads a register that nobody wrote", text("st.shared.u32 [%r1], %r0;"));
    // in some lanes only
    std::string half = "setp.lt.u32 %p0, %r0, 16;\n@%p0 mov.u32 %r1, 1;\nadd.s32 %r2, %r1, 1;\n";
    EXPECT_CLEAN(text(half + "@%p0 " + store));
    EXPECT_FAULT("thread (16,0,0): reads a register", text(half + store));
    EXPECT_CLEAN(text(half + "selp.u32 %r2, %r2, 0, %p0;\n" + store));
    EXPECT_FAULT("thread (16,0,0): reads a register", text(half + "selp.u32 %r2, 0, %r1, %p0;\n" + store));
    // decisions
    EXPECT_FAULT("reads a predicate", text("@%p1 mov.u32 %r2, 0;"));
    std::string decide = "setp.eq.u32 %p1, %r1, 5;\nsetp.lt.u32 %p2, %r0, 99;\n";
    EXPECT_CLEAN(text(decide + "or.pred %p3, %p1, %p2;\n@%p3 mov.u32 %r2, 0;"));
    EXPECT_FAULT("reads a predicate", text(decide + "and.pred %p3, %p1, %p2;\n@%p3 bra DONE;\nDONE:"));

    std::string shared =
        ".shared .align 4 .b8 s[128];\nshl.b32 %r1, %r0, 2;\nmov.u32 %r2, s;\nadd.s32 %r1, %r1, %r2;\n";
    EXPECT_CLEAN(ptx_text("", shared + "st.shared.u32 [%r1], %r0;\nld.shared.u32 %r3, [%r1];"));
    EXPECT_FAULT("of shared memory, which nobody wrote", ptx_text("", shared + "ld.shared.u32 %r3, [%r1];"));

    char* fresh = memory.allocate(8, "fresh");
    EXPECT_FAULT("nobody wrote them", ptx_text("u64 x", "ld.global.u32 %r1, [%x];"), fresh);
    EXPECT_CLEAN(ptx_text("u64 x", "st.global.u32 [%x], 7;\nld.global.u32 %r1, [%x];"), fresh);
    EXPECT_FAULT("nobody wrote them", ptx_text("u64 x", "ld.global.v2.u32 {%r1, %r2}, [%x];"), fresh);
    // nvcc says where it reads more than it uses
    EXPECT_CLEAN(ptx_text("u64 x", ".pragma \"used_bytes_mask 15\";\nld.global.v2.u32 {%r1, %r2}, [%x];"), fresh);
}
// A block's shared memory is not what the block before left.
TEST_F(PtxFaults, SharedMemoryOfTheBlockBefore) {
    grid = {2};
    EXPECT_FAULT(
        "block (1,0,0), thread (0,0,0): reads byte 0 of shared memory",
        ptx_text("",
                 ".shared .align 4 .b8 s[4];\nmov.u32 %r1, %ctaid.x;\nor.b32 %r1, %r1, %r0;\nsetp.eq.u32 %p0, %r1, 0;\n"
                 "setp.eq.u32 %p1, %r0, 0;\n@%p0 st.shared.u32 [s], 1;\n@%p1 ld.shared.u32 %r2, [s];"));
}

// ---- barriers ----

std::string barrier_for(const std::string& condition, const std::string& barrier = "bar.sync 0;") {
    return ptx_text("", condition + "\n@%p0 bra DONE;\n" + barrier + "\nDONE:\nmov.u32 %r1, 0;");
}

TEST_F(PtxFaults, BarriersThatNotAllThreadsReach) {
    block = {64};
    EXPECT_CLEAN(barrier_for("setp.ge.u32 %p0, %r0, 64;"));
    EXPECT_CLEAN(barrier_for("setp.ge.u32 %p0, %r0, 0;"));
    EXPECT_FAULT("not all threads come to where others wait", barrier_for("setp.ge.u32 %p0, %r0, 32;"));
    EXPECT_FAULT("32 have ended", barrier_for("setp.ge.u32 %p0, %r0, 32;"));
    EXPECT_FAULT("not all threads come", ptx_text("", "setp.ge.u32 %p0, %r0, 32;\n@%p0 exit;\nbar.sync 0;"));
    EXPECT_FAULT("while others wait at",
                 ptx_text("", "setp.ge.u32 %p0, %r0, 32;\n@%p0 bar.sync 1;\n@!%p0 bar.sync 0;"));
}
TEST_F(PtxFaults, AlignedInstructionsUnderDivergence) {
    EXPECT_FAULT("is .aligned, but not all lanes", barrier_for("setp.ge.u32 %p0, %r0, 16;"));
    EXPECT_FAULT("is .aligned, but not all lanes", ptx_text("", "setp.ge.u32 %p0, %r0, 16;\n@%p0 bar.sync 0;"));
    std::string multiply =
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r1,%r1,%r1,%r1}, {%r1,%r1}, "
        "{%f0,%f0,%f0,%f0};";
    std::string zeros = "mov.u32 %r1, 0;\nmov.f32 %f0, 0f00000000;\n";
    EXPECT_CLEAN(barrier_for(zeros + "setp.ge.u32 %p0, %r0, 32;", multiply));
    EXPECT_FAULT("is .aligned, but only lanes 0000ffff", barrier_for(zeros + "setp.ge.u32 %p0, %r0, 16;", multiply));
    block = {16};  // lanes that never were
    EXPECT_FAULT("is .aligned, but only lanes 0000ffff", barrier_for(zeros + "setp.ge.u32 %p0, %r0, 32;", multiply));
}
TEST_F(PtxFaults, LanesThatNeverCome) {
    EXPECT_CLEAN(barrier_for("setp.ge.u32 %p0, %r0, 16;", "bar.warp.sync 65535;"));
    EXPECT_FAULT("not all threads come to where others wait",
                 barrier_for("setp.ge.u32 %p0, %r0, 16;\n@%p0 bra OTHER;\nbra.uni HERE;\n"
                             "OTHER:\nbar.warp.sync -1;\nret;\nHERE:",
                             "bar.warp.sync -1;"));
    EXPECT_FAULT("does not name the lane itself", ptx_text("", "bar.warp.sync 1;"));
    EXPECT_FAULT("takes from lane 31, which does not take part",
                 barrier_for("setp.ge.u32 %p0, %r0, 16;", "shfl.sync.idx.b32 %r1|%p1, %r0, 31, 31, 65535;"));
}
TEST_F(PtxFaults, UniformBranchesThatAreNot) {
    std::string text = "setp.ge.u32 %p0, %r0, 16;\n@%p0 bra.uni DONE;\nDONE:";
    EXPECT_FAULT("is .uni, but divides the warp", ptx_text("", text));
    block = {16};
    EXPECT_CLEAN(ptx_text("", text));
}

// ---- data races in shared memory ----

// s[tid] = tid, twice; BETWEEN; r3 = s[tid + distance], modulo 64
std::string neighbour(int distance, const std::string& between) {
    return ptx_text("",
                    ".shared .align 4 .b8 s[256];\nmov.u32 %r5, s;\nshl.b32 %r1, %r0, 2;\nadd.s32 %r1, %r1, %r5;\n"
                    "add.s32 %r2, %r0, " +
                        std::to_string(distance) +
                        ";\nand.b32 %r2, %r2, 63;\nshl.b32 %r2, %r2, 2;\nadd.s32 %r2, %r2, %r5;\nst.shared.u32 [%r1], "
                        "%r0;\nbar.sync 0;\nst.shared.u32 [%r1], %r0;\n" +
                        between + "\nld.shared.u32 %r3, [%r2];");
}
TEST_F(PtxFaults, ReadsBeforeTheBarrier) {
    block = {64};
    EXPECT_CLEAN(neighbour(0, ""));
    EXPECT_CLEAN(neighbour(32, "bar.sync 0;"));
    EXPECT_FAULT("data race in shared memory", neighbour(32, "membar.cta;"));
    EXPECT_FAULT("data race", neighbour(32, "bar.warp.sync -1;"));  // of other warps
}
TEST_F(PtxFaults, ReadsBeforeTheWarpsBarrier) {
    block = {64};
    std::string half = "xor.b32 %r2, %r1, 4;\n";  // the lane beside it
    EXPECT_CLEAN(neighbour(0, half + "bar.warp.sync -1;"));
    EXPECT_FAULT("data race", neighbour(0, half));
    EXPECT_FAULT("data race", neighbour(0, half + "shfl.sync.idx.b32 %r6, %r0, 0, 31, -1;"));  // orders no memory
    // a mask of half of the warp orders that half
    std::string mask =
        "setp.lt.u32 %p0, %r0, 16;\nsetp.lt.u32 %p1, %r0, 32;\nselp.u32 %r7, 65535, -65536, %p0;\n"
        "selp.u32 %r7, %r7, -1, %p1;\n";
    EXPECT_CLEAN(neighbour(0, half + mask + "bar.warp.sync %r7;"));
    EXPECT_FAULT("data race", neighbour(0, "xor.b32 %r2, %r1, 64;\n" + mask + "bar.warp.sync %r7;"));
}
// Order goes from lane to lane: 0 meets 1, then 1 meets 2; so what 0 wrote, 2 may read, and not the other way round.
TEST_F(PtxFaults, OrderIsPassedOn) {
    auto text = [](int writer, int reader) {
        return ptx_text("", ".shared .align 4 .b8 s[4];\nsetp.eq.u32 %p0, %r0, " + std::to_string(writer) +
                                ";\nsetp.eq.u32 %p1, %r0, " + std::to_string(reader) +
                                ";\nsetp.le.u32 %p2, %r0, 1;\nsub.s32 %r2, %r0, 1;\nsetp.le.u32 %p3, %r2, 1;\n"
                                "@%p0 st.shared.u32 [s], 1;\n@%p2 bar.warp.sync 3;\n@%p3 bar.warp.sync 6;\n@%p1 "
                                "ld.shared.u32 %r1, [s];");
    };
    EXPECT_CLEAN(text(0, 2));
    EXPECT_CLEAN(text(1, 0));
    EXPECT_FAULT("data race", text(2, 0));
    EXPECT_FAULT("data race", text(0, 3));
}
TEST_F(PtxFaults, WritesAfterReadsOfOthers) {
    block = {64};
    std::string write = "\nst.shared.u32 [%r1], %r0;";
    auto text = [&](const std::string& between) {
        std::string t = neighbour(32, "bar.sync 0;");
        return t.insert(t.find("\nret;"), between + write);
    };
    EXPECT_CLEAN(text("\nbar.sync 0;"));
    EXPECT_FAULT("data race", text(""));
}
TEST_F(PtxFaults, TwoWritesToOnePlace) {
    std::string all = ".shared .align 4 .b8 s[4];\n";
    EXPECT_CLEAN(ptx_text("", all + "setp.eq.u32 %p0, %r0, 5;\n@%p0 st.shared.u32 [s], %r0;"));
    EXPECT_FAULT("writes byte 0, which lane 0 of warp 0 wrote", ptx_text("", all + "st.shared.u32 [s], %r0;"));
}
TEST_F(PtxFaults, AtomicsMeetPlainAccesses) {
    block = {64};
    std::string start =
        ".shared .align 4 .b8 s[4];\nsetp.eq.u32 %p0, %r0, 0;\n@%p0 st.shared.u32 [s], 0;\nbar.sync 0;\n"
        "atom.shared.add.u32 %r1, [s], 1;\n";
    EXPECT_CLEAN(ptx_text("", start + "bar.sync 0;\nld.shared.u32 %r2, [s];"));
    EXPECT_FAULT("updated with no barrier between", ptx_text("", start + "ld.shared.u32 %r2, [s];"));
    EXPECT_FAULT("data race", ptx_text("", start + "@%p0 st.shared.u32 [s], 0;"));
    EXPECT_FAULT("updates byte 0 of shared memory, which nobody wrote",
                 ptx_text("", ".shared .align 4 .b8 s[4];\natom.shared.add.u32 %r1, [s], 1;"));
}

// s[tid] comes from x by cp.async, 16 bytes a thread; BETWEEN; the next thread's are read
std::string copied(const std::string& between, const std::string& before = "") {
    return ptx_text("u64 x",
                    ".shared .align 16 .b8 s[1024];\nmov.u32 %r5, s;\nshl.b32 %r1, %r0, 4;\ncvt.u64.u32 %d0, %r1;\n"
                    "add.s64 %d1, %x, %d0;\nxor.b32 %r2, %r1, 16;\nadd.s32 %r1, %r1, %r5;\nadd.s32 %r2, %r2, %r5;\n" +
                        before + "cp.async.cg.shared.global [%r1], [%d1], 16, 16;\ncp.async.commit_group;\n" + between +
                        "\nld.shared.u32 %r3, [%r2];");
}
TEST_F(PtxFaults, CopiesThatNobodyWaitsFor) {
    block = {64};
    char* x = tensor<char>(1024);
    EXPECT_CLEAN(copied("cp.async.wait_group 0;\nbar.sync 0;"), x);
    EXPECT_FAULT("cp.async", copied("bar.sync 0;"), x);
    EXPECT_FAULT("cp.async", copied("cp.async.wait_group 1;\nbar.sync 0;"), x);
    EXPECT_FAULT("data race", copied("cp.async.wait_group 0;"), x);  // what others copied
    EXPECT_FAULT("cp.async", copied("mov.u32 %r2, %r1;"), x);        // its own, too
    EXPECT_CLEAN(copied("cp.async.wait_group 0;\nmov.u32 %r2, %r1;"), x);
    EXPECT_FAULT("cp.async", copied("st.shared.u32 [%r1], 0;\ncp.async.wait_all;\nbar.sync 0;"), x);
    // a copy into what others still read
    std::string reads = "st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};\nbar.sync 0;\nld.shared.u32 %r4, [%r2];\n";
    EXPECT_CLEAN(copied("cp.async.wait_group 0;\nbar.sync 0;", reads + "bar.sync 0;\n"), x);
    EXPECT_FAULT("writes byte", copied("cp.async.wait_group 0;\nbar.sync 0;", reads), x);
}
TEST_F(PtxFaults, CopiesFromOutside) {
    block = {64};
    EXPECT_FAULT("thread (63,0,0): copies 16 bytes from memory that ends", copied("cp.async.wait_all;\nbar.sync 0;"),
                 tensor<char>(1020));
    EXPECT_FAULT("written by nobody", copied("cp.async.wait_all;\nbar.sync 0;"), memory.allocate(1024, "fresh"));
    std::string none = copied("cp.async.wait_all;\nbar.sync 0;");
    none.replace(none.find("16, 16;"), 7, "16, 0;");  // reads nothing, writes zeros
    EXPECT_CLEAN(none, memory.allocate(16, "small"));
}

// ---- the rest ----

TEST_F(PtxFaults, DivisionsByZeroTrapsAndEndlessLoops) {
    EXPECT_FAULT("thread (0,0,0): divides by zero", ptx_text("", "div.u32 %r1, 5, %r0;"));
    EXPECT_CLEAN(ptx_text("", "setp.ne.u32 %p0, %r0, 0;\n@%p0 div.u32 %r1, 5, %r0;"));
    EXPECT_FAULT("thread (7,0,0): trap", ptx_text("", "setp.eq.u32 %p0, %r0, 7;\n@%p0 trap;"));
    EXPECT_FAULT("does not end", ptx_text("", "AGAIN:\nbra AGAIN;"));
}
TEST_F(PtxFaults, LaunchesThatTheKernelDoesNotTake) {
    std::string text = ptx_text("u64 x, u32 n", "");
    EXPECT_FAULT("launched with 1 arguments, it has 2", text, uint64_t{0});
    EXPECT_FAULT("argument 2 has 8 bytes", text, uint64_t{0}, uint64_t{0});
    block = {2048};
    EXPECT_FAULT("launched with 2048 threads", text, uint64_t{0}, 0u);
    block = {32}, shared_bytes = 228 << 10;
    EXPECT_FAULT("bytes of shared memory", text, uint64_t{0}, 0u);
}
TEST_F(PtxFaults, WhatTheMachineDoesNotKnowIsRefused) {
    EXPECT_THROW(run(ptx_text("", "add.rn.f16x2 %r1, %r0, %r0;"), 0), ptx::Fault);
    EXPECT_THROW(run(ptx_text("", "frobnicate.u32 %r1, %r0;"), 0), ptx::Fault);
    EXPECT_THROW(run(ptx_text("", "mov.u32 %r1, %unknown;"), 0), ptx::Fault);
    EXPECT_THROW(run(ptx_text("", "bra NOWHERE;"), 0), ptx::Fault);
}
// The message leads to the place.
TEST_F(PtxFaults, TheMessageNamesThePlace) {
    std::string text = ptx_text("", ".loc 1 42 7\ndiv.u32 %r1, 5, %r0;", ".file 1 \"layer.cuh\"");
    EXPECT_FAULT("test_kernel, block (0,0,0), thread (0,0,0): divides by zero\n  at layer.cuh:42, PTX line ", text);
    EXPECT_FAULT("div.u32 %r1, 5, %r0;", text);
}

}  // namespace
