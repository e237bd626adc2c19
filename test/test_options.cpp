#include <gtest/gtest.h>
#include "command.h"
#include <limits>
#include <sstream>
#include "llmc/base/error.h"
#include "llmc/run/options.h"

namespace {

using Words = std::vector<std::string>;
const ProgramInfo program{"train_gpt2", "L6:H6:C384:T256", "fp32", 4096};

// "-b 4 -t 8" as a shell would split it (no quotes).
Words split(const std::string& line) {
    std::istringstream in(line);
    Words words;
    for (std::string word; in >> word;) words.push_back(word);
    return words;
}

bool parse(const Words& words, Options* options) {
    std::vector<const char*> argv = {"./train_gpt2"};
    for (const std::string& word : words) argv.push_back(word.c_str());
    return parse_options(static_cast<int>(argv.size()), argv.data(), program, options);
}

Options parsed(const Words& words) {
    Options options;
    EXPECT_TRUE(parse(words, &options));
    return options;
}
Options parsed(const std::string& line) { return parsed(split(line)); }

// The message of the usage error that a command line gives, which must be one line; "" if it gives none.
std::string usage_error(const Words& words) {
    Options options;
    try {
        parse(words, &options);
    } catch (const UsageError& e) {
        EXPECT_EQ(e.exit_code, 2);
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
        return e.what();
    }
    return "";
}
std::string usage_error(const std::string& line) { return usage_error(split(line)); }

std::string help(const Words& words) {
    testing::internal::CaptureStdout();
    Options options;
    EXPECT_FALSE(parse(words, &options));
    return testing::internal::GetCapturedStdout();
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)
#define EXPECT_LACKS(text, part) EXPECT_EQ((text).find(part), std::string::npos) << (text)

TEST(Options, OptionsMdIsWhatTheProgramWrites) {
    CommandResult help = run_shell(program_path("TRAIN_GPT2", "train_gpt2") + " --help-markdown");
    ASSERT_EQ(help.exit_code, 0) << help.err;
    EXPECT_EQ(read_text("OPTIONS.md"), help.out) << "run make readme";
}

}  // namespace

TEST(Options, DefaultsAreThoseOfTheStruct) {
    const Options o = parsed(""), d;
    EXPECT_EQ(o.command, Command::train);
    EXPECT_TRUE(o.given.empty());
    EXPECT_EQ(o.precision, "fp32");
    EXPECT_EQ(o.weight_decay, d.weight_decay);
    EXPECT_EQ(o.max_steps, -1);
    EXPECT_TRUE(o.learning_rate == 3e-4 && o.epsilon == 1e-8 && o.momentum == 0.9);
    const Options muon = parsed("--optimizer muon"), adadelta = parsed("--optimizer adadelta"),
                  own = parsed("--optimizer sgd -l 2 --momentum 0");
    EXPECT_TRUE(muon.learning_rate == 3e-4 && muon.momentum == 0.95);
    EXPECT_TRUE(adadelta.learning_rate == 1 && adadelta.epsilon == 1e-6);
    EXPECT_TRUE(own.learning_rate == 2 && own.momentum == 0);
    EXPECT_TRUE(o.train_data.empty());
    EXPECT_EQ(parsed("train").command, Command::train);
    EXPECT_EQ(parsed("finetune -e d12").command, Command::finetune);
    EXPECT_EQ(parsed("sample -e runs/x").command, Command::sample);
    EXPECT_EQ(parsed("eval --model runs/x").command, Command::eval);
}

TEST(Options, LlmcGpt2Run) {  // scripts/run_gpt2_124M.sh; the quotes keep the globs from the shell
    const Options o = parsed({"-i", "dev/data/fineweb10B/fineweb_train_*.bin",
                              "-j", "dev/data/fineweb10B/fineweb_val_*.bin",
                              "-o", "log_gpt2_124M",
                              "-v", "250",
                              "-s", "20000",
                              "-g", "144",
                              "-h", "1",
                              "-b", "64",
                              "-t", "1024",
                              "-d", "524288",
                              "-r", "0",
                              "-z", "1",
                              "-c", "0.1",
                              "-l", "0.0006",
                              "-q", "0.0",
                              "-u", "700",
                              "-n", "5000",
                              "-y", "1",
                              "-e", "d12"});
    EXPECT_EQ(o.train_data, Words{"dev/data/fineweb10B/fineweb_train_*.bin"});
    EXPECT_EQ(o.val_data, Words{"dev/data/fineweb10B/fineweb_val_*.bin"});
    EXPECT_EQ(o.output, "log_gpt2_124M");
    EXPECT_EQ(o.val_every, 250);
    EXPECT_EQ(o.sample_every, 20000);
    EXPECT_EQ(o.sample_tokens, 144);
    EXPECT_TRUE(o.hellaswag);
    EXPECT_EQ(o.micro_batch_size, 64);
    EXPECT_EQ(o.seq_len, 1024);
    EXPECT_EQ(o.total_batch_size, 524288);
    EXPECT_EQ(o.recompute, 0);
    EXPECT_EQ(o.zero_stage, 1);
    EXPECT_EQ(o.weight_decay, 0.1);
    EXPECT_EQ(o.learning_rate, 0.0006);
    EXPECT_EQ(o.final_lr_fraction, 0.0);
    EXPECT_EQ(o.warmup_steps, 700);
    EXPECT_EQ(o.checkpoint_every, 5000);
    EXPECT_TRUE(o.resume);
    EXPECT_EQ(o.model, "d12");
    EXPECT_EQ(o.max_steps, -1);
    EXPECT_TRUE(o.was_given("resume") && o.was_given("recompute") && !o.was_given("max-steps"));
}

TEST(Options, LlmcGpt3Run) {  // scripts/run_gpt3_125M.sh
    const Options o = parsed(
        "-i dev/data/fineweb100B/fineweb_train_*.bin -j dev/data/fineweb100B/fineweb_val_*.bin -o log_gpt3_125M -v 250 "
        "-s 20000 -g 144 -h 1 -b 32 -t 2048 -d 524288 -r 0 -z 1 -c 0.1 -l 0.0006 -q 0.1 -u 700 -n 10000 -nk 5 -nm "
        "50000 "
        "-ge 1 -sl 7.0 -sg 7.0 -y 1 -x 572204 -e gpt3:c768");
    EXPECT_EQ(o.keep_checkpoints, 5);
    EXPECT_EQ(o.major_checkpoint_every, 50000);
    EXPECT_EQ(o.device.gelu_fusion, 1);
    EXPECT_EQ(o.skip_loss_z, 7.0);
    EXPECT_EQ(o.skip_grad_z, 7.0);
    EXPECT_EQ(o.max_steps, 572204);
    EXPECT_EQ(o.checkpoint_every, 10000);
    EXPECT_EQ(o.sample_every, 20000);
    EXPECT_EQ(o.sample_tokens, 144);
    EXPECT_EQ(o.model, "gpt3:c768");
}

TEST(Options, LlmcReadmeAndOtherScripts) {
    parsed("");  // ./train_gpt2cu
    const Options sweep = parsed("-i data/TinyStories -v 250 -s 250 -g 144 -l 3e-5 -o stories0.log");
    EXPECT_EQ(sweep.learning_rate, 3e-5);
    EXPECT_EQ(sweep.train_data, Words{"data/TinyStories"});
    // run_gpt2_1558M.sh's -k and -ge; multi_node: -y 0, ranks by -pn -pr -pg, -pf, -pi (which is -pm in the option
    // list).
    const Options o = parsed(
        "-d 2097152 -t 1024 -k cosine -ge 1 -y 0 -h 0 -a 0 -w 1 -f 1 -lg -1 -pn 16 -pr 3 -pg 8 -ps 10.0.0.1 -pf "
        "/shared -pi fs");
    EXPECT_EQ(o.lr_schedule, "cosine");
    EXPECT_FALSE(o.resume || o.hellaswag || o.overfit_one_batch);
    EXPECT_TRUE(o.master_weights && o.device.tf32);
    EXPECT_EQ(o.ranks.num_processes, 16);
    EXPECT_EQ(o.ranks.process_rank, 3);
    EXPECT_EQ(o.ranks.server_ip, "10.0.0.1");
    EXPECT_EQ(o.ranks.fs_path, "/shared");
    EXPECT_EQ(o.ranks.nccl_init_method, "fs");
    EXPECT_EQ(parsed("-d -1 -x -1").total_batch_size, 0);
    const Options off = parsed("-w 0 -f 0 -a 1 -m 5 -c 0 -u 0 -pm tcp");
    EXPECT_FALSE(off.master_weights || off.device.tf32);
    EXPECT_TRUE(off.overfit_one_batch);
    EXPECT_EQ(off.val_batches, 5);
}

TEST(Options, Translation) {
    auto t = [](const std::string& line) { return translate_llmc_arguments(split(line)); };
    EXPECT_EQ(t("-y 1"), Words{"--resume"});
    EXPECT_EQ(t("-y 0"), Words{});
    EXPECT_EQ(t("-y"), Words{"--resume"});
    EXPECT_EQ(t("-y1 -y0 -h1"), (Words{"--resume", "--hellaswag"}));
    EXPECT_EQ(t("-h 1"), Words{"--hellaswag"});
    EXPECT_EQ(t("-h 0"), Words{});
    EXPECT_EQ(t("-h"), Words{"--help"});
    EXPECT_EQ(t("-h -b 4"), (Words{"--help", "--micro-batch-size", "4"}));
    EXPECT_EQ(t("-w 0 -f 0"), (Words{"--no-master-weights", "--no-tf32"}));
    EXPECT_EQ(t("-nk 5 -nm 7 -sl 1 -sg 2 -ge 0 -lg 9"),
              (Words{"--keep-checkpoints", "5", "--major-checkpoint-every", "7", "--skip-loss-z", "1", "--skip-grad-z",
                     "2", "--gelu-fusion", "0", "--gpu-log-every", "9"}));
    EXPECT_EQ(t("-pn 1 -pr 0 -pg 8 -pm mpi -ps x -pf y"),
              (Words{"--num-processes", "1", "--process-rank", "0", "--gpus-per-node", "8", "--nccl-init-method", "mpi",
                     "--server-ip", "x", "--fs-path", "y"}));
    // What is the value of another option, or not llm.c's, stays as it is.
    EXPECT_EQ(t("--prompt -h --unknown -b4 --resume"), (Words{"--prompt", "-h", "--unknown", "-b4", "--resume"}));
    EXPECT_EQ(t("-i a b -y 1"), (Words{"--train-data", "a", "b", "--resume"}));
}

TEST(Options, Forms) {
    EXPECT_EQ(parsed("-b4").micro_batch_size, 4);
    EXPECT_EQ(parsed("--micro-batch-size=4").micro_batch_size, 4);
    EXPECT_EQ(parsed("-b 4 -b 8").micro_batch_size, 8);  // the last one counts
    EXPECT_FALSE(parsed("--tf32 --no-tf32").device.tf32);
    EXPECT_FALSE(parsed("--tf32=false").device.tf32);
    EXPECT_EQ(parsed("-i a b c -j d").train_data, (Words{"a", "b", "c"}));
    EXPECT_EQ(parsed("-i a -b 4 -i b*.bin x[0-9].bin").train_data, (Words{"a", "b*.bin", "x[0-9].bin"}));
    EXPECT_EQ(parsed("--seed 18446744073709551615").seed, std::numeric_limits<uint64_t>::max());
    EXPECT_EQ(parsed("-x 9000000000000").max_steps, 9000000000000);
    EXPECT_EQ(parsed("-l .5e-3").learning_rate, 5e-4);
    for (const std::string prompt : {"-h", "--help me", "-1", "[a, b]", "{}", "", "--prompt=x", "two\nlines"})
        EXPECT_EQ(parsed({"sample", "-e", "m", "--prompt", prompt}).prompt, prompt);
}

TEST(Options, ErrorsNameOptionValueAndRemedy) {
    const struct {
        const char *line, *parts[3];
    } cases[] = {
        {"-b 0", {"--micro-batch-size", "at least 1", "0"}},
        {"-b x", {"--micro-batch-size", "whole number", "'x'"}},
        {"-b 4x", {"--micro-batch-size", "whole number", "'4x'"}},
        {"-b 2.5", {"--micro-batch-size", "whole number", "'2.5'"}},
        {"-b 99999999999", {"--micro-batch-size", "too large", "99999999999"}},
        {"-b", {"-b needs a value", "(B)", "--help"}},
        {"-o -b 4", {"-o needs a value", "DIR", ""}},
        {"-i -j x", {"-i needs a value", "FILES", ""}},
        {"-t -5", {"--seq-len", "at least 1", "-5"}},
        {"-d -7", {"--total-batch-size", "-1 or more", "-7"}},
        {"-x 0", {"--max-steps 0", "-1", "epoch"}},
        {"-l nan", {"--learning-rate", "above 0", "'nan'"}},
        {"-l inf", {"--learning-rate", "above 0", "'inf'"}},
        {"-l 0", {"--learning-rate", "above 0", "0"}},
        {"--epsilon 1e-46", {"--epsilon", "fp32", "1e-46"}},  // 0 in fp32: the first update would be NaN
        {"-l -1e-4", {"--learning-rate", "above 0", "-1e-4"}},
        {"-l 1e999", {"--learning-rate", "too large", "1e999"}},
        {"-k cosin", {"--lr-schedule", "cosine, linear, constant or wsd", "'cosin'"}},
        {"--dropout 1", {"--dropout", "below 1", "1"}},
        {"--dropout -0.1", {"--dropout", "at least 0", "-0.1"}},
        {"-q 1.5", {"--final-lr-fraction", "0 to 1", "1.5"}},
        {"-r 4", {"--recompute", "0, 1, 2 or 3", "4"}},
        {"-z 4", {"--zero-stage", "0, 1, 2 or 3", "4"}},
        {"-ge 3", {"--gelu-fusion", "-1, 0, 1 or 2", "3"}},
        {"--precision fp16", {"--precision", "fp32 or bf16", "'fp16'"}},
        {"--beta2 1", {"--beta2", "below 1", "1"}},
        {"--seed -1", {"--seed", "whole number", "'-1'"}},
        {"-y 2", {"-y", "--resume", "0 or 1, not 2"}},
        {"--tf32=maybe", {"--tf32", "--no-tf32", ""}},
        {"-pr 2 -pn 2", {"--process-rank 2", "below", "--num-processes 2"}},
        {"-pm carrier-pigeon", {"--nccl-init-method", "mpi, tcp or fs", "'carrier-pigeon'"}},
        {"sample -e m --temperature -1", {"--temperature", "0 or more", "-1"}},
        {"sample -e m --top-p 0", {"--top-p", "above 0", "0"}},
        {"sample -e m --top-p 1.1", {"--top-p", "at most 1", "1.1"}},
        {"sample -e m --top-k -1", {"--top-k", "0 or more", "-1"}},
        {"eval -e m --shots 2", {"--shots", "--task", ""}},
        {"eval -e m --task arc --shots-data x", {"--shots-data", "--shots", ""}},
        {"eval -e m --task arc --prompt x", {"--prompt", "{text}", ""}},
        {"eval -e m --task arc --prompt {text} --prompts x", {"--prompt", "--prompts", "one of them"}},
        // combinations
        {"finetune", {"finetune needs --model", "directory", ".bin"}},
        {"sample", {"sample needs --model", "directory", ".bin"}},
        {"eval", {"eval needs --model", "directory", ".bin"}},
        {"-t 100 -d 250", {"--total-batch-size 250", "--seq-len 100", "200 and 300"}},
        {"-d 2147483648", {"--total-batch-size", "below 2^31", "2147483648"}},
        {"-t 100 -d 50", {"--total-batch-size 50", "--seq-len 100", "nearest: 100"}},
        {"sample -e m --prompt a --prompt-file b", {"--prompt", "--prompt-file", "one of them"}},
        // words that nobody knows
        {"--micro-bath-size 4", {"unknown option --micro-bath-size", "did you mean --micro-batch-size?", "--help"}},
        {"--micro_batch_size=4", {"unknown option --micro_batch_size", "did you mean --micro-batch-size?", ""}},
        {"--xylophone", {"unknown option --xylophone", "--help", ""}},
        {"smaple -e m", {"unknown command 'smaple'", "did you mean sample?", ""}},
        {"data.bin", {"unknown command 'data.bin'", "train, finetune, sample, chat, eval, export, plan or plot", ""}},
        {"-b 4 sample", {"unexpected argument 'sample'", "before the options", ""}},
        {"-b 4 5", {"unexpected argument '5'", "--help", ""}},
        {"--prompt x", {"train takes no --prompt", "sample", ""}},
        {"sample -e m -nk 5", {"sample takes no --keep-checkpoints", "train, finetune", ""}},
    };
    for (const auto& c : cases) {
        const std::string message = usage_error(c.line);
        EXPECT_NE(message, "") << c.line;
        for (const char* part : c.parts) EXPECT_HAS(message, part);
    }
    EXPECT_HAS(usage_error(Words{"-e", ""}), "--model needs a value");
    EXPECT_HAS(usage_error(Words{"-i", ""}), "--train-data needs a value");
    EXPECT_HAS(usage_error(Words{"-b", ""}), "--micro-batch-size takes a whole number");
    EXPECT_EQ(usage_error("-t 128 -d 128"), "");
}

TEST(Options, HelpShowsWhatConcernsTheCommand) {
    const std::string top = help({"--help"}), sample = help({"sample", "--help"}), eval = help({"eval", "-h"});
    for (const char* word : {"train ", "finetune", "sample", "eval", "--train-data", "-b,  --micro-batch-size B",
                             "[3e-4; sgd", "L6:H6:C384:T256]", "gpt3:125m", "-nk, --keep-checkpoints"})
        EXPECT_HAS(top, word);
    EXPECT_LACKS(top, "--temperature");
    EXPECT_HAS(sample, "--temperature");
    EXPECT_LACKS(sample, "--train-data");
    EXPECT_LACKS(sample, "--keep-checkpoints");
    EXPECT_HAS(eval, "--val-data");
    EXPECT_LACKS(eval, "--temperature");
    EXPECT_EQ(help({"-h"}), top);
    EXPECT_HAS(help({"finetune", "--help", "-b", "4"}), "none, must be given");  // help needs no --model
    for (const std::string& text : {top, sample, eval}) {
        std::istringstream in(text);
        for (std::string line; std::getline(in, line);) EXPECT_LE(line.size(), 120u) << line;
    }
    EXPECT_HAS(help({"--help-markdown"}), "| `--keep-checkpoints N` | `-nk` | 2 |");
}

TEST(Options, RecordAndObey) {
    Options run = parsed(
        "-t 96 -b 3 -d 960 -x 77 -l 0.1234567890123456789 -k wsd -u 5 -q 0.3 -c 0.01 --beta1 0.85 --beta2 0.999 "
        "--epsilon 1e-7 "
        "--grad-clip 0.7 -sl 5.5 -sg 6.5 --dropout 0.1 --precision bf16 --no-master-weights --stochastic-rounding -r 2 "
        "-z 1 "
        "--seed 18446744073709551615 -a --no-tf32 -ge 2");
    run.learning_rate = 0.1 + 0.2;  // needs 17 digits
    const std::string json = arithmetic_options_json(run);

    Options resumed = parsed("-y");
    std::vector<std::string> notes;
    obey_recorded_options(json, &resumed, &notes);
    EXPECT_TRUE(notes.empty());
    EXPECT_EQ(arithmetic_options_json(resumed), json);
    EXPECT_EQ(resumed.learning_rate, 0.1 + 0.2);
    EXPECT_EQ(resumed.seq_len, 96);
    EXPECT_EQ(resumed.total_batch_size, 960);
    EXPECT_EQ(resumed.max_steps, 77);
    EXPECT_EQ(resumed.seed, std::numeric_limits<uint64_t>::max());
    EXPECT_EQ(resumed.precision, "bf16");
    EXPECT_TRUE(resumed.overfit_one_batch && resumed.stochastic_rounding && !resumed.master_weights &&
                !resumed.device.tf32);
    EXPECT_EQ(resumed.epsilon, 1e-7);
    EXPECT_EQ(resumed.skip_grad_z, 6.5);

    // What is given wins, and is told where it differs.
    Options changed = parsed("-y -x 100 -b 3 --tf32");
    obey_recorded_options(json, &changed, &notes);
    EXPECT_EQ(changed.max_steps, 100);
    EXPECT_TRUE(changed.device.tf32);
    EXPECT_EQ(changed.seq_len, 96);
    ASSERT_EQ(notes.size(), 2u);
    EXPECT_HAS(notes[0], "--max-steps 100");
    EXPECT_HAS(notes[0], "77");
    EXPECT_HAS(notes[1], "--tf32 on");

    // Every kind of damage is an Error; a key that is missing (an older version's file) is none.
    for (const char* bad : {"", "[]", "{\"seq-len\":", "{\"seq-len\":-3}", "{\"seq-len\":\"x\"}",
                            "{\"learning-rate\":null}", "{\"lr-schedule\":\"none\"}", "{\"master-weights\":1}"}) {
        Options o = parsed("-y");
        EXPECT_THROW(obey_recorded_options(bad, &o, &notes), Error) << bad;
    }
    Options o = parsed("-y");
    obey_recorded_options("{\"unknown\":1,\"warmup-steps\":9}", &o, &notes);
    EXPECT_EQ(o.warmup_steps, 9);
    // A given --seq-len that does not go with the recorded batch.
    Options odd = parsed("-y -t 100");
    EXPECT_THROW(obey_recorded_options(json, &odd, &notes), UsageError);
}
