#include "llmc/ranks/group.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <sstream>
#include <thread>

#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/ranks/awake_clock.h"
#include "llmc/ranks/meeting.h"

// A failure is never a success to whoever started us, whatever another rank says.
static int failure_code(int code) { return code >= 1 && code <= 255 ? code : 1; }

struct Group::Connections {
    // As Member (meeting.h), by rank.
    struct Peer {
        std::unique_ptr<Socket> socket;
        std::string host, inbox;  // the beginning of a message
        std::deque<std::string> data;
        double heard = 0;
        int64_t begun = 0, ended = 0;
        double since = 0;               // how long begun has been what it is
        std::atomic<bool> gone{false};  // said goodbye
    };
    Group& group;
    const double timeout, interval = std::min(1.0, timeout / 10);
    AwakeClock clock{2 * interval};  // the watcher's: after a pause in which all were stopped all go on
    std::vector<Peer> peers;
    std::mutex mutex;
    std::condition_variable arrived;
    std::atomic<bool> stop{false}, ending{false};
    Socket wake{eventfd(0, EFD_CLOEXEC)};  // ends the watcher's wait
    std::thread watcher;

    Connections(Group& g, double seconds) : group(g), timeout(seconds), peers(static_cast<size_t>(g.world())) {}
    ~Connections() {
        stop = true;
        eventfd_write(wake.fd, 1);
        if (watcher.joinable()) watcher.join();
    }
    bool is_root() const { return group.rank() == 0; }

    void meet_all() {
        std::vector<Member> members = meet(group.ranks(), timeout);
        for (size_t r = 0; r < peers.size(); r++)
            peers[r].socket = std::move(members[r].socket), peers[r].host = members[r].host;
        watcher = std::thread([this] { watch(); });
    }

    // ---- the watch ----

    // told: another rank has found it, and rank 0 says it for all.
    [[noreturn]] void end_program(const std::string& message, int exit_code = 1, bool told = false) {
        if (ending.exchange(true))
            for (;;) pause();  // the main thread ends the program, and says why
        tell_all(message, exit_code);
        if (!told) {
            fprintf(stderr, "error: %s; every rank ends, and the newest checkpoint is whole: go on with --resume\n",
                    printable(message).c_str());
            fflush(stderr);
        } else {
            // Rank 0 speaks first: when one process has ended, mpirun kills the others.
            std::this_thread::sleep_for(std::chrono::milliseconds(300));
        }
        _exit(exit_code);
    }
    void tell_all(const std::string& message, int exit_code) {
        std::string text = strf("%d %s", exit_code, message.c_str());
        for (Peer& p : peers)
            if (p.socket && !p.gone) p.socket->send_if_possible(kFailure, text, 1);
    }

    void watch() {
        double last_beat = -interval;
        for (Peer& p : peers) p.heard = p.since = clock.now();
        while (!stop) {
            std::vector<pollfd> wait{{wake.fd, POLLIN, 0}};
            std::vector<size_t> who;
            for (size_t r = 0; r < peers.size(); r++)
                if (peers[r].socket && !peers[r].gone)
                    wait.push_back({peers[r].socket->fd, POLLIN, 0}), who.push_back(r);
            poll(wait.data(), wait.size(), static_cast<int>(500 * interval) + 1);
            for (size_t i = 0; i < who.size() && !stop; i++)
                if (wait[i + 1].revents) read_from(who[i]);
            if (stop || clock.now() - last_beat < interval) continue;
            last_beat = clock.now();
            std::string beat =
                strf("%lld %lld", static_cast<long long>(group.begun_), static_cast<long long>(group.ended_));
            for (size_t r : who)
                if (!peers[r].gone) peers[r].socket->send_if_possible(kHeartbeat, beat, 0);
            look_for_stalls();
        }
    }

    void read_from(size_t rank) {
        Peer& p = peers[rank];
        bool there = p.socket->receive_some(&p.inbox, p.inbox.size() + (size_t{1} << 22));
        p.heard = clock.now();
        uint32_t type = 0;
        for (std::string text; Socket::take_message(&p.inbox, &type, &text);) {
            std::lock_guard<std::mutex> lock(mutex);
            if (type == kData) {
                p.data.push_back(text);
            } else if (type == kGoodbye) {
                p.gone = true;
            } else if (type == kFailure) {
                // from rank 0: why all end; from another rank: what went wrong there
                int exit_code = 1;
                std::istringstream words(text);
                words >> exit_code >> std::ws;
                std::getline(words, text, '\0');
                exit_code = failure_code(exit_code);
                if (is_root()) end_program(name_of(rank) + ": " + text, exit_code);
                else end_program(text, exit_code, true);
            } else if (type == kHeartbeat) {
                int64_t begun = 0, ended = 0;
                std::istringstream(text) >> begun >> ended;
                if (begun != p.begun || ended != p.ended) p.since = clock.now();
                p.begun = begun, p.ended = ended;
            }
            arrived.notify_all();
        }
        if (!Socket::fits(p.inbox, Socket::kLongest)) end_program(name_of(rank) + " sent what is no message");
        if (!there && !p.gone && !stop) end_program(name_of(rank) + " died");
    }
    std::string name_of(size_t rank) const { return rank_name(static_cast<int>(rank), peers[rank].host); }

    void look_for_stalls() {
        for (size_t r = 0; r < peers.size(); r++)
            if (peers[r].socket && !peers[r].gone && clock.now() - peers[r].heard > timeout)
                end_program(
                    strf("%s hangs: nothing was heard of it for %g s (--comm-timeout)", name_of(r).c_str(), timeout));
        if (!is_root()) return;
        Peer& own = peers[0];
        int64_t begun = group.begun_, ended = group.ended_;
        if (begun != own.begun || ended != own.ended) own.since = clock.now();
        own.begun = begun, own.ended = ended;
        int64_t most = 0, least = INT64_MAX;
        for (const Peer& p : peers) {
            if (p.gone) return;  // the end of the run
            most = std::max(most, p.begun), least = std::min(least, p.begun);
        }
        bool waited = false;
        for (const Peer& p : peers) waited |= p.begun == most && p.ended < most && clock.now() - p.since > timeout;
        if (!waited) return;
        // A rank that itself waits in an earlier collective is not to blame: they end in some ranks before others.
        for (size_t r = 0; r < peers.size(); r++)
            if (peers[r].begun < most && peers[r].ended == peers[r].begun)
                end_program(strf("%s stalls: the others have waited for it for more than %g s (--comm-timeout)",
                                 name_of(r).c_str(), timeout));
        for (const Peer& p : peers)
            if (p.socket && clock.now() - p.heard > timeout / 2) return;  // that one hangs, as will show
        end_program(
            strf("rank 0 and all others wait in collective %lld for more than %g s (--comm-timeout): the "
                 "network between them fails",
                 static_cast<long long>(least), timeout));
    }

    // ---- small messages ----

    std::string next_from(size_t rank) {
        std::unique_lock<std::mutex> lock(mutex);
        Peer& p = peers[rank];
        arrived.wait(lock, [&] { return !p.data.empty() || p.gone; });
        if (p.data.empty()) throw Error(name_of(rank) + " has ended before the others");
        std::string text = std::move(p.data.front());
        p.data.pop_front();
        return text;
    }
};

Group::Group(const Ranks& ranks, double timeout) : ranks_(ranks), timeout_(timeout) {
    if (world() == 1) return;
    connections_ = std::make_unique<Connections>(*this, timeout);
    connections_->meet_all();
}

Group::~Group() {
    if (!connections_) return;
    for (auto& p : connections_->peers)
        if (p.socket) p.socket->send_message(kGoodbye, "");
}

void Group::fail(const std::string& message, int exit_code) {
    if (!connections_) return;
    // Rank 0 does not take the others' end, which follows, for deaths; the others are ended by rank 0.
    if (rank() == 0 && connections_->ending.exchange(true))
        for (;;) pause();  // the watcher already ends the program
    connections_->tell_all(message, failure_code(exit_code));
}

std::vector<std::string> Group::exchange(const std::string& mine) {
    std::vector<std::string> all(static_cast<size_t>(world()));
    all[static_cast<size_t>(rank())] = mine;
    if (!connections_) return all;
    begin_wait();
    auto& peers = connections_->peers;
    if (rank() == 0) {
        std::string packed;
        for (size_t r = 1; r < all.size(); r++) all[r] = connections_->next_from(r);
        for (const std::string& text : all) packed += std::to_string(text.size()) + " " + text;
        for (size_t r = 1; r < all.size(); r++) peers[r].socket->send_message(kData, packed);
    } else {
        peers[0].socket->send_message(kData, mine);
        std::string packed = connections_->next_from(0);
        size_t at = 0;
        for (std::string& text : all) {
            size_t space = packed.find(' ', at),
                   size = strtoul(packed.c_str() + std::min(at, packed.size()), nullptr, 10);
            if (space >= packed.size() || size > packed.size() - space - 1)
                throw Error(connections_->name_of(0) + " sent what is no message of all ranks");
            text = packed.substr(space + 1, size);
            at = space + 1 + size;
        }
    }
    end_wait();
    return all;
}

static std::vector<double> numbers(Group& group, double x) {
    if (group.world() == 1) return {x};
    std::vector<double> all;
    for (const std::string& text : group.exchange(strf("%a", x))) all.push_back(strtod(text.c_str(), nullptr));
    return all;
}
double Group::most(double x) {
    std::vector<double> all = numbers(*this, x);
    return *std::max_element(all.begin(), all.end());
}
double Group::sum(double x) {
    double total = 0;
    for (double each : numbers(*this, x)) total += each;
    return total;
}
