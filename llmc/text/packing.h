// Examples in rows of T positions: several one after the other (packing), or one a row.
//
// A row of three examples and what is left over:
//
//   inputs      a0 a1 a2  b0 b1 b2 b3  c0 c1  0  0           targets of the last token of each, and of what is left over: -1
//   targets     a1 a2 a3  b1 b2 b3 b4  c1 c2 -1 -1           (so an example of n tokens takes n - 1 positions)
//   doc_start    0  0  0   3  3  3  3   7  7  9  9           no example sees another, and positions begin anew with each
//
// Of labelled texts the last token is an input, too, with the label beside it; both orders of a pair, or two answers of which
// one was preferred, stand there as two documents, one behind the other.
//
// Each epoch deals the examples in an order of its own, a function of (seed, epoch). Each goes into the fullest open row
// that has room for it; kOpenRows are open at a time, and where none has room, the one that was opened first is closed.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>
#include "llmc/text/examples.h"
#include "llmc/text/rows.h"

class PackedExamples : public Rows {
  public:
    static constexpr size_t kOpenRows = 32;
    // examples: each at most T positions (Examples::fit). shuffle = false: in their own order, for validation.
    PackedExamples(std::shared_ptr<const Examples> examples, int T, bool packing, bool shuffle, uint64_t seed);
    Batch read(int64_t first, int n) const override;
    int64_t epoch_begin(int64_t epoch) const override;
    double weight(int64_t first, int64_t n) const override;
    int64_t tokens() const override { return std::ssize(examples_->tokens); }
    int64_t examples() const { return examples_->size(); }
    bool labelled() const { return !labels_.empty(); }
    // Of example i, labels that were not known before. Before the first read().
    void set_label(int64_t i, float value, float other) {
        ExampleLabel& label = labels_[static_cast<size_t>(i)];
        label.value = value, label.other = other;
    }
    LabelOf labels_of() const { return examples_->labels_of(); }
    // Of the documents of an example the first or, if it has two, the second one.
    std::vector<int> document(int64_t i, bool second = false) const;
    // The examples in the rows [first, first + n), in the order in which they stand there.
    std::vector<int64_t> dealt(int64_t first, int64_t n) const;

  private:
    struct Epoch {
        int64_t begin = 0;            // number of its first row
        std::vector<int64_t> order;   // examples, row by row
        std::vector<int64_t> starts;  // of each row in `order`, and where the last one ends
        int64_t rows() const { return std::ssize(starts) - 1; }
    };
    std::shared_ptr<const Epoch> deal(int64_t epoch, int64_t begin) const;
    std::shared_ptr<const Epoch> epoch_of(int64_t row) const;
    template <typename Visit>
    void for_each_row(int64_t first, int64_t n, Visit visit) const;

    std::shared_ptr<const Examples> examples_;
    std::vector<ExampleLabel> labels_;
    int T_;
    bool packing_, shuffle_;
    uint64_t seed_;
    mutable std::mutex mutex_;  // the epochs are dealt when they are first asked for, by whatever thread
    mutable std::vector<std::shared_ptr<const Epoch>> epochs_;
};
