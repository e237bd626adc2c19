// How a vocabulary is read: what its files say, and then what follows from that.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <iterator>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/text/token_ids.h"
#include "llmc/text/utf8.h"
#include "llmc/text/vocabulary.h"

namespace fs = std::filesystem;

namespace {

constexpr const char* kKind =
    "only GPT-2's kind of vocabulary (byte-level BPE) can be read; with shards of token ids made by another program, "
    "give "
    "their number of tokens in the model's size, as in L6:H6:C384:T256:V32000";

// What the files say.
struct Found {
    std::string vocab_path, merges_path;
    std::vector<std::pair<std::string, int>> vocab;  // as they are spelled
    std::vector<std::array<std::string, 2>> merges;  // as they are spelled
    std::vector<size_t> places;                      // of each merge: its line, or its number
    std::map<std::string, AddedToken> added;         // by text; id -1: not known
    std::vector<int> ends, begins;                   // ids that end and begin a text, by the model's files
    std::vector<std::string> before_prompts;         // as they are spelled

    Error bad_merge(size_t i, const std::string& what) const {
        return Error(strf("%s:%zu: %s; the vocabulary and its merges must be of one kind", merges_path.c_str(),
                          places[i], what.c_str()));
    }
};

// The two files of a vocabulary in `dir`, by either name; "" if there are none.
std::array<std::string, 2> pair_in(const std::string& dir) {
    std::string half, other;
    for (auto [vocab, merges] : {std::pair("/vocab.json", "/merges.txt"), std::pair("/encoder.json", "/vocab.bpe")}) {
        const bool first = is_file(dir + vocab), second = is_file(dir + merges);
        if (first && second) return {dir + vocab, dir + merges};
        if (first) half = vocab, other = merges;
        if (second) half = merges, other = vocab;
    }
    // Without it the text would be taken for one in GPT-2's vocabulary.
    if (!half.empty() && !is_file(dir + "/tokenizer.json"))
        throw Error(
            strf("%s%s: no such file, of the vocabulary that %s%s is a part of; put it back, or write the vocabulary "
                 "again",
                 dir.c_str(), other.c_str(), dir.c_str(), half.c_str()));
    return {};
}

Json read_json(const std::string& path) {
    try {
        return parse_json(read_file(path));
    } catch (const Error& e) {
        throw Error(strf("%s: not valid JSON: %s; fetch or train the vocabulary again", path.c_str(), e.what()));
    }
}

void take_vocab(const Json& j, Found* f) {
    if (!j.is_object() || j.empty())
        throw Error(strf("%s: not an object of tokens and their ids", f->vocab_path.c_str()));
    for (const auto& [text, value] : j.items()) {
        int id;
        if (!json_whole(value, &id) || id < 0)
            throw Error(strf("%s: the id of token \"%s\" is %s, not a whole number from 0 on", f->vocab_path.c_str(),
                             text.c_str(), value.dump().c_str()));
        f->vocab.emplace_back(text, id);
    }
}

// {"token": id, ...} as it is nearly always written, read by hand: the library would take most of a short run's time.
// False: it is written otherwise, or wrong.
bool read_vocab(std::string_view text, Found* f) {
    const char *p = text.data(), *const end = p + text.size();
    size_t first;
    const auto blanks = [&] {
        while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) ++p;
    };
    const auto take = [&](char c) { return blanks(), p < end && *p == c && ++p; };
    if (bytes_that_are_no_utf8(text, &first) > 0 || !take('{')) return false;
    do {
        if (!take('"')) return false;
        std::string token;
        for (; p < end && *p != '"'; ++p) {
            const size_t left = static_cast<size_t>(end - p);
            uint32_t code = 0;
            if (static_cast<uint8_t>(*p) < 0x20) return false;
            if (*p != '\\') token += *p;
            else if (left > 1 && (p[1] == '"' || p[1] == '\\')) token += *++p;
            else if (left > 5 && p[1] == 'u' && std::from_chars(p + 2, p + 6, code, 16).ptr == p + 6 &&
                     (code < 0xD800 || code > 0xDFFF))
                append_utf8(token, code), p += 5;
            else return false;
        }
        if (!take('"') || !take(':')) return false;
        blanks();
        int id = 0;
        const char* const digits = p;
        p = std::from_chars(p, end, id).ptr;
        if (p == digits || *digits == '-' || (*digits == '0' && p > digits + 1)) return false;
        f->vocab.emplace_back(std::move(token), id);
    } while (take(','));
    return take('}') && (blanks(), p == end);
}
// Of a file that may be absent.
Json read_optional(const std::string& path) {
    if (!is_file(path)) return Json::object();
    Json j = read_json(path);
    if (!j.is_object()) throw Error(strf("%s: not a JSON object", path.c_str()));
    return j;
}

// ---- the forms of files ----------------------------------------------------------------------------------------------

// "<s>", or {"content": "<s>", "lstrip": ...}
void add_token(const Json& j, int64_t id, Found* f) {
    AddedToken t;
    if (j.is_string()) t.text = j.get<std::string>();
    else if (j.is_object() && j.contains("content") && j["content"].is_string()) {
        t.text = j["content"].get<std::string>();
        const auto flag = [&](const char* key, bool otherwise) {
            return j.contains(key) && j[key].is_boolean() ? j[key].get<bool>() : otherwise;
        };
        t.special = flag("special", true), t.single_word = flag("single_word", false);
        t.lstrip = flag("lstrip", false), t.rstrip = flag("rstrip", false);
    }
    if (t.text.empty() || id > INT32_MAX - 1) return;
    t.id = static_cast<int>(id);
    AddedToken& known = f->added.emplace(t.text, t).first->second;
    if (known.id < 0) known.id = t.id;
}

void read_merges_txt(const std::string& path, Found* f) {
    const std::string text = read_file(path);
    for (size_t at = 0, number = 1; at < text.size(); ++number) {
        std::string_view line(text);
        line = line.substr(at, line.find('\n', at) - at);
        at += line.size() + 1;
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (line.empty() || line.starts_with("#version")) continue;
        f->places.push_back(number);
        const size_t space = line.find(' ');
        if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
            line.find(' ', space + 1) != std::string::npos)
            throw f->bad_merge(f->places.size() - 1, strf("expected two tokens with a space between them, found \"%s\"",
                                                          std::string(line).c_str()));
        f->merges.push_back({std::string(line.substr(0, space)), std::string(line.substr(space + 1))});
    }
}

// GPT-2's pre-tokenizer, in one of the ways to write it down. Sets *prefix_space.
bool is_gpt2_split(const Json& j, bool* prefix_space) {
    if (!j.is_object()) return false;
    const Json& type = j.value("type", Json());
    if (type == "Sequence") {
        const Json parts = j.value("pretokenizers", Json::array());
        if (parts.size() == 1) return is_gpt2_split(parts[0], prefix_space);
        // the pattern by itself, and then bytes only
        constexpr const char* pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
        constexpr const char* shorter = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
        if (parts.size() != 2 || !parts[0].is_object() || !parts[1].is_object()) return false;
        const Json regex = parts[0].value("pattern", Json::object()).value("Regex", Json());
        *prefix_space = parts[1].value("add_prefix_space", Json()) == true;
        return parts[0].value("type", Json()) == "Split" && (regex == pattern || regex == shorter) &&
               parts[0].value("behavior", Json()) == "Isolated" && parts[0].value("invert", Json()) != true &&
               parts[1].value("type", Json()) == "ByteLevel" && !*prefix_space;
    }
    *prefix_space = j.value("add_prefix_space", Json()) == true;
    return type == "ByteLevel" && j.value("use_regex", Json(true)) != false;
}

// The special tokens that a post-processor puts in front of a text.
void read_post_processor(const Json& j, Found* f) {
    if (!j.is_object()) return;
    const Json parts = j.value("processors", Json::array()), single = j.value("single", Json::array()),
               cls = j.value("cls", Json::array());
    for (const Json& part : parts) read_post_processor(part, f);
    for (const Json& piece : single) {
        const Json special = piece.is_object() ? piece.value("SpecialToken", Json()) : Json();
        const Json id = special.is_object() ? special.value("id", Json()) : Json();
        if (!id.is_string()) break;
        f->before_prompts.push_back(id.get<std::string>());
    }
    if (cls.is_array() && !cls.empty() && cls[0].is_string()) f->before_prompts.push_back(cls[0].get<std::string>());
}

void read_tokenizer_json(const std::string& path, Found* f, Vocabulary* v) {
    const Json j = read_json(path);
    const auto refuse = [&](const std::string& what) {
        return OtherVocabulary(strf("%s: %s; %s", path.c_str(), what.c_str(), kKind));
    };
    const Json model = j.is_object() ? j.value("model", Json()) : Json();
    if (!model.is_object() || !model.value("vocab", Json()).is_object() || !model.value("merges", Json()).is_array() ||
        model.value("type", Json("BPE")) != "BPE")
        throw refuse(strf("its model is %s, not BPE",
                          model.is_object() ? model.value("type", Json("without a type")).dump().c_str() : "missing"));
    for (const char* flag : {"byte_fallback", "ignore_merges"})
        if (model.value(flag, Json()) == true) throw refuse(strf("its model has \"%s\"", flag));
    for (const char* text : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (const Json value = model.value(text, Json()); value.is_string() && value != "")
            throw refuse(strf("its model has \"%s\": %s", text, value.dump().c_str()));
    const Json normalizer = j.value("normalizer", Json()), split = j.value("pre_tokenizer", Json());
    if (normalizer.is_object() && normalizer.value("normalizers", Json()) != Json::array())
        throw refuse(
            strf("it changes the text first (normalizer: %s)", normalizer.value("type", Json()).dump().c_str()));
    if (!is_gpt2_split(split, &v->prefix_space))
        throw refuse(strf("it splits text in its own way (pre_tokenizer: %.80s)", split.dump().c_str()));
    take_vocab(model["vocab"], f);
    if (const Json dropout = model.value("dropout", Json()); dropout.is_number() && dropout != 0)
        v->notes.push_back(
            strf("note: %s: its dropout, with which a text has other ids each time, is left out", path.c_str()));
    if (const Json post = j.value("post_processor", Json()); post.is_object()) {
        v->post_processor = post.dump();
        read_post_processor(post, f);
    }
    for (const Json& merge : model["merges"]) {
        f->places.push_back(f->places.size() + 1);
        const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
        const std::string text = merge.is_string() ? merge.get<std::string>() : "";
        const size_t space = text.find(' ');
        if (pair) f->merges.push_back({merge[0].get<std::string>(), merge[1].get<std::string>()});
        else if (space != std::string::npos) f->merges.push_back({text.substr(0, space), text.substr(space + 1)});
        else throw f->bad_merge(f->places.size() - 1, "merge " + merge.dump() + " is no pair of tokens");
    }
    if (const Json unknown = model.value("unk_token", Json()); unknown.is_string()) v->unknown = unknown;
    for (const Json& token : j.value("added_tokens", Json::array())) {
        int id;
        if (token.is_object() && json_whole(token.value("id", Json()), &id) && id >= 0) add_token(token, id, f);
    }
}

// The small files beside them. What they say of a token that the vocabulary has not got, and give no id, is left out.
void read_small_files(const std::string& dir, Found* f, Vocabulary* v) {
    const Json config = read_optional(dir + "/tokenizer_config.json"),
               map = read_optional(dir + "/special_tokens_map.json"), added = read_optional(dir + "/added_tokens.json");
    if (!config.empty()) v->config = read_file(dir + "/tokenizer_config.json");
    if (is_file(dir + "/chat_template.jinja") && !config.contains("chat_template")) {  // transformers 5 puts it there
        OrderedJson with = config.empty() ? OrderedJson::object() : parse_json<OrderedJson>(v->config);
        with["chat_template"] = read_file(dir + "/chat_template.jinja");
        v->config = with.dump();
    }
    const auto with_id = [&](const std::string& file, const std::string& text, const Json& token, const Json& id) {
        int64_t number;
        if (!json_whole(id, &number) || number < 0 || number >= INT32_MAX)
            throw Error(strf("%s/%s: the id of token \"%s\" is %s, not a whole number from 0 on", dir.c_str(),
                             file.c_str(), text.c_str(), id.dump().c_str()));
        add_token(token, number, f);
    };
    const Json decoder = config.value("added_tokens_decoder", Json::object());
    for (const auto& [id, token] : decoder.items())
        with_id("tokenizer_config.json", token.dump(), token,
                id.find_first_not_of("0123456789") == std::string::npos ? try_json(id) : Json(id));
    for (const auto& [text, id] : added.items()) with_id("added_tokens.json", text, Json(text), id);
    for (const Json* j : {&config, &map}) {
        for (const auto& [key, value] : j->items()) {
            const Json text = value.is_object() ? value.value("content", Json()) : value;
            if (key.ends_with("_token") && text.is_string() && text != "") {
                v->named[key] = text.get<std::string>();
                add_token(value, -1, f);
            } else if (key == "additional_special_tokens" || key == "extra_special_tokens") {
                for (const Json& token : value) add_token(token, -1, f);
            }
        }
    }
    if (config.value("add_bos_token", Json()) == true && f->before_prompts.empty() && v->named.count("bos_token"))
        f->before_prompts.push_back(v->named["bos_token"]);
    if (config.contains("add_prefix_space") && config["add_prefix_space"].is_boolean())
        v->prefix_space = config["add_prefix_space"].get<bool>();
    for (const char* file : {"/generation_config.json", "/config.json"}) {
        const Json j = is_file(dir + file) ? try_json(read_file(dir + file)) : Json();
        const auto ids = [&](const char* key, std::vector<int>* to) {
            const Json found = j.is_object() ? j.value(key, Json()) : Json();
            for (const Json& id : found.is_array() ? found : Json::array({found}))
                if (int number; json_whole(id, &number)) to->push_back(number);
        };
        if (f->ends.empty()) ids("eos_token_id", &f->ends);
        if (f->begins.empty()) ids("bos_token_id", &f->begins);
    }
}

// ---- what follows ----------------------------------------------------------------------------------------------------

// Tokens that no merge makes but that may stand in a vocabulary without being named: <|endoftext|>, <pad>, [MASK].
bool looks_special(std::string_view token) {
    return token.size() > 2 &&
           ((token.front() == '<' && token.back() == '>') || (token.front() == '[' && token.back() == ']'));
}

// Fills in the tokens, the added ones included. Returns those that merges may name.
TokenIds place_tokens(Found& f, Vocabulary& v) {
    const char* name = f.vocab_path.c_str();
    // Ids have few gaps; a single one that is far away would take memory for all before it.
    const int64_t most = 2 * static_cast<int64_t>(f.vocab.size() + f.added.size()) + 65536;
    std::vector<std::string_view> spelled;  // by id, for messages
    const auto place = [&](const std::string& text, const std::string& bytes, int64_t id) {
        const size_t i = static_cast<size_t>(id);
        if (id < 0 || id >= most)
            throw Error(strf("%s: the id of token \"%s\" is %lld, far beyond the %zu tokens that there are", name,
                             text.c_str(), static_cast<long long>(id), f.vocab.size()));
        if (i >= v.tokens.size()) v.tokens.resize(i + 1), spelled.resize(i + 1);
        if (!spelled[i].empty() && spelled[i] != text)
            throw Error(strf("%s: tokens \"%s\" and \"%s\" have the same id %zu", name, std::string(spelled[i]).c_str(),
                             text.c_str(), i));
        spelled[i] = text, v.tokens[i] = bytes;
    };
    TokenIds ids(f.vocab);
    std::vector<AddedToken> odd;  // not spelled in the alphabet and not named
    for (size_t i = 0; i < f.vocab.size(); ++i) {
        const auto& [text, id] = f.vocab[i];
        if (text.empty()) continue;  // no text has it in it: its id has no word
        const auto added = f.added.find(text);
        if (added != f.added.end()) added->second.id = id;
        std::string bytes;
        const bool readable = read_spelled(text, &bytes) && !bytes.empty();
        if (readable) {
            if (const int* other = ids.insert(i))
                throw Error(strf("%s: token \"%s\" has two ids, %d and %d", name, text.c_str(), *other, id));
        } else if (added == f.added.end()) {
            odd.push_back({text, id});
        }
        place(text, readable && (added == f.added.end() || bytes.size() == 1) ? bytes : text, id);
    }
    std::erase_if(f.added, [](const auto& entry) { return entry.second.id < 0; });
    for (const auto& [text, token] : f.added)
        place(text,
              v.tokens.size() > static_cast<size_t>(token.id) && spelled[static_cast<size_t>(token.id)] == text
                  ? v.tokens[static_cast<size_t>(token.id)]
                  : text,
              token.id);

    int first_byte = INT32_MAX, lost = 0, example = 0;
    const auto unknown = std::find_if(f.vocab.begin(), f.vocab.end(),
                                      [&](auto& e) { return !v.unknown.empty() && e.first == v.unknown; });
    for (int b = 255; b >= 0; --b) {
        const int* const found = ids.find(spell_bytes(std::string(1, static_cast<char>(b))));
        int& id = v.bpe.byte_id[static_cast<size_t>(b)];
        if (found) {
            first_byte = std::min(first_byte, id = *found);
        } else {
            id = unknown == f.vocab.end() ? v.size() : unknown->second;
            ++lost, example = b;
            v.lacks_bytes = true;
            v.bpe.all_may_join();  // this id stands for other bytes than its token's
        }
    }
    // Special tokens come first in a vocabulary, if they do not come last.
    for (const AddedToken& token : odd) {
        if (token.id > first_byte && !looks_special(token.text))
            throw OtherVocabulary(strf("%s: token \"%s\" (id %d) is not spelled in GPT-2's byte alphabet; %s", name,
                                       token.text.c_str(), token.id, kKind));
        f.added[token.text] = token;
    }
    v.words_alone = lost == 256 && f.merges.empty();
    if (!v.words_alone && !ids.find(spell_bytes(" ")))
        throw OtherVocabulary(
            strf("%s: no token for byte 0x20 (\"%s\"), the space; %s", name, spell_bytes(" ").c_str(), kKind));
    if (lost > 0 && !v.words_alone)
        v.notes.push_back(
            strf("note: %s has no token for %d of the 256 bytes (0x%02x is the first): in text, they %s", name, lost,
                 static_cast<unsigned>(example),
                 unknown == f.vocab.end() ? "are left out" : ("become " + v.unknown + ", one for each").c_str()));
    for (int id = 0; id < v.size(); ++id) {  // what the check below lets through
        const std::string& bytes = v.tokens[static_cast<size_t>(id)];
        if (bytes.size() > 1 && id < first_byte && !f.added.count(std::string(spelled[static_cast<size_t>(id)])))
            f.added[bytes] = {bytes, id};
    }
    return ids;
}

void place_merges(Found& f, const TokenIds& ids, Vocabulary& v) {
    v.bpe.pairs.reserve(std::min(f.merges.size(), v.tokens.size()) + 16);
    std::vector<bool> made(v.tokens.size());
    std::string both, bytes;
    for (size_t i = 0; i < f.merges.size(); ++i) {
        const auto& [left, right] = f.merges[i];
        int pair[2];
        for (size_t k = 0; k < 2; ++k) {
            const int* const found = ids.find(f.merges[i][k]);
            if (!found)
                throw f.bad_merge(i, strf("token \"%s\" is not in %s", f.merges[i][k].c_str(),
                                          fs::path(f.vocab_path).filename().c_str()));
            pair[k] = *found;
        }
        both = left;
        both += right;
        const int* const joined = ids.find(both);
        if (!joined)
            throw f.bad_merge(i, strf("\"%s\", which this merge makes, is not in %s", both.c_str(),
                                      fs::path(f.vocab_path).filename().c_str()));
        if (v.merges.size() >= v.tokens.size()) throw f.bad_merge(i, "more merges than tokens");
        read_spelled(both, &bytes);
        if (!v.add_merge(pair[0], pair[1], *joined, bytes))
            throw f.bad_merge(i, strf("merge \"%s %s\" stands here a second time", left.c_str(), right.c_str()));
        made[static_cast<size_t>(*joined)] = true;
    }
    v.bpe.complete();
    for (const auto& [text, token] : f.added) made[static_cast<size_t>(token.id)] = true;
    for (int id = 0; id < v.size(); ++id) {
        bytes = v.tokens[static_cast<size_t>(id)];
        if (bytes.size() < 2 || made[static_cast<size_t>(id)]) continue;
        if (!looks_special(bytes))
            throw Error(
                strf("%s: no merge makes token \"%s\" (id %d) of %s; the file is cut short or of another vocabulary",
                     f.merges_path.c_str(), spell_bytes(bytes).c_str(), id, fs::path(f.vocab_path).filename().c_str()));
        f.added[bytes] = {bytes, id};
    }
}

// What begins and ends a document: by what the tokenizer's files name, by transformers' default, by what the model's files
// say, by the names that are usual. Where a model stops: by what its own files say.
void choose_ends(const Found& f, Vocabulary& v) {
    const auto look = [&](const std::string& text, int* id) {
        const auto found = f.added.find(text);
        if (*id < 0 && found != f.added.end()) *id = found->second.id;
    };
    const auto known = [&](int id) {
        return std::any_of(f.added.begin(), f.added.end(), [=](const auto& entry) { return entry.second.id == id; });
    };
    std::copy_if(f.ends.begin(), f.ends.end(), std::back_inserter(v.ends), known);
    if (const auto named = v.named.find("eos_token"); named != v.named.end()) look(named->second, &v.end_of_text);
    look(std::string(kEndOfText), &v.end_of_text);
    if (v.end_of_text < 0 && !v.ends.empty()) v.end_of_text = v.ends[0];
    for (const char* usual :
         {"</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "<EOS>", "<|EOS|>", "[EOS]", "<|end|>", "EOS", "[SEP]"})
        look(usual, &v.end_of_text);
    if (v.end_of_text < 0)
        v.notes.push_back(
            strf("note: %s has no end-of-text token: nothing stands between documents", f.vocab_path.c_str()));
    else if (v.ends.empty()) v.ends = {v.end_of_text};
    if (const auto named = v.named.find("bos_token"); named != v.named.end()) look(named->second, &v.begin_of_text);
    for (int id : f.begins)
        if (v.begin_of_text < 0 && known(id)) v.begin_of_text = id;
    if (v.begin_of_text < 0) v.begin_of_text = v.end_of_text;
}

}  // namespace

bool vocabulary_present(const std::string& dir) { return !pair_in(dir)[0].empty() || is_file(dir + "/tokenizer.json"); }

static Vocabulary load(const std::string& dir) {
    Found f;
    Vocabulary v;
    const auto [vocab_path, merges_path] = pair_in(dir);
    f.vocab_path = vocab_path, f.merges_path = merges_path;
    if (is_file(dir + "/tokenizer.json")) {
        f.vocab_path = f.merges_path = dir + "/tokenizer.json";
        read_tokenizer_json(f.vocab_path, &f, &v);
    } else if (!f.vocab_path.empty()) {
        if (!read_vocab(read_file(f.vocab_path), &f)) f.vocab.clear(), take_vocab(read_json(f.vocab_path), &f);
        read_merges_txt(f.merges_path, &f);
    } else {
        throw Error(
            strf("%s/vocab.json: no such file; a vocabulary is a directory with vocab.json and merges.txt, or with "
                 "tokenizer.json (`make gpt2` fetches GPT-2's, `./tokenize train` makes one)",
                 dir.c_str()));
    }
    read_small_files(dir, &f, &v);
    const TokenIds ids = place_tokens(f, v);
    place_merges(f, ids, v);
    choose_ends(f, v);
    std::erase_if(v.named, [&](const auto& entry) { return !f.added.count(entry.second); });
    for (const auto& [text, token] : f.added) v.added.push_back(token);
    std::sort(v.added.begin(), v.added.end(), [](auto& a, auto& b) { return a.id < b.id; });
    for (const std::string& text : f.before_prompts)
        if (const auto token = f.added.find(text); token != f.added.end()) v.before_prompts.push_back(token->second.id);
    return v;
}

Vocabulary load_vocabulary(const std::string& dir) {
    try {
        return load(dir);
    } catch (const JsonError& e) {  // an array where an object is expected, and the like
        throw Error(
            strf("%s: a tokenizer's files are not written so: %s", dir.c_str(), json_complaint(e, "cannot").c_str()));
    }
}

std::string merges_text(const std::string& dir) {
    Found f;
    Vocabulary v;
    f.merges_path = pair_in(dir)[1];
    if (!f.merges_path.empty()) {
        read_merges_txt(f.merges_path, &f);
    } else {
        f.merges_path = dir + "/tokenizer.json";
        try {
            read_tokenizer_json(f.merges_path, &f, &v);
        } catch (const std::exception&) {  // load_vocabulary() says what is wrong
            return read_file(f.merges_path);
        }
    }
    std::string text;
    for (const auto& [left, right] : f.merges) text += left + ' ' + right + '\n';
    return text;
}
