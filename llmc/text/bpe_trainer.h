// Trains a byte-level BPE vocabulary: the most frequent pair of neighbours becomes a token, again and again.
//                                  (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, algorithm 1)
//
// Text is reduced to its pieces (splitter.h) and how often each occurs; merges then work on the distinct pieces. Pair
// counts are updated only where a merge changed something, and the best pair comes from a heap whose stale entries are
// corrected when they surface. Where two pairs are equally frequent, the one with the smaller ids wins, as in Hugging
// Face tokenizers.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>
#include "llmc/text/tokenizer.h"

struct PieceHash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
};
using PieceCounts = std::unordered_map<std::string, int64_t, PieceHash, std::equal_to<>>;

// Adds the pieces of `text` to `counts`. Texts cut at last_safe_cut() count as if they were whole. Threads count apart.
void count_pieces(std::string_view text, PieceCounts& counts);

class BpeTrainer {
  public:
    // Memory is bounded: when there are more than `max_pieces` distinct pieces, the rarest are dropped until half are
    // left (lossy counting, Manku & Motwani 2002). 8 million take about 1 GB.
    explicit BpeTrainer(size_t max_pieces = size_t{8} << 20) : max_pieces_(max_pieces) {}
    // Same calls in the same order, same vocabulary; without drops the order does not matter either.
    void add(const PieceCounts& counts);
    int64_t pieces() const { return static_cast<int64_t>(counts_.size()); }
    int64_t dropped() const { return dropped_; }  // occurrences of dropped pieces

    // A vocabulary of `vocab_size` tokens: 256 bytes, merges, <|endoftext|>; smaller if no pair is left that occurs
    // `min_frequency` times. UsageError if vocab_size < 257.
    Tokenizer train(int vocab_size, int64_t min_frequency = 2) const;

    // The same for a vocabulary that goes on from `old`: pieces are first encoded with its merges, then merging continues.
    // Old ids and merges stay; new words come after all of them, the special ones included. A pair whose bytes are a word
    // already is not merged. `old` lacks no bytes.
    Tokenizer extend(const Tokenizer& old, int vocab_size, int64_t min_frequency = 2) const;

  private:
    // tokens: bytes of the ids that there are; grows to `size`. start: gives the ids of a piece.
    std::vector<std::pair<int, int>> merges(const Tokenizer& start, std::vector<std::string> tokens, int size,
                                            int64_t min_frequency) const;
    PieceCounts counts_;
    size_t max_pieces_;
    int64_t dropped_ = 0;
};
