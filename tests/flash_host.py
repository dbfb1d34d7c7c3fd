"""``mww-ha``, whose satellites are ESPHome devices of the host platform: what a job of the service starts in tests.

The first argument is a JSON object: ``api_port``, ``ota_port``, ``password`` of the firmware that is rendered, and
``image``: an upload of that many bytes that nobody starts, in place of a compilation. The rest is mww-ha's own.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from test_flash_device import Rendering, backend

from mww_ha import cli
from mww_ha.deploy import flash as flashing
from mww_ha.store import Project
from mww_ha.web import orders
from mww_ha.web.jobs import mww_ha_command


def command_for(**given: Any) -> Any:
    """The command line of a service's jobs: this file, with ``given``."""

    def command(order: orders.Order, project: Project) -> list[str]:
        python, *rest = mww_ha_command(order, project)
        return [python, __file__, json.dumps(given), *rest[rest.index("mww_ha") + 1 :]]

    return command


def main() -> None:
    """Runs mww-ha with another render and, for an image, another build step."""
    given = json.loads(sys.argv.pop(1))
    image = given.pop("image", 0)

    def put_image(folder: Path, name: str) -> None:
        place = folder / ".esphome" / "build" / name / ".pioenvs" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "program").write_bytes(bytes(range(256)) * (image // 256))

    way = backend(put_image) if image else backend()
    how: dict[str, Any] = {"backend": way, "render": Rendering(**given), "return_timeout_s": 30}
    flashing.flash = functools.partial(flashing.flash, **how)
    flashing.flash_all = functools.partial(flashing.flash_all, **how)
    cli.main()


if __name__ == "__main__":
    main()
