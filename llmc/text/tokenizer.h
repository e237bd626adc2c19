// GPT-2's tokenizer: byte-level byte-pair encoding.   (Radford et al. 2019, section 2.2; Sennrich et al. 2016)
//
// Text is split into pieces (splitter.h), each piece becomes bytes, and the pairs of neighbours with the lowest rank in
// the merge list are joined until none is left (bpe.h). Which files a vocabulary may have: vocabulary.h. With all 256 bytes
// in it, any bytes can be encoded, and decode(encode(x)) == x for every x, valid UTF-8 or not.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct PieceCache;
struct Vocabulary;

class Tokenizer {
  public:
    // Error (file and line named) if the directory's files are missing or inconsistent.
    static Tokenizer load(const std::string& dir);
    static bool present(const std::string& dir);  // a vocabulary is there
    // Writes a data set's vocabulary, each file whole or not at all; returns the files' names.
    std::vector<std::string> save(const std::string& dir) const;
    const Vocabulary& vocabulary() const { return *v_; }  // for those who write it in a form of their own
    // The files that a model directory has of it; context: the model's longest.
    std::map<std::string, std::string> model_files(int context) const;
    // A new vocabulary: 256 bytes, the tokens of the merges, <|endoftext|> (make_vocabulary in vocabulary.h).
    static Tokenizer from_merges(const std::vector<std::pair<int, int>>& merges);
    // This one, which lacks no bytes, with more merges behind its own, whose new words come after all ids (extend_vocabulary in vocabulary.h).
    Tokenizer extended(const std::vector<std::pair<int, int>>& merges) const;

    Tokenizer(Tokenizer&&) noexcept;
    Tokenizer& operator=(Tokenizer&&) noexcept;
    ~Tokenizer();

    bool same(const Tokenizer& other) const;        // same tokens, ids and merges
    bool within(const Tokenizer& other) const;      // the same, but the other may have more added tokens
    bool extends(const Tokenizer& old) const;       // all of old's ids and merges, and perhaps more behind them
    bool lacks_bytes() const;                       // some bytes have no token
    int vocab_size() const;                         // largest id + 1
    int end_of_text() const;                        // id of <|endoftext|> or what stands for it; -1: there is none
    int begin_of_text() const;                      // the same, where the vocabulary names no other token for it
    const std::vector<int>& ends() const;           // ids at which a model stops
    const std::vector<std::string>& notes() const;  // lines for the user
    std::string_view bytes(int id) const;           // of one token; empty for an id that has none

    // Appends the ids of `text` as ordinary text ("<|endoftext|>" in it is thirteen characters, not the special token).
    // Thread-safe; each thread keeps a cache of pieces of its own.
    void encode(std::string_view text, std::vector<int>& ids) const;
    // The same of one piece, by the merges alone.
    void merge(std::string_view piece, std::vector<int>& ids) const;
    bool is_added(const std::string& bytes) const;  // as a token that is found in text before anything is split
    // Where a piece that begins with `part` and goes on after it can be cut: the ids of both sides are those of the whole.
    // That holds wherever a merge list was trained, so that tokens are made of tokens with lower ranks.
    // before: gets the ids of the left one.
    size_t safe_cut(std::string_view part, std::vector<int>* before = nullptr) const;
    // Where an added word begins, no special token, that a cut of `text`, which goes on, at `cut` would touch; npos: none.
    size_t word_at(std::string_view text, size_t cut) const;
    // The same of a document or a part of one (begins: the first), with the words that were added to the vocabulary, and
    // the space in front that some vocabularies want.
    void encode_document(std::string_view text, bool begins, std::vector<int>& ids) const {
        encode_added(text, begins, {}, ids);
    }
    // The same, and special tokens become their ids, too: for prompts that a person types. Some vocabularies want a token
    // in front of them.
    void encode_with_special(std::string_view text, std::vector<int>& ids) const;
    // A document of which special tokens are found only where each byte of them is marked: markup[i] != 0 for text[i].
    // ends: where in the text each id ends.
    void encode_marked(std::string_view text, std::string_view markup, std::vector<int>& ids,
                       std::vector<size_t>& ends) const {
        encode_added(text, true, markup, ids, &ends);
    }
    std::string decode(const std::vector<int>& ids) const;

    // How a model directory writes conversations, as Jinja (template.h); "": it does not say.
    std::string chat_template() const;
    void set_chat_template(const std::string& jinja);

  private:
    explicit Tokenizer(Vocabulary vocabulary);
    void encode_piece(PieceCache& cache, const uint8_t* piece, size_t size, const uint8_t* end,
                      std::vector<int>& ids) const;
    void encode_part(PieceCache& cache, const uint8_t* part, size_t size, const uint8_t* end,
                     std::vector<int>& ids) const;
    void encode_added(std::string_view text, bool begins, std::string_view markup, std::vector<int>& ids,
                      std::vector<size_t>* ends = nullptr) const;
    std::unique_ptr<Vocabulary> v_;
};
