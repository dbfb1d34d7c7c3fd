"""Adding the satellite asks nothing."""

from homeassistant.config_entries import ConfigFlow


class ToySatelliteFlow(ConfigFlow, domain="toy_satellite"):
    """One step, no question."""

    async def async_step_user(self, user_input=None):  # noqa: ARG002  (its caller decides)
        """Home Assistant calls this."""
        return self.async_create_entry(title="Toy", data={})
