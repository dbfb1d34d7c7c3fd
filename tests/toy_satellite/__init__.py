"""A satellite inside a real Home Assistant, for the tests: its microphone is a file, its ear looks at levels."""

from homeassistant.const import Platform

PLATFORMS = [Platform.ASSIST_SATELLITE, Platform.STT]


async def async_setup_entry(hass, entry):
    """Home Assistant calls this."""
    await hass.config_entries.async_forward_entry_setups(entry, PLATFORMS)
    return True
