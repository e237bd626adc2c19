// The download scripts of data/, run for real against a server on this machine that serves files of the published form,
// whole, broken off, mislabelled, or not at all.
#pragma once
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <thread>
#include <vector>
#include "llmc/base/error.h"
#include "test/command.h"

namespace fs = std::filesystem;

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
inline std::string text_of(size_t bytes) {
    static const char* words[] = {"the ", "king ",   "of ",        "thee ", "shall ",
                                  "not ", "speak, ", "my lord:\n", "and ",  "blood "};
    std::string text;
    uint32_t x = 1;
    while (text.size() < bytes) text += words[((x = x * 1664525u + 1013904223u) >> 16) % 10];
    text.resize(bytes);
    return text;
}

const size_t SHAKESPEARE = 1115394;
const char* const SHAKESPEARE_PATH = "/gh/karpathy/char-rnn/master/data/tinyshakespeare/input.txt";

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
