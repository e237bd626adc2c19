// The kernels at the sizes of real models, on PTX, four blocks of each launch: the first, the last and two more. What they
// compute is zeros; where they read and write is what a GPU would: an index that overflows, or a grid that is too large, shows.
#include "test/cuda/device_test.h"
#include "test/cudahost/heap.h"

namespace {

template <typename X>
struct Sparse {
    explicit Sparse(size_t n) { CUDA_CHECK(cudaMalloc(&p, n * sizeof(X))); }
    ~Sparse() { cudaFree(p); }
    operator X*() const { return static_cast<X*>(p); }
    void* p = nullptr;
};

struct Size {
    const char* name;
    int B, T, L, C, NH;
    int64_t parameters;
    int vocabulary = 50257, padded = 50304;
    size_t rows() const { return static_cast<size_t>(B) * static_cast<size_t>(T); }
    size_t activations() const { return rows() * static_cast<size_t>(C); }
};
void PrintTo(const Size& s, std::ostream* out) { *out << s.name; }

constexpr size_t kWorkspace = size_t{3} << 30;

class PtxSizes : public ::testing::TestWithParam<Size> {
  protected:
    void SetUp() override {
        cudahost::large_sizes();
        device().multiprocessors = 132;
        if (device().workspace_bytes < kWorkspace) reserve_workspace(kWorkspace);
    }
    void TearDown() override { CUDA_CHECK(cudaDeviceSynchronize()), cudahost::check(); }

    const Size s = GetParam();
    const int N = static_cast<int>(s.rows()), C = s.C;
    const size_t n = s.activations(), c = static_cast<size_t>(s.C);
    cudaStream_t stream = current_stream();
    Sparse<StepState> state{1};
};

TEST_P(PtxSizes, EncoderAndDropout) {
    Sparse<bf16> out(n), wte(c * static_cast<size_t>(s.padded)), wpe(c * static_cast<size_t>(s.T));
    Sparse<int> tokens(s.rows());
    Sparse<float> dwpe(c * static_cast<size_t>(s.T));
    encoder_forward<bf16>(out, tokens, nullptr, wte, wpe, nullptr, s.B, s.T, C, Dropout{0.1f, 3, state}, stream);
    dropout_apply<bf16>(out, out, s.B, int64_t(s.T) * C, Dropout{0.1f, 3, state}, stream);
}
TEST_P(PtxSizes, LayerNorm) {
    device().multiprocessors = 2048;  // few rows a block
    Sparse<bf16> r(n), y(n), a(n), b(n), w(c), bias(c);
    Sparse<float> mean(s.rows()), rstd(s.rows()), dw(c), dbias(c);
    Sparse<float> parts(static_cast<size_t>(layernorm_backward_blocks(N, C, 2048)) * c);
    ColumnSums<bf16> sums{parts};
    layernorm_forward<bf16>(y, mean, rstd, a, w, bias, N, C, 1e-5f, stream);
    residual_layernorm_forward<bf16>(r, y, mean, rstd, a, b, w, bias, N, C, s.T, Dropout{0, 1, state}, 1e-5f, stream);
    layernorm_backward<bf16>(a, dw, dbias, y, r, w, mean, rstd, N, C, &sums, stream);
}
TEST_P(PtxSizes, Gelu) {
    Sparse<bf16> y(4 * n), x(4 * n);
    gelu_forward<bf16>(y, x, int64_t(4 * n), stream);
    gelu_backward<bf16>(y, x, y, int64_t(4 * n), stream);
    Sparse<float> parts(256 * 4 * c);
    ColumnSums<bf16> sums{parts};
    gelu_backward_with_sums<bf16>(y, x, y, N, 4 * C, &sums, stream);
}
TEST_P(PtxSizes, Attention) {
    AttentionShape shape = packed_qkv_shape(s.B, s.T, C, s.NH);
    Sparse<bf16> qkv(3 * n), dqkv(3 * n), out(n), dout(n);
    Sparse<float> lse(static_cast<size_t>(s.NH) * s.rows());
    Sparse<float> parts(static_cast<size_t>(attention_sum_parts(shape)) * 3 * c);
    ColumnSums<bf16> sums{parts};
    attention_own_forward(out, lse, qkv, qkv + C, qkv + 2 * C, shape, nullptr, Dropout{0, 1, state}, stream);
    attention_own_backward(dqkv, dqkv + C, dqkv + 2 * C, dout, qkv, qkv + C, qkv + 2 * C, out, lse, shape, nullptr,
                           Dropout{0, 1, state}, &sums, stream);
}
TEST_P(PtxSizes, Classifier) {
    Sparse<bf16> logits(s.rows() * static_cast<size_t>(s.padded));
    Sparse<float> losses(s.rows());
    Sparse<int> targets(s.rows());
    fused_classifier<bf16>(logits, losses, targets, nullptr, state, N, s.vocabulary, s.padded, true, stream);
}
TEST_P(PtxSizes, Products) {
    int V = s.padded, F = 4 * C, K = std::min(C, 768);  // a longer K is only more of the same
    auto one_tile_a_block = [&](int columns) { device().multiprocessors = ceil_div(N, 256) * ceil_div(columns, 128); };
    Sparse<bf16> x(n), wte(c * static_cast<size_t>(V)), logits(s.rows() * static_cast<size_t>(V)), w(4 * c * c),
        y(4 * n), aux(4 * n), bias(4 * c);
    Sparse<float> dw(4 * c * c), dbias(4 * c);
    one_tile_a_block(V);
    matmul_own<bf16, bf16>({.out = logits, .a = x, .b = wte, .M = N, .N = V, .K = K, .b_transposed = true}, stream);
    one_tile_a_block(F);
    matmul_own<bf16, bf16>({.out = y,
                            .a = x,
                            .b = w,
                            .M = N,
                            .N = F,
                            .K = K,
                            .b_transposed = true,
                            .bias = bias,
                            .epilogue = Epilogue::gelu,
                            .aux = aux},
                           stream);
    bias_backward<bf16>(dbias, y, N, F, stream);
}
TEST_P(PtxSizes, Optimizer) {
    const int64_t P = s.parameters;
    Sparse<bf16> p(static_cast<size_t>(P));
    Sparse<float> master(static_cast<size_t>(P)), grad(static_cast<size_t>(P)), sum(static_cast<size_t>(P));
    Sparse<char> m(4 * static_cast<size_t>(P)), v(4 * static_cast<size_t>(P));
    Sparse<OptimizerSegment> segments(1);
    OptimizerSegment all{.begin = 0, .n = P, .v_shift = 0, .weight_decay = 0.1f};
    CUDA_CHECK(cudaMemcpy(segments, &all, sizeof all, cudaMemcpyHostToDevice));
    optimizer_update<bf16>({p, master, Moment{m}, Moment{v}, grad}, segments, 1, 0, P,
                           OptimizerOptions{.beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f}, state, stream);
    scale_by<float>(grad, 0.5f, P, stream);
    add_to(sum, grad, P, stream);
}

INSTANTIATE_TEST_SUITE_P(Of, PtxSizes,
                         ::testing::Values(Size{"d12", 64, 1024, 12, 768, 12, 124475904},
                                           Size{"d48", 64, 1024, 48, 1600, 25, 1557686400},
                                           // one rank of sixteen has so many of the parameters
                                           Size{"gpt3_175b", 32, 2048, 96, 12288, 96, 10913020800}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
