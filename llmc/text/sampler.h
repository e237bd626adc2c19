// Sampling text from a model: one token from its logits, and a stream of tokens with a KV cache.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/base/philox.h"
#include "llmc/text/tokenizer.h"
#include "llmc/text/utf8.h"

struct SamplerOptions {
    float temperature = 1;  // 0: always the most likely token
    int top_k = 0;          // only the k most likely; 0: all
    float top_p = 1;  // only the most likely that together have probability p: the nucleus  (Holtzman et al. 2020)
    uint64_t seed = 1337;
};

// One token id from logits (V). `random` is a uniform number in [0, 1).
inline int sample_token(const float* logits, int V, const SamplerOptions& o, float random) {
    if (o.temperature <= 0) return static_cast<int>(std::max_element(logits, logits + V) - logits);
    struct Candidate {
        float logit;
        int id;
    };
    std::vector<Candidate> c(static_cast<size_t>(V));
    for (int i = 0; i < V; i++) c[static_cast<size_t>(i)] = {logits[i], i};
    auto likelier = [](const Candidate& a, const Candidate& b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    };
    if (o.top_k > 0 && o.top_k < V) {
        std::nth_element(c.begin(), c.begin() + o.top_k, c.end(), likelier);
        c.resize(static_cast<size_t>(o.top_k));
    }
    bool nucleus = o.top_p < 1;
    if (nucleus) std::sort(c.begin(), c.end(), likelier);
    float top = std::max_element(c.begin(), c.end(), [](auto& a, auto& b) { return a.logit < b.logit; })->logit;
    double sum = 0, kept = 0;
    std::vector<double> p(c.size());
    for (size_t i = 0; i < c.size(); i++)
        sum += p[i] = std::exp(static_cast<double>((c[i].logit - top) / o.temperature));
    size_t n = 0;
    while (n < c.size() && (n == 0 || !nucleus || kept < static_cast<double>(o.top_p) * sum)) kept += p[n++];
    double target = static_cast<double>(random) * kept, running = 0;
    for (size_t i = 0; i < n; i++)
        if ((running += p[i]) > target) return c[i].id;
    return c[n - 1].id;  // rounding: the last one
}

// What stands for an empty prompt: the beginning of a document, or of a line where nothing separates documents.
inline std::vector<int> empty_prompt(const Tokenizer& tokenizer) {
    std::vector<int> ids;
    if (tokenizer.end_of_text() >= 0) ids.push_back(tokenizer.end_of_text());
    else tokenizer.encode("\n", ids);
    if (ids.empty()) ids.push_back(0);
    return ids;
}

// Feeds `prompt`, of which it may be that only the last T tokens count, and samples up to `max_tokens` more; each new id
// goes to on_token, which returns false to stop. Where the context is full, generation goes on with the newer half of it. `sample` numbers the samples of one prompt, each
// with random numbers of its own.
template <class Decoder>
void generate(Decoder& decoder, const std::vector<int>& prompt, int max_tokens, const SamplerOptions& o,
              uint32_t sample, const std::function<bool(int)>& on_token) {
    int T = decoder.config().T;
    std::vector<int> context = prompt;  // what the cache holds, and tokens not yet fed at its end
    if (static_cast<int>(context.size()) > T) context.erase(context.begin(), context.end() - T);
    size_t fed = 0;
    for (int i = 0; i < max_tokens; i++) {
        if (static_cast<int>(context.size()) > T) {
            context.erase(context.begin(), context.end() - std::max(1, T / 2));
            fed = 0;
        }
        const float* logits = decoder.decode(&context[fed], static_cast<int>(context.size() - fed), fed == 0);
        fed = context.size();
        if (!std::all_of(logits, logits + decoder.config().V, [](float x) { return std::isfinite(x); }))
            throw Error("the model's logits are not finite: its training diverged; take an older checkpoint");
        Philox4 r = philox(o.seed, static_cast<uint32_t>(i), sample, 0, static_cast<uint32_t>(Use::sample) << 24);
        int id = sample_token(logits, decoder.config().V, o, uniform01(r.v[0]));
        if (!on_token(id)) return;
        context.push_back(id);
    }
}

// The text of up to max_tokens tokens after `prompt`, given piece by piece to `print` as whole UTF-8 characters;
// a token at which the model stops ends it. `tokenizer` may be null: ids are printed as numbers.
template <class Decoder>
void generate_text(Decoder& decoder, const Tokenizer* tokenizer, const std::vector<int>& prompt, int max_tokens,
                   const SamplerOptions& o, uint32_t sample, const std::function<void(const std::string&)>& print) {
    Utf8Stream stream;
    generate(decoder, prompt, max_tokens, o, sample, [&](int id) {
        if (tokenizer && std::count(tokenizer->ends().begin(), tokenizer->ends().end(), id)) return false;
        print(tokenizer ? stream.push(tokenizer->bytes(id)) : std::to_string(id) + " ");
        return true;
    });
    print(stream.flush());
}
