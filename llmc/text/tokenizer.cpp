#include "llmc/text/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/text/splitter.h"
#include "llmc/text/vocabulary.h"

Tokenizer::Tokenizer(Vocabulary vocabulary) : v_(std::make_unique<Vocabulary>(std::move(vocabulary))) {
    v_->added_by_text.clear(), v_->added_lengths = {};
    for (const AddedToken& token : v_->added) {
        v_->added_by_text[token.text] = &token;
        std::vector<size_t>& lengths = v_->added_lengths[static_cast<uint8_t>(token.text[0])];
        if (!std::count(lengths.begin(), lengths.end(), token.text.size())) lengths.push_back(token.text.size());
    }
    for (auto& lengths : v_->added_lengths) std::sort(lengths.rbegin(), lengths.rend());
}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::string& dir) { return Tokenizer(load_vocabulary(dir)); }
bool Tokenizer::present(const std::string& dir) { return vocabulary_present(dir); }
std::vector<std::string> Tokenizer::save(const std::string& dir) const {
    std::vector<std::string> names;
    for (const auto& [name, text] : vocabulary_files(*v_, false, 0)) {
        replace_file(dir + "/" + name, text);
        names.push_back(name);
    }
    return names;
}
std::map<std::string, std::string> Tokenizer::model_files(int context) const {
    return vocabulary_files(*v_, true, context);
}
Tokenizer Tokenizer::from_merges(const std::vector<std::pair<int, int>>& merges) {
    return Tokenizer(make_vocabulary(merges));
}
Tokenizer Tokenizer::extended(const std::vector<std::pair<int, int>>& merges) const {
    return Tokenizer(extend_vocabulary(*v_, merges));
}

bool Tokenizer::same(const Tokenizer& other) const { return vocab_size() == other.vocab_size() && within(other); }
bool Tokenizer::within(const Tokenizer& other) const {
    return vocab_size() <= other.vocab_size() && v_->merges == other.v_->merges &&
           std::equal(v_->tokens.begin(), v_->tokens.end(), other.v_->tokens.begin());
}
bool Tokenizer::extends(const Tokenizer& old) const {
    const auto begins_with = [](const auto& all, const auto& first) {
        return all.size() >= first.size() && std::equal(first.begin(), first.end(), all.begin());
    };
    return begins_with(v_->tokens, old.v_->tokens) && begins_with(v_->merges, old.v_->merges) &&
           std::includes(v_->added.begin(), v_->added.end(), old.v_->added.begin(), old.v_->added.end(),
                         [](auto& a, auto& b) { return std::tie(a.id, a.text) < std::tie(b.id, b.text); });
}
bool Tokenizer::lacks_bytes() const { return v_->lacks_bytes; }
int Tokenizer::vocab_size() const { return v_->size(); }
int Tokenizer::end_of_text() const { return v_->end_of_text; }
int Tokenizer::begin_of_text() const { return v_->begin_of_text; }
const std::vector<int>& Tokenizer::ends() const { return v_->ends; }
const std::vector<std::string>& Tokenizer::notes() const { return v_->notes; }

std::string_view Tokenizer::bytes(int id) const {
    return id >= 0 && id < vocab_size() ? std::string_view(v_->tokens[static_cast<size_t>(id)]) : std::string_view();
}

void Tokenizer::merge(std::string_view piece, std::vector<int>& ids) const {
    v_->bpe.merge(byte_pointer(piece), piece.size(), ids);
}
bool Tokenizer::is_added(const std::string& bytes) const {
    const std::string spelled = spell_bytes(bytes);  // as the file has it, where both must differ
    return std::any_of(v_->added.begin(), v_->added.end(),
                       [&](const AddedToken& t) { return t.text == bytes || t.text == spelled; });
}

// Tokens t1 t2 ... are the encoding of their text if each pair of neighbours is the encoding of its own (bpe.h), so the
// beginning of an encoding is one, too. Whatever follows, some token of the whole piece ends within the longest token's
// length of our end. If cutting at b is right for the text up to each place there, it is right for the whole piece.
size_t Tokenizer::safe_cut(std::string_view part, std::vector<int>* before) const {
    const uint8_t* const bytes = byte_pointer(part);
    const size_t size = part.size(), longest = std::max<size_t>(4, v_->longest);
    std::vector<int> ids, first, pair;
    size_t cut = size, any = size / 2;
    if (!v_->lacks_bytes && v_->unknown.empty())
        v_->bpe.merge(bytes, size, ids);  // else a token does not say how long it was
    for (int tries = 0; tries < 64 && ids.size() > 1; ids.pop_back()) {
        cut -= v_->tokens[static_cast<size_t>(ids.back())].size();
        // not inside a character, nor where the rest would look like a contraction
        if (cut + 3 * longest > size || (bytes[cut] & 0xC0) == 0x80 || bytes[cut] == '\'') continue;
        if (tries++ == 0) any = cut;
        const int left = ids[ids.size() - 2];
        const auto fits = [&](size_t end) {
            first.clear(), pair.clear();
            v_->bpe.merge(bytes + cut, end - cut, first);
            const std::string both = v_->tokens[static_cast<size_t>(left)] + v_->tokens[static_cast<size_t>(first[0])];
            v_->bpe.merge(byte_pointer(both), both.size(), pair);
            return pair.size() == 2 && pair[0] == left;
        };
        size_t end = size;
        while (end > size - longest && fits(end)) --end;
        if (end > size - longest) continue;
        ids.pop_back();
        if (before) before->insert(before->end(), ids.begin(), ids.end());
        return cut;
    }
    if (before) v_->bpe.merge(bytes, any, *before);
    return any;  // of no trained vocabulary; memory stays bounded all the same
}

// In batches: first all pieces of a batch are found, and their places in the cache fetched; then they are looked up. So
// the memory's delays pass side by side.
void Tokenizer::encode(std::string_view text, std::vector<int>& ids) const {
    if (v_->words_alone && !text.empty())
        throw Error(strf("\"%s\" is no word of the vocabulary, which has no others for it",
                         std::string(text.substr(0, 40)).c_str()));
    const size_t before = ids.size();
    PieceCache& cache = PieceCache::of(v_->serial);
    const Splitter splitter;
    const uint8_t *p = byte_pointer(text), *const end = p + text.size();
    constexpr size_t kBatch = 64, kMost = kBatch + Splitter::kEnds;
    const uint8_t* ends[kMost];
    PieceCache::Key keys[kMost];
    int found[kMost * PieceCache::kIds];
    while (p < end) {
        size_t pieces = 0;
        for (const uint8_t* from = p; pieces < kBatch && from < end; from = ends[pieces - 1])
            pieces += splitter.ends(from, end, ends + pieces);
        const uint8_t* from = p;
        for (size_t i = 0; i < pieces; from = ends[i++]) {
            keys[i] = PieceCache::key(from, static_cast<size_t>(ends[i] - from), end);
            __builtin_prefetch(&cache.set_of(keys[i]), 1);
        }
        int* next = found;
        for (size_t i = 0; i < pieces; p = ends[i++]) {
            if (const PieceCache::Entry* entry = cache.find(keys[i])) {
                static_assert(PieceCache::kIds == 4);
                std::memcpy(next, entry->ids, sizeof(entry->ids));  // all four, whatever their number
                next += entry->count();
                continue;
            }
            ids.insert(ids.end(), found, next);
            next = found;
            encode_piece(cache, p, static_cast<size_t>(ends[i] - p), end, ids);
        }
        ids.insert(ids.end(), found, next);
    }
    if (v_->lacks_bytes)
        ids.erase(std::remove(ids.begin() + static_cast<ptrdiff_t>(before), ids.end(), v_->size()), ids.end());
}

// A piece that was not found: part by part, where no merge crosses the border between them.
void Tokenizer::encode_piece(PieceCache& cache, const uint8_t* piece, size_t size, const uint8_t* end,
                             std::vector<int>& ids) const {
    const size_t before = ids.size();
    for (size_t done = 0, n; done < size; done += n) {
        n = v_->bpe.part(piece + done, size - done);
        if (n == 1) ids.push_back(v_->bpe.byte_id[piece[done]]);
        else encode_part(cache, piece + done, n, end, ids);
    }
    cache.keep(PieceCache::key(piece, size, end), ids.data() + before, ids.size() - before);
}

void Tokenizer::encode_part(PieceCache& cache, const uint8_t* part, size_t size, const uint8_t* end,
                            std::vector<int>& ids) const {
    const size_t before = ids.size();
    const PieceCache::Key key = PieceCache::key(part, size, end);
    if (const PieceCache::Entry* entry = cache.find(key)) {
        ids.insert(ids.end(), entry->ids, entry->ids + entry->count());
        return;
    }
    const bool is_long = size > PieceCache::kBytes && size <= PieceCache::kLongBytes;
    PieceCache::LongEntry* const kept = is_long ? &cache.find_long(part, size) : nullptr;
    if (kept && kept->size == size && std::memcmp(kept->bytes, part, size) == 0) {
        ids.insert(ids.end(), kept->ids, kept->ids + kept->count);
        return;
    }
    size_t rest = size;
    for (size_t cut; rest > 2 * kUnbroken; part += cut, rest -= cut)
        cut = safe_cut({reinterpret_cast<const char*>(part), kUnbroken}, &ids);
    v_->bpe.merge(part, rest, ids);
    const size_t count = ids.size() - before;
    if (!cache.keep(key, ids.data() + before, count) && kept && count <= PieceCache::kLongIds) {
        kept->size = static_cast<uint8_t>(size);
        std::memcpy(kept->bytes, part, size);
        kept->count = static_cast<int>(count);
        std::copy_n(ids.data() + before, count, kept->ids);
    }
}

static bool is_word(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_' || (c & 0x80); }

// The added token that comes first in text[from, ...), the longest of those at its place; `at` gets that. markup: where
// special ones are, each byte of them; shorter than the text: nowhere in the rest.
static const AddedToken* next_added(const Vocabulary& v, std::string_view text, size_t from, std::string_view markup,
                                    size_t* at) {
    const auto marked = [&](size_t begin, size_t end) {
        return end <= markup.size() && markup.substr(begin, end - begin).find('\0') == std::string_view::npos;
    };
    for (size_t i = from; i < text.size(); ++i)
        for (size_t n : v.added_lengths[static_cast<uint8_t>(text[i])]) {
            const auto found = v.added_by_text.find(text.substr(i, n));
            if (found == v.added_by_text.end()) continue;
            const size_t end = i + n;
            if (found->second->special && !marked(i, end)) continue;
            if (found->second->single_word &&
                ((i > 0 && is_word(text[i - 1])) || (end < text.size() && is_word(text[end]))))
                continue;
            return *at = i, found->second;
        }
    return *at = text.size(), nullptr;
}

size_t Tokenizer::word_at(std::string_view text, size_t cut) const {
    size_t first = std::string::npos;
    for (const AddedToken& token : v_->added) {
        const size_t n = token.text.size(), all_seen = text.size() - std::min(text.size(), n);
        if (token.special) continue;
        if (cut > all_seen) first = std::min(first, all_seen);
        for (size_t at = cut - std::min(cut, n); at <= cut; ++at)
            if (text.substr(at).starts_with(token.text)) first = std::min(first, at);
    }
    return first;
}

// What an id stands for is its bytes, but where the vocabulary lacks bytes or wants a space in front: there `ends` may be
// off within a run of words.
void Tokenizer::encode_added(std::string_view text, bool begins, std::string_view markup, std::vector<int>& ids,
                             std::vector<size_t>* ends) const {
    const bool any =
        std::any_of(v_->added.begin(), v_->added.end(), [=](auto& t) { return !markup.empty() || !t.special; });
    const auto is_space = [&](size_t i) { return std::strchr(" \t\n\v\f\r", text[i]) && text[i]; };
    for (size_t from = 0; from < text.size();) {
        size_t at = text.size();
        const AddedToken* token = any ? next_added(*v_, text, from, markup, &at) : nullptr;
        size_t end = at;
        while (token && token->lstrip && end > from && is_space(end - 1)) --end;
        const std::string_view words = text.substr(from, end - from);
        const size_t first = ids.size();
        if (v_->prefix_space && begins && !words.empty() && words[0] != ' ') encode(' ' + std::string(words), ids);
        else encode(words, ids);
        size_t done = from;
        for (size_t i = first; ends && i < ids.size(); ++i)
            ends->push_back(done = i + 1 == ids.size() ? end : std::min(end, done + bytes(ids[i]).size()));
        if (!token) return;
        ids.push_back(token->id);
        begins = true;
        from = at + token->text.size();
        if (ends) ends->push_back(from);
        while (token->rstrip && from < text.size() && is_space(from)) ++from;
    }
}

void Tokenizer::encode_with_special(std::string_view text, std::vector<int>& ids) const {
    ids.insert(ids.end(), v_->before_prompts.begin(), v_->before_prompts.end());
    encode_added(text, true, std::string(text.size(), '\1'), ids);
}

std::string Tokenizer::chat_template() const {
    const Json config = try_json(v_->config);
    const Json text = config.is_object() ? config.value("chat_template", Json()) : Json();
    return text.is_string() ? text.get<std::string>() : text.is_null() ? "" : text.dump();
}
void Tokenizer::set_chat_template(const std::string& jinja) {
    OrderedJson config = v_->config.empty() ? OrderedJson::object() : parse_json<OrderedJson>(v_->config);
    config["chat_template"] = jinja;
    v_->config = config.dump();
}

std::string Tokenizer::decode(const std::vector<int>& ids) const {
    std::string out;
    for (int id : ids) out += bytes(id);
    return out;
}
