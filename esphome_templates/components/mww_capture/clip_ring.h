#pragma once
// The last seconds of sound, with a clock that counts samples. Knows nothing of ESPHome.
//
// One writer (the microphone's task) and one reader (the main loop). Lock is anything with lock() and unlock(); it is
// held for a memcpy of one block, or of one chunk that the reader asks for, never longer.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mww_capture_core {

static constexpr uint32_t SAMPLES_PER_MS = 16;  // 16 kHz, mono, 16 bit: what the wake-word engine hears
// A pause of the writer after which the sound does not continue: the microphone had stopped. A block lasts 16 ms.
static constexpr uint32_t BREAK_MS = 200;

template<class Lock> class LockHold {
 public:
  explicit LockHold(Lock &lock) : lock_(lock) { this->lock_.lock(); }
  ~LockHold() { this->lock_.unlock(); }
  LockHold(const LockHold &) = delete;
  LockHold &operator=(const LockHold &) = delete;

 private:
  Lock &lock_;
};

// Positions are sample numbers of a 64-bit clock that starts at 0 and counts only what was written while open.
template<class Lock> class ClipRing {
 public:
  struct Read {
    size_t count;  // samples copied
    bool ended;    // nothing will follow: the sound breaks off at this point, or was overwritten before it was read
  };

  // From here on writes are kept, in `memory` of `capacity` samples, which must outlive the ring or its close().
  void open(int16_t *memory, size_t capacity) {
    LockHold<Lock> hold(this->lock_);
    this->memory_ = memory;
    this->capacity_ = memory == nullptr ? 0 : capacity;
    this->forget_();
    this->listening_ = this->capacity_ > 0;
  }

  // From here on writes are ignored. Returns the memory of open(): nobody touches it any more.
  int16_t *close() {
    LockHold<Lock> hold(this->lock_);
    int16_t *memory = this->memory_;
    this->memory_ = nullptr;
    this->capacity_ = 0;
    this->listening_ = false;
    this->forget_();
    return memory;
  }

  // While paused, writes are ignored; either way everything written so far is forgotten.
  void pause(bool paused) {
    LockHold<Lock> hold(this->lock_);
    this->forget_();
    this->listening_ = !paused && this->capacity_ > 0;
  }

  // Writer only. `data`: `count` samples in the byte order of the machine, no alignment needed.
  // `now_ms` may wrap around; it is only compared with the one before.
  void write(const void *data, size_t count, uint32_t now_ms) {
    LockHold<Lock> hold(this->lock_);
    if (!this->listening_ || count == 0)
      return;
    if (this->any_ && now_ms - this->written_ms_ > BREAK_MS)
      this->add_break_();
    this->any_ = true;
    this->written_ms_ = now_ms;
    const auto *from = static_cast<const uint8_t *>(data);
    if (count > this->capacity_) {  // only the newest part can stay
      const size_t skipped = count - this->capacity_;
      from += skipped * sizeof(int16_t);
      this->total_ += skipped;
      count = this->capacity_;
    }
    const size_t at = static_cast<size_t>(this->total_ % this->capacity_);
    const size_t head = count < this->capacity_ - at ? count : this->capacity_ - at;
    std::memcpy(this->memory_ + at, from, head * sizeof(int16_t));
    if (count > head)
      std::memcpy(this->memory_, from + head * sizeof(int16_t), (count - head) * sizeof(int16_t));
    this->total_ += count;
  }

  // The position of the next sample to be written.
  uint64_t total() {
    LockHold<Lock> hold(this->lock_);
    return this->total_;
  }

  // The earliest position from which unbroken sound leads up to total().
  uint64_t unbroken_since() {
    LockHold<Lock> hold(this->lock_);
    const uint64_t oldest = this->oldest_();
    const uint64_t last = this->breaks_ == 0 ? 0 : this->break_at_[this->breaks_ - 1];
    return last > oldest ? last : oldest;
  }

  // Copies up to `count` samples from position `next` of a clip that began at `begin`. Never across a break.
  Read read(uint64_t begin, uint64_t next, size_t count, int16_t *out) {
    LockHold<Lock> hold(this->lock_);
    if (next < this->oldest_())
      return {0, true};
    uint64_t end = this->total_;
    bool breaks = false;
    for (size_t i = 0; i < this->breaks_ && !breaks; i++) {
      if (this->break_at_[i] > begin) {
        end = this->break_at_[i];
        breaks = true;
      }
    }
    if (next >= end || count == 0)
      return {0, breaks && next >= end};
    if (count > end - next)
      count = static_cast<size_t>(end - next);
    const size_t at = static_cast<size_t>(next % this->capacity_);
    const size_t head = count < this->capacity_ - at ? count : this->capacity_ - at;
    std::memcpy(out, this->memory_ + at, head * sizeof(int16_t));
    if (count > head)
      std::memcpy(out + head, this->memory_, (count - head) * sizeof(int16_t));
    return {count, breaks && next + count == end};
  }

 private:
  static constexpr size_t MOST_BREAKS = 4;

  uint64_t oldest_() const {
    const uint64_t kept = this->total_ > this->capacity_ ? this->total_ - this->capacity_ : 0;
    return kept > this->floor_ ? kept : this->floor_;
  }

  void forget_() {
    this->floor_ = this->total_;
    this->breaks_ = 0;
    this->any_ = false;
  }

  void add_break_() {
    if (this->breaks_ == MOST_BREAKS) {  // what lies before the oldest break cannot be told from it any more
      this->floor_ = this->break_at_[0];
      std::memmove(this->break_at_, this->break_at_ + 1, (MOST_BREAKS - 1) * sizeof(uint64_t));
      this->breaks_--;
    }
    this->break_at_[this->breaks_++] = this->total_;
  }

  Lock lock_;
  int16_t *memory_{nullptr};
  size_t capacity_{0};
  uint64_t total_{0};
  uint64_t floor_{0};  // nothing before this position is given out
  uint64_t break_at_[MOST_BREAKS]{};
  size_t breaks_{0};
  uint32_t written_ms_{0};
  bool any_{false};  // something was written since the floor
  bool listening_{false};
};

}  // namespace mww_capture_core
