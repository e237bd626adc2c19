// Tokens' ids by their spelling: a small table with open addressing, as a vocabulary is read at every start.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

class TokenIds {
  public:
    explicit TokenIds(const std::vector<std::pair<std::string, int>>& vocab)
        : vocab_(vocab), slots_(std::bit_ceil(2 * vocab.size() + 2)) {}
    // Of vocab[i]; returns the id that its spelling has already, or null.
    const int* insert(size_t i) {
        uint32_t hash;
        Slot& slot = slots_[place(vocab_[i].first, &hash)];
        if (slot.index >= 0) return &vocab_[static_cast<size_t>(slot.index)].second;
        slot = {hash, static_cast<int>(i)};
        return nullptr;
    }
    const int* find(std::string_view text) const {
        uint32_t hash;
        const int i = slots_[place(text, &hash)].index;
        return i < 0 ? nullptr : &vocab_[static_cast<size_t>(i)].second;
    }

  private:
    struct Slot {
        uint32_t hash = 0;
        int index = -1;  // in vocab
    };
    size_t place(std::string_view text, uint32_t* hash) const {
        uint64_t h = text.size();
        for (std::string_view rest = text; !rest.empty(); rest.remove_prefix(std::min<size_t>(rest.size(), 8))) {
            uint64_t word = 0;
            std::memcpy(&word, rest.data(), std::min<size_t>(rest.size(), 8));
            h = (h ^ h >> 32 ^ word) * 0x9E3779B97F4A7C15ull;
        }
        *hash = static_cast<uint32_t>(h >> 32);
        for (size_t i = *hash;; ++i) {
            const Slot& slot = slots_[i &= slots_.size() - 1];
            if (slot.index < 0 || (slot.hash == *hash && vocab_[static_cast<size_t>(slot.index)].first == text))
                return i;
        }
    }
    const std::vector<std::pair<std::string, int>>& vocab_;
    std::vector<Slot> slots_;
};
