"""Home Assistant: one connection to it (WebSocket and REST), and entities in it by way of an MQTT broker."""
