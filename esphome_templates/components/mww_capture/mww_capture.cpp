#include "mww_capture.h"

#include "esphome/core/application.h"
#include "esphome/core/hal.h"
#include "esphome/core/log.h"
#include "esphome/core/version.h"

#include <cerrno>
#include <cinttypes>
#include <cstring>

#ifdef USE_HOST
#include <csignal>
#endif
#ifndef USE_MICROPHONE
#include <chrono>
#include <cstdio>
#include <thread>
#endif

namespace esphome {
namespace mww_capture {

using mww_capture_core::Event;
using mww_capture_core::Kind;
using mww_capture_core::Memory;
using mww_capture_core::Outcome;
using mww_capture_core::Saved;

static const char *const TAG = "mww_capture";
static const uint32_t UPDATE_MS = 60000;     // the hours are shown at least this often
static const uint32_t SAVED_KEY = 0x4D57C301;  // of the stored counters; a new one when Saved changes

// PSRAM only: a clip in internal memory would starve the device. On the host this is malloc.
static void *allocate_sound(size_t bytes) {
  RAMAllocator<uint8_t> allocator(RAMAllocator<uint8_t>::ALLOC_EXTERNAL);
  return allocator.allocate(bytes);
}
static void release_sound(void *memory) {
  RAMAllocator<uint8_t> allocator(RAMAllocator<uint8_t>::ALLOC_EXTERNAL);
  allocator.deallocate(static_cast<uint8_t *>(memory), 0);
}

// --- the connection ---

bool SocketConnection::open() {
  this->connected_ = false;
  this->socket_ = socket::socket(AF_INET, SOCK_STREAM, 0);
  if (this->socket_ == nullptr)
    return false;
  if (this->socket_->setblocking(false) != 0)
    return false;
  struct sockaddr_in address;
  memset(&address, 0, sizeof(address));
  address.sin_family = AF_INET;
  address.sin_port = htons(this->port_);
  address.sin_addr.s_addr = htonl(this->ipv4_);
  const int result = this->socket_->connect(reinterpret_cast<struct sockaddr *>(&address), sizeof(address));
  return result == 0 || errno == EINPROGRESS;
}

long SocketConnection::write(const uint8_t *data, size_t bytes) {
  if (this->socket_ == nullptr)
    return -1;
  if (!this->connected_) {
    // a refused connection shows here at once; a write would only say "not connected" for good
    int error = 0;
    socklen_t length = sizeof(error);
    if (this->socket_->getsockopt(SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0)
      return -1;
  }
  const ssize_t taken = this->socket_->write(data, bytes);
  if (taken > 0) {
    this->connected_ = true;
    return taken;
  }
  if (taken < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
    return 0;
  if (taken < 0 && !this->connected_ && (errno == EINPROGRESS || errno == EALREADY || errno == ENOTCONN))
    return 0;
  return taken < 0 ? -1 : 0;
}

long SocketConnection::read(uint8_t *data, size_t bytes) {
  if (this->socket_ == nullptr)
    return -1;
  const ssize_t got = this->socket_->read(data, bytes);
  if (got > 0)
    return got;
  return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
}

void SocketConnection::close() {
  if (this->socket_ != nullptr)
    this->socket_->close();
  this->socket_ = nullptr;
}

// --- the sound ---

#ifdef USE_MICROPHONE
void MwwCapture::listen_() {
  // Runs in the microphone's task.
  this->source_->add_data_callback([this](const std::vector<uint8_t> &data) {
    this->core_->hear(data.data(), data.size() / sizeof(int16_t), millis());
  });
}

#else
// A file stands in for the microphone: blocks of 16 ms in real time, over and over, from a thread of its own.
void MwwCapture::listen_() {
  std::vector<int16_t> sound;
  if (FILE *file = fopen(this->source_file_.c_str(), "rb")) {
    int16_t block[512];
    if (fseek(file, mww_capture_core::WAV_HEADER_BYTES, SEEK_SET) == 0) {
      size_t count;
      while ((count = fread(block, sizeof(int16_t), 512, file)) > 0)
        sound.insert(sound.end(), block, block + count);
    }
    fclose(file);
  }
  if (sound.empty()) {
    ESP_LOGE(TAG, "No sound in %s", this->source_file_.c_str());
    this->mark_failed();
    return;
  }
  std::thread([this, sound]() {
    const size_t block = 16 * mww_capture_core::SAMPLES_PER_MS;
    auto due = std::chrono::steady_clock::now();
    std::vector<int16_t> samples(block);
    size_t at = 0;
    for (uint32_t ms = 0;; ms += 16) {
      for (auto &sample : samples) {
        sample = sound[at];
        at = at + 1 < sound.size() ? at + 1 : 0;
      }
      due += std::chrono::milliseconds(16);
      std::this_thread::sleep_until(due);
      this->core_->hear(samples.data(), block, ms);
    }
  }).detach();
}
#endif

// --- the component ---

void MwwCapture::setup() {
#ifdef USE_HOST
  std::signal(SIGPIPE, SIG_IGN);  // a server that hangs up is an error of the write, not the end of the program
#endif
  char built[Application::BUILD_TIME_STR_SIZE];
  App.get_build_time_string(built);
  this->settings_.firmware = std::string("ESPHome ") + ESPHOME_VERSION + ", built " + built;
  const uint64_t boot = (static_cast<uint64_t>(random_uint32()) << 32) | random_uint32();
  this->core_.reset(new Core(this->settings_, Memory{allocate_sound, release_sound}, boot));
  this->preference_ = global_preferences->make_preference<Saved>(SAVED_KEY);
  this->look_();
  Saved saved{};
  if (this->preference_.load(&saved))
    this->core_->restore(saved, millis());
  this->listen_();
}

void MwwCapture::dump_config() {
  ESP_LOGCONFIG(TAG,
                "Wake audio capture:\n"
                "  To: http://%s:%u%s\n"
                "  Clip: %" PRIu32 " ms before, %" PRIu32 " ms after\n"
                "  Memory while on: %u bytes, and up to %u clips",
                this->settings_.host.c_str(), this->settings_.port, this->settings_.path.c_str(),
                this->settings_.pre_roll_ms, this->settings_.post_roll_ms,
                static_cast<unsigned>(this->core_ == nullptr ? 0 : this->core_->ring_samples() * sizeof(int16_t)),
                static_cast<unsigned>(this->settings_.queue_size));
}

void MwwCapture::on_safe_shutdown() {
  if (this->core_ == nullptr)
    return;
  this->core_->shut_down(millis());
  this->save_(true);
}

void MwwCapture::look_() {
  const uint32_t now = millis();
  bool muted = this->muted_by_action_;
#ifdef USE_MICROPHONE
  muted = muted || this->microphone_->get_mute_state();
#endif
  this->core_->set_muted(muted, now);
  this->core_->set_listening(!this->is_listening_ || this->is_listening_(), now);
  this->core_->set_busy(this->is_busy_ && this->is_busy_());
}

void MwwCapture::loop() {
  this->look_();
  const uint32_t now = millis();
  this->core_->loop(&this->connection_, now);
  if (this->core_->is_on() != this->was_on_) {
    this->was_on_ = this->core_->is_on();
    (this->was_on_ ? this->start_ : this->stop_).trigger();
  }
  Event event;
  while (this->core_->take_event(event)) {
    if (event.sent) {
      ESP_LOGI(TAG, "%s %s", event.id.c_str(), event.text.c_str());
      this->sent_.trigger(event.id, event.text);
    } else {
      ESP_LOGW(TAG, "%s %s", event.id.c_str(), event.text.c_str());
      this->failed_.trigger(event.id, event.text);
    }
  }
  this->save_(false);
  if (this->core_->take_changed() || (this->core_->is_on() && now - this->updated_ms_ >= UPDATE_MS)) {
    this->updated_ms_ = now;
    this->update_.trigger();
  }
}

void MwwCapture::save_(bool now) {
  Saved saved{};
  bool switched = false;
  if (!this->core_->should_save(saved, switched, now))
    return;
  this->preference_.save(&saved);
  if (switched)  // a plug pulled now must not switch capture on again
    global_preferences->sync();
}

void MwwCapture::trigger(const std::string &kind, const std::string &wake_word, const std::string &ref,
                         float seconds) {
  Kind parsed;
  if (this->core_ == nullptr)
    return;
  if (!mww_capture_core::parse_kind(kind, parsed)) {
    ESP_LOGW(TAG, "There is no kind of capture with that name");
    return;
  }
  this->look_();
  [[maybe_unused]] const Outcome outcome =
      this->core_->trigger(parsed, wake_word, ref, seconds, millis());
  ESP_LOGD(TAG, "%s: %s", mww_capture_core::kind_name(parsed), mww_capture_core::outcome_text(outcome));
}

void MwwCapture::enable(float hours) {
  if (this->core_ != nullptr && !this->core_->switch_on(hours, millis())) {
    ESP_LOGE(TAG, "No memory for %u bytes of sound",
             static_cast<unsigned>(this->core_->ring_samples() * sizeof(int16_t)));
  }
}

void MwwCapture::disable() {
  if (this->core_ != nullptr)
    this->core_->switch_off(millis());
}

void MwwCapture::set_muted(bool muted) {
  this->muted_by_action_ = muted;
  if (this->core_ != nullptr)
    this->look_();
}

}  // namespace mww_capture
}  // namespace esphome
