// The port where ranks meet, under attack: whoever has not shown the job's secret takes no rank's place, ends no job,
// keeps nobody out and costs no memory.
#include <ifaddrs.h>
#include <poll.h>
#include <sys/stat.h>
#include <cstring>

#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/base/sha256.h"
#include "llmc/ranks/socket.h"
#include "ranks_test.h"

namespace {

void exchange_ranks(Group& group) {
    std::vector<std::string> all = group.exchange(std::to_string(group.rank()));
    for (int r = 0; r < group.world(); r++) EXPECT_EQ(all[static_cast<size_t>(r)], std::to_string(r));
}

// Somebody who connects to rank 0 as soon as it listens.
struct Stranger {
    Socket socket{-1};
    AwakeClock clock{1};
    Stranger(int port, const std::string& host = "127.0.0.1") {
        for (double end = seconds() + 30; socket.fd < 0 && seconds() < end; sleep_seconds(0.01))
            socket.fd = connect_to(host, port, clock, clock.now() + 5);
        EXPECT_GE(socket.fd, 0);
    }
    void say(const std::string& bytes) { (void)send(socket.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
    // Header and body as messages have them, of a length that need not be true.
    static std::string message(uint64_t type, uint64_t length, const std::string& body) {
        std::string bytes(16, '\0');
        memcpy(bytes.data(), &type, 8), memcpy(bytes.data() + 8, &length, 8);
        return bytes + body;
    }
    void say(uint64_t type, const std::string& body) { say(message(type, body.size(), body)); }
    // What rank 0 says next; "gone" if it hangs up.
    std::string hear(double limit = 20) {
        uint32_t type = 0;
        std::string text;
        return socket.receive_message(&type, &text, clock, clock.now() + limit, 4096) ? text : "gone";
    }
};

// Rank 0 of two; the attack; then rank 1. Both must pass, and say nothing.
template <typename Attack>
void expect_pass_after(Attack attack, RankProcess::Variables more = {}) {
    int port = free_port();
    auto variables = [&](int rank) {
        RankProcess::Variables all = rank_variables(rank, 2, port);
        all.insert(more.begin(), more.end());
        return all;
    };
    RankProcess first(variables(0));
    attack(first, port);
    RankProcess second(variables(1));
    for (RankProcess* rank : {&second, &first}) {
        EXPECT_EQ(rank->wait(60), 0) << rank->out() << rank->err();
        EXPECT_EQ(rank->err(), "");
    }
}

TEST(Strangers, TakeNoRanksPlace) {
    if (is_rank()) return in_rank(exchange_ranks);
    expect_pass_after([](RankProcess&, int port) {
        Stranger a(port), b(port), c(port), d(port);
        std::string challenge = a.hear(), of_b = b.hear(), place = "0123456789abcdef 1 2 here";
        EXPECT_NE(challenge, of_b) << "a challenge is for one connection";
        a.say(kJoin, std::string(64, '0') + " " + place);
        b.say(kJoin, hmac_sha256("", "join " + of_b + " " + place) + " " + place);  // knows the way, not the secret
        c.say(0x67707432, "1 2 here");                                              // as the ranks did without a secret
        d.say(kJoin, place);
        EXPECT_EQ(c.hear().size() + d.hear().size(), 64u);  // their challenges
        for (Stranger* s : {&a, &b, &c, &d}) EXPECT_EQ(s->hear(), "gone");
    });
}

TEST(Strangers, AnAnswerToAnotherChallengeIsNone) {
    if (is_rank()) return in_rank(exchange_ranks);
    expect_pass_after(
        [](RankProcess&, int port) {
            // what a rank has said once, and somebody has heard
            std::string place = "0123456789abcdef 1 2 here";
            std::string heard = hmac_sha256("known", "join 00112233445566778899aabbccddeeff " + place) + " " + place;
            Stranger s(port);
            s.hear(), s.say(kJoin, heard);
            EXPECT_EQ(s.hear(), "gone");
        },
        {{"TRAIN_GPT2_SECRET", "known"}});
}

TEST(Strangers, EndNoJob) {
    if (is_rank()) return in_rank(exchange_ranks);
    expect_pass_after([](RankProcess&, int port) {
        std::vector<std::unique_ptr<Stranger>> all;
        for (uint64_t type :
             {uint64_t{kFailure}, uint64_t{kGoodbye}, uint64_t{kWelcome}, uint64_t{kData}, ~uint64_t{0}}) {
            all.push_back(std::make_unique<Stranger>(port));
            all.back()->say(type, "0 \x1b[2J\x1b]0;owned\x07 every rank ends\nerror: and so on");
        }
        all.push_back(std::make_unique<Stranger>(port));
        all.back()->say("GET / HTTP/1.1\r\nHost: rank0\r\n\r\n");
        all.push_back(std::make_unique<Stranger>(port));
        all.back()->say(std::string(300, '\xff'));
        all.push_back(std::make_unique<Stranger>(port));
        all.back()->say(kJoin, "");
        all.push_back(std::make_unique<Stranger>(port));  // hangs up in the middle of a header
        all.back()->say("123");
        all.pop_back();
    });
}

size_t most_memory(pid_t process) {
    std::string status = read_text("/proc/" + std::to_string(process) + "/status");
    size_t at = status.find("VmHWM:");
    return at == std::string::npos ? 0 : 1024 * std::stoul(status.substr(at + 6));
}

TEST(Strangers, LongMessagesCostNoMemory) {
    if (is_rank()) return in_rank(exchange_ranks);
    expect_pass_after([](RankProcess& rank, int port) {
        for (uint64_t length :
             {uint64_t{1} << 32, (uint64_t{1} << 32) - 1, ~uint64_t{0}, uint64_t{1} << 63, uint64_t{600}}) {
            Stranger s(port);
            s.hear();
            size_t before = most_memory(rank.id());
            s.say(Stranger::message(kJoin, length, std::string(600, 'x')));
            std::string much(1 << 20, 'x');
            for (int i = 0; i < 64; i++) s.say(much);
            EXPECT_EQ(s.hear(), "gone") << length;
            EXPECT_LT(most_memory(rank.id()), before + (16 << 20)) << length;
        }
    });
}

TEST(Strangers, WhoSaysNothingKeepsNobodyOut) {
    if (is_rank()) return in_rank(exchange_ranks);
    std::vector<std::unique_ptr<Stranger>> silent;  // one after the other they would take five minutes
    expect_pass_after([&](RankProcess&, int port) {
        for (int i = 0; i < 60; i++) silent.push_back(std::make_unique<Stranger>(port));
        for (int i = 0; i < 10; i++) silent[static_cast<size_t>(i)]->say(Stranger::message(kJoin, 100, "slow"));
    });
}

TEST(Strangers, MoreThanThereIsRoomForKeepNobodyOut) {
    if (is_rank()) return in_rank(exchange_ranks);
    std::vector<std::unique_ptr<Stranger>> silent;
    expect_pass_after([&](RankProcess&, int port) {
        for (int i = 0; i < 300; i++) silent.push_back(std::make_unique<Stranger>(port));
    });
}

// ---- somebody in rank 0's place ----

struct FalseRank0 {
    int port = 0;
    Socket listener{-1};
    AwakeClock clock{1};
    FalseRank0() { listener.fd = listen_on("127.0.0.1", &port); }
    // The next connection gets these messages; the rank's own come between them.
    void answer(const std::vector<std::pair<uint32_t, std::string>>& messages) {
        pollfd wait{listener.fd, POLLIN, 0};
        ASSERT_EQ(poll(&wait, 1, 20000), 1);
        Socket rank(accept(listener.fd, nullptr, nullptr));
        uint32_t type = 0;
        std::string text;
        for (const auto& [kind, words] : messages) {
            rank.send_message(kind, words);
            (void)rank.receive_message(&type, &text, clock, clock.now() + 1, 4096);
        }
    }
};

TEST(Strangers, InRank0sPlaceAreNotBelieved) {
    if (is_rank()) return in_rank([](Group&) { FAIL(); });
    for (uint32_t type : {kFailure, kWelcome}) {
        FalseRank0 stranger;
        auto variables = rank_variables(1, 2, stranger.port);
        variables["TRAIN_GPT2_SECRET"] = "known", variables["TEST_TIMEOUT_S"] = "1.5";
        RankProcess rank(variables);
        stranger.answer({{type, "at once"}});
        stranger.answer({{kHello, "challenge"}, {type, std::string(64, '0') + " \x1b[2J owned"}, {type, "0 owned"}});
        EXPECT_EQ(rank.wait(20), 1);
        EXPECT_NE(rank.err().find("what answers there does not know this job's secret"), std::string::npos)
            << rank.err();
        EXPECT_EQ(rank.err().find("owned"), std::string::npos) << rank.err();
    }
}

// ---- the secret ----

TEST(Strangers, RanksOfAnotherSecretAreStrangers) {
    if (is_rank()) return in_rank(exchange_ranks);
    int port = free_port();
    std::vector<std::unique_ptr<RankProcess>> ranks;
    for (int r : {0, 1}) {
        auto variables = rank_variables(r, 2, port);
        variables["TRAIN_GPT2_SECRET"] = "secret " + std::to_string(r), variables["TEST_TIMEOUT_S"] = "1.5";
        ranks.push_back(std::make_unique<RankProcess>(variables));
    }
    expect_all_end(ranks, 20,
                   {"rank 1 of 2 did not come within 1.5 s", "did not show this job's secret (TRAIN_GPT2_SECRET must",
                    "does not know this job's secret (TRAIN_GPT2_SECRET must"});
    expect_ranks_pass(3, {{"TRAIN_GPT2_SECRET", "one for all"}});
}

// Where all ranks are on one machine rank 0 is not reached from others.
TEST(Strangers, OfOtherMachinesReachNoLoopback) {
    if (is_rank()) return in_rank(exchange_ranks);
    expect_pass_after([](RankProcess&, int port) {
        Stranger here(port);  // rank 0 listens now
        AwakeClock clock(1);
        for (const std::string& address : own_addresses()) {
            if (address == own_host() || address == "::1" || address.starts_with("127.")) continue;
            Socket other(connect_to(address, port, clock, clock.now() + 2));
            EXPECT_EQ(other.fd, -1) << address;
        }
    });
}

TEST(Strangers, OfThisMachineCannotReadTheSecret) {
    if (is_rank()) return in_rank(exchange_ranks);
    TemporaryDirectory directory;
    auto variables = [&](int rank, const std::string& job) {
        return RankProcess::Variables{{"TEST_FS", directory.path},
                                      {"TEST_WORLD", "2"},
                                      {"TEST_TIMEOUT_S", "20"},
                                      {"TEST_RANK", std::to_string(rank)},
                                      {"TEST_JOB", job}};
    };
    auto file = [&]() -> std::string {
        for (double end = seconds() + 20; seconds() < end; sleep_seconds(0.01))
            for (auto& entry : std::filesystem::directory_iterator(directory.path))
                if (entry.path().extension() != ".tmp") return entry.path();
        return "none";
    };
    std::string path, victim = directory.path + "_victim";
    {
        RankProcess first(variables(0, "a"));
        struct stat info {};
        ASSERT_EQ(stat((path = file()).c_str(), &info), 0);
        EXPECT_EQ(info.st_mode & 0777, 0600u);
        first.signal(SIGKILL);
    }
    // Links in place of the file and of the one that it is made from: nothing is written through them.
    std::ofstream(victim) << "precious";
    std::filesystem::remove(path);
    std::filesystem::create_symlink(victim, path);
    std::filesystem::create_symlink(victim, path + ".tmp");
    RankProcess second(variables(1, "a"));
    sleep_seconds(0.2);
    RankProcess first(variables(0, "a"));
    for (RankProcess* rank : {&second, &first}) EXPECT_EQ(rank->wait(60), 0) << rank->err();
    EXPECT_EQ(read_text(victim), "precious");
    // A file that another user has put there: ranks look away. (Only root can try it.)
    FalseRank0 stranger;
    std::ofstream(path) << stranger.port << " secret here 127.0.0.1";
    if (chown(path.c_str(), 65534, 65534) == 0) {
        auto impatient = variables(1, "a");
        impatient["TEST_TIMEOUT_S"] = "1";
        RankProcess rank(impatient);
        EXPECT_EQ(rank.wait(20), 1);
        EXPECT_NE(rank.err().find("found no rank 0 at the address in "), std::string::npos) << rank.err();
        pollfd connection{stranger.listener.fd, POLLIN, 0};
        EXPECT_EQ(poll(&connection, 1, 0), 0);
    }
    std::filesystem::remove(victim);
}

// ---- the helpers ----

// FIPS 180-4's and RFC 4231's examples: NIST's "abc" and "", and test cases 2 and 6.
TEST(Sha256, HasTheValuesOfTheStandards) {
    auto hex = [](const std::string& bytes) {
        std::string text;
        for (unsigned char b : bytes) text += strf("%02x", b);
        return text;
    };
    EXPECT_EQ(hex(sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(hex(sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(hex(sha256(std::string(1000000, 'a'))),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    EXPECT_EQ(hmac_sha256("Jefe", "what do ya want for nothing?"),
              "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    EXPECT_EQ(hmac_sha256(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First"),
              "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    EXPECT_EQ(random_hex(16).size(), 32u);
    EXPECT_NE(random_hex(16), random_hex(16));
}

TEST(Printable, EscapesWhatMovesTheCursor) {
    EXPECT_EQ(printable("plain, \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 ~"),
              "plain, \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 ~");
    EXPECT_EQ(printable("a\x1b[2J\r\nb\tc\x7f"),
              "a\\x1b[2J\\x0d\\x0a"
              "b\\x09"
              "c\\x7f");
    EXPECT_EQ(printable(std::string("\0", 1)), "\\x00");
    EXPECT_EQ(printable("\xc2\x9b"
                        "2J"),
              "\\xc2\\x9b"
              "2J");                                                                       // U+009B, as good as ESC [
    EXPECT_EQ(printable("\x9b\xff\xe2\x82 \xc0\x9b"), "\\x9b\\xff\\xe2\\x82 \\xc0\\x9b");  // no UTF-8
}

}  // namespace
