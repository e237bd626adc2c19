// Communicator (MPI) between 1, 2, 3 and 4 ranks that mpirun started, and the host's streams.
#include "llmc/ranks/communicator.h"

#include <atomic>
#include <cmath>

#include "llmc/base/error.h"
#include "ranks_test.h"

namespace {

void expect_all_pass() {
    for (int world : {2, 3, 4}) {
        expect_mpirun_passes(world);
        if (::testing::Test::IsSkipped()) return;
    }
}

// What rank r gives: small whole numbers, whose sums are exact.
template <typename X>
std::vector<X> numbers(size_t n, int rank) {
    std::vector<X> x(n);
    for (size_t i = 0; i < n; i++) x[i] = static_cast<X>((static_cast<int>(i) * 7 + rank * 31) % 100 - 50);
    return x;
}
template <typename X>
std::vector<X> sums(size_t n, int world) {
    std::vector<X> sum(n);
    for (int r = 0; r < world; r++) {
        std::vector<X> each = numbers<X>(n, r);
        for (size_t i = 0; i < n; i++) sum[i] += each[i];
    }
    return sum;
}
template <typename X>
std::vector<X> slice(const std::vector<X>& x, size_t part, size_t n) {
    return {x.begin() + static_cast<long>(part * n), x.begin() + static_cast<long>((part + 1) * n)};
}

template <typename X>
void check_sums(Communicator& comm, HostStream& stream) {
    auto rank = static_cast<size_t>(comm.rank()), world = static_cast<size_t>(comm.size());
    for (size_t n : {size_t{0}, size_t{1}, size_t{7}, size_t{4099}, size_t{200001}}) {
        std::vector<X> data = numbers<X>(n, comm.rank());
        stream.wait(comm.all_reduce(data.data(), n, stream));
        EXPECT_EQ(data, sums<X>(n, comm.size())) << n;

        std::vector<X> in = numbers<X>(world * n, comm.rank()), out(n);
        stream.wait(comm.reduce_scatter(out.data(), in.data(), n, stream));
        EXPECT_EQ(out, slice(sums<X>(world * n, comm.size()), rank, n)) << n;
        EXPECT_EQ(in, numbers<X>(world * n, comm.rank())) << "the input stays";
        stream.wait(comm.reduce_scatter(in.data() + rank * n, in.data(), n, stream));  // in place
        EXPECT_EQ(slice(in, rank, n), out) << n;
    }
}
template <typename X>
void check_copies(Communicator& comm, HostStream& stream) {
    auto rank = static_cast<size_t>(comm.rank()), world = static_cast<size_t>(comm.size());
    for (size_t n : {size_t{0}, size_t{1}, size_t{5}, size_t{3001}, size_t{100003}}) {
        std::vector<X> all, gathered(world * n), mine = numbers<X>(n, comm.rank());
        for (int r = 0; r < comm.size(); r++)
            for (X x : numbers<X>(n, r)) all.push_back(x);
        stream.wait(comm.all_gather(gathered.data(), mine.data(), n, stream));
        EXPECT_TRUE(gathered == all) << n;

        std::vector<X> in_place(world * n);  // each rank has its own part alone
        std::copy(mine.begin(), mine.end(), in_place.begin() + static_cast<long>(rank * n));
        stream.wait(comm.all_gather(in_place.data(), in_place.data() + rank * n, n, stream));
        EXPECT_TRUE(in_place == all) << n;

        for (int root = 0; root < comm.size(); root++) {
            mine = numbers<X>(n, comm.rank());
            stream.wait(comm.broadcast(mine.data(), n, root, stream));
            EXPECT_TRUE(mine == numbers<X>(n, root)) << n;
        }
    }
}
void check_operations(Communicator& comm) {
    HostStream stream;
    check_sums<float>(comm, stream);
    check_sums<double>(comm, stream);
    check_copies<float>(comm, stream);
    check_copies<bf16>(comm, stream);
    check_copies<int8_t>(comm, stream);
}

TEST(HostStream, WorksBesideTheCallerInOrder) {
    HostStream stream;
    stream.wait();  // nothing to wait for
    std::atomic<int> done{0};
    std::vector<int> order;
    int64_t third = 0;
    for (int i = 0; i < 10; i++) {
        int64_t ticket = stream.add([&, i] {
            sleep_seconds(0.01);
            order.push_back(i);
            done++;
        });
        EXPECT_EQ(ticket, i + 1);
        if (i == 2) third = ticket;
    }
    EXPECT_LT(done, 10);
    stream.wait(third);
    EXPECT_GE(done, 3);
    stream.wait();
    EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
}
TEST(HostStream, WhatItsWorkThrowsIsThrownByTheWait) {
    std::atomic<int> after{0};
    {
        HostStream stream;
        stream.add([] { throw Error("broken"); });
        int64_t last = stream.add([&] { after++; });  // not done: it may need what was before it
        EXPECT_THROW(stream.wait(last), Error);
        EXPECT_EQ(after, 0);
        stream.wait(stream.add([&] { after++; }));  // thrown once
        EXPECT_EQ(after, 1);
        stream.add([&] { after++; });
    }
    EXPECT_EQ(after, 2);  // the end of the stream ends its work first
}

TEST(Communicator, OneRankCopies) {
    Group group(Ranks{}, 1);
    Communicator comm(group);
    EXPECT_EQ(comm.size(), 1);
    check_operations(comm);
}

TEST(Communicator, EveryOperation) {
    if (is_rank())
        return in_rank([](Group& group) {
            Communicator comm(group);
            EXPECT_EQ(comm.rank(), group.rank());
            EXPECT_EQ(comm.size(), group.world());
            check_operations(comm);
        });
    expect_all_pass();
}

TEST(Communicator, SumsAreTheSameBitsOnAllRanksAndEachTime) {
    if (is_rank())
        return in_rank([](Group& group) {
            Communicator comm(group);
            HostStream stream;
            for (size_t n : {size_t{3}, size_t{1001}, size_t{100003}}) {
                std::vector<float> first, parts;
                for (int time = 0; time < 4; time++) {
                    std::vector<float> x(n * static_cast<size_t>(comm.size()));
                    for (size_t i = 0; i < x.size(); i++)
                        x[i] = std::sin(static_cast<float>(i) + 1.7f * static_cast<float>(comm.rank()));
                    std::vector<float> part(n), whole = x;
                    comm.reduce_scatter(part.data(), x.data(), n, stream);
                    comm.all_reduce(whole.data(), whole.size(), stream);
                    stream.wait();
                    if (time == 0) first = whole, parts = part;
                    EXPECT_TRUE(whole == first);
                    EXPECT_TRUE(part == parts);
                }
                std::string bits(reinterpret_cast<const char*>(first.data()), first.size() * sizeof(float));
                for (const std::string& other : group.exchange(bits)) EXPECT_TRUE(other == bits) << n;
            }
        });
    expect_all_pass();
}

// Many operations under way, the group's messages and computing at the same time, ranks that are early and late.
TEST(Communicator, OperationsGoOnBesideTheCaller) {
    if (is_rank())
        return in_rank([](Group& group) {
            Communicator comm(group);
            HostStream stream;
            constexpr size_t n = 5001;
            std::vector<std::vector<float>> x;
            for (int i = 0; i < 40; i++) x.push_back(numbers<float>(n, comm.rank() + i));
            std::vector<int64_t> tickets;
            for (auto& each : x) {
                tickets.push_back(comm.all_reduce(each.data(), n, stream));
                if (tickets.size() % 8 == 0) sleep_seconds(0.002 * comm.rank());
            }
            group.barrier();
            for (size_t i = 0; i < x.size(); i++) {
                stream.wait(tickets[i]);
                std::vector<float> want(n);
                for (int r = 0; r < comm.size(); r++) {
                    std::vector<float> each = numbers<float>(n, r + static_cast<int>(i));
                    for (size_t j = 0; j < n; j++) want[j] += each[j];
                }
                EXPECT_EQ(x[i], want) << i;
            }
        });
    expect_all_pass();
}

TEST(Communicator, OtherRanksThanMpirunsAreRefused) {
    if (is_rank()) return in_rank([](Group& group) { Communicator comm(group); });
    auto ranks = start_ranks(2);  // plain processes
    for (auto& rank : ranks) EXPECT_EQ(rank->wait(30), 1) << rank->out();
    std::string said = ranks[0]->err();
    if (!what_lacks(said).empty()) GTEST_SKIP() << what_lacks(said);
    EXPECT_NE(said.find("MPI says 0 of 1: start the CPU program's ranks with mpirun"), std::string::npos) << said;
}

// Error paths: a rank that throws, or dies, while the others wait for it in a collective operation.
TEST(Communicator, NobodyWaitsForARankThatFailed) {
    if (is_rank())
        return in_rank([](Group& group) {
            Communicator comm(group);
            HostStream stream;
            std::vector<float> x(1000);
            for (int i = 0;; i++) {
                if (i == 5 && comm.rank() == 1) {
                    if (test_argument("TEST_HOW") == "throw") throw Error("the disk is full");
                    if (test_argument("TEST_HOW") == "stall") sleep_seconds(600);
                    raise(SIGKILL);
                }
                stream.wait(comm.all_reduce(x.data(), x.size(), stream));
            }
        });
    for (std::string how : {"throw", "kill", "stall"}) {
        SCOPED_TRACE(how);
        auto ranks = start_mpirun(3, {{"TEST_HOW", how}, {"TEST_TIMEOUT_S", "2"}});
        if (!ranks) GTEST_SKIP() << "no mpirun (package openmpi-bin)";
        int code = ranks->wait(100);
        std::string err = ranks->err();
        if (!what_lacks(err).empty()) GTEST_SKIP() << what_lacks(err);
        EXPECT_TRUE(code != 0 && code != -1) << code;
        std::string part = how == "throw" ? ": the disk is full" : how == "stall" ? " stalls" : "";
        EXPECT_NE(err.find(part), std::string::npos) << err;
    }
}

// When all have said goodbye, and MPI ends, nobody watches any more.
TEST(Communicator, ARankThatHangsWhileMpiEndsHoldsNobody) {
    if (is_rank())
        return in_rank([](Group& group) {
            Communicator comm(group);
            if (std::to_string(group.rank()) == test_argument("TEST_VICTIM"))
                atexit([] { raise(SIGSTOP); });  // comes before MPI's own
            else printf("nothing is lost\n");
        });
    for (const char* victim : {"0", "2"}) {
        auto ranks = start_mpirun(3, {{"TEST_VICTIM", victim}, {"TEST_TIMEOUT_S", "2"}});
        if (!ranks) GTEST_SKIP() << "no mpirun (package openmpi-bin)";
        int code = ranks->wait(30);
        std::string err = ranks->err();
        if (!what_lacks(err).empty()) GTEST_SKIP() << what_lacks(err);
        // Open MPI 4.1's mpirun sometimes dies of a signal of its own while it clears up after them, or (-1) waits for the
        // stopped rank without end. What a rank says, and that it ends, is ours.
        EXPECT_TRUE(code == 1 || code == 128 + SIGSEGV || code == -1) << code << ": " << err;
        EXPECT_NE(err.find("error: MPI does not end within 2 s (--comm-timeout): a rank hangs"), std::string::npos)
            << err;
        EXPECT_NE(ranks->out().find("nothing is lost"), std::string::npos);
    }
}

}  // namespace
