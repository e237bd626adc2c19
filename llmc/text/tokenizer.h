// GPT-2's tokenizer: byte-level byte-pair encoding.   (Radford et al. 2019, section 2.2; Sennrich et al. 2016)
//
// Text is split into pieces (splitter.h), each piece becomes bytes, and the pairs of neighbours with the lowest rank in
// the merge list are joined until none is left (bpe.h). A vocabulary is read from vocab.json and merges.txt
// (vocabulary.h). Any bytes can be encoded; decode(encode(x)) == x for every x, valid UTF-8 or not.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct Vocabulary;

class Tokenizer {
  public:
    // Reads DIR/vocab.json and DIR/merges.txt. Error (file and line named) if they are missing or inconsistent.
    static Tokenizer load(const std::string& dir);
    static bool present(const std::string& dir);  // both files are there
    void save(const std::string& dir) const;      // writes vocab.json and merges.txt, each whole or not at all
    static constexpr const char* kFiles[] = {"vocab.json", "merges.txt"};
    // A new vocabulary: 256 bytes, the tokens of the merges, <|endoftext|> (make_vocabulary in vocabulary.h).
    static Tokenizer from_merges(const std::vector<std::pair<int, int>>& merges);

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

  private:
    explicit Tokenizer(Vocabulary vocabulary);
    std::unique_ptr<const Vocabulary> v_;
};
