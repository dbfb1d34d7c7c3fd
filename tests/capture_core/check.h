#pragma once
// What the tests of the core share: a check that says where, sound whose samples are their own numbers, a connection
// that does as it is told.
#include "capture_core.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1); \
    } \
  } while (false)

#define CHECK_EQUAL(found, wanted) \
  do { \
    auto f_ = (found); \
    const auto w_ = static_cast<std::remove_cv_t<decltype(f_)>>(wanted); \
    if (!(f_ == w_)) { \
      std::fprintf(stderr, "%s:%d: %s is %s and not %s\n", __FILE__, __LINE__, #found, shown(f_).c_str(), \
                   shown(w_).c_str()); \
      std::exit(1); \
    } \
  } while (false)

inline std::string shown(const std::string &value) { return "'" + value + "'"; }
inline std::string shown(const char *value) { return value; }
template<class T> std::string shown(const T &value) {
  if constexpr (std::is_enum_v<T>)
    return std::to_string(static_cast<long>(value));
  else
    return std::to_string(value);
}

struct NoLock {
  void lock() {}
  void unlock() {}
};

// Samples [from, from + count) of a sound in which each sample is the low 16 bits of its own position.
inline std::vector<int16_t> counted(uint64_t from, size_t count) {
  std::vector<int16_t> samples(count);
  for (size_t i = 0; i < count; i++)
    samples[i] = static_cast<int16_t>(static_cast<uint16_t>(from + i));
  return samples;
}

inline size_t &held_memory() {  // pieces of sound memory that are in use
  static size_t pieces = 0;
  return pieces;
}
inline bool &memory_is_out() {
  static bool out = false;
  return out;
}
inline mww_capture_core::Memory counted_memory() {
  return {[](size_t bytes) -> void * {
            if (memory_is_out())
              return nullptr;
            held_memory()++;
            return std::malloc(bytes);  // exactly as large as asked for: the sanitizer sees a byte too many
          },
          [](void *memory) {
            held_memory()--;
            std::free(memory);
          }};
}

// A server in the same thread. By default it takes everything at once and answers 201.
struct Server : mww_capture_core::Connection {
  std::function<std::string(const std::string &)> answer = [](const std::string &) {
    return "HTTP/1.1 201 Created\r\n\r\n";
  };
  size_t per_write = 1 << 20, per_read = 1 << 20;
  bool reachable = true;     // false: refuses the connection
  bool takes = true;         // false: the connection stands, nothing moves
  long breaks_after = -1;    // bytes after which it hangs up
  bool hangs_up = true;      // after the answer
  bool answers_early = false;  // before it has the whole request
  int opened = 0, open_now = 0;
  std::string request, reply;
  std::vector<std::string> requests;
  bool replied = false;

  bool open() override {
    opened++;
    open_now++;
    request.clear();
    reply.clear();
    replied = false;
    return true;
  }
  long write(const uint8_t *data, size_t bytes) override {
    CHECK(open_now == 1);
    CHECK(bytes > 0);
    if (!reachable)
      return -1;
    if (!takes)
      return 0;
    if (breaks_after >= 0 && request.size() >= static_cast<size_t>(breaks_after))
      return -1;
    const size_t taken = bytes < per_write ? bytes : per_write;
    request.append(reinterpret_cast<const char *>(data), taken);
    return static_cast<long>(taken);
  }
  long read(uint8_t *data, size_t bytes) override {
    CHECK(open_now == 1);
    if (!replied && (complete() || (answers_early && !request.empty()))) {
      reply = answer(request);
      replied = true;
      requests.push_back(request);
    }
    if (!replied)
      return 0;
    if (reply.empty())
      return hangs_up ? -1 : 0;
    size_t given = bytes < per_read ? bytes : per_read;
    given = given < reply.size() ? given : reply.size();
    std::memcpy(data, reply.data(), given);
    reply.erase(0, given);
    return static_cast<long>(given);
  }
  void close() override {
    CHECK(open_now == 1);
    open_now--;
  }

  bool complete() const {
    const size_t end = request.find("\r\n\r\n");
    if (end == std::string::npos)
      return false;
    return request.size() - end - 4 >= std::stoul(header(request, "Content-Length"));
  }
  static std::string header(const std::string &request, const std::string &name) {
    const size_t end = request.find("\r\n\r\n");
    const size_t at = request.find("\r\n" + name + ": ");
    if (at == std::string::npos || at > end)
      return "(missing)";
    const size_t from = at + name.size() + 4;
    return request.substr(from, request.find("\r\n", from) - from);
  }
  static std::vector<int16_t> samples(const std::string &request) {
    const size_t from = request.find("\r\n\r\n") + 4 + mww_capture_core::WAV_HEADER_BYTES;
    CHECK(request.size() >= from);
    std::vector<int16_t> out((request.size() - from) / 2);
    if (!out.empty())
      std::memcpy(out.data(), request.data() + from, out.size() * 2);
    return out;
  }
};

// The core with a microphone that counts and a clock that is turned by hand.
struct Device {
  using Core = mww_capture_core::CaptureCore<NoLock>;
  using Kind = mww_capture_core::Kind;
  using Outcome = mww_capture_core::Outcome;

  explicit Device(mww_capture_core::Settings settings = usual(), uint32_t now = 1000)
      : core(settings, counted_memory(), 0x0123456789ABCDEFull), now(now) {}

  static mww_capture_core::Settings usual() {
    mww_capture_core::Settings settings;
    settings.host = "192.168.1.10";
    settings.port = 8765;
    settings.path = "/api/captures";
    settings.token = "secret-token";
    settings.model = "hey_kitchen 1a2b3c4d";
    settings.firmware = "ESPHome 2026.6.5";
    settings.gain = 4;
    settings.min_interval_ms = 0;
    return settings;
  }

  // Time passes: 16 ms blocks of sound, a turn of the loop after each.
  void run(uint32_t ms, bool sound = true) {
    for (uint32_t passed = 0; passed < ms; passed += 16) {
      const uint32_t step = ms - passed < 16 ? ms - passed : 16;
      if (sound)
        hear(step * 16);
      now += step;
      core.loop(&server, now);
    }
  }
  void hear(size_t count) {
    const auto samples = counted(heard, count);
    core.hear(samples.data(), count, now);
    heard += count;
  }
  Outcome trigger(Kind kind, const std::string &word = "hey kitchen", const std::string &session = "",
                  float seconds = 0) {
    return core.trigger(kind, word, session, seconds, now);
  }
  std::vector<std::string> events() {
    std::vector<std::string> texts;
    mww_capture_core::Event event;
    while (core.take_event(event))
      texts.push_back((event.sent ? "sent " : "failed ") + event.text);
    return texts;
  }

  Core core;
  Server server;
  uint32_t now;
  uint64_t heard = 0;
};
