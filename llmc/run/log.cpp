#include "llmc/run/log.h"

#include <sys/ioctl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <sstream>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/files/run_directory.h"
#include "llmc/run/plot.h"

namespace fs = std::filesystem;

// The numbers of a LogEntry by the name they have in log.jsonl.
struct LogField {
    const char* name;
    std::optional<double> LogEntry::*value;
};
static constexpr LogField log_fields[] = {
    {"loss", &LogEntry::loss},
    {"grad_norm", &LogEntry::grad_norm},
    {"lr", &LogEntry::lr},
    {"ms", &LogEntry::ms},
    {"tok_s", &LogEntry::tok_s},
    {"mfu", &LogEntry::mfu},
    {"val_loss", &LogEntry::val_loss},
    {"val_acc", &LogEntry::val_acc},
    {"val_margin", &LogEntry::val_margin},
    {"hellaswag", &LogEntry::hellaswag},
    {"reward", &LogEntry::reward},
    {"val_reward", &LogEntry::val_reward},
    {"kl", &LogEntry::kl},
    {"entropy", &LogEntry::entropy},
    {"answer_tokens", &LogEntry::answer_tokens},
    {"ended", &LogEntry::ended},
    {"clipped", &LogEntry::clipped},
    {"change", &LogEntry::change},
    {"value_loss", &LogEntry::value_loss},
    {"updates", &LogEntry::updates},
    {"sample_tok_s", &LogEntry::sample_tok_s},
    {"learn_tok_s", &LogEntry::learn_tok_s},
    {"text_loss", &LogEntry::text_loss},
    {"end", &LogEntry::end},
    {"best_step", &LogEntry::best_step},
};

static std::string to_json(const LogEntry& entry) {
    std::string out = strf("{\"step\":%lld", static_cast<long long>(entry.step));
    const auto number = [](double x) {
        char digits[32] = "null";  // JSON has no NaN
        return std::string(digits,
                           std::isfinite(x) ? std::to_chars(digits, digits + sizeof digits, x).ptr : digits + 4);
    };
    for (const LogField& field : log_fields)
        if (entry.*field.value) out += std::string(",\"") + field.name + "\":" + number(*(entry.*field.value));
    for (const auto& [name, x] : entry.rewards)
        out += (&name == &entry.rewards[0].first ? ",\"rewards\":{" : ",") + Json(name).dump() + ":" + number(x);
    if (!entry.rewards.empty()) out += "}";
    return out + (entry.skipped ? ",\"skipped\":true}" : "}");
}

// Steps beyond that are no steps; the plot counts in doubles.
constexpr int64_t kMostSteps = 1'000'000'000'000'000;
static bool read_step(const Json& j, int64_t* step) { return json_whole(j, step) && *step >= 0 && *step <= kMostSteps; }

// Returns false if the line is none of ours, such as one that was being written when the machine went down.
static bool from_json(const std::string& line, LogEntry* entry) {
    const Json json = try_json(line);
    *entry = LogEntry{};
    if (!json.is_object() || !json.contains("step") || !read_step(json["step"], &entry->step)) return false;
    for (const LogField& field : log_fields) {
        if (!json.contains(field.name)) continue;
        const Json& value = json[field.name];
        if (value.is_number()) entry->*field.value = value.get<double>();
        else if (value.is_null()) entry->*field.value = std::numeric_limits<double>::quiet_NaN();
        else return false;
    }
    if (json.contains("rewards") && json["rewards"].is_object())
        for (const auto& [name, value] : json["rewards"].items())
            if (value.is_number()) entry->rewards.push_back({name, value.get<double>()});
    entry->skipped = json.contains("skipped") && json["skipped"] == true;
    return true;
}

// The line that a resume leaves of the steps that were cut off (log.h).
static std::string resumed_json(int64_t step, double time_limit, const std::map<int64_t, double>& repeats) {
    OrderedJson parts = OrderedJson::array();
    for (auto [at, end] : repeats) {
        const OrderedJson value = std::isfinite(end) ? OrderedJson(end) : OrderedJson();
        if (!parts.empty() && parts.back()[1] == at - 1 && parts.back()[2] == value) parts.back()[1] = at;
        else parts.push_back({at, at, value});
    }
    return OrderedJson{{"step", step}, {"time_limit", time_limit}, {"repeats", parts}}.dump();
}

// So many steps are remembered at most: they are those between a checkpoint and where the run was stopped, but a line that
// was damaged may speak of any number.
constexpr size_t kMostRepeats = 100'000;

// Reads such a line; false: it is none.
static bool from_resumed_json(const std::string& line, double* time_limit, std::map<int64_t, double>* repeats) {
    const Json json = try_json(line);
    if (!json.is_object() || !json.contains("repeats")) return false;
    const double limit =
        json.contains("time_limit") && json["time_limit"].is_number() ? json["time_limit"].get<double>() : 0;
    if (limit != *time_limit) repeats->clear();
    *time_limit = limit;
    int64_t at, last;
    for (const Json& part : json["repeats"])
        if (part.is_array() && part.size() == 3 && read_step(part[0], &at) && read_step(part[1], &last))
            for (; at <= last && repeats->size() < kMostRepeats; at++)
                (*repeats)[at] = part[2].is_number() ? part[2].get<double>() : std::numeric_limits<double>::quiet_NaN();
    return true;
}

// A line can be written again and again. (TERM=dumb says that it cannot: mpirun's ranks always write to a terminal.)
static bool is_terminal() { return isatty(STDOUT_FILENO) && strcmp(getenv("TERM") ? getenv("TERM") : "", "dumb") != 0; }

RunLog::RunLog(const std::string& output, int64_t resume_step, double time_limit, double recorded_limit)
    : output_(output), terminal_(is_terminal()) {
    if (output.empty()) return;
    std::error_code error;
    fs::create_directories(output, error);
    if (error && !fs::is_directory(output))
        throw Error(strf("%s: cannot make the output directory: %s; choose another one with --output", output.c_str(),
                         error.message().c_str()));
    if (path_exists(path()) && !is_file(path()))
        throw Error(path() + " is no regular file; move it elsewhere, or choose another directory with --output");
    if (resume_step == 0 && is_file(path()) && fs::file_size(path()) > 0)
        print("note: the log of a run that left no checkpoint is kept as " + ::set_aside(path()));
    keep_until(resume_step, time_limit, recorded_limit);
}

void RunLog::keep_until(int64_t step, double time_limit, double recorded_limit) {
    if (file_) fclose(file_);
    entries_.clear();
    if (is_file(path())) {
        std::istringstream in(read_file(path(), SIZE_MAX));  // all of it, or an error: what is not read is cut off
        std::string line, kept;
        LogEntry entry;
        while (std::getline(in, line)) {
            if (from_resumed_json(line, &recorded_limit, &repeats_) || !from_json(line, &entry)) continue;
            if (entry.end) repeats_[entry.step] = *entry.end;
            if (entry.step > step) continue;
            entries_.push_back(entry);
            kept += line + "\n";
        }
        if (recorded_limit != time_limit) repeats_.clear();
        repeats_.erase(repeats_.begin(), repeats_.upper_bound(step));
        if (step > 0 && time_limit > 0) kept += resumed_json(step, time_limit, repeats_) + "\n";
        replace_file(path(), kept);
    }
    file_ = fopen(path().c_str(), "ab");
    if (!file_)
        throw Error(
            strf("%s: cannot be written: %s; choose another directory with --output", path().c_str(), strerror(errno)));
}

std::vector<LogEntry> read_log(const std::string& path) {
    std::istringstream in(read_file(path, SIZE_MAX));
    std::vector<LogEntry> entries;
    std::string line;
    for (LogEntry entry; std::getline(in, line);)
        if (from_json(line, &entry)) entries.push_back(entry);
    return entries;
}

void RunLog::roll_back(int64_t to, int64_t from, int64_t next_sample) {
    if (!file_) return;
    keep_until(to, 0, 0);
    append(strf("{\"step\":%lld,\"rolled_back_from\":%lld,\"next_sample\":%lld}", static_cast<long long>(to),
                static_cast<long long>(from), static_cast<long long>(next_sample)),
           to);
}

RunLog::~RunLog() {
    clear_progress();
    if (file_) fclose(file_);
}

void RunLog::write(const LogEntry& entry) {
    entries_.push_back(entry);
    if (file_) append(to_json(entry), entry.step);
}

void RunLog::append(const std::string& text, int64_t step) {
    const std::string line = (line_lost_ ? "\n" : "") + text + "\n";
    line_lost_ = fwrite(line.data(), 1, line.size(), file_) != line.size() || fflush(file_) != 0;
    if (!line_lost_) return;
    clearerr(file_);
    if (lines_lost_++ % 100 == 0)
        warn(strf("%s/log.jsonl: cannot be written: %s; training goes on without the line of step %lld (%lld lost)",
                  output_.c_str(), strerror(errno), static_cast<long long>(step), static_cast<long long>(lines_lost_)));
}

void RunLog::print_step(const LogEntry& entry, int64_t max_steps) {
    std::string line = strf("step %lld", static_cast<long long>(entry.step));
    if (max_steps > 0) line += strf("/%lld", static_cast<long long>(max_steps));
    if (entry.reward) line += strf(" | reward %.4f", *entry.reward);
    if (entry.kl) line += strf(" | kl %.4f", *entry.kl);
    if (entry.answer_tokens) line += strf(" | %.1f tokens", *entry.answer_tokens);
    if (entry.loss) line += strf(" | loss %.6f", *entry.loss);
    if (entry.text_loss) line += strf(" | text loss %.4f", *entry.text_loss);
    if (entry.grad_norm) line += strf(" | norm %.4f", *entry.grad_norm);
    if (entry.lr) line += strf(" | lr %.2e", *entry.lr);
    if (entry.ms) line += strf(" | %.2f ms", *entry.ms);
    if (entry.tok_s && std::isfinite(*entry.tok_s)) line += " | " + human_count(std::llround(*entry.tok_s)) + " tok/s";
    if (entry.mfu) line += strf(" | mfu %.1f%%", 100 * *entry.mfu);
    if (entry.val_loss) line += strf(" | val loss %.6f", *entry.val_loss);
    if (entry.hellaswag) line += strf(" | hellaswag %.4f", *entry.hellaswag);
    if (entry.skipped) line += " | skipped";
    print(line);
}

void RunLog::progress(const std::string& what, int64_t done, int64_t total, double seconds_left) {
    if (!terminal_ || total <= 0) return;
    const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    std::string numbers = strf("%3d%% ", static_cast<int>(100 * share)) + human_count(done) + "/" + human_count(total);
    if (std::isfinite(seconds_left) && seconds_left >= 0 && done < total)
        numbers += ", " + human_seconds(seconds_left) + " left";
    // A line that wraps could not be rewritten: on a narrow terminal first the bar shrinks, then the line is cut.
    winsize window{};
    const size_t columns =
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 ? window.ws_col - 1u : 79u;
    const size_t used = what.size() + numbers.size() + 4,
                 bar = used < columns ? std::min<size_t>(columns - used, 24) : 0;
    const size_t filled = static_cast<size_t>(share * static_cast<double>(bar));
    std::string line = what + " ";
    if (bar >= 4) line.append("[").append(filled, '#').append(bar - filled, '.').append("] ");
    line = (line + numbers).substr(0, columns);
    printf("\r\033[K%s", line.c_str());
    fflush(stdout);
    progress_shown_ = true;
}

void RunLog::clear_progress() {
    if (!progress_shown_) return;
    printf("\r\033[K");
    fflush(stdout);
    progress_shown_ = false;
}

void RunLog::print(const std::string& line) {
    clear_progress();
    printf("%s\n", line.c_str());
    fflush(stdout);
}

std::string RunLog::set_aside() {
    fclose(file_);
    file_ = nullptr;
    return ::set_aside(path());
}

void RunLog::warn(const std::string& line) {
    clear_progress();
    fprintf(stderr, "warning: %s\n", line.c_str());
}

void RunLog::write_plot() {
    if (output_.empty()) return;
    const std::string name = fs::weakly_canonical(output_).filename().string();
    try {
        replace_file(output_ + "/loss.svg", plot_svg(name, {{name, entries_}}));
    } catch (const Error& e) {
        warn(strf("the plot was not written: %s", e.what()));
    }
}
