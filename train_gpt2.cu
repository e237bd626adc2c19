// GPT-2 / GPT-3-style models on an NVIDIA GPU: the model, and one training step of it, from top to bottom.
//
// train_gpt2.cpp is the same model for a CPU, and the same shape of file. The kernels are in llmc/*.cuh, one header a
// layer; what stands around the step (options, data, evaluation, sampling, checkpoints, logs) is in llmc/program.h and
// is the same for both programs.
//
// The host only puts work into a stream, and the GPU does it in that order; nothing waits inside a step. A micro-step
// and the update are captured as CUDA graphs the second time they run, and from then on each is started by one call.
// What changes from step to step is therefore read by the kernels from a StepState in device memory.
//
// X is the storage type of weights and activations: float or bf16. Gradients of weights, sums and the optimizer are
// float.
//
// Shapes: B sequences of T tokens, C channels, NH heads of HS = C / NH, V words padded to Vp, L layers, N = B*T rows.
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "llmc/activations.h"
#include "llmc/adamw.cuh"
#include "llmc/attention.cuh"
#include "llmc/attention_decode.cuh"
#include "llmc/classifier.cuh"
#include "llmc/cuda_common.cuh"
#include "llmc/dataloader.h"
#include "llmc/device.cuh"
#include "llmc/dropout.cuh"
#include "llmc/encoder.cuh"
#include "llmc/gelu.cuh"
#include "llmc/global_norm.cuh"
#include "llmc/initial_weights.h"
#include "llmc/layernorm.cuh"
#include "llmc/matmul.cuh"
#include "llmc/model_files.h"
#include "llmc/program.h"
#include "llmc/step_state.h"

// ---- small kernels of the program itself ----

// The micro-batch at hand, rows [first_sample * T, first_sample * T + N) of the step's tokens, to where the layers read
// it: a captured graph has fixed addresses.
static __global__ void load_micro_batch_kernel(int* inputs, int* targets, const int* step_inputs,
                                               const int* step_targets, const StepState* state, int N, int T) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= N) return;
    int64_t from = int64_t(state->first_sample) * T + i;
    inputs[i] = step_inputs[from], targets[i] = step_targets[from];
}

static __global__ void next_micro_batch_kernel(StepState* state, int B) {
    state->first_sample += static_cast<uint32_t>(B);
}

// Sampling: n more tokens; positions (n) are those after the ones seen so far.
static __global__ void next_positions_kernel(int* positions, int* length, int n) {
    int seen = *length;
    __syncthreads();  // all have read it before it changes
    for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) positions[i] = seen + i;
    if (threadIdx.x == 0) *length = seen + n;
}

// ---- what the host holds ----

// Keys and values of the tokens seen so far, for sampling.
template <typename X>
struct KVCache {
    std::vector<X*> k, v;        // L of (capacity, C)
    int *tokens, *positions;     // (decode_chunk)
    int* length;                 // device memory; kernels read and advance it
    int capacity = 0, used = 0;  // the host's own count
    DeviceArena arena;
};

// A piece of a step that runs again and again with the same addresses. The first time it is simply run, which loads
// kernels and plans; the second time it is captured.
class CapturedWork {
  public:
    template <typename Body>
    void run(cudaStream_t stream, Body body) {
        if (!graph_ && !seen_) {
            seen_ = true;
            return body();
        }
        if (!graph_) {
            cudaGraph_t captured = nullptr;
            CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
            body();
            CUDA_CHECK(cudaStreamEndCapture(stream, &captured));
            cudaGraphExec_t executable = nullptr;
            cudaError_t error = cudaGraphInstantiate(&executable, captured, 0);
            cudaGraphDestroy(captured);
            CUDA_CHECK(error);
            graph_.reset(executable);
        }
        CUDA_CHECK(cudaGraphLaunch(graph_.get(), stream));
    }

  private:
    struct Destroy {
        void operator()(cudaGraphExec_t g) const { cudaGraphExecDestroy(g); }
    };
    bool seen_ = false;
    std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy> graph_;
};

template <typename X>
class GPT2 {
  public:
    using NextBatch = std::function<const Batch*()>;

    // Before anything else: finds the GPU, or says in one line why there is none. Fills in what options leave to it.
    static void open(Options& options) { open_device(options); }
    static void configure(const Options& options) { configure_device(options); }

    GPT2(const ModelConfig& config, const StepOptions& options) : GPT2(config, options, PlanOnly{}) {
        stream_ = make_stream(), copy_stream_ = make_stream(), staged_ready_ = make_event();
        parameters_.allocate("the weights", true);
        if (o_.training) {
            gradients_.allocate("the gradients", true);
            optimizer_.allocate("the optimizer's state", true);
        }
        buffers_.allocate("the buffers of a step", false);
        acts_.allocate("the activations", false);
        w_ = ModelPointers<X>(table_, weights_);
        if (o_.training) dw_ = ModelPointers<float>(table_, grads_);
        host_state_ = pinned<StepState>(1);
        upload_segments();
    }

    // Weights as GPT-2 has them at the start (llmc/initial_weights.h). Clears the optimizer.
    void init_weights(uint64_t seed) {
        std::vector<float> values;
        for (size_t t = 0; t < table_.size(); t++) {
            const Parameter& p = table_[t];
            values.resize(static_cast<size_t>(p.size()));
            initial_weights(values.data(), p, t, m_.L, seed, 0, p.size());
            write(Buffer::weights, p.offset, p.size(), values.data());
            if (master_) write(Buffer::master, p.offset, p.size(), values.data());
        }
        if (!o_.training) return;
        CUDA_CHECK(cudaMemsetAsync(m1_, 0, static_cast<size_t>(size_) * sizeof(float), stream_.get()));
        CUDA_CHECK(cudaMemsetAsync(m2_, 0, static_cast<size_t>(size_) * sizeof(float), stream_.get()));
        CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
    }

    // One whole training step on `batch`: forward and backward of each micro-batch, clip, update. `state` comes with
    // the values of this step and returns with its results. While the GPU works, next_batch() gets the batch of the
    // step after this one ready (it may return null) and its tokens travel to the GPU.
    void step(const Batch& batch, StepState* state, const NextBatch& next_batch = {}) {
        use_workspace();
        if (staged_first_ != batch.first || staged_sequences_ != batch.sequences) stage(batch);
        take_staged(batch);
        *host_state_ = *state;
        host_state_->loss = 0, host_state_->first_sample = 0;
        CUDA_CHECK(cudaMemcpyAsync(state_, host_state_.get(), sizeof(StepState), cudaMemcpyHostToDevice, stream()));
        for (int first = 0; first < batch.sequences; first += o_.B) {
            // The last micro-batch may be smaller; the loss normaliser is that of the whole step.
            int B = std::min(o_.B, batch.sequences - first), T = batch.T;
            micro_steps_[{B, T, first > 0}].run(stream(), [&] { micro_step(B, T, first > 0); });
        }
        update_.run(stream(), [&] { update(); });
        CUDA_CHECK(cudaMemcpyAsync(host_state_.get(), state_, sizeof(StepState), cudaMemcpyDeviceToHost, stream()));
        if (next_batch)
            if (const Batch* next = next_batch()) stage(*next);
        CUDA_CHECK(cudaStreamSynchronize(stream()));
        *state = *host_state_;
    }

    // Forward and backward of B sequences. Gradients add up over micro-steps; those of the matrices, nearly all of
    // them, are overwritten by the first one (add = false), which saves clearing and reading them once.
    void micro_step(int B, int T, bool add) {
        matrix_gradients_add_ = add;
        if (!add) clear_vector_gradients();
        launch(load_micro_batch_kernel, ceil_div(B * T, 256), 256, 0, stream(), inputs_, targets_, step_inputs_,
               step_targets_, state_, B * T, T);
        forward(B, T, true);
        lm_head_and_loss(B * T, true);
        backward(B, T);
        launch(next_micro_batch_kernel, 1, 1, 0, stream(), state_, B);
    }
    void clear_vector_gradients() {
        // Tensors that are cleared lie side by side between the matrices: one memset for each row of them.
        for (size_t t = 1; t < table_.size(); t++) {
            if (table_[t].transposed_in_file) continue;
            size_t last = t;
            while (last + 1 < table_.size() && !table_[last + 1].transposed_in_file) last++;
            int64_t begin = table_[t].offset, end = table_[last].offset + table_[last].padded_size();
            CUDA_CHECK(cudaMemsetAsync(grads_ + begin, 0, static_cast<size_t>(end - begin) * sizeof(float), stream()));
            t = last;
        }
    }

    // ---- forward ----

    // inputs_ (B,T) to the normalised residual stream after the last block, acts.h[L].ln1.
    void forward(int B, int T, bool training) { run_blocks(acts_, inputs_, nullptr, B, T, training, nullptr); }
    void run_blocks(Activations<X, DeviceArena>& acts, const int* tokens, const int* positions, int B, int T,
                    bool training, KVCache<X>* cache) {
        CHECK(int64_t(B) * T <= (cache ? decode_chunk() : rows()), "B=%d T=%d", B, T);
        BlockActivations<X>& a = acts.h[0];
        encoder_forward(a.input, tokens, positions, w_.wte, w_.wpe, B, T, m_.C, dropout(4 * m_.L, training), stream());
        layernorm_forward(a.ln1, a.ln1_mean, a.ln1_rstd, a.input, norm1(0).w, norm1(0).b, B * T, m_.C, stream());
        for (int l = 0; l < m_.L; l++) block_forward(acts, l, B, T, training, cache);
    }

    // One block. Enters with h[l].input and h[l].ln1, leaves h[l+1].input and h[l+1].ln1: the layernorm that follows a
    // residual add is fused with it.
    void block_forward(Activations<X, DeviceArena>& acts, int l, int B, int T, bool training, KVCache<X>* cache) {
        int N = B * T, C = m_.C;
        BlockActivations<X>&a = acts.h[static_cast<size_t>(l)], &next = acts.h[static_cast<size_t>(l) + 1];
        block_inner(acts, l, B, T, training, cache);
        matmul_forward<X>(acts.branch, nullptr, a.fch_gelu, w_.h[l].fcprojw, w_.h[l].fcprojb, N, 4 * C, C, false,
                          stream());
        residual_layernorm_forward(next.input, next.ln1, next.ln1_mean, next.ln1_rstd, a.residual2, acts.branch,
                                   norm1(l + 1).w, norm1(l + 1).b, N, C, T, dropout(4 * l + 2, training), stream());
    }
    // The part of a block that the backward pass needs; level 3 of recomputation runs it a second time.
    void block_inner(Activations<X, DeviceArena>& acts, int l, int B, int T, bool training, KVCache<X>* cache) {
        int N = B * T, C = m_.C;
        BlockActivations<X>& a = acts.h[static_cast<size_t>(l)];
        const BlockPointers<X>& w = w_.h[static_cast<size_t>(l)];
        matmul_forward<X>(a.qkv, nullptr, a.ln1, w.qkvw, w.qkvb, N, C, 3 * C, false, stream());
        if (cache) cached_attention(a, l, T, *cache);
        else
            attention_forward(a.atty, a.lse, a.qkv, a.qkv + C, a.qkv + 2 * C, packed_qkv_shape(B, T, C, m_.NH), nullptr,
                              dropout(4 * l, training), stream());
        matmul_forward<X>(acts.branch, nullptr, a.atty, w.attprojw, w.attprojb, N, C, C, false, stream());
        residual_layernorm_forward(a.residual2, a.ln2, a.ln2_mean, a.ln2_rstd, a.input, acts.branch, w.ln2w, w.ln2b, N,
                                   C, T, dropout(4 * l + 1, training), stream());
        matmul_forward<X>(a.fch_gelu, a.fch, a.ln2, w.fcw, w.fcb, N, C, 4 * C, true, stream());
    }
    // T new tokens: their keys and values join the cache, their queries see all of it.
    void cached_attention(BlockActivations<X>& a, int l, int T, KVCache<X>& cache) {
        X *k = cache.k[static_cast<size_t>(l)], *v = cache.v[static_cast<size_t>(l)];
        append_to_cache(k, v, a.qkv, T, m_.C, cache.length, stream());
        attention_decode(a.atty, a.qkv, k, v, decode_shape(T), cache.length, stream());
    }

    // Logits, loss and (training) their gradients, a chunk of rows at a time, so that the (N,Vp) logits never exist as
    // a whole. Leaves acts.losses; training: adds their sum to state_->loss, dbranch = gradient of h[L].ln1, and the LM
    // head's part of dwte.
    void lm_head_and_loss(int N, bool training) {
        int C = m_.C, Vp = m_.Vp();
        const X* x = acts_.h[static_cast<size_t>(m_.L)].ln1;
        for (int64_t r = 0; r < N; r += acts_.chunk) {
            int n = static_cast<int>(std::min(acts_.chunk, N - r));
            matmul_forward<X>(acts_.logits, nullptr, x + r * C, w_.wte, nullptr, n, C, Vp, false, stream());
            fused_classifier<X>(acts_.logits, acts_.losses + r, targets_ + r, nullptr, state_, n, m_.V, Vp, training,
                                stream());
            if (training)
                matmul_backward<X>(scratch_.dbranch + r * C, dw_.wte, nullptr, acts_.logits, x + r * C, w_.wte, nullptr,
                                   n, C, Vp, matrix_gradients_add_ || r > 0, stream());
        }
        if (training) add_losses(state_, acts_.losses, N, stream());
    }

    // ---- backward ----

    // From dbranch (gradient of the last layernorm's output) to all gradients of weights, which are added to.
    void backward(int B, int T) {
        int N = B * T, C = m_.C;
        const BlockActivations<X>& last = acts_.h[static_cast<size_t>(m_.L)];
        CUDA_CHECK(cudaMemsetAsync(scratch_.dresidual, 0, sizeof(X) * static_cast<size_t>(N) * C, stream()));
        layernorm_backward(scratch_.dresidual, dw_.lnfw, dw_.lnfb, scratch_.dbranch, last.input, w_.lnfw, last.ln1_mean,
                           last.ln1_rstd, N, C, stream());
        for (int l = m_.L - 1; l >= 0; l--) block_backward(l, B, T);
        encoder_backward<X>(dw_.wte, dw_.wpe, scratch_.dresidual, inputs_, nullptr, B, T, C, dropout(4 * m_.L, true),
                            stream());
    }

    // Enters with dresidual = gradient of the block's output, leaves it as the gradient of its input.
    void block_backward(int l, int B, int T) {
        int N = B * T, C = m_.C;
        BlockActivations<X>& a = acts_.h[static_cast<size_t>(l)];
        const BlockPointers<X>& w = w_.h[static_cast<size_t>(l)];
        const BlockPointers<float>& dw = dw_.h[static_cast<size_t>(l)];
        auto [dresidual, dbranch, dwide] = scratch_;

        if (o_.recompute >= 2)
            layernorm_forward(a.ln1, a.ln1_mean, a.ln1_rstd, a.input, w.ln1w, w.ln1b, N, C, stream());
        if (o_.recompute >= 3) block_inner(acts_, l, B, T, true, nullptr);
        else if (o_.recompute >= 1) gelu_forward(a.fch_gelu, a.fch, int64_t(4) * N * C, stream());

        // MLP
        const X* dmlp = dropout_backward(dresidual, B, T, 4 * l + 2);
        matmul_backward<X>(dwide, dw.fcprojw, dw.fcprojb, dmlp, a.fch_gelu, w.fcprojw, a.fch, N, 4 * C, C,
                           matrix_gradients_add_, stream());
        if (o_.recompute == 2)
            layernorm_forward(a.ln2, a.ln2_mean, a.ln2_rstd, a.residual2, w.ln2w, w.ln2b, N, C, stream());
        matmul_backward<X>(dbranch, dw.fcw, dw.fcb, dwide, a.ln2, w.fcw, nullptr, N, C, 4 * C, matrix_gradients_add_,
                           stream());
        layernorm_backward(dresidual, dw.ln2w, dw.ln2b, dbranch, a.residual2, w.ln2w, a.ln2_mean, a.ln2_rstd, N, C,
                           stream());
        // Attention
        const X* dattproj = dropout_backward(dresidual, B, T, 4 * l + 1);
        X* datty = a.fch_gelu;  // no longer needed; (N,4C) has room for (N,C)
        matmul_backward<X>(datty, dw.attprojw, dw.attprojb, dattproj, a.atty, w.attprojw, nullptr, N, C, C,
                           matrix_gradients_add_, stream());
        attention_backward(dwide, dwide + C, dwide + 2 * C, datty, a.qkv, a.qkv + C, a.qkv + 2 * C, a.atty, a.lse,
                           packed_qkv_shape(B, T, C, m_.NH), nullptr, dropout(4 * l, true), stream());
        matmul_backward<X>(dbranch, dw.qkvw, dw.qkvb, dwide, a.ln1, w.qkvw, nullptr, N, C, 3 * C, matrix_gradients_add_,
                           stream());
        layernorm_backward(dresidual, dw.ln1w, dw.ln1b, dbranch, a.input, w.ln1w, a.ln1_mean, a.ln1_rstd, N, C,
                           stream());
    }

    // Gradient of the branch that dropout scaled before it joined the residual stream: dresidual itself where there is
    // no dropout.
    const X* dropout_backward(const X* dresidual, int B, int T, int site) {
        Dropout d = dropout(site, true);
        if (!d.active()) return dresidual;
        dropout_apply(scratch_.dbranch, dresidual, B, int64_t(T) * m_.C, d, stream());
        return scratch_.dbranch;
    }

    // ---- update ----

    // Mean loss, norm, clip scale and the decision to skip, then AdamW: nothing of it passes through the host.
    void update() {
        global_norm_squared(norm_squared_, grads_, size_, stream());
        finish_gradients(state_, norm_squared_, o_.grad_clip, stream());
        AdamWOptions o{o_.beta1, o_.beta2, o_.epsilon, o_.weight_decay, o_.stochastic_rounding};
        adamw_update<X>(weights_, master_, m1_, m2_, grads_, segments_, static_cast<int>(table_.size()), 0, size_, o,
                        state_, stream());
    }

    // ---- evaluation and sampling ----

    // Loss of each token, without gradients or dropout. losses (B,T); target -1: not counted, 0. B <= StepOptions::B, T
    // <= StepOptions::T.
    void token_losses(float* losses, const int* inputs, const int* targets, int B, int T) {
        CHECK(int64_t(B) * T <= rows(), "B=%d T=%d", B, T);
        use_workspace();
        size_t n = static_cast<size_t>(B) * static_cast<size_t>(T);
        CUDA_CHECK(cudaMemcpyAsync(inputs_, inputs, n * sizeof(int), cudaMemcpyHostToDevice, stream()));
        CUDA_CHECK(cudaMemcpyAsync(targets_, targets, n * sizeof(int), cudaMemcpyHostToDevice, stream()));
        forward(B, T, false);
        lm_head_and_loss(B * T, false);
        CUDA_CHECK(cudaMemcpyAsync(losses, acts_.losses, n * sizeof(float), cudaMemcpyDeviceToHost, stream()));
        CUDA_CHECK(cudaStreamSynchronize(stream()));
    }

    // Sampling: feeds n more tokens and returns the logits (V) after the last one. `reset` forgets what was fed before.
    // At most m.T tokens in all.
    const float* decode(const int* tokens, int n, bool reset) {
        use_workspace();
        if (cache_.capacity == 0) allocate_cache();
        if (reset) {
            cache_.used = 0;
            CUDA_CHECK(cudaMemsetAsync(cache_.length, 0, sizeof(int), stream()));
        }
        CHECK(n > 0 && cache_.used + n <= cache_.capacity, "n=%d used=%d", n, cache_.used);
        for (int done = 0; done < n;) {
            int now = std::min(n - done, decode_chunk());
            CUDA_CHECK(cudaMemcpyAsync(cache_.tokens, tokens + done, static_cast<size_t>(now) * sizeof(int),
                                       cudaMemcpyHostToDevice, stream()));
            if (now == 1) decode_one_.run(stream(), [&] { decode_chunk_of(1); });
            else decode_chunk_of(now);
            cache_.used += now, done += now;
        }
        std::vector<X> logits(static_cast<size_t>(m_.V));
        CUDA_CHECK(cudaMemcpyAsync(logits.data(), decode_acts_.logits, logits.size() * sizeof(X),
                                   cudaMemcpyDeviceToHost, stream()));
        CUDA_CHECK(cudaStreamSynchronize(stream()));
        decode_logits_.assign(logits.begin(), logits.end());
        return decode_logits_.data();
    }
    void decode_chunk_of(int n) {
        launch(next_positions_kernel, 1, 128, 0, stream(), cache_.positions, cache_.length, n);
        run_blocks(decode_acts_, cache_.tokens, cache_.positions, 1, n, false, &cache_);
        const X* last = decode_acts_.h[static_cast<size_t>(m_.L)].ln1 + int64_t(n - 1) * m_.C;
        matmul_forward<X>(decode_acts_.logits, nullptr, last, w_.wte, nullptr, 1, m_.C, m_.Vp(), false, stream());
    }

    // ---- files and diagnosis ----

    // How files reach the weights and the optimizer.
    ModelTensors tensors() {
        ModelTensors t{table_, std::is_same_v<X, bf16>, master_ != nullptr, {}, {}};
        t.read = [this](Buffer buffer, int64_t offset, int64_t n, float* out) { read(buffer, offset, n, out); };
        t.write = [this](Buffer buffer, int64_t offset, int64_t n, const float* in) { write(buffer, offset, n, in); };
        return t;
    }

    // After a loss or a norm that is not finite: the first tensor that holds such a value.
    std::string first_non_finite() const {
        auto bad = [this](const auto* x, int64_t n) {
            for (float v : download(x, n))
                if (!std::isfinite(v)) return true;
            return false;
        };
        return first_bad_tensor(table_, weights_, grads_, acts_, rows(), m_.C, o_.recompute, bad);
    }

    // For the plan; `options.B` as planned. Nothing is allocated.
    static MemoryPlan memory_plan(const ModelConfig& config, const StepOptions& options) {
        GPT2 model(config, options, PlanOnly{});
        return {model.parameters_.bytes(), model.gradients_.bytes(), model.optimizer_.bytes(),
                model.acts_.arena.bytes() + model.buffers_.bytes() + cublaslt_workspace_bytes()};
    }

    static double available_memory() {
        size_t free_bytes = 0, total = 0;
        CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
        return static_cast<double>(free_bytes);
    }
    double peak_flops() const { return device_peak_flops(std::is_same_v<X, bf16>); }

    const ModelConfig& config() const { return m_; }
    const std::vector<Parameter>& table() const { return table_; }
    int64_t arena_elements() const { return size_; }
    cudaStream_t stream() const { return stream_.get(); }

    // n elements of device memory, as floats.
    template <typename Y>
    std::vector<float> download(const Y* x, int64_t n) const {
        std::vector<Y> values(static_cast<size_t>(n));
        CUDA_CHECK(cudaMemcpyAsync(values.data(), x, values.size() * sizeof(Y), cudaMemcpyDeviceToHost, stream()));
        CUDA_CHECK(cudaStreamSynchronize(stream()));
        return {values.begin(), values.end()};
    }
    std::vector<float> gradients() const { return download(grads_, size_); }

  private:
    struct PlanOnly {};
    // Sizes of everything, and no memory.
    GPT2(const ModelConfig& config, const StepOptions& options, PlanOnly)
        : m_(config),
          o_(options),
          table_(parameter_table(config)),
          size_(arena_size(table_)),
          acts_(config, rows(), lm_head_chunk(), options.training, options.recompute),
          decode_acts_(config, decode_chunk(), 1, false, 0) {
        bool master = std::is_same_v<X, bf16> && o_.master_weights && o_.training;
        parameters_.add(&weights_, size_);
        gradients_.add(&grads_, o_.training ? size_ : 0);
        if (master) optimizer_.add(&master_, size_);
        optimizer_.add(&m1_, o_.training ? size_ : 0);
        optimizer_.add(&m2_, o_.training ? size_ : 0);
        if (o_.training) scratch_.add_to(buffers_, rows(), m_.C);
        buffers_.add(&inputs_, rows());
        buffers_.add(&targets_, rows());
        buffers_.add(&state_, 1);
        buffers_.add(&norm_squared_, 1);
        buffers_.add(&segments_, static_cast<int64_t>(table_.size()));
        int N = static_cast<int>(rows()), C = m_.C;
        AttentionShape attention = packed_qkv_shape(o_.B, o_.T, C, m_.NH);
        workspace_bytes_ =
            std::max({size_t(1) << 20, matmul_own_workspace_bytes(), attention_forward_workspace_bytes(attention),
                      attention_decode_workspace_bytes(decode_shape(decode_chunk()))});
        if (o_.training)
            workspace_bytes_ = std::max({workspace_bytes_, layernorm_backward_workspace_bytes(N, C),
                                         bias_backward_workspace_bytes(N, 4 * C), encoder_backward_workspace_bytes(N),
                                         attention_backward_workspace_bytes(attention), global_norm_workspace_bytes()});
        buffers_.add(&workspace_, static_cast<int64_t>(workspace_bytes_));
    }

    int64_t rows() const { return int64_t(o_.B) * o_.T; }
    int decode_chunk() const { return std::min(m_.T, 128); }
    // At most 2^30 logits (2 GiB in bf16), 21,248 rows of GPT-2's vocabulary: each chunk reads and writes the gradient
    // of wte once more, 0.1 ms on an H100. A rule of the shape alone, because chunks decide the order of sums.
    int64_t lm_head_chunk() const { return std::max<int64_t>(128, (int64_t(1) << 30) / m_.Vp() / 128 * 128); }
    AttentionShape decode_shape(int T) const {
        return {1, T, m_.T, m_.NH, m_.NH, m_.HS(), 3ll * m_.C, m_.C, m_.C, 0, 0, 0};
    }

    Dropout dropout(int site, bool training) const {
        return training && o_.dropout > 0 ? Dropout{o_.dropout, static_cast<uint32_t>(site), state_} : Dropout{};
    }

    // ---- tokens on their way to the GPU ----

    // Starts to copy a whole step's tokens; they wait in `staged` until the step takes them.
    void stage(const Batch& batch) {
        size_t n = batch.inputs.size();
        if (n > token_capacity_) {
            CUDA_CHECK(cudaStreamSynchronize(stream()));
            micro_steps_.clear();  // their addresses are about to change
            tokens_ = std::make_unique<DeviceArena>();
            for (int** view : {&step_inputs_, &step_targets_, &staged_inputs_, &staged_targets_})
                tokens_->add(view, static_cast<int64_t>(n));
            tokens_->allocate("the tokens of a step", false);
            host_tokens_ = pinned<int>(2 * n);
            token_capacity_ = n;
        }
        CUDA_CHECK(cudaStreamSynchronize(copy_stream_.get()));  // the last copy from host_tokens_ is over
        std::copy(batch.inputs.begin(), batch.inputs.end(), host_tokens_.get());
        std::copy(batch.targets.begin(), batch.targets.end(), host_tokens_.get() + n);
        for (int part = 0; part < 2; part++)
            CUDA_CHECK(cudaMemcpyAsync(part ? staged_targets_ : staged_inputs_,
                                       host_tokens_.get() + static_cast<size_t>(part) * n, n * sizeof(int),
                                       cudaMemcpyHostToDevice, copy_stream_.get()));
        CUDA_CHECK(cudaEventRecord(staged_ready_.get(), copy_stream_.get()));
        staged_first_ = batch.first, staged_sequences_ = batch.sequences;
    }
    void take_staged(const Batch& batch) {
        CUDA_CHECK(cudaStreamWaitEvent(stream(), staged_ready_.get(), 0));
        size_t bytes = batch.inputs.size() * sizeof(int);
        CUDA_CHECK(cudaMemcpyAsync(step_inputs_, staged_inputs_, bytes, cudaMemcpyDeviceToDevice, stream()));
        CUDA_CHECK(cudaMemcpyAsync(step_targets_, staged_targets_, bytes, cudaMemcpyDeviceToDevice, stream()));
        staged_sequences_ = 0;
    }

    // ---- helpers ----

    void use_workspace() { device().workspace_data = workspace_, device().workspace_bytes = workspace_bytes_; }

    struct Norm {
        const X *w, *b;
    };
    Norm norm1(int l) const {  // the layernorm in front of block l; l == L: the final one
        if (l == m_.L) return {w_.lnfw, w_.lnfb};
        return {w_.h[static_cast<size_t>(l)].ln1w, w_.h[static_cast<size_t>(l)].ln1b};
    }
    float* optimizer_buffer(Buffer buffer) const {
        float* data = buffer == Buffer::master ? master_ : buffer == Buffer::m ? m1_ : m2_;
        CHECK(data, "this model has no such buffer (%d)", static_cast<int>(buffer));
        return data;
    }
    void read(Buffer buffer, int64_t offset, int64_t n, float* out) {
        std::vector<float> values =
            buffer == Buffer::weights ? download(weights_ + offset, n) : download(optimizer_buffer(buffer) + offset, n);
        std::copy(values.begin(), values.end(), out);
    }
    void write(Buffer buffer, int64_t offset, int64_t n, const float* in) {
        auto upload = [&](auto* to) {
            using Y = std::remove_pointer_t<decltype(to)>;
            std::vector<Y> values(in, in + n);
            CUDA_CHECK(cudaMemcpyAsync(to, values.data(), values.size() * sizeof(Y), cudaMemcpyHostToDevice, stream()));
            CUDA_CHECK(cudaStreamSynchronize(stream()));
        };
        if (buffer == Buffer::weights) upload(weights_ + offset);
        else upload(optimizer_buffer(buffer) + offset);
    }
    void upload_segments() {
        std::vector<AdamWSegment> segments;
        for (const Parameter& p : table_)
            segments.push_back({p.offset, p.trainable ? p.size() : 0, p.weight_decay ? o_.weight_decay : 0.0f});
        CUDA_CHECK(cudaMemcpyAsync(segments_, segments.data(), segments.size() * sizeof(AdamWSegment),
                                   cudaMemcpyHostToDevice, stream()));
        CUDA_CHECK(cudaStreamSynchronize(stream()));
    }
    void allocate_cache() {
        cache_.k.resize(static_cast<size_t>(m_.L)), cache_.v.resize(static_cast<size_t>(m_.L));
        for (size_t l = 0; l < cache_.k.size(); l++) {
            cache_.arena.add(&cache_.k[l], int64_t(m_.T) * m_.C);
            cache_.arena.add(&cache_.v[l], int64_t(m_.T) * m_.C);
        }
        cache_.arena.add(&cache_.tokens, decode_chunk());
        cache_.arena.add(&cache_.positions, decode_chunk());
        cache_.arena.add(&cache_.length, 1);
        cache_.arena.allocate("the cache of keys and values", false);
        CUDA_CHECK(cudaMemsetAsync(cache_.length, 0, sizeof(int), stream()));
        cache_.capacity = m_.T;
        decode_acts_.allocate("the activations of sampling", false);
    }

    struct DestroyStream {
        void operator()(cudaStream_t s) const { cudaStreamDestroy(s); }
    };
    struct DestroyEvent {
        void operator()(cudaEvent_t e) const { cudaEventDestroy(e); }
    };
    using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
    using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;
    static Stream make_stream() {
        cudaStream_t s = nullptr;
        CUDA_CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
        return Stream(s);
    }
    static Event make_event() {
        cudaEvent_t e = nullptr;
        CUDA_CHECK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
        return Event(e);
    }

    ModelConfig m_;
    StepOptions o_;
    std::vector<Parameter> table_;
    int64_t size_;  // elements of an arena
    DeviceArena parameters_, gradients_, optimizer_, buffers_;
    X* weights_ = nullptr;
    float* grads_ = nullptr;
    float *master_ = nullptr, *m1_ = nullptr, *m2_ = nullptr;  // fp32 weights (bf16 only); AdamW's moments
    ModelPointers<X> w_;
    ModelPointers<float> dw_;
    Activations<X, DeviceArena> acts_, decode_acts_;
    BackwardScratch<X> scratch_{};
    int *inputs_ = nullptr, *targets_ = nullptr;  // (B,T) the micro-batch at hand
    StepState* state_ = nullptr;
    double* norm_squared_ = nullptr;
    AdamWSegment* segments_ = nullptr;
    char* workspace_ = nullptr;
    size_t workspace_bytes_ = 0;
    // a whole step's tokens: those at work, those of the next step, and where the host puts them
    std::unique_ptr<DeviceArena> tokens_;
    int *step_inputs_ = nullptr, *step_targets_ = nullptr, *staged_inputs_ = nullptr, *staged_targets_ = nullptr;
    std::unique_ptr<int, CudaFreeHost> host_tokens_;
    size_t token_capacity_ = 0;
    int64_t staged_first_ = -1;
    int staged_sequences_ = 0;
    std::unique_ptr<StepState, CudaFreeHost> host_state_;
    KVCache<X> cache_;
    std::vector<float> decode_logits_;
    bool matrix_gradients_add_ = true;  // false in the first micro-step
    Stream stream_, copy_stream_;
    Event staged_ready_;
    std::map<std::tuple<int, int, bool>, CapturedWork> micro_steps_;  // by B, T, and whether gradients are added to
    CapturedWork update_, decode_one_;
};

#ifndef TESTING
int main(int argc, char** argv) { return run_program<GPT2, bf16>(argc, argv, {"train_gpt2cu", "d12", "bf16", 524288}); }
#endif
