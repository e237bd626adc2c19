// Whole training steps: by micro-batch, by the choices that the program has, of a large model.
#pragma once
#include "dev/bench/cuda/measure.cuh"
#include "llmc/cuda/machine.cuh"
#include "llmc/gpt2.h"
#include "llmc/run/roofline.h"

namespace bench {

struct StepTime {
    double seconds = 0;  // 0: not measured
    int B = 0;
};

inline bool time_algorithms = true;  // in the first step, as a run does

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
    DeviceOptions options;
    if (!time_algorithms) options.algorithms = "first";
    begin_algorithms(options);
    step();
    if (const std::string timed = timed_algorithms(); !timed.empty()) take_algorithms({timed});
    for (int i = 0; i < 3; i++) step();  // loads kernels, captures graphs, runs them
    double t = now();
    step();
    int n = std::clamp(static_cast<int>(budget / (now() - t)), 3, 30);
    std::vector<EventPair> events(static_cast<size_t>(n));
    for (EventPair& e : events) {
        CUDA_CHECK(cudaEventRecord(e.begin, model.machine().stream()));
        step();
        CUDA_CHECK(cudaEventRecord(e.end, model.machine().stream()));
    }
    CUDA_CHECK(cudaStreamSynchronize(model.machine().stream()));
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
    double separate = step_floor_seconds(m, B, o.T, micro_steps, true, rates, StepForm::separate);
    double strict = step_floor_seconds(m, B, o.T, micro_steps, true, rates, StepForm::fused);
    double flops = flops_per_token(m, o.T) * tokens / seconds, peak = Gpu::peak_flops(true);
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
inline const char* const step_header =
    "| model | micro-batch | recompute | tokens a step | ms | tokens/s | MFU (datasheet) | of measured product | floor "
    "ms | "
    "of floor | of floor, separate |\n|---|---|---|---|---|---|---|---|---|---|---|\n";

using Model = GPT2<bf16, Gpu>;

inline StepOptions step_options(int B, int recompute) {
    StepOptions s;
    s.B = B, s.T = o.T, s.recompute = recompute;
    return s;
}
inline bool fits(const ModelConfig& m, int B, int recompute) {
    double need = static_cast<double>(Model::memory_plan(m, step_options(B, recompute)).total());
    return need + (512 << 20) < Gpu::available_memory();
}
inline ModelConfig model_size(const std::string& name) {
    ModelConfig m;
    if (!parse_model_size(name, &m)) throw UsageError("--model, --large: " + name + " is no size such as d12");
    if (m.V == 0) m.V = 50257;
    m.T = std::max(m.T, o.T);
    return m;
}

inline int largest_batch(const ModelConfig& m) {
    int largest = 0;
    for (int B : o.batches)
        if (fits(m, B, 0)) largest = std::max(largest, B);
    if (!largest) throw Error("no micro-batch of --batches fits in this GPU's memory");
    return largest;
}

// One model, for the largest micro-batch, takes the smaller ones, too.
inline StepTime bench_steps(const ModelConfig& m) {
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
inline void bench_variants(const ModelConfig& m, int B) {
    printf("\n## Variants of the step, bf16, T=%d\n\n%s", o.T, step_header);
    CudaDevice before = device();
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
    time_algorithms = false;
    measure("--algorithms first");
    time_algorithms = true;
    device().attention = AttentionLibrary::own;
    if (before.attention != AttentionLibrary::own) measure("--attention own");
    device().attention = before.attention;
    device().matmul = MatmulLibrary::own;
    measure("--matmul own");
    device().matmul = before.matmul;
}

// The largest micro-batch that fits, at each level of recomputation that makes it larger.
inline void bench_large(const ModelConfig& m) {
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

}  // namespace bench
