// Labelled texts, for a head (llmc/head.h): {"text": ..., "label": ...}, or a pair, with "text_pair" beside "text".
//
// A template's parts `text`, or `first` and `second`, stand around the texts. The last token of that is the one whose
// representation is read; it is an input as the others are, so that a text of n tokens takes n positions of a row.
//
// Or of two answers to a prompt the one that was preferred: {"prompt": ..., "chosen": ..., "rejected": ...}, by the template's
// parts of a prompt and its completion. Both stand in one row.
//
// Of what is longer than a row, the texts lose their ends, the longer one of a pair first; what the template puts around
// them stays, and with it the last token. Two in one row have half of it each; of a prompt and an answer, first the prompt's
// beginning goes.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>
#include "llmc/model/head_config.h"
#include "llmc/text/examples.h"

class Labels {
  public:
    // What a head of `outputs` 1 or 0 (as many classes as the data has) or of known classes learns from rows of T positions;
    // lm_weight: what the mean loss of a text's tokens counts beside its own.
    // wanted: what all examples must have; none: as the first one has, of which a head of one number says what it is worth
    // in any case.
    // references: of pairs, all tokens of the answers count, by 1, and the labels come later.
    Labels(HeadConfig head, int T, float lm_weight, std::optional<LabelOf> wanted, bool references = false)
        : head_(std::move(head)), T_(T), lm_weight_(lm_weight), of_(wanted), references_(references) {}
    // An example that has such a label. False: it is one of a language model. Error: it cannot be of use here.
    bool begin(LabelOf example);
    LabelOf of() const { return *of_; }

    // pair: null where there is none. Error: no label of this head.
    void add(const std::string& text, const std::string* pair, const std::string& label, const Template& chat,
             const Tokenizer& tokenizer, Examples& examples);
    void add_preference(const std::string& prompt, const std::string& chosen, const std::string& rejected,
                        const Template& chat, const Tokenizer& tokenizer, Examples& examples);
    void add_unknown(const MarkedText& text, const Tokenizer& tokenizer, Examples& examples);
    // Once the training data is read: the head, its classes sorted, by number where all are numbers; examples get their
    // places in that order. Error: fewer than two.
    HeadConfig head(Examples& examples);
    const HeadConfig& head() const { return head_; }

  private:
    float value_of(const std::string& label);
    HeadConfig head_;
    int T_;
    float lm_weight_;
    std::optional<LabelOf> of_;
    bool references_;
    std::map<std::string, int> found_;  // classes, where they are the data's, in the order in which they came
};
