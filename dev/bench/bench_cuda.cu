// How fast the CUDA program is, beside what this GPU allows: everything that dev/gpu_check.sh reports about speed.
//
//   rates      of this very card: a large copy (bytes read plus written), a large bf16 product by cuBLASLt
//   steps      whole training steps of 124M (T=1024) by micro-batch, then 524,288 tokens a step with the best one
//   kernels    every kernel of a step alone, at the step's shapes: time, floor, share; and their sum beside the step
//   products   cuBLASLt and the program's own kernel on each of the model's shapes
//   attention  the program's own, and cuDNN's where it is built in
//   variants   whole training steps of 124M with GELU fused or not, and by the program's own matrix products
//   large      whole training steps of 1558M
//
// Times are medians between two CUDA events, warm, on random data. A kernel that is timed alone finds the L2 cache full
// of something else, as it would in the middle of a step. Floors: llmc/run/roofline.h.
//
// Usage: bench_cuda [--json FILE] [--limit SECONDS] [--own] [--model SIZE] [--large SIZE] [--batches 4,8,...]
//                   [--seq-len T] [--tokens PER_STEP] [--product N] [--copy-mb N] [SECTION]...   (default: everything)
// Markdown on stdout; the JSON file is written again after each section.
#include "llmc/cuda/machine.cuh"
#include "llmc/gpt2.h"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <set>

#include "llmc/run/roofline.h"

namespace {

struct BenchOptions {
    std::string json, model = "d12", large = "d48";
    double limit = 1e9;  // seconds; sections that would begin later are left out
    int T = 1024, product = 8192, copy_mb = 1024;
    int64_t tokens = 524288;
    std::vector<int> batches = {4, 8, 16, 32, 64, 128};
    std::set<std::string> sections;
    bool own = false;
} o;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
const double begin_time = now();
double seconds_left() { return o.limit - (now() - begin_time); }

// ---- JSON: a list of rows per section ----

struct Row {
    std::string text;
    Row& add(const char* key, const std::string& value) {
        std::string quoted;
        for (char c : value) quoted += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
        return raw(key, "\"" + quoted + "\"");
    }
    Row& add(const char* key, double value) { return raw(key, std::isfinite(value) ? strf("%.6g", value) : "null"); }
    Row& raw(const char* key, const std::string& value) {
        text += strf("%s\"%s\": ", text.empty() ? "" : ", ", key) + value;
        return *this;
    }
};
std::vector<std::pair<std::string, std::vector<Row>>> results;

void write_json() {
    if (o.json.empty()) return;
    std::string text = "{";
    for (auto& [section, rows] : results) {
        text += strf("%s\n\"%s\": [", text.size() > 1 ? "," : "", section.c_str());
        for (size_t i = 0; i < rows.size(); i++) text += (i ? ",\n  {" : "\n  {") + rows[i].text + "}";
        text += "]";
    }
    text += "\n}\n";
    std::unique_ptr<FILE, int (*)(FILE*)> file(fopen(o.json.c_str(), "w"), fclose);
    if (!file || fwrite(text.data(), 1, text.size(), file.get()) != text.size())
        throw Error("--json: cannot write " + o.json);
}
void result(const std::string& section, const Row& row) {
    if (results.empty() || results.back().first != section) results.push_back({section, {}});
    results.back().second.push_back(row);
}
void note(const std::string& text) {
    printf("\n%s\n", text.c_str());
    result("notes", Row().add("note", text));
}

// ---- time ----

double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

struct EventPair {
    cudaEvent_t begin{}, end{};
    EventPair() { CUDA_CHECK(cudaEventCreate(&begin)), CUDA_CHECK(cudaEventCreate(&end)); }
    EventPair(const EventPair&) = delete;
    EventPair& operator=(const EventPair&) = delete;
    ~EventPair() { cudaEventDestroy(begin), cudaEventDestroy(end); }
    double seconds() const {
        float ms = 0;
        CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
        return 1e-3 * static_cast<double>(ms);
    }
};

// Memory that is written before each timed run, so that the L2 cache holds nothing of use.
struct Flush {
    DeviceArena arena;
    char* data = nullptr;
    size_t bytes = 0;
    void operator()(cudaStream_t stream) {
        if (!data) {
            bytes = 2 * static_cast<size_t>(std::max(device().l2_bytes, 1 << 20));
            arena.add(&data, static_cast<int64_t>(bytes));
            arena.allocate("the cache flush", false);
        }
        CUDA_CHECK(cudaMemsetAsync(data, 1, bytes, stream));
    }
};

// Median seconds of work(), which puts something into the stream. The host runs ahead of the GPU, so that launches cost
// nothing here.
template <typename Work>
double time_alone(cudaStream_t stream, Work work, double budget = 0.25) {
    static Flush flush;
    for (int i = 0; i < 2; i++) work();
    CUDA_CHECK(cudaStreamSynchronize(stream));
    double t = now();
    work();
    CUDA_CHECK(cudaStreamSynchronize(stream));
    int n = std::clamp(static_cast<int>(budget / (now() - t)), 5, 51);
    std::vector<EventPair> events(static_cast<size_t>(n));
    for (EventPair& e : events) {
        flush(stream);
        CUDA_CHECK(cudaEventRecord(e.begin, stream));
        work();
        CUDA_CHECK(cudaEventRecord(e.end, stream));
    }
    CUDA_CHECK(cudaStreamSynchronize(stream));
    std::vector<double> seconds;
    for (EventPair& e : events) seconds.push_back(e.seconds());
    return median(seconds);
}

// ---- data ----

template <typename X>
__global__ void fill_kernel(X* x, int64_t n, uint64_t seed, float scale, float mean) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
        Philox4 r = philox(seed, static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 0xbe9c);
        float a, b;
        normal2(r.v[0], r.v[1], &a, &b);
        x[i] = X(mean + scale * a);
    }
}
template <typename X>
void fill(cudaStream_t stream, X* x, int64_t n, float scale = 1, float mean = 0) {
    static uint64_t seed = 0;
    launch(fill_kernel<X>, 4 * device().multiprocessors, 256, 0, stream, x, n, ++seed, scale, mean);
}

Batch random_batch(int sequences, int T, int V) {
    Batch batch;
    batch.sequences = sequences, batch.T = T;
    uint32_t words = static_cast<uint32_t>(V);
    for (int i = 0; i < sequences * T; i++) {
        Philox4 r = philox(7, static_cast<uint32_t>(i), 0, 0, 0xbe9c);
        batch.inputs.push_back(static_cast<int>(r.v[0] % words)),
            batch.targets.push_back(static_cast<int>(r.v[1] % words));
    }
    return batch;
}

// Random weights, as large as GPT-2's at the start: the values of a short vector, again and again.
template <class Model>
void randomise(Model& model) {
    ModelTensors tensors = model.tensors();
    std::vector<float> values(1 << 20), ones(1 << 14, 1.0f);
    for (size_t i = 0; i < values.size(); i += 2) {
        Philox4 r = philox(1, static_cast<uint32_t>(i), 0, 0, 0xbe9c);
        normal2(r.v[0], r.v[1], &values[i], &values[i + 1]);
        values[i] *= 0.02f, values[i + 1] *= 0.02f;
    }
    for (const Parameter& p : model.table()) {
        if (p.init == Init::zeros) continue;
        const std::vector<float>& from = p.init == Init::ones ? ones : values;
        for (int64_t i = 0; i < p.size(); i += static_cast<int64_t>(from.size())) {
            int64_t n = std::min(p.size() - i, static_cast<int64_t>(from.size()));
            tensors.write(Buffer::weights, p.offset + i, n, from.data());
            if (tensors.has_master) tensors.write(Buffer::master, p.offset + i, n, from.data());
        }
    }
}

// ---- rates ----

Rates rates;

template <typename X>
struct Three {  // operands of a product, or source and target of a copy
    DeviceArena arena;
    X *a, *b;
    float* out;  // room for either type
    Three(int64_t na, int64_t nb, int64_t nout) {
        arena.add(&a, na), arena.add(&b, nb), arena.add(&out, nout);
        arena.allocate("the operands of a product", false);
    }
};

static __global__ void copy_kernel(float4* to, const float4* from, int64_t n) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x)
        to[i] = from[i];
}

void bench_rates(cudaStream_t stream) {
    int64_t bytes = int64_t(o.copy_mb) << 20, side = o.product;
    {
        DeviceArena arena;
        char *from, *to;
        arena.add(&from, bytes), arena.add(&to, bytes), arena.allocate("the two ends of a copy", false);
        fill(stream, reinterpret_cast<float*>(from), bytes / 4);
        double by_driver = time_alone(stream, [&] {
            CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream));
        });
        double by_kernel = 1e9;
        for (int blocks : {8, 16, 32, 64})
            by_kernel =
                std::min(by_kernel, time_alone(stream, [&] {
                             launch(copy_kernel, blocks * device().multiprocessors, 256, 0, stream,
                                    reinterpret_cast<float4*>(to), reinterpret_cast<const float4*>(from), bytes / 16);
                         }));
        rates.copy = 2.0 * static_cast<double>(bytes) / std::min(by_driver, by_kernel);
        printf(
            "\n## Rates of this card\n\n- copy of %d MiB: %.0f GB/s read plus written by cudaMemcpyAsync, %.0f by a "
            "kernel "
            "with 16-byte accesses\n",
            o.copy_mb, 2e-9 * static_cast<double>(bytes) / by_driver, 2e-9 * static_cast<double>(bytes) / by_kernel);
    }
    Three<bf16> m(side * side, side * side, side * side);
    fill(stream, m.a, side * side), fill(stream, m.b, side * side);
    Matmul<bf16> args{
        .out = reinterpret_cast<bf16*>(m.out), .a = m.a, .b = m.b, .M = o.product, .N = o.product, .K = o.product};
    args.b_transposed = true;
    double seconds = time_alone(
        stream, [&] { o.own ? matmul_own(args, stream) : matmul_cublaslt(args, stream); }, 0.5);
    rates.product = 2.0 * static_cast<double>(side * side * side) / seconds;
    // What the best attention kernels reach of a large product's rate on an H100, 500 of 798 TFLOP/s.
    rates.attention = rates.product * 500 / 798;
    printf("- bf16 product of %d^3 by %s: %.1f TFLOP/s\n- attention, for the floors: 500/798 of that, %.1f TFLOP/s\n",
           o.product, o.own ? "the own kernel" : "cuBLASLt", 1e-12 * rates.product, 1e-12 * rates.attention);
    result("rates", Row()
                        .add("copy_gb_per_second", 1e-9 * rates.copy)
                        .add("product_tflops", 1e-12 * rates.product)
                        .add("product_by", o.own ? "own" : "cublaslt")
                        .add("attention_tflops_assumed", 1e-12 * rates.attention));
}

// ---- whole steps ----

struct StepTime {
    double seconds = 0;  // 0: not measured
    int B = 0;
};

// Median seconds of whole steps on one batch, between CUDA events in the model's own stream: graph launches, the copy
// of the step's results and the wait for them are in it.
template <class Model>
double step_seconds(Model& model, const Batch& batch, double budget) {
    auto step = [&] {
        StepState state;
        state.learning_rate = 1e-5f, state.beta1_correction = 0.1f, state.beta2_correction = 0.05f;
        state.loss_normaliser = 1.0f / static_cast<float>(batch.inputs.size());
        model.step(batch, &state, [&] { return &batch; });  // as in training, the next tokens travel meanwhile
        CHECK(std::isfinite(state.loss) && !state.skip, "loss=%g skip=%d", static_cast<double>(state.loss), state.skip);
    };
    for (int i = 0; i < 3; i++) step();  // loads kernels, captures graphs, runs them
    double t = now();
    step();
    int n = std::clamp(static_cast<int>(budget / (now() - t)), 3, 30);
    std::vector<EventPair> events(static_cast<size_t>(n));
    for (EventPair& e : events) {
        CUDA_CHECK(cudaEventRecord(e.begin, model.stream()));
        step();
        CUDA_CHECK(cudaEventRecord(e.end, model.stream()));
    }
    CUDA_CHECK(cudaStreamSynchronize(model.stream()));
    std::vector<double> seconds;
    for (EventPair& e : events) seconds.push_back(e.seconds());
    return median(seconds);
}

// Measures, prints and records a whole step of `sequences` in micro-batches of B.
template <class Model>
double report_step(Model& model, const char* section, const std::string& name, int B, int sequences, int recompute,
                   double budget) {
    const ModelConfig& m = model.config();
    double seconds = step_seconds(model, random_batch(sequences, o.T, m.V), budget), tokens = double(sequences) * o.T;
    int micro_steps = ceil_div(sequences, B);
    double separate = step_floor_seconds(m, B, o.T, micro_steps, sizeof(bf16), rates, StepForm::separate);
    double strict = step_floor_seconds(m, B, o.T, micro_steps, sizeof(bf16), rates, StepForm::fused);
    double flops = flops_per_token(m, o.T) * tokens / seconds, peak = model.peak_flops();
    printf("| %s | %d | %d | %.0f | %.2f | %.0f | %s | %.1f%% | %.2f | %.1f%% | %.1f%% |\n", name.c_str(), B, recompute,
           tokens, 1e3 * seconds, tokens / seconds, peak > 0 ? strf("%.1f%%", 100 * flops / peak).c_str() : "-",
           100 * flops / rates.product, 1e3 * strict, 100 * strict / seconds, 100 * separate / seconds);
    fflush(stdout);
    result(section, Row()
                        .add("model", name)
                        .add("B", B)
                        .add("T", o.T)
                        .add("recompute", recompute)
                        .add("tokens", tokens)
                        .add("ms", 1e3 * seconds)
                        .add("tokens_per_second", tokens / seconds)
                        .add("mfu_of_datasheet", peak > 0 ? flops / peak : NAN)
                        .add("mfu_of_measured_product", flops / rates.product)
                        .add("floor_ms", 1e3 * strict)
                        .add("of_floor", strict / seconds)
                        .add("floor_separate_ms", 1e3 * separate)
                        .add("of_floor_separate", separate / seconds));
    return seconds;
}
const char* step_header =
    "| model | micro-batch | recompute | tokens a step | ms | tokens/s | MFU (datasheet) | of measured product | floor "
    "ms | "
    "of floor | of floor, separate |\n|---|---|---|---|---|---|---|---|---|---|---|\n";

using Model = GPT2<bf16, Gpu>;

StepOptions step_options(int B, int recompute) {
    StepOptions s;
    s.B = B, s.T = o.T, s.recompute = recompute;
    return s;
}
bool fits(const ModelConfig& m, int B, int recompute) {
    double need = static_cast<double>(Model::memory_plan(m, step_options(B, recompute)).total());
    return need + (512 << 20) < Model::available_memory();
}
ModelConfig model_size(const std::string& name) {
    ModelConfig m;
    if (!parse_model_size(name, &m)) throw UsageError("--model, --large: " + name + " is no size such as d12");
    if (m.V == 0) m.V = 50257;
    m.T = std::max(m.T, o.T);
    return m;
}

int largest_batch(const ModelConfig& m) {
    int largest = 0;
    for (int B : o.batches)
        if (fits(m, B, 0)) largest = std::max(largest, B);
    if (!largest) throw Error("no micro-batch of --batches fits in this GPU's memory");
    return largest;
}

// One model, for the largest micro-batch, takes the smaller ones, too.
StepTime bench_steps(const ModelConfig& m) {
    printf("\n## Training steps, bf16, T=%d\n\n%s", o.T, step_header);
    StepTime best;
    int largest = largest_batch(m);
    double per_token = 1e9;
    {
        Model model(m, step_options(largest, 0));
        randomise(model);
        for (int B : o.batches) {
            if (B > largest) continue;
            double seconds = report_step(model, "steps", o.model, B, B, 0, 1.5);
            if (seconds / B < per_token) per_token = seconds / B, best = {seconds, B};
            write_json();
        }
    }
    if (int sequences = static_cast<int>(o.tokens / o.T); sequences > best.B) {
        Model model(m, step_options(best.B, 0));
        randomise(model);
        report_step(model, "steps", o.model, best.B, sequences, 0, 3);
    }
    return best;
}

// What the choices that the program makes cost or gain, at the best micro-batch.
void bench_variants(const ModelConfig& m, int B) {
    printf("\n## Variants of the step, bf16, T=%d\n\n%s", o.T, step_header);
    Device before = device();
    auto measure = [&](const std::string& name) {
        if (seconds_left() < 10) return note("variants: " + name + " was not measured, the time is up");
        Model model(m, step_options(B, 0));
        randomise(model);
        report_step(model, "variants", o.model + ", " + name, B, B, 0, 1);
    };
    for (int fusion : {0, 1, 2}) {
        device().gelu_fusion = fusion;
        measure(strf("--gelu-fusion %d", fusion));
    }
    device().gelu_fusion = before.gelu_fusion;
    device().matmul = MatmulLibrary::own;
    measure("--matmul own");
    device().matmul = before.matmul;
}

// The largest micro-batch that fits, at each level of recomputation that makes it larger.
void bench_large(const ModelConfig& m) {
    printf("\n## Training steps of the large model, bf16, T=%d\n\n%s", o.T, step_header);
    int last = 0;
    for (int recompute : {0, 1, 2, 3}) {
        int B = 0;
        for (int candidate : {1, 2, 4, 8, 12, 16, 24, 32})
            if (fits(m, candidate, recompute)) B = candidate;
        if (B <= last || seconds_left() < 20) continue;
        last = B;
        Model model(m, step_options(B, recompute));
        randomise(model);
        report_step(model, "large", o.large, B, B, recompute, 3);
        write_json();
    }
    if (!last) note("the large model was not measured: it does not fit in this GPU's memory, or no time was left");
}

// ---- kernels ----

const char* bound_name(Bound bound) {
    return bound == Bound::memory ? "memory" : bound == Bound::product ? "product" : "attention";
}

// Every kernel of a step of one micro-batch of B sequences, alone.
void bench_kernels(const ModelConfig& m, int B, double step) {
    using X = bf16;
    int T = o.T, N = B * T, C = m.C, Vp = m.Vp(), L = m.L;
    int64_t NC = int64_t(N) * C;
    int chunk = static_cast<int>(std::min<int64_t>(N, Gpu::logits.chunk(m.Vp())));
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
    AdamWSegment* segments;
    char* workspace;
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
    arena.allocate("the tensors of a step", true);
    device().workspace_data = workspace, device().workspace_bytes = static_cast<size_t>(workspace_bytes);

    cudaStream_t stream = nullptr;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    std::unique_ptr<CUstream_st, cudaError_t (*)(cudaStream_t)> stream_owner(stream, cudaStreamDestroy);
    for (X* p : {x, y, z, r}) fill(stream, p, NC);
    for (X* p : {wide, wide2, wide3}) fill(stream, p, 4 * NC);
    fill(stream, w, parameters, 0.02f), fill(stream, master, parameters, 0.02f), fill(stream, dw, parameters, 1e-4f);
    fill(stream, bias, std::max(Vp, 4 * C), 0.02f), fill(stream, rstd, N, 0.0f, 1.0f);
    Batch batch = random_batch(B, T, m.V);
    auto upload = [&](auto* to, const auto* from, size_t n) {
        CUDA_CHECK(cudaMemcpyAsync(to, from, n * sizeof *to, cudaMemcpyHostToDevice, stream));
        CUDA_CHECK(cudaStreamSynchronize(stream));
    };
    StepState host_state;
    host_state.learning_rate = 1e-5f, host_state.beta1_correction = 0.1f, host_state.beta2_correction = 0.05f;
    host_state.loss_normaliser = 1.0f / static_cast<float>(N);
    std::vector<AdamWSegment> host_segments;
    for (const Parameter& p : table) host_segments.push_back({p.offset, p.size(), p.weight_decay ? 0.1f : 0.0f});
    upload(tokens, batch.inputs.data(), batch.inputs.size()),
        upload(targets, batch.targets.data(), batch.targets.size());
    upload(state, &host_state, 1), upload(segments, host_segments.data(), host_segments.size());

    printf(
        "\n## Kernels of a step, bf16, B=%d, T=%d: each alone, with a cold cache\n\n"
        "| kernel | calls | ms each | ms a step | share | limit | floor ms a step | of floor "
        "|\n|---|---|---|---|---|---|---|---|\n",
        B, T);
    double sum = 0, floors = 0;
    auto row = [&](const std::string& name, double calls, Bound bound, double flops, double bytes, auto work) {
        double seconds = time_alone(stream, work, 0.1), least = floor_seconds(bound, flops, bytes, rates);
        sum += calls * seconds, floors += calls * least;
        printf("| %s | %.4g | %.4f | %.3f | %.1f%% | %s | %.3f | %.0f%% |\n", name.c_str(), calls, 1e3 * seconds,
               1e3 * calls * seconds, 100 * calls * seconds / step, bound_name(bound), 1e3 * calls * least,
               100 * least / seconds);
        fflush(stdout);
        result("kernels", Row()
                              .add("kernel", name)
                              .add("calls", calls)
                              .add("ms_each", 1e3 * seconds)
                              .add("ms", 1e3 * calls * seconds)
                              .add("share_of_step", calls * seconds / step)
                              .add("limit", bound_name(bound))
                              .add("floor_ms", 1e3 * calls * least)
                              .add("of_floor", least / seconds));
    };
    // y (n rows,OC) = x . w^T and its two backward products and bias gradient; calls: how often a step does it
    bool own = device().matmul == MatmulLibrary::own;
    bool gelu_fused = own || device().gelu_fusion >= 1, gelu_backward_fused = own || device().gelu_fusion >= 2;
    auto linear = [&](const char* name, X* out, X* in, int n, int IC, int OC, double calls, bool head) {
        bool fc = !head && OC == 4 * IC, fcproj = !head && IC == 4 * OC;
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
        if (!head)
            row(std::string(name) + " bias gradient", calls, Bound::memory, 0, double(n) * OC * S + 8.0 * OC,
                [&] { bias_backward(db, out, n, OC, stream); });
        fill(stream, in, int64_t(n) * IC), fill(stream, out, int64_t(n) * OC);  // as they were: products grow
    };

    row("encoder forward", 1, Bound::memory, 0, 4.0 * N + (rows + T) * C * S + x_bytes,
        [&] { encoder_forward(x, tokens, static_cast<const int*>(nullptr), w, w, B, T, C, Dropout{}, stream); });
    row("layernorm forward", 1, Bound::memory, 0, 2 * x_bytes + 8.0 * N,
        [&] { layernorm_forward(y, mean, rstd, x, w, bias, N, C, stream); });
    row("residual + layernorm forward", 2 * L, Bound::memory, 0, 4 * x_bytes + 8.0 * N,
        [&] { residual_layernorm_forward(r, y, mean, rstd, x, z, w, bias, N, C, T, Dropout{}, stream); });
    fill(stream, rstd, N, 0.0f, 1.0f), fill(stream, mean, N, 0.0f), fill(stream, x, NC), fill(stream, y, NC);
    linear("qkv", wide, x, N, C, 3 * C, L, false);
    linear("attention projection", y, x, N, C, C, L, false);
    linear("fc", wide, x, N, C, 4 * C, L, false);
    linear("fcproj", x, wide, N, 4 * C, C, L, false);
    if (!gelu_fused)
        row("GELU forward", L, Bound::memory, 0, 8 * x_bytes, [&] { gelu_forward(wide2, wide, 4 * NC, stream); });
    if (!gelu_backward_fused)
        row("GELU backward", L, Bound::memory, 0, 12 * x_bytes,
            [&] { gelu_backward(wide2, wide, wide3, 4 * NC, stream); });
    double causal = 2.0 * N * T * C, lse_bytes = 4.0 * N * m.NH;
    row("attention forward", L, Bound::attention, causal, 4 * x_bytes + lse_bytes, [&] {
        attention_forward(y, lse, wide, wide + C, wide + 2 * C, shape, static_cast<const int*>(nullptr), Dropout{},
                          stream);
    });
    row("attention backward", L, Bound::attention, 2.5 * causal, 8 * x_bytes + lse_bytes, [&] {
        attention_backward(wide2, wide2 + C, wide2 + 2 * C, z, wide, wide + C, wide + 2 * C, y, lse, shape,
                           static_cast<const int*>(nullptr), Dropout{}, stream);
    });
    linear("LM head", logits, x, chunk, C, Vp, chunks, true);
    row("softmax, loss, dlogits", chunks, Bound::memory, 0, 2.0 * chunk * Vp * S, [&] {
        fused_classifier(logits, losses, targets, static_cast<const float*>(nullptr), state, chunk, m.V, Vp, true,
                         stream);
    });
    row("clear the residual's gradient", 1, Bound::memory, 0, x_bytes,
        [&] { CUDA_CHECK(cudaMemsetAsync(r, 0, static_cast<size_t>(NC) * sizeof(X), stream)); });
    row("layernorm backward", 2 * L + 1, Bound::memory, 0, 4 * x_bytes + 8.0 * N,
        [&] { layernorm_backward(r, dw, db, y, x, w, mean, rstd, N, C, stream); });
    row("encoder backward", 1, Bound::memory, 0, 4.0 * N + x_bytes + 8.0 * rows * C + 4.0 * T * C, [&] {
        encoder_backward(dw, dw + int64_t(Vp) * C, x, tokens, static_cast<const int*>(nullptr), B, T, C, Dropout{},
                         stream);
    });
    fill(stream, dw, parameters, 1e-4f);
    row("global norm", 1, Bound::memory, 0, 4.0 * static_cast<double>(parameters), [&] {
        global_norm_squared(norm, dw, parameters, stream);
        finish_gradients(state, norm, 1.0f, stream);
    });
    upload(state, &host_state, 1);
    AdamWOptions adamw{0.9f, 0.95f, 1e-8f, 0.1f, false};
    row("AdamW", 1, Bound::memory, 0, (28.0 + S) * static_cast<double>(parameters), [&] {
        adamw_update(w, master, m1, m2, dw, segments, static_cast<int>(table.size()), int64_t(0), parameters, adamw,
                     state, stream);
    });
    printf("| **sum** | | | **%.3f** | **%.1f%%** | | **%.3f** | **%.0f%%** |\n", 1e3 * sum, 100 * sum / step,
           1e3 * floors, 100 * floors / sum);
    printf("\nThe whole step took %.3f ms, the sum of its kernels alone %.3f ms: %+.3f ms%s\n", 1e3 * step, 1e3 * sum,
           1e3 * (step - sum),
           step < sum ? " (in the step, caches are warm)" : " between kernels and at the step's ends");
    result("kernel_sum", Row()
                             .add("step_ms", 1e3 * step)
                             .add("sum_ms", 1e3 * sum)
                             .add("floor_ms", 1e3 * floors)
                             .add("B", B)
                             .add("T", T));
}

// ---- products and attention, each kind beside another ----

void bench_products(const ModelConfig& m, int B, cudaStream_t stream) {
    int N = B * o.T, C = m.C, Vp = m.Vp(), head = std::min(N, 16384);
    int64_t longest = int64_t(std::max(N, std::max(4 * C, Vp)));
    struct Product {
        const char* name;
        int M, N, K;
        bool a_transposed, b_transposed;
        double calls;  // in a step
    };
    std::vector<Product> products;
    auto linear = [&](const char* name, int rows, int IC, int OC) {
        double calls = OC == Vp ? double(N) / rows : m.L;
        products.push_back({name, rows, OC, IC, false, true, calls});
        products.push_back({name, rows, IC, OC, false, false, calls});
        products.push_back({name, OC, IC, rows, true, false, calls});
    };
    linear("qkv", N, C, 3 * C), linear("attention projection", N, C, C), linear("fc", N, C, 4 * C);
    linear("fcproj", N, 4 * C, C), linear("LM head", head, C, Vp);
    int64_t most = 0;
    for (const Product& p : products)
        most = std::max({most, int64_t(p.M) * p.K, int64_t(p.K) * p.N, int64_t(p.M) * p.N});
    CHECK(longest > 0 && most > 0, "%lld", static_cast<long long>(most));
    Three<bf16> memory(most, most, most);
    fill(stream, memory.a, most), fill(stream, memory.b, most);
    printf(
        "\n## Matrix products, bf16, bare\n\n| product | | M | N | K | floor ms | cuBLASLt ms | TFLOP/s | own ms | "
        "TFLOP/s | "
        "own / cuBLASLt |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (const Product& p : products) {
        const char* kind = p.a_transposed ? "wgrad" : p.b_transposed ? "forward" : "dgrad";
        double flops = 2.0 * p.M * p.N * p.K;
        double bytes = 2.0 * (double(p.M) * p.K + double(p.K) * p.N) + (p.a_transposed ? 4.0 : 2.0) * p.M * p.N;
        auto seconds = [&](auto multiply) {
            auto arguments = [&](auto* out) {
                Matmul<bf16, std::remove_pointer_t<decltype(out)>> args{
                    .out = out, .a = memory.a, .b = memory.b, .M = p.M, .N = p.N, .K = p.K};
                args.a_transposed = p.a_transposed, args.b_transposed = p.b_transposed;
                return args;
            };
            if (p.a_transposed)
                return time_alone(
                    stream, [&, args = arguments(memory.out)] { multiply(args); }, 0.1);
            return time_alone(
                stream, [&, args = arguments(reinterpret_cast<bf16*>(memory.out))] { multiply(args); }, 0.1);
        };
        double library = seconds([&](const auto& args) { matmul_cublaslt(args, stream); });
        double own = seconds([&](const auto& args) { matmul_own(args, stream); });
        printf("| %s | %s | %d | %d | %d | %.3f | %.3f | %.0f | %.3f | %.0f | %.2f |\n", p.name, kind, p.M, p.N, p.K,
               1e3 * floor_seconds(Bound::product, flops, bytes, rates), 1e3 * library, 1e-12 * flops / library,
               1e3 * own, 1e-12 * flops / own, library / own);
        fflush(stdout);
        result("products", Row()
                               .add("product", p.name)
                               .add("kind", kind)
                               .add("M", p.M)
                               .add("N", p.N)
                               .add("K", p.K)
                               .add("calls", p.calls)
                               .add("cublaslt_ms", 1e3 * library)
                               .add("cublaslt_tflops", 1e-12 * flops / library)
                               .add("own_ms", 1e3 * own)
                               .add("own_tflops", 1e-12 * flops / own)
                               .add("own_over_cublaslt", library / own));
    }
}

void bench_attention(int B, cudaStream_t stream) {
    printf(
        "\n## Attention, bf16, causal, T=%d\n\n| | B | heads | head size | forward ms | TFLOP/s | backward ms | "
        "TFLOP/s |\n"
        "|---|---|---|---|---|---|---|---|\n",
        o.T);
    struct Heads {
        int NH, HS;
    };
    for (Heads h : {Heads{12, 64}, Heads{6, 128}}) {
        int C = h.NH * h.HS, T = o.T;
        int64_t NC = int64_t(B) * T * C;
        AttentionShape shape = packed_qkv_shape(B, T, C, h.NH);
        DeviceArena arena;
        bf16 *qkv, *dqkv, *out, *dout;
        float* lse;
        char* workspace;
        int64_t workspace_bytes = static_cast<int64_t>(
            std::max(attention_forward_workspace_bytes(shape), attention_backward_workspace_bytes(shape)));
        arena.add(&qkv, 3 * NC), arena.add(&dqkv, 3 * NC), arena.add(&out, NC), arena.add(&dout, NC);
        arena.add(&lse, int64_t(B) * T * h.NH), arena.add(&workspace, workspace_bytes);
        arena.allocate("the tensors of attention", false);
        device().workspace_data = workspace, device().workspace_bytes = static_cast<size_t>(workspace_bytes);
        fill(stream, qkv, 3 * NC), fill(stream, dout, NC);
        auto report = [&](const char* name, auto forward_work, auto backward_work) {
            double forward = time_alone(stream, forward_work), backward = time_alone(stream, backward_work);
            double flops = 2.0 * B * T * double(T) * C;
            printf("| %s | %d | %d | %d | %.3f | %.0f | %.3f | %.0f |\n", name, B, h.NH, h.HS, 1e3 * forward,
                   1e-12 * flops / forward, 1e3 * backward, 2.5e-12 * flops / backward);
            fflush(stdout);
            result("attention", Row()
                                    .add("by", name)
                                    .add("B", B)
                                    .add("T", T)
                                    .add("NH", h.NH)
                                    .add("HS", h.HS)
                                    .add("forward_ms", 1e3 * forward)
                                    .add("forward_tflops", 1e-12 * flops / forward)
                                    .add("backward_ms", 1e3 * backward)
                                    .add("backward_tflops", 2.5e-12 * flops / backward));
        };
        const int* no_documents = nullptr;
        report(
            "own",
            [&] { attention_own_forward(out, lse, qkv, qkv + C, qkv + 2 * C, shape, no_documents, Dropout{}, stream); },
            [&] {
                attention_own_backward(dqkv, dqkv + C, dqkv + 2 * C, dout, qkv, qkv + C, qkv + 2 * C, out, lse, shape,
                                       no_documents, Dropout{}, stream);
            });
#ifdef USE_CUDNN
        if (!attention_cudnn_supports(shape, true)) note("attention: cuDNN does not offer this shape");
        else
            report(
                "cudnn",
                [&] { attention_forward_cudnn(out, lse, qkv, qkv + C, qkv + 2 * C, shape, workspace, stream); },
                [&] {
                    attention_backward_cudnn(dqkv, dqkv + C, dqkv + 2 * C, dout, qkv, qkv + C, qkv + 2 * C, out, lse,
                                             shape, workspace, stream);
                });
#endif
    }
}

// ---- the program ----

void parse(int argc, char** argv) {
    auto value = [&](int& i) -> std::string {
        if (i + 1 >= argc) throw UsageError(strf("%s: a value is missing", argv[i]));
        return argv[++i];
    };
    for (int i = 1; i < argc; i++) {
        std::string a = argv[i];
        if (a == "--json") o.json = value(i);
        else if (a == "--limit") o.limit = std::stod(value(i));
        else if (a == "--own") o.own = true;
        else if (a == "--model") o.model = value(i);
        else if (a == "--large") o.large = value(i);
        else if (a == "--seq-len") o.T = std::stoi(value(i));
        else if (a == "--tokens") o.tokens = std::stoll(value(i));
        else if (a == "--product") o.product = std::stoi(value(i));
        else if (a == "--copy-mb") o.copy_mb = std::stoi(value(i));
        else if (a == "--batches") {
            o.batches.clear();
            std::string list = value(i);
            for (size_t at = 0; at < list.size(); at = std::min(list.size(), list.find(',', at)) + 1)
                o.batches.push_back(std::stoi(list.substr(at)));
        } else if (a[0] == '-') throw UsageError("bench_cuda: unknown option " + a);
        else o.sections.insert(a);
    }
}

void bench() {
    DeviceOptions options;
    if (o.own) options.matmul = "own";
    Model::open(options, 0);
    Model::configure(options);
    int driver = 0, runtime = 0;
    CUDA_CHECK(cudaDriverGetVersion(&driver)), CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    const Device& d = device();
    size_t free_bytes = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
    printf("# Speed on %s (sm_%d, %d multiprocessors, %.1f GB, CUDA driver %d.%d, runtime %d.%d)\n", d.name,
           d.capability, d.multiprocessors, 1e-9 * static_cast<double>(total), driver / 1000, driver % 1000 / 10,
           runtime / 1000, runtime % 1000 / 10);
    result("device", Row()
                         .add("name", d.name)
                         .add("capability", d.capability)
                         .add("multiprocessors", d.multiprocessors)
                         .add("l2_bytes", d.l2_bytes)
                         .add("memory_bytes", static_cast<double>(total))
                         .add("driver_api", driver)
                         .add("runtime", runtime));
    cudaStream_t stream = nullptr;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    std::unique_ptr<CUstream_st, cudaError_t (*)(cudaStream_t)> stream_owner(stream, cudaStreamDestroy);
    DeviceArena workspace_arena;  // for products outside a model
    char* workspace;
    int64_t workspace_bytes = static_cast<int64_t>(matmul_own_workspace_bytes(device().multiprocessors));
    workspace_arena.add(&workspace, workspace_bytes);
    workspace_arena.allocate("the workspace", false);
    auto own_workspace = [&] {  // models and sections before have left their own, which is gone
        device().workspace_data = workspace, device().workspace_bytes = static_cast<size_t>(workspace_bytes);
    };
    auto wanted = [&](const char* section, double least) {
        if (!o.sections.empty() && !o.sections.count(section)) return false;
        if (seconds_left() < least) {
            note(std::string(section) + ": not measured, the time is up");
            return false;
        }
        own_workspace();
        return true;
    };
    own_workspace();
    bench_rates(stream);
    write_json();
    ModelConfig m = model_size(o.model);
    StepTime best{0, largest_batch(m)};
    if (wanted("steps", 10)) best = bench_steps(m);
    write_json();
    if (wanted("kernels", 10)) {
        if (best.seconds == 0) {
            Model model(m, step_options(best.B, 0));
            randomise(model);
            best.seconds = step_seconds(model, random_batch(best.B, o.T, m.V), 1);
        }
        bench_kernels(m, best.B, best.seconds);
    }
    write_json();
    if (wanted("products", 10)) bench_products(m, best.B, stream);
    write_json();
    if (wanted("attention", 5)) bench_attention(best.B, stream);
    write_json();
    if (wanted("variants", 20)) bench_variants(m, best.B);
    write_json();
    if (wanted("large", 20)) bench_large(model_size(o.large));
    result("done", Row().add("seconds", now() - begin_time));
    write_json();
}

}  // namespace

int main(int argc, char** argv) {
    try {
        parse(argc, argv);
        bench();
        return 0;
    } catch (const Error& e) {
        fprintf(stderr, "bench_cuda: error: %s\n", e.what());
        return e.exit_code;
    } catch (const std::exception& e) {
        fprintf(stderr, "bench_cuda: %s\n", e.what());
        return 1;
    }
}
