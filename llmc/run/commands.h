// The commands that run a model: train and finetune, sample, eval.
#pragma once
#include <unistd.h>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include "llmc/run/trainer.h"
#include "llmc/text/input_kind.h"

template <Model M>
int sample_command(Run run) {
    const Options& o = run.options;
    StepOptions inference;
    inference.training = false;
    inference.B = 1, inference.T = 1;  // only decode() is used, which has buffers of its own
    M model(run.config, inference);
    load_weights(run.source, model.tensors());
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
            generate_text(model, &*run.tokenizer, prompt, o.max_tokens, sampler, static_cast<uint32_t>(i),
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

template <Model M>
int train_command(Run run, Group& group) {
    auto trainer = std::make_unique<Trainer<M>>(std::move(run), group);
    try {
        return trainer->train();
    } catch (...) {
        // With several ranks nothing is taken down in order, which could wait for ranks that are gone: the program
        // ends.
        if (group.world() > 1) (void)trainer.release();
        throw;
    }
}

template <Model M>
int eval_command(Run run, Group& group) {
    const Options& o = run.options;
    StepOptions inference;
    inference.training = false;
    inference.T = run.T;
    inference.examples = run.on_examples;
    inference.B = o.micro_batch_size > 0 ? o.micro_batch_size : 4;
    M model(run.config, inference);
    load_weights(run.source, model.tensors());
    RunLog log("", 0);
    double begin = seconds_now();
    auto progress = [&](const char* what, int64_t done, int64_t all) {
        log.progress(what, done, all,
                     (seconds_now() - begin) / static_cast<double>(done) * static_cast<double>(all - done));
    };
    if (o.task == "hellaswag") {
        ChoiceResult r =
            evaluate_choices(model, read_hellaswag(o.hellaswag_data, *run.tokenizer, o.eval_limit), inference.B, run.T,
                             [&](int64_t done, int64_t all) { progress("HellaSwag", done, all); });
        double n = static_cast<double>(r.questions);
        log.clear_progress();
        printf("HellaSwag: %lld questions, accuracy %.4f, normalised accuracy %.4f\n",
               static_cast<long long>(r.questions), static_cast<double>(r.right) / n,
               static_cast<double>(r.right_normalised) / n);
        return 0;
    }
    DataLoader data(run.validation_rows());
    const int64_t windows = validation_windows(data, o.eval_limit);
    double loss = mean_loss(model, data, windows, inference.B, run.T, group,
                            [&](int64_t done, int64_t all) { progress("evaluating", done, all); });
    log.clear_progress();
    printf("loss %.6f, perplexity %.4f, over %s tokens in %s of %d\n", loss, std::exp(loss),
           human_count(std::llround(data.rows().weight(0, windows))).c_str(),
           run.on_examples ? "examples in rows" : "windows", run.T);
    if (!std::isfinite(loss))
        throw Error("the loss is not finite: the first such tensor is " + model.first_non_finite());
    return 0;
}

template <Model M>
int run_command(Run run, Group& group) {
    switch (run.options.command) {
        case Command::train:
        case Command::finetune:
            return train_command<M>(std::move(run), group);
        case Command::sample:
            return sample_command<M>(std::move(run));
        case Command::eval:
            return eval_command<M>(std::move(run), group);
        case Command::plan:
            break;  // needs no Run
    }
    return 2;
}
