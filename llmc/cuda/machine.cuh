// A GPU as the machine of a model (llmc/gpt2.h). llmc/cpu/machine.h has the same names for a CPU.
//
// The host only puts work into a stream, and the GPU does it in that order; nothing waits inside a step. A micro-step
// and the update are captured as CUDA graphs the second time they run, and from then on each is started by one call.
// What changes from step to step is therefore read by the kernels from a StepState in device memory.
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/base/turns.h"
#include "llmc/cuda/common.cuh"
#include "llmc/cuda/device.cuh"
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/memory.cuh"
#include "llmc/cuda/offload.cuh"
#include "llmc/model/activations.h"
#include "llmc/model/batch.h"
#include "llmc/model/config.h"
#include "llmc/model/step_state.h"
#include "llmc/ranks/nccl.cuh"

// A piece of a step that runs again and again with the same addresses. The first time it is simply run, which loads
// kernels and plans; the second time it is captured, or later, once the library's algorithms are settled.
class CapturedWork {
  public:
    template <typename Body>
    void run(cudaStream_t stream, Body body) {
        if (!graph_ && (!seen_ || algorithms_are_timed())) {
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

struct DestroyStream {
    void operator()(cudaStream_t s) const { cudaStreamDestroy(s); }
};
struct DestroyEvent {
    void operator()(cudaEvent_t e) const { cudaEventDestroy(e); }
};
using OwnStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using OwnEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;
enum class Priority { normal, highest };
inline OwnStream make_stream(Priority priority = Priority::normal) {
    int least = 0, greatest = 0;  // normal is the least
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    cudaStream_t s = nullptr;
    CUDA_CHECK(
        cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, priority == Priority::normal ? least : greatest));
    return OwnStream(s);
}

class Gpu {
  public:
    using Arena = DeviceArena;
    using Communicator = NcclCommunicator;
    using Stream = cudaStream_t;
    using Network = const cudaStream_t;
    using Event = OwnEvent;
    using Work = CapturedWork;
    static constexpr LogitsLimit logits = kGpuLogits;
    static constexpr bool kIsHost = false;

    // Before anything else: finds the GPU, or says in one line why there is none. Fills in what options leave to it.
    static void open(DeviceOptions& options, int local_rank) { open_device(options, local_rank); }
    static void configure(DeviceOptions& options, bool bf16) { configure_device(options, bf16); }
    static std::vector<std::string> choices(const DeviceOptions& options, const ModelConfig& m, const StepOptions& o) {
        return device_choices(options, m, o);
    }
    static bool begin_algorithms(const DeviceOptions& options) { return ::begin_algorithms(options); }
    static std::string timed_algorithms() { return ::timed_algorithms(); }
    static std::string take_algorithms(const std::vector<std::string>& ranks) { return ::take_algorithms(ranks); }
    static std::string name() { return strf("GPU of compute capability %d", device().capability); }
    static std::string health() { return device_health(); }
    static double peak_flops(bool bf16) { return device_peak_flops(bf16); }
    static double available_memory() {
        size_t free_bytes = 0, total = 0;
        CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
        return static_cast<double>(free_bytes);
    }
    static size_t library_bytes() { return cublaslt_workspace_bytes(); }

    void start() {
        // NCCL's few blocks go first: behind a product they would wait until its last wave leaves a multiprocessor. The
        // nodes of a captured graph keep the priority.
        stream_ = make_stream(), copy_stream_ = make_stream(), network_ = make_stream(Priority::highest);
        network_handle_ = network_.get();
        lane_in_ = make_stream(), lane_out_ = make_stream();
        staged_ready_ = make_event(), staged_taken_ = make_event(), computed_ = make_event();
        communicated_ = make_event();
        host_state_ = pinned<StepState>(1);
    }
    cudaStream_t stream() const { return shared_ ? shared_ : stream_.get(); }
    // From now on instead of in a stream of its own: that of a model whose captured work this one's is a part of.
    void work_in(cudaStream_t stream) { shared_ = stream; }
    const cudaStream_t& network() const { return network_handle_; }
    // Working memory for one layer at a time: the most that any of them wants.
    template <typename X>
    void reserve_workspace(DeviceArena& arena, const ModelConfig& m, const StepOptions& o, const AttentionShape& decode,
                           ColumnSums<X>& sums) {
        AttentionShape attention = packed_qkv_shape(o.B, o.T, m.C, m.NH);
        size_t sort = o.training ? sort_scratch_bytes(o.B * o.T) : 0;
        workspace_bytes_ = std::max(gpu_workspace_bytes(o.training, int64_t(o.B) * o.T, m.C, m.F(), attention, decode,
                                                        device().multiprocessors, sort),
                                    attention_forward_workspace_bytes(attention));
        if (o.training) workspace_bytes_ = std::max(workspace_bytes_, attention_backward_workspace_bytes(attention));
        arena.add(&workspace_, static_cast<int64_t>(workspace_bytes_));
        if (leaves_column_sums(o))
            arena.add(&sums.parts,
                      column_sums_elements(int64_t(o.B) * o.T, m.C, m.F(), attention, device().multiprocessors,
                                           device().matmul == MatmulLibrary::own));
    }
    void use_workspace() { device().workspace_data = workspace_, device().workspace_bytes = workspace_bytes_; }

    // What the network has been given so far; the layers wait for that; for all of it.
    Event make_event() {
        cudaEvent_t e = nullptr;
        CUDA_CHECK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
        return Event(e);
    }
    void record(const Event& e, Lane lane = Lane::network) { CUDA_CHECK(cudaEventRecord(e.get(), stream_of(lane))); }
    void wait_for(const Event& e, Lane lane = Lane::layers) {
        CUDA_CHECK(cudaStreamWaitEvent(stream_of(lane), e.get(), 0));
    }
    void join(Lane lane = Lane::network) {
        follow_computation(lane);  // the lane belongs to the capture, even where nothing was sent
        record(communicated_, lane), wait_for(communicated_);
    }
    // What comes next in the lane begins when all kernels launched so far have ended.
    void follow_computation(Lane lane = Lane::network) {
        CUDA_CHECK(cudaEventRecord(computed_.get(), stream()));
        CUDA_CHECK(cudaStreamWaitEvent(stream_of(lane), computed_.get(), 0));
    }
    // Between page-locked host memory and the device, n elements, in the lanes in and out (base/turns.h).
    template <typename Y>
    void bring(Y* to, const Y* host, int64_t n) {
        CUDA_CHECK(
            cudaMemcpyAsync(to, host, static_cast<size_t>(n) * sizeof(Y), cudaMemcpyHostToDevice, lane_in_.get()));
    }
    template <typename Y>
    void put_away(Y* host, const Y* from, int64_t n) {
        CUDA_CHECK(
            cudaMemcpyAsync(host, from, static_cast<size_t>(n) * sizeof(Y), cudaMemcpyDeviceToHost, lane_out_.get()));
    }
    void finish(NcclCommunicator* comm = nullptr) {
        comm ? comm->wait(stream()) : CUDA_CHECK(cudaStreamSynchronize(stream()));
    }

    // ---- the step's tokens and its state, in and out ----

    // Each returns true where the tokens' addresses have changed.
    bool begin_step(const Batch& batch) {
        bool moved = (staged_first_ != batch.first || staged_sequences_ != batch.sequences) && stage(batch);
        CUDA_CHECK(cudaStreamWaitEvent(stream(), staged_ready_.get(), 0));
        copy_tokens(step_, staged_, batch, cudaMemcpyDeviceToDevice, stream());
        CUDA_CHECK(cudaEventRecord(staged_taken_.get(), stream()));
        staged_sequences_ = 0;
        return moved;
    }
    // Starts to copy a whole step's tokens; they wait until the step takes them.
    bool stage(const Batch& batch) {
        size_t n = batch.inputs.size();
        bool grows = n > token_capacity_;
        if (grows) {
            CUDA_CHECK(cudaStreamSynchronize(stream()));
            tokens_ = std::make_unique<DeviceArena>();
            for (TokenArrays* to : {&step_, &staged_}) {
                tokens_->add(&to->inputs, static_cast<int64_t>(n)), tokens_->add(&to->targets, static_cast<int64_t>(n));
                if (batch.weights.empty()) continue;
                tokens_->add(&to->weights, static_cast<int64_t>(n));
                tokens_->add(&to->doc_start, static_cast<int64_t>(n));
                if (!batch.signals.empty()) tokens_->add(&to->signals, static_cast<int64_t>(n));
                if (batch.labels.empty()) continue;
                tokens_->add(&to->labels, static_cast<int64_t>(n));
                tokens_->add(&to->partners, static_cast<int64_t>(n));
            }
            tokens_->allocate("the tokens of a step", false);
            host_tokens_ = pinned<int>(4 * n), host_weights_ = pinned<float>(2 * n);
            if (!batch.signals.empty()) host_signals_ = pinned<TokenSignals>(n);
            int* ints = host_tokens_.get();
            float* floats = host_weights_.get();
            host_ = {ints, ints + n, floats, ints + 2 * n, floats + n, ints + 3 * n, host_signals_.get()};
            token_capacity_ = n;
        }
        CUDA_CHECK(cudaStreamSynchronize(copy_stream_.get()));  // the last copy from host_ is over
        CUDA_CHECK(cudaStreamWaitEvent(copy_stream_.get(), staged_taken_.get(), 0));
        std::copy(batch.inputs.begin(), batch.inputs.end(), host_.inputs);
        std::copy(batch.targets.begin(), batch.targets.end(), host_.targets);
        std::copy(batch.weights.begin(), batch.weights.end(), host_.weights);
        std::copy(batch.doc_start.begin(), batch.doc_start.end(), host_.doc_start);
        std::copy(batch.labels.begin(), batch.labels.end(), host_.labels);
        std::copy(batch.partners.begin(), batch.partners.end(), host_.partners);
        std::copy(batch.signals.begin(), batch.signals.end(), host_.signals);
        copy_tokens(staged_, host_, batch, cudaMemcpyHostToDevice, copy_stream_.get());
        CUDA_CHECK(cudaEventRecord(staged_ready_.get(), copy_stream_.get()));
        staged_first_ = batch.first, staged_sequences_ = batch.sequences;
        return grows;
    }
    StepTokens step_tokens() const {
        return {step_.inputs, step_.targets,  step_.weights, step_.doc_start,
                step_.labels, step_.partners, step_.signals};
    }
    void put_state(StepState* to, const StepState& s) {
        *host_state_ = s;
        CUDA_CHECK(cudaMemcpyAsync(to, host_state_.get(), sizeof s, cudaMemcpyHostToDevice, stream()));
    }
    void take_state(const StepState* s) {
        CUDA_CHECK(cudaMemcpyAsync(host_state_.get(), s, sizeof *s, cudaMemcpyDeviceToHost, stream()));
    }
    const StepState& taken_state() const { return *host_state_; }  // after finish()

    // ---- memory ----

    template <typename Y>
    void clear(Y* x, int64_t n) {
        CUDA_CHECK(cudaMemsetAsync(x, 0, static_cast<size_t>(n) * sizeof(Y), stream()));
    }
    template <typename Y>
    void copy_in(Y* to, const Y* from, size_t n) {
        CUDA_CHECK(cudaMemcpyAsync(to, from, n * sizeof(Y), cudaMemcpyDefault, stream()));  // `to` may be offloaded
    }
    template <typename Y>
    void copy_out(float* to, const Y* from, size_t n) {
        copy_to_host(to, from, n, stream());
    }
    template <typename Y>
    void copy(Y* to, const Y* from, size_t n) {
        CUDA_CHECK(cudaMemcpyAsync(to, from, n * sizeof(Y), cudaMemcpyDeviceToDevice, stream()));
    }
    // copy_out while kernels run, of what they do not change.
    static constexpr bool kReadByThread = false;  // the host's own thread is free meanwhile
    template <typename Y>
    void copy_beside(float* to, const Y* from, size_t n) {
        copy_to_host(to, from, n, copy_stream_.get());
    }
    // From and to floats.
    template <typename Y>
    void upload(Y* to, const float* from, int64_t n) {
        std::vector<Y> values(from, from + n);
        copy_in(to, values.data(), values.size());
        CUDA_CHECK(cudaStreamSynchronize(stream()));
    }
    template <typename Y>
    std::vector<float> download(const Y* x, int64_t n) const {
        std::vector<float> values(static_cast<size_t>(n));
        copy_to_host(values.data(), x, values.size(), stream());
        return values;
    }
    // Through the workspace, as much at a time as that holds.
    void broadcast(NcclCommunicator& comm, std::vector<float>& values, int root) {
        use_workspace();
        const size_t most = workspace_bytes_ / sizeof(float);
        for (size_t at = 0; at < values.size(); at += most) {
            size_t n = std::min(most, values.size() - at);
            float* buffer = workspace<float>(n);
            if (comm.rank() == root) upload(buffer, &values[at], static_cast<int64_t>(n));
            comm.broadcast(buffer, n, root, stream());
            copy_out(&values[at], buffer, n);
        }
    }

  private:
    template <typename Y>
    static void copy_to_host(float* to, const Y* from, size_t n, cudaStream_t stream) {
        std::vector<Y> stored(std::is_same_v<Y, float> ? 0 : n);
        void* target = std::is_same_v<Y, float> ? static_cast<void*>(to) : stored.data();
        CUDA_CHECK(cudaMemcpyAsync(target, from, n * sizeof(Y), cudaMemcpyDefault, stream));  // `from`, too
        CUDA_CHECK(cudaStreamSynchronize(stream));
        std::copy(stored.begin(), stored.end(), to);
    }
    struct TokenArrays {  // of a whole step, (sequences, T) each; all but the first two for batches that have them
        int *inputs = nullptr, *targets = nullptr;
        float* weights = nullptr;
        int* doc_start = nullptr;
        float* labels = nullptr;
        int* partners = nullptr;
        TokenSignals* signals = nullptr;
    };
    static void copy_tokens(const TokenArrays& to, const TokenArrays& from, const Batch& batch, cudaMemcpyKind kind,
                            cudaStream_t stream) {
        const auto copy = [&](auto* y, const auto* x, size_t n) {
            if (n > 0) CUDA_CHECK(cudaMemcpyAsync(y, x, n * sizeof *x, kind, stream));
        };
        copy(to.inputs, from.inputs, batch.inputs.size()), copy(to.targets, from.targets, batch.targets.size());
        copy(to.weights, from.weights, batch.weights.size());
        copy(to.doc_start, from.doc_start, batch.doc_start.size());
        copy(to.labels, from.labels, batch.labels.size()), copy(to.partners, from.partners, batch.partners.size());
        copy(to.signals, from.signals, batch.signals.size());
    }

    cudaStream_t stream_of(Lane lane) const {
        return lane == Lane::layers    ? stream()
               : lane == Lane::network ? network()
               : lane == Lane::in      ? lane_in_.get()
                                       : lane_out_.get();
    }
    OwnStream stream_, copy_stream_, network_, lane_in_, lane_out_;
    cudaStream_t network_handle_ = nullptr, shared_ = nullptr;
    Event staged_ready_, staged_taken_, computed_, communicated_;
    std::unique_ptr<StepState, CudaFreeHost> host_state_;
    char* workspace_ = nullptr;  // in the model's arena
    size_t workspace_bytes_ = 0;
    // a whole step's tokens: those at work, those of the next step, and where the host puts them
    std::unique_ptr<DeviceArena> tokens_;
    TokenArrays step_, staged_, host_;
    std::unique_ptr<int, CudaFreeHost> host_tokens_;
    std::unique_ptr<float, CudaFreeHost> host_weights_;
    std::unique_ptr<TokenSignals, CudaFreeHost> host_signals_;
    size_t token_capacity_ = 0;
    int64_t staged_first_ = -1;
    int staged_sequences_ = 0;
};
