// How far the CPU program is from what this machine allows, on GPT-2 124M.
//
//   step      a whole training step (forward, backward, AdamW) over the time of the bare oneDNN products of all its
//   linear
//             layers and LM head, forward and backward: the floor under any step. Each product is timed with plain
//             row-major operands and with operands in whatever layout oneDNN likes best (made beforehand, not timed);
//             the faster one counts.
//   layers    each kind of layer beside its limit, arithmetic (the rate of the bare products) or memory
//   portable  tokens/s without oneDNN
//   memory    peak memory of training in fp32
//   sample    tokens/s of sampling with a KV cache, one text and 32 at once
//
// Repeats of what is compared are interleaved, and medians of ratios reported: a shared machine changes speed as it
// goes.
//
// Usage: bench_cpu [--quick] [--fp32 | --bf16] [step | layers | portable | memory | sample]...    (default: everything)
#include "dev/bench/bare_products.h"
#include "llmc/base/parallel.h"
#include "llmc/cpu/machine.h"
#include "llmc/cpu/math.h"
#include "llmc/cpu/matmul.h"
#include "llmc/gpt2.h"

#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <thread>

namespace {

const ModelConfig gpt2_124M{12, 12, 768, 1024, 50257};
bool quick = false;
int repeats() { return quick ? 1 : 5; }

double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

void mark(const char* what, double value, double limit, bool at_most, const char* unit = "") {
    bool pass = at_most ? value <= limit : value >= limit;
    printf("  %-4s %s: %.4g%s (mark: %s %.3g%s)\n", pass ? "PASS" : "over", what, value, unit,
           at_most ? "at most" : "at least", limit, unit);
    fflush(stdout);
}

template <typename X>
constexpr const char* type_name = std::is_same_v<X, float> ? "fp32" : "bf16";

// Bytes a second, read alone and copied (bytes read plus bytes written), all cores, far beyond the caches.
struct Bandwidth {
    double read, copy;
};
Bandwidth bandwidth() {
    int64_t n = int64_t(1) << 26;  // floats: 256 MB
    static Arena arena;
    static float *from = nullptr, *to = nullptr;
    if (!from) {
        arena.add(&from, n), arena.add(&to, n), arena.allocate();
        parallel_blocks(n, 1 << 16, [&](int64_t begin, int64_t end) {
            std::fill(from + begin, from + end, 1.0f), std::fill(to + begin, to + end, 1.0f);
        });
    }
    volatile double sink = 0;
    double bytes = static_cast<double>(n) * 4;
    double read = best_seconds([&] {
        sink = parallel_sum(n, 1 << 16, [&](int64_t begin, int64_t end) {
            const float* p = from + begin;
            return double(vector_sum<float>(end - begin, [p](int64_t i) { return p[i]; }));
        });
    });
    double copy = best_seconds([&] {
        parallel_blocks(n, 1 << 16,
                        [&](int64_t begin, int64_t end) { std::copy(from + begin, from + end, to + begin); });
    });
    return {bytes / read, 2 * bytes / copy};
}

template <typename X>
std::unique_ptr<GPT2<X, Cpu>> make_model(int B, int T, bool training) {
    StepOptions options;
    options.B = B, options.T = T, options.training = training;
    auto model = std::make_unique<GPT2<X, Cpu>>(gpt2_124M, options);
    model->init_weights(42);
    return model;
}

Batch make_batch(int B, int T) {
    Batch batch;
    batch.sequences = B, batch.T = T;
    for (int i = 0; i < B * T; i++)
        batch.inputs.push_back(i * 7919 % gpt2_124M.V), batch.targets.push_back((i + 1) * 7919 % gpt2_124M.V);
    return batch;
}

template <typename X>
double step_seconds(GPT2<X, Cpu>& model, const Batch& batch) {
    StepState state;
    state.learning_rate = 1e-4f, state.beta1_correction = 0.1f, state.beta2_correction = 0.05f;
    state.loss_normaliser = 1.0f / static_cast<float>(batch.inputs.size());
    double time = seconds([&] { model.step(batch, &state); });
    CHECK(std::isfinite(state.loss) && !state.skip, "loss=%g skip=%d", static_cast<double>(state.loss), state.skip);
    return time;
}

// Rows of the LM head that the model works on at once.
template <typename X>
int chunk_of(GPT2<X, Cpu>& model) {
    return static_cast<int>(model.activations().chunk);
}

template <typename X>
void bench_step(int T, [[maybe_unused]] double limit) {
    constexpr int B = 4;
    printf("training step, %s, B=%d, T=%d\n", type_name<X>, B, T);
    auto model = make_model<X>(B, T, true);
    Batch batch = make_batch(B, T);
    step_seconds(*model, batch);  // touches memory, makes primitives
    std::vector<double> step, ratio, plain, packed, base;
    for (int i = 0; i < repeats(); i++) {
        step.push_back(step_seconds(*model, batch));
#ifdef USE_ONEDNN
        Bare bare = bare_products<X>(gpt2_124M, B * T, chunk_of(*model), i == 0);
        plain.push_back(bare.plain), packed.push_back(bare.packed), base.push_back(bare.best);
        ratio.push_back(step.back() / bare.best);
#endif
    }
    printf("  step %.0f ms, %.0f tokens/s\n", median(step) * 1e3, B * T / median(step));
#ifdef USE_ONEDNN
    printf(
        "  bare products: plain %.0f ms (%.0f tokens/s), packed %.0f ms (%.0f tokens/s), the faster of each %.0f ms\n",
        median(plain) * 1e3, B * T / median(plain), median(packed) * 1e3, B * T / median(packed), median(base) * 1e3);
    mark("step / bare products", median(ratio), limit, true);
#else
    printf("  built without oneDNN: no bare products to compare with\n");
#endif
}

// Where a processor multiplies no bf16: what keeping weights and activations in it costs, in turns with fp32.
void bench_bf16_storage(int T, double limit) {
    constexpr int B = 4;
    printf("training step, bf16 storage beside fp32, B=%d, T=%d\n", B, T);
    auto half = make_model<bf16>(B, T, true);
    auto whole = make_model<float>(B, T, true);
    const Batch batch = make_batch(B, T);
    step_seconds(*half, batch), step_seconds(*whole, batch);
    std::vector<double> bf, fp32, ratio;
    for (int i = 0; i < repeats(); i++) {
        bf.push_back(step_seconds(*half, batch)), fp32.push_back(step_seconds(*whole, batch));
        ratio.push_back(bf.back() / fp32.back());
    }
    printf("  bf16 %.0f ms, fp32 %.0f ms\n", median(bf) * 1e3, median(fp32) * 1e3);
    mark("step in bf16 / in fp32", median(ratio), limit, true);
}

// Time of each kind of layer at the shapes of a step, beside its limit.
template <typename X>
void bench_layers(int T) {
    constexpr int B = 4;
    const ModelConfig& m = gpt2_124M;
    int N = B * T, C = m.C, L = m.L;
    printf("layers of a training step, %s, B=%d, T=%d\n", type_name<X>, B, T);
    auto model = make_model<X>(B, T, true);
    Batch batch = make_batch(B, T);
    step_seconds(*model, batch);
    double step = std::min(step_seconds(*model, batch), step_seconds(*model, batch));
    int head = chunk_of(*model);
    double heads = double(N) / head;
    model.reset();

    using A = acc_t<X>;
    Bandwidth memory = bandwidth();
    Arena arena;
    X *x, *y, *z, *wide, *wide2, *logits, *w, *bias;
    A *mean, *rstd, *lse, *losses, *dw, *db;
    int64_t weights = int64_t(m.Vp()) * C;
    arena.add(&x, int64_t(N) * C), arena.add(&y, int64_t(N) * C), arena.add(&z, int64_t(N) * C);
    arena.add(&wide, int64_t(N) * 4 * C), arena.add(&wide2, int64_t(N) * 4 * C),
        arena.add(&logits, int64_t(head) * m.Vp());
    arena.add(&w, weights), arena.add(&bias, m.Vp()), arena.add(&dw, weights), arena.add(&db, m.Vp());
    arena.add(&mean, N), arena.add(&rstd, N), arena.add(&lse, int64_t(N) * m.NH), arena.add(&losses, N);
    arena.allocate();
    auto fill = [](X* p, int64_t n) {
        for (int64_t i = 0; i < n; i++) p[i] = X(0.02f * static_cast<float>(i * 7919 % 199 - 99) / 99.0f);
    };
    fill(x, int64_t(N) * C), fill(y, int64_t(N) * C), fill(wide, int64_t(N) * 4 * C), fill(wide2, int64_t(N) * 4 * C);
    fill(w, weights), fill(logits, int64_t(head) * m.Vp());
    std::fill_n(rstd, N, A(1));

    // The rate of products: the limit of everything that multiplies.
    double flops = 0, products = 0, sum = 0;
    auto row = [&](const char* name, double times, double limit, auto&& run) {
        run();
        double time = best_seconds(run) * times;
        sum += time;
        printf("  %-28s %9.1f ms %5.1f%% of the step", name, time * 1e3, 100 * time / step);
        if (limit > 0) printf("   limit %9.1f ms, %3.0f%% of it", limit * 1e3, 100 * limit / time);
        printf("\n");
        fflush(stdout);
        return time;
    };
    auto linear = [&](const char* name, X* out, X* pre_gelu, X* in, int rows, int IC, int OC, double times) {
        double f = 2.0 * rows * IC * OC * times;
        flops += 3 * f;
        products += row((std::string(name) + " forward").c_str(), times, 0, [&] {
            matmul_forward<X>(out, pre_gelu, in, w, name == std::string("LM head") ? nullptr : bias, rows, IC, OC);
        });
        products += row((std::string(name) + " backward").c_str(), times, 0, [&] {
            matmul_backward<X>(in, dw, name == std::string("LM head") ? nullptr : db, out, in, w,
                               IC == 4 * C ? wide2 : nullptr, rows, IC, OC);
        });
    };
    linear("qkv", wide, nullptr, x, N, C, 3 * C, L);
    linear("attproj", y, nullptr, x, N, C, C, L);
    linear("fc", wide, wide2, x, N, C, 4 * C, L);
    linear("fcproj", x, nullptr, wide, N, 4 * C, C, L);
    linear("LM head", logits, nullptr, x, head, C, m.Vp(), heads);
    double rate = flops / products;
    printf("  (these linear layers together: %.3f TFLOP/s)\n", rate * 1e-12);

    double S = sizeof(X), NC = double(N) * C, causal = 2.0 * B * double(T) * T * C;  // 2 products, half of each masked
    fill(wide, int64_t(N) * 4 * C);
    AttentionShape shape = packed_qkv_shape(B, T, C, m.NH);
    row("attention forward", L, L * causal / rate,
        [&] { attention_forward<X>(y, lse, wide, wide + C, wide + 2 * C, shape, nullptr, Dropout{}); });
    row("attention backward", L, L * 2.5 * causal / rate, [&] {
        attention_backward<X>(wide2, wide2 + C, wide2 + 2 * C, x, wide, wide + C, wide + 2 * C, y, lse, shape, nullptr,
                              Dropout{});
    });
    row("residual + layernorm forward", 2 * L + 1, (2 * L + 1) * 4 * NC * S / memory.copy,
        [&] { residual_layernorm_forward<X>(z, y, mean, rstd, x, y, w, bias, N, C, T, Dropout{}, 1e-5f); });
    row("layernorm backward", 2 * L + 1, (2 * L + 1) * 4 * NC * S / memory.copy,
        [&] { layernorm_backward<X>(z, dw, db, y, x, w, mean, rstd, N, C); });
    row("encoder forward", 1, 3 * NC * S / memory.copy,
        [&] { encoder_forward<X>(x, batch.inputs.data(), nullptr, w, wide, nullptr, B, T, C, Dropout{}); });
    row("encoder backward", 1, NC * (S + 16) / memory.copy, [&] {
        encoder_backward<X>(dw, reinterpret_cast<A*>(wide), x, batch.inputs.data(), nullptr, B, T, C, m.V, Dropout{});
    });
    StepState state;
    state.loss_normaliser = 1 / static_cast<float>(N);
    row("softmax and loss", heads, 2 * double(N) * m.Vp() * S / memory.copy,
        [&] { fused_classifier<X>(logits, losses, batch.targets.data(), nullptr, &state, head, m.V, m.Vp(), true); });
    double parameters = static_cast<double>(parameter_count(m)), part = parameters / static_cast<double>(weights);
    double norm_squared;
    row("gradient norm", part, parameters * 4 / memory.read,
        [&] { global_norm_squared(&norm_squared, dw, weights, false); });
    Arena moments;
    char *m_room, *v_room;
    A* master;
    moments.add(&m_room, weights * int64_t(sizeof(A))), moments.add(&v_room, weights * int64_t(sizeof(A)));
    moments.add(&master, weights), moments.allocate();
    bool bf = std::is_same_v<X, bf16>;
    OptimizerSegment all{0, weights, 0, 0.1f};
    row("AdamW", part, parameters * (bf ? 30 : 28) / memory.copy, [&] {
        OptimizerOptions options{0.9f, 0.95f, 1e-8f};
        optimizer_update<X>({w, bf ? master : nullptr, {m_room}, {v_room, nullptr, false}, dw}, &all, 1, 0, weights,
                            options, &state);
    });
    printf("  sum %.0f ms, step %.0f ms\n", sum * 1e3, step * 1e3);
}

void bench_portable() {
    constexpr int B = 4, T = 64;
    printf("portable matrix products (no oneDNN), fp32, B=%d, T=%d\n", B, T);
    matmul_use_onednn() = false;
    auto model = make_model<float>(B, T, true);
    Batch batch = make_batch(B, T);
    step_seconds(*model, batch);
    std::vector<double> rate;
    for (int i = 0; i < repeats(); i++) rate.push_back(B * T / step_seconds(*model, batch));
    matmul_use_onednn() = true;
    mark("training without oneDNN", median(rate), 92, false, " tokens/s");
}

// Runs in a process of its own, started by bench_memory, and prints that process's peak in bytes.
int memory_child() {
    constexpr int B = 4, T = 1024;
    auto model = make_model<float>(B, T, true);
    Batch batch = make_batch(B, T);
    for (int i = 0; i < 2; i++) step_seconds(*model, batch);
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;)
        if (word == "VmHWM:") {
            double kb = 0;
            status >> kb;
            printf("%.0f\n", kb * 1024);
        }
    return 0;
}

void bench_memory() {
    printf("peak memory of training, fp32, B=4, T=1024\n");
    char self[4096] = {};
    CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0, "%s", "no /proc/self/exe");
    FILE* child = popen(("'" + std::string(self) + "' memory-child").c_str(), "r");
    double bytes = 0;
    if (!child || fscanf(child, "%lf", &bytes) != 1 || pclose(child) != 0) throw Error("the child process failed");
    mark("peak memory", bytes * 1e-9, 5, true, " GB");
}

// Tokens a second of so many texts at once, after a prompt of 32 tokens each.
template <class M>
double sampling_rate(M& model, int texts) {
    Decoder decoder(model, texts, 256);
    std::vector<int> prompt(32);
    std::vector<Feed> feeds;
    for (int i = 0; i < 32; i++) prompt[size_t(i)] = i * 7919 % gpt2_124M.V;
    for (int i = 0; i < texts; i++) feeds.push_back({i, prompt.data(), 32});
    decoder.decode(feeds);
    for (Feed& f : feeds) f.n = 1;
    const int tokens = quick ? 16 : 64;
    return texts * tokens / seconds([&] {
               for (int t = 0; t < tokens; t++) decoder.decode(feeds);
           });
}
// The rate of 32 texts; its ratio to that of one is the mark, in the faster precision.
template <typename X>
double bench_sample(double* times_one) {
    auto model = make_model<X>(1, gpt2_124M.T, false);
    std::vector<double> share, one, many, times;
    const double bytes = double(sizeof(X)) * static_cast<double>(parameter_count(gpt2_124M));  // those of weights
    for (int i = 0; i < repeats(); i++) {
        const double read = bandwidth().read;
        one.push_back(sampling_rate(*model, 1)), many.push_back(sampling_rate(*model, 32));
        times.push_back(many.back() / one.back()), share.push_back(bytes * one.back() / read);
    }
    *times_one = median(times);
    printf(
        "sampling, %s: one text %.1f tokens/s (weights read at %.2f of memory bandwidth), 32 texts %.1f: %.2f times\n",
        type_name<X>, median(one), median(share), median(many), *times_one);
    return median(many);
}
void bench_sample() {
    double times_fp32 = 0, times_bf16 = 0;
    const bool bf16_is_faster = bench_sample<bf16>(&times_bf16) > bench_sample<float>(&times_fp32);
    mark(bf16_is_faster ? "32 texts over one, bf16" : "32 texts over one, fp32",
         bf16_is_faster ? times_bf16 : times_fp32, 8, false);
}

void print_machine() {
    std::ifstream cpuinfo("/proc/cpuinfo");
    std::string model = "unknown CPU";
    for (std::string line; std::getline(cpuinfo, line);)
        if (line.rfind("model name", 0) == 0) {
            model = line.substr(line.find(':') + 2);
            break;
        }
    printf("machine: %s, %d threads of %u CPUs\n", model.c_str(), thread_count(), std::thread::hardware_concurrency());
#ifdef USE_ONEDNN
    const dnnl_version_t* v = dnnl_version();
    const std::pair<dnnl::cpu_isa, const char*> names[] = {{dnnl::cpu_isa::sse41, "SSE4.1"},
                                                           {dnnl::cpu_isa::avx2, "AVX2"},
                                                           {dnnl::cpu_isa::avx512_core, "AVX-512"},
                                                           {dnnl::cpu_isa::avx512_core_vnni, "AVX-512 VNNI"},
                                                           {dnnl::cpu_isa::avx512_core_bf16, "AVX-512 BF16"},
                                                           {dnnl::cpu_isa::avx512_core_amx, "AMX"}};
    std::string isa = strf("ISA 0x%x", static_cast<unsigned>(dnnl::get_effective_cpu_isa()));
    for (auto [value, name] : names)
        if (value == dnnl::get_effective_cpu_isa()) isa = name;
    printf("oneDNN %d.%d.%d, %s\n", v->major, v->minor, v->patch, isa.c_str());
#endif
    double load = 0;
    if (getloadavg(&load, 1) == 1 && load > 0.5)
        printf("load average %.1f: other programs are running, and these timings suffer from them\n", load);
    Bandwidth memory = bandwidth();
    printf("memory: read %.1f GB/s, copy %.1f GB/s (read + write)\n", memory.read * 1e-9, memory.copy * 1e-9);
    fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        std::set<std::string> parts;
        bool fp32 = true, bf = true;
        const std::set<std::string> known{"step", "layers", "portable", "memory", "sample"};
        for (int i = 1; i < argc; i++) {
            std::string a = argv[i];
            if (a == "memory-child") return memory_child();
            if (a == "--quick") quick = true;
            else if (a == "--fp32") bf = false;
            else if (a == "--bf16") fp32 = false;
            else if (known.count(a)) parts.insert(a);
            else
                throw UsageError(
                    "unknown argument " + a +
                    "; usage: bench_cpu [--quick] [--fp32 | --bf16] [step] [layers] [portable] [memory] [sample]");
        }
        if (parts.empty()) parts = known;
        if (parts.count("memory")) bench_memory();
        print_machine();
        if (parts.count("step") && fp32) bench_step<float>(256, 1.15), bench_step<float>(1024, 1.15);
        if (parts.count("step") && bf) {
#ifdef USE_ONEDNN
            const bool products = multiplies_bf16();
#else
            const bool products = false;
#endif
            if (products) bench_step<bf16>(256, 1.25), bench_step<bf16>(1024, 1.25);
            else bench_bf16_storage(256, 1.1), bench_bf16_storage(1024, 1.1);
        }
        if (parts.count("layers") && fp32) bench_layers<float>(256), bench_layers<float>(1024);
        if (parts.count("layers") && bf) bench_layers<bf16>(256), bench_layers<bf16>(1024);
        if (parts.count("portable")) bench_portable();
        if (parts.count("sample")) bench_sample();
    } catch (const Error& e) {
        fprintf(stderr, "bench_cpu: error: %s\n", e.what());
        return e.exit_code;
    }
}
