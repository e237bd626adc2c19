// A model of which only the first words occur (config.h, U): it computes what a model of so many words computes, and the rows
// of the others stay as they are, unseen by the head, the update and sampling.
#include "llmc/files/safetensors.h"
#include "llmc/text/generate.h"
#include "test/model_test.h"
#include "test/mpi_fixture.h"

namespace {

// Weights of a model of U words in the first rows of one of more.
template <class Small, class Large>
void copy_weights(Small& from, Large& to) {
    const ModelTensors a = from.tensors(), b = to.tensors();
    for (size_t t = 0; t < a.table.size(); t++) {
        std::vector<float> x(static_cast<size_t>(a.table[t].size()));
        for (Buffer buffer : {Buffer::weights, Buffer::master}) {
            if (buffer == Buffer::master && !a.has_master) continue;
            a.read(buffer, a.table[t].offset, a.table[t].size(), x.data());
            b.write(buffer, b.table[t].offset, a.table[t].size(), x.data());
        }
    }
}

template <typename X>
void check_same(bool untied, int micro_batch) {
    const int U = 201, V = 1900;
    ModelConfig small{2, 2, 16, 8, U}, large{2, 2, 16, 8, V};
    small.untied = large.untied = untied, large.in_use = U;
    StepOptions o;
    o.B = micro_batch, o.T = 8, o.weight_decay = 0.1f, o.grad_clip = 1e9f;
    auto a = random_model<X>(small, o), b = random_model<X>(large, o);
    copy_weights(*a, *b);
    const auto table = b->table();
    const Doubles before = weights_of(*b);
    for (int step = 0; step < 4; step++) {
        const Batch batch = random_batch(5, 8, U, static_cast<uint64_t>(step));
        StepState x = step_state(batch, step, 1e-2f), y = x;
        a->step(batch, &x), b->step(batch, &y);
        EXPECT_EQ(x.loss, y.loss) << step;
        EXPECT_NEAR(x.grad_norm / y.grad_norm, 1, 1e-6) << step;
    }
    const Doubles got = weights_of(*b), want = weights_of(*a);
    for (size_t t = 0; t < table.size(); t++) {
        const int64_t used = a->table()[t].size();
        for (int64_t i = 0; i < used; i++)
            ASSERT_EQ(got[table[t].offset + i], want[a->table()[t].offset + i]) << table[t].name << " " << i;
        for (int64_t i = used; i < table[t].padded_size(); i++)
            ASSERT_EQ(got[table[t].offset + i], before[table[t].offset + i]) << table[t].name << " " << i;
    }
    for (const auto* model : {&a, &b}) {  // the same texts
        Decoder decoder(**model, 2, 8);
        Generator generator(decoder);
        std::vector<int> ids;
        generator.run({{{3}, 0}, {{5}, 1}}, 6, {}, true,
                      [&](size_t, Drawn token) { return ids.push_back(token.id), true; });
        static std::vector<int> first;
        if (model == &a) first = ids;
        else EXPECT_EQ(ids, first);
    }
}

TEST(WordsInUse, SameBitsAsAModelOfSoManyWords) {
    for (bool untied : {false, true}) check_same<float>(untied, 5), check_same<float>(untied, 2);
    check_same<bf16>(false, 5);
}

// What a step counts: logits, products, norm and update, for all rows there are or for those in use.
TEST(WordsInUse, NothingIsComputedOfTheOthers) {
    ModelConfig small{2, 2, 16, 8, 200}, large{2, 2, 16, 8, 500000};
    large.in_use = 200;
    EXPECT_EQ(large.Vp(), small.Vp());
    EXPECT_EQ(flops_per_token(large, 8), flops_per_token(small, 8));
    for (bool untied : {false, true}) {
        small.untied = large.untied = untied;
        const auto a = parameter_table(small), b = parameter_table(large);
        int64_t elements = 0, want = arena_size(a);
        for (auto [from, to] : ranges_in_use(b, 0, arena_size(b))) elements += to - from;
        EXPECT_LE(std::abs(elements - want), 2 * 128 * 16);  // padding
    }
    StepOptions o;
    o.B = 2, o.T = 8;
    const MemoryPlan x = GPT2<float, Cpu>::memory_plan(small, o), y = GPT2<float, Cpu>::memory_plan(large, o);
    EXPECT_EQ(x.activations, y.activations);
}

class WordsInUseProgram : public MpiProgram {};

TEST_P(WordsInUseProgram, TravelWithTheModel) {
    const std::string run = program() +
                            "train -i data/t/train_000000.bin -j data/t/val_000000.bin -b 2 -d 128 -l 1e-2 "
                            "--precision fp32 -v 0 -n 2 ";
    const std::string size = "-e L2:H2:C32:T32:V5000:U300 ";
    expect_good(run_shell(before(1) + run + size + "-x 4 -o whole", dir.path));
    expect_good(run_shell(before(1) + run + size + "-x 4 -o parts", dir.path));
    fs::remove_all(dir / "parts/step_00000004");
    expect_good(run_shell(before(1) + run + "-x 4 --resume -o parts", dir.path));
    EXPECT_EQ(read_text(dir / "parts/step_00000004/model.safetensors"),
              read_text(dir / "whole/step_00000004/model.safetensors"));
    EXPECT_NE(file("whole/step_00000004/config.json").find("\"vocab_in_use\": 300"), std::string::npos);
    const SafetensorsFile model(dir / "whole/step_00000004/model.safetensors");
    EXPECT_EQ(model.at("transformer.wte.weight").shape.at(0), 5000);
    expect_good(start(2, run.substr(program().size()) + size + "-x 4 -z 1 -o divided"));
    expect_close(losses("divided"), losses("whole"), 1e-5);
    expect_good(run_shell(before(1) + program() + "export -e whole -o exported", dir.path));
    EXPECT_NE(file("exported/config.json").find("\"vocab_in_use\": 300"), std::string::npos);
}

TEST_P(WordsInUseProgram, ATokenBeyondThemIsAnError) {
    const std::string run =
        program() + "train -i data/t/train_000000.bin -j data/t/val_000000.bin -b 2 -d 128 -x 1 -o run ";
    expect_one_error(run_shell(before(1) + run + "-e L2:H2:C32:T32:V5000:U299", dir.path), 1,
                     "the vocabulary has 300 tokens, of which the model uses 299; say how many in its size (:U300)");
    expect_one_error(run_shell(before(1) + run + "-e L2:H2:C32:T32:V300:U301", dir.path), 2, "U=301 words in use");
    for (const char* name : {"vocab.json", "merges.txt"}) fs::remove(dir / (std::string("data/t/") + name));
    expect_one_error(run_shell(before(1) + run + "-e L2:H2:C32:T32:V5000:U100", dir.path), 1,
                     "data/t/train_000000.bin");
}

INSTANTIATE_TEST_SUITE_P(Programs, WordsInUseProgram, testing::ValuesIn(programs_under_test()),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
