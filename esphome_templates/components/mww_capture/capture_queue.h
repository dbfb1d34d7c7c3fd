#pragma once
// Captures that wait to be sent, bounded in number, the most wanted first; and how long to wait after a failure.
// Knows nothing of ESPHome.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace mww_capture_core {

enum class Kind : uint8_t { DETECTION, NEAR_MISS, CANARY, FALSE_WAKE, PROMPT };
static constexpr size_t KINDS = 5;

inline const char *kind_name(Kind kind) {
  static const char *const NAMES[KINDS] = {"detection", "near_miss", "canary", "false_wake", "prompt"};
  return NAMES[static_cast<size_t>(kind)];
}

inline bool parse_kind(const std::string &name, Kind &kind) {
  for (size_t i = 0; i < KINDS; i++) {
    if (name == kind_name(static_cast<Kind>(i))) {
      kind = static_cast<Kind>(i);
      return true;
    }
  }
  return false;
}

// Which capture is sent first, and which one stays when there is no room: somebody stood there for a prompted take.
inline int priority_of(Kind kind) {
  switch (kind) {
    case Kind::PROMPT:
      return 3;
    case Kind::FALSE_WAKE:
      return 2;
    case Kind::DETECTION:
      return 1;
    default:
      return 0;
  }
}

// Where memory for sound comes from: PSRAM on the device. allocate returns nullptr when there is none.
struct Memory {
  void *(*allocate)(size_t bytes);
  void (*release)(void *memory);
};

// The sound of one capture, filled step by step from the ring. Positions are those of the ring's clock.
struct Audio {
  Audio(const Memory &memory, size_t capacity) : memory_(memory), capacity(capacity) {
    this->samples = static_cast<int16_t *>(memory.allocate(capacity * sizeof(int16_t)));
  }
  ~Audio() {
    if (this->samples != nullptr)
      this->memory_.release(this->samples);
  }
  Audio(const Audio &) = delete;
  Audio &operator=(const Audio &) = delete;

  int16_t *samples;
  uint64_t begin{0}, next{0}, end{0}, trigger{0};  // [begin, next) is here, [next, end) is still to come
  uint64_t deadline_ms{0};                         // then it is complete with what is there
  bool complete{false};

  size_t count() const { return static_cast<size_t>(this->next - this->begin); }

 private:
  Memory memory_;

 public:
  const size_t capacity;
};

struct Capture {
  std::string id;  // the same on each attempt
  Kind kind{Kind::DETECTION};
  std::string wake_word, session;
  uint64_t at_ms{0};
  std::shared_ptr<Audio> audio;  // none: the capture is a remark about another one, named by session
  bool held{false};              // a near miss that may still turn out to be a detection

  bool ready() const { return !this->held && (this->audio == nullptr || this->audio->complete); }
};

class CaptureQueue {
 public:
  explicit CaptureQueue(size_t most = 3) : most_(most) {}

  size_t size() const { return this->waiting_.size(); }
  bool empty() const { return this->waiting_.empty(); }
  void clear() { this->waiting_.clear(); }
  std::vector<std::shared_ptr<Capture>> &all() { return this->waiting_; }

  // Makes room for a capture of that kind. `busy` is being sent and stays. Returns false when there is no room.
  // When a capture had to go (the least wanted, and of those the oldest, if it is less wanted than the new one),
  // `pushed_out` is that one.
  bool make_room(Kind kind, const Capture *busy, std::shared_ptr<Capture> &pushed_out) {
    if (this->waiting_.size() < this->most_)
      return true;
    size_t least = this->waiting_.size();
    for (size_t i = 0; i < this->waiting_.size(); i++) {
      if (this->waiting_[i].get() == busy)
        continue;
      if (least == this->waiting_.size() ||
          priority_of(this->waiting_[i]->kind) < priority_of(this->waiting_[least]->kind))
        least = i;
    }
    if (least == this->waiting_.size() || priority_of(this->waiting_[least]->kind) >= priority_of(kind))
      return false;
    pushed_out = this->waiting_[least];
    this->waiting_.erase(this->waiting_.begin() + static_cast<std::ptrdiff_t>(least));
    return true;
  }

  void add(std::shared_ptr<Capture> capture) { this->waiting_.push_back(std::move(capture)); }

  bool remove(const Capture *capture) {
    for (size_t i = 0; i < this->waiting_.size(); i++) {
      if (this->waiting_[i].get() == capture) {
        this->waiting_.erase(this->waiting_.begin() + static_cast<std::ptrdiff_t>(i));
        return true;
      }
    }
    return false;
  }

  // The one to send now: of those that are ready the most wanted, and of those the oldest. None: nullptr.
  std::shared_ptr<Capture> next() const {
    std::shared_ptr<Capture> best;
    for (const auto &capture : this->waiting_) {
      if (capture->ready() && (best == nullptr || priority_of(capture->kind) > priority_of(best->kind)))
        best = capture;
    }
    return best;
  }

 private:
  size_t most_;
  std::vector<std::shared_ptr<Capture>> waiting_;  // oldest first
};

// Waits between attempts: doubled after each failure, from the shortest to the longest.
class Backoff {
 public:
  Backoff(uint32_t shortest_ms, uint32_t longest_ms) : shortest_ms_(shortest_ms), longest_ms_(longest_ms) {}

  bool may_try(uint64_t now_ms) const { return now_ms >= this->not_before_ms_; }
  bool waiting() const { return this->failures_ > 0; }
  void succeeded() {
    this->failures_ = 0;
    this->not_before_ms_ = 0;
  }
  void failed(uint64_t now_ms) {
    uint64_t wait = this->shortest_ms_;
    for (uint32_t i = 0; i < this->failures_ && wait < this->longest_ms_; i++)
      wait *= 2;
    this->wait_(now_ms, wait < this->longest_ms_ ? wait : this->longest_ms_);
  }
  // It would be refused again until somebody does something about it.
  void refused(uint64_t now_ms) { this->wait_(now_ms, this->longest_ms_); }
  // Somebody stands there: the next attempt is due now, the wait after it is as long as it would have been.
  void hurry() { this->not_before_ms_ = 0; }

 private:
  void wait_(uint64_t now_ms, uint64_t wait_ms) {
    if (this->failures_ < UINT32_MAX)
      this->failures_++;
    this->not_before_ms_ = now_ms + wait_ms;
  }

  uint32_t shortest_ms_, longest_ms_;
  uint32_t failures_{0};
  uint64_t not_before_ms_{0};
};

}  // namespace mww_capture_core
