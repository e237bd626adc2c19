// What a run says: OUT/log.jsonl (one JSON object a line), human lines and a progress line on stdout, a plot as SVG.
#pragma once
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>
#include "llmc/base/human.h"

// One line of log.jsonl. Fields that were not set are left out; a value that is not finite is written as null.
struct LogEntry {
    int64_t step = 0;  // updates done, as in a checkpoint's name: the first one gives step 1
    std::optional<double> loss, grad_norm, lr, ms, tok_s, mfu, val_loss, val_acc, val_margin,
        hellaswag;  // the last two, mfu: 0 to 1
    // Of a policy (policy.h): mean reward of an answer; KL to the reference, nats an answer; entropy, nats a token; tokens of an
    // answer; shares of answers that ended by themselves, and of tokens that were clipped; KL to what wrote them, nats a token
    std::optional<double> reward, val_reward, kl, entropy, answer_tokens, ended, clipped, change, value_loss, updates,
        sample_tok_s, learn_tok_s;
    std::optional<double> text_loss;                      // --text
    std::vector<std::pair<std::string, double>> rewards;  // of each source
    std::optional<double> end;  // --time-limit: where the run was to end, as planned before this step (schedule.h)
    std::optional<double> best_step;  // of a validation: the step with the lowest loss so far, whose checkpoint is kept
    bool skipped = false;
};

class RunLog {
  public:
    // output == "": nothing is written. Makes the directory, opens OUT/log.jsonl; when resuming at `resume_step` > 0
    // the lines after that step, and half-written ones, left by the run that was interrupted, are cut off first
    // (atomically); 0: a new log, and one that is there is set aside. Error: cannot be written. time_limit: of this
    // run, and recorded_limit of the checkpoint that it resumes.
    RunLog(const std::string& output, int64_t resume_step, double time_limit = 0, double recorded_limit = 0);
    ~RunLog();
    RunLog(const RunLog&) = delete;
    void write(const LogEntry& entry);  // appends and flushes; where that fails it warns, and training goes on
    // Cuts off the lines after step `to`, to which the run goes back from step `from`, and says so in the log:
    // {"step":TO,"rolled_back_from":FROM,"next_sample":...}.
    void roll_back(int64_t to, int64_t from, int64_t next_sample);
    std::string set_aside();             // closes the log and renames it; its new name
    void warn(const std::string& line);  // on stderr
    // Human line: step 3/100 | loss 4.123456 | norm 1.2345 | lr 3.00e-04 | 123.45 ms | 4,567 tok/s
    void print_step(const LogEntry& entry, int64_t max_steps);
    // On a terminal: one line rewritten in place, with a bar and the time left. Elsewhere: nothing.
    void progress(const std::string& what, int64_t done, int64_t total, double seconds_left);
    void clear_progress();
    void print(const std::string& line);                               // a line of its own, above the progress line
    const std::vector<LogEntry>& entries() const { return entries_; }  // earlier ones included when resuming
    // `end` of the steps that were cut off, by step, NaN where it was not known: a run with the same --time-limit
    // repeats them. They must still be known if it crashes again, so a resume of such a run leaves a line in the log:
    // {"step":600,"time_limit":120,"repeats":[[601,640,345],[641,700,350]]}, of steps 601 to 640 and 641 to 700.
    const std::map<int64_t, double>& repeats() const { return repeats_; }
    void write_plot();  // OUT/loss.svg (plot.h)
  private:
    void keep_until(int64_t step, double time_limit, double recorded_limit);
    void append(const std::string& line, int64_t step);
    std::string path() const { return output_ + "/log.jsonl"; }

    std::string output_;
    FILE* file_ = nullptr;
    bool terminal_ = false, progress_shown_ = false, line_lost_ = false;
    int64_t lines_lost_ = 0;
    std::map<int64_t, double> repeats_;
    std::vector<LogEntry> entries_;
};

// The lines of a log.jsonl that are a step's; others are left out.
std::vector<LogEntry> read_log(const std::string& path);
