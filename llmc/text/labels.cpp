#include "llmc/text/labels.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include "llmc/base/error.h"
#include "llmc/base/human.h"

static bool read_number(const std::string& text, double* x) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *x);
    return error == std::errc{} && end == text.data() + text.size() && std::abs(*x) <= 1e30;
}

float Labels::value_of(const std::string& label) {
    if (head_.regression()) {
        double x;
        if (!read_number(label, &x)) throw Error("the label '" + printable(label) + "' is no number");
        return static_cast<float>(x);
    }
    if (head_.outputs == 0) return static_cast<float>(found_.try_emplace(label, found_.size()).first->second);
    const auto at = std::find(head_.labels.begin(), head_.labels.end(), label);
    if (at != head_.labels.end()) return static_cast<float>(at - head_.labels.begin());
    std::string known;
    for (size_t i = 0; i < std::min<size_t>(8, head_.labels.size()); i++)
        known += (i ? ", " : "") + printable(head_.labels[i]);
    throw Error(strf("the label '%s' is none of the %zu classes: %s%s", printable(label).c_str(), head_.labels.size(),
                     known.c_str(), head_.labels.size() > 8 ? ", ..." : ""));
}

// The tokens of a text or a pair, so many at most; none: what stands around it leaves no room.
static std::vector<int> shortened(const MarkedText& text, const Tokenizer& tokenizer, size_t most, bool* cut) {
    std::vector<int> ids, kept;
    std::vector<size_t> ends;
    encode_marked(text, tokenizer, ids, ends);
    if (ids.size() <= most) return ids;
    *cut = true;
    std::vector<int> part;       // of each token: 1 and 2 those of the texts, 0 the template's
    size_t left[3] = {0, 0, 0};  // so many of each stay
    for (size_t end : ends) part.push_back(text.counts[std::max<size_t>(end, 1) - 1]), left[part.back()]++;
    for (size_t drop = ids.size() - most; drop > 0; drop--) {
        size_t& longer = left[1] >= left[2] ? left[1] : left[2];
        if (longer <= 1) return {};
        longer--;
    }
    size_t seen[3] = {0, 0, 0};
    for (size_t i = 0; i < ids.size(); i++)
        if (seen[part[i]]++ < left[part[i]]) kept.push_back(ids[i]);
    return kept;
}

void Labels::add(const std::string& text, const std::string* pair, const std::string& label, const Template& chat,
                 const Tokenizer& tokenizer, Examples& examples) {
    if (head_.both_orders && !pair) throw Error("no field \"text_pair\": both orders are those of a pair");
    const float value = value_of(label);
    const size_t most = static_cast<size_t>(head_.both_orders ? T_ / 2 : T_);
    bool cut = false;
    std::vector<int> ids = shortened(chat.labelled(text, pair), tokenizer, most, &cut);
    size_t targets = 0, second = 0;
    if (head_.both_orders && !ids.empty()) {
        const std::vector<int> other = shortened(chat.labelled(*pair, &text), tokenizer, most, &cut);
        second = ids.size();
        ids.insert(ids.end(), other.begin(), other.end());
    }
    if (ids.empty() || second == ids.size()) {
        examples.left_out++;
        return;
    }
    examples.cut += cut;
    for (size_t i = 1; i < ids.size(); i++)
        targets += i != second && ids[i] >= 0;  // no document's first, and no prompt
    std::vector<float> weights(ids.size(), targets > 0 ? lm_weight_ / static_cast<float>(targets) : 0.0f);
    weights[second] = 0;
    examples.add(ids, weights, {value, static_cast<int>(second), LabelOf::text, value});
}

bool Labels::begin(LabelOf example) {
    if (!of_) {
        if (example == LabelOf::pair && !head_.regression())
            throw Error("which of two is better, a head of one number says; the model has none");
        if (example == LabelOf::nothing && !head_.regression()) return false;
        of_ = example;
    }
    return true;
}

void Labels::add_preference(const std::string& prompt, const std::string& chosen, const std::string& rejected,
                            const Template& chat, const Tokenizer& tokenizer, Examples& examples) {
    if (chosen == rejected) throw Error("chosen and rejected are the same text");
    const size_t room = static_cast<size_t>(T_ / 2);
    std::vector<int> ids, other;
    std::vector<float> weights, other_weights;
    marked_tokens(chat.completion(prompt, chosen), tokenizer, ids, weights);
    marked_tokens(chat.completion(prompt, rejected), tokenizer, other, other_weights);
    const bool cut = cut_example(ids, weights, room), other_cut = cut_example(other, other_weights, room);
    if (ids == other || ids.size() < 2 || other.size() < 2) {  // nothing tells them apart
        examples.left_out++;
        return;
    }
    examples.cut += cut || other_cut;
    weights[0] = other_weights[0] = 0;
    if (!references_) {
        float targets = 0;
        for (float w : weights) targets += w;
        for (float& w : weights) w *= targets > 0 ? lm_weight_ / targets : 0;
        std::fill(other_weights.begin(), other_weights.end(), 0.0f);
    }
    const int second = static_cast<int>(ids.size());
    ids.insert(ids.end(), other.begin(), other.end()),
        weights.insert(weights.end(), other_weights.begin(), other_weights.end());
    examples.add(ids, weights, {1, second, LabelOf::pair, -1});
}

void Labels::add_unknown(const MarkedText& text, const Tokenizer& tokenizer, Examples& examples) {
    std::vector<int> ids;
    std::vector<float> weights;
    marked_tokens(text, tokenizer, ids, weights);
    examples.cut += cut_example(ids, weights, static_cast<size_t>(T_));
    if (ids.empty()) throw Error("the text has no token");
    std::fill(weights.begin(), weights.end(), 0.0f);
    examples.add(ids, weights, {0, 0, LabelOf::nothing});
}

HeadConfig Labels::head(Examples& examples) {
    if (head_.outputs > 0) return head_;
    std::vector<std::string> names;
    for (const auto& [name, unused] : found_) names.push_back(name);
    if (names.size() < 2)
        throw Error(
            strf("all examples have the label '%s': a classification wants two classes at least (--labels names "
                 "some that the data lacks)",
                 names.empty() ? "" : printable(names[0]).c_str()));
    double x, y;
    if (std::all_of(names.begin(), names.end(), [&](const std::string& name) { return read_number(name, &x); }))
        std::stable_sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
            return read_number(a, &x) && read_number(b, &y) && x < y;
        });
    std::vector<float> place(names.size());
    for (size_t i = 0; i < names.size(); i++) place[static_cast<size_t>(found_[names[i]])] = static_cast<float>(i);
    for (ExampleLabel& label : examples.labels) label.value = label.other = place[static_cast<size_t>(label.value)];
    head_.outputs = static_cast<int>(names.size()), head_.labels = names;
    return head_;
}
