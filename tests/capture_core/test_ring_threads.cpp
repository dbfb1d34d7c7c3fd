// The microphone's task writes while the main loop reads, pauses, closes and opens: no race, and no wrong sample.
#include "check.h"

#include <atomic>
#include <mutex>
#include <thread>

int main() {
  mww_capture_core::ClipRing<std::mutex> ring;
  std::atomic<bool> done{false};
  std::thread microphone([&] {
    // A sample is the low 16 bits of the ring's own position, so the writer has to count as the ring does: it is
    // the only one to write, and asks before each block.
    for (uint32_t ms = 0; !done; ms++) {
      const auto block = counted(ring.total(), 64);
      ring.write(block.data(), block.size(), ms);
    }
  });
  uint64_t compared = 0;
  for (uint64_t round = 0; round < 30; round++) {
    std::vector<int16_t> memory(4096), out(1024);
    ring.open(memory.data(), memory.size());
    const uint64_t begin = ring.unbroken_since();
    uint64_t next = begin;
    while (compared < (round + 1) * 3000) {
      std::this_thread::yield();
      const auto read = ring.read(begin, next, out.size(), out.data());
      for (size_t k = 0; k < read.count; k++)
        CHECK_EQUAL(out[k], static_cast<int16_t>(static_cast<uint16_t>(next + k)));
      next += read.count;
      compared += read.count;
      if (read.ended)
        next = ring.unbroken_since();  // the writer was faster
    }
    if (round % 3 == 0) {
      ring.pause(true);
      ring.pause(false);
    }
    CHECK(ring.close() == memory.data());
  }
  done = true;
  microphone.join();
  CHECK(compared >= 90000);
  std::puts("ok");
}
