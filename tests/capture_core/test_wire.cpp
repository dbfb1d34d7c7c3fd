// What goes over the wire: the WAV header, encoded values, and an exchange that survives any server.
#include "check.h"

using namespace mww_capture_core;

static void wav_header() {
  const uint8_t wanted[WAV_HEADER_BYTES] = {
      'R', 'I', 'F', 'F', 0x24, 0x77, 0x01, 0x00, 'W', 'A', 'V', 'E', 'f', 'm', 't', ' ', 16, 0, 0, 0, 1, 0,
      1,   0,   0x80, 0x3E, 0,   0,    0x00, 0x7D, 0,   0,   2,   0,   16,  0,   'd', 'a', 't', 'a', 0, 0x77, 1, 0};
  uint8_t found[WAV_HEADER_BYTES];
  write_wav_header(found, 48000);
  CHECK(std::memcmp(found, wanted, sizeof(wanted)) == 0);
  write_wav_header(found, 0);
  CHECK_EQUAL(found[4], 36);
  CHECK_EQUAL(found[40], 0);
}

static void encoding() {
  CHECK_EQUAL(percent_encode("hey_kitchen-1.a~Z9"), std::string("hey_kitchen-1.a~Z9"));
  CHECK_EQUAL(percent_encode("hey kitchen"), std::string("hey%20kitchen"));
  CHECK_EQUAL(percent_encode("schöne Küche"), std::string("sch%C3%B6ne%20K%C3%BCche"));
  CHECK_EQUAL(percent_encode("a\r\nX-Evil: 1"), std::string("a%0D%0AX-Evil%3A%201"));
  CHECK_EQUAL(percent_encode(std::string("\0\x7F\xFF%", 4)), std::string("%00%7F%FF%25"));
  CHECK_EQUAL(percent_encode(""), std::string(""));
}

static void statuses() {
  for (int status = 200; status < 300; status++)
    CHECK(judge_status(status) == Verdict::TAKEN);
  CHECK(judge_status(401) == Verdict::REFUSED && judge_status(403) == Verdict::REFUSED);
  for (int status : {0, 301, 302, 408, 429, 500, 502, 503, 599})
    CHECK(judge_status(status) == Verdict::LATER);
  for (int status : {400, 402, 404, 405, 410, 411, 413, 415, 422, 499})
    CHECK(judge_status(status) == Verdict::REJECTED);
  CHECK_EQUAL(HttpPost::parse_status("HTTP/1.1 201 Created\r\n", false), 201);
  CHECK_EQUAL(HttpPost::parse_status("HTTP/1.0 503\r\n", false), 503);
  CHECK_EQUAL(HttpPost::parse_status("HTTP/1.1 20", false), 0);
  CHECK_EQUAL(HttpPost::parse_status("HTTP/1.1 200", false), 0);  // might still become 2000
  CHECK_EQUAL(HttpPost::parse_status("HTTP/1.1 200", true), 200);
  CHECK_EQUAL(HttpPost::parse_status("HTTP/1.1 2000 OK", false), -1);
  CHECK_EQUAL(HttpPost::parse_status("HTTP/1.1 000 OK", false), -1);
  CHECK_EQUAL(HttpPost::parse_status("HTTP/1.1 999 OK", false), -1);
  CHECK_EQUAL(HttpPost::parse_status("HTTP/2 200 OK", false), -1);
  CHECK_EQUAL(HttpPost::parse_status("SSH-2.0-x", false), -1);
  CHECK_EQUAL(HttpPost::parse_status("", true), 0);
}

// Posts `bytes` bytes in steps of 10 ms; returns the steps it took.
static int post(HttpPost &exchange, Server &server, size_t bytes, int most_steps = 10000) {
  static std::vector<uint8_t> body;
  body.assign(bytes, 'x');
  uint64_t now = 5000;
  const std::string head = "POST / HTTP/1.1\r\nContent-Length: " + std::to_string(bytes) + "\r\n\r\n";
  exchange.start(&server, head, body.data(), bytes, 2000, now);
  int steps = 0;
  while (exchange.running() && steps < most_steps) {
    const size_t before = server.request.size();
    exchange.step(now += 10);
    CHECK(server.request.size() - before <= HttpPost::STEP_BYTES);  // one bounded piece per turn of the loop
    steps++;
  }
  CHECK(!exchange.running());
  CHECK_EQUAL(server.open_now, 0);
  return steps;
}

static void answers() {
  HttpPost exchange;
  {
    Server server;
    CHECK_EQUAL(post(exchange, server, 100000), 26);  // 25 pieces, and one turn for the answer
    CHECK_EQUAL(exchange.status(), 201);
    CHECK_EQUAL(server.requests.size(), 1u);
  }
  {
    Server server;  // one byte at a time, in both directions
    server.per_write = server.per_read = 1;
    post(exchange, server, 500);
    CHECK_EQUAL(exchange.status(), 201);
  }
  {
    Server server;  // an interim answer before the real one
    server.answer = [](const std::string &) {
      return "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n";
    };
    server.per_read = 7;
    post(exchange, server, 10);
    CHECK_EQUAL(exchange.status(), 202);
  }
  {
    Server server;  // it refuses before it has read the body, and hangs up
    server.answers_early = true;
    server.breaks_after = 4096;
    server.answer = [](const std::string &) { return "HTTP/1.1 401 Unauthorized\r\n\r\n"; };
    post(exchange, server, 100000);
    CHECK_EQUAL(exchange.status(), 401);
    CHECK_EQUAL(server.request.size(), 4096u);
  }
}

static void no_answers() {
  HttpPost exchange;
  const auto trouble_with = [&exchange](Server &server, size_t bytes = 20000) {
    post(exchange, server, bytes);
    CHECK_EQUAL(exchange.status(), 0);
    CHECK(judge_status(exchange.status()) == Verdict::LATER);
    return std::string(exchange.trouble());
  };
  {
    Server server;
    server.reachable = false;
    CHECK_EQUAL(trouble_with(server), std::string("no connection"));
  }
  {
    Server server;  // a connection that never comes about
    server.takes = false;
    CHECK_EQUAL(trouble_with(server), std::string("no connection"));
  }
  {
    Server server;
    server.breaks_after = 4096;
    CHECK_EQUAL(trouble_with(server), std::string("connection lost"));
  }
  {
    Server server;  // hangs up instead of answering
    server.answer = [](const std::string &) { return ""; };
    CHECK_EQUAL(trouble_with(server), std::string("connection lost"));
  }
  {
    Server server;  // never answers
    server.answer = [](const std::string &) { return ""; };
    server.hangs_up = false;
    CHECK_EQUAL(trouble_with(server), std::string("no answer"));
  }
  {
    Server server;
    server.answer = [](const std::string &) { return "SSH-2.0-OpenSSH\r\n"; };
    CHECK_EQUAL(trouble_with(server), std::string("the answer is not HTTP"));
  }
  {
    Server server;  // interim answers without an end
    server.answer = [](const std::string &) { return "HTTP/1.1 100 Continue\r\nX: " + std::string(5000, 'a'); };
    CHECK_EQUAL(trouble_with(server), std::string("the answer is not HTTP"));
  }
  {
    Server server;  // so slow that something always moves
    server.per_write = 1;
    HttpPost slow;
    std::vector<uint8_t> body(100000, 'x');
    uint64_t now = 0;
    slow.start(&server, "POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", body.data(), body.size(), 2000, now);
    server.per_write = 3;
    while (slow.running()) {
      server.takes = !server.takes;
      slow.step(now += 1000);
      CHECK(now < 20000);
    }
    CHECK_EQUAL(std::string(slow.trouble()), std::string("too slow"));
  }
}

int main() {
  wav_header();
  encoding();
  statuses();
  answers();
  no_answers();
  std::puts("ok");
}
