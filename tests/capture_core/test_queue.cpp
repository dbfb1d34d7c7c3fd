// The queue is bounded, the most wanted capture stays and goes first, and waits grow from the shortest to the longest.
#include "check.h"

using namespace mww_capture_core;

static std::shared_ptr<Capture> capture(Kind kind, const char *id) {
  auto made = std::make_shared<Capture>();
  made->kind = kind;
  made->id = id;
  return made;
}

static void kinds() {
  for (size_t i = 0; i < KINDS; i++) {
    Kind kind = Kind::DETECTION;
    CHECK(parse_kind(kind_name(static_cast<Kind>(i)), kind));
    CHECK_EQUAL(kind, static_cast<Kind>(i));
  }
  Kind kind = Kind::CANARY;
  for (const char *name : {"", "Detection", "detection ", "button", "promptx"})
    CHECK(!parse_kind(name, kind));
  CHECK_EQUAL(kind, Kind::CANARY);
  CHECK(priority_of(Kind::PROMPT) > priority_of(Kind::FALSE_WAKE));
  CHECK(priority_of(Kind::FALSE_WAKE) > priority_of(Kind::DETECTION));
  CHECK(priority_of(Kind::DETECTION) > priority_of(Kind::NEAR_MISS));
  CHECK(priority_of(Kind::NEAR_MISS) == priority_of(Kind::CANARY));
}

static void who_stays() {
  CaptureQueue queue(3);
  std::shared_ptr<Capture> out;
  CHECK(queue.next() == nullptr);
  for (auto made : {capture(Kind::NEAR_MISS, "n1"), capture(Kind::DETECTION, "d1"), capture(Kind::NEAR_MISS, "n2")}) {
    CHECK(queue.make_room(made->kind, nullptr, out));
    CHECK(out == nullptr);
    queue.add(made);
  }
  CHECK(!queue.make_room(Kind::CANARY, nullptr, out));  // nothing is less wanted than it
  CHECK_EQUAL(queue.size(), 3u);
  CHECK(queue.make_room(Kind::DETECTION, nullptr, out));
  CHECK_EQUAL(out->id, std::string("n1"));  // the oldest of the least wanted
  queue.add(capture(Kind::DETECTION, "d2"));
  out = nullptr;
  CHECK(queue.make_room(Kind::PROMPT, nullptr, out));
  CHECK_EQUAL(out->id, std::string("n2"));
  queue.add(capture(Kind::PROMPT, "p1"));
  out = nullptr;
  const Capture *busy = queue.all()[0].get();  // d1 is being sent
  CHECK(queue.make_room(Kind::FALSE_WAKE, busy, out));
  CHECK_EQUAL(out->id, std::string("d2"));
  queue.add(capture(Kind::FALSE_WAKE, "f1"));
  CHECK_EQUAL(queue.next()->id, std::string("p1"));
  CHECK(queue.remove(queue.next().get()));
  CHECK_EQUAL(queue.next()->id, std::string("f1"));
  CHECK(!queue.remove(out.get()));
  CHECK_EQUAL(queue.size(), 2u);
  queue.clear();
  CHECK(queue.empty());
  // one place, and it is being sent: there is none
  CaptureQueue one(1);
  one.add(capture(Kind::NEAR_MISS, "n"));
  CHECK(!one.make_room(Kind::PROMPT, one.all()[0].get(), out));
  CHECK(one.make_room(Kind::PROMPT, nullptr, out));
}

static void who_is_ready() {
  CaptureQueue queue(3);
  auto held = capture(Kind::NEAR_MISS, "held");
  held->held = true;
  queue.add(held);
  CHECK(queue.next() == nullptr);
  auto recording = capture(Kind::PROMPT, "recording");
  recording->audio = std::make_shared<Audio>(counted_memory(), 10);
  queue.add(recording);
  CHECK(queue.next() == nullptr);
  held->held = false;
  CHECK_EQUAL(queue.next()->id, std::string("held"));
  recording->audio->complete = true;
  CHECK_EQUAL(queue.next()->id, std::string("recording"));
}

static void waits() {
  Backoff backoff(1000, 300000);
  uint64_t now = 7;
  CHECK(backoff.may_try(now) && !backoff.waiting());
  for (uint64_t wait : {1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 300000, 300000}) {
    backoff.failed(now);
    CHECK(backoff.waiting());
    CHECK(!backoff.may_try(now + wait - 1));
    CHECK(backoff.may_try(now + wait));
    now += wait;
  }
  backoff.failed(now);
  backoff.hurry();
  CHECK(backoff.may_try(now) && backoff.waiting());
  backoff.failed(now);
  CHECK(!backoff.may_try(now + 299999) && backoff.may_try(now + 300000));  // as long as it would have been
  backoff.succeeded();
  CHECK(backoff.may_try(now) && !backoff.waiting());
  backoff.refused(now);
  CHECK(!backoff.may_try(now + 299999) && backoff.may_try(now + 300000));
  Backoff flat(500, 500);
  flat.failed(0);
  flat.failed(500);
  CHECK(!flat.may_try(999) && flat.may_try(1000));
}

int main() {
  kinds();
  who_stays();
  who_is_ready();
  waits();
  CHECK_EQUAL(held_memory(), 0u);
  std::puts("ok");
}
