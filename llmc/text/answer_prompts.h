// Prompts that a policy writes answers to, to learn from the rewards of these:
//
//   {"prompt": ...}                                     other fields are for what rewards answers, such as
//   {"prompt": ..., "answer": ...}                      the answer that is right
//   {"messages": [{"role": ..., "content": ...}]}       a conversation whose next turn is to be written
//
// each a row of Rows, dealt in an order of its own in each epoch.
#pragma once
#include <cstdint>
#include <string>
#include <vector>
#include "llmc/text/reader.h"
#include "llmc/text/rows.h"
#include "llmc/text/template.h"

struct AnswerPrompt {
    std::string line;   // the whole JSON object
    std::string right;  // "answer"
    std::string stop;   // what an answer ends with, where that is no token at which models stop
    std::vector<int> ids;
};

class AnswerPrompts : public Rows {
  public:
    AnswerPrompts(std::vector<AnswerPrompt> prompts, bool shuffle, uint64_t seed)
        : prompts_(std::move(prompts)), shuffle_(shuffle), seed_(seed) {}
    const AnswerPrompt& prompt(int64_t row) const;
    int64_t size() const { return std::ssize(prompts_); }
    int longest() const;  // tokens

    Batch read(int64_t, int) const override { return {}; }  // a policy reads prompt()
    int64_t epoch_begin(int64_t epoch) const override { return epoch * size(); }
    double weight(int64_t, int64_t n) const override { return static_cast<double>(n); }
    int64_t tokens() const override;

  private:
    std::vector<AnswerPrompt> prompts_;
    bool shuffle_;
    uint64_t seed_;
};

// Error names file and line of what is no prompt, unless options.skip_bad; no prompt at all: Error.
std::vector<AnswerPrompt> read_answer_prompts(const std::vector<std::string>& inputs, const ReaderOptions& options,
                                              const Template& chat, const Tokenizer& tokenizer, ReadingNotes* notes);
