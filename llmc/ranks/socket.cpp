#include "llmc/ranks/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "llmc/base/error.h"

namespace {

std::string packed(uint32_t type, const std::string& bytes) {
    uint64_t header[2] = {type, bytes.size()};
    static_assert(sizeof header == Socket::kHeader);
    return std::string(reinterpret_cast<const char*>(header), sizeof header) + bytes;
}
uint64_t length(const std::string& inbox) {
    uint64_t n = 0;
    memcpy(&n, inbox.data() + 8, sizeof n);
    return n;
}

struct Addresses {
    addrinfo* list = nullptr;
    int error = 0;
    Addresses(const std::string& host, int port) {
        addrinfo hints{};
        hints.ai_socktype = SOCK_STREAM, hints.ai_flags = AI_PASSIVE;
        error = getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &list);
    }
    ~Addresses() {
        if (list) freeaddrinfo(list);
    }
    Addresses(const Addresses&) = delete;
};

}  // namespace

// ---- messages ----

Socket::~Socket() {
    if (fd >= 0) close(fd);
}

bool Socket::send_message(uint32_t type, const std::string& bytes) {
    std::lock_guard<std::mutex> lock(write_mutex_);
    std::string all = packed(type, bytes);
    return send_all(all.data(), all.size());
}

void Socket::send_if_possible(uint32_t type, const std::string& bytes, double seconds) {
    std::unique_lock<std::mutex> lock(write_mutex_, std::try_to_lock);
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (; !lock && std::chrono::steady_clock::now() < end; (void)lock.try_lock())
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    if (!lock) return;
    std::string all = packed(type, bytes);
    ssize_t sent = send(fd, all.data(), all.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) send_all(all.data() + sent, all.size() - static_cast<size_t>(sent));
}

bool Socket::send_all(const char* p, size_t n) {
    while (n > 0) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        p += sent, n -= static_cast<size_t>(sent);
    }
    return true;
}

bool Socket::receive_message(uint32_t* type, std::string* bytes, AwakeClock& clock, double until, size_t limit) {
    std::string inbox;
    while (!take_message(&inbox, type, bytes)) {
        if (clock.now() > until || !fits(inbox, limit)) return false;
        pollfd wait{fd, POLLIN, 0};
        if (poll(&wait, 1, 100) <= 0) continue;
        // no byte of the message after it
        size_t wanted = inbox.size() < kHeader ? kHeader : kHeader + length(inbox);
        if (!receive_some(&inbox, wanted)) return take_message(&inbox, type, bytes);
    }
    return true;
}

bool Socket::receive_some(std::string* inbox, size_t n) {
    char bytes[1 << 16];
    while (inbox->size() < n) {
        ssize_t got = recv(fd, bytes, std::min(n - inbox->size(), sizeof bytes), MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
        if (got <= 0) return false;
        inbox->append(bytes, static_cast<size_t>(got));
    }
    return true;
}

bool Socket::take_message(std::string* inbox, uint32_t* type, std::string* bytes) {
    if (inbox->size() < kHeader || inbox->size() - kHeader < length(*inbox)) return false;
    size_t n = length(*inbox);
    memcpy(type, inbox->data(), sizeof *type);
    *bytes = inbox->substr(kHeader, n);
    inbox->erase(0, kHeader + n);
    return true;
}

bool Socket::fits(const std::string& inbox, size_t limit) { return inbox.size() < kHeader || length(inbox) <= limit; }

// ---- addresses ----

int listen_on(const std::string& address, int* port) {
    Addresses found(address, *port);
    int why = EADDRNOTAVAIL;
    // A name that has both sorts means the IPv4 address, which all know; an IPv6 socket for all addresses serves both.
    const bool all = address.empty();
    for (int family : {all ? AF_INET6 : AF_INET, all ? AF_INET : AF_INET6})
        for (addrinfo* a = found.list; a; a = a->ai_next) {
            if (a->ai_family != family) continue;
            int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, off = 0;
            if (fd < 0) continue;
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
            if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
            sockaddr_storage own{};
            socklen_t size = sizeof own;
            if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 1024) == 0 &&
                getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0) {
                *port = ntohs(family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&own)->sin6_port
                                                 : reinterpret_cast<sockaddr_in*>(&own)->sin_port);
                return fd;
            }
            if (errno != EADDRNOTAVAIL) why = errno;
            close(fd);
        }
    if (why == EADDRNOTAVAIL)
        throw Error(
            strf("rank 0 cannot listen on %s: it is no address of this machine; give rank 0's own with "
                 "MASTER_ADDR or --server-ip (-ps)",
                 address.c_str()));
    throw Error(strf("rank 0 cannot listen on port %d: %s; choose another with MASTER_PORT or --server-port", *port,
                     strerror(why)));
}

int connect_to(const std::string& host, int port, AwakeClock& clock, double until) {
    Addresses found(host, port);
    for (addrinfo* a = found.list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
        if (fd < 0) continue;
        socklen_t size = sizeof error;
        pollfd wait{fd, POLLOUT, 0};
        bool begun = connect(fd, a->ai_addr, a->ai_addrlen) == 0 || errno == EINPROGRESS;
        while (begun && poll(&wait, 1, 100) <= 0 && clock.now() < until) {
        }
        if (begun && wait.revents && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0 &&
            fcntl(fd, F_SETFL, 0) == 0)
            return fd;
        close(fd);
    }
    return -1;
}

std::string why_unknown(const std::string& host) {
    for (int tries = 0;; tries++) {
        Addresses found(host, 1);
        if (found.error == 0) return "";
        if (found.error != EAI_AGAIN || tries == 3) return gai_strerror(found.error);
        std::this_thread::sleep_for(std::chrono::seconds(1));
    }
}

std::string own_host() {
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    return name;
}

std::vector<std::string> own_addresses() {
    std::vector<std::string> all{own_host()};
    ifaddrs* interfaces = nullptr;
    if (getifaddrs(&interfaces) != 0) return all;
    for (ifaddrs* i = interfaces; i; i = i->ifa_next) {
        char text[NI_MAXHOST];
        if (!i->ifa_addr || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6)) continue;
        socklen_t size = i->ifa_addr->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
        if (getnameinfo(i->ifa_addr, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) continue;
        if (!strchr(text, '%')) all.push_back(text);  // of one cable only
    }
    freeifaddrs(interfaces);
    return all;
}

std::string with_port(const std::string& host, int port) {
    return (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + std::to_string(port);
}
