#pragma once
// One POST over a connection that never blocks, a bounded piece per step. Knows nothing of ESPHome.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace mww_capture_core {

// A TCP connection whose calls return at once.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual bool open() = 0;                                    // begins to connect; false: not possible now
  virtual long write(const uint8_t *data, size_t bytes) = 0;  // bytes taken; 0: not now; -1: broken
  virtual long read(uint8_t *data, size_t bytes) = 0;         // bytes given; 0: not now; -1: closed or broken
  virtual void close() = 0;
};

// What a status of the server means for the clip.
enum class Verdict : uint8_t {
  TAKEN,     // 2xx
  REFUSED,   // 401, 403: the token is not accepted; the clip is kept and tried again much later
  LATER,     // 408, 429, 5xx, a redirect, no reply, not HTTP: tried again
  REJECTED,  // any other 4xx: this clip will never be taken
};

inline Verdict judge_status(int status) {
  if (status >= 200 && status < 300)
    return Verdict::TAKEN;
  if (status == 401 || status == 403)
    return Verdict::REFUSED;
  if (status >= 400 && status < 500 && status != 408 && status != 429)
    return Verdict::REJECTED;
  return Verdict::LATER;
}

// Text as a header value: letters, digits and -._~ stay, every other byte becomes %XX. Nothing can end the line.
inline std::string percent_encode(const std::string &text) {
  static const char *const HEX = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    const bool plain = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
                       byte == '-' || byte == '.' || byte == '_' || byte == '~';
    if (plain) {
      out += c;
    } else {
      out += '%';
      out += HEX[byte >> 4];
      out += HEX[byte & 15];
    }
  }
  return out;
}

class HttpPost {
 public:
  static constexpr size_t STEP_BYTES = 4096;        // at most this much is handed to the connection per step
  static constexpr size_t LONGEST_REPLY = 1024;     // of headers before the status that counts
  static constexpr uint32_t TOTAL_PER_TIMEOUT = 4;  // the whole exchange may last this many timeouts

  // `head`: everything before the body. `body` must stay until finished() or abort().
  // `timeout_ms`: how long nothing at all may move.
  void start(Connection *connection, std::string head, const uint8_t *body, size_t body_bytes, uint32_t timeout_ms,
             uint64_t now_ms) {
    this->abort();
    this->connection_ = connection;
    this->head_ = std::move(head);
    this->body_ = body;
    this->body_bytes_ = body_bytes;
    this->timeout_ms_ = timeout_ms;
    this->sent_ = 0;
    this->reply_.clear();
    this->status_ = 0;
    this->trouble_ = "";
    this->moved_ms_ = this->started_ms_ = now_ms;
    this->running_ = true;
    if (!connection->open())
      this->fail_("no connection");
  }

  bool running() const { return this->running_; }
  int status() const { return this->status_; }            // of the server; 0: there was none
  const char *trouble() const { return this->trouble_; }  // why there was none

  // Moves one bounded piece. Afterwards running() tells whether it is over.
  void step(uint64_t now_ms) {
    if (!this->running_)
      return;
    const size_t sent_before = this->sent_;
    if (this->sent_ > 0 && !this->read_reply_(now_ms))
      return;
    if (this->sent_ < this->head_.size() + this->body_bytes_ && !this->write_some_())
      return;
    if (this->sent_ != sent_before)
      this->moved_ms_ = now_ms;
    if (now_ms - this->moved_ms_ >= this->timeout_ms_)
      return this->fail_(this->sent_ == 0 ? "no connection" : "no answer");
    if (now_ms - this->started_ms_ >= static_cast<uint64_t>(this->timeout_ms_) * TOTAL_PER_TIMEOUT)
      this->fail_("too slow");
  }

  void abort() {
    if (this->running_)
      this->connection_->close();
    this->running_ = false;
    this->head_.clear();
    this->head_.shrink_to_fit();
  }

 private:
  void finish_(int status) {
    this->status_ = status;
    this->abort();
  }
  void fail_(const char *why) {
    this->trouble_ = why;
    this->abort();
  }

  // False: it is over.
  bool write_some_() {
    size_t budget = STEP_BYTES;
    while (budget > 0 && this->sent_ < this->head_.size() + this->body_bytes_) {
      const bool in_head = this->sent_ < this->head_.size();
      const uint8_t *from = in_head ? reinterpret_cast<const uint8_t *>(this->head_.data()) + this->sent_
                                    : this->body_ + (this->sent_ - this->head_.size());
      size_t bytes = in_head ? this->head_.size() - this->sent_ : this->head_.size() + this->body_bytes_ - this->sent_;
      if (bytes > budget)
        bytes = budget;
      const long taken = this->connection_->write(from, bytes);
      if (taken == 0)
        return true;
      if (taken < 0 || static_cast<size_t>(taken) > bytes) {
        // a server that refuses may have answered before it hung up
        if (this->sent_ > 0 && !this->read_reply_(this->moved_ms_))
          return false;
        this->fail_(this->sent_ == 0 ? "no connection" : "connection lost");
        return false;
      }
      this->sent_ += static_cast<size_t>(taken);
      budget -= static_cast<size_t>(taken);
    }
    return true;
  }

  // False: it is over.
  bool read_reply_(uint64_t now_ms) {
    uint8_t bytes[256];
    const long got = this->connection_->read(bytes, sizeof(bytes));
    if (got > 0 && static_cast<size_t>(got) <= sizeof(bytes)) {
      this->reply_.append(reinterpret_cast<const char *>(bytes), static_cast<size_t>(got));
      this->moved_ms_ = now_ms;
    }
    const bool closed = got < 0;
    for (;;) {
      const int status = parse_status(this->reply_, closed);
      if (status < 0) {
        this->fail_("the answer is not HTTP");
        return false;
      }
      if (status >= 200) {
        this->finish_(status);
        return false;
      }
      if (status == 0)
        break;
      const size_t end = this->reply_.find("\r\n\r\n");  // an interim answer (1xx): the real one follows it
      if (end == std::string::npos)
        break;
      this->reply_.erase(0, end + 4);
    }
    if (this->reply_.size() > LONGEST_REPLY) {
      this->fail_("the answer is not HTTP");
      return false;
    }
    if (closed) {
      this->fail_("connection lost");
      return false;
    }
    return true;
  }

 public:
  // The status at the beginning of `reply`: 100 to 599; 0: not complete yet; -1: this is not HTTP/1.
  static int parse_status(const std::string &reply, bool complete) {
    static const char PATTERN[] = "HTTP/1.# ###";
    const size_t length = sizeof(PATTERN) - 1;
    for (size_t i = 0; i < length && i < reply.size(); i++) {
      const bool digit = reply[i] >= '0' && reply[i] <= '9';
      if (PATTERN[i] == '#' ? !digit : reply[i] != PATTERN[i])
        return -1;
    }
    if (reply.size() < length + (complete ? 0 : 1))
      return 0;
    if (reply.size() > length && reply[length] != ' ' && reply[length] != '\r' && reply[length] != '\n')
      return -1;
    const int status = (reply[9] - '0') * 100 + (reply[10] - '0') * 10 + (reply[11] - '0');
    return status >= 100 && status < 600 ? status : -1;
  }

 private:
  Connection *connection_{nullptr};
  std::string head_, reply_;
  const uint8_t *body_{nullptr};
  size_t body_bytes_{0}, sent_{0};
  uint32_t timeout_ms_{0};
  uint64_t started_ms_{0}, moved_ms_{0};
  int status_{0};
  const char *trouble_{""};
  bool running_{false};
};

}  // namespace mww_capture_core
