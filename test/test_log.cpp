#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include "llmc/base/error.h"
#include "llmc/run/log.h"
#include "llmc/run/plot.h"

namespace {

struct RunLogTest : ::testing::Test {
    std::string dir;
    void SetUp() override {
        char name[] = "/tmp/test_log.XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        dir = name;
    }
    void TearDown() override { std::filesystem::remove_all(dir); }
    std::string read(const std::string& name) {
        std::ifstream in(dir + "/" + name, std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }
};

LogEntry entry(int64_t step, double loss) {
    LogEntry e;
    e.step = step, e.loss = loss;
    return e;
}

size_t count(const std::string& text, const std::string& part) {
    size_t n = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) n++;
    return n;
}

// Every tag of an SVG is closed, in order (it has no comments and no ">" in attributes).
void expect_well_formed(const std::string& svg) {
    std::vector<std::string> open;
    for (size_t at = 0; (at = svg.find('<', at)) != std::string::npos;) {
        const size_t end = svg.find('>', at);
        ASSERT_NE(end, std::string::npos);
        const std::string tag = svg.substr(at + 1, end - at - 1);
        if (tag[0] == '/') {
            ASSERT_FALSE(open.empty());
            EXPECT_EQ(open.back(), tag.substr(1));
            open.pop_back();
        } else if (tag.back() != '/') open.push_back(tag.substr(0, tag.find(' ')));
        at = end;
    }
    EXPECT_TRUE(open.empty());
    for (const char* bad : {"nan", "inf", "<script"}) EXPECT_EQ(svg.find(bad), std::string::npos) << bad;
}

}  // namespace

TEST_F(RunLogTest, LinesAreJsonAndOnDiskAtOnce) {
    RunLog log(dir + "/new/run", 0);  // the directory is made
    LogEntry e = entry(3, 4.125);
    e.grad_norm = 0.1, e.lr = 3e-4, e.ms = 12.5, e.tok_s = 4567, e.mfu = 0.25;
    log.write(e);
    EXPECT_EQ(read("new/run/log.jsonl"),
              "{\"step\":3,\"loss\":4.125,\"grad_norm\":0.1,\"lr\":3e-04,\"ms\":12.5,\"tok_s\":4567,\"mfu\":0.25}\n");
    LogEntry bad = entry(4, std::nan(""));
    bad.grad_norm = HUGE_VAL, bad.skipped = true;
    log.write(bad);
    LogEntry validation;
    validation.step = 4, validation.val_loss = 3.5, validation.hellaswag = 0.3;
    log.write(validation);
    const std::string text = read("new/run/log.jsonl");
    EXPECT_NE(text.find("{\"step\":4,\"loss\":null,\"grad_norm\":null,\"skipped\":true}\n"), std::string::npos) << text;
    EXPECT_NE(text.find("{\"step\":4,\"val_loss\":3.5,\"hellaswag\":0.3}\n"), std::string::npos) << text;
    EXPECT_EQ(log.entries().size(), 3u);
}

TEST_F(RunLogTest, ResumeCutsWhatCameAfterTheCheckpoint) {
    const double exact = 0.1 + 0.2;
    {
        RunLog log(dir, 0);
        for (int step = 1; step <= 10; step++) log.write(entry(step, step == 3 ? std::nan("") : exact * step));
    }
    std::ofstream(dir + "/log.jsonl", std::ios::app) << "{\"step\":11,\"lo";  // torn
    {
        RunLog log(dir, 6);
        ASSERT_EQ(log.entries().size(), 6u);
        EXPECT_EQ(*log.entries()[4].loss, exact * 5);
        EXPECT_TRUE(std::isnan(*log.entries()[2].loss));
        EXPECT_EQ(count(read("log.jsonl"), "\n"), 6u);
        log.write(entry(7, 1));
        EXPECT_EQ(log.entries().size(), 7u);
    }
    EXPECT_EQ(count(read("log.jsonl"), "\n"), 7u);
    EXPECT_NE(read("log.jsonl").find("{\"step\":7,\"loss\":1}\n"), std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(dir + "/log.jsonl.tmp"));

    // A torn line, complete but for its newline, or rubbish in the middle.
    std::ofstream(dir + "/log.jsonl")
        << "{\"step\":1,\"loss\":2}\nrubbish\n{\"loss\":1}\n[1]\n{\"step\":2,\"loss\":\"x\"}\n{\"step\":2,\"loss\":2}";
    RunLog log(dir, 100);
    ASSERT_EQ(log.entries().size(), 2u);
    EXPECT_EQ(read("log.jsonl"), "{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":2}\n");
    // Steps and numbers of steps that no run has take no time and no memory.
    for (const char* nonsense :
         {"{\"step\":1,\"repeats\":[[0,9223372036854775807,1]]}", "{\"step\":1000000000000000000,\"loss\":1}",
          "{\"step\":-1,\"loss\":1}", "{\"step\":18446744073709551615}"})
        std::ofstream(dir + "/log.jsonl", std::ios::app) << "\n" << nonsense;
    RunLog same(dir, INT64_MAX, 60, 60);
    EXPECT_EQ(same.entries().size(), 2u);
    EXPECT_LE(same.repeats().size(), size_t{1} << 20);
    // A run that starts afresh has a fresh log.
    RunLog fresh(dir, 0);
    EXPECT_TRUE(fresh.entries().empty());
    EXPECT_EQ(read("log.jsonl"), "");
}

TEST_F(RunLogTest, ResumeWithoutALogStartsOne) {
    RunLog log(dir + "/empty", 50);
    log.write(entry(51, 2));
    EXPECT_EQ(read("empty/log.jsonl"), "{\"step\":51,\"loss\":2}\n");
}

TEST_F(RunLogTest, NoOutputWritesNothing) {
    RunLog log("", 0);
    log.write(entry(1, 2));
    log.write_plot();
    EXPECT_EQ(log.entries().size(), 1u);
}

// What is not vital ends no run.
template <typename Body>
void expect_warning(Body body, const std::string& says) {
    testing::internal::CaptureStderr();
    EXPECT_NO_THROW(body());
    const std::string warning = testing::internal::GetCapturedStderr();
    EXPECT_EQ(count(warning, "warning: "), 1u) << warning;
    EXPECT_EQ(count(warning, says), 1u) << warning;
}

TEST_F(RunLogTest, LinesThatCannotBeWrittenAreLostAlone) {
    RunLog log(dir, 0);
    for (int step = 1; step <= 100; step++) log.write(entry(step, 2));  // more bytes than the warning has
    rlimit before{}, tight{};
    getrlimit(RLIMIT_FSIZE, &before);
    tight = {read("log.jsonl").size() + 9, before.rlim_max};  // room for the beginning of a line
    auto handler = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &tight);
    expect_warning([&] { log.write(entry(101, 3)); }, "training goes on without the line of step 101");
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    log.write(entry(102, 4));
    RunLog resumed(dir, 102);
    ASSERT_EQ(resumed.entries().size(), 101u);
    EXPECT_EQ(resumed.entries().back().step, 102);
}

TEST_F(RunLogTest, WhatCannotBeWrittenIsAnError) {
    std::ofstream(dir + "/file") << "x";
    try {
        RunLog log(dir + "/file/run", 0);
        FAIL();
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("--output"), std::string::npos) << e.what();
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    }
    EXPECT_THROW(RunLog(dir + "/file", 0), Error);
    std::filesystem::create_directories(dir + "/log/log.jsonl/x");
    EXPECT_THROW(RunLog(dir + "/log", 0), Error);
    std::filesystem::create_directories(dir + "/plot/loss.svg/x");
    RunLog log(dir + "/plot", 0);
    expect_warning([&] { log.write_plot(); }, "the plot was not written");
    EXPECT_FALSE(std::filesystem::exists(dir + "/plot/loss.svg.tmp"));
    // A link in the place of the file that is written first leads nowhere.
    std::filesystem::create_directories(dir + "/full");
    std::ofstream(dir + "/victim") << "precious";
    std::filesystem::create_symlink(dir + "/victim", dir + "/full/loss.svg.tmp");
    RunLog full(dir + "/full", 0);
    full.write_plot();
    EXPECT_EQ(read("victim"), "precious");
    EXPECT_TRUE(std::filesystem::remove(dir + "/full/loss.svg"));
    // As on a full disk: a file may not grow beyond 600 bytes.
    rlimit before{}, little{600, RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &before);
    little.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &little);
    expect_warning([&] { full.write_plot(); }, "the plot was not written");
    setrlimit(RLIMIT_FSIZE, &before);
    for (const char* name : {"loss.svg", "loss.svg.tmp"}) EXPECT_FALSE(std::filesystem::exists(dir + "/full/" + name));
}

TEST_F(RunLogTest, HumanLines) {
    testing::internal::CaptureStdout();
    {
        RunLog log("", 0);
        LogEntry e = entry(3, 4.123456);
        e.grad_norm = 1.2345, e.lr = 3e-4, e.ms = 123.45, e.tok_s = 4567.2;
        log.print_step(e, 100);
        e.skipped = true, e.mfu = 0.415;
        log.print_step(e, 0);
        log.progress("training", 5, 10, 60);  // standard output is a file here: no progress line
        log.print("done");
    }
    EXPECT_EQ(testing::internal::GetCapturedStdout(),
              "step 3/100 | loss 4.123456 | norm 1.2345 | lr 3.00e-04 | 123.45 ms | 4,567 tok/s\n"
              "step 3 | loss 4.123456 | norm 1.2345 | lr 3.00e-04 | 123.45 ms | 4,567 tok/s | mfu 41.5% | skipped\n"
              "done\n");
}

TEST(LossPlot, AnyEntries) {
    std::vector<LogEntry> entries;
    expect_well_formed(plot_svg("none", {{"", entries}}));
    EXPECT_NE(plot_svg("none", {{"", entries}}).find("no losses yet"), std::string::npos);

    entries.push_back(entry(1, 10.8));
    const std::string one = plot_svg("one", {{"", entries}});
    expect_well_formed(one);
    EXPECT_EQ(count(one, "<circle"), 1u);
    EXPECT_EQ(count(one, "<polyline"), 0u);

    entries.push_back(entry(2, std::nan("")));
    entries.push_back(entry(3, HUGE_VAL));
    expect_well_formed(plot_svg("not finite", {{"", entries}}));

    for (double constant : {0.0, 3.0, -1e9, 1e-30}) {
        std::vector<LogEntry> flat;
        for (int step = 1; step <= 7; step++) flat.push_back(entry(step, constant));
        expect_well_formed(plot_svg("constant", {{"", flat}}));
    }
    const std::vector<LogEntry> sane{entry(1, 2), entry(2, 1)};
    std::vector<LogEntry> huge = sane;
    huge.push_back(entry(3, 1e300)), huge.push_back(entry(4, -1.7e308));
    EXPECT_EQ(plot_svg("huge", {{"", huge}}), plot_svg("huge", {{"", sane}})) << "what no axis has is left out";
    std::vector<LogEntry> validations(1);
    validations[0].step = 1000000, validations[0].val_loss = 3.25;
    const std::string validation = plot_svg("only a validation", {{"", validations}});
    expect_well_formed(validation);
    EXPECT_NE(validation.find("validation loss: 3.2500"), std::string::npos);
    EXPECT_NE(validation.find("1,000,000"), std::string::npos);  // a label of the axis
    EXPECT_EQ(validation.find("training loss"), std::string::npos);
}

TEST(LossPlot, AMillionStepsAreThinnedOutAndKeepTheirSpikes) {
    std::vector<LogEntry> entries;
    for (int step = 1; step <= 1000000; step++) {
        entries.push_back(entry(step, step == 654321 ? 20.0 : 3 + 7 * std::exp(-step / 1e5)));
        if (step % 50000 == 0) entries.push_back({}), entries.back().step = step, entries.back().val_loss = 4;
    }
    const std::string svg = plot_svg("long", {{"", entries}});
    expect_well_formed(svg);
    EXPECT_LT(svg.size(), 60000u);
    EXPECT_EQ(count(svg, "<circle"), 20u);
    EXPECT_EQ(count(svg, "<polyline"), 3u);
    // The spike is the highest point: it lies 5% of the range below the upper edge, at y = 48.
    const size_t raw = svg.find("<polyline");
    const std::string points = svg.substr(raw, svg.find("/>", raw) - raw);
    double highest = 1e9;
    std::istringstream in(points.substr(points.find("points=\"") + 8));
    for (std::string pair; in >> pair;) highest = std::min(highest, std::stod(pair.substr(pair.find(',') + 1)));
    EXPECT_GT(highest, 48.0);
    EXPECT_LT(highest, 70.0);
}

TEST(LossPlot, TitleIsEscaped) {
    const std::string svg = plot_svg("<script>&\"x\"\x01 \xff \xc3\xa9", {{"", {}}});
    expect_well_formed(svg);
    EXPECT_NE(svg.find("&lt;script&gt;&amp;&quot;x&quot; \xef\xbf\xbd \xc3\xa9<"), std::string::npos) << svg;
}

TEST(Human, Numbers) {
    EXPECT_EQ(human_seconds(0), "0 s");
    EXPECT_EQ(human_seconds(42.3), "42 s");
    EXPECT_EQ(human_seconds(59.6), "1 min 0 s");
    EXPECT_EQ(human_seconds(200), "3 min 20 s");
    EXPECT_EQ(human_seconds(3599.7), "1 h 0 min");
    EXPECT_EQ(human_seconds(5 * 3600 + 12 * 60), "5 h 12 min");
    EXPECT_EQ(human_seconds(86399), "1 d 0 h");
    EXPECT_EQ(human_seconds(2 * 86400 + 3 * 3600), "2 d 3 h");
    EXPECT_EQ(human_seconds(-1), "0 s");
    EXPECT_EQ(human_seconds(std::nan("")), "?");
    EXPECT_EQ(human_count(0), "0");
    EXPECT_EQ(human_count(999), "999");
    EXPECT_EQ(human_count(1000), "1,000");
    EXPECT_EQ(human_count(1234567), "1,234,567");
    EXPECT_EQ(human_count(-123456), "-123,456");
    EXPECT_EQ(human_count(INT64_MIN), "-9,223,372,036,854,775,808");
    EXPECT_EQ(human_bytes(512), "512 B");
    EXPECT_EQ(human_bytes(1.234e9), "1.23 GB");
    EXPECT_EQ(human_bytes(999.9996e3), "1.00 MB");
    EXPECT_EQ(human_bytes(1e20), "100000.00 PB");
}
