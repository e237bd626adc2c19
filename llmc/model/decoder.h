// Sampling: the keys and values of several texts, and their logits as they grow, many texts at once.
//
// A pass takes B texts and T new tokens of each: pieces of prompts, or the one token by which each text has grown. Each
// text has a length of its own. So few rows are bound by memory, where each weight is then read once for all of them.
// The model may be one in training: a Decoder has memory of its own, and reads the weights as they are.
#pragma once
#include <algorithm>
#include <map>
#include <utility>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/model/activations.h"
#include "llmc/model/arguments.h"
#include "llmc/model/batch.h"
#include "llmc/model/config.h"

// Rows that attention takes at once in sampling, and so the longest piece of a prompt.
inline int decode_rows(const ModelConfig& m) { return std::min(m.T, 128); }

// B texts, T queries of each, to a cache of so many positions a text; q stands in qkv (B,T,3C), out (B,T,C).
inline AttentionShape decode_shape(const ModelConfig& m, int B, int T, int capacity) {
    const int64_t C = m.C;
    return {B, T, capacity, m.NH, m.NH, m.HS(), 3 * C, C, C, 3 * T * C, capacity * C, T * C};
}

// n more tokens of a text.
struct Feed {
    int text;  // 0, 1, 2 ... of those that there is room for
    const int* tokens;
    int n;
};

template <class M>
class Decoder {
    using X = typename M::Storage;
    using Arena = typename M::Device::Arena;

  public:
    const int texts, capacity;  // room for so many, of at most so many tokens each

    Decoder(M& model, int texts_, int capacity_)
        : Decoder(model.config(), texts_, capacity_, model.options().adapters) {
        model_ = &model;
        arena_.allocate("the keys and values of the texts that are sampled", false);
        acts_.allocate("the activations of sampling", false);
    }
    // Bytes of one. Nothing is allocated.
    static size_t bytes(const ModelConfig& m, int texts, int capacity, const std::vector<AdapterConfig>& adapters) {
        Decoder d(m, texts, capacity, adapters);
        return d.arena_.bytes() + d.acts_.arena.bytes();
    }
    Decoder(const Decoder&) = delete;

    const ModelConfig& config() const { return m_; }
    int length(int text) const { return lengths_[static_cast<size_t>(text)]; }
    // Forgets all but the first n tokens of a text.
    void keep(int text, int n) {
        CHECK(n <= length(text), "n=%d length=%d", n, length(text));
        lengths_[static_cast<size_t>(text)] = n;
    }
    // Gives a text the first n tokens of another one, with what has been computed of them.
    void copy(int to, int from, int n) {
        CHECK(n <= length(from), "n=%d length=%d", n, length(from));
        for (const auto* cache : {&k_, &v_})
            for (X* layer : *cache)
                model_->machine().copy(layer + to * text_size(), layer + from * text_size(),
                                       static_cast<size_t>(n) * static_cast<size_t>(m_.C));
        lengths_[static_cast<size_t>(to)] = n;
    }

    // Feeds texts and returns the logits (feeds,V) after the last token of each.
    const float* decode(const std::vector<Feed>& feeds) {
        auto& machine = model_->machine();
        machine.use_workspace();
        plan(feeds);
        model_->encode_prompts();
        for (const Pass& pass : passes_) {
            machine.copy_in(input_, pass.input.data(), pass.input.size());
            const auto work = [&] { run(pass.B, pass.T); };
            if (pass.T == 1 && model_->passes_repeat())
                one_token_[{pass.B, model_->adapter()}].run(model_->stream(), work);
            else work();
        }
        const int n = static_cast<int>(feeds.size()), V = m_.words(), Vp = m_.Vp();
        model_->lm_head(acts_.logits, last_, n);
        model_->finish();
        logits_.resize(static_cast<size_t>(texts) * static_cast<size_t>(Vp));  // once: such memory comes as fresh pages
        machine.copy_out(logits_.data(), acts_.logits, static_cast<size_t>(n) * static_cast<size_t>(Vp));
        for (int i = 1; i < n; i++) std::copy_n(logits_.begin() + int64_t(i) * Vp, V, logits_.begin() + int64_t(i) * V);
        return logits_.data();
    }
    // Text 0 alone; reset: from its beginning.
    const float* decode(const int* tokens, int n, bool reset) {
        if (reset) keep(0, 0);
        return decode({{0, tokens, n}});
    }

    // For run_blocks, of layer l: the keys and values in qkv (B,T,3C) join the cache, the queries see all of their text.
    void attention(X* out, const X* qkv, int l, int B, int T) {
        const Where at = where(B, T);
        const int C = m_.C, most = std::max(1, decode_rows(m_) / T);
        X *k = k_[static_cast<size_t>(l)], *v = v_[static_cast<size_t>(l)];
        append_to_cache(k, v, qkv, B, T, C, capacity, at.texts, at.positions, model_->stream());
        for (int b = 0; b < B; b += most) {
            AttentionShape shape = decode_shape(m_, std::min(most, B - b), T, capacity);
            shape.divisor = m_.score_divisor(l);
            attention_decode(out + b * shape.out_batch, qkv + b * shape.q_batch, k, v, shape, at.texts + b,
                             at.positions + b * T, model_->stream());
        }
    }

  private:
    // What the layers read of a pass: tokens, positions (B,T); each text's place in the cache, and the row of `last` that
    // its newest token is for, (B).
    struct Where {
        int *tokens, *positions, *texts, *outputs;
    };
    struct Pass {
        int B, T;
        std::vector<int> input;  // the four arrays
    };

    Decoder(const ModelConfig& m, int texts_, int capacity_, const std::vector<AdapterConfig>& adapters)
        : texts(texts_),
          capacity(std::min(capacity_, m.T)),
          m_(m),
          rows_(std::max(decode_rows(m), texts)),
          k_(static_cast<size_t>(m.L)),
          v_(static_cast<size_t>(m.L)),
          lengths_(static_cast<size_t>(texts)),
          acts_(m, rows_, texts, false, 0, adapters) {
        for (auto* cache : {&k_, &v_})
            for (X*& layer : *cache) arena_.add(&layer, texts * text_size());
        arena_.add(&last_, int64_t(texts) * m.C);
        arena_.add(&input_, 4 * int64_t(rows_));
    }
    int64_t text_size() const { return int64_t(capacity) * m_.C; }
    Where where(int B, int T) const {
        const int N = B * T;
        return {input_, input_ + N, input_ + 2 * N, input_ + 2 * N + B};
    }

    // The passes that the tokens need. Each takes all texts that have tokens left, and as many of each as the one with
    // the fewest has.
    void plan(const std::vector<Feed>& feeds) {
        CHECK(std::ssize(feeds) <= texts, "%zu feeds, room for %d", feeds.size(), texts);
        for (const Feed& f : feeds)
            CHECK(f.text >= 0 && f.text < texts && f.n > 0 && length(f.text) + f.n <= capacity,
                  "text %d of %d, n=%d, room for %d", f.text, texts, f.n, capacity);
        passes_.clear();
        for (std::vector<int> fed(feeds.size());;) {
            std::vector<size_t> in;
            int T = decode_rows(m_);
            for (size_t i = 0; i < feeds.size(); i++)
                if (fed[i] < feeds[i].n) in.push_back(i), T = std::min(T, feeds[i].n - fed[i]);
            if (in.empty()) return;
            const int B = static_cast<int>(in.size());
            T = std::min(T, std::max(1, rows_ / B));
            Pass& pass = passes_.emplace_back(Pass{B, T, {}});
            const auto add = [&](int x) { pass.input.push_back(x); };
            for (size_t i : in)
                for (int t = 0; t < T; t++) add(feeds[i].tokens[fed[i] + t]);
            for (size_t i : in)
                for (int t = 0; t < T; t++) add(length(feeds[i].text) + t);
            for (size_t i : in) add(feeds[i].text);
            for (size_t i : in) add(static_cast<int>(i));
            for (size_t i : in) lengths_[static_cast<size_t>(feeds[i].text)] += T, fed[i] += T;
        }
    }
    void run(int B, int T) {
        const Where at = where(B, T);
        model_->run_blocks(acts_, {at.tokens, nullptr, nullptr, nullptr, at.positions}, B, T, false, this);
        take_last_rows(last_, acts_.h.back().ln1, at.outputs, B, T, m_.C, model_->stream());
    }

    M* model_ = nullptr;
    const ModelConfig m_;
    const int rows_;         // B*T of a pass at most
    std::vector<X*> k_, v_;  // L of (texts, capacity, C)
    X* last_ = nullptr;      // (texts, C) of each text that is fed, what goes into the LM head after its newest token
    int* input_ = nullptr;   // of the pass at hand
    std::vector<int> lengths_;  // tokens of each text in the cache
    std::vector<Pass> passes_;  // they stay until all copies from them are done
    std::vector<float> logits_;
    Arena arena_;
    Activations<X, Arena> acts_;
    // By B and adapter: a pass of one token each, which a GPU captures
    std::map<std::pair<int, size_t>, typename M::Device::Work> one_token_;
};
// Of whatever was made of a GPT2.
template <class M>
Decoder(M&, int, int) -> Decoder<typename M::Model>;
