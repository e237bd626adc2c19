#include "llmc/ranks/meeting.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <thread>

#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/sha256.h"
#include "llmc/ranks/mpi.h"

namespace {

constexpr size_t kStrangersBytes = 512, kAnswersBytes = 4096;  // of a message
constexpr double kStrangersSeconds = 5;
constexpr size_t kStrangers = 256;  // at a time, besides the ranks; when more come, the first of them go

// Where rank 0 listens, as the file and MPI carry it.
struct Place {
    int port = 0;
    std::string secret, host;  // the name of rank 0's machine
    std::vector<std::string> addresses;

    std::string text() const {
        std::string all = strf("%d %s %s", port, secret.c_str(), host.c_str());
        for (const std::string& a : addresses) all += " " + a;
        return all + "\n";
    }
    // False: it is none.
    bool read(const std::string& from) {
        std::istringstream words(from);
        *this = {};
        if (!(words >> port >> secret >> host)) return false;
        for (std::string a; words >> a;) addresses.push_back(a);
        return true;
    }
};

void prepare(const Socket& socket) {
    int on = 1;
    setsockopt(socket.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// ---- the file ----

// Opens a file that only this user can have written; -1: there is none.
int open_own(const std::string& path) {
    int fd = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat info;
    if (fd >= 0 && (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_uid != geteuid())) close(fd), fd = -1;
    return fd;
}

std::string read_own(const std::string& path) {
    int fd = open_own(path);
    if (fd < 0) return "";
    std::string text(size_t{1} << 16, '\0');
    ssize_t n = read(fd, text.data(), text.size());
    close(fd);
    return text.substr(0, n > 0 ? static_cast<size_t>(n) : 0);
}

// Rank 0's file, there while it waits for the others. The lock, which ends with the process, tells it from what a
// killed job left behind.
class MeetingFile {
  public:
    MeetingFile(const std::string& path, const std::string& text) {
        int before = open_own(path);
        bool in_use = before >= 0 && flock(before, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        if (before >= 0) close(before);
        if (in_use)
            throw Error("another job like this one waits for its ranks at " + path +
                        "; wait until it runs, or give this one another directory with --fs-path (-pf)");
        try {
            replace_file(path, text, 0600);
        } catch (const Error& e) {
            throw Error(strf("%s; choose another directory with --fs-path (-pf)", e.what()));
        }
        path_ = path, fd_ = open_own(path);
        if (fd_ >= 0) flock(fd_, LOCK_EX | LOCK_NB);
    }
    ~MeetingFile() {
        unlink(path_.c_str());
        if (fd_ >= 0) close(fd_);
    }
    MeetingFile(const MeetingFile&) = delete;

  private:
    std::string path_;
    int fd_ = -1;
};

// ---- rank 0 ----

class Reception {
  public:
    Reception(const Ranks& ranks, double timeout)
        : ranks_(ranks), timeout_(timeout), clock_(std::min(1.0, timeout / 4)) {
        members_.resize(static_cast<size_t>(ranks.world));
        members_[0].host = own_host();
    }

    std::vector<Member> receive() {
        const Ranks& r = ranks_;
        Place place;
        place.port = r.port, place.host = own_host();
        place.secret = r.meeting == Ranks::Meeting::tcp ? r.secret : random_hex(32);
        place.addresses = r.address.empty() ? own_addresses() : std::vector<std::string>{r.address};
        Socket listener(listen_for(r, &place.port));
        secret_ = place.secret;
        std::unique_ptr<MeetingFile> file;
        if (r.meeting == Ranks::Meeting::file) file = std::make_unique<MeetingFile>(r.file, place.text());
        std::string text = place.text();
        if (r.meeting == Ranks::Meeting::mpi) mpi_broadcast_text(&text, 0, timeout_);
        for (missing_ = r.world - 1; missing_ > 0;) {
            if (clock_.now() > timeout_) throw_missing(place);
            serve(listener);
        }
        for (Member& m : members_)  // only when all have come does any of them go on
            if (m.socket) m.socket->send_message(kWelcome, "");
        return std::move(members_);
    }

  private:
    struct Stranger {
        std::unique_ptr<Socket> socket;
        std::string challenge, inbox;
        double until;
        bool done = false;
    };

    static int listen_for(const Ranks& r, int* port) {
        try {
            return listen_on(r.address, port);
        } catch (const Error&) {
            if (r.secret.empty()) throw;
        }
        return listen_on("", port);  // somebody translates addresses, and the secret keeps strangers out
    }
    // What comes within a moment: new connections, and the messages of those that are there.
    void serve(const Socket& listener) {
        std::vector<pollfd> wait{{listener.fd, POLLIN, 0}};
        for (Stranger& s : strangers_) wait.push_back({s.socket->fd, POLLIN, 0});
        poll(wait.data(), wait.size(), 100);
        for (size_t i = 0; i < strangers_.size() && missing_ > 0; i++) {
            Stranger& s = strangers_[i];
            if (wait[i + 1].revents) hear(s);
            if (s.socket && clock_.now() > s.until) s.done = true;
            refused_ |= s.done && s.socket;
        }
        std::erase_if(strangers_, [](const Stranger& s) { return s.done; });
        if (wait[0].revents) accept_one(listener);
    }
    void accept_one(const Socket& listener) {
        int fd = accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC);
        bool full = fd < 0 && (errno == EMFILE || errno == ENFILE);
        if ((full || strangers_.size() >= kStrangers + members_.size()) && !strangers_.empty())
            strangers_.erase(strangers_.begin());
        else if (full) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (fd < 0) return;
        Stranger s{std::make_unique<Socket>(fd), random_hex(16), "", clock_.now() + kStrangersSeconds};
        s.socket->send_if_possible(kHello, s.challenge, 0);
        strangers_.push_back(std::move(s));
    }
    // Reads; what is whole is answered, and a stranger that has shown the secret becomes a member.
    void hear(Stranger& s) {
        bool there = s.socket->receive_some(&s.inbox, Socket::kHeader + kStrangersBytes);
        uint32_t type = 0;
        std::string text;
        if (!Socket::fits(s.inbox, kStrangersBytes)) s.done = true;
        else if (Socket::take_message(&s.inbox, &type, &text)) {
            if (type == kJoin) admit(s, text);
            s.done = true;
        } else if (!there) s.done = true;
    }
    void admit(Stranger& s, const std::string& text) {
        std::istringstream words(text);
        std::string proof, rest, challenge, host;
        int rank = -1, world = -1;
        words >> proof >> std::ws;
        std::getline(words, rest, '\0');
        if (proof != hmac_sha256(secret_, "join " + s.challenge + " " + rest)) return;
        std::istringstream(rest) >> challenge >> rank >> world >> host;
        std::string wrong;
        if (world != ranks_.world)
            wrong = strf("%s was started as one of %d ranks, rank 0 as one of %d", rank_name(rank, host).c_str(), world,
                         ranks_.world);
        else if (rank < 1 || rank >= world || members_[static_cast<size_t>(rank)].socket)
            wrong = strf("two processes say that they are rank %d (one on %s)", rank, host.c_str());
        uint32_t type = wrong.empty() ? kWelcome : kFailure;
        std::string answer = strf("%u %s %s", type, challenge.c_str(), wrong.c_str());
        s.socket->send_message(type, hmac_sha256(secret_, "answer " + answer) + " " + wrong);
        if (!wrong.empty()) throw_to_all(wrong);
        prepare(*s.socket);
        members_[static_cast<size_t>(rank)] = {std::move(s.socket), host};
        missing_--;
    }

    [[noreturn]] void throw_missing(const Place& place) {
        std::string missing;
        for (size_t r = 1; r < members_.size(); r++)
            if (!members_[r].socket) missing += (missing.empty() ? "" : ", ") + std::to_string(r);
        std::string text =
            strf("rank %s of %d did not come within %g s (--comm-timeout)", missing.c_str(), ranks_.world, timeout_);
        if (!ranks_.address.empty()) text += "; rank 0 listened on " + with_port(ranks_.address, place.port);
        if (refused_)
            text += std::string("; somebody connected who did not show this job's secret") +
                    (ranks_.secret.empty() ? "" : " (TRAIN_GPT2_SECRET must be the same in all ranks)");
        throw_to_all(text);
    }
    [[noreturn]] void throw_to_all(const std::string& text) {
        for (Member& m : members_)
            if (m.socket) m.socket->send_message(kFailure, text);
        throw Error(text);
    }

    const Ranks& ranks_;
    const double timeout_;
    AwakeClock clock_;
    std::string secret_;
    std::vector<Member> members_;
    std::vector<Stranger> strangers_;
    int missing_ = 0;
    bool refused_ = false;
};

// ---- the others ----

class Visitor {
  public:
    Visitor(const Ranks& ranks, double timeout)
        : ranks_(ranks), timeout_(timeout), clock_(std::min(1.0, timeout / 4)) {}

    Member find() {
        const Ranks& r = ranks_;
        std::string text;
        if (r.meeting == Ranks::Meeting::mpi) mpi_broadcast_text(&text, r.rank, timeout_);
        Place place;
        if (r.meeting == Ranks::Meeting::tcp) place = {r.port, r.secret, "", {r.address}};
        while (clock_.now() < timeout_) {
            if (r.meeting == Ranks::Meeting::file) text = read_own(r.file);
            if (r.meeting != Ranks::Meeting::tcp) place.read(text);
            for (const std::string& host : place.addresses)
                if (auto socket = knock(host, place))
                    return wait_for_all(std::move(socket), place.host.empty() ? host : place.host);
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        std::string where = r.port > 0                          ? with_port(r.address, r.port)
                            : r.meeting == Ranks::Meeting::file ? "the address in " + r.file
                                                                : text;
        std::string hint;
        if (stranger_)
            hint = "; what answers there does not know this job's secret" +
                   std::string(r.secret.empty() ? "" : " (TRAIN_GPT2_SECRET must be the same in all ranks)");
        else if (r.one_machine && !place.host.empty() && place.host != own_host())
            hint = strf("; it is on %s, this rank on %s, and all were to be on one machine (--gpus-per-node, -pg)",
                        place.host.c_str(), own_host().c_str());
        else if (r.port > 0 && r.meeting == Ranks::Meeting::file && place.host.empty())
            hint = "; " + r.file +
                   " should say how: where ranks do not share that directory, give all the same "
                   "TRAIN_GPT2_SECRET";
        throw Error(strf("rank %d found no rank 0 at %s within %g s (--comm-timeout)%s", r.rank, where.c_str(),
                         timeout_, hint.c_str()));
    }

  private:
    // A connection to rank 0 that has shown that it is this job's; null: not there.
    std::unique_ptr<Socket> knock(const std::string& host, const Place& place) {
        const Ranks& r = ranks_;
        auto soon = [&] { return std::min(clock_.now() + kStrangersSeconds, timeout_); };
        int fd = connect_to(host, place.port, clock_, soon());
        if (fd < 0) return nullptr;
        auto socket = std::make_unique<Socket>(fd);
        uint32_t type = 0;
        std::string challenge, text, own = random_hex(16);
        auto hear = [&](std::string* words, size_t bytes) {
            return socket->receive_message(&type, words, clock_, soon(), bytes);
        };
        if (!hear(&challenge, kStrangersBytes) || type != kHello) return nullptr;
        std::string rest = strf("%s %d %d %s", own.c_str(), r.rank, r.world, own_host().c_str());
        socket->send_message(kJoin, hmac_sha256(place.secret, "join " + challenge + " " + rest) + " " + rest);
        bool answered = hear(&text, kAnswersBytes);
        size_t space = std::min(text.find(' '), text.size());
        std::string words = text.substr(std::min(space + 1, text.size()));
        std::string answer = strf("%u %s %s", type, own.c_str(), words.c_str());
        if (!answered || text.substr(0, space) != hmac_sha256(place.secret, "answer " + answer)) {
            stranger_ = true;
            return nullptr;
        }
        if (type == kFailure) throw Error(words);
        return socket;
    }
    Member wait_for_all(std::unique_ptr<Socket> socket, const std::string& host) {
        uint32_t type = 0;
        std::string text;
        if (!socket->receive_message(&type, &text, clock_, timeout_ + 5, Socket::kLongest)) type = 0;
        if (type == kFailure) throw Error(text);
        if (type != kWelcome) throw Error("rank 0 went away before all ranks had come");
        prepare(*socket);
        return {std::move(socket), host};
    }

    const Ranks& ranks_;
    const double timeout_;
    AwakeClock clock_;
    bool stranger_ = false;  // somebody was there, and not our rank 0
};

}  // namespace

std::string rank_name(int rank, const std::string& host) { return strf("rank %d (on %s)", rank, host.c_str()); }

std::vector<Member> meet(const Ranks& ranks, double timeout) {
    if (std::string why = ranks.address.empty() ? "" : why_unknown(ranks.address); !why.empty())
        throw UsageError(strf("there is no machine %s: %s; give rank 0's address with %s", ranks.address.c_str(),
                              why.c_str(), ranks.source.starts_with("RANK") ? "MASTER_ADDR" : "--server-ip (-ps)"));
    if (ranks.rank == 0) return Reception(ranks, timeout).receive();
    std::vector<Member> members(static_cast<size_t>(ranks.world));
    members[0] = Visitor(ranks, timeout).find();
    return members;
}
