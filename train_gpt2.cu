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
#include "llmc/communicator_nccl.cuh"
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
#include "llmc/model_memory.h"
#include "llmc/program.h"
#include "llmc/step_state.h"

// ---- small kernels of the program itself ----

// The micro-batch at hand, N rows of this rank's part of the step's tokens from first_sample on, to where the layers
// read it: a captured graph has fixed addresses.
static __global__ void load_micro_batch_kernel(int* inputs, int* targets, const int* step_inputs,
                                               const int* step_targets, const StepState* state, int N, int T) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= N) return;
    int64_t from = int64_t(state->first_sample - state->rank_first_sample) * T + i;
    inputs[i] = step_inputs[from], targets[i] = step_targets[from];
}

static __global__ void next_micro_batch_kernel(StepState* state, int B) {
    state->first_sample += static_cast<uint32_t>(B);
}

// sum (n) += x: gradients that other ranks have sent join those of earlier micro-steps.
static __global__ void add_kernel(float* sum, const float* x, int64_t n) {
    int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) sum[i] += x[i];
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
    using Ranks = NcclCommunicator;

    // Before anything else: finds the GPU, or says in one line why there is none. Fills in what options leave to it.
    static void open(Options& options, int local_rank) { open_device(options, local_rank); }
    static void configure(const Options& options) { configure_device(options); }
    static std::string machine() { return strf("GPU of compute capability %d", device().capability); }

    // comm: the ranks that train together; null: this one alone.
    GPT2(const ModelConfig& config, const StepOptions& options, NcclCommunicator* comm = nullptr)
        : GPT2(config, options, PlanOnly{}) {
        comm_ = comm;
        stream_ = make_stream(), copy_stream_ = make_stream(), comm_stream_ = make_stream();
        staged_ready_ = make_event(), staged_taken_ = make_event(), computed_ = make_event(),
        communicated_ = make_event();
        for (int slot = 0; slot < Sharding::kSlots; slot++)
            weights_here_[slot] = make_event(), gradients_sent_[slot] = make_event();
        memory_.parameters.allocate("the weights", true);
        if (o_.training) {
            memory_.gradients.allocate("the gradients", true);
            memory_.optimizer.allocate("the optimizer's state", true);
        }
        buffers_.allocate("the buffers of a step", false);
        acts_.allocate("the activations", false);
        memory_.connect(&w_, &dw_);
        host_state_ = pinned<StepState>(1);
        upload_segments();
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
        clear(memory_.m1, memory_.shards.local_size());
        clear(memory_.m2, memory_.shards.local_size());
        CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
    }

    // One whole training step: forward and backward of each micro-batch, sums over ranks, clip, update. `batch` is this
    // rank's part of the step; all ranks have the same number of micro-batches. `state` comes with the values of this
    // step and returns with its results. While the GPU works, next_batch() gets the batch of the step after this one
    // ready (it may return null) and its tokens travel to the GPU.
    void step(const Batch& batch, StepState* state, const NextBatch& next_batch = {}) {
        use_workspace();
        if (staged_first_ != batch.first || staged_sequences_ != batch.sequences) stage_tokens(batch);
        take_staged(batch);
        *host_state_ = *state;
        host_state_->loss = 0, host_state_->first_sample = state->rank_first_sample;
        CUDA_CHECK(cudaMemcpyAsync(state_, host_state_.get(), sizeof(StepState), cudaMemcpyHostToDevice, stream()));
        if (stage() >= 2) clear(memory_.own_grads, memory_.shards.local_size());
        need_weights(0), need_weights(m_.L + 1);  // they stay for the whole step
        for (int first = 0; first < batch.sequences; first += o_.B) {
            // The last micro-batch may be smaller; the loss normaliser is that of the whole step.
            int B = std::min(o_.B, batch.sequences - first), T = batch.T;
            bool is_first = first == 0, is_last = first + B == batch.sequences;
            micro_steps_[{B, T, is_first, is_last}].run(stream(), [&] { micro_step(B, T, is_first, is_last); });
        }
        update_.run(stream(), [&] { update(); });
        std::fill_n(resident_, Sharding::kSlots, -1);
        CUDA_CHECK(cudaMemcpyAsync(host_state_.get(), state_, sizeof(StepState), cudaMemcpyDeviceToHost, stream()));
        if (next_batch)
            if (const Batch* next = next_batch()) stage_tokens(*next);
        wait();
        *state = *host_state_;
    }

    // Forward and backward of B sequences.
    void micro_step(int B, int T, bool first, bool last) {
        first_micro_step_ = first, last_micro_step_ = last;
        launch(load_micro_batch_kernel, ceil_div(B * T, 256), 256, 0, stream(), inputs_, targets_, step_inputs_,
               step_targets_, state_, B * T, T);
        forward(B, T, true);
        lm_head_and_loss(B * T, true);
        backward(B, T);
        launch(next_micro_batch_kernel, 1, 1, 0, stream(), state_, B);
        join_communication();
    }

    // ---- forward ----

    // inputs_ (B,T) to the normalised residual stream after the last block, acts.h[L].ln1.
    void forward(int B, int T, bool training) { run_blocks(acts_, inputs_, nullptr, B, T, training, nullptr); }
    void run_blocks(Activations<X, DeviceArena>& acts, const int* tokens, const int* positions, int B, int T,
                    bool training, KVCache<X>* cache) {
        CHECK(int64_t(B) * T <= (cache ? decode_chunk() : rows()), "B=%d T=%d", B, T);
        BlockActivations<X>& a = acts.h[0];
        // A captured pass begins each time with the same slots empty.
        resident_[memory_.shards.slot(1)] = resident_[memory_.shards.slot(2)] = -1;
        need_weights(0), fetch_weights(1);
        encoder_forward(a.input, tokens, positions, w_.wte, w_.wpe, B, T, m_.C, dropout(4 * m_.L, training), stream());
        need_weights(1);
        layernorm_forward(a.ln1, a.ln1_mean, a.ln1_rstd, a.input, norm1(0).w, norm1(0).b, B * T, m_.C, stream());
        for (int l = 0; l < m_.L; l++) block_forward(acts, l, B, T, training, cache);
    }

    // One block. Enters with h[l].input and h[l].ln1, leaves h[l+1].input and h[l+1].ln1: the layernorm that follows a
    // residual add is fused with it.
    void block_forward(Activations<X, DeviceArena>& acts, int l, int B, int T, bool training, KVCache<X>* cache) {
        int N = B * T, C = m_.C;
        BlockActivations<X>&a = acts.h[static_cast<size_t>(l)], &next = acts.h[static_cast<size_t>(l) + 1];
        fetch_weights(l + 2);  // of the next block, bucket l + 2, on their way while this one works
        block_inner(acts, l, B, T, training, cache);
        matmul_forward<X>(acts.branch, nullptr, a.fch_gelu, w_.h[l].fcprojw, w_.h[l].fcprojb, N, 4 * C, C, false,
                          stream());
        need_weights(l + 2);
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
        if (training) begin_gradients(0);
        const X* x = acts_.h[static_cast<size_t>(m_.L)].ln1;
        for (int64_t r = 0; r < N; r += acts_.chunk) {
            int n = static_cast<int>(std::min(acts_.chunk, N - r));
            matmul_forward<X>(acts_.logits, nullptr, x + r * C, w_.wte, nullptr, n, C, Vp, false, stream());
            fused_classifier<X>(acts_.logits, acts_.losses + r, targets_ + r, nullptr, state_, n, m_.V, Vp, training,
                                stream());
            if (training)
                matmul_backward<X>(scratch_.dbranch + r * C, dw_.wte, nullptr, acts_.logits, x + r * C, w_.wte, nullptr,
                                   n, C, Vp, add_gradients() || r > 0, stream());
        }
        if (training) add_losses(state_, acts_.losses, N, stream());
    }

    // ---- backward ----

    // From dbranch (gradient of the last layernorm's output) to all gradients of weights, which are added to.
    void backward(int B, int T) {
        int N = B * T, C = m_.C;
        const BlockActivations<X>& last = acts_.h[static_cast<size_t>(m_.L)];
        const int final_norm = m_.L + 1;
        begin_gradients(final_norm);
        clear(scratch_.dresidual, int64_t(N) * C);
        layernorm_backward(scratch_.dresidual, dw_.lnfw, dw_.lnfb, scratch_.dbranch, last.input, w_.lnfw, last.ln1_mean,
                           last.ln1_rstd, N, C, stream());
        reduce_gradients(final_norm);
        for (int l = m_.L - 1; l >= 0; l--) block_backward(l, B, T);
        encoder_backward<X>(dw_.wte, dw_.wpe, scratch_.dresidual, inputs_, nullptr, B, T, C, dropout(4 * m_.L, true),
                            stream());
        reduce_gradients(0);
    }

    // Enters with dresidual = gradient of the block's output, leaves it as the gradient of its input.
    void block_backward(int l, int B, int T) {
        int N = B * T, C = m_.C;
        BlockActivations<X>& a = acts_.h[static_cast<size_t>(l)];
        const BlockPointers<X>& w = w_.h[static_cast<size_t>(l)];
        const BlockPointers<float>& dw = dw_.h[static_cast<size_t>(l)];
        auto [dresidual, dbranch, dwide] = scratch_;
        need_weights(l + 1), fetch_weights(l);  // and those of the block before this one, bucket l
        begin_gradients(l + 1);

        if (o_.recompute >= 2)
            layernorm_forward(a.ln1, a.ln1_mean, a.ln1_rstd, a.input, w.ln1w, w.ln1b, N, C, stream());
        if (o_.recompute >= 3) block_inner(acts_, l, B, T, true, nullptr);
        else if (o_.recompute >= 1) gelu_forward(a.fch_gelu, a.fch, int64_t(4) * N * C, stream());

        // MLP
        const X* dmlp = dropout_backward(dresidual, B, T, 4 * l + 2);
        matmul_backward<X>(dwide, dw.fcprojw, dw.fcprojb, dmlp, a.fch_gelu, w.fcprojw, a.fch, N, 4 * C, C,
                           add_gradients(), stream());
        if (o_.recompute == 2)
            layernorm_forward(a.ln2, a.ln2_mean, a.ln2_rstd, a.residual2, w.ln2w, w.ln2b, N, C, stream());
        matmul_backward<X>(dbranch, dw.fcw, dw.fcb, dwide, a.ln2, w.fcw, nullptr, N, C, 4 * C, add_gradients(),
                           stream());
        layernorm_backward(dresidual, dw.ln2w, dw.ln2b, dbranch, a.residual2, w.ln2w, a.ln2_mean, a.ln2_rstd, N, C,
                           stream());
        // Attention
        const X* dattproj = dropout_backward(dresidual, B, T, 4 * l + 1);
        X* datty = a.fch_gelu;  // no longer needed; (N,4C) has room for (N,C)
        matmul_backward<X>(datty, dw.attprojw, dw.attprojb, dattproj, a.atty, w.attprojw, nullptr, N, C, C,
                           add_gradients(), stream());
        attention_backward(dwide, dwide + C, dwide + 2 * C, datty, a.qkv, a.qkv + C, a.qkv + 2 * C, a.atty, a.lse,
                           packed_qkv_shape(B, T, C, m_.NH), nullptr, dropout(4 * l, true), stream());
        matmul_backward<X>(dbranch, dw.qkvw, dw.qkvb, dwide, a.ln1, w.qkvw, nullptr, N, C, 3 * C, add_gradients(),
                           stream());
        layernorm_backward(dresidual, dw.ln1w, dw.ln1b, dbranch, a.input, w.ln1w, a.ln1_mean, a.ln1_rstd, N, C,
                           stream());
        reduce_gradients(l + 1);
    }

    // Gradient of the branch that dropout scaled before it joined the residual stream: dresidual itself where there is
    // no dropout.
    const X* dropout_backward(const X* dresidual, int B, int T, int site) {
        Dropout d = dropout(site, true);
        if (!d.active()) return dresidual;
        dropout_apply(scratch_.dbranch, dresidual, B, int64_t(T) * m_.C, d, stream());
        return scratch_.dbranch;
    }

    // ---- ranks: what each has of weights and gradients, and what travels (zero.h) ----
    //
    // It travels in a stream of its own, beside the stream of the kernels. Events say what has to wait for what: record
    // marks a point in one stream, wait keeps the other from going on before that point is reached.

    // Before bucket b's gradients are computed. Gradients add up over micro-steps, in the arena (stages 0 and 1) or in
    // the owner's part of their sums. Those of the matrices, nearly all of them, are not cleared first but overwritten,
    // which saves writing and reading them once (add_gradients).
    void begin_gradients(int b) {
        int slot = memory_.shards.slot(b);
        wait_if_pending(&sending_[slot], gradients_sent_[slot]);  // the bucket that lay here before
        if (add_gradients()) return;
        // Tensors to clear lie side by side between the matrices: one memset for each row of them.
        Bucket bucket = memory_.shards.bucket(b);
        const Parameter* rows = &memory_.table[bucket.first_row];
        auto cleared = [&](size_t row) { return !rows[row].transposed_in_file && (b > 0 || row > 0); };
        for (size_t row = 0, last; row < bucket.rows; row = last + 1) {
            for (last = row; cleared(row) && last + 1 < bucket.rows && cleared(last + 1);) last++;
            if (cleared(row))
                clear(memory_.gradient_of(rows[row]), rows[last].offset + rows[last].padded_size() - rows[row].offset);
        }
    }
    bool add_gradients() const { return stage() < 2 && !first_micro_step_; }

    // When bucket b's gradients of a micro-step are complete: they are summed over ranks while the backward pass goes
    // on. Stages 0 and 1 send them once a step, 2 and 3 after each micro-step.
    void reduce_gradients(int b) {
        if (memory_.world == 1 || (stage() < 2 && !last_micro_step_)) return;
        Bucket bucket = memory_.shards.bucket(b);
        int64_t part = memory_.shards.part(b);
        size_t n = static_cast<size_t>(part);
        float* own = memory_.own_grads + memory_.shards.local(b);
        int slot = memory_.shards.slot(b);
        follow_computation();
        if (stage() == 0)
            comm_->all_reduce(memory_.grads + bucket.begin, static_cast<size_t>(bucket.size), comm_stream_.get());
        if (stage() == 1) comm_->reduce_scatter(own, memory_.grads + bucket.begin, n, comm_stream_.get());
        if (stage() >= 2) {
            comm_->reduce_scatter(memory_.received, memory_.grad_slots[slot], n, comm_stream_.get());
            launch(add_kernel, ceil_div(part, 256), 256, 0, comm_stream_.get(), own, memory_.received, part);
            CUDA_CHECK(cudaEventRecord(gradients_sent_[slot].get(), comm_stream_.get()));
            sending_[slot] = true;
        }
    }

    // Stage 3: bucket b's weights are gathered into their slot, unless they lie there; need_weights waits for them.
    void fetch_weights(int b) {
        int slot = memory_.shards.slot(b);
        if (stage() < 3 || b > m_.L + 1 || resident_[slot] == b) return;
        resident_[slot] = b;
        follow_computation();  // which has the slot's last bucket behind it
        comm_->all_gather(memory_.weight_slots[slot], memory_.weight_part + memory_.shards.local(b),
                          static_cast<size_t>(memory_.shards.part(b)), comm_stream_.get());
        CUDA_CHECK(cudaEventRecord(weights_here_[slot].get(), comm_stream_.get()));
        fetching_[slot] = true;
    }
    void need_weights(int b) {
        fetch_weights(b);
        if (b <= m_.L + 1) wait_if_pending(&fetching_[memory_.shards.slot(b)], weights_here_[memory_.shards.slot(b)]);
    }

    // What comes next in comm_stream_ begins when all kernels launched so far have ended.
    void follow_computation() {
        CUDA_CHECK(cudaEventRecord(computed_.get(), stream()));
        CUDA_CHECK(cudaStreamWaitEvent(comm_stream_.get(), computed_.get(), 0));
    }
    // And the other way round; a captured graph must end with all its work in one stream.
    void join_communication() {
        if (memory_.world == 1) return;
        follow_computation();  // comm_stream_ belongs to the capture, even where nothing was sent
        CUDA_CHECK(cudaEventRecord(communicated_.get(), comm_stream_.get()));
        CUDA_CHECK(cudaStreamWaitEvent(stream(), communicated_.get(), 0));
        std::fill_n(sending_, Sharding::kSlots, false);
        std::fill_n(fetching_, Sharding::kSlots, false);
    }
    template <typename Event>
    void wait_if_pending(bool* pending, const Event& event) {
        if (*pending) CUDA_CHECK(cudaStreamWaitEvent(stream(), event.get(), 0));
        *pending = false;
    }

    // ---- update ----

    // Mean loss, norm, clip scale and the decision to skip, then AdamW: nothing of it passes through the host. A rank
    // updates what it has the optimizer state of; then the weights of all parts come together again.
    void update() {
        const Sharding& shards = memory_.shards;
        global_norm_squared(norm_squared_, memory_.own_grads, shards.local_size(), stream());
        if (memory_.world > 1) {
            comm_->all_reduce(&state_->loss, 1, stream());
            // At stage 0 every rank has the whole gradient; else the norm's square is summed over the parts.
            if (stage() > 0) comm_->all_reduce(norm_squared_, 1, stream());
        }
        finish_gradients(state_, norm_squared_, o_.grad_clip, stream());
        AdamWOptions o{o_.beta1, o_.beta2, o_.epsilon, o_.weight_decay, o_.stochastic_rounding};
        auto adamw = [&](int64_t arena, int64_t local, int64_t index, int64_t n) {
            adamw_update<X>(memory_.own_weight(arena, local), memory_.master ? memory_.master + local : nullptr,
                            memory_.m1 + local, memory_.m2 + local, memory_.own_grads + local, segments_,
                            static_cast<int>(memory_.table.size()), index, index + n, o, state_, stream());
        };
        if (stage() == 0) return adamw(0, 0, 0, memory_.size);
        for (int b = 0; b < shards.buckets(); b++) {
            Bucket bucket = shards.bucket(b);
            const Parameter &first = memory_.table[bucket.first_row], &last = (&first)[bucket.rows - 1];
            int64_t begin = shards.begin(b), end = std::min(begin + shards.part(b), last.offset + last.padded_size());
            adamw(begin, shards.local(b), first.index + begin - bucket.begin, std::max<int64_t>(0, end - begin));
            if (stage() < 3)
                comm_->all_gather(memory_.weights + bucket.begin, memory_.weights + begin,
                                  static_cast<size_t>(shards.part(b)), stream());
        }
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
        join_communication();
        wait();  // first: a copy to memory that is not page-locked holds up the host, unseen by the group's watch
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
            if (now == 1 && stage() < 3) decode_one_.run(stream(), [&] { decode_chunk_of(1); });
            else decode_chunk_of(now);
            cache_.used += now, done += now;
        }
        wait();
        decode_logits_ = download(decode_acts_.logits, m_.V);
        return decode_logits_.data();
    }
    void decode_chunk_of(int n) {
        launch(next_positions_kernel, 1, 128, 0, stream(), cache_.positions, cache_.length, n);
        run_blocks(decode_acts_, cache_.tokens, cache_.positions, 1, n, false, &cache_);
        const X* last = decode_acts_.h[static_cast<size_t>(m_.L)].ln1 + int64_t(n - 1) * m_.C;
        matmul_forward<X>(decode_acts_.logits, nullptr, last, w_.wte, nullptr, 1, m_.C, m_.Vp(), false, stream());
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
        auto bad = [this](const auto* x, int64_t n) {
            for (float v : download(x, n))
                if (!std::isfinite(v)) return true;
            return false;
        };
        return first_bad_tensor(memory_.table, memory_.weights, memory_.grads, acts_, rows(), m_.C, o_.recompute, bad);
    }

    // For the plan; `options.B` as planned. Nothing is allocated.
    static MemoryPlan memory_plan(const ModelConfig& config, const StepOptions& options) {
        GPT2 model(config, options, PlanOnly{});
        return {model.memory_.parameters.bytes(), model.memory_.gradients.bytes(), model.memory_.optimizer.bytes(),
                model.acts_.arena.bytes() + model.buffers_.bytes() + cublaslt_workspace_bytes()};
    }

    static double available_memory() {
        size_t free_bytes = 0, total = 0;
        CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
        return static_cast<double>(free_bytes);
    }
    static std::string health() { return device_health(); }
    double peak_flops() const { return device_peak_flops(std::is_same_v<X, bf16>); }

    const ModelConfig& config() const { return m_; }
    const std::vector<Parameter>& table() const { return memory_.table; }
    int64_t arena_elements() const { return memory_.size; }
    cudaStream_t stream() const { return stream_.get(); }

    // n elements of device memory, as floats.
    template <typename Y>
    std::vector<float> download(const Y* x, int64_t n) const {
        std::vector<Y> values(static_cast<size_t>(n));
        CUDA_CHECK(cudaMemcpyAsync(values.data(), x, values.size() * sizeof(Y), cudaMemcpyDeviceToHost, stream()));
        CUDA_CHECK(cudaStreamSynchronize(stream()));
        return {values.begin(), values.end()};
    }
    std::vector<float> gradients() const { return download(memory_.grads, memory_.size); }

  private:
    struct PlanOnly {};
    // Sizes of everything, and no memory.
    GPT2(const ModelConfig& config, const StepOptions& options, PlanOnly)
        : m_(config),
          o_(options),
          memory_(config, options),
          acts_(config, rows(), lm_head_chunk(), options.training, options.recompute),
          decode_acts_(config, decode_chunk(), 1, false, 0) {
        if (o_.training) scratch_.add_to(buffers_, rows(), m_.C);
        buffers_.add(&inputs_, rows());
        buffers_.add(&targets_, rows());
        buffers_.add(&state_, 1);
        buffers_.add(&norm_squared_, 1);
        buffers_.add(&segments_, static_cast<int64_t>(memory_.table.size()));
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

    int stage() const { return memory_.stage; }
    int64_t rows() const { return int64_t(o_.B) * o_.T; }
    int decode_chunk() const { return std::min(m_.T, 128); }
    // At most 2^30 logits (2 GiB in bf16), 21,248 rows of GPT-2's vocabulary: each chunk reads and writes the gradient
    // of wte once more. A rule of the shape alone, because chunks decide the order of sums.
    int64_t lm_head_chunk() const { return std::max<int64_t>(128, (int64_t(1) << 30) / m_.Vp() / 128 * 128); }
    AttentionShape decode_shape(int T) const {
        return {1, T, m_.T, m_.NH, m_.NH, m_.HS(), 3ll * m_.C, m_.C, m_.C, 0, 0, 0};
    }

    Dropout dropout(int site, bool training) const {
        return training && o_.dropout > 0 ? Dropout{o_.dropout, static_cast<uint32_t>(site), state_} : Dropout{};
    }

    // ---- tokens on their way to the GPU ----

    // Starts to copy a whole step's tokens; they wait in `staged` until the step takes them.
    void stage_tokens(const Batch& batch) {
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
        CUDA_CHECK(cudaStreamWaitEvent(copy_stream_.get(), staged_taken_.get(), 0));
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
        CUDA_CHECK(cudaEventRecord(staged_taken_.get(), stream()));
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
    void wait() { comm_ ? comm_->wait(stream()) : CUDA_CHECK(cudaStreamSynchronize(stream())); }
    template <typename Y>
    void clear(Y* x, int64_t n) {
        CUDA_CHECK(cudaMemsetAsync(x, 0, static_cast<size_t>(n) * sizeof(Y), stream()));
    }
    template <typename Y>
    void upload(Y* to, const float* from, int64_t n) {
        std::vector<Y> values(from, from + n);
        CUDA_CHECK(cudaMemcpyAsync(to, values.data(), values.size() * sizeof(Y), cudaMemcpyHostToDevice, stream()));
        CUDA_CHECK(cudaStreamSynchronize(stream()));
    }
    // n elements of the local arena, or weights anywhere in the whole one, as floats.
    std::vector<float> own_values(Buffer buffer, int64_t arena, int64_t local, int64_t n) const {
        return buffer == Buffer::weights ? download(memory_.own_weight(arena, local), n)
                                         : download(memory_.optimizer_buffer(buffer) + local, n);
    }
    void read(Buffer buffer, int64_t offset, int64_t n, float* out) {
        const Sharding& shards = memory_.shards;
        if (shards.world() == 1 || (buffer == Buffer::weights && memory_.weights)) {
            std::vector<float> values = own_values(buffer, offset, offset, n);
            std::copy(values.begin(), values.end(), out);
            return;
        }
        // Each owner's piece travels through the workspace, as much at a time as that holds.
        use_workspace();
        const int64_t most = static_cast<int64_t>(workspace_bytes_ / sizeof(float));
        for (int r = 0; r < shards.world(); r++)
            shards.for_owned(r, offset, n, [&](int64_t arena, int64_t local, int64_t whole) {
                for (int64_t at = 0; at < whole; at += most) {
                    int64_t count = std::min(most, whole - at);
                    float* buffer_on_gpu = workspace<float>(static_cast<size_t>(count));
                    if (r == memory_.rank)
                        upload(buffer_on_gpu, own_values(buffer, arena + at, local + at, count).data(), count);
                    comm_->broadcast(buffer_on_gpu, static_cast<size_t>(count), r, stream());
                    std::vector<float> values = download(buffer_on_gpu, count);
                    std::copy(values.begin(), values.end(), out + arena + at - offset);
                }
            });
    }
    void write(Buffer buffer, int64_t offset, int64_t n, const float* in) {
        std::fill_n(resident_, Sharding::kSlots, -1);
        if (buffer == Buffer::weights && memory_.weights) return upload(memory_.weights + offset, in, n);
        memory_.shards.for_own(offset, n, [&](int64_t arena, int64_t local, int64_t count) {
            const float* from = in + arena - offset;
            if (buffer == Buffer::weights) upload(memory_.weight_part + local, from, count);
            else upload(memory_.optimizer_buffer(buffer) + local, from, count);
        });
    }
    void upload_segments() {
        std::vector<AdamWSegment> segments;
        for (const Parameter& p : memory_.table)
            segments.push_back({p.index, p.trainable ? p.size() : 0, p.weight_decay ? o_.weight_decay : 0.0f});
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
    ModelMemory<X, DeviceArena> memory_;
    DeviceArena buffers_;
    NcclCommunicator* comm_ = nullptr;
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
    bool first_micro_step_ = false, last_micro_step_ = true;
    Stream stream_, copy_stream_, comm_stream_;
    Event staged_ready_, staged_taken_, computed_, communicated_;
    // Of each slot (zero.h): the bucket whose weights it holds, and whether `stream_` has yet to wait for an event
    int resident_[Sharding::kSlots] = {-1, -1, -1, -1};
    bool fetching_[Sharding::kSlots] = {}, sending_[Sharding::kSlots] = {};
    Event weights_here_[Sharding::kSlots], gradients_sent_[Sharding::kSlots];
    std::map<std::tuple<int, int, bool, bool>, CapturedWork> micro_steps_;  // by B, T, first, last of the step
    CapturedWork update_, decode_one_;
};

#ifndef TESTING
int main(int argc, char** argv) { return run_program<GPT2, bf16>(argc, argv, {"train_gpt2cu", "d12", "bf16", 524288}); }
#endif
