#include "llmc/ranks/group.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>

#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/ranks/mpi.h"

namespace {

constexpr uint32_t kHello = 0x67707432, kWelcome = 1, kData = 2, kHeartbeat = 3, kFailure = 4, kGoodbye = 5;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Socket {
    int fd = -1;
    std::mutex write_mutex;
    explicit Socket(int descriptor) : fd(descriptor) {}
    ~Socket() {
        if (fd >= 0) close(fd);
    }
    Socket(const Socket&) = delete;

    // A message: type, length, bytes. False: the other end is gone.
    bool send_message(uint32_t type, const std::string& bytes) {
        std::lock_guard<std::mutex> lock(write_mutex);
        std::string all = message(type, bytes);
        return send_all(all.data(), all.size());
    }
    // The same, but it waits for no more than `seconds`, even if the other end reads nothing. For short messages.
    void send_if_possible(uint32_t type, const std::string& bytes, double seconds) {
        std::unique_lock<std::mutex> lock(write_mutex, std::try_to_lock);
        for (double end = now() + seconds; !lock && now() < end; (void)lock.try_lock())
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        if (!lock) return;
        std::string all = message(type, bytes);
        ssize_t sent = send(fd, all.data(), all.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) send_all(all.data() + sent, all.size() - static_cast<size_t>(sent));
    }
    // False: the other end is gone, or `seconds` are over.
    bool receive_message(uint32_t* type, std::string* bytes, double seconds) {
        std::string inbox;
        double end = now() + seconds;
        for (size_t wanted = kHeader; !take_message(&inbox, type, bytes);) {
            pollfd wait{fd, POLLIN, 0};
            double left = end - now();
            if (left <= 0 || poll(&wait, 1, static_cast<int>(1e3 * std::min(left, 1e5)) + 1) == 0) return false;
            if (inbox.size() >= kHeader) wanted = kHeader + length(inbox);
            if (wanted > kLongest || !receive_some(&inbox, wanted - inbox.size())) return false;
        }
        return true;
    }
    // What is there, up to n bytes, without waiting. False: the other end is gone.
    bool receive_some(std::string* inbox, size_t n) {
        char bytes[1 << 16];
        while (n > 0) {
            ssize_t got = recv(fd, bytes, std::min(n, sizeof bytes), MSG_DONTWAIT);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
            if (got <= 0) return false;
            inbox->append(bytes, static_cast<size_t>(got)), n -= static_cast<size_t>(got);
        }
        return true;
    }
    // Takes the first message out of what was received; false: it is not whole yet.
    static bool take_message(std::string* inbox, uint32_t* type, std::string* bytes) {
        if (inbox->size() < kHeader || inbox->size() - kHeader < length(*inbox)) return false;
        size_t n = length(*inbox);
        memcpy(type, inbox->data(), sizeof *type);
        *bytes = inbox->substr(kHeader, n);
        inbox->erase(0, kHeader + n);
        return true;
    }

  private:
    static constexpr size_t kHeader = 16, kLongest = size_t{1} << 32;
    static std::string message(uint32_t type, const std::string& bytes) {
        uint64_t header[2] = {type, bytes.size()};
        static_assert(sizeof header == kHeader);
        return std::string(reinterpret_cast<const char*>(header), sizeof header) + bytes;
    }
    static size_t length(const std::string& inbox) {
        uint64_t n = 0;
        memcpy(&n, inbox.data() + 8, sizeof n);
        return n;
    }
    bool send_all(const char* p, size_t n) {
        while (n > 0) {
            ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
            if (sent < 0 && errno == EINTR) continue;
            if (sent <= 0) return false;
            p += sent, n -= static_cast<size_t>(sent);
        }
        return true;
    }
};

// A socket that listens on `port` (0: any); its port comes back.
int listen_on(int* port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(*port));
    socklen_t size = sizeof address;
    if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
        std::string why = strerror(errno);
        if (fd >= 0) close(fd);
        throw Error(strf("rank 0 cannot listen on port %d: %s; choose another with MASTER_PORT or --server-port", *port,
                         why.c_str()));
    }
    *port = ntohs(address.sin_port);
    return fd;
}

// -1: nobody answers there.
int connect_to(const std::string& host, int port) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_family = AF_INET, hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return -1;
    int fd = -1;
    for (addrinfo* a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, 0);
        timeval limit{5, 0};  // also of connect()
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) close(fd), fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

std::string own_host() {
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    return name;
}
// Under which other machines may reach this one: its name, its addresses, and for those on the same machine the
// loopback's.
std::vector<std::string> own_addresses() {
    std::vector<std::string> all{own_host()};
    ifaddrs* interfaces = nullptr;
    if (getifaddrs(&interfaces) == 0) {
        for (ifaddrs* i = interfaces; i; i = i->ifa_next) {
            char text[INET_ADDRSTRLEN];
            if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET) continue;
            inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(i->ifa_addr)->sin_addr, text, sizeof text);
            all.push_back(text);
        }
        freeifaddrs(interfaces);
    }
    return all;
}

std::string rank_name(int rank, const std::string& host) { return strf("rank %d (on %s)", rank, host.c_str()); }

}  // namespace

struct Group::Connections {
    // of rank 0: one for each other rank, by rank; of the others: [0] leads to rank 0
    struct Peer {
        std::unique_ptr<Socket> socket;
        std::string host = "?";
        std::string inbox;  // the beginning of a message
        std::deque<std::string> data;
        double heard = now();
        int64_t begun = 0, ended = 0;
        double since = now();           // how long begun has been what it is
        std::atomic<bool> gone{false};  // said goodbye
    };
    Group& group;
    double timeout;
    std::vector<Peer> peers;
    std::mutex mutex;
    std::condition_variable arrived;
    std::atomic<bool> stop{false}, ending{false};
    Socket wake{eventfd(0, EFD_CLOEXEC)};  // ends the watcher's wait
    std::thread watcher;

    Connections(Group& g, double seconds) : group(g), timeout(seconds), peers(static_cast<size_t>(g.world())) {
        if (is_root()) peers[0].host = own_host();
    }
    ~Connections() {
        stop = true;
        eventfd_write(wake.fd, 1);
        if (watcher.joinable()) watcher.join();
    }
    bool is_root() const { return group.rank() == 0; }

    // ---- the meeting ----

    void meet() {
        double end = now() + timeout;
        if (is_root()) accept_all(end);
        else join(end);
        watcher = std::thread([this] { watch(); });
    }

    void accept_all(double end) {
        const Ranks& r = group.ranks();
        int port = r.meeting == Ranks::Meeting::tcp ? r.port : 0;
        Socket listener(listen_on(&port));
        std::string address = std::to_string(port);
        for (const std::string& a : own_addresses()) address += " " + a;
        struct Unlink {
            std::string path;
            ~Unlink() {
                if (!path.empty()) unlink(path.c_str());
            }
        } meeting_file;
        if (r.meeting == Ranks::Meeting::file) replace_file(r.file, address), meeting_file.path = r.file;
        if (r.meeting == Ranks::Meeting::mpi) mpi_broadcast_text(&address);
        int missing = group.world() - 1;
        while (missing > 0) {
            pollfd wait{listener.fd, POLLIN, 0};
            if (now() > end) throw_missing();
            if (poll(&wait, 1, 100) <= 0) continue;
            auto socket = std::make_unique<Socket>(accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC));
            uint32_t type = 0;
            std::string hello, host;
            int rank = -1, world = -1;
            if (!socket->receive_message(&type, &hello, 5) || type != kHello) continue;  // somebody else's connection
            std::istringstream(hello) >> rank >> world >> host;
            std::string wrong;
            if (world != group.world())
                wrong = strf("%s was started as one of %d ranks, rank 0 as one of %d", rank_name(rank, host).c_str(),
                             world, group.world());
            else if (rank < 1 || rank >= world || peers[static_cast<size_t>(rank)].socket)
                wrong = strf("two processes say that they are rank %d (one on %s)", rank, host.c_str());
            socket->send_message(wrong.empty() ? kWelcome : kFailure, wrong);
            if (!wrong.empty()) {
                for (Peer& p : peers)
                    if (p.socket) p.socket->send_message(kFailure, wrong);
                throw Error(wrong);
            }
            prepare(*socket);
            Peer& p = peers[static_cast<size_t>(rank)];
            p.socket = std::move(socket), p.host = host;
            missing--;
        }
        for (Peer& p : peers)  // only when all have come does any of them go on
            if (p.socket) p.socket->send_message(kWelcome, "");
    }
    [[noreturn]] void throw_missing() {
        std::string missing;
        for (size_t r = 1; r < peers.size(); r++)
            if (!peers[r].socket) missing += (missing.empty() ? "" : ", ") + std::to_string(r);
        std::string message =
            strf("rank %s of %d did not come within %g s (--comm-timeout)", missing.c_str(), group.world(), timeout);
        for (Peer& p : peers)
            if (p.socket) p.socket->send_message(kFailure, message);
        throw Error(message);
    }

    void join(double end) {
        const Ranks& r = group.ranks();
        std::string address, where;
        if (r.meeting == Ranks::Meeting::mpi) mpi_broadcast_text(&address);
        if (r.meeting == Ranks::Meeting::tcp) address = std::to_string(r.port) + " " + r.address;
        where = r.meeting == Ranks::Meeting::file  ? "the address in " + r.file
                : r.meeting == Ranks::Meeting::tcp ? r.address + ":" + std::to_string(r.port)
                                                   : address;
        while (now() < end) {
            if (r.meeting == Ranks::Meeting::file) {
                std::ifstream file(r.file);
                address.clear();
                std::getline(file, address);
            }
            std::istringstream words(address);
            int port = 0;
            std::string host;
            words >> port;
            while (port > 0 && words >> host) {
                int fd = connect_to(host, port);
                if (fd < 0) continue;
                auto socket = std::make_unique<Socket>(fd);
                uint32_t type = 0;
                std::string text;
                socket->send_message(kHello, strf("%d %d %s", group.rank(), group.world(), own_host().c_str()));
                if (!socket->receive_message(&type, &text, 5)) continue;  // not our rank 0
                if (type == kWelcome && !socket->receive_message(&type, &text, end - now() + 5)) type = 0;
                if (type == kFailure) throw Error(text);
                if (type != kWelcome) throw Error("rank 0 went away before all ranks had come");
                prepare(*socket);
                peers[0].socket = std::move(socket), peers[0].host = host;
                return;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        throw Error(
            strf("rank %d found no rank 0 at %s within %g s (--comm-timeout)", group.rank(), where.c_str(), timeout));
    }
    static void prepare(Socket& socket) {
        int on = 1;
        timeval forever{0, 0};
        setsockopt(socket.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(socket.fd, SOL_SOCKET, SO_SNDTIMEO, &forever, sizeof forever);
    }

    // ---- the watch ----

    // told: another rank has found it, and rank 0 says it for all.
    [[noreturn]] void end_program(const std::string& message, int exit_code = 1, bool told = false) {
        if (ending.exchange(true))
            for (;;) pause();  // the main thread ends the program, and says why
        tell_all(message, exit_code);
        if (!told) {
            fprintf(stderr, "error: %s; every rank ends, and the newest checkpoint is whole: go on with --resume\n",
                    message.c_str());
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
        double last_beat = 0, interval = std::min(1.0, timeout / 10);
        while (!stop) {
            std::vector<pollfd> wait{{wake.fd, POLLIN, 0}};
            std::vector<size_t> who;
            for (size_t r = 0; r < peers.size(); r++)
                if (peers[r].socket && !peers[r].gone)
                    wait.push_back({peers[r].socket->fd, POLLIN, 0}), who.push_back(r);
            poll(wait.data(), wait.size(), static_cast<int>(500 * interval) + 1);
            for (size_t i = 0; i < who.size() && !stop; i++)
                if (wait[i + 1].revents) read_from(who[i]);
            if (stop || now() - last_beat < interval) continue;
            last_beat = now();
            std::string beat =
                strf("%lld %lld", static_cast<long long>(group.begun_), static_cast<long long>(group.ended_));
            for (size_t r : who)
                if (!peers[r].gone) peers[r].socket->send_if_possible(kHeartbeat, beat, 0);
            look_for_stalls();
        }
    }

    void read_from(size_t rank) {
        Peer& p = peers[rank];
        bool there = p.socket->receive_some(&p.inbox, size_t{1} << 22);
        p.heard = now();
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
                if (is_root()) end_program(name_of(rank) + ": " + text, exit_code);
                else end_program(text, exit_code, true);
            } else if (type == kHeartbeat) {
                int64_t begun = 0, ended = 0;
                std::istringstream(text) >> begun >> ended;
                if (begun != p.begun || ended != p.ended) p.since = now();
                p.begun = begun, p.ended = ended;
            }
            arrived.notify_all();
        }
        if (!there && !p.gone && !stop) end_program(name_of(rank) + " died");
    }
    std::string name_of(size_t rank) const { return rank_name(static_cast<int>(rank), peers[rank].host); }

    void look_for_stalls() {
        for (size_t r = 0; r < peers.size(); r++)
            if (peers[r].socket && !peers[r].gone && now() - peers[r].heard > timeout)
                end_program(
                    strf("%s hangs: nothing was heard of it for %g s (--comm-timeout)", name_of(r).c_str(), timeout));
        if (!is_root()) return;
        Peer& own = peers[0];
        int64_t begun = group.begun_, ended = group.ended_;
        if (begun != own.begun || ended != own.ended) own.since = now();
        own.begun = begun, own.ended = ended;
        int64_t most = 0, least = INT64_MAX;
        for (const Peer& p : peers) {
            if (p.gone) return;  // the end of the run
            most = std::max(most, p.begun), least = std::min(least, p.begun);
        }
        bool waited = false;
        for (const Peer& p : peers) waited |= p.begun == most && p.ended < most && now() - p.since > timeout;
        if (!waited) return;
        // A rank that itself waits in an earlier collective is not to blame: they end in some ranks before others.
        for (size_t r = 0; r < peers.size(); r++)
            if (peers[r].begun < most && peers[r].ended == peers[r].begun)
                end_program(strf("%s stalls: the others have waited for it for more than %g s (--comm-timeout)",
                                 name_of(r).c_str(), timeout));
        for (const Peer& p : peers)
            if (p.socket && now() - p.heard > timeout / 2) return;  // that one hangs, as will show
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

Group::Group(const Ranks& ranks, double timeout) : ranks_(ranks) {
    if (world() == 1) return;
    connections_ = std::make_unique<Connections>(*this, timeout);
    connections_->meet();
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
    connections_->tell_all(message, exit_code);
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
            size_t space = packed.find(' ', at), size = std::stoul(packed.substr(at, space - at));
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
