// Tasks: their forms, what is no question, examples before a question, where answers begin, and what answers are worth.
#include <gtest/gtest.h>
#include <fstream>
#include "llmc/base/error.h"
#include "llmc/run/eval_report.h"
#include "llmc/run/eval_tasks.h"
#include "llmc/text/tasks.h"
#include "test/command.h"

namespace {

using Texts = std::vector<std::string>;

const Tokenizer& bytes_only() {  // a token for each byte, and <|endoftext|>
    static const Tokenizer tokenizer = Tokenizer::from_merges({});
    return tokenizer;
}

struct Tasks : testing::Test {
    TemporaryDirectory dir;
    TaskOptions o;
    ReadingNotes notes;

    Task read(const std::string& name, const std::string& lines) {
        std::ofstream(dir / "q.jsonl") << lines;
        o.name = name, o.files = {dir / "q.jsonl"};
        if (name.empty()) o.name = dir / "q.jsonl";
        return read_task(o, bytes_only(), &notes);
    }
    Question one(const std::string& name, const std::string& line) { return read(name, line).questions.at(0); }
    void refused(const std::string& name, const std::string& lines, const std::string& part) {
        try {
            read(name, lines);
            ADD_FAILURE() << lines << " was taken";
        } catch (const Error& e) {
            EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
        }
    }
};

// What lm-evaluation-harness makes of them, and of fuller ones, is in test/fixtures/tasks (test_program_eval.cpp).
TEST_F(Tasks, OfficialForms) {
    Question q = one(
        "hellaswag",
        R"({"activity_label":"Cats [x]","ctx_a":"A  cat   [header] sits.","ctx_b":"THE É Dog","endings":[" [title] Go","b [c] d"],"label":"1","ctx":"ctx"})");
    EXPECT_EQ(q.context, "Cats : A cat  sits. The é dog");  // of three spaces two stay, as there
    EXPECT_EQ(q.choices, (Texts{" Go", "b d"}));            // [title] stands for ". " only behind a space
    EXPECT_EQ(q.right, 1);
    q = one("hellaswag-llmc", R"({"ctx":"a [b]","endings":["c","d"],"label":0})");
    EXPECT_EQ(q.context + q.answer(1), "a [b] d");
    for (
        const char* line :
        {R"({"question":{"stem":"Why?","choices":[{"text":"x","label":"A"},{"text":"y","label":"B"}]},"answerKey":"B"})",
         R"({"question":"Why?","choices":{"text":["x","y"],"label":["1","2"]},"answerKey":"2"})"}) {
        q = one("arc", line);
        EXPECT_EQ(q.context + q.answer(static_cast<size_t>(q.right)), "Question: Why?\nAnswer: y");
    }
    q = one("mmlu", R"({"question":" Why?\n","subject":"high_school_art","choices":["w","x","y","z"],"answer":"C"})");
    EXPECT_EQ(q.context,
              "The following are multiple choice questions (with answers) about high school art.\n\n"
              "Why?\nA. w\nB. x\nC. y\nD. z\nAnswer:");
    EXPECT_EQ(q.answer(2), " C");
    EXPECT_EQ(q.right, 2);
    q = one("lambada", R"({"text":"to be or"})");
    EXPECT_EQ(q.context, "to be");
    EXPECT_EQ(q.answer(0), " or");
    q = one("blimp", R"({"sentence_good":"He sees.","sentence_bad":"He see."})");
    EXPECT_EQ(q.context, "");
    EXPECT_EQ(q.answer(1), " He see.");
    EXPECT_EQ(q.right, 0);
}

TEST_F(Tasks, OwnFormsAreKnownByTheFirstLine) {
    Task t = read("",
                  "\xEF\xBB\xBF\n{\"prompt\":\"to \",\"choices\":[\"be\",\"bee\"],\"answer\":\"B\"}\r\n \n"
                  "{\"context\":\"to\",\"choices\":[\"be\",\"bee\"],\"answer\":0}");
    ASSERT_EQ(t.questions.size(), 2u);
    EXPECT_EQ(t.questions[0].context + t.questions[0].answer(1), "to bee");
    EXPECT_EQ(t.questions[1].context + t.questions[1].answer(0), "to be");
    EXPECT_EQ(t.questions[0].right, 1);
    o.limit = 1;
    EXPECT_EQ(read("choices", "{\"context\":\"to\",\"choices\":[\"be\"],\"answer\":0}\nno JSON").questions.size(), 1u);
    o.limit = 0;
    t = read("", R"({"text":"good","label":1}
{"text":"bad","label":0})");
    EXPECT_EQ(t.kind, TaskKind::classify);
    EXPECT_EQ(t.classes, (Texts{"0", "1"}));
    EXPECT_EQ(t.questions[0].right, 1);
    EXPECT_EQ(read("", R"({"prompt":"a","completion":"b"})").kind, TaskKind::match);
}

TEST_F(Tasks, ClozeFacts) {
    const std::string lines = R"({"masked_sentence":"Sea is [MASK] .","obj_label":"wet"}
{"masked_sentence":"[MASK] is wet.","obj_label":"Sea"}
{"masked_sentence":"Grade:[MASK].","obj_label":"B"})";
    Task t = read("", lines);  // " wet" is four tokens here
    ASSERT_EQ(t.questions.size(), 1u);
    EXPECT_EQ(t.left_out.size(), 2u);
    o.labels = {"wet", "Sea", "B"};
    t = read("", lines);
    ASSERT_EQ(t.questions.size(), 3u);
    EXPECT_EQ(t.questions[0].context + t.questions[0].answer(1), "Sea is Sea .");
    EXPECT_EQ(t.questions[1].right, 1);
    o.labels = {"wet", "Sea"};
    refused("", lines, "'B' is the answer");
    o.labels.clear();
    refused("", R"({"masked_sentence":"a [MASK] b","obj_label":"x"})", "--labels");
    refused("cloze", R"({"masked_sentence":"a","obj_label":"x"})", "no [MASK]");
}

TEST_F(Tasks, WhatIsNoQuestion) {
    refused("", "", "q.jsonl has no questions");
    refused("arc", "\n", "q.jsonl has no questions");
    refused("", "{\"a\":1}", "q.jsonl:1: not a line of a task");
    refused("choices", "{\"context\":\"a\",\"choices\":[\"b\"],\"answer\":0}\n{\"context\"",
            "q.jsonl:2: not valid JSON");
    refused("choices", "[1]", "q.jsonl:1: not a JSON object");
    refused("choices", R"({"context":"a","choices":["b",""],"answer":0})", "which is no text");
    refused("choices", R"({"context":"a","choices":[],"answer":0})", "\"choices\" is empty");
    for (const char* answer : {"2", "-1", "\"C\"", "\"1x\"", "\"\"", "\"99999999999\"", "0.5", "null"})
        refused("choices", strf(R"({"context":"a","choices":["b","c"],"answer":%s})", answer), "no right answer");
    refused("choices", R"({"context":"a","choices":["b","c"]})", "no right answer: no field \"answer\"");
    refused("arc", R"({"question":"a","choices":{"text":["b"],"label":["A"]},"answerKey":"E"})", "no right answer");
    refused("mmlu", R"({"question":"a","choices":["b","c"],"answer":0})", "2 choices, not four");
    refused("lambada", R"({"text":"word"})", "does not end with a word");
    refused("classify", R"({"text":"a"})", "no field \"label\"");
    o.skip_bad = true;
    EXPECT_EQ(read("choices", "{\n{\"context\":\"a\",\"choices\":[\"b\"],\"answer\":0}\n{}").questions.size(), 1u);
    EXPECT_EQ(notes.bad.count, 2);
    refused("choices", "{\n{}", "has no questions");
}

TEST_F(Tasks, LabelsThatTokeniseAlike) {
    const std::string lines = R"({"text":"x","label":"good"}
{"text":"y","label":"goods"})";
    refused("", lines, "the labels 'good' and 'goods' tokenise alike: the second begins with the first");
    o.labels = {"good", "good"};
    refused("", lines, "the labels 'good' and 'good' tokenise alike: nothing tells them apart");
    o.labels = {"good", "bad"};
    refused("", lines, "'goods' is none of the classes (good, bad)");
    o.labels.clear();
    refused("", R"({"text":"x","label":"good"})", "one label alone, 'good'");
}

TEST_F(Tasks, Shots) {
    std::string lines;
    for (const char* word : {"a", "b", "c"})
        lines += strf("{\"context\":\"%s\",\"choices\":[\"no\",\"%s%s\"],\"answer\":1}\n", word, word, word);
    o.shots = 2;
    Task t = read("choices", lines);  // the task's own, but never the question itself
    for (const Question& q : t.questions) {
        const char itself = q.context.back();
        EXPECT_EQ(std::count(q.context.begin(), q.context.end(), itself), 1) << q.context;
        EXPECT_EQ(q.context.size(), std::string("a aa\n\nb bb\n\nc").size()) << q.context;
    }
    std::ofstream(dir / "shots.jsonl") << lines;
    o.shots_data = {dir / "shots.jsonl"};
    t = read("choices", lines);  // the first of these
    EXPECT_EQ(t.questions[2].context, "a aa\n\nb bb\n\nc");
    EXPECT_EQ(t.questions[0].context, "b bb\n\nc cc\n\na");
    o.shots = 3;
    refused("choices", lines, "--shots 3: " + dir / "shots.jsonl has only 2 besides the question itself");
    o.shots_data.clear();
    refused("choices", lines, "has only 2");
}

TEST_F(Tasks, Prompts) {
    o.prompt = "Is '{text}'\\n a \\\\?";
    EXPECT_EQ(one("choices", R"({"context":"{text}","choices":["b"],"answer":0})").context, "Is '{text}'\n a \\?");
    refused("blimp", R"({"sentence_good":"a","sentence_bad":"b"})", "not with blimp");
    std::ofstream(dir / "p") << "{text}\r\n\r\n no {text} \r\n";
    EXPECT_EQ(read_candidate_prompts(dir / "p"), (Texts{"{text}", " no {text}"}));
    std::ofstream(dir / "p") << "{text}\ntext\n";
    EXPECT_THROW(read_candidate_prompts(dir / "p"), Error);
    EXPECT_EQ(read_labels(" a, b c ,"), (Texts{"a", "b c"}));
}

TEST_F(Tasks, WhereAnAnswerBegins) {
    const auto answer = [&](const char* context, const char* text) {
        const Continuation c = encode_continuation(bytes_only(), context, text);
        return bytes_only().decode({c.ids.begin() + static_cast<std::ptrdiff_t>(c.begin), c.ids.end()});
    };
    EXPECT_EQ(answer("a", " b"), " b");
    EXPECT_EQ(answer("a \xC2\xA0\n", "b"), " \xC2\xA0\nb");  // white space goes to the answer
    EXPECT_EQ(answer("", " b"), " b");                       // after <|endoftext|>
    EXPECT_EQ(answer(" ", "b"), " b");
    EXPECT_EQ(encode_continuation(bytes_only(), "", "b").ids[0], bytes_only().end_of_text());
}

TEST(EvalTasks, HalvesForTheSearchOfPrompts) {
    Task task;
    std::vector<int> whole(41), all, first;
    std::iota(whole.begin(), whole.end(), 0);
    for (int i : whole) task.questions.emplace_back().right = i;
    for (int which : {0, 1})
        for (const Question& q : half_of(task, which).questions) (which ? all : first).push_back(q.right);
    EXPECT_EQ(first.size(), 20u);
    const int64_t low = std::count_if(first.begin(), first.end(), [](int i) { return i < 20; });
    EXPECT_TRUE(low > 4 && low < 16) << low;  // data may be sorted by their labels
    all.insert(all.end(), first.begin(), first.end());
    std::sort(all.begin(), all.end());
    EXPECT_EQ(all, whole);
}

TEST(EvalReport, Classes) {  // 2 of 3 cats found, one dog taken for a cat; nobody is called owl
    Task task;
    task.kind = TaskKind::classify, task.classes = {"cat", "dog", "owl"};
    Scores scores;
    const int is[] = {0, 0, 0, 1, 1}, says[] = {0, 0, 1, 1, 0};
    for (size_t i = 0; i < 5; i++) {
        task.questions.emplace_back().right = is[i];
        scores.log_likelihoods.push_back({-3, -3, -3});
        scores.log_likelihoods[i][static_cast<size_t>(says[i])] = -1;
    }
    Report r;
    add_measures(r, task, scores);
    EXPECT_DOUBLE_EQ(r.value("acc"), 0.6);
    EXPECT_NEAR(r.measures[0].error, std::sqrt(0.6 * 0.4 / 4), 1e-12);
    EXPECT_DOUBLE_EQ(r.classes[0].precision, 2.0 / 3);
    EXPECT_DOUBLE_EQ(r.classes[0].recall, 2.0 / 3);
    EXPECT_DOUBLE_EQ(r.classes[1].f1, 0.5);
    EXPECT_EQ(r.classes[2].f1, 0);
    EXPECT_NEAR(r.value("f1_macro"), (2.0 / 3 + 0.5) / 3, 1e-12);
    EXPECT_EQ(r.confusion, (std::vector<std::vector<int64_t>>{{2, 1, 0}, {1, 1, 0}, {0, 0, 0}}));
    EXPECT_NE(r.table().find("dog       0.5000  0.5000  0.5000       2                     1      1      0"),
              std::string::npos)
        << r.table();
}

TEST(EvalReport, NormalisedChoicesAndRanks) {
    Task task;
    Question q;
    q.choices = {"Größe!", "ab"}, q.right = 0;  // six characters, eight bytes, three tokens
    task.questions = {q};
    Scores scores;
    scores.log_likelihoods = {{-6.5, -2.2}}, scores.tokens = {{3, 1}};
    const auto value = [&](const char* key) {
        Report r;
        add_measures(r, task, scores);
        return r.value(key);
    };
    EXPECT_EQ(value("acc"), 0);
    EXPECT_EQ(value("acc_norm"), 1);    // -1.083 against -1.1
    EXPECT_EQ(value("acc_tokens"), 1);  // -2.167 against -2.2
    scores.log_likelihoods = {{-7, -2.2}};
    EXPECT_EQ(value("acc_norm"), 0);
    EXPECT_EQ(value("acc_tokens"), 0);
    task.kind = TaskKind::cloze, task.candidates = true;
    EXPECT_EQ(value("mean_reciprocal_rank"), 0.5);
    EXPECT_EQ(value("precision_at_10"), 1);
    task.candidates = false, scores.single = {20};
    EXPECT_EQ(value("mean_reciprocal_rank"), 0.05);
    EXPECT_EQ(value("precision_at_10"), 0);
    // Rajpurkar et al.'s script: normalize_answer
    EXPECT_EQ(squad_normalised(" The  cat's\ta AN-swer, (the) Thé.\n"), "cats answer thé");
}

// Losses that depend on position and tokens alone: whatever shares a batch must not matter.
struct Counting {
    int B, T, calls = 0;
    void token_losses(float* losses, const Batch& b) {
        calls++;
        EXPECT_LE(b.inputs.size(), static_cast<size_t>(B * T));
        for (size_t i = 0; i < b.inputs.size(); i++)
            losses[i] = b.targets[i] < 0
                            ? 0
                            : static_cast<float>(b.inputs[i] + 10 * b.targets[i] + 100 * (static_cast<int>(i) % b.T));
    }
};

TEST(EvalScores, RowsOfAnyLengthTogether) {
    std::vector<Continuation> all;
    std::vector<double> want;
    for (int n = 2; n <= 33; n++) {
        Continuation c;
        for (int i = 0; i < n; i++) c.ids.push_back((7 * n + i) % 11);
        c.begin = static_cast<size_t>(1 + n % 5 % (n - 1));
        double sum = 0;
        for (size_t t = c.begin; t < c.ids.size(); t++)
            sum -= c.ids[t - 1] + 10 * c.ids[t] + 100 * static_cast<int>(t - 1);
        all.push_back(c), want.push_back(sum);
    }
    Group alone(Ranks{}, 10);
    for (const auto& [B, T, calls] : {std::tuple{1, 32, 22}, {3, 32, 7}, {8, 128, 1}}) {
        Counting model{B, T};
        EXPECT_EQ(log_likelihoods(model, all, B, T, alone, [](int64_t, int64_t) {}), want);
        EXPECT_LE(model.calls, calls);
    }
    Continuation c{{1, 2, 3, 4, 5, 6}, 2};
    EXPECT_TRUE(fit(c, 3));  // what is far back goes
    EXPECT_EQ(c.ids, (std::vector<int>{3, 4, 5, 6}));
    EXPECT_EQ(c.begin, 1u);
    EXPECT_FALSE(fit(c, 3));
}

}  // namespace
