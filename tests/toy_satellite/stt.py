"""Speech-to-text that reads "hey kitchen" out of anything loud and nothing out of silence."""

import array

from homeassistant.components import stt


async def async_setup_entry(hass, entry, async_add_entities):
    """Home Assistant calls this."""
    async_add_entities([ToyStt()])


class ToyStt(stt.SpeechToTextEntity):
    """16 kHz, 16 bit, mono, English."""

    _attr_name = "Toy ear"
    _attr_unique_id = "toy-ear"
    supported_languages = ("en",)
    supported_formats = (stt.AudioFormats.WAV,)
    supported_codecs = (stt.AudioCodecs.PCM,)
    supported_bit_rates = (stt.AudioBitRates.BITRATE_16,)
    supported_sample_rates = (stt.AudioSampleRates.SAMPLERATE_16000,)
    supported_channels = (stt.AudioChannels.CHANNEL_MONO,)

    async def async_process_audio_stream(self, metadata, stream):  # noqa: ARG002  (its caller decides)
        """Listens to the end."""
        loudest = 0
        async for piece in stream:
            loudest = max(loudest, *(abs(each) for each in array.array("h", piece)), 0)
        return stt.SpeechResult("hey kitchen" if loudest > 1000 else "", stt.SpeechResultState.SUCCESS)
