#include "llmc/run/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <variant>
#include "llmc/base/error.h"
#include "llmc/run/gpus.h"

// One table of rows describes every option once. The parser, llm.c's spellings, --help, the README's table and the
// record of a run's arithmetic are all read off it.

static const char* command_names[] = {"train", "finetune", "sample", "eval", "plan"};
static constexpr int kCommands = 5;
static const char* command_help[] = {
    "train a model, or continue with --resume (the default command)",
    "start from the weights of --model, with a new optimizer and schedule",
    "write text: from --prompt, --prompt-file, a pipe, or interactively",
    "loss and perplexity on --val-data, or the accuracy of --task",
    "memory, bytes on the wire and predicted step time of a training run on given GPUs; needs none of them",
};
enum : unsigned { TRAIN = 1, FINETUNE = 2, SAMPLE = 4, EVAL = 8, PLAN = 16, TRAINING = TRAIN | FINETUNE };

struct Limits {
    double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
    const char* text = "";
};
static constexpr Limits any{}, one_up{1, HUGE_VAL, "at least 1"},
    batch_tokens{-1, 2147483647, "-1 or more, below 2^31"}, zero_up{0, HUGE_VAL, "0 or more"},
    minus_one_up{-1, HUGE_VAL, "-1 or more"}, positive{5e-324, HUGE_VAL, "above 0"}, zero_to_one{0, 1, "0 to 1"},
    below_one{0, 1 - 0x1p-53, "at least 0 and below 1"}, above_zero_to_one{5e-324, 1, "above 0, at most 1"},
    zero_to_three{0, 3, "0, 1, 2 or 3"}, fusion{-1, 2, "-1, 0, 1 or 2"};

using Field = std::variant<bool*, int*, int64_t*, uint64_t*, double*, std::string*, std::vector<std::string>*>;

struct Row {
    const char* group;
    unsigned commands;  // which commands take it
    bool arithmetic;    // recorded in trainer_state.json, obeyed by --resume
    const char* flag;   // llm.c's spelling without its dash: "b", "nk"; "" = none
    const char* name;   // ours, without dashes
    const char* value;  // what stands for its value in the help; "" for a switch
    Field field;
    Limits limits;
    std::string default_text;  // "" = the field's own value
    std::string help;
    std::vector<std::string> choices = {};

    bool is_switch() const { return std::holds_alternative<bool*>(field); }
    bool takes_list() const { return std::holds_alternative<std::vector<std::string>*>(field); }
};

static std::vector<Row> option_table(Options& o, const ProgramInfo& program) {
    const char *data = "Data and model", *batch = "Batch and length", *optimizer = "Optimizer",
               *numbers = "Numbers and memory", *loop = "Loop",
               *gpu = "GPU (train_gpt2cu; read and ignored by the CPU program)", *ranks = "Ranks",
               *sampling = "Sampling", *evaluation = "Evaluation", *plan = "Plan";
    const std::string model_help =
        "what to start from: a size (d12, d24, d36, d48, gpt3:125m ... gpt3:175b, gpt3:c768, L6:H6:C384:T256), a "
        "Hugging Face "
        "model directory, a run's directory (its newest checkpoint), or an llm.c .bin file";
    // clang-format off
    return {
        // group, commands, recorded, flag, name, value, field, limits, default, help, choices
        {data, TRAINING, false, "i", "train-data", "FILES", &o.train_data, any, "the default data set (make data)", "token shards to train on: files, directories or globs"},
        {data, TRAINING | EVAL, false, "j", "val-data", "FILES", &o.val_data, any, "the default data set (make data)", "token shards to validate on"},
        {data, TRAIN, false, "e", "model", "MODEL", &o.model, any, program.default_model, model_help},
        {data, FINETUNE | SAMPLE | EVAL | PLAN, false, "e", "model", "MODEL", &o.model, any, "none, must be given", model_help},
        {data, TRAINING, false, "o", "output", "DIR", &o.output, any, "runs/<data>-<model>", "where checkpoints, log and plot go"},

        {batch, TRAINING | EVAL | PLAN, true, "b", "micro-batch-size", "B", &o.micro_batch_size, one_up, "the largest that fits", "sequences per rank and forward pass"},
        {batch, TRAINING | EVAL | PLAN, true, "t", "seq-len", "T", &o.seq_len, one_up, "the model's T", "tokens per sequence"},
        {batch, TRAINING, true, "d", "total-batch-size", "TOKENS", &o.total_batch_size, batch_tokens, strf("B * T if -b is given, else %lld", static_cast<long long>(program.default_total_batch)), "tokens per step, all ranks and micro-steps together; a multiple of T"},
        {batch, PLAN, false, "d", "total-batch-size", "TOKENS", &o.total_batch_size, batch_tokens, "B * T * GPUs if -b is given, else that of train, at least a sequence a GPU", "tokens per step, all GPUs and micro-steps together; a multiple of T"},
        {batch, TRAINING, true, "x", "max-steps", "N", &o.max_steps, minus_one_up, "-1: one epoch", "steps to train"},
        {batch, TRAINING, false, "", "time-limit", "SECONDS", &o.time_limit, zero_up, "0: none", "fix the number of steps, after timing a few, so that training takes about this long"},

        {optimizer, TRAINING, true, "l", "learning-rate", "LR", &o.learning_rate, positive, "", "the highest learning rate of the schedule"},
        {optimizer, TRAINING, true, "k", "lr-schedule", "KIND", &o.lr_schedule, any, "", "cosine, linear, constant or wsd (warm-up, stable, decay)", {"cosine", "linear", "constant", "wsd"}},
        {optimizer, TRAINING, true, "u", "warmup-steps", "N", &o.warmup_steps, zero_up, "", "steps of linear warm-up"},
        {optimizer, TRAINING, true, "q", "final-lr-fraction", "X", &o.final_lr_fraction, zero_to_one, "", "the last learning rate, as a fraction of the highest"},
        {optimizer, TRAINING, true, "c", "weight-decay", "X", &o.weight_decay, zero_up, "", "of matrices only"},
        {optimizer, TRAINING, true, "", "beta1", "X", &o.beta1, below_one, "", "AdamW: decay of the mean gradient"},
        {optimizer, TRAINING, true, "", "beta2", "X", &o.beta2, below_one, "", "AdamW: decay of the mean squared gradient"},
        {optimizer, TRAINING, true, "", "epsilon", "X", &o.epsilon, positive, "", "AdamW: added to the root of the second moment"},
        {optimizer, TRAINING, true, "", "grad-clip", "NORM", &o.grad_clip, zero_up, "", "largest norm of the gradient; 0: no clipping"},
        {optimizer, TRAINING, true, "sl", "skip-loss-z", "Z", &o.skip_loss_z, zero_up, "0: off", "skip the update when the loss is Z standard deviations above its recent mean"},
        {optimizer, TRAINING, true, "sg", "skip-grad-z", "Z", &o.skip_grad_z, zero_up, "0: off", "the same for the gradient's norm"},
        {optimizer, TRAINING, true, "", "dropout", "P", &o.dropout, below_one, "", "probability that an activation is dropped"},

        {numbers, TRAINING | SAMPLE | EVAL, true, "", "precision", "TYPE", &o.precision, any, program.default_precision, "fp32 or bf16: storage of weights and activations", {"fp32", "bf16"}},
        {numbers, PLAN, false, "", "precision", "TYPE", &o.precision, any, "bf16; with --gpu cpu fp32", "fp32 or bf16: storage of weights and activations", {"fp32", "bf16"}},
        {numbers, TRAINING | PLAN, true, "w", "master-weights", "", &o.master_weights, any, "", "fp32 copies of bf16 weights in the optimizer"},
        {numbers, TRAINING, true, "", "stochastic-rounding", "", &o.stochastic_rounding, any, "", "round bf16 weights at random when they are updated"},
        {numbers, TRAINING | PLAN, true, "r", "recompute", "LEVEL", &o.recompute, zero_to_three, "", "recompute in the backward pass: 0 nothing, 1 GELU, 2 and layernorm, 3 the whole block"},
        {numbers, TRAINING | PLAN, true, "z", "zero-stage", "STAGE", &o.zero_stage, zero_to_three, "", "ZeRO: 0 nothing is split over ranks, 1 optimizer state, 2 and gradients, 3 and weights"},
        {numbers, TRAINING | SAMPLE, true, "", "seed", "N", &o.seed, any, "", "seed of every random number"},
        {numbers, TRAINING, true, "a", "overfit-one-batch", "", &o.overfit_one_batch, any, "", "train on the first batch again and again: a check that the loss goes to 0"},

        {loop, TRAINING, false, "v", "val-every", "N", &o.val_every, zero_up, "", "steps between validations; 0: never"},
        {loop, TRAINING, false, "m", "val-batches", "N", &o.val_batches, one_up, "", "micro-batches of a validation"},
        {loop, TRAINING, false, "h", "hellaswag", "", &o.hellaswag, any, "", "measure the accuracy on HellaSwag at each validation (-h 1)"},
        {loop, TRAINING | EVAL, false, "", "hellaswag-data", "FILE", &o.hellaswag_data, any, "", "HellaSwag's questions"},
        {loop, TRAINING, false, "s", "sample-every", "N", &o.sample_every, zero_up, "", "steps between samples of text; 0: never"},
        {loop, TRAINING, false, "g", "sample-tokens", "N", &o.sample_tokens, one_up, "", "tokens of such a sample"},
        {loop, TRAINING, false, "n", "checkpoint-every", "N", &o.checkpoint_every, zero_up, "0: at the end only", "steps between checkpoints"},
        {loop, TRAINING, false, "nk", "keep-checkpoints", "N", &o.keep_checkpoints, zero_up, "", "how many of the newest to keep; 0: all"},
        {loop, TRAINING, false, "nm", "major-checkpoint-every", "N", &o.major_checkpoint_every, zero_up, "0: none", "checkpoints at multiples of N steps are never deleted"},
        {loop, TRAINING, false, "y", "resume", "", &o.resume, any, "", "continue the run in --output; start it if there is none"},

        {sampling, SAMPLE, false, "", "prompt", "TEXT", &o.prompt, any, "standard input", "text to continue"},
        {sampling, SAMPLE, false, "", "prompt-file", "FILE", &o.prompt_file, any, "none", "file whose text to continue"},
        {sampling, SAMPLE, false, "", "max-tokens", "N", &o.max_tokens, one_up, "", "tokens to write at most"},
        {sampling, SAMPLE, false, "", "num-samples", "N", &o.num_samples, one_up, "", "how many texts to write"},
        {sampling, SAMPLE, false, "", "temperature", "X", &o.temperature, zero_up, "", "below 1: likelier words, above 1: wilder ones; 0: always the likeliest"},
        {sampling, SAMPLE, false, "", "top-k", "K", &o.top_k, zero_up, "0: all", "draw from the K likeliest tokens only"},
        {sampling, SAMPLE, false, "", "top-p", "P", &o.top_p, above_zero_to_one, "", "draw from the likeliest tokens that together have probability P"},

        {evaluation, EVAL, false, "", "task", "NAME", &o.task, any, "loss on --val-data", "hellaswag: accuracy on --hellaswag-data", {"hellaswag"}},
        {evaluation, EVAL, false, "", "limit", "N", &o.eval_limit, zero_up, "0: all", "batches or questions to evaluate at most"},

        {plan, PLAN, false, "", "gpu", "NAME", &o.gpu, any, "", "what to train on, by the figures of its data sheet; cpu: this machine, by the CPU program", gpu_names()},
        {plan, PLAN, false, "", "gpus", "N", &o.gpus, one_up, "", "how many of them"},
        {plan, PLAN, false, "", "rates", "FILE", &o.rates_file, any, "none", "rates measured on such a GPU: bench_cuda's JSON, or report.json of dev/gpu_check.sh"},
        {plan, PLAN, false, "", "matmul-tflops", "X", &o.matmul_tflops, positive, "the GPU's", "what matrix products reach, in this precision"},
        {plan, PLAN, false, "", "attention-tflops", "X", &o.attention_tflops, positive, "the GPU's", "what attention reaches"},
        {plan, PLAN, false, "", "memory-tbs", "X", &o.memory_tbs, positive, "the GPU's", "TB/s of its memory, read plus written"},
        {plan, PLAN, false, "", "memory-gb", "X", &o.memory_gb, positive, "the GPU's", "GB of its memory"},
        {plan, PLAN, false, "", "bus-gbs", "X", &o.bus_gbs, positive, "the GPU's", "GB/s out of a GPU, and as much in, to others of its machine"},
        {plan, PLAN, false, "", "network-gbs", "X", &o.network_gbs, positive, "the GPU's", "GB/s out of a machine, and as much in, all of its network cards together"},
        {plan, PLAN, false, "", "tokens", "N", &o.plan_tokens, positive, "20 for each parameter", "tokens to train on (3e11 may be written)"},
        {plan, PLAN, false, "", "price", "DOLLARS", &o.price, positive, "none", "of a GPU for an hour"},
        {plan, PLAN, false, "", "json", "", &o.json, any, "", "print JSON"},

        {ranks, TRAINING | EVAL, false, "pn", "num-processes", "N", &o.ranks.num_processes, one_up, "1", "ranks of the run, where no launcher says so"},
        {ranks, TRAINING | EVAL, false, "pr", "process-rank", "N", &o.ranks.process_rank, zero_up, "", "number of this rank"},
        {ranks, TRAINING | EVAL | PLAN, false, "pg", "gpus-per-node", "N", &o.ranks.gpus_per_node, one_up, "", "GPUs of a machine"},
        {ranks, TRAINING | EVAL, false, "pm", "nccl-init-method", "HOW", &o.ranks.nccl_init_method, any, "", "how ranks find each other: mpi, tcp or fs", {"mpi", "tcp", "fs"}},
        {ranks, TRAINING | EVAL, false, "ps", "server-ip", "ADDRESS", &o.ranks.server_ip, any, "none", "tcp: address of rank 0"},
        {ranks, TRAINING | EVAL, false, "", "server-port", "PORT", &o.ranks.server_port, any, "", "tcp: port of rank 0"},
        {ranks, TRAINING | EVAL, false, "", "comm-timeout", "SECONDS", &o.comm_timeout, positive, "", "how long to wait for a rank that does not come, hangs or stalls; longer than writing a checkpoint takes"},
        {ranks, TRAINING | EVAL, false, "pf", "fs-path", "DIR", &o.ranks.fs_path, any, "", "fs: directory that all ranks see"},

        {gpu, TRAINING | SAMPLE | EVAL | PLAN, true, "f", "tf32", "", &o.device.tf32, any, "", "fp32 matrix products in TF32"},
        {gpu, TRAINING | SAMPLE | EVAL | PLAN, true, "", "matmul", "HOW", &o.device.matmul, any, "", "matrix products: NVIDIA's library cuBLASLt or the program's own kernels", {"cublaslt", "own"}},
        {gpu, TRAINING, true, "ge", "gelu-fusion", "LEVEL", &o.device.gelu_fusion, fusion, "-1: by the GPU", "fuse GELU into the matrix product: 0 no, 1 forward, 2 forward and backward"},
        {gpu, TRAINING, false, "lg", "gpu-log-every", "N", &o.gpu_log_every, minus_one_up, "-1: never", "steps between log lines on the GPU's clock, power and temperature"},
    };
    // clang-format on
}

static std::string number_text(double x) {
    char buffer[32];
    return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, x).ptr);
}

static std::string value_text(const Row& row) {
    if (auto p = std::get_if<bool*>(&row.field)) return **p ? "on" : "off";
    if (auto p = std::get_if<int*>(&row.field)) return std::to_string(**p);
    if (auto p = std::get_if<int64_t*>(&row.field)) return std::to_string(**p);
    if (auto p = std::get_if<uint64_t*>(&row.field)) return std::to_string(**p);
    if (auto p = std::get_if<double*>(&row.field)) return number_text(**p);
    if (auto p = std::get_if<std::string*>(&row.field)) return **p;
    return "";
}

static std::string default_text(const Row& row) {
    return row.default_text.empty() ? value_text(row) : row.default_text;
}

template <typename T>
static void assign_number(const Row& row, T* field, const std::string& text) {
    constexpr bool whole = std::is_integral_v<T>;
    T value{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc::result_out_of_range)
        throw UsageError(strf("--%s: %s is too large or too small", row.name, text.c_str()));
    bool number = error == std::errc() && end == text.data() + text.size() && !text.empty();
    if (!number || !std::isfinite(static_cast<double>(value)))
        throw UsageError(strf("--%s takes a %snumber%s%s, not '%s'", row.name, whole ? "whole " : "",
                              *row.limits.text ? ", " : "", row.limits.text, text.c_str()));
    if (static_cast<double>(value) < row.limits.low || static_cast<double>(value) > row.limits.high)
        throw UsageError(strf("--%s must be %s, not %s", row.name, row.limits.text, text.c_str()));
    *field = value;
}

static std::string list(const std::vector<std::string>& words) {
    std::string out;
    for (size_t i = 0; i < words.size(); i++) out += (i == 0 ? "" : i + 1 < words.size() ? ", " : " or ") + words[i];
    return out;
}

// Sets a field from text; UsageError if it is not a possible value.
static void assign(const Row& row, const std::string& text) {
    if (auto b = std::get_if<bool*>(&row.field)) {
        if (text != "true" && text != "false")
            throw UsageError(strf("--%s is a switch: write --%s or --no-%s", row.name, row.name, row.name));
        **b = text == "true";
    } else if (auto i = std::get_if<int*>(&row.field)) assign_number(row, *i, text);
    else if (auto l = std::get_if<int64_t*>(&row.field)) assign_number(row, *l, text);
    else if (auto u = std::get_if<uint64_t*>(&row.field)) assign_number(row, *u, text);
    else if (auto d = std::get_if<double*>(&row.field)) assign_number(row, *d, text);
    else {
        if (!row.choices.empty() && std::find(row.choices.begin(), row.choices.end(), text) == row.choices.end())
            throw UsageError(strf("--%s must be %s, not '%s'", row.name, list(row.choices).c_str(), text.c_str()));
        if (strcmp(row.name, "prompt") != 0 && (text.empty() || text[0] == '-'))
            throw UsageError(strf("--%s needs a value (%s), not '%s'", row.name, row.value, text.c_str()));
        if (auto s = std::get_if<std::string*>(&row.field)) **s = text;
        else std::get<std::vector<std::string>*>(row.field)->push_back(text);
    }
}

// ---- llm.c's spelling ----------------------------------------------------------------------------------------------

static bool looks_like_option(const std::string& s) {
    return s.size() > 1 && s[0] == '-' && !isdigit(s[1]) && s[1] != '.';
}

std::vector<std::string> translate_llmc_arguments(const std::vector<std::string>& arguments) {
    Options defaults;
    const std::vector<Row> table = option_table(defaults, ProgramInfo{});
    std::vector<std::string> out;
    for (size_t i = 0; i < arguments.size(); i++) {
        std::string argument = arguments[i];
        if (argument == "-pi") argument = "-pm";  // what llm.c's multi-node scripts call it
        const Row* row = nullptr;
        std::string attached;  // the 1 of -y1
        for (const Row& r : table) {
            const std::string flag = std::string("-") + r.flag;
            if (argument == std::string("--") + r.name || (*r.flag && argument == flag)) row = &r;
            else if (r.is_switch() && *r.flag && (argument == flag + "0" || argument == flag + "1")) {
                row = &r, attached = argument.substr(2);
                break;
            }
        }
        if (!row) {
            out.push_back(argument);
        } else if (row->is_switch()) {
            // -y 1 is --resume, -y 0 leaves it off; -w 0 is --no-master-weights, because that is on by default.
            const bool has_value = argument[1] != '-' && i + 1 < arguments.size() && !arguments[i + 1].empty() &&
                                   arguments[i + 1].find_first_not_of("0123456789") == std::string::npos;
            if (attached.empty() && !has_value) {
                out.push_back(argument == "-h" ? "--help" : std::string("--") + row->name);
                continue;
            }
            const std::string value = attached.empty() ? arguments[++i] : attached;
            if (value != "0" && value != "1")
                throw UsageError(strf("-%s (--%s) takes 0 or 1, not %s", row->flag, row->name, value.c_str()));
            if (value == "1") out.push_back(std::string("--") + row->name);
            else if (*std::get<bool*>(row->field)) out.push_back(std::string("--no-") + row->name);
        } else {
            out.push_back(std::string("--") + row->name);
            const bool free_text = strcmp(row->name, "prompt") == 0;  // may begin with a dash
            if (i + 1 == arguments.size() || (looks_like_option(arguments[i + 1]) && !free_text))
                throw UsageError(strf("%s needs a value (%s); see --help", arguments[i].c_str(), row->value));
            out.push_back(arguments[++i]);
        }
    }
    return out;
}

// ---- help ----------------------------------------------------------------------------------------------------------

static std::string option_names(const Row& row) {
    std::string out = *row.flag ? std::string("-") + row.flag + (strlen(row.flag) == 1 ? ",  " : ", ") : "     ";
    out += std::string("--") + (row.is_switch() && *std::get<bool*>(row.field) ? "[no-]" : "") + row.name;
    if (*row.value) out += std::string(" ") + row.value + (row.takes_list() ? "..." : "");
    return out;
}

static void print_wrapped(const std::string& left, const std::string& text) {
    const size_t column = 42, width = 112;
    std::string line = "  " + left;
    line += line.size() + 2 <= column ? std::string(column - line.size(), ' ') : "\n" + std::string(column, ' ');
    size_t used = column;
    for (size_t i = 0; i < text.size();) {
        size_t end = std::min(text.find(' ', i), text.size());
        if (used + (end - i) > width) line += "\n" + std::string(column, ' '), used = column;
        line += text.substr(i, end - i) + " ", used += end - i + 1, i = end + 1;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    printf("%s\n", line.c_str());
}

static void print_help(const std::vector<Row>& table, const ProgramInfo& program, Command command, bool with_commands) {
    const int c = static_cast<int>(command);
    if (with_commands) {
        printf("Usage: ./%s [COMMAND] [OPTIONS]\n\nCommands:\n", program.name.c_str());
        for (int i = 0; i < kCommands; i++) print_wrapped(command_names[i], command_help[i]);
        printf("\n./%s COMMAND --help gives the options of a command. Those of train:\n", program.name.c_str());
    } else {
        printf("Usage: ./%s %s [OPTIONS]\n\n%s\n", program.name.c_str(), command_names[c], command_help[c]);
    }
    std::string group;
    for (const Row& row : table) {
        if (!(row.commands >> c & 1)) continue;
        if (group != row.group) printf("\n%s:\n", (group = row.group).c_str());
        print_wrapped(option_names(row), row.help + " [" + default_text(row) + "]");
    }
    printf("\nOther:\n");
    print_wrapped("-h,  --help", "this text; the value in [] is the default");
}

// The README's table.
static void print_markdown(const std::vector<Row>& table) {
    std::string group;
    for (const Row& row : table) {
        if (group != row.group)
            printf("%s**%s**\n\n| option | | default | meaning | commands |\n|---|---|---|---|---|\n",
                   group.empty() ? "" : "\n", (group = row.group).c_str());
        std::string commands;
        for (int i = 0; i < kCommands; i++)
            if (row.commands >> i & 1) commands += std::string(commands.empty() ? "" : ", ") + command_names[i];
        printf("| `--%s%s%s` | %s | %s | %s | %s |\n", row.name, *row.value ? " " : "", row.value,
               *row.flag ? strf("`-%s`", row.flag).c_str() : "", default_text(row).c_str(), row.help.c_str(),
               commands.c_str());
    }
}

// ---- parser --------------------------------------------------------------------------------------------------------

static size_t edit_distance(const std::string& a, const std::string& b) {
    std::vector<size_t> previous(b.size() + 1), current(b.size() + 1);
    for (size_t j = 0; j <= b.size(); j++) previous[j] = j;
    for (size_t i = 1; i <= a.size(); i++, std::swap(previous, current)) {
        current[0] = i;
        for (size_t j = 1; j <= b.size(); j++)
            current[j] = std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a[i - 1] != b[j - 1])});
    }
    return previous[b.size()];
}

static std::string closest(const std::string& word, const std::vector<std::string>& candidates) {
    std::string best;
    size_t best_distance = word.size() / 3 + 2;  // further away is no typing error
    for (const std::string& candidate : candidates)
        if (size_t d = edit_distance(word, candidate); d < best_distance) best = candidate, best_distance = d;
    return best;
}

[[noreturn]] static void unknown_argument(const std::string& argument, const std::vector<Row>& table, int command,
                                          const ProgramInfo& program) {
    const std::string help = strf("./%s %s --help lists all", program.name.c_str(), command_names[command]);
    if (!looks_like_option(argument)) {
        const bool is_command =
            std::find(command_names, command_names + kCommands, argument) != command_names + kCommands;
        throw UsageError(strf("unexpected argument '%s'; %s", argument.c_str(),
                              is_command ? "the command stands before the options" : help.c_str()));
    }
    const std::string name = argument.substr(0, argument.find('='));
    std::vector<std::string> names;
    for (const Row& row : table) {
        const std::string long_name = std::string("--") + row.name;
        if (row.commands >> command & 1) names.push_back(long_name);
        else if (name == long_name || name == std::string("-") + row.flag) {
            std::string others;
            for (int i = 0; i < kCommands; i++)
                if (row.commands >> i & 1) others += std::string(others.empty() ? "" : ", ") + command_names[i];
            throw UsageError(strf("%s takes no %s (an option of: %s); %s", command_names[command], name.c_str(),
                                  others.c_str(), help.c_str()));
        }
    }
    const std::string best = closest(name, names);
    throw UsageError(strf("unknown option %s; %s%s%s", name.c_str(), best.empty() ? "" : "did you mean ", best.c_str(),
                          best.empty() ? help.c_str() : strf("? %s", help.c_str()).c_str()));
}

static void check_combinations(const Options& o) {
    const char* command = command_names[static_cast<int>(o.command)];
    if (o.command != Command::train && o.model.empty())
        throw UsageError(
            strf("%s needs --model: %sa run's directory, a Hugging Face model directory or an llm.c .bin file", command,
                 o.command == Command::plan ? "a size such as d12 or gpt3:175b, " : ""));
    if (o.max_steps == 0) throw UsageError("--max-steps 0 would train nothing; give 1 or more, or -1 for one epoch");
    if (o.seq_len > 0 && o.total_batch_size > 0 && o.total_batch_size % o.seq_len != 0) {
        const int64_t below = o.total_batch_size / o.seq_len * o.seq_len, above = below + o.seq_len;
        throw UsageError(strf("--total-batch-size %lld is no multiple of --seq-len %d; the nearest: %s%lld",
                              static_cast<long long>(o.total_batch_size), o.seq_len,
                              below > 0 ? strf("%lld and ", static_cast<long long>(below)).c_str() : "",
                              static_cast<long long>(above)));
    }
    if (o.was_given("prompt") && o.was_given("prompt-file"))
        throw UsageError("--prompt and --prompt-file exclude each other; give one of them");
    if (o.max_steps > 0 && o.was_given("max-steps") && o.time_limit > 0)
        throw UsageError("--max-steps and --time-limit exclude each other; give one of them");
    if (const int n = std::max(1, o.ranks.num_processes); o.ranks.process_rank >= n)
        throw UsageError(strf("--process-rank %d must be below --num-processes %d", o.ranks.process_rank, n));
}

bool parse_options(int argc, const char* const* argv, const ProgramInfo& program, Options* options) {
    const Options defaults;
    *options = defaults;
    const std::vector<Row> table = option_table(*options, program);
    std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);

    int command = 0;
    const bool named = !arguments.empty() && !looks_like_option(arguments[0]);
    if (named) {
        const std::vector<std::string> names(command_names, command_names + kCommands);
        command = static_cast<int>(std::find(names.begin(), names.end(), arguments[0]) - names.begin());
        if (command == kCommands) {
            const std::string best = closest(arguments[0], names);
            throw UsageError(strf("unknown command '%s'; %s", arguments[0].c_str(),
                                  best.empty() ? "it must be train, finetune, sample, eval or plan"
                                               : ("did you mean " + best + "?").c_str()));
        }
        arguments.erase(arguments.begin());
    }
    options->command = static_cast<Command>(command);
    arguments = translate_llmc_arguments(arguments);

    CLI::App app;
    app.set_help_flag();
    app.allow_extras();
    const CLI::Option* help = app.add_flag("--help");
    const CLI::Option* markdown = app.add_flag("--help-markdown");
    std::vector<std::pair<const Row*, CLI::Option*>> added;
    std::vector<std::string> files;  // tells CLI11 that an option takes a list; assign() fills the real one
    for (const Row& row : table) {
        if (!(row.commands >> command & 1)) continue;
        std::string names = std::string("--") + row.name +
                            (strlen(row.flag) == 1 && *row.flag != 'h' ? std::string(",-") + row.flag : "");
        CLI::Option* option = row.is_switch()    ? app.add_flag(names + ",!--no-" + row.name)
                              : row.takes_list() ? app.add_option(names, files)
                                                 : app.add_option(names);
        if (!row.takes_list()) option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
        added.emplace_back(&row, option);
    }
    std::reverse(arguments.begin(), arguments.end());  // the order in which CLI11 takes a vector
    try {
        app.parse(arguments);
    } catch (const CLI::ParseError& e) {
        std::string message = e.what();
        std::replace(message.begin(), message.end(), '\n', ' ');
        throw UsageError(message);
    }
    if (help->count() > 0) return print_help(table, program, options->command, !named), false;
    if (markdown->count() > 0) return print_markdown(table), false;
    for (auto [row, option] : added) {
        if (option->count() == 0) continue;
        options->given.insert(row->name);
        if (row->takes_list())
            for (const std::string& text : option->results()) assign(*row, text);
        else assign(*row, option->results().back());
    }
    if (!app.remaining().empty()) unknown_argument(app.remaining()[0], table, command, program);
    if (options->total_batch_size < 0) options->total_batch_size = 0;  // llm.c's -d -1
    if (options->precision.empty()) options->precision = program.default_precision;
    check_combinations(*options);
    return true;
}

// ---- what a resume obeys -------------------------------------------------------------------------------------------

std::string arithmetic_options_json(const Options& options) {
    Options copy = options;
    nlohmann::ordered_json json = nlohmann::ordered_json::object();
    for (const Row& row : option_table(copy, ProgramInfo{})) {
        if (!row.arithmetic) continue;
        std::visit(
            [&](auto* field) {
                // (json writes doubles with as many digits as bring the same bits back)
                if constexpr (!std::is_same_v<decltype(field), std::vector<std::string>*>) json[row.name] = *field;
            },
            row.field);
    }
    return json.dump();
}

void obey_recorded_options(const std::string& json, Options* options, std::vector<std::string>* notes) {
    nlohmann::json recorded = nlohmann::json::parse(json, nullptr, false);
    if (!recorded.is_object())
        throw Error("trainer_state.json: its options are no JSON object; resume from an older checkpoint");
    Options copy = *options;
    std::vector<Row> given_table = option_table(copy, ProgramInfo{}), table = option_table(*options, ProgramInfo{});
    for (size_t i = 0; i < table.size(); i++) {
        const Row& row = table[i];
        if (!row.arithmetic || !recorded.contains(row.name)) continue;
        const nlohmann::json& value = recorded[row.name];
        const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
        if (text.empty()) continue;  // never set, in the run that recorded it
        try {
            const bool integer_zero_means_default = text == "0" && row.limits.low == 1;  // not recorded either
            if (!integer_zero_means_default) assign(options->was_given(row.name) ? given_table[i] : row, text);
        } catch (const UsageError& e) {
            throw Error(strf("trainer_state.json: %s; resume from an older checkpoint", e.what()));
        }
        if (options->was_given(row.name) && value_text(given_table[i]) != value_text(row))
            notes->push_back(strf("--%s %s, as given, replaces %s, with which the run was started", row.name,
                                  value_text(row).c_str(), value_text(given_table[i]).c_str()));
    }
    check_combinations(*options);
}
