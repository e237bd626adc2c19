#include "llmc/run/reward_command.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/base/system.h"

extern char** environ;

constexpr size_t kLastWords = 2000;

void RewardCommand::start() {
    int in[2], out[2], err[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0)
        throw Error(strf("--reward-command: no pipe: %s", strerror(errno)));
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, in[0], 0);
    posix_spawn_file_actions_adddup2(&files, out[1], 1);
    posix_spawn_file_actions_adddup2(&files, err[1], 2);
    posix_spawnattr_t
        attributes;  // a group of its own, so that a signal that ends the run lets it finish, and all of it can be ended
    posix_spawnattr_init(&attributes);
    sigset_t pipe_signal;
    sigemptyset(&pipe_signal), sigaddset(&pipe_signal, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &pipe_signal);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    const char* const arguments[] = {"sh", "-c", command_.c_str(), nullptr};
    const int error = posix_spawn(&pid_, "/bin/sh", &files, &attributes, const_cast<char* const*>(arguments), environ);
    posix_spawn_file_actions_destroy(&files), posix_spawnattr_destroy(&attributes);
    close(in[0]), close(out[1]), close(err[1]);
    in_ = in[1], out_ = out[0], err_ = err[0];
    for (int fd : {in_, out_, err_}) fcntl(fd, F_SETFL, O_NONBLOCK);
    if (error != 0)
        throw Error(strf("--reward-command '%s': cannot be started: %s", command_.c_str(), strerror(error)));
}

// Gives it a second to end by itself, as its input has ended; then it and what it has started are killed.
void RewardCommand::stop() {
    if (pid_ < 0) return;
    if (in_ >= 0) close(in_);
    for (int i = 0; i < 100 && waitpid(pid_, nullptr, WNOHANG) == 0; i++) usleep(10'000);
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    for (int fd : {out_, err_})
        if (fd >= 0) close(fd);
    pid_ = in_ = out_ = err_ = -1;
}

void RewardCommand::hear() {
    char bytes[4096];
    for (ssize_t n; (n = read(err_, bytes, sizeof bytes)) > 0;) {
        last_words_.append(bytes, static_cast<size_t>(n));
        if (last_words_.size() > kLastWords) last_words_.erase(0, last_words_.size() - kLastWords);
    }
}

// How it ended, once its output has.
std::string RewardCommand::ending() {
    int status = 0;
    const double end = seconds_now() + 1;
    pid_t done = 0;
    while ((done = waitpid(pid_, &status, WNOHANG)) == 0 && seconds_now() < end) usleep(5'000);
    hear();
    if (done == 0) return "closed its output";
    kill(-pid_, SIGKILL);
    pid_ = -1;
    for (int* fd : {&in_, &out_, &err_}) close(*fd), *fd = -1;
    return WIFSIGNALED(status) ? strf("was ended by signal %d", WTERMSIG(status))
                               : strf("ended with status %d", WEXITSTATUS(status));
}

void RewardCommand::fail(const std::string& what, const std::string& line) {
    if (err_ >= 0) hear();
    while (!last_words_.empty() && strchr("\n\r ", last_words_.back())) last_words_.pop_back();
    const size_t from = last_words_.find_last_of('\n');
    const std::string words = from == std::string::npos ? last_words_ : last_words_.substr(from + 1);
    throw Error(
        strf("--reward-command '%s' %s; it was asked %s; %s", command_.c_str(), what.c_str(),
             printable(line.substr(0, 300)).c_str(),
             words.empty() ? "it said nothing to standard error" : ("its last words: " + printable(words)).c_str()));
}

std::vector<double> RewardCommand::ask(const std::vector<std::string>& lines) {
    std::signal(SIGPIPE, SIG_IGN);  // that it has ended is an answer, too
    std::vector<double> answers;
    std::string heard, to_say;
    size_t said = 0;  // bytes of to_say
    int deaths = 0;
    double deadline = 0;
    const auto say_the_rest = [&] {
        to_say.clear(), heard.clear(), said = 0;
        for (size_t i = answers.size(); i < lines.size(); i++) to_say += lines[i] + "\n";
        if (pid_ < 0) start();
        deadline = seconds_now() + seconds_;
    };
    const auto died = [&] {
        const std::string how = ending();
        stop();
        if (++deaths == kDeaths) fail(strf("%s, %d times at one answer", how.c_str(), deaths), lines[answers.size()]);
        say_the_rest();
    };
    if (lines.empty()) return answers;
    say_the_rest();
    while (answers.size() < lines.size()) {
        const bool speaks = said < to_say.size();
        pollfd fds[] = {{out_, POLLIN, 0}, {err_, POLLIN, 0}, {speaks ? in_ : -1, POLLOUT, 0}};
        const double left = deadline - seconds_now();
        if (left <= 0) {
            const std::string& line = lines[answers.size()];
            kill(-pid_, SIGKILL);
            fail(strf("has not answered within %g s (--reward-timeout)", seconds_), line);
        }
        poll(fds, 3, static_cast<int>(std::min(left, 3600.0) * 1000) + 1);
        if (fds[1].revents & POLLIN) hear();
        if (fds[2].revents != 0) {
            const ssize_t n = write(in_, to_say.data() + said, to_say.size() - said);
            if (n > 0) said += static_cast<size_t>(n);
            else if (errno != EAGAIN && errno != EINTR && !(fds[0].revents & POLLIN)) {
                died();
                continue;
            }
        }
        if (fds[0].revents == 0) continue;
        char bytes[4096];
        const ssize_t n = read(out_, bytes, sizeof bytes);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n <= 0) {
            died();
            continue;
        }
        heard.append(bytes, static_cast<size_t>(n));
        for (size_t end; answers.size() < lines.size() && (end = heard.find('\n')) != std::string::npos;) {
            const std::string word = heard.substr(0, end);
            heard.erase(0, end + 1);
            char* stopped = nullptr;
            const double x = std::strtod(word.c_str(), &stopped);
            const bool number =
                stopped != word.c_str() &&
                word.find_first_not_of(" \t\r", static_cast<size_t>(stopped - word.c_str())) == std::string::npos;
            if (!number || !std::isfinite(x))
                fail(strf("answered '%s', which is no finite number", printable(word.substr(0, 100)).c_str()),
                     lines[answers.size()]);
            answers.push_back(x);
            deaths = 0, deadline = seconds_now() + seconds_;
        }
    }
    return answers;
}
