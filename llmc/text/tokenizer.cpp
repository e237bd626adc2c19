#include "llmc/text/tokenizer.h"

#include <algorithm>
#include <cstring>
#include "llmc/text/splitter.h"
#include "llmc/text/vocabulary.h"

Tokenizer::Tokenizer(Vocabulary vocabulary) : v_(std::make_unique<const Vocabulary>(std::move(vocabulary))) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::string& dir) { return Tokenizer(load_vocabulary(dir)); }
bool Tokenizer::present(const std::string& dir) { return vocabulary_present(dir); }
void Tokenizer::save(const std::string& dir) const { save_vocabulary(dir, *v_); }
Tokenizer Tokenizer::from_merges(const std::vector<std::pair<int, int>>& merges) {
    return Tokenizer(make_vocabulary(merges));
}

bool Tokenizer::same(const Tokenizer& other) const {
    return v_->tokens == other.v_->tokens && v_->merges == other.v_->merges;
}
int Tokenizer::vocab_size() const { return v_->size(); }
int Tokenizer::end_of_text() const { return v_->end_of_text; }

std::string_view Tokenizer::bytes(int id) const {
    return id >= 0 && id < vocab_size() ? std::string_view(v_->tokens[static_cast<size_t>(id)]) : std::string_view();
}

void Tokenizer::encode(std::string_view text, std::vector<int>& ids) const {
    PieceCache& cache = PieceCache::of(v_->serial);
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
            v_->bpe.merge(p, n, ids);
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
            v_->bpe.merge(p, n, merged);
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
        ids.push_back(v_->end_of_text);
        text.remove_prefix(at + kEndOfText.size());
    }
}

std::string Tokenizer::decode(const std::vector<int>& ids) const {
    std::string out;
    for (int id : ids) out += bytes(id);
    return out;
}
