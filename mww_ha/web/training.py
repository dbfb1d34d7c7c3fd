"""Whether this installation can train, as the page API says it. Installing is a job, see ``InstallTrainingOrder``."""

from __future__ import annotations

from mww_ha.train.install import TrainingState, look
from mww_ha.web.openapi import Call, Route


async def get_training(call: Call) -> TrainingState:
    """Whether training is installed, and whether there is room for it where it is not."""
    return await call.service.run(look)


TRAINING_ROUTES = (Route(method="GET", path="/api/training", handler=get_training),)
