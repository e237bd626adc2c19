// What a step of the CUDA program launches, as a list: the layers at the step's shapes, one at a time, on tensors of their own. It is
// timed (kernels.cuh) and counted (test/ptx/report.cu).
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <vector>
#include "dev/bench/cuda/measure.cuh"
#include "llmc/cuda/layers.cuh"
#include "llmc/model/activations.h"
#include "llmc/model/parameters.h"

namespace bench {

// One micro-batch of B sequences of T tokens and the update, in bf16. For each layer: each(stream, name, calls in a step, bound,
// FLOPs, bytes that have to move, work), where work() puts it into the stream. set(stream, p, n, scale, mean): the values that
// tensors have before. cudnn: the attention is cuDNN's, which leaves no column sums.
template <typename Set, typename Each>
void step_kernels(const ModelConfig& m, int B, int T, bool cudnn, Set set, Each each) {
    using X = bf16;
    int N = B * T, C = m.C, Vp = m.Vp(), L = m.L;
    int64_t NC = int64_t(N) * C;
    int chunk = static_cast<int>(kGpuLogits.chunk(N, m.Vp()));
    double chunks = double(N) / chunk, S = sizeof(X), x_bytes = static_cast<double>(NC) * S, rows = std::min(N, m.V);
    std::vector<Parameter> table = parameter_table(m);
    int64_t parameters = arena_size(table);
    auto shape = packed_qkv_shape(B, T, C, m.NH);

    DeviceArena arena;
    X *x, *y, *z, *r, *wide, *wide2, *wide3, *logits, *w, *bias;
    float *mean, *rstd, *lse, *losses, *dw, *db, *master, *m1, *m2;
    int *tokens, *targets;
    StepState* state;
    double* norm;
    OptimizerSegment* segments;
    char* workspace;
    ColumnSums<X> sums;
    const int64_t sum_elements =
        column_sums_elements(N, C, 4 * C, shape, device().multiprocessors, device().matmul == MatmulLibrary::own);
    int64_t workspace_bytes = static_cast<int64_t>(
        std::max({matmul_own_workspace_bytes(device().multiprocessors), bias_backward_workspace_bytes(N, 4 * C),
                  layernorm_backward_workspace_bytes(N, C, device().multiprocessors),
                  encoder_backward_workspace_bytes(N, sort_scratch_bytes(N)), attention_forward_workspace_bytes(shape),
                  attention_backward_workspace_bytes(shape), global_norm_workspace_bytes(device().multiprocessors)}));
    for (X** p : {&x, &y, &z, &r}) arena.add(p, NC);
    for (X** p : {&wide, &wide2, &wide3}) arena.add(p, 4 * NC);
    arena.add(&logits, int64_t(chunk) * Vp), arena.add(&w, parameters), arena.add(&bias, std::max(Vp, 4 * C));
    arena.add(&mean, N), arena.add(&rstd, N), arena.add(&lse, int64_t(N) * m.NH), arena.add(&losses, N);
    for (float** p : {&dw, &master, &m1, &m2}) arena.add(p, parameters);
    arena.add(&db, std::max(Vp, 4 * C)), arena.add(&tokens, N), arena.add(&targets, N), arena.add(&state, 1);
    arena.add(&norm, 1), arena.add(&segments, static_cast<int64_t>(table.size())),
        arena.add(&workspace, workspace_bytes);
    arena.add(&sums.parts, sum_elements);
    arena.allocate("the tensors of a step", true);
    device().workspace_data = workspace, device().workspace_bytes = static_cast<size_t>(workspace_bytes);

    cudaStream_t stream = nullptr;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    std::unique_ptr<CUstream_st, cudaError_t (*)(cudaStream_t)> stream_owner(stream, cudaStreamDestroy);
    for (X* p : {x, y, z, r}) set(stream, p, NC, 1.0f, 0.0f);
    for (X* p : {wide, wide2, wide3}) set(stream, p, 4 * NC, 1.0f, 0.0f);
    set(stream, w, parameters, 0.02f, 0.0f), set(stream, master, parameters, 0.02f, 0.0f),
        set(stream, dw, parameters, 1e-4f, 0.0f);
    set(stream, bias, std::max(Vp, 4 * C), 0.02f, 0.0f), set(stream, rstd, N, 0.0f, 1.0f);
    Batch batch = random_batch(B, T, m.V);
    auto upload = [&](auto* to, const auto* from, size_t n) {
        CUDA_CHECK(cudaMemcpyAsync(to, from, n * sizeof *to, cudaMemcpyHostToDevice, stream));
        CUDA_CHECK(cudaStreamSynchronize(stream));
    };
    StepState host_state;
    host_state.learning_rate = 1e-5f, host_state.beta1_correction = 0.1f, host_state.beta2_correction = 0.05f;
    host_state.loss_normaliser = 1.0f / static_cast<float>(N);
    std::vector<OptimizerSegment> host_segments;
    for (const Parameter& p : table) host_segments.push_back({p.offset, p.size(), 0, p.weight_decay ? 0.1f : 0.0f});
    upload(tokens, batch.inputs.data(), batch.inputs.size()),
        upload(targets, batch.targets.data(), batch.targets.size());
    upload(state, &host_state, 1), upload(segments, host_segments.data(), host_segments.size());
    auto row = [&](const std::string& name, double calls, Bound bound, double flops, double bytes, auto work) {
        each(stream, name, calls, bound, flops, bytes, work);
    };
    // y (n rows,OC) = x . w^T and its two backward products and bias gradient; calls: how often a step does it; parts: of
    // column sums that who makes the gradient leaves, 0: none, kNone: there is no bias
    constexpr int kNone = -1;
    const int norm_parts = layernorm_backward_blocks(N, C, device().multiprocessors);
    const int gelu_parts = ceil_div(N, bias_backward_rows(N));
    bool own = device().matmul == MatmulLibrary::own;
    bool gelu_fused = own || device().gelu_fusion >= 1, gelu_backward_fused = own || device().gelu_fusion >= 2;
    auto linear = [&](const char* name, X* out, X* in, int n, int IC, int OC, double calls, int parts) {
        bool head = parts == kNone, fc = !head && OC == 4 * IC, fcproj = !head && IC == 4 * OC;
        double flops = 2.0 * n * IC * OC, moved = double(n) * (IC + OC) * S, weight = double(IC) * OC;
        double wide_bytes = 4 * x_bytes;
        Matmul<X> forward{.out = out, .a = in, .b = w, .M = n, .N = OC, .K = IC};
        forward.b_transposed = true, forward.bias = head ? nullptr : bias;
        if (fc && gelu_fused) forward.epilogue = Epilogue::gelu, forward.aux = wide3;
        row(std::string(name) + (fc && gelu_fused ? " forward + GELU" : " forward"), calls, Bound::product, flops,
            moved + weight * S + (fc && gelu_fused ? wide_bytes : 0), [&] { matmul(forward, stream); });
        Matmul<X> dgrad{.out = in, .a = out, .b = w, .M = n, .N = IC, .K = OC};
        if (fcproj && gelu_backward_fused) dgrad.epilogue = Epilogue::gelu_backward, dgrad.aux = wide3;
        row(std::string(name) + (fcproj && gelu_backward_fused ? " dgrad + GELU backward" : " dgrad"), calls,
            Bound::product, flops, moved + weight * S + (fcproj && gelu_backward_fused ? wide_bytes : 0),
            [&] { matmul(dgrad, stream); });
        Matmul<X, float> wgrad{.out = dw, .a = out, .b = in, .M = OC, .N = IC, .K = n};
        wgrad.a_transposed = true, wgrad.accumulate = head && calls > 1;
        row(std::string(name) + " wgrad", calls, Bound::product, flops, moved + weight * (wgrad.accumulate ? 8 : 4),
            [&] { matmul(wgrad, stream); });
        if (parts != kNone) {  // those of fc come with GELU's backward pass, where that is a kernel
            ColumnSums<X> left{sums.parts, parts, parts ? out : nullptr};
            row(std::string(name) + (parts ? " bias gradient" : " bias gradient, a pass"), calls, Bound::memory, 0,
                (parts ? 0 : double(n) * OC * S) + 8.0 * OC, [&] {
                    ColumnSums<X> taken = left;
                    matmul_backward<X>(nullptr, nullptr, db, out, in, w, nullptr, n, IC, OC, true, &taken, stream);
                });
        }
        set(stream, in, int64_t(n) * IC, 1.0f, 0.0f),
            set(stream, out, int64_t(n) * OC, 1.0f, 0.0f);  // as they were: products grow
    };

    row("encoder forward", 1, Bound::memory, 0, 4.0 * N + (rows + T) * C * S + x_bytes,
        [&] { encoder_forward<X>(x, tokens, nullptr, w, w, nullptr, B, T, C, Dropout{}, stream); });
    row("layernorm forward", 1, Bound::memory, 0, 2 * x_bytes + 8.0 * N,
        [&] { layernorm_forward(y, mean, rstd, x, w, bias, N, C, 1e-5f, stream); });
    row("residual + layernorm forward", 2 * L, Bound::memory, 0, 4 * x_bytes + 8.0 * N,
        [&] { residual_layernorm_forward(r, y, mean, rstd, x, z, w, bias, N, C, T, Dropout{}, 1e-5f, stream); });
    set(stream, rstd, N, 0.0f, 1.0f), set(stream, mean, N, 0.0f, 0.0f), set(stream, x, NC, 1.0f, 0.0f),
        set(stream, y, NC, 1.0f, 0.0f);
    linear("qkv", wide, x, N, C, 3 * C, L, cudnn ? 0 : attention_sum_parts(shape));
    linear("attention projection", y, x, N, C, C, L, norm_parts);
    linear("fc", wide, x, N, C, 4 * C, L, own ? ceil_div(N, 64) : gelu_backward_fused ? 0 : gelu_parts);
    linear("fcproj", x, wide, N, 4 * C, C, L, norm_parts);
    if (!gelu_fused)
        row("GELU forward", L, Bound::memory, 0, 8 * x_bytes, [&] { gelu_forward(wide2, wide, 4 * NC, stream); });
    if (!gelu_backward_fused)
        row("GELU backward", L, Bound::memory, 0, 12 * x_bytes,
            [&] { gelu_backward_with_sums(wide2, wide, wide3, N, 4 * C, &sums, stream); });
    double causal = 2.0 * N * T * C, lse_bytes = 4.0 * N * m.NH;
    const std::string attention = cudnn ? "cuDNN's attention" : "attention";
    row(attention + " forward", L, Bound::attention, causal, 4 * x_bytes + lse_bytes, [&] {
        attention_forward(y, lse, wide, wide + C, wide + 2 * C, shape, static_cast<const int*>(nullptr), Dropout{},
                          stream);
    });
    row(attention + " backward", L, Bound::attention, 2.5 * causal, 8 * x_bytes + lse_bytes, [&] {
        attention_backward(wide2, wide2 + C, wide2 + 2 * C, z, wide, wide + C, wide + 2 * C, y, lse, shape,
                           static_cast<const int*>(nullptr), Dropout{}, &sums, stream);
    });
    linear("LM head", logits, x, chunk, C, Vp, chunks, kNone);
    row("softmax, loss, dlogits", chunks, Bound::memory, 0, 2.0 * chunk * Vp * S, [&] {
        fused_classifier(logits, losses, targets, static_cast<const float*>(nullptr), state, chunk, m.V, Vp, true,
                         stream);
    });
    row("clear the residual's gradient", 1, Bound::memory, 0, x_bytes,
        [&] { CUDA_CHECK(cudaMemsetAsync(r, 0, static_cast<size_t>(NC) * sizeof(X), stream)); });
    row("layernorm backward", 2 * L + 1, Bound::memory, 0, 4 * x_bytes + 8.0 * N,
        [&] { layernorm_backward(r, dw, db, y, x, w, mean, rstd, N, C, &sums, stream); });
    row("encoder backward", 1, Bound::memory, 0, 4.0 * N + x_bytes + 8.0 * rows * C + 4.0 * T * C, [&] {
        encoder_backward(dw, dw + int64_t(Vp) * C, x, tokens, static_cast<const int*>(nullptr), B, T, C, m.V, Dropout{},
                         stream);
    });
    set(stream, dw, parameters, 1e-4f, 0.0f);
    row("global norm", 1, Bound::memory, 0, 4.0 * static_cast<double>(parameters), [&] {
        global_norm_squared(norm, dw, parameters, false, stream);
        finish_gradients(state, norm, 1.0f, stream);
    });
    upload(state, &host_state, 1);
    OptimizerOptions adamw{0.9f, 0.95f, 1e-8f};
    const auto moment = [](float* x, bool sign) { return Moment{reinterpret_cast<char*>(x), nullptr, sign}; };
    row("AdamW", 1, Bound::memory, 0, (28.0 + S) * static_cast<double>(parameters), [&] {
        optimizer_update<X>({w, sizeof(X) == 2 ? master : nullptr, moment(m1, true), moment(m2, false), dw}, segments,
                            static_cast<int>(table.size()), int64_t(0), parameters, adamw, state, stream);
    });
}

}  // namespace bench
