// Training of a vocabulary.
#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include "llmc/text/bpe_trainer.h"
#include "test/tokenizer_test.h"

TEST(BpeTrainer, MergesTheMostFrequentPairs) {
    BpeTrainer trainer;
    PieceCounts counts;
    count_pieces("low low low low low lower lower newest newest newest newest newest newest widest widest widest",
                 counts);
    trainer.add(counts);
    EXPECT_EQ(counts.find(" low")->second, 4);
    EXPECT_EQ(counts.find("low")->second, 1);
    const Tokenizer tokenizer = trainer.train(264);
    EXPECT_EQ(tokenizer.vocab_size(), 264);
    EXPECT_EQ(tokenizer.end_of_text(), 263);
    Pieces made;
    for (int id = 256; id < 263; ++id) made.emplace_back(tokenizer.bytes(id));
    // "e s" and "s t" occur 9 times each, as do later pairs in other numbers: the smaller ids go first ("e w" before "n
    // e")
    EXPECT_EQ(made, (Pieces{"es", "est", "lo", "low", "ew", "new", " low"}));
}

TEST(BpeTrainer, MergesOfHuggingFaceOnTinyShakespeare) {
    if (!fs::exists(kShakespeare)) GTEST_SKIP() << kShakespeare << " is not here";
    TemporaryDirectory dir;
    BpeTrainer trainer;
    PieceCounts counts;
    count_pieces(read_text(kShakespeare), counts);
    trainer.add(counts);
    const Tokenizer tokenizer = trainer.train(2048);
    tokenizer.save(dir.path);
    const string merges = read_text(dir / "merges.txt");
    const auto fixture = nlohmann::json::parse(read_text(kFixture))["trained_2048"];
    const size_t first = merges.find('\n') + 1;
    EXPECT_EQ(static_cast<size_t>(std::count(merges.begin(), merges.end(), '\n')) - 1, fixture["merges"].get<size_t>());
    std::vector<uint8_t> lines(merges.begin() + static_cast<ptrdiff_t>(first), merges.end() - 1);
    EXPECT_EQ(fnv1a(lines), fixture["fnv1a"].get<string>());
    EXPECT_EQ(Tokenizer::load(dir.path).vocab_size(), 2048);
}

TEST(BpeTrainer, OrderAndPartsOfTheTextDoNotMatter) {
    std::mt19937 random(7);
    std::vector<string> texts;
    for (int i = 0; i < 50; ++i) texts.push_back(random_text(random, 100, true));
    const auto train = [&] {
        BpeTrainer trainer;
        for (const string& text : texts) {
            PieceCounts counts;
            const size_t cut = last_safe_cut(text);
            count_pieces(std::string_view(text).substr(0, cut), counts);
            count_pieces(std::string_view(text).substr(cut), counts);
            trainer.add(counts);
        }
        return trainer.train(400);
    };
    const Tokenizer first = train();
    std::shuffle(texts.begin(), texts.end(), random);
    const Tokenizer second = train();
    ASSERT_EQ(first.vocab_size(), second.vocab_size());
    for (int id = 0; id < first.vocab_size(); ++id) EXPECT_EQ(first.bytes(id), second.bytes(id));
}

// Each merge must be a pair that is the most frequent at that point, by counting everything anew.
TEST(BpeTrainer, EveryMergeIsTheMostFrequentPair) {
    std::mt19937 random(8);
    string text;
    for (int i = 0; i < 3000; ++i) text += std::array{"a", "b", "aa", "c", " ", "ab"}[random() % 6];
    PieceCounts counts;
    count_pieces(text, counts);
    BpeTrainer trainer;
    trainer.add(counts);
    const Tokenizer trained = trainer.train(300);
    ASSERT_GT(trained.vocab_size(), 270);
    std::vector<std::pair<int, int>> merges;
    for (int id = 256; id < trained.end_of_text(); ++id) {
        const Tokenizer so_far = Tokenizer::from_merges(merges);
        std::map<std::pair<int, int>, int64_t> pairs;
        for (const auto& [piece, count] : counts) {
            const std::vector<int> ids = encode_by_definition(so_far, merges, piece);
            for (size_t i = 0; i + 1 < ids.size(); ++i) pairs[{ids[i], ids[i + 1]}] += count;
        }
        auto best = pairs.begin();
        for (auto it = pairs.begin(); it != pairs.end(); ++it)
            if (it->second > best->second) best = it;  // ties: the first in order of ids
        const auto [left, right] = best->first;
        ASSERT_EQ(string(so_far.bytes(left)) + string(so_far.bytes(right)), trained.bytes(id)) << id;
        merges.push_back(best->first);
    }
}

TEST(BpeTrainer, SmallTextsGiveSmallVocabularies) {
    BpeTrainer trainer;
    PieceCounts counts;
    count_pieces("abc abd", counts);
    trainer.add(counts);
    const Tokenizer tokenizer = trainer.train(2048);
    EXPECT_EQ(tokenizer.vocab_size(), 258);  // "ab", the only pair that occurs twice
    EXPECT_EQ(tokenizer.bytes(256), "ab");
    EXPECT_EQ(BpeTrainer().train(300).vocab_size(), 257);
    EXPECT_EQ(trainer.train(257).vocab_size(), 257);
    EXPECT_THROW(trainer.train(256), UsageError);
}

TEST(BpeTrainer, MemoryIsBounded) {
    BpeTrainer trainer(1000);
    PieceCounts counts;
    for (int i = 0; i < 5000; ++i) counts["word" + std::to_string(i)] = i < 100 ? 50 : 1;
    trainer.add(counts);
    EXPECT_EQ(trainer.pieces(), 100);
    EXPECT_EQ(trainer.dropped(), 4900);
}

namespace {

// A vocabulary of `old_text`, and it extended by `text`.
struct Extended {
    PieceCounts counts;
    Tokenizer old = Tokenizer::from_merges({}), now = Tokenizer::from_merges({});
    Extended(const string& old_text, int old_size, const string& text, int size) {
        BpeTrainer first, then;
        count_pieces(old_text, counts);
        first.add(counts), counts.clear();
        old = first.train(old_size);
        count_pieces(text, counts);
        then.add(counts);
        now = then.extend(old, size);
    }
};

string repeated(const string& text, int n) {
    string all;
    for (int i = 0; i < n; ++i) all += text;
    return all;
}

}  // namespace

TEST(BpeTrainer, ExtendsWithOldIdsAndMergesKept) {
    const Extended v(repeated("the cat and the dog are here. ", 20), 270, repeated("die Katze und der Hund da. ", 30),
                     280);
    ASSERT_EQ(v.old.vocab_size(), 270);
    ASSERT_EQ(v.now.vocab_size(), 280);
    EXPECT_EQ(v.now.end_of_text(), v.old.end_of_text());
    for (int id = 0; id < 270; ++id) EXPECT_EQ(v.now.bytes(id), v.old.bytes(id)) << id;
    EXPECT_TRUE(v.now.extends(v.old));
    EXPECT_TRUE(v.old.extends(v.old));
    EXPECT_FALSE(v.old.extends(v.now));
    EXPECT_FALSE(Extended(repeated("the cat and a dog is there. ", 20), 270, "a", 271).old.extends(v.old));
    TemporaryDirectory dir;
    v.now.save(dir.path);
    EXPECT_TRUE(Tokenizer::load(dir.path).same(v.now));
    // New words are found in text, an old one's ids change where a new word holds them only.
    std::vector<int> before, after;
    v.old.encode(" Katze", before), v.now.encode(" Katze", after);
    EXPECT_GT(before.size(), after.size());
    EXPECT_EQ(v.now.decode(after), " Katze");
}

// As EveryMergeIsTheMostFrequentPair, from where the old merges end, among the pairs that make a new word.
TEST(BpeTrainer, EveryMergeOfAnExtensionIsTheMostFrequentPair) {
    std::mt19937 random(9);
    const auto text = [&](const std::vector<string>& bits) {
        string all;
        for (int i = 0; i < 3000; ++i) all += bits[random() % bits.size()];
        return all;
    };
    Extended v(text({"a", "b", "aa", "c", " ", "ab"}), 300, text({"a", "ca", "bc", "d", " ", "dd", "aab"}), 330);
    ASSERT_EQ(v.now.vocab_size(), 330);
    TemporaryDirectory dir;
    v.now.save(dir.path);
    std::map<string, int> ids;
    for (int id = 0; id < 330; ++id) ids[string(v.now.bytes(id))] = id;
    std::vector<std::pair<int, int>> merges;
    std::ifstream file(dir / "merges.txt");
    for (string line; std::getline(file, line);)  // of letters, whose spelling is their own, and the space's
        if (const size_t space = line.find(' '); line[0] != '#') {
            string pair[2] = {line.substr(0, space), line.substr(space + 1)};
            for (string& side : pair)
                for (size_t at; (at = side.find("\u0120")) != string::npos;) side.replace(at, 2, " ");
            merges.emplace_back(ids.at(pair[0]), ids.at(pair[1]));
        }
    ASSERT_EQ(merges.size(), 330u - 257);
    for (size_t n = 300 - 257; n < merges.size(); ++n) {
        std::map<std::pair<int, int>, int64_t> pairs;
        const std::vector<std::pair<int, int>> so_far(merges.begin(), merges.begin() + static_cast<ptrdiff_t>(n));
        for (const auto& [piece, count] : v.counts) {
            std::vector<int> symbols;
            for (char c : piece) symbols.push_back(ids.at(string(1, c)));
            for (const auto& [left, right] : so_far) {
                std::vector<int> joined;
                for (size_t i = 0; i < symbols.size(); ++i) {
                    const bool both = i + 1 < symbols.size() && symbols[i] == left && symbols[i + 1] == right;
                    joined.push_back(both ? ids.at(string(v.now.bytes(left)) + string(v.now.bytes(right)))
                                          : symbols[i]);
                    i += both;
                }
                symbols = joined;
            }
            for (size_t i = 0; i + 1 < symbols.size(); ++i) {
                const auto old = ids.find(string(v.now.bytes(symbols[i])) + string(v.now.bytes(symbols[i + 1])));
                if (old == ids.end() || old->second >= 300) pairs[{symbols[i], symbols[i + 1]}] += count;
            }
        }
        auto best = pairs.begin();
        for (auto it = pairs.begin(); it != pairs.end(); ++it)
            if (it->second > best->second) best = it;
        ASSERT_EQ(best->first, merges[n]) << n;
    }
}

// A word that text would become a special token by is never made.
TEST(BpeTrainer, AnExtensionMakesNoSpecialToken) {
    TemporaryDirectory dir;
    Tokenizer::from_merges({}).save(dir.path);
    std::ofstream(dir / "added_tokens.json") << R"({"MASK": 257})";
    const Tokenizer old = Tokenizer::load(dir.path);
    ASSERT_EQ(old.vocab_size(), 258);
    BpeTrainer trainer;
    PieceCounts counts;
    count_pieces("MASK MASK MASK MASK", counts);
    trainer.add(counts);
    const Tokenizer now = trainer.extend(old, 300);
    std::vector<int> ids;
    now.encode("MASK", ids);
    EXPECT_GT(ids.size(), 1u);
    EXPECT_EQ(now.decode(ids), "MASK");
    ids.clear();
    now.encode_with_special("MASK", ids);
    EXPECT_EQ(ids, std::vector<int>{257});
}
