// ./tokenize: text to token shards and back, and new vocabularies. `./tokenize --help`.
#include <signal.h>
#include <cstdio>
#include <exception>
#include <map>
#include <thread>
#include <CLI/CLI.hpp>
#include "data/tokenize.h"
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/base/scarcity.h"

static volatile sig_atomic_t interrupted = 0;

static void parse_and_run(int argc, char** argv) {
    TokenizeOptions options;
    ReaderOptions& reading = options.reading;
    bool no_special = false;
    CLI::App app("Turns text into token shards and back, and trains vocabularies.", "tokenize");
    app.require_subcommand(1);
    const auto text_options = [&](CLI::App* command) {
        command
            ->add_option("-i,--inputs,inputs", options.inputs,
                         "Text: files, directories (every text in them, sorted), - for standard input. JSON (lines, an "
                         "array, objects) is known by its first bytes, and each of its objects is a document")
            ->required();
        command->add_option("-o,--output", options.output, "Directory to write to, data/NAME")->required();
        command->add_flag("--jsonl", reading.jsonl, "All inputs are JSON, a document a line, whatever their names");
        command->add_flag("--plain", reading.plain, "All inputs are plain text, whatever they look like")
            ->excludes("--jsonl");
        command->add_flag("--skip-bad", reading.skip_bad, "Leave JSON out that is broken or has no text, and count it");
        command->add_option("--text-field", reading.text_field, "Field of a JSON object that holds the text")
            ->capture_default_str();
        command
            ->add_option(
                "--split-documents", reading.separator,
                "What separates documents in a text file: endoftext (the marker <|endoftext|>), blanklines, none")
            ->transform(CLI::CheckedTransformer(std::map<std::string, Separator>{{"endoftext", Separator::end_of_text},
                                                                                 {"blanklines", Separator::blank_lines},
                                                                                 {"none", Separator::none}},
                                                CLI::ignore_case))
            ->default_str("endoftext");
        command->add_flag("--no-special", no_special,
                          "<|endoftext|> in a text is ordinary text; --split-documents none");
        command->add_option("--threads", options.threads, "Threads (default: all)")->check(CLI::Range(1, 1024));
        command->add_option("--chunk-bytes", reading.chunk_bytes, "Bytes of text handed to a thread at a time")
            ->check(CLI::Range(size_t{1}, size_t{1} << 30))
            ->capture_default_str();
        command->add_flag("--force", options.force, "Replace what is in the output directory");
    };
    CLI::App* train_command = app.add_subcommand("train", "Train a vocabulary: writes vocab.json and merges.txt");
    text_options(train_command);
    train_command->add_option("--vocab-size", options.vocab_size, "Tokens: 256 bytes, merges, <|endoftext|>")
        ->capture_default_str();
    train_command->add_option("--extend", options.extend,
                              "Directory of a model, or of its vocabulary: its ids and merges stay, and words of the "
                              "text follow them until there are --vocab-size in all");

    CLI::App* encode_command = app.add_subcommand(
        "encode",
        "Write train_*.bin and val_*.bin, with the vocabulary beside them; <|endoftext|> stands before each document");
    text_options(encode_command);
    encode_command->add_option(
        "-e,--vocab", options.vocab,
        "Directory with vocab.json and merges.txt, or tokenizer.json (default: the output directory)");
    CLI::Option* fraction = encode_command->add_option("--val-fraction", options.val_fraction,
                                                       "Share of the tokens, the last ones, that go to val_*.bin; the "
                                                       "cut moves to the start of a document if one is near");
    fraction->check(CLI::Range(0.0, 0.999))->capture_default_str();
    CLI::Option* tokens =
        encode_command->add_option("--val-tokens", options.val_tokens, "The same as a number of tokens");
    tokens->check(CLI::NonNegativeNumber)->excludes(fraction);
    encode_command
        ->add_option("-j,--val-inputs", options.val_inputs,
                     "Text for val_*.bin; nothing is held back from the inputs then")
        ->excludes(fraction)
        ->excludes(tokens);
    encode_command->add_option("--shard-tokens", options.shard_tokens, "Tokens in a shard")
        ->check(CLI::Range(int64_t{1}, int64_t{INT32_MAX}))
        ->capture_default_str();

    CLI::App* examples_command = app.add_subcommand(
        "examples", "Write train.examples (llmc/text/examples.h) for finetune, with vocabulary and template beside it");
    examples_command
        ->add_option("-i,--inputs,inputs", options.inputs,
                     "Examples: JSON with text, prompt and completion, or messages; - for standard input")
        ->required();
    examples_command->add_option("-o,--output", options.output, "Directory to write to")->required();
    examples_command->add_option("-e,--vocab", options.vocab, "Directory of the model, or of its vocabulary")
        ->required();
    examples_command->add_option("--template", options.chat_template,
                                 "plain, chatml or a file (default: the vocabulary's, else plain)");
    examples_command->add_option("-j,--val-inputs", options.val_inputs, "Examples for val.examples");
    examples_command->add_flag("--skip-bad", reading.skip_bad, "Leave out what is no example, and count it");
    examples_command->add_flag("--force", options.force, "Replace what is in the output directory");

    CLI::App* decode_command = app.add_subcommand("decode", "Print the text of shards");
    decode_command->add_option("-i,--inputs,shards", options.inputs, "Shards: files, directories, patterns")
        ->required();
    decode_command->add_option(
        "-e,--vocab", options.vocab,
        "Directory with vocab.json and merges.txt, or tokenizer.json (default: beside the shards)");

    CLI::App* bench_command = app.add_subcommand("bench", "Measure the speed of encoding, in bytes per second");
    bench_command->add_option("inputs", options.inputs, "Text files")->required();
    bench_command->add_option("--vocab", options.vocab, "Directory with vocab.json and merges.txt")->required();
    bench_command->add_option("--threads", options.threads, "Threads (default: all)")->check(CLI::Range(1, 1024));

    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& e) {  // --help
        app.exit(e);
        return;
    } catch (const CLI::ParseError& e) {
        throw UsageError(strf("%s; see ./tokenize --help", e.what()));
    }
    if (no_special) reading.separator = Separator::none;
    if (options.threads == 0) options.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

    if (*train_command || *encode_command || *examples_command) {
        struct sigaction action {};
        action.sa_handler = [](int) { interrupted = 1; };
        action.sa_flags = SA_RESETHAND;  // a second Ctrl-C ends it at once
        sigaction(SIGINT, &action, nullptr);
        sigaction(SIGTERM, &action, nullptr);
        reading.check_interrupt = [] {
            if (interrupted) throw Error("interrupted; nothing was written", 130);
        };
    }
    if (*train_command) train_vocabulary(options);
    if (*encode_command) encode_text(options);
    if (*examples_command) write_examples(options);
    if (*decode_command) decode_shards(options);
    if (*bench_command) bench_encoding(options);
}

int main(int argc, char** argv) {
    end_in_one_line("tokenize");
    open_standard_streams();
    signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is then a failed write, like a full disk
    try {
        parse_and_run(argc, argv);
        return 0;
    } catch (const Error& e) {
        fprintf(stderr, "tokenize: error: %s\n", printable(e.what()).c_str());
        return e.exit_code;
    } catch (const std::exception& e) {
        const std::string why = scarcity_reason(e);
        fprintf(stderr, "tokenize: error: %s\n", printable(why.empty() ? e.what() : why).c_str());
        return 1;
    }
}
