#include "llmc/text/reader.h"

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include "llmc/base/json.h"
#include "llmc/model/config.h"
#include "llmc/text/splitter.h"

namespace fs = std::filesystem;

Reader::Reader(const std::vector<std::string>& inputs, const ReaderOptions& options) : options_(options) {
    for (const std::string& input : inputs) add(input);
    if (options.separator == Separator::end_of_text) separator_ = kEndOfText;
    if (options.separator == Separator::blank_lines) separator_ = "\n\n";
}

bool Reader::next(Chunk& chunk) {
    options_.check_interrupt();
    chunk = Chunk{};
    while (chunk.text.size() < options_.chunk_bytes) {
        if (fd_ < 0 && !open_next()) break;
        if (chunk.json != json_) {  // one kind in a chunk; this file starts the next one
            if (!chunk.text.empty()) break;
            chunk.json = json_;
        }
        if (chunk.json && chunk.text.empty()) {
            chunk.file = name_;
            chunk.first_line = line_;
        } else if (chunk.json && chunk.file != name_) {
            break;
        }
        fill();
        json_ ? take_lines(chunk) : take_text(chunk);
        if (end_ && pending_.empty()) close();
    }
    chunk.bytes = bytes_;
    return !chunk.text.empty();
}

void Reader::add(const std::string& input) {
    if (input == "-") {
        files_.push_back(input);
        total_ = -1;
        return;
    }
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (!fs::exists(status)) throw Error(strf("%s: no such file or directory", input.c_str()));
    if (!fs::is_directory(status)) {
        files_.push_back(input);
        if (!fs::is_regular_file(status)) total_ = -1;  // a pipe
        if (total_ >= 0) total_ += static_cast<int64_t>(fs::file_size(input));
        return;
    }
    std::vector<std::string> found;
    for (auto it = fs::recursive_directory_iterator(input, error); !error && it != fs::recursive_directory_iterator();
         it.increment(error)) {
        if (it->path().filename().string()[0] == '.') {  // .git and the like
            if (it->is_directory()) it.disable_recursion_pending();
        } else if (it->is_regular_file()) {
            found.push_back(it->path().string());
        }
    }
    if (error) throw Error(strf("%s: cannot read directory: %s", input.c_str(), error.message().c_str()));
    if (found.empty()) throw Error(strf("%s: no files in this directory", input.c_str()));
    std::sort(found.begin(), found.end());
    for (const std::string& file : found) add(file);
}

bool Reader::open_next() {
    if (next_file_ == files_.size()) return false;
    const std::string& file = files_[next_file_++];
    name_ = file == "-" ? "standard input" : file;
    fd_ = file == "-" ? dup(0) : ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) throw Error(strf("%s: cannot read: %s", name_.c_str(), std::strerror(errno)));
    end_ = false;
    starts_document_ = true;
    skip_newlines_ = false;
    line_ = 1;
    wanted_ = options_.chunk_bytes;
    fill();
    const auto begins = [&](std::string_view magic) { return pending_.compare(0, magic.size(), magic) == 0; };
    // A pipe has no name that says what it is: one that begins as an object does is JSON lines.
    json_ = options_.jsonl || fs::path(file).extension() == ".jsonl" || (file == "-" && begins("{\""));
    const char* tool = nullptr;
    if (begins("\x28\xB5\x2F\xFD")) tool = "zstdcat";
    if (begins("\x1F\x8B")) tool = "zcat";
    if (begins("\xFD"
               "7zXZ"))
        tool = "xzcat";
    if (tool)
        throw Error(strf("%s: is compressed; use `%s %s | ./tokenize ... -`", name_.c_str(), tool,
                         file == "-" ? "FILE" : file.c_str()));
    return true;
}

void Reader::close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
}

// Reads until `wanted_` bytes are pending or the file ends.
void Reader::fill() {
    size_t size = pending_.size();
    while (!end_ && size < wanted_) {
        pending_.resize(wanted_);
        const ssize_t n = ::read(fd_, pending_.data() + size, wanted_ - size);
        if (n < 0 && errno == EINTR) {
            options_.check_interrupt();
            continue;
        }
        if (n < 0) throw Error(strf("%s: cannot read: %s", name_.c_str(), std::strerror(errno)));
        end_ = n == 0;
        size += static_cast<size_t>(n);
        bytes_ += n;
    }
    pending_.resize(size);
}

void Reader::took(size_t n) {
    pending_.erase(0, n);
    wanted_ = n > 0 ? std::max(options_.chunk_bytes, pending_.size() + 64) : 2 * std::max<size_t>(64, wanted_);
}

void Reader::take_lines(Chunk& chunk) {
    const size_t newline = pending_.rfind('\n');
    const size_t n = end_ ? pending_.size() : newline == std::string::npos ? 0 : newline + 1;
    chunk.text.append(pending_, 0, n);
    line_ += std::count(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(n), '\n');
    took(n);
}

// Moves all of pending_ that is known to be whole pieces and whole separators to the chunk. Newlines around a
// separator belong to it; documents that are empty then are left out.
void Reader::take_text(Chunk& chunk) {
    size_t done = 0;
    for (;;) {
        if (skip_newlines_)
            while (done < pending_.size() && (pending_[done] == '\n' || pending_[done] == '\r')) ++done;
        if (done < pending_.size()) skip_newlines_ = false;
        const size_t at = separator_.empty() ? std::string::npos : pending_.find(separator_, done);
        if (at == std::string::npos) break;
        size_t text_end = at;
        while (text_end > done && (pending_[text_end - 1] == '\n' || pending_[text_end - 1] == '\r')) --text_end;
        append(chunk, done, text_end);
        done = at + separator_.size();
        starts_document_ = skip_newlines_ = true;
    }
    size_t rest = pending_.size() - done;
    if (!end_) {  // not the bytes that may be the beginning of a separator
        rest = rest > separator_.size()
                   ? last_safe_cut(std::string_view(pending_).substr(done, rest - separator_.size()))
                   : 0;
    }
    append(chunk, done, done + rest);
    took(done + rest);
}

void Reader::append(Chunk& chunk, size_t begin, size_t end) {
    if (begin == end) return;
    if (starts_document_) chunk.starts.push_back(chunk.text.size());
    starts_document_ = false;
    chunk.text.append(pending_, begin, end - begin);
}

static void for_each_text(const Chunk& chunk, const std::function<void()>& begin,
                          const std::function<void(std::string_view)>& text) {
    const std::string_view all = chunk.text;
    const size_t first = chunk.starts.empty() ? all.size() : chunk.starts[0];
    if (first > 0) text(all.substr(0, first));
    for (size_t i = 0; i < chunk.starts.size(); ++i) {
        const size_t from = chunk.starts[i], to = i + 1 < chunk.starts.size() ? chunk.starts[i + 1] : all.size();
        begin();
        text(all.substr(from, to - from));
    }
}

void for_each_document(const Chunk& chunk, const std::string& field, const std::function<void()>& begin,
                       const std::function<void(std::string_view)>& text) {
    if (!chunk.json) return for_each_text(chunk, begin, text);
    const std::string_view all = chunk.text;
    int64_t line_number = chunk.first_line;
    for (size_t at = 0; at < all.size(); ++line_number) {
        const size_t newline = std::min(all.find('\n', at), all.size());
        const std::string_view line = all.substr(at, newline - at);
        at = newline + 1;
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        const auto bad = [&](const std::string& what) {
            return Error(strf("%s:%lld: %s", chunk.file.c_str(), static_cast<long long>(line_number), what.c_str()));
        };
        try {
            const auto object = Json::parse(line);
            const auto found = object.is_object() ? object.find(field) : object.end();
            if (!object.is_object()) throw bad("not a JSON object");
            if (found == object.end())
                throw bad(strf("no field \"%s\"; name the text's field with --text-field", field.c_str()));
            if (!found->is_string()) throw bad(strf("field \"%s\" is not a string", field.c_str()));
            const auto& document = found->get_ref<const std::string&>();
            if (document.empty()) continue;
            begin();
            text(document);
        } catch (const JsonError& e) {
            throw bad("not valid JSON: " + json_complaint(e, "column "));
        }
    }
}
