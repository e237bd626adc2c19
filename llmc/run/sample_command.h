// sample: text from a model, for a prompt, a file, a pipe or a person at the terminal.
#pragma once
#include <unistd.h>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include "llmc/files/model_files.h"
#include "llmc/run/model.h"
#include "llmc/run/run.h"
#include "llmc/text/input_kind.h"
#include "llmc/text/sampler.h"

template <Model M>
int sample_command(Run run) {
    const Options& o = run.options;
    StepOptions inference = run.inference_options(1);
    inference.T = 1;  // the decoder has buffers of its own
    M model(run.config, inference);
    load_run(run, model);
    Decoder decoder(model, 1, run.config.T);
    SamplerOptions sampler{static_cast<float>(o.temperature), o.top_k, static_cast<float>(o.top_p), o.seed};
    auto answer = [&](const std::string& text) {
        std::vector<int> prompt;
        run.tokenizer->encode_with_special(text, prompt);
        if (prompt.empty()) prompt = empty_prompt(*run.tokenizer);
        if (const size_t T = static_cast<size_t>(run.config.T); prompt.size() > T)
            fprintf(stderr,
                    "note: the prompt has %zu tokens; the model sees %zu at a time and goes on from the last %zu\n",
                    prompt.size(), T, T);
        for (int i = 0; i < o.num_samples; i++) {
            if (o.num_samples > 1) printf("--- sample %d\n", i + 1);
            fwrite(text.data(), 1, text.size(), stdout);
            generate_text(decoder, &*run.tokenizer, prompt, o.max_tokens, sampler, static_cast<uint32_t>(i),
                          [](const std::string& piece) {
                              fwrite(piece.data(), 1, piece.size(), stdout);
                              fflush(stdout);
                          });
            printf("\n");
        }
        fflush(stdout);
    };
    if (o.was_given("prompt")) {
        answer(o.prompt);
    } else if (o.was_given("prompt-file")) {
        std::ifstream file(o.prompt_file, std::ios::binary);
        if (!file || std::filesystem::is_directory(o.prompt_file))
            throw Error("--prompt-file: cannot read " + o.prompt_file);
        answer(written_text({std::istreambuf_iterator<char>(file), {}}, o.prompt_file));
    } else if (isatty(STDIN_FILENO)) {
        printf("Type the beginning of a text; an empty line ends.\n");
        for (std::string line; printf("> "), fflush(stdout), std::getline(std::cin, line);) {
            line = written_text(line + "\n", "standard input");
            if (line.empty()) break;
            answer(line);
        }
    } else {
        answer(written_text({std::istreambuf_iterator<char>(std::cin), {}}, "standard input"));
    }
    return 0;
}
