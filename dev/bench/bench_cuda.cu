// How fast the CUDA program is, beside what this GPU allows: everything that dev/gpu_check.sh reports about speed.
//
//   rates      of this very card: a large copy (bytes read plus written), a large bf16 product by cuBLASLt
//   steps      whole training steps of 124M (T=1024) by micro-batch, then 524,288 tokens a step with the best one
//   kernels    every kernel of a step alone, at the step's shapes: time, floor, share; and their sum beside the step
//   products   cuBLASLt and the program's own kernel on each of the model's shapes
//   attention  the program's own, and cuDNN's where it is built in
//   variants   whole training steps of 124M with GELU fused or not, by cuBLASLt's first algorithms, by the program's own
//              attention and matrix products
//   large      whole training steps of 1558M
//   counters   only where it is named: each of the program's own kernels once, for a profiler
//
// Times are medians between two CUDA events, warm, on random data. A kernel that is timed alone finds the L2 cache full
// of something else, as it would in the middle of a step. Floors: llmc/run/roofline.h.
//
// Usage: bench_cuda [--json FILE] [--limit SECONDS] [--own] [--model SIZE] [--large SIZE] [--batches 4,8,...]
//                   [--seq-len T] [--tokens PER_STEP] [--product N] [--copy-mb N] [SECTION]...   (default: everything)
// Markdown on stdout; the JSON file is written again after each section.
#include <cstdio>
#include <string>
#include "dev/bench/cuda/kernels.cuh"
#include "dev/bench/cuda/products.cuh"
#include "dev/bench/cuda/rates.cuh"
#include "dev/bench/cuda/steps.cuh"

using namespace bench;

static void parse(int argc, char** argv) {
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

static void run() {
    DeviceOptions options;
    if (o.own) options.matmul = "own";
    Gpu::open(options, 0);
    Gpu::configure(options, true);
    int driver = 0, runtime = 0;
    CUDA_CHECK(cudaDriverGetVersion(&driver)), CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    const CudaDevice& d = device();
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
    if (o.sections.count("counters")) {  // alone: a profiler looks on
        device().gelu_fusion = 0, device().attention = AttentionLibrary::own;
        return count_kernels(model_size(o.model), o.batches.front());
    }
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

int main(int argc, char** argv) {
    try {
        parse(argc, argv);
        run();
        return 0;
    } catch (const Error& e) {
        fprintf(stderr, "bench_cuda: error: %s\n", e.what());
        return e.exit_code;
    } catch (const std::exception& e) {
        fprintf(stderr, "bench_cuda: %s\n", e.what());
        return 1;
    }
}
