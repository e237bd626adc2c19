// The documents of a chunk, and what is noted about them.
#include <algorithm>
#include <cstdio>
#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/text/json_text.h"
#include "llmc/text/reader.h"
#include "llmc/text/utf8.h"

void ReadingNotes::add(const ReadingNotes& later) {
    for (Note ReadingNotes::*note :
         {&ReadingNotes::no_text, &ReadingNotes::own, &ReadingNotes::plain_json, &ReadingNotes::bad,
          &ReadingNotes::repaired, &ReadingNotes::null, &ReadingNotes::not_utf8})
        (this->*note).add((later.*note).count, (later.*note).first);
}

void ReadingNotes::print() const {
    for (const std::string& text : lines()) fprintf(stderr, "tokenize: %s\n", text.c_str());
}

std::vector<std::string> ReadingNotes::lines() const {
    std::vector<std::string> all;
    const auto line = [&](const Note& note, const char* what) {
        if (note.count > 0)
            all.push_back(
                strf("note: %s %s; the first: %s", human_count(note.count).c_str(), what, note.first.c_str()));
    };
    line(no_text, "file(s) that are no text were left out");
    line(own, "file(s) of data sets, vocabularies and runs were left out");
    line(plain_json,
         "file(s) look like JSON but have no text field and were read as plain text (--text-field names it)");
    line(bad, "piece(s) of JSON that are broken, or lack what is read, were left out");
    line(null, "document(s) have null for text and were left out");
    line(repaired, "character(s) that UTF-8 does not have (bytes of another encoding, halves of pairs) became U+FFFD");
    line(not_utf8,
         "byte(s) of plain text are no UTF-8 and were encoded as they are (if that is another encoding: iconv)");
    return all;
}

static void for_each_text(const Chunk& chunk, ReadingNotes& notes, const std::function<void()>& begin,
                          const std::function<void(std::string_view)>& text) {
    const std::string_view all = chunk.text;
    size_t bad_at = 0;
    if (const int64_t bad = bytes_that_are_no_utf8(all, &bad_at); bad > 0) {
        const auto next =
            std::find_if(chunk.files.begin(), chunk.files.end(), [&](const auto& file) { return file.first > bad_at; });
        notes.not_utf8.add(bad, std::prev(next)->second);
    }
    const size_t first = chunk.starts.empty() ? all.size() : chunk.starts[0];
    if (first > 0) text(all.substr(0, first));
    for (size_t i = 0; i < chunk.starts.size(); ++i) {
        const size_t from = chunk.starts[i], to = i + 1 < chunk.starts.size() ? chunk.starts[i + 1] : all.size();
        begin();
        text(all.substr(from, to - from));
    }
}

void for_each_object(const Chunk& chunk, const ReaderOptions& options, ReadingNotes& notes,
                     const std::function<void(std::string_view, const std::string&)>& object) {
    const std::string_view all = chunk.text;
    const bool by_lines = chunk.kind == Chunk::json_lines;
    for (size_t at = 0, number = 0; at < all.size(); ++number) {
        const size_t end = by_lines                           ? std::min(all.find('\n', at), all.size())
                           : number + 1 < chunk.starts.size() ? chunk.starts[number + 1]
                                                              : all.size();
        std::string_view text = all.substr(at, end - at);
        at = end + by_lines;
        if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
        if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
        const std::string place = strf(
            "%s:%lld", chunk.files[0].second.c_str(),
            static_cast<long long>(by_lines ? chunk.first_line + static_cast<int64_t>(number) : chunk.lines[number]));
        try {
            object(text, place);
        } catch (const Error& e) {
            if (!options.skip_bad)
                throw Error(strf("%s: %s; --skip-bad leaves such %s out", place.c_str(), e.what(),
                                 by_lines ? "lines" : "objects"));
            notes.bad.add(1, place + ": " + e.what());
        }
    }
}

void for_each_object(const std::vector<std::string>& inputs, const ReaderOptions& options, ReadingNotes& notes,
                     const std::function<void(std::string_view)>& object) {
    ReaderOptions reading = options;
    reading.jsonl = true;
    Reader reader(inputs, reading);
    Chunk chunk;
    while (reader.next(chunk))
        for_each_object(chunk, reading, notes, [&](std::string_view text, const std::string&) { object(text); });
    notes.add(reader.notes());
}

void for_each_document(const Chunk& chunk, const ReaderOptions& options, ReadingNotes& notes,
                       const std::function<void()>& begin, const std::function<void(std::string_view)>& text) {
    if (chunk.kind == Chunk::text_of_files) return for_each_text(chunk, notes, begin, text);
    const char* field = options.text_field.c_str();
    std::string document;
    for_each_object(chunk, options, notes, [&](std::string_view object, const std::string& place) {
        int64_t repairs = 0;
        const JsonField found = json_field(object, options.text_field, document, repairs);
        if (found == JsonField::missing)
            throw Error(strf("no field \"%s\"; name the text's field with --text-field", field));
        if (found == JsonField::other) throw Error(strf("field \"%s\" is not a string", field));
        notes.repaired.add(repairs, place);
        if (found == JsonField::null) notes.null.add(1, place);
        if (found == JsonField::null || document.empty()) return;
        begin();
        text(document);
    });
}
