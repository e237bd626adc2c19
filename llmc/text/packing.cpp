#include "llmc/text/packing.h"

#include <algorithm>
#include "llmc/base/error.h"
#include "llmc/text/permutation.h"

PackedExamples::PackedExamples(std::shared_ptr<const Examples> examples, int T, bool packing, bool shuffle,
                               uint64_t seed)
    : examples_(std::move(examples)),
      labels_(examples_->labels),
      T_(T),
      packing_(packing),
      shuffle_(shuffle),
      seed_(seed) {
    CHECK(examples_->size() > 0, "no examples");
    for (int64_t i = 0; i < examples_->size(); i++)
        CHECK(examples_->positions(i) <= T, "example %lld", static_cast<long long>(i));
}

std::shared_ptr<const PackedExamples::Epoch> PackedExamples::deal(int64_t epoch, int64_t begin) const {
    struct Row {
        std::vector<int64_t> examples;
        int64_t room;
    };
    std::vector<Row> open;
    auto dealt = std::make_shared<Epoch>();
    dealt->begin = begin, dealt->starts = {0};
    const auto close = [&](size_t row) {
        dealt->order.insert(dealt->order.end(), open[row].examples.begin(), open[row].examples.end());
        dealt->starts.push_back(std::ssize(dealt->order));
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(row));
    };
    const int64_t n = examples_->size();
    for (int64_t i = 0; i < n; i++) {
        const int64_t example = shuffle_ ? permute(i, n, seed_, epoch, 0) : i, length = examples_->positions(example);
        size_t best = open.size();
        for (size_t r = 0; packing_ && r < open.size(); r++)
            if (open[r].room >= length && (best == open.size() || open[r].room < open[best].room)) best = r;
        if (best == open.size()) {
            if (open.size() == (packing_ ? kOpenRows : 1)) close(0), best--;
            open.push_back({{}, T_});
        }
        open[best].examples.push_back(example), open[best].room -= length;
    }
    while (!open.empty()) close(0);
    return dealt;
}

int64_t PackedExamples::epoch_begin(int64_t epoch) const {
    const std::lock_guard lock(mutex_);
    const auto end = [&] { return epochs_.empty() ? 0 : epochs_.back()->begin + epochs_.back()->rows(); };
    while (std::ssize(epochs_) < epoch) epochs_.push_back(deal(std::ssize(epochs_), end()));
    return epoch < std::ssize(epochs_) ? epochs_[static_cast<size_t>(epoch)]->begin : end();
}

std::shared_ptr<const PackedExamples::Epoch> PackedExamples::epoch_of(int64_t row) const {
    int64_t epoch = 0;
    while (epoch_begin(epoch + 1) <= row) epoch++;
    const std::lock_guard lock(mutex_);
    return epochs_[static_cast<size_t>(epoch)];
}

// visit(k, i) for each example i of row first + k.
template <typename Visit>
void PackedExamples::for_each_row(int64_t first, int64_t n, Visit visit) const {
    CHECK(first >= 0, "row %lld", static_cast<long long>(first));
    std::shared_ptr<const Epoch> epoch;
    for (int64_t k = 0; k < n; k++) {
        const int64_t number = first + k;
        if (!epoch || number >= epoch->begin + epoch->rows()) epoch = epoch_of(number);
        const size_t row = static_cast<size_t>(number - epoch->begin);
        for (int64_t j = epoch->starts[row]; j < epoch->starts[row + 1]; j++)
            visit(k, epoch->order[static_cast<size_t>(j)]);
    }
}

double PackedExamples::weight(int64_t first, int64_t n) const {
    double sum = 0;
    if (labelled()) return static_cast<double>(dealt(first, n).size());
    for_each_row(first, n, [&](int64_t, int64_t i) {
        for (float w : examples_->weights_of(i)) sum += static_cast<double>(w);
    });
    return sum;
}

std::vector<int> PackedExamples::document(int64_t i, bool second) const {
    const auto ids = examples_->ids(i);
    const size_t at = labelled() ? static_cast<size_t>(labels_[static_cast<size_t>(i)].second) : 0;
    const auto part = at == 0 ? ids : second ? ids.subspan(at) : ids.first(at);
    return {part.begin(), part.end()};
}

std::vector<int64_t> PackedExamples::dealt(int64_t first, int64_t n) const {
    std::vector<int64_t> all;
    for_each_row(first, n, [&](int64_t, int64_t i) { all.push_back(i); });
    return all;
}

Batch PackedExamples::read(int64_t first, int n) const {
    const size_t T = static_cast<size_t>(T_), size = static_cast<size_t>(n) * T;
    Batch batch;
    batch.first = first, batch.sequences = n, batch.T = T_;
    batch.inputs.assign(size, 0), batch.targets.assign(size, -1);
    batch.weights.assign(size, 0), batch.doc_start.assign(size, 0);
    if (labelled()) batch.labels.assign(size, kNoLabel), batch.partners.assign(size, -1);
    std::vector<int> used(static_cast<size_t>(n), 0);  // positions of each row
    // A document of `length` positions, with a target for all, or for all but the last; returns that.
    const auto document = [&](int64_t k, std::span<const int> ids, std::span<const float> weights, size_t length) {
        int& start = used[static_cast<size_t>(k)];
        const size_t at = static_cast<size_t>(k) * T + static_cast<size_t>(start), targets = ids.size() - 1;
        std::copy_n(ids.begin(), length, batch.inputs.begin() + static_cast<std::ptrdiff_t>(at));
        std::transform(ids.begin() + 1, ids.end(), batch.targets.begin() + static_cast<std::ptrdiff_t>(at),
                       [](int id) { return std::max(id, -1); });
        std::copy_n(weights.begin() + 1, targets, batch.weights.begin() + static_cast<std::ptrdiff_t>(at));
        std::fill_n(&batch.doc_start[at], length, start);
        start += static_cast<int>(length);
        return start - 1;
    };
    for_each_row(first, n, [&](int64_t k, int64_t i) {
        const auto ids = examples_->ids(i);
        const auto weights = examples_->weights_of(i);
        if (!labelled()) return void(document(k, ids, weights, ids.size() - 1));
        const ExampleLabel label = labels_[static_cast<size_t>(i)];
        const size_t row = static_cast<size_t>(k) * T,
                     end = label.second > 0 ? static_cast<size_t>(label.second) : ids.size();
        const int one = document(k, ids.first(end), weights.first(end), end);
        batch.labels[row + static_cast<size_t>(one)] = label.value;
        if (label.second == 0) return;
        const int other = document(k, ids.subspan(end), weights.subspan(end), ids.size() - end);
        batch.labels[row + static_cast<size_t>(other)] = label.other;
        batch.partners[row + static_cast<size_t>(one)] = other, batch.partners[row + static_cast<size_t>(other)] = one;
    });
    for (size_t k = 0; k < used.size(); k++)  // what is left over is a document of its own
        std::fill(batch.doc_start.begin() + static_cast<std::ptrdiff_t>(k * T + static_cast<size_t>(used[k])),
                  batch.doc_start.begin() + static_cast<std::ptrdiff_t>((k + 1) * T), used[k]);
    return batch;
}
