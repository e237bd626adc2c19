// Text from files, directories and standard input, in chunks that threads can work on.
//
// Text streams through in chunks of about a megabyte, cut where the tokenizer's pieces end (last_safe_cut in
// splitter.h), so that the ids are those of encoding everything in one go, while memory stays constant, whatever the
// size of a file or of a document.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

enum class Separator { end_of_text, blank_lines, none };  // what stands between the documents of a text file

struct ReaderOptions {
    Separator separator = Separator::end_of_text;
    bool jsonl = false;               // all inputs are JSON lines, whatever their names
    std::string text_field = "text";  // of a JSON line
    size_t chunk_bytes = 1 << 20;
    std::function<void()> check_interrupt = [] {};  // may throw; called before each chunk, and when a signal came
};

// What one thread works on: text with the places where documents begin, or whole lines of JSON.
struct Chunk {
    std::string text;
    std::vector<size_t> starts;  // of documents, in `text`; text before the first continues the last chunk's document
    bool json = false;
    std::string file;  // for messages
    int64_t first_line = 1;
    int64_t bytes = 0;  // of input, read so far
};

// Reads the inputs one after another and cuts them into chunks. An input is a file, a directory (every file in it and
// below, sorted, but for names that begin with a dot) or "-": standard input. *.jsonl is JSON lines, one document each,
// and so is standard input that begins with {". Error names what cannot be read; a compressed file, with the command
// that unpacks it into a pipe.
class Reader {
  public:
    Reader(const std::vector<std::string>& inputs, const ReaderOptions& options);
    ~Reader() { close(); }
    Reader(const Reader&) = delete;

    int64_t total_bytes() const { return total_; }  // -1: unknown (a pipe)
    bool next(Chunk& chunk);                        // false at the end

  private:
    void add(const std::string& input);
    bool open_next();
    void close();
    void fill();
    void took(size_t n);
    void take_lines(Chunk& chunk);
    void take_text(Chunk& chunk);
    void append(Chunk& chunk, size_t begin, size_t end);

    const ReaderOptions& options_;
    std::vector<std::string> files_;
    size_t next_file_ = 0;
    std::string separator_, name_, pending_;
    size_t wanted_ = 0;
    int fd_ = -1;
    bool json_ = false, end_ = false, starts_document_ = true, skip_newlines_ = false;
    int64_t line_ = 1, bytes_ = 0, total_ = 0;
};

// Calls begin() at the start of each document of the chunk and text(part) for what it holds. Error names file and line
// of a JSON line that has no text. Threads may call it at once, each for a chunk of its own.
void for_each_document(const Chunk& chunk, const std::string& text_field, const std::function<void()>& begin,
                       const std::function<void(std::string_view)>& text);
