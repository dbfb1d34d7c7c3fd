#pragma once
// The core (capture_core.h) as a component of ESPHome: time, memory, a socket, the microphone, automations.
#include "capture_core.h"

#include "esphome/components/socket/socket.h"
#include "esphome/core/automation.h"
#include "esphome/core/component.h"
#include "esphome/core/defines.h"
#include "esphome/core/helpers.h"
#include "esphome/core/preferences.h"
#ifdef USE_MICROPHONE
#include "esphome/components/microphone/microphone_source.h"
#endif

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace esphome {
namespace mww_capture {

// A TCP connection to the one address that was configured; no call ever waits.
class SocketConnection : public mww_capture_core::Connection {
 public:
  void set_endpoint(uint32_t ipv4, uint16_t port) {
    this->ipv4_ = ipv4;
    this->port_ = port;
  }
  bool open() override;
  long write(const uint8_t *data, size_t bytes) override;
  long read(uint8_t *data, size_t bytes) override;
  void close() override;

 private:
  std::unique_ptr<socket::Socket> socket_;
  uint32_t ipv4_{0};  // in the order of the machine
  uint16_t port_{0};
  bool connected_{false};
};

class MwwCapture : public Component {
 public:
  void setup() override;
  void loop() override;
  void dump_config() override;
  void on_safe_shutdown() override;
  float get_setup_priority() const override { return setup_priority::DATA; }

  void set_endpoint(const std::string &host, uint32_t ipv4, uint16_t port, const std::string &path) {
    this->settings_.host = host;
    this->settings_.port = port;
    this->settings_.path = path;
    this->connection_.set_endpoint(ipv4, port);
  }
  void set_token(const std::string &token) { this->settings_.token = token; }
  void set_model(const std::string &model) { this->settings_.model = model; }
  void set_window(uint32_t pre_roll_ms, uint32_t post_roll_ms) {
    this->settings_.pre_roll_ms = pre_roll_ms;
    this->settings_.post_roll_ms = post_roll_ms;
  }
  void set_limits(uint32_t min_interval_ms, uint32_t max_per_hour, size_t queue_size) {
    this->settings_.min_interval_ms = min_interval_ms;
    this->settings_.max_per_hour = max_per_hour;
    this->settings_.queue_size = queue_size;
  }
  void set_near_miss_hold(uint32_t hold_ms) { this->settings_.near_miss_hold_ms = hold_ms; }
  void set_retry(uint32_t shortest_ms, uint32_t longest_ms, uint32_t timeout_ms) {
    this->settings_.retry_min_ms = shortest_ms;
    this->settings_.retry_max_ms = longest_ms;
    this->settings_.timeout_ms = timeout_ms;
  }
  void set_listening(std::function<bool()> &&listening) { this->is_listening_ = std::move(listening); }
  void set_busy(std::function<bool()> &&busy) { this->is_busy_ = std::move(busy); }
#ifdef USE_MICROPHONE
  void set_microphone(microphone::MicrophoneSource *source, microphone::Microphone *microphone, int gain) {
    this->source_ = source;
    this->microphone_ = microphone;
    this->settings_.gain = gain;
  }
#endif
  void set_source_file(const std::string &path) { this->source_file_ = path; }

  // What actions do.
  void trigger(const std::string &kind, const std::string &wake_word, const std::string &ref, float seconds);
  void enable(float hours);
  void disable();
  // For devices whose mute switch the microphone does not know of. Either of the two mutes.
  void set_muted(bool muted);

  // What entities show. Captures, near misses and so on count only while capture is on.
  bool is_on() const { return this->core_ != nullptr && this->core_->is_on(); }
  std::string state() const { return this->core_ == nullptr ? "off" : this->core_->state(); }
  std::string last_upload() const { return this->core_ == nullptr ? "" : this->core_->last_upload(); }
  uint32_t detections() const { return this->core_ == nullptr ? 0 : this->core_->detections(); }
  uint32_t near_misses() const { return this->core_ == nullptr ? 0 : this->core_->near_misses(); }
  uint32_t canary_detections() const { return this->core_ == nullptr ? 0 : this->core_->canaries(); }
  uint32_t dropped() const { return this->core_ == nullptr ? 0 : this->core_->dropped(); }
  uint32_t queue_length() const { return this->core_ == nullptr ? 0 : this->core_->queue_length(); }
  float listening_hours() const { return this->core_ == nullptr ? 0 : this->core_->listening_hours(); }
  float remaining_hours() const { return this->core_ == nullptr ? 0 : this->core_->remaining_hours(); }

  Trigger<std::string, std::string> *get_sent_trigger() { return &this->sent_; }
  Trigger<std::string, std::string> *get_failed_trigger() { return &this->failed_; }
  Trigger<> *get_start_trigger() { return &this->start_; }
  Trigger<> *get_stop_trigger() { return &this->stop_; }
  Trigger<> *get_update_trigger() { return &this->update_; }

 protected:
  using Core = mww_capture_core::CaptureCore<Mutex>;

  void listen_();  // sends what is heard to the core, from a task of its own
  void look_();    // tells the core what only this device knows
  void save_(bool now);

  mww_capture_core::Settings settings_;
  std::unique_ptr<Core> core_;
  SocketConnection connection_;
  std::function<bool()> is_listening_, is_busy_;
  std::string source_file_;
  ESPPreferenceObject preference_;
  Trigger<std::string, std::string> sent_, failed_;
  Trigger<> start_, stop_, update_;
  uint32_t updated_ms_{0};
  bool muted_by_action_{false}, was_on_{false};
#ifdef USE_MICROPHONE
  microphone::MicrophoneSource *source_{nullptr};
  microphone::Microphone *microphone_{nullptr};
#endif
};

template<typename... Ts> class TriggerAction : public Action<Ts...>, public Parented<MwwCapture> {
 public:
  TEMPLATABLE_VALUE(std::string, kind)
  TEMPLATABLE_VALUE(std::string, wake_word)
  TEMPLATABLE_VALUE(std::string, ref)
  TEMPLATABLE_VALUE(float, seconds)
  void play(const Ts &...x) override {
    this->parent_->trigger(this->kind_.value(x...), this->wake_word_.value(x...), this->ref_.value(x...),
                           this->seconds_.value(x...));
  }
};

template<typename... Ts> class EnableAction : public Action<Ts...>, public Parented<MwwCapture> {
 public:
  TEMPLATABLE_VALUE(float, hours)
  void play(const Ts &...x) override { this->parent_->enable(this->hours_.value(x...)); }
};

template<typename... Ts> class DisableAction : public Action<Ts...>, public Parented<MwwCapture> {
 public:
  void play(const Ts &...x) override { this->parent_->disable(); }
};

template<typename... Ts> class SetMutedAction : public Action<Ts...>, public Parented<MwwCapture> {
 public:
  TEMPLATABLE_VALUE(bool, muted)
  void play(const Ts &...x) override { this->parent_->set_muted(this->muted_.value(x...)); }
};

}  // namespace mww_capture
}  // namespace esphome
