// Encoding and decoding, with any vocabulary that a merge list makes, and vocabularies from files of others.
#include <algorithm>
#include "llmc/text/splitter.h"
#include "llmc/text/tokenizer.h"
#include "llmc/text/vocabulary.h"
#include "test/fuzz/fuzz.h"

using Ids = std::vector<int>;

static Ids encode(const Tokenizer& tokenizer, std::string_view text) {
    Ids ids;
    tokenizer.encode(text, ids);
    return ids;
}

// By definition: the leftmost pair of the lowest rank becomes one token, until there is none.
static Ids encode_by_definition(const Vocabulary& v, std::string_view text) {
    Ids all;
    for (; !text.empty(); text.remove_prefix(next_piece(text))) {
        Ids ids;
        for (char c : text.substr(0, next_piece(text))) ids.push_back(v.bpe.byte_id[static_cast<uint8_t>(c)]);
        for (size_t rank = 0; rank < v.merges.size();) {
            const auto [left, right] = v.merges[rank];
            size_t i = 0;
            while (i + 1 < ids.size() && !(ids[i] == left && ids[i + 1] == right)) i++;
            if (i + 1 >= ids.size()) {
                rank++;
                continue;
            }
            ids[i] = v.bpe.pairs.find(left, right)->result;
            ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
            rank = 0;
        }
        all.insert(all.end(), ids.begin(), ids.end());
    }
    return all;
}

FUZZ(tokenizer) {
    // A byte for the number of merges, two for each, and text.
    std::vector<std::pair<int, int>> merges;
    for (int n = take_byte(&input) % 32; n > 0; n--) {
        const Vocabulary so_far = make_vocabulary(merges);
        if (so_far.longest > 256) break;  // a token can be twice as long as the one before
        const int size = so_far.size() - 1, left = take_byte(&input), right = take_byte(&input);
        // bytes of two kinds in small vocabularies, so that tokens are made of tokens
        merges.push_back({left % 2 ? left / 2 % 4 + 64 : size - 1 - left / 2 % 8,
                          right % 2 ? right / 2 % 4 + 64 : size - 1 - right / 2 % 8});
    }
    const Vocabulary v = make_vocabulary(merges);
    const Tokenizer tokenizer = Tokenizer::from_merges(merges);
    const Ids ids = encode(tokenizer, input);
    CHECK(tokenizer.decode(ids) == input, "%zu ids", ids.size());
    CHECK(encode(tokenizer, input) == ids, "other ids the second time");
    CHECK(encode_by_definition(v, input) == ids, "%zu ids", ids.size());
    Ids special;
    tokenizer.encode_with_special(input, special);
    CHECK(tokenizer.decode(special) == input, "%zu ids", special.size());

    // One long piece, cut where that changes nothing.
    std::string piece;
    for (char c : input) piece += static_cast<char>('a' + static_cast<uint8_t>(c) % 4);
    if (piece.size() > 64 * std::max<size_t>(4, v.longest)) {
        const size_t cut = tokenizer.safe_cut(std::string_view(piece).substr(0, piece.size() / 2));
        Ids apart = encode(tokenizer, piece.substr(0, cut));
        tokenizer.encode(piece.substr(cut), apart);
        CHECK(apart == encode(tokenizer, piece), "cut at %zu of %zu", cut, piece.size());
    }
}

FUZZ(vocabulary) {
    const std::string dir = fresh_directory("vocabulary"), again = fresh_directory("again");
    put_files(input, dir,
              {"tokenizer.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "tokenizer_config.json",
               "special_tokens_map.json", "added_tokens.json", "config.json", "generation_config.json", "text"});
    std::string text = "The <s> cat's\n\n1, 2 \xE2\x82\xAC</s>";
    if (std::ifstream in(dir + "/text", std::ios::binary); in) text.assign(std::istreambuf_iterator<char>(in), {});
    merges_text(dir);
    const Vocabulary v = load_vocabulary(dir);
    const Tokenizer tokenizer = Tokenizer::load(dir);
    Ids plain = encode(tokenizer, text), document, prompt;
    tokenizer.encode_document(text, true, document);
    tokenizer.encode_with_special(text, prompt);
    for (const Ids* ids : {&plain, &document, &prompt})
        for (int id : *ids) CHECK(id >= 0 && id < tokenizer.vocab_size(), "id %d of %d", id, tokenizer.vocab_size());
    if (!v.lacks_bytes) CHECK(tokenizer.decode(plain) == text, "%s", tokenizer.decode(plain).c_str());

    // Written for data or for a model, it is the same vocabulary.
    for (bool for_model : {false, true}) {
        if (for_model)
            for (const auto& [name, file] : tokenizer.model_files(1024)) put(again + "/" + name, file);
        else tokenizer.save(again);
        std::string why = for_model ? "of a model: " : "of data: ";
        why += complaint_of([&] {
            const Vocabulary w = load_vocabulary(again);
            const Tokenizer second = Tokenizer::load(again);
            Ids ids, other_prompt;
            second.encode_document(text, true, ids);
            second.encode_with_special(text, other_prompt);
            CHECK(second.same(tokenizer), "%sanother vocabulary", why.c_str());
            // A model directory also names what a vocabulary without names has by GPT-2's rule.
            CHECK(w.added == v.added && w.unknown == v.unknown &&
                      std::includes(w.named.begin(), w.named.end(), v.named.begin(), v.named.end()),
                  "%sother tokens", why.c_str());
            // files of others may say two things of the white space around a token; one of them is written
            const bool spaces =
                std::any_of(v.added.begin(), v.added.end(), [](auto& t) { return t.lstrip || t.rstrip; });
            CHECK(spaces || (ids == document && other_prompt == prompt), "%sother ids", why.c_str());
            CHECK(w.end_of_text == v.end_of_text, "%sends %d, not %d", why.c_str(), w.end_of_text, v.end_of_text);
        });
        CHECK(why.find("error") == std::string::npos, "%s", why.c_str());
        fresh_directory("again");
    }
}
