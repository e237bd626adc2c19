#include "llmc/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <unordered_map>
#include <nlohmann/json.hpp>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/text/unicode_table.h"

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr int64_t kMaxId = 1 << 24;  // a larger id in a vocab.json is a mistake, not a vocabulary
constexpr char32_t kReplacement = 0xFFFD;

// ---- UTF-8 -------------------------------------------------------------------------------------------------

enum class Utf8 { valid, invalid, unfinished };

// Reads one character from p[0, n), n > 0. Returns its length; for what is no character, that of its longest beginning
// of one (Unicode 16, table 3-7: the well-formed sequences).
inline size_t read_utf8(const uint8_t* p, size_t n, Utf8* status, uint32_t* code) {
    const uint8_t lead = p[0];
    *status = Utf8::valid;
    *code = lead;
    if (lead < 0x80) return 1;
    *status = Utf8::invalid;
    if (lead < 0xC2 || lead > 0xF4) return 1;
    const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint8_t low = lead == 0xE0   ? 0xA0
                  : lead == 0xF0 ? 0x90
                                 : 0x80,
            high = lead == 0xED   ? 0x9F
                   : lead == 0xF4 ? 0x8F
                                  : 0xBF;
    *code = lead & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; ++i) {
        if (i == n) {
            *status = Utf8::unfinished;
            return i;
        }
        if (p[i] < low || p[i] > high) return i;
        *code = *code << 6 | (p[i] & 0x3F);
        low = 0x80, high = 0xBF;
    }
    *status = Utf8::valid;
    return length;
}

void append_utf8(std::string& out, uint32_t code) {
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xC0 | code >> 6);
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
        CHECK(code < 0x10000, "code point %x", code);
        out += static_cast<char>(0xE0 | code >> 12);
        out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    }
}

// ---- splitter ----------------------------------------------------------------------------------------------

// The classes of all code points, spread out from the generated runs: 1.1 MB, so that a character costs one load.
const CharClass* char_classes() {
    static const std::vector<CharClass> table = [] {
        std::vector<CharClass> classes(0x110000);
        constexpr size_t runs = std::size(kUnicodeRuns);
        for (size_t i = 0; i < runs; ++i) {
            const uint32_t begin = kUnicodeRuns[i] / 4, end = i + 1 < runs ? kUnicodeRuns[i + 1] / 4 : 0x110000;
            std::fill(classes.begin() + begin, classes.begin() + end, static_cast<CharClass>(kUnicodeRuns[i] % 4));
        }
        return classes;
    }();
    return table.data();
}

struct Splitter {
    const CharClass* classes = char_classes();

    // Class of the character at p, whose length goes to `length`. p < end.
    CharClass at(const uint8_t* p, const uint8_t* end, size_t* length) const {
        *length = 1;
        if (*p < 0x80) return classes[*p];
        Utf8 status;
        uint32_t code;
        *length = read_utf8(p, static_cast<size_t>(end - p), &status, &code);
        return status == Utf8::valid ? classes[code] : CharClass::other;
    }

    // Eight bytes at a time: no branch for each letter, and one less misprediction a word.
    static const uint8_t* skip_ascii_letters(const uint8_t* p, const uint8_t* end) {
        constexpr uint64_t kOnes = 0x0101010101010101, kHigh = 0x80 * kOnes;
        for (; end - p >= 8; p += 8) {
            uint64_t x;
            std::memcpy(&x, p, 8);
            const uint64_t lower = (x & 0x7F * kOnes) | 0x20 * kOnes;  // sums below stay inside their byte
            const uint64_t letters = (lower + (0x80 - 'a') * kOnes) & ~(lower + (0x7F - 'z') * kOnes) & ~x & kHigh;
            if (letters != kHigh) return p + std::countr_zero(letters ^ kHigh) / 8;
        }
        return p;
    }

    size_t piece(const uint8_t* const begin, const uint8_t* const end) const {
        const uint8_t* p = begin;
        if (*p == '\'' && end - p >= 2) {  // 's|'t|'re|'ve|'m|'ll|'d
            const uint8_t a = p[1], b = end - p >= 3 ? p[2] : 0;
            if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
            if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
        }
        size_t length;
        CharClass first = at(p, end, &length);
        if (*p == ' ' && p + 1 < end) {  // " ?" before a run of one class
            size_t next_length;
            const CharClass next = at(p + 1, end, &next_length);
            if (next != CharClass::space) {
                first = next;
                length = 1 + next_length;
            }
        }
        p += length;
        if (first == CharClass::space) {
            const uint8_t* last = begin;  // where the last character of the run begins
            for (; p < end && at(p, end, &length) == first; p += length) last = p;
            // \s+(?!\S): before a character that is no space, a run of spaces leaves its last one to what follows.
            if (p < end && last > begin) p = last;
        } else {
            if (first == CharClass::letter) p = skip_ascii_letters(p, end);
            while (p < end && at(p, end, &length) == first) p += length;
        }
        return static_cast<size_t>(p - begin);
    }
};

const uint8_t* byte_pointer(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

// ---- pairs -------------------------------------------------------------------------------------------------

// Open addressing from a pair of ids to its rank in the merge list and the token that it makes. Most pairs that are
// looked up merge into nothing; a filter of one bit a hash, 64 KB that stay in the CPU's cache, answers for nine of ten
// of them.
class PairTable {
  public:
    struct Slot {
        uint64_t key = kEmpty;
        int rank = 0, result = 0;
    };
    void reserve(size_t n) {
        slots_.assign(std::bit_ceil(std::max<size_t>(16, 2 * n)), Slot{});
        filter_.assign(size_t{1} << (kFilterBits - 6), 0);
    }
    bool insert(int left, int right, int rank, int result) {  // false if the pair is there
        const uint64_t k = key(left, right), h = hash(k);
        Slot& slot = slots_[place(k, h)];
        if (slot.key == k) return false;
        slot = {k, rank, result};
        filter_[h >> (70 - kFilterBits)] |= uint64_t{1} << (h >> (64 - kFilterBits) & 63);
        return true;
    }
    const Slot* find(int left, int right) const {
        const uint64_t k = key(left, right), h = hash(k);
        if (!(filter_[h >> (70 - kFilterBits)] >> (h >> (64 - kFilterBits) & 63) & 1)) return nullptr;
        const Slot& slot = slots_[place(k, h)];
        return slot.key == k ? &slot : nullptr;
    }

  private:
    static constexpr uint64_t kEmpty = ~uint64_t{0};
    static constexpr int kFilterBits = 19;
    static uint64_t key(int left, int right) {
        return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    }
    static uint64_t hash(uint64_t k) { return (k ^ k >> 29) * 0x9E3779B97F4A7C15ull; }
    size_t place(uint64_t k, uint64_t h) const {
        const size_t mask = slots_.size() - 1;
        size_t i = (h >> 32) & mask;
        while (slots_[i].key != k && slots_[i].key != kEmpty) i = (i + 1) & mask;
        return i;
    }
    std::vector<Slot> slots_;
    std::vector<uint64_t> filter_;
};

// ---- piece cache -------------------------------------------------------------------------------------------

// The ids of short pieces, one table for each thread: natural text repeats its words, and a hit costs a few nanoseconds
// where merging costs hundreds. Direct-mapped, so that its size is fixed and nothing needs to be evicted.
struct PieceCache {
    static constexpr size_t kBytes = 15, kIds = 4;
    static constexpr int kBits = 16;  // 65,536 entries of 32 bytes
    struct Entry {
        uint64_t a = 0, b = 0;  // the piece's bytes, zeros, its length in the last byte
        int ids[kIds] = {-1, -1, -1, -1};
    };
    uint64_t owner = 0;  // serial number of the tokenizer whose ids these are
    std::vector<Entry> entries;

    Entry& find(uint64_t a, uint64_t b) {
        const uint64_t hash = (a ^ (b * 0x9E3779B97F4A7C15ull)) * 0xD6E8FEB86659FD93ull;
        return entries[hash >> (64 - kBits)];
    }
};

PieceCache& piece_cache(uint64_t owner) {
    static thread_local PieceCache cache;
    if (cache.owner != owner) {
        cache.entries.assign(size_t{1} << PieceCache::kBits, PieceCache::Entry{});
        cache.owner = owner;
    }
    return cache;
}

// ---- files -------------------------------------------------------------------------------------------------

// GPT-2's spelling of bytes in vocab.json and merges.txt: printable Latin-1 stands for itself, the others for U+0100
// and up in order. The ids 0 to 255 follow the order of these characters.
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

// Tokens that no merge makes but that may stand in a vocabulary: <|endoftext|>, <pad>, [MASK].
bool looks_special(std::string_view token) {
    return token.size() > 2 &&
           ((token.front() == '<' && token.back() == '>') || (token.front() == '[' && token.back() == ']'));
}

}  // namespace

size_t next_piece(std::string_view text) {
    return text.empty() ? 0 : Splitter().piece(byte_pointer(text), byte_pointer(text) + text.size());
}

// A piece ends where the class of characters changes, except after a space (which the next piece may take, or which the
// next character decides on) and in a contraction (an apostrophe, then letters). The pattern never looks back.
size_t last_safe_cut(std::string_view text) {
    const Splitter splitter;
    const uint8_t *begin = byte_pointer(text), *end = begin + text.size();
    for (const uint8_t* p = end - std::min<size_t>(text.size(), 4); p > begin;
         --p) {  // the character at p is there in full
        const uint8_t* before = p - 1;
        while (before > begin && p - before < 4 && (*before & 0xC0) == 0x80) --before;
        size_t length, length_before;
        const CharClass a = splitter.at(before, end, &length_before), b = splitter.at(p, end, &length);
        if ((*p & 0xC0) == 0x80 || before + length_before != p) continue;  // inside a character, or no UTF-8
        if (a != b && a != CharClass::space && !(a == CharClass::other && b == CharClass::letter))
            return static_cast<size_t>(p - begin);
    }
    return 0;
}

// ---- Tokenizer ---------------------------------------------------------------------------------------------

struct Tokenizer::Impl {
    std::vector<std::string> tokens;         // bytes of each id
    std::vector<std::array<int, 2>> merges;  // in order of rank
    PairTable pairs;
    std::array<int, 256> byte_id{};
    int end_of_text = -1;
    uint64_t serial;

    Impl() {
        static std::atomic<uint64_t> counter{0};
        serial = ++counter;
    }
    void merge(const uint8_t* bytes, size_t n, std::vector<int>& out) const;
};

// Joins the pair of lowest rank, the leftmost of equals, until none is left. A heap of candidate pairs over a linked
// list: O(n log n), so that a megabyte without a space is no trouble; a short piece is scanned instead, which is
// faster.
void Tokenizer::Impl::merge(const uint8_t* bytes, size_t n, std::vector<int>& out) const {
    constexpr size_t kScan = 64;
    if (n <= kScan) {
        // best[i]: rank of the pair that begins at i, and i in the low 6 bits: one vectorised minimum finds the pair
        // and its place. A joined token's place stays, with no pair.
        constexpr uint32_t kNone = UINT32_MAX;
        uint32_t best[kScan];
        int ids[kScan + 1], results[kScan];
        uint8_t next[kScan + 1], previous[kScan + 1];
        const auto rate = [&](size_t i) {
            const PairTable::Slot* slot = next[i] < n ? pairs.find(ids[i], ids[next[i]]) : nullptr;
            best[i] = slot ? static_cast<uint32_t>(slot->rank) << 6 | static_cast<uint32_t>(i) : kNone;
            if (slot) results[i] = slot->result;
        };
        for (size_t i = 0; i < n; ++i) {
            ids[i] = byte_id[bytes[i]];
            next[i] = static_cast<uint8_t>(i + 1);
            previous[i] = static_cast<uint8_t>(i - 1);  // 255 for none
        }
        for (size_t i = 0; i < n; ++i) rate(i);
        for (;;) {
            uint32_t lowest = kNone;
            for (size_t i = 0; i < n; ++i) lowest = std::min(lowest, best[i]);
            if (lowest == kNone) break;
            const size_t i = lowest & (kScan - 1), joined = next[i];
            ids[i] = results[i];
            best[joined] = kNone;
            next[i] = next[joined];
            previous[next[i]] = static_cast<uint8_t>(i);
            rate(i);
            if (previous[i] < n) rate(previous[i]);
        }
        for (size_t i = 0; i < n; i = next[i]) out.push_back(ids[i]);
        return;
    }
    CHECK(n < INT32_MAX, "a piece of %zu bytes", n);
    struct Node {
        int id, previous, next;  // id -1: joined to the one before
    };
    struct Candidate {
        int rank, position, left, right, result;
        bool operator<(const Candidate& other) const {  // std::priority_queue puts the largest first
            return rank != other.rank ? rank > other.rank : position > other.position;
        }
    };
    const int count = static_cast<int>(n);
    std::vector<Node> nodes(n);
    std::vector<Candidate> heap;
    const auto candidate = [&](int i) {
        if (i < 0 || nodes[i].next >= count) return false;
        const int left = nodes[i].id, right = nodes[nodes[i].next].id;
        const PairTable::Slot* slot = pairs.find(left, right);
        if (slot) heap.push_back({slot->rank, i, left, right, slot->result});
        return slot != nullptr;
    };
    for (int i = 0; i < count; ++i) nodes[i] = {byte_id[bytes[i]], i - 1, i + 1};
    for (int i = 0; i < count; ++i) candidate(i);
    std::make_heap(heap.begin(), heap.end());
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end());
        const Candidate best = heap.back();
        heap.pop_back();
        Node& node = nodes[best.position];
        if (node.id != best.left || node.next >= count || nodes[node.next].id != best.right) continue;  // outdated
        nodes[node.next].id = -1;
        node.id = best.result;
        node.next = nodes[node.next].next;
        if (node.next < count) nodes[node.next].previous = best.position;
        if (candidate(best.position)) std::push_heap(heap.begin(), heap.end());
        if (candidate(node.previous)) std::push_heap(heap.begin(), heap.end());
    }
    for (int i = 0; i < count; i = nodes[i].next) out.push_back(nodes[i].id);
}

Tokenizer::Tokenizer() : impl_(std::make_unique<Impl>()) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

bool Tokenizer::same(const Tokenizer& other) const {
    return impl_->tokens == other.impl_->tokens && impl_->merges == other.impl_->merges;
}

int Tokenizer::vocab_size() const { return static_cast<int>(impl_->tokens.size()); }
int Tokenizer::end_of_text() const { return impl_->end_of_text; }

std::string_view Tokenizer::bytes(int id) const {
    return id >= 0 && id < vocab_size() ? std::string_view(impl_->tokens[static_cast<size_t>(id)]) : std::string_view();
}

void Tokenizer::encode(std::string_view text, std::vector<int>& ids) const {
    PieceCache& cache = piece_cache(impl_->serial);
    const Splitter splitter;
    const uint8_t *p = byte_pointer(text), *const end = p + text.size();
    constexpr size_t kBuffer = 1024;  // ids on their way to the vector
    int buffer[kBuffer + PieceCache::kIds];
    size_t buffered = 0;
    const auto flush = [&] {
        ids.insert(ids.end(), buffer, buffer + buffered);
        buffered = 0;
    };
    std::vector<int> merged;
    while (p < end) {
        const size_t n = splitter.piece(p, end);
        if (n > PieceCache::kBytes) {
            flush();
            impl_->merge(p, n, ids);
            p += n;
            continue;
        }
        uint64_t key[2] = {0, 0};
        if (end - p >= 16) {  // a copy of fixed size, then a mask, is faster than a copy of n bytes
            std::memcpy(key, p, 16);
            key[0] &= n < 8 ? (uint64_t{1} << 8 * n) - 1 : ~uint64_t{0};
            key[1] &= n > 8 ? (uint64_t{1} << 8 * (n - 8)) - 1 : 0;
        } else {
            std::memcpy(key, p, n);
        }
        key[1] |= static_cast<uint64_t>(n) << 56;
        PieceCache::Entry& entry = cache.find(key[0], key[1]);
        if (entry.a != key[0] || entry.b != key[1]) {
            merged.clear();
            impl_->merge(p, n, merged);
            if (merged.size() > PieceCache::kIds) {
                flush();
                ids.insert(ids.end(), merged.begin(), merged.end());
                p += n;
                continue;
            }
            entry = {key[0], key[1], {-1, -1, -1, -1}};
            std::copy(merged.begin(), merged.end(), entry.ids);
        }
        static_assert(PieceCache::kIds == 4);
        std::memcpy(buffer + buffered, entry.ids, sizeof(entry.ids));  // all four, whatever their number
        buffered += 1u + (entry.ids[1] >= 0) + (entry.ids[2] >= 0) + (entry.ids[3] >= 0);
        if (buffered >= kBuffer) flush();
        p += n;
    }
    flush();
}

void Tokenizer::encode_with_special(std::string_view text, std::vector<int>& ids) const {
    for (;;) {
        const size_t at = text.find(kEndOfText);
        encode(text.substr(0, at), ids);
        if (at == std::string_view::npos) return;
        ids.push_back(impl_->end_of_text);
        text.remove_prefix(at + kEndOfText.size());
    }
}

std::string Tokenizer::decode(const std::vector<int>& ids) const {
    std::string out;
    for (int id : ids) out += bytes(id);
    return out;
}

Tokenizer Tokenizer::from_merges(const std::vector<std::pair<int, int>>& merges) {
    Tokenizer tokenizer;
    Impl& t = *tokenizer.impl_;
    std::unordered_map<std::string, int> ids;
    for (int id = 0; id < 256; ++id) {
        const uint8_t byte = alphabet().order[static_cast<size_t>(id)];
        t.tokens.push_back(std::string(1, static_cast<char>(byte)));
        t.byte_id[byte] = id;
        ids[t.tokens.back()] = id;
    }
    t.pairs.reserve(merges.size());
    for (const auto& [left, right] : merges) {
        const int size = tokenizer.vocab_size();
        CHECK(left >= 0 && right >= 0 && left < size && right < size, "merge of %d and %d with %d tokens", left, right,
              size);
        std::string joined = t.tokens[static_cast<size_t>(left)] + t.tokens[static_cast<size_t>(right)];
        const auto [place, is_new] = ids.emplace(std::move(joined), size);
        if (is_new) t.tokens.push_back(place->first);
        if (t.pairs.insert(left, right, static_cast<int>(t.merges.size()), place->second))
            t.merges.push_back({left, right});
    }
    t.end_of_text = tokenizer.vocab_size();
    t.tokens.emplace_back(kEndOfText);
    return tokenizer;
}

bool Tokenizer::present(const std::string& dir) {
    std::error_code ignored;
    return fs::is_regular_file(dir + "/vocab.json", ignored) && fs::is_regular_file(dir + "/merges.txt", ignored);
}

Tokenizer Tokenizer::load(const std::string& dir) {
    const std::string vocab_path = dir + "/vocab.json", merges_path = dir + "/merges.txt";
    const char *vocab_name = vocab_path.c_str(), *merges_name = merges_path.c_str();
    for (const std::string& path : {vocab_path, merges_path})
        if (!fs::exists(path))
            throw Error(strf(
                "%s: no such file; a vocabulary is a directory with vocab.json and merges.txt (`make gpt2` fetches "
                "GPT-2's, `./tokenize train` makes one)",
                path.c_str()));
    Tokenizer tokenizer;
    Impl& t = *tokenizer.impl_;

    nlohmann::json vocab;
    try {
        vocab = nlohmann::json::parse(read_file(vocab_path));
    } catch (const nlohmann::json::exception& e) {
        std::string what = e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 9: ..."
        const size_t at = what.find("line ");
        throw Error(strf("%s: not valid JSON: %s; fetch or train the vocabulary again", vocab_name,
                         at == std::string::npos ? what.c_str() : what.c_str() + at));
    }
    if (!vocab.is_object() || vocab.empty()) throw Error(strf("%s: not an object of tokens and their ids", vocab_name));
    std::unordered_map<std::string, int> ids;  // by bytes
    std::vector<bool> taken;
    for (const auto& [spelled, value] : vocab.items()) {
        if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() >= kMaxId)
            throw Error(strf("%s: the id of token \"%s\" is %s, not a whole number from 0 to %lld", vocab_name,
                             spelled.c_str(), value.dump().c_str(), static_cast<long long>(kMaxId - 1)));
        const size_t id = value.get<size_t>();
        std::string bytes;
        if (!alphabet().read(spelled, bytes) || bytes.empty())
            throw Error(
                strf("%s: token \"%s\" (id %zu) is not spelled in GPT-2's byte alphabet; only byte-level BPE "
                     "vocabularies can be read",
                     vocab_name, spelled.c_str(), id));
        if (id >= taken.size()) taken.resize(id + 1), t.tokens.resize(id + 1);
        if (taken[id])
            throw Error(strf("%s: tokens \"%s\" and \"%s\" have the same id %zu", vocab_name,
                             alphabet().spell(t.tokens[id]).c_str(), spelled.c_str(), id));
        taken[id] = true;
        t.tokens[id] = bytes;
        ids[std::move(bytes)] = static_cast<int>(id);
    }
    for (size_t b = 0; b < 256; ++b) {
        const auto found = ids.find(std::string(1, static_cast<char>(b)));
        if (found == ids.end())
            throw Error(strf("%s: no token for byte 0x%02zx (\"%s\"); a byte-level vocabulary has all 256", vocab_name,
                             b, alphabet().spell(std::string(1, static_cast<char>(b))).c_str()));
        t.byte_id[b] = found->second;
    }
    const auto special = ids.find(std::string(kEndOfText));
    if (special == ids.end()) throw Error(strf("%s: no token <|endoftext|>, which separates documents", vocab_name));
    t.end_of_text = special->second;

    std::istringstream in(read_file(merges_path));
    std::vector<std::array<std::string, 2>> lines;
    t.pairs.reserve(t.tokens.size() + 16);
    std::vector<bool> made(t.tokens.size());
    size_t line_number = 0;
    for (std::string line; std::getline(in, line);) {
        ++line_number;
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (line.empty() || line.rfind("#version", 0) == 0) continue;
        const auto bad = [&](const std::string& what) {
            return Error(strf("%s:%zu: %s; vocab.json and merges.txt must be of one vocabulary", merges_name,
                              line_number, what.c_str()));
        };
        const size_t space = line.find(' ');
        if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
            line.find(' ', space + 1) != std::string::npos)
            throw bad(strf("expected two tokens with a space between them, found \"%s\"", line.c_str()));
        const std::string spelled[2] = {line.substr(0, space), line.substr(space + 1)};
        std::string bytes[2];
        std::array<int, 2> pair{};
        for (size_t i = 0; i < 2; ++i) {
            const auto found = alphabet().read(spelled[i], bytes[i]) ? ids.find(bytes[i]) : ids.end();
            if (found == ids.end()) throw bad(strf("token \"%s\" is not in vocab.json", spelled[i].c_str()));
            pair[i] = found->second;
        }
        const auto joined = ids.find(bytes[0] + bytes[1]);
        if (joined == ids.end())
            throw bad(
                strf("\"%s%s\", which this merge makes, is not in vocab.json", spelled[0].c_str(), spelled[1].c_str()));
        if (t.merges.size() >= t.tokens.size()) throw bad("more merges than tokens");
        if (!t.pairs.insert(pair[0], pair[1], static_cast<int>(t.merges.size()), joined->second))
            throw bad(strf("merge \"%s\" stands here a second time", line.c_str()));
        t.merges.push_back(pair);
        made[static_cast<size_t>(joined->second)] = true;
    }
    for (size_t id = 0; id < t.tokens.size(); ++id)
        if (t.tokens[id].size() > 1 && !made[id] && !looks_special(t.tokens[id]))
            throw Error(
                strf("%s: no merge makes token \"%s\" (id %zu) of vocab.json; the file is cut short or of another "
                     "vocabulary",
                     merges_name, alphabet().spell(t.tokens[id]).c_str(), id));
    return tokenizer;
}

void Tokenizer::save(const std::string& dir) const {
    const auto spell = [&](int id) { return alphabet().spell(bytes(id)); };
    std::string vocab = "{", merges = "#version: 0.2\n";
    for (int id = 0; id < vocab_size(); ++id)
        if (!bytes(id).empty())
            vocab += strf("%s%s: %d", vocab.size() > 1 ? ", " : "",
                          nlohmann::json(id == end_of_text() ? std::string(kEndOfText) : spell(id)).dump().c_str(), id);
    vocab += "}\n";
    for (const auto& [left, right] : impl_->merges) merges += spell(left) + ' ' + spell(right) + '\n';
    replace_file(dir + "/vocab.json", vocab);
    replace_file(dir + "/merges.txt", merges);
}

// ---- Utf8Stream --------------------------------------------------------------------------------------------

std::string Utf8Stream::push(std::string_view bytes) {
    pending_ += bytes;
    std::string out;
    size_t i = 0;
    while (i < pending_.size()) {
        Utf8 status;
        uint32_t code;
        const size_t n = read_utf8(byte_pointer(pending_) + i, pending_.size() - i, &status, &code);
        if (status == Utf8::unfinished) break;
        if (status == Utf8::valid) out.append(pending_, i, n);
        else append_utf8(out, kReplacement);
        i += n;
    }
    pending_.erase(0, i);
    return out;
}

std::string Utf8Stream::flush() {
    std::string out;
    if (!pending_.empty()) append_utf8(out, kReplacement);
    pending_.clear();
    return out;
}
