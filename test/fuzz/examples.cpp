// Examples: as JSON, as ./tokenize examples has written them, and the templates that they are set into.
#include <algorithm>
#include "llmc/text/examples.h"
#include "llmc/text/packing.h"
#include "test/fuzz/fuzz.h"

static const Tokenizer& letters() {
    static const Tokenizer tokenizer = Tokenizer::from_merges({{83, 71}, {256, 68}, {220, 257}});  // th, the, " the"
    return tokenizer;
}
static bool same(const Examples& a, const Examples& b) {
    return a.tokens == b.tokens && a.weights == b.weights && a.starts == b.starts;
}

// In rows, whatever their length: every token that counts is there once.
static void check_rows(const Examples& all, int T, bool packing) {
    const auto fitted = std::make_shared<Examples>(all.fit(T));
    CHECK(fitted->size() + fitted->left_out == all.size(), "%lld examples", static_cast<long long>(fitted->size()));
    if (fitted->size() == 0) return;
    const PackedExamples rows(fitted, T, packing, true, 1);
    const int64_t n = rows.epoch_begin(1);
    const Batch batch = rows.read(0, static_cast<int>(n));
    double sum = 0;
    for (size_t i = 0; i < batch.targets.size(); i++) {
        sum += static_cast<double>(batch.weights[i]);
        CHECK(batch.targets[i] >= 0 || batch.weights[i] == 0, "a target that is none counts");
        CHECK(batch.doc_start[i] >= 0 && batch.doc_start[i] <= static_cast<int>(i) % T, "a document begins later");
    }
    CHECK(sum == rows.weight(0, n), "%g of %g count", sum, rows.weight(0, n));
}

FUZZ(examples) {
    const uint8_t kind = take_byte(&input), length = take_byte(&input);
    ReaderOptions options;
    options.skip_bad = kind & 1;
    const std::string path = fresh_directory("examples") + "/x.jsonl";
    put(path, input);
    ReadingNotes notes;
    const Template chat = Template::named(kind & 2 ? "chatml" : "plain", letters());
    const Examples all = read_examples({path}, options, chat, letters(), &notes);
    for (float w : all.weights) CHECK(w == 0 || w == 1, "weight %g", static_cast<double>(w));
    cannot_fail([&] { check_rows(all, 1 + length % 64, kind & 4); });
    const std::string written = scratch() + "/examples/x.examples";
    cannot_fail([&] {
        write_examples_file(written, all, letters().vocab_size());
        CHECK(same(read_examples_file(written, letters().vocab_size()), all), "read back otherwise");
    });
}

FUZZ(written_examples) {
    const std::string path = fresh_directory("examples") + "/x.examples";
    put(path, input);
    const Examples all = read_examples_file(path, 300);
    cannot_fail([&] {
        for (int64_t i = 0; i < all.size(); i++)
            CHECK(all.length(i) >= 2, "%lld tokens", static_cast<long long>(all.length(i)));
        check_rows(all, 7, true);
        write_examples_file(path, all, 300);
        CHECK(same(read_examples_file(path, 300), all), "read back otherwise");
    });
}

FUZZ(template) {
    const std::string path = fresh_directory("template") + "/x.txt";
    put(path, input);
    const Template chat = Template::named(path, letters());
    cannot_fail([&] {
        CHECK(Template::recorded(chat.jinja(), letters()).jinja() == chat.jinja(), "another template comes back");
        const std::vector<Turn> turns = {{"user", "a{content}"}, {"assistant", "b"}};
        const MarkedText text = chat.conversation(turns), prompt = chat.generation_prompt({turns[0]});
        CHECK(text.text.size() == text.markup.size() && text.text.size() == text.counts.size(), "marks");
        CHECK(text.text.starts_with(prompt.text), "a prompt that no conversation begins with");
    });
}
