// A vocabulary: the bytes of each token, and the merges that make it; how it is read from files and written.
//
// Files are Hugging Face's vocab.json ({"token": id, ...}) and merges.txt (a pair of tokens a line, in order of rank).
// In both, bytes are spelled as characters: a printable one of Latin-1 stands for itself, the others for U+0100 and up,
// so that " the" is "Ġthe".                                                                  (GPT-2's encoder.py)
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
#include "llmc/model/config.h"
#include "llmc/text/bpe.h"

struct Vocabulary {
    std::vector<std::string> tokens;         // bytes of each id; empty for an id that has none
    std::vector<std::array<int, 2>> merges;  // in order of rank
    BytePairs bpe;                           // the same merges, for encoding
    int end_of_text = -1;
    uint64_t serial = PieceCache::new_owner();

    int size() const { return static_cast<int>(tokens.size()); }
    bool add_merge(int left, int right, int result) {  // of the next rank; false if the pair has one
        if (!bpe.pairs.insert(left, right, static_cast<int>(merges.size()), result)) return false;
        merges.push_back({left, right});
        return true;
    }
};

bool vocabulary_present(const std::string& dir);  // both files are there
// Error (file and line named) if they are missing or do not fit together.
Vocabulary load_vocabulary(const std::string& dir);
void save_vocabulary(const std::string& dir, const Vocabulary& vocabulary);  // each file whole or not at all

// The 256 bytes in GPT-2's order (ids 0 to 255), the token of each merge (a pair of ids that exist by then; the same
// bytes made twice are one token), and <|endoftext|> as the last id.
Vocabulary make_vocabulary(const std::vector<std::pair<int, int>>& merges);
