// cuDNN's attention against the program's own (which test_attention.cu checks), on a GPU: make test_cuda USE_CUDNN=1
#ifdef USE_CUDNN
#include "llmc/cuda/attention_cudnn.h"
#include "test/cuda/device_test.h"

namespace {

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

TEST(CudnnAttention, EqualsOwn) {
    compare(2, 128, 4, 64);
    compare(1, 1024, 12, 64);
    compare(3, 192, 2, 128);
}
TEST(CudnnAttention, OddLength) { compare(2, 77, 3, 64); }
TEST(CudnnAttention, RefusesWhatItHasNot) {
    AttentionShape shape = packed_qkv_shape(1, 64, 256, 4);
    shape.Tq = 1;
    EXPECT_FALSE(attention_cudnn_supports(shape, false));
}

}  // namespace
#endif
