// make kernels: what each kernel of a training step asks of a GPU, and so how long it takes there, by counting and without a GPU.
// make kernel K=NAME: the page of one.
//
//   build/kernels PTX_DIRECTORY PTXAS [--json FILE | --kernel NAME]        Markdown on stdout; FILE: the counts of 124M's
//                                                                     kernels, for dev/gpu_check/counters.py
#include <cstring>
#include <fstream>

#include "dev/bench/cuda/step_kernels.cuh"
#include "test/cudahost/counted.h"
#include "test/cudahost/heap.h"
#include "test/cudahost/tests.h"
#include "test/published_steps.h"
#include "test/ptx/limits.h"
#include "test/ptx/resources.h"

namespace {

using cudahost::CountedLaunch;

constexpr int kB = 64, kT = 1024;
constexpr int kCapabilities[] = {80, 89, 90, 100};
constexpr const char* kCards[] = {"a100", "h100", "rtx4090"};
std::string ptxas, compiler;

ModelConfig model_size(const char* name) {
    ModelConfig m;
    parse_model_size(name, &m);
    m.V = kGpt2Vocabulary;
    return m;
}

// ---- counting ----

struct Layer {
    std::string name;
    double calls, flops, bytes;  // calls: in a step; FLOPs and bytes of each
    Bound bound;
    std::vector<CountedLaunch> launches;  // of each call
};

std::vector<CountedLaunch> count(cudaStream_t stream, const std::function<void()>& work) {
    std::vector<CountedLaunch> launches;
    cudahost::count_launches(&launches);
    work();
    CUDA_CHECK(cudaStreamSynchronize(stream));
    cudahost::count_launches(nullptr);
    return launches;
}

// The two ways of a step: GELU's passes in the library's products and the attention cuDNN's, as the program has them from an
// H100 on, or all by own kernels. (Own attention is counted in the second, and its kernels are the same on every card.)
enum class Form { library, own };
Form form_of(const ptx::Card& card) { return card.sheet.capability >= 90 ? Form::library : Form::own; }

std::vector<Layer> count_step(const ModelConfig& m, Form form) {
    static std::map<std::string, std::vector<CountedLaunch>> counted;  // by model and layer
    const bool library = form == Form::library;
    device().gelu_fusion = library ? 2 : 0;
    std::vector<Layer> layers;
    bench::step_kernels(
        m, kB, kT, library, [](cudaStream_t, auto*, int64_t, float, float) {},
        [&](cudaStream_t stream, const std::string& name, double calls, Bound bound, double flops, double bytes,
            auto work) {
            Layer layer{name, calls, flops, bytes, bound, {}};
            if (bound != Bound::product && !(library && bound == Bound::attention)) {
                auto& launches = counted[std::to_string(m.C) + name];
                if (launches.empty()) launches = count(stream, work);
                layer.launches = launches;
            }
            layers.push_back(std::move(layer));
        });
    return layers;
}

// ---- resources, by capability and mangled name ----

std::map<int, std::map<std::string, ptx::Resources>> all_resources;
void find_resources(const std::vector<Layer>& layers) {
    std::map<std::string, std::set<std::string>> by_file;
    for (const Layer& layer : layers)
        for (const CountedLaunch& l : layer.launches)
            if (!all_resources[80].count(l.kernel->name)) by_file[l.file].insert(l.kernel->name);
    for (auto& [file, kernels] : by_file)
        for (int capability : kCapabilities)
            all_resources[capability].merge(ptx::resources(ptxas, file, capability, {kernels.begin(), kernels.end()}));
}

// ---- times ----

struct LayerTimes {
    ptx::Times sum;
    double predicted = 0;  // seconds, of a call
    std::string limiter;
};
LayerTimes layer_times(const Layer& layer, const ptx::Card& card, int C = 1, int HS = 64) {
    LayerTimes r;
    if (layer.bound == Bound::product) {
        r.predicted = floor_seconds(Bound::product, layer.flops, layer.bytes,
                                    {1e12 * card.sheet.memory_tbs * ptx::kDramShare,
                                     1e12 * card.sheet.bf16_tflops * product_share(card.sheet, C), 1});
        r.limiter = "library's product";
        return r.predicted += ptx::kLaunchSeconds, r;
    }
    if (layer.bound == Bound::attention && layer.launches.empty()) {
        r.predicted =
            layer.flops / (1e12 * card.sheet.bf16_tflops * attention_share(card.sheet, HS, true)) + ptx::kLaunchSeconds;
        r.limiter = "library's attention";
        return r;
    }
    double most = 0;
    for (const CountedLaunch& l : layer.launches) {
        ptx::Times t = ptx::times(card, l.totals(), static_cast<double>(l.blocks()));
        for (size_t i = 0; i < std::size(t.at); i++) r.sum.at[i] += t.at[i];
        r.predicted += t.predicted() + ptx::kLaunchSeconds;
        if (t.predicted() > most) most = t.predicted(), r.limiter = ptx::kLimitNames[static_cast<int>(t.limiter())];
    }
    if (layer.launches.empty()) {  // a fill
        r.sum.at[static_cast<int>(ptx::Limit::dram)] = layer.bytes / (1e12 * card.sheet.memory_tbs * ptx::kDramShare);
        r.predicted = r.sum.predicted() + ptx::kLaunchSeconds, r.limiter = "DRAM";
    }
    return r;
}
double floor_of(const Layer& layer, const ptx::Card& card) {
    const double products = 1e12 * card.sheet.bf16_tflops;
    return floor_seconds(layer.bound, layer.flops, layer.bytes, {1e12 * card.sheet.memory_tbs, products, products});
}

// ---- the report ----

std::string short_name(const CountedLaunch& l) {
    std::string name = l.kernel->demangled;
    for (const char* space : {"attention_mma::", "(anonymous namespace)::", "bench::"})
        for (size_t at; (at = name.find(space)) != std::string::npos;) name.erase(at, strlen(space));
    return name;
}

double print_step(const ModelConfig& m, const char* name, const ptx::Card& card) {
    std::vector<Layer> layers = count_step(m, form_of(card));
    double step = 0, floors = 0;
    for (const Layer& l : layers) {
        step += l.calls * layer_times(l, card, m.C, m.HS()).predicted, floors += l.calls * floor_of(l, card);
    }
    printf("\n### %s on %s\n\n", name, card.sheet.product);
    printf(
        "| layer | calls | limiter | ms a step | share | floor ms | of floor | issue | tensor | MUFU | shared | L2 | "
        "DRAM |\n");
    printf("|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (const Layer& l : layers) {
        LayerTimes t = layer_times(l, card, m.C, m.HS());
        double ms = 1e3 * l.calls * t.predicted, least = 1e3 * l.calls * floor_of(l, card);
        printf("| %s | %.4g | %s | %.3f | %.1f%% | %.3f | %.0f%% |", l.name.c_str(), l.calls, t.limiter.c_str(), ms,
               0.1 * ms / step, least, 100 * least / ms);
        for (double limit : t.sum.at)
            l.launches.empty() && l.bound != Bound::memory ? printf(" |") : printf(" %.3f |", 1e3 * l.calls * limit);
        printf("\n");
    }
    printf("| **step** | | | **%.2f** | | **%.2f** | **%.0f%%** | | | | | | |\n", 1e3 * step, 1e3 * floors,
           100 * floors / step);
    if (form_of(card) == Form::library) {  // what changes with own attention
        double own_step = step;
        std::string parts;
        const auto changes = [](const Layer& l) {
            return l.bound == Bound::attention || l.name.starts_with("qkv bias gradient");
        };
        for (const Layer& l : layers)
            if (changes(l)) own_step -= l.calls * layer_times(l, card, m.C, m.HS()).predicted;
        for (const Layer& l : count_step(m, Form::own))
            if (changes(l)) {
                const double seconds = l.calls * layer_times(l, card, m.C, m.HS()).predicted;
                own_step += seconds, parts += strf("%s %.2f, ", l.name.c_str(), 1e3 * seconds);
            }
        printf("\nWith `--attention own`: %sthe step **%.2f** ms.\n", parts.c_str(), 1e3 * own_step);
    }
    return step;
}

void print_kernels(const ModelConfig& m, const char* name) {
    printf(
        "\n## %s: its kernels\n\nA launch each, of the first call. lanes: active ones of an instruction. conflicts: "
        "wavefronts of shared "
        "memory above the least. coalescing: least sectors of global memory by those taken. sm_*: registers, bytes of "
        "spills, static "
        "shared memory, and warps of a multiprocessor that it fills.\n\n",
        name);
    printf(
        "| kernel | grid x block | lanes | conflicts | coalescing | M slots | M MUFU | M mma | M sectors from L2 | MB "
        "of DRAM |");
    for (int c : kCapabilities) printf(" sm_%d |", c);
    printf("\n|---|---|---|---|---|---|---|---|---|---|");
    for (size_t c = 0; c < std::size(kCapabilities); c++) printf("---|");
    printf("\n");
    std::set<std::string> seen;
    for (Form form : {Form::library, Form::own})
        for (const Layer& layer : count_step(m, form))
            for (const CountedLaunch& l : layer.launches) {
                std::string grid = std::to_string(l.grid.x) + (l.grid.y > 1 ? "," + std::to_string(l.grid.y) : "");
                if (!seen.insert(l.kernel->name + grid).second) continue;
                ptx::Totals t = l.totals();
                printf("| %s | %s x %d | %.0f%% | %.0f%% | %.0f%% | %.2f | %.2f | %.3f | %.2f | %.1f |",
                       short_name(l).c_str(), grid.c_str(), l.threads(), 100 * t.active(),
                       t.wavefronts > 0 ? 100 * t.conflicts() / t.least_wavefronts : 0, 100 * t.coalescing(),
                       1e-6 * t.slots, 1e-6 * t.special, 1e-6 * t.tensor, 1e-6 * t.far, 1e-6 * t.dram_bytes);
                for (int c : kCapabilities) {
                    const ptx::Resources& r = all_resources[c][l.kernel->name];
                    int blocks = ptx::blocks_a_multiprocessor(c, r, l.threads(), l.shared_bytes);
                    printf(" %d, %d, %zu, %d%% |", r.registers, r.spills, r.shared_bytes + l.shared_bytes,
                           100 * blocks * ((l.threads() + 31) / 32) / ptx::warps_a_multiprocessor(c));
                }
                printf("\n");
            }
}

// FlashAttention-2's benchmark: causal, head size 64, T = 1024, 16,384 tokens, 32 heads; FLOPs 4 T^2 HS NH B / 2 forward, 2.5
// times as many backward.
struct AttentionShare {
    double forward, backward;  // seconds
};
AttentionShare flash_attention_shape(const ptx::Card& card) {
    static const auto launches = [] {
        constexpr int B = 16, NH = 32, C = 64 * NH;
        const AttentionShape shape = packed_qkv_shape(B, kT, C, NH);
        DeviceArena arena;
        bf16 *qkv, *dqkv, *out, *dout;
        float* lse;
        char* workspace;
        StepState* state;
        const int64_t n = int64_t{B} * kT * C;
        const auto bytes = static_cast<int64_t>(attention_backward_workspace_bytes(shape));
        arena.add(&qkv, 3 * n), arena.add(&dqkv, 3 * n), arena.add(&out, n), arena.add(&dout, n);
        arena.add(&lse, int64_t{B} * kT * NH), arena.add(&workspace, bytes), arena.add(&state, 1);
        arena.allocate("attention", true);
        device().workspace_data = workspace, device().workspace_bytes = static_cast<size_t>(bytes);
        cudaStream_t stream = nullptr;
        CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        std::pair<std::vector<CountedLaunch>, std::vector<CountedLaunch>> both;
        both.first = count(stream, [&] {
            attention_own_forward(out, lse, qkv, qkv + C, qkv + 2 * C, shape, nullptr, Dropout{0, 1, state}, stream);
        });
        both.second = count(stream, [&] {
            attention_own_backward(dqkv, dqkv + C, dqkv + 2 * C, dout, qkv, qkv + C, qkv + 2 * C, out, lse, shape,
                                   nullptr, Dropout{0, 1, state}, nullptr, stream);
        });
        CUDA_CHECK(cudaStreamDestroy(stream));
        return both;
    }();
    Layer forward{"", 1, 0, 0, Bound::attention, launches.first},
        backward{"", 1, 0, 0, Bound::attention, launches.second};
    return {layer_times(forward, card).predicted, layer_times(backward, card).predicted};
}

void print_calibration(double h100_step) {
    const double forward = 4.0 * kT * kT * 64 * 32 * 16 / 2, both = 3.5 * forward;
    AttentionShare a100 = flash_attention_shape(ptx::card("a100")), h100 = flash_attention_shape(ptx::card("h100"));
    printf(
        "\n## How far off: published measurements\n\n"
        "| what | published | predicted | off | source |\n|---|---|---|---|---|\n");
    auto row = [](const char* what, double published, double predicted, const char* unit, const char* source) {
        printf("| %s | %.0f %s | %.0f %s | %+.0f%% | %s |\n", what, published, unit, predicted, unit,
               100 * (predicted / published - 1), source);
    };
    const char* figure = "Dao-AILab/flash-attention, assets/flash2_%s_fwd_bwd_benchmark.png";
    char a100_figure[128], h100_figure[128];
    snprintf(a100_figure, sizeof a100_figure, figure, "a100"),
        snprintf(h100_figure, sizeof h100_figure, figure, "h100");
    row("FlashAttention-2 forward + backward, A100", 119, 1e-12 * both / (a100.forward + a100.backward), "TFLOP/s",
        a100_figure);
    row("FlashAttention-2 forward + backward, H100", 192, 1e-12 * both / (h100.forward + h100.backward), "TFLOP/s",
        h100_figure);
    row("FlashAttention-2 forward, H100", 229, 1e-12 * forward / h100.forward, "TFLOP/s",
        "the same, assets/flash3_fp16_fwd.png");
    row("llm.c's step of 124M, B = 64, T = 1024, H100", 139, 1e3 * h100_step, "ms",
        "KellerJordan/modded-nanogpt, records/101324_llmc/README.md (with its all-reduce)");
    printf(
        "\nAttention: causal, head size 64, T = 1024, 16 sequences of 32 heads. kUnhidden = %.2f was fitted to the "
        "first row; the "
        "others are predictions. FlashAttention-2's backward pass does five products a tile and adds dq with atomics, "
        "this "
        "project's seven without, so that it is the same structure but not the same work; llm.c's attention is "
        "cuDNN's, and it reads gradients once more for its biases.\n",
        ptx::kUnhidden);
    printf(
        "\n## How far off: `plan`\n\nllm.c on eight GPUs, ZeRO stage 1, by `./train_gpt2 plan -e MODEL --gpus 8 --gpu "
        "GPU -b B -d TOKENS -z 1`, "
        "whose shares of the data sheets are attention's and memory's of this page (llmc/run/gpus.h):\n\n"
        "| model | GPU | B | tokens a step | published ms | predicted ms | off | source "
        "|\n|---|---|---|---|---|---|---|---|\n");
    for (const PublishedStep& step : kPublishedSteps) {
        const double predicted = step.predicted();
        printf("| %s | %s | %d | %d | %.0f | %.0f | %+.0f%% | %s |\n", step.model, step.gpu, step.B, step.tokens,
               1e3 * step.seconds, 1e3 * predicted, 100 * (predicted / step.seconds - 1), step.source);
    }
}

void print_report() {
    printf(R"(# Kernels of a training step, by counting

Written by `make kernels`, without a GPU: **nothing here was measured.** The machine of test/ptx/ runs nvcc's PTX (%s)
of eight blocks of each launch at the size of the model, and counts; the launch is as many times that
(test/ptx/counters.h). Each part of the GPU takes its time over the counts (test/ptx/limits.h); the longest is the limiter.

- Predicted: the limiter's time, %.0f%% of what the others take, and %.0f us a launch. How far off that is: at the end.
- Floor: bytes that have to move at the data sheet's rate, FLOPs at the tensor cores'.
- Instructions are PTX, with what ptxas makes of each in the main. A step's B = %d, T = %d, in bf16.
- Products are the library's, which has no PTX: on an H100 %.2f (C = 768) and %.2f (C = 1600) of the data sheet (llmc/run/gpus.h).
- Attention on an H100 is cuDNN's, too, where it is there: %.2f of the data sheet at head size 64 (the same).
- Not counted: CUB's sort, with which the encoder's backward pass begins; what other kernels left in L2.

The cards, by their data sheets:

)",
           compiler.c_str(), 100 * ptx::kUnhidden, 1e6 * ptx::kLaunchSeconds, kB, kT,
           product_share(ptx::card("h100").sheet, 768), product_share(ptx::card("h100").sheet, 1600),
           attention_share(ptx::card("h100").sheet, 64, true));
    for (const char* name : kCards) {
        const ptx::Card& c = ptx::card(name);
        printf(
            "- %s: %d multiprocessors at %.2f GHz, %.0f TFLOP/s dense, mma.sync %.0f; L2 %.1f TB/s; DRAM %.2f TB/s, "
            "%.1f of it reached. %s.\n",
            c.sheet.product, c.sheet.multiprocessors, 1e-9 * c.clock, c.sheet.bf16_tflops,
            c.sheet.bf16_tflops * c.mma_share, 1e-12 * c.l2_clock * c.clock, c.sheet.memory_tbs, ptx::kDramShare,
            c.notes);
    }
    double h100_step = 0;
    for (auto [size, name] : {std::pair{"d12", "124M"}, std::pair{"d48", "1558M"}}) {
        const ModelConfig m = model_size(size);
        for (Form form : {Form::library, Form::own}) find_resources(count_step(m, form));
        printf("\n## %s: a step\n", name);
        for (const char* c : kCards) {
            double step = print_step(m, name, ptx::card(c));
            if (c == std::string("h100") && size == std::string("d12")) h100_step = step;
        }
        print_kernels(m, name);
    }
    print_calibration(h100_step);
}

// A launch each of 124M's kernels: a GPU's counters are held beside these (dev/gpu_check/counters.py).
void write_json(const char* path) {
    std::ofstream out(path);
    out << strf(
        "{\n \"model\": \"d12\", \"B\": %d, \"T\": %d, \"multiprocessors\": %d, \"compiler\": \"%s\",\n \"kernels\": [",
        kB, kT, device().multiprocessors, compiler.c_str());
    std::set<std::string> seen;
    for (Form form : {Form::library, Form::own})
        for (const Layer& layer : count_step(model_size("d12"), form))
            for (const CountedLaunch& l : layer.launches) {
                const std::string name = short_name(l), grid = strf("[%u, %u, %u]", l.grid.x, l.grid.y, l.grid.z);
                if (!seen.insert(name + grid).second) continue;
                const ptx::Totals t = l.totals();
                out << (seen.size() > 1 ? ",\n" : "\n")
                    << strf(
                           "  {\"layer\": \"%s\", \"kernel\": \"%s\", \"grid\": %s, \"block\": [%u, %u, %u], "
                           "\"instructions\": %.0f, \"special\": %.0f, \"tensor\": %.0f, \"sectors\": %.0f, "
                           "\"l2_sectors\": %.0f, \"wavefronts\": %.0f, \"dram_bytes\": %.0f, \"ms\": {",
                           layer.name.c_str(), name.c_str(), grid.c_str(), l.block.x, l.block.y, l.block.z, t.slots,
                           t.special, t.tensor, t.sectors, t.far, t.wavefronts, t.dram_bytes);
                for (const char* card : kCards)
                    out << (card == kCards[0] ? "" : ", ")
                        << strf("\"%s\": %.5f", card,
                                1e3 * ptx::times(ptx::card(card), t, static_cast<double>(l.blocks())).predicted());
                out << "}}";
            }
    out << "\n ]\n}\n";
    if (!out.flush()) throw Error(std::string(path) + " cannot be written");
}

// ---- a kernel's page ----

std::string place(const CountedLaunch& l, int file, int line) {
    std::string path = file > 0 && l.kernel->files ? (*l.kernel->files)[static_cast<size_t>(file)] : "?";
    for (const char* room : {"/llmc/", "/test/"})
        if (size_t at = path.rfind(room); at != std::string::npos) path = path.substr(at + 1);
    return path.substr(path.rfind("/include/") == std::string::npos ? 0 : path.rfind("/include/") + 9) + ":" +
           std::to_string(line);
}
void print_lines(const CountedLaunch& l, const char* what, const std::function<double(size_t)>& of) {
    std::map<std::string, double> lines;
    double all = 0;
    for (size_t i = 0; i < l.kernel->code.size(); i++)
        if (double n = of(i); n > 0) {
            const ptx::Instruction& instruction = l.kernel->code[i];
            std::string outer = place(l, instruction.outer_file, instruction.outer_line),
                        inner = place(l, instruction.file, instruction.source_line);
            lines[outer + (inner == outer ? "" : "  (" + inner + ")")] += n, all += n;
        }
    std::vector<std::pair<double, std::string>> order;
    for (auto& [line, n] : lines) order.emplace_back(n, line);
    std::sort(order.rbegin(), order.rend());
    printf("\n%s: %s%.0f a block\n", what, order.empty() ? "none, " : "", all / static_cast<double>(l.counters.blocks));
    for (size_t i = 0; i < std::min<size_t>(8, order.size()); i++)
        printf("  %5.1f%%  %s\n", 100 * order[i].first / all, order[i].second.c_str());
}
void print_page(const CountedLaunch& l) {
    const ptx::Totals t = l.totals();
    printf("\n%s\n  %llu blocks of %d threads, %zu bytes of dynamic shared memory; %llu blocks were run\n",
           l.kernel->demangled.c_str(), static_cast<unsigned long long>(l.blocks()), l.threads(), l.shared_bytes,
           static_cast<unsigned long long>(l.counters.blocks));
    printf("  issue slots %.4g, active lanes %.1f%%:", t.slots, 100 * t.active());
    for (int c = 1; c < static_cast<int>(ptx::Class::count); c++)
        if (t.slots_of[c] > 0)
            printf(" %s %.1f%%", ptx::name_of(static_cast<ptx::Class>(c)), 100 * t.slots_of[c] / t.slots);
    printf("\n  special functions %.4g, mma %.4g, barriers (of a warp) %.4g\n", t.special, t.tensor, t.barriers);
    printf(
        "  global memory: %.4g requests, %.4g sectors, coalescing %.1f%%, %.4g sectors from L2, %.1f MB from and to "
        "DRAM\n",
        t.requests, t.sectors, 100 * t.coalescing(), t.far, 1e-6 * t.dram_bytes);
    printf("  shared memory: %.4g wavefronts, %.4g of them conflicts\n", t.wavefronts, t.conflicts());
    for (int c : kCapabilities) {
        const ptx::Resources& r = all_resources[c][l.kernel->name];
        int blocks = ptx::blocks_a_multiprocessor(c, r, l.threads(), l.shared_bytes);
        printf(
            "  sm_%d: %d registers, %d bytes of spills, %zu of static shared memory; %d blocks a multiprocessor, %d%% "
            "of its warps\n",
            c, r.registers, r.spills, r.shared_bytes, blocks,
            100 * blocks * ((l.threads() + 31) / 32) / ptx::warps_a_multiprocessor(c));
    }
    for (const char* name : kCards) {
        const ptx::Card& c = ptx::card(name);
        ptx::Times times = ptx::times(c, t, static_cast<double>(l.blocks()));
        printf("  %s: %.1f us, limiter %s;", c.sheet.product, 1e6 * (times.predicted() + ptx::kLaunchSeconds),
               ptx::kLimitNames[static_cast<int>(times.limiter())]);
        for (size_t i = 0; i < std::size(times.at); i++) printf(" %s %.1f", ptx::kLimitNames[i], 1e6 * times.at[i]);
        printf("\n");
    }
    const auto& at = l.counters.at;
    print_lines(l, "issue slots",
                [&](size_t i) { return static_cast<double>(at[i].warps) * l.counters.kinds()[i].slots; });
    print_lines(l, "sectors", [&](size_t i) { return static_cast<double>(at[i].sectors); });
    print_lines(l, "sectors above the least",
                [&](size_t i) { return static_cast<double>(at[i].sectors - at[i].least_sectors); });
    print_lines(l, "bank conflicts", [&](size_t i) { return static_cast<double>(at[i].conflicts()); });
}
int print_pages(const std::string& wanted) {
    std::set<std::string> names, seen;
    const ModelConfig m = model_size("d12");
    for (Form form : {Form::library, Form::own}) {
        const auto layers = count_step(m, form);
        for (const Layer& layer : layers)
            for (const CountedLaunch& l : layer.launches) {
                const std::string& name = l.kernel->demangled;
                names.insert("  " + name.substr(0, name.find('<')));
                if (name.find(wanted) == std::string::npos || !seen.insert(name + std::to_string(l.blocks())).second)
                    continue;
                find_resources({{"", 1, 0, 0, Bound::memory, {l}}});
                printf("%s of 124M, B = %d, T = %d:", layer.name.c_str(), kB, kT);
                print_page(l);
            }
    }
    if (!seen.empty()) return 0;
    fprintf(stderr, "make kernel: K=%s is no kernel of a step; these are:\n", wanted.c_str());
    for (const std::string& n : names) fprintf(stderr, "%s\n", n.c_str());
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string how = argc == 5 ? argv[3] : "";
    if (argc != 3 && how != "--kernel" && how != "--json") {
        fprintf(stderr, "usage: kernels PTX_DIRECTORY PTXAS [--json FILE | --kernel NAME]\n");
        return 2;
    }
    try {
        cudahost::use_ptx(argv[1]);
        cudahost::large_sizes();
        ptxas = argv[2];
        for (std::ifstream file(std::string(argv[1]) + "/llmc/cuda/layernorm.ptx"); std::getline(file, compiler);)
            if (compiler.find("release") != std::string::npos) break;
        compiler.erase(0, std::min(compiler.size(), compiler.find_first_not_of("/ ")));
        device().multiprocessors = 132, device().capability = 90, device().max_shared_bytes = 227 << 10;  // an H100's
        device().l2_bytes = 0;  // one head's blocks together (counted.h)
        if (how == "--kernel") return print_pages(argv[4]);
        print_report();
        if (how == "--json") write_json(argv[4]);
        return 0;
    } catch (const std::exception& e) {
        fprintf(stderr, "kernels: error: %s\n", e.what());
        return 1;
    }
}
