// A vocabulary in memory and on its way to files; vocabulary_files.cpp has the way back.
#include "llmc/text/vocabulary.h"

#include <unordered_map>
#include "llmc/base/json.h"
#include "llmc/text/utf8.h"

// ---- GPT-2's spelling of bytes ---------------------------------------------------------------------------------------

namespace {

// The ids 0 to 255 follow the order of the characters.
struct ByteAlphabet {
    std::array<uint32_t, 256> character{};
    std::array<int, 0x144> byte{};     // of a character; -1 for none
    std::array<uint8_t, 256> order{};  // order[id] = byte
    ByteAlphabet() {
        byte.fill(-1);
        uint32_t other = 0x100;
        for (uint32_t c = 0; c < 256; ++c) {
            const bool printable = (c > 0x20 && c < 0x7F) || (c > 0xA0 && c != 0xAD);
            character[c] = printable ? c : other++;
            byte[character[c]] = static_cast<int>(c);
        }
        size_t id = 0;
        for (int b : byte)
            if (b >= 0) order[id++] = static_cast<uint8_t>(b);
    }
};
const ByteAlphabet& alphabet() {
    static const ByteAlphabet instance;
    return instance;
}

}  // namespace

std::string spell_bytes(std::string_view bytes) {
    std::string out;
    for (char c : bytes) append_utf8(out, alphabet().character[static_cast<uint8_t>(c)]);
    return out;
}

bool read_spelled(std::string_view spelled, std::string* bytes) {
    bytes->clear();
    for (size_t i = 0; i < spelled.size();) {
        Utf8 status;
        uint32_t code;
        i += read_utf8(byte_pointer(spelled) + i, spelled.size() - i, &status, &code);
        if (status != Utf8::valid || code >= alphabet().byte.size() || alphabet().byte[code] < 0) return false;
        *bytes += static_cast<char>(alphabet().byte[code]);
    }
    return true;
}

// ---- a new one -------------------------------------------------------------------------------------------------------

static void append_merges(Vocabulary& v, const std::vector<std::pair<int, int>>& merges) {
    std::unordered_map<std::string, int> ids;
    for (int id = 0; id < v.size(); ++id) ids.emplace(v.tokens[static_cast<size_t>(id)], id);
    for (const auto& [left, right] : merges) {
        const int size = v.size();
        CHECK(left >= 0 && right >= 0 && left < size && right < size, "merge of %d and %d with %d tokens", left, right,
              size);
        std::string joined = v.tokens[static_cast<size_t>(left)] + v.tokens[static_cast<size_t>(right)];
        const auto [place, is_new] = ids.emplace(std::move(joined), size);
        if (is_new) v.tokens.push_back(place->first);
        v.add_merge(left, right, place->second, place->first);
    }
    v.bpe.complete();
}

Vocabulary make_vocabulary(const std::vector<std::pair<int, int>>& merges) {
    Vocabulary v;
    for (int id = 0; id < 256; ++id) {
        const uint8_t byte = alphabet().order[static_cast<size_t>(id)];
        v.tokens.emplace_back(1, static_cast<char>(byte));
        v.bpe.byte_id[byte] = id;
    }
    v.bpe.pairs.reserve(merges.size());
    append_merges(v, merges);
    v.end_of_text = v.size();
    v.tokens.emplace_back(kEndOfText);
    v.begin_of_text = v.end_of_text, v.ends = {v.end_of_text};
    v.added.push_back({std::string(kEndOfText), v.end_of_text});
    return v;
}

Vocabulary extend_vocabulary(const Vocabulary& old, const std::vector<std::pair<int, int>>& merges) {
    Vocabulary v = old;
    v.serial = PieceCache::new_owner();
    v.bpe.pairs.reserve(old.merges.size() + merges.size());  // empty again, and large enough for all
    for (size_t rank = 0; rank < old.merges.size(); ++rank) {
        const auto [left, right] = old.merges[rank];
        v.bpe.pairs.insert(left, right, static_cast<int>(rank), old.bpe.pairs.find(left, right)->result);
    }
    append_merges(v, merges);
    return v;
}

// ---- writing ---------------------------------------------------------------------------------------------------------

static void append_quoted(std::string& out, const std::string& text) {
    const bool plain = std::all_of(text.begin(), text.end(),
                                   [](char c) { return static_cast<uint8_t>(c) >= 0x20 && c != '"' && c != '\\'; });
    if (plain) out.append(1, '"').append(text).append(1, '"');
    else out += Json(text).dump();
}

static OrderedJson added_json(const AddedToken& t) {
    return {{"content", t.text},  {"single_word", t.single_word}, {"lstrip", t.lstrip},
            {"rstrip", t.rstrip}, {"normalized", false},          {"special", t.special}};
}

// What --vocab's files said beyond ours (a chat template, a class of its own) stays; what a token is called is new.
static std::string tokenizer_config_json(const Vocabulary& v, int context) {
    OrderedJson j = v.config.empty() ? OrderedJson::object() : parse_json<OrderedJson>(v.config);
    if (!j.contains("tokenizer_class")) j["tokenizer_class"] = "GPT2Tokenizer";
    // transformers 5 says so of a tokenizer.json; version 4 knows that by another name
    if (j["tokenizer_class"] == "TokenizersBackend") j["tokenizer_class"] = "PreTrainedTokenizerFast";
    if (context > 0) j["model_max_length"] = context;
    if (j.contains("extra_special_tokens") && j["extra_special_tokens"].is_array()) {  // and this
        j["additional_special_tokens"] = j["extra_special_tokens"];
        j.erase("extra_special_tokens");
    }
    j["add_prefix_space"] = v.prefix_space;
    if (!j.contains("errors")) j["errors"] = "replace";
    for (const auto& [name, token] : v.named) j[name] = token;
    // transformers takes <|endoftext|> for what is not named, and would add it
    for (const char* name : {"bos_token", "eos_token", "unk_token"})
        if (!v.named.count(name))
            j[name] = v.end_of_text < 0 ? OrderedJson() : OrderedJson(v.tokens[static_cast<size_t>(v.end_of_text)]);
    OrderedJson decoder = OrderedJson::object();
    for (const AddedToken& t : v.added) decoder[std::to_string(t.id)] = added_json(t);
    j["added_tokens_decoder"] = decoder;
    return j.dump(2) + "\n";
}

// vocab, merges: their values, as text. (Merges may be "a b" or ["a", "b"]; older programs read the first form only.)
static std::string tokenizer_json(const Vocabulary& v, const std::string& vocab, const std::string& merges) {
    const auto byte_level = [&](bool prefix_space, bool trim_offsets) {
        return Json{{"type", "ByteLevel"},  // its fields by name, as when it is read and written again
                    {"add_prefix_space", prefix_space},
                    {"trim_offsets", trim_offsets},
                    {"use_regex", true}};
    };
    OrderedJson added = OrderedJson::array();
    for (const AddedToken& t : v.added) {
        added.push_back({{"id", t.id}});
        added.back().update(added_json(t));
    }
    const OrderedJson none;
    std::string text = OrderedJson{
        {"version", "1.0"},
        {"truncation", none},
        {"padding", none},
        {"added_tokens", added},
        {"normalizer", none},
        {"pre_tokenizer", byte_level(v.prefix_space, true)},
        {"post_processor", v.post_processor.empty() ? byte_level(true, false) : parse_json(v.post_processor)},
        {"decoder", byte_level(true, true)},
        {"model",
         {{"type", "BPE"},
          {"dropout", none},
          {"unk_token", v.unknown.empty() ? none : OrderedJson(v.unknown)},
          {"continuing_subword_prefix", ""},
          {"end_of_word_suffix", ""},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges",
           false}}}}.dump();
    text.resize(text.size() - 2);  // both objects are open again
    return text + ",\"vocab\":" + vocab + ",\"merges\":" + merges + "}}\n";
}

std::map<std::string, std::string> vocabulary_files(const Vocabulary& v, bool for_model, int context) {
    std::vector<std::string> spelled;  // of each id, "" for none
    for (const std::string& bytes : v.tokens) spelled.push_back(spell_bytes(bytes));
    std::string merges = "#version: 0.2\n", vocab = "{";
    for (const auto& [left, right] : v.merges) {
        merges.append(spelled[static_cast<size_t>(left)]).append(1, ' ');
        merges.append(spelled[static_cast<size_t>(right)]).append(1, '\n');
    }
    for (const AddedToken& t : v.added) spelled[static_cast<size_t>(t.id)] = t.text;
    for (size_t id = 0; id < spelled.size(); ++id) {
        if (spelled[id].empty()) continue;
        vocab += vocab.size() > 1 ? ", " : "";
        append_quoted(vocab, spelled[id]);
        vocab.append(": ").append(std::to_string(id));
    }
    vocab += '}';
    std::map<std::string, std::string> files;
    const bool says_all = v.config.empty() && v.named.empty() && !v.prefix_space && v.added.size() == 1 &&
                          v.added[0] == AddedToken{std::string(kEndOfText), v.end_of_text};
    if (for_model || !says_all) files["tokenizer_config.json"] = tokenizer_config_json(v, context);
    if (for_model) {
        OrderedJson map = OrderedJson::object();
        for (const auto& [name, token] : v.named) map[name] = token;
        if (v.named.empty() && v.end_of_text >= 0)
            for (const char* name : {"bos_token", "eos_token", "unk_token"})
                map[name] = v.tokens[static_cast<size_t>(v.end_of_text)];
        files["special_tokens_map.json"] = map.dump(2) + "\n";
    }
    if (for_model || !v.unknown.empty() || !v.before_prompts.empty()) {
        std::string list;
        for (size_t at = merges.find('\n') + 1, end; at < merges.size(); at = end + 1) {
            end = merges.find('\n', at);
            list += list.empty() ? "[" : ",";
            append_quoted(list, merges.substr(at, end - at));
        }
        files["tokenizer.json"] = tokenizer_json(v, vocab, list.empty() ? "[]" : list + "]");
    }
    files["vocab.json"] = vocab + "\n", files["merges.txt"] = merges;
    return files;
}
