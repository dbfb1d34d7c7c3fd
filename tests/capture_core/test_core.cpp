// From a trigger to a clip at the server: what is cut, what is counted, what is kept back, what is never sent.
#include "check.h"

using namespace mww_capture_core;
using Kind = mww_capture_core::Kind;
using Outcome = mww_capture_core::Outcome;

static constexpr size_t SECOND = 16000;

static void check_clip(const std::string &request, uint64_t from, size_t count, uint64_t trigger) {
  CHECK(Server::samples(request) == counted(from, count));
  CHECK_EQUAL(Server::header(request, "X-Mww-Trigger-Sample"), std::to_string(trigger));
  CHECK_EQUAL(Server::header(request, "Content-Length"), std::to_string(WAV_HEADER_BYTES + 2 * count));
}

static void off_is_off() {
  Device device;
  device.run(6000);
  for (Kind kind : {Kind::DETECTION, Kind::NEAR_MISS, Kind::CANARY})
    CHECK_EQUAL(device.trigger(kind), Outcome::OFF);
  device.run(3000);
  CHECK_EQUAL(device.server.opened, 0);
  CHECK_EQUAL(held_memory(), 0u);
  CHECK(device.events().empty());
  CHECK_EQUAL(device.core.detections() + device.core.dropped(), 0u);
  CHECK_EQUAL(std::string(device.core.state()), std::string("off"));
  CHECK_EQUAL(device.core.listening_hours(), 0.0f);
  CHECK_EQUAL(device.trigger(Kind::PROMPT, "", "", 1), Outcome::OFF);  // somebody waits for it
  CHECK(device.events() == std::vector<std::string>{"failed capture is off"});
}

static void a_detection_to_the_sample() {
  Device device;
  CHECK(device.core.switch_on(1, device.now));
  device.run(7000);
  device.hear(123);  // not on a block's boundary
  const uint64_t now = device.heard;
  CHECK_EQUAL(device.trigger(Kind::DETECTION, "hey \"Küche\"\r\n", "a/b"), Outcome::ACCEPTED);
  CHECK_EQUAL(std::string(device.core.state()), std::string("recording"));
  device.run(992);
  CHECK_EQUAL(device.server.opened, 0);  // a sample short of the post-roll
  device.hear(127);
  device.core.loop(&device.server, device.now);
  CHECK_EQUAL(device.server.opened, 0);
  device.hear(1);
  for (int i = 0; i < 60; i++)
    device.core.loop(&device.server, device.now);
  CHECK_EQUAL(device.server.requests.size(), 1u);
  const std::string &request = device.server.requests[0];
  check_clip(request, now - 4 * SECOND, 5 * SECOND, 4 * SECOND);
  CHECK(request.rfind("POST /api/captures HTTP/1.1\r\nHost: 192.168.1.10:8765\r\n", 0) == 0);
  CHECK_EQUAL(Server::header(request, "Authorization"), std::string("Bearer secret-token"));
  CHECK_EQUAL(Server::header(request, "Content-Type"), std::string("audio/wav"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Protocol"), std::string("1"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Capture"), std::string("0123456789abcdef-1"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Kind"), std::string("detection"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Wake-Word"), std::string("hey%20%22K%C3%BCche%22%0D%0A"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Model"), std::string("hey_kitchen%201a2b3c4d"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Firmware"), std::string("ESPHome%202026.6.5"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Gain"), std::string("4"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Session"), std::string("a%2Fb"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Age-Ms"), std::string("992"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Listening-S"), std::string("7"));
  CHECK_EQUAL(Server::header(request, "X-Mww-Dropped"), std::string("0"));
  CHECK(device.events() == std::vector<std::string>{"sent taken (201)"});
  CHECK_EQUAL(device.core.last_upload(), std::string("detection 0123456789abcdef-1: taken (201)"));
  CHECK_EQUAL(device.core.queue_length(), 0u);
  CHECK_EQUAL(device.core.detections(), 1u);
  CHECK_EQUAL(std::string(device.core.state()), std::string("idle"));
}

static void every_window() {
  const std::vector<std::pair<uint32_t, uint32_t>> windows{{0, 100}, {100, 100}, {4000, 1000}, {9000, 1000}};
  for (const auto &window : windows) {
    Settings settings = Device::usual();
    settings.pre_roll_ms = window.first;
    settings.post_roll_ms = window.second;
    const size_t pre = window.first * 16, post = window.second * 16;
    // as much as the pre-roll, a sample less, a sample more, nothing
    for (size_t before : {pre - (pre > 0), pre, pre + 1, size_t{0}, pre * 3 + 7}) {
      Device device(settings);
      device.core.switch_on(1, device.now);
      for (size_t left = before; left > 0;) {
        const size_t block = left < 256 ? left : 256;
        device.hear(block);
        left -= block;
      }
      const size_t kept = before < pre ? before : pre;
      CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
      device.run(window.second + 4000);
      CHECK_EQUAL(device.server.requests.size(), 1u);
      check_clip(device.server.requests[0], before - kept, kept + post, kept);
    }
  }
}

static void prompted_takes() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(2000);
  const uint64_t now = device.heard;
  CHECK_EQUAL(device.trigger(Kind::PROMPT, "hey kitchen", "session1-03", 1.5f), Outcome::ACCEPTED);
  device.run(400);
  CHECK_EQUAL(device.trigger(Kind::PROMPT, "hey kitchen", "session1-04", 10.0f), Outcome::ACCEPTED);  // both at once
  const uint64_t later = device.heard;
  device.run(13000);
  CHECK_EQUAL(device.server.requests.size(), 2u);
  check_clip(device.server.requests[0], now, 24000, 0);
  check_clip(device.server.requests[1], later, 160000, 0);
  CHECK_EQUAL(Server::header(device.server.requests[1], "X-Mww-Session"), std::string("session1-04"));
  CHECK_EQUAL(Server::header(device.server.requests[0], "X-Mww-Kind"), std::string("prompt"));
  for (float seconds : {0.0f, -1.0f, 0.09f, 10.01f, 1e30f, __builtin_nanf(""), __builtin_inff()})
    CHECK_EQUAL(device.trigger(Kind::PROMPT, "", "", seconds), Outcome::BAD_LENGTH);
  CHECK_EQUAL(device.trigger(Kind::PROMPT, "", std::string(129, 'x'), 1), Outcome::TEXT_TOO_LONG);
  CHECK_EQUAL(device.trigger(Kind::PROMPT, std::string(129, 'x'), "", 1), Outcome::TEXT_TOO_LONG);
  CHECK_EQUAL(device.trigger(Kind::PROMPT, std::string(128, 'x'), std::string(128, '/'), 1), Outcome::ACCEPTED);
}

static void near_misses() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(5000);
  // 992 ms later the main model fires: it was a detection
  CHECK_EQUAL(device.trigger(Kind::NEAR_MISS, "hey kitchen (near miss)"), Outcome::ACCEPTED);
  device.run(992);
  const uint64_t now = device.heard;
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::UPGRADED);
  CHECK_EQUAL(device.trigger(Kind::NEAR_MISS), Outcome::SAME_WORD);  // the tail of the same word
  device.run(3000);
  CHECK_EQUAL(device.server.requests.size(), 1u);
  CHECK_EQUAL(Server::header(device.server.requests[0], "X-Mww-Kind"), std::string("detection"));
  check_clip(device.server.requests[0], now - 4 * SECOND, 5 * SECOND, 4 * SECOND);
  CHECK_EQUAL(device.core.near_misses(), 0u);
  CHECK_EQUAL(device.core.detections(), 1u);
  CHECK_EQUAL(device.core.dropped(), 0u);
  // after a second it is a near miss for good, and the detection after it a case of its own
  CHECK_EQUAL(device.trigger(Kind::NEAR_MISS), Outcome::ACCEPTED);
  CHECK_EQUAL(device.trigger(Kind::NEAR_MISS), Outcome::SAME_WORD);
  device.run(999);
  CHECK_EQUAL(device.core.near_misses(), 0u);
  device.run(1);
  CHECK_EQUAL(device.core.near_misses(), 1u);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  device.run(4000);
  CHECK_EQUAL(device.server.requests.size(), 3u);
  CHECK_EQUAL(Server::header(device.server.requests[1], "X-Mww-Kind"), std::string("near_miss"));
  CHECK_EQUAL(Server::header(device.server.requests[2], "X-Mww-Kind"), std::string("detection"));
  CHECK_EQUAL(device.core.near_misses(), 1u);
  CHECK_EQUAL(device.core.detections(), 2u);
}

static void a_near_miss_is_held_although_it_is_complete() {
  Settings settings = Device::usual();
  settings.post_roll_ms = 100;
  Device device(settings);
  device.core.switch_on(1, device.now);
  device.run(5000);
  device.trigger(Kind::NEAR_MISS);
  device.run(900);
  CHECK_EQUAL(device.server.opened, 0);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::UPGRADED);
  device.run(2000);
  CHECK_EQUAL(device.server.requests.size(), 1u);
}

static void canaries() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(5000);
  CHECK_EQUAL(device.trigger(Kind::CANARY), Outcome::ACCEPTED);
  device.run(320);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);  // both models: both are told
  device.run(5000);
  CHECK_EQUAL(device.core.canaries(), 1u);
  CHECK_EQUAL(device.core.detections(), 1u);
  CHECK_EQUAL(device.server.requests.size(), 2u);
  CHECK_EQUAL(Server::header(device.server.requests[0], "X-Mww-Kind"), std::string("canary"));
}

static void triggers_in_a_row() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(5000);
  const uint64_t first = device.heard;
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  device.run(320);
  const uint64_t second = device.heard;
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  device.run(5000);
  CHECK_EQUAL(device.server.requests.size(), 2u);  // each its own clip, also where they overlap
  check_clip(device.server.requests[0], first - 4 * SECOND, 5 * SECOND, 4 * SECOND);
  check_clip(device.server.requests[1], second - 4 * SECOND, 5 * SECOND, 4 * SECOND);
}

static void limits() {
  Settings settings = Device::usual();
  settings.min_interval_ms = 5000;
  settings.max_per_hour = 4;
  Device device(settings);
  device.core.switch_on(300, device.now);
  device.run(1000);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  CHECK_EQUAL(device.trigger(Kind::CANARY), Outcome::ACCEPTED);  // each kind by itself
  device.run(4999);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::TOO_SOON);
  CHECK_EQUAL(device.trigger(Kind::PROMPT, "", "", 1), Outcome::ACCEPTED);  // never limited
  CHECK_EQUAL(device.trigger(Kind::FALSE_WAKE), Outcome::ACCEPTED);
  device.run(1);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  for (int i = 0; i < 2; i++) {
    device.run(6000);
    CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  }
  device.run(6000);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::TOO_MANY);
  CHECK_EQUAL(device.core.detections(), 6u);  // they are counted
  CHECK_EQUAL(device.core.dropped(), 2u);
  device.run(HOUR_MS / 4, false);  // a quarter of an hour, a quarter of the number
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  device.run(6000);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::TOO_MANY);
  device.run(HOUR_MS * 9, false);  // no more than an hour's number is saved up
  for (int i = 0; i < 4; i++) {
    CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
    device.run(6000);
  }
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::TOO_MANY);
}

static void a_near_miss_over_the_limit_still_counts() {
  Settings settings = Device::usual();
  settings.min_interval_ms = 5000;
  Device device(settings);
  device.core.switch_on(1, device.now);
  device.run(1000);
  device.trigger(Kind::NEAR_MISS);
  device.run(2000);
  CHECK_EQUAL(device.trigger(Kind::NEAR_MISS), Outcome::TOO_SOON);
  device.run(2000);
  CHECK_EQUAL(device.core.near_misses(), 2u);
  CHECK_EQUAL(device.core.dropped(), 1u);
  CHECK_EQUAL(device.trigger(Kind::NEAR_MISS), Outcome::TOO_SOON);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::UPGRADED);
  CHECK_EQUAL(device.core.dropped(), 1u);
}

static void false_wakes() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(5000);
  CHECK_EQUAL(device.trigger(Kind::FALSE_WAKE, ""), Outcome::NO_DETECTION);
  CHECK(device.events() == std::vector<std::string>{"failed no detection to refer to"});
  device.trigger(Kind::DETECTION, "hey kitchen");
  device.run(8000);
  // the detection is at the server: a remark without sound
  CHECK_EQUAL(device.trigger(Kind::FALSE_WAKE, ""), Outcome::ACCEPTED);
  CHECK_EQUAL(device.trigger(Kind::FALSE_WAKE, ""), Outcome::ALREADY_REPORTED);
  device.run(1000);
  CHECK_EQUAL(device.server.requests.size(), 2u);
  check_clip(device.server.requests[1], 0, 0, 0);
  CHECK_EQUAL(Server::header(device.server.requests[1], "X-Mww-Kind"), std::string("false_wake"));
  CHECK_EQUAL(Server::header(device.server.requests[1], "X-Mww-Wake-Word"), std::string("hey%20kitchen"));
  CHECK_EQUAL(Server::header(device.server.requests[1], "X-Mww-Session"),
              Server::header(device.server.requests[0], "X-Mww-Capture"));
  // the detection still waits: its sound goes with the remark, which is sent first
  device.server.reachable = false;
  device.run(1000);
  const uint64_t now = device.heard;
  const size_t pieces = held_memory();
  device.trigger(Kind::DETECTION, "hey kitchen");
  device.run(496);
  CHECK_EQUAL(device.trigger(Kind::FALSE_WAKE, ""), Outcome::ACCEPTED);  // in the middle of the post-roll
  CHECK_EQUAL(held_memory(), pieces + 1);  // one sound for both
  device.run(4000);
  device.server.reachable = true;
  device.run(8000);
  CHECK_EQUAL(device.server.requests.size(), 4u);
  CHECK_EQUAL(Server::header(device.server.requests[2], "X-Mww-Kind"), std::string("false_wake"));
  CHECK_EQUAL(Server::header(device.server.requests[3], "X-Mww-Kind"), std::string("detection"));
  check_clip(device.server.requests[2], now - 4 * SECOND, 5 * SECOND, 4 * SECOND);
  check_clip(device.server.requests[3], now - 4 * SECOND, 5 * SECOND, 4 * SECOND);
  CHECK_EQUAL(Server::header(device.server.requests[2], "X-Mww-Session"),
              Server::header(device.server.requests[3], "X-Mww-Capture"));
  CHECK_EQUAL(held_memory(), pieces);
}

static void muted() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(5000);
  device.server.takes = false;
  device.trigger(Kind::DETECTION, "kept");  // complete before the mute
  device.run(2000);
  device.trigger(Kind::CANARY, "given up");  // in the middle of its post-roll
  device.trigger(Kind::NEAR_MISS, "given up too");
  device.run(500);
  CHECK_EQUAL(std::string(device.core.state()), std::string("sending"));
  device.core.set_muted(true, device.now);
  CHECK_EQUAL(device.server.open_now, 0);  // at once, in the middle of it
  CHECK_EQUAL(std::string(device.core.state()), std::string("muted"));
  CHECK_EQUAL(device.core.queue_length(), 1u);
  CHECK_EQUAL(device.core.dropped(), 2u);
  const float hours = device.core.listening_hours();
  const int opened = device.server.opened;
  device.server.takes = true;
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::MUTED);
  device.run(60000);
  CHECK_EQUAL(device.trigger(Kind::PROMPT, "", "", 1), Outcome::MUTED);
  CHECK_EQUAL(device.server.opened, opened);
  CHECK_EQUAL(device.core.listening_hours(), hours);
  CHECK_EQUAL(device.core.detections(), 1u);
  CHECK_EQUAL(device.core.near_misses(), 0u);
  device.core.set_muted(false, device.now);
  const uint64_t unmuted = device.heard;
  device.run(1600);
  device.trigger(Kind::DETECTION, "after");
  device.run(5000);
  CHECK_EQUAL(device.server.requests.size(), 2u);
  CHECK_EQUAL(Server::header(device.server.requests[0], "X-Mww-Wake-Word"), std::string("kept"));
  CHECK_EQUAL(Server::header(device.server.requests[1], "X-Mww-Wake-Word"), std::string("after"));
  check_clip(device.server.requests[1], unmuted, 1600 * 16 + SECOND, 1600 * 16);  // nothing from before
  // switched on while muted: nothing is kept until the mute ends
  device.core.switch_off(device.now);
  device.core.set_muted(true, device.now);
  device.core.switch_on(1, device.now);
  device.run(3000);
  device.core.set_muted(false, device.now);
  const uint64_t start = device.heard;
  device.run(160);
  device.trigger(Kind::DETECTION, "third");
  device.run(5000);
  check_clip(device.server.requests[2], start, 160 * 16 + SECOND, 160 * 16);
}

static void switched_off() {
  Device device;
  device.run(6000);  // heard before it was switched on
  device.core.switch_on(1, device.now);
  const uint64_t start = device.heard;
  device.run(480);
  device.trigger(Kind::DETECTION);
  device.run(4000);
  check_clip(device.server.requests[0], start, 480 * 16 + SECOND, 480 * 16);
  // in the middle of sending, with more behind it
  device.server.per_write = 2000;
  device.trigger(Kind::DETECTION);
  device.run(1100);
  device.trigger(Kind::CANARY);
  device.run(100);
  CHECK_EQUAL(device.server.open_now, 1);
  CHECK(!device.server.complete());
  device.core.switch_off(device.now);
  CHECK_EQUAL(device.server.open_now, 0);
  CHECK_EQUAL(device.core.queue_length(), 0u);
  CHECK_EQUAL(device.core.dropped(), 2u);
  CHECK_EQUAL(held_memory(), 0u);
  const int opened = device.server.opened;
  device.run(10000);
  CHECK_EQUAL(device.server.opened, opened);
  // on again: none of it comes back, and a false wake has nothing to refer to
  device.core.switch_on(1, device.now);
  const uint64_t again = device.heard;
  device.run(160);
  CHECK_EQUAL(device.trigger(Kind::FALSE_WAKE), Outcome::NO_DETECTION);
  device.trigger(Kind::DETECTION);
  device.server.per_write = 1 << 20;
  device.run(5000);
  CHECK_EQUAL(device.server.requests.size(), 2u);
  check_clip(device.server.requests[1], again, 160 * 16 + SECOND, 160 * 16);
  // switching on what is on keeps the sound
  device.run(5000);
  device.core.switch_on(5, device.now);
  device.trigger(Kind::DETECTION);
  device.run(5000);
  CHECK_EQUAL(Server::samples(device.server.requests[2]).size(), 5 * SECOND);
}

static void it_switches_itself_off() {
  for (float hours : {0.0f, -3.0f, __builtin_nanf("")}) {  // nonsense is a day
    Device device;
    device.core.switch_on(hours, device.now);
    CHECK_EQUAL(device.core.remaining_hours(), 24.0f);
  }
  Device device(Device::usual(), UINT32_MAX - 2 * HOUR_MS);  // the clock wraps around meanwhile
  device.core.switch_on(1000, device.now);
  CHECK_EQUAL(device.core.remaining_hours(), 336.0f);
  device.core.switch_on(10, device.now);
  for (int hour = 0; hour < 9; hour++)
    device.run(HOUR_MS, false);
  CHECK_EQUAL(device.core.remaining_hours(), 1.0f);
  device.run(HOUR_MS - 1, false);
  CHECK(device.core.is_on());
  CHECK(device.core.take_changed());
  device.run(1, false);
  CHECK(!device.core.is_on());
  CHECK(device.core.take_changed());
  CHECK_EQUAL(held_memory(), 0u);
  CHECK_EQUAL(device.core.listening_hours(), 10.0f);
  device.run(HOUR_MS, false);
  CHECK_EQUAL(device.core.listening_hours(), 10.0f);
}

static void exposure() {
  Device device;
  device.core.switch_on(10, device.now);
  device.run(HOUR_MS / 2, false);
  device.core.set_listening(false, device.now);  // the assistant has the microphone
  device.run(HOUR_MS / 2, false);
  device.core.set_listening(true, device.now);
  device.run(HOUR_MS / 4, false);
  device.core.set_muted(true, device.now);
  device.run(HOUR_MS, false);
  CHECK_EQUAL(device.core.listening_hours(), 0.75f);
}

static void over_a_restart() {
  Saved saved{};
  bool switched = false;
  Settings settings = Device::usual();
  {
    Device device(settings);
    device.core.restore(saved, device.now);  // of another version: nothing
    CHECK(!device.core.is_on());
    CHECK(!device.core.should_save(saved, switched));
    device.core.switch_on(2, device.now);
    CHECK(device.core.should_save(saved, switched));
    CHECK(switched);
    CHECK_EQUAL(saved.on, 1u);
    CHECK_EQUAL(saved.remaining_s, 7200u);
    CHECK(!device.core.should_save(saved, switched));
    device.run(5000);
    device.trigger(Kind::DETECTION);
    device.run(settings.save_every_ms - 5001, false);
    CHECK(!device.core.should_save(saved, switched));  // flash wears: not for each detection
    device.run(1, false);
    CHECK(device.core.should_save(saved, switched));
    CHECK(!switched);
    CHECK_EQUAL(saved.detections, 1u);
    CHECK_EQUAL(saved.remaining_s, 6600u);
    CHECK_EQUAL(saved.listening_s, 600u);
    device.server.reachable = false;
    device.trigger(Kind::DETECTION);  // waits for a server, and for the restart
    device.run(100000, false);
    device.core.shut_down(device.now);
    CHECK_EQUAL(device.core.queue_length(), 0u);
    CHECK(device.core.should_save(saved, switched, true));  // a restart that was asked for
    CHECK_EQUAL(saved.dropped, 1u);
  }
  {
    Device device(settings, 12);
    device.core.restore(saved, device.now);
    CHECK(device.core.is_on());
    CHECK(!device.core.should_save(saved, switched));  // nothing is new
    CHECK_EQUAL(device.core.detections(), 2u);
    CHECK_EQUAL(device.core.dropped(), 1u);
    CHECK_EQUAL(device.core.remaining_hours(), 6500.0f / 3600);
    CHECK_EQUAL(device.core.listening_hours(), 700.0f / 3600);
    device.core.switch_off(device.now);
    CHECK(device.core.should_save(saved, switched) && switched);
    CHECK_EQUAL(saved.on, 0u);
    CHECK_EQUAL(saved.remaining_s, 0u);
    int saves = 0;
    for (int i = 0; i < 100; i++) {
      device.run(settings.save_every_ms, false);
      saves += device.core.should_save(saved, switched);
    }
    CHECK_EQUAL(saves, 0);  // off: there is nothing to write
  }
  for (uint32_t remaining : {0u, 336u * 3600 + 1, UINT32_MAX}) {  // nothing one could have written
    Device device(settings);
    saved.on = 1;
    saved.remaining_s = remaining;
    device.core.restore(saved, device.now);
    CHECK(!device.core.is_on());
  }
  saved.remaining_s = 100;
  saved.version = SAVED_VERSION + 1;
  Device device(settings);
  device.core.restore(saved, device.now);
  CHECK(!device.core.is_on());
  CHECK_EQUAL(device.core.detections(), 0u);
}

static void a_server_that_is_down() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(5000);
  device.server.reachable = false;
  device.trigger(Kind::DETECTION);
  device.run(1000);
  uint32_t begin = device.now;
  std::vector<uint32_t> attempts;
  for (int i = 0, opened = device.server.opened; i < 16 * 4000; i++) {
    device.run(1, false);
    if (device.server.opened != opened)
      attempts.push_back(device.now - begin);
    opened = device.server.opened;
  }
  CHECK_EQUAL(std::string(device.core.state()), std::string("waiting to retry"));
  CHECK(attempts.size() >= 5);
  for (size_t i = 2; i < attempts.size(); i++)
    CHECK_EQUAL(attempts[i] - attempts[i - 1], 2 * (attempts[i - 1] - attempts[i - 2]));
  CHECK_EQUAL(device.core.last_upload(), std::string("detection 0123456789abcdef-1: not sent yet (no connection)"));
  device.server.reachable = true;
  device.run(65000, false);
  CHECK_EQUAL(device.server.requests.size(), 1u);
  CHECK_EQUAL(Server::header(device.server.requests[0], "X-Mww-Capture"), std::string("0123456789abcdef-1"));
  CHECK_EQUAL(std::string(device.core.state()), std::string("idle"));
}

static void answers_of_the_server() {
  Device device;
  int status = 503;
  device.server.answer = [&status](const std::string &) {
    return "HTTP/1.1 " + std::to_string(status) + " x\r\n\r\n";
  };
  device.core.switch_on(10, device.now);
  device.run(5000);
  device.trigger(Kind::DETECTION);
  device.run(2500);
  CHECK_EQUAL(std::string(device.core.state()), std::string("waiting to retry"));
  status = 401;
  device.run(6000);
  CHECK_EQUAL(std::string(device.core.state()), std::string("token refused"));
  size_t asked = device.server.requests.size();
  device.run(290000, false);
  CHECK_EQUAL(device.server.requests.size(), asked);
  // a prompted take does not wait: somebody stands there
  device.trigger(Kind::PROMPT, "", "take", 0.5f);
  status = 200;
  device.run(3000);
  CHECK_EQUAL(device.server.requests.size(), asked + 2);
  CHECK_EQUAL(Server::header(device.server.requests[asked], "X-Mww-Kind"), std::string("prompt"));
  for (const auto &request : device.server.requests)  // the same id each time
    if (Server::header(request, "X-Mww-Kind") == "detection")
      CHECK_EQUAL(Server::header(request, "X-Mww-Capture"), std::string("0123456789abcdef-1"));
  CHECK_EQUAL(std::string(device.core.state()), std::string("idle"));
  // a clip that will never be taken is given up, and the next one goes on
  status = 413;
  asked = device.server.requests.size();
  device.trigger(Kind::DETECTION);
  device.trigger(Kind::CANARY);
  device.run(4000);
  CHECK_EQUAL(device.server.requests.size(), asked + 2);
  CHECK_EQUAL(device.core.dropped(), 2u);
  CHECK_EQUAL(device.core.queue_length(), 0u);
}

static void the_network_is_needed_elsewhere() {
  Device device;
  CHECK(device.core.switch_on(1, device.now));
  device.run(5000);
  device.core.set_busy(true);
  device.trigger(Kind::DETECTION);
  device.run(3000);
  CHECK_EQUAL(device.server.opened, 0);
  CHECK_EQUAL(std::string(device.core.state()), std::string("waiting"));
  device.trigger(Kind::PROMPT, "", "r", 1);  // somebody waits for it
  device.run(2000);
  CHECK_EQUAL(device.server.requests.size(), 1u);
  CHECK_EQUAL(Server::header(device.server.requests[0], "X-Mww-Kind"), std::string("prompt"));
  device.core.set_busy(false);
  device.run(2000);
  CHECK_EQUAL(device.server.requests.size(), 2u);
  CHECK_EQUAL(Server::header(device.server.requests[1], "X-Mww-Kind"), std::string("detection"));
  CHECK_EQUAL(std::string(device.core.state()), std::string("idle"));
}

static void a_header_that_is_too_long() {
  Settings settings = Device::usual();
  settings.path = "/" + std::string(5000, 'a');
  Device device(settings);
  device.core.switch_on(1, device.now);
  device.run(5000);
  device.trigger(Kind::DETECTION);
  device.run(3000);
  CHECK_EQUAL(device.server.opened, 0);
  CHECK_EQUAL(device.core.dropped(), 1u);
  CHECK_EQUAL(device.core.queue_length(), 0u);
  CHECK(device.events() == std::vector<std::string>{"failed rejected (header too long)"});
}

static void a_full_queue() {
  Device device;
  device.core.switch_on(1, device.now);
  device.server.reachable = false;
  device.run(5000);
  for (int i = 0; i < 3; i++)
    CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  CHECK_EQUAL(held_memory(), 4u);  // the ring and three clips, never more
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::QUEUE_FULL);
  CHECK_EQUAL(device.trigger(Kind::CANARY), Outcome::QUEUE_FULL);
  CHECK_EQUAL(device.core.dropped(), 2u);
  CHECK_EQUAL(device.trigger(Kind::PROMPT, "", "", 1), Outcome::ACCEPTED);  // pushes the oldest detection out
  CHECK_EQUAL(device.core.dropped(), 3u);
  CHECK_EQUAL(device.core.queue_length(), 3u);
  CHECK_EQUAL(held_memory(), 4u);
  device.run(3000);
  device.server.reachable = true;
  device.run(20000, false);
  CHECK_EQUAL(device.server.requests.size(), 3u);
  CHECK_EQUAL(Server::header(device.server.requests[0], "X-Mww-Kind"), std::string("prompt"));
  CHECK_EQUAL(Server::header(device.server.requests[0], "X-Mww-Dropped"), std::string("3"));
  CHECK_EQUAL(Server::header(device.server.requests[1], "X-Mww-Capture"), std::string("0123456789abcdef-2"));
  // a held near miss that is pushed out is still counted
  device.server.reachable = false;
  device.trigger(Kind::NEAR_MISS);
  device.trigger(Kind::DETECTION);  // upgraded
  device.run(2000);
  device.trigger(Kind::NEAR_MISS);
  for (int i = 0; i < 2; i++)
    device.trigger(Kind::PROMPT, "", "", 1);
  device.run(2000);
  CHECK_EQUAL(device.core.near_misses(), 1u);
}

static void no_memory() {
  Device device;
  memory_is_out() = true;
  CHECK(!device.core.switch_on(1, device.now));
  CHECK(!device.core.is_on());
  CHECK_EQUAL(std::string(device.core.state()), std::string("no memory"));
  memory_is_out() = false;
  CHECK(device.core.switch_on(1, device.now));
  device.run(5000);
  memory_is_out() = true;
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::NO_MEMORY);
  memory_is_out() = false;
  CHECK_EQUAL(device.core.dropped(), 1u);
  CHECK_EQUAL(device.core.queue_length(), 0u);
  CHECK_EQUAL(device.trigger(Kind::DETECTION), Outcome::ACCEPTED);
  device.run(3000);
  CHECK_EQUAL(device.server.requests.size(), 1u);
}

static void a_microphone_that_stops() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(5000);
  uint64_t now = device.heard;
  device.trigger(Kind::DETECTION);
  device.run(320);
  device.run(3000, false);  // the engine was stopped, nobody else listens
  CHECK_EQUAL(device.server.requests.size(), 1u);
  check_clip(device.server.requests[0], now - 4 * SECOND, 4 * SECOND + 320 * 16, 4 * SECOND);
  // it starts again: the sound before the pause is not spliced to the sound after it
  const uint64_t restart = device.heard;
  device.run(1600);
  device.trigger(Kind::DETECTION);
  device.run(3000);
  check_clip(device.server.requests[1], restart, 1600 * 16 + SECOND, 1600 * 16);
  // a short pause in the middle of a post-roll ends the clip there
  device.run(5000);
  now = device.heard;
  device.trigger(Kind::DETECTION);
  device.run(160);
  device.run(400, false);
  device.run(5000);
  check_clip(device.server.requests[2], now - 4 * SECOND, 4 * SECOND + 160 * 16, 4 * SECOND);
  // no sound at all: nothing to send
  device.run(1000, false);
  device.trigger(Kind::PROMPT, "", "", 1);
  device.run(3000, false);
  CHECK_EQUAL(device.server.requests.size(), 3u);
  CHECK_EQUAL(device.core.queue_length(), 0u);
  CHECK_EQUAL(device.core.dropped(), 1u);
}

static void a_main_loop_that_stands_still() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(6000);
  const uint64_t now = device.heard;
  device.trigger(Kind::DETECTION);
  for (int i = 0; i < 80; i++) {  // 1.28 s of sound without a turn of the loop: the slack covers it
    device.hear(256);
    device.now += 16;
  }
  device.run(3000);
  check_clip(device.server.requests[0], now - 4 * SECOND, 5 * SECOND, 4 * SECOND);
  const uint64_t later = device.heard;
  device.trigger(Kind::DETECTION);
  for (int i = 0; i < 125; i++) {  // two seconds: the beginning is gone, the rest is right
    device.hear(256);
    device.now += 16;
  }
  device.run(3000);
  const std::string &request = device.server.requests[1];
  const uint64_t first = later + 126 * 256 - device.core.ring_samples();  // one more block came before the turn
  check_clip(request, first, later + SECOND - first, later - first);
  // longer than the ring: nothing of it is left
  device.trigger(Kind::DETECTION);
  for (int i = 0; i < 500; i++)
    device.hear(256);
  device.run(3000);
  CHECK_EQUAL(device.server.requests.size(), 2u);
  CHECK_EQUAL(device.core.dropped(), 1u);
}

static void a_clock_that_wraps_around() {
  // through the wrap in the middle of a post-roll, a hold, a back-off and an exchange
  for (uint32_t before : {1u, 500u, 1500u, 2500u, 5000u, 9000u, 20000u}) {
    Device device(Device::usual(), UINT32_MAX - before);
    device.core.switch_on(1, device.now);
    device.run(4000);
    device.server.reachable = false;
    device.trigger(Kind::NEAR_MISS);
    device.run(3000);
    CHECK_EQUAL(device.core.near_misses(), 1u);
    device.server.reachable = true;
    device.server.per_write = 3000;
    device.run(8000);
    CHECK_EQUAL(device.server.requests.size(), 1u);
    CHECK_EQUAL(Server::samples(device.server.requests[0]).size(), 5 * SECOND);
    const auto age = std::stoul(Server::header(device.server.requests[0], "X-Mww-Age-Ms"));
    CHECK(age > 2500 && age < 9000);
  }
}

static void many_events() {
  Device device;
  device.core.switch_on(1, device.now);
  device.run(100);
  for (int i = 0; i < 100; i++)
    device.trigger(Kind::PROMPT, "", "", -1);
  CHECK(device.events().size() <= 8);  // nobody took them: bounded
  CHECK(device.core.take_changed());
  CHECK(!device.core.take_changed());
}

int main() {
  off_is_off();
  a_detection_to_the_sample();
  every_window();
  prompted_takes();
  near_misses();
  a_near_miss_is_held_although_it_is_complete();
  canaries();
  triggers_in_a_row();
  limits();
  a_near_miss_over_the_limit_still_counts();
  false_wakes();
  muted();
  switched_off();
  it_switches_itself_off();
  exposure();
  over_a_restart();
  a_server_that_is_down();
  answers_of_the_server();
  the_network_is_needed_elsewhere();
  a_header_that_is_too_long();
  a_full_queue();
  no_memory();
  a_microphone_that_stops();
  a_main_loop_that_stands_still();
  a_clock_that_wraps_around();
  many_events();
  CHECK_EQUAL(held_memory(), 0u);
  std::puts("ok");
}
