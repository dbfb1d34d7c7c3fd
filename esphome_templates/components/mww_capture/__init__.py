"""mww_capture: keeps the last seconds that the wake-word model heard and posts them as WAV when something happened.

README.md beside this file describes the options, the entities and what goes over the wire.
"""

# ESPHome runs this file: its ways of naming hold (CONFIG_SCHEMA, CONF_TOKEN), and its values have no types.
# ruff: noqa: ANN001, ANN201, ANN202, ARG001, D103, N802, S105

import wave
from ipaddress import IPv4Address
from urllib.parse import urlsplit

import esphome.codegen as cg
import esphome.config_validation as cv
import esphome.final_validate as fv
from esphome import automation
from esphome.components import socket
from esphome.const import CONF_ID, CONF_MICROPHONE, CONF_TIMEOUT, CONF_URL
from esphome.core import CORE

DEPENDENCIES = ["network"]
AUTO_LOAD = ["socket"]

CONF_HOURS = "hours"
CONF_BUSY = "busy"
CONF_KIND = "kind"
CONF_LISTENING = "listening"
CONF_MAX_PER_HOUR = "max_per_hour"
CONF_MIN_INTERVAL = "min_interval"
CONF_MODEL = "model"
CONF_MUTED = "muted"
CONF_NEAR_MISS_HOLD = "near_miss_hold"
CONF_ON_FAILED = "on_failed"
CONF_ON_SENT = "on_sent"
CONF_ON_START = "on_start"
CONF_ON_STOP = "on_stop"
CONF_ON_UPDATE = "on_update"
CONF_POST_ROLL = "post_roll"
CONF_PRE_ROLL = "pre_roll"
CONF_QUEUE_SIZE = "queue_size"
CONF_REF = "ref"
CONF_RETRY_MAX = "retry_max"
CONF_RETRY_MIN = "retry_min"
CONF_SECONDS = "seconds"
CONF_SOURCE_FILE = "source_file"
CONF_TOKEN = "token"  # esphome.const has it from 2026.10 on only
CONF_WAKE_WORD = "wake_word"

KINDS = ("detection", "near_miss", "canary", "false_wake", "prompt")
LONGEST_CLIP_MS = 10_000
LONGEST_PATH = 256
LONGEST_TOKEN = 256
TOKEN_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="

capture_ns = cg.esphome_ns.namespace("mww_capture")
MwwCapture = capture_ns.class_("MwwCapture", cg.Component)
TriggerAction = capture_ns.class_("TriggerAction", automation.Action)
EnableAction = capture_ns.class_("EnableAction", automation.Action)
DisableAction = capture_ns.class_("DisableAction", automation.Action)
SetMutedAction = capture_ns.class_("SetMutedAction", automation.Action)


def _url(value):
    """http://<IPv4>[:port]/path in the home network, in characters that can stand in a request as they are."""
    value = cv.string_strict(value)
    if any(not "!" <= c <= "~" for c in value):
        raise cv.Invalid("the url may hold letters, digits and signs of ASCII only, and no spaces")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise cv.Invalid(f"{value} is not a url: {error}") from None
    if parts.scheme != "http":
        raise cv.Invalid("the url has to begin with http:// (HTTPS is not supported)")
    if parts.username is not None or parts.fragment:
        raise cv.Invalid("the url is http://<IPv4 address>[:port]/path, without a user and without #")
    try:
        address = IPv4Address(parts.hostname or "")
    except ValueError:
        raise cv.Invalid(
            f"{parts.hostname!r} is not an IPv4 address. A name does not work here: looking it up would stop the "
            "device's main loop. Give the computer a fixed address in your router and write that."
        ) from None
    if address.is_global or address.is_multicast or address.is_unspecified:
        raise cv.Invalid(f"{address} is no computer in your own network. Sound and token go in the clear: only there")
    if port == 0:
        raise cv.Invalid("port 0 cannot be connected to")
    if len(value) > LONGEST_PATH:
        raise cv.Invalid(f"the url is longer than {LONGEST_PATH} characters")
    return value


def _token(value):
    """A bearer token: it stands in a header as it is."""
    value = cv.string_strict(value)
    if not value or len(value) > LONGEST_TOKEN or any(c not in TOKEN_CHARACTERS for c in value):
        # the token is a secret: it is not repeated here
        raise cv.Invalid(
            f"the token has to be 1 to {LONGEST_TOKEN} characters long; letters, digits and - . _ ~ + / = are allowed"
        )
    return value


def _source_file(value):
    """A WAV that stands in for the microphone on the host platform."""
    path = cv.file_(value)
    try:
        with wave.open(str(path), "rb") as file:
            shape = (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getcomptype())
            frames = file.getnframes()
    except (wave.Error, EOFError, OSError) as error:
        raise cv.Invalid(f"{path} is not a WAV file: {error}") from None
    with path.open("rb") as file:
        plain = file.read(44)[36:40] == b"data"  # the device skips a header of 44 bytes
    if shape != (16000, 1, 2, "NONE") or frames == 0 or not plain:
        raise cv.Invalid(f"{path} has to be a plain WAV file of 16 kHz, mono, 16 bit")
    return path


def _check_together(config):
    if sum(config[key].total_milliseconds for key in (CONF_PRE_ROLL, CONF_POST_ROLL)) > LONGEST_CLIP_MS:
        raise cv.Invalid(f"{CONF_PRE_ROLL} and {CONF_POST_ROLL} together may last 10 s at most")
    if config[CONF_RETRY_MIN] > config[CONF_RETRY_MAX]:
        raise cv.Invalid(f"{CONF_RETRY_MIN} is longer than {CONF_RETRY_MAX}")
    return config


def _milliseconds(low_ms, high_ms):
    return cv.All(
        cv.positive_time_period_milliseconds,
        cv.Range(min=cv.TimePeriod(milliseconds=low_ms), max=cv.TimePeriod(milliseconds=high_ms)),
    )


_COMMON = {
    cv.GenerateID(): cv.declare_id(MwwCapture),
    cv.Required(CONF_URL): _url,
    cv.Required(CONF_TOKEN): cv.sensitive(_token) if hasattr(cv, "sensitive") else _token,
    cv.Optional(CONF_MODEL, default=""): cv.All(cv.string_strict, cv.Length(max=255)),
    cv.Optional(CONF_PRE_ROLL, default="4s"): _milliseconds(0, LONGEST_CLIP_MS),
    cv.Optional(CONF_POST_ROLL, default="1s"): _milliseconds(100, LONGEST_CLIP_MS),
    cv.Optional(CONF_MIN_INTERVAL, default="5s"): _milliseconds(0, 3_600_000),
    cv.Optional(CONF_MAX_PER_HOUR, default=60): cv.int_range(1, 3600),
    cv.Optional(CONF_NEAR_MISS_HOLD, default="1s"): _milliseconds(0, 5_000),
    cv.Optional(CONF_QUEUE_SIZE, default=3): cv.int_range(1, 8),
    cv.Optional(CONF_RETRY_MIN, default="1s"): _milliseconds(100, 3_600_000),
    cv.Optional(CONF_RETRY_MAX, default="5min"): _milliseconds(100, 86_400_000),
    cv.Optional(CONF_TIMEOUT, default="15s"): _milliseconds(500, 60_000),
    cv.Optional(CONF_LISTENING): cv.returning_lambda,
    cv.Optional(CONF_BUSY): cv.returning_lambda,
    cv.Optional(CONF_ON_START): automation.validate_automation(single=True),
    cv.Optional(CONF_ON_STOP): automation.validate_automation(single=True),
    cv.Optional(CONF_ON_SENT): automation.validate_automation(single=True),
    cv.Optional(CONF_ON_FAILED): automation.validate_automation(single=True),
    cv.Optional(CONF_ON_UPDATE): automation.validate_automation(single=True),
}


def CONFIG_SCHEMA(config):
    """Sound comes from a microphone, or on the host platform from a file."""
    if CORE.is_host:
        sound = {cv.Required(CONF_SOURCE_FILE): _source_file}
    else:
        from esphome.components import microphone

        sound = {
            cv.Required(CONF_MICROPHONE): microphone.microphone_source_schema(
                min_bits_per_sample=16, max_bits_per_sample=16, min_channels=1, max_channels=1
            )
        }
    schema = cv.Schema({**_COMMON, **sound}).extend(cv.COMPONENT_SCHEMA)
    return cv.All(schema, _check_together, socket.consume_sockets(1, "mww_capture"))(config)


def FINAL_VALIDATE_SCHEMA(config):
    """The same sound as the wake word gets, and memory to keep it in."""
    if CORE.is_host:
        return config
    from esphome.components import microphone

    cv.Schema(
        {
            cv.Required(CONF_MICROPHONE): microphone.final_validate_microphone_source_schema(
                "mww_capture", sample_rate=16000
            )
        },
        extra=cv.ALLOW_EXTRA,
    )(config)
    full = fv.full_config.get()
    if "psram" not in full:
        raise cv.Invalid("mww_capture keeps its sound in PSRAM; this device has no psram: block")
    engine = full.get("micro_wake_word")
    if engine and CONF_MICROPHONE in engine:
        ours, theirs = config[CONF_MICROPHONE], engine[CONF_MICROPHONE]
        for key in (CONF_MICROPHONE, "channels", "gain_factor"):
            if str(ours[key]) != str(theirs[key]):
                raise cv.Invalid(
                    f"{key} is {ours[key]} here and {theirs[key]} in micro_wake_word: the clips would not be what the "
                    "model heard. Give both the same.",
                    path=[CONF_MICROPHONE, key],
                )
    return config


async def to_code(config):
    var = cg.new_Pvariable(config[CONF_ID])
    await cg.register_component(var, config)
    parts = urlsplit(config[CONF_URL])
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    address = IPv4Address(parts.hostname)
    cg.add(var.set_endpoint(str(address), cg.RawExpression(f"0x{int(address):08X}u"), parts.port or 80, path))
    cg.add(var.set_token(config[CONF_TOKEN]))
    cg.add(var.set_model(config[CONF_MODEL]))
    cg.add(var.set_window(config[CONF_PRE_ROLL], config[CONF_POST_ROLL]))
    cg.add(var.set_limits(config[CONF_MIN_INTERVAL], config[CONF_MAX_PER_HOUR], config[CONF_QUEUE_SIZE]))
    cg.add(var.set_near_miss_hold(config[CONF_NEAR_MISS_HOLD]))
    cg.add(var.set_retry(config[CONF_RETRY_MIN], config[CONF_RETRY_MAX], config[CONF_TIMEOUT]))
    if CORE.is_host:
        cg.add(var.set_source_file(str(config[CONF_SOURCE_FILE])))
    else:
        from esphome.components import microphone

        sound = config[CONF_MICROPHONE]
        # passive: it never starts the microphone, it hears what the wake word and the assistant hear
        source = await microphone.microphone_source_to_code(sound, passive=True)
        cg.add(var.set_microphone(source, await cg.get_variable(sound[CONF_MICROPHONE]), sound["gain_factor"]))
    for key, set_lambda in ((CONF_LISTENING, var.set_listening), (CONF_BUSY, var.set_busy)):
        if key in config:
            cg.add(set_lambda(await cg.process_lambda(config[key], [], return_type=cg.bool_)))
    told = [(cg.std_string, "capture"), (cg.std_string, "status")]
    for key, trigger, arguments in (
        (CONF_ON_START, var.get_start_trigger(), []),
        (CONF_ON_STOP, var.get_stop_trigger(), []),
        (CONF_ON_SENT, var.get_sent_trigger(), told),
        (CONF_ON_FAILED, var.get_failed_trigger(), told),
        (CONF_ON_UPDATE, var.get_update_trigger(), []),
    ):
        if key in config:
            await automation.build_automation(trigger, arguments, config[key])


async def _action(config, action_id, template_arg):
    var = cg.new_Pvariable(action_id, template_arg)
    await cg.register_parented(var, config[CONF_ID])
    return var


@automation.register_action(
    "mww_capture.trigger",
    TriggerAction,
    cv.Schema(
        {
            cv.GenerateID(): cv.use_id(MwwCapture),
            cv.Required(CONF_KIND): cv.templatable(cv.one_of(*KINDS, lower=True)),
            cv.Optional(CONF_WAKE_WORD, default=""): cv.templatable(cv.string),
            cv.Optional(CONF_REF, default=""): cv.templatable(cv.string),
            cv.Optional(CONF_SECONDS, default=0.0): cv.templatable(cv.positive_float),
        }
    ),
    synchronous=True,
)
async def trigger_to_code(config, action_id, template_arg, args):
    var = await _action(config, action_id, template_arg)
    cg.add(var.set_kind(await cg.templatable(config[CONF_KIND], args, cg.std_string)))
    cg.add(var.set_wake_word(await cg.templatable(config[CONF_WAKE_WORD], args, cg.std_string)))
    cg.add(var.set_ref(await cg.templatable(config[CONF_REF], args, cg.std_string)))
    cg.add(var.set_seconds(await cg.templatable(config[CONF_SECONDS], args, cg.float_)))
    return var


@automation.register_action(
    "mww_capture.enable",
    EnableAction,
    cv.Schema(
        {
            cv.GenerateID(): cv.use_id(MwwCapture),
            cv.Optional(CONF_HOURS, default=24.0): cv.templatable(cv.float_range(min=0, max=336, min_included=False)),
        }
    ),
    synchronous=True,
)
async def enable_to_code(config, action_id, template_arg, args):
    var = await _action(config, action_id, template_arg)
    cg.add(var.set_hours(await cg.templatable(config[CONF_HOURS], args, cg.float_)))
    return var


@automation.register_action(
    "mww_capture.disable",
    DisableAction,
    automation.maybe_simple_id({cv.GenerateID(): cv.use_id(MwwCapture)}),
    synchronous=True,
)
async def disable_to_code(config, action_id, template_arg, args):
    return await _action(config, action_id, template_arg)


@automation.register_action(
    "mww_capture.set_muted",
    SetMutedAction,
    cv.Schema(
        {
            cv.GenerateID(): cv.use_id(MwwCapture),
            cv.Required(CONF_MUTED): cv.templatable(cv.boolean),
        }
    ),
    synchronous=True,
)
async def set_muted_to_code(config, action_id, template_arg, args):
    var = await _action(config, action_id, template_arg)
    cg.add(var.set_muted(await cg.templatable(config[CONF_MUTED], args, cg.bool_)))
    return var
