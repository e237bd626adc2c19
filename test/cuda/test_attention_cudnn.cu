// cuDNN's attention against the program's own (which test_attention.cu checks), and when which is taken. In the tests on the
// CPU cuDNN is a stand-in.
#include <cstdlib>
#include "llmc/base/error.h"
#include "llmc/cuda/attention_cudnn.h"
#include "llmc/cuda/device.cuh"
#include "test/cuda/device_test.h"

namespace {

class CudnnAttention : public ::testing::Test {
  protected:
    void SetUp() override {
        setenv("CUDAHOST_CUDNN", "1", 1);
        if (const std::string why = attention_cudnn_missing(); !why.empty()) GTEST_SKIP() << why;
    }
    void TearDown() override { device() = before, unsetenv("CUDAHOST_CUDNN"); }
    CudaDevice before = device();
};

void compare(int B, int T, int NH, int HS) {
    SCOPED_TRACE(::testing::Message() << "B " << B << " T " << T << " NH " << NH << " HS " << HS);
    int C = NH * HS;
    AttentionShape shape = packed_qkv_shape(B, T, C, NH);
    if (!attention_cudnn_supports(shape, true)) GTEST_SKIP() << "cuDNN has no such attention on this GPU";
    size_t n = size_t(B) * size_t(T) * size_t(C), rows = size_t(B) * size_t(T) * size_t(NH);
    size_t bytes =
        std::max({attention_own_backward_workspace_bytes(shape), attention_cudnn_workspace_bytes(shape, false),
                  attention_cudnn_workspace_bytes(shape, true)});
    reserve_workspace(bytes);
    DeviceVector<bf16> qkv(random_vector<bf16>(3 * n, 1)), dout(random_vector<bf16>(n, 2)), own_out(n), out(n),
        own_dqkv(3 * n), dqkv(3 * n), again(3 * n);
    DeviceVector<float> own_lse(rows), lse(rows);
    const bf16 *q = qkv.get(), *k = q + C, *v = k + C;
    cudaStream_t stream = current_stream();
    attention_own_forward(own_out.get(), own_lse.get(), q, k, v, shape, nullptr, Dropout{}, stream);
    attention_own_backward(own_dqkv.get(), own_dqkv.get() + C, own_dqkv.get() + 2 * C, dout.get(), q, k, v,
                           own_out.get(), own_lse.get(), shape, nullptr, Dropout{}, nullptr, stream);
    attention_forward_cudnn(out.get(), lse.get(), q, k, v, shape, workspace<char>(bytes), stream);
    auto backward = [&](DeviceVector<bf16>& d) {
        attention_backward_cudnn(d.get(), d.get() + C, d.get() + 2 * C, dout.get(), q, k, v, out.get(), lse.get(),
                                 shape, workspace<char>(bytes), stream);
    };
    backward(dqkv), backward(again);
    EXPECT_LT(relative_error(out.host(), own_out.host()), 2 * rounding<bf16>);
    EXPECT_LT(relative_error(lse.host(), own_lse.host()), 1e-3);
    EXPECT_LT(relative_error(dqkv.host(), own_dqkv.host()), 4 * rounding<bf16>);
    EXPECT_EQ(relative_error(dqkv.host(), again.host()), 0);
}

TEST_F(CudnnAttention, EqualsOwn) {
    is_cudahost ? compare(1, 40, 3, 64) : compare(2, 128, 4, 64);
    if (!is_cudahost) compare(1, 1024, 12, 64);
    compare(3, is_cudahost ? 33 : 192, 2, 128);
}
TEST_F(CudnnAttention, OddLength) { compare(2, 77, 3, 64); }
TEST_F(CudnnAttention, RefusesWhatItHasNot) {
    AttentionShape shape = packed_qkv_shape(1, 64, 256, 4);
    shape.Tq = 1;
    EXPECT_FALSE(attention_cudnn_supports(shape, false));
}

// The layer computes by cuDNN what --attention leaves to it and what it has, and all else by the program's own kernels.
TEST_F(CudnnAttention, IsTakenWhereItIsAskedForAndHasTheShape) {
    const int B = 1, T = 24, NH = 2, HS = 64, C = NH * HS;
    const AttentionShape shape = packed_qkv_shape(B, T, C, NH);
    const size_t n = size_t(B) * T * C;
    device().attention = AttentionLibrary::cudnn;
    reserve_workspace(std::max(attention_forward_workspace_bytes(shape), attention_backward_workspace_bytes(shape)));
    DeviceVector<bf16> qkv(random_vector<bf16>(3 * n, 1)), out(n), library(n), own(n);
    DeviceVector<float> lse(size_t(B) * T * NH);
    DeviceVector<int> documents(std::vector<int>(size_t(B) * T, 0));
    DeviceVector<StepState> state(1);
    cudaStream_t stream = current_stream();
    const bf16 *q = qkv.get(), *k = q + C, *v = k + C;
    attention_forward_cudnn(library.get(), lse.get(), q, k, v, shape, workspace<char>(1), stream);
    attention_own_forward(own.get(), lse.get(), q, k, v, shape, nullptr, Dropout{}, stream);
    ASSERT_NE(library.host(), own.host());  // else the rest says nothing
    const auto forward = [&](float* lse_or_null, const int* doc_start) {
        attention_forward(out.get(), lse_or_null, q, k, v, shape, doc_start, Dropout{}, stream);
        return out.host();
    };
    EXPECT_EQ(forward(lse.get(), nullptr), library.host());
    EXPECT_EQ(forward(nullptr, nullptr), own.host());  // inference
    EXPECT_EQ(forward(lse.get(), documents.get()), own.host());
    if (is_cudahost) {
        setenv("CUDAHOST_CUDNN", "forward",
               1);  // without a backward pass in a fixed order, none of its forward pass either
        EXPECT_EQ(forward(lse.get(), nullptr), own.host());
    }
    device().attention = AttentionLibrary::own;
    EXPECT_EQ(forward(lse.get(), nullptr), own.host());
}

TEST_F(CudnnAttention, IsTheChoiceOfHopper) {
    if (!is_cudahost) GTEST_SKIP() << "of other GPUs than this one";
    const auto choice = [](int capability, const char* asked = "auto", bool bf16 = true) {
        DeviceOptions options;
        options.matmul = "own", options.attention = asked;
        device().capability = capability;
        configure_device(options, bf16);
        EXPECT_EQ(options.attention == "cudnn", device().attention == AttentionLibrary::cudnn);
        return options.attention;  // as it is recorded
    };
    for (int capability : {80, 86, 89, 120}) EXPECT_EQ(choice(capability), "own") << capability;
    for (int capability : {90, 100}) EXPECT_EQ(choice(capability), "cudnn") << capability;
    EXPECT_EQ(choice(80, "cudnn"), "cudnn");
    EXPECT_EQ(choice(90, "own"), "own");
    EXPECT_EQ(choice(90, "auto", false), "auto");  // fp32: nobody is asked
    const auto says = [](const char* asked, float dropout, int C = 128) {
        DeviceOptions options;
        options.matmul = "own", options.attention = asked;
        configure_device(options, true);
        ModelConfig model;
        model.C = C, model.NH = 2;
        StepOptions o;
        o.B = 1, o.T = 8, o.dropout = dropout;
        std::string all;
        for (const std::string& line : device_choices(options, model, o)) all += line + "\n";
        return all;
    };
    EXPECT_EQ(says("auto", 0),
              "attention: by cuDNN 9.13.0, in a fixed order (--attention own: by the program's own kernels)\n");
    EXPECT_NE(says("auto", 0.1f).find("own kernels; cuDNN 9.13.0 is not asked for attention with dropout"),
              std::string::npos);
    EXPECT_NE(says("auto", 0, 288).find("none in a fixed order for heads of 144"), std::string::npos);
    EXPECT_EQ(says("own", 0), "");
    unsetenv("CUDAHOST_CUDNN");
    EXPECT_EQ(choice(90), "own");
    EXPECT_NE(says("auto", 0).find("cuDNN's would be faster on this GPU: cuDNN is missing"), std::string::npos);
    try {
        choice(90, "cudnn");
        FAIL();
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("or give --attention own"), std::string::npos) << e.what();
    }
}

}  // namespace
