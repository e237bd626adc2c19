// Adapters, as a user has them: trained over a frozen model, resumed, read back, refused.
#include "llmc/files/adapter_files.h"
#include "llmc/files/run_directory.h"
#include "llmc/model/lora.h"
#include "program_fixture.h"

namespace {

class Adapters : public Program {
  protected:
    void SetUp() override {
        Program::SetUp();
        expect_good(train("-v 20 -n 20 -o base"));
    }
    static std::string data() { return "-i data/t/train_000000.bin -j data/t/val_000000.bin -b 3 -d 128 -v 10 -m 2 "; }
    CommandResult adapt(const std::string& more) {
        return gpt2("finetune -e base " + data() + "-x 20 -l 1e-2 --lora-rank 4 " + more);
    }
    std::string weights(const std::string& run, int step) {
        return file(run + "/" + step_name(step) + "/adapter_model.safetensors");
    }
    double loss_of(const std::string& model, const std::string& more = "") {
        const CommandResult r = gpt2("eval -e " + model + " -j data/t/val_000000.bin " + more);
        EXPECT_EQ(r.exit_code, 0) << r.err;
        return number_after(r.out, "loss ");
    }
    void write(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
};

}  // namespace

TEST_F(Adapters, LearnAndLeaveTheModelAsItIs) {
    const std::string before = file("base/step_00000020/model.safetensors");
    const CommandResult r = adapt("-o a");
    expect_good(r);
    EXPECT_NE(r.out.find("adapter: LoRA of rank 4, alpha 8"), std::string::npos) << r.out;
    EXPECT_EQ(file("base/step_00000020/model.safetensors"), before);
    EXPECT_FALSE(fs::exists(dir / "a/step_00000020/model.safetensors"));
    const double base = loss_of("base"), adapted = loss_of("a");
    EXPECT_LT(adapted, base - 0.02);
    // what the run said of itself at its end; eval counts more windows than -m 2
    EXPECT_NEAR(loss_of("a/step_00000020"), adapted, 0);
    EXPECT_NE(gpt2("sample -e a --prompt 'the cat' --max-tokens 20 --temperature 0").out,
              gpt2("sample -e base --prompt 'the cat' --max-tokens 20 --temperature 0").out + " ");
    // An adapter goes on as it is.
    expect_good(gpt2("finetune -e a " + data() + "-x 10 -l 3e-3 -o b"));
    EXPECT_LT(loss_of("b"), adapted);
}

TEST_F(Adapters, ResumeBitForBit) {
    for (const char* precision : {"fp32", "bf16"}) {
        SCOPED_TRACE(precision);
        const std::string p = std::string("--lora-dropout 0.1 --dropout 0.1 --precision ") + precision, run = precision;
        expect_good(adapt(p + " -n 10 -o " + run));
        const std::string whole = weights(run, 20), optimizer = file(run + "/step_00000020/optimizer.safetensors");
        fs::remove_all(dir / (run + "/step_00000020"));
        expect_good(gpt2("finetune -e base " + data() + "-o " + run + " --resume"));
        EXPECT_TRUE(weights(run, 20) == whole);
        EXPECT_TRUE(file(run + "/step_00000020/optimizer.safetensors") == optimizer);
        // and without a word about the model
        fs::remove_all(dir / (run + "/step_00000020"));
        expect_good(gpt2("train " + data() + "-o " + run + " --resume"));
        EXPECT_TRUE(weights(run, 20) == whole);
    }
}

// The model with the product added to its weights is a model like any other.
TEST_F(Adapters, MergedAreTheSameModel) {
    expect_good(adapt("--lora-layers c_attn,mlp.c_proj --lora-alpha 5 -o a"));
    const ModelSource source = find_model(dir / "a");
    ASSERT_TRUE(source.adapter);
    EXPECT_EQ(source.adapter->config.lora.linears, 0b1001u);
    expect_good(gpt2("export -e a -o merged"));
    EXPECT_FALSE(find_model(dir / "merged").adapter);
    EXPECT_NEAR(loss_of("merged"), loss_of("a"), 2e-6);
}

TEST_F(Adapters, SeveralOverOneModelByName) {
    expect_good(adapt("-o a"));
    expect_good(adapt("--lora-layers c_fc --lora-rank 2 -l 3e-2 -o b"));
    const CommandResult r = gpt2("eval -e base --adapter a none b/step_00000020 -j data/t/val_000000.bin");
    expect_good(r);
    const double want[] = {loss_of("a"), loss_of("base"), loss_of("b")};
    const char* names[] = {"adapter a: ", "adapter none: ", "adapter step_00000020: "};
    for (int i = 0; i < 3; i++) {
        const size_t at = r.out.find(names[i]);
        ASSERT_NE(at, std::string::npos) << r.out;
        EXPECT_EQ(number_after(r.out.substr(at), "loss "), want[i]) << names[i];
    }
    EXPECT_NE(want[0], want[2]);

    const std::string say = " --prompt 'the cat' --max-tokens 12 --temperature 0 -e ";
    EXPECT_EQ(
        gpt2("sample" + say + "base --adapter a none").out,
        "--- adapter a\n" + gpt2("sample" + say + "a").out + "--- adapter none\n" + gpt2("sample" + say + "base").out);
    const CommandResult json = gpt2("sample --json --adapter b none" + say + "base");
    EXPECT_EQ(json.out.find("{\"adapter\":\"b\""), 0u) << json.out << json.err;

    const std::string chat = "chat --max-tokens 8 --temperature 0 --template plain -e ",
                      talk = "printf 'the cat\\n' | ";
    const CommandResult both =
        gpt2(chat + "base --adapter a b", "printf 'the cat\\n/adapter b\\n/reset\\nthe cat\\n/adapter c\\n' | ");
    EXPECT_EQ(both.out, gpt2(chat + "a", talk).out + gpt2(chat + "b", talk).out) << both.err;
    EXPECT_NE(both.err.find("there is no adapter c; there are: a, b"), std::string::npos) << both.err;
    EXPECT_EQ(both.exit_code, 1);

    expect_one_error(gpt2("eval -e a --adapter b -j data/t/val_000000.bin"), 2, "is an adapter itself");
    expect_one_error(gpt2("eval -e base --adapter base -j data/t/val_000000.bin"), 2, "--adapter base");
    expect_one_error(gpt2("eval -e base --adapter nowhere -j data/t/val_000000.bin"), 2, "--adapter nowhere");
}

// test/fixtures/peft: written by dev/interop/check_peft.py with PEFT 0.10.0, transformers 4.48.3, torch 2.15.0
TEST_F(Adapters, OfPeftHaveItsLosses) {
    const std::string fixture = std::filesystem::absolute("test/fixtures/peft").string();
    const std::string losses = read_text(fixture + "/losses.json");
    for (const char* name : {"base", "adapter0", "adapter1", "adapter2"}) {
        const CommandResult r =
            gpt2("eval -e " + fixture + "/" + name + " -j " + fixture + "/val_000000.bin --precision fp32");
        expect_good(r);
        EXPECT_NEAR(number_after(r.out, "loss "), number_after(losses, std::string("\"") + name + "\": "), 3e-6)
            << name;
    }
}

TEST_F(Adapters, BadInput) {
    expect_good(adapt("-o a"));
    expect_one_error(gpt2("finetune -e L2:H2:C32:T32 " + data() + "--lora-rank 4 -o b"), 2, "size without weights");
    expect_one_error(adapt("--lora-layers c_attn,c_prj -o b"), 2, "'c_prj' is no linear layer");
    expect_one_error(gpt2("finetune -e base " + data() + "--lora-alpha 4 -o b"), 2, "give --lora-rank");
    expect_one_error(gpt2("finetune -e base " + data() + "--lora-rank 64 -o b"), 2, "--lora-rank 64");
    expect_one_error(gpt2("finetune -e a " + data() + "--lora-rank 8 -o b"), 2, "adapter of rank 4");
    expect_one_error(gpt2("eval -e base --base base -j data/t/val_000000.bin"), 2, "--base");
    // another model, of another shape
    expect_good(gpt2("-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H2:C48:T32 -b 3 -d 96 -x 1 -o other"));
    expect_one_error(gpt2("eval -e a --base other -j data/t/val_000000.bin"), 1, "adapter of another one");
    expect_good(gpt2("-i data/t/train_000000.bin -j data/t/val_000000.bin -e L1:H2:C32:T32 -b 3 -d 96 -x 1 -o less"));
    expect_one_error(gpt2("eval -e a --base less -j data/t/val_000000.bin"), 1, "adapter of another one");
    // a run of the other kind is not resumed
    expect_one_error(adapt("-o base --resume -x 40"), 2, "trains the whole model");
    // its model is gone
    fs::rename(dir / "base", dir / "moved");
    expect_one_error(gpt2("eval -e a -j data/t/val_000000.bin"), 2, "name its directory with --base");
    EXPECT_GT(loss_of("a", "--base moved"), 0);

    const std::string config = "a/step_00000020/adapter_config.json", good = file(config);
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string text = good;
        text.replace(text.find(from), from.size(), to);
        fs::copy(dir / "a/step_00000020", dir / "c",
                 fs::copy_options::recursive | fs::copy_options::overwrite_existing);
        fs::remove(dir / "c/trainer_state.json");
        write("c/adapter_config.json", text);
        return gpt2("eval -e c --base moved -j data/t/val_000000.bin");
    };
    expect_one_error(with("\"LORA\"", "\"IA3\""), 1, "peft_type");
    expect_one_error(with("\"none\"", "\"all\""), 1, "bias");
    expect_one_error(with("\"attn.c_attn\"", "\"q_proj\""), 1, "q_proj");
    expect_one_error(with("\"r\": 4", "\"r\": \"4\""), 1, "adapter_config.json");
    expect_one_error(with("\"r\": 4", "\"r\": 0"), 1, "adapter_config.json");
    expect_one_error(with("\"r\": 4", "\"r\": 5"), 1, "adapter of another one");
    expect_one_error(with("\"layers_to_transform\": null", "\"layers_to_transform\": [7]"), 1, "layers_to_transform");
    expect_one_error(with("\"mlp.c_fc\",", ""), 1, "has no place in the model");
    expect_good(with("\"inference_mode\"", "\"some_new_field\": null, \"inference_mode\""));
}
