// ./tokenize: text to token shards and back, and new vocabularies. `./tokenize --help`.
//
// Text streams through in chunks of about a megabyte, cut where the tokenizer's pieces end (last_safe_cut), so that the
// ids are those of encoding everything in one go while memory stays constant, whatever the size of a file or of a
// single document.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include "llmc/text/bpe_trainer.h"
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/run/log.h"
#include "llmc/text/shards.h"
#include "llmc/text/splitter.h"
#include "llmc/text/tokenizer.h"

namespace fs = std::filesystem;
using std::string;
using Clock = std::chrono::steady_clock;

namespace {

enum class Split { end_of_text, blank_lines, none };

struct Options {
    std::vector<string> inputs, val_inputs;
    string output, vocab, text_field = "text";
    Split split = Split::end_of_text;
    bool no_special = false, force = false, jsonl = false;
    double val_fraction = 0.05;
    int64_t val_tokens = -1, shard_tokens = 100'000'000;
    int vocab_size = 2048, threads = 0;
    size_t chunk_bytes = 1 << 20;
};

volatile sig_atomic_t interrupted = 0;
void throw_if_interrupted() {
    if (interrupted) throw Error("interrupted; nothing was written", 130);
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// ---- reading the text --------------------------------------------------------------------------------------

// What one thread works on: text with the places where documents begin, or whole lines of JSON.
struct Chunk {
    string text;
    std::vector<size_t> starts;  // of documents, in `text`; text before the first continues the last chunk's document
    bool json = false;
    string file;  // for messages
    int64_t first_line = 1;
    int64_t bytes = 0;  // of input, read so far
};

// Reads the inputs one after another and cuts them into chunks.
class Reader {
  public:
    Reader(const std::vector<string>& inputs, const Options& options) : options_(options) {
        for (const string& input : inputs) add(input);
        if (options.split == Split::end_of_text) separator_ = "<|endoftext|>";
        if (options.split == Split::blank_lines) separator_ = "\n\n";
    }
    ~Reader() { close(); }
    Reader(const Reader&) = delete;

    int64_t total_bytes() const { return total_; }  // -1: unknown (standard input)

    // The next chunk; false at the end.
    bool next(Chunk& chunk) {
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

  private:
    void add(const string& input) {
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
        std::vector<string> found;
        for (auto it = fs::recursive_directory_iterator(input, error);
             !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
            if (it->path().filename().string()[0] == '.') {  // .git and the like
                if (it->is_directory()) it.disable_recursion_pending();
            } else if (it->is_regular_file()) {
                found.push_back(it->path().string());
            }
        }
        if (error) throw Error(strf("%s: cannot read directory: %s", input.c_str(), error.message().c_str()));
        if (found.empty()) throw Error(strf("%s: no files in this directory", input.c_str()));
        std::sort(found.begin(), found.end());
        for (const string& file : found) add(file);
    }

    bool open_next() {
        if (next_file_ == files_.size()) return false;
        const string& file = files_[next_file_++];
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
        const char* tool = begins("\x28\xB5\x2F\xFD") ? "zstdcat"
                           : begins("\x1F\x8B")       ? "zcat"
                           : begins(
                                 "\xFD"
                                 "7zXZ")
                               ? "xzcat"
                               : nullptr;
        if (tool)
            throw Error(strf("%s: is compressed; use `%s %s | ./tokenize ... -`", name_.c_str(), tool,
                             file == "-" ? "FILE" : file.c_str()));
        return true;
    }

    void close() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }

    // Reads until `wanted_` bytes are pending or the file ends.
    void fill() {
        size_t size = pending_.size();
        while (!end_ && size < wanted_) {
            pending_.resize(wanted_);
            const ssize_t n = ::read(fd_, pending_.data() + size, wanted_ - size);
            if (n < 0 && errno == EINTR) {
                throw_if_interrupted();
                continue;
            }
            if (n < 0) throw Error(strf("%s: cannot read: %s", name_.c_str(), std::strerror(errno)));
            end_ = n == 0;
            size += static_cast<size_t>(n);
            bytes_ += n;
        }
        pending_.resize(size);
    }

    void took(size_t n) {
        pending_.erase(0, n);
        wanted_ = n > 0 ? std::max(options_.chunk_bytes, pending_.size() + 64) : 2 * std::max<size_t>(64, wanted_);
    }

    void take_lines(Chunk& chunk) {
        const size_t newline = pending_.rfind('\n');
        const size_t n = end_ ? pending_.size() : newline == string::npos ? 0 : newline + 1;
        chunk.text.append(pending_, 0, n);
        line_ += std::count(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(n), '\n');
        took(n);
    }

    // Moves all of pending_ that is known to be whole pieces and whole separators to the chunk. Newlines around a
    // separator belong to it; documents that are empty then are left out.
    void take_text(Chunk& chunk) {
        size_t done = 0;
        for (;;) {
            if (skip_newlines_)
                while (done < pending_.size() && (pending_[done] == '\n' || pending_[done] == '\r')) ++done;
            if (done < pending_.size()) skip_newlines_ = false;
            const size_t at = separator_.empty() ? string::npos : pending_.find(separator_, done);
            if (at == string::npos) break;
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

    void append(Chunk& chunk, size_t begin, size_t end) {
        if (begin == end) return;
        if (starts_document_) chunk.starts.push_back(chunk.text.size());
        starts_document_ = false;
        chunk.text.append(pending_, begin, end - begin);
    }

    const Options& options_;
    std::vector<string> files_;
    size_t next_file_ = 0;
    string separator_, name_, pending_;
    size_t wanted_ = 0;
    int fd_ = -1;
    bool json_ = false, end_ = false, starts_document_ = true, skip_newlines_ = false;
    int64_t line_ = 1, bytes_ = 0, total_ = 0;
};

// Calls begin() at the start of each document of the chunk and text(std::string_view) for what it holds.
template <typename Begin, typename Text>
void for_each_document(const Chunk& chunk, const string& field, Begin begin, Text text) {
    const std::string_view all = chunk.text;
    if (!chunk.json) {
        const size_t first = chunk.starts.empty() ? all.size() : chunk.starts[0];
        if (first > 0) text(all.substr(0, first));
        for (size_t i = 0; i < chunk.starts.size(); ++i) {
            const size_t from = chunk.starts[i], to = i + 1 < chunk.starts.size() ? chunk.starts[i + 1] : all.size();
            begin();
            text(all.substr(from, to - from));
        }
        return;
    }
    int64_t line_number = chunk.first_line;
    for (size_t at = 0; at < all.size(); ++line_number) {
        const size_t newline = std::min(all.find('\n', at), all.size());
        const std::string_view line = all.substr(at, newline - at);
        at = newline + 1;
        if (line.find_first_not_of(" \t\r") == string::npos) continue;
        const auto bad = [&](const string& what) {
            return Error(strf("%s:%lld: %s", chunk.file.c_str(), static_cast<long long>(line_number), what.c_str()));
        };
        try {
            const auto object = nlohmann::json::parse(line);
            const auto found = object.is_object() ? object.find(field) : object.end();
            if (!object.is_object()) throw bad("not a JSON object");
            if (found == object.end())
                throw bad(strf("no field \"%s\"; name the text's field with --text-field", field.c_str()));
            if (!found->is_string()) throw bad(strf("field \"%s\" is not a string", field.c_str()));
            const auto& document = found->template get_ref<const string&>();
            if (document.empty()) continue;
            begin();
            text(document);
        } catch (const nlohmann::json::exception& e) {
            const string what = e.what();
            const size_t column = what.find("column ");
            throw bad("not valid JSON" + (column == string::npos ? "" : ": " + what.substr(column)));
        }
    }
}

// ---- threads -----------------------------------------------------------------------------------------------

// Runs produce(Item&) -> bool, one thread at a time; work(Item&), all at once; consume(Item&), one at a time in the
// order of production. The first exception ends everything and is thrown here.
template <typename Item, typename Produce, typename Work, typename Consume>
void ordered_pipeline(int threads, Produce produce, Work work, Consume consume) {
    std::mutex produce_mutex, consume_mutex;
    std::condition_variable turn;
    int64_t produced = 0, consumed = 0;
    bool at_end = false;
    std::atomic<bool> stop{false};
    std::exception_ptr failure;
    const auto run = [&] {
        try {
            Item item;
            while (!stop) {
                int64_t number;
                {
                    std::lock_guard lock(produce_mutex);
                    throw_if_interrupted();
                    if (at_end || !produce(item)) {
                        at_end = true;
                        return;
                    }
                    number = produced++;
                }
                work(item);
                std::unique_lock lock(consume_mutex);
                turn.wait(lock, [&] { return consumed == number || stop; });
                if (stop) return;
                consume(item);
                ++consumed;
                turn.notify_all();
            }
        } catch (...) {
            std::lock_guard lock(consume_mutex);
            if (!stop.exchange(true)) failure = std::current_exception();
            turn.notify_all();
        }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(run);
    run();
    for (std::thread& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
}

// A line on the terminal, if there is one, with what is done and how long the rest will take.
class Progress {
  public:
    Progress(const char* verb, int64_t total) : verb_(verb), total_(total), shown_(isatty(2) == 1) {}
    ~Progress() {
        if (shown_) fputs("\r\033[K", stderr);
    }
    void update(int64_t bytes) {
        if (!shown_ || seconds_since(last_) < 0.2) return;
        last_ = Clock::now();
        const double seconds = seconds_since(start_), done = static_cast<double>(bytes);
        fprintf(stderr, "\r\033[K%s %.1f MB", verb_, done / 1e6);
        if (total_ > 0 && bytes > 0) {
            const double part = std::min(1.0, done / static_cast<double>(total_));
            const int bar = static_cast<int>(part * 30), left = static_cast<int>(seconds / part * (1 - part));
            fprintf(stderr, " of %.1f [%.*s%.*s] %3.0f%%, ETA %d:%02d", static_cast<double>(total_) / 1e6, bar,
                    "##############################", 30 - bar, "..............................", part * 100, left / 60,
                    left % 60);
        }
        fprintf(stderr, ", %.1f MB/s", done / 1e6 / std::max(seconds, 1e-9));
    }

  private:
    const char* verb_;
    int64_t total_;
    bool shown_;
    Clock::time_point start_ = Clock::now(), last_ = start_;
};

// ---- where output goes -------------------------------------------------------------------------------------

// A directory beside the output for what is being written; it goes away with its contents if the run fails.
class Staging {
  public:
    explicit Staging(const string& output) : output_(output) {
        std::error_code error;
        fs::create_directories(output, error);
        path_ = output + "/.tokenize-XXXXXX";
        if (error || !mkdtemp(path_.data()))
            throw Error(strf("%s: cannot write there: %s", output.c_str(),
                             error ? error.message().c_str() : std::strerror(errno)));
    }
    ~Staging() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
        fs::remove(output_, ignored);  // only if it is empty
    }
    Staging(const Staging&) = delete;
    const string& path() const { return path_; }
    void publish(const string& name) const {
        std::error_code error;
        fs::rename(path_ + "/" + name, output_ + "/" + name, error);
        if (error) throw Error(strf("%s/%s: cannot write: %s", output_.c_str(), name.c_str(), error.message().c_str()));
    }

  private:
    string output_, path_;
};

string shard_name(const char* split, int64_t number) {
    return strf("%s_%06lld.bin", split, static_cast<long long>(number));
}

std::vector<string> existing_shards(const string& dir) {
    std::vector<string> names;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(dir, error)) {
        const string name = entry.path().filename().string();
        if (entry.path().extension() == ".bin" && (name.rfind("train_", 0) == 0 || name.rfind("val_", 0) == 0))
            names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
}

// The shards of one split, begun and ended as tokens come.
class SplitWriter {
  public:
    SplitWriter(string dir, const char* split, int vocab_size, int64_t shard_tokens)
        : dir_(std::move(dir)), split_(split), vocab_size_(vocab_size), shard_tokens_(shard_tokens) {}
    void write(const int* ids, int64_t n) {
        while (n > 0) {
            if (!shard_)
                shard_.emplace(dir_ + "/" + shard_name(split_, static_cast<int64_t>(names_.size())), vocab_size_);
            const int64_t part = std::min(n, shard_tokens_ - shard_->size());
            shard_->write(ids, part);
            tokens_ += part;
            ids += part;
            n -= part;
            if (shard_->size() == shard_tokens_) finish();
        }
    }
    void finish() {
        if (!shard_) return;
        shard_->close();
        shard_.reset();
        names_.push_back(shard_name(split_, static_cast<int64_t>(names_.size())));
    }
    int64_t tokens() const { return tokens_; }
    const std::vector<string>& names() const { return names_; }
    std::vector<string>& names() { return names_; }

  private:
    string dir_;
    const char* split_;
    int vocab_size_;
    int64_t shard_tokens_, tokens_ = 0;
    std::optional<ShardWriter> shard_;
    std::vector<string> names_;
};

// ---- commands ----------------------------------------------------------------------------------------------

struct EncodedChunk : Chunk {
    std::vector<int> ids;
    int64_t documents = 0, text_bytes = 0;
};
struct Totals {
    int64_t documents = 0, text_bytes = 0;
};

// Encodes the inputs, every document with <|endoftext|> before it (llm.c's convention), into the shards of one split.
Totals encode_split(const std::vector<string>& inputs, const Options& options, const Tokenizer& tokenizer,
                    SplitWriter& out) {
    Totals totals;
    Reader reader(inputs, options);
    Progress progress("encoding", reader.total_bytes());
    ordered_pipeline<EncodedChunk>(
        options.threads, [&](EncodedChunk& chunk) { return reader.next(chunk); },
        [&](EncodedChunk& chunk) {
            chunk.ids.clear();
            chunk.documents = chunk.text_bytes = 0;
            for_each_document(
                chunk, options.text_field,
                [&] {
                    chunk.ids.push_back(tokenizer.end_of_text());
                    ++chunk.documents;
                },
                [&](std::string_view text) {
                    tokenizer.encode(text, chunk.ids);
                    chunk.text_bytes += static_cast<int64_t>(text.size());
                });
        },
        [&](EncodedChunk& chunk) {
            out.write(chunk.ids.data(), static_cast<int64_t>(chunk.ids.size()));
            totals.documents += chunk.documents;
            totals.text_bytes += chunk.text_bytes;
            progress.update(chunk.bytes);
        });
    out.finish();
    if (totals.text_bytes == 0)
        throw Error(strf("%s: no text in it", inputs.size() == 1 ? inputs[0].c_str() : "the inputs"));
    return totals;
}

// Moves the last tokens of `train` to `val`: about `wanted` of them, from the start of a document if one starts within
// half of that around the wanted place, else from exactly there. So one long document works as well as many, and
// nothing is in both.
void split_off_validation(const string& dir, int64_t wanted, const Tokenizer& tokenizer, int64_t shard_tokens,
                          SplitWriter& train, SplitWriter& val) {
    constexpr int64_t kBlock = 1 << 20;
    const int64_t total = train.tokens(), place = total - wanted;
    const int64_t low = std::max<int64_t>(1, place - wanted / 2), high = std::min(total - 1, place + wanted / 2);
    std::vector<int> block(static_cast<size_t>(kBlock));
    // Calls what(first, n) with block[0, n) = tokens [first, first + n), over [begin, end).
    const auto scan = [&](int64_t begin, int64_t end, auto what) {
        for (int64_t first = begin; first < end;) {
            const Shard shard(dir + "/" + train.names()[static_cast<size_t>(first / shard_tokens)],
                              tokenizer.vocab_size());
            for (const int64_t stop = std::min(end, (first / shard_tokens + 1) * shard_tokens); first < stop;) {
                const int64_t n = shard.read(first % shard_tokens, std::min(kBlock, stop - first), block.data());
                what(first, n);
                first += n;
            }
        }
    };
    int64_t cut = -1;
    scan(low, high + 1, [&](int64_t first, int64_t n) {
        for (int64_t i = 0; i < n; ++i)
            if (block[static_cast<size_t>(i)] == tokenizer.end_of_text() &&
                (cut < 0 || std::abs(first + i - place) < std::abs(cut - place)))
                cut = first + i;
    });
    if (cut < 0) cut = place;
    scan(cut, total, [&](int64_t, int64_t n) { val.write(block.data(), n); });
    val.finish();
    // What is left of the shard with the cut in it is written again; the shards after it go.
    SplitWriter rest(dir, "rest", tokenizer.vocab_size(), shard_tokens);
    scan(cut / shard_tokens * shard_tokens, cut, [&](int64_t, int64_t n) { rest.write(block.data(), n); });
    rest.finish();
    while (static_cast<int64_t>(train.names().size()) > cut / shard_tokens) {
        fs::remove(dir + "/" + train.names().back());
        train.names().pop_back();
    }
    if (rest.tokens() > 0) {
        train.names().push_back(shard_name("train", cut / shard_tokens));
        fs::rename(dir + "/" + rest.names()[0], dir + "/" + train.names().back());
    }
}

bool same_file(const string& a, const string& b) {
    std::error_code ignored;
    return fs::equivalent(a, b, ignored);
}

void encode(const Options& options) {
    const string vocab = options.vocab.empty() ? options.output : options.vocab;
    if (options.vocab.empty() && !Tokenizer::present(vocab))
        throw UsageError(
            strf("--vocab: no vocabulary in %s; name a directory with vocab.json and merges.txt, or make one there "
                 "with `./tokenize train -o %s`",
                 vocab.c_str(), vocab.c_str()));
    const Tokenizer tokenizer = Tokenizer::load(vocab);
    const std::vector<string> old = existing_shards(options.output);
    if (!old.empty() && !options.force)
        throw Error(strf("%s/%s is there already; give --force to replace the shards, or another -o",
                         options.output.c_str(), old[0].c_str()));
    const bool copy = !same_file(vocab, options.output);
    if (copy && !options.force && Tokenizer::present(options.output) &&
        !Tokenizer::load(options.output).same(tokenizer))
        throw Error(strf("%s has a vocabulary of its own; leave --vocab out to use it, or give --force to replace it",
                         options.output.c_str()));

    const auto start = Clock::now();
    const Staging staging(options.output);
    SplitWriter train(staging.path(), "train", tokenizer.vocab_size(), options.shard_tokens);
    SplitWriter val(staging.path(), "val", tokenizer.vocab_size(), options.shard_tokens);
    Totals totals = encode_split(options.inputs, options, tokenizer, train);
    const int64_t tokens = train.tokens();
    int64_t val_tokens = 0, val_documents = 0;
    if (!options.val_inputs.empty()) {
        const Totals more = encode_split(options.val_inputs, options, tokenizer, val);
        totals.text_bytes += more.text_bytes;
        val_documents = more.documents;
        val_tokens = val.tokens();
    } else {
        const double part = options.val_fraction * static_cast<double>(tokens);
        const int64_t wanted = options.val_tokens >= 0 ? options.val_tokens : static_cast<int64_t>(part + 0.5);
        if (wanted > 0 && wanted >= tokens)
            throw Error(strf("--val-tokens %s: there are %s tokens in all; leave some for training",
                             human_count(wanted).c_str(), human_count(tokens).c_str()));
        if (wanted > 0) split_off_validation(staging.path(), wanted, tokenizer, options.shard_tokens, train, val);
        val_tokens = val.tokens();
    }
    if (copy) tokenizer.save(staging.path());

    for (const string& name : old) fs::remove(options.output + "/" + name);
    if (copy)
        for (const char* name : {"vocab.json", "merges.txt"}) staging.publish(name);
    for (const string& name : train.names()) staging.publish(name);
    for (const string& name : val.names()) staging.publish(name);
    const int64_t all = options.val_inputs.empty() ? tokens : tokens + val_tokens;
    printf(
        "%s: %s documents, %s tokens: %s in %zu train_*.bin, %s in %zu val_*.bin; %.2f bytes per token, %.2f M "
        "tokens/s\n",
        options.output.c_str(), human_count(totals.documents + val_documents).c_str(), human_count(all).c_str(),
        human_count(all - val_tokens).c_str(), train.names().size(), human_count(val_tokens).c_str(),
        val.names().size(), static_cast<double>(totals.text_bytes) / static_cast<double>(all),
        static_cast<double>(all) / 1e6 / seconds_since(start));
}

void train(const Options& options) {
    const std::vector<string> old = existing_shards(options.output);
    if (!options.force && (!old.empty() || Tokenizer::present(options.output)))
        throw Error(strf("%s has %s already; give --force to replace %s, or another -o", options.output.c_str(),
                         old.empty() ? "a vocabulary" : "token shards",
                         old.empty() ? "it" : "vocabulary and shards (they would not fit the new vocabulary)"));
    if (options.vocab_size < 257 || options.vocab_size > 1 << 24)
        throw UsageError(
            strf("--vocab-size %d: give 257 (256 bytes and <|endoftext|>) to 16777216", options.vocab_size));
    const auto start = Clock::now();
    struct Counted : Chunk {
        PieceCounts counts;
    };
    const Staging staging(options.output);
    BpeTrainer trainer;
    int64_t bytes = 0;
    {
        Reader reader(options.inputs, options);
        Progress progress("counting", reader.total_bytes());
        ordered_pipeline<Counted>(
            options.threads, [&](Counted& chunk) { return reader.next(chunk); },
            [&](Counted& chunk) {
                chunk.counts.clear();
                for_each_document(
                    chunk, options.text_field, [] {}, [&](std::string_view text) { count_pieces(text, chunk.counts); });
            },
            [&](Counted& chunk) {
                trainer.add(chunk.counts);
                bytes = chunk.bytes;
                progress.update(bytes);
            });
    }
    if (trainer.pieces() == 0)
        throw Error(strf("%s: no text in it", options.inputs.size() == 1 ? options.inputs[0].c_str() : "the inputs"));
    const Tokenizer tokenizer = trainer.train(options.vocab_size);
    tokenizer.save(staging.path());
    for (const string& name : old) fs::remove(options.output + "/" + name);
    for (const char* name : {"vocab.json", "merges.txt"}) staging.publish(name);
    printf("%s: vocabulary of %s tokens from %.1f MB of text, %s distinct pieces, %.1f s%s\n", options.output.c_str(),
           human_count(tokenizer.vocab_size()).c_str(), static_cast<double>(bytes) / 1e6,
           human_count(trainer.pieces()).c_str(), seconds_since(start),
           tokenizer.vocab_size() < options.vocab_size ? "; the text has no more pairs that occur twice" : "");
    if (trainer.dropped() > 0)
        printf("(%s occurrences of rare pieces were left out to bound memory)\n",
               human_count(trainer.dropped()).c_str());
}

void decode(const Options& options) {
    const std::vector<string> shards = expand_shards(options.inputs, "SHARD");
    const string vocab = options.vocab.empty() ? vocabulary_dir(shards) : options.vocab;
    if (vocab.empty())
        throw UsageError("--vocab: no vocabulary beside the shards; name its directory (`make gpt2` fetches GPT-2's)");
    const Tokenizer tokenizer = Tokenizer::load(vocab);
    std::vector<int> ids(1 << 16);
    for (const string& path : shards) {
        const Shard shard(path, tokenizer.vocab_size());
        for (int64_t at = 0, n; (n = shard.read(at, static_cast<int64_t>(ids.size()), ids.data())) > 0; at += n) {
            string text;
            for (int64_t i = 0; i < n; ++i) text += tokenizer.bytes(ids[static_cast<size_t>(i)]);
            if (fwrite(text.data(), 1, text.size(), stdout) != text.size()) break;
        }
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        throw Error(strf("standard output: cannot write: %s", std::strerror(errno)));
}

double thread_seconds() {  // of CPU time, so that other programs on the machine do not count
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Speed of encoding text in memory, for dev/bench/bench_tokenizer.sh.
void bench(const Options& options) {
    const Tokenizer tokenizer = Tokenizer::load(options.vocab);
    string text;
    for (const string& input : options.inputs) {
        std::ifstream in(input, std::ios::binary);
        if (!in) throw Error(strf("%s: cannot read: %s", input.c_str(), std::strerror(errno)));
        text.append(std::istreambuf_iterator<char>(in), {});
    }
    const double bytes = static_cast<double>(text.size());
    double first = 0, best = 0;  // with an empty cache of pieces, and with a full one
    const Tokenizer other = Tokenizer::from_merges({});
    std::vector<int> ids(text.size());  // memory that is there, as in a long run
    for (int repeat = 0; repeat < 10; ++repeat) {
        other.encode("another tokenizer in this thread empties the cache", ids);
        for (double* speed : {&first, &best}) {
            ids.clear();
            const double start = thread_seconds();
            tokenizer.encode(text, ids);
            *speed = std::max(*speed, bytes / (thread_seconds() - start));
        }
    }
    const auto start = Clock::now();
    std::vector<std::thread> threads;
    for (int i = 0; i < options.threads; ++i)
        threads.emplace_back([&] {
            std::vector<int> own;
            for (int repeat = 0; repeat < 5; ++repeat) {
                own.clear();
                tokenizer.encode(text, own);
            }
        });
    for (std::thread& thread : threads) thread.join();
    const double all = 5 * options.threads * bytes / seconds_since(start);
    printf("bytes %zu tokens %zu first %.0f best %.0f threads %d all %.0f\n", text.size(), ids.size(), first, best,
           options.threads, all);
}

int run(int argc, char** argv) {
    Options options;
    CLI::App app("Turns text into token shards and back, and trains vocabularies.", "tokenize");
    app.require_subcommand(1);
    const auto text_options = [&](CLI::App* command) {
        command
            ->add_option("inputs", options.inputs,
                         "Text: files, directories (every file in them, sorted), *.jsonl (one document a line), - for "
                         "standard input, which is JSON lines if it begins with {\", else plain text")
            ->required();
        command->add_option("-o,--output", options.output, "Directory to write to, data/NAME")->required();
        command->add_flag("--jsonl", options.jsonl, "All inputs are JSON lines, whatever their names");
        command->add_option("--text-field", options.text_field, "Field of a JSON line that holds the text")
            ->capture_default_str();
        command
            ->add_option(
                "--split-documents", options.split,
                "What separates documents in a text file: endoftext (the marker <|endoftext|>), blanklines, none")
            ->transform(CLI::CheckedTransformer(
                std::map<string, Split>{
                    {"endoftext", Split::end_of_text}, {"blanklines", Split::blank_lines}, {"none", Split::none}},
                CLI::ignore_case))
            ->default_str("endoftext");
        command->add_flag("--no-special", options.no_special,
                          "<|endoftext|> in a text is ordinary text; --split-documents none");
        command->add_option("--threads", options.threads, "Threads (default: all)")->check(CLI::Range(1, 1024));
        command->add_option("--chunk-bytes", options.chunk_bytes, "Bytes of text handed to a thread at a time")
            ->check(CLI::Range(size_t{1}, size_t{1} << 30))
            ->capture_default_str();
        command->add_flag("--force", options.force, "Replace what is in the output directory");
    };
    CLI::App* train_command = app.add_subcommand("train", "Train a vocabulary: writes vocab.json and merges.txt");
    text_options(train_command);
    train_command->add_option("--vocab-size", options.vocab_size, "Tokens: 256 bytes, merges, <|endoftext|>")
        ->capture_default_str();

    CLI::App* encode_command = app.add_subcommand(
        "encode",
        "Write train_*.bin and val_*.bin, with the vocabulary beside them; <|endoftext|> stands before each document");
    text_options(encode_command);
    encode_command->add_option("--vocab", options.vocab,
                               "Directory with vocab.json and merges.txt (default: the output directory)");
    CLI::Option* fraction = encode_command->add_option("--val-fraction", options.val_fraction,
                                                       "Share of the tokens, the last ones, that go to val_*.bin; the "
                                                       "cut moves to the start of a document if one is near");
    fraction->check(CLI::Range(0.0, 0.999))->capture_default_str();
    CLI::Option* tokens =
        encode_command->add_option("--val-tokens", options.val_tokens, "The same as a number of tokens");
    tokens->check(CLI::NonNegativeNumber)->excludes(fraction);
    encode_command
        ->add_option("--val-inputs", options.val_inputs,
                     "Text for val_*.bin; nothing is held back from the inputs then")
        ->excludes(fraction)
        ->excludes(tokens);
    encode_command->add_option("--shard-tokens", options.shard_tokens, "Tokens in a shard")
        ->check(CLI::Range(int64_t{1}, int64_t{INT32_MAX}))
        ->capture_default_str();

    CLI::App* decode_command = app.add_subcommand("decode", "Print the text of shards");
    decode_command->add_option("shards", options.inputs, "Shards: files, directories, patterns")->required();
    decode_command->add_option("--vocab", options.vocab,
                               "Directory with vocab.json and merges.txt (default: beside the shards)");

    CLI::App* bench_command = app.add_subcommand("bench", "Measure the speed of encoding, in bytes per second");
    bench_command->add_option("inputs", options.inputs, "Text files")->required();
    bench_command->add_option("--vocab", options.vocab, "Directory with vocab.json and merges.txt")->required();
    bench_command->add_option("--threads", options.threads, "Threads (default: all)")->check(CLI::Range(1, 1024));

    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& e) {  // --help
        return app.exit(e);
    } catch (const CLI::ParseError& e) {
        throw UsageError(strf("%s; see ./tokenize --help", e.what()));
    }
    if (options.no_special) options.split = Split::none;
    if (options.threads == 0) options.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags = SA_RESETHAND;  // a second Ctrl-C ends it at once
    if (*train_command || *encode_command) {
        sigaction(SIGINT, &action, nullptr);
        sigaction(SIGTERM, &action, nullptr);
    }
    if (*train_command) train(options);
    if (*encode_command) encode(options);
    if (*decode_command) decode(options);
    if (*bench_command) bench(options);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    open_standard_streams();
    signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is then a failed write, like a full disk
    try {
        return run(argc, argv);
    } catch (const Error& e) {
        fprintf(stderr, "tokenize: error: %s\n", e.what());
        return e.exit_code;
    } catch (const std::exception& e) {
        fprintf(stderr, "tokenize: error: %s\n", e.what());
        return 1;
    }
}
