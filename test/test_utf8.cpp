// Text that comes in pieces, given on as whole characters.
#include "llmc/text/utf8.h"
#include "test/tokenizer_test.h"

TEST(Utf8Stream, HoldsBackUnfinishedCharacters) {
    const string text = "a\u00e9\u65e5\U0001F600z";
    for (size_t step = 1; step <= 4; ++step) {
        Utf8Stream stream;
        string out;
        for (size_t at = 0; at < text.size(); at += step) {
            out += stream.push(std::string_view(text).substr(at, step));
            ASSERT_EQ(text.compare(0, out.size(), out), 0);
            ASSERT_TRUE(out.size() == text.size() || (text[out.size()] & 0xC0) != 0x80);  // whole characters only
        }
        EXPECT_EQ(out, text);
        EXPECT_EQ(stream.flush(), "");
    }
}

TEST(Utf8Stream, BadBytesBecomeReplacementCharacters) {
    const auto all = [](std::string_view bytes) {
        Utf8Stream whole, single;
        string a = whole.push(bytes), b;
        a += whole.flush();
        for (char c : bytes) b += single.push(std::string_view(&c, 1));
        b += single.flush();
        EXPECT_EQ(a, b);
        return a;
    };
    const string r = "\uFFFD";
    EXPECT_EQ(all("\xE6\x97"), r);  // unfinished at the end
    EXPECT_EQ(all("a\xFFz"), "a" + r + "z");
    EXPECT_EQ(all("\xE6\x97z"), r + "z");
    EXPECT_EQ(all("\x80\x80"), r + r);
    // The Unicode Standard's own examples (16.0, tables 3-8 to 3-11)
    EXPECT_EQ(all("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
    EXPECT_EQ(all("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
    EXPECT_EQ(all("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
    EXPECT_EQ(all("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}
