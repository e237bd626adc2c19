// The texts that ./tokenize reads: plain or JSON, whole or cut into pieces.
#include <utility>
#include "llmc/text/input_kind.h"
#include "llmc/text/reader.h"
#include "llmc/text/tasks.h"
#include "llmc/text/tokenizer.h"
#include "test/fuzz/fuzz.h"

namespace {

struct Reading {
    std::vector<std::string> documents;
    std::vector<int> ids;
    std::vector<std::string> notes;
    std::string error;
    bool operator==(const Reading&) const = default;
};

// As encode_split() in data/tokenize_commands.cpp does.
Reading read_all(const std::string& path, const ReaderOptions& options, const Tokenizer& tokenizer) {
    Reading r;
    ReadingNotes notes;
    r.error = complaint_of([&] {
        Reader reader({path}, options);
        bool begins = false;
        for (Chunk chunk; reader.next(chunk);)
            for_each_document(
                chunk, options, notes,
                [&] {
                    r.documents.emplace_back();
                    r.ids.push_back(tokenizer.end_of_text());
                    begins = true;
                },
                [&](std::string_view text) {
                    CHECK(!r.documents.empty(), "text before the first document");
                    r.documents.back() += text;
                    tokenizer.encode_document(text, std::exchange(begins, false), r.ids);
                });
        notes.add(reader.notes());
    });
    for (const auto& note :
         {notes.no_text, notes.own, notes.plain_json, notes.bad, notes.repaired, notes.null, notes.not_utf8})
        r.notes.push_back(std::to_string(note.count) + " " + note.first);
    return r;
}

}  // namespace

FUZZ(text) {
    // "th", "the", " the", "an", "and", two spaces, two newlines; ids of bytes are in the order of GPT-2's alphabet
    static const Tokenizer tokenizer =
        Tokenizer::from_merges({{83, 71}, {256, 68}, {220, 257}, {64, 77}, {259, 67}, {220, 220}, {198, 198}});
    const uint8_t kind = take_byte(&input), more = take_byte(&input);
    ReaderOptions options;
    options.separator = static_cast<Separator>(kind % 3);
    options.jsonl = kind & 4, options.plain = kind & 8, options.skip_bad = kind & 16;
    const bool in_directory = kind & 32;

    // The first 64 KB are always read in one go; what comes after them is read in pieces.
    std::string text;
    if (kind & 64) {
        text.assign(1 << 16, 'a');
        for (size_t i = 9; i < text.size(); i += 10) text[i] = kind & 128 ? '\n' : ' ';
        if (kind & 4) text = "{\"text\":\"" + std::string(1 << 16, 'a') + "\"}\n";
    }
    text += input;
    const std::string dir = fresh_directory("text"), path = dir + (kind & 128 ? "/x.json" : "/x.txt");
    put(path, text);
    const std::string& what = in_directory ? dir : path;
    options.chunk_bytes = text.size() + 1;
    const Reading whole = read_all(what, options, tokenizer);
    options.chunk_bytes = 1 + more;
    const Reading pieces = read_all(what, options, tokenizer);
    CHECK(whole.error == pieces.error, "%s; in pieces %s", whole.error.c_str(), pieces.error.c_str());
    CHECK(whole.documents == pieces.documents, "%zu documents; in pieces %zu", whole.documents.size(),
          pieces.documents.size());
    for (size_t i = 0; i < whole.notes.size(); i++)
        CHECK(whole.notes[i] == pieces.notes[i], "%s; in pieces %s", whole.notes[i].c_str(), pieces.notes[i].c_str());
    CHECK(whole.ids == pieces.ids, "other ids in pieces");

    // A prompt, or a question of a task.
    const std::string written = written_text(std::string(input), "x");
    CHECK(written.size() <= input.size() && why_no_text(input, "x").what.empty(), "%zu bytes", written.size());
}

FUZZ(task) {
    static const Tokenizer tokenizer = Tokenizer::from_merges({});
    const std::string path = fresh_directory("task") + "/x.jsonl";
    const int which = take_byte(&input);
    TaskOptions o;
    o.name = task_names()[static_cast<size_t>(which) % task_names().size()], o.files = {path};
    put(path, input);
    ReadingNotes notes;
    const Task all = read_task(o, tokenizer, &notes);
    for (const Question& q : all.questions) {
        CHECK(q.right >= 0 && q.right < std::ssize(q.choices), "right %d", q.right);
        for (size_t k = 0; k < q.choices.size(); k++) {
            const Continuation c = encode_continuation(tokenizer, q.context, q.answer(k));
            CHECK(!q.choices[k].empty() && c.begin > 0 && c.begin < c.ids.size(), "begin %zu", c.begin);
        }
    }
    if (all.kind == TaskKind::classify || all.kind == TaskKind::cloze) return;  // the first of them may be none alone
    cannot_fail([&] {
        o.limit = which / 10 % 4;
        const size_t n = read_task(o, tokenizer, &notes).questions.size(), m = all.questions.size();
        CHECK(n == (o.limit ? std::min(static_cast<size_t>(o.limit), m) : m), "%zu", n);
    });
}
