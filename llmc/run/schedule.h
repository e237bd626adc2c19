// Learning-rate schedules, the clock of --time-limit, and the detector of outliers that decides whether a step's update
// is skipped.
#pragma once
#include <cstdint>
#include <deque>
#include <string>

// Learning rate of `step` (0-based) of `max_steps`. Linear warm-up over `warmup` steps: lr * (step + 1) / warmup. Then
// by kind:
//   cosine    half a cosine from lr to final_fraction * lr                              (Loshchilov & Hutter 2017)
//   linear    straight line from lr to final_fraction * lr
//   constant  lr
//   wsd       lr, and over the last 20% of the steps down to final_fraction * lr by 1 - sqrt(x)   (Haegele et al. 2024)
// A decay would reach its end at step max_steps, one after the last.
struct Schedule {
    std::string kind = "cosine";
    double learning_rate = 3e-4, final_fraction = 0.1;
    int64_t warmup = 0, max_steps = 0;
    double at(int64_t step) const;  // UsageError if kind is none of the above
    // Of a run that the clock ends: `position` moves from 0 to 1, which the last step has, so the decay does reach its
    // end. The warm-up is a ramp above which the decay does not rise; a run that ends in its warm-up ends low, too.
    double at(int64_t step, double position) const;

  private:
    double ramp(int64_t step) const;
    double decayed(double x) const;
};

// ---- --time-limit --------------------------------------------------------------------------------------------------
//
// The clock decides one number: the step after which the run ends. It is planned anew before each step, from the time
// that is left and from what steps and the pauses between them have taken so far. The schedule's position goes from
// where it is towards 1 in equal parts, and has it in the last step:
//
//     position = position + (1 - position) / (end - step)
//
// So the learning rate ends where it should and does not jump, whatever the machine does meanwhile. The run ends within
// about a step of its limit, plus what the last validation, sample and checkpoint take longer than those before them.
//
//   - The first step is taken before anything is known: the position stays where it is.
//   - Where the time is over before position 1 was reached (the limit is very short, the process was stopped for longer
//     than it, a resume gives a limit that is spent already), one more step is taken, at position 1. So there is always
//     a step.
//   - --max-steps beside it: the run ends by whichever comes first, and position 1 is there.
//
// Arithmetic depends on time here and nowhere else, so what the clock decided is recorded: `end` stands in each step's
// line of log.jsonl, position and end in trainer_state.json. A resume follows the log as far as it goes (the steps
// after the checkpoint, which were lost, come again with the same learning rates) and then the clock. The time that the
// checkpoint had spent counts; what was lost with the steps after it, and the time between the two processes, do not.
// What was recorded for another limit is not followed. With several ranks rank 0 decides for all.

// What steps, and the pauses between them, take.
class Pace {
  public:
    enum Pause {
        validation,
        sample,
        checkpoint,
        writing
    };  // writing: what the last checkpoint takes beside, to be written
    void every(Pause p, int64_t steps) { pauses_[p].every = steps; }  // and after the last step; 0: there alone
    void took(Pause p, double seconds);
    void step_took(double seconds);
    bool known() const { return steps_ > 0; }
    // From before `step`, with its pauses, to the end of a run that ends after `end` steps. Of a pause that never was,
    // nothing is known, and 0 is taken.
    double seconds(int64_t step, int64_t end) const;
    // The most steps from `step` on that end within `seconds`, or half a step after it.
    int64_t steps_in(int64_t step, double seconds) const;

  private:
    struct {
        int64_t every = 0;
        double seconds = 0;
    } pauses_[4];
    double mean_ = 0;
    int64_t steps_ = 0;
};

struct TimeLimit {
    static constexpr int64_t kNotKnown = int64_t{1} << 53;  // a double holds it, and JSON
    double seconds = 0;                                     // 0: none
    int64_t max_steps = -1;                                 // -1: none

    // The step after which the run ends, as it looks before `step`, `elapsed` seconds after its beginning, when the
    // schedule is at `position` and the end was planned to be `planned`, which stays unless it is wrong by a fiftieth
    // of the steps that are left. `planned` == step: the run has ended, and nobody asks.
    int64_t plan(int64_t step, double elapsed, double position, int64_t planned, const Pace& pace) const;
    // Position of `step`, from that of the step before it.
    static double advance(double position, int64_t step, int64_t end);
};

// Mean and standard deviation of the last 128 values; threshold(z) = mean + z * deviation, or 1e30 until the window is
// full, when z is 0 (off) or when all values are equal. A value that is not finite is never added.
class OutlierDetector {
  public:
    void add(double value);
    float threshold(double z) const;
    const std::deque<double>& window() const { return window_; }  // for trainer_state.json
    void restore(const std::deque<double>& window);

  private:
    std::deque<double> window_;
};
