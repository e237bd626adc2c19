// Where rewards come from: rules, programs, models; any number of them, each with a weight.
#pragma once
#include <memory>
#include <string>
#include <vector>
#include "llmc/run/options.h"
#include "llmc/run/reward_command.h"

struct AnswerText {
    std::string line;  // the prompt's JSON object
    std::string right;
    std::string text;  // what was written, without its end
};

struct RewardSource {
    enum Kind { model, length, match, answer, command } kind = model;
    std::string what;  // a model's directory, the expression, the program
    int words = 0;
    double weight = 1;
    std::string name() const;  // in the log
};
// Of --reward and --reward-command, in that order. UsageError: it is none.
//
//   DIR        a model with a head of one number (--objective reward)
//   length:N   1 for an answer of at most N words, N / words for a longer one
//   match:REGEX   1 where it is found in the answer, else 0 (ECMAScript)
//   answer     1 for an answer that is the prompt's "answer", but for white space around it, else 0
std::vector<RewardSource> reward_sources(const Options& options);

// Rewards of all sources but models.
class Rewards {
  public:
    explicit Rewards(const Options& options);
    // Of source i, one for each answer.
    std::vector<double> of(size_t i, const std::vector<AnswerText>& answers);
    const std::vector<RewardSource>& sources() const { return sources_; }
    double total(const double* each) const;

  private:
    std::vector<RewardSource> sources_;
    std::vector<std::unique_ptr<RewardCommand>> commands_;  // of each source, or null
};
