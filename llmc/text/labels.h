// Labelled texts, for a head (llmc/head.h): {"text": ..., "label": ...}, or a pair, with "text_pair" beside "text".
//
// A template's parts `text`, or `first` and `second`, stand around the texts. The last token of that is the one whose
// representation is read; it is an input as the others are, so that a text of n tokens takes n positions of a row.
//
// Of what is longer than a row, the texts lose their ends, the longer one of a pair first; what the template puts around
// them stays, and with it the last token. Both orders of a pair stand in one row, so that each has half of it.
#pragma once
#include <map>
#include <string>
#include <vector>
#include "llmc/model/head_config.h"
#include "llmc/text/examples.h"

class Labels {
  public:
    // What a head of `outputs` 1 or 0 (as many classes as the data has) or of known classes learns from rows of T positions;
    // lm_weight: what the mean loss of a text's tokens counts beside its own.
    // optional: if the first example has no label, none are meant.
    Labels(HeadConfig head, int T, float lm_weight, bool may_lack)
        : optional(may_lack), head_(std::move(head)), T_(T), lm_weight_(lm_weight) {}
    const bool optional;

    // pair: null where there is none. Error: no label of this head.
    void add(const std::string& text, const std::string* pair, const std::string& label, const Template& chat,
             const Tokenizer& tokenizer, Examples& examples);
    // Once the training data is read: the head, its classes sorted, by number where all are numbers; examples get their
    // places in that order. Error: fewer than two.
    HeadConfig head(Examples& examples);
    const HeadConfig& head() const { return head_; }

  private:
    float value_of(const std::string& label);
    HeadConfig head_;
    int T_;
    float lm_weight_;
    std::map<std::string, int> found_;  // classes, where they are the data's, in the order in which they came
};
