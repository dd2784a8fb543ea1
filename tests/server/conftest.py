"""A Jupyter server with the extension, and nothing of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jupyter_vsandbox.settings import Settings


@pytest.fixture
def jp_server_config(settings: Settings) -> dict[str, Any]:
    return {
        "ServerApp": {
            "jpserver_extensions": {"jupyter_vsandbox": True},
        },
        "VSandbox": {"home": str(settings.home), "standby": 0},
    }
