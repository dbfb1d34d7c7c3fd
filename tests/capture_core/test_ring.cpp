// The ring gives back exactly what was heard, at every boundary, and never sound across a pause of the microphone.
#include "check.h"

#include <algorithm>

using Ring = mww_capture_core::ClipRing<NoLock>;

static void check_read(Ring &ring, uint64_t from, size_t wanted, size_t count, bool ended) {
  std::vector<int16_t> out(wanted);
  const auto read = ring.read(from, from, wanted, out.data());
  CHECK_EQUAL(read.count, count);
  CHECK_EQUAL(read.ended, ended);
  const auto expected = counted(from, count);
  CHECK(std::equal(expected.begin(), expected.end(), out.begin()));
}

static void write(Ring &ring, uint64_t &at, size_t count, uint32_t now = 0) {
  const auto samples = counted(at, count);
  ring.write(samples.data(), count, now);
  at += count;
}

static void every_boundary() {
  const size_t n = 10;
  for (size_t first = 0; first <= 3 * n; first++) {
    for (size_t second = 0; second <= 2 * n + 1; second++) {
      std::vector<int16_t> memory(n);  // of its own, so that the sanitizer sees its end
      Ring ring;
      ring.open(memory.data(), n);
      uint64_t at = 0;
      write(ring, at, first);
      write(ring, at, second);
      CHECK_EQUAL(ring.total(), first + second);
      const size_t total = first + second, kept = std::min(total, n);
      CHECK_EQUAL(ring.unbroken_since(), total - kept);
      for (size_t from = total - kept; from <= total; from++)
        for (size_t wanted : {size_t{0}, size_t{1}, n - 1, n, n + 1})
          check_read(ring, from, wanted, std::min(wanted, total - from), false);
      if (total > n)
        check_read(ring, total - n - 1, 3, 0, true);  // the sample before the oldest is gone
      CHECK(ring.close() == memory.data());
    }
  }
}

static void closed_and_paused() {
  std::vector<int16_t> memory(8);
  Ring ring;
  uint64_t at = 0;
  write(ring, at, 5);
  CHECK_EQUAL(ring.total(), 0);  // nobody asked for it
  at = 0;
  CHECK(ring.close() == nullptr);
  ring.open(memory.data(), memory.size());
  write(ring, at, 5);
  ring.pause(true);
  const auto unheard = counted(1000, 4);
  ring.write(unheard.data(), unheard.size(), 0);
  CHECK_EQUAL(ring.total(), 5);
  ring.pause(false);
  CHECK_EQUAL(ring.unbroken_since(), 5);
  check_read(ring, 4, 1, 0, true);  // what was heard before is forgotten
  write(ring, at, 3);
  check_read(ring, 5, 9, 3, false);
  CHECK(ring.close() == memory.data());
  const auto later = counted(0, 2);
  ring.write(later.data(), later.size(), 0);
  ring.open(memory.data(), memory.size());
  CHECK_EQUAL(ring.total(), 8);  // the clock goes on, over a close too
  check_read(ring, 7, 1, 0, true);
  ring.open(nullptr, 8);
  ring.write(later.data(), later.size(), 0);
  CHECK_EQUAL(ring.total(), 8);
}

static void pauses_of_the_microphone() {
  using mww_capture_core::BREAK_MS;
  std::vector<int16_t> memory(100);
  Ring ring;
  ring.open(memory.data(), memory.size());
  uint64_t at = 0;
  uint32_t now = UINT32_MAX - 50;  // the clock wraps around in the middle
  write(ring, at, 10, now);
  write(ring, at, 10, now += BREAK_MS);  // late, but the same sound
  CHECK_EQUAL(ring.unbroken_since(), 0);
  check_read(ring, 0, 30, 20, false);
  write(ring, at, 10, now += BREAK_MS + 1);
  CHECK_EQUAL(ring.unbroken_since(), 20);
  check_read(ring, 0, 30, 20, true);  // up to the pause and not over it
  check_read(ring, 0, 19, 19, false);
  check_read(ring, 0, 20, 20, true);
  check_read(ring, 20, 30, 10, false);  // a clip that begins at the pause does not end there
  // a clip that was read up to the pause ends there
  std::vector<int16_t> out(5);
  auto read = ring.read(0, 20, 5, out.data());
  CHECK_EQUAL(read.count, 0u);
  CHECK(read.ended);
  // many pauses: never a splice, older sound is given up instead
  for (int i = 0; i < 9; i++)
    write(ring, at, 2, now += BREAK_MS + 1);
  CHECK_EQUAL(ring.unbroken_since(), at - 2);
  check_read(ring, 20, 30, 0, true);
  for (uint64_t from = at - 8; from < at; from += 2)
    check_read(ring, from, 30, 2, from + 2 < at);
}

int main() {
  every_boundary();
  closed_and_paused();
  pauses_of_the_microphone();
  std::puts("ok");
}
