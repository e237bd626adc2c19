// A vocabulary: the bytes of each token, the merges that make it, and the tokens that no merge makes; how it is read from
// files and written.
//
// Files are one of tokenizer.json (Hugging Face tokenizers), vocab.json ({"token": id, ...}) and merges.txt (a pair of
// tokens a line, in order of rank), encoder.json and vocab.bpe (the same two by OpenAI's names). What they lack stands in
// tokenizer_config.json, special_tokens_map.json, added_tokens.json, and config.json (the end-of-text token). In all of
// them, bytes are spelled as characters: a printable one of Latin-1 stands for itself, the others for U+0100 and up, so
// that " the" is "Ġthe".                                                                          (GPT-2's encoder.py)
// A vocabulary may have added tokens and nothing else, for tokens that are not text: what stands between them is an error.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/model/config.h"
#include "llmc/text/bpe.h"

// A token that is found in text as it stands, before anything is split: <|endoftext|>, <pad>, "<|user|>".
struct AddedToken {
    std::string text;
    int id = -1;
    bool special = true;  // not a word: ordinary text never becomes one unless somebody asks for it
    bool lstrip = false, rstrip = false,
         single_word = false;  // takes the white space before, behind; not within a word
    bool operator==(const AddedToken&) const = default;
};

struct Vocabulary {
    std::vector<std::string> tokens;         // bytes of each id; empty for an id that has none
    std::vector<std::array<int, 2>> merges;  // in order of rank
    BytePairs bpe;                           // the same merges, for encoding
    size_t longest = 0;                      // bytes of a token that a merge makes
    std::vector<AddedToken> added;           // by id
    std::unordered_map<std::string_view, const AddedToken*> added_by_text;  // a Tokenizer fills in these two
    std::array<std::vector<size_t>, 256> added_lengths;                     // by first byte, the longest first
    std::map<std::string, std::string> named;                               // "eos_token" -> "</s>"
    int end_of_text = -1;                                                   // stands between documents; -1: it has none
    int begin_of_text = -1;           // the same, where no other token is named for that
    std::vector<int> ends;            // at which a model stops
    bool prefix_space = false;        // a text begins as a word within it does
    bool lacks_bytes = false;         // the id size() stands for a byte that has no token, or
    std::string unknown;              // this token does
    bool words_alone = false;         // no byte has one: its words stand for what is not text
    std::vector<std::string> notes;   // what a user should know of it
    std::string config;               // tokenizer_config.json as it was found, or ""
    std::string post_processor;       // of tokenizer.json, the same
    std::vector<int> before_prompts;  // what these two put in front of a text that a person gives
    uint64_t serial = PieceCache::new_owner();

    int size() const { return static_cast<int>(tokens.size()); }
    // Of the next rank, makes `result`, of the bytes `made`. False if the pair has a rank.
    bool add_merge(int left, int right, int result, std::string_view made) {
        if (!bpe.pairs.insert(left, right, static_cast<int>(merges.size()), result)) return false;
        merges.push_back({left, right});
        longest = std::max(longest, made.size());
        for (size_t i = 1; i < made.size(); ++i)
            bpe.may_join(static_cast<uint8_t>(made[i - 1]), static_cast<uint8_t>(made[i]));
        return true;
    }
};

// All that may say something of a vocabulary, config.json apart.
inline constexpr const char* kVocabularyFiles[] = {
    "tokenizer.json",          "vocab.json",       "merges.txt", "encoder.json", "vocab.bpe", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json"};

bool vocabulary_present(const std::string& dir);
std::string merges_text(const std::string& dir);  // of a vocabulary that is present, a line each
// It is of another kind than GPT-2's.
struct OtherVocabulary : Error {
    using Error::Error;
};
// Error (file and line named) if files are missing or do not fit together; OtherVocabulary.
Vocabulary load_vocabulary(const std::string& dir);

// The files of a vocabulary, name -> text: vocab.json and merges.txt, and, where it has more than these two can say,
// tokenizer_config.json and tokenizer.json; for_model: all of them, and special_tokens_map.json. context: the longest
// that the model has; 0: leave it as it is.
std::map<std::string, std::string> vocabulary_files(const Vocabulary& vocabulary, bool for_model, int context);

// GPT-2's spelling of bytes.
std::string spell_bytes(std::string_view bytes);
bool read_spelled(std::string_view spelled, std::string* bytes);  // false: a character of it is none of the alphabet

// The 256 bytes in GPT-2's order (ids 0 to 255), the token of each merge (a pair of ids that exist by then; the same
// bytes made twice are one token), and <|endoftext|> as the last id.
Vocabulary make_vocabulary(const std::vector<std::pair<int, int>>& merges);
// `old` with more merges, in ranks after its own; the token of each, where its bytes are new, gets the next id.
Vocabulary extend_vocabulary(const Vocabulary& old, const std::vector<std::pair<int, int>>& merges);
