#include "llmc/text/vocabulary.h"

#include <filesystem>
#include <sstream>
#include <unordered_map>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/text/utf8.h"

namespace fs = std::filesystem;

namespace {

constexpr int64_t kMaxId = 1 << 24;  // a larger id in a vocab.json is a mistake, not a vocabulary

// ---- GPT-2's spelling of bytes ---------------------------------------------------------------------------------------

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
    std::string spell(std::string_view bytes) const {
        std::string out;
        for (char c : bytes) append_utf8(out, character[static_cast<uint8_t>(c)]);
        return out;
    }
    bool read(std::string_view spelled, std::string& bytes) const {
        bytes.clear();
        for (size_t i = 0; i < spelled.size();) {
            Utf8 status;
            uint32_t code;
            i += read_utf8(byte_pointer(spelled) + i, spelled.size() - i, &status, &code);
            if (status != Utf8::valid || code >= byte.size() || byte[code] < 0) return false;
            bytes += static_cast<char>(byte[code]);
        }
        return true;
    }
};
const ByteAlphabet& alphabet() {
    static const ByteAlphabet instance;
    return instance;
}

// ---- reading ---------------------------------------------------------------------------------------------------------

using Ids = std::unordered_map<std::string, int>;  // by bytes

// Tokens that no merge makes but that may stand in a vocabulary: <|endoftext|>, <pad>, [MASK].
bool looks_special(std::string_view token) {
    return token.size() > 2 &&
           ((token.front() == '<' && token.back() == '>') || (token.front() == '[' && token.back() == ']'));
}

Json parse_vocab_json(const std::string& path) {
    try {
        return Json::parse(read_file(path));
    } catch (const JsonError& e) {
        throw Error(strf("%s: not valid JSON: %s; fetch or train the vocabulary again", path.c_str(),
                         json_complaint(e, "line ").c_str()));
    }
}

Ids read_vocab_json(const std::string& path, Vocabulary& v) {
    const char* name = path.c_str();
    const Json vocab = parse_vocab_json(path);
    if (!vocab.is_object() || vocab.empty()) throw Error(strf("%s: not an object of tokens and their ids", name));
    Ids ids;
    std::vector<bool> taken;
    for (const auto& [spelled, value] : vocab.items()) {
        if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() >= kMaxId)
            throw Error(strf("%s: the id of token \"%s\" is %s, not a whole number from 0 to %lld", name,
                             spelled.c_str(), value.dump().c_str(), static_cast<long long>(kMaxId - 1)));
        const size_t id = value.get<size_t>();
        std::string bytes;
        if (!alphabet().read(spelled, bytes) || bytes.empty())
            throw Error(
                strf("%s: token \"%s\" (id %zu) is not spelled in GPT-2's byte alphabet; only byte-level BPE "
                     "vocabularies can be read",
                     name, spelled.c_str(), id));
        if (id >= taken.size()) taken.resize(id + 1), v.tokens.resize(id + 1);
        if (taken[id])
            throw Error(strf("%s: tokens \"%s\" and \"%s\" have the same id %zu", name,
                             alphabet().spell(v.tokens[id]).c_str(), spelled.c_str(), id));
        taken[id] = true;
        v.tokens[id] = bytes;
        ids[std::move(bytes)] = static_cast<int>(id);
    }
    for (size_t b = 0; b < 256; ++b) {
        const std::string byte(1, static_cast<char>(b));
        const auto found = ids.find(byte);
        if (found == ids.end())
            throw Error(strf("%s: no token for byte 0x%02zx (\"%s\"); a byte-level vocabulary has all 256", name, b,
                             alphabet().spell(byte).c_str()));
        v.bpe.byte_id[b] = found->second;
    }
    const auto special = ids.find(std::string(kEndOfText));
    if (special == ids.end()) throw Error(strf("%s: no token <|endoftext|>, which separates documents", name));
    v.end_of_text = special->second;
    return ids;
}

void read_merges(const std::string& path, const Ids& ids, Vocabulary& v) {
    std::istringstream in(read_file(path));
    v.bpe.pairs.reserve(v.tokens.size() + 16);
    std::vector<bool> made(v.tokens.size());
    size_t line_number = 0;
    for (std::string line; std::getline(in, line);) {
        ++line_number;
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (line.empty() || line.starts_with("#version")) continue;
        const auto bad = [&](const std::string& what) {
            return Error(strf("%s:%zu: %s; vocab.json and merges.txt must be of one vocabulary", path.c_str(),
                              line_number, what.c_str()));
        };
        const size_t space = line.find(' ');
        if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
            line.find(' ', space + 1) != std::string::npos)
            throw bad(strf("expected two tokens with a space between them, found \"%s\"", line.c_str()));
        const std::string spelled[2] = {line.substr(0, space), line.substr(space + 1)};
        std::string bytes[2];
        int pair[2];
        for (size_t i = 0; i < 2; ++i) {
            const auto found = alphabet().read(spelled[i], bytes[i]) ? ids.find(bytes[i]) : ids.end();
            if (found == ids.end()) throw bad(strf("token \"%s\" is not in vocab.json", spelled[i].c_str()));
            pair[i] = found->second;
        }
        const auto joined = ids.find(bytes[0] + bytes[1]);
        if (joined == ids.end())
            throw bad(
                strf("\"%s%s\", which this merge makes, is not in vocab.json", spelled[0].c_str(), spelled[1].c_str()));
        if (v.merges.size() >= v.tokens.size()) throw bad("more merges than tokens");
        if (!v.add_merge(pair[0], pair[1], joined->second))
            throw bad(strf("merge \"%s\" stands here a second time", line.c_str()));
        made[static_cast<size_t>(joined->second)] = true;
    }
    for (size_t id = 0; id < v.tokens.size(); ++id)
        if (v.tokens[id].size() > 1 && !made[id] && !looks_special(v.tokens[id]))
            throw Error(
                strf("%s: no merge makes token \"%s\" (id %zu) of vocab.json; the file is cut short or of another "
                     "vocabulary",
                     path.c_str(), alphabet().spell(v.tokens[id]).c_str(), id));
}

}  // namespace

bool vocabulary_present(const std::string& dir) {
    std::error_code ignored;
    return fs::is_regular_file(dir + "/vocab.json", ignored) && fs::is_regular_file(dir + "/merges.txt", ignored);
}

Vocabulary load_vocabulary(const std::string& dir) {
    const std::string vocab_path = dir + "/vocab.json", merges_path = dir + "/merges.txt";
    for (const std::string& path : {vocab_path, merges_path})
        if (!fs::exists(path))
            throw Error(strf(
                "%s: no such file; a vocabulary is a directory with vocab.json and merges.txt (`make gpt2` fetches "
                "GPT-2's, `./tokenize train` makes one)",
                path.c_str()));
    Vocabulary v;
    const Ids ids = read_vocab_json(vocab_path, v);
    read_merges(merges_path, ids, v);
    return v;
}

void save_vocabulary(const std::string& dir, const Vocabulary& v) {
    std::string vocab = "{", merges = "#version: 0.2\n";
    for (int id = 0; id < v.size(); ++id) {
        const std::string& bytes = v.tokens[static_cast<size_t>(id)];
        if (bytes.empty()) continue;
        const std::string spelled = id == v.end_of_text ? std::string(kEndOfText) : alphabet().spell(bytes);
        vocab += strf("%s%s: %d", vocab.size() > 1 ? ", " : "", Json(spelled).dump().c_str(), id);
    }
    vocab += "}\n";
    const auto spell = [&](int id) { return alphabet().spell(v.tokens[static_cast<size_t>(id)]); };
    for (const auto& [left, right] : v.merges) merges += spell(left) + ' ' + spell(right) + '\n';
    replace_file(dir + "/vocab.json", vocab);
    replace_file(dir + "/merges.txt", merges);
}

Vocabulary make_vocabulary(const std::vector<std::pair<int, int>>& merges) {
    Vocabulary v;
    Ids ids;
    for (int id = 0; id < 256; ++id) {
        const uint8_t byte = alphabet().order[static_cast<size_t>(id)];
        v.tokens.emplace_back(1, static_cast<char>(byte));
        v.bpe.byte_id[byte] = id;
        ids[v.tokens.back()] = id;
    }
    v.bpe.pairs.reserve(merges.size());
    for (const auto& [left, right] : merges) {
        const int size = v.size();
        CHECK(left >= 0 && right >= 0 && left < size && right < size, "merge of %d and %d with %d tokens", left, right,
              size);
        std::string joined = v.tokens[static_cast<size_t>(left)] + v.tokens[static_cast<size_t>(right)];
        const auto [place, is_new] = ids.emplace(std::move(joined), size);
        if (is_new) v.tokens.push_back(place->first);
        v.add_merge(left, right, place->second);
    }
    v.end_of_text = v.size();
    v.tokens.emplace_back(kEndOfText);
    return v;
}
