#include "llmc/run/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include "llmc/base/error.h"
#include "llmc/run/option_table.h"
#include "llmc/run/plot.h"

// ---- llm.c's spelling ----------------------------------------------------------------------------------------------

static bool looks_like_option(const std::string& s) {
    return s.size() > 1 && s[0] == '-' && !isdigit(s[1]) && s[1] != '.';
}

std::vector<std::string> translate_llmc_arguments(const std::vector<std::string>& arguments) {
    Options defaults;
    const std::vector<OptionRow> table = option_table(defaults, ProgramInfo{});
    std::vector<std::string> out;
    for (size_t i = 0; i < arguments.size(); i++) {
        std::string argument = arguments[i];
        if (argument == "-pi") argument = "-pm";  // what llm.c's multi-node scripts call it
        const OptionRow* row = nullptr;
        std::string attached;  // the 1 of -y1
        for (const OptionRow& r : table) {
            const std::string flag = std::string("-") + r.flag;
            if (!row && (argument == std::string("--") + r.name || (*r.flag && argument == flag))) row = &r;
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
            const bool free_text = is_free_text(*row);  // may begin with a dash
            if (i + 1 == arguments.size() || (looks_like_option(arguments[i + 1]) && !free_text))
                throw UsageError(strf("%s needs a value (%s); see --help", arguments[i].c_str(), row->value));
            out.push_back(arguments[++i]);
        }
    }
    return out;
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

static std::vector<std::string> command_names() {
    std::vector<std::string> names;
    for (const CommandInfo& c : kCommands) names.push_back(c.name);
    return names;
}

// Number of the command that `word` names; UsageError if there is none of that name.
static int find_command(const std::string& word) {
    const std::vector<std::string> names = command_names();
    const auto found = std::find(names.begin(), names.end(), word);
    if (found != names.end()) return static_cast<int>(found - names.begin());
    const std::string best = closest(word, names);
    std::string all;
    for (size_t i = 0; i < names.size(); i++) all += (i == 0 ? "" : i + 1 < names.size() ? ", " : " or ") + names[i];
    throw UsageError(strf("unknown command '%s'; %s", word.c_str(),
                          (best.empty() ? "it must be " + all : "did you mean " + best + "?").c_str()));
}

[[noreturn]] static void unknown_argument(const std::string& argument, const std::vector<OptionRow>& table, int command,
                                          const ProgramInfo& program) {
    const char* own = kCommands[command].name;
    const std::string help = strf("./%s %s --help lists all", program.name.c_str(), own);
    if (!looks_like_option(argument)) {
        const std::vector<std::string> commands = command_names();
        const bool is_command = std::find(commands.begin(), commands.end(), argument) != commands.end();
        throw UsageError(strf("unexpected argument '%s'; %s", argument.c_str(),
                              is_command ? "the command stands before the options" : help.c_str()));
    }
    const std::string name = argument.substr(0, argument.find('='));
    std::vector<std::string> names;
    for (const OptionRow& row : table) {
        const std::string long_name = std::string("--") + row.name;
        if (row.belongs_to(command)) names.push_back(long_name);
        else if (name == long_name || name == std::string("-") + row.flag)
            throw UsageError(strf("%s takes no %s (an option of: %s); %s", own, name.c_str(),
                                  row.command_names().c_str(), help.c_str()));
    }
    const std::string best = closest(name, names);
    throw UsageError(strf("unknown option %s; %s%s%s", name.c_str(), best.empty() ? "" : "did you mean ", best.c_str(),
                          best.empty() ? help.c_str() : strf("? %s", help.c_str()).c_str()));
}

const char* command_name(Command command) { return kCommands[static_cast<int>(command)].name; }

Optimizer optimizer_of(const Options& o) {
    return static_cast<Optimizer>(std::find(kOptimizers.begin(), kOptimizers.end(), o.optimizer) - kOptimizers.begin());
}
StateType state_type_of(const Options& o) {
    return static_cast<StateType>(std::find(kStateTypes.begin(), kStateTypes.end(), o.state_type) -
                                  kStateTypes.begin());
}
FuseUpdate fuse_update_of(const Options& o) {
    return static_cast<FuseUpdate>(std::find(kFuseUpdates.begin(), kFuseUpdates.end(), o.fuse_update) -
                                   kFuseUpdates.begin());
}
// What is left to the optimizer: its paper's, and for SGD what small GPTs bear.
static void fill_in_optimizer(Options* o) {
    const Optimizer kind = optimizer_of(*o);
    const bool sgd = kind == Optimizer::sgd, adagrad = kind == Optimizer::adagrad,
               adadelta = kind == Optimizer::adadelta;
    if (!o->was_given("learning-rate")) o->learning_rate = sgd ? 0.1 : adagrad ? 0.01 : adadelta ? 1 : 3e-4;
    if (!o->was_given("epsilon")) o->epsilon = adagrad ? 1e-10 : adadelta ? 1e-6 : 1e-8;
    if (!o->was_given("momentum")) o->momentum = kind == Optimizer::muon ? 0.95 : 0.9;
}

void check_combinations(const Options& o) {
    const char* command = command_name(o.command);
    if (o.command == Command::plot) {
        if (o.runs.empty() || o.runs.size() > kMostPlottedRuns)
            throw UsageError(strf("plot takes 1 to %zu runs, not %zu: ./train_gpt2 plot runs/a runs/b -o compare.svg",
                                  kMostPlottedRuns, o.runs.size()));
        if (!o.output.ends_with(".svg")) throw UsageError("plot needs --output (-o): a file that ends in .svg");
        return;
    }
    if (o.command != Command::train && o.model.empty())
        throw UsageError(
            strf("%s needs --model: %sa run's directory, a Hugging Face model directory or an llm.c .bin file", command,
                 o.command == Command::plan ? "a size such as d12 or gpt3:175b, " : ""));
    if (o.command == Command::export_model) {
        if (o.output.empty()) throw UsageError("export needs --output (-o): the directory or the file to write");
        const bool quantised = o.type.starts_with("q");
        if (o.format != "gguf" && (quantised || (o.format == "vectors" && o.type == "bf16")))
            throw UsageError(strf("--format %s has no --type %s; choose %s", o.format.c_str(), o.type.c_str(),
                                  o.format == "hf" ? "f32, f16 or bf16, or --format gguf" : "f32 or f16"));
    }
    if (!o.memory_limit.empty()) parse_memory_limit(o.memory_limit);
    if (o.max_steps == 0) throw UsageError("--max-steps 0 would train nothing; give 1 or more, or -1 for whole epochs");
    if (o.seq_len > 0 && o.total_batch_size > 0 && o.total_batch_size % o.seq_len != 0) {
        const int64_t below = o.total_batch_size / o.seq_len * o.seq_len, above = below + o.seq_len;
        throw UsageError(strf("--total-batch-size %lld is no multiple of --seq-len %d; the nearest: %s%lld",
                              static_cast<long long>(o.total_batch_size), o.seq_len,
                              below > 0 ? strf("%lld and ", static_cast<long long>(below)).c_str() : "",
                              static_cast<long long>(above)));
    }
    if (o.was_given("max-steps") && o.max_steps > 0 && o.was_given("epochs"))
        throw UsageError("--max-steps (-x) and --epochs exclude each other; give one of them");
    if (o.patience > 0 && o.val_every == 0)
        throw UsageError(
            "--patience counts validations, and --val-every (-v) 0 makes none; give one of them another value");
    if (o.command == Command::eval && o.task.empty())
        for (const char* option : {"shots", "shots-data", "labels", "prompt", "prompts", "answer-tokens"})
            if (o.was_given(option)) throw UsageError(strf("--%s goes with --task; name one", option));
    for (const char* option : {"labels", "both-orders", "lm-weight"})
        if (o.command == Command::finetune && o.head == "none" && !o.resume && o.was_given(option))
            throw UsageError(strf("--%s goes with --head; say whether it is to classify or to regress", option));
    if (o.head == "regress" && o.was_given("labels")) throw UsageError("--labels are classes; --head regress has none");
    if (o.was_given("prompt") && o.was_given("prompts"))
        throw UsageError("--prompt and --prompts exclude each other; give one of them");
    if (o.was_given("prompt") && o.command == Command::eval && o.prompt.find("{text}") == std::string::npos)
        throw UsageError("--prompt has no {text} where a question's text goes");
    if (o.was_given("shots-data") && o.shots == 0) throw UsageError("--shots-data goes with --shots; say how many");
    if (o.adapters.size() > 1 && !o.answers.empty())
        throw UsageError("--answers is a file for one of --adapter; give one of them at a time");
    if (o.was_given("prompt") && o.was_given("prompt-file"))
        throw UsageError("--prompt and --prompt-file exclude each other; give one of them");
    if (o.best_of > 1 && o.temperature == 0)
        throw UsageError("--best-of draws several texts, which --temperature 0 makes alike; leave one of them out");
    if (const int n = std::max(1, o.ranks.num_processes); o.ranks.process_rank >= n)
        throw UsageError(strf("--process-rank %d must be below --num-processes %d", o.ranks.process_rank, n));
}

bool parse_options(int argc, const char* const* argv, const ProgramInfo& program, Options* options) {
    const Options defaults;
    *options = defaults;
    const std::vector<OptionRow> table = option_table(*options, program);
    std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);

    const bool named = !arguments.empty() && !looks_like_option(arguments[0]);
    const int command = named ? find_command(arguments[0]) : 0;
    if (named) arguments.erase(arguments.begin());
    options->command = static_cast<Command>(command);
    arguments = translate_llmc_arguments(arguments);

    CLI::App app;
    app.set_help_flag();
    app.allow_extras();
    const CLI::Option* help = app.add_flag("--help");
    const CLI::Option* markdown = app.add_flag("--help-markdown");
    std::vector<std::pair<const OptionRow*, CLI::Option*>> added;
    std::vector<std::string> files;  // tells CLI11 that an option takes a list; assign_option() fills the real one
    for (const OptionRow& row : table) {
        if (!row.belongs_to(command)) continue;
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
    if (help->count() > 0) return print_help(table, program, command, !named), false;
    if (markdown->count() > 0) return print_markdown(table, program), false;
    for (auto [row, option] : added) {
        if (option->count() == 0) continue;
        options->given.insert(row->name);
        if (row->takes_list())
            for (const std::string& text : option->results()) assign_option(*row, text);
        else assign_option(*row, option->results().back());
    }
    for (const std::string& word : app.remaining())
        if (options->command == Command::plot && !looks_like_option(word)) options->runs.push_back(word);
        else unknown_argument(word, table, command, program);
    if (options->total_batch_size < 0) options->total_batch_size = 0;  // llm.c's -d -1
    if (options->precision.empty()) options->precision = program.default_precision;
    fill_in_optimizer(options);
    check_combinations(*options);
    return true;
}
