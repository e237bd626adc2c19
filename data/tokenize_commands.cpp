#include "data/tokenize.h"

#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>
#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/text/bpe_trainer.h"
#include "llmc/text/dataset_writer.h"
#include "llmc/text/ordered_pipeline.h"
#include "llmc/text/splitter.h"
#include "llmc/text/tokenizer.h"
#include "llmc/text/vocabulary.h"

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

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

struct EncodedChunk : Chunk {
    std::vector<int> ids;
    int64_t documents = 0, text_bytes = 0;
    ReadingNotes notes;
};
struct Totals {
    int64_t documents = 0, text_bytes = 0;
    ReadingNotes notes;
};

[[noreturn]] void no_text_in(const std::vector<std::string>& inputs, const ReadingNotes& notes) {
    notes.print();
    throw Error(strf("%s: no text in it", inputs.size() == 1 ? inputs[0].c_str() : "the inputs"));
}

// Encodes the inputs, every document with <|endoftext|> before it (llm.c's convention), into the shards of one split.
Totals encode_split(const std::vector<std::string>& inputs, const TokenizeOptions& options, const Tokenizer& tokenizer,
                    SplitWriter& out) {
    Totals totals;
    ReaderOptions reading = options.reading;
    reading.cut_unbroken = [&](std::string_view text) {
        size_t cut = 0;
        while (text.size() - cut >= kUnbroken) cut += tokenizer.safe_cut(text.substr(cut, kUnbroken));
        return cut;
    };
    reading.word_at = [&](std::string_view text, size_t cut) { return tokenizer.word_at(text, cut); };
    Reader reader(inputs, reading);
    std::optional<Progress> progress(std::in_place, "encoding", reader.total_bytes());
    ordered_pipeline<EncodedChunk>(
        options.threads, [&](EncodedChunk& chunk) { return reader.next(chunk); },
        [&](EncodedChunk& chunk) {
            chunk.ids.clear();
            chunk.documents = chunk.text_bytes = 0;
            chunk.notes = {};
            bool begins = false;
            for_each_document(
                chunk, options.reading, chunk.notes,
                [&] {
                    if (tokenizer.end_of_text() >= 0) chunk.ids.push_back(tokenizer.end_of_text());
                    ++chunk.documents;
                    begins = true;
                },
                [&](std::string_view text) {
                    tokenizer.encode_document(text, std::exchange(begins, false), chunk.ids);
                    chunk.text_bytes += static_cast<int64_t>(text.size());
                });
        },
        [&](EncodedChunk& chunk) {
            out.write(chunk.ids.data(), static_cast<int64_t>(chunk.ids.size()));
            totals.documents += chunk.documents;
            totals.text_bytes += chunk.text_bytes;
            totals.notes.add(chunk.notes);
            progress->update(chunk.bytes);
        });
    options.reading.check_interrupt();
    progress.reset();
    totals.notes.add(reader.notes());
    out.finish();
    if (totals.text_bytes == 0) no_text_in(inputs, totals.notes);
    return totals;
}

bool same_file(const std::string& a, const std::string& b) {
    std::error_code ignored;
    return fs::equivalent(a, b, ignored);
}

}  // namespace

void encode_text(const TokenizeOptions& options) {
    finish_publication(options.output);
    const std::string vocab = options.vocab.empty() ? options.output : options.vocab;
    if (options.vocab.empty() && !Tokenizer::present(vocab))
        throw UsageError(
            strf("--vocab: no vocabulary in %s; name a directory with vocab.json and merges.txt, or with "
                 "tokenizer.json, or make one there "
                 "with `./tokenize train -o %s`",
                 vocab.c_str(), vocab.c_str()));
    const Tokenizer tokenizer = Tokenizer::load(vocab);
    for (const std::string& note : tokenizer.notes()) fprintf(stderr, "%s\n", note.c_str());
    const std::vector<std::string> old = existing_shards(options.output);
    if (!old.empty() && !options.force)
        throw Error(strf("%s/%s is there already; give --force to replace the shards, or another -o",
                         options.output.c_str(), old[0].c_str()));
    const bool copy = !same_file(vocab, options.output);
    if (copy && !options.force && Tokenizer::present(options.output) &&
        !Tokenizer::load(options.output).same(tokenizer))
        throw Error(strf("%s has a vocabulary of its own; leave --vocab out to use it, or give --force to replace it",
                         options.output.c_str()));

    const auto start = Clock::now();
    Staging staging(options.output);
    SplitWriter train(staging.path(), "train", tokenizer.vocab_size(), options.shard_tokens);
    SplitWriter val(staging.path(), "val", tokenizer.vocab_size(), options.shard_tokens);
    Totals totals = encode_split(options.inputs, options, tokenizer, train);
    const int64_t tokens = train.tokens();
    int64_t val_tokens = 0, val_documents = 0;
    if (!options.val_inputs.empty()) {
        const Totals more = encode_split(options.val_inputs, options, tokenizer, val);
        totals.text_bytes += more.text_bytes;
        totals.notes.add(more.notes);
        val_documents = more.documents;
        val_tokens = val.tokens();
    } else {
        const double part = options.val_fraction * static_cast<double>(tokens);
        const int64_t wanted = options.val_tokens >= 0 ? options.val_tokens : static_cast<int64_t>(part + 0.5);
        if (wanted > 0 && wanted >= tokens)
            throw Error(strf("--val-tokens %s: there are %s tokens in all; leave some for training",
                             human_count(wanted).c_str(), human_count(tokens).c_str()));
        if (wanted > 0) train.move_tail(val, wanted, tokenizer.end_of_text());
        val_tokens = val.tokens();
    }
    if (copy) tokenizer.save(staging.path());
    staging.publish();
    const int64_t all = options.val_inputs.empty() ? tokens : tokens + val_tokens;
    printf(
        "%s: %s documents, %s tokens: %s in %zu train_*.bin, %s in %zu val_*.bin; %.2f bytes per token, %.2f M "
        "tokens/s\n",
        options.output.c_str(), human_count(totals.documents + val_documents).c_str(), human_count(all).c_str(),
        human_count(all - val_tokens).c_str(), train.names().size(), human_count(val_tokens).c_str(),
        val.names().size(), static_cast<double>(totals.text_bytes) / static_cast<double>(all),
        static_cast<double>(all) / 1e6 / seconds_since(start));
    fflush(stdout);
    totals.notes.print();
}

void train_vocabulary(const TokenizeOptions& options) {
    finish_publication(options.output);
    const std::vector<std::string> old = existing_shards(options.output);
    if (!options.force && (!old.empty() || Tokenizer::present(options.output)))
        throw Error(strf("%s has %s already; give --force to replace %s, or another -o", options.output.c_str(),
                         old.empty() ? "a vocabulary" : "token shards",
                         old.empty() ? "it" : "vocabulary and shards (they would not fit the new vocabulary)"));
    if (options.vocab_size < 257 || options.vocab_size > 1 << 24)
        throw UsageError(
            strf("--vocab-size %d: give 257 (256 bytes and <|endoftext|>) to 16777216", options.vocab_size));
    std::optional<Tokenizer> base;
    if (!options.extend.empty()) {
        base = Tokenizer::load(options.extend);
        if (base->lacks_bytes())
            throw Error(
                strf("--extend %s: it has no token for some bytes; only a vocabulary with all 256 can be extended",
                     options.extend.c_str()));
        if (options.vocab_size <= base->vocab_size())
            throw UsageError(strf("--vocab-size %d: %s has %d tokens already; give more", options.vocab_size,
                                  options.extend.c_str(), base->vocab_size()));
    }
    const auto start = Clock::now();
    struct Counted : Chunk {
        PieceCounts counts;
        ReadingNotes notes;
    };
    Staging staging(options.output);
    BpeTrainer trainer;
    int64_t bytes = 0;
    ReadingNotes notes;
    {
        Reader reader(options.inputs, options.reading);
        Progress progress("counting", reader.total_bytes());
        ordered_pipeline<Counted>(
            options.threads, [&](Counted& chunk) { return reader.next(chunk); },
            [&](Counted& chunk) {
                chunk.counts.clear();
                chunk.notes = {};
                for_each_document(
                    chunk, options.reading, chunk.notes, [] {},
                    [&](std::string_view text) { count_pieces(text, chunk.counts); });
            },
            [&](Counted& chunk) {
                trainer.add(chunk.counts);
                bytes = chunk.bytes;
                notes.add(chunk.notes);
                progress.update(bytes);
            });
        notes.add(reader.notes());
    }
    options.reading.check_interrupt();
    if (trainer.pieces() == 0) no_text_in(options.inputs, notes);
    const Tokenizer tokenizer = base ? trainer.extend(*base, options.vocab_size) : trainer.train(options.vocab_size);
    tokenizer.save(staging.path());
    staging.publish();
    const std::string kept =
        base ? strf(" (%s of %s)", human_count(base->vocab_size()).c_str(), options.extend.c_str()) : "";
    printf("%s: vocabulary of %s tokens%s from %.1f MB of text, %s distinct pieces, %.1f s%s\n", options.output.c_str(),
           human_count(tokenizer.vocab_size()).c_str(), kept.c_str(), static_cast<double>(bytes) / 1e6,
           human_count(trainer.pieces()).c_str(), seconds_since(start),
           tokenizer.vocab_size() < options.vocab_size ? "; the text has no more pairs that occur twice" : "");
    if (trainer.dropped() > 0)
        printf("(%s occurrences of rare pieces were left out to bound memory)\n",
               human_count(trainer.dropped()).c_str());
    fflush(stdout);
    notes.print();
}

void decode_shards(const TokenizeOptions& options) {
    const std::vector<std::string> shards = expand_shards(options.inputs, "SHARD");
    const std::string vocab = options.vocab.empty() ? vocabulary_dir(shards) : options.vocab;
    if (vocab.empty())
        throw UsageError("--vocab: no vocabulary beside the shards; name its directory (`make gpt2` fetches GPT-2's)");
    const Tokenizer tokenizer = Tokenizer::load(vocab);
    std::vector<int> ids(1 << 16);
    for (const std::string& path : shards) {
        const Shard shard(path, tokenizer.vocab_size());
        for (int64_t at = 0, n; (n = shard.read(at, static_cast<int64_t>(ids.size()), ids.data())) > 0; at += n) {
            std::string text;
            for (int64_t i = 0; i < n; ++i) text += tokenizer.bytes(ids[static_cast<size_t>(i)]);
            if (fwrite(text.data(), 1, text.size(), stdout) != text.size()) break;
        }
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        throw Error(strf("standard output: cannot write: %s", std::strerror(errno)));
}

static double thread_seconds() {  // of CPU time, so that other programs on the machine do not count
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void bench_encoding(const TokenizeOptions& options) {
    const Tokenizer tokenizer = Tokenizer::load(options.vocab);
    std::string text;
    for (const std::string& input : options.inputs) {
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
