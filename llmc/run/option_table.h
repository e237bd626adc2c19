// What is known of an option: one row. The parser, llm.c's spellings, --help, OPTIONS.md and the record of a run's
// arithmetic are all read off the table of these rows; nothing about an option stands anywhere else.
#pragma once
#include <cstdint>
#include <iterator>
#include <limits>
#include <string>
#include <variant>
#include <vector>
#include "llmc/run/options.h"

struct CommandInfo {
    const char *name, *help;
};
inline constexpr CommandInfo kCommands[] = {
    // in the order of Command
    {"train", "train a model, or continue with --resume (the default command)"},
    {"finetune", "start from the weights of --model, with a new optimizer and schedule"},
    {"sample", "write text: from --prompt, --prompt-file, a pipe, or interactively"},
    {"chat", "talk with a model: at the terminal, or a line of standard input a message"},
    {"eval", "loss, perplexity and bits per byte on --val-data, or what --task measures"},
    {"export",
     "write a model for other programs: a Hugging Face directory, a GGUF file for llama.cpp, or word vectors"},
    {"plan", "memory, bytes on the wire and predicted step time of a training run on given GPUs; needs none of them"},
    {"plot", "a picture (SVG) of the logs of several runs: plot RUN... -o FILE.svg"},
};

struct Limits {
    double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
    const char* text = "";
};

using Field = std::variant<bool*, int*, int64_t*, uint64_t*, double*, std::string*, std::vector<std::string>*>;

struct OptionRow {
    const char* name = "";   // ours, without dashes
    const char* flag = "";   // llm.c's spelling without its dash: "b", "nk"; "" = none
    const char* value = "";  // what stands for its value in the help; "" for a switch
    Field field;
    Limits limits = {};
    std::vector<std::string> choices = {};  // of a text; none: any text
    unsigned commands = 0;                  // which take it: bit c is kCommands[c]
    bool recorded = false;                  // changes arithmetic: in trainer_state.json, obeyed by --resume
    std::string default_text = "";          // for the help; "" = the field's own value
    std::string help = "";
    const char* group = "";

    bool is_switch() const { return std::holds_alternative<bool*>(field); }
    bool takes_list() const { return std::holds_alternative<std::vector<std::string>*>(field); }
    bool belongs_to(int command) const { return commands >> command & 1; }
    std::string command_names() const {  // "train, finetune"
        std::string names;
        for (size_t c = 0; c < std::size(kCommands); c++)
            if (belongs_to(static_cast<int>(c))) names += std::string(names.empty() ? "" : ", ") + kCommands[c].name;
        return names;
    }
};

// Text that may be anything, a dash in front too.
inline bool is_free_text(const OptionRow& row) {
    return std::string(row.name) == "prompt" || std::string(row.name) == "system";
}

// The rows, whose fields point into `options`.
std::vector<OptionRow> option_table(Options& options, const ProgramInfo& program);

// A field's value as text, and back. assign_option: UsageError if the text is not a possible value.
std::string value_text(const OptionRow& row);
void assign_option(const OptionRow& row, const std::string& text);
inline std::string default_text(const OptionRow& row) {
    return row.default_text.empty() ? value_text(row) : row.default_text;
}

// --help: of one command, or of the program with the options of train. --help-markdown: OPTIONS.md.
void print_help(const std::vector<OptionRow>& table, const ProgramInfo& program, int command, bool with_commands);
void print_markdown(const std::vector<OptionRow>& table, const ProgramInfo& program);

// UsageError if two options, or an option and the command, do not go together.
void check_combinations(const Options& options);
