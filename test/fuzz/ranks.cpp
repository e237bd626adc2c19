// What comes by the network: messages, and strangers at the port where ranks meet.
#include <sys/socket.h>
#include <atomic>
#include <thread>
#include "llmc/base/sha256.h"
#include "llmc/ranks/meeting.h"
#include "test/fuzz/fuzz.h"

using Messages = std::vector<std::pair<uint32_t, std::string>>;

FUZZ(messages) {
    Cuts cuts(take_byte(&input));
    const size_t limit = take_byte(&input);
    Messages whole, parts, sent;
    uint32_t type;
    std::string text, inbox(input);
    while (Socket::take_message(&inbox, &type, &text)) whole.emplace_back(type, text);
    const std::string rest = inbox;
    inbox.clear();
    for (std::string_view more = input; !more.empty();) {
        const std::string_view part = more.substr(0, cuts.next());
        inbox += part;
        while (Socket::take_message(&inbox, &type, &text)) parts.emplace_back(type, text);
        more.remove_prefix(part.size());
    }
    CHECK(whole == parts && inbox == rest, "%zu messages; in pieces %zu", whole.size(), parts.size());

    // By a socket, as far as they are no longer than the limit.
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    Socket here(ends[0]), there(ends[1]);
    CHECK(send(there.fd, input.data(), input.size(), 0) == static_cast<ssize_t>(input.size()), "send");
    shutdown(there.fd, SHUT_WR);
    AwakeClock clock(1);
    while (here.receive_message(&type, &text, clock, clock.now() + 60, limit)) {
        CHECK(text.size() <= limit, "%zu bytes", text.size());
        sent.emplace_back(type, text);
    }
    for (const auto& message : whole) {
        if (message.second.size() > limit) break;
        CHECK(!sent.empty() && sent[0] == message, "a message is lost");
        sent.erase(sent.begin());
    }
    CHECK(sent.empty(), "a message too many");
}

// Strangers send what they like before rank 1 comes; "join " in front: with the proof that they know the secret.
FUZZ(meeting) {
    static int port = [] {
        int any = 0;
        Socket listener(listen_on("127.0.0.1", &any));
        return any;
    }();
    Ranks first{.rank = 0, .world = 2, .meeting = Ranks::Meeting::tcp, .address = "127.0.0.1", .port = port};
    first.secret = "secret";
    Ranks second = first;
    second.rank = 1;
    std::string complaints[2];
    std::vector<Member> members[2];
    std::atomic<bool> over{false};
    std::thread rank0([&] { complaints[0] = complaint_of([&] { members[0] = meet(first, 30); }), over = true; });

    AwakeClock clock(1);
    const linger at_once{1, 0};  // so that the port is free again
    const auto leave_no_trace = [&](const Socket& s) {
        setsockopt(s.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    };
    std::vector<std::unique_ptr<Socket>> strangers;
    bool knew = false, ended = false;  // somebody knew the secret; and that was the end of the meeting
    while (!input.empty() && !ended && strangers.size() < 4) {
        std::string words(input.substr(1, static_cast<uint8_t>(input[0])));
        input.remove_prefix(words.size() + 1);
        strangers.push_back(std::make_unique<Socket>(-1));
        Socket& s = *strangers.back();
        while (s.fd < 0 && !over) s.fd = connect_to("127.0.0.1", port, clock, clock.now() + 5);
        if (s.fd < 0) break;
        leave_no_trace(s);
        if (!words.starts_with("join ")) {
            (void)send(s.fd, words.data(), words.size(), MSG_NOSIGNAL);
            continue;
        }
        uint32_t type = 0;
        std::string challenge, answer;
        if (!s.receive_message(&type, &challenge, clock, clock.now() + 10, 512)) continue;
        words.erase(0, 5);
        s.send_message(kJoin, hmac_sha256("secret", "join " + challenge + " " + words) + " " + words);
        ended = s.receive_message(&type, &answer, clock, clock.now() + 10, 4096);
        knew = true;
    }
    if (!ended) complaints[1] = complaint_of([&] { members[1] = meet(second, 30); });
    rank0.join();
    if (!knew)
        for (const std::string& complaint : complaints) CHECK(complaint.empty(), "%s", complaint.c_str());
    if (!ended)
        for (const auto& list : members)
            for (const Member& m : list)
                if (m.socket) leave_no_trace(*m.socket);
}
