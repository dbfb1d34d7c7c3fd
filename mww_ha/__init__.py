"""Your own wake word on your own ESP32-S3 satellites: record, train, flash, capture, retrain."""

__version__ = "0.1.0"
