// What a run says: OUT/log.jsonl (one JSON object a line), human lines and a progress line on stdout, a plot as SVG.
#pragma once
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>
#include "llmc/base/human.h"

// One line of log.jsonl. Fields that were not set are left out; a value that is not finite is written as null.
struct LogEntry {
    int64_t step = 0;  // updates done, as in a checkpoint's name: the first one gives step 1
    std::optional<double> loss, grad_norm, lr, ms, tok_s, mfu, val_loss, hellaswag;  // mfu, hellaswag: 0 to 1
    bool skipped = false;
};

class RunLog {
  public:
    // output == "": nothing is written. Makes the directory, opens OUT/log.jsonl; when resuming at `resume_step` > 0
    // the lines after that step, and half-written ones, left by the run that was interrupted, are cut off first
    // (atomically); 0: a new log. Error: cannot be written.
    RunLog(const std::string& output, int64_t resume_step);
    ~RunLog();
    RunLog(const RunLog&) = delete;
    void write(const LogEntry& entry);  // appends and flushes
    // Human line: step 3/100 | loss 4.123456 | norm 1.2345 | lr 3.00e-04 | 123.45 ms | 4,567 tok/s
    void print_step(const LogEntry& entry, int64_t max_steps);
    // On a terminal: one line rewritten in place, with a bar and the time left. Elsewhere: nothing.
    void progress(const std::string& what, int64_t done, int64_t total, double seconds_left);
    void clear_progress();
    void print(const std::string& line);                               // a line of its own, above the progress line
    const std::vector<LogEntry>& entries() const { return entries_; }  // earlier ones included when resuming
    void write_plot() const;  // OUT/loss.svg: training loss (thin: raw, thick: smoothed), validation loss
  private:
    std::string output_;
    FILE* file_ = nullptr;
    bool terminal_ = false, progress_shown_ = false;
    std::vector<LogEntry> entries_;
};

// The plot itself, for any entries.
std::string loss_plot_svg(const std::vector<LogEntry>& entries, const std::string& title);
