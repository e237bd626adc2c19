// GPT-2's tokenizer: byte-level byte-pair encoding.            (Radford et al. 2019, section 2.2; Sennrich et al. 2016)
//
// Text is split into pieces by GPT-2's pattern (contractions, letters, numbers, other symbols, spaces), each piece
// becomes bytes, and the pairs of neighbours with the lowest rank in the merge list are joined until none is left. Any
// bytes can be encoded; decode(encode(x)) == x for every x, valid UTF-8 or not.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

class Tokenizer {
  public:
    // Reads Hugging Face's DIR/vocab.json and DIR/merges.txt. Error (file and line named) if they are missing or
    // inconsistent.
    static Tokenizer load(const std::string& dir);
    static bool present(const std::string& dir);  // both files are there
    void save(const std::string& dir) const;      // writes vocab.json and merges.txt, each whole or not at all

    Tokenizer(Tokenizer&&) noexcept;
    Tokenizer& operator=(Tokenizer&&) noexcept;
    ~Tokenizer();

    bool same(const Tokenizer& other) const;  // same tokens, ids and merges
    int vocab_size() const;                   // largest id + 1
    int end_of_text() const;                  // id of <|endoftext|>
    std::string_view bytes(int id) const;     // of one token; empty for an id that has none
    // Appends the ids of `text` as ordinary text ("<|endoftext|>" in it is thirteen characters, not the special token).
    // Thread-safe; each thread keeps a cache of pieces of its own.
    void encode(std::string_view text, std::vector<int>& ids) const;
    // The same, but "<|endoftext|>" becomes the special token: for prompts that a person types.
    void encode_with_special(std::string_view text, std::vector<int>& ids) const;
    std::string decode(const std::vector<int>& ids) const;

    // A new vocabulary: the 256 bytes in GPT-2's order (ids 0 to 255), the token of each merge (a pair of ids that
    // exist by then; the same bytes made twice are one token), and <|endoftext|> as the last id.
    static Tokenizer from_merges(const std::vector<std::pair<int, int>>& merges);

  private:
    Tokenizer();
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

// Splits off the first piece of `text` by GPT-2's pattern; returns its length in bytes (0 only for empty text).
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// Bytes that are no valid UTF-8 count as symbols. Letters, numbers and spaces are those of the Unicode version named in
// llmc/text/unicode_table.h.
size_t next_piece(std::string_view text);

// The last position at which `text`, the beginning of something longer, can be cut so that both sides encode to the
// same ids apart as together; 0 if there is none.
size_t last_safe_cut(std::string_view text);

// Holds back bytes of an unfinished UTF-8 sequence, so that a stream of tokens prints as whole characters only. Bytes
// that can be no part of a character become U+FFFD, one for each maximal part (Unicode 16, section 3.9, table 3-8).
class Utf8Stream {
  public:
    std::string push(std::string_view bytes);  // what can be printed now
    std::string flush();                       // the rest; an unfinished sequence becomes one U+FFFD
  private:
    std::string pending_;
};
