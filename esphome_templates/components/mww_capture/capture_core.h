#pragma once
// What a wake-word device does with the sound it hears: keep the last seconds, cut a clip when something happens, send
// it. Knows nothing of ESPHome, FreeRTOS or sockets; time comes in as milliseconds that wrap around after 49 days.
//
// Two threads: hear() is called by the microphone's task, everything else by the main loop.
#include "capture_queue.h"
#include "clip_ring.h"
#include "http_post.h"
#include "wav.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>

namespace mww_capture_core {

struct Settings {
  uint32_t pre_roll_ms{4000}, post_roll_ms{1000};  // together at most MOST_CLIP_MS
  uint32_t min_interval_ms{5000};                  // between two captures of one kind
  uint32_t max_per_hour{60};                       // captures of one kind
  uint32_t near_miss_hold_ms{1000};                // a detection within this time was what the near miss announced
  uint32_t retry_min_ms{1000}, retry_max_ms{300000};
  uint32_t timeout_ms{15000};
  uint32_t save_every_ms{600000};
  size_t queue_size{3};
  std::string host, path, token;  // the token and the path hold printable ASCII only
  uint16_t port{80};
  std::string model, firmware;
  int gain{1};
};

static constexpr uint32_t MOST_CLIP_MS = 10000;
static constexpr uint32_t RING_SLACK_MS = 300;  // a block of the microphone and a slow turn of the main loop
static constexpr size_t COPY_SAMPLES = 8192;    // per capture and turn of the loop
static constexpr size_t LONGEST_TEXT = 128;     // bytes of a wake word or a reference
static constexpr size_t LONGEST_HEAD = 4096;    // bytes of the headers
static constexpr float MOST_HOURS = 336.0f;
static constexpr float DEFAULT_HOURS = 24.0f;
static constexpr uint32_t HOUR_MS = 3600000;

// What became of a trigger.
enum class Outcome : uint8_t {
  ACCEPTED,
  UPGRADED,    // accepted, in place of the near miss that announced it
  SAME_WORD,   // a near miss beside a detection or a near miss of the same utterance: not a case of its own
  OFF,
  MUTED,
  TOO_SOON,    // less than min_interval after the last of its kind
  TOO_MANY,    // more than max_per_hour of its kind
  QUEUE_FULL,
  NO_MEMORY,
  NO_DETECTION,      // a false wake without a detection that it could be
  ALREADY_REPORTED,  // a second false wake about the same detection
  BAD_LENGTH,        // a prompted take of less than 0.1 or more than 10 seconds
  TEXT_TOO_LONG,
};

inline const char *outcome_text(Outcome outcome) {
  static const char *const TEXTS[] = {"accepted",       "upgraded",  "same word",     "capture is off",
                                      "muted",          "too soon",  "too many",      "queue full",
                                      "no memory",      "no detection to refer to",   "already reported",
                                      "a prompted take lasts 0.1 to 10 seconds",      "text too long"};
  return TEXTS[static_cast<size_t>(outcome)];
}

// What outlives a restart.
struct Saved {
  uint32_t version;
  uint32_t on;
  uint32_t remaining_s, listening_s;
  uint32_t detections, near_misses, canaries, dropped;

  bool operator==(const Saved &other) const { return std::memcmp(this, &other, sizeof(Saved)) == 0; }
};
static constexpr uint32_t SAVED_VERSION = 1;

struct Event {
  bool sent;
  std::string id, text;
};

template<class Lock> class CaptureCore {
 public:
  // `boot`: a number that no other start of this device had; part of every id.
  CaptureCore(const Settings &settings, const Memory &memory, uint64_t boot)
      : settings_(settings),
        memory_(memory),
        boot_(boot),
        queue_(settings.queue_size),
        backoff_(settings.retry_min_ms, settings.retry_max_ms) {}
  ~CaptureCore() { this->release_ring_(); }
  CaptureCore(const CaptureCore &) = delete;
  CaptureCore &operator=(const CaptureCore &) = delete;

  // --- the microphone's task ---

  // `count` samples, just heard. Copies and returns.
  void hear(const void *samples, size_t count, uint32_t now_ms) { this->ring_.write(samples, count, now_ms); }

  // --- the main loop ---

  // On for `hours` from now; again when it is on already, with the sound kept. False: no memory for the sound.
  bool switch_on(float hours, uint32_t now_ms) {
    this->advance_(now_ms);
    if (!(hours > 0))
      hours = DEFAULT_HOURS;
    if (hours > MOST_HOURS)
      hours = MOST_HOURS;
    return this->start_(static_cast<uint64_t>(hours * static_cast<float>(HOUR_MS)));
  }

  void switch_off(uint32_t now_ms) {
    this->advance_(now_ms);
    this->stop_();
  }

  // The device is about to restart: what waits will never arrive, and is counted so.
  void shut_down(uint32_t now_ms) {
    this->advance_(now_ms);
    this->lose_waiting_();
  }

  // Zeros come from a muted microphone. What is not complete is given up, what waits is kept until it may be sent.
  void set_muted(bool muted, uint32_t now_ms) {
    this->advance_(now_ms);
    if (muted == this->muted_)
      return;
    this->muted_ = muted;
    this->changed_ = true;
    if (!this->on_)
      return;
    this->ring_.pause(muted);
    if (muted) {
      this->stop_sending_();
      this->give_up_incomplete_();
    }
  }

  // Whether a wake word could be heard now: only that time counts as exposure.
  void set_listening(bool listening, uint32_t now_ms) {
    this->advance_(now_ms);
    this->listening_ = listening;
  }

  // Whether the network is needed for something else, such as a spoken command: nothing is begun to be sent then, but for
  // prompted takes, which somebody waits for.
  void set_busy(bool busy) { this->busy_ = busy; }

  Outcome trigger(Kind kind, const std::string &wake_word, const std::string &session, float seconds, uint32_t now_ms) {
    this->advance_(now_ms);
    const Outcome outcome = this->trigger_(kind, wake_word, session, seconds);
    if (this->on_ && !this->muted_)
      this->changed_ = true;
    const bool accepted = outcome == Outcome::ACCEPTED || outcome == Outcome::UPGRADED;
    const bool awaited = kind == Kind::PROMPT || kind == Kind::FALSE_WAKE;  // somebody wants to know
    if (!accepted && (awaited || outcome == Outcome::QUEUE_FULL || outcome == Outcome::NO_MEMORY))
      this->report_(kind, "", false, outcome_text(outcome));
    return outcome;
  }

  // One bounded turn: a piece of copying, a piece of sending.
  void loop(Connection *connection, uint32_t now_ms) {
    this->advance_(now_ms);
    if (!this->on_ || this->muted_)
      return;
    for (const auto &capture : this->queue_.all())
      this->copy_(capture.get());
    this->drop_silent_();
    this->release_near_miss_();
    this->send_(connection);
  }

  // The next thing that happened to a capture, oldest first. False: nothing.
  bool take_event(Event &event) {
    if (this->events_.empty())
      return false;
    event = this->events_.front();
    this->events_.pop_front();
    return true;
  }

  // True once after something changed that an entity shows.
  bool take_changed() {
    const char *now = this->state();
    const bool changed = this->changed_ || now != this->state_shown_;
    this->state_shown_ = now;
    this->changed_ = false;
    return changed;
  }

  // --- over a restart ---

  void restore(const Saved &saved, uint32_t now_ms) {
    this->advance_(now_ms);
    if (saved.version != SAVED_VERSION)
      return;
    this->listening_ms_ = static_cast<uint64_t>(saved.listening_s) * 1000;
    this->detections_ = saved.detections;
    this->near_misses_ = saved.near_misses;
    this->canaries_ = saved.canaries;
    this->dropped_ = saved.dropped;
    const auto most_s = static_cast<uint32_t>(MOST_HOURS * 3600);
    if (saved.on == 1 && saved.remaining_s > 0 && saved.remaining_s <= most_s)
      this->start_(static_cast<uint64_t>(saved.remaining_s) * 1000);
    this->last_saved_ = this->saved();
    this->switched_ = false;
  }

  Saved saved() const {
    Saved saved{};
    saved.version = SAVED_VERSION;
    saved.on = this->on_ ? 1 : 0;
    saved.remaining_s = static_cast<uint32_t>((this->remaining_ms_ + 999) / 1000);
    saved.listening_s = static_cast<uint32_t>(this->listening_ms_ / 1000);
    saved.detections = this->detections_;
    saved.near_misses = this->near_misses_;
    saved.canaries = this->canaries_;
    saved.dropped = this->dropped_;
    return saved;
  }

  // True at once after capture was switched, and every save_every_ms if something else changed: flash wears.
  // `saved` is then to be written; `switched` tells which of the two it is.
  bool should_save(Saved &saved, bool &switched, bool now = false) {
    switched = this->switched_;
    if (!switched && !now && this->now_ms_ - this->saved_ms_ < this->settings_.save_every_ms)
      return false;
    this->switched_ = false;
    this->saved_ms_ = this->now_ms_;
    saved = this->saved();
    if (saved == this->last_saved_)
      return false;
    this->last_saved_ = saved;
    return true;
  }

  // --- what is shown ---

  bool is_on() const { return this->on_; }
  bool is_muted() const { return this->muted_; }
  uint32_t detections() const { return this->detections_; }
  uint32_t near_misses() const { return this->near_misses_; }
  uint32_t canaries() const { return this->canaries_; }
  uint32_t dropped() const { return this->dropped_; }  // triggers whose capture never arrives
  uint32_t queue_length() const { return static_cast<uint32_t>(this->queue_.size()); }
  float listening_hours() const { return static_cast<float>(this->listening_ms_) / static_cast<float>(HOUR_MS); }
  float remaining_hours() const { return static_cast<float>(this->remaining_ms_) / static_cast<float>(HOUR_MS); }
  const std::string &last_upload() const { return this->last_upload_; }

  const char *state() const {
    if (!this->on_)
      return this->no_memory_ ? "no memory" : "off";
    if (this->muted_)
      return "muted";
    if (this->post_.running())
      return "sending";
    if (this->refused_ && !this->queue_.empty())
      return "token refused";
    if (this->queue_.next() != nullptr && this->backoff_.waiting())
      return "waiting to retry";
    if (this->busy_ && this->queue_.next() != nullptr)
      return "waiting";
    return this->queue_.empty() ? "idle" : "recording";
  }

  size_t ring_samples() const {
    return static_cast<size_t>(this->settings_.pre_roll_ms + this->settings_.post_roll_ms + RING_SLACK_MS) *
           SAMPLES_PER_MS;
  }

 private:
  static constexpr size_t MOST_EVENTS = 8;

  // Extends the 32-bit clock; counts what passes with time.
  void advance_(uint32_t now_ms) {
    const uint32_t passed = this->started_ ? now_ms - this->clock_ms_ : 0;
    this->started_ = true;
    this->clock_ms_ = now_ms;
    this->now_ms_ += passed;
    if (!this->on_ || passed == 0)
      return;
    if (this->listening_ && !this->muted_)
      this->listening_ms_ += passed < this->remaining_ms_ ? passed : this->remaining_ms_;
    if (passed < this->remaining_ms_) {
      this->remaining_ms_ -= passed;
    } else {
      this->stop_();
    }
  }

  bool start_(uint64_t remaining_ms) {
    this->changed_ = true;
    if (!this->on_) {
      auto *memory = static_cast<int16_t *>(this->memory_.allocate(this->ring_samples() * sizeof(int16_t)));
      this->no_memory_ = memory == nullptr;
      if (memory == nullptr)
        return false;
      this->ring_.open(memory, this->ring_samples());
      if (this->muted_)
        this->ring_.pause(true);
      this->on_ = true;
      this->backoff_.succeeded();
      this->refused_ = false;
    }
    this->remaining_ms_ = remaining_ms;
    this->switched_ = true;
    return true;
  }

  void stop_() {
    this->no_memory_ = false;
    if (!this->on_)
      return;
    this->lose_waiting_();
    this->detection_ = Detection{};
    for (auto &limit : this->limits_)
      limit = Limit{};
    this->on_ = false;
    this->remaining_ms_ = 0;
    this->changed_ = this->switched_ = true;
    this->release_ring_();
  }

  void lose_waiting_() {
    this->stop_sending_();
    this->dropped_ += static_cast<uint32_t>(this->queue_.size());
    this->queue_.clear();
    this->near_miss_ = NearMiss{};
  }

  void release_ring_() {
    int16_t *memory = this->ring_.close();
    if (memory != nullptr)
      this->memory_.release(memory);
  }

  void give_up_incomplete_() {
    auto &all = this->queue_.all();
    for (size_t i = 0; i < all.size();) {
      if (all[i]->ready()) {
        i++;
        continue;
      }
      this->drop_(*all[i], "muted");
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
    }
    this->near_miss_ = NearMiss{};
  }

  Outcome trigger_(Kind kind, const std::string &wake_word, const std::string &session, float seconds) {
    if (!this->on_)
      return Outcome::OFF;
    if (this->muted_)
      return Outcome::MUTED;
    if (wake_word.size() > LONGEST_TEXT || session.size() > LONGEST_TEXT)
      return Outcome::TEXT_TOO_LONG;
    switch (kind) {
      case Kind::PROMPT:
        if (!(seconds >= 0.1f && seconds * 1000.0f <= static_cast<float>(MOST_CLIP_MS)))  // not a number, too
          return Outcome::BAD_LENGTH;
        return this->capture_(kind, this->new_id_(), wake_word, session,
                              static_cast<uint64_t>(seconds * 1000.0f * static_cast<float>(SAMPLES_PER_MS) + 0.5f));
      case Kind::FALSE_WAKE:
        return this->false_wake_(wake_word);
      case Kind::DETECTION:
        return this->detected_(wake_word, session);
      case Kind::NEAR_MISS:
        if (this->near_miss_.held || this->within_hold_(this->detection_.seen, this->detection_.at_ms))
          return Outcome::SAME_WORD;
        return this->near_missed_(wake_word, session);
      default:
        this->canaries_++;
        return this->limited_(kind, this->new_id_(), wake_word, session);
    }
  }

  Outcome detected_(const std::string &wake_word, const std::string &session) {
    this->detections_++;
    const bool upgraded = this->near_miss_.held;
    if (upgraded) {
      for (const auto &capture : this->queue_.all()) {
        if (capture->held) {
          this->queue_.remove(capture.get());
          break;
        }
      }
      if (this->near_miss_.dropped)  // it was no case of its own
        this->dropped_--;
      this->near_miss_ = NearMiss{};
    }
    const std::string id = this->new_id_();
    this->detection_ = Detection{};
    this->detection_.seen = true;
    this->detection_.id = id;
    this->detection_.wake_word = wake_word;
    this->detection_.at_ms = this->now_ms_;
    const Outcome outcome = this->limited_(Kind::DETECTION, id, wake_word, session);
    if (outcome != Outcome::ACCEPTED)
      return outcome;
    this->detection_.audio = this->queue_.all().back()->audio;
    return upgraded ? Outcome::UPGRADED : Outcome::ACCEPTED;
  }

  Outcome near_missed_(const std::string &wake_word, const std::string &session) {
    this->near_miss_.held = true;
    this->near_miss_.at_ms = this->now_ms_;
    const Outcome outcome = this->limited_(Kind::NEAR_MISS, this->new_id_(), wake_word, session);
    this->near_miss_.dropped = outcome != Outcome::ACCEPTED;
    if (!this->near_miss_.dropped)
      this->queue_.all().back()->held = true;
    return outcome;
  }

  Outcome false_wake_(const std::string &wake_word) {
    Detection &about = this->detection_;
    if (!about.seen)
      return Outcome::NO_DETECTION;
    if (about.reported)
      return Outcome::ALREADY_REPORTED;
    if (!this->room_(Kind::FALSE_WAKE))
      return Outcome::QUEUE_FULL;
    auto capture = std::make_shared<Capture>();
    capture->id = this->new_id_();
    capture->kind = Kind::FALSE_WAKE;
    capture->wake_word = wake_word.empty() ? about.wake_word : wake_word;
    capture->session = about.id;
    capture->at_ms = this->now_ms_;
    capture->audio = about.audio.lock();  // the detection's own sound while it has not been sent
    this->queue_.add(capture);
    about.reported = true;
    return Outcome::ACCEPTED;
  }

  // A capture of a kind that is limited in number; counted as dropped when it is over the limit.
  Outcome limited_(Kind kind, const std::string &id, const std::string &wake_word, const std::string &session) {
    Limit &limit = this->limits_[static_cast<size_t>(kind)];
    if (limit.any && this->now_ms_ - limit.last_ms < this->settings_.min_interval_ms) {
      this->dropped_++;
      return Outcome::TOO_SOON;
    }
    // each capture costs its share of an hour; at most one hour is saved up
    const uint64_t cost = HOUR_MS / (this->settings_.max_per_hour > 0 ? this->settings_.max_per_hour : 1);
    if (limit.any) {
      const uint64_t credit = limit.credit_ms + (this->now_ms_ - limit.credited_ms);
      limit.credit_ms = credit < HOUR_MS ? credit : HOUR_MS;
    }
    limit.credited_ms = this->now_ms_;
    limit.any = true;
    if (limit.credit_ms < cost) {
      this->dropped_++;
      return Outcome::TOO_MANY;
    }
    const Outcome outcome = this->capture_(kind, id, wake_word, session, 0);
    if (outcome == Outcome::ACCEPTED) {
      limit.credit_ms -= cost;
      limit.last_ms = this->now_ms_;
    }
    return outcome;
  }

  bool room_(Kind kind) {
    std::shared_ptr<Capture> pushed_out;
    if (!this->queue_.make_room(kind, this->sending_.get(), pushed_out)) {
      this->dropped_++;
      return false;
    }
    if (pushed_out != nullptr)
      this->drop_(*pushed_out, "queue full");
    return true;
  }

  // forward == 0: pre-roll and post-roll around now; else that many samples from now on.
  Outcome capture_(Kind kind, const std::string &id, const std::string &wake_word, const std::string &session,
                   uint64_t forward) {
    if (!this->room_(kind))
      return Outcome::QUEUE_FULL;
    const uint64_t now = this->ring_.total();
    uint64_t begin = now, end = now + forward;
    if (forward == 0) {
      const uint64_t since = this->ring_.unbroken_since();
      const uint64_t wanted = static_cast<uint64_t>(this->settings_.pre_roll_ms) * SAMPLES_PER_MS;
      begin = now - since > wanted ? now - wanted : since;
      end = now + static_cast<uint64_t>(this->settings_.post_roll_ms) * SAMPLES_PER_MS;
    }
    auto audio = std::make_shared<Audio>(this->memory_, static_cast<size_t>(end - begin));
    if (audio->samples == nullptr) {
      this->dropped_++;
      return Outcome::NO_MEMORY;
    }
    audio->begin = audio->next = begin;
    audio->end = end;
    audio->trigger = now;
    audio->deadline_ms = this->now_ms_ + (end - now) / SAMPLES_PER_MS + 500;  // the microphone may stop meanwhile
    auto capture = std::make_shared<Capture>();
    capture->id = id;
    capture->kind = kind;
    capture->wake_word = wake_word;
    capture->session = session;
    capture->at_ms = this->now_ms_;
    capture->audio = audio;
    this->queue_.add(capture);
    return Outcome::ACCEPTED;
  }

  void copy_(Capture *capture) {
    Audio *audio = capture->audio.get();
    if (audio == nullptr || audio->complete)
      return;
    const uint64_t left = audio->end - audio->next;
    const size_t most = left < COPY_SAMPLES ? static_cast<size_t>(left) : COPY_SAMPLES;
    auto read = this->ring_.read(audio->begin, audio->next, most, audio->samples + audio->count());
    if (read.ended && audio->next == audio->begin && read.count == 0) {
      // the main loop stood still so long that the beginning was overwritten: a shorter pre-roll
      const uint64_t since = this->ring_.unbroken_since();
      if (since > audio->begin && since <= audio->trigger) {
        audio->begin = audio->next = since;
        read = this->ring_.read(since, since, most, audio->samples);
      }
    }
    audio->next += read.count;
    if (audio->next == audio->end || read.ended || (read.count == 0 && this->now_ms_ >= audio->deadline_ms)) {
      audio->complete = true;
      this->changed_ = true;
      if (capture->kind == Kind::PROMPT)
        this->backoff_.hurry();
    }
  }

  // A clip without a single sample: the microphone did not run, or the main loop stood still for seconds.
  void drop_silent_() {
    auto &all = this->queue_.all();
    for (size_t i = 0; i < all.size();) {
      const Audio *audio = all[i]->audio.get();
      if (audio == nullptr || !audio->complete || audio->count() > 0 || all[i] == this->sending_) {
        i++;
        continue;
      }
      if (all[i]->kind == Kind::FALSE_WAKE) {  // the remark itself still counts
        all[i]->audio.reset();
        continue;
      }
      this->drop_(*all[i], "no sound");
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  bool within_hold_(bool any, uint64_t at_ms) const {
    return any && this->now_ms_ - at_ms < this->settings_.near_miss_hold_ms;
  }

  void release_near_miss_() {
    if (!this->near_miss_.held || this->within_hold_(true, this->near_miss_.at_ms))
      return;
    this->near_miss_ = NearMiss{};
    this->near_misses_++;
    this->changed_ = true;
    for (const auto &capture : this->queue_.all())
      capture->held = false;
  }

  void send_(Connection *connection) {
    if (!this->post_.running()) {
      if (!this->backoff_.may_try(this->now_ms_))
        return;
      const std::shared_ptr<Capture> next = this->queue_.next();
      if (next == nullptr || (this->busy_ && next->kind != Kind::PROMPT))
        return;
      this->sending_ = next;
      std::string head = this->head_of_(*this->sending_);
      if (head.size() > LONGEST_HEAD) {
        this->finish_sending_(true, 0, "header too long");
        return;
      }
      const Audio *audio = this->sending_->audio.get();
      this->post_.start(connection, std::move(head),
                        audio == nullptr ? nullptr : reinterpret_cast<const uint8_t *>(audio->samples),
                        audio == nullptr ? 0 : audio->count() * sizeof(int16_t), this->settings_.timeout_ms,
                        this->now_ms_);
    }
    this->post_.step(this->now_ms_);
    if (!this->post_.running())
      this->finish_sending_(false, this->post_.status(), this->post_.trouble());
  }

  void finish_sending_(bool hopeless, int status, const std::string &trouble) {
    const std::shared_ptr<Capture> capture = this->sending_;
    this->sending_ = nullptr;
    this->changed_ = true;
    const std::string answer = status > 0 ? std::to_string(status) : trouble;
    const Verdict verdict = hopeless ? Verdict::REJECTED : judge_status(status);
    this->refused_ = verdict == Verdict::REFUSED;
    std::string what;
    switch (verdict) {
      case Verdict::TAKEN:
        this->backoff_.succeeded();
        what = "taken";
        break;
      case Verdict::REJECTED:
        if (!hopeless)
          this->backoff_.succeeded();
        this->dropped_++;
        what = "rejected";
        break;
      case Verdict::REFUSED:
        this->backoff_.refused(this->now_ms_);
        what = "token refused";
        break;
      default:
        this->backoff_.failed(this->now_ms_);
        what = "not sent yet";
        break;
    }
    if (verdict == Verdict::TAKEN || verdict == Verdict::REJECTED)
      this->queue_.remove(capture.get());
    this->report_(capture->kind, capture->id, verdict == Verdict::TAKEN, what + " (" + answer + ")");
  }

  void stop_sending_() {
    this->post_.abort();
    this->sending_ = nullptr;
  }

  std::string head_of_(const Capture &capture) const {
    const Audio *audio = capture.audio.get();
    const size_t samples = audio == nullptr ? 0 : audio->count();
    const Settings &s = this->settings_;
    std::string head = "POST " + s.path + " HTTP/1.1\r\nHost: " + s.host + ":" + std::to_string(s.port) +
                       "\r\nConnection: close\r\nAuthorization: Bearer " + s.token + "\r\nContent-Type: audio/wav" +
                       "\r\nContent-Length: " + std::to_string(WAV_HEADER_BYTES + samples * sizeof(int16_t)) + "\r\n";
    const auto add = [&head](const char *name, const std::string &value) {
      head += "X-Mww-";
      head += name;
      head += ": " + value + "\r\n";
    };
    add("Protocol", "1");
    add("Capture", capture.id);
    add("Kind", kind_name(capture.kind));
    add("Wake-Word", percent_encode(capture.wake_word));
    add("Model", percent_encode(s.model));
    add("Firmware", percent_encode(s.firmware));
    add("Gain", std::to_string(s.gain));
    add("Session", percent_encode(capture.session));
    add("Trigger-Sample", std::to_string(audio == nullptr ? 0 : audio->trigger - audio->begin));
    add("Age-Ms", std::to_string(this->now_ms_ - capture.at_ms));
    add("Listening-S", std::to_string(this->listening_ms_ / 1000));
    add("Dropped", std::to_string(this->dropped_));
    head += "\r\n";
    uint8_t wav[WAV_HEADER_BYTES];
    write_wav_header(wav, static_cast<uint32_t>(samples));
    head.append(reinterpret_cast<const char *>(wav), sizeof(wav));
    return head;
  }

  std::string new_id_() {
    char id[32];
    std::snprintf(id, sizeof(id), "%08lx%08lx-%lu", static_cast<unsigned long>(this->boot_ >> 32),
                  static_cast<unsigned long>(this->boot_ & 0xFFFFFFFFu), static_cast<unsigned long>(++this->numbered_));
    return id;
  }

  void drop_(const Capture &capture, const char *why) {
    this->dropped_++;
    this->report_(capture.kind, capture.id, false, std::string("dropped (") + why + ")");
  }

  void report_(Kind kind, const std::string &id, bool sent, const std::string &text) {
    this->changed_ = true;
    this->last_upload_ = std::string(kind_name(kind)) + (id.empty() ? "" : " ") + id + ": " + text;
    this->add_event_(sent, id, text);
  }

  void add_event_(bool sent, const std::string &id, const std::string &text) {
    if (this->events_.size() == MOST_EVENTS)
      this->events_.pop_front();
    this->events_.push_back(Event{sent, id, text});
  }

  struct NearMiss {  // the one that waits for a detection
    bool held{false};
    bool dropped{false};
    uint64_t at_ms{0};
  };
  struct Detection {  // the last one
    bool seen{false}, reported{false};
    std::string id, wake_word;
    uint64_t at_ms{0};
    std::weak_ptr<Audio> audio;
  };
  struct Limit {
    bool any{false};
    uint64_t last_ms{0}, credited_ms{0}, credit_ms{HOUR_MS};
  };

  const Settings settings_;
  const Memory memory_;
  const uint64_t boot_;
  ClipRing<Lock> ring_;
  CaptureQueue queue_;
  Backoff backoff_;
  HttpPost post_;
  std::shared_ptr<Capture> sending_;
  std::deque<Event> events_;
  NearMiss near_miss_;
  Detection detection_;
  Limit limits_[KINDS];
  std::string last_upload_;
  Saved last_saved_{};
  const char *state_shown_{nullptr};
  uint64_t now_ms_{0}, saved_ms_{0}, remaining_ms_{0}, listening_ms_{0};
  uint32_t clock_ms_{0}, numbered_{0}, detections_{0}, near_misses_{0}, canaries_{0}, dropped_{0};
  bool started_{false}, on_{false}, muted_{false}, listening_{true}, busy_{false}, no_memory_{false}, refused_{false};
  bool switched_{false}, changed_{true};
};

}  // namespace mww_capture_core
