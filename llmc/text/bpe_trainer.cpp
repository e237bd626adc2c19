#include "llmc/text/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/text/splitter.h"

void count_pieces(std::string_view text, PieceCounts& counts) {
    while (!text.empty()) {
        const std::string_view piece = text.substr(0, std::min(next_piece(text), kUnbroken));
        const auto found = counts.find(piece);
        if (found != counts.end()) ++found->second;
        else counts.emplace(piece, 1);
        text.remove_prefix(piece.size());
    }
}

void BpeTrainer::add(const PieceCounts& counts) {
    for (const auto& [piece, count] : counts) counts_[piece] += count;
    for (int64_t rare = 1; counts_.size() > max_pieces_ && rare < INT64_MAX / 2; rare *= 2) {
        // Each round drops what occurred at most `rare` times, so that what is left depends on the counts alone.
        std::erase_if(counts_, [&](const auto& entry) {
            if (entry.second > rare) return false;
            dropped_ += entry.second;
            return true;
        });
        if (counts_.size() <= max_pieces_ / 2) break;
    }
}

namespace {

using Pair = std::pair<int, int>;

uint64_t pair_key(int left, int right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Word {
    size_t begin, size;  // its ids, in one long vector
    int64_t count;
};

struct PairInfo {
    int64_t count = 0;
    std::vector<uint32_t> words;  // that hold it, or once did
};

struct Candidate {
    int64_t count;
    Pair pair;
    bool operator<(const Candidate& other) const {  // std::priority_queue puts the largest first
        return count != other.count ? count < other.count : pair > other.pair;
    }
};

}  // namespace

Tokenizer BpeTrainer::train(int vocab_size, int64_t min_frequency) const {
    if (vocab_size < 257)
        throw UsageError(
            strf("--vocab-size %d: a vocabulary has at least 257 tokens (256 bytes and <|endoftext|>)", vocab_size));
    const Tokenizer bytes = Tokenizer::from_merges({});
    std::vector<std::string> tokens;
    for (int id = 0; id < 256; ++id) tokens.emplace_back(bytes.bytes(id));
    return Tokenizer::from_merges(merges(bytes, std::move(tokens), vocab_size - 1, min_frequency));
}

Tokenizer BpeTrainer::extend(const Tokenizer& old, int vocab_size, int64_t min_frequency) const {
    std::vector<std::string> tokens;
    for (int id = 0; id < old.vocab_size(); ++id) tokens.emplace_back(old.bytes(id));
    return old.extended(merges(old, std::move(tokens), vocab_size, min_frequency));
}

std::vector<std::pair<int, int>> BpeTrainer::merges(const Tokenizer& start, std::vector<std::string> tokens, int size,
                                                    int64_t min_frequency) const {
    std::vector<std::pair<std::string_view, int64_t>> pieces(counts_.begin(), counts_.end());
    std::sort(pieces.begin(), pieces.end());
    CHECK(pieces.size() < UINT32_MAX, "%zu pieces", pieces.size());
    const int old = static_cast<int>(tokens.size());
    std::unordered_map<std::string, int> ids;
    for (int id = 0; id < old; ++id) ids.emplace(tokens[static_cast<size_t>(id)], id);

    std::vector<int> symbols;
    std::vector<Word> words;
    std::unordered_map<uint64_t, PairInfo> pairs;
    const auto count_pair = [&](int left, int right, int64_t change, uint32_t word) {
        PairInfo& info = pairs[pair_key(left, right)];
        info.count += change;
        if (change > 0 && (info.words.empty() || info.words.back() != word)) info.words.push_back(word);
    };
    for (const auto& [piece, count] : pieces) {
        const uint32_t word = static_cast<uint32_t>(words.size());
        const size_t begin = symbols.size();
        start.merge(piece, symbols);
        words.push_back({begin, symbols.size() - begin, count});
        for (size_t i = words[word].begin; i + 1 < symbols.size(); ++i)
            count_pair(symbols[i], symbols[i + 1], count, word);
    }

    std::priority_queue<Candidate> heap;
    for (const auto& [key, info] : pairs)
        heap.push({info.count, {static_cast<int>(key >> 32), static_cast<int>(key & UINT32_MAX)}});

    std::vector<Pair> made;
    while (static_cast<int>(tokens.size()) < size && !heap.empty()) {
        Candidate best = heap.top();
        heap.pop();
        const auto [left, right] = best.pair;
        const auto found = pairs.find(pair_key(left, right));
        if (found == pairs.end()) continue;       // merged before
        if (found->second.count != best.count) {  // stale
            best.count = found->second.count;
            if (best.count > 0) heap.push(best);
            continue;
        }
        if (best.count < min_frequency) break;

        std::string joined = tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)];
        const auto [place, is_new] = ids.emplace(std::move(joined), static_cast<int>(tokens.size()));
        const int token = place->second;
        if (token < old || (is_new && start.is_added(place->first))) {
            if (is_new) ids.erase(place);
            pairs.erase(found);
            continue;
        }
        if (is_new) tokens.push_back(place->first);
        made.push_back(best.pair);

        const std::vector<uint32_t> where = std::move(found->second.words);
        pairs.erase(found);
        std::vector<uint64_t> grown;
        const auto grow = [&](int a, int b, int64_t count, uint32_t word) {
            count_pair(a, b, count, word);
            grown.push_back(pair_key(a, b));
        };
        const auto shrink = [&](int a, int b, int64_t count) {
            const auto info = pairs.find(pair_key(a, b));
            if (info != pairs.end()) info->second.count -= count;  // the pair being merged is no longer there
        };
        for (uint32_t w : where) {
            Word& word = words[w];
            int* s = symbols.data() + word.begin;
            size_t out = 0;
            for (size_t i = 0; i < word.size; ++out) {
                if (i + 1 < word.size && s[i] == left && s[i + 1] == right) {
                    if (out > 0) {
                        shrink(s[out - 1], left, word.count);
                        grow(s[out - 1], token, word.count, w);
                    }
                    if (i + 2 < word.size) {
                        shrink(right, s[i + 2], word.count);
                        grow(token, s[i + 2], word.count, w);
                    }
                    s[out] = token;
                    i += 2;
                } else {
                    s[out] = s[i++];
                }
            }
            word.size = out;
        }
        std::sort(grown.begin(), grown.end());
        grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
        for (uint64_t key : grown)
            heap.push({pairs[key].count, {static_cast<int>(key >> 32), static_cast<int>(key & UINT32_MAX)}});
    }
    return made;
}
