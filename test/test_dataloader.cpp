#include <gtest/gtest.h>
#include <stdlib.h>
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include "llmc/text/dataloader.h"
#include "llmc/base/error.h"

namespace {

// Shards whose tokens tell where they stand: token i of shard s is s * 1000 + i % 1000 (of a vocabulary of 50,000).
struct DataLoaderTest : ::testing::Test {
    std::string dir;
    void SetUp() override {
        char name[] = "/tmp/test_dataloader.XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        dir = name;
    }
    void TearDown() override { std::filesystem::remove_all(dir); }

    std::vector<std::string> write(const std::vector<int64_t>& sizes) {
        std::vector<std::string> paths;
        for (size_t s = 0; s < sizes.size(); s++) {
            paths.push_back(dir + strf("/train_%03zu.bin", s));
            std::vector<int> ids;
            for (int64_t i = 0; i < sizes[s]; i++) ids.push_back(token(static_cast<int>(s), i));
            ShardWriter writer(paths.back(), 50000);
            writer.write(ids.data(), sizes[s]);
            writer.close();
        }
        return paths;
    }
    static int token(int shard, int64_t i) { return shard * 1000 + static_cast<int>(i % 1000); }
};

std::vector<std::pair<int, int64_t>> order(const DataLoader& loader, int64_t first, int64_t n) {
    std::vector<std::pair<int, int64_t>> places;
    for (int64_t i = first; i < first + n; i++) {
        int shard = -1;
        int64_t offset = -1;
        dynamic_cast<const Windows&>(loader.rows()).locate(i, &shard, &offset);
        places.emplace_back(shard, offset);
    }
    return places;
}

}  // namespace

TEST_F(DataLoaderTest, EveryEpochIsAPermutationOfAllWindows) {
    const int T = 5;
    // Tokens of each shard: 1 window, windows at prime counts, exactly full, one token over, and too short ones.
    for (const std::vector<int64_t>& sizes :
         std::vector<std::vector<int64_t>>{{6},
                                           {10},
                                           {11},
                                           {5 * 7 + 1},
                                           {5 * 101 + 3},
                                           {6, 6},
                                           {5 * 13 + 1, 5 * 3 + 1, 5, 1, 5 * 64 + 1, 6, 5 * 257 + 5}}) {
        const auto paths = write(sizes);
        std::vector<std::pair<int, int64_t>> all;
        int kept = 0;
        for (int64_t size : sizes) {
            if (size <= T) continue;
            for (int64_t w = 0; w < (size - 1) / T; w++) all.emplace_back(kept, w * T);
            kept++;
        }
        for (bool shuffle : {false, true}) {
            DataLoader loader(paths, T, 50000, shuffle, 42);
            ASSERT_EQ(loader.samples_per_epoch(), static_cast<int64_t>(all.size()));
            for (int64_t epoch = 0; epoch < 5; epoch++) {
                auto places = order(loader, epoch * loader.samples_per_epoch(), loader.samples_per_epoch());
                if (!shuffle) {
                    EXPECT_EQ(places, all);
                }
                std::sort(places.begin(), places.end());
                EXPECT_EQ(places, all) << "epoch " << epoch;
            }
        }
    }
}

TEST_F(DataLoaderTest, OrderDependsOnSeedAndEpochAlone) {
    const auto paths = write({5 * 90 + 1, 5 * 71 + 2, 5 * 33 + 1});
    DataLoader a(paths, 5, 50000, true, 1), same(paths, 5, 50000, true, 1), other(paths, 5, 50000, true, 2);
    const int64_t n = a.samples_per_epoch();
    const auto first = order(a, 0, n), second = order(a, n, n);
    EXPECT_EQ(first, order(same, 0, n));
    EXPECT_EQ(second, order(same, n, n));
    EXPECT_NE(first, second);
    EXPECT_NE(first, order(other, 0, n));
    // Few windows stay where they were: about one in n would by chance.
    for (const auto& b : {second, order(other, 0, n)}) {
        int equal = 0;
        for (size_t i = 0; i < first.size(); i++) equal += first[i] == b[i];
        EXPECT_LT(equal, 12);
    }
    // Large seeds and 2^32 apart are different, too.
    DataLoader high(paths, 5, 50000, true, 1 + (uint64_t{1} << 32));
    EXPECT_NE(first, order(high, 0, n));
}

TEST_F(DataLoaderTest, SmallPermutationsReachEveryOrder) {
    const auto paths = write({6, 6, 6});  // one window each: the order of the shards
    DataLoader loader(paths, 5, 50000, true, 7);
    std::map<std::vector<std::pair<int, int64_t>>, int> seen;
    for (int64_t epoch = 0; epoch < 1200; epoch++) seen[order(loader, 3 * epoch, 3)]++;
    EXPECT_EQ(seen.size(), 6u);
    for (const auto& [places, count] : seen) EXPECT_NEAR(count, 200, 70);  // 5 standard deviations

    const auto one = write({5 * 4 + 1});  // four windows of one shard: 24 orders
    DataLoader windows({one[0]}, 5, 50000, true, 7);
    std::map<std::vector<std::pair<int, int64_t>>, int> orders;
    for (int64_t epoch = 0; epoch < 2400; epoch++) orders[order(windows, 4 * epoch, 4)]++;
    EXPECT_EQ(orders.size(), 24u);
    for (const auto& [places, count] : orders) EXPECT_NEAR(count, 100, 60);
}

TEST_F(DataLoaderTest, TargetsAreInputsShiftedByOne) {
    const int T = 7;
    const auto paths = write({7 * 20 + 3, 3, 7 * 11 + 1});
    const int original[] = {0, 2};  // shard 1 is too short
    for (bool shuffle : {false, true}) {
        DataLoader loader(paths, T, 50000, shuffle, 3);
        const int n = 70;  // more than two epochs
        const Batch& batch = loader.load(0, n);
        ASSERT_EQ(batch.sequences, n);
        ASSERT_EQ(batch.T, T);
        ASSERT_EQ(batch.inputs.size(), static_cast<size_t>(n * T));
        ASSERT_EQ(batch.targets.size(), static_cast<size_t>(n * T));
        const auto places = order(loader, 0, n);
        for (int b = 0; b < n; b++)
            for (int t = 0; t < T; t++) {
                const auto [shard, offset] = places[static_cast<size_t>(b)];
                EXPECT_EQ(batch.inputs[static_cast<size_t>(b * T + t)], token(original[shard], offset + t));
                EXPECT_EQ(batch.targets[static_cast<size_t>(b * T + t)], token(original[shard], offset + t + 1));
            }
    }
}

TEST_F(DataLoaderTest, PositionIsAllThereIs) {
    const auto paths = write({4 * 50 + 1, 4 * 23 + 1});
    DataLoader straight(paths, 4, 50000, true, 9), jumping(paths, 4, 50000, true, 9);
    std::vector<int> whole = straight.load(0, 200).inputs;
    for (int first : {0, 64, 60, 72, 73, 146, 199, 1}) {
        const Batch& part = jumping.load(first, 1);
        EXPECT_EQ(part.first, first);
        EXPECT_TRUE(std::equal(part.inputs.begin(), part.inputs.end(), whole.begin() + first * 4)) << first;
    }
    // Two ranks that take turns see what one sees.
    for (int first = 0; first < 192; first += 8) {
        std::vector<int> both = jumping.load(first, 4).inputs;
        const std::vector<int>& second = jumping.load(first + 4, 4).inputs;
        both.insert(both.end(), second.begin(), second.end());
        EXPECT_TRUE(std::equal(both.begin(), both.end(), whole.begin() + first * 4)) << first;
    }
}

TEST_F(DataLoaderTest, ReadingAheadChangesNothing) {
    const auto paths = write({4 * 50 + 1, 4 * 23 + 1});
    DataLoader ahead(paths, 4, 50000, true, 9), plain(paths, 4, 50000, true, 9);
    for (int64_t step = 0; step < 60; step++) {
        const Batch &a = ahead.load(5 * step, 5, 5 * (step + 1)), &b = plain.load(5 * step, 5);
        ASSERT_EQ(a.inputs, b.inputs);
        ASSERT_EQ(a.targets, b.targets);
        ASSERT_EQ(a.first, b.first);
    }
    // What was read ahead is not what is asked for: another place, another size.
    EXPECT_EQ(ahead.load(2, 5, 500).inputs, plain.load(2, 5).inputs);
    EXPECT_EQ(ahead.load(500, 3, 7).inputs, plain.load(500, 3).inputs);
    EXPECT_EQ(ahead.load(9, 3, 12).inputs, plain.load(9, 3).inputs);
    // (and the destructor of `ahead` waits for the last one)
}

TEST_F(DataLoaderTest, OrderOfTheListAndRepeatsDoNotMatter) {
    auto paths = write({5 * 9 + 1, 5 * 7 + 1, 5 * 4 + 1});
    DataLoader sorted(paths, 5, 50000, true, 1);
    DataLoader mixed({paths[2], paths[0], paths[1], paths[0],
                      dir + "/../" + std::filesystem::path(dir).filename().string() + "/train_002.bin"},
                     5, 50000, true, 1);
    EXPECT_EQ(mixed.samples_per_epoch(), 20);
    EXPECT_EQ(mixed.rows().tokens(), 5 * 20 + 3);
    EXPECT_EQ(sorted.load(0, 40).inputs, mixed.load(0, 40).inputs);
}

TEST_F(DataLoaderTest, TooShortMissingOrBadShardsAreErrors) {
    const auto paths = write({5, 3});
    auto message = [&](const std::vector<std::string>& shards, int T, int vocab) -> std::string {
        try {
            DataLoader loader(shards, T, vocab, true, 1);
        } catch (const Error& e) {
            return e.what();
        }
        return "";
    };
    EXPECT_EQ(message(paths, 4, 50000), "");
    const std::string short_message = message(paths, 5, 50000);
    EXPECT_NE(short_message.find("--seq-len 5"), std::string::npos) << short_message;
    EXPECT_NE(short_message.find("train_000.bin, has 5"), std::string::npos) << short_message;
    EXPECT_NE(message({}, 5, 50000).find("--train-data"), std::string::npos);
    EXPECT_NE(message({dir + "/none.bin"}, 5, 50000).find("none.bin"), std::string::npos);
    EXPECT_NE(message(paths, 4, 3).find("train_000.bin"), std::string::npos);  // ids 3 and 4 of a vocabulary of 3
}

TEST_F(DataLoaderTest, AnErrorWhileReadingAheadComesFromLoad) {
    // An id out of range beyond what is checked when the shard is opened (its first 16 MiB).
    const std::string path = dir + "/big.bin";
    const int64_t tokens = (9 << 20) + 1, bad = tokens - 10;
    {
        std::vector<int> ids(static_cast<size_t>(tokens), 1);
        ids[static_cast<size_t>(bad)] = 999;
        ShardWriter writer(path, 50000);
        writer.write(ids.data(), tokens);
        writer.close();
    }
    DataLoader loader({path}, 1024, 1000 - 1, false, 1);
    const int64_t last = loader.samples_per_epoch() - 1;
    EXPECT_NO_THROW(loader.load(0, 1, last));
    try {
        loader.load(last, 1, 0);
        FAIL() << "an id out of range went unnoticed";
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("big.bin"), std::string::npos) << e.what();
    }
    EXPECT_NO_THROW(loader.load(0, 1, last));  // the loader is still of use,
    EXPECT_NO_THROW(loader.load(1, 1));        // and an error in what nobody asks for is none
}
