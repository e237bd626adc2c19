#include "llmc/text/reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/model/config.h"
#include "llmc/text/input_kind.h"
#include "llmc/text/json_text.h"
#include "llmc/text/splitter.h"
#include "llmc/text/utf8.h"

namespace fs = std::filesystem;

Reader::Reader(const std::vector<std::string>& inputs, const ReaderOptions& options) : options_(options) {
    for (const std::string& input : inputs) add(input);
}

bool Reader::next(Chunk& chunk) {
    options_.check_interrupt();
    std::string memory = std::move(chunk.text);
    memory.clear();
    chunk = Chunk{};
    chunk.text = std::move(memory);
    try {
        if (failure_) std::rethrow_exception(failure_);
        collect(chunk);
    } catch (const Error&) {
        if (chunk.text.empty()) throw;
        failure_ = std::current_exception();
    }
    chunk.bytes = bytes_;
    return !chunk.text.empty();
}

void Reader::collect(Chunk& chunk) {
    while (chunk.text.size() < options_.chunk_bytes) {
        if (fd_ < 0 && !open_next()) break;
        const bool other_file = chunk.files.empty() || chunk.files.back().second != name_;
        if (!chunk.text.empty() && (chunk.kind != kind_ || (kind_ != Chunk::text_of_files && other_file)))
            break;  // one kind in a chunk, and of JSON one file: this one starts the next chunk
        if (chunk.text.empty()) {
            chunk.kind = kind_;
            chunk.first_line = line_;
            chunk.files.clear();
        }
        if (other_file || chunk.text.empty()) chunk.files.emplace_back(chunk.text.size(), name_);
        fill();
        if (kind_ == Chunk::text_of_files) take_text(chunk);
        else kind_ == Chunk::json_lines ? take_lines(chunk) : take_values(chunk);
        if (end_ && pending_.empty()) close();
    }
}

void Reader::add(const std::string& input) {
    if (input == "-") {
        inputs_.push_back({input, false});
        total_ = -1;
        return;
    }
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (!fs::exists(status))
        throw Error(strf(
            "%s: %s", input.c_str(),
            error && status.type() == fs::file_type::none ? error.message().c_str() : "no such file or directory"));
    if (!fs::is_directory(status)) {
        if (!options_.plain && is_own_file(input))
            throw Error(
                strf("%s: is a file of a data set, a vocabulary or a run, no text; name the texts, or their "
                     "directory, where it is left out, or give --plain",
                     input.c_str()));
        inputs_.push_back({input, false});
        if (!fs::is_regular_file(status)) total_ = -1;  // a pipe
        if (total_ >= 0) total_ += static_cast<int64_t>(fs::file_size(input));
        return;
    }
    std::vector<std::string> found;
    for (auto it = fs::recursive_directory_iterator(input, error); !error && it != fs::recursive_directory_iterator();
         it.increment(error)) {
        const std::string path = it->path().string();
        if (it->path().filename().string()[0] == '.') {  // .git and the like
            if (is_directory(path)) it.disable_recursion_pending();
        } else if (is_directory(path) ? is_own_directory(path) : is_own_file(path)) {
            it.disable_recursion_pending();
            notes_.own.add(1, path);
        } else if (is_file(path)) {
            found.push_back(path);
            if (total_ >= 0) total_ += static_cast<int64_t>(it->file_size());
        }
    }
    if (error) throw Error(strf("%s: cannot read directory: %s", input.c_str(), error.message().c_str()));
    if (found.empty()) throw Error(strf("%s: no files in this directory", input.c_str()));
    std::sort(found.begin(), found.end());
    for (const std::string& file : found) inputs_.push_back({file, true});
}

// Opens the next input that is text. Its first bytes are there then, however small the chunks are.
bool Reader::open_next() {
    while (next_input_ < inputs_.size()) {
        const Input& input = inputs_[next_input_++];
        name_ = input.path == "-" ? "standard input" : input.path;
        fd_ = input.path == "-" ? dup(0) : ::open(input.path.c_str(), O_RDONLY | O_CLOEXEC);
        if (fd_ < 0) throw Error(strf("%s: cannot read: %s", name_.c_str(), std::strerror(errno)));
        pending_.clear();
        end_ = in_array_ = false;
        starts_document_ = true;
        skip_blank_lines_ = options_.separator == Separator::blank_lines;
        line_ = 1;
        wanted_ = std::max(kHeadBytes, options_.chunk_bytes);
        fill();
        const NoText why = options_.plain ? NoText{} : why_no_text(pending_, input.path == "-" ? "FILE" : input.path);
        if (why.what.empty()) {
            kind_ = kind_of(input);
            if (pending_.starts_with(kByteOrderMark)) pending_.erase(0, kByteOrderMark.size());
            return true;
        }
        const std::string remedy =
            why.command.empty() ? "" : strf("; use `%s | %s`", why.command.c_str(), options_.command.c_str());
        if (!input.found) throw Error(strf("%s: %s%s", name_.c_str(), why.what.c_str(), remedy.c_str()));
        notes_.no_text.add(1, name_ + " " + why.what + remedy);
        close();
    }
    return false;
}

Chunk::Kind Reader::kind_of(const Input& input) {
    if (options_.plain) return Chunk::text_of_files;
    std::string ending = fs::path(input.path).extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
    const bool sure = options_.jsonl || ending == ".jsonl" || ending == ".ndjson";
    const JsonForm is = json_form(std::string_view(pending_).substr(0, kHeadBytes), end_, options_.text_field);
    if (is.form == JsonForm::values && (sure || is.has_field || !input.found)) return Chunk::json_values;
    if (sure) return Chunk::json_lines;
    // In a directory of other things, package.json and the like are text like any other.
    const bool json = is.form != JsonForm::no;
    if (json && (is.has_field || !input.found)) return Chunk::json_lines;
    if (json || ending == ".json") notes_.plain_json.add(1, name_);
    return Chunk::text_of_files;
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

// Moves the values that are whole to the chunk, without the array around them.
void Reader::take_values(Chunk& chunk) {
    size_t done = 0;
    while (chunk.text.size() < options_.chunk_bytes) {
        for (; done < pending_.size(); ++done) {
            const char c = pending_[done];
            if (c == '\n') ++line_;
            else if (c == '[' && !in_array_) in_array_ = true;
            else if (c == ']' && in_array_) in_array_ = false;
            else if (c != ' ' && c != '\t' && c != '\r' && !(c == ',' && in_array_)) break;
        }
        if (done == pending_.size()) break;
        size_t end = json_value_end(pending_, done);
        if (end == std::string::npos && !end_) break;
        end = std::min(end, pending_.size());  // broken at the end of the file: whoever parses it will say so
        chunk.starts.push_back(chunk.text.size());
        chunk.lines.push_back(line_);
        chunk.text.append(pending_, done, end - done);
        line_ += std::count(pending_.begin() + static_cast<ptrdiff_t>(done),
                            pending_.begin() + static_cast<ptrdiff_t>(end), '\n');
        done = end;
    }
    took(done);
}

// The end of the lines from `at` on that hold nothing but blanks. With `more` text to come, a line without an end may
// become one with text, and *unsure says so.
static size_t after_blank_lines(std::string_view text, size_t at, bool more, bool* unsure) {
    for (;;) {
        const size_t end = text.find_first_not_of(" \t\r", at);
        if (end == std::string::npos) {
            *unsure = more;
            return more ? at : text.size();
        }
        if (text[end] != '\n') return at;
        at = end + 1;
    }
}

// Where the lines before `at` begin that hold nothing but blanks, the end of the line before them included.
static size_t before_blank_lines(std::string_view text, size_t begin, size_t at) {
    for (size_t end = at;;) {
        while (end > begin && (text[end - 1] == ' ' || text[end - 1] == '\t' || text[end - 1] == '\r')) --end;
        if (end == begin || text[end - 1] != '\n') break;
        for (at = --end; at > begin && text[at - 1] == '\r';) --at;
    }
    return at;
}

// Moves all of pending_ that is known to be whole pieces and whole separators to the chunk. Empty lines around a
// separator belong to it; documents that are empty then are left out.
void Reader::take_text(Chunk& chunk) {
    const std::string_view text = pending_;
    const size_t marker = options_.separator == Separator::end_of_text ? kEndOfText.size() : 0;
    size_t done = 0, from = 0;  // up to `from` there is no separator
    bool unsure = false;
    for (;;) {
        if (skip_blank_lines_) {
            done = after_blank_lines(text, done, !end_, &unsure);
            skip_blank_lines_ = unsure;
            if (unsure) break;
            from = done;
        }
        if (options_.separator == Separator::none) break;
        const size_t at = marker > 0 ? text.find(kEndOfText, from) : text.find('\n', from);
        if (at == std::string::npos) break;
        size_t next = at + marker;
        if (marker == 0) {
            next = after_blank_lines(text, at + 1, !end_, &unsure);
            if (unsure && next == at + 1) break;
            if (next == at + 1 || at + 1 == text.size()) {  // one newline, or the file's last
                from = at + 1;
                continue;
            }
        }
        append(chunk, done, before_blank_lines(text, done, marker > 0 ? at : at + 1));
        done = from = next;
        starts_document_ = skip_blank_lines_ = true;
    }
    size_t rest = text.size() - done;
    if (unsure && skip_blank_lines_) rest = 0;
    else if (!end_) {  // not the bytes that may be the beginning of a separator
        rest = place_to_cut(text.substr(done, rest > marker ? rest - marker : 0));
    }
    append(chunk, done, done + rest);
    took(done + rest);
}

// Of text that goes on; 0: nowhere yet.
size_t Reader::place_to_cut(std::string_view text) const {
    for (size_t seen = text.size(); const size_t cut = last_safe_cut(text.substr(0, seen));) {
        seen = options_.word_at(text, cut);
        if (seen == std::string::npos) return cut;
    }
    return text.size() >= kUnbroken ? options_.cut_unbroken(text) : 0;
}

void Reader::append(Chunk& chunk, size_t begin, size_t end) {
    if (begin == end) return;
    if (starts_document_) chunk.starts.push_back(chunk.text.size());
    starts_document_ = false;
    chunk.text.append(pending_, begin, end - begin);
}
