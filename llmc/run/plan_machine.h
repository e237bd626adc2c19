// A machine that does not compute but counts: with it the model's own step (gpt2.h) says what a run needs and how long it
// takes, on GPUs that nobody has here.
//
// Memory: an arena that only counts bytes. Time: two clocks, that of the arithmetic and that of the transfers between
// ranks. A layer adds what roofline.h says at the given rates; what travels takes the ring's bytes (a reduce-scatter or an
// all-gather of S bytes over n ranks sends S (n-1) / n from each, an all-reduce both); events make one clock wait for
// the other, as they do streams. So the schedule of fetching, waiting and sending is the step's, bucket by bucket.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>
#include "llmc/base/turns.h"
#include "llmc/cuda/workspaces.h"
#include "llmc/model/activations.h"
#include "llmc/model/arguments.h"
#include "llmc/model/batch.h"
#include "llmc/run/roofline.h"

// The device that is planned for. One at a time in a thread, as device() is one for the CUDA layers.
struct PlannedDevice {
    int multiprocessors = 132, capability = 90;
    bool own_matmul = false;
    Rates rates;
    StepForm form = StepForm::program;
    int ranks = 1;
    double wire = 1;  // bytes/s out of a rank
};
inline PlannedDevice& planned_device() {
    static thread_local PlannedDevice device;
    return device;
}

// What CUB's sort of N rows wants is its secret; about a second pair of tokens and rows. (test/cuda/test_plan.cu)
inline size_t planned_sort_bytes(int64_t N) { return 2 * sizeof(int) * static_cast<size_t>(N); }

// Addresses that nobody reads.
template <size_t alignment>
class CountingArena {
  public:
    using Host = CountingArena;
    template <typename X>
    void add(X** view, int64_t n) {
        *view = reinterpret_cast<X*>((uintptr_t(1) << 40) + bytes_);
        bytes_ += (static_cast<size_t>(n) * sizeof(X) + alignment - 1) / alignment * alignment;
    }
    void allocate(const char*, bool) {}
    size_t bytes() const { return bytes_; }

  private:
    size_t bytes_ = 0;
};

struct PlanClock {
    // Seconds: the layers' clock, that of transfers between ranks, those of copies from and to the host
    double now = 0, wire = 0, coming = 0, leaving = 0;
    double skipped = 0;  // by which all were advanced for work that was not walked
    double compute = 0, update = 0, communication = 0, sent = 0, copying = 0,
           copied = 0;  // seconds; sent, copied: bytes
    int V = 1;          // of the model

    double& of(Lane lane) {
        return lane == Lane::layers ? now : lane == Lane::network ? wire : lane == Lane::in ? coming : leaving;
    }
    void copy(Lane lane, double bytes) {
        const double seconds = bytes / planned_device().rates.host;
        of(lane) += seconds, copying += seconds, copied += bytes;
    }

    void layer(Bound bound, double flops, double bytes) {
        double seconds = floor_seconds(bound, flops, bytes, planned_device().rates);
        now += seconds, compute += seconds;
    }
    void memory(double bytes) { layer(Bound::memory, 0, bytes); }
    void updates(double bytes) {
        double seconds = bytes / planned_device().rates.copy;
        now += seconds, update += seconds;
    }
    // Once round the ring.
    void send(double bytes) {
        double n = planned_device().ranks, out = (n - 1) / n * bytes, seconds = out / planned_device().wire;
        sent += out, communication += seconds, wire += seconds;
    }
};

struct PlanStream {
    PlanClock* clock;
};

class PlanCommunicator {
  public:
    template <typename T>
    void all_reduce(T*, size_t n, PlanStream stream) {
        if (n > kStepSums)
            stream.clock->send(2.0 * sizeof(T) * static_cast<double>(n));  // a step's few sums: not counted
    }
    template <typename T>
    void reduce_scatter(T*, const T*, size_t n, PlanStream stream) {
        all_gather<T>(nullptr, nullptr, n, stream);
    }
    template <typename T>
    void all_gather(T*, const T*, size_t n, PlanStream stream) {
        stream.clock->send(static_cast<double>(sizeof(T)) * static_cast<double>(n) * planned_device().ranks);
    }
};

// limit, alignment: of the planned machine's logits and arenas.
template <LogitsLimit limit, size_t alignment, bool gpu>
class PlanMachine {
  public:
    using Arena = CountingArena<alignment>;
    using Communicator = PlanCommunicator;
    using Stream = PlanStream;
    struct Event {
        double at = 0, skipped = 0;
    };
    // A piece of a step that runs again and again takes the same time again: it is walked three times (the first fills
    // what the second finds), and then the clocks are put forward by what the third took.
    class Work {
      public:
        template <typename Body>
        void run(PlanStream stream, Body body) {
            PlanClock& c = *stream.clock;
            if (walked_ == 3) return advance(c);
            PlanClock before = c;
            body();
            walked_++;
            taken_.now = c.now - before.now, taken_.compute = c.compute - before.compute;
            taken_.communication = c.communication - before.communication, taken_.sent = c.sent - before.sent;
            taken_.copying = c.copying - before.copying, taken_.copied = c.copied - before.copied;
        }

      private:
        void advance(PlanClock& c) {
            for (double* clock : {&c.now, &c.wire, &c.coming, &c.leaving, &c.skipped}) *clock += taken_.now;
            c.copying += taken_.copying, c.copied += taken_.copied;
            c.compute += taken_.compute, c.communication += taken_.communication, c.sent += taken_.sent;
        }
        int walked_ = 0;
        PlanClock taken_;
    };
    static constexpr LogitsLimit logits = limit;
    static size_t library_bytes() {
        if (!gpu || planned_device().own_matmul) return 0;
        size_t bytes = cublaslt_recommended_bytes(planned_device().capability);
        return (bytes + alignment - 1) / alignment * alignment;
    }
    template <typename X>
    void reserve_workspace(Arena& arena, const ModelConfig& m, const StepOptions& o, const AttentionShape& decode,
                           ColumnSums<X>& sums) {
        clock_.V = m.words();
        if (!gpu) return;
        int64_t N = int64_t(o.B) * o.T;
        const AttentionShape attention = packed_qkv_shape(o.B, o.T, m.C, m.NH);
        const int multiprocessors = planned_device().multiprocessors;
        size_t bytes =
            gpu_workspace_bytes(o.training, N, m.C, m.F(), attention, decode, multiprocessors, planned_sort_bytes(N));
        char* workspace = nullptr;
        arena.add(&workspace, static_cast<int64_t>(bytes));
        if (leaves_column_sums(o))
            arena.add(&sums.parts,
                      column_sums_elements(N, m.C, m.F(), attention, multiprocessors, planned_device().own_matmul));
    }

    void start() {}
    void use_workspace() {}
    PlanStream stream() { return {&clock_}; }
    PlanStream& network() { return network_; }
    PlanClock& clock() { return clock_; }

    Event make_event() { return {}; }
    void record(Event& e, Lane lane = Lane::network) { e = {clock_.of(lane), clock_.skipped}; }
    void wait_for(const Event& e, Lane lane = Lane::layers) {
        clock_.of(lane) = std::max(clock_.of(lane), e.at + clock_.skipped - e.skipped);
    }
    void join(Lane lane = Lane::network) { clock_.now = std::max(clock_.now, clock_.of(lane)); }
    void follow_computation(Lane lane = Lane::network) { clock_.of(lane) = std::max(clock_.of(lane), clock_.now); }
    template <typename Y>
    void bring(Y*, const Y*, int64_t n) {
        clock_.copy(Lane::in, static_cast<double>(n) * sizeof(Y));
    }
    template <typename Y>
    void put_away(Y*, const Y*, int64_t n) {
        clock_.copy(Lane::out, static_cast<double>(n) * sizeof(Y));
    }
    void finish(PlanCommunicator* = nullptr) {}

    bool begin_step(const Batch&) { return false; }
    bool stage(const Batch&) { return false; }
    StepTokens step_tokens() const { return {}; }
    void put_state(StepState*, const StepState&) {}
    void take_state(const StepState*) {}
    StepState taken_state() const { return {}; }
    template <typename Y>
    void clear(Y*, int64_t n) {
        if (planned_device().form == StepForm::program) clock_.memory(static_cast<double>(n) * sizeof(Y));
    }
    template <typename Y>
    void copy_in(Y*, const Y*, size_t) {}
    template <typename Y>
    void copy_out(float*, const Y*, size_t) {}
    template <typename Y>
    void copy(Y*, const Y*, size_t) {}
    static constexpr bool kReadByThread = false;
    template <typename Y>
    void copy_beside(float*, const Y*, size_t) {}
    template <typename Y>
    void upload(Y*, const float*, int64_t) {}
    template <typename Y>
    std::vector<float> download(const Y*, int64_t) {
        return {};
    }
    void broadcast(PlanCommunicator&, std::vector<float>&, int) {}

  private:
    PlanClock clock_;
    PlanStream network_{&clock_};
};
using PlannedGpu = PlanMachine<kGpuLogits, 256, true>;
using PlannedCpu = PlanMachine<kCpuLogits, 64, false>;
// For floors: the LM head in one piece.
using WholeGpu = PlanMachine<LogitsLimit{INT64_MAX, 1}, 256, true>;

// ---- the layers ------------------------------------------------------------------------------------------------------
//
// Letters: N rows, x = bytes of an (N,C) activation. Gradients of weights are fp32: written, or read and written where
// they add up.

template <typename A>
void load_micro_batch(MicroBatch<A>, StepTokens, const StepState*, int, int, PlanStream) {}
inline void next_micro_batch(StepState*, int, int, int, PlanStream) {}
template <typename A>
void add_losses(double*, const A*, const A*, int, PlanStream) {}
inline void finish_gradients(StepState*, const double*, float, PlanStream) {}
template <typename G>
void add_to(G*, const G*, int64_t, PlanStream) {}
template <typename X>
void append_to_cache(X*, X*, const X*, int, int, int, int, const int*, const int*, PlanStream) {}
template <typename X>
void attention_decode(X*, const X*, const X*, const X*, const AttentionShape&, const int*, const int*, PlanStream) {}

template <typename X>
void dropout_apply(X*, const X*, int B, int64_t per_sample, Dropout, PlanStream s) {
    s.clock->memory(2.0 * B * static_cast<double>(per_sample) * sizeof(X));
}
template <typename X>
void encoder_forward(X*, const int*, const int*, const X*, const X*, const X*, int B, int T, int C, Dropout,
                     PlanStream s) {
    double N = double(B) * T, rows = std::min<double>(N, s.clock->V);  // rows of wte that a micro-batch can touch
    s.clock->memory(4 * N + ((rows + T) * C + N * C) * sizeof(X));
}
template <typename X>
void encoder_backward(grad_t<X>*, grad_t<X>*, const X*, const int*, const int*, int B, int T, int C, int, Dropout,
                      PlanStream s) {
    double N = double(B) * T, rows = std::min<double>(N, s.clock->V);
    s.clock->memory(4 * N + N * C * sizeof(X) + 2 * rows * C * 4 + 2.0 * T * C * 4);
}
template <typename X, typename O>  // of prompts: too few rows to count
void prompt_backward(O*, const X*, const int*, int, int, int, int, Dropout, PlanStream) {}
template <typename X>
void lstm_forward(X*, X*, float*, X*, const X*, int, int64_t, PlanStream) {}
template <typename X>
void lstm_backward(X*, const X*, const X*, const float*, const X*, int, int64_t, PlanStream) {}
template <typename X>
void relu_forward(X*, const X*, int64_t, PlanStream) {}
template <typename X>
void relu_backward(X*, const X*, const X*, int64_t, PlanStream) {}
template <typename X>
void layernorm_forward(X*, acc_t<X>*, acc_t<X>*, const X*, const X*, const X*, int N, int C, float, PlanStream s) {
    s.clock->memory(2.0 * N * C * sizeof(X) + 8.0 * N + 2.0 * C * sizeof(X));
}
template <typename X>
void residual_layernorm_forward(X*, X*, acc_t<X>*, acc_t<X>*, const X*, const X*, const X*, const X*, int N, int C, int,
                                Dropout, float, PlanStream s) {
    s.clock->memory(4.0 * N * C * sizeof(X) + 8.0 * N + 2.0 * C * sizeof(X));
}
// Whose sums a layer leaves (arguments.h), which costs nothing beside it.
template <typename X>
void plan_sums(ColumnSums<X>* sums, const std::type_identity_t<X>* of) {
    if (sums && sums->parts && planned_device().form == StepForm::program) sums->of = of;
}
template <typename X>
void layernorm_backward(X* dx, grad_t<X>* dw, grad_t<X>*, const X*, const X*, const X*, const acc_t<X>*,
                        const acc_t<X>*, int N, int C, Sums<X> sums, PlanStream s) {
    plan_sums(sums, dx);
    s.clock->memory(4.0 * N * C * sizeof(X) + 8.0 * N + C * sizeof(X) + (dw ? 2.0 * C * 8 : 0));
}
template <typename X>
void gelu_forward(X*, const X*, int64_t n, PlanStream s) {
    s.clock->memory(2.0 * static_cast<double>(n) * sizeof(X));
}
template <typename X>
void gelu_backward(X*, const X*, const X*, int64_t n, PlanStream s) {
    s.clock->memory(3.0 * static_cast<double>(n) * sizeof(X));
}
template <typename X>
void gelu_erf_forward(X*, const X*, int64_t n, PlanStream s) {
    s.clock->memory(2.0 * static_cast<double>(n) * sizeof(X));
}
template <typename X>
void gelu_erf_backward(X*, const X*, const X*, int64_t n, PlanStream s) {
    s.clock->memory(3.0 * static_cast<double>(n) * sizeof(X));
}

// One product of (N,C) and (C,OC), in any of its three directions.
inline void plan_product(PlanStream s, double N, double C, double OC, double bytes) {
    s.clock->layer(Bound::product, 2 * N * C * OC, bytes);
}
// The LM head is the product without a bias: its (N,Vp) side is the logits, which not every form has in memory.
inline double plan_wide_bytes(bool lm_head, double N, double OC, double size) {
    return lm_head && planned_device().form != StepForm::program ? 0 : N * OC * size;
}
template <typename X>
void matmul_forward(X*, X* pre_gelu, const X*, const X*, const X* bias, int N, int C, int OC, bool, PlanStream s) {
    double size = sizeof(X), bytes = double(N) * C * size + double(C) * OC * size + plan_wide_bytes(!bias, N, OC, size);
    if (bias) bytes += OC * size;
    if (pre_gelu) bytes += double(N) * OC * size;
    plan_product(s, N, C, OC, bytes);
}
// out (M,N) += a (M,K) b (K,N)
template <typename X>
void matmul(const Matmul<X>& p, PlanStream s) {
    plan_product(s, p.M, p.K, p.N, (double(p.M) * p.K + double(p.K) * p.N + 2.0 * p.M * p.N) * sizeof(X));
}
template <typename X>
void scale_by(X*, float, int64_t n, PlanStream s) {
    s.clock->memory(2.0 * static_cast<double>(n) * sizeof(X));
}
template <typename X>
void matmul_backward(X* dx, grad_t<X>* dw, grad_t<X>* dbias, const X* dy, const X*, const X*, const X* pre_gelu, int N,
                     int C, int OC, bool add, Sums<X> sums, PlanStream s) {
    const bool fused = planned_device().form == StepForm::fused;
    double size = sizeof(X), wide = plan_wide_bytes(!dbias, N, OC, size), narrow = double(N) * C * size;
    double gradient = add ? 8 : 4;
    plan_product(s, N, C, OC, wide + narrow + double(C) * OC * size + (pre_gelu && fused ? narrow : 0));
    if (dw) plan_product(s, N, C, OC, wide + narrow + double(C) * OC * gradient + (dbias && fused ? OC * 8.0 : 0));
    if (dbias && !fused && !(sums && sums->of == dy)) s.clock->memory(wide + OC * 8.0);
    plan_sums(sums, pre_gelu && !fused ? dx : nullptr);
    if (pre_gelu && !fused) s.clock->memory(3 * narrow);
}

// Two products of a T*T square for each head, half of it masked; backward five.
inline double plan_attention_flops(const AttentionShape& a) { return 2.0 * a.B * a.Tq * a.Tk * a.NH * a.HS; }
template <typename X>
void attention_forward(X*, acc_t<X>*, const X*, const X*, const X*, const AttentionShape& a, const int*, Dropout,
                       PlanStream s) {
    double x = double(a.B) * a.Tq * a.NH * a.HS * sizeof(X), lse = 4.0 * a.B * a.Tq * a.NH;
    s.clock->layer(Bound::attention, plan_attention_flops(a), 4 * x + lse);
}
template <typename X>
void attention_backward(X* dq, X*, X*, const X*, const X*, const X*, const X*, const X*, const acc_t<X>*,
                        const AttentionShape& a, const int*, Dropout, Sums<X> sums, PlanStream s) {
    plan_sums(sums, dq);
    double x = double(a.B) * a.Tq * a.NH * a.HS * sizeof(X), lse = 4.0 * a.B * a.Tq * a.NH;
    s.clock->layer(Bound::attention, 2.5 * plan_attention_flops(a), 8 * x + lse);
}
// Softmax, loss and the gradient in place of the logits: read and written.
template <typename X>
void fused_classifier(X*, acc_t<X>*, const int*, const acc_t<X>*, const StepState*, int N, int, int Vp, bool,
                      PlanStream s) {
    s.clock->memory(8.0 * N + 2 * plan_wide_bytes(true, N, Vp, sizeof(X)));
}
template <typename X>  // of a few columns
void score_loss(X*, acc_t<X>*, const X*, const float*, const int*, const StepState*, int, int, int, bool, PlanStream) {}
template <typename G>
void global_norm_squared(double*, const G*, int64_t n, bool, PlanStream s) {
    s.clock->updates(4.0 * static_cast<double>(n));
}
// Gradient read; weights and moments read and written, bf16 weights beside masters written. (Muon's matrices, of which there are no
// moments v, and whose gradients are written: counted like AdamW's.)
template <typename X>
void optimizer_update(OptimizerArrays<X> at, const OptimizerSegment*, int, int64_t begin, int64_t end,
                      OptimizerOptions o, const StepState*, PlanStream s) {
    const double moment = 2.0 * static_cast<double>(Moment::bytes<float>(o.state_type));
    s.clock->updates(static_cast<double>(end - begin) *
                     (4 + (at.m ? moment : 0) + (at.v ? moment : 0) + (at.master ? 8 + sizeof(X) : 2 * sizeof(X))));
}
// All pieces in one (llmc/cuda/offload.cuh): copies both ways beside the update.
template <LogitsLimit limit, size_t alignment, bool gpu, typename X, typename VAt>
void offloaded_update(PlanMachine<limit, alignment, gpu>& machine, Turns<PlanMachine<limit, alignment, gpu>, 2>&,
                      const Pieces<OptimizerArrays<X>>& pieces, const OptimizerArrays<X>& at, int64_t, VAt v_at,
                      const OptimizerSegment* segments, int count, int64_t begin, int64_t end,
                      const OptimizerOptions& o, const StepState* state) {
    const OptimizerArrays<X>& away = pieces.at[0];
    const double n = static_cast<double>(end - begin), moment = static_cast<double>(Moment::bytes<float>(o.state_type)),
                 kept = (away.p ? n * sizeof(X) : 0) + (away.master ? 4 * n : 0) + (away.m ? moment * n : 0) +
                        (away.v ? moment * static_cast<double>(v_at(end - begin) - v_at(0)) : 0);
    machine.follow_computation(Lane::in), machine.follow_computation(Lane::out);
    machine.clock().copy(Lane::in, kept + (away.grad ? 4 * n : 0)), machine.clock().copy(Lane::out, kept);
    optimizer_update(at, segments, count, begin, end, o, state, machine.stream());
}
template <typename X>
void divide_by_norm(X*, const grad_t<X>*, const double*, int64_t n, PlanStream s) {
    s.clock->updates(static_cast<double>(n) * (4 + sizeof(X)));
}
template <typename X>
void newton_schulz_polynomial(X*, const X*, int side, PlanStream s) {
    s.clock->updates(3.0 * side * side * sizeof(X));
}
template <typename X>
void scaled_copy(grad_t<X>*, const X*, float, int64_t n, PlanStream s) {
    s.clock->updates(static_cast<double>(n) * (4 + sizeof(X)));
}
