#include "llmc/run/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include "llmc/model/activations.h"
#include "llmc/base/error.h"
#include "llmc/base/system.h"
#include "llmc/run/gpus.h"
#include "llmc/run/log.h"
#include "llmc/model/memory.h"
#include "llmc/run/run.h"

using Json = nlohmann::ordered_json;

// ---- memory --------------------------------------------------------------------------------------------------------

struct CountingArena {
    size_t host = 0, device = 0;  // bytes in an Arena, in a DeviceArena
    template <typename X>
    void add(X** view, int64_t n) {
        *view = nullptr;
        size_t size = static_cast<size_t>(n) * sizeof(X);
        host += (size + 63) / 64 * 64, device += (size + 255) / 256 * 256;
    }
    size_t bytes(bool cpu) const { return cpu ? host : device; }
};

std::vector<size_t> gpu_workspaces(const ModelConfig& m, int64_t B, int T, int multiprocessors) {
    auto ceil = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    int64_t N = B * T, C = m.C, NH = m.NH, SM = multiprocessors, decode = 0;
    for (int64_t queries = std::min(m.T, 128); queries > 0; queries--) {  // attention_decode.cuh
        int64_t tiles = ceil(queries, queries == 1 ? 1 : 4), steps = ceil(m.T, 64);
        int64_t want = std::clamp(1024 / (NH * tiles), ceil(m.T, 2048), steps);
        decode = std::max(decode, NH * queries * ceil(m.T, ceil(steps, want) * 64) * (m.HS() + 2) * 4);
    }
    int64_t norm_threads = 32 * ceil(C, 32 * (C <= 512 * 8 ? 8 : 24));
    int64_t norm_blocks = std::min(SM * std::max<int64_t>(1, 512 / norm_threads), ceil(N, 16));
    int64_t bias_rows = std::max<int64_t>(32, ceil(ceil(N, 256), 8) * 8), index = ceil(4 * N, 256) * 256;
    std::vector<size_t> all;
    for (int64_t bytes : {SM * 5 * 128 * 256 * 4, decode, norm_blocks * 2 * C * 4, ceil(N, bias_rows) * 4 * C * 4,
                          3 * index + 2 * 4 * N, 8 * B * NH * ceil(T, 128) * 128, 4 * 8 * SM})
        all.push_back(static_cast<size_t>(bytes));
    return all;
}

// What does not depend on B, and the rest of it.
template <typename X>
static void count_model(const PlanSetup& s, PlanMemory* memory) {
    StepOptions o;
    o.master_weights = s.master_weights, o.world = s.gpus, o.zero_stage = s.zero_stage;
    ModelMemory<X, CountingArena> m(s.model, o);
    *memory = {m.parameters.bytes(s.cpu), m.gradients.bytes(s.cpu), m.optimizer.bytes(s.cpu), 0, 0};
}
template <typename X>
static void count_step(const PlanSetup& s, PlanMemory* memory) {
    int64_t N = int64_t(s.B) * s.T, unit = s.cpu ? 64 : 128, logits = s.cpu ? int64_t(52) << 20 : int64_t(1) << 30;
    int64_t chunk = std::max(unit, logits / s.model.Vp() / unit * unit);  // lm_head_chunk() of the programs
    memory->activations = Activations<X, CountingArena>(s.model, N, chunk, true, s.recompute).arena.bytes(s.cpu);
    CountingArena buffers;
    BackwardScratch<X>().add_to(buffers, N, s.model.C);
    if (!s.cpu) {
        char* view;
        std::vector<size_t> layers = gpu_workspaces(s.model, s.B, s.T, s.multiprocessors);
        int64_t workspace = static_cast<int64_t>(*std::max_element(layers.begin(), layers.end()));
        int64_t segments = 24 * (12 * int64_t(s.model.L) + 4);  // an AdamWSegment for each row of the parameter table
        int64_t cublaslt = s.own_matmul ? 0 : s.capability >= 90 ? 32 << 20 : 4 << 20;
        // inputs, targets, StepState, the norm's square
        for (int64_t n : {4 * N, 4 * N, int64_t(sizeof(StepState)), int64_t(8), segments,
                          std::max(int64_t(1) << 20, workspace), cublaslt})
            buffers.add(&view, n);
    }
    memory->buffers = buffers.bytes(s.cpu);
}
static PlanMemory count(const PlanSetup& s, const PlanMemory* model = nullptr) {
    PlanMemory memory{};
    if (model) memory = *model;
    else s.bf16 ? count_model<bf16>(s, &memory) : count_model<float>(s, &memory);
    if (s.B > 0) s.bf16 ? count_step<bf16>(s, &memory) : count_step<float>(s, &memory);
    return memory;
}
PlanMemory plan_memory(const PlanSetup& s) { return count(s); }
bool fits(const PlanSetup& s) { return static_cast<double>(plan_memory(s).total()) <= s.memory_bytes; }

int largest_micro_batch(PlanSetup s, double share) {
    s.B = 0;
    const PlanMemory model = count(s);
    int64_t own = s.own_sequences(), low = 0, high = own;  // low fits, nothing above high does
    while (low < high) {
        s.B = static_cast<int>((low + high + 1) / 2);
        if (static_cast<double>(count(s, &model).total()) <= share * s.memory_bytes) low = s.B;
        else high = s.B - 1;
    }
    int64_t parts = low > 0 ? (own + low - 1) / low : 1;
    return low > 0 ? static_cast<int>((own + parts - 1) / parts) : 0;
}

// ---- time ----------------------------------------------------------------------------------------------------------

// The step of train_gpt2.cpp with two clocks, those of the arithmetic and of the transfers.
PlanStep predict_step(const PlanSetup& s) {
    const int L = s.model.L, stage = s.gpus > 1 ? s.zero_stage : 0, final_norm = L + 1;
    const int64_t A = s.micro_steps();
    const double size = s.bf16 ? 2 : 4, n = s.gpus;
    MicroStepSeconds part = micro_step_floor(s.model, static_cast<double>(s.own_sequences()) / static_cast<double>(A),
                                             s.T, A, size, s.rates, StepForm::program, s.recompute);
    Sharding shards(parameter_table(s.model, stage > 0 ? s.gpus : 1), 0, stage > 0 ? s.gpus : 1);
    double speed = s.gpus > s.gpus_per_node ? std::min(s.bus, s.network) : s.bus;
    double now = 0, wire = 0, here[Sharding::kSlots] = {}, gone[Sharding::kSlots] = {};
    int resident[Sharding::kSlots] = {-1, -1, -1, -1};
    PlanStep step{};
    auto send = [&](int b, double bytes_of_element) {  // one way round the ring
        double bytes = (n - 1) / n * static_cast<double>(shards.bucket(b).size) * bytes_of_element;
        step.sent += bytes, step.communication += bytes / speed;
        return wire = std::max(wire, now) + bytes / speed;
    };
    auto fetch = [&](int b) {
        int slot = shards.slot(b);
        if (stage < 3 || b > final_norm || resident[slot] == b) return;
        resident[slot] = b, here[slot] = send(b, size);
    };
    auto need = [&](int b) { fetch(b), now = std::max(now, here[shards.slot(b)]); };
    auto begin = [&](int b) { now = std::max(now, gone[shards.slot(b)]); };
    auto reduce = [&](int b, bool last) {
        if (s.gpus == 1 || (stage < 2 && !last)) return;
        double end = send(b, stage == 0 ? 8 : 4);
        if (stage >= 2) gone[shards.slot(b)] = end;
    };
    const int64_t walked = std::min<int64_t>(A, 4), alike = A - walked;  // all but the first two and the last are alike
    double skipped = 0;
    for (int64_t i = 0; i < walked; i++) {
        const bool last = i + 1 == walked;
        const double begun = now, sent = step.sent, communication = step.communication;
        need(0), fetch(1);
        now += part.encoder_forward;
        for (int l = 0; l < L; l++) need(l + 1), fetch(l + 2), now += part.block_forward;
        need(final_norm), begin(0), begin(final_norm);
        now += part.head;
        reduce(final_norm, last);
        for (int l = L - 1; l >= 0; l--) {
            need(l + 1), fetch(l), begin(l + 1);
            now += part.block_backward;
            reduce(l + 1, last);
        }
        now += part.encoder_backward;
        reduce(0, last);
        if (i != 2 || last) continue;
        skipped = static_cast<double>(alike) * (now - begun);
        step.sent += static_cast<double>(alike) * (step.sent - sent);
        step.communication += static_cast<double>(alike) * (step.communication - communication);
    }
    now = std::max(now, wire);
    step.compute = static_cast<double>(A) * part.total(L);
    step.update = update_floor_seconds(static_cast<double>(shards.local_size()), size, s.rates);
    now += step.update;
    if (stage == 1 || stage == 2)
        for (int b = 0; b <= final_norm; b++) now = send(b, size);
    step.total = now + skipped;
    step.not_hidden = s.gpus > 1 ? step.total - step.compute - step.update : 0;
    return step;
}

// ---- what would fit ------------------------------------------------------------------------------------------------

// The fewest changes of `asked` that let `s`, which differs from it in the number of GPUs alone, fit.
static std::optional<PlanSetup> best_change(const PlanSetup& s, const PlanSetup& asked) {
    std::optional<PlanSetup> best;
    std::pair<int, double> best_cost;
    for (int stage = asked.zero_stage; stage <= (s.gpus > 1 ? 3 : asked.zero_stage); stage++)
        for (int level = asked.recompute; level <= 3; level++) {
            PlanSetup c = s;
            c.zero_stage = stage, c.recompute = level;
            int changes = (stage > asked.zero_stage) + (level > asked.recompute);
            if (asked.B == 0) c.B = largest_micro_batch(c, 0.8);
            else c.B = static_cast<int>(std::min<int64_t>(asked.B, c.own_sequences()));
            if (c.B == 0 || !fits(c)) c.B = largest_micro_batch(c, 1), changes++;
            if (c.B == 0) continue;
            std::pair<int, double> cost{changes, c.timed() ? predict_step(c).total : 0};
            if (!best || cost < best_cost) best = c, best_cost = cost;
        }
    return best;
}

std::optional<PlanSetup> smallest_change(const PlanSetup& asked) {
    auto with = [&](int64_t gpus) {
        PlanSetup s = asked;
        s.gpus = static_cast<int>(gpus);
        if (!s.batch_given) s.sequences = std::max(s.sequences, gpus);
        return s;
    };
    if (auto found = best_change(asked, asked)) return found;
    // More GPUs: one by one up to a whole machine, then machine by machine.
    int64_t machine = asked.gpus_per_node, whole = std::max<int64_t>(1, asked.gpus / machine) * machine;
    int64_t single = std::max<int64_t>(0, machine - asked.gpus), most = asked.batch_given ? asked.sequences : 1 << 16;
    auto gpus = [&](int64_t i) { return i <= single ? asked.gpus + i : whole + (i - single) * machine; };
    auto possible = [&](int64_t i) {
        if (gpus(i) > most) return true;  // the search ends here
        PlanSetup s = with(gpus(i));
        s.B = 1, s.recompute = 3;
        for (s.zero_stage = asked.zero_stage; s.zero_stage <= 3; s.zero_stage++)
            if (fits(s)) return true;
        return false;
    };
    int64_t low = 0, high = most;  // gpus(low) are too few
    while (high - low > 1) {
        int64_t i = (low + high) / 2;
        (possible(i) ? high : low) = i;
    }
    return gpus(high) <= most ? best_change(with(gpus(high)), asked) : std::nullopt;
}

// ---- from options --------------------------------------------------------------------------------------------------

// What of them programs reach: large bf16 products, copies and NCCL on an H100; attention of FlashAttention-2's kind on
// an H100 (Shah et al. 2024, https://arxiv.org/abs/2407.08608).
constexpr double kProductShare = 0.8, kMemoryShare = 0.9, kBusShare = 0.8, kAttentionShare = 0.35;

// Rates that bench_cuda measured: its JSON, or the report.json that holds it.
static void read_rates(const Options& o, PlanSetup* s, const Gpu** gpu) {
    std::ifstream file(o.rates_file);
    Json json = Json::parse(file, nullptr, false);
    if (json.is_object() && json.contains("bench_cuda")) json = json["bench_cuda"];
    try {
        const Json &rates = json.at("rates").at(0), &device = json.at("device").at(0);
        std::string name = device.at("name");
        auto is_it = [&](const Gpu& g) { return name.find(g.product) != std::string::npos; };
        if (!o.was_given("gpu") && (*gpu = std::find_if(kGpus, std::end(kGpus), is_it)) == std::end(kGpus))
            throw UsageError("--rates: " + o.rates_file + " is of " + name +
                             ", no --gpu that is known; name the nearest");
        s->multiprocessors = device.at("multiprocessors"), s->capability = device.at("capability");
        s->memory_bytes = device.at("memory_bytes"), s->rates_from = "measured on " + name;
        s->rates.copy = 1e9 * rates.at("copy_gb_per_second").get<double>();
        if (s->bf16 || o.device.tf32) s->rates.product = (s->bf16 ? 1e12 : 0.5e12) * rates.at("product_tflops").get<double>();
        // the program's own attention, forward and 2.5 times as much backward; the head size nearest to the model's
        int nearest = 1 << 30;
        for (const Json& row : json.value("attention", Json::array())) {
            int distance = std::abs(row.at("HS").get<int>() - s->model.HS());
            if (!s->bf16 || row.at("by") != "own" || distance >= nearest) continue;
            double forward = row.at("forward_tflops"), backward = row.at("backward_tflops");
            nearest = distance, s->rates.attention = 3.5e12 / (1 / forward + 2.5 / backward);
        }
    } catch (const nlohmann::json::exception&) {
        throw Error("--rates: " + o.rates_file + " is no JSON of bench_cuda and no report.json of dev/gpu_check.sh");
    }
}

PlanSetup plan_setup(const Options& o) {
    PlanSetup s;
    const Gpu* gpu = std::find_if(kGpus, std::end(kGpus), [&](const Gpu& g) { return o.gpu == g.name; });
    s.model = find_model(o.model).config;
    if (s.model.V == 0) s.model.V = 50257;  // GPT-2's
    check_model_config(s.model, "--model " + o.model);
    s.cpu = o.gpu == "cpu", s.bf16 = o.was_given("precision") ? o.precision == "bf16" : !s.cpu;
    s.master_weights = o.master_weights, s.own_matmul = o.device.matmul == "own";
    s.gpus = o.gpus, s.gpus_per_node = o.ranks.gpus_per_node, s.recompute = o.recompute, s.zero_stage = o.zero_stage;
    s.T = o.seq_len > 0 ? o.seq_len : s.model.T, s.B = o.micro_batch_size;
    if (s.T > s.model.T)
        throw UsageError(strf("--seq-len (-t) %d is longer than the model's longest context, %d", s.T, s.model.T));
    s.batch_given = o.total_batch_size > 0;
    int64_t tokens = s.batch_given ? o.total_batch_size
                     : s.B > 0     ? int64_t(s.B) * s.T * s.gpus
                                   : std::max<int64_t>({s.cpu ? 4096 : 524288, int64_t(s.T) * s.gpus}) / s.T * s.T;
    s.sequences = tokens / s.T;
    if (tokens % s.T != 0 || s.sequences < s.gpus || s.B > s.sequences)
        throw UsageError(
            strf("--total-batch-size (-d) %s: must be a multiple of T = %d, with a sequence for each of %d GPUs and "
                 "--micro-batch-size",
                 human_count(tokens).c_str(), s.T, s.gpus));

    s.rates_from =
        s.cpu ? "given"
              : strf("data sheet of %s; of it reached: products %.2f, attention %.2f, memory %.2f, transfers %.2f",
                     gpu->product, kProductShare, kAttentionShare, kMemoryShare, kBusShare);
    s.multiprocessors = gpu->multiprocessors, s.capability = gpu->capability;
    if (!o.rates_file.empty()) read_rates(o, &s, &gpu);
    // what the command line says, else what was measured, else a share of the data sheet
    auto choose = [](double* rate, double given, double sheet) {
        *rate = given > 0 ? given : *rate > 0 ? *rate : sheet;
    };
    s.peak = 1e12 * (s.bf16 ? gpu->bf16_tflops : o.device.tf32 ? gpu->bf16_tflops / 2 : gpu->fp32_tflops);
    choose(&s.rates.product, 1e12 * o.matmul_tflops, kProductShare * s.peak);
    double attention = 1e12 * (s.bf16 ? gpu->bf16_tflops : gpu->fp32_tflops);  // in fp32 without TF32
    choose(&s.rates.attention, 1e12 * o.attention_tflops, s.cpu ? s.rates.product : kAttentionShare * attention);
    choose(&s.rates.copy, 1e12 * o.memory_tbs, 1e12 * kMemoryShare * gpu->memory_tbs);
    choose(&s.bus, 1e9 * o.bus_gbs, 1e9 * kBusShare * gpu->bus_gbs);
    choose(&s.network, 1e9 * o.network_gbs, 1e9 * kBusShare * gpu->network_gbs);
    double memory = s.cpu ? available_host_memory() / std::min(s.gpus, s.gpus_per_node) : 1e9 * gpu->memory_gb;
    choose(&s.memory_bytes, 1e9 * o.memory_gb, memory);
    if (s.rates.copy == 0 || (s.gpus > 1 && s.bus == 0) || (s.gpus > s.gpus_per_node && s.network == 0)) s.rates = {};
    return s;
}

// ---- output --------------------------------------------------------------------------------------------------------

static Json describe(const PlanSetup& s) {
    PlanMemory m = plan_memory(s);
    PlanStep t = predict_step(s);
    Json j, memory, step;
    j["gpus"] = s.gpus, j["zero_stage"] = s.zero_stage, j["recompute"] = s.recompute, j["micro_batch_size"] = s.B;
    memory["parameters"] = m.parameters, memory["gradients"] = m.gradients, memory["optimizer"] = m.optimizer;
    memory["activations"] = m.activations, memory["buffers"] = m.buffers, memory["total"] = m.total();
    j["fits"] = static_cast<double>(m.total()) <= s.memory_bytes, j["memory"] = memory, j["sent_bytes"] = t.sent;
    if (!s.timed()) return j;
    double tokens_per_second = static_cast<double>(s.sequences) * s.T / t.total;
    step["seconds"] = t.total, step["compute"] = t.compute, step["update"] = t.update;
    step["communication"] = t.communication, step["not_hidden"] = t.not_hidden;
    step["tokens_per_second"] = tokens_per_second;
    if (s.peak > 0) step["mfu"] = flops_per_token(s.model, s.T) * tokens_per_second / s.peak / s.gpus;
    j["predicted_step"] = step;
    return j;
}

static Json plan_json(const Options& o, const PlanSetup& asked) {
    PlanSetup s = asked;
    if (s.B == 0) s.B = largest_micro_batch(s, 0.8);
    bool none = s.B == 0;
    s.B = std::max(s.B, 1);
    Json j = describe(s), model, batch, training, rates;
    if (none) j["fits"] = false;
    model["name"] = o.model, model["L"] = s.model.L, model["NH"] = s.model.NH, model["C"] = s.model.C;
    model["T"] = s.model.T, model["V"] = s.model.V, model["parameters"] = parameter_count(s.model);
    double step_tokens = static_cast<double>(s.sequences) * s.T, flops = flops_per_token(s.model, s.T);
    batch["tokens"] = s.sequences * s.T, batch["sequences"] = s.sequences, batch["seq_len"] = s.T;
    batch["of_a_gpu"] = s.own_sequences(), batch["micro_steps"] = s.micro_steps();
    j["model"] = model, j["batch"] = batch, j["precision"] = s.bf16 ? "bf16" : "fp32", j["gpu"] = o.gpu;
    j["gpus_per_node"] = s.gpus_per_node, j["memory_available"] = s.memory_bytes, j["flops_per_token"] = flops;
    for (int i = 0; i < 4; i++) {
        PlanSetup level = s, stage = s;
        level.recompute = stage.zero_stage = i;
        j["by_recompute"].push_back(describe(level)), j["by_zero_stage"].push_back(describe(stage));
    }
    training["tokens"] = o.plan_tokens > 0 ? o.plan_tokens : 20 * static_cast<double>(parameter_count(s.model));
    training["steps"] = std::ceil(training["tokens"].get<double>() / step_tokens);
    if (s.timed()) {
        double seconds = training["steps"].get<double>() * j["predicted_step"]["seconds"].get<double>();
        double hours = seconds / 3600 * s.gpus;
        training["seconds"] = seconds, training["gpu_hours"] = hours;
        if (o.price > 0) training["dollars"] = hours * o.price;
    }
    rates["from"] = s.rates_from, rates["matmul_tflops"] = 1e-12 * s.rates.product;
    rates["attention_tflops"] = 1e-12 * s.rates.attention, rates["memory_tbs"] = 1e-12 * s.rates.copy;
    rates["bus_gbs"] = 1e-9 * s.bus, rates["network_gbs"] = 1e-9 * s.network, rates["peak_tflops"] = 1e-12 * s.peak;
    j["training"] = training, j["rates"] = rates;
    if (j["fits"]) return j;
    j["change"] = nullptr;
    if (std::optional<PlanSetup> c = smallest_change(asked)) {
        std::string what;
        if (asked.B > 0 ? c->B != asked.B : c->B > largest_micro_batch(*c, 0.8))
            what += strf(" --micro-batch-size %d", c->B);
        if (c->recompute != s.recompute) what += strf(" --recompute %d", c->recompute);
        if (c->zero_stage != s.zero_stage) what += strf(" --zero-stage %d", c->zero_stage);
        if (c->gpus != s.gpus) what += strf(" --gpus %d", c->gpus);
        j["change"] = describe(*c), j["change"]["options"] = what.substr(1);
    }
    return j;
}

// `text` with each {pointer kind width} replaced by that value of j, if it is there: b bytes, n a whole number, g any
// number, s a time, p a percentage, t as it is.
static std::string fill(const std::string& text, const Json& j) {
    std::string out;
    for (size_t at = 0, open; (open = text.find('{', at)) != std::string::npos;) {
        char pointer[64] = "", kind = 0;
        int width = 0;
        sscanf(text.c_str() + open, "{%63s %c%d", pointer, &kind, &width);
        out += text.substr(at, open - at), at = text.find('}', open) + 1;
        if (!j.contains(Json::json_pointer(pointer))) continue;
        const Json& value = j[Json::json_pointer(pointer)];
        double x = value.is_number() ? value.get<double>() : 0;
        std::string word = value.is_string() ? value.get<std::string>() : value.dump();
        if (kind == 'b') word = human_bytes(x);
        if (kind == 'n') word = human_count(std::llround(x));
        if (kind == 'g') word = strf("%.4g", x);
        if (kind == 's') word = human_seconds(x);
        if (kind == 'p') word = strf("%.1f%%", 100 * x);
        out += strf("%*s", width, word.c_str());
    }
    return out + text.substr(text.rfind('}') + 1);
}

static std::string plan_text(const Json& j) {
    const bool timed = j.contains("predicted_step");
    const char* step =
        timed ? "{/predicted_step/seconds g 10} s {/predicted_step/tokens_per_second n 12} {/predicted_step/mfu p 6}\n"
              : "\n";
    std::string text = fill(
        "model: {/model/name t} (L={/model/L t}, NH={/model/NH t}, C={/model/C t}, T={/model/T t}, V={/model/V t}), "
        "{/model/parameters n} parameters, {/precision t}, {/flops_per_token g} FLOPs a token\non {/gpus n} x {/gpu "
        "t}, {/gpus_per_node t} a machine; ZeRO stage {/zero_stage t}, recompute {/recompute t}\nbatch: {/batch/tokens "
        "n} tokens a step = {/batch/sequences n} sequences of {/batch/seq_len t}; a GPU has {/batch/of_a_gpu n}, in "
        "micro-batches of {/micro_batch_size t}\nmemory of a GPU: parameters {/memory/parameters b}, gradients "
        "{/memory/gradients b}, optimizer {/memory/optimizer b}, activations {/memory/activations b}, buffers "
        "{/memory/buffers b}, together {/memory/total b} of {/memory_available b}: ",
        j);
    if (j["fits"]) text += "fits\n";
    else if (j["change"].is_null())
        text +=
            "DOES NOT FIT\nNo micro-batch, recomputation, ZeRO stage or number of GPUs makes it fit: try a smaller "
            "--model or --seq-len, or a --total-batch-size for more GPUs.\n";
    else
        text += fill(
            "DOES NOT FIT\nit fits with: {/options t} (micro-batches of {/micro_batch_size t}, {/memory/total b} a "
            "GPU) "
            "{/predicted_step/seconds g} s, {/predicted_step/mfu p}\n",
            j["change"]);
    text += "\nrecompute    activations       together         step     tokens/s    MFU\n";
    for (const Json& r : j["by_recompute"])
        text += fill(std::string("{/recompute t 9} {/memory/activations b 14} {/memory/total b 14}") + step, r);
    text += "\nZeRO stage   sent a step       together         step     tokens/s    MFU\n";
    for (const Json& r : j["by_zero_stage"])
        text += fill(std::string("{/zero_stage t 10} {/sent_bytes b 13} {/memory/total b 14}") + step, r);
    if (!timed)
        return text +
               "\nNo step time without --matmul-tflops and --memory-tbs, nor with several ranks without --bus-gbs and "
               "--network-gbs.\n";
    text += fill(
        "\nstep, predicted: {/predicted_step/seconds g} s: arithmetic {/predicted_step/compute g} s, update "
        "{/predicted_step/update g} s, transfers {/predicted_step/communication g} s, of which "
        "{/predicted_step/not_hidden g} s are not hidden\ntraining: {/training/tokens g} tokens, {/training/steps n} "
        "steps: {/training/seconds s}, {/training/gpu_hours n} GPU hours\n",
        j);
    if (j["training"].contains("dollars")) text += fill("cost: {/training/dollars n} dollars\n", j);
    return text +
           fill(
               "rates: products {/rates/matmul_tflops g} TFLOP/s, attention {/rates/attention_tflops g}, memory "
               "{/rates/memory_tbs g} TB/s, {/rates/bus_gbs g} GB/s out of a GPU, {/rates/network_gbs g} out of a "
               "machine; MFU of {/rates/peak_tflops g} TFLOP/s\n       ({/rates/from t})\nMemory is exact but for what "
               "CUDA and NCCL take. Times are a prediction: every kernel at these rates; transfers by rings,\nbucket "
               "by bucket, beside the arithmetic; nothing for latency, launches, data, evaluation, checkpoints.\n",
               j);
}

int plan_command(const Options& o) {
    Json j = plan_json(o, plan_setup(o));
    printf("%s", o.json ? (j.dump(2) + "\n").c_str() : plan_text(j).c_str());
    return 0;
}
