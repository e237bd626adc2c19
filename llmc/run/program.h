// main() of both programs: parse, choose the precision, run the command; every error ends here in one line.
#pragma once
#include <unistd.h>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <thread>
#include "llmc/base/bf16.h"
#include "llmc/base/files.h"
#include "llmc/run/plan.h"
#include "llmc/run/trainer.h"

template <class Model>
int sample_command(Run run) {
    const Options& o = run.options;
    StepOptions inference;
    inference.training = false;
    inference.B = 1, inference.T = 1;  // only decode() is used, which has buffers of its own
    Model model(run.config, inference);
    load_weights(run.source, model.tensors());
    SamplerOptions sampler{static_cast<float>(o.temperature), o.top_k, static_cast<float>(o.top_p), o.seed};
    auto answer = [&](const std::string& text) {
        std::vector<int> prompt;
        run.tokenizer->encode_with_special(text, prompt);
        if (prompt.empty()) prompt.push_back(run.tokenizer->end_of_text());
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
        answer({std::istreambuf_iterator<char>(file), {}});
    } else if (isatty(STDIN_FILENO)) {
        printf("Type the beginning of a text; an empty line ends.\n");
        for (std::string line; printf("> "), fflush(stdout), std::getline(std::cin, line) && !line.empty();)
            answer(line);
    } else {
        std::string text{std::istreambuf_iterator<char>(std::cin), {}};
        while (!text.empty() && text.back() == '\n')
            text.pop_back();  // echo and editors end a text with a newline that is not meant
        answer(text);
    }
    return 0;
}

template <class Model>
int train_command(Run run, Group& group) {
    auto trainer = std::make_unique<Trainer<Model>>(std::move(run), group);
    try {
        return trainer->train();
    } catch (...) {
        // With several ranks nothing is taken down in order, which could wait for ranks that are gone: the program
        // ends.
        if (group.world() > 1) (void)trainer.release();
        throw;
    }
}

template <class Model>
int eval_command(Run run, Group& group) {
    const Options& o = run.options;
    StepOptions inference;
    inference.training = false;
    inference.T = run.T;
    inference.B = o.micro_batch_size > 0 ? o.micro_batch_size : 4;
    Model model(run.config, inference);
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
    DataLoader data(run.val_shards, run.T, run.config.V, false, 0);
    int64_t windows = data.samples_per_epoch(), B = inference.B;
    if (o.eval_limit > 0 && o.eval_limit <= windows / B) windows = o.eval_limit * B;
    double loss = mean_loss(model, data, windows, inference.B, run.T, group,
                            [&](int64_t done, int64_t all) { progress("evaluating", done, all); });
    log.clear_progress();
    printf("loss %.6f, perplexity %.4f, over %s tokens in windows of %d\n", loss, std::exp(loss),
           human_count(windows * run.T).c_str(), run.T);
    if (!std::isfinite(loss))
        throw Error("the loss is not finite: the first such tensor is " + model.first_non_finite());
    return 0;
}

template <class Model>
int run_command(Run run, Group& group) {
    switch (run.options.command) {
        case Command::train:
        case Command::finetune:
            return train_command<Model>(std::move(run), group);
        case Command::sample:
            return sample_command<Model>(std::move(run));
        case Command::eval:
            return eval_command<Model>(std::move(run), group);
        case Command::plan:
            break;  // needs no Run
    }
    return 2;
}

template <template <typename> class Model, typename Half>
int run_program(int argc, char** argv, const ProgramInfo& program) {
    std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is then a failed write, with a message, like a full disk
    std::signal(SIGBUS, [](int) {   // how a mapped file says that it has become shorter
        const char message[] =
            "error: a token shard or model file was cut short while it was in use; write it again, and go on from the "
            "newest checkpoint with --resume\n";
        [[maybe_unused]] ssize_t n = write(STDERR_FILENO, message, sizeof message - 1);
        _exit(1);
    });
    open_standard_streams();
    auto check_stdout = [] {
        if (fflush(stdout) != 0 || ferror(stdout)) throw Error("cannot write to standard output");
        return 0;
    };
    std::unique_ptr<Group> group;
    // One line on stderr. With several ranks rank 0 speaks for all, and none waits for another any more.
    auto end_with_error = [&](const std::string& line, const std::string& message, int code) {
        fflush(stdout);
        bool several = group && group->world() > 1;
        // What went wrong in all ranks alike, rank 0 says, and that ends this one while it waits.
        if (several && group->rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(1));
        if (several) group->fail(message, code);
        if (several && group->rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(3));  // rank 0 ends us
        else fprintf(stderr, "%s: %s\n", program.name.c_str(), line.c_str());
        if (several) fflush(nullptr), _exit(code);
        return code;
    };
    try {
        Options options;
        if (!parse_options(argc, argv, program, &options)) return check_stdout();
        if (options.command == Command::plan) return plan_command(options), check_stdout();
        bool training = options.command == Command::train || options.command == Command::finetune;
        Ranks ranks = options.command == Command::sample ? Ranks{} : find_ranks(options.ranks);
        if (ranks.rank > 0 && !freopen("/dev/null", "w", stdout)) throw Error("/dev/null cannot be opened");
        std::vector<std::string> notes;
        Run run;
        try {
            Model<float>::Device::open(options.device, ranks.local_rank);
            run = training ? prepare_training(options, program, ranks.rank, ranks.world, &notes)
                           : prepare_inference(options, program);
            Model<float>::Device::configure(run.options.device, run.bf16);
            group = std::make_unique<Group>(ranks, options.comm_timeout);
        } catch (const Error& e) {
            // The others learn why this rank does not take part; where it is alone, or they are not to be met, it ends.
            if (ranks.world == 1 || group) throw;
            group = std::make_unique<Group>(ranks, options.comm_timeout);
            group->exchange(start_description(e));
            throw;
        }
        if (group->world() > 1) compare_starts(group->exchange(start_description(run, Model<float>::Device::name())));
        for (const std::string& note : notes) printf("%s\n", note.c_str());
        int code = run.bf16 ? run_command<Model<Half>>(std::move(run), *group)
                            : run_command<Model<float>>(std::move(run), *group);
        if (!training) check_stdout();  // training goes on and ends well without anybody who reads
        return code;
    } catch (const Error& e) {
        return end_with_error(strf("error: %s", e.what()), e.what(), e.exit_code);
    } catch (const std::filesystem::filesystem_error& e) {
        std::string message = e.path1().string() + ": " + e.code().message();
        return end_with_error("error: " + message, message, 1);
    } catch (const std::bad_alloc&) {
        std::string message = "out of memory; try a smaller --micro-batch-size (-b), --seq-len (-t) or --model (-e)";
        return end_with_error("error: " + message, message, 1);
    } catch (const std::exception& e) {
        return end_with_error(strf("internal error: %s; please report it with the command line", e.what()), e.what(),
                              1);
    }
}
