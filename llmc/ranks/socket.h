// A TCP connection that carries messages (type, length, bytes), and the addresses by which machines are reached.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>
#include "llmc/ranks/awake_clock.h"

enum MessageType : uint32_t { kHello = 0x67707433, kJoin = 1, kWelcome, kData, kHeartbeat, kFailure, kGoodbye };

class Socket {
  public:
    int fd = -1;
    explicit Socket(int descriptor) : fd(descriptor) {}
    ~Socket();
    Socket(const Socket&) = delete;

    static constexpr size_t kLongest = size_t{1} << 30;  // bytes of a message between those who know each other

    // False: the other end is gone.
    bool send_message(uint32_t type, const std::string& bytes);
    // The same, but it waits for no more than `seconds`, even if the other end reads nothing. For short messages.
    void send_if_possible(uint32_t type, const std::string& bytes, double seconds);
    // False: the other end is gone, the clock says `until`, or the message is longer than `limit`.
    bool receive_message(uint32_t* type, std::string* bytes, AwakeClock& clock, double until, size_t limit);
    // What is there, until the inbox has `n` bytes, without waiting. False: the other end is gone.
    bool receive_some(std::string* inbox, size_t n);
    // Takes the first message out of what was received; false: it is not whole yet.
    static bool take_message(std::string* inbox, uint32_t* type, std::string* bytes);
    // Whether the first message, as far as it says, has at most `limit` bytes.
    static bool fits(const std::string& inbox, size_t limit);
    static constexpr size_t kHeader = 16;

  private:
    bool send_all(const char* p, size_t n);
    std::mutex write_mutex_;
};

// Sockets that listen on `port` (0: any, which comes back) of that address of this machine, "" for all of them.
// Error: the port is in use, or the address is none of this machine.
int listen_on(const std::string& address, int* port);
// -1: nobody answers there until the clock says `until`.
int connect_to(const std::string& host, int port, AwakeClock& clock, double until);
// Why a name means no address; "" if it does. A name server that does not answer is asked for a few seconds.
std::string why_unknown(const std::string& host);

std::string own_host();
// Under which other machines may reach this one: its name and its addresses.
std::vector<std::string> own_addresses();
std::string with_port(const std::string& host, int port);  // "10.0.0.1:29500", "[::1]:29500"
