// Logs as a picture, SVG: panels one below another over the same steps. Loss (with the validations'), learning rate, norm of
// the gradient, scores on tasks; a panel of which the logs have nothing is left out.
//
// Of one run the training loss is drawn as it is (thin) and smoothed. Of several each has a colour, and validations are dashed.
#pragma once
#include <string>
#include <vector>
#include "llmc/run/log.h"
#include "llmc/run/options.h"

struct PlottedRun {
    std::string name;
    std::vector<LogEntry> entries;
};
constexpr size_t kMostPlottedRuns = 8;  // colours that one can tell apart

std::string plot_svg(const std::string& title, const std::vector<PlottedRun>& runs);

// plot: several runs in one picture.
int plot_command(const Options& options);
