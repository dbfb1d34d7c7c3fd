"""The satellite: "plays" a prompt, then sends ``microphone.raw`` of the configuration folder as its microphone.

``toy_satellite.wake`` plays a wake word that the device itself detected.
"""

import asyncio
from pathlib import Path

from homeassistant.components.assist_pipeline import PipelineStage
from homeassistant.components.assist_satellite import (
    AssistSatelliteConfiguration,
    AssistSatelliteEntity,
    AssistSatelliteEntityFeature,
)
from homeassistant.helpers.device_registry import CONNECTION_NETWORK_MAC, DeviceInfo

PIECE_BYTES = 1024


async def async_setup_entry(hass, entry, async_add_entities):
    """Home Assistant calls this."""
    satellite = ToySatellite()
    async_add_entities([satellite])

    async def wake(call):
        hass.async_create_task(satellite.listen(call.data.get("phrase")))

    hass.services.async_register("toy_satellite", "wake", wake)


class ToySatellite(AssistSatelliteEntity):
    """As far as Home Assistant can tell, a satellite like any other."""

    _attr_has_entity_name = True
    _attr_name = None
    _attr_unique_id = "toy-satellite"
    _attr_supported_features = AssistSatelliteEntityFeature.ANNOUNCE | AssistSatelliteEntityFeature.START_CONVERSATION
    _attr_device_info = DeviceInfo(
        identifiers={("toy_satellite", "1")},
        connections={(CONNECTION_NETWORK_MAC, "02:00:00:00:00:01")},
        name="Toy kitchen",
        manufacturer="Tests",
        model="Toy",
        sw_version="1.2.3",
    )

    def async_get_configuration(self):
        """No wake words to choose from."""
        return AssistSatelliteConfiguration(available_wake_words=[], active_wake_words=[], max_active_wake_words=1)

    async def async_set_configuration(self, config):
        """Nothing to set."""

    def on_pipeline_event(self, event):
        """Nothing to show."""

    async def async_start_conversation(self, start_announcement):  # noqa: ARG002  (its caller decides)
        """The prompt takes a moment; then the microphone opens."""
        await asyncio.sleep(0.2)
        self.hass.async_create_task(self.listen(None))

    async def listen(self, phrase):
        """Runs a pipeline on the microphone."""
        path = Path(self.hass.config.path("microphone.raw"))
        samples = await self.hass.async_add_executor_job(path.read_bytes)

        async def microphone():
            for start in range(0, len(samples), PIECE_BYTES):
                yield samples[start : start + PIECE_BYTES]
                await asyncio.sleep(0.002)

        await self.async_accept_pipeline_from_satellite(
            microphone(), start_stage=PipelineStage.STT, end_stage=PipelineStage.STT, wake_word_phrase=phrase
        )
