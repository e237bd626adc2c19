// sample: texts from a model, for a prompt, a file, a pipe or a person at the terminal.
#pragma once
#include <unistd.h>
#include <cstdio>
#include <iostream>
#include <iterator>
#include "llmc/files/model_files.h"
#include "llmc/run/model.h"
#include "llmc/run/run.h"
#include "llmc/run/sample_output.h"
#include "llmc/text/generate.h"
#include "llmc/text/input_kind.h"

inline void print_piece(const std::string& piece) {
    fwrite(piece.data(), 1, piece.size(), stdout);
    fflush(stdout);
}

// Texts that grow at once: -b, or what memory allows, which changes nothing but the speed.
template <Model M>
int texts_at_once(const Options& o, const ModelConfig& config, const StepOptions& inference, int64_t texts,
                  int capacity) {
    if (o.micro_batch_size > 0) return static_cast<int>(std::min<int64_t>(texts, o.micro_batch_size));
    const double one = static_cast<double>(Decoder<typename M::Model>::bytes(config, 1, capacity, inference.adapters)),
                 more =
                     static_cast<double>(Decoder<typename M::Model>::bytes(config, 2, capacity, inference.adapters)) -
                     one,
                 fit = 1 + (0.8 * M::Device::available_memory() - one) / more;
    return static_cast<int>(std::max(1.0, std::min({static_cast<double>(texts), 128.0, fit})));
}

// The texts of all prompts (adapter: its name in JSON, or ""; its trained prompts stand in front of each), printed in order as they end; a single one as it grows.
template <Model M>
void sample_texts(M& model, const Run& run, const StepOptions& inference, const std::vector<std::string>& texts,
                  const std::string& adapter, int trained_prompts) {
    const Options& o = run.options;
    const Tokenizer& tokenizer = *run.tokenizer;
    const size_t T = static_cast<size_t>(run.config.T), n = static_cast<size_t>(o.num_samples),
                 draws = static_cast<size_t>(o.best_of);
    std::vector<Prompt> prompts;
    size_t longest = 0;
    for (const std::string& text : texts) {
        std::vector<int> ids;
        tokenizer.encode_with_special(text, ids);
        if (ids.empty()) ids = empty_prompt(tokenizer);
        ids = prompts_in_front(trained_prompts, ids);
        longest = std::max(longest, ids.size());
        for (uint32_t i = 0; i < n * draws; i++) prompts.push_back({ids, i});
    }
    if (longest > T)
        fprintf(stderr, "note: the prompt has %zu tokens; the model sees %zu at a time and goes on from the last %zu\n",
                longest, T, T);
    const int capacity = static_cast<int>(std::min(T, longest + static_cast<size_t>(o.max_tokens)));
    Decoder<typename M::Model> decoder(model, texts_at_once<M>(o, run.config, inference, std::ssize(prompts), capacity),
                                       capacity);
    Generator generator(decoder);
    std::vector<GrowingText> grown(prompts.size(), GrowingText(&tokenizer, o.stops));
    std::vector<char> ended(prompts.size());
    const bool stream = prompts.size() == 1 && !o.json;
    if (stream) print_piece(texts[0]);
    // Output k is the best of `draws` texts; it is printed once all before it are.
    size_t printed = 0;
    const auto print_ended = [&] {
        for (; printed * draws < prompts.size(); printed++) {
            const size_t begin = printed * draws, prompt = printed / n, sample = printed % n;
            size_t best = begin;
            for (size_t i = begin; i < begin + draws; i++) {
                if (!ended[i]) return;
                if (grown[i].mean_log_probability() > grown[best].mean_log_probability()) best = i;
            }
            const GrowingText& text = grown[best];
            if (o.json) {
                print_piece(sample_json(texts[prompt], static_cast<int>(sample), text, tokenizer, o.logprobs, adapter) +
                            "\n");
                continue;
            }
            if (texts.size() > 1) printf("--- prompt %zu, sample %zu\n", prompt + 1, sample + 1);
            else if (n > 1) printf("--- sample %zu\n", sample + 1);
            print_piece((stream ? "" : texts[prompt] + text.text()) + "\n");
            if (o.logprobs)
                printf("--- log-probability %.4f, %.4f a token, %zu tokens\n", text.log_probability(),
                       text.mean_log_probability(), text.tokens().size());
        }
    };
    const bool logprobs = o.logprobs || o.json || draws > 1;
    generator.run(prompts, o.max_tokens, sampler_options(o), logprobs, [&](size_t i, Drawn token) {
        const bool ends = !grown[i].push(token) || std::ssize(grown[i].tokens()) == o.max_tokens;
        const std::string piece = grown[i].take(ends);
        if (stream) print_piece(piece);
        ended[i] = ends;
        if (ends) print_ended();
        return !ends;
    });
    fflush(stdout);
}

template <Model M>
int sample_command(Run run) {
    const Options& o = run.options;
    StepOptions inference = run.inference_options(1);
    inference.T = 1;  // a decoder has buffers of its own
    M model(run.config, inference);
    load_run(run, model);
    const auto answer = [&](const std::vector<std::string>& texts) {
        for (const auto& [name, adapter] : run.choices) {
            model.use_adapter(adapter);
            if (run.choices.size() > 1 && !o.json) print_piece("--- adapter " + name + "\n");
            sample_texts(model, run, inference, texts, run.choices.size() > 1 ? name : "", run.prompts(adapter));
        }
    };
    if (o.was_given("prompt")) {
        answer({o.prompt});
    } else if (o.was_given("prompt-file")) {
        answer(read_prompts(o.prompt_file));
    } else if (isatty(STDIN_FILENO)) {
        printf("Type the beginning of a text; an empty line ends.\n");
        for (std::string line; printf("> "), fflush(stdout), std::getline(std::cin, line);) {
            line = written_text(line + "\n", "standard input");
            if (line.empty()) break;
            answer({line});
        }
    } else {
        answer({written_text({std::istreambuf_iterator<char>(std::cin), {}}, "standard input")});
    }
    return 0;
}
