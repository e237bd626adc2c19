// Vocabularies as other programs write them. Ids are those of Hugging Face tokenizers 0.23.3 for the same files.
#include <nlohmann/json.hpp>
#include "llmc/text/vocabulary.h"
#include "test/tokenizer_test.h"

namespace {

using nlohmann::json;

void put(const string& path, const string& text) { std::ofstream(path, std::ios::binary) << text; }

// The 256 bytes and "Ġt", "he", "Ġthe", between other tokens.
json vocab_json(const Pieces& first = {}, const Pieces& without = {}, const Pieces& last = {}) {
    const Tokenizer bytes = Tokenizer::from_merges({});
    Pieces tokens = first;
    for (int id = 0; id < 256; ++id) tokens.push_back(spell_bytes(bytes.bytes(id)));
    std::erase_if(tokens, [&](const string& t) { return std::count(without.begin(), without.end(), t); });
    for (const char* t : {"\u0120t", "he", "\u0120the"}) tokens.emplace_back(t);
    tokens.insert(tokens.end(), last.begin(), last.end());
    json vocab;
    for (size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
    return vocab;
}
const char kMerges[] = "#version: 0.2\n\u0120 t\nh e\n\u0120t he\n";

json tokenizer_json(const json& vocab, const json& added = json::array()) {
    return {{"version", "1.0"},
            {"added_tokens", added},
            {"normalizer", nullptr},
            {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
            {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"\u0120 t", "h e", "\u0120t he"}}}}};
}
json added_token(int id, const string& text, const json& more = json::object()) {
    json j = {{"id", id}, {"content", text}, {"special", true}};
    j.update(more);
    return j;
}

struct Directory : TemporaryDirectory {
    explicit Directory(const std::vector<std::pair<string, string>>& files) {
        for (const auto& [name, text] : files) put(*this / name, text);
    }
    Tokenizer load() const { return Tokenizer::load(path); }
    string error() const {
        try {
            load();
        } catch (const Error& e) {
            EXPECT_EQ(string(e.what()).find('\n'), string::npos) << e.what();
            return e.what();
        }
        return "none";
    }
};

std::vector<int> prompt(const Tokenizer& tokenizer, const string& text) {
    std::vector<int> ids;
    tokenizer.encode_with_special(text, ids);
    return ids;
}
using Ids = std::vector<int>;
const Ids kThe = {83, 257, 258, 198, 258};  // of "the the\n the"

}  // namespace

TEST(Vocabulary, ByEachOfItsNames) {
    const string vocab = vocab_json({}, {}, {"<|endoftext|>"}).dump();
    json arrays = tokenizer_json(vocab_json({}, {}, {"<|endoftext|>"}));
    arrays["model"]["merges"] = json::parse("[[\"\u0120\", \"t\"], [\"h\", \"e\"], [\"\u0120t\", \"he\"]]");
    json split = arrays;
    split["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", json::array({arrays["pre_tokenizer"]})}};
    const std::vector<std::pair<string, string>> forms[] = {
        {{"vocab.json", vocab}, {"merges.txt", kMerges}},
        {{"encoder.json", vocab}, {"vocab.bpe", kMerges}},
        {{"tokenizer.json", tokenizer_json(vocab_json({}, {}, {"<|endoftext|>"})).dump()}},
        {{"tokenizer.json", arrays.dump()}},
        {{"tokenizer.json", split.dump()}}};
    const string merges = merges_text(Directory(forms[0]).path);
    EXPECT_EQ(merges, "\u0120 t\nh e\n\u0120t he\n");
    for (const auto& files : forms) {
        const Directory dir(files);
        SCOPED_TRACE(files[0].first);
        EXPECT_TRUE(Tokenizer::present(dir.path));
        const Tokenizer tokenizer = dir.load();
        EXPECT_EQ(prompt(tokenizer, "the the\n the"), kThe);
        EXPECT_EQ(tokenizer.end_of_text(), 259);
        EXPECT_EQ(tokenizer.notes().size(), 0u);
        EXPECT_EQ(merges_text(dir.path), merges);
    }
}

TEST(Vocabulary, AddedTokensInPromptsAndDocuments) {
    const json added = {added_token(259, "<s>"),
                        added_token(260, "<|user|>"),
                        added_token(261, "<mask>", {{"lstrip", true}}),
                        added_token(262, "<r>", {{"rstrip", true}}),
                        added_token(263, "word", {{"special", false}}),
                        added_token(264, "own", {{"special", false}, {"single_word", true}}),
                        added_token(265, "<\uff5cEnd of\uff5c>")};
    const Tokenizer tokenizer = Directory({{"tokenizer.json", tokenizer_json(vocab_json(), added).dump()}}).load();
    EXPECT_EQ(tokenizer.vocab_size(), 266);
    EXPECT_EQ(prompt(tokenizer, "<s>a the<|user|>b"), (Ids{259, 64, 258, 260, 65}));
    EXPECT_EQ(prompt(tokenizer, "a  <mask>  b"), (Ids{64, 261, 220, 220, 65}));
    EXPECT_EQ(prompt(tokenizer, "a <r> \n b"), (Ids{64, 220, 262, 65}));
    EXPECT_EQ(prompt(tokenizer, "aword owns own."), (Ids{64, 263, 220, 78, 86, 77, 82, 220, 264, 13}));
    EXPECT_EQ(prompt(tokenizer, "x<\uff5cEnd of\uff5c>y"), (Ids{87, 265, 88}));
    EXPECT_EQ(prompt(tokenizer, "<s"), (Ids{27, 82}));
    EXPECT_EQ(prompt(tokenizer, "<s><s>"), (Ids{259, 259}));
    EXPECT_EQ(tokenizer.decode({260, 265, 263}), "<|user|><\uff5cEnd of\uff5c>word");
    Ids ids;
    tokenizer.encode_document("<s>word", true, ids);  // special tokens are text there, words are words
    EXPECT_EQ(ids, (Ids{27, 82, 29, 263}));
}

TEST(Vocabulary, AddedTokensInSmallFiles) {
    const string vocab = vocab_json({}, {}, {"<|endoftext|>"}).dump();
    const Tokenizer a = Directory({{"vocab.json", vocab},
                                   {"merges.txt", kMerges},
                                   {"added_tokens.json", R"({"<|im_end|>": 261, "<|im_start|>": 260})"},
                                   {"special_tokens_map.json", R"({"eos_token": {"content": "<|im_end|>"}})"}})
                            .load();
    EXPECT_EQ(prompt(a, "<|im_start|>a<|im_end|>"), (Ids{260, 64, 261}));
    EXPECT_EQ(a.end_of_text(), 261);
    const Tokenizer b = Directory({{"vocab.json", vocab},
                                   {"merges.txt", kMerges},
                                   {"config.json", R"({"eos_token_id": 270})"},
                                   {"tokenizer_config.json", R"({"bos_token": "<s>", "pad_token": "<none>",
                                       "added_tokens_decoder": {"270": {"content": "</s>"}, "271": {"content": "<s>"}}})"}})
                            .load();
    EXPECT_EQ(b.end_of_text(), 259);  // <|endoftext|>, as transformers has it; the model stops at its own
    EXPECT_EQ(b.ends(), (Ids{270}));
    EXPECT_EQ(b.begin_of_text(), 271);
    const Tokenizer c = Directory({{"vocab.json", vocab_json({}, {}, {"<a>", "<b>"}).dump()},
                                   {"merges.txt", kMerges},
                                   {"config.json", R"({"eos_token_id": 70, "bos_token_id": 260})"},
                                   {"generation_config.json", R"({"eos_token_id": [260, 259, 70, 99999, "x"]})"}})
                            .load();
    EXPECT_EQ(c.ends(), (Ids{260, 259}));  // no word, and no token that is not there
    EXPECT_EQ(c.end_of_text(), 260);
    EXPECT_EQ(c.begin_of_text(), 260);
    EXPECT_EQ(b.vocab_size(), 272);
    EXPECT_EQ(b.bytes(265), "");
}

// As Llama's and RoBERTa's tokenizers do; encode() of transformers, its special tokens at the end apart.
TEST(Vocabulary, TokensInFrontOfPrompts) {
    json j = tokenizer_json(vocab_json(), json::array({added_token(259, "<s>")}));
    const json templates = json::parse(R"({"type": "TemplateProcessing", "single":
        [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}]})");
    const json roberta = json::parse(R"({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 259]})");
    const json both = {{"type", "Sequence"}, {"processors", json::array({{{"type", "ByteLevel"}}, templates})}};
    for (const json& post : {templates, roberta, both}) {
        j["post_processor"] = post;
        const Tokenizer tokenizer = Directory({{"tokenizer.json", j.dump()}}).load();
        EXPECT_EQ(prompt(tokenizer, "a the"), (Ids{259, 64, 258})) << post;
        EXPECT_EQ(encode(tokenizer, "a the"), (Ids{64, 258}));
        TemporaryDirectory data;
        tokenizer.save(data.path);
        EXPECT_EQ(prompt(Tokenizer::load(data.path), "a the"), (Ids{259, 64, 258}));
        EXPECT_EQ(json::parse(tokenizer.model_files(0).at("tokenizer.json"))["post_processor"], post);
    }
    const Tokenizer bos = Directory({{"vocab.json", vocab_json({"<s>"}).dump()},
                                     {"merges.txt", kMerges},
                                     {"tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": true})"}})
                              .load();
    EXPECT_EQ(prompt(bos, "a"), (Ids{0, 65}));
}

TEST(Vocabulary, AddPrefixSpace) {
    json j = tokenizer_json(vocab_json(), json::array({added_token(259, "<s>")}));
    j["pre_tokenizer"]["add_prefix_space"] = true;
    for (const bool config : {false, true}) {
        if (config) j["pre_tokenizer"]["add_prefix_space"] = false;
        std::vector<std::pair<string, string>> files = {{"tokenizer.json", j.dump()}};
        if (config) files.push_back({"tokenizer_config.json", R"({"add_prefix_space": true})"});
        const Tokenizer tokenizer = Directory(files).load();
        EXPECT_EQ(prompt(tokenizer, "the the"), (Ids{258, 258}));
        EXPECT_EQ(prompt(tokenizer, "<s>the"), (Ids{259, 258}));
        EXPECT_EQ(prompt(tokenizer, " the"), (Ids{258}));
        EXPECT_EQ(prompt(tokenizer, "\nthe"), (Ids{220, 198, 83, 257}));
        EXPECT_EQ(prompt(tokenizer, "<s> the<s>"), (Ids{259, 258, 259}));
        Ids ids;  // a document in two parts
        tokenizer.encode_document("the", true, ids), tokenizer.encode_document(" the", false, ids);
        tokenizer.encode_document("the", false, ids);
        EXPECT_EQ(ids, (Ids{258, 258, 83, 257}));
    }
}

TEST(Vocabulary, WithoutAnEndOfTextOrUnderAnotherName) {
    const Directory none({{"vocab.json", vocab_json().dump()}, {"merges.txt", kMerges}});
    EXPECT_EQ(none.load().end_of_text(), -1);
    ASSERT_EQ(none.load().notes().size(), 1u);
    EXPECT_MENTIONS(none.load().notes()[0], "no end-of-text token");
    // as tokenizers' ByteLevelBPETokenizer makes them, with no other file
    const Directory roberta(
        {{"vocab.json", vocab_json({"<s>", "<pad>", "</s>", "<unk>"}).dump()}, {"merges.txt", kMerges}});
    EXPECT_EQ(roberta.load().end_of_text(), 2);
    EXPECT_EQ(prompt(roberta.load(), "<s>a</s>"), (Ids{0, 68, 2}));
    const Directory odd({{"vocab.json", vocab_json({"EOS", "PAD token", "\u2581x"}).dump()}, {"merges.txt", kMerges}});
    EXPECT_EQ(odd.load().end_of_text(), 0);
    EXPECT_EQ(prompt(odd.load(), "EOSPAD token\u2581x"), (Ids{0, 1, 2}));
    EXPECT_EQ(odd.load().decode({1, 2}), "PAD token\u2581x");
}

TEST(Vocabulary, ThatLacksBytes) {
    const Tokenizer drops =
        Directory({{"tokenizer.json", tokenizer_json(vocab_json({}, {"\u00e9", "\u0104"}, {"<|endoftext|>"})).dump()}})
            .load();
    EXPECT_EQ(encode(drops,
                     "a\u00e9\x04"
                     "b\u0104"),
              (Ids{64, 127, 102, 65, 128, 224}));
    ASSERT_EQ(drops.notes().size(), 1u);
    EXPECT_MENTIONS(drops.notes()[0], "2 of the 256 bytes (0x04 is the first): in text, they are left out");
    json j =
        tokenizer_json(vocab_json({"<unk>"}, {"\u00e9"}, {"<|endoftext|>"}), json::array({added_token(0, "<unk>")}));
    j["model"]["unk_token"] = "<unk>";
    const Tokenizer unknown = Directory({{"tokenizer.json", j.dump()}}).load();
    EXPECT_EQ(encode(unknown, "a\u9000b"), (Ids{65, 0, 222, 222, 66}));
    EXPECT_MENTIONS(unknown.notes().at(0), "they become <unk>, one for each");
    EXPECT_MENTIONS(Directory({{"vocab.json", vocab_json({}, {"\u0120"}).dump()}, {"merges.txt", kMerges}}).error(),
                    "0x20");
}

// Tokens that are not text: added ones alone.
TEST(Vocabulary, OfWordsAlone) {
    json j = tokenizer_json({{"<|endoftext|>", 0}, {"<go:1>", 1}, {"<go:12>", 2}, {"go", 3}, {"a word", 4}});
    j["model"]["merges"] = json::array();
    j["added_tokens"] = {added_token(0, "<|endoftext|>")};
    for (int id = 1; id < 5; id++)
        for (const auto& [text, of] : j["model"]["vocab"].items())
            if (of == id) j["added_tokens"].push_back(added_token(id, text, {{"special", false}}));
    const Directory files({{"tokenizer.json", j.dump()}});
    const Tokenizer words = files.load();
    EXPECT_TRUE(words.notes().empty());
    Ids ids;
    words.encode_document("<go:12><go:1>gogoa word", true, ids);
    EXPECT_EQ(ids, (Ids{2, 1, 3, 3, 4}));
    EXPECT_EQ(words.decode(ids), "<go:12><go:1>gogoa word");
    EXPECT_EQ(words.end_of_text(), 0);
    EXPECT_THROW(words.encode_document("go <go:1>", true, ids), Error);
    try {
        prompt(words, "<go:1>stop<go:1>");
        ADD_FAILURE() << "\"stop\" is no word";
    } catch (const Error& e) {
        EXPECT_MENTIONS(e.what(), "\"stop\" is no word of the vocabulary");
    }
    const Directory written({});
    for (const auto& [name, text] : words.model_files(0)) put(written / name, text);
    EXPECT_TRUE(written.load().same(words));
    EXPECT_EQ(prompt(written.load(), "<go:12>go"), (Ids{2, 3}));
}

TEST(Vocabulary, OtherKindsAreRefusedByName) {
    const auto refused = [](const std::function<void(json&)>& change, const string& names) {
        json j = tokenizer_json(vocab_json({}, {}, {"<|endoftext|>"}));
        change(j);
        const string message = Directory({{"tokenizer.json", j.dump()}}).error();
        EXPECT_MENTIONS(message, names);
        EXPECT_MENTIONS(message, "L6:H6:C384:T256:V32000");
    };
    refused([](json& j) { j["model"]["type"] = "WordPiece"; }, "WordPiece");
    refused([](json& j) { j["model"]["byte_fallback"] = true; }, "byte_fallback");
    refused([](json& j) { j["model"]["ignore_merges"] = true; }, "ignore_merges");
    refused([](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "</w>");
    refused([](json& j) { j["normalizer"] = {{"type", "NFC"}}; }, "NFC");
    refused([](json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }, "Metaspace");
    refused([](json& j) { j["pre_tokenizer"] = nullptr; }, "pre_tokenizer: null");
    refused([](json& j) { j["pre_tokenizer"]["use_regex"] = false; }, "use_regex");
    refused([](json& j) { j.erase("model"); }, "missing");
    for (const char* field : {"added_tokens", "pre_tokenizer", "post_processor", "normalizer", "model"})
        for (const json& value :
             {json(5), json("x"), json::array({5}), json({{"type", 5}, {"pretokenizers", 7}}),
              json({{"type", "Sequence"}, {"pretokenizers", {{{"pattern", 3}}, {{"type", "ByteLevel"}}}}})}) {
            json odd = tokenizer_json(vocab_json());
            odd[field] = value;
            Directory({{"tokenizer.json", odd.dump()}}).error();  // one line, or read
        }
    json cut = tokenizer_json(vocab_json());
    cut["model"]["merges"].erase(1);
    EXPECT_MENTIONS(Directory({{"tokenizer.json", cut.dump()}}).error(), "no merge makes token \"he\"");
    const string deep = string(200000, '[') + string(200000, ']');
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"})
        EXPECT_MENTIONS(
            Directory({{"vocab.json", vocab_json().dump()}, {"merges.txt", kMerges}, {name, "{\"a\":" + deep + "}"}})
                .error(),
            name + string(": not valid JSON: brackets within each other 65 deep"));
    EXPECT_MENTIONS(
        Directory(
            {{"vocab.json", vocab_json().dump()}, {"merges.txt", kMerges}, {"added_tokens.json", string("{}\0{", 4)}})
            .error(),
        "added_tokens.json: not valid JSON: byte 2 is zero");
}

// In a text it would stand everywhere.
TEST(Vocabulary, ATokenWithoutBytesIsNone) {
    const Tokenizer tokenizer = Directory({{"vocab.json", vocab_json({""}).dump()}, {"merges.txt", kMerges}}).load();
    Ids ids;
    tokenizer.encode_with_special(string("a\0", 2), ids);
    EXPECT_EQ(tokenizer.decode(ids), string("a\0", 2));
    EXPECT_EQ(ids.size(), 2u);
}

// A run's files say the same as those it began with, and so do any of them alone.
TEST(Vocabulary, WhatIsWrittenIsReadAgain) {
    json j = tokenizer_json(vocab_json({"<unk>"}, {"\u00e9"}), {added_token(0, "<unk>"), added_token(300, "</s>"),
                                                                added_token(301, "</s> x", {{"rstrip", true}}),
                                                                added_token(302, "w\u00e9", {{"special", false}})});
    j["model"]["unk_token"] = "<unk>", j["pre_tokenizer"]["add_prefix_space"] = true;
    const Directory from({{"tokenizer.json", j.dump()},
                          {"tokenizer_config.json", R"({"tokenizer_class": "TokenizersBackend", "bos_token": "<unk>",
                              "eos_token": "</s>", "extra_special_tokens": ["<unk>"], "chat_template": "{{ x }}"})"}});
    const Tokenizer first = from.load();
    const string text = "the\u9000 the</s> x \n w\u00e9 a</s>";
    const Ids ids = prompt(first, text);
    EXPECT_EQ(ids.back(), 300);
    const auto files = first.model_files(77);
    const json config = json::parse(files.at("tokenizer_config.json"));
    EXPECT_EQ(config["chat_template"], "{{ x }}");
    EXPECT_EQ(config["model_max_length"], 77);
    EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
    EXPECT_EQ(config["eos_token"], "</s>");
    EXPECT_FALSE(config.contains("extra_special_tokens"));  // version 4 knows an object of that name
    EXPECT_EQ(config["additional_special_tokens"], json::array({"<unk>"}));
    EXPECT_EQ(config["added_tokens_decoder"]["301"]["rstrip"], true);
    EXPECT_EQ(json::parse(files.at("special_tokens_map.json"))["bos_token"], "<unk>");
    TemporaryDirectory data;
    EXPECT_EQ(first.save(data.path), (Pieces{"merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"}));
    const Directory all({files.begin(), files.end()}), alone({{"tokenizer.json", files.at("tokenizer.json")}});
    for (const string& dir : {all.path, alone.path, data.path}) {
        const Tokenizer again = Tokenizer::load(dir);
        EXPECT_TRUE(again.same(first));
        EXPECT_EQ(again.end_of_text(), first.end_of_text());
        EXPECT_EQ(prompt(again, text), ids);
        EXPECT_EQ(again.begin_of_text(), dir == alone.path ? 300 : 0);
    }
}
