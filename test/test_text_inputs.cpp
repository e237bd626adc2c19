// Text that is not what it seems: JSON under any name, other encodings, archives and programs, the tool's own files.
#include <gtest/gtest.h>
#include "llmc/text/input_kind.h"
#include "llmc/text/json_text.h"
#include "test/tokenize_tool.h"

namespace {

class TextInputs : public TokenizeTool {
  protected:
    void SetUp() override {
        TokenizeTool::SetUp();
        make_vocabulary();
    }
    // Encodes, expects success; what was said on standard error.
    string noted(const string& arguments) {
        const CommandResult result = run("encode --force --val-fraction 0 --vocab v -o out " + arguments);
        EXPECT_EQ(result.exit_code, 0) << arguments << ": " << result.err;
        return result.err;
    }
    void refused(const string& arguments, const string& part) { bad("encode --vocab v -o no " + arguments, part); }
    void expect_documents(const string& arguments, const std::vector<string>& documents) {
        for (const char* chunk : {"--chunk-bytes 1 --threads 3 ", ""}) {
            noted(chunk + arguments);
            EXPECT_EQ(ids("out/train_000000.bin"), expected(documents)) << chunk << arguments;
        }
    }
};

string text_of(const string& object, JsonField wanted = JsonField::text, int64_t repairs = 0) {
    string text;
    int64_t got = 0;
    EXPECT_EQ(json_field(object, "text", text, got), wanted) << object;
    EXPECT_EQ(got, repairs) << object;
    return text;
}

string error_of(const string& object) {
    try {
        text_of(object);
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

}  // namespace

// As Python's json.loads reads them (3.11); what it refuses is refused, and invalid UTF-8 becomes U+FFFD as
// bytes.decode(errors="replace") has it.
TEST(JsonText, Field) {
    EXPECT_EQ(text_of(R"({"text":"one"})"), "one");
    EXPECT_EQ(text_of(" {\t\"id\" : [1, {\"text\": \"inner\"}, []] , \"text\" :\r\"two\" , \"x\": {}} "), "two");
    EXPECT_EQ(text_of(R"({"text":"first","text":"last"})"), "last");
    EXPECT_EQ(text_of(R"({"te\u0078t":"key"})"), "key");
    EXPECT_EQ(text_of(R"({"a":NaN,"b":-Infinity,"c":Infinity,"d":1e999,"e":-0.5E+7,"f":true,"g":null,"text":"x"})"),
              "x");
    EXPECT_EQ(text_of(R"({"text":"\"\\\/\b\f\n\r\t\u0041\u00e9\u4E2d\ud83d\ude00"})"),
              "\"\\/\b\f\n\r\tA\u00e9\u4e2d\U0001F600");
    EXPECT_EQ(text_of(R"({"text":"cut \ud83d emoji"})", JsonField::text, 1), "cut \uFFFD emoji");
    EXPECT_EQ(text_of(R"({"text":"\ude00\ud83d\ud83d\ude00\ud83dx"})", JsonField::text, 3),
              "\uFFFD\uFFFD\U0001F600\uFFFDx");
    EXPECT_EQ(text_of("{\"text\":\"caf\xE9\"}", JsonField::text, 1), "caf\uFFFD");
    EXPECT_EQ(text_of(R"({"text":""})"), "");
    text_of("{}", JsonField::missing);
    text_of(R"({"text":null})", JsonField::null);
    text_of(R"({"text":5})", JsonField::other);
    const string deep(200000, '['), back(200000, ']');
    EXPECT_EQ(text_of("{\"deep\":" + deep + back + ",\"text\":\"x\"}"), "x");

    for (const char* broken : {"",
                               "{",
                               R"({"text")",
                               R"({"text":})",
                               R"({"text":"x)",
                               R"({"text":"x"},)",
                               R"({"text":"x",})",
                               R"({"a" 1})",
                               R"({text:1})",
                               R"({"text":"x"} {})",
                               R"({"text":"\q"})",
                               R"({"text":"\u12g4"})",
                               "{\"text\":\"a\nb\"}",
                               R"({"a":[1,]})",
                               R"({"a":[1 2]})",
                               R"({"a":[1}})",
                               R"({"a":nul})",
                               R"({"a":+})",
                               "[1,",
                               "{\"text\":\"x\"\\"})
        EXPECT_NE(error_of(broken).find("not valid JSON: column "), string::npos) << broken << ": " << error_of(broken);
    for (const char* other : {"[1, 2]", "5", "\"x\"", "null"}) EXPECT_EQ(error_of(other), "not a JSON object");
}

TEST(JsonText, FormByTheFirstBytes) {
    const auto form = [](const string& head, bool whole = true) {
        const JsonForm is = json_form(head, whole, "text");
        return string(is.form == JsonForm::no      ? "no"
                      : is.form == JsonForm::lines ? "lines"
                                                   : "values") +
               (is.has_field ? " text" : "");
    };
    for (const char* text :
         {"", "Once upon", "{ brace", "{{ name }}", "{\\bf bold}", "[1] A note", "[link](x)", "\"said\"", "{x: 1}"})
        EXPECT_EQ(form(text), "no") << text;
    EXPECT_EQ(form("{\"text\":\"x\"}"), "lines text");
    EXPECT_EQ(form("\xEF\xBB\xBF\r\n { \"text\" : \"x\" } \r\n{\"text\""), "lines text");
    EXPECT_EQ(form("{\"text\":\"x\"} {\"text\":\"y\"}"), "values text");
    EXPECT_EQ(form("{\n \"text\": \"x\"\n}\n"), "values text");
    EXPECT_EQ(form("[ {\"text\":\"x\"}]"), "values text");
    EXPECT_EQ(form("[\n{\"name\":\"x\"}]"), "values");
    EXPECT_EQ(form("{\"name\":\"x\"}\n"), "lines");
    // a first object that is longer than what was looked at
    EXPECT_EQ(form("{\"text\":\"long", false), "lines text");
    EXPECT_EQ(form("{\n \"id\": 1,\n \"text\":\"long", false), "values text");
    EXPECT_EQ(form("[{\"text\":\"long", false), "values text");
}

TEST_F(TextInputs, JsonUnderAnyName) {
    const string lines = "{\"text\":\"one\"}\n{\"text\":\"two\"}\n", mark = "\xEF\xBB\xBF";
    write("a.json", "[{\"text\":\"one\"},{\"text\":\"two\"}]");
    write("l.json", lines);
    write("l.ndjson", lines);
    write("L.JSONL", lines);
    write("l.txt", lines);
    write("mark.jsonl", mark + lines + mark + "\n");
    write("blank.x", "\r\n\n" + lines);
    write("pretty.json",
          "[\n  {\n    \"text\": \"one\"\n  },\n  {\n    \"id\": \"}{\\\"][\",\n    \"text\": \"two\"\n  }\n]\n");
    write("objects.jsonl", "{\n  \"text\": \"one\"\n}\n{\n  \"text\": \"two\"\n}\n");
    write("one_line.json", "{\"text\":\"one\"} {\"text\":\"two\"}");
    for (const char* name : {"a.json", "l.json", "l.ndjson", "L.JSONL", "l.txt", "mark.jsonl", "blank.x", "pretty.json",
                             "objects.jsonl", "one_line.json"}) {
        expect_documents(name, {"one", "two"});
        noted(string("- <") + name);
        EXPECT_EQ(ids("out/train_000000.bin"), expected({"one", "two"})) << "from standard input: " << name;
    }
    expect_documents("/dev/stdin <a.json", {"one", "two"});
    fs::create_directory(dir_ / "tree");
    fs::rename(dir_ / "pretty.json", dir_ / "tree/pretty.json");
    fs::rename(dir_ / "l.txt", dir_ / "tree/l.txt");
    expect_documents("tree", {"one", "two", "one", "two"});
    expect_documents("--plain a.json", {read_text(dir_ / "a.json")});
    // JSON without the field: an error if it was named, a text of a directory if it was found there
    write("code/package.json", "{\n  \"name\": \"x\",\n  \"version\": \"1\"\n}\n");
    refused("code/package.json", "code/package.json:1: no field \"text\"");
    EXPECT_MENTIONS(noted("code"), "1 file(s) look like JSON");
    expect_documents("code", {read_text(dir_ / "code/package.json")});
    // in values, too, the line is named
    write("values.json", "[\n{\"text\":\"one\"},\n\n{\"text\":5},\n{\"text\":\"two\"}]");
    refused("values.json", "values.json:4: field \"text\" is not a string");
    expect_documents("--skip-bad values.json", {"one", "two"});
    write("cut.json", "[{\"text\":\"one\"},\n{\"text\":\"tw");
    refused("cut.json", "cut.json:2: not valid JSON");
}

TEST_F(TextInputs, BadLinesAreNamedOrCounted) {
    write("a.jsonl",
          "{\"text\":\"one\"}\n{\"text\":\"two\",\"score\":NaN}\n{\"text\":null}\n{\"text\":\"x\\ud83d\"}\n");
    string said = noted("a.jsonl");
    EXPECT_EQ(ids("out/train_000000.bin"), expected({"one", "two", "x\uFFFD"}));
    EXPECT_MENTIONS(said, "1 document(s) have null for text and were left out; the first: a.jsonl:3\n");
    EXPECT_MENTIONS(said, "became U+FFFD; the first: a.jsonl:4\n");
    write("b.jsonl", "{\"text\":\"one\"}\n{\"text\":\"cut\n{\"body\":\"x\"}\n[]\n{\"text\":\"two\"}\n");
    for (const char* chunk : {"1", "1000000"})
        refused(string("b.jsonl --threads 3 --chunk-bytes ") + chunk, "b.jsonl:2: not valid JSON: column 13: ");
    said = noted("--skip-bad b.jsonl");
    EXPECT_EQ(ids("out/train_000000.bin"), expected({"one", "two"}));
    EXPECT_MENTIONS(said,
                    "3 piece(s) of JSON that are broken, or lack what is read, were left out; the first: b.jsonl:2: "
                    "not valid JSON");
    // whatever the cutting: the error that comes first in the inputs
    write("z.txt", "\x1F\x8B\x08 packed");
    for (const char* chunk : {"1", "30", "1000000"})
        refused(string("b.jsonl z.txt --threads 3 --chunk-bytes ") + chunk, "b.jsonl:2: ");
    const CommandResult training = run("train --skip-bad -o w b.jsonl");
    EXPECT_EQ(training.exit_code, 0) << training.err;
    EXPECT_MENTIONS(training.err, "3 piece(s) of JSON");
}

TEST_F(TextInputs, WhatIsNoTextIsRefused) {
    const string zeros(40, '\0');
    const std::pair<string, string> cases[] = {
        {string("\xFF\xFEh\0i\0", 6), "is UTF-16"},
        {string("\xFF\xFE\0\0h\0\0\0", 8), "is UTF-32"},
        {string("h\0e\0l\0l\0o\0 \0", 12), "looks like UTF-16; use `iconv -f UTF-16LE"},
        {string("\0h\0e\0l\0l\0o", 10), "looks like UTF-16; use `iconv -f UTF-16BE"},
        {"BZh91AY&SY\x01\x02", "bzcat x"},
        {"\xFD\x37zXZ" + zeros, "xzcat x"},
        {"PK\x03\x04" + zeros, "ZIP archive"},
        {"PAR1\x15\x04\x15" + zeros, "Parquet"},
        {"%PDF-1.4\n%\xE2\xE3", "pdftotext x -"},
        {"\x89PNG\r\n\x1A\n", "an image"},
        {"\x7F"
         "ELF" +
             zeros,
         "a program"},
        {"name" + string(253, '\0') + "ustar", "tar -xOf x"},
        {"a text with a zero" + string(1, '\0'), "byte 18 is zero"},
        {"\xD0\xEF\xF0\xE8\xE2\xE5\xF2, \xEC\xE8\xF0", "is no text in UTF-8"},  // Windows-1251
    };
    for (const auto& [text, part] : cases) {
        write("x", text);
        refused("x --chunk-bytes 1", part);
        fs::create_directories(dir_ / "mixed");
        write("mixed/x", text);
        write("mixed/y.txt", "fine");
        EXPECT_MENTIONS(noted("mixed"), "1 file(s) that are no text were left out; the first: mixed/x ");
        EXPECT_EQ(ids("out/train_000000.bin"), expected({"fine"}));
    }
    for (const char* text :
         {"PAR1 is a word", "MZ too", "GIF89a as a title", "RIFF raff", "caf\xE9 cr\xE8me", "\x1B[1mbold\x1B[0m"})
        EXPECT_EQ(why_no_text(text, "x").what, "") << text;
    write("latin1.txt", "caf\xE9");
    EXPECT_MENTIONS(noted("mixed/y.txt - <latin1.txt"), "1 byte(s) of plain text are no UTF-8");
    write("mixed/only/x", string("\0", 1));
    const CommandResult nothing = run("encode --vocab v -o no mixed/only");
    EXPECT_EQ(nothing.exit_code, 1);
    EXPECT_MENTIONS(nothing.err, "error: mixed/only: no text in it");
}

TEST_F(TextInputs, ByteOrderMark) {
    write("m.txt", "\xEF\xBB\xBFwith a mark");
    expect_documents("m.txt m.txt", {"with a mark", "with a mark"});
}

TEST_F(TextInputs, OwnFilesAreNoText) {
    write("texts/a.txt", "one");
    good("encode --vocab v -o texts texts/a.txt");
    const string said = noted("texts");
    EXPECT_MENTIONS(said, "file(s) of data sets, vocabularies and runs were left out");
    expect_documents("texts", {"one"});
    refused("texts/vocab.json", "texts/vocab.json: is a file of a data set");
    refused("texts/train_000000.bin", "texts/train_000000.bin: is ");
    // a run beside texts, and a log.jsonl that is anybody's
    write("runs/log.jsonl", "{\"step\":1}\n");
    write("runs/step_00000010/trainer_state.json", "{}");
    write("runs/a.txt", "two");
    expect_documents("runs", {"two"});
    write("mine/log.jsonl", "{\"text\":\"three\"}\n");
    expect_documents("mine", {"three"});
    // the output in the inputs' directory, again and again
    for (int i = 0; i < 2; ++i) {
        good("train --force --vocab-size 260 -o again mine");
        write("again/b.txt", "four");
        run("encode --force --val-fraction 0 --vocab v -o again again");
        EXPECT_EQ(ids("again/train_000000.bin"), expected({"four"}));
    }
}

TEST_F(TextInputs, SeparatorsOfWindowsAndWithBlanks) {
    write("w.txt", "one\r\n\r\ntwo\r\n\r\n\r\nthree\r\n");
    expect_documents("--split-documents blanklines w.txt", {"one", "two", "three\r\n"});
    write("b.txt", " \n\none\n \n  two  \n\t\nthree\n \t");
    expect_documents("--split-documents blanklines b.txt", {"one", "  two  ", "three"});
    write("m.txt",
          string("one\r\n") + kEnd + "\r\n\r\ntwo \n  " + kEnd + "  \n  three" + kEnd + " four\r\n \r\n" + kEnd + " ");
    expect_documents("m.txt", {"one", "two ", "  three", " four"});
}

TEST(WrittenText, WithoutWhatProgramsPutAroundIt) {
    EXPECT_EQ(written_text("\xEF\xBB\xBFTo be\r\nor \r\n", "x"), "To be\nor");
    EXPECT_EQ(written_text("To be \n\n", "x"), "To be");
    EXPECT_EQ(written_text("def f():\n    ", "x"), "def f():\n    ");
    EXPECT_EQ(written_text(" \r\n", "x"), "");
    try {
        written_text(string("\xFF\xFEh\0", 4), "p.txt");
        FAIL();
    } catch (const Error& e) {
        EXPECT_MENTIONS(e.what(), "p.txt is UTF-16; `iconv");
    }
}
