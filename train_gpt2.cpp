// GPT-2 / GPT-3-style models on a CPU: the model, and one training step of it, from top to bottom.
//
// This is the reference that every CUDA kernel is checked against, and a trainer of its own. The layers are in
// llmc/cpu/, one header each; what stands around the step (options, data, evaluation, sampling, checkpoints, logs) is
// in llmc/program.h and is the same for both programs.
//
// X is the storage type of weights and activations: float, bf16, or double for gradient checks. Gradients of weights,
// sums and the optimizer are float (double for double).
//
// Shapes: B sequences of T tokens, C channels, NH heads of HS = C / NH, V words padded to Vp, L layers, N = B*T rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "llmc/activations.h"
#include "llmc/communicator.h"
#include "llmc/cpu/adamw.h"
#include "llmc/cpu/arena.h"
#include "llmc/cpu/attention.h"
#include "llmc/cpu/classifier.h"
#include "llmc/cpu/encoder.h"
#include "llmc/cpu/gelu.h"
#include "llmc/cpu/global_norm.h"
#include "llmc/cpu/layernorm.h"
#include "llmc/cpu/matmul.h"
#include "llmc/dataloader.h"
#include "llmc/initial_weights.h"
#include "llmc/model_memory.h"
#include "llmc/program.h"
#include "llmc/step_state.h"

// Keys and values of the tokens seen so far, for sampling.
template <typename X>
struct KVCache {
    std::vector<X*> k, v;  // L of (capacity, C)
    int capacity = 0, length = 0;
    Arena arena;
};

template <typename X>
class GPT2 {
  public:
    using A = acc_t<X>;
    using G = grad_t<X>;
    using NextBatch = std::function<const Batch*()>;

    using Ranks = Communicator;

    static void open(Options&, int) {}  // a CPU is always there
    static void configure(const Options&) {}
    static std::string machine() { return "CPU"; }

    // comm: the ranks that train together; null: this one alone.
    GPT2(const ModelConfig& config, const StepOptions& options, Communicator* comm = nullptr)
        : GPT2(config, options, PlanOnly{}) {
        comm_ = comm;
        memory_.parameters.allocate();
        if (o_.training) memory_.gradients.allocate(), memory_.optimizer.allocate(), scratch_memory_.allocate();
        acts_.allocate();
        memory_.connect(&w_, &dw_);
    }

    // Weights as GPT-2 has them at the start (llmc/initial_weights.h). Clears the optimizer.
    void init_weights(uint64_t seed) {
        std::vector<float> values;
        for (size_t t = 0; t < memory_.table.size(); t++) {
            const Parameter& p = memory_.table[t];
            values.resize(static_cast<size_t>(p.size()));
            initial_weights(values.data(), p, t, m_.L, seed, 0, p.size());
            write(Buffer::weights, p.offset, p.size(), values.data());
            if (memory_.master) write(Buffer::master, p.offset, p.size(), values.data());
        }
        if (!o_.training) return;
        std::fill_n(memory_.m1, memory_.shards.local_size(), A(0));
        std::fill_n(memory_.m2, memory_.shards.local_size(), A(0));
    }

    // One whole training step: forward and backward of each micro-batch, sums over ranks, clip, update. `batch` is this
    // rank's part of the step; all ranks have the same number of micro-batches. `state` comes with the values of this
    // step and returns with its results. (A GPU would ask for the next batch while it works; here the data loader's
    // thread does.)
    void step(const Batch& batch, StepState* state, const NextBatch& = {}) {
        state_ = *state;
        if (stage() >= 2) std::fill_n(memory_.own_grads, memory_.shards.local_size(), G(0));
        double loss = 0;
        for (int first = 0; first < batch.sequences; first += o_.B) {
            // The last micro-batch may be smaller; the loss normaliser is that of the whole step.
            int B = std::min(o_.B, batch.sequences - first);
            first_micro_step_ = first == 0, last_micro_step_ = first + B == batch.sequences;
            int64_t begin = int64_t(first) * batch.T;
            state_.first_sample = state_.rank_first_sample + static_cast<uint32_t>(first);
            forward(&batch.inputs[begin], B, batch.T, true);
            loss += lm_head_and_loss(&batch.targets[begin], B * batch.T, true);
            backward(&batch.inputs[begin], B, batch.T);
        }
        double sums[2] = {loss, 0};
        comm_stream_.wait();  // the gradients of all buckets
        sums[1] = global_norm_squared(memory_.own_grads, memory_.shards.local_size());
        // At stage 0 every rank has the whole gradient; else the norm's square is summed over the parts.
        if (memory_.world > 1) comm_->all_reduce(sums, stage() == 0 ? 1 : 2, comm_stream_), comm_stream_.wait();
        state_.loss = static_cast<float>(sums[0] * state_.loss_normaliser);
        state_.grad_norm = static_cast<float>(std::sqrt(sums[1]));
        state_.clip_scale =
            o_.grad_clip > 0 && state_.grad_norm > o_.grad_clip ? o_.grad_clip / state_.grad_norm : 1.0f;
        // Written so that a NaN skips, too.
        state_.skip = !(state_.loss <= state_.skip_loss_above && state_.grad_norm <= state_.skip_norm_above);
        update();
        *state = state_;
    }

    // ---- forward ----

    // Tokens (B,T) to the normalised residual stream after the last block, acts.h[L].ln1.
    void forward(const int* tokens, int B, int T, bool training) {
        run_blocks(acts_, tokens, nullptr, B, T, training, nullptr);
    }
    void run_blocks(Activations<X, Arena>& acts, const int* tokens, const int* positions, int B, int T, bool training,
                    KVCache<X>* cache) {
        CHECK(int64_t(B) * T <= (cache ? decode_chunk() : rows()), "B=%d T=%d", B, T);
        BlockActivations<X>& a = acts.h[0];
        need_weights(0), fetch_weights(1);
        encoder_forward(a.input, tokens, positions, w_.wte, w_.wpe, B, T, m_.C, dropout(4 * m_.L, training));
        need_weights(1);
        layernorm_forward(a.ln1, a.ln1_mean, a.ln1_rstd, a.input, norm1(0).w, norm1(0).b, B * T, m_.C);
        for (int l = 0; l < m_.L; l++) block_forward(acts, l, B, T, training, cache);
    }

    // One block. Enters with h[l].input and h[l].ln1, leaves h[l+1].input and h[l+1].ln1: the layernorm that follows a
    // residual add is fused with it.
    void block_forward(Activations<X, Arena>& acts, int l, int B, int T, bool training, KVCache<X>* cache) {
        int N = B * T, C = m_.C;
        BlockActivations<X>&a = acts.h[static_cast<size_t>(l)], &next = acts.h[static_cast<size_t>(l) + 1];
        fetch_weights(l + 2);  // of the next block, bucket l + 2, on their way while this one works
        block_inner(acts, l, B, T, training, cache);
        matmul_forward<X>(acts.branch, nullptr, a.fch_gelu, w_.h[l].fcprojw, w_.h[l].fcprojb, N, 4 * C, C);
        need_weights(l + 2);
        residual_layernorm_forward(next.input, next.ln1, next.ln1_mean, next.ln1_rstd, a.residual2, acts.branch,
                                   norm1(l + 1).w, norm1(l + 1).b, N, C, T, dropout(4 * l + 2, training));
    }
    // The part of a block that the backward pass needs; level 3 of recomputation runs it a second time.
    void block_inner(Activations<X, Arena>& acts, int l, int B, int T, bool training, KVCache<X>* cache) {
        int N = B * T, C = m_.C;
        BlockActivations<X>& a = acts.h[static_cast<size_t>(l)];
        const BlockPointers<X>& w = w_.h[static_cast<size_t>(l)];
        matmul_forward<X>(a.qkv, nullptr, a.ln1, w.qkvw, w.qkvb, N, C, 3 * C);
        if (cache) cached_attention(a, l, T, *cache);
        else
            attention_forward(a.atty, a.lse, a.qkv, a.qkv + C, a.qkv + 2 * C, packed_qkv_shape(B, T, C, m_.NH), nullptr,
                              dropout(4 * l, training));
        matmul_forward<X>(acts.branch, nullptr, a.atty, w.attprojw, w.attprojb, N, C, C);
        residual_layernorm_forward(a.residual2, a.ln2, a.ln2_mean, a.ln2_rstd, a.input, acts.branch, w.ln2w, w.ln2b, N,
                                   C, T, dropout(4 * l + 1, training));
        matmul_forward<X>(a.fch_gelu, a.fch, a.ln2, w.fcw, w.fcb, N, C, 4 * C, true);
    }
    // T new tokens: their keys and values join the cache, their queries see all of it.
    void cached_attention(BlockActivations<X>& a, int l, int T, KVCache<X>& cache) {
        int C = m_.C, seen = cache.length;
        for (int t = 0; t < T; t++) {
            std::copy_n(a.qkv + int64_t(3 * C) * t + C, C, cache.k[static_cast<size_t>(l)] + int64_t(C) * (seen + t));
            std::copy_n(a.qkv + int64_t(3 * C) * t + 2 * C, C,
                        cache.v[static_cast<size_t>(l)] + int64_t(C) * (seen + t));
        }
        AttentionShape shape{1, T, seen + T, m_.NH, m_.NH, m_.HS(), 3 * C, C, C, 0, 0, 0};
        attention_forward<X>(a.atty, nullptr, a.qkv, cache.k[static_cast<size_t>(l)], cache.v[static_cast<size_t>(l)],
                             shape, nullptr, Dropout{});
    }

    // Logits, loss and (training) their gradients, a chunk of rows at a time, so that the (N,Vp) logits never exist as
    // a whole. Leaves acts.losses; training: dbranch = gradient of h[L].ln1, and the LM head's part of dwte. Returns
    // the sum of losses.
    double lm_head_and_loss(const int* targets, int N, bool training) {
        int C = m_.C, Vp = m_.Vp();
        if (training) begin_gradients(0);
        const X* x = acts_.h[static_cast<size_t>(m_.L)].ln1;
        for (int64_t r = 0; r < N; r += acts_.chunk) {
            int n = static_cast<int>(std::min(acts_.chunk, N - r));
            matmul_forward<X>(acts_.logits, nullptr, x + r * C, w_.wte, nullptr, n, C, Vp);
            fused_classifier<X>(acts_.logits, acts_.losses + r, targets + r, nullptr, state_.loss_normaliser, n, m_.V,
                                Vp, training);
            if (training)
                matmul_backward<X>(scratch_.dbranch + r * C, dw_.wte, nullptr, acts_.logits, x + r * C, w_.wte, nullptr,
                                   n, C, Vp, add_gradients() || r > 0);
        }
        double sum = 0;
        for (int i = 0; i < N; i++) sum += static_cast<double>(acts_.losses[i]);
        return sum;
    }

    // ---- backward ----

    // From dbranch (gradient of the last layernorm's output) to all gradients of weights, which are added to.
    void backward(const int* tokens, int B, int T) {
        int N = B * T, C = m_.C;
        const BlockActivations<X>& last = acts_.h[static_cast<size_t>(m_.L)];
        const int final_norm = m_.L + 1;
        begin_gradients(final_norm);
        std::fill_n(scratch_.dresidual, int64_t(N) * C, X(0));
        layernorm_backward(scratch_.dresidual, dw_.lnfw, dw_.lnfb, scratch_.dbranch, last.input, w_.lnfw, last.ln1_mean,
                           last.ln1_rstd, N, C);
        reduce_gradients(final_norm);
        for (int l = m_.L - 1; l >= 0; l--) block_backward(l, B, T);
        encoder_backward<X>(dw_.wte, dw_.wpe, scratch_.dresidual, tokens, nullptr, B, T, C, dropout(4 * m_.L, true));
        reduce_gradients(0);
    }

    // Enters with dresidual = gradient of the block's output, leaves it as the gradient of its input.
    void block_backward(int l, int B, int T) {
        int N = B * T, C = m_.C;
        BlockActivations<X>& a = acts_.h[static_cast<size_t>(l)];
        const BlockPointers<X>& w = w_.h[static_cast<size_t>(l)];
        const BlockPointers<G>& dw = dw_.h[static_cast<size_t>(l)];
        auto [dresidual, dbranch, dwide] = scratch_;
        need_weights(l + 1), fetch_weights(l);  // and those of the block before this one, bucket l
        begin_gradients(l + 1);

        if (o_.recompute >= 2) layernorm_forward(a.ln1, a.ln1_mean, a.ln1_rstd, a.input, w.ln1w, w.ln1b, N, C);
        if (o_.recompute >= 3) block_inner(acts_, l, B, T, true, nullptr);
        else if (o_.recompute >= 1) gelu_forward(a.fch_gelu, a.fch, int64_t(4) * N * C);

        // MLP
        const X* dmlp = dropout_backward(dresidual, B, T, 4 * l + 2);
        matmul_backward<X>(dwide, dw.fcprojw, dw.fcprojb, dmlp, a.fch_gelu, w.fcprojw, a.fch, N, 4 * C, C,
                           add_gradients());
        if (o_.recompute == 2) layernorm_forward(a.ln2, a.ln2_mean, a.ln2_rstd, a.residual2, w.ln2w, w.ln2b, N, C);
        matmul_backward<X>(dbranch, dw.fcw, dw.fcb, dwide, a.ln2, w.fcw, nullptr, N, C, 4 * C, add_gradients());
        layernorm_backward(dresidual, dw.ln2w, dw.ln2b, dbranch, a.residual2, w.ln2w, a.ln2_mean, a.ln2_rstd, N, C);
        // Attention
        const X* dattproj = dropout_backward(dresidual, B, T, 4 * l + 1);
        X* datty = a.fch_gelu;  // no longer needed; (N,4C) has room for (N,C)
        matmul_backward<X>(datty, dw.attprojw, dw.attprojb, dattproj, a.atty, w.attprojw, nullptr, N, C, C,
                           add_gradients());
        attention_backward(dwide, dwide + C, dwide + 2 * C, datty, a.qkv, a.qkv + C, a.qkv + 2 * C, a.atty, a.lse,
                           packed_qkv_shape(B, T, C, m_.NH), nullptr, dropout(4 * l, true));
        matmul_backward<X>(dbranch, dw.qkvw, dw.qkvb, dwide, a.ln1, w.qkvw, nullptr, N, C, 3 * C, add_gradients());
        layernorm_backward(dresidual, dw.ln1w, dw.ln1b, dbranch, a.input, w.ln1w, a.ln1_mean, a.ln1_rstd, N, C);
        reduce_gradients(l + 1);
    }

    // Gradient of the branch that dropout scaled before it joined the residual stream: dresidual itself where there is
    // no dropout.
    const X* dropout_backward(const X* dresidual, int B, int T, int site) {
        Dropout d = dropout(site, true);
        if (!d.active()) return dresidual;
        dropout_apply(scratch_.dbranch, dresidual, B, int64_t(T) * m_.C, d);
        return scratch_.dbranch;
    }

    // ---- ranks: what each has of weights and gradients, and what travels (zero.h) ----

    // Before bucket b's gradients are computed. Gradients add up over micro-steps, in the arena (stages 0 and 1) or in
    // the owner's part of their sums. Those of the matrices, nearly all of them, are not cleared first but overwritten,
    // which saves writing and reading them once (add_gradients).
    void begin_gradients(int b) {
        int slot = memory_.shards.slot(b);
        if (stage() >= 2) comm_stream_.wait(gradients_sent_[slot]);  // the bucket that lay here before
        if (add_gradients()) return;
        Bucket bucket = memory_.shards.bucket(b);
        for (size_t row = bucket.first_row; row < bucket.first_row + bucket.rows; row++)
            if (const Parameter& p = memory_.table[row]; !p.transposed_in_file && row != 0)
                std::fill_n(memory_.gradient_of(p), p.padded_size(), G(0));
    }
    bool add_gradients() const { return stage() < 2 && !first_micro_step_; }

    // When bucket b's gradients of a micro-step are complete: they are summed over ranks while the backward pass goes
    // on. Stages 0 and 1 send them once a step, 2 and 3 after each micro-step.
    void reduce_gradients(int b) {
        if (memory_.world == 1 || (stage() < 2 && !last_micro_step_)) return;
        Bucket bucket = memory_.shards.bucket(b);
        int64_t part = memory_.shards.part(b);
        G* own = memory_.own_grads + memory_.shards.local(b);
        if (stage() == 0)
            comm_->all_reduce(memory_.grads + bucket.begin, static_cast<size_t>(bucket.size), comm_stream_);
        if (stage() == 1)
            comm_->reduce_scatter(own, memory_.grads + bucket.begin, static_cast<size_t>(part), comm_stream_);
        if (stage() < 2) return;
        int slot = memory_.shards.slot(b);
        comm_->reduce_scatter(memory_.received, memory_.grad_slots[slot], static_cast<size_t>(part), comm_stream_);
        gradients_sent_[slot] = comm_stream_.add([own, part, from = memory_.received] {
            for (int64_t i = 0; i < part; i++) own[i] += from[i];
        });
    }

    // Stage 3: bucket b's weights are gathered into their slot, unless they lie there; need_weights waits for them.
    void fetch_weights(int b) {
        int slot = memory_.shards.slot(b);
        if (stage() < 3 || b > m_.L + 1 || resident_[slot] == b) return;
        resident_[slot] = b;
        weights_here_[slot] =
            comm_->all_gather(memory_.weight_slots[slot], memory_.weight_part + memory_.shards.local(b),
                              static_cast<size_t>(memory_.shards.part(b)), comm_stream_);
    }
    void need_weights(int b) {
        fetch_weights(b);
        if (stage() == 3) comm_stream_.wait(weights_here_[memory_.shards.slot(b)]);
    }

    // ---- update ----

    // A rank updates what it has the optimizer state of; then the weights of all parts come together again.
    void update() {
        for (const Parameter& p : memory_.table) {
            if (!p.trainable) continue;
            AdamWOptions o{o_.beta1, o_.beta2, o_.epsilon, p.weight_decay ? o_.weight_decay : 0.0f,
                           o_.stochastic_rounding};
            memory_.shards.for_own(p.offset, p.size(), [&](int64_t arena, int64_t local, int64_t n) {
                adamw_update<X>(memory_.own_weight(arena, local), memory_.master ? memory_.master + local : nullptr,
                                memory_.m1 + local, memory_.m2 + local, memory_.own_grads + local, n,
                                p.index + arena - p.offset, o, &state_);
            });
        }
        std::fill_n(resident_, Sharding::kSlots, -1);
        if (stage() == 0 || stage() == 3) return;
        for (int b = 0; b < memory_.shards.buckets(); b++)
            comm_->all_gather(memory_.weights + memory_.shards.bucket(b).begin,
                              memory_.weights + memory_.shards.begin(b), static_cast<size_t>(memory_.shards.part(b)),
                              comm_stream_);
        comm_stream_.wait();
    }

    // ---- evaluation and sampling ----

    // Loss of each token, without gradients or dropout. losses (B,T); target -1: not counted, 0. B <= StepOptions::B, T
    // <= StepOptions::T.
    void token_losses(float* losses, const int* inputs, const int* targets, int B, int T) {
        forward(inputs, B, T, false);
        lm_head_and_loss(targets, B * T, false);
        std::copy_n(acts_.losses, int64_t(B) * T, losses);
    }

    // Sampling: feeds n more tokens and returns the logits (V) after the last one. `reset` forgets what was fed before.
    // At most m.T tokens in all.
    const float* decode(const int* tokens, int n, bool reset) {
        if (cache_.capacity == 0) allocate_cache();
        if (reset) cache_.length = 0;
        CHECK(n > 0 && cache_.length + n <= cache_.capacity, "n=%d length=%d", n, cache_.length);
        for (int done = 0; done < n;) {
            int now = std::min(n - done, decode_chunk());
            std::vector<int> positions(static_cast<size_t>(now));
            for (int i = 0; i < now; i++) positions[static_cast<size_t>(i)] = cache_.length + i;
            run_blocks(decode_acts_, tokens + done, positions.data(), 1, now, false, &cache_);
            cache_.length += now, done += now;
            if (done < n) continue;
            const X* last = decode_acts_.h[static_cast<size_t>(m_.L)].ln1 + int64_t(now - 1) * m_.C;
            matmul_forward<X>(decode_acts_.logits, nullptr, last, w_.wte, nullptr, 1, m_.C, m_.Vp());
        }
        decode_logits_.resize(static_cast<size_t>(m_.V));
        std::copy_n(decode_acts_.logits, m_.V, decode_logits_.data());
        return decode_logits_.data();
    }

    // ---- files and diagnosis ----

    // How files reach the weights and the optimizer. With several ranks, all of them read together: each gives what it
    // has. Each writes on its own, and keeps what it needs.
    ModelTensors tensors() {
        ModelTensors t{memory_.table, std::is_same_v<X, bf16>, memory_.master != nullptr, {}, {}};
        t.read = [this](Buffer buffer, int64_t offset, int64_t n, float* out) { read(buffer, offset, n, out); };
        t.write = [this](Buffer buffer, int64_t offset, int64_t n, const float* in) { write(buffer, offset, n, in); };
        return t;
    }

    // After a loss or a norm that is not finite: the first tensor that holds such a value.
    std::string first_non_finite() const {
        auto bad = [](const auto* x, int64_t n) {
            return !std::all_of(x, x + n, [](auto v) { return std::isfinite(static_cast<double>(v)); });
        };
        return first_bad_tensor(memory_.table, memory_.weights, memory_.grads, acts_, rows(), m_.C, o_.recompute, bad);
    }

    // For the plan; `options.B` as planned. Nothing is allocated.
    static MemoryPlan memory_plan(const ModelConfig& config, const StepOptions& options) {
        GPT2 model(config, options, PlanOnly{});
        return {model.memory_.parameters.bytes(), model.memory_.gradients.bytes(), model.memory_.optimizer.bytes(),
                model.acts_.arena.bytes() + model.scratch_memory_.bytes()};
    }

    static double available_memory() { return available_host_memory(); }
    static std::string health() { return ""; }
    double peak_flops() const { return 0; }  // not known for a CPU: no utilisation in the log

    const ModelConfig& config() const { return m_; }
    StepState& state() { return state_; }
    HostStream& communication() { return comm_stream_; }
    X* weights() { return memory_.weights; }
    G* gradients() { return memory_.grads; }
    int64_t arena_elements() const { return memory_.size; }
    Activations<X, Arena>& activations() { return acts_; }
    const std::vector<Parameter>& table() const { return memory_.table; }

    // Logits (N,Vp) of a whole forward pass: for tests, at sizes where they fit.
    std::vector<X> all_logits(const int* inputs, int B, int T) {
        forward(inputs, B, T, false);
        std::vector<X> logits(static_cast<size_t>(int64_t(B) * T * m_.Vp()));
        matmul_forward<X>(logits.data(), nullptr, acts_.h[static_cast<size_t>(m_.L)].ln1, w_.wte, nullptr, B * T, m_.C,
                          m_.Vp());
        return logits;
    }

  private:
    struct PlanOnly {};
    // Sizes of everything, and no memory.
    GPT2(const ModelConfig& config, const StepOptions& options, PlanOnly)
        : m_(config),
          o_(options),
          memory_(config, options),
          acts_(config, rows(), lm_head_chunk(), options.training, options.recompute),
          decode_acts_(config, decode_chunk(), 1, false, 0) {
        if (o_.training) scratch_.add_to(scratch_memory_, rows(), m_.C);
    }

    int stage() const { return memory_.stage; }
    int64_t rows() const { return int64_t(o_.B) * o_.T; }
    int decode_chunk() const { return std::min(m_.T, 128); }
    // At most 52 Mi logits (208 MiB in fp32), 1024 rows of GPT-2's vocabulary: each chunk reads and writes the gradient
    // of wte once more. A rule of the shape alone, because chunks decide the order of sums.
    int64_t lm_head_chunk() const { return std::max<int64_t>(64, (int64_t(52) << 20) / m_.Vp() / 64 * 64); }

    Dropout dropout(int site, bool training) const {
        return training && o_.dropout > 0 ? Dropout{o_.dropout, static_cast<uint32_t>(site), &state_} : Dropout{};
    }

    // ---- helpers ----

    struct Norm {
        const X *w, *b;
    };
    Norm norm1(int l) const {  // the layernorm in front of block l; l == L: the final one
        if (l == m_.L) return {w_.lnfw, w_.lnfb};
        return {w_.h[static_cast<size_t>(l)].ln1w, w_.h[static_cast<size_t>(l)].ln1b};
    }
    void read(Buffer buffer, int64_t offset, int64_t n, float* out) {
        if (buffer == Buffer::weights && memory_.weights) {
            std::copy_n(memory_.weights + offset, n, out);
            return;
        }
        for (int r = 0; r < memory_.shards.world(); r++)
            memory_.shards.for_owned(r, offset, n, [&](int64_t arena, int64_t local, int64_t count) {
                float* to = out + arena - offset;
                if (memory_.shards.world() == 1 || r == o_.rank) {
                    if (buffer == Buffer::weights) std::copy_n(memory_.weight_part + local, count, to);
                    else std::copy_n(memory_.optimizer_buffer(buffer) + local, count, to);
                }
                if (memory_.shards.world() > 1) comm_->broadcast(to, static_cast<size_t>(count), r, comm_stream_);
            });
        comm_stream_.wait();
    }
    void write(Buffer buffer, int64_t offset, int64_t n, const float* in) {
        if (buffer == Buffer::weights && memory_.weights) {
            std::copy_n(in, n, memory_.weights + offset);
            return;
        }
        memory_.shards.for_own(offset, n, [&](int64_t arena, int64_t local, int64_t count) {
            const float* from = in + arena - offset;
            if (buffer == Buffer::weights) std::copy_n(from, count, memory_.weight_part + local);
            else std::copy_n(from, count, memory_.optimizer_buffer(buffer) + local);
        });
        std::fill_n(resident_, Sharding::kSlots, -1);
    }
    void allocate_cache() {
        cache_.k.resize(static_cast<size_t>(m_.L)), cache_.v.resize(static_cast<size_t>(m_.L));
        for (size_t l = 0; l < cache_.k.size(); l++) {
            cache_.arena.add(&cache_.k[l], int64_t(m_.T) * m_.C);
            cache_.arena.add(&cache_.v[l], int64_t(m_.T) * m_.C);
        }
        cache_.arena.allocate();
        cache_.capacity = m_.T;
        decode_acts_.allocate();
    }

    ModelConfig m_;
    StepOptions o_;
    ModelMemory<X, Arena> memory_;
    Arena scratch_memory_;
    int resident_[Sharding::kSlots] = {-1, -1, -1, -1};
    int64_t weights_here_[Sharding::kSlots] = {}, gradients_sent_[Sharding::kSlots] = {};  // tickets of comm_stream_
    Communicator* comm_ = nullptr;
    HostStream comm_stream_;
    ModelPointers<X> w_;
    ModelPointers<G> dw_;
    Activations<X, Arena> acts_, decode_acts_;
    BackwardScratch<X> scratch_{};
    KVCache<X> cache_;
    std::vector<float> decode_logits_;
    StepState state_;
    bool first_micro_step_ = false, last_micro_step_ = true;
};

#ifndef TESTING
int main(int argc, char** argv) {
    return run_program<GPT2, bf16>(argc, argv, {"train_gpt2", "L6:H6:C384:T256", "fp32", 16 * 256});
}
#endif
