// Texts from a model, many at once: their tokens, and what becomes of those as text.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/base/parallel.h"
#include "llmc/base/philox.h"
#include "llmc/model/decoder.h"
#include "llmc/text/sampler.h"
#include "llmc/text/tokenizer.h"
#include "llmc/text/utf8.h"

// What stands for an empty prompt: the beginning of a document, or of a line where nothing separates documents.
inline std::vector<int> empty_prompt(const Tokenizer& tokenizer) {
    std::vector<int> ids;
    if (tokenizer.end_of_text() >= 0) ids.push_back(tokenizer.end_of_text());
    else tokenizer.encode("\n", ids);
    if (ids.empty()) ids.push_back(0);
    return ids;
}

// What stands in front of a text where a model has so many trained prompts.
inline std::vector<int> prompts_in_front(int n, std::vector<int> ids) {
    std::vector<int> front(static_cast<size_t>(n));
    for (int i = 0; i < n; i++) front[static_cast<size_t>(i)] = -1 - i;
    ids.insert(ids.begin(), front.begin(), front.end());
    return ids;
}

// A text to continue. `sample` numbers the samples of a prompt, each with random numbers of its own: those of (seed,
// token, sample), so that a text does not depend on which others are sampled beside it (but for rounding: products of
// more rows may add in another order).
struct Prompt {
    std::vector<int> ids;
    uint32_t sample = 0;
};
struct Drawn {
    int id;
    float logprob;  // the model's, before temperature, penalty and what else is in the options; 0 where nobody asked
};

// Samples texts with a Decoder, as many at a time as that has room for. What it has fed of texts that begin alike it does
// not feed again: samples of one prompt, or the turns of a conversation.
template <class Decoder>
class Generator {
  public:
    // Of text number i one token more; false: it ends.
    using OnToken = std::function<bool(size_t i, Drawn token)>;

    explicit Generator(Decoder& decoder) : d_(decoder), fed_(static_cast<size_t>(decoder.texts)) {}

    // Of a prompt that is longer than the model's context the last T tokens count. Where the context is full, a text goes
    // on with the newer half of it. Trained prompts in front stay there in both cases.
    void run(const std::vector<Prompt>& prompts, int max_tokens, const SamplerOptions& o, bool logprobs,
             const OnToken& on_token) {
        const ModelConfig& m = d_.config();
        const int V = m.words();
        size_t next = 0;
        std::vector<Text> texts;
        std::vector<int> places;
        for (int i = d_.texts; i-- > 0;) places.push_back(i);
        while (next < prompts.size() || !texts.empty()) {
            while (next < prompts.size() && !places.empty()) {
                const std::vector<int>& ids = prompts[next].ids;
                texts.push_back({next++, places.back(), ids, 0});
                forget(texts.back().context, std::ssize(ids) - m.T);
                places.pop_back();
            }
            const float* logits = feed(texts);
            std::vector<Drawn> drawn(texts.size());
            std::vector<char> finite(texts.size());
            parallel_for(std::ssize(texts), [&](int64_t i) {
                const Text& text = texts[static_cast<size_t>(i)];
                const float* x = logits + i * V;
                finite[static_cast<size_t>(i)] = std::all_of(x, x + V, [](float y) { return std::isfinite(y); });
                if (!finite[static_cast<size_t>(i)]) return;
                const Philox4 r = philox(o.seed, static_cast<uint32_t>(text.drawn), prompts[text.number].sample, 0,
                                         static_cast<uint32_t>(Use::sample) << 24);
                std::vector<float> changed;
                if (o.repetition_penalty != 1) {
                    changed.assign(x, x + V);
                    penalise_repetition(changed.data(), text.context, o.repetition_penalty);
                }
                const int id = sample_token(changed.empty() ? x : changed.data(), V, o, uniform01(r.v[0]));
                drawn[static_cast<size_t>(i)] = {id, logprobs ? log_probability(x, V, id) : 0};
            });
            if (std::count(finite.begin(), finite.end(), 0) > 0)
                throw Error("the model's logits are not finite: its training diverged; take an older checkpoint");
            for (size_t i = 0; i < texts.size(); i++) {
                Text& text = texts[i];
                text.ended = !on_token(text.number, drawn[i]) || ++text.drawn == max_tokens;
                if (text.ended) places.push_back(text.place);
                text.context.push_back(drawn[i].id);
                if (std::ssize(text.context) > m.T)
                    forget(text.context, std::ssize(text.context) - std::max(1, m.T / 2));
            }
            std::erase_if(texts, [](const Text& text) { return text.ended; });
        }
    }

  private:
    struct Text {
        size_t number;
        int place;                 // in the decoder
        std::vector<int> context;  // what the model sees
        int drawn;
        bool ended = false;
    };
    // The first n tokens of a text, but for trained prompts in front of it.
    static void forget(std::vector<int>& context, std::ptrdiff_t n) {
        const auto text = std::find_if(context.begin(), context.end(), [](int id) { return id >= 0; });
        const std::ptrdiff_t most = context.end() - text - 1;
        if (n > 0 && most > 0) context.erase(text, text + std::min(n, most));
    }
    static size_t common(const std::vector<int>& a, const std::vector<int>& b) {
        return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
    }

    // Logits (texts,V) after each context, of which only what the cache does not have is fed.
    const float* feed(const std::vector<Text>& texts) {
        constexpr size_t worth_a_copy = 16;  // tokens
        std::vector<Feed> first;
        std::vector<size_t> known(texts.size()), from(texts.size());
        for (size_t i = 0; i < texts.size(); i++) {
            const std::vector<int>& context = texts[i].context;
            from[i] = i, known[i] = std::min(common(fed_[place(texts[i])], context), context.size() - 1);
            d_.keep(texts[i].place, static_cast<int>(known[i])), fed_[place(texts[i])].resize(known[i]);
            if (context.size() - known[i] < worth_a_copy) continue;
            for (size_t j = 0; j < i; j++) {
                const std::vector<int>& other = texts[j].context;
                const size_t n = std::min(common(other, context), std::min(other.size(), context.size()) - 1);
                if (from[j] == j && n >= known[i] + worth_a_copy) known[i] = n, from[i] = j;
            }
            // The other text may have to be fed first, but for its last token, which it has in common with nobody.
            const Text& other = texts[from[i]];
            size_t& has = known[from[i]];
            if (from[i] == i || has >= known[i]) continue;
            first.push_back({other.place, &other.context[has], static_cast<int>(other.context.size() - 1 - has)});
            has = other.context.size() - 1;
        }
        if (!first.empty()) d_.decode(first);
        std::vector<Feed> feeds;
        for (size_t i = 0; i < texts.size(); i++) {
            const std::vector<int>& context = texts[i].context;
            if (from[i] != i) d_.copy(texts[i].place, texts[from[i]].place, static_cast<int>(known[i]));
            feeds.push_back({texts[i].place, &context[known[i]], static_cast<int>(context.size() - known[i])});
            fed_[place(texts[i])] = context;
        }
        return d_.decode(feeds);
    }
    static size_t place(const Text& text) { return static_cast<size_t>(text.place); }

    Decoder& d_;
    std::vector<std::vector<int>> fed_;  // what the cache has of each place
};

// A text as it grows: its tokens, and what of them can be printed, whole characters and nothing that a stop string may
// begin with. It ends before a stop string, or where the model stops.
class GrowingText {
  public:
    enum class End { length, end, stop };

    // tokenizer null: ids are printed as numbers.
    GrowingText(const Tokenizer* tokenizer, const std::vector<std::string>& stops)
        : tokenizer_(tokenizer), stops_(&stops) {}

    bool push(Drawn token) {  // false: it ends here
        tokens_.push_back(token);
        if (tokenizer_ && std::count(tokenizer_->ends().begin(), tokenizer_->ends().end(), token.id)) {
            end_ = End::end;
            return false;
        }
        const size_t before = bytes_.size();
        bytes_ += tokenizer_ ? std::string(tokenizer_->bytes(token.id)) : std::to_string(token.id) + " ";
        size_t cut = std::string::npos;
        free_ = bytes_.size();
        for (const std::string& stop : *stops_) {
            cut = std::min(cut, bytes_.find(stop, before < stop.size() ? 0 : before - (stop.size() - 1)));
            for (size_t n = std::min(stop.size() - 1, bytes_.size()); n > 0; n--)
                if (bytes_.ends_with(std::string_view(stop).substr(0, n))) {
                    free_ = std::min(free_, bytes_.size() - n);
                    break;
                }
        }
        if (cut == std::string::npos) return true;
        bytes_.resize(free_ = cut), end_ = End::stop;
        return false;
    }
    // What can be printed now, or, at the end, the rest.
    std::string take(bool last) {
        if (last) free_ = bytes_.size();
        std::string piece = stream_.push(std::string_view(bytes_).substr(taken_, free_ - taken_));
        taken_ = free_;
        if (last) piece += stream_.flush();
        text_ += piece;
        return piece;
    }

    const std::vector<Drawn>& tokens() const { return tokens_; }
    const std::string& text() const { return text_; }  // all that was taken
    End end() const { return end_; }
    double log_probability() const {  // of all tokens, the one that ended the text among them
        double sum = 0;
        for (const Drawn& t : tokens_) sum += static_cast<double>(t.logprob);
        return sum;
    }
    double mean_log_probability() const {
        return log_probability() / static_cast<double>(std::max<size_t>(1, tokens_.size()));
    }

  private:
    const Tokenizer* tokenizer_;
    const std::vector<std::string>* stops_;
    std::vector<Drawn> tokens_;
    std::string bytes_, text_;
    size_t free_ = 0, taken_ = 0;  // of bytes_
    Utf8Stream stream_;
    End end_ = End::length;
};

// One text alone, printed piece by piece.
template <class Decoder>
GrowingText generate_text(Generator<Decoder>& generator, const Tokenizer* tokenizer, const Prompt& prompt,
                          int max_tokens, const SamplerOptions& o, const std::vector<std::string>& stops,
                          const std::function<void(const std::string&)>& print) {
    GrowingText text(tokenizer, stops);
    generator.run({prompt}, max_tokens, o, true, [&](size_t, Drawn token) {
        const bool goes_on = text.push(token);
        print(text.take(false));
        return goes_on;
    });
    print(text.take(true));
    return text;
}
