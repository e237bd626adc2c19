// Trained prompts, as a user has them: in front of examples or where a template says, resumed, read back, refused.
#include "llmc/files/adapter_files.h"
#include "llmc/files/run_directory.h"
#include "program_fixture.h"

namespace {

class Prompts : public Program {
  protected:
    void SetUp() override {
        Program::SetUp();
        expect_good(gpt2(small() + "-x 30 -v 0 -n 0 -o base"));
        const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
        for (const auto& [name, first, n] : {std::tuple("train.jsonl", 0, 60), {"val.jsonl", 100, 12}}) {
            std::ofstream lines(dir / name);
            for (int i = first; i < first + n; i++)
                lines << strf(R"({"prompt": "who sees %s?", "completion": " %s."})", who[i * 7 / 4 % 5], who[i % 5])
                      << "\n";
        }
    }
    CommandResult tune(const std::string& more) {
        return gpt2("finetune -e base -i train.jsonl -j val.jsonl -b 2 -d 128 -v 10 -l 3e-2 -x 20 " + more);
    }
    double loss_of(const std::string& model, const std::string& more = "") {
        const CommandResult r = gpt2("eval -e " + model + " -j val.jsonl " + more);
        EXPECT_EQ(r.exit_code, 0) << r.err;
        return number_after(r.out, "loss ");
    }
    std::string last(const std::string& run, const char* name) { return file(run + "/step_00000020/" + name); }
    void write(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
};

}  // namespace

TEST_F(Prompts, LearnAndLeaveTheModelAsItIs) {
    const std::string before = file("base/step_00000030/model.safetensors");
    for (const std::string encoder : {"lstm", "none"}) {
        SCOPED_TRACE(encoder);
        const CommandResult r = tune("--prompt-tokens 4 --prompt-encoder " + encoder + " -o " + encoder);
        expect_good(r);
        EXPECT_NE(r.out.find("adapter: 4 prompts"), std::string::npos) << r.out;
        EXPECT_LT(loss_of(encoder), loss_of("base") - 0.05);
        EXPECT_NEAR(loss_of(encoder), std::stod(logged(encoder, "val_loss").back()), 1e-4);
        // The finished prompts alone are the adapter.
        EXPECT_EQ(last(encoder, "prompt_encoder.safetensors").empty(), encoder == "none");
        fs::remove(dir / (encoder + "/step_00000020/prompt_encoder.safetensors"));
        fs::copy(dir / (encoder + "/step_00000020"), dir / (encoder + "_alone"));
        fs::remove(dir / (encoder + "_alone/trainer_state.json"));
        EXPECT_EQ(loss_of(encoder + "_alone"), loss_of(encoder + "_alone", "-b 1"));
        EXPECT_LT(loss_of(encoder + "_alone"), loss_of("base") - 0.05);
    }
    EXPECT_EQ(file("base/step_00000030/model.safetensors"), before);
    // each in turn over one model, which sees no prompts; a finished one goes on without an encoder
    const CommandResult all = gpt2("eval -e base --adapter none lstm_alone -j val.jsonl --template plain");
    expect_good(all);
    EXPECT_NEAR(number_after(all.out, "loss "), loss_of("base"), 1e-6);
    EXPECT_NE(all.out.find(strf("%.6f", loss_of("lstm_alone"))), std::string::npos) << all.out;
    expect_good(gpt2("finetune -e lstm_alone -i train.jsonl -j val.jsonl -b 2 -d 128 -x 10 -l 3e-3 -o more"));
    EXPECT_LT(loss_of("more"), loss_of("lstm_alone"));
    EXPECT_FALSE(fs::exists(dir / "more/step_00000010/prompt_encoder.safetensors"));
}

TEST_F(Prompts, ResumeBitForBit) {
    for (const char* precision : {"fp32", "bf16"}) {
        SCOPED_TRACE(precision);
        const std::string run = precision;
        expect_good(tune(strf("--prompt-tokens 3 --dropout 0.1 --precision %s -n 10 -o %s", precision, precision)));
        const std::string names[] = {"adapter_model.safetensors", "prompt_encoder.safetensors",
                                     "optimizer.safetensors"};
        std::vector<std::string> whole;
        for (const std::string& name : names) whole.push_back(last(run, name.c_str()));
        for (const char* again : {"finetune -e base", "train"}) {
            fs::remove_all(dir / (run + "/step_00000020"));
            expect_good(gpt2(std::string(again) + " -o " + run + " --resume"));
            for (size_t i = 0; i < whole.size(); i++) EXPECT_TRUE(last(run, names[i].c_str()) == whole[i]) << names[i];
        }
    }
}

// Where a template has them, in every command that knows one.
TEST_F(Prompts, StandWhereTheTemplateSays) {
    write("t.txt", "user {prompt:2}{content}\\n\nassistant {prompt}{content}{eos}\n");
    expect_good(tune("--prompt-tokens 3 --template t.txt -o run"));
    EXPECT_LT(loss_of("run"), loss_of("base", "--template plain") - 0.05);
    const std::string config = last("run", "tokenizer_config.json");
    EXPECT_NE(config.find("{prompt:2}"),
              std::string::npos);  // recorded for us, and nothing that transformers would print
    EXPECT_EQ(config.find("\xF3\xB0"), std::string::npos);
    const std::string talk = "printf 'who sees the cat?\\n' | ";
    const CommandResult answer = gpt2("chat -e run --temperature 0 --max-tokens 8", talk);
    expect_good(answer);
    EXPECT_NE(answer.out, gpt2("chat -e base --template t.txt --temperature 0 --max-tokens 8", talk).out);
    const CommandResult both = gpt2("chat -e base --adapter run none --temperature 0 --max-tokens 8",
                                    "printf 'who sees the cat?\\n/adapter none\\n/reset\\nwho sees the cat?\\n' | ");
    EXPECT_EQ(both.out, answer.out + gpt2("chat -e base --template t.txt --temperature 0 --max-tokens 8", talk).out);
}

// In front of what is sampled and asked, also when the context slides.
TEST_F(Prompts, InFrontOfOtherTexts) {
    expect_good(tune("--prompt-tokens 4 -o run"));
    const std::string say =
        "sample --prompt 'who sees the cat?' --temperature 0 --max-tokens 80 --repetition-penalty 1.2 ";
    const CommandResult with = gpt2(say + "-e run"), without = gpt2(say + "-e base");
    expect_good(with);
    EXPECT_NE(with.out, without.out);
    const CommandResult both = gpt2(say + "-e base --adapter none run");
    EXPECT_NE(both.out.find(without.out), std::string::npos) << both.out;
    EXPECT_NE(both.out.find(with.out), std::string::npos) << both.out;
    write("task.jsonl", R"({"text": "who sees the cat?", "label": " the cat"})"
                        "\n"
                        R"({"text": "who sees a dog?", "label": " a dog"})"
                        "\n");
    const CommandResult asked = gpt2("eval -e base --adapter none run --task task.jsonl --answers a.jsonl");
    EXPECT_EQ(asked.exit_code, 2);  // one file for two adapters
    expect_good(gpt2("eval -e base --task task.jsonl --answers a.jsonl"));
    expect_good(gpt2("eval -e run --task task.jsonl --answers b.jsonl"));
    EXPECT_NE(file("a.jsonl"), file("b.jsonl"));
    // and where they were elsewhere when they were trained, that is said
    const char* said = "not where the template has them";
    EXPECT_EQ(gpt2("eval -e run --task task.jsonl").err.find(said), std::string::npos);
    write("between.txt", "user {content}{prompt:4}\nassistant {content}{eos}\n");
    expect_good(tune("--prompt-tokens 4 --template between.txt -x 1 -o between"));
    EXPECT_NE(gpt2("eval -e between --task task.jsonl").err.find(said), std::string::npos);
}

// test/fixtures/peft/prompts: written by dev/interop/check_prompts.py with PEFT 0.10.0, transformers 4.48.3, torch 2.15.0
TEST_F(Prompts, OfPeftHaveItsLosses) {
    const std::string fixture = std::filesystem::absolute("test/fixtures/peft").string();
    const CommandResult r = gpt2("eval -e " + fixture + "/prompts -j " + fixture +
                                 "/prompts/examples.jsonl --template plain --no-packing --precision fp32");
    expect_good(r);
    EXPECT_NEAR(number_after(r.out, "loss "), number_after(read_text(fixture + "/prompts/losses.json"), "\"loss\": "),
                3e-6);
}

TEST_F(Prompts, BadInput) {
    expect_good(tune("--prompt-tokens 4 -x 1 -o a"));
    expect_one_error(tune("--prompt-encoder none -o b"), 2, "--prompt-tokens");
    expect_one_error(tune("--prompt-tokens 4 --lora-rank 2 -o b"), 2, "two kinds of adapter");
    expect_one_error(tune("--prompt-tokens 32 -o b"), 2, "leaves no room");
    expect_one_error(gpt2("finetune -e L2:H2:C32:T32 -i train.jsonl --prompt-tokens 4 -o b"), 2,
                     "size without weights");
    expect_one_error(gpt2("finetune -e base -i data/t/train_000000.bin --prompt-tokens 4 -o b"), 2, "JSON lines");
    expect_one_error(gpt2("eval -e a -j data/t/val_000000.bin"), 2, "JSON lines");
    expect_one_error(gpt2("export -e a -o b"), 2, "cannot become a part of the weights");
    expect_one_error(gpt2("finetune -e a -i train.jsonl --prompt-tokens 5 -o b"), 2, "adapter of 4 prompts");
    expect_one_error(gpt2("finetune -e a -i train.jsonl --lora-rank 5 -o b"), 2, "adapter of another kind");
    expect_one_error(gpt2("finetune -e a -i train.jsonl --prompt-tokens 4 --prompt-encoder lstm -o b"), 2, "finished");
    write("t.txt", "user {prompt:2}{content}\\n\nassistant {content}{eos}\n");
    expect_one_error(tune("--prompt-tokens 4 --template t.txt -o b"), 2, "places for 2 prompts");
    expect_one_error(tune("--template t.txt -o b"), 2, "--prompt-tokens 2");
    expect_one_error(run_shell(program_path("TOKENIZE", "tokenize") +
                                   " examples train.jsonl --vocab base/step_00000030 --template t.txt -o e",
                               dir.path),
                     2, "no places");
    for (const char* wrong : {"{prompt:0}", "{prompt:x}", "{prompt", "{prompt:99999999}"}) {
        write("t.txt", std::string("user ") + wrong + " {content}\\n\nassistant {content}{eos}\n");
        expect_one_error(tune("--prompt-tokens 4 --template t.txt -o b"), 1, "t.txt:1: places for prompts");
    }
    // another model's
    expect_good(gpt2("-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H2:C48:T32 -b 3 -d 96 -x 1 -o other"));
    expect_one_error(gpt2("eval -e a --base other -j val.jsonl"), 1, "adapter of another");
    const std::string config = "a/step_00000001/adapter_config.json", good = file(config);
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string text = good;
        text.replace(text.find(from), from.size(), to);
        fs::copy(dir / "a/step_00000001", dir / "c",
                 fs::copy_options::recursive | fs::copy_options::overwrite_existing);
        fs::remove(dir / "c/trainer_state.json");
        write("c/adapter_config.json", text);
        return gpt2("eval -e c -j val.jsonl");
    };
    expect_one_error(with("\"num_virtual_tokens\": 4", "\"num_virtual_tokens\": \"4\""), 1, "num_virtual_tokens");
    expect_one_error(with("\"num_virtual_tokens\": 4", "\"num_virtual_tokens\": 5"), 1, "adapter of another one");
    expect_one_error(with("\"num_layers\": 2", "\"num_layers\": 3"), 1, "num_layers");
    // a checkpoint without its encoder cannot go on
    fs::remove(dir / "a/step_00000001/prompt_encoder.safetensors");
    const CommandResult r = gpt2("finetune -e base --resume -x 3 -o a");
    EXPECT_EQ(r.exit_code, 1);
    EXPECT_NE(r.err.find("prompt_encoder.safetensors"), std::string::npos) << r.err;
}
