// Examples: templates, weights, what is cut, rows of several of them, and their file.
#include <gtest/gtest.h>
#include <algorithm>
#include <fstream>
#include <map>
#include "llmc/base/error.h"
#include "llmc/base/json.h"
#include "llmc/text/examples.h"
#include "llmc/text/packing.h"
#include "test/command.h"

namespace {

const Tokenizer& bytes_only() {  // a token for each byte, and <|endoftext|>
    static const Tokenizer tokenizer = Tokenizer::from_merges({});
    return tokenizer;
}

struct ExamplesTest : testing::Test {
    TemporaryDirectory dir;
    ReadingNotes notes;
    Examples read(const std::string& lines, const std::string& chat = "plain", bool skip_bad = false) {
        std::ofstream(dir / "a.jsonl") << lines;
        notes = {};
        ReaderOptions options;
        options.skip_bad = skip_bad;
        return read_examples({dir / "a.jsonl"}, options, Template::named(chat, bytes_only()), bytes_only(), &notes);
    }
    std::string error(const std::string& lines, const std::string& chat = "plain") {
        try {
            read(lines, chat);
        } catch (const Error& e) {
            return std::string(e.what()).substr(dir.path.size() + 1);
        }
        return "";
    }
    std::string write(const std::string& name, const std::string& text) {
        std::ofstream(dir / name) << text;
        return dir / name;
    }
    std::string template_error(const std::string& text) {
        try {
            Template::named(write("t", text), bytes_only());
        } catch (const Error& e) {
            return e.what();
        }
        return "";
    }
    // The text of what counts, with | where something does not.
    static std::string counted(const Examples& examples, int64_t i) {
        std::string out;
        for (size_t t = 0; t < examples.ids(i).size(); t++) {
            const bool counts = examples.weights_of(i)[t] == 1;
            if (counts) out += bytes_only().bytes(examples.ids(i)[t]);
            else if (!out.ends_with('|')) out += '|';
        }
        return out;
    }
    static std::string whole(const Examples& examples, int64_t i) {
        const auto ids = examples.ids(i);
        return bytes_only().decode({ids.begin(), ids.end()});
    }
};

const char* const kChat =
    R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},)"
    R"( {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Bye"},)"
    R"( {"role": "assistant", "content": "So soon"}]})";

TEST_F(ExamplesTest, CompletionsCountAndPromptsDoNot) {
    const Examples e = read(std::string(R"({"text": "all of it"})") + "\n" +
                            R"({"prompt": "2+2=", "completion": "4"})" + "\n\n" + kChat + "\n");
    ASSERT_EQ(e.size(), 3);
    EXPECT_EQ(whole(e, 0), "<|endoftext|>all of it<|endoftext|>");
    EXPECT_EQ(counted(e, 0), "|all of it<|endoftext|>");  // the first token is no target
    EXPECT_EQ(whole(e, 1), "2+2=4<|endoftext|>");
    EXPECT_EQ(counted(e, 1), "|4<|endoftext|>");
    EXPECT_EQ(whole(e, 2), "Be brief.\nHi\nYes?<|endoftext|>Bye\nSo soon<|endoftext|>");
    EXPECT_EQ(counted(e, 2), "|Yes?<|endoftext|>|So soon<|endoftext|>");
    EXPECT_EQ(e.weights_of(0)[0], 0);
}

TEST_F(ExamplesTest, Chatml) {
    const Examples e = read(kChat, "chatml");
    EXPECT_EQ(whole(e, 0),
              "<|im_start|>system\nBe "
              "brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
              "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSo soon<|im_end|>\n");
    EXPECT_EQ(counted(e, 0), "|Yes?<|im_end|>|So soon<|im_end|>|");
}

// Marks are tokens where the vocabulary has them; the same letters in what a person wrote are not.
TEST_F(ExamplesTest, OnlyTheTemplatesMarksAreTokens) {
    const Template plain = Template::named("plain", bytes_only());
    Examples e;
    add_example(plain.completion("<|endoftext|>", "<|endoftext|>"), bytes_only(), e);
    EXPECT_EQ(e.length(0), 13 + 13 + 1);
    EXPECT_EQ(e.ids(0).back(), bytes_only().end_of_text());
    EXPECT_EQ(std::count(e.ids(0).begin(), e.ids(0).end(), bytes_only().end_of_text()), 1);
}

// A token of which a part belongs to the completion counts: "bc" here.
TEST_F(ExamplesTest, ATokenAcrossTheBorderCounts) {
    const Tokenizer merged = Tokenizer::from_merges({{'b' - '!', 'c' - '!'}});
    ASSERT_EQ(merged.bytes(256), "bc");
    for (const auto& [prompt, completion] : {std::pair("a", "bc"), {"ab", "c"}}) {
        Examples e;
        add_example(Template::named("plain", merged).completion(prompt, completion), merged, e);
        EXPECT_TRUE(std::ranges::equal(e.ids(0), std::vector<int>{'a' - '!', 256, 257}));
        EXPECT_TRUE(std::ranges::equal(e.weights_of(0), std::vector<float>{0, 1, 1}));
    }
}

TEST_F(ExamplesTest, ATemplateOfYourOwn) {
    const std::string path =
        write("mine",
              "# marks\n\nbegin      [start]\nuser   Q: {content}\\n\nassistant\tA:{content} #}{eos}\\s\\\\\n"
              "tool ({content})");
    const Template mine = Template::named(path, bytes_only());
    const MarkedText text = mine.conversation({{"user", "x"}, {"tool", "y"}, {"assistant", "z"}});
    EXPECT_EQ(text.text, "[start]Q: x\n(y)A:z #}<|endoftext|> \\");
    EXPECT_EQ(mine.generation_prompt({{"user", "x"}}).text, "[start]Q: x\nA:");
    EXPECT_EQ(mine.completion("x", "z").text, "[start]Q: x\nA:z #}<|endoftext|> \\");
    // what the model directory records is known again
    const Template again = Template::recorded(mine.jinja(), bytes_only());
    EXPECT_EQ(again.jinja(), mine.jinja());
    EXPECT_EQ(again.conversation({{"user", "x"}, {"tool", "y"}, {"assistant", "z"}}).text, text.text);
}

TEST_F(ExamplesTest, RecordedTemplates) {
    for (const char* name : {"plain", "chatml"}) {
        const std::string jinja = Template::named(name, bytes_only()).jinja();
        EXPECT_EQ(Template::recorded(jinja, bytes_only()).jinja(), jinja);
    }
    // transformers' own chatml, as tokenizer_config.json has it
    const std::string foreign =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    EXPECT_EQ(Template::recorded(foreign, bytes_only()).jinja(), Template::named("chatml", bytes_only()).jinja());
    std::string changed = Template::named("chatml", bytes_only()).jinja();
    changed.replace(changed.rfind("im_end"), 6, "im_END");
    for (const std::string& other : {std::string("{{ messages }}"), changed, std::string("{# x #}")}) try {
            Template::recorded(other, bytes_only());
            ADD_FAILURE() << other;
        } catch (const Error& e) {
            EXPECT_NE(std::string(e.what()).find("--template"), std::string::npos) << e.what();
        }
}

// What transformers 4.57 makes of the same conversations (dev/interop/check_template.py --write).
TEST_F(ExamplesTest, TransformersReadsTheTemplates) {
    const Json cases = parse_json(read_text("test/fixtures/chat_templates.json"));
    ASSERT_GE(cases.size(), 12u);
    for (const Json& c : cases) {
        const std::string name = c.at("template");
        SCOPED_TRACE(name);
        const Template chat = Template::named(name.size() < 10 ? name : write("own", name), bytes_only());
        std::vector<Turn> turns;
        for (const Json& turn : c.at("turns")) turns.push_back({turn.at(0), turn.at(1)});
        EXPECT_EQ(chat.jinja(), c.at("jinja").get<std::string>());
        EXPECT_EQ(chat.conversation(turns).text, c.at("text").get<std::string>());
        turns.pop_back();
        EXPECT_EQ(chat.generation_prompt(turns).text, c.at("prompt").get<std::string>());
    }
}

TEST_F(ExamplesTest, BadTemplates) {
    const auto says = [&](const std::string& text, const std::string& what) {
        const std::string error = template_error(text);
        EXPECT_NE(error.find(what), std::string::npos) << error;
    };
    const std::string user = "user {content}\n", assistant = "assistant {content}\n";
    says(user + "assistant <a>\n", "t:2: assistant has no {content}");
    says(user, "there is no line for assistant");
    says(assistant, "there is no line for user");
    says(user + assistant + user, "t:3: user stands there a second time");
    says(user + "assistant {content}{content}", "t:2: assistant has {content} twice");
    says(user + "assistant A: {content}", "t:2: assistant has a space before {content}");
    says(user + assistant + "completion A\\s{content}", "t:3: completion has a space before {content}");
    says(user + assistant + "begin {content}", "t:3: begin has no {content}");
    says("user {content}\\x", "t:1: a backslash");
    says(user + assistant + "a#}b {content}", "t:3: a role is written with letters");
    says(user + "assistant {content}\xff", "byte 34 is no UTF-8");
    EXPECT_THROW(Template::named("none", bytes_only()), Error);
}

TEST_F(ExamplesTest, BadLinesAreNamed) {
    const std::string good = R"({"text": "x"})";
    const std::pair<std::string, std::string> cases[] = {
        {R"({"text": "x)", "a.jsonl:2: not valid JSON: column"},
        {R"(["x"])", "a.jsonl:2: not a JSON object"},
        {R"({"texts": "x"})",
         "a.jsonl:2: no fields of an example: \"messages\", or \"prompt\" and \"completion\", or \"text\""},
        {R"({"text": ""})", "a.jsonl:2: the text is empty"},
        {R"({"text": 5})", "a.jsonl:2: field \"text\" is not a string"},
        {R"({"completion": "x"})", "a.jsonl:2: no field \"prompt\""},
        {R"({"prompt": "x", "completion": ""})", "a.jsonl:2: the completion is empty"},
        {R"({"messages": {}})", "a.jsonl:2: field \"messages\" is not an array"},
        {R"({"messages": []})", "a.jsonl:2: no turn of the assistant"},
        {R"({"messages": ["x"]})", "a.jsonl:2: a message is not an object"},
        {R"({"messages": [{"role": "user", "content": "x"}]})", "a.jsonl:2: no turn of the assistant"},
        {R"({"messages": [{"role": "assistant", "content": ""}]})", "a.jsonl:2: a turn of the assistant is empty"},
        {R"({"messages": [{"role": "user"}]})", "a.jsonl:2: no field \"content\""},
        {R"({"messages": [{"role": "robot", "content": "x"}]})",
         "a.jsonl:2: the template has no role \"robot\"; it has: assistant, system, user"}};
    std::string all = good + "\n";
    for (const auto& [line, what] : cases) {
        const std::string said = error(good + "\n" + line + "\n");
        EXPECT_EQ(said.substr(0, what.size()), what);
        EXPECT_NE(said.find("--skip-bad"), std::string::npos);
        all += line + "\n";
    }
    EXPECT_EQ(read(all, "plain", true).size(), 1);
    EXPECT_EQ(notes.bad.count, std::ssize(cases));
    EXPECT_NE(notes.bad.first.find("a.jsonl:2: not valid JSON"), std::string::npos);
    EXPECT_EQ(error("\n"), "a.jsonl: no example in it");
    try {
        read(R"({"text": ""})", "plain", true);
        ADD_FAILURE();
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("no example in it that is whole; the first: "), std::string::npos)
            << e.what();
    }
}

// ---- cut ------------------------------------------------------------------------------------------------------------

TEST_F(ExamplesTest, OfTheLongTheBeginningOfThePromptGoesFirst) {
    const Examples e = read(R"({"prompt": "0123456789", "completion": "abcd"})"
                            "\n"
                            R"({"prompt": "012", "completion": "abc"})"
                            "\n"
                            R"({"text": "abcdefgh"})");
    const auto cut = [&](int T, int64_t i) { return whole(e.fit(T), i); };
    EXPECT_EQ(cut(14, 0), "0123456789abcd<|endoftext|>");
    EXPECT_EQ(e.fit(14).cut, 0);
    EXPECT_EQ(cut(13, 0), "123456789abcd<|endoftext|>");
    EXPECT_EQ(cut(6, 0), "89abcd<|endoftext|>");
    EXPECT_EQ(cut(5, 0), "9abcd<|endoftext|>");
    EXPECT_EQ(cut(4, 0), "9abcd");  // one token of the prompt stays: what is predicted needs one before it
    EXPECT_EQ(cut(2, 0), "9ab");
    EXPECT_EQ(cut(6, 1), "012abc<|endoftext|>");
    EXPECT_EQ(cut(4, 2), "<|endoftext|>abcd");
    EXPECT_EQ(e.fit(6).cut, 2);  // the text is longer, too
    EXPECT_EQ(counted(e.fit(4), 0), "|abcd");
    Examples late;  // what counts stands behind a long turn, of which the beginning goes
    late.add(std::vector<int>{1, 2, 3, 4, 5, 6}, std::vector<float>{0, 1, 0, 0, 0, 1});
    const Examples fitted = late.fit(3);
    EXPECT_EQ(fitted.length(0), 4);
    EXPECT_EQ(fitted.left_out, 0);
}

// ---- rows -----------------------------------------------------------------------------------------------------------

std::shared_ptr<Examples> numbered(const std::vector<int>& lengths) {  // example i is i, i, i, ...
    auto e = std::make_shared<Examples>();
    for (size_t i = 0; i < lengths.size(); i++) {
        const size_t n = static_cast<size_t>(lengths[i]);
        std::vector<float> weights(n, 1);
        weights[1] = 0.5f;
        e->add(std::vector<int>(n, static_cast<int>(i)), weights);
    }
    return e;
}

TEST(PackedExamplesTest, ARow) {
    const PackedExamples rows(numbered({4, 5, 3, 9}), 11, true, false, 1);
    EXPECT_EQ(rows.epoch_begin(1), 2);
    const Batch b = rows.read(0, 2);
    EXPECT_EQ(b.inputs, (std::vector<int>{0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3, 0, 0, 0}));
    EXPECT_EQ(b.targets, (std::vector<int>{0, 0, 0, 1, 1, 1, 1, 2, 2, -1, -1, 3, 3, 3, 3, 3, 3, 3, 3, -1, -1, -1}));
    EXPECT_EQ(b.doc_start, (std::vector<int>{0, 0, 0, 3, 3, 3, 3, 7, 7, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8}));
    EXPECT_EQ(b.weights[0], 0.5f);
    EXPECT_EQ(b.weights[1], 1);
    EXPECT_EQ(b.weights[9], 0);
    EXPECT_EQ(rows.weight(0, 2), 4 * 0.5 + 2 + 3 + 1 + 7);
    const PackedExamples alone(numbered({4, 5, 3, 9}), 11, false, false, 1);
    EXPECT_EQ(alone.epoch_begin(1), 4);
    EXPECT_EQ(alone.read(2, 1).doc_start, (std::vector<int>{0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2}));
}

std::vector<int> lengths_of(int n) {
    std::vector<int> lengths;
    for (int i = 0; i < n; i++) lengths.push_back(2 + i * i % 63);
    return lengths;
}

// Every example once an epoch, in another order each; the same whoever asks, and in whatever pieces.
TEST(PackedExamplesTest, EveryExampleOnceAnEpoch) {
    const int n = 500, T = 64;
    const auto examples = numbered(lengths_of(n));
    for (bool packing : {true, false}) {
        const PackedExamples rows(examples, T, packing, true, 7), other(examples, T, packing, true, 8);
        std::vector<int> first_order;
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            const int64_t begin = rows.epoch_begin(epoch), count = rows.epoch_begin(epoch + 1) - begin;
            const Batch b = rows.read(begin, static_cast<int>(count));
            std::vector<int> order;
            std::map<int, int> positions;
            double weight = 0;
            for (size_t i = 0; i < b.inputs.size(); i++) {
                weight += static_cast<double>(b.weights[i]);
                if (b.targets[i] < 0) continue;
                EXPECT_EQ(b.targets[i], b.inputs[i]);
                positions[b.inputs[i]]++;
                if (b.doc_start[i] == static_cast<int>(i) % T) order.push_back(b.inputs[i]);
            }
            EXPECT_EQ(order.size(), size_t(n));
            for (int i = 0; i < n; i++) EXPECT_EQ(positions[i], examples->length(i) - 1);
            EXPECT_EQ(rows.weight(begin, count), weight);
            if (packing)
                EXPECT_LT(static_cast<double>(count), 1.08 * static_cast<double>(examples->tokens.size() - n) / T);
            else EXPECT_EQ(count, n);
            EXPECT_NE(order, first_order);
            first_order = order;
        }
        const PackedExamples again(examples, T, packing, true, 7);
        const int64_t across = rows.epoch_begin(2) - 3;
        EXPECT_EQ(again.read(across, 6).inputs, rows.read(across, 6).inputs);
        EXPECT_EQ(again.read(across + 4, 1).inputs, rows.read(across + 4, 1).inputs);
        EXPECT_NE(other.read(0, 6).inputs, rows.read(0, 6).inputs);
    }
}

// ---- the file -------------------------------------------------------------------------------------------------------

TEST_F(ExamplesTest, AFileOfThem) {
    const Examples e = read(std::string(kChat) + "\n" + R"({"text": "abc"})", "chatml");
    const std::string path = dir / "train.examples";
    write_examples_file(path, e, 257);
    const Examples again = read_examples_file(path, 257);
    EXPECT_EQ(again.tokens, e.tokens);
    EXPECT_EQ(again.weights, e.weights);
    EXPECT_EQ(again.starts, e.starts);
    const std::string all = read_text(path);
    const auto broken = [&](std::string bytes, const std::string& what, int vocabulary = 257) {
        std::ofstream(path, std::ios::binary) << bytes;
        try {
            read_examples_file(path, vocabulary);
            ADD_FAILURE() << what;
        } catch (const Error& error) {
            EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
        }
    };
    broken("", "is no file of examples");
    broken(all.substr(0, 100), "is no file of examples");
    broken(all.substr(0, all.size() - 4), "bytes");
    broken("x" + all.substr(1), "is no file of examples");
    broken(all.substr(0, 4) + '\7' + all.substr(5), "version 7");
    broken(all, "which the vocabulary of 5 tokens has not", 5);
    std::string starts = all;
    starts[1024 + 8] = '\1', starts[1024 + 9] = '\0';  // the second example begins at 1
    broken(starts, "an example without tokens");
    starts = all;
    starts.replace(1024 + 8, 8, "\xff\xff\xff\xff\xff\xff\xff\x7f");
    broken(starts, "an example without tokens");
}

TEST_F(ExamplesTest, OneOfEachTenIsHeldBack) {
    Examples validation, all = *numbered(std::vector<int>(20, 3));
    const Examples train = all.hold_back(10, &validation);
    EXPECT_EQ(train.size(), 18);
    ASSERT_EQ(validation.size(), 2);
    const int first = validation.ids(0)[0], second = validation.ids(1)[0];
    EXPECT_TRUE(first < 10 && second >= 10 && second < 20) << first << " " << second;
    EXPECT_NE(first, second - 10);  // data that repeat themselves after ten examples would show only one of the ten
    Examples again;
    all.hold_back(10, &again);
    EXPECT_EQ(again.tokens, validation.tokens);
}

}  // namespace
