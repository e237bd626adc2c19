// Token shards: both formats, every kind of bad file, full disk.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cstring>
#include "llmc/base/error.h"
#include "llmc/text/shards.h"
#include "test/command.h"

namespace fs = std::filesystem;

namespace {

void write_bytes(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string shard_bytes(int32_t magic, int32_t version, int32_t tokens, const std::string& body) {
    int32_t header[256] = {magic, version, tokens};
    return std::string(reinterpret_cast<const char*>(header), sizeof(header)) + body;
}

// The message of the Error that opening the file gives; "" if it opens.
std::string refusal(const std::string& path, int vocab_size = 50257) {
    try {
        Shard shard(path, vocab_size);
        return "";
    } catch (const Error& e) {
        EXPECT_EQ(e.exit_code, 1);
        EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
        return e.what();
    }
}

std::vector<int> read_all(const std::string& path, int vocab_size) {
    const Shard shard(path, vocab_size);
    std::vector<int> ids(static_cast<size_t>(shard.size()));
    EXPECT_EQ(shard.read(0, shard.size(), ids.data()), shard.size());
    return ids;
}

void write_shard(const std::string& path, int vocab_size, const std::vector<int>& ids) {
    ShardWriter writer(path, vocab_size);
    writer.write(ids.data(), static_cast<int64_t>(ids.size()));
    writer.close();
}

#define EXPECT_MENTIONS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

}  // namespace

TEST(Shards, RoundTripInBothFormats) {
    TemporaryDirectory dir;
    const std::vector<int> small = {0, 1, 65535, 17, 65534};
    write_shard(dir / "a.bin", 65536, small);
    EXPECT_EQ(read_all(dir / "a.bin", 65536), small);
    EXPECT_EQ(fs::file_size(dir / "a.bin"), 1024u + 2 * small.size());

    const std::vector<int> wide = {0, 65536, 70000, INT32_MAX};
    write_shard(dir / "b.bin", 65537, wide);
    EXPECT_EQ(read_all(dir / "b.bin", 0), wide);
    EXPECT_EQ(fs::file_size(dir / "b.bin"), 1024u + 4 * wide.size());
    EXPECT_FALSE(fs::exists(dir / "a.bin.tmp"));
}

TEST(Shards, BytesAreThoseOfLlmc) {
    TemporaryDirectory dir;
    write_shard(dir / "a.bin", 50257, {1, 50256});
    EXPECT_EQ(read_text(dir / "a.bin"), shard_bytes(20240520, 1, 2, std::string("\x01\x00\x50\xC4", 4)));
    write_shard(dir / "b.bin", 100000, {1, 99999});
    EXPECT_EQ(read_text(dir / "b.bin"),
              shard_bytes(20240801, 7, 2, std::string("\x01\x00\x00\x00\x9F\x86\x01\x00", 8)));
}

TEST(Shards, ManyWritesAndPartialReads) {
    TemporaryDirectory dir;
    std::vector<int> ids(1'300'001);  // more than the writer's buffer
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int>(i * 2654435761u % 50257);
    {
        ShardWriter writer(dir / "a.bin", 50257);
        for (size_t at = 0, n = 1; at < ids.size(); at += n, n = n * 3 % 70001 + 1) {
            n = std::min(n, ids.size() - at);
            writer.write(ids.data() + at, static_cast<int64_t>(n));
        }
        EXPECT_EQ(writer.size(), static_cast<int64_t>(ids.size()));
        writer.close();
    }
    EXPECT_EQ(read_all(dir / "a.bin", 50257), ids);
    const Shard shard(dir / "a.bin", 50257);
    std::vector<int> part(10, -1);
    EXPECT_EQ(shard.read(1'299'995, 10, part.data()), 6);
    EXPECT_EQ(part[5], ids.back());
    EXPECT_EQ(part[6], -1);
    EXPECT_EQ(shard.read(1'300'001, 10, part.data()), 0);
    shard.prefetch(0, 1'300'001);
    shard.prefetch(1'299'999, 100);
}

TEST(Shards, MovedShardStaysOpen) {
    TemporaryDirectory dir;
    write_shard(dir / "a.bin", 300, {7, 8});
    Shard first(dir / "a.bin", 300);
    const Shard second(std::move(first));
    int out[2];
    EXPECT_EQ(second.read(0, 2, out), 2);
    EXPECT_EQ(out[1], 8);
    EXPECT_EQ(second.path(), dir / "a.bin");
}

TEST(Shards, BadFilesAreRefused) {
    TemporaryDirectory dir;
    const std::string good = shard_bytes(20240520, 1, 3, std::string("\x01\x00\x02\x00\x03\x00", 6));
    const std::string path = dir / "x.bin";
    const auto refusal_of = [&](const std::string& bytes) {
        write_bytes(path, bytes);
        return refusal(path);
    };
    EXPECT_EQ(refusal_of(good), "");
    EXPECT_MENTIONS(refusal(dir / "missing.bin"), "No such file");
    EXPECT_MENTIONS(refusal(dir.path), "not a regular file");
    EXPECT_MENTIONS(refusal_of(""), "0 bytes");
    EXPECT_MENTIONS(refusal_of(good.substr(0, 1023)), "cut short");
    EXPECT_MENTIONS(refusal_of(good.substr(0, 1024)), "cut short");
    EXPECT_MENTIONS(refusal_of(good.substr(0, good.size() - 1)), "cut short");
    EXPECT_MENTIONS(refusal_of(good + "x"), "too long");
    EXPECT_MENTIONS(refusal_of(shard_bytes(20240520, 1, 0, "")), "0 tokens");
    EXPECT_MENTIONS(refusal_of(shard_bytes(20240520, 1, -5, "")), "-5 tokens");
    EXPECT_MENTIONS(refusal_of(shard_bytes(20240520, 7, 3, "123456")), "version 7");
    EXPECT_MENTIONS(refusal_of(shard_bytes(20240801, 1, 3, "123456")), "version 1");
    EXPECT_MENTIONS(refusal_of(shard_bytes(20240326, 3, 3, "123456")), "model");
    EXPECT_MENTIONS(refusal_of(shard_bytes(20240327, 2, 3, "123456")), "debug state");
    EXPECT_MENTIONS(refusal_of(shard_bytes(12345, 1, 3, "123456")), "12345");
    // 16-bit tokens under the header of 32-bit ones, and the other way round
    EXPECT_MENTIONS(refusal_of(shard_bytes(20240801, 7, 3, "123456")), "cut short");
    EXPECT_MENTIONS(refusal_of(shard_bytes(20240520, 1, 2, "12345678")), "too long");
    EXPECT_MENTIONS(refusal_of(std::string(5000, 'a')), "magic");  // text
}

TEST(Shards, TokenIdsOutOfRange) {
    TemporaryDirectory dir;
    write_shard(dir / "a.bin", 50257, {1, 2047, 2048, 3});
    EXPECT_EQ(refusal(dir / "a.bin", 2049), "");
    EXPECT_MENTIONS(refusal(dir / "a.bin", 2048), "2048");
    write_bytes(dir / "b.bin", shard_bytes(20240801, 7, 1, "\xFF\xFF\xFF\xFF"));  // no int
    EXPECT_MENTIONS(refusal(dir / "b.bin", 0), "4294967295");

    std::vector<int> ids(9 << 20, 5);  // 18 MiB: the end is checked as it is read
    ids.back() = 2048;
    write_shard(dir / "c.bin", 50257, ids);
    const Shard shard(dir / "c.bin", 2048);
    std::vector<int> out(10);
    EXPECT_EQ(shard.read(0, 10, out.data()), 10);
    EXPECT_THROW(shard.read((9 << 20) - 10, 10, out.data()), Error);
    EXPECT_EQ(shard.read((9 << 20) - 10, 9, out.data()), 9);
}

TEST(Shards, AbandonedWriterLeavesNothing) {
    TemporaryDirectory dir;
    const int ids[] = {1, 2, 3};
    {
        ShardWriter writer(dir / "a.bin", 300);
        writer.write(ids, 3);
        EXPECT_FALSE(fs::exists(dir / "a.bin"));
    }
    EXPECT_TRUE(fs::is_empty(dir.path));
    write_shard(dir / "a.bin", 300, {9});
    {
        ShardWriter writer(dir / "a.bin", 300);
        writer.write(ids, 3);
    }
    EXPECT_EQ(read_all(dir / "a.bin", 300), std::vector<int>{9});  // what was there is still there
    EXPECT_THROW(ShardWriter(dir / "none/a.bin", 300), Error);
}

// A limit on the size of files stands for a full disk: write() fails in the middle of the data.
TEST(Shards, FullDiskIsAnErrorAndLosesNothing) {
    TemporaryDirectory dir;
    write_shard(dir / "a.bin", 300, {9});
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        const rlimit limit = {100'000, 100'000};
        setrlimit(RLIMIT_FSIZE, &limit);
        try {
            const std::vector<int> ids(200'000, 7);
            write_shard(dir / "a.bin", 300, ids);
        } catch (const Error& e) {
            _exit(strstr(e.what(), "a.bin") && strstr(e.what(), "File too large") ? 42 : 1);
        }
        _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 42) << status;
    EXPECT_EQ(read_all(dir / "a.bin", 300), std::vector<int>{9});
    EXPECT_FALSE(fs::exists(dir / "a.bin.tmp"));
}

TEST(Shards, ExpandsPatternsDirectoriesAndFiles) {
    TemporaryDirectory dir;
    for (const char* name : {"train_000001.bin", "train_000000.bin", "val_000000.bin", "odd[1].bin", "notes.txt"})
        write_bytes(dir / name, "x");
    using Names = std::vector<std::string>;
    EXPECT_EQ(expand_shards({dir / "train_*.bin"}, "-i"), (Names{dir / "train_000000.bin", dir / "train_000001.bin"}));
    EXPECT_EQ(expand_shards({dir.path}, "--train-data"), (Names{dir / "train_000000.bin", dir / "train_000001.bin"}));
    EXPECT_EQ(expand_shards({dir.path}, "--val-data"), Names{dir / "val_000000.bin"});
    EXPECT_EQ(expand_shards({dir / "val_000000.bin", dir / "train_*.bin"}, "-i"),
              (Names{dir / "val_000000.bin", dir / "train_000000.bin", dir / "train_000001.bin"}));
    EXPECT_EQ(expand_shards({dir / "odd[1].bin"}, "-i"), Names{dir / "odd[1].bin"});
    const auto message = [](const std::string& pattern) -> std::string {
        try {
            expand_shards({pattern}, "--val-data (-j)");
        } catch (const Error& e) {
            return e.what();
        }
        return "";
    };
    EXPECT_MENTIONS(message(dir / "test_*.bin"), "--val-data (-j)");
    EXPECT_MENTIONS(message("data/nowhere/train_*.bin"), "make data");
    EXPECT_THROW(expand_shards({}, "-i"), Error);
    fs::remove(dir / "val_000000.bin");  // the other part of a data set is not what was asked for
    EXPECT_MENTIONS(message(dir.path), "train part of a data set only");
    fs::create_directories(dir / "sub/d[1]");
    write_bytes(dir / "sub/d[1]/y.bin", "x"), write_bytes(dir / "sub/d[1]/.hidden.bin", "x");
    EXPECT_EQ(expand_shards({dir / "s?b/d[[]*/*.bin"}, "--val-data"), Names{dir / "sub/d[1]/y.bin"});
    EXPECT_EQ(expand_shards({dir / "*/d[1]/*.bin"}, "--val-data"), Names{dir / "sub/d[1]/y.bin"});
}

TEST(Shards, VocabularyBesideThem) {
    TemporaryDirectory dir;
    for (const char* name : {"a", "b", "c", "none"}) fs::create_directory(dir / name);
    for (const char* name : {"a", "b", "c"}) write_bytes(dir / (std::string(name) + "/vocab.json"), "{}");
    write_bytes(dir / "a/merges.txt", "#version: 0.2\nh e\nt h\n");
    write_bytes(dir / "b/merges.txt", "h e\r\nt h");  // the same merges, written by another program
    write_bytes(dir / "c/merges.txt", "#version: 0.2\nh e\n");
    EXPECT_EQ(vocabulary_dir({dir / "a/1.bin", dir / "a/2.bin", dir / "b/1.bin"}), dir / "a");
    EXPECT_EQ(vocabulary_dir({dir / "none/1.bin"}), "");
    EXPECT_EQ(vocabulary_dir({}), "");
    EXPECT_THROW(vocabulary_dir({dir / "a/1.bin", dir / "c/1.bin"}), Error);
    EXPECT_THROW(vocabulary_dir({dir / "none/1.bin", dir / "a/1.bin"}), Error);
}

TEST(Shards, Gpt2VocabularyBesideSomeOfThem) {
    if (!fs::exists("../shared/data/gpt2/merges.txt")) GTEST_SKIP() << "../shared/data/gpt2 is not here";
    EXPECT_EQ(vocabulary_dir({"/none/1.bin", "../shared/data/gpt2/1.bin"}), "../shared/data/gpt2");
}
