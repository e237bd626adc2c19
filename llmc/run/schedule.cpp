#include "llmc/run/schedule.h"

#include <algorithm>
#include <cmath>
#include "llmc/base/error.h"

double Schedule::ramp(int64_t step) const {
    return learning_rate * static_cast<double>(step + 1) / static_cast<double>(warmup);
}

// x goes from 0 where the decay begins to 1 where it ends.
double Schedule::decayed(double x) const {
    if (kind == "constant") return learning_rate;
    const double weight = kind == "cosine"   ? 0.5 * (1 + std::cos(M_PI * x))
                          : kind == "linear" ? 1 - x
                                             : 1 - std::sqrt(x);
    const double lowest = final_fraction * learning_rate;
    return lowest + weight * (learning_rate - lowest);
}

static constexpr double wsd_begin = 0.8;
static void check_kind(const std::string& kind) {
    if (kind != "cosine" && kind != "linear" && kind != "constant" && kind != "wsd")
        throw UsageError(strf("--lr-schedule must be cosine, linear, constant or wsd, not '%s'", kind.c_str()));
}

double Schedule::at(int64_t step) const {
    check_kind(kind);
    if (step < warmup) return ramp(step);
    // The decay's end is max_steps, the step after the last one.
    const double end = static_cast<double>(max_steps);
    const double begin =
        kind == "wsd" ? std::max(wsd_begin * end, static_cast<double>(warmup)) : static_cast<double>(warmup);
    return decayed(begin < end ? std::clamp((static_cast<double>(step) - begin) / (end - begin), 0.0, 1.0) : 1.0);
}

double Schedule::at(int64_t step, double position) const {
    check_kind(kind);
    const double begin = kind == "wsd" ? wsd_begin : 0;
    const double decay = decayed(std::clamp((position - begin) / (1 - begin), 0.0, 1.0));
    return step < warmup ? std::min(ramp(step), decay) : decay;
}

// A mean that follows the machine: of all steps until there are twenty, then with a memory of about twenty. The first
// step, which meets cold memory, counts until there is another. A step that took very long (the process was stopped, a
// machine slept) counts four times the mean at most: it says nothing about those that come. A machine that has become
// slow shows in the mean after some steps all the same. Of pauses the last one counts, by the same rule.
void Pace::step_took(double seconds) {
    steps_++;
    if (steps_ <= 2) mean_ = seconds;
    else mean_ += (std::min(seconds, 4 * mean_) - mean_) / static_cast<double>(std::min<int64_t>(steps_ - 1, 20));
}

void Pace::took(Pause p, double seconds) {
    double& known = pauses_[p].seconds;
    known = known > 0 ? std::min(seconds, 4 * known) : seconds;
}

double Pace::seconds(int64_t step, int64_t end) const {
    double sum = mean_ * static_cast<double>(end - step);
    for (const auto& p : pauses_) {
        int64_t times = 1;  // after the last step
        if (p.every > 0) times += (end + p.every - 1) / p.every - (step + p.every - 1) / p.every;
        sum += p.seconds * static_cast<double>(times);
    }
    return sum;
}

int64_t Pace::steps_in(int64_t step, double seconds_left) const {
    int64_t none = 0, too_many = TimeLimit::kNotKnown - step;
    while (none + 1 < too_many) {
        const int64_t n = none + (too_many - none) / 2;
        (seconds(step, step + n) - 0.5 * mean_ <= seconds_left ? none : too_many) = n;
    }
    return none;
}

int64_t TimeLimit::plan(int64_t step, double elapsed, double position, int64_t planned, const Pace& pace) const {
    const double left = seconds - elapsed;
    int64_t end = planned;
    if (left <= pace.seconds(step, step)) end = step;
    else if (pace.known()) end = step + pace.steps_in(step, left);
    end = std::max(end, step + (position < 1 ? 1 : 0));
    if (std::abs(static_cast<double>(end - planned)) <= static_cast<double>(planned - step) / 50) end = planned;
    return max_steps > 0 ? std::clamp(end, step, std::max(step, max_steps)) : end;
}

double TimeLimit::advance(double position, int64_t step, int64_t end) {
    if (end == kNotKnown) return position;
    return end - step <= 1 ? 1.0 : position + (1 - position) / static_cast<double>(end - step);
}

static constexpr size_t window_size = 128;
static constexpr double never = 1e30;

void OutlierDetector::add(double value) {
    if (!std::isfinite(value)) return;
    window_.push_back(value);
    if (window_.size() > window_size) window_.pop_front();
}

void OutlierDetector::restore(const std::deque<double>& window) {
    window_.clear();
    for (double value : window) add(value);
}

float OutlierDetector::threshold(double z) const {
    if (z <= 0 || window_.size() < window_size) return static_cast<float>(never);
    double mean = 0, variance = 0;
    for (double value : window_) mean += value / window_size;
    for (double value : window_) variance += (value - mean) * (value - mean) / window_size;
    // 128 equal values say nothing about how far apart values may lie.
    return static_cast<float>(variance > 0 ? std::min(mean + z * std::sqrt(variance), never) : never);
}
