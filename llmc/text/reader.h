// Text from files, directories and standard input, in chunks that threads can work on.
//
// Text streams through in chunks of about a megabyte, cut where the tokenizer's pieces end (last_safe_cut in
// splitter.h) or, in a piece of more than that, where its tokens end whatever follows (Tokenizer::safe_cut). So the ids
// are those of encoding everything in one go, while memory stays constant, whatever the size of a file or of a document.
// Of JSON, the longest object is held as a whole.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

enum class Separator { end_of_text, blank_lines, none };  // what stands between the documents of a text file

struct ReaderOptions {
    Separator separator = Separator::end_of_text;
    bool jsonl = false;                        // all inputs are JSON, whatever their names
    bool plain = false;                        // all inputs are plain text, whatever they look like
    bool skip_bad = false;                     // JSON that has no text is left out and counted
    std::string text_field = "text";           // of a JSON object
    std::string command = "./tokenize ... -";  // that reads standard input: what messages advise
    size_t chunk_bytes = 1 << 20;
    std::function<void()> check_interrupt = [] {};  // may throw; called before each chunk, and when a signal came
    // Where a word begins that must stay whole and that a cut of the text there would touch; npos: there is none.
    std::function<size_t(std::string_view, size_t)> word_at = [](std::string_view, size_t) {
        return std::string::npos;
    };
    // Where to cut text without a break, which continues after what is given.
    std::function<size_t(std::string_view)> cut_unbroken = [](std::string_view text) { return text.size() / 2; };
};

// What the user should hear about, each with its number and the place of the first.
struct ReadingNotes {
    struct Note {
        int64_t count = 0;
        std::string first;
        void add(int64_t n, const std::string& place) {
            if (count == 0 && n > 0) first = place;
            count += n;
        }
    };
    Note no_text, own, plain_json, bad, repaired, null, not_utf8;
    void add(const ReadingNotes& later);
    std::vector<std::string> lines() const;  // for the user to read
    void print() const;                      // these on standard error
};

// What one thread works on: text with the places where documents begin, or whole objects of JSON.
struct Chunk {
    enum Kind { text_of_files, json_lines, json_values } kind = text_of_files;
    std::string text;
    std::vector<size_t> starts;  // of documents (text before the first continues the last chunk's), or of JSON's values
    std::vector<int64_t> lines;  // of JSON's values in the file
    std::vector<std::pair<size_t, std::string>> files;  // for messages: where each file's text begins
    int64_t first_line = 1;
    int64_t bytes = 0;  // of input, read so far
};

// Reads the inputs one after another and cuts them into chunks. An input is a file, a directory (every file in it and
// below, sorted, but for names that begin with a dot, for files that are no text, and for what this project itself
// wrote) or "-": standard input. JSON is known by its first bytes: a line for each document, or an array, or objects
// one after another. Error names what cannot be read or is no text, with the command that makes text of it.
class Reader {
  public:
    Reader(const std::vector<std::string>& inputs, const ReaderOptions& options);
    ~Reader() { close(); }
    Reader(const Reader&) = delete;

    int64_t total_bytes() const { return total_; }  // -1: unknown (a pipe)
    bool next(Chunk& chunk);                        // false at the end
    const ReadingNotes& notes() const { return notes_; }

  private:
    struct Input {
        std::string path;
        bool found;  // in a directory: not named by the user
    };
    void add(const std::string& input);
    void collect(Chunk& chunk);
    bool open_next();
    Chunk::Kind kind_of(const Input& input);
    void close();
    void fill();
    void took(size_t n);
    void take_lines(Chunk& chunk);
    void take_values(Chunk& chunk);
    void take_text(Chunk& chunk);
    size_t place_to_cut(std::string_view text) const;
    void append(Chunk& chunk, size_t begin, size_t end);

    const ReaderOptions& options_;
    std::vector<Input> inputs_;
    size_t next_input_ = 0;
    std::string name_, pending_;
    size_t wanted_ = 0;
    int fd_ = -1;
    Chunk::Kind kind_ = Chunk::text_of_files;
    bool end_ = false, starts_document_ = true, skip_blank_lines_ = false, in_array_ = false;
    int64_t line_ = 1, bytes_ = 0, total_ = 0;
    std::exception_ptr failure_;  // of which the user hears when all that was read before it went out
    ReadingNotes notes_;
};

// Calls object(text, place) for each JSON value of the chunk, place = FILE:LINE. What that throws gets the place, unless
// options.skip_bad; then it is noted.
void for_each_object(const Chunk& chunk, const ReaderOptions& options, ReadingNotes& notes,
                     const std::function<void(std::string_view, const std::string&)>& object);

// Calls object(text) for each JSON value of the inputs, errors as above.
void for_each_object(const std::vector<std::string>& inputs, const ReaderOptions& options, ReadingNotes& notes,
                     const std::function<void(std::string_view)>& object);

// Calls begin() at the start of each document of the chunk and text(part) for what it holds. Error names file and line
// of JSON that has no text, unless options.skip_bad; else it is noted. Threads may call it at once, each for a chunk of
// its own.
void for_each_document(const Chunk& chunk, const ReaderOptions& options, ReadingNotes& notes,
                       const std::function<void()>& begin, const std::function<void(std::string_view)>& text);
