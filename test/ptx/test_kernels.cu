// The kernels of the default path, counted at the size of 124M: they keep what held.h says. And that breaking it would show.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <unistd.h>

#include "dev/bench/cuda/step_kernels.cuh"
#include "test/cuda/device_test.h"
#include "test/cudahost/counted.h"
#include "test/cudahost/heap.h"
#include "test/ptx/held.h"

namespace {

// Coalescing of all that a kernel reads and writes.
const ptx::Held kHeld[] = {
    {.kernel = "column_sums_kernel<true",
     .coalescing = 0.98,
     .why = "partial sums: neighbouring threads have columns W apart"},
    {.kernel = "attention_mma::forward_kernel",
     .coalescing = 0.91,
     .why = "four lanes store 16 bytes of a row of the result"},
    {.kernel = "attention_mma::backward_kernel<true",
     .coalescing = 0.87,
     .spills = 8,
     .why = "the same, of dk and dv; sm_80: one register, on the way to the column sums at the end"},
    {.kernel = "attention_mma::backward_kernel<false", .coalescing = 0.93, .why = "the same, of dq"},
    {.kernel = "layernorm_backward_kernel", .coalescing = 0.91, .why = "at its end, sums of W columns a thread"},
    {.kernel = "add_rows_by_token_kernel", .coalescing = 0.62, .why = "sums of W columns a thread, by 16 bytes"},
    {.kernel = "add_rows_by_position_kernel", .coalescing = 0.94, .why = "the same"},
};
const ptx::Held& held_of(const std::string& kernel) {
    static const ptx::Held all{.kernel = ""};
    for (const ptx::Held& h : kHeld)
        if (kernel.compare(0, strlen(h.kernel), h.kernel) == 0) return h;
    return all;
}

class PtxKernels : public ::testing::Test {
  protected:
    void SetUp() override {
        before_ = device();
        cudahost::large_sizes();
        device().multiprocessors = 132, device().l2_bytes = 0;
    }
    void TearDown() override { device() = before_, CUDA_CHECK(cudaDeviceSynchronize()), cudahost::check(); }
    // of a step of 124M: layers with and without GELU in their products
    static std::vector<cudahost::CountedLaunch> launches() {
        std::vector<cudahost::CountedLaunch> all;
        ModelConfig m;
        parse_model_size("d12", &m);
        m.V = kGpt2Vocabulary;
        device().gelu_fusion = 0;
        bench::step_kernels(
            m, 64, 1024, false, [](cudaStream_t, auto*, int64_t, float, float) {},
            [&](cudaStream_t stream, const std::string& name, double, Bound bound, double, double, auto work) {
                // the bias gradients are one kernel, on what others leave
                if (bound == Bound::product || (name.find("bias") != std::string::npos && name.find("qkv") != 0))
                    return;
                cudahost::count_launches(&all);
                work();
                CUDA_CHECK(cudaStreamSynchronize(stream));
                cudahost::count_launches(nullptr);
            });
        return all;
    }

  private:
    CudaDevice before_;
};

TEST_F(PtxKernels, OfTheDefaultPathKeepWhatTheyHave) {
    std::map<std::string, std::vector<std::string>> by_file;
    std::map<std::string, std::string> names;
    for (const auto& l : launches()) {
        const std::string& name = l.kernel->demangled;
        for (const std::string& c : ptx::complaints(name, l.totals(), held_of(name))) ADD_FAILURE() << c;
        if (names.emplace(l.kernel->name, name).second) by_file[l.file].push_back(l.kernel->name);
    }
    EXPECT_GE(names.size(), 18u);
    for (const auto& [file, kernels] : by_file)
        for (int capability : {80, 90})
            for (const auto& [kernel, resources] : ptx::resources(PTXAS, file, capability, kernels))
                for (const std::string& c : ptx::complaints(names[kernel], resources, held_of(names[kernel])))
                    ADD_FAILURE() << c << " (sm_" << capability << ")";
    for (const ptx::Held& h : kHeld) {
        bool used = false;
        for (const auto& [mangled, name] : names) used |= name.compare(0, strlen(h.kernel), h.kernel) == 0;
        EXPECT_TRUE(used) << h.kernel << " is in the table, but no step launches it";
    }
}

// ---- planted ----

std::string planted(const std::string& body) {
    return ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry planted_kernel(.param .u64 p_x)\n.maxntid "
           "1024\n{\n"
           ".reg .b32 %r<8>;\n.reg .f32 %f<256>;\n.reg .b64 %d<4>;\n.shared .align 16 .b8 s[4096];\n"
           "ld.param.u64 %d0, [p_x];\nmov.u32 %r0, %tid.x;\n" +
           body + "\nret;\n}\n";
}
std::vector<std::string> found_in(const std::string& body) {
    ptx::Memory memory{size_t{1} << 30};
    char* x = memory.allocate(1 << 16, "x", true);
    ptx::Module module = ptx::parse(planted(body));
    ptx::Counters counters;
    ptx::Launch l{{1}, {32}, 0, ptx::arguments(x)};
    l.counters = &counters;
    ptx::launch(memory, *module.kernel("planted_kernel"), l);
    return ptx::complaints("planted_kernel", counters.totals(), {.kernel = "planted_kernel"});
}
TEST(PtxKernelsPlanted, ConflictsAndScatteredAccessesShow) {
    auto shared = [](int stride) {
        return "mul.lo.u32 %r1, %r0, " + std::to_string(stride) +
               ";\nmov.u32 %r2, s;\nadd.s32 %r1, %r1, %r2;\nst.shared.u32 [%r1], %r0;";
    };
    EXPECT_TRUE(found_in(shared(4)).empty());
    ASSERT_EQ(found_in(shared(8)).size(), 1u);
    EXPECT_EQ(found_in(shared(8))[0], "planted_kernel: bank conflicts 1, held to 0");
    auto global = [](int stride) {
        return "mul.wide.u32 %d1, %r0, " + std::to_string(stride) +
               ";\nadd.s64 %d1, %d0, %d1;\nst.global.u32 [%d1], %r0;";
    };
    EXPECT_TRUE(found_in(global(4)).empty());
    ASSERT_EQ(found_in(global(8)).size(), 1u);
    EXPECT_EQ(found_in(global(8))[0], "planted_kernel: coalescing 0.5, held to 1");
}
// 1024 threads leave 64 registers for each; a kernel that keeps more values than that spills some.
TEST(PtxKernelsPlanted, SpillsShow) {
    auto spilled = [](int values) {
        std::string body = "mul.wide.u32 %d1, %r0, 1024;\nadd.s64 %d1, %d0, %d1;\n";
        for (int i = 0; i < values; i++)
            body += "ld.global.volatile.f32 %f" + std::to_string(i) + ", [%d1+" + std::to_string(4 * i) + "];\n";
        for (int i = 0; i < values; i++)
            body += "st.global.volatile.f32 [%d1+" + std::to_string(4 * i) + "], %f" + std::to_string(values - 1 - i) +
                    ";\n";
        const std::string file = ::testing::TempDir() + "planted_" + std::to_string(getpid()) + ".ptx";
        std::ofstream(file) << planted(body);
        auto found = ptx::resources(PTXAS, file, 80, {"planted_kernel"});
        std::filesystem::remove(file);
        return ptx::complaints("planted_kernel", found["planted_kernel"], {.kernel = "planted_kernel"});
    };
    EXPECT_TRUE(spilled(16).empty());
    ASSERT_EQ(spilled(100).size(), 1u);
    EXPECT_NE(spilled(100)[0].find("bytes of spilled registers, held to 0"), std::string::npos);
}
TEST(PtxKernelsPlanted, ErrorsOfPtxasAreSaid) {
    EXPECT_THROW(ptx::resources(PTXAS, "/nowhere.ptx", 80, {"planted_kernel"}), ptx::Fault);
}

}  // namespace
