#include "llmc/run/answers.h"

#include <algorithm>
#include <cstring>
#include "llmc/base/check.h"
#include "llmc/text/permutation.h"

static Batch rows_of(std::span<const Answer* const> answers, int most, bool each_text) {
    size_t longest = 0;
    for (const Answer* a : answers) longest = std::max(longest, a->ids.size());
    Batch batch;
    batch.sequences = static_cast<int>(answers.size()), batch.T = static_cast<int>((longest + 31) / 32 * 32);
    batch.T = std::min(batch.T, most);
    const size_t T = static_cast<size_t>(batch.T), n = answers.size() * T;
    batch.inputs.resize(n), batch.targets.assign(n, -1), batch.weights.resize(n), batch.doc_start.resize(n);
    batch.signals.resize(n);
    for (size_t i = 0; i < answers.size(); i++) {
        const Answer& a = *answers[i];
        std::copy(a.ids.begin(), a.ids.end(), batch.inputs.begin() + static_cast<std::ptrdiff_t>(i * T));
        const size_t at = i * T + static_cast<size_t>(a.prompt) - 1;
        for (size_t t = 0; t < a.signals.size(); t++) {
            batch.targets[at + t] = a.ids[static_cast<size_t>(a.prompt) + t], batch.signals[at + t] = a.signals[t];
            batch.weights[at + t] = each_text ? 1.0f / static_cast<float>(a.signals.size()) : 1.0f;
        }
    }
    return batch;
}

Batch batch_of(std::span<const Answer> answers, int most) {
    std::vector<const Answer*> all;
    for (const Answer& a : answers) all.push_back(&a);
    return rows_of(all, most, false);
}

const Answer& AnswerRows::answer(int64_t row) const {
    const int64_t n = std::ssize(answers_);
    return answers_[static_cast<size_t>(permute(row % n, n, seed_, row / n, 1))];
}

Batch AnswerRows::read(int64_t first, int n) const {
    std::vector<const Answer*> some;
    for (int64_t row = first; row < first + n; row++) some.push_back(&answer(row));
    Batch batch = rows_of(some, most_, each_text_);
    batch.first = first;
    return batch;
}
int64_t AnswerRows::tokens_of(int64_t first, int64_t n) const {
    int64_t sum = 0;
    for (int64_t row = first; row < first + n; row++) sum += std::ssize(answer(row).signals);
    return sum;
}
double AnswerRows::weight(int64_t first, int64_t n) const {
    return static_cast<double>(each_text_ ? n : tokens_of(first, n));
}

namespace {
template <typename Y>
void put(std::string& to, const std::vector<Y>& values) {
    const uint64_t n = values.size();
    to.append(reinterpret_cast<const char*>(&n), sizeof n);
    to.append(reinterpret_cast<const char*>(values.data()), n * sizeof(Y));
}
template <typename Y>
void take(const std::string& from, size_t* at, std::vector<Y>& values) {
    uint64_t n = 0;
    CHECK(*at + sizeof n <= from.size(), "at %zu of %zu", *at, from.size());
    std::memcpy(&n, from.data() + *at, sizeof n), *at += sizeof n;
    CHECK(n <= (from.size() - *at) / sizeof(Y), "%zu values", static_cast<size_t>(n));
    values.resize(n);
    std::memcpy(values.data(), from.data() + *at, n * sizeof(Y)), *at += n * sizeof(Y);
}
}  // namespace

std::string answers_bytes(std::span<const Answer> answers) {
    std::string bytes;
    for (const Answer& a : answers) {
        std::vector<int> ids = {a.prompt, a.ended};
        ids.insert(ids.end(), a.ids.begin(), a.ids.end());
        put(bytes, ids), put(bytes, a.rewards), put(bytes, a.signals);
    }
    return bytes;
}

std::vector<Answer> answers_of(const std::string& bytes) {
    std::vector<Answer> all;
    for (size_t at = 0; at < bytes.size();) {
        Answer& a = all.emplace_back();
        take(bytes, &at, a.ids), take(bytes, &at, a.rewards), take(bytes, &at, a.signals);
        a.prompt = a.ids[0], a.ended = a.ids[1] != 0;
        a.ids.erase(a.ids.begin(), a.ids.begin() + 2);
    }
    return all;
}
