// The command `plan`: from its options to a setup, and from a setup to text or JSON.
#include <algorithm>
#include <cmath>
#include <cstring>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/base/system.h"
#include "llmc/files/model_files.h"
#include "llmc/run/gpus.h"
#include "llmc/base/human.h"
#include "llmc/run/memory_limit.h"
#include "llmc/run/options.h"
#include "llmc/run/plan.h"

// ---- from options --------------------------------------------------------------------------------------------------

constexpr double kBusShare = 0.8;  // of a bus's sheet
Rates nominal_rates(const ModelConfig& m, bool bf16, double peak_flops) {
    if (peak_flops == 0) return {2e10, bf16 ? 4e11 : 2e11, 1e11, 1e10};  // a core or two with AVX-512
    const auto distance = [&](const GpuSheet& g) {
        return std::abs(1e12 * g.bf16_tflops - peak_flops * (bf16 ? 1 : 2));
    };
    const GpuSheet& g = *std::min_element(std::begin(kGpuSheets), std::end(kGpuSheets) - 1,
                                          [&](auto& a, auto& b) { return distance(a) < distance(b); });
    return {1e12 * g.memory * g.memory_tbs, product_share(g, m.C) * peak_flops,
            attention_share(g, m.HS(), false) * (bf16 ? peak_flops : 1e12 * g.fp32_tflops),
            1e9 * kBusShare * g.host_gbs};
}

// Rates that bench_cuda measured: its JSON, or the report.json that holds it.
static void read_rates(const Options& o, PlanSetup* s, const GpuSheet** gpu) {
    OrderedJson json = try_json<OrderedJson>(read_file(o.rates_file));
    if (json.is_object() && json.contains("bench_cuda")) json = json["bench_cuda"];
    try {
        const OrderedJson &rates = json.at("rates").at(0), &device = json.at("device").at(0);
        std::string name = device.at("name");
        auto is_it = [&](const GpuSheet& g) { return name.find(g.product) != std::string::npos; };
        if (!o.was_given("gpu") &&
            (*gpu = std::find_if(kGpuSheets, std::end(kGpuSheets), is_it)) == std::end(kGpuSheets))
            throw UsageError("--rates: " + o.rates_file + " is of " + name +
                             ", no --gpu that is known; name the nearest");
        auto number = [&](const OrderedJson& object, const char* key) {
            const double x = object.at(key);
            if (!(x >= 0 && x < 1e15)) throw Error(strf("--rates: %s: %s is %g", o.rates_file.c_str(), key, x));
            return x;
        };
        s->multiprocessors = static_cast<int>(std::clamp(number(device, "multiprocessors"), 1.0, 1e4));
        s->capability = static_cast<int>(std::clamp(number(device, "capability"), 1.0, 1e4));
        s->memory_bytes = number(device, "memory_bytes"), s->rates_from = "measured on " + name;
        s->rates.copy = 1e9 * number(rates, "copy_gb_per_second");
        if (s->bf16 || o.device.tf32) s->rates.product = (s->bf16 ? 1e12 : 0.5e12) * number(rates, "product_tflops");
        // the program's own attention, forward and 2.5 times as much backward; the head size nearest to the model's
        double nearest = HUGE_VAL;
        for (const OrderedJson& row : json.value("attention", OrderedJson::array())) {
            double distance = std::abs(number(row, "HS") - s->model.HS());
            if (!s->bf16 || row.at("by") != "own" || distance >= nearest) continue;
            double forward = number(row, "forward_tflops"), backward = number(row, "backward_tflops");
            nearest = distance, s->rates.attention = 3.5e12 / (1 / forward + 2.5 / backward);
        }
    } catch (const JsonError&) {
        throw Error("--rates: " + o.rates_file + " is no JSON of bench_cuda and no report.json of dev/gpu_check.sh");
    }
}

PlanSetup plan_setup(const Options& o) {
    PlanSetup s;
    const GpuSheet* gpu =
        std::find_if(kGpuSheets, std::end(kGpuSheets), [&](const GpuSheet& g) { return o.gpu == g.name; });
    s.model = find_model(o.model).config;
    if (s.model.V == 0) s.model.V = kGpt2Vocabulary;
    check_model_config(s.model, "--model " + o.model);
    if (const AdapterConfig adapter = adapter_config(o, s.model); adapter != AdapterConfig{}) s.adapters = {adapter};
    s.cpu = o.gpu == "cpu", s.bf16 = o.was_given("precision") ? o.precision == "bf16" : !s.cpu;
    s.master_weights = o.master_weights, s.own_matmul = o.device.matmul == "own";
    s.optimizer = optimizer_of(o), s.state_type = state_type_of(o);
    s.offload = offload_of(o), s.host_bytes = 1e9 * o.host_memory_gb, s.fuse_update = fuse_update_of(o);
    s.gpus = o.gpus, s.gpus_per_node = o.ranks.gpus_per_node, s.recompute = o.recompute, s.zero_stage = o.zero_stage;
    check_offload(
        o, {.cpu = s.cpu, .masters = s.bf16 && s.master_weights, .adapter = !s.adapters.empty(), .ranks = s.gpus});
    s.T = o.seq_len > 0 ? o.seq_len : s.model.T, s.B = o.micro_batch_size;
    if (s.T > s.model.T)
        throw UsageError(strf("--seq-len (-t) %d is longer than the model's longest context, %d", s.T, s.model.T));
    s.batch_given = o.total_batch_size > 0;
    int64_t tokens = s.batch_given ? o.total_batch_size
                     : s.B > 0     ? step_tokens(s.B, s.T, s.gpus)
                                   : std::max<int64_t>(s.cpu ? 4096 : 524288, step_tokens(1, s.T, s.gpus)) / s.T * s.T;
    s.sequences = tokens / s.T;
    check_batch(s.model, tokens);
    if (tokens % s.T != 0 || s.sequences < s.gpus || s.B > s.sequences)
        throw UsageError(
            strf("--total-batch-size (-d) %s: must be a multiple of T = %d, with a sequence for each of %d GPUs and "
                 "--micro-batch-size",
                 human_count(tokens).c_str(), s.T, s.gpus));
    check_fuse_update(o, s.own_sequences());

    const bool cudnn =
        s.bf16 && o.device.attention != "own" && (wants_cudnn(gpu->capability) || o.device.attention == "cudnn");
    s.rates_from =
        s.cpu ? "given"
              : strf("data sheet of %s; of it reached: products %.2f, attention%s %.2f, memory %.2f, transfers %.2f",
                     gpu->product, product_share(*gpu, s.model.C), cudnn ? " by cuDNN" : "",
                     attention_share(*gpu, s.model.HS(), cudnn), gpu->memory, kBusShare);
    s.multiprocessors = gpu->multiprocessors, s.capability = gpu->capability;
    if (!o.rates_file.empty()) read_rates(o, &s, &gpu);
    // what the command line says, else what was measured, else a share of the data sheet
    auto choose = [](double* rate, double given, double sheet) {
        *rate = given > 0 ? given : *rate > 0 ? *rate : sheet;
    };
    s.peak = 1e12 * (s.bf16 ? gpu->bf16_tflops : o.device.tf32 ? gpu->bf16_tflops / 2 : gpu->fp32_tflops);
    choose(&s.rates.product, 1e12 * o.matmul_tflops, product_share(*gpu, s.model.C) * s.peak);
    double attention = 1e12 * (s.bf16 ? gpu->bf16_tflops : gpu->fp32_tflops);  // in fp32 without TF32
    choose(&s.rates.attention, 1e12 * o.attention_tflops,
           s.cpu ? s.rates.product : attention_share(*gpu, s.model.HS(), cudnn) * attention);
    choose(&s.rates.copy, 1e12 * o.memory_tbs, 1e12 * gpu->memory * gpu->memory_tbs);
    choose(&s.bus, 1e9 * o.bus_gbs, 1e9 * kBusShare * gpu->bus_gbs);
    choose(&s.network, 1e9 * o.network_gbs, 1e9 * kBusShare * gpu->network_gbs);
    choose(&s.rates.host, 1e9 * o.host_gbs, 1e9 * kBusShare * gpu->host_gbs);
    double memory = s.cpu ? available_host_memory() / std::min(s.gpus, s.gpus_per_node) : 1e9 * gpu->memory_gb;
    choose(&s.memory_bytes, 1e9 * o.memory_gb, memory);
    if (s.cpu) s.program_bytes = resident_memory();
    if (!o.memory_limit.empty()) {
        const double limit = parse_memory_limit(o.memory_limit);
        if (limit > s.memory_bytes)
            throw UsageError(strf("--memory-limit %s is more than there is: %s; give at most that",
                                  o.memory_limit.c_str(), human_bytes(s.memory_bytes).c_str()));
        s.memory_bytes = limit;
    }
    if (s.rates.copy == 0 || (s.gpus > 1 && s.bus == 0) || (s.gpus > s.gpus_per_node && s.network == 0)) s.rates = {};
    return s;
}

// ---- output --------------------------------------------------------------------------------------------------------

static OrderedJson describe(const PlanSetup& s) {
    MemoryPlan m = plan_memory(s);
    PlanStep t = predict_step(s);
    OrderedJson j, memory, step;
    j["gpus"] = s.gpus, j["zero_stage"] = s.zero_stage, j["recompute"] = s.recompute, j["micro_batch_size"] = s.B;
    if (!s.adapters.empty())
        j["lora_rank"] = s.adapters[0].lora.rank, j["prompt_tokens"] = s.adapters[0].prompts.tokens;
    memory["parameters"] = m.parameters, memory["gradients"] = m.gradients, memory["optimizer"] = m.optimizer;
    memory["activations"] = m.activations, memory["buffers"] = m.buffers, memory["total"] = m.total();
    if (s.cpu) {
        const HostMemory h = plan_host_memory(s);
        memory["peak"] = h.peak(), memory["parts"] = h.text();
    }
    if (s.offload.any()) memory["host"] = m.host, j["copied_bytes"] = t.copied;
    j["fits"] = fits(s), j["memory"] = memory, j["sent_bytes"] = t.sent;
    if (!s.timed()) return j;
    double tokens_per_second = static_cast<double>(s.sequences) * s.T / t.total;
    step["seconds"] = t.total, step["compute"] = t.compute, step["update"] = t.update;
    step["communication"] = t.communication, step["not_hidden"] = t.not_hidden;
    if (s.offload.any()) step["copying"] = t.copying;
    step["tokens_per_second"] = tokens_per_second;
    if (s.peak > 0)
        step["mfu"] = flops_per_token(s.model, s.T, !s.adapters.empty()) * tokens_per_second / s.peak / s.gpus;
    j["predicted_step"] = step;
    return j;
}

static OrderedJson plan_json(const Options& o, const PlanSetup& asked) {
    PlanSetup s = asked;
    std::string chosen;
    if (!o.memory_limit.empty()) {
        if (const auto found = cheapest_fit(asked, named_measures(o), s.memory_bytes, memory_needed))
            s = *found, chosen = chosen_text(s, asked, memory_needed);
    }
    if (s.B == 0) s.B = largest_micro_batch(s, 0.8);
    bool none = s.B == 0;
    s.B = std::max(s.B, 1);
    constexpr int64_t kMostMicroSteps = 1 << 16;  // each of which is walked
    if (s.micro_steps() > kMostMicroSteps)
        throw UsageError(
            strf("a GPU's %s sequences a step in micro-batches of %d are %s of them, and %s at most are planned; make "
                 "--total-batch-size (-d) smaller, or --micro-batch-size (-b) or --gpus larger",
                 human_count(s.own_sequences()).c_str(), s.B, human_count(s.micro_steps()).c_str(),
                 human_count(kMostMicroSteps).c_str()));
    OrderedJson j = describe(s), model, batch, training, rates;
    if (none) j["fits"] = false;
    if (!chosen.empty()) j["chosen"] = chosen;
    model["name"] = o.model, model["size"] = model_size_text(s.model);
    for (const ConfigField& f : kConfigFields) {
        if (f.goes_without_saying(s.model)) continue;
        const bool whole = !f.has_names() && !f.real;
        model[std::string(1, f.letter)] = whole ? OrderedJson(f.get(s.model)) : OrderedJson(f.value_text(s.model));
    }
    model["parameters"] = parameter_count(s.model);
    double step_tokens = static_cast<double>(s.sequences) * s.T,
           flops = flops_per_token(s.model, s.T, !s.adapters.empty());
    batch["tokens"] = s.sequences * s.T, batch["sequences"] = s.sequences, batch["seq_len"] = s.T;
    batch["of_a_gpu"] = s.own_sequences(), batch["micro_steps"] = s.micro_steps();
    j["model"] = model, j["batch"] = batch, j["precision"] = s.bf16 ? "bf16" : "fp32", j["gpu"] = o.gpu;
    j["gpus_per_node"] = s.gpus_per_node, j["memory_available"] = s.memory_bytes, j["flops_per_token"] = flops;
    if (s.offload.any()) j["offload"] = offload_text(s.offload), j["host_memory_available"] = s.host_bytes;
    if (s.fuse_update != FuseUpdate::off) j["fuse_update"] = kFuseUpdates[static_cast<size_t>(s.fuse_update)];
    for (int i = 0; i < 4; i++) {
        PlanSetup level = s, stage = s;
        level.recompute = stage.zero_stage = i;
        level.offload.activations = s.offload.activations && i == 3;
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
    if (s.offload.any()) rates["host_gbs"] = 1e-9 * s.rates.host;
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
static std::string fill(const std::string& text, const OrderedJson& j) {
    std::string out;
    for (size_t at = 0, open; (open = text.find('{', at)) != std::string::npos;) {
        char pointer[64] = "", kind = 0;
        int width = 0;
        sscanf(text.c_str() + open, "{%63s %c%d", pointer, &kind, &width);
        out += text.substr(at, open - at), at = text.find('}', open) + 1;
        if (!j.contains(OrderedJson::json_pointer(pointer))) continue;
        const OrderedJson& value = j[OrderedJson::json_pointer(pointer)];
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

static std::string plan_text(const OrderedJson& j) {
    const bool timed = j.contains("predicted_step");
    const char* step =
        timed ? "{/predicted_step/seconds g 10} s {/predicted_step/tokens_per_second n 12} {/predicted_step/mfu p 6}\n"
              : "\n";
    std::string text = fill(
        "model: {/model/name t} ({/model/size t}), "
        "{/model/parameters n} parameters, {/precision t}, {/flops_per_token g} FLOPs a token\non {/gpus n} x {/gpu "
        "t}, {/gpus_per_node t} a machine; ZeRO stage {/zero_stage t}, recompute {/recompute t}" +
            std::string(j.contains("lora_rank") ? ", LoRA of rank {/lora_rank t}" : "") +
            "\nbatch: {/batch/tokens "
            "n} tokens a step = {/batch/sequences n} sequences of {/batch/seq_len t}; a GPU has {/batch/of_a_gpu n}, "
            "in "
            "micro-batches of {/micro_batch_size t}\nmemory of a GPU: parameters {/memory/parameters b}, gradients "
            "{/memory/gradients b}, optimizer {/memory/optimizer b}, activations {/memory/activations b}, buffers "
            "{/memory/buffers b}, together {/memory/total b} of {/memory_available b}",
        j);
    if (j.contains("offload"))
        text += fill("; offloaded: {/offload t}, for each GPU {/memory/host b} of the host's memory", j);
    if (j.contains("fuse_update")) text += fill("; gradients of one block at a time ({/fuse_update t})", j);
    text += ": ";
    const std::string process =
                          j["memory"].contains("parts") ? fill("memory of the process: {/memory/parts t}\n", j) : "",
                      chosen = j.contains("chosen") ? fill("to fit: {/chosen t}\n", j) : "";
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
    text += process + chosen + "\nrecompute    activations       together         step     tokens/s    MFU\n";
    for (const OrderedJson& r : j["by_recompute"])
        text += fill(std::string("{/recompute t 9} {/memory/activations b 14} {/memory/total b 14}") + step, r);
    text += "\nZeRO stage   sent a step       together         step     tokens/s    MFU\n";
    for (const OrderedJson& r : j["by_zero_stage"])
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
    if (j.contains("offload"))
        text += fill(
            "offloaded: {/copied_bytes b} a step come and go between the host and a GPU, each way at {/rates/host_gbs "
            "g} "
            "GB/s, {/predicted_step/copying g} s; what is not hidden includes them\n",
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
    OrderedJson j = plan_json(o, plan_setup(o));
    printf("%s", o.json ? (j.dump(2) + "\n").c_str() : plan_text(j).c_str());
    return 0;
}
