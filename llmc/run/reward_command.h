// --reward-command: a program that says what answers are worth. It reads a JSON object a line and answers each with a line, a
// number, and lives on for the next. Where it ends, it is started again and asked once more.
#pragma once
#include <sys/types.h>
#include <string>
#include <vector>

class RewardCommand {
  public:
    // By /bin/sh; seconds: within which each answer must come.
    RewardCommand(std::string command, double seconds) : command_(std::move(command)), seconds_(seconds) {}
    ~RewardCommand() { stop(); }
    RewardCommand(const RewardCommand&) = delete;

    // A number for each line (without its end). Error, with the program's last words: it does not answer in time, answers
    // something that is no number, or ends again and again at one line.
    std::vector<double> ask(const std::vector<std::string>& lines);

  private:
    static constexpr int kDeaths = 3;  // at one line
    void start();
    void stop();
    void hear();  // what it says to standard error
    std::string ending();
    [[noreturn]] void fail(const std::string& what, const std::string& line);

    std::string command_;
    double seconds_;
    pid_t pid_ = -1;
    int in_ = -1, out_ = -1, err_ = -1;  // its standard input, output and error
    std::string last_words_;
};
