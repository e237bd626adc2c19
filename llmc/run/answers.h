// What a policy has written in a round, as rows to learn from: one answer a row, behind its prompt.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>
#include "llmc/text/rows.h"

struct Answer {
    std::vector<int> ids;               // the prompt's, then the answer's
    int prompt = 0;                     // tokens of it
    bool ended = false;                 // by itself, not by --max-tokens
    std::string text;                   // without its end
    std::vector<double> rewards;        // of each source
    std::vector<TokenSignals> signals;  // of the answer's tokens
};

// Rows as long as the longest needs, in steps of 32 (a GPU captures each length), and at most `most`. The signals of a token stand where it is the
// target, and so do weights, 1.
Batch batch_of(std::span<const Answer> answers, int most);

// In bytes, for other ranks; but for the text.
std::string answers_bytes(std::span<const Answer> answers);
std::vector<Answer> answers_of(const std::string& bytes);

// All answers of a round, in an order of its own in each epoch. each_text: of each answer the weights add up to 1.
class AnswerRows : public Rows {
  public:
    AnswerRows(std::vector<Answer> answers, int most, bool each_text, uint64_t seed)
        : answers_(std::move(answers)), most_(most), each_text_(each_text), seed_(seed) {}
    Batch read(int64_t first, int n) const override;
    int64_t epoch_begin(int64_t epoch) const override { return epoch * std::ssize(answers_); }
    double weight(int64_t first, int64_t n) const override;
    int64_t tokens() const override { return tokens_of(0, std::ssize(answers_)); }
    int64_t tokens_of(int64_t first, int64_t n) const;  // that were written in these rows

  private:
    const Answer& answer(int64_t row) const;
    std::vector<Answer> answers_;
    int most_;
    bool each_text_;
    uint64_t seed_;
};
