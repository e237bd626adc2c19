// The plots: panels, several runs in one picture, and the command. Any entries at all: test_log.cpp.
#include "llmc/run/plot.h"
#include "program_fixture.h"

namespace {

std::vector<LogEntry> log_of(int steps, bool all, double loss = 4) {
    std::vector<LogEntry> entries;
    for (int step = 1; step <= steps; step++) {
        LogEntry e;
        e.step = step, e.loss = loss + 1.0 / step;
        if (all) e.lr = 1e-3 / step, e.grad_norm = step == 3 ? 0 : 1.0 / step;
        entries.push_back(e);
        if (all && step % 10 == 0) {
            LogEntry v;
            v.step = step, v.val_loss = 5, v.hellaswag = 0.25 + step * 1e-3;
            entries.push_back(v);
        }
    }
    return entries;
}
int count(const std::string& text, const std::string& what) {
    int n = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) n++;
    return n;
}

class Plot : public Program {
  protected:
    void log(const std::string& run, int steps, const std::string& more = "") {
        fs::create_directories(dir / run);
        std::ofstream out(dir / run + "/log.jsonl");
        for (int step = 1; step <= steps; step++) out << "{\"step\":" << step << ",\"loss\":" << 5.0 / step << "}\n";
        out << more;
    }
};

}  // namespace

TEST(PlotPanels, AreThoseOfWhichTheLogHasSomething) {
    const std::string all = plot_svg("all", {{"all", log_of(40, true)}}),
                      some = plot_svg("some", {{"some", log_of(40, false)}});
    for (const char* label : {">learning rate<", ">gradient norm<", ">score<", ">HellaSwag<"}) {
        EXPECT_EQ(count(all, label), 1) << label;
        EXPECT_EQ(count(some, label), 0) << label;
    }
    EXPECT_EQ(count(all, ">loss (nats per token)<"), 1);
    EXPECT_EQ(count(all, ">step<"), 1) << "the panels share an axis";
    EXPECT_EQ(count(all, "<polyline"), 3 + 1 + 2 + 1);
    EXPECT_EQ(count(all, "nan") + count(all, "inf"), 0) << "a norm of 0 has no logarithm";
    EXPECT_NE(all.find("height=\"914\""), std::string::npos) << all.substr(0, 300);
    EXPECT_NE(some.find("height=\"500\""), std::string::npos);
    EXPECT_NE(all.find(">0.001<"), std::string::npos) << "the highest learning rate has a line";
}

TEST(PlotPanels, OfSeveralRunsEachHasAColour) {
    const std::string svg = plot_svg("2 runs", {{"long & <thin>", log_of(40, true)}, {"b", log_of(20, false, 3)}});
    EXPECT_EQ(count(svg, ">long &amp; &lt;thin&gt;: 4.025"), 1);
    EXPECT_EQ(count(svg, ", validation 5.0000<"), 1);
    EXPECT_EQ(count(svg, ">b: 3.05"), 1);
    EXPECT_EQ(count(svg, "stroke-dasharray"), 1) << "one validation";
    EXPECT_EQ(count(svg, "<polyline"), 2 + 1 + 1 + 1 + 1);
    EXPECT_EQ(count(svg, "#d1495b"), 2) << "the second run's line and legend";
}

TEST_F(Plot, RunsInOnePicture) {
    log("runs/a", 5);
    log("runs/b", 9, "rubbish\n{\"step\":9,\"val_loss\":1.5}\n{\"step\":10,\"lo");
    log("other/a", 3);
    expect_good(gpt2("plot runs/a runs/b/log.jsonl other/a -o c.svg"));
    const std::string svg = file("c.svg");
    for (const char* part : {">3 runs<", ">a: 1.", ">b: 0.", "validation 1.5000", ">other/a: 1."})
        EXPECT_EQ(count(svg, part), 1) << part;
    expect_good(gpt2("plot runs/a --output c.svg"));  // a picture may be drawn again
    EXPECT_EQ(count(file("c.svg"), "training loss, smoothed"), 1);
}

TEST_F(Plot, WhatIsNoRun) {
    log("a", 2);
    log("empty", 0, "rubbish\n");
    expect_one_error(gpt2("plot a none -o c.svg"), 2, "none is no run: there is no none");
    expect_one_error(gpt2("plot data -o c.svg"), 2, "there is no data/log.jsonl");
    expect_one_error(gpt2("plot empty -o c.svg"), 1, "empty/log.jsonl has no line of a log");
    expect_one_error(gpt2("plot -o c.svg"), 2, "plot takes 1 to 8 runs, not 0");
    expect_one_error(gpt2("plot a a a a a a a a a -o c.svg"), 2, "not 9");
    expect_one_error(gpt2("plot a -o a/log.jsonl"), 2, "a file that ends in .svg");
    expect_one_error(gpt2("plot a --outptu c.svg"), 2, "did you mean --output");
    expect_one_error(gpt2("plot a -o no/where/c.svg"), 1, "no/where/c.svg");
    EXPECT_FALSE(fs::exists(dir / "c.svg"));
}
