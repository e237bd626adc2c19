// Downloads: whole, gone on with, tried again, refused (data/fetch.sh).
#include "test/fetch_fixture.h"

namespace {

TEST_F(Fetch, WholeFileAndOnlyOnce) {
    serve_shakespeare();
    CommandResult first = shakespeare();
    EXPECT_EQ(first.exit_code, 0) << first.err;
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_FALSE(exists("data/download/tinyshakespeare.txt.part"));
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(server.total_requests(), 1);
}

TEST_F(Fetch, GoesOnWhereAKilledDownloadStopped) {
    serve_shakespeare();
    write("data/download/tinyshakespeare.txt.part", text_of(SHAKESPEARE).substr(0, 700001));
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_EQ(server.body_bytes, static_cast<int64_t>(SHAKESPEARE) - 700001);
}

TEST_F(Fetch, GoesOnAfterCutConnections) {
    // more cuts than FETCH_TRIES: every one brings something, so none is the last
    serve_shakespeare({{.send_only = 300000}, {.send_only = 1}, {.send_only = 300000}, {.send_only = 300000}, {}});
    CommandResult result = shakespeare();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_EQ(server.body_bytes, static_cast<int64_t>(SHAKESPEARE));
    EXPECT_EQ(server.total_requests(), 5);
}

TEST_F(Fetch, ResumesThroughARedirect) {
    serve_shakespeare({{.redirect = "/cdn"}});
    server.files["/cdn"] = text_of(SHAKESPEARE);
    server.replies["/cdn"] = {{.send_only = 1000}, {}};
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_EQ(server.body_bytes, static_cast<int64_t>(SHAKESPEARE));
}

TEST_F(Fetch, PartThatIsWholeNeedsNoBytes) {
    serve_shakespeare();
    write("data/download/tinyshakespeare.txt.part", text_of(SHAKESPEARE));
    CommandResult result = shakespeare();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    EXPECT_EQ(server.body_bytes, 0);
}

TEST_F(Fetch, StartsAgainWhereResumingCannotWork) {
    const std::string part = "data/download/tinyshakespeare.txt.part";
    serve_shakespeare({{.ranges = false}});
    write(part, text_of(SHAKESPEARE).substr(0, 1000));
    EXPECT_EQ(shakespeare().exit_code, 0) << "server without ranges";
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    fs::remove(text_file);
    serve_shakespeare();
    write(part, text_of(SHAKESPEARE + 5));
    EXPECT_EQ(shakespeare().exit_code, 0) << "part longer than the file";
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    fs::remove(text_file);
    serve_shakespeare({{.send_only = 1000, .ranges = false}});
    CommandResult result = shakespeare();
    expect_refused(result, "data/download/tinyshakespeare.txt", "could not fetch");
    EXPECT_NE(result.out.find("cannot resume"), std::string::npos) << result.out;
}

TEST_F(Fetch, TriesAgainWhenTheServerIsBusy) {
    serve_shakespeare({{.status = 503}, {.status = 429}, {}});
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
    fs::remove(text_file);
    serve_shakespeare({{.status = 503}});
    expect_refused(shakespeare(), "data/download/tinyshakespeare.txt", "busy (HTTP 503)");
    EXPECT_EQ(server.total_requests(), 3 + 3);
    EXPECT_FALSE(exists("data/download/tinyshakespeare.txt.part"));
}

TEST_F(Fetch, MissingFileIsNotTriedAgain) {
    expect_refused(shakespeare(), "data/download/tinyshakespeare.txt", "no such file");
    EXPECT_EQ(server.total_requests(), 1);
    EXPECT_FALSE(exists("data/download/tinyshakespeare.txt.part"));
}

TEST_F(Fetch, NobodyListens) {
    CommandResult result = run("data/tinyshakespeare.sh", "GITHUB_RAW=http://127.0.0.1:1");
    expect_refused(result, "data/download/tinyshakespeare.txt", "could not fetch data/download/tinyshakespeare.txt");
}

TEST_F(Fetch, RefusesWrongLengths) {
    const std::string name = "data/download/tinyshakespeare.txt";
    serve_shakespeare({{.length_error = 10, .ranges = false}});
    expect_refused(shakespeare(), name, "could not fetch");
    fs::remove(dir / (name + ".part"));
    serve_shakespeare({{.length_error = -10}});
    expect_refused(shakespeare(), name, "instead of 1115394");
    fs::remove(dir / (name + ".part"));
    serve_shakespeare();
    server.files[SHAKESPEARE_PATH].pop_back();
    expect_refused(shakespeare(), name, "has 1115393 bytes instead of 1115394");
    // what was refused is not kept as a start for the next try
    serve_shakespeare();
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
}

TEST_F(Fetch, RefusesAWebPage) {
    for (const char* page : {"<!DOCTYPE html><html>Sign in</html>", "\n  <HTML>\n", "<?xml version='1.0'?><Error/>"}) {
        server.files[SHAKESPEARE_PATH] = page;
        expect_refused(shakespeare(), "data/download/tinyshakespeare.txt", "is a web page");
    }
}

TEST_F(Fetch, BrokenFileIsFetchedAgainButNotLost) {
    write("data/download/tinyshakespeare.txt", "short");
    CommandResult result = shakespeare();
    EXPECT_NE(result.exit_code, 0);
    EXPECT_EQ(read_text(text_file), "short");
    serve_shakespeare();
    EXPECT_EQ(shakespeare().exit_code, 0);
    EXPECT_EQ(read_text(text_file), text_of(SHAKESPEARE));
}

TEST_F(Fetch, FullDisk) {
    serve_shakespeare();
    fs::create_directories(dir / "data/download");
    fs::create_symlink("/dev/full", dir / "data/download/tinyshakespeare.txt.part");
    expect_refused(shakespeare(), "data/download/tinyshakespeare.txt", "is the disk full?");
    EXPECT_EQ(server.total_requests(), 1);
}

TEST_F(Fetch, OneDownloadOfAFileAtATime) {
    serve_shakespeare();
    fs::create_directories(dir / "data/download");
    CommandResult result = run("-c 'flock data/download/tinyshakespeare.txt.part bash data/tinyshakespeare.sh'");
    expect_refused(result, "data/download/tinyshakespeare.txt", "by another process");
    EXPECT_EQ(server.total_requests(), 0);
}

}  // namespace
