// How the ranks of a job find each other: every one of them connects to rank 0.
//
// Rank 0 listens on the one address by which it is reached, the loopback's where all ranks are on one machine, and
// trusts nobody who connects. Each side shows first that it knows the job's secret, without saying it:
//
//   rank 0 -> rank r    challenge                            random, for this connection alone
//   rank r -> rank 0    HMAC(secret, challenge, rest), own challenge, rank, world, host
//   rank 0 -> rank r    HMAC(secret, own challenge, rest), welcome or why not
//
// Until then a connection may send a few hundred bytes and has a few seconds, beside any number of others. The secret
// is drawn by rank 0 and travels by a file that only this user can read, or by MPI; where neither is at hand (tcp between
// machines), the user's TRAIN_GPT2_SECRET is it.
#pragma once
#include <memory>
#include <string>
#include <vector>
#include "llmc/ranks/ranks.h"
#include "llmc/ranks/socket.h"

struct Member {
    std::unique_ptr<Socket> socket;
    std::string host = "?";
};

// Of rank 0: one for each other rank, by rank; of the others: [0] leads to rank 0. Error, after `timeout` seconds at
// most, names the ranks that did not come; at once, an address that means nothing, a port in use, or ranks that
// contradict each other.
std::vector<Member> meet(const Ranks& ranks, double timeout);

std::string rank_name(int rank, const std::string& host);
