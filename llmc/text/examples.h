// Examples to learn from: tokens, and for each the weight that it has as a target.
//
// They are read from JSON lines (or any JSON that reader.h knows), an example each:
//
//   {"text": ...}                                  every token counts
//   {"prompt": ..., "completion": ...}             the completion and the end behind it count
//   {"messages": [{"role": ..., "content": ...}]}  the assistant's turns and the ends behind them count
//   {"text": ..., "label": ...}                    labelled texts, for a head (labels.h)
//   {"prompt": ..., "chosen": ..., "rejected": ...}  of two answers the one that was preferred (labels.h)
//
// by a template (template.h); or from a file that ./tokenize examples has written of them, so that this is done once:
//
//   int32 header[256]: magic 20261126, version 1, size of the vocabulary, 0; then as int64 the number of examples and of
//   tokens; zeros. Then int64 starts[examples + 1], where each example begins and the last one ends; int32 ids[tokens];
//   float weights[tokens]. Little endian.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>
#include "llmc/text/reader.h"
#include "llmc/text/template.h"
#include "llmc/text/tokenizer.h"

class Labels;

// Of what labels are: of texts, of pairs of which the first text was preferred, or of nothing, where a text has none.
enum class LabelOf { text, pair, nothing };
struct ExampleLabel {
    float value;  // a class's number or a value; of a pair 1 and -1, or a reference's log-probabilities
    int second =
        0;  // of a pair, or of another one in both orders, which is one example, where the second document begins
    LabelOf of = LabelOf::text;
    float other = 0;  // the second document's
};

struct Examples {
    std::vector<int> tokens;           // below 0: prompts (model/prompts.h)
    std::vector<float> weights;        // of each token as a target: 0 for a prompt's, and for the first of an example
    std::vector<int64_t> starts{0};    // of each example, and where the last one ends
    std::vector<ExampleLabel> labels;  // of each example, or of none; then its weights are parts of the example's 1
    int64_t cut = 0, left_out = 0;     // by fit() or Labels: those that were cut, and of which nothing would be learned

    int64_t size() const { return std::ssize(starts) - 1; }
    int64_t length(int64_t i) const { return starts[static_cast<size_t>(i) + 1] - starts[static_cast<size_t>(i)]; }
    std::span<const int> ids(int64_t i) const { return part(tokens, i); }
    std::span<const float> weights_of(int64_t i) const { return part(weights, i); }
    int64_t positions(int64_t i) const { return labels.empty() ? length(i) - 1 : length(i); }  // that it takes in a row
    void add(std::span<const int> ids, std::span<const float> weight);
    void add(std::span<const int> ids, std::span<const float> weight, ExampleLabel label);
    LabelOf labels_of() const { return labels.empty() ? LabelOf::nothing : labels[0].of; }
    void add(const Examples& more) {
        for (int64_t i = 0; i < more.size(); i++) add_from(more, i);
        cut += more.cut, left_out += more.left_out;
    }

    // Cuts examples of more than T + 1 tokens, of which the last is a target alone: first the beginning of what comes
    // before the first token that counts, of which one token stays, and all prompts, then the end. So a completion stays whole where it
    // can, and an instruction that stands before a long text goes first.
    Examples fit(int T) const;
    // As a model sees them that has no prompts.
    Examples without_prompts() const;
    // Of each `every` examples one is held back for validation, drawn at random and always the same; the others are
    // returned.
    Examples hold_back(int64_t every, Examples* validation) const;

  private:
    void add_from(const Examples& other, int64_t i);
    template <typename X>
    std::span<const X> part(const std::vector<X>& all, int64_t i) const {
        return std::span(all).subspan(static_cast<size_t>(starts[static_cast<size_t>(i)]),
                                      static_cast<size_t>(length(i)));
    }
};

// Cuts one example to `room` tokens as fit() does. Whether that was needed.
bool cut_example(std::vector<int>& ids, std::vector<float>& weights, size_t room);

// The tokens of a text with marks; a token counts, with weight 1, if any of its bytes does.
void marked_tokens(const MarkedText& text, const Tokenizer& tokenizer, std::vector<int>& ids,
                   std::vector<float>& weights);
// One example of them.
void add_example(const MarkedText& text, const Tokenizer& tokenizer, Examples& examples);

// Error names file and line of what is no example, unless options.skip_bad: then it is noted. No example at all: Error.
// labels: they are labelled texts; null: a label that is there is of no use, and `unused_labels` counts it.
Examples read_examples(const std::vector<std::string>& inputs, const ReaderOptions& options, const Template& chat,
                       const Tokenizer& tokenizer, ReadingNotes* notes, Labels* labels = nullptr,
                       int64_t* unused_labels = nullptr);

// Whether a path given as data names examples: a file of either form, or standard input ("-").
bool names_examples(const std::string& path);
// A file of ./tokenize examples: by its name, PATH.examples. In a directory, train.examples and val.examples.
bool is_examples_file(const std::string& path);
void write_examples_file(const std::string& path, const Examples& examples, int vocabulary_size);
Examples read_examples_file(const std::string& path,
                            int vocabulary_size);  // Error: it is none, cut short, another vocabulary's
