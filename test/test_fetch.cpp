// The download scripts of data/, run for real against a server on this machine that serves files of the published form,
// whole, broken off, mislabelled, or not at all.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>
#include <gtest/gtest.h>
#include "llmc/base/error.h"
#include "test/command.h"

namespace fs = std::filesystem;

namespace {

// How one request is answered; default: correctly.
struct Reply {
    int status = 200;
    int64_t send_only = -1;     // cut the connection after so many bytes of the body
    int64_t length_error = 0;   // added to the Content-Length that is announced
    bool ranges = true;         // false: always answers with the whole file
    std::string redirect = {};  // 302 to this path
};

// HTTP/1.1 on 127.0.0.1, one request a connection.
class Server {
  public:
    std::map<std::string, std::string> files;          // path -> body; any other path is a 404
    std::map<std::string, std::deque<Reply>> replies;  // for the next requests for a path, in order; the last one stays
    std::map<std::string, int> requests;
    int64_t body_bytes = 0;
    int port = 0;

    Server() {
        listener_ = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(listener_, 16) == 0,
              "listening");
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
        port = ntohs(address.sin_port);
        thread_ = std::thread([this] { serve(); });
    }
    ~Server() {
        stop_ = true;
        thread_.join();
        close(listener_);
    }
    int total_requests() const {
        int n = 0;
        for (const auto& [path, count] : requests) n += count;
        return n;
    }

  private:
    void serve() {
        while (!stop_) {
            pollfd wait{listener_, POLLIN, 0};
            if (poll(&wait, 1, 20) <= 0) continue;
            int connection = accept(listener_, nullptr, nullptr);
            if (connection < 0) continue;
            answer(connection);
            close(connection);
        }
    }
    void answer(int connection) {
        std::string request;
        char buffer[4096];
        while (request.find("\r\n\r\n") == std::string::npos) {
            ssize_t n = recv(connection, buffer, sizeof buffer, 0);
            if (n <= 0) return;
            request.append(buffer, static_cast<size_t>(n));
        }
        size_t begin = request.find(' ') + 1;
        std::string path = request.substr(begin, request.find(' ', begin) - begin);
        requests[path]++;
        Reply reply;
        if (auto it = replies.find(path); it != replies.end() && !it->second.empty()) {
            reply = it->second.front();
            if (it->second.size() > 1) it->second.pop_front();
        }
        auto file = files.find(path);
        if (!reply.redirect.empty())
            return send_all(connection,
                            "HTTP/1.1 302 Found\r\nLocation: " + reply.redirect + "\r\nContent-Length: 3\r\n\r\n302");
        if (file == files.end() || reply.status >= 400) {
            std::string status = std::to_string(file == files.end() ? 404 : reply.status);
            return send_all(connection, "HTTP/1.1 " + status +
                                            " No\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html>no</html");
        }
        std::string body = file->second, head = "HTTP/1.1 200 OK\r\n";
        size_t from = 0, range = request.find("\r\nRange: bytes=");
        if (range != std::string::npos && reply.ranges) {
            from = std::stoul(request.substr(range + strlen("\r\nRange: bytes=")));
            if (from >= body.size())
                return send_all(connection, "HTTP/1.1 416 Range\r\nContent-Range: bytes */" +
                                                std::to_string(body.size()) +
                                                "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " + std::to_string(from) + "-" +
                   std::to_string(body.size() - 1) + "/" + std::to_string(body.size()) + "\r\n";
        }
        body.erase(0, from);
        head += "Connection: close\r\nContent-Length: " +
                std::to_string(static_cast<int64_t>(body.size()) + reply.length_error) + "\r\n\r\n";
        if (reply.send_only >= 0) body.resize(std::min(body.size(), static_cast<size_t>(reply.send_only)));
        send_all(connection, head);
        body_bytes += static_cast<int64_t>(body.size());
        send_all(connection, body);
    }
    static void send_all(int connection, const std::string& data) {
        for (size_t sent = 0; sent < data.size();) {
            ssize_t n = send(connection, data.data() + sent, data.size() - sent, MSG_NOSIGNAL);
            if (n <= 0) return;
            sent += static_cast<size_t>(n);
        }
    }

    int listener_;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

// English-like text without repetition at a short distance.
std::string text_of(size_t bytes) {
    static const char* words[] = {"the ", "king ",   "of ",        "thee ", "shall ",
                                  "not ", "speak, ", "my lord:\n", "and ",  "blood "};
    std::string text;
    uint32_t x = 1;
    while (text.size() < bytes) text += words[((x = x * 1664525u + 1013904223u) >> 16) % 10];
    text.resize(bytes);
    return text;
}

std::string bytes_of(const std::vector<int32_t>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t)};
}

std::string shard_of(int tokens, int magic = 20240520, int version = 1, int width = 2) {
    std::vector<int32_t> header(256);
    header[0] = magic, header[1] = version, header[2] = tokens;
    return bytes_of(header) + std::string(static_cast<size_t>(tokens * width), '\x07');
}

std::string safetensors_of(size_t values) {
    std::string header = R"({"wte":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}, "b":{"dtype":"F32","shape":[)" +
                         std::to_string(values) + R"(],"data_offsets": [24, )" + std::to_string(24 + 4 * values) +
                         "]}}";
    uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(24 + 4 * values, '\x01');
}

const size_t SHAKESPEARE = 1115394;
const char* SHAKESPEARE_PATH = "/gh/karpathy/char-rnn/master/data/tinyshakespeare/input.txt";

class Fetch : public testing::Test {
  protected:
    TemporaryDirectory dir;  // a copy of the scripts, as the repository has them
    Server server;
    std::string text_file = dir / "data/download/tinyshakespeare.txt";

    void SetUp() override {
        if (run_shell("command -v curl").exit_code != 0) GTEST_SKIP() << "curl is missing";
        ASSERT_TRUE(fs::exists("data/fetch.sh")) << "the tests run in the root of the repository";
        fs::create_directories(dir / "dev");
        fs::create_directories(dir / "data");
        for (const auto& entry : fs::directory_iterator("data"))
            if (entry.path().extension() == ".sh") fs::copy(entry.path(), dir / "data");
        fs::copy("dev/setup.sh", dir / "dev");
    }
    CommandResult run(const std::string& command, const std::string& environment = "") {
        std::string base = "http://127.0.0.1:" + std::to_string(server.port);
        return run_shell("no_proxy=127.0.0.1 HF_ENDPOINT=" + base + "/hf GITHUB_RAW=" + base +
                             "/gh FETCH_DELAY=0 FETCH_TRIES=3 TOKENIZE='" + program_path("TOKENIZE", "tokenize") +
                             "' " + environment + " bash " + command,
                         dir.path);
    }
    CommandResult shakespeare() { return run("data/tinyshakespeare.sh"); }
    void serve_shakespeare(std::deque<Reply> replies = {}) {
        server.files[SHAKESPEARE_PATH] = text_of(SHAKESPEARE);
        server.replies[SHAKESPEARE_PATH] = std::move(replies);
    }
    void write(const std::string& name, const std::string& content) {
        fs::create_directories(fs::path(dir / name).parent_path());
        std::ofstream(dir / name, std::ios::binary) << content;
    }
    bool exists(const std::string& name) { return fs::exists(dir / name); }
    // Refused: one line on stderr that has `what` in it, and nothing under the final name.
    void expect_refused(const CommandResult& result, const std::string& name, const std::string& what) {
        EXPECT_NE(result.exit_code, 0) << result.out;
        EXPECT_EQ(result.error_lines(), 1) << result.err;
        EXPECT_NE(result.err.find(what), std::string::npos) << result.err;
        EXPECT_FALSE(exists(name)) << name;
    }
};

TEST_F(Fetch, WholeFileAndOnlyOnce) {
    serve_shakespeare();
    CommandResult first = shakespeare();
    EXPECT_EQ(first.exit_code, 0) << first.err;
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_FALSE(exists("data/download/tinyshakespeare.txt.part"));
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(server.total_requests(), 1);
}

TEST_F(Fetch, GoesOnWhereAKilledDownloadStopped) {
    serve_shakespeare();
    write("data/download/tinyshakespeare.txt.part", text_of(SHAKESPEARE).substr(0, 700001));
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_EQ(server.body_bytes, static_cast<int64_t>(SHAKESPEARE) - 700001);
}

TEST_F(Fetch, GoesOnAfterCutConnections) {
    // more cuts than FETCH_TRIES: every one brings something, so none is the last
    serve_shakespeare({{.send_only = 300000}, {.send_only = 1}, {.send_only = 300000}, {.send_only = 300000}, {}});
    CommandResult result = shakespeare();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_EQ(server.body_bytes, static_cast<int64_t>(SHAKESPEARE));
    EXPECT_EQ(server.total_requests(), 5);
}

TEST_F(Fetch, ResumesThroughARedirect) {
    serve_shakespeare({{.redirect = "/cdn"}});
    server.files["/cdn"] = text_of(SHAKESPEARE);
    server.replies["/cdn"] = {{.send_only = 1000}, {}};
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_EQ(server.body_bytes, static_cast<int64_t>(SHAKESPEARE));
}

TEST_F(Fetch, PartThatIsWholeNeedsNoBytes) {
    serve_shakespeare();
    write("data/download/tinyshakespeare.txt.part", text_of(SHAKESPEARE));
    CommandResult result = shakespeare();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_EQ(server.body_bytes, 0);
}

TEST_F(Fetch, StartsAgainWhereResumingCannotWork) {
    const std::string part = "data/download/tinyshakespeare.txt.part";
    serve_shakespeare({{.ranges = false}});
    write(part, text_of(SHAKESPEARE).substr(0, 1000));
    EXPECT_EQ(shakespeare().exit_code, 0) << "server without ranges";
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    fs::remove(text_file);
    serve_shakespeare();
    write(part, text_of(SHAKESPEARE + 5));
    EXPECT_EQ(shakespeare().exit_code, 0) << "part longer than the file";
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    fs::remove(text_file);
    serve_shakespeare({{.send_only = 1000, .ranges = false}});
    CommandResult result = shakespeare();
    expect_refused(result, "data/download/tinyshakespeare.txt", "could not fetch");
    EXPECT_NE(result.out.find("cannot resume"), std::string::npos) << result.out;
}

TEST_F(Fetch, TriesAgainWhenTheServerIsBusy) {
    serve_shakespeare({{.status = 503}, {.status = 429}, {}});
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    fs::remove(text_file);
    serve_shakespeare({{.status = 503}});
    expect_refused(shakespeare(), "data/download/tinyshakespeare.txt", "busy (HTTP 503)");
    EXPECT_EQ(server.total_requests(), 3 + 3);
    EXPECT_FALSE(exists("data/download/tinyshakespeare.txt.part"));
}

TEST_F(Fetch, MissingFileIsNotTriedAgain) {
    expect_refused(shakespeare(), "data/download/tinyshakespeare.txt", "no such file");
    EXPECT_EQ(server.total_requests(), 1);
    EXPECT_FALSE(exists("data/download/tinyshakespeare.txt.part"));
}

TEST_F(Fetch, NobodyListens) {
    CommandResult result = run("data/tinyshakespeare.sh", "GITHUB_RAW=http://127.0.0.1:1");
    expect_refused(result, "data/download/tinyshakespeare.txt", "could not fetch data/download/tinyshakespeare.txt");
}

TEST_F(Fetch, RefusesWrongLengths) {
    const std::string name = "data/download/tinyshakespeare.txt";
    serve_shakespeare({{.length_error = 10, .ranges = false}});
    expect_refused(shakespeare(), name, "could not fetch");
    fs::remove(dir / (name + ".part"));
    serve_shakespeare({{.length_error = -10}});
    expect_refused(shakespeare(), name, "instead of 1115394");
    fs::remove(dir / (name + ".part"));
    serve_shakespeare();
    server.files[SHAKESPEARE_PATH].pop_back();
    expect_refused(shakespeare(), name, "has 1115393 bytes instead of 1115394");
    // what was refused is not kept as a start for the next try
    serve_shakespeare();
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
}

TEST_F(Fetch, RefusesAWebPage) {
    for (const char* page : {"<!DOCTYPE html><html>Sign in</html>", "\n  <HTML>\n", "<?xml version='1.0'?><Error/>"}) {
        server.files[SHAKESPEARE_PATH] = page;
        expect_refused(shakespeare(), "data/download/tinyshakespeare.txt", "is a web page");
    }
}

TEST_F(Fetch, BrokenFileIsFetchedAgainButNotLost) {
    write("data/download/tinyshakespeare.txt", "short");
    CommandResult result = shakespeare();
    EXPECT_NE(result.exit_code, 0);
    EXPECT_EQ(read_text(text_file), "short");
    serve_shakespeare();
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
}

TEST_F(Fetch, FullDisk) {
    serve_shakespeare();
    fs::create_directories(dir / "data/download");
    fs::create_symlink("/dev/full", dir / "data/download/tinyshakespeare.txt.part");
    expect_refused(shakespeare(), "data/download/tinyshakespeare.txt", "is the disk full?");
    EXPECT_EQ(server.total_requests(), 1);
}

TEST_F(Fetch, OneDownloadOfAFileAtATime) {
    serve_shakespeare();
    fs::create_directories(dir / "data/download");
    CommandResult result = run("-c 'flock data/download/tinyshakespeare.txt.part bash data/tinyshakespeare.sh'");
    expect_refused(result, "data/download/tinyshakespeare.txt", "by another process");
    EXPECT_EQ(server.total_requests(), 0);
}

TEST_F(Fetch, FinewebShards) {
    const std::string from = "/hf/datasets/kjj0/fineweb10B-gpt2/resolve/main/fineweb_",
                      gpt2 = "/hf/openai-community/gpt2/resolve/main/";
    server.files[gpt2 + "vocab.json"] = "{\"a\": 0}";
    server.files[gpt2 + "merges.txt"] = "#version: 0.2\na b\n";
    server.files[from + "val_000000.bin"] = shard_of(1001);
    server.files[from + "train_000001.bin"] = shard_of(5000);
    server.files[from + "train_000002.bin"] = shard_of(3);
    CommandResult result = run("data/fineweb.sh fineweb 2");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(dir / "data/fineweb/train_000001.bin"), shard_of(5000));
    for (const char* name : {"val_000000.bin", "train_000002.bin", "vocab.json", "merges.txt"})
        EXPECT_TRUE(exists(std::string("data/fineweb/") + name)) << name;
    EXPECT_EQ(server.total_requests(), 5);

    server.files[from + "train_000003.bin"] = shard_of(3).substr(0, 1028);
    expect_refused(run("data/fineweb.sh fineweb 3"), "data/fineweb/train_000003.bin", "header promises 3 tokens");
    server.files[from + "train_000003.bin"] = shard_of(3, 20240521);
    expect_refused(run("data/fineweb.sh fineweb 3"), "data/fineweb/train_000003.bin", "wrong magic number");
    server.files[from + "train_000003.bin"] = shard_of(3, 20240520, 2);
    expect_refused(run("data/fineweb.sh fineweb 3"), "data/fineweb/train_000003.bin", "wrong magic number or version");
    server.files[from + "train_000003.bin"] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
    expect_refused(run("data/fineweb.sh fineweb 3"), "data/fineweb/train_000003.bin", "Git LFS pointer");
    server.files[from + "train_000003.bin"] = shard_of(3, 20240801, 7, 4);  // wide tokens are shards too
    EXPECT_EQ(run("data/fineweb.sh fineweb 3").exit_code, 0);
    for (const char* arguments :
         {"fineweb 0", "fineweb 104", "fineweb many", "fineweb -1", "fineweb_edu 1002", "coarseweb"}) {
        CommandResult bad = run(std::string("data/fineweb.sh ") + arguments);
        EXPECT_EQ(bad.exit_code, 2) << arguments;
        EXPECT_EQ(bad.error_lines(), 1) << bad.err;
    }
}

TEST_F(Fetch, FinewebEduShards) {
    const std::string from = "/hf/datasets/karpathy/fineweb-edu-100B-gpt2-token-shards/resolve/main/edu_fineweb_";
    const std::string gpt2 = "/hf/openai-community/gpt2/resolve/main/";
    server.files = {{from + "val_000000.bin", shard_of(7)},
                    {from + "train_000001.bin", shard_of(8)},
                    {gpt2 + "vocab.json", "{}"},
                    {gpt2 + "merges.txt", "#version: 0.2\n"}};
    CommandResult result = run("data/fineweb.sh fineweb_edu");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(dir / "data/fineweb_edu/train_000001.bin"), shard_of(8));
    EXPECT_EQ(read_text(dir / "data/fineweb_edu/val_000000.bin"), shard_of(7));
}

TEST_F(Fetch, Hellaswag) {
    const std::string path = "/gh/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
                      name = "data/hellaswag/hellaswag_val.jsonl";
    server.files[path] = "{\"ctx\": \"A man\", \"label\": 3}\n{\"ctx\": \"A wom";
    expect_refused(run("data/hellaswag.sh"), name, "is not whole JSON");
    server.files[path] = "";
    expect_refused(run("data/hellaswag.sh"), name, "is not whole JSON");
    server.files[path] = "{\"ctx\": \"A man\", \"label\": 3}\n{\"ctx\": \"A woman\", \"label\": 1}\n";
    EXPECT_EQ(run("data/hellaswag.sh").exit_code, 0);
    EXPECT_EQ(read_text(dir / name), server.files[path]);
}

TEST_F(Fetch, Gpt2) {
    const std::string from = "/hf/openai-community/gpt2-medium/resolve/main/", model = "gpt2-medium/model.safetensors";
    server.files[from + "config.json"] = "{\"model_type\": \"gpt2\"}\n";
    server.files[from + "vocab.json"] = "{\"a\": 0}";
    server.files[from + "merges.txt"] = "#version: 0.2\na b\n";
    server.files[from + "generation_config.json"] = "{}";
    server.files[from + "model.safetensors"] = safetensors_of(100);
    CommandResult result = run("data/gpt2.sh gpt2-medium");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(dir / model), safetensors_of(100));
    for (const char* name : {"config.json", "vocab.json", "merges.txt", "generation_config.json"})
        EXPECT_TRUE(exists(std::string("gpt2-medium/") + name)) << name;
    EXPECT_FALSE(exists("gpt2-medium/tokenizer_config.json"));

    std::string too_long = safetensors_of(100), huge = safetensors_of(100),
                no_tensors = std::string("\x02\0\0\0\0\0\0\0{}", 10);
    too_long += "x";
    huge[7] = '\x7f';
    for (const std::string& bad :
         {safetensors_of(100).substr(0, 300), too_long, huge, no_tensors, std::string("PK\x03\x04"), std::string()}) {
        fs::remove(dir / model);
        server.files[from + "model.safetensors"] = bad;
        expect_refused(run("data/gpt2.sh gpt2-medium"), model, "refused gpt2-medium/model.safetensors");
    }
    EXPECT_EQ(run("data/gpt2.sh gpt3").exit_code, 2);

    // a file that a model may lack is still not to be had half
    server.files[from + "model.safetensors"] = safetensors_of(100);
    server.files[from + "tokenizer_config.json"] = "{\"model_max";
    expect_refused(run("data/gpt2.sh gpt2-medium"), model, "tokenizer_config.json");
}

// From the network to token shards, with the tokenizer.
class FetchText : public Fetch {
  protected:
    void SetUp() override {
        Fetch::SetUp();
        if (!IsSkipped() && !fs::exists(program_path("TOKENIZE", "tokenize")))
            GTEST_SKIP() << "./tokenize is not built";
    }
    void expect_data_set(const std::string& name) {
        for (const char* file : {"train_000000.bin", "val_000000.bin", "vocab.json", "merges.txt"})
            EXPECT_TRUE(exists("data/" + name + "/" + file)) << name << "/" << file;
        EXPECT_FALSE(exists("data/" + name + ".part"));
    }
};

TEST_F(FetchText, DefaultDataSet) {
    serve_shakespeare();
    CommandResult result = run("data/text.sh", "VOCAB_SIZE=300");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.out.find("data set: data/tinyshakespeare\n"), std::string::npos) << result.out;
    expect_data_set("tinyshakespeare");
    auto before = fs::last_write_time(dir / "data/tinyshakespeare/train_000000.bin");
    result = run("data/text.sh");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(fs::last_write_time(dir / "data/tinyshakespeare/train_000000.bin"), before);
    EXPECT_EQ(server.total_requests(), 1);
}

TEST_F(FetchText, OwnText) {
    write("books/my book.txt", text_of(60000));
    CommandResult result = run("data/text.sh 'books/my book.txt'", "VOCAB_SIZE=280");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    expect_data_set("my_book");
    // the same name for another text would mix two data sets up
    write("my book.txt", text_of(50000));
    result = run("data/text.sh 'my book.txt'", "VOCAB_SIZE=280");
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.error_lines(), 1) << result.err;
    EXPECT_NE(result.err.find("was made from books/my book.txt"), std::string::npos) << result.err;
    result = run("data/text.sh 'my book.txt'", "VOCAB_SIZE=280 NAME=other");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    expect_data_set("other");
    result = run("data/text.sh nowhere.txt");
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.error_lines(), 1) << result.err;
    EXPECT_EQ(server.total_requests(), 0);
}

TEST_F(FetchText, FailedTokenizerLeavesNoDataSet) {
    write("empty.txt", "");
    EXPECT_NE(run("data/text.sh empty.txt").exit_code, 0);
    EXPECT_FALSE(exists("data/empty"));
    write("data/hellaswag/hellaswag_val.jsonl", "{}");
    write("hellaswag.txt", text_of(50000));
    CommandResult result = run("data/text.sh hellaswag.txt");
    EXPECT_NE(result.exit_code, 0);
    EXPECT_NE(result.err.find("another name"), std::string::npos) << result.err;
    EXPECT_EQ(read_text(dir / "data/hellaswag/hellaswag_val.jsonl"), "{}");
}

TEST_F(FetchText, TinyStories) {
    const std::string from = "/hf/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-";
    server.files[from + "train.txt"] = text_of(30000) + "\n<|endoftext|>\n" + text_of(20000);
    server.files[from + "valid.txt"] = text_of(5000) + "\n<|endoftext|>\n" + text_of(1000);
    server.replies[from + "train.txt"] = {{.send_only = 20000}, {}};
    CommandResult result = run("data/tinystories.sh", "VOCAB_SIZE=300");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    expect_data_set("tinystories");
    EXPECT_EQ(server.body_bytes,
              static_cast<int64_t>(server.files[from + "train.txt"].size() + server.files[from + "valid.txt"].size()));
    EXPECT_EQ(run("data/tinystories.sh").exit_code, 0);
    EXPECT_EQ(server.total_requests(), 3);
}

}  // namespace
