#pragma once
// The header of a WAV file: 16 kHz, mono, 16 bit. Knows nothing of ESPHome.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mww_capture_core {

static constexpr size_t WAV_HEADER_BYTES = 44;

// Writes WAV_HEADER_BYTES bytes to `out`, for `samples` samples that follow it.
inline void write_wav_header(uint8_t *out, uint32_t samples) {
  const uint32_t rate = 16000, sample_bytes = 2, data_bytes = samples * sample_bytes;
  const auto put = [](uint8_t *to, uint32_t value, int bytes) {
    for (int i = 0; i < bytes; i++)
      to[i] = static_cast<uint8_t>(value >> (8 * i));
  };
  std::memcpy(out, "RIFF", 4);
  put(out + 4, WAV_HEADER_BYTES - 8 + data_bytes, 4);
  std::memcpy(out + 8, "WAVEfmt ", 8);
  put(out + 16, 16, 4);  // bytes of this chunk
  put(out + 20, 1, 2);   // PCM
  put(out + 22, 1, 2);   // channels
  put(out + 24, rate, 4);
  put(out + 28, rate * sample_bytes, 4);
  put(out + 32, sample_bytes, 2);
  put(out + 34, 8 * sample_bytes, 2);
  std::memcpy(out + 36, "data", 4);
  put(out + 40, data_bytes, 4);
}

}  // namespace mww_capture_core
